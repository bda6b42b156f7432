//! `GET /user/bootstrap`, row by row (auth contract §9).

use serde_json::json;

use crate::support::{CONFIG, TestGateway, get};

const PATH: &str = "/user/bootstrap";

#[test]
fn policies_without_desktop_are_404s_with_their_reason_in_the_audit_trail() {
    for (policies, groups, reason) in [
        ("", &[][..], "not_configured"),
        ("managed: {policies: [{cli: {}}]}", &[], "not_configured"),
        ("managed: {policies: [{match: {groups: [a]}, desktop: {}}]}", &["b"], "no_policy_matched"),
        ("managed: {policies: [{match: {groups: [a]}, desktop: {}}, {cli: {}}]}", &["b"], "policy_not_opted_in"),
    ] {
        let mut gateway = TestGateway::with_config(&format!("{CONFIG}{policies}"));
        let token = gateway.token(groups);
        let answer = gateway.send(get(PATH).bearer(&token));
        assert_eq!(answer.status, 404, "{reason}");
        let said = answer.json();
        assert_eq!((&said["type"], &said["error"]["type"]), (&json!("error"), &json!("not_found_error")));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("pragma"), Some("no-cache"));
        let audit = gateway.log.audit();
        assert_eq!((&audit[0]["evt"], &audit[0]["reason"]), (&json!("desktop_bootstrap.denied"), &json!(reason)));
    }
    let answer = TestGateway::new().send(get(PATH));
    assert_eq!(answer.status, 401);
}

#[test]
fn a_desktop_block_is_served_with_what_the_gateway_computes() {
    let sections = "
admin: {admin_groups: [finops]}
telemetry:
  forward_to: [{url: 'https://otel.example.test'}]
  resource_attributes: {team: x}
managed:
  policies:
    - match: {groups: [eng]}
      code: {availableModels: [claude-haiku-4-5, claude-opus-4-8], permissions: {deny: [WebFetch, 'Bash(rm)', mcp__x]}}
    - desktop: {disabledBuiltinTools: [WebSearch], banner: {text: hello}, brandNew: 1}
";
    let mut gateway = TestGateway::with_config(&format!("{CONFIG}{sections}"));
    let token = gateway.token(&["eng", "finops"]);
    let answer = gateway.send(get(PATH).bearer(&token));
    assert_eq!((answer.status.as_u16(), answer.header("x-gateway-spend-admin")), (200, Some("true")));
    assert_eq!((answer.header("cache-control"), answer.header("pragma")), (Some("no-store"), Some("no-cache")));
    let document = answer.json();
    for (key, value) in [
        ("inferenceProvider", json!("gateway")),
        ("inferenceGatewayBaseUrl", json!("https://gateway.example.test")),
        ("inferenceCredentialKind", json!("interactive")),
        ("inferenceGatewayManagedClaudeCode", json!(true)),
        ("otlpEndpoint", json!("https://gateway.example.test")),
        ("otlpProtocol", json!("http/protobuf")),
        ("banner", json!({"text": "hello"})),
        ("brandNew", json!(1)),
        (
            "inferenceModels",
            json!([{"name": "claude-haiku-4-5-20251001"}, {"name": "claude-opus-4-8", "supports1m": true}]),
        ),
    ] {
        assert_eq!(document[key], value, "{key}");
    }
    let attributes = &document["otlpResourceAttributes"];
    assert_eq!((&attributes["team"], &attributes["user.groups"]), (&json!("x"), &json!("eng,finops")));
    let mut tools: Vec<_> = document["disabledBuiltinTools"].as_array().expect("a list").iter().collect();
    tools.sort_by_key(ToString::to_string);
    assert_eq!(tools, ["WebFetch", "WebSearch"]);
    assert!(document["expiresAt"].is_i64());
    let audit = gateway.log.audit();
    assert_eq!((&audit[0]["evt"], &audit[0]["policy_index"]), (&json!("desktop_bootstrap.serve"), &json!(0)));

    let token = gateway.token(&[]);
    let answer = gateway.send(get(PATH).bearer(&token));
    assert_eq!(answer.header("x-gateway-spend-admin"), Some("false"));
    assert_eq!(answer.json().get("inferenceGatewayManagedClaudeCode"), None);
}
