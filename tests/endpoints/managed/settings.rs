//! `/managed/settings`, row by row (auth contract §8.1 and §8.4).

use http::Method;
use serde_json::{Value, json};

use crate::support::{CONFIG, TestGateway, get, request};

const PATH: &str = "/managed/settings";
const DESKTOP: &str = "claude-code/2.1.329 (external, claude-desktop)";

fn with(sections: &str) -> TestGateway {
    TestGateway::with_config(&format!("{CONFIG}{sections}"))
}

/// The settings that a member of `groups` gets.
fn settings(gateway: &mut TestGateway, groups: &[&str]) -> Value {
    let token = gateway.token(groups);
    gateway.send(get(PATH).bearer(&token)).json()["settings"].clone()
}

#[test]
fn a_document_comes_in_its_wrapper_with_its_checksum_as_etag_and_304_saves_it() {
    let mut gateway = with("managed: {policies: [{cli: {env: {A: '1'}, availableModels: [claude-haiku-4-5]}}]}");
    let token = gateway.token(&[]);
    // printf '{"availableModels":["claude-haiku-4-5"],"env":{"A":"1"}}' | sha256sum
    let checksum = "sha256:d93d398ef522daf6d78d93395dafd71f7d0d2890513a0092c1f4daeaead26c0e";
    let etag = format!("\"{checksum}\"");

    // Every method answers.
    for method in [Method::GET, Method::POST, Method::DELETE] {
        gateway.log.lines();
        let answer = gateway.send(request(method, PATH).bearer(&token));
        assert_eq!(answer.status, 200);
        let expected = json!({
            "uuid": checksum, "checksum": checksum,
            "settings": {"env": {"A": "1"}, "availableModels": ["claude-haiku-4-5"]},
        });
        assert_eq!(answer.json(), expected);
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
        assert_eq!(answer.header("vary"), Some("User-Agent"));
        assert_eq!(answer.header("x-cc-gateway-version"), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(answer.header("cache-control"), None);
        let audit = gateway.log.audit();
        assert_eq!((&audit[0]["evt"], &audit[0]["checksum"]), (&json!("managed.serve"), &json!(checksum)));
    }
    for (tag, status) in [
        (etag.clone(), 304),
        (format!("  {etag} "), 304),
        (format!("W/{etag}"), 200),
        (checksum.to_owned(), 200),
        (format!("{etag}, \"other\""), 200),
        // Only `code` documents have an answer to it.
        ("*".to_owned(), 200),
    ] {
        gateway.log.lines();
        let answer = gateway.send(get(PATH).bearer(&token).header("if-none-match", &tag));
        assert_eq!(answer.status.as_u16(), status, "{tag}");
        let is_bare = answer.body.is_empty() && answer.header("etag").is_none() && gateway.log.audit().is_empty();
        assert_eq!(is_bare, status == 304, "{tag}");
    }
    let answer = gateway.send(get(PATH));
    assert_eq!((answer.status.as_u16(), answer.header("x-should-retry")), (401, Some("false")));
}

#[test]
fn what_is_not_served_is_a_404_that_nobody_stores() {
    for (sections, groups, agent, said) in [
        ("", &[][..], "", "not configured"),
        ("managed: {}", &[], "", "not configured"),
        ("managed: {policies: []}", &[], "", "no policy matched"),
        ("managed: {policies: [{match: {groups: [a]}, cli: {}}]}", &["b"], "", "no policy matched"),
        ("managed: {policies: [{cli: {model: opus}}]}", &[], DESKTOP, "not served to Claude Desktop sessions"),
    ] {
        let mut gateway = with(sections);
        let token = gateway.token(groups);
        let answer = gateway.send(get(PATH).bearer(&token).header("user-agent", agent));
        assert_eq!((answer.status.as_u16(), answer.text()), (404, said), "{sections}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("vary"), Some("User-Agent"));
        assert!(answer.header("x-cc-gateway-version").is_some());
        let lines = gateway.log.lines();
        let warnings = lines.iter().filter(|line| line.contains(" warn ")).count();
        assert_eq!(warnings, usize::from(said == "no policy matched"), "{lines:?}");
        assert!(!lines.iter().any(|line| line.contains("managed.serve")), "{lines:?}");
    }
}

#[test]
fn desktop_sessions_get_code_documents_and_learn_with_a_star_that_there_are_some() {
    for (policy, agent, tag, status) in [
        ("{code: {model: opus}}", DESKTOP, "", 200),
        ("{code: {model: opus}}", DESKTOP, "*", 304),
        ("{code: {model: opus}}", "claude-code/2.1.329 (external, cli)", "*", 304),
        ("{code: {}}", DESKTOP, "*", 200),
        ("{cli: {model: opus}, serve_to_desktop: true}", DESKTOP, "", 200),
        ("{cli: {model: opus}, serve_to_desktop: true}", DESKTOP, "*", 200),
        ("{match: {groups: [a]}, code: {model: opus}}", DESKTOP, "*", 404),
    ] {
        let mut gateway = with(&format!("managed: {{policies: [{policy}]}}"));
        let token = gateway.token(&[]);
        let asked = get(PATH).bearer(&token).header("user-agent", agent).header("if-none-match", tag);
        let answer = gateway.send(asked);
        assert_eq!(answer.status.as_u16(), status, "{policy} {agent} {tag}");
        if status == 304 {
            assert_eq!((answer.header("etag"), answer.header("cache-control")), (None, Some("no-store")));
        }
    }
}

#[test]
fn layers_are_merged_and_listed_and_unknown_settings_are_delivered_where_they_are_let_through() {
    let layered = "
managed:
  policy_mode: layered
  unknown_keys: warn
  policies:
    - match: {groups: [a]}
      cli: {model: opus, deniedModels: [x], brandNew: {deep: [1]}}
    - match: {groups: [b]}
      cli: {model: haiku, deniedModels: [y]}
    - cli: {deniedModels: [z], verbose: true}
";
    let mut gateway = with(layered);
    let merged = settings(&mut gateway, &["a", "b"]);
    let expected =
        json!({"deniedModels": ["z", "y", "x"], "verbose": true, "model": "opus", "brandNew": {"deep": [1]}});
    assert_eq!(merged, expected);
    let audit = gateway.log.audit();
    assert_eq!((&audit[0]["policy_index"], &audit[0]["policy_indexes"]), (&json!(0), &json!([0, 1, 2])));
    assert_eq!(settings(&mut gateway, &["b"]), json!({"deniedModels": ["z", "y"], "verbose": true, "model": "haiku"}));
    assert_eq!(gateway.log.audit()[0].get("policy_indexes"), None);
}

#[test]
fn telemetry_is_pushed_to_everybody_also_without_policies() {
    let telemetry = "telemetry: {forward_to: [{url: 'https://otel.example.test', logs: true}]}\n";
    let mut gateway = with(telemetry);
    let expected = json!({"env": {
        "CLAUDE_CODE_ENABLE_TELEMETRY": "1",
        "OTEL_METRICS_EXPORTER": "otlp", "OTEL_LOGS_EXPORTER": "otlp", "OTEL_TRACES_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://gateway.example.test",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }});
    assert_eq!(settings(&mut gateway, &[]), expected);
    assert_eq!(gateway.log.audit()[0]["policy_index"], 0);
    let mut gateway = with(&format!("{telemetry}managed: {{policies: []}}"));
    let token = gateway.token(&[]);
    assert_eq!(gateway.send(get(PATH).bearer(&token)).text(), "no policy matched");
}
