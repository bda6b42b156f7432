//! Managed settings: which policies hold for a caller, how their documents are merged, what the gateway adds, and
//! what is answered (auth contract §8). Claude Desktop's bootstrap document, which follows the same policies, is built
//! in `bootstrap`.
//!
//! Documents are merged once per configuration, so that a request only selects. How a model name matches
//! `availableModels` is decided elsewhere.

mod merge;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use serde_json::{Number, Value, json};

use crate::config::{Config, Json, Policy, PolicyMode, Pricing, Telemetry};
use crate::domain::checksum;

pub use merge::{merge_desktop, merge_settings};

/// At most so many combinations of layered policies are kept; more are merged each time they are asked for.
const MAX_KEPT: usize = 256;

/// Whom policies are selected for.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Groups of the session.
    pub groups: &'a [String],
    /// E-mail address of the session.
    pub email: Option<&'a str>,
}

/// All policies of a configuration, ready to be selected from.
pub struct Policies {
    /// `None`: nothing is configured, not even an empty list.
    written: Option<Vec<Policy>>,
    mode: PolicyMode,
    /// The first catch-all.
    base: Option<usize>,
    /// Whether the policies have `code` blocks: all of them, or none.
    is_code: bool,
    additions: Additions,
    /// Contributing policies → what they merge to.
    merged: RefCell<HashMap<Vec<usize>, Rc<Effective>>>,
}

/// What the gateway adds to every document (auth contract §8.5).
struct Additions {
    /// Below the document's own `env`.
    env: Json,
    /// Over the document's own `modelPricing`; only along with policies.
    pricing: Json,
}

/// The policies that hold for a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The first that holds; it is what the audit calls `policy_index`.
    pub index: usize,
    /// All that contribute, in list order.
    pub contributors: Vec<usize>,
    /// Whether several specific policies hold, so that the audit lists all contributors.
    pub is_layered: bool,
}

impl Selection {
    /// The audit's `policy_indexes`, where it has one.
    pub fn policy_indexes(&self) -> Option<&[usize]> {
        self.is_layered.then_some(self.contributors.as_slice())
    }
}

/// What the policies of a selection merge to.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// The document that is delivered.
    pub settings: Json,
    /// Its checksum, `sha256:…`.
    pub checksum: String,
    /// The delivered answer: `{"uuid":…,"checksum":…,"settings":…}`.
    pub body: Bytes,
    /// Whether the policies themselves say anything, apart from what the gateway adds.
    pub has_own_settings: bool,
    /// The merged Claude Desktop document; `None` when no contributor has one.
    pub desktop: Option<Json>,
}

impl Effective {
    /// `availableModels`: `None` allows everything, an empty list nothing.
    pub fn available_models(&self) -> Option<Vec<&str>> {
        texts(self.settings.get("availableModels"))
    }

    /// `deniedModels`.
    pub fn denied_models(&self) -> Vec<&str> {
        texts(self.settings.get("deniedModels")).unwrap_or_default()
    }
}

fn texts(list: Option<&Value>) -> Option<Vec<&str>> {
    Some(list?.as_array()?.iter().filter_map(Value::as_str).collect())
}

/// The answer to a request for managed settings (auth contract §8.1).
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// 200.
    Serve {
        /// The document.
        effective: Rc<Effective>,
        /// Which policies it is from.
        selection: Selection,
    },
    /// 304: the caller has this document.
    NotModified,
    /// 304, not to be stored: there are settings for this session (`If-None-Match: *`, §8.4).
    NotModifiedExists,
    /// 404: no policies and nothing to add.
    NotConfigured,
    /// 404: there are policies, but none for this caller.
    NoPolicyMatched,
    /// 404: the policy is for the command line only.
    NotServedToDesktop,
}

/// Why a policy does or does not count for a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Position in `managed.policies`.
    pub index: usize,
    /// What becomes of it.
    pub outcome: Outcome,
    /// One sentence for a person.
    pub reason: String,
}

/// What becomes of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is the first that holds.
    Selected,
    /// It is merged below the selected one.
    Contributes,
    /// It holds, but an earlier one was taken.
    Shadowed,
    /// It does not hold.
    DoesNotMatch,
}

impl Policies {
    /// Merges what can be merged before a caller is known.
    pub fn new(config: &Config) -> Self {
        let managed = config.managed.as_ref();
        let configured = managed.and_then(|managed| managed.policies.clone());
        let pricing = config.pricing.as_ref().filter(|_| configured.is_some());
        let additions = Additions {
            env: telemetry_env(&config.telemetry, config.listen.public_url.as_deref()),
            pricing: pricing.map(model_pricing).unwrap_or_default(),
        };
        let policies = match configured {
            None if additions.env.is_empty() => None,
            // Telemetry is pushed to everyone when nothing else is configured.
            None => Some(vec![catch_all()]),
            Some(policies) => Some(policies),
        };
        let list = policies.as_deref().unwrap_or_default();
        let this = Self {
            mode: managed.map(|managed| managed.policy_mode).unwrap_or_default(),
            base: list.iter().position(is_catch_all),
            is_code: list.iter().any(|policy| policy.is_code),
            additions,
            merged: RefCell::default(),
            written: policies,
        };
        for index in 0..this.list().len() {
            if this.mode == PolicyMode::FirstMatch {
                this.effective(&this.first_match(index).contributors);
            }
        }
        this
    }

    /// The policies that hold for `caller`; `None` if none does.
    pub fn select(&self, caller: Caller<'_>) -> Option<Selection> {
        let mut holding = self.list().iter().enumerate().filter(|(_, policy)| mismatch(policy, caller).is_none());
        match self.mode {
            PolicyMode::FirstMatch => holding.next().map(|(index, _)| self.first_match(index)),
            PolicyMode::Layered => {
                let mut contributors = Vec::new();
                for (index, policy) in holding {
                    contributors.push(index);
                    if is_catch_all(policy) {
                        break;
                    }
                }
                let specific = contributors.iter().filter(|index| Some(**index) != self.base).count();
                Some(Selection { index: *contributors.first()?, is_layered: specific > 1, contributors })
            }
        }
    }

    /// What the policies of `selection` merge to.
    pub fn effective_of(&self, selection: &Selection) -> Rc<Effective> {
        self.effective(&selection.contributors)
    }

    /// What holds for `caller`; `None` if no policy does.
    pub fn effective_for(&self, caller: Caller<'_>) -> Option<Rc<Effective>> {
        Some(self.effective_of(&self.select(caller)?))
    }

    /// The models that `caller` may use, as its policy lists them: `None` allows everything.
    pub fn available_models(&self, caller: Caller<'_>) -> Option<Vec<String>> {
        let effective = self.effective_for(caller)?;
        Some(effective.available_models()?.into_iter().map(str::to_owned).collect())
    }

    /// Whether anything is configured: policies, even none of them, or telemetry to push.
    pub const fn is_configured(&self) -> bool {
        self.written.is_some()
    }

    /// Whether any policy has a Claude Desktop document.
    pub fn has_desktop(&self) -> bool {
        self.list().iter().any(|policy| policy.desktop.is_some())
    }

    /// Whether the documents come from `code` blocks.
    pub const fn is_code(&self) -> bool {
        self.is_code
    }

    /// Decides what a request for managed settings is answered.
    pub fn answer(&self, caller: Caller<'_>, user_agent: Option<&str>, if_none_match: Option<&str>) -> Answer {
        if !self.is_configured() {
            return Answer::NotConfigured;
        }
        let Some(selection) = self.select(caller) else { return Answer::NoPolicyMatched };
        let is_served_to_desktop = self.is_code || self.list()[selection.index].serve_to_desktop;
        if !is_served_to_desktop && user_agent.is_some_and(is_desktop_session) {
            return Answer::NotServedToDesktop;
        }
        let effective = self.effective_of(&selection);
        match if_none_match.map(str::trim) {
            Some("*") if self.is_code && !effective.settings.is_empty() => Answer::NotModifiedExists,
            Some(tag) if tag == etag(&effective.checksum) => Answer::NotModified,
            _ => Answer::Serve { effective, selection },
        }
    }

    /// What becomes of every policy for `caller`, in list order.
    pub fn explain(&self, caller: Caller<'_>) -> Vec<Explanation> {
        let selection = self.select(caller);
        let selected = selection.as_ref().map(|selection| selection.index);
        let contributes = |index| selection.as_ref().is_some_and(|selection| selection.contributors.contains(&index));
        let explain = |(index, policy): (usize, &Policy)| {
            let (outcome, reason) = match mismatch(policy, caller) {
                _ if selected == Some(index) => (Outcome::Selected, holds(policy, caller)),
                None if contributes(index) => {
                    (Outcome::Contributes, format!("{}; merged below", holds(policy, caller)))
                }
                None => {
                    let earlier = selected.unwrap_or_default();
                    (Outcome::Shadowed, format!("{}, but policy {earlier} comes first", holds(policy, caller)))
                }
                Some(reason) => (Outcome::DoesNotMatch, reason),
            };
            Explanation { index, outcome, reason }
        };
        self.list().iter().enumerate().map(explain).collect()
    }

    /// What merging onto the catch-all changed, one line for each policy (auth contract §8.2).
    pub fn merge_notes(&self) -> Vec<String> {
        let Some(base) = self.base.filter(|_| self.mode == PolicyMode::FirstMatch) else { return Vec::new() };
        let nothing = Json::new();
        let below = self.list()[base].settings.as_ref().unwrap_or(&nothing);
        let note = |(index, policy): (usize, &Policy)| {
            let merged = policy.settings.as_ref().map(|own| merge_settings(below.clone(), own)).unwrap_or_default();
            let changed: Vec<_> = merged
                .iter()
                .filter(|(key, value)| below.get(*key) != Some(value))
                .map(|(key, _)| key.as_str())
                .collect();
            let what = if changed.is_empty() { "changes nothing".to_owned() } else { changed.join(", ") };
            format!("managed policy {index} is merged onto policy {base}, the catch-all: {what}")
        };
        self.list().iter().enumerate().filter(|(index, _)| *index != base).map(note).collect()
    }

    fn list(&self) -> &[Policy] {
        self.written.as_deref().unwrap_or_default()
    }

    /// A specific policy stands on the catch-all; the catch-all stands alone.
    fn first_match(&self, index: usize) -> Selection {
        let base = self.base.filter(|base| *base != index);
        let mut contributors: Vec<_> = base.into_iter().chain([index]).collect();
        contributors.sort_unstable();
        Selection { index, contributors, is_layered: false }
    }

    fn effective(&self, contributors: &[usize]) -> Rc<Effective> {
        if let Some(known) = self.merged.borrow().get(contributors) {
            return Rc::clone(known);
        }
        let merged = Rc::new(self.merge(contributors));
        let mut kept = self.merged.borrow_mut();
        if kept.len() < MAX_KEPT {
            kept.insert(contributors.to_vec(), Rc::clone(&merged));
        }
        merged
    }

    /// Merges from the lowest precedence, the catch-all, to the highest, the first in the list.
    fn merge(&self, contributors: &[usize]) -> Effective {
        let mut lowest_first: Vec<_> = contributors.to_vec();
        lowest_first.sort_by_key(|index| std::cmp::Reverse((Some(*index) == self.base, *index)));
        let mut settings = Json::new();
        let mut desktop: Option<Json> = None;
        for policy in lowest_first.into_iter().map(|index| &self.list()[index]) {
            if let Some(own) = &policy.settings {
                settings = merge_settings(settings, own);
            }
            if let Some(own) = &policy.desktop {
                desktop = Some(merge_desktop(desktop.unwrap_or_default(), own));
            }
        }
        let has_own_settings = !settings.is_empty();
        let settings = self.additions.added_to(settings);
        let checksum = checksum::of(&settings);
        let body = json!({ "uuid": checksum, "checksum": checksum, "settings": settings }).to_string().into();
        Effective { settings, checksum, body, has_own_settings, desktop }
    }
}

impl Additions {
    fn added_to(&self, mut settings: Json) -> Json {
        if !self.env.is_empty() {
            let mut env = self.env.clone();
            if let Some(Value::Object(own)) = settings.get("env") {
                env.extend(own.clone());
            }
            settings.insert("env".to_owned(), Value::Object(env));
        }
        if !self.pricing.is_empty() {
            let mut pricing = match settings.remove("modelPricing") {
                Some(Value::Object(own)) => own,
                _ => Json::new(),
            };
            pricing.extend(self.pricing.clone());
            settings.insert("modelPricing".to_owned(), Value::Object(pricing));
        }
        settings
    }
}

/// The `ETag` of a document.
pub fn etag(checksum: &str) -> String {
    format!("\"{checksum}\"")
}

fn catch_all() -> Policy {
    Policy { groups: None, email_domain: None, settings: None, is_code: false, desktop: None, serve_to_desktop: false }
}

fn is_catch_all(policy: &Policy) -> bool {
    policy.groups.is_none() && policy.email_domain.is_none()
}

/// Why `policy` does not hold for `caller`; `None` if it does.
fn mismatch(policy: &Policy, caller: Caller<'_>) -> Option<String> {
    if let Some(groups) = &policy.groups
        && !groups.iter().any(|group| caller.groups.contains(group))
    {
        return Some(format!("not in any of the groups {}", groups.join(", ")));
    }
    if let Some(domain) = &policy.email_domain
        && !caller.email.is_some_and(|email| is_in_domain(email, domain))
    {
        return Some(format!("the e-mail address is not in the domain {domain}"));
    }
    None
}

/// Why `policy` holds for `caller`.
fn holds(policy: &Policy, caller: Caller<'_>) -> String {
    let group = policy.groups.iter().flatten().find(|group| caller.groups.contains(group));
    match (group, &policy.email_domain) {
        (None, None) => "matches everyone".to_owned(),
        (Some(group), None) => format!("in the group {group}"),
        (None, Some(domain)) => format!("the e-mail address is in the domain {domain}"),
        (Some(group), Some(domain)) => format!("in the group {group} and the e-mail address is in the domain {domain}"),
    }
}

fn is_in_domain(email: &str, domain: &str) -> bool {
    email.rsplit_once('@').is_some_and(|(_, its)| its.to_lowercase() == domain.to_lowercase())
}

/// Whether a request comes from Claude Code inside Claude Desktop: `claude-code/2.1.0 (external, claude-desktop)`.
pub fn is_desktop_session(user_agent: &str) -> bool {
    let after_name = user_agent.strip_prefix("claude-code/").or_else(|| user_agent.strip_prefix("claude-cli/"));
    let Some((version, rest)) = after_name.and_then(|rest| rest.split_once(" (")) else { return false };
    let Some((list, _)) = rest.split_once(')') else { return false };
    let is_desktop = |item: &str| matches!(item.trim(), "claude-desktop" | "claude-desktop-3p" | "local-agent");
    !version.is_empty() && !version.contains(' ') && list.split(',').any(is_desktop)
}

/// What tells clients to send their telemetry to the gateway; nothing if nobody takes it or clients cannot be told where.
fn telemetry_env(telemetry: &Telemetry, public_url: Option<&str>) -> Json {
    let (Some(public_url), false) = (public_url, telemetry.forward_to.is_empty()) else { return Json::new() };
    let exporter = |taken: bool| if taken { "otlp" } else { "none" };
    let collectors = || telemetry.forward_to.iter();
    let mut env = Json::new();
    let mut set = |name: &str, value: &str| env.insert(name.to_owned(), Value::from(value));
    set("CLAUDE_CODE_ENABLE_TELEMETRY", "1");
    set("OTEL_METRICS_EXPORTER", exporter(collectors().any(|collector| collector.metrics)));
    set("OTEL_LOGS_EXPORTER", exporter(collectors().any(|collector| collector.logs)));
    set("OTEL_TRACES_EXPORTER", exporter(collectors().any(|collector| collector.traces)));
    set("OTEL_EXPORTER_OTLP_ENDPOINT", public_url);
    set("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    if !telemetry.resource_attributes.is_empty() {
        let pairs = telemetry.resource_attributes.iter().map(|(name, value)| format!("{name}={value}"));
        set("OTEL_RESOURCE_ATTRIBUTES", &pairs.collect::<Vec<_>>().join(","));
    }
    env
}

/// `modelPricing`, so that clients show what is charged. Of several upstreams' prices for a model, the first row counts.
fn model_pricing(pricing: &Pricing) -> Json {
    let mut object = Json::new();
    if let Some(multiplier) = &pricing.multiplier {
        object.insert("multiplier".to_owned(), number(multiplier));
    }
    let mut overrides = Json::new();
    for row in &pricing.overrides {
        overrides.entry(&row.model).or_insert_with(|| {
            json!({
                "input": number(&row.input),
                "output": number(&row.output),
                "cacheRead": number(&row.cache_read),
                "cacheWrite": number(&row.cache_write),
            })
        });
    }
    if !overrides.is_empty() {
        object.insert("overrides".to_owned(), Value::Object(overrides));
    }
    object
}

/// Decimal text as a JSON number, whole if it is whole.
fn number(decimal: &str) -> Value {
    let whole = decimal.parse::<u64>().ok().map(Number::from);
    whole.or_else(|| Number::from_f64(decimal.parse().ok()?)).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests;
