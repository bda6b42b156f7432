//! Matching, merging, additions and answers, as tables; what must never happen, as properties.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::config::{self, Sources};

struct NoFiles;

impl crate::ports::Files for NoFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        Err(format!("{path} is not there"))
    }
}

/// A configuration with `sections`; the public origin is `https://gw.example.com`.
fn config(sections: &str) -> Config {
    let text = format!(
        "listen: {{ public_url: https://gw.example.com }}\n\
         oidc: {{ issuer: https://idp.example.com, client_id: gateway, client_secret: example }}\n\
         upstreams: [{{ provider: anthropic, auth: {{ api_key: example }} }}]\n{sections}"
    );
    let sources = Sources { variables: HashMap::new(), files: &NoFiles, allow_loopback: false };
    match config::parse(&text, &sources) {
        Ok(loaded) => loaded.config,
        Err(faults) => panic!("{faults:?}"),
    }
}

fn policies(sections: &str) -> Policies {
    Policies::new(&config(sections))
}

fn groups(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).expect("the test's own JSON")
}

const TWO_TEAMS: &str = "
managed:
  policies:
    - match: { groups: [eng, ops] }
      cli: { model: opus }
    - match: { email_domain: partner.example }
      cli: { model: haiku }
    - match: { groups: [both], email_domain: partner.example }
      cli: { model: never }
    - cli: { model: sonnet, verbose: true }
";

#[test]
fn the_first_policy_that_holds_is_selected_and_stands_on_the_catch_all() {
    let policies = policies(TWO_TEAMS);
    for (names, email, index, model) in [
        (&["ops"][..], None, 0, "opus"),
        (&["OPS"], None, 3, "sonnet"),
        (&["operations"], None, 3, "sonnet"),
        (&["eng"], Some("a@partner.example"), 0, "opus"),
        (&[], Some("a@b@PARTNER.example"), 1, "haiku"),
        (&[], Some("partner.example"), 3, "sonnet"),
        (&[], Some("a@sub.partner.example"), 3, "sonnet"),
        (&["both"], Some("a@partner.example"), 1, "haiku"),
        (&["both"], None, 3, "sonnet"),
    ] {
        let names = groups(names);
        let caller = Caller { groups: &names, email };
        let selection = policies.select(caller).expect("there is a catch-all");
        let effective = policies.effective_of(&selection);
        assert_eq!(
            (selection.index, &effective.settings["model"]),
            (index, &Value::from(model)),
            "{names:?} {email:?}"
        );
        assert_eq!(effective.settings["verbose"], Value::Bool(true), "{names:?} {email:?}");
        assert_eq!(selection.policy_indexes(), None);
    }
}

#[test]
fn every_key_is_merged_by_its_rule() {
    for (base, own, expected) in [
        (r#"{"model":"a","verbose":true}"#, r#"{"model":"b"}"#, r#"{"model":"b","verbose":true}"#),
        (r#"{"availableModels":["a","b"]}"#, r#"{"availableModels":["c"]}"#, r#"{"availableModels":["c"]}"#),
        (r#"{"availableModels":["a","b"]}"#, r#"{"availableModels":[]}"#, r#"{"availableModels":[]}"#),
        (r#"{"deniedModels":["a","b"]}"#, r#"{"deniedModels":["c","a"]}"#, r#"{"deniedModels":["a","b","c"]}"#),
        (r#"{"deniedModels":["a"]}"#, r#"{"deniedModels":[]}"#, r#"{"deniedModels":["a"]}"#),
        (
            r#"{"deniedMcpServers":[{"serverName":"x"}]}"#,
            r#"{"deniedMcpServers":[{"serverName":"x"},{"serverName":"y"}]}"#,
            r#"{"deniedMcpServers":[{"serverName":"x"},{"serverName":"y"}]}"#,
        ),
        (
            r#"{"permissions":{"deny":["a"],"ask":["b"],"allow":["c"],"defaultMode":"plan"}}"#,
            r#"{"permissions":{"deny":["d"],"ask":["b"],"allow":["e"]}}"#,
            r#"{"permissions":{"deny":["a","d"],"ask":["b"],"allow":["e"],"defaultMode":"plan"}}"#,
        ),
        (
            r#"{"hooks":{"Stop":[{"hooks":[]}],"SessionEnd":[]}}"#,
            r#"{"hooks":{"Stop":[{"hooks":[]},{"hooks":[],"matcher":"x"}]}}"#,
            r#"{"hooks":{"Stop":[{"hooks":[]},{"hooks":[],"matcher":"x"}],"SessionEnd":[]}}"#,
        ),
        (r#"{"env":{"A":"1","B":"2"}}"#, r#"{"env":{"B":3,"C":"4"}}"#, r#"{"env":{"A":"1","B":3,"C":"4"}}"#),
        (r#"{"sandbox":{"a":{"b":1}}}"#, r#"{"sandbox":{"a":{"c":2}}}"#, r#"{"sandbox":{"a":{"c":2}}}"#),
    ] {
        let merged = Value::Object(merge_settings(json(base), &json(own))).to_string();
        assert_eq!(merged, expected, "{base} + {own}");
    }
}

#[test]
fn desktop_documents_are_merged_by_key_and_never_loosen_a_tool() {
    for (base, own, expected) in [
        (r#"{"banner":{"a":1,"b":2}}"#, r#"{"banner":{"a":3}}"#, r#"{"banner":{"a":3}}"#),
        (
            r#"{"disabledBuiltinTools":["a"]}"#,
            r#"{"disabledBuiltinTools":["b","a"]}"#,
            r#"{"disabledBuiltinTools":["a","b"]}"#,
        ),
        (
            r#"{"builtinToolPolicy":{"a":"ask","b":"allow"}}"#,
            r#"{"builtinToolPolicy":{"a":"allow","b":"ask","c":"allow"}}"#,
            r#"{"builtinToolPolicy":{"a":"ask","b":"ask","c":"allow"}}"#,
        ),
    ] {
        assert_eq!(Value::Object(merge_desktop(json(base), &json(own))).to_string(), expected, "{base} + {own}");
    }
}

#[test]
fn layered_policies_all_count_up_to_the_first_catch_all() {
    let policies = policies(
        "
managed:
  policy_mode: layered
  policies:
    - match: { groups: [a] }
      cli: { model: a, deniedModels: [a] }
    - match: { groups: [b] }
      cli: { model: b, deniedModels: [b], verbose: true }
    - cli: { model: base, deniedModels: [base] }
    - match: { groups: [a] }
      cli: { theme: never }
",
    );
    let select = |names: &[&str]| {
        let names = groups(names);
        let selection = policies.select(Caller { groups: &names, email: None }).expect("there is a catch-all");
        let settings = Value::Object(policies.effective_of(&selection).settings.clone()).to_string();
        (selection.index, selection.policy_indexes().map(<[usize]>::to_vec), settings)
    };
    assert_eq!(select(&[]), (2, None, r#"{"model":"base","deniedModels":["base"]}"#.to_owned()));
    assert_eq!(select(&["a"]), (0, None, r#"{"model":"a","deniedModels":["base","a"]}"#.to_owned()));
    assert_eq!(
        select(&["a", "b"]),
        (0, Some(vec![0, 1, 2]), r#"{"model":"a","deniedModels":["base","b","a"],"verbose":true}"#.to_owned())
    );
}

#[test]
fn a_policy_without_settings_inherits_and_without_a_base_is_empty() {
    let inherits = policies("managed: { policies: [{ match: { groups: [a] } }, { cli: { model: base } }] }");
    let empty = policies("managed: { policies: [{ match: { groups: [a] } }] }");
    let names = groups(&["a"]);
    let caller = Caller { groups: &names, email: None };
    assert_eq!(inherits.effective_for(caller).expect("matches").settings, json(r#"{"model":"base"}"#));
    let effective = empty.effective_for(caller).expect("matches");
    assert_eq!(effective.checksum, "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
    assert_eq!(effective.body, format!(r#"{{"uuid":"{0}","checksum":"{0}","settings":{{}}}}"#, effective.checksum));
}

#[test]
fn telemetry_goes_below_the_policys_own_env_and_prices_over_its_own() {
    let policies = policies(
        "
telemetry:
  forward_to: [{ url: https://otel.example.com, logs: true, metrics: false }]
  resource_attributes: { team: x, site: y }
pricing:
  multiplier: 0.9
  overrides:
    - { upstream: anthropic, model: m, input: 4, output: 22.5, cache_read: 0.4, cache_write: 5 }
managed:
  policies:
    - cli: { env: { OTEL_LOGS_EXPORTER: console, A: 1 }, modelPricing: { multiplier: 2, other: 3 } }
",
    );
    let effective = policies.effective_for(Caller { groups: &[], email: None }).expect("a catch-all");
    let expected = json(
        r#"{
            "env": {
                "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
                "OTEL_METRICS_EXPORTER": "none",
                "OTEL_LOGS_EXPORTER": "console",
                "OTEL_TRACES_EXPORTER": "none",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "https://gw.example.com",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_RESOURCE_ATTRIBUTES": "team=x,site=y",
                "A": 1
            },
            "modelPricing": {
                "multiplier": 0.9,
                "other": 3,
                "overrides": { "m": { "input": 4, "output": 22.5, "cacheRead": 0.4, "cacheWrite": 5 } }
            }
        }"#,
    );
    assert_eq!(effective.settings, expected);
}

#[test]
fn what_is_answered_follows_from_configuration_caller_agent_and_tag() {
    const DESKTOP: &str = "claude-cli/2.1.329 (external, claude-desktop)";
    let telemetry = "telemetry: { forward_to: [{ url: https://otel.example.com }] }";
    let cli = "managed: { policies: [{ match: { groups: [a] }, cli: { model: m } }] }";
    let cli_desktop = "managed: { policies: [{ cli: { model: m }, serve_to_desktop: true }] }";
    let code = "managed: { policies: [{ code: { model: m } }] }";
    let empty_code = "managed: { policies: [{ code: {} }] }";
    let own = format!("\"{}\"", checksum::of(&json(r#"{"model":"m"}"#)));
    let weak = format!("W/{own}");
    let list = format!("{own}, \"x\"");
    let padded = format!(" {own} ");
    for (sections, in_group, agent, tag, expected) in [
        ("", true, None, None, "not configured"),
        ("managed: {}", true, None, None, "not configured"),
        ("managed: { policies: [] }", true, None, None, "no policy matched"),
        (telemetry, true, None, None, "serve"),
        (cli, false, None, None, "no policy matched"),
        (cli, true, None, None, "serve"),
        (cli, true, Some("claude-cli/2.1.329 (external, cli)"), None, "serve"),
        (cli, true, Some(DESKTOP), None, "not served to desktop"),
        (cli, true, Some(DESKTOP), Some(own.as_str()), "not served to desktop"),
        (cli_desktop, true, Some(DESKTOP), None, "serve"),
        (code, true, Some(DESKTOP), None, "serve"),
        (cli, true, None, Some(own.as_str()), "not modified"),
        (cli, true, None, Some(padded.as_str()), "not modified"),
        (cli, true, None, Some(weak.as_str()), "serve"),
        (cli, true, None, Some(list.as_str()), "serve"),
        (cli, true, None, Some(own.trim_matches('"')), "serve"),
        (cli, true, None, Some("*"), "serve"),
        (cli, false, None, Some("*"), "no policy matched"),
        (code, true, None, Some("*"), "exists"),
        (code, true, Some(DESKTOP), Some("*"), "exists"),
        (empty_code, true, None, Some("*"), "serve"),
    ] {
        let names = groups(if in_group { &["a"] } else { &["b"] });
        let answer = policies(sections).answer(Caller { groups: &names, email: None }, agent, tag);
        let answer = match answer {
            Answer::Serve { .. } => "serve",
            Answer::NotModified => "not modified",
            Answer::NotModifiedExists => "exists",
            Answer::NotConfigured => "not configured",
            Answer::NoPolicyMatched => "no policy matched",
            Answer::NotServedToDesktop => "not served to desktop",
        };
        assert_eq!(answer, expected, "{sections} {agent:?} {tag:?}");
    }
}

#[test]
fn desktop_sessions_are_known_by_their_agent() {
    for agent in [
        "claude-code/2.1.0 (claude-desktop)",
        "claude-cli/2 (external, claude-desktop-3p, x) more",
        "claude-cli/2 (local-agent)",
    ] {
        assert!(is_desktop_session(agent), "{agent}");
    }
    for agent in [
        "claude-cli/2.1.0 (external, cli)",
        "claude-cli/ (claude-desktop)",
        "claude-cli/2 x (claude-desktop)",
        "Claude-Code/2 (claude-desktop)",
        "claude-cli/2 (claude-desktop",
        "claude-cli/2 (x) (claude-desktop)",
        "claude-cli/2 (my-claude-desktop)",
        "other/2 (claude-desktop)",
    ] {
        assert!(!is_desktop_session(agent), "{agent}");
    }
}

#[test]
fn every_policy_is_explained() {
    let names = groups(&["eng"]);
    let explanations = policies(TWO_TEAMS).explain(Caller { groups: &names, email: Some("a@other.example") });
    let lines: Vec<_> = explanations.iter().map(|line| format!("{:?}: {}", line.outcome, line.reason)).collect();
    assert_eq!(
        lines,
        [
            "Selected: in the group eng",
            "DoesNotMatch: the e-mail address is not in the domain partner.example",
            "DoesNotMatch: not in any of the groups both",
            "Contributes: matches everyone; merged below",
        ]
    );
}

#[test]
fn what_merging_changed_is_noted_for_each_policy() {
    let notes = policies(
        "
managed:
  policies:
    - match: { groups: [a] }
      cli: { model: opus, verbose: true, permissions: { deny: [Bash] } }
    - match: { groups: [b] }
    - cli: { verbose: true, permissions: { deny: [WebFetch] } }
",
    )
    .merge_notes();
    assert_eq!(
        notes,
        [
            "managed policy 0 is merged onto policy 2, the catch-all: permissions, model",
            "managed policy 1 is merged onto policy 2, the catch-all: changes nothing",
        ]
    );
    assert_eq!(policies("managed: { policies: [{ match: { groups: [a] } }] }").merge_notes(), Vec::<String>::new());
}

/// Documents of a few keys, so that they collide.
fn documents() -> impl Strategy<Value = Json> {
    let list = || proptest::collection::vec("[a-e]", 0..4);
    (proptest::option::of(list()), proptest::option::of(list()), proptest::option::of(list())).prop_map(
        |(available, denied, permissions)| {
            let mut document = Json::new();
            if let Some(available) = available {
                document.insert("availableModels".to_owned(), json!(available));
            }
            if let Some(denied) = denied {
                document.insert("deniedModels".to_owned(), json!(denied));
            }
            if let Some(denied) = permissions {
                document.insert("permissions".to_owned(), json!({ "deny": denied, "allow": denied }));
            }
            document
        },
    )
}

fn entries(document: &Json, path: &[&str]) -> Vec<String> {
    let mut value = document.get(path[0]);
    for key in &path[1..] {
        value = value.and_then(|value| value.get(key));
    }
    texts(value).unwrap_or_default().into_iter().map(str::to_owned).collect()
}

proptest! {
    #[test]
    fn deny_lists_never_shrink(base in documents(), own in documents()) {
        let merged = merge_settings(base.clone(), &own);
        for path in [&["deniedModels"][..], &["permissions", "deny"]] {
            let merged = entries(&merged, path);
            for entry in entries(&base, path).into_iter().chain(entries(&own, path)) {
                prop_assert!(merged.contains(&entry));
            }
        }
    }

    #[test]
    fn allow_lists_never_grow_beyond_the_policys_own(base in documents(), own in documents()) {
        let merged = merge_settings(base.clone(), &own);
        for path in [&["availableModels"][..], &["permissions", "allow"]] {
            let own = if own.contains_key(path[0]) { &own } else { &base };
            prop_assert_eq!(entries(&merged, path), entries(own, path));
        }
    }

    #[test]
    fn merging_a_document_onto_itself_changes_nothing_but_repetitions(base in documents()) {
        let once = merge_settings(base.clone(), &base);
        prop_assert_eq!(merge_settings(once.clone(), &base), once);
    }
}
