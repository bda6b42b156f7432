//! `POST /v1/messages` and `/count_tokens` with masking: what leaves, what comes back, and what the audit trail says.

use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use sallyport::ports::StreamError;
use serde_json::{Value, json};

use super::organizations::{ADMIN, admin_get};
use crate::support::{Answer, CONFIG, TestGateway, post};

const INSTANCE: &str = "i-0a1b2c3d4e5f60718";
const ADDRESS: &str = "10.20.30.40";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream; charset=utf-8")];

fn gateway(masking: &str) -> TestGateway {
    TestGateway::with_config(&format!("{CONFIG}\nmasking: {masking}"))
}

fn ask(text: &str) -> Value {
    json!({"model": "claude-opus-4-8", "max_tokens": 10, "messages": [{"role": "user", "content": text}]})
}

/// Asks about `text`, which costs nothing. What reached the upstream, as text.
fn sent(gateway: &mut TestGateway, text: &str) -> String {
    let token = gateway.token(&[]);
    gateway.http.answer(200, JSON, r#"{"usage":{"input_tokens":0,"output_tokens":0}}"#);
    assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask(text))).status, 200);
    content(gateway.http.requests().pop().expect("a request").body())
}

/// What the first message of `body` says.
fn content(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).expect("JSON");
    body["messages"][0]["content"].as_str().expect("text").to_owned()
}

#[expect(clippy::unnecessary_wraps, reason = "it is a piece of a stream, and others fail")]
fn event(data: &Value) -> Result<Bytes, StreamError> {
    Ok(Bytes::from(sse(data)))
}

fn sse(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().expect("a type"))
}

fn delta(text: &str) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
}

/// A whole stream that says `pieces`.
fn stream(pieces: &[&str]) -> Vec<Value> {
    let mut events = vec![
        json!({"type": "message_start", "message": {"id": "msg_1", "usage": {"input_tokens": 1000, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
    ];
    events.extend(pieces.iter().map(|text| delta(text)));
    events.extend([
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 200}}),
        json!({"type": "message_stop"}),
    ]);
    events
}

/// The text that a stream says.
fn said(answer: &Answer) -> String {
    let data = answer.text().lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| {
        let data: Value = serde_json::from_str(data).expect("JSON");
        Some(data["delta"]["text"].as_str()?.to_owned())
    })
    .collect()
}

/// The `inference` lines so far.
fn inferences(gateway: &TestGateway) -> Vec<Value> {
    gateway.log.audit().into_iter().filter(|event| event["evt"] == "inference").collect()
}

#[test]
fn identifiers_do_not_leave_and_the_answer_has_them() {
    for path in ["/v1/messages", "/v1/messages/count_tokens"] {
        let mut gateway = gateway("{}");
        let token = gateway.token(&[]);
        let text = format!("Why is {INSTANCE} at {ADDRESS} down? {INSTANCE} é");
        let masked = sent(&mut gateway, &text);
        assert!(!masked.contains(INSTANCE) && !masked.contains(ADDRESS), "{masked}");
        gateway.log.lines();

        let answer = |text: &str| format!("{{ \"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}], \"n\":1.0 }}");
        gateway.http.answer(200, JSON, answer(&masked));
        let received = gateway.send(post(path).bearer(&token).json(&ask(&text)));
        assert_eq!(received.text(), answer(&text));
        assert_eq!(received.header("x-sallyport-masked"), Some("3"));
        assert_eq!(content(gateway.http.requests()[0].body()), masked, "always the same token");
        let receipt = json!({
            "mode": "enforce", "masked": {"aws.ec2_instance": 2, "private_ip.v4": 1}, "restored": 3, "unknown": 0,
        });
        assert_eq!(inferences(&gateway)[0]["masking"], receipt);
        let totals = gateway.gateway.masking_totals();
        assert_eq!((totals.requests, totals.restored, totals.masked["aws.ec2_instance"]), (2, 3, 4));
    }
}

#[test]
fn a_stream_is_restored_wherever_it_is_cut_and_billed_as_it_was() {
    let mut gateway = TestGateway::with_config(&format!("{ADMIN}\nmasking: {{}}"));
    let token = gateway.token(&[]);
    let text = format!("{INSTANCE} is at {ADDRESS}");
    let masked = sent(&mut gateway, &text);
    let unknown = masked[..INSTANCE.len()].to_owned();
    for size in [1, 5, 7, 100] {
        let characters: Vec<char> = masked.chars().collect();
        let pieces: Vec<String> = characters.chunks(size).map(|piece| piece.iter().collect()).collect();
        let events = stream(&pieces.iter().map(String::as_str).collect::<Vec<_>>());
        let bytes: String = events.iter().map(sse).collect();
        // Not even the events arrive whole.
        let bytes = bytes.as_bytes().chunks(13).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        gateway.http.answer_in_pieces(200, SSE, bytes);
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask(&text)));
        assert_eq!(said(&answer), text);
        assert_eq!(answer.header("x-sallyport-masked"), Some("2"));
        let events: Vec<_> = inferences(&gateway);
        assert_eq!(events.last().expect("a line")["masking"]["restored"], 2);
    }
    // Half a cent for 1000 tokens of input, half for 200 of output, four times.
    let spent = gateway.send(admin_get("/v1/organizations/spend_limits/effective?user_ids[]=ada&period[]=daily"));
    assert_eq!(spent.json()["data"][0]["period_to_date_spend"], "4");

    // The same token in an answer to a request that never spoke of it.
    gateway.http.answer_in_pieces(200, SSE, stream(&[&unknown]).iter().map(event).collect());
    let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask("hello")));
    assert_eq!((said(&answer), answer.header("x-sallyport-masked")), (unknown, None));
    let receipt = json!({"mode": "enforce", "masked": {}, "restored": 0, "unknown": 1});
    assert_eq!(inferences(&gateway)[0]["masking"], receipt);
}

#[test]
fn a_stream_that_ends_early_gives_what_it_held_and_is_in_the_audit_trail() {
    let mut gateway = gateway("{}");
    let token = gateway.token(&[]);
    let masked = sent(&mut gateway, INSTANCE);
    gateway.log.lines();
    let half = &masked[..9];
    let mut pieces: Vec<_> = stream(&[half]).iter().take(3).map(event).collect();
    pieces.push(Err(StreamError("reset".to_owned())));
    gateway.http.answer_in_pieces(200, SSE, pieces);
    let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)));
    assert_eq!((said(&answer).as_str(), answer.cut_off), (half, true));
    assert_eq!(inferences(&gateway).len(), 1);

    gateway.http.answer_in_pieces(200, SSE, stream(&[&masked, " ", &masked]).iter().map(event).collect());
    gateway.send_until(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)), Some(3));
    let events = inferences(&gateway);
    assert_eq!((events.len(), &events[0]["status"], &events[0]["masking"]["restored"]), (1, &json!(200), &json!(1)));
}

#[test]
fn errors_are_restored_too() {
    let mut gateway = gateway("{}");
    let token = gateway.token(&[]);
    let masked = sent(&mut gateway, INSTANCE);
    for status in [400, 429] {
        let error = |text: &str| json!({"type": "error", "error": {"type": "told", "message": format!("no {text}!")}});
        gateway.http.answer(status, JSON, error(&masked).to_string());
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)));
        assert_eq!((answer.status.as_u16(), answer.json()), (status, error(INSTANCE)));
        assert_eq!(answer.header("x-sallyport-masked"), Some("1"));
    }
    gateway.http.answer(500, &[("content-type", "text/html")], format!("<p>{masked}</p>"));
    gateway.log.lines();
    let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)));
    assert_eq!(answer.status, 502);
    assert_eq!(inferences(&gateway)[0]["masking"]["masked"], json!({"aws.ec2_instance": 1}));
}

#[test]
fn compressed_answers_are_restored_and_what_cannot_be_read_is_not_passed_on() {
    let mut gateway = gateway("{}");
    let token = gateway.token(&[]);
    let masked = sent(&mut gateway, INSTANCE);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for event in stream(&[&masked]) {
        encoder.write_all(sse(&event).as_bytes()).expect("memory");
    }
    let compressed = encoder.finish().expect("memory");
    let headers = [SSE[0], ("content-encoding", "gzip")];
    gateway.http.answer_in_pieces(
        200,
        &headers,
        compressed.chunks(50).map(|piece| Ok(piece.to_vec().into())).collect(),
    );
    let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)));
    assert_eq!((said(&answer).as_str(), answer.header("content-encoding")), (INSTANCE, None));

    gateway.http.answer(200, &[("content-encoding", "zstd")], "opaque");
    assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask(INSTANCE))).status, 502);
}

#[test]
fn what_cannot_be_masked_is_refused_by_name_and_reaches_no_upstream() {
    let secret = format!("aws_secret_access_key = {}", "aB3/".repeat(10));
    let deep = format!("{{\"model\":\"claude-opus-4-8\",\"messages\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let latin1 = b"{\"model\":\"claude-opus-4-8\",\"messages\":[{\"role\":\"user\",\"content\":\"\xe9\"}]}";
    for (masking, body, code, says) in [
        ("{secrets: block}", ask(&secret).to_string().into_bytes(), json!("secret"), "(secrets.aws_secret_key)"),
        ("{}", deep.clone().into_bytes(), json!("unreadable"), "nested too deeply"),
        ("{}", latin1.to_vec(), json!("unreadable"), "not JSON at byte"),
        ("{}", b"{\"model\":".to_vec(), json!(null), "invalid JSON"),
    ] {
        let mut gateway = gateway(masking);
        let token = gateway.token(&[]);
        let answer = gateway.send(post("/v1/messages").bearer(&token).body(body));
        assert_eq!(answer.status, 400, "{says}");
        let error = &answer.json()["error"];
        let message = error["message"].as_str().expect("a message");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(message.starts_with("masking: ") && message.contains(says), "{message}");
        assert!(gateway.http.requests().is_empty());
        let events = inferences(&gateway);
        assert_eq!(events.first().map_or(&Value::Null, |event| &event["masking"]["refused"]), &code, "{says}");
        if !code.is_null() {
            assert_eq!((&events[0]["status"], &events[0]["upstream"]), (&json!(400), &json!(null)));
            assert_eq!(gateway.gateway.masking_totals().refused, 1);
        }
    }
}

#[test]
fn a_compressed_or_overlong_request_is_refused_and_reaches_no_upstream() {
    let mut gateway = gateway("{}");
    let token = gateway.token(&[]);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(ask(INSTANCE).to_string().as_bytes()).expect("memory");
    let compressed = post("/v1/messages").bearer(&token).header("content-encoding", "gzip");
    let answer = gateway.send(compressed.body(encoder.finish().expect("memory")));
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (400, &json!("masking: invalid JSON")));
    assert!(gateway.http.requests().is_empty());

    let limits = "limits: {max_request_bytes: 67108864}";
    let mut gateway = TestGateway::with_config(&format!("{CONFIG}\nmasking: {{}}\n{limits}"));
    let token = gateway.token(&[]);
    let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask(&"x".repeat(32 * 1024 * 1024))));
    let message = json!("masking: the request body is longer than 33554432 bytes");
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (400, &message));
    assert!(gateway.http.requests().is_empty());
    assert_eq!(inferences(&gateway)[0]["masking"]["refused"], "too_long");
}

#[test]
fn thinking_stays_byte_for_byte_in_both_directions() {
    let mut gateway = gateway("{}");
    let token = gateway.token(&[]);
    let masked = sent(&mut gateway, INSTANCE);
    let thought = format!("{INSTANCE} or {masked}?");
    let thinking = json!({"type": "thinking", "thinking": thought, "signature": "c2lnbmF0dXJl"});
    let question = json!({
        "model": "claude-opus-4-8", "max_tokens": 10,
        "messages": [{"role": "user", "content": INSTANCE}, {"role": "assistant", "content": [thinking]}],
    });
    let answer = |text: &str| json!({"type": "message", "content": [thinking, {"type": "text", "text": text}]});
    gateway.http.answer(200, JSON, answer(&masked).to_string());
    let received = gateway.send(post("/v1/messages").bearer(&token).json(&question));
    assert_eq!(received.json(), answer(INSTANCE));
    let body: Value = serde_json::from_slice(gateway.http.requests()[0].body()).expect("JSON");
    assert_eq!(body["messages"][1]["content"][0], thinking);

    let delta =
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": thought}});
    gateway.http.answer_in_pieces(200, SSE, vec![event(&delta)]);
    let received = gateway.send(post("/v1/messages").bearer(&token).json(&question));
    assert_eq!(received.text(), sse(&delta));
}

#[test]
fn without_a_key_nothing_leaves_and_a_known_key_goes_on_working() {
    let mut gateway = gateway("{}");
    let token = gateway.token(&[]);
    gateway.key_value.is_down.set(true);
    let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)));
    assert_eq!(answer.status, 503);
    assert!(answer.json()["error"]["message"].as_str().expect("a message").starts_with("masking: "));
    assert!(gateway.http.requests().is_empty());
    assert_eq!(inferences(&gateway)[0]["masking"]["refused"], "key_unavailable");

    gateway.key_value.is_down.set(false);
    let masked = sent(&mut gateway, INSTANCE);
    gateway.key_value.is_down.set(true);
    gateway.clock.advance(Duration::from_mins(10));
    assert_eq!(sent(&mut gateway, INSTANCE), masked);
}

#[test]
fn upstreams_and_groups_decide_whose_requests_are_masked() {
    const UPSTREAMS: &str = "
upstreams:
  - {name: a, provider: anthropic, base_url: 'https://a.example.test', auth: {api_key: credential-a}}
  - {name: b, provider: anthropic, base_url: 'https://b.example.test', auth: {api_key: credential-b}}
masking: {upstreams: [b], groups: {skip: [trusted]}, secrets: block}
";
    let config = format!("{}{UPSTREAMS}", CONFIG.split("upstreams:").next().expect("the rest"));
    let mut gateway = TestGateway::with_config(&config);
    // The first upstream may read it, the second not.
    for (group, leaves) in [("others", false), ("trusted", true)] {
        let token = gateway.token(&[group]);
        gateway.http.answer(500, JSON, "{}");
        gateway.http.answer(200, JSON, "{}");
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)));
        let requests = gateway.http.requests();
        assert_eq!(content(requests[0].body()), INSTANCE);
        assert_eq!(content(requests[1].body()) == INSTANCE, leaves, "{group}");
        assert_eq!(answer.header("x-sallyport-masked").is_some(), !leaves, "{group}");
        assert_eq!(inferences(&gateway)[0].get("masking").is_some(), !leaves, "{group}");
    }
    // What is refused is refused only for the upstream that must not read it.
    let secret = format!("aws_secret_access_key = {}", "aB3/".repeat(10));
    let token = gateway.token(&[]);
    gateway.http.answer(200, JSON, "{}");
    assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask(&secret))).status, 200);
    gateway.http.answer(500, JSON, "{}");
    assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask(&secret))).status, 400);
}

#[test]
fn shadow_counts_and_changes_nothing_and_off_does_nothing() {
    for (masking, receipt) in [
        (
            "{mode: shadow, secrets: block}",
            json!({"mode": "shadow", "masked": {"aws.ec2_instance": 1}, "restored": 0, "unknown": 0}),
        ),
        ("{mode: off}", Value::Null),
    ] {
        let mut gateway = gateway(masking);
        let token = gateway.token(&[]);
        gateway.http.answer_in_pieces(200, SSE, stream(&[INSTANCE]).iter().map(event).collect());
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)));
        assert_eq!((said(&answer).as_str(), answer.header("x-sallyport-masked")), (INSTANCE, None));
        assert!(answer.is_relayed, "nobody reads along");
        assert_eq!(content(gateway.http.requests()[0].body()), INSTANCE);
        assert_eq!(inferences(&gateway)[0]["masking"], receipt);
    }
    let mut gateway = gateway("{mode: shadow}");
    gateway.key_value.is_down.set(true);
    assert_eq!(sent(&mut gateway, INSTANCE), INSTANCE);
}

#[test]
fn a_new_key_takes_over_on_all_replicas_at_once_and_breaks_no_answer_in_flight() {
    let mut first = gateway("{}");
    let mut second = first.replica();
    let masked = sent(&mut first, INSTANCE);
    assert_eq!(sent(&mut second, INSTANCE), masked, "one key for all replicas");

    let token = first.token(&[]);
    first.http.answer_in_pieces(200, SSE, stream(&[&masked]).iter().map(event).collect());
    let begun = first.begin(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)));
    let rotated = first.control("keys", &json!({"action": "rotate", "ring": "masking"}));
    assert_eq!(rotated["keys"].as_array().expect("keys").len(), 2);
    assert_eq!(first.control("keys", &json!({"action": "list", "ring": "masking"})), rotated);

    first.clock.advance(Duration::from_secs(61));
    assert_eq!(sent(&mut second, INSTANCE), masked, "the old key, until everybody knows the new one");
    first.clock.advance(Duration::from_secs(59));
    let other = sent(&mut first, INSTANCE);
    assert_ne!(other, masked);
    assert_eq!(sent(&mut second, INSTANCE), other);
    assert_eq!(said(&first.end(begun)), INSTANCE);
}

#[test]
fn an_answer_without_usage_is_counted_by_its_masked_request() {
    let mut gateway = TestGateway::with_config(&format!("{ADMIN}\nmasking: {{}}"));
    let token = gateway.token(&[]);
    gateway.http.answer(200, JSON, "{}");
    gateway.http.answer(200, JSON, r#"{"input_tokens":2000}"#);
    gateway.send(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)));
    let requests = gateway.http.requests();
    assert_eq!(requests[1].uri().path(), "/v1/messages/count_tokens");
    assert_eq!(content(requests[0].body()), content(requests[1].body()));
    assert_ne!(content(requests[1].body()), INSTANCE);
}

#[test]
fn every_kind_of_upstream_gets_masked_requests_and_gives_restored_answers() {
    const AWS: &str = "auth: {aws_access_key_id: placeholder, aws_secret_access_key: placeholder}";
    let (opus, google) = ("claude-opus-4-8", "auth: {access_token: placeholder}");
    for upstream in [
        format!("{{name: a, provider: bedrock, region: us-east-1, {AWS}}}"),
        format!("{{name: a, provider: mantle, region: us-east-1, models: [{opus}], {AWS}}}"),
        format!("{{name: a, provider: anthropicAws, region: us-east-1, workspace_id: w, {AWS}}}"),
        format!("{{name: a, provider: anthropicGoogleCloud, project_id: p, workspace_id: w, {google}}}"),
        format!("{{name: a, provider: vertex, region: global, project_id: p, {google}}}"),
        "{name: a, provider: foundry, resource: res, auth: {api_key: placeholder}}".to_owned(),
    ] {
        let head = CONFIG.split("upstreams:").next().expect("the rest");
        let config = format!("{head}\nupstreams: [{upstream}]\nmasking: {{}}");
        let mut gateway = TestGateway::with_config(&config);
        let token = gateway.token(&[]);
        let masked = sent(&mut gateway, INSTANCE);
        assert_ne!(masked, INSTANCE, "{upstream}");

        let message = |text: &str| json!({"type": "message", "content": [{"type": "text", "text": text}]});
        gateway.http.answer(200, JSON, message(&masked).to_string());
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)));
        assert_eq!((answer.json(), answer.header("x-sallyport-masked")), (message(INSTANCE), Some("1")), "{upstream}");

        let mut question = ask(INSTANCE);
        question["stream"] = json!(true);
        let (start, end) = masked.split_at(6);
        let events = stream(&[start, end]);
        if upstream.contains("bedrock") {
            let frames = events.iter().map(|event| Ok(frame(event))).collect();
            gateway.http.answer_in_pieces(200, &[("content-type", "application/vnd.amazon.eventstream")], frames);
        } else {
            gateway.http.answer_in_pieces(200, SSE, events.iter().map(event).collect());
        }
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&question));
        assert_eq!((said(&answer).as_str(), answer.header("x-sallyport-masked")), (INSTANCE, Some("1")), "{upstream}");

        let error = json!({"type": "error", "error": {"type": "invalid_request_error", "message": masked}});
        gateway.http.answer(400, JSON, error.to_string());
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask(INSTANCE)));
        assert_eq!(answer.json()["error"]["message"], INSTANCE, "{upstream}");
        for request in gateway.http.requests() {
            assert!(!String::from_utf8_lossy(request.body()).contains(INSTANCE), "{upstream}");
        }
        assert_eq!(inferences(&gateway).len(), 4, "{upstream}");
    }
}

/// An event as Bedrock sends it.
fn frame(event: &Value) -> Bytes {
    let payload = json!({"bytes": STANDARD.encode(event.to_string())}).to_string();
    let header = |name: &'static str, value: &'static str| Header::new(name, HeaderValue::String(value.into()));
    let message = Message::new(payload)
        .add_header(header(":message-type", "event"))
        .add_header(header(":event-type", "chunk"))
        .add_header(header(":content-type", "application/json"));
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).expect("a frame");
    bytes.into()
}

#[test]
fn nobody_learns_an_identifier_from_the_log() {
    let mut gateway = gateway("{secrets: block}");
    let token = gateway.token(&[]);
    let secret = "aB3/".repeat(10);
    sent(&mut gateway, &format!("{INSTANCE} {ADDRESS}"));
    gateway.send(post("/v1/messages").bearer(&token).json(&ask(&format!("aws_secret_access_key = {secret}"))));
    let log = gateway.log.lines().concat();
    assert!(log.contains("aws.ec2_instance"), "{log}");
    assert!(!log.contains(INSTANCE) && !log.contains(ADDRESS) && !log.contains(&secret), "{log}");
    assert_eq!(Rc::strong_count(&gateway.gateway), 1, "nothing goes on");
}
