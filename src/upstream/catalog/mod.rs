//! [`Catalog`]: which models exist, what each upstream calls them, and who may name them.
//!
//! The built-in models are in [`built_in`]; configured ones come from `models:` (inference contract §7). Prices are in
//! `domain`.

pub mod built_in;

use serde::Serialize;

use crate::config::{Config, Model, Provider, Upstream};
use built_in::{BUILT_IN, BuiltIn, US_PROFILE};

/// The models of one configuration.
#[derive(Debug, Clone)]
pub struct Catalog {
    configured: Vec<Configured>,
    serves_built_in: bool,
}

/// An entry of `models:`, and the built-in model that its id is a spelling of.
#[derive(Debug, Clone)]
struct Configured {
    model: Model,
    built_in: Option<&'static BuiltIn>,
}

impl Configured {
    /// Whether a client means it by `requested`, which is a spelling of `built_in`.
    fn is_meant(&self, requested: &str, built_in: Option<&'static BuiltIn>) -> bool {
        self.model.id.eq_ignore_ascii_case(requested) || (self.built_in.is_some() && self.built_in == built_in)
    }
}

/// Why an upstream does not get a request; the text is part of the public message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// Neither built in nor configured.
    #[error("model {0} is not in the operator's model allowlist")]
    Unknown(String),
    /// The upstream has a `models` list without it.
    #[error("model {model} is not served by upstream '{upstream}'")]
    NotListed {
        /// As the client named it.
        model: String,
        /// The upstream's name.
        upstream: String,
    },
    /// The provider has no id for it.
    #[error("model {model} is not available on {provider}")]
    NotOnProvider {
        /// As the client named it.
        model: String,
        /// The provider.
        provider: &'static str,
    },
    /// The configuration maps it for other upstreams only.
    #[error("model {id} has no upstream_model.{upstream} configured")]
    NotMapped {
        /// The configured id.
        id: String,
        /// The upstream's name.
        upstream: String,
    },
}

/// Why no upstream gets a request; the text is the public message of a `400 invalid_request_error`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Every upstream is for groups that the caller is not in.
    #[error("you are in no group that may use this gateway's models; ask its operator for access")]
    NoUpstreamForGroups,
    /// One reason for each upstream that the caller may use.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NotServed(Vec<NotServed>),
}

/// Where a request may go, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Never empty.
    pub candidates: Vec<Candidate>,
    /// Upstreams that the caller may use, whether or not they have the model: the count that a final 502 tells.
    pub permitted: usize,
}

/// One upstream that has the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Index into `config.upstreams`.
    pub upstream: usize,
    /// What that upstream calls the model.
    pub model: String,
}

/// The answer of `GET /v1/models` (inference contract §6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct List {
    /// The models.
    pub data: Vec<Listed>,
    /// Always false: there is one page.
    pub has_more: bool,
    /// Always null.
    pub first_id: Option<String>,
    /// Always null.
    pub last_id: Option<String>,
}

/// One model of a [`List`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Always `model`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What to ask for.
    pub id: String,
    /// The configured label, else the id.
    pub display_name: String,
    /// The configured description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The context window, where it is fixed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_input_tokens: Option<u64>,
}

impl Catalog {
    /// The models that `config` serves.
    pub fn of(config: &Config) -> Self {
        Self::new(config.models.clone(), config.auto_include_builtin_models)
    }

    fn new(models: Vec<Model>, serves_built_in: bool) -> Self {
        let configured = models.into_iter().map(|model| Configured { built_in: built_in::find(&model.id), model });
        Self { configured: configured.collect(), serves_built_in }
    }

    /// What `upstream` calls the model that the client calls `requested`.
    pub fn resolve(&self, requested: &str, upstream: &Upstream) -> Result<String, NotServed> {
        let built_in = built_in::find(requested);
        let mut configured = self.configured.iter().filter(|entry| entry.is_meant(requested, built_in)).peekable();
        let named = configured.peek().map(|entry| &entry.model);
        if named.is_none() && !(self.serves_built_in && built_in.is_some()) {
            return Err(NotServed::Unknown(requested.to_owned()));
        }
        if let Some(models) = &upstream.models
            && !models.iter().any(|model| is_same(model, requested, built_in))
        {
            return Err(NotServed::NotListed { model: requested.to_owned(), upstream: upstream.name.clone() });
        }
        if let Some(id) = configured.find_map(|entry| entry.model.upstream_model.get(&upstream.name)) {
            return Ok(id.clone());
        }
        match (built_in, named) {
            (Some(built_in), _) => default_id(built_in, &upstream.provider).ok_or_else(|| NotServed::NotOnProvider {
                model: requested.to_owned(),
                provider: upstream.provider.name(),
            }),
            (None, Some(model)) => Err(NotServed::NotMapped { id: model.id.clone(), upstream: upstream.name.clone() }),
            (None, None) => Err(NotServed::Unknown(requested.to_owned())),
        }
    }

    /// Where a request of a member of `groups` for `requested` may go (inference contract §4 steps 9 and 10, §8.1).
    pub fn plan(&self, upstreams: &[Upstream], groups: &[String], requested: &str) -> Result<Plan, Refused> {
        let mut candidates = Vec::new();
        let mut reasons = Vec::new();
        for (index, upstream) in upstreams.iter().enumerate().filter(|(_, upstream)| may_use(upstream, groups)) {
            match self.resolve(requested, upstream) {
                Ok(model) => candidates.push(Candidate { upstream: index, model }),
                Err(reason) => reasons.push(reason),
            }
        }
        let permitted = candidates.len() + reasons.len();
        match (permitted, candidates.is_empty()) {
            (0, _) => Err(Refused::NoUpstreamForGroups),
            (_, true) => Err(Refused::NotServed(reasons)),
            _ => Ok(Plan { candidates, permitted }),
        }
    }

    /// The models that a member of `groups` can use: configured ones in file order, then built-in ones. `may_name` is the
    /// caller's policy (see [`allows`]).
    pub fn list(&self, upstreams: &[Upstream], groups: &[String], may_name: impl Fn(&str) -> bool) -> List {
        let permitted: Vec<&Upstream> = upstreams.iter().filter(|upstream| may_use(upstream, groups)).collect();
        let configured = self.configured.iter().map(|entry| Listed {
            kind: "model",
            id: entry.model.id.clone(),
            display_name: entry.model.label.clone().unwrap_or_else(|| entry.model.id.clone()),
            description: entry.model.description.clone(),
            max_input_tokens: self.window(entry, &permitted),
        });
        let built_in = BUILT_IN
            .iter()
            .filter(|model| self.serves_built_in && model.is_listed)
            .filter(|model| !self.configured.iter().any(|configured| configured.model.id == model.id))
            .map(|model| Listed {
                kind: "model",
                id: model.id.to_owned(),
                display_name: model.id.to_owned(),
                description: None,
                max_input_tokens: model.max_input_tokens,
            });
        let data = configured
            .chain(built_in)
            .filter(|model| may_name(&model.id))
            .filter(|model| permitted.iter().any(|upstream| self.resolve(&model.id, upstream).is_ok()))
            .collect();
        List { data, has_more: false, first_id: None, last_id: None }
    }
}

impl Catalog {
    /// The window of a configured model: that of the built-in model which it is at the first upstream that has it.
    fn window(&self, entry: &Configured, permitted: &[&Upstream]) -> Option<u64> {
        let upstream = permitted.iter().find(|upstream| self.resolve(&entry.model.id, upstream).is_ok())?;
        let target = match entry.model.upstream_model.get(&upstream.name) {
            Some(id) => built_in::find(id),
            None => entry.built_in,
        };
        target?.max_input_tokens
    }
}

/// Whether `upstream` is open to a member of `groups` (inference contract §8.2).
pub fn may_use(upstream: &Upstream, groups: &[String]) -> bool {
    upstream.groups.as_ref().is_none_or(|required| required.iter().any(|group| groups.contains(group)))
}

/// Whether `name` means what `requested`, a spelling of `built_in`, means: the same string in any case, or a spelling of
/// the same built-in model.
fn is_same(name: &str, requested: &str, built_in: Option<&'static BuiltIn>) -> bool {
    name.eq_ignore_ascii_case(requested) || (built_in.is_some() && built_in::find(name) == built_in)
}

/// What `provider` calls a built-in model, when nothing else is configured.
fn default_id(model: &BuiltIn, provider: &Provider) -> Option<String> {
    let id = match provider {
        Provider::Anthropic { .. } | Provider::AnthropicAws { .. } => model.id,
        Provider::AnthropicGoogleCloud { .. } => return model.on_google_cloud.then(|| model.id.to_owned()),
        Provider::Bedrock { region, .. } if has_us_profile(region) => {
            return Some(format!("{US_PROFILE}{}", model.bedrock));
        }
        Provider::Bedrock { .. } => model.bedrock,
        Provider::Mantle { .. } => model.mantle?,
        Provider::Vertex { .. } => model.vertex,
        Provider::Foundry { .. } => model.short,
    };
    Some(id.to_owned())
}

/// Inference contract §7.3.
fn has_us_profile(region: &str) -> bool {
    (region.starts_with("us-") && !region.starts_with("us-gov-")) || region.starts_with("ca-")
}

/// Whether a policy's `availableModels` covers the model that the client calls `requested` (inference contract §7.5).
/// `deniedModels` has the same entries; a match there denies.
pub fn allows(entries: &[impl AsRef<str>], requested: &str) -> bool {
    let requested = requested.to_lowercase();
    let family = built_in::find(&requested).map(BuiltIn::family);
    entries.iter().any(|entry| {
        let entry = entry.as_ref().to_lowercase();
        let entry = entry.strip_suffix("[1m]").unwrap_or(&entry);
        // A family word covers the models that are known to be of the family; never a name that only looks like one.
        if BUILT_IN.iter().any(|model| model.family() == entry) {
            return family == Some(entry);
        }
        entry == requested || is_version_prefix(entry, &requested)
    })
}

/// `claude-opus-4` and `opus-4` begin `claude-opus-4-8`; parts of words begin nothing.
fn is_version_prefix(entry: &str, requested: &str) -> bool {
    let Some(name) = requested.strip_prefix("claude-") else { return false };
    let entry = entry.strip_prefix("claude-").unwrap_or(entry);
    !entry.is_empty() && name.strip_prefix(entry).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests;
