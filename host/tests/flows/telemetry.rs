//! Telemetry of clients, relayed to collectors: read there by an implementation that is not ours.

use serde_json::json;

use crate::support::{Site, Upstream, decoded, discovery, eventually, free_port, metrics_export};

#[test]
fn what_a_collector_gets_is_what_the_client_sent_whatever_becomes_of_the_others() {
    let Some(export) = metrics_export() else { return };
    let (good, broken) = (
        Upstream::start(|exchange| exchange.answer(200, &[], &json!({}))),
        Upstream::start(|exchange| exchange.answer(500, &[], &json!({"message": "not the developer's business"}))),
    );
    let gone = format!("127.0.0.1:{}", free_port());
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    site.more = format!(
        "telemetry:\n  forward_to:\n    - {{ url: \"http://{gone}\" }}\n    - {{ url: \"http://{}\" }}\n    \
         - {{ url: \"http://{}/otlp/\", headers: {{ x-key: placeholder-of-a-collector }}, logs: true }}\n",
        broken.address, good.address
    );
    site.transcript.secret("placeholder-of-a-collector");
    site.transcript.internal(&good.address);
    site.transcript.internal(&gone);
    let gateway = site.start();
    let token = site.session("ada");

    let post = |path: &str, kind: &str| gateway.post(path).bearer(&token).header("content-type", kind);
    let protobuf = "application/x-protobuf";
    let answer = post("/v1/metrics", protobuf).body(export.clone()).send().expect(200);
    assert_eq!((answer.body.len(), answer.header("content-type")), (0, ""));
    let seen = eventually("the export", || good.seen().pop());
    assert_eq!((seen.path.as_str(), seen.header("x-key")), ("/otlp/v1/metrics", "placeholder-of-a-collector"));
    assert_eq!(seen.body, export);
    let read = decoded("metrics", &seen.body);
    assert_eq!(
        read,
        json!({
            "resource": {"service.name": "claude-code", "user.email": "ada@example.com"},
            "name": "claude_code.token.usage", "value": 1_234_567_890_123_u64,
        })
    );
    assert_eq!((seen.header("authorization"), seen.header("content-type")), ("", "application/x-protobuf"));

    // JSON, and a signal that one destination alone wants; nobody wants traces.
    post("/v1/logs", "application/json").body("{}").send().expect(200);
    post("/v1/traces", protobuf).body("x").send().expect(200);
    eventually("the logs", || good.seen().iter().any(|seen| seen.path == "/otlp/v1/logs").then_some(()));
    assert!(broken.seen().iter().all(|seen| seen.path == "/v1/metrics"));
    eventually("a warning for each of the others", || {
        let log = gateway.log.text();
        let warned = |address: &str| log.contains(&format!("telemetry http://{address}/v1/metrics: "));
        (warned(&gone) && warned(&broken.address)).then_some(())
    });
    assert!(!good.seen().iter().any(|seen| seen.path.contains("traces")));
}
