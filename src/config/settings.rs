//! Judges settings documents that are delivered to clients: Claude Code's (auth contract §8.6) and Claude Desktop's (§9).
//!
//! What is known lives in `claude_settings.txt`; this file has the rules. Parts that the contract leaves open (`env`,
//! below `permissions`, `sandbox` and `pluginConfigs`) are delivered as written.

use serde_json::Value;

use super::Json;
use super::report::{Report, below, did_you_mean, item, one_of};

/// What happens to keys that Claude Code is not known to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// They are faults: a misspelt restriction restricts nothing.
    Refuse,
    /// They are warnings, for keys that are newer than this gateway.
    Warn,
}

/// Two names for one setting; setting both is refused.
const ALIASES: [(&str, &str); 2] =
    [("additionalMarketplaces", "extraKnownMarketplaces"), ("allowedMarketplaces", "strictKnownMarketplaces")];

/// Desktop keys that are only read from local management.
const DESKTOP_LOCAL: [&str; 5] = [
    "bootstrapUrl",
    "bootstrapEnabled",
    "forceLoginOrgUUID",
    "isDesktopExtensionDirectoryEnabled",
    "secureVmFeaturesEnabled",
];

/// Desktop keys under their former names.
const DESKTOP_RENAMED: [(&str, &str); 2] =
    [("isDxtEnabled", "isDesktopExtensionEnabled"), ("isDxtSignatureRequired", "isDesktopExtensionSignatureRequired")];

/// Reports everything that is wrong with a Claude Code settings document at `path`.
pub(super) fn check(document: &Json, path: &str, unknown: Unknown, report: &mut Report<'_>) {
    let known: Vec<_> = table("settings").collect();
    for (key, value) in document {
        let at = below(path, key);
        if key == "mcpServers" {
            report.fault_at(&at, "cannot be delivered by a gateway; use `managedMcpServers`");
            continue;
        }
        if let Some((_, kind)) = known.iter().find(|(name, _)| name == key) {
            check_kind(value, kind, &at, report);
        } else {
            let hint = did_you_mean(key, known.iter().map(|(name, _)| *name));
            report_unknown(&at, &format!("Claude Code has no such setting{hint}"), unknown, report);
        }
    }
    for (one, other) in ALIASES {
        if document.contains_key(one) && document.contains_key(other) {
            report.fault_at(&below(path, one), format!("is the same setting as `{other}`: set only one of them"));
        }
    }
    if let Some(Value::Object(hooks)) = document.get("hooks") {
        check_hooks(hooks, &below(path, "hooks"), unknown, report);
    }
    if let Some(Value::Array(models)) = document.get("availableModels")
        && models.is_empty()
    {
        report.warn_at(&below(path, "availableModels"), "an empty list refuses every request");
    }
}

/// `hooks` is a mapping of events to lists of matchers, each with a list of hooks that have a type.
fn check_hooks(hooks: &Json, path: &str, unknown: Unknown, report: &mut Report<'_>) {
    for (event, matchers) in hooks {
        let at = below(path, event);
        if !table("hook-events").any(|(name, _)| name == event) {
            let hint = did_you_mean(event, table("hook-events").map(|(name, _)| name));
            report_unknown(&at, &format!("Claude Code has no such hook event{hint}"), unknown, report);
        }
        let Value::Array(matchers) = matchers else {
            report.fault_at(&at, "expected a list of matchers, each with `hooks`");
            continue;
        };
        for (index, matcher) in matchers.iter().enumerate() {
            let at = item(&at, index);
            match matcher.get("hooks") {
                Some(Value::Array(hooks)) => check_hook_types(hooks, &below(&at, "hooks"), unknown, report),
                _ => report.fault_at(&at, "expected a mapping with a list `hooks`"),
            }
        }
    }
}

fn check_hook_types(hooks: &[Value], path: &str, unknown: Unknown, report: &mut Report<'_>) {
    for (index, hook) in hooks.iter().enumerate() {
        let at = item(path, index);
        let types = || table("hook-types").map(|(name, _)| name);
        match hook.get("type").and_then(Value::as_str) {
            Some(given) if types().any(|known| known == given) => {}
            Some(_) => {
                let message = format!("expected {}", one_of(types()));
                report_unknown(&below(&at, "type"), &message, unknown, report);
            }
            None => report.fault_at(&at, format!("expected a mapping with a `type`: {}", one_of(types()))),
        }
    }
}

/// Reports everything that is wrong with a Claude Desktop document at `path`. Unknown keys are delivered as written.
pub(super) fn check_desktop(document: &Json, path: &str, own_sections: &[&str], report: &mut Report<'_>) {
    for (key, value) in document {
        let at = below(path, key);
        if let Some((_, kind)) = table("desktop").find(|(name, _)| name == key) {
            check_kind(value, kind, &at, report);
            continue;
        }
        if key.starts_with("inference") || key.starts_with("otlp") || key == "expiresAt" {
            report.fault_at(&at, "is computed by the gateway and cannot be set");
        } else if DESKTOP_LOCAL.contains(&key.as_str()) {
            report.fault_at(&at, "is only read from the device's local management, not from a gateway");
        } else if let Some((_, new)) = DESKTOP_RENAMED.iter().find(|(old, _)| old == key) {
            report.fault_at(&at, format!("is now called `{new}`"));
        } else if own_sections.contains(&key.as_str()) {
            report
                .fault_at(&at, "is a section of gateway.yaml, not a setting of Claude Desktop; check the indentation");
        } else {
            let hint = did_you_mean(key, table("desktop").map(|(name, _)| name));
            report.warn_at(&at, format!("is not known to be a setting of Claude Desktop; delivered as written{hint}"));
        }
    }
    if let Some(Value::Object(tools)) = document.get("builtinToolPolicy") {
        for (tool, policy) in tools {
            if !matches!(policy.as_str(), Some("allow" | "ask")) {
                report.fault_at(&below(&below(path, "builtinToolPolicy"), tool), "expected allow or ask");
            }
        }
    }
}

fn report_unknown(path: &str, message: &str, unknown: Unknown, report: &mut Report<'_>) {
    match unknown {
        Unknown::Refuse => {
            report.fault_at(path, format!("{message} (for a newer one, set `managed.unknown_keys: warn`)"));
        }
        Unknown::Warn => report.warn_at(path, format!("{message}; delivered as written")),
    }
}

fn check_kind(value: &Value, kind: &str, path: &str, report: &mut Report<'_>) {
    let all_text = |items: &Vec<Value>| items.iter().all(Value::is_string);
    let (holds, expected) = match kind {
        "text" => (value.is_string(), "text"),
        "texts" => (value.as_array().is_some_and(all_text), "a list of text"),
        "switch" => (value.is_boolean(), "true or false"),
        "number" => (value.is_number(), "a number"),
        "list" => (value.is_array(), "a list"),
        "object" => (value.is_object(), "a mapping"),
        _ => (true, ""),
    };
    if !holds {
        report.fault_at(path, format!("expected {expected}"));
    }
}

/// Name and kind of the entries of one part of the data file.
fn table(part: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let heading = format!("[{part}]");
    include_str!("claude_settings.txt")
        .lines()
        .skip_while(move |line| *line != heading)
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split_once(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_file_has_every_part_with_known_kinds_and_no_name_twice() {
        for (part, expected) in [("settings", 144), ("hook-events", 33), ("hook-types", 5), ("desktop", 28)] {
            let mut names: Vec<_> = table(part).map(|(name, _)| name).collect();
            assert_eq!(names.len(), expected, "{part}");
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), expected, "{part}");
            for (name, kind) in table(part) {
                let known = ["text", "texts", "switch", "number", "list", "object", "any"];
                assert!(known.contains(&kind), "{name}: {kind}");
            }
        }
    }
}
