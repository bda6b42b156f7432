//! `/v1/metrics`, `/v1/logs`, `/v1/traces`: what is relayed where, what is tried again, and what is dropped.

use std::time::Duration;

use sallyport::ports::HttpError;
use serde_json::Value;

use crate::support::{Answer, CONFIG, RequestBuilder, TestGateway, post};

/// Two destinations with different wishes.
const TWO: &str = "telemetry: {forward_to: [\
     {url: 'https://one.example.test/base/', headers: {x-team: tools}, logs: true}, \
     {url: 'https://user:placeholder@two.example.test?key=placeholder', metrics: false, traces: true}]}";

const METRICS: &str = "observability: {metrics: {listen: '127.0.0.1:9464'}}";

const ONE: &str = "telemetry: {forward_to: [{url: 'https://one.example.test'}]}";

fn gateway(telemetry: &str) -> TestGateway {
    TestGateway::with_config(&format!("{CONFIG}\n{METRICS}\n{telemetry}"))
}

fn metrics(gateway: &TestGateway) -> RequestBuilder {
    post("/v1/metrics").bearer(&gateway.token(&[])).body("payload")
}

#[track_caller]
fn accepted(answer: &Answer) {
    assert_eq!((answer.status.as_u16(), answer.body.len(), answer.header("content-type")), (200, 0, None));
}

/// Outcome and retries of the exports so far.
fn exports(gateway: &TestGateway) -> Vec<(String, u64)> {
    let lines = gateway.figures.lines();
    let figures = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    figures
        .filter(|figure| figure["figure"] == "export")
        .map(|figure| {
            (figure["outcome"].as_str().expect("text").to_owned(), figure["retries"].as_u64().expect("a number"))
        })
        .collect()
}

#[test]
fn a_signal_goes_to_those_that_want_it_byte_for_byte_with_their_headers_and_no_others() {
    let mut gateway = gateway(TWO);
    for (path, places) in [
        ("/v1/metrics", &["https://one.example.test/base/v1/metrics"][..]),
        ("/v1/logs", &["https://one.example.test/base/v1/logs"]),
        ("/v1/traces", &["https://user:placeholder@two.example.test/?key=placeholder/v1/traces"]),
    ] {
        for _ in places {
            gateway.http.answer(202, &[], "");
        }
        let asked = post(path)
            .bearer(&gateway.token(&[]))
            .header("content-encoding", "gzip")
            .header("cookie", "a=b")
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .header("user-agent", "claude-code/1")
            .body("\x00\u{1f} not what it says");
        accepted(&gateway.send(asked));
        let requests = gateway.http.requests();
        let asked: Vec<String> = requests.iter().map(|request| request.uri().to_string()).collect();
        assert_eq!(asked, places);
        for request in &requests {
            assert_eq!(request.body().as_ref(), "\x00\u{1f} not what it says".as_bytes());
            let mut names: Vec<&str> = request.headers().keys().map(http::HeaderName::as_str).collect();
            names.sort_unstable();
            let expected: &[&str] = if path == "/v1/traces" {
                &["content-encoding", "content-type"]
            } else {
                &["content-encoding", "content-type", "x-team"]
            };
            assert_eq!(names, expected, "{path}");
            assert_eq!(request.headers()["content-type"], "application/x-protobuf");
        }
    }
}

#[test]
fn anybody_with_a_session_is_accepted_whatever_becomes_of_the_export() {
    let mut gateway = gateway(ONE);
    assert_eq!(gateway.send(post("/v1/metrics").body("x")).status, 401);
    let asked = post("/v1/logs").bearer(&gateway.token(&[])).body("nobody wants logs");
    accepted(&gateway.send(asked));
    assert!(gateway.http.requests().is_empty());
    gateway.http.answer(500, &[], "");
    let asked = metrics(&gateway);
    accepted(&gateway.send(asked));
    assert_eq!(exports(&gateway), [("failed".to_owned(), 0)]);
    let warned = gateway.log.lines();
    assert!(warned.iter().any(|line| line.contains("telemetry https://one.example.test/v1/metrics: answered 500")));
}

#[test]
fn an_address_in_the_log_shows_no_credentials() {
    let mut gateway = gateway(TWO);
    gateway.http.answer(403, &[], "");
    let asked = post("/v1/traces").bearer(&gateway.token(&[])).body("x");
    accepted(&gateway.send(asked));
    let log = gateway.log.lines().join("\n");
    assert!(log.contains("telemetry https://two.example.test/v1/traces: answered 403"), "{log}");
    assert!(!log.contains("placeholder"), "{log}");
}

#[test]
fn what_may_pass_is_tried_twice_more_and_then_given_up() {
    let mut gateway = gateway(ONE);
    gateway.http.fail(HttpError::Connect("refused".to_owned()));
    gateway.http.answer(503, &[], "");
    gateway.http.answer(200, &[], "");
    let asked = metrics(&gateway);
    accepted(&gateway.send(asked));
    assert_eq!(gateway.http.requests().len(), 1);
    gateway.pass(Duration::from_millis(750));
    assert_eq!(gateway.http.requests().len(), 1);
    assert!(exports(&gateway).is_empty());
    gateway.pass(Duration::from_millis(2250));
    assert_eq!(gateway.http.requests().len(), 1);
    assert_eq!(exports(&gateway), [("sent".to_owned(), 2)]);

    for _ in 0..3 {
        gateway.http.answer(429, &[], "");
    }
    let asked = metrics(&gateway);
    accepted(&gateway.send(asked));
    gateway.pass(Duration::from_secs(1));
    gateway.pass(Duration::from_secs(3));
    gateway.pass(Duration::from_mins(1));
    assert_eq!(gateway.http.requests().len(), 3);
    assert_eq!(exports(&gateway), [("failed".to_owned(), 2)]);
}

#[test]
fn a_destination_says_how_long_to_wait_and_is_believed_within_reason() {
    let mut gateway = gateway(ONE);
    gateway.http.answer(429, &[("retry-after", "4")], "");
    gateway.http.answer(429, &[("retry-after", "3600")], "");
    let asked = metrics(&gateway);
    accepted(&gateway.send(asked));
    gateway.pass(Duration::from_secs(3));
    assert_eq!(gateway.http.requests().len(), 1);
    gateway.pass(Duration::from_millis(1300));
    assert_eq!(gateway.http.requests().len(), 1);
    assert_eq!(exports(&gateway), [("failed".to_owned(), 1)]);
}

#[test]
fn a_refused_payload_is_no_failure_and_five_failures_pause_one_destination_alone() {
    let mut gateway =
        gateway("telemetry: {forward_to: [{url: 'https://one.example.test'}, {url: 'https://two.example.test'}]}");
    for status in [400, 400, 400, 400, 400, 400, 500, 500, 500, 500, 500] {
        gateway.http.answer(status, &[], "");
        gateway.http.answer(200, &[], "");
        let asked = metrics(&gateway);
        accepted(&gateway.send(asked));
    }
    assert_eq!(gateway.http.requests().len(), 22);
    gateway.figures.lines();
    gateway.http.answer(200, &[], "");
    let asked = metrics(&gateway);
    accepted(&gateway.send(asked));
    assert_eq!(exports(&gateway), [("paused".to_owned(), 0), ("sent".to_owned(), 0)]);
    gateway.clock.advance(Duration::from_secs(31));
    gateway.http.requests();
    gateway.http.answer(200, &[], "");
    gateway.http.answer(200, &[], "");
    let asked = metrics(&gateway);
    accepted(&gateway.send(asked));
    assert_eq!(gateway.http.requests().len(), 2);
}

#[test]
fn exports_to_a_slow_destination_are_bounded_and_the_rest_is_dropped_and_counted() {
    let mut gateway = gateway(ONE);
    for _ in 0..32 {
        gateway.http.answer(503, &[], "");
        let asked = metrics(&gateway);
        accepted(&gateway.send(asked));
    }
    let asked = metrics(&gateway);
    accepted(&gateway.send(asked));
    assert_eq!(gateway.http.requests().len(), 32);
    assert_eq!(exports(&gateway), [("full".to_owned(), 0)]);
    assert!(gateway.log.lines().iter().any(|line| line.contains("is too slow: 1 exports were dropped")));
}

#[test]
fn without_a_configuration_everything_is_accepted_and_goes_nowhere() {
    let mut gateway = TestGateway::new();
    for path in ["/v1/metrics", "/v1/logs", "/v1/traces"] {
        let asked = post(path).bearer(&gateway.token(&[])).body("x");
        accepted(&gateway.send(asked));
    }
    assert!(gateway.http.requests().is_empty());
}

#[test]
fn a_query_goes_nowhere_a_redirect_is_a_failure_and_a_body_has_its_limit() {
    let mut gateway = gateway(&format!("{ONE}\nlimits: {{max_request_bytes: 10}}"));
    gateway.http.answer(302, &[("location", "https://elsewhere.example.test")], "");
    let asked = post("/v1/metrics?api-version=1").bearer(&gateway.token(&[])).body("0123456789");
    accepted(&gateway.send(asked));
    let requests = gateway.http.requests();
    assert_eq!(requests.len(), 1, "a redirect is not followed");
    assert_eq!(requests[0].uri(), "https://one.example.test/v1/metrics");
    assert_eq!(exports(&gateway), [("failed".to_owned(), 0)]);
    let asked = post("/v1/metrics").bearer(&gateway.token(&[])).body("0123456789x");
    assert_eq!(gateway.send(asked).status, 413);
    assert!(gateway.http.requests().is_empty());
}
