//! Whole streams, cut at every byte.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::bedrock::BedrockStream;
use super::cloud_sse::CloudSse;
use super::*;

const ERROR: &str = "event: error\ndata: {\"type\":\"error\",\"request_id\":\"id-1\",\"error\":{\"type\":\"api_error\",\
                     \"message\":\"upstream error\"}}\n\n";

/// Feeds `input` in pieces that end at `cuts`.
fn translate(mut translator: Box<dyn Translator>, input: &[u8], cuts: &[usize], end: End) -> String {
    let mut output = Vec::new();
    let mut from = 0;
    for to in cuts.iter().copied().chain([input.len()]) {
        let translated = translator.push(&input[from..to]);
        output.extend_from_slice(&translated.output);
        from = to;
        if translated.is_over {
            assert!(translator.push(b"more").output.is_empty());
            break;
        }
    }
    output.extend_from_slice(&translator.finish(end));
    String::from_utf8(output).unwrap()
}

/// The output, which must not depend on where the input is cut.
fn cut_everywhere(make: impl Fn() -> Box<dyn Translator>, input: &[u8], end: End) -> String {
    let whole = translate(make(), input, &[], end);
    for cut in 1..input.len() {
        assert_eq!(translate(make(), input, &[cut], end), whole, "cut at {cut}");
    }
    let every: Vec<usize> = (1..input.len()).collect();
    assert_eq!(translate(make(), input, &every, end), whole);
    whole
}

fn sse(input: &str, end: End) -> String {
    cut_everywhere(|| Box::new(CloudSse::new("id-1")), input.as_bytes(), end)
}

fn bedrock(input: &[u8], end: End) -> String {
    cut_everywhere(|| Box::new(BedrockStream::new("id-1")), input, end)
}

fn frame(message_type: &'static str, kind: &'static str, payload: &str) -> Vec<u8> {
    let name = if message_type == "exception" { ":exception-type" } else { ":event-type" };
    let message = Message::new(Bytes::copy_from_slice(payload.as_bytes()))
        .add_header(Header::new(":content-type", HeaderValue::String("application/json".into())))
        .add_header(Header::new(":message-type", HeaderValue::String(message_type.into())))
        .add_header(Header::new(name, HeaderValue::String(kind.into())));
    let mut bytes = Vec::new();
    write_message_to(&message, &mut bytes).unwrap();
    bytes
}

fn chunk(json: &str) -> Vec<u8> {
    let encoded = STANDARD.encode(json);
    frame("event", "chunk", &format!(r#"{{"bytes":"{encoded}","p":"padding"}}"#))
}

/// Text, a tool, thinking, long Unicode, and members that nobody knows yet.
const EVENTS: [(&str, &str); 10] = [
    ("message_start", r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":3}},"new":1.0}"#),
    (
        "content_block_start",
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":""}}"#,
    ),
    (
        "content_block_delta",
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"hm"}}"#,
    ),
    (
        "content_block_delta",
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"c2ln"}}"#,
    ),
    ("content_block_stop", r#"{"type":"content_block_stop","index":0}"#),
    (
        "content_block_delta",
        r#"{"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"äöü 漢字 😀 \ud83d\ude00 \n"}}"#,
    ),
    (
        "content_block_delta",
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"a\""}}"#,
    ),
    (
        "content_block_delta",
        r#"{"type":"content_block_delta","index":2,"delta":{"type":"citations_delta","citation":{"x":[]}}}"#,
    ),
    ("message_delta", r#"{"type":"message_delta","delta":{"stop_reason":"new_reason"},"usage":{"output_tokens":12}}"#),
    ("message_stop", r#"{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":3}}"#),
];

fn client_form(events: &[(&str, &str)]) -> String {
    let lines: Vec<String> = events.iter().map(|(name, data)| format!("event: {name}\ndata: {data}\n\n")).collect();
    lines.concat()
}

#[test]
fn bedrock_frames_become_events_unchanged() {
    let mut input: Vec<u8> = EVENTS.iter().flat_map(|(_, data)| chunk(data)).collect();
    input.extend(frame("event", "initial-response", "{}"));
    input.extend(chunk(r#"{"type":"ping"}"#));
    input.extend(chunk(r#"{"type":"event_of_the_future"}"#));
    assert_eq!(bedrock(&input, End::Complete), client_form(&EVENTS));
}

#[test]
fn events_of_clouds_are_written_in_one_form() {
    let mut input: Vec<String> = EVENTS
        .iter()
        .map(|(name, data)| format!(": comment\r\nid: 1\r\nevent:{name}\r\ndata:{data}\r\n\r\n"))
        .collect();
    input.push("event: ping\ndata: {\"type\":\"ping\"}\n\n".to_owned());
    input.push("event: vertex_event\ndata: not even JSON\n\n: comment\n\n".to_owned());
    let input = input.concat();
    assert_eq!(sse(&input, End::Complete), client_form(&EVENTS));
}

#[test]
fn data_on_several_lines_goes_on_one() {
    let input = "event: message_stop\ndata: {\"type\":\ndata: \"message_stop\",\ndata:\ndata: \"x\":\"a\\nb\"}\n\n";
    let output = "event: message_stop\ndata: {\"type\": \"message_stop\",  \"x\":\"a\\nb\"}\n\n";
    assert_eq!(sse(input, End::Complete), output);
}

#[test]
fn an_event_without_a_name_is_named_by_its_data() {
    let input = "data: {\"type\":\"message_stop\"}\n\ndata: {\"type\": \"ping\"}\n\n";
    assert_eq!(sse(input, End::Complete), "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
}

#[test]
fn whatever_goes_wrong_ends_the_stream_with_one_error_that_says_nothing() {
    let start = client_form(&EVENTS[..1]);
    let expected = format!("{start}{ERROR}");
    for broken in [
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"account 1\"}}\n\n",
        "event: content_block_delta\ndata: {\"type\":\n\n",
        "data: {\"type\":\"error\"}\n\n",
    ] {
        let input = format!("{start}{broken}{}", client_form(&EVENTS[9..]));
        assert_eq!(sse(&input, End::Complete), expected, "{broken}");
        assert_eq!(sse(broken, End::Complete), ERROR);
    }
    assert_eq!(sse(&start, End::BrokeOff), expected);

    let first = chunk(EVENTS[0].1);
    let last = chunk(EVENTS[9].1);
    let mut damaged = chunk(EVENTS[1].1);
    *damaged.last_mut().unwrap() ^= 1;
    let mut damaged_length = chunk(EVENTS[1].1);
    damaged_length[0] = 0xff;
    let mut damaged_prelude = chunk(EVENTS[1].1);
    damaged_prelude[9] ^= 1;
    for broken in [
        frame("exception", "throttlingException", r#"{"message":"account 1"}"#),
        frame("error", "", "{}"),
        frame("event", "chunk", r#"{"bytes":"%"}"#),
        frame("event", "chunk", "{}"),
        chunk("{\"type\":"),
        chunk(r#"{"type":"error","error":{"type":"overloaded_error"}}"#),
        damaged,
        damaged_length,
        damaged_prelude,
    ] {
        assert_eq!(bedrock(&[&first[..], &broken, &last].concat(), End::Complete), expected);
    }
    assert_eq!(bedrock(&first, End::BrokeOff), expected);
    assert_eq!(bedrock(&[&first[..], &last[..20]].concat(), End::Complete), expected);
}

#[test]
fn a_stream_that_just_ends_just_ends() {
    assert_eq!(sse(&client_form(&EVENTS[..3]), End::Complete), client_form(&EVENTS[..3]));
    assert_eq!(
        sse(&format!("{}event: message_stop\n", client_form(&EVENTS[..3])), End::Complete),
        client_form(&EVENTS[..3])
    );
    assert_eq!(bedrock(&chunk(EVENTS[0].1), End::Complete), client_form(&EVENTS[..1]));
}

#[test]
fn the_meter_reads_translated_streams() {
    let mut meter = meter::Meter::sse();
    meter.push(client_form(&EVENTS).as_bytes());
    let meter::Metered::Told(usage) = meter.finish() else { panic!("usage was told") };
    assert_eq!((usage.input_tokens, usage.output_tokens), (3, 12));
}
