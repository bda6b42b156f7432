//! What a configuration says about models, held against the catalog: entries that route nothing, defaults that their own
//! policy forbids.

use serde_json::Value;

use super::report::Report;
use super::{Config, Policy};
use crate::upstream::catalog::built_in::{self, BUILT_IN};
use crate::upstream::catalog::{Catalog, allows};

/// Whether two names mean the same model: the same string in any case, or two spellings of one built-in model.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || built_in::find(one).is_some_and(|model| built_in::find(other) == Some(model))
}

/// Warns about what has no effect or works against itself.
pub(super) fn advise(config: &Config, report: &mut Report<'_>) {
    let catalog = Catalog::of(config);
    for (index, model) in config.models.iter().enumerate() {
        let reasons: Vec<_> =
            config.upstreams.iter().map_while(|upstream| catalog.resolve(&model.id, upstream).err()).collect();
        if reasons.len() == config.upstreams.len() {
            let reasons: Vec<_> = reasons.iter().map(ToString::to_string).collect();
            report.warn_at(&format!("models[{index}]"), format!("routes nothing: {}", reasons.join("; ")));
        }
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        for (place, model) in upstream.models.iter().flatten().enumerate() {
            if let Err(reason) = catalog.resolve(model, upstream) {
                report.warn_at(&format!("upstreams[{index}].models[{place}]"), format!("routes nothing: {reason}"));
            }
        }
    }
    let policies = config.managed.as_ref().and_then(|managed| managed.policies.as_deref()).unwrap_or_default();
    let base = policies.iter().find(|policy| policy.groups.is_none() && policy.email_domain.is_none());
    for (index, policy) in policies.iter().enumerate() {
        if let Some((model, available)) = default_outside(policy, base) {
            let message = format!(
                "the default model `{model}` is not in `availableModels` ({available}): its users start with a model \
                 that is refused"
            );
            report.warn_at(&format!("managed.policies[{index}]"), message);
        }
        if let Some(available) = start_outside(policy, base) {
            let message = format!(
                "`availableModels` ({available}) leaves out the model that clients start with, an Opus or a Sonnet \
                 model: set `model`, or `enforceAvailableModels: true`"
            );
            report.warn_at(&format!("managed.policies[{index}]"), message);
        }
    }
}

/// The list of `policy`, if it has no model of the families that clients start with by themselves, and nothing else tells
/// them which to start with. Which of the two it is depends on the client.
fn start_outside(policy: &Policy, base: Option<&Policy>) -> Option<String> {
    let own = policy.settings.as_ref()?;
    let inherited = base.and_then(|base| base.settings.as_ref());
    let has = |name: &str| own.contains_key(name) || inherited.is_some_and(|base| base.contains_key(name));
    let available: Vec<&str> = own.get("availableModels")?.as_array()?.iter().filter_map(Value::as_str).collect();
    let starts = |model: &&built_in::BuiltIn| matches!(model.family(), "opus" | "sonnet");
    let is_covered = BUILT_IN.iter().filter(starts).any(|model| allows(&available, model.id));
    // The empty list has a warning of its own.
    let is_told = has("model") || has("enforceAvailableModels") || available.is_empty();
    (!is_covered && !is_told).then(|| available.join(", "))
}

/// The default model of `policy`, if the list that holds along with it leaves it out, and that list.
fn default_outside(policy: &Policy, base: Option<&Policy>) -> Option<(String, String)> {
    let own = policy.settings.as_ref();
    let inherited = base.and_then(|base| base.settings.as_ref());
    let key = |name: &str| own.and_then(|own| own.get(name)).or_else(|| inherited?.get(name));
    // Where both are inherited, the catch-all is told.
    own.filter(|own| own.contains_key("model") || own.contains_key("availableModels"))?;
    let model = key("model")?.as_str()?;
    let available: Vec<&str> = key("availableModels")?.as_array()?.iter().filter_map(Value::as_str).collect();
    let name = model.strip_suffix("[1m]").unwrap_or(model).to_lowercase();
    let family_of = |entry: &str| {
        let entry = entry.to_lowercase();
        built_in::find(&entry).map_or_else(|| entry.clone(), |model| model.family().to_owned())
    };
    let is_family = BUILT_IN.iter().any(|model| model.family() == name);
    let is_alias = !name.contains('-') && built_in::find(&name).is_none();
    let is_covered = available.iter().any(|entry| entry.eq_ignore_ascii_case(model)) || allows(&available, &name);
    let fits = match (is_family, is_alias) {
        // A family word means its newest model; some model of the family must be there.
        (true, _) => is_covered || available.iter().any(|entry| family_of(entry).contains(&name)),
        // What clients make of other words, `default` for one, is theirs.
        (false, true) => true,
        (false, false) => is_covered,
    };
    (!fits).then(|| (model.to_owned(), available.join(", ")))
}
