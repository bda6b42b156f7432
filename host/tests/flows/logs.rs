//! Operational lines, ids that tie them together, and traces.

use serde_json::{Value, json};

use crate::support::{Form, Site, Upstream, decoded, discovery, eventually, lacks, question};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn as_json_every_line_is_an_object_and_names_its_request() {
    let broken = Upstream::start(|exchange| exchange.answer(529, &[], &json!({"type": "error"})));
    let mut site = Site::for_inference(&discovery(), &broken);
    site.arguments = ["--log-format", "json"].map(str::to_owned).to_vec();
    site.environment.push(("CLAUDE_GATEWAY_LOG_LEVEL", "debug".to_owned()));
    let gateway = site.start();
    let token = site.session("ada");
    let call = gateway.post("/v1/messages").bearer(&token).header("x-client-request-id", "my-own.id_1");
    let answer = call.json(&question(false)).send().expect(502);
    assert_eq!(answer.header("x-request-id"), "my-own.id_1");
    gateway.log.event("inference", |event| event["request_id"] == "my-own.id_1");
    let text = gateway.log.text();
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect();
    for line in &lines {
        assert!(line["ts"].is_string() && (line["evt"].is_string() != line["level"].is_string()), "{line}");
    }
    assert!(
        lines.iter().any(|line| line["level"] == "warn" && line["request_id"] == "my-own.id_1"),
        "the failed attempt is told with its id: {text}"
    );
}

#[test]
fn the_log_level_hides_lines_but_no_audit_events() {
    let broken = Upstream::start(|exchange| exchange.answer(529, &[], &json!({"type": "error"})));
    let mut site = Site::for_inference(&discovery(), &broken);
    site.environment.push(("CLAUDE_GATEWAY_LOG_LEVEL", "error".to_owned()));
    let gateway = site.start();
    let answer = gateway.post("/v1/messages").bearer(&site.session("ada")).json(&question(false)).send().expect(502);
    assert_eq!(answer.header("x-request-id").len(), 36);
    gateway.log.event("inference", |event| event["request_id"] == answer.header("x-request-id"));
    let text = gateway.log.text();
    assert!(!text.contains(" warn ") && !text.contains(" info "), "{text}");
}

#[test]
fn a_trace_goes_on_at_the_upstream_and_the_gateways_part_reaches_a_collector() {
    if lacks(&["python3"]) {
        return;
    }
    let upstream = Upstream::claude();
    let collector = Upstream::start(|exchange| exchange.answer(200, &[], &json!({})));
    let mut site = Site::for_inference(&discovery(), &upstream);
    let token = site.session("ada");
    {
        // Without a collector: what the client says is passed on, and nothing is begun.
        let gateway = site.start();
        for (parent, expected) in
            [(Some(PARENT), Some("00-4bf92f3577b34da6a3ce929d0e0e4736-")), (Some("00-bad"), None), (None, None)]
        {
            let mut call = gateway.post("/v1/messages").bearer(&token).json(&question(false));
            if let Some(parent) = parent {
                call = call.header("traceparent", parent).header("tracestate", "vendor=a");
            }
            call.send().expect(200);
            let seen = upstream.seen().pop().expect("a request");
            match expected {
                Some(expected) => {
                    let passed = seen.header("traceparent");
                    assert!(passed.starts_with(expected) && passed.ends_with("-01"), "{passed}");
                    assert!(!passed.contains("00f067aa0ba902b7"), "under a span of our own: {passed}");
                    assert_eq!(seen.header("tracestate"), "vendor=a");
                }
                None => assert_eq!((seen.header("traceparent"), seen.header("tracestate")), ("", "")),
            }
        }
        assert!(collector.seen().is_empty());
    }
    site.more = format!(
        "observability:\n  otlp: {{ url: \"http://{}/base\", headers: {{ x-key: placeholder-of-a-collector }}, delay_ms: 50 }}\n",
        collector.address
    );
    site.transcript.secret("placeholder-of-a-collector");
    let gateway = site.start();
    let call = gateway.post("/v1/messages").bearer(&token).header("traceparent", PARENT).json(&question(true));
    let answer = call.send().expect(200);
    let spans = eventually("spans", || {
        let exports = collector.seen();
        let all: Vec<Value> = exports
            .iter()
            .map(|export| {
                assert_eq!(
                    (export.path.as_str(), export.header("x-key")),
                    ("/base/v1/traces", "placeholder-of-a-collector")
                );
                decoded("traces", Form::Json, &export.body)
            })
            .inspect(|export| assert_eq!(export["resource"]["service.name"], "sallyport"))
            .flat_map(|export| export["spans"].as_array().expect("spans").clone())
            .filter(|span| span["trace"] == "4bf92f3577b34da6a3ce929d0e0e4736")
            .collect();
        (all.len() == 2).then_some(all)
    });
    let of_kind = |kind: u8| spans.iter().find(|span| span["kind"] == kind).expect("a span of each kind");
    let (server, client) = (of_kind(2), of_kind(3));
    assert_eq!((&server["name"], &server["parent"]), (&json!("POST /v1/messages"), &json!("00f067aa0ba902b7")));
    assert_eq!(server["attributes"]["sallyport.request_id"], answer.header("x-request-id"));
    assert_eq!(
        (&client["parent"], &client["attributes"]["sallyport.upstream"]),
        (&server["span"], &json!("upstream-0"))
    );
    let seen = upstream.seen().pop().expect("a request");
    assert!(seen.header("traceparent").contains(client["span"].as_str().expect("an id")), "{seen:?}");
    collector.seen().iter().for_each(|export| site.transcript.reported(&export.body));
    assert!(spans.iter().all(|span| span["takes"] == true && !span.to_string().contains("ada")), "{spans:?}");
}
