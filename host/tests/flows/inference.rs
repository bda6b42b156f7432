//! What reaches the upstream, and what becomes of its answer.

use serde_json::json;

use crate::support::{MODEL, Site, UPSTREAM_KEY, Upstream, discovery, free_port, message, question};

#[test]
fn bytes_arrive_as_they_were_sent_and_with_our_credential_only() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();
    let token = site.session("ada");
    // Spacing, number forms, escapes, unknown fields and a repeated key: none of them is ours to change.
    let body = format!(
        "{{ \"model\":\"{MODEL}\",\n\t\"max_tokens\": 1.0e1, \"new\":[1.50, 12345678901234567890],\"a\":1,\"a\":2,\
         \"messages\":[{{\"role\":\"user\",\"content\":\"\\u00e9\\/ é\"}}] }}\n"
    );

    let answer = gateway
        .post("/v1/messages?beta=true&x=%20y")
        .bearer(&token)
        .header("content-type", "application/json")
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-beta", "some-beta-2026-01-01")
        .header("user-agent", "claude-code/9.9.9")
        .header("x-api-key", "the client's own")
        .header("cookie", "a=b")
        .header("x-forwarded-for", "203.0.113.9")
        .body(body.clone())
        .send()
        .expect(200);

    assert_eq!(answer.json(), message());
    assert_eq!(answer.header("request-id"), answer.header("x-request-id"), "the upstream's id is replaced");
    let seen = upstream.seen().remove(0);
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/v1/messages?beta=true&x=%20y"));
    assert_eq!(String::from_utf8_lossy(&seen.body), body);
    for (name, value) in [
        ("x-api-key", UPSTREAM_KEY),
        ("authorization", ""),
        ("cookie", ""),
        ("x-forwarded-for", ""),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "some-beta-2026-01-01"),
        ("content-length", &body.len().to_string()),
        ("host", &upstream.address),
    ] {
        assert_eq!(seen.header(name), value, "{name}");
    }
    assert!(seen.header("user-agent").starts_with("claude-code/9.9.9 "), "{}", seen.header("user-agent"));
    assert_eq!(gateway.log.event("inference", |_| true)["upstream_request_id"], "req_upstream");
}

#[test]
fn a_model_that_the_policy_does_not_allow_reaches_no_upstream() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let mut site = Site::for_inference(&provider, &upstream);
    site.more = "managed:\n  policies:\n    - cli:\n        availableModels: [claude-haiku-4-5]\n".to_owned();
    let gateway = site.start();
    let token = site.session("ada");

    for path in ["/v1/messages", "/v1/messages/count_tokens"] {
        let answer = gateway.post(path).bearer(&token).json(&question(true)).send().expect(400);
        let message = format!("model {MODEL} is not in your role's availableModels allowlist");
        assert_eq!(answer.json()["error"], json!({"type": "invalid_request_error", "message": message}), "{path}");
    }
    assert_eq!(upstream.seen().len(), 0);

    let settings = gateway.get("/managed/settings").bearer(&token).send().expect(200);
    assert!(settings.text().contains("claude-haiku-4-5"), "{}", settings.text());
    let tag = settings.header("etag").to_owned();
    let unchanged = gateway.get("/managed/settings").bearer(&token).header("if-none-match", &tag).send();
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    gateway.get("/managed/settings").send().expect(401);
}

#[test]
fn the_next_upstream_is_tried_when_the_first_cannot_be_reached() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let mut site = Site::for_inference(&provider, &upstream);
    site.upstreams.insert(0, format!("http://127.0.0.1:{}", free_port()));
    let gateway = site.start();

    let answer = gateway.post("/v1/messages").bearer(&site.session("ada")).json(&question(false)).send().expect(200);

    assert_eq!(answer.json(), message());
    assert_eq!(gateway.log.event("inference", |_| true)["upstream"], "upstream-1");
}

#[test]
fn an_upstream_that_fails_without_a_word_is_a_502() {
    let nowhere = format!("127.0.0.1:{}", free_port());
    let (provider, broken) = (discovery(), Upstream::start(|exchange| exchange.answer(500, &[], &json!({}))));
    let hung_up = Upstream::start(drop);
    let mut site = Site::for_inference(&provider, &broken);
    site.use_upstream(&hung_up);
    site.transcript.internal(&nowhere);
    site.upstreams.push(format!("http://{nowhere}"));
    let gateway = site.start();

    let answer = gateway.post("/v1/messages").bearer(&site.session("ada")).json(&question(true)).send().expect(502);

    let envelope = json!({
        "type": "error", "request_id": answer.header("x-request-id"),
        "error": {"type": "api_error", "message": "all upstreams failed (3 attempted)"},
    });
    assert_eq!(answer.json(), envelope);
    assert_eq!(gateway.log.event("inference", |_| true)["status"], 502);
}

#[test]
fn an_upstream_that_never_answers_is_given_up() {
    let (provider, (upstream, _requests)) = (discovery(), Upstream::held());
    let mut site = Site::for_inference(&provider, &upstream);
    site.more = "timeouts:\n  upstream_ttfb_ms: 300\n".to_owned();
    let gateway = site.start();

    gateway.post("/v1/messages").bearer(&site.session("ada")).json(&question(true)).send().expect(502);
}

#[test]
fn a_refusal_of_the_upstream_reaches_the_client_as_it_is() {
    let provider = discovery();
    let upstream = Upstream::start(|exchange| {
        let headers = [("retry-after", "17"), ("x-should-retry", "true"), ("anthropic-ratelimit-requests-limit", "5")];
        let status = if exchange.json()["max_tokens"] == 64 { 429 } else { 400 };
        exchange.answer(status, &headers, &json!({"type": "error", "error": {"type": "told", "message": "é"}}));
    });
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();

    for (status, question) in [(429, question(true)), (400, json!({"model": MODEL}))] {
        let answer = gateway.post("/v1/messages").bearer(&site.session("ada")).json(&question).send().expect(status);
        assert_eq!(answer.json(), json!({"type": "error", "error": {"type": "told", "message": "é"}}));
        assert_eq!(answer.header("retry-after"), "17");
        assert_eq!(answer.header("x-should-retry"), "true");
        assert_eq!(answer.header("anthropic-ratelimit-requests-limit"), "", "our credential's limits are not theirs");
    }
}
