//! How one document is merged onto another, key by key (auth contract §8.3 and §9). Validated documents only: where a
//! value has not the shape that a rule needs, the policy's value replaces the base's.

use serde_json::{Map, Value};

use crate::config::Json;

/// Lists that forbid: a policy can add to them, never take away.
const UNITED: [&str; 4] = ["deniedModels", "disabledMcpjsonServers", "deniedMcpServers", "blockedMarketplaces"];
/// Mappings that are merged one level deep.
const MERGED: [&str; 3] = ["env", "modelOverrides", "skillOverrides"];

/// `own` merged onto `base`.
#[must_use]
pub fn merge_settings(mut base: Json, own: &Json) -> Json {
    for (key, value) in own {
        let merged = match key.as_str() {
            "permissions" => by_key(base.get(key), value, |key| match key {
                "deny" | "ask" => united,
                _ => replaced,
            }),
            "hooks" => by_key(base.get(key), value, |_| united),
            key if MERGED.contains(&key) => by_key(base.get(key), value, |_| replaced),
            key if UNITED.contains(&key) => united(base.get(key), value),
            _ => value.clone(),
        };
        base.insert(key.clone(), merged);
    }
    base
}

/// `own`, a Claude Desktop document, merged onto `base`.
#[must_use]
pub fn merge_desktop(mut base: Json, own: &Json) -> Json {
    for (key, value) in own {
        let merged = match key.as_str() {
            "disabledBuiltinTools" => united(base.get(key), value),
            "builtinToolPolicy" => by_key(base.get(key), value, |_| stricter),
            _ => value.clone(),
        };
        base.insert(key.clone(), merged);
    }
    base
}

/// How one value goes onto another.
type Rule = fn(Option<&Value>, &Value) -> Value;

/// Merges two mappings, each key by its rule.
fn by_key(base: Option<&Value>, own: &Value, rule: fn(&str) -> Rule) -> Value {
    let (Some(Value::Object(base)), Value::Object(own)) = (base, own) else { return own.clone() };
    let mut merged: Map<_, _> = base.clone();
    for (key, value) in own {
        let value = rule(key)(base.get(key), value);
        merged.insert(key.clone(), value);
    }
    Value::Object(merged)
}

fn replaced(_base: Option<&Value>, own: &Value) -> Value {
    own.clone()
}

/// The base's entries, then the policy's, without deep-equal duplicates.
fn united(base: Option<&Value>, own: &Value) -> Value {
    let (Some(Value::Array(base)), Value::Array(own)) = (base, own) else { return own.clone() };
    let mut union: Vec<Value> = Vec::with_capacity(base.len() + own.len());
    for entry in base.iter().chain(own) {
        if !union.contains(entry) {
            union.push(entry.clone());
        }
    }
    Value::Array(union)
}

/// An `allow` does not lift what the base restricts.
fn stricter(base: Option<&Value>, own: &Value) -> Value {
    match base {
        Some(base) if own == "allow" => base.clone(),
        _ => own.clone(),
    }
}
