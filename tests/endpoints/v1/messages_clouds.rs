//! `POST /v1/messages` and `/count_tokens` by way of clouds: silence, counting that fails, refusals that do not come.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::organizations::{ADMIN, admin_get};
use crate::support::{CONFIG, Held, TestGateway, post};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream")];
const PING: &str = "event: ping\ndata: {\"type\": \"ping\"}\n\n";

/// A gateway with `config` whose only upstream is a cloud.
fn gateway(config: &str, upstream: &str) -> TestGateway {
    let (head, rest) = config.split_once("upstreams:").expect("a section");
    let rest = rest.lines().skip(2).collect::<Vec<_>>().join("\n");
    TestGateway::with_config(&format!("{head}upstreams: [{{name: a, {upstream}}}]\n{rest}"))
}

const BEDROCK: &str = "provider: bedrock, region: us-east-1, auth: {aws_bearer_token: placeholder}";
const FOUNDRY: &str = "provider: foundry, resource: res, auth: {api_key: placeholder}";

fn ask(stream: bool) -> Value {
    json!({
        "model": "claude-opus-4-8", "max_tokens": 10, "stream": stream,
        "messages": [{"role": "user", "content": "hi"}],
    })
}

fn event(data: &Value) -> Bytes {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().expect("a type")).into()
}

#[test]
fn silence_on_a_translated_stream_is_filled_with_pings() {
    let mut gateway = gateway(CONFIG, FOUNDRY);
    let (token, body) = (gateway.token(&[]), Held::default());
    gateway.http.answer_with(200, SSE, Box::new(body.clone()));
    let response = gateway.begin(post("/v1/messages").bearer(&token).json(&ask(true)));
    let received = gateway.read_on(response);
    let five = Duration::from_secs(5);
    let mut expected = String::new();
    // Seconds since the last output, looked at every five.
    for seconds in (5..=30).step_by(5) {
        gateway.pass(five);
        if seconds % 15 == 0 {
            expected += PING;
        }
        assert_eq!(String::from_utf8_lossy(&received.borrow()), expected, "after {seconds} seconds");
    }
    // An event is output, an upstream's own ping is none.
    let stop = event(&json!({"type": "message_stop"}));
    body.push(Some(stop.clone()));
    gateway.settle();
    gateway.pass(2 * five);
    body.push(Some(event(&json!({"type": "ping"}))));
    gateway.settle();
    expected += std::str::from_utf8(&stop).expect("text");
    assert_eq!(String::from_utf8_lossy(&received.borrow()), expected);
    gateway.pass(five);
    body.push(None);
    gateway.settle();
    assert_eq!(String::from_utf8_lossy(&received.borrow()), expected + PING);
}

#[test]
fn a_count_that_failed_is_not_tried_again_for_ten_minutes() {
    let refused = |gateway: &mut TestGateway, token: &str| {
        let answer = gateway.send(post("/v1/messages/count_tokens").bearer(token).json(&ask(false)));
        assert_eq!(answer.status, 501, "{}", answer.text());
        assert_eq!(
            answer.json()["error"],
            json!({"type": "not_supported", "message": "count_tokens is not available on this Bedrock upstream"})
        );
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        gateway.http.requests().len()
    };
    // What AWS answers, and whether it is asked again at once.
    let aws = &[JSON[0], ("x-amzn-requestid", "aws-1")][..];
    let too_long = r#"{"message":"prompt is too long: 5 > 4"}"#;
    for (succeeds_before, status, headers, body, asked_again) in [
        (true, 403, aws, "{}", 0),
        (true, 400, aws, "{}", 0),
        (true, 500, aws, "{}", 0),
        (true, 200, aws, "<html>", 0),
        (true, 200, aws, r#"{"input_tokens":5}"#, 0),
        (true, 429, JSON, "{}", 0),
        (false, 429, aws, "{}", 0),
        (true, 429, aws, "{}", 1),
        (false, 400, aws, too_long, 1),
    ] {
        let mut gateway = gateway(CONFIG, BEDROCK);
        let token = gateway.token_with(|claims| claims["exp"] = json!(4_000_000_000_i64));
        if succeeds_before {
            gateway.http.answer(200, aws, r#"{"inputTokens":7}"#);
            let answer = gateway.send(post("/v1/messages/count_tokens").bearer(&token).json(&ask(false)));
            assert_eq!((answer.status.as_u16(), answer.text()), (200, r#"{"input_tokens":7}"#));
            gateway.http.requests();
        }
        gateway.http.answer(status, headers, body);
        assert_eq!(refused(&mut gateway, &token), 1);
        if asked_again > 0 {
            gateway.http.answer(status, headers, body);
        }
        assert_eq!(refused(&mut gateway, &token), asked_again, "{status} {body}");
        // Messages are asked for as before.
        gateway.http.answer(200, JSON, "{}");
        assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask(false))).status, 200);
        gateway.http.requests();
        gateway.pass(Duration::from_mins(10));
        gateway.http.answer(200, aws, r#"{"inputTokens":7}"#);
        let answer = gateway.send(post("/v1/messages/count_tokens").bearer(&token).json(&ask(false)));
        assert_eq!(answer.status, 200, "{status} {body}");
    }
}

#[test]
fn an_answer_of_bedrock_without_usage_is_counted_or_asked_for_one_token() {
    // What counting gives, what asking for one token gives, and the input that is billed: half a cent for a thousand.
    for (counted, probed, cents) in [
        ((200, r#"{"inputTokens":2000}"#), None, "1.003"),
        ((403, "{}"), Some((200, r#"{"usage":{"input_tokens":4000,"output_tokens":1}}"#)), "2.003"),
        ((403, "{}"), Some((400, "{}")), "0.009"),
    ] {
        let mut gateway = gateway(ADMIN, BEDROCK);
        let token = gateway.token(&[]);
        gateway.http.answer(200, JSON, "{}");
        gateway.http.answer(counted.0, JSON, counted.1);
        if let Some((status, body)) = probed {
            gateway.http.answer(status, JSON, body);
        }
        gateway.send(post("/v1/messages").bearer(&token).json(&ask(false)));
        let requests = gateway.http.requests();
        let paths: Vec<&str> = requests.iter().map(|request| request.uri().path()).collect();
        let model = "/model/us.anthropic.claude-opus-4-8/invoke";
        let count = "/model/anthropic.claude-opus-4-8/count-tokens";
        assert_eq!(paths, [&[model, count][..], &[model][..usize::from(probed.is_some())]].concat());
        if probed.is_some() {
            assert_eq!(
                requests[2].body(),
                r#"{"messages":[{"role":"user","content":"hi"}],"max_tokens":1,"anthropic_version":"bedrock-2023-05-31"}"#
            );
        }
        let path = "/v1/organizations/spend_limits/effective?user_ids[]=ada&period[]=daily";
        let listed = gateway.send(admin_get(path)).json();
        assert_eq!(listed["data"][0]["period_to_date_spend"], cents, "{counted:?} {probed:?}");
    }
}

#[test]
fn what_the_gateway_counts_itself_begins_and_ends_the_pause_too() {
    let mut gateway = gateway(ADMIN, BEDROCK);
    let token = gateway.token_with(|claims| claims["exp"] = json!(4_000_000_000_i64));
    let counts = |gateway: &mut TestGateway, answers: &[(u16, &'static str)]| {
        for (status, body) in answers {
            gateway.http.answer(*status, JSON, *body);
        }
        gateway.send(post("/v1/messages").bearer(&token).json(&ask(false)));
        let requests = gateway.http.requests();
        assert_eq!(requests.len(), answers.len(), "{answers:?}");
        requests.iter().filter(|request| request.uri().path().ends_with("/count-tokens")).count()
    };
    let (untold, counted) = ((200, "{}"), (200, r#"{"inputTokens":7}"#));
    let probed = (200, r#"{"usage":{"input_tokens":7,"output_tokens":1}}"#);
    for failed in [(500, "{}"), (200, "<html>")] {
        assert_eq!(counts(&mut gateway, &[untold, failed, probed]), 1);
        assert_eq!(counts(&mut gateway, &[untold, probed]), 0, "nobody tries to count for a while: {failed:?}");
        gateway.pass(Duration::from_mins(10));
        assert_eq!(counts(&mut gateway, &[untold, counted]), 1);
        assert_eq!(counts(&mut gateway, &[untold, counted]), 1);
    }
}

#[test]
fn a_refusal_whose_rest_does_not_come_is_told_without_it() {
    for (config, upstream, message) in [
        (CONFIG, BEDROCK, Some("upstream rate limit exceeded")),
        (CONFIG, "provider: anthropic, auth: {api_key: placeholder}", None),
    ] {
        let mut gateway = gateway(config, upstream);
        let token = gateway.token(&[]);
        let body = Held::default();
        body.push(Some(Bytes::from_static(b"{\"type\":")));
        gateway.http.answer_with(429, JSON, Box::new(body));
        let begun = gateway.leave(post("/v1/messages").bearer(&token).json(&ask(true)));
        gateway.pass(Duration::from_secs(9));
        assert!(begun.borrow().is_none());
        gateway.pass(Duration::from_secs(1));
        let response = begun.take().expect("an answer");
        let answer = gateway.end(response);
        assert_eq!(answer.status, 429);
        match message {
            Some(message) => assert_eq!(answer.json()["error"]["message"], message),
            None => assert_eq!(answer.text(), ""),
        }
    }
}
