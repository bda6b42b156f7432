//! `POST /v1/messages`: what reaches the upstream, what comes back, and what the audit trail says.

use bytes::Bytes;
use sallyport::ports::{HttpError, StreamError};
use serde_json::json;

use crate::support::{CONFIG, TestGateway, post};

const TWO_UPSTREAMS: &str = "
listen: {host: 127.0.0.1, public_url: 'https://gateway.example.test'}
oidc: {issuer: 'https://login.example.test', client_id: sallyport, client_secret: placeholder}
session: {jwt_secret: placeholder-placeholder-placeholder-placeholder-}
upstreams:
  - {name: a, provider: anthropic, base_url: 'https://a.example.test', auth: {api_key: credential-a}}
  - {name: b, provider: anthropic, base_url: 'https://b.example.test', auth: {api_key: credential-b}}
";

fn ask() -> serde_json::Value {
    json!({"model": "claude-opus-4-8", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]})
}

#[test]
fn the_body_is_forwarded_byte_for_byte_with_the_upstreams_credential() {
    let mut gateway = TestGateway::new();
    let token = gateway.token(&[]);
    let body = "{ \"model\":\"claude-opus-4-8\", \"n\": 1.0, \"n\": 12345678901234567890, \"s\": \"\\u00e9\" }\n";
    gateway.http.answer(200, &[("content-type", "application/json"), ("request-id", "req_up")], "{}");
    let answer = gateway.send(
        post("/v1/messages?beta=true")
            .bearer(&token)
            .header("x-api-key", "the clients own")
            .header("anthropic-version", "2023-06-01")
            .header("anthropic-beta", "b1")
            .header("cookie", "a=b")
            .body(body),
    );
    assert_eq!((answer.status.as_u16(), answer.text()), (200, "{}"));
    let request = &gateway.http.requests()[0];
    assert_eq!(request.uri(), "https://upstream.example.test/v1/messages?beta=true");
    assert_eq!(request.body(), body);
    assert_eq!(request.headers()["x-api-key"], "upstream-credential");
    assert_eq!(request.headers()["anthropic-beta"], "b1");
    for absent in ["authorization", "cookie"] {
        assert!(!request.headers().contains_key(absent), "{absent}");
    }
    let audit = &gateway.log.audit()[0];
    assert_eq!(
        (&audit["evt"], &audit["model"], &audit["upstream"], &audit["upstream_request_id"], &audit["status"]),
        (&json!("inference"), &json!("claude-opus-4-8"), &json!("a"), &json!("req_up"), &json!(200))
    );
    assert_eq!(answer.header("request-id"), answer.header("x-request-id"));
}

#[test]
fn no_byte_of_a_body_is_judged_that_nobody_acts_on() {
    for body in [
        &b"{\"model\":\"claude-opus-4-8\",\"s\":\"\xff\xfe \xed\xa0\x80\"}"[..],
        b"{\"model\":\"gpt-x\",\"model\":\"claude-opus-4-8\",\"lone\":\"\\ud800\"}",
        br#"{"model":"claude-opus-4-8","safeguards":{"x":[1.0]},"context_management":{},"future":null,"messages":5}"#,
        b"\r\n\t {\"model\":\"claude-opus-4-8\",\"huge\":1e999}\n",
    ] {
        let mut gateway = TestGateway::new();
        let token = gateway.token(&[]);
        gateway.http.answer(200, &[], "{}");
        let answer = gateway.send(post("/v1/messages").bearer(&token).body(body));
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(body));
        assert_eq!(&gateway.http.requests()[0].body()[..], body);
    }
}

#[test]
fn answers_keep_what_is_the_clients_and_lose_what_is_the_gateways() {
    let headers = [
        ("location", "https://elsewhere.example.test/"),
        ("retry-after", "7"),
        ("x-should-retry", "true"),
        ("x-frame-options", "SAMEORIGIN"),
        ("anthropic-organization-id", "org"),
        ("anthropic-fast-tokens-limit", "5"),
        ("x-new", "1"),
        ("etag", "\"e\""),
        ("request-id", "req_up"),
        ("x-request-id", "theirs"),
        ("anthropic-ratelimit-tokens-limit", "5"),
        ("via", "1.1 x"),
        ("cf-ray", "x"),
    ];
    for status in [200, 202, 307, 400, 402, 422, 429] {
        let mut gateway = TestGateway::new();
        let token = gateway.token(&[]);
        gateway.http.answer(status, &headers, "no JSON at all");
        let answer =
            gateway.send(post("/v1/messages").bearer(&token).header("x-client-request-id", "mine").json(&ask()));
        assert_eq!((answer.status.as_u16(), answer.text()), (status, "no JSON at all"));
        for (name, value) in &headers[..8] {
            assert_eq!(answer.header(name), Some(*value), "{status}: {name}");
        }
        for (name, _) in &headers[10..] {
            assert_eq!(answer.header(name), None, "{status}: {name}");
        }
        assert_eq!(answer.header("x-request-id"), Some("mine"));
        // Successes carry it under the upstream's name for it, too.
        assert_eq!(answer.header("request-id"), (status < 300).then_some("mine"), "{status}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(gateway.log.audit()[0]["request_id"], "mine");
        assert_eq!(gateway.http.requests().len(), 1, "{status}: nothing is followed");
    }
}

#[test]
fn a_stream_arrives_as_it_was_sent_and_an_upstream_that_breaks_off_cuts_it() {
    let pieces = ["event: message_start\r\ndata: {}\r\n\r\n", ": a comment\n\n", "event: future\ndata: {\"x\":1}\n\n"];
    for breaks_off in [false, true] {
        let mut gateway = TestGateway::new();
        let token = gateway.token(&[]);
        let mut body: Vec<Result<Bytes, StreamError>> = pieces.iter().map(|piece| Ok(Bytes::from(*piece))).collect();
        if breaks_off {
            body.push(Err(StreamError("reset".to_owned())));
        }
        gateway.http.answer_in_pieces(200, &[("content-type", "text/event-stream")], body);
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
        assert_eq!(answer.text(), pieces.concat());
        assert_eq!(answer.cut_off, breaks_off);
    }
}

#[test]
fn a_body_that_cannot_be_forwarded_is_refused_in_the_contracts_order() {
    let mut gateway = TestGateway::new();
    let token = gateway.token(&[]);
    for (body, message) in [
        ("", "invalid JSON"),
        ("{\"model\":", "invalid JSON"),
        ("[]", "request body must be a JSON object"),
        ("{}", "model is required"),
        ("{\"model\":\"\"}", "model is required"),
        ("{\"model\":null}", "model must be a string"),
        ("{\"model\":\"gpt-x\"}", "model gpt-x is not in the operator's model allowlist"),
    ] {
        let answer = gateway.send(post("/v1/messages").bearer(&token).body(body));
        assert_eq!(answer.status, 400, "{body}");
        assert_eq!(answer.json()["error"], json!({"type": "invalid_request_error", "message": message}), "{body}");
        let audit = gateway.log.audit();
        assert_eq!(audit.len(), 1, "{body}");
        let event = &audit[0];
        assert_eq!((&event["evt"], &event["status"], &event["sub"]), (&json!("inference"), &json!(400), &json!("ada")));
        assert_eq!((&event["model"], &event["upstream"]), (&json!(null), &json!(null)), "nobody was chosen: {body}");
    }
    let answer = gateway.send(post("/v1/messages/count_tokens").bearer(&token).body("{}"));
    assert_eq!((answer.status.as_u16(), &gateway.log.audit()[0]["path"]), (400, &json!("/v1/messages/count_tokens")));
    assert!(gateway.http.requests().is_empty());
}

#[test]
fn failures_go_to_the_next_upstream_or_to_the_client_as_the_contract_says() {
    enum First {
        Status(u16),
        Refused,
    }
    use First::{Refused, Status};

    // The first upstream's outcome, the second one's status, what the client sees, and how many were asked.
    for (first, second, seen, asked) in [
        (Status(200), 200, 200, 1),
        (Status(302), 200, 302, 1),
        (Status(400), 200, 400, 1),
        (Status(413), 200, 413, 1),
        (Status(401), 200, 200, 2),
        (Status(403), 200, 200, 2),
        (Status(404), 200, 200, 2),
        (Status(429), 200, 200, 2),
        (Status(500), 200, 200, 2),
        (Status(529), 200, 200, 2),
        (Refused, 200, 200, 2),
        (Refused, 400, 400, 2),
        (Status(429), 401, 429, 2),
        (Status(404), 401, 401, 2),
        (Status(500), 503, 502, 2),
        (Refused, 500, 502, 2),
    ] {
        let mut gateway = TestGateway::with_config(TWO_UPSTREAMS);
        let token = gateway.token(&[]);
        let label = match first {
            Status(status) => {
                gateway.http.answer(status, &[("retry-after", "9")], format!("{{\"from\":\"a\",\"status\":{status}}}"));
                status.to_string()
            }
            Refused => {
                gateway.http.fail(HttpError::Connect("refused".to_owned()));
                "refused".to_owned()
            }
        };
        gateway.http.answer(second, &[], format!("{{\"from\":\"b\",\"status\":{second}}}"));
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
        assert_eq!(answer.status.as_u16(), seen, "{label} then {second}");
        assert_eq!(gateway.http.requests().len(), asked, "{label} then {second}");
        if seen == 502 {
            assert_eq!(answer.json()["error"]["message"], "all upstreams failed (2 attempted)");
        } else {
            assert_eq!(answer.json()["status"], seen, "{label} then {second}");
        }
        let audit = gateway.log.audit();
        assert_eq!(audit.len(), 1, "one line for a request: {label} then {second}");
        assert_eq!(audit[0]["status"], seen);
    }
}

#[test]
fn a_compressed_answer_reaches_the_client_plain() {
    use std::io::Write;

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(b"{\"id\":\"msg_1\"}").expect("memory");
    let compressed = encoder.finish().expect("memory");
    let mut gateway = TestGateway::new();
    let token = gateway.token(&[]);
    gateway.http.answer(200, &[("content-encoding", "gzip")], compressed);
    let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
    assert_eq!((answer.text(), answer.header("content-encoding")), ("{\"id\":\"msg_1\"}", None));

    for status in [200, 400, 429] {
        gateway.http.answer(status, &[("content-encoding", "zstd")], "opaque");
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
        assert_eq!((answer.text(), answer.header("content-encoding")), ("opaque", Some("zstd")), "{status}");
    }
}

#[test]
fn a_compressed_answer_that_ends_too_early_is_cut_off_and_not_taken_for_a_whole_one() {
    use std::io::Write;

    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(b"event: message_start\ndata: {}\n\n").expect("memory");
    let whole = encoder.finish().expect("memory");
    for (bytes, is_cut) in [(&whole[..], false), (&whole[..whole.len() - 1], true), (b"notgzip", true)] {
        let mut gateway = TestGateway::new();
        let token = gateway.token(&[]);
        let headers = [("content-type", "text/event-stream"), ("content-encoding", "gzip")];
        gateway.http.answer(200, &headers, bytes.to_vec());
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
        assert_eq!(answer.cut_off, is_cut);
        assert_eq!(gateway.log.lines().concat().contains("broke off: the compressed body is damaged"), is_cut);
    }
}

#[test]
fn a_policy_decides_which_models_may_be_named() {
    let policies = "managed: {policies: [{match: {groups: [small]}, cli: {availableModels: [haiku]}}]}";
    let mut gateway = TestGateway::with_config(&format!("{CONFIG}\n{policies}"));
    let token = gateway.token(&["small"]);
    for path in ["/v1/messages", "/v1/messages/count_tokens"] {
        let answer = gateway.send(post(path).bearer(&token).json(&ask()));
        assert_eq!(answer.status, 400);
        assert_eq!(
            answer.json()["error"]["message"],
            "model claude-opus-4-8 is not in your role's availableModels allowlist"
        );
    }
    let token = gateway.token(&["large"]);
    gateway.http.answer(200, &[], "{}");
    assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask())).status, 200);
}

#[test]
fn no_answer_and_no_line_contains_the_upstreams_credential() {
    let mut gateway = TestGateway::new();
    let token = gateway.token(&[]);
    for status in [200, 400, 500] {
        gateway.http.answer(status, &[], "{}");
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
        assert!(!format!("{answer:?}").contains("upstream-credential"));
    }
    assert!(!gateway.log.lines().concat().contains("upstream-credential"));
}

#[test]
fn a_trace_goes_on_at_every_kind_of_upstream_and_is_no_part_of_a_signature() {
    const AWS: &str = "auth: {aws_access_key_id: placeholder, aws_secret_access_key: placeholder}";
    const GOOGLE: &str = "auth: {access_token: placeholder}";
    for (upstream, is_signed) in [
        ("{name: a, provider: anthropic, auth: {api_key: placeholder}}".to_owned(), false),
        (format!("{{name: a, provider: bedrock, region: us-east-1, {AWS}}}"), true),
        (format!("{{name: a, provider: mantle, region: us-east-1, models: [claude-opus-4-8], {AWS}}}"), true),
        (format!("{{name: a, provider: anthropicAws, region: us-east-1, workspace_id: w, {AWS}}}"), true),
        (format!("{{name: a, provider: anthropicGoogleCloud, project_id: p, workspace_id: w, {GOOGLE}}}"), false),
        (format!("{{name: a, provider: vertex, region: global, project_id: p, {GOOGLE}}}"), false),
        ("{name: a, provider: foundry, resource: res, auth: {api_key: placeholder}}".to_owned(), false),
    ] {
        let head = CONFIG.split("upstreams:").next().expect("the rest");
        let mut gateway = TestGateway::with_config(&format!("{head}\nupstreams: [{upstream}]"));
        gateway.http.answer(200, &[("content-type", "application/json")], "{}");
        let asked = post("/v1/messages")
            .bearer(&gateway.token(&[]))
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .header("tracestate", "vendor=a")
            .json(&ask());
        assert_eq!(gateway.send(asked).status, 200, "{upstream}");
        let request = gateway.http.requests().pop().expect("a request");
        let header = |name: &str| request.headers().get(name).map_or("", |value| value.to_str().expect("text"));
        let passed = header("traceparent");
        assert!(passed.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && passed.ends_with("-01"), "{upstream}");
        assert!(!passed.contains("00f067aa0ba902b7"), "under a span of the gateway's: {upstream}");
        assert_eq!(header("tracestate"), "vendor=a", "{upstream}");
        assert_eq!(header("authorization").contains("SignedHeaders="), is_signed, "{upstream}");
        assert!(!header("authorization").contains("trace"), "{upstream}");
    }
}
