//! `POST /v1/messages`: what it tells a host that counts (`observability.metrics`), with and without books.

use std::time::Duration;

use bytes::Bytes;
use sallyport::ports::StreamError;
use serde_json::{Value, json};

use super::organizations::{ADMIN, admin_post};
use crate::support::{CONFIG, TestGateway, post};

const METRICS: &str = "observability: {metrics: {listen: '127.0.0.1:9464'}}";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream")];
const USAGE: &str = r#"{"usage":{"input_tokens":1000,"output_tokens":20}}"#;

fn ask() -> Value {
    json!({"model": "claude-opus-4-8", "max_tokens": 300, "messages": [{"role": "user", "content": "hi"}]})
}

fn stream() -> Vec<Result<Bytes, StreamError>> {
    [
        r#"{"type":"message_start","message":{"usage":{"input_tokens":1000,"output_tokens":1}}}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hello"}}"#,
        r#"{"type":"message_delta","usage":{"output_tokens":20}}"#,
        r#"{"type":"message_stop"}"#,
    ]
    .map(|data| {
        let kind = data.split('"').nth(3).expect("a type");
        Ok(Bytes::from(format!("event: {kind}\ndata: {data}\n\n")))
    })
    .to_vec()
}

/// The figures of this kind so far; the list starts again.
fn figures(gateway: &TestGateway, kind: &str) -> Vec<Value> {
    let lines = gateway.figures.lines();
    let figures = lines.iter().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    figures.filter(|figure| figure["figure"] == kind).collect()
}

/// What became of reservations, as far as there were any.
fn reservations(gateway: &TestGateway) -> Vec<String> {
    let figures = figures(gateway, "reservation");
    let some = figures.iter().filter(|figure| figure["count"] != 0);
    some.map(|figure| figure["outcome"].as_str().expect("text").to_owned()).collect()
}

fn usage(settled: &Value) -> Value {
    json!({
        "figure": "usage", "upstream": "a", "model": "claude-opus-4-8", "input_tokens": 1000, "output_tokens": 20,
        "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "nanos": 5_500_000, "settled": settled,
    })
}

#[test]
fn tokens_and_spend_are_told_with_and_without_books_and_only_where_somebody_counts() {
    for (config, settled) in [(CONFIG, Value::Null), (ADMIN, Value::Bool(true))] {
        let mut gateway = TestGateway::with_config(&format!("{config}\n{METRICS}"));
        let token = gateway.token(&[]);
        for (headers, pieces) in [(SSE, stream()), (JSON, vec![Ok(USAGE.into())])] {
            let sent: Vec<u8> = pieces.iter().flatten().flat_map(|piece| piece.to_vec()).collect();
            gateway.http.answer_in_pieces(200, headers, pieces);
            let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
            assert_eq!(answer.body, sent, "byte for byte");
            assert_eq!(figures(&gateway, "usage"), [usage(&settled)]);
        }
        gateway.http.answer(200, JSON, r#"{"input_tokens":5}"#);
        gateway.send(post("/v1/messages/count_tokens").bearer(&token).json(&ask()));
        assert!(figures(&gateway, "usage").is_empty(), "counting is no use");
    }
    let mut gateway = TestGateway::new();
    gateway.http.answer_in_pieces(200, SSE, stream());
    let asked = post("/v1/messages").bearer(&gateway.token(&[])).json(&ask());
    assert!(gateway.send(asked).is_relayed, "nobody reads along");
    assert!(gateway.figures.lines().is_empty());
}

#[test]
fn a_bill_without_books_asks_nobody_and_holds_up_nothing() {
    let mut gateway = TestGateway::with_config(&format!("{CONFIG}\n{METRICS}"));
    let token = gateway.token(&[]);
    // An answer that does not tell its input: with books, the upstream would be asked to count it.
    gateway.http.answer(200, JSON, r#"{"content":[{"type":"text","text":"12345678"}]}"#);
    gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
    assert_eq!(gateway.http.requests().len(), 1);
    let told = figures(&gateway, "usage");
    assert_eq!((&told[0]["input_tokens"], told.len()), (&json!(0), 1), "{told:?}");

    // A client that leaves at once: with books, the rest would be read until the input is known.
    gateway.http.answer_in_pieces(200, SSE, [vec![Ok(": hello\n\n".into())], stream()].concat());
    gateway.send_until(post("/v1/messages").bearer(&token).json(&ask()), Some(0));
    assert!(figures(&gateway, "usage").is_empty());
}

#[test]
fn a_reservation_is_told_from_its_beginning_to_its_end() {
    let config = format!("{ADMIN}\n{METRICS}\nenforcement: {{reservation_ttl_seconds: 60}}");
    let mut gateway = TestGateway::with_config(&config);
    let token = gateway.token(&[]);
    let send = |gateway: &mut TestGateway| gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
    gateway.http.answer(200, JSON, USAGE);
    send(&mut gateway);
    assert_eq!(reservations(&gateway), ["held", "settled"]);
    gateway.http.answer(400, JSON, "{}");
    send(&mut gateway);
    assert_eq!(reservations(&gateway), ["held", "released"]);

    // One request holds all that is left of a cap, and its end is never told.
    let cap = json!({"scope": {"type": "user", "user_id": "ada"}, "amount": "1", "period": "daily"});
    assert_eq!(gateway.send(admin_post(&cap)).status, 200);
    gateway.http.answer_in_pieces(200, SSE, stream());
    let begun = gateway.begin(post("/v1/messages").bearer(&token).json(&ask()));
    assert_eq!(send(&mut gateway).status, 429);
    assert_eq!(reservations(&gateway), ["held", "refused"]);
    gateway.clock.advance(Duration::from_mins(2));
    gateway.http.answer(400, JSON, "{}");
    assert_eq!(send(&mut gateway).status, 400);
    assert_eq!(reservations(&gateway), ["expired", "held", "released"]);
    gateway.end(begun);
    assert_eq!(reservations(&gateway), ["settled"]);
}
