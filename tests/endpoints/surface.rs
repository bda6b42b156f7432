//! What holds for every path: routing, transport rules, ids and headers.

use std::rc::Rc;
use std::time::Duration;

use http::Method;
use sallyport::log::Format;
use sallyport::ports::{HttpError, StreamError};
use serde_json::{Value, json};

use crate::support::{Answer, CONFIG, TestGateway, get, post, request};

#[test]
fn an_unknown_path_is_401_without_a_session_and_404_with_one() {
    let mut gateway = TestGateway::new();
    let token = gateway.token(&[]);
    for (method, path) in [
        (Method::GET, "/nope"),
        (Method::GET, "/healthz/"),
        (Method::GET, "/Device"),
        (Method::GET, "//device"),
        (Method::GET, "/%68ealthz"),
        (Method::GET, "/v1/messages"),
        (Method::OPTIONS, "/v1/messages"),
        (Method::POST, "/v1/models"),
        (Method::POST, "/v1/messages/batches"),
        (Method::POST, "/.sallyport/start"),
    ] {
        let answer = gateway.send(request(method.clone(), path));
        assert_eq!(answer.status, 401, "{method} {path}");
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{method} {path}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
        let answer = gateway.send(request(method.clone(), path).bearer(&token));
        assert_eq!((answer.status.as_u16(), answer.text()), (404, "not found"), "{method} {path}");
    }
}

#[test]
fn a_refusal_tells_the_caller_one_thing_and_the_audit_trail_the_reason() {
    let mut gateway = TestGateway::new();
    let expired = gateway.token_with(|claims| claims["exp"] = 1.into());
    let foreign = gateway.token_with(|claims| claims["iss"] = "https://elsewhere.example.test".into());
    let token = gateway.token(&[]);
    for (authorization, reason) in [
        (None, "missing_token"),
        (Some(String::new()), "missing_token"),
        (Some(token.clone()), "invalid_token"),
        (Some(format!("bearer {token}")), "invalid_token"),
        (Some(format!("Bearer  {token}")), "invalid_token"),
        (Some(format!("Basic {token}")), "invalid_token"),
        (Some(format!("Bearer {token}x")), "invalid_token"),
        (Some(format!("Bearer {expired}")), "invalid_token"),
        (Some(format!("Bearer {foreign}")), "invalid_token"),
    ] {
        let mut asked = get("/v1/models?secret=1");
        if let Some(authorization) = &authorization {
            asked = asked.header("authorization", authorization);
        }
        let answer = gateway.send(asked);
        let body = answer.json();
        assert_eq!(answer.status, 401, "{authorization:?}");
        assert_eq!(body["error"]["message"], "invalid token");
        assert_eq!(body["request_id"], answer.header("x-request-id").expect("an id"));
        let audit = gateway.log.audit();
        assert_eq!(
            (&audit[0]["evt"], &audit[0]["reason"], &audit[0]["path"]),
            (&"auth.denied".into(), &reason.into(), &"/v1/models".into()),
            "{authorization:?}"
        );
    }
}

#[test]
fn two_proofs_prove_nothing() {
    let mut gateway = TestGateway::new();
    let token = gateway.token(&[]);
    let asked = get("/v1/models").bearer(&token).header("authorization", &format!("Bearer {token}"));
    assert_eq!(gateway.send(asked).status, 401);
    assert_eq!(gateway.log.audit()[0]["reason"], "invalid_token");
    assert_eq!(gateway.send(get("/x/../v1/%2e/models").bearer(&token)).status, 200, "dot segments are resolved");
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let mut gateway = TestGateway::new();
    let token = gateway.token(&[]);
    assert_eq!(gateway.send(get("/v1/models").bearer(&token)).status, 200);
    gateway.clock.advance(Duration::from_hours(1));
    assert_eq!(gateway.send(get("/v1/models").bearer(&token)).status, 401);
}

#[test]
fn every_answer_carries_the_security_headers_and_an_id() {
    let mut gateway = TestGateway::new();
    for path in ["/healthz", "/readyz", "/nope"] {
        let answer = gateway.send(get(path));
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        assert_eq!(answer.header("x-request-id").map(str::len), Some(36), "{path}");
    }
}

#[test]
fn the_clients_own_id_is_used_where_it_has_the_agreed_form() {
    let mut gateway = TestGateway::new();
    let longest = "a".repeat(64);
    for (id, is_used) in
        [("abc-1._Z", true), (&longest, true), ("has/slash", false), (&"a".repeat(65), false), ("", false)]
    {
        let answer = gateway.send(get("/healthz").header("x-client-request-id", id));
        assert_eq!(answer.header("x-request-id") == Some(id), is_used, "{id}");
    }
    let answer = gateway.send(get("/healthz").header("x-request-id", "mine"));
    assert_ne!(answer.header("x-request-id"), Some("mine"));
}

#[test]
fn sizes_are_checked_before_authentication_and_probes_are_exempt() {
    let limits = "limits: {max_request_bytes: 10, max_url_length: 60, max_request_header_bytes: 200}";
    let mut gateway = TestGateway::with_config(&format!("{CONFIG}\n{limits}"));
    let long = "x".repeat(200);
    for (asked, status, text) in [
        (post("/v1/messages").body("12345678901"), 413, "payload too large"),
        (post("/v1/messages").header("content-length", "11"), 413, "payload too large"),
        (get(&format!("/{}", "y".repeat(60))), 414, "uri too long"),
        (get("/nope").header("x-long", &long), 431, "request header fields too large"),
        (get(&format!("/healthz?{long}")), 200, "ok"),
        (get("/healthz").header("x-long", &long), 200, "ok"),
    ] {
        let answer = gateway.send(asked);
        assert_eq!((answer.status.as_u16(), answer.text()), (status, text));
    }
    assert_eq!(gateway.send(post("/v1/messages").body("1234567890")).status, 401);
}

#[test]
fn addresses_are_judged_before_anything_else() {
    let rules = "access_control: {deny_cidrs: [192.0.2.7]}";
    let mut gateway = TestGateway::with_config(&format!("{CONFIG}\n{rules}"));
    for path in ["/", "/healthz", "/v1/messages"] {
        let answer = gateway.send(get(path));
        assert_eq!((answer.status.as_u16(), answer.text()), (403, "forbidden"), "{path}");
        assert_eq!(gateway.log.audit()[0]["reason"], "ip_denylist");
    }
}

#[test]
fn head_is_answered_like_get_without_a_body() {
    let mut gateway = TestGateway::new();
    for path in ["/", "/healthz", "/readyz", "/protocol"] {
        let answer = gateway.send(request(Method::HEAD, path));
        assert_eq!((answer.status.as_u16(), answer.text()), (200, ""), "{path}");
        let whole = gateway.send(get(path));
        assert_eq!(answer.header("content-type"), whole.header("content-type"), "{path}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{path}");
    }
    let token = gateway.token(&[]);
    for path in ["/v1/messages", "/v1/messages/count_tokens", "/v1/models"] {
        assert_eq!(gateway.send(request(Method::HEAD, path).bearer(&token)).status, 404, "{path}");
        assert_eq!(gateway.send(request(Method::HEAD, path)).status, 401, "{path}");
    }
}

/// Every trouble that the log tells of while a request is answered, or because of one, and what to look for.
const TROUBLES: [(&str, &str); 10] = [
    ("the database is away at a sign-in", "database unavailable"),
    ("the provider is away", "sign-in is not possible"),
    ("the provider's document cannot be shared", "cannot be shared"),
    ("an ended session cannot be told from others", "sessions that were ended"),
    ("an upstream does not answer", "upstream a"),
    ("an upstream breaks off", "broke off"),
    ("spending cannot be looked up", "spending cannot be looked up"),
    ("a bill cannot be recorded", "are not recorded yet"),
    ("masking keys cannot be read", "masking in shadow mode"),
    ("a collector does not answer", "telemetry https://otel.example.test"),
];

fn in_trouble(gateway: &mut TestGateway, trouble: &str) -> Answer {
    let message =
        json!({"model": "claude-opus-4-8", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]});
    let token = gateway.token(&[]);
    let ask = || post("/v1/messages").bearer(&token).json(&message);
    let away = || HttpError::Connect("refused".to_owned());
    let usage = r#"{"usage":{"input_tokens":1,"output_tokens":1}}"#;
    match trouble {
        "the database is away at a sign-in" => {
            gateway.db.is_down.set(true);
            gateway.send(post("/oauth/device_authorization"))
        }
        "the provider is away" | "the provider's document cannot be shared" => {
            let code = gateway.send(post("/oauth/device_authorization")).json()["user_code"].clone();
            gateway.log.lines();
            if trouble == "the provider is away" {
                gateway.http.fail(away());
            } else {
                let at = |path: &str| format!("https://login.example.test/{path}");
                let document = json!({
                    "issuer": "https://login.example.test", "authorization_endpoint": at("a"),
                    "token_endpoint": at("t"), "jwks_uri": at("k"),
                });
                gateway.http.answer(200, &[], document.to_string());
                gateway.key_value.is_down.set(true);
            }
            let form = ("content-type", "application/x-www-form-urlencoded");
            let body = format!("user_code={}", code.as_str().expect("a code"));
            let asked = post("/device").header("origin", "https://gateway.example.test").header(form.0, form.1);
            gateway.send(asked.body(body))
        }
        "an ended session cannot be told from others" => {
            let token = gateway.token_with(|claims| claims["sid"] = "s-1".into());
            gateway.db.is_down.set(true);
            gateway.send(get("/v1/models").bearer(&token))
        }
        "an upstream does not answer" => {
            gateway.http.fail(away());
            gateway.send(ask())
        }
        "an upstream breaks off" => {
            let event = "event: ping\ndata: {}\n\n";
            let pieces = vec![Ok(event.into()), Err(StreamError("reset".to_owned()))];
            gateway.http.answer_in_pieces(200, &[("content-type", "text/event-stream")], pieces);
            gateway.send(ask())
        }
        "spending cannot be looked up" => {
            gateway.db.is_down.set(true);
            gateway.http.answer(200, &[], usage);
            gateway.send(ask())
        }
        "a bill cannot be recorded" => {
            gateway.http.answer(200, &[], usage);
            let response = gateway.begin(ask());
            gateway.db.is_down.set(true);
            gateway.end(response)
        }
        "masking keys cannot be read" => {
            gateway.key_value.is_down.set(true);
            gateway.http.answer(200, &[], usage);
            gateway.send(ask())
        }
        "a collector does not answer" => {
            gateway.http.answer(401, &[], "");
            gateway.send(post("/v1/metrics").bearer(&token).body("x"))
        }
        other => panic!("{other} is not played"),
    }
}

#[test]
fn every_operational_line_about_a_request_names_it_however_deep_it_is_written() {
    let more = "admin: {}\nmasking: {mode: shadow}\ntelemetry: {forward_to: [{url: 'https://otel.example.test'}]}";
    for (trouble, told) in TROUBLES {
        for format in [Format::Text, Format::Json] {
            let mut gateway = TestGateway::with_config(&format!("{CONFIG}\n{more}"));
            Rc::get_mut(&mut gateway.gateway).expect("nobody else has it yet").ports.log_format = format;
            let answer = in_trouble(&mut gateway, trouble);
            let id = answer.header("x-request-id").expect("an id");
            let mut lines = gateway.log.lines();
            // Upkeep and alerts are left behind for everybody.
            lines.retain(|line| !line.contains("rows that are over") && !line.contains("alerts about spend"));
            assert!(lines.iter().any(|line| line.contains(told)), "{trouble}: {lines:#?}");
            for line in &lines {
                match format {
                    Format::Text => assert!(line.contains(id), "{trouble}: {line}"),
                    Format::Json => {
                        let line: Value = serde_json::from_str(line).expect("JSON");
                        assert_eq!(line["request_id"], id, "{trouble}: {line}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_instance_without_a_configuration_answers_with_an_id_and_the_headers_of_every_answer() {
    let entropy = &TestGateway::new().gateway;
    let mut headers = http::HeaderMap::new();
    for own in [None, Some("the-clients.own_id")] {
        headers.extend(own.map(|id| (http::HeaderName::from_static("x-client-request-id"), id.parse().expect("text"))));
        let response = sallyport::gateway::unconfigured(&headers, &*entropy.ports.entropy);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let id = response.headers()["x-request-id"].to_str().expect("text");
        assert!(own.map_or(id.len() == 36, |own| id == own), "{id}");
    }
}

#[test]
fn spans_that_a_collector_does_not_take_are_lost_without_telling_its_credentials() {
    let otlp =
        "observability: {otlp: {url: 'https://user:placeholder@otel.example.test/x?key=placeholder', delay_ms: 10}}";
    let mut gateway = TestGateway::with_config(&format!("{CONFIG}\n{otlp}"));
    let asked = get("/v1/models").bearer(&gateway.token(&[]));
    assert_eq!(gateway.send(asked).status, 200);
    gateway.http.answer(403, &[], "");
    gateway.pass(Duration::from_secs(1));
    let log = gateway.log.lines().join("\n");
    assert!(log.contains("1 spans for otel.example.test are lost: answered 403"), "{log}");
    assert!(!log.contains("placeholder"), "{log}");
}
