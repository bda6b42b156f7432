//! Telemetry of clients, relayed to collectors: read there by an implementation that is not ours.

use serde_json::json;

use crate::support::{Form, Site, Upstream, decoded, discovery, eventually, export, free_port, lacks};

#[test]
fn what_a_collector_gets_is_what_the_client_sent_whatever_becomes_of_the_others() {
    if lacks(&["python3"]) {
        return;
    }
    let export = export("metrics", Form::Protobuf);
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
    let read = decoded("metrics", Form::Protobuf, &seen.body);
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

#[test]
fn every_signal_arrives_in_either_form_as_it_was_sent_and_nothing_is_stamped_on_it() {
    if lacks(&["python3"]) {
        return;
    }
    let collector = Upstream::start(|exchange| exchange.answer(200, &[], &json!({})));
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    site.more = format!(
        "telemetry:\n  forward_to: [{{ url: \"http://{}\", logs: true, traces: true }}]\n  \
         resource_attributes: {{ team: platform }}\n",
        collector.address
    );
    let gateway = site.start();
    let token = site.session("grace");
    for signal in ["metrics", "logs", "traces"] {
        for form in [Form::Protobuf, Form::Json] {
            let sent = export(signal, form);
            let path = format!("/v1/{signal}");
            let post = gateway.post(&path).bearer(&token).header("content-type", form.content_type());
            let before = collector.seen().len();
            post.body(sent.clone()).send().expect(200);
            let seen = eventually("the export", || collector.seen().get(before).cloned());
            assert_eq!((seen.path.as_str(), seen.header("content-type")), (path.as_str(), form.content_type()));
            assert!(seen.body == sent, "byte for byte");
            // Whose session it is does not show: attributes are the client's.
            let read = decoded(signal, form, &seen.body);
            assert_eq!(read["resource"], json!({"service.name": "claude-code", "user.email": "ada@example.com"}));
            match signal {
                "metrics" => assert_eq!(read["value"], 1_234_567_890_123_u64),
                "logs" => assert_eq!(read["name"], "claude_code.api_request"),
                _ => assert_eq!(read["spans"][0]["trace"], "000102030405060708090a0b0c0d0e0f"),
            }
        }
    }
}
