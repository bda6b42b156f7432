//! Restoring streams: every cut, every kind of event.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::mask::{CustomPattern, Masked, Masker, Settings};

const INSTANCE: &str = "i-0123456789abcdef0";
const BUCKET: &str = "acme-payments-logs";

fn masked() -> Masked {
    let custom = vec![CustomPattern { name: "path".to_owned(), pattern: r#"secret\\"[a-z]+é\n"#.to_owned() }];
    let rules = Settings { custom, ..Settings::default() }.compile().unwrap();
    let body = json!({"model": "m", "messages": [{"role": "user", "content":
        format!("{INSTANCE} at 10.20.30.40 in vpc-1a2b3c4d, s3://{BUCKET}/x, account 012345678901, secret\\\"quotedé\n")}]});
    Masker::new(rules, [9; 32]).mask_request(&Bytes::from(body.to_string())).unwrap()
}

/// What the model was shown instead of the identifiers.
fn shown(masked: &Masked) -> String {
    let body: Value = serde_json::from_slice(&masked.body).unwrap();
    body["messages"][0]["content"].as_str().unwrap().to_owned()
}

fn event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

fn delta(index: u64, kind: &str, member: &str, text: &str) -> String {
    event(
        "content_block_delta",
        &json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, member: text}}),
    )
}

/// A stream that says `text` in pieces of `size` characters: as text, and as a tool's input.
fn stream(text: &str, size: usize) -> String {
    let pieces = |text: &str| -> Vec<String> {
        text.chars().collect::<Vec<_>>().chunks(size).map(|piece| piece.iter().collect()).collect()
    };
    let mut stream = event(
        "message_start",
        &json!({"type": "message_start", "message": {"id": "msg_1", "model": "m", "content": []}}),
    );
    stream += ": a comment\n\n";
    stream += &event(
        "content_block_start",
        &json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
    );
    for piece in pieces(text) {
        stream += &delta(0, "text_delta", "text", &piece);
        stream += "event: ping\ndata: {\"type\": \"ping\"}\n\n";
    }
    stream += &event("content_block_stop", &json!({"type": "content_block_stop", "index": 0}));
    stream += &delta(1, "thinking_delta", "thinking", text);
    for piece in pieces(&json!({"command": text, "id": 1}).to_string()) {
        stream += &delta(2, "input_json_delta", "partial_json", &piece);
    }
    stream += &event("content_block_stop", &json!({"type": "content_block_stop", "index": 2}));
    stream += "event: of_tomorrow\ndata: {\"type\":\"of_tomorrow\",\"text\":\"x\"}\n\n";
    stream += &event("message_stop", &json!({"type": "message_stop"}));
    stream
}

/// The text of each block, and every event that is no delta of text.
fn read(stream: &[u8]) -> (String, String, Vec<String>) {
    let (mut text, mut input, mut others) = (String::new(), String::new(), Vec::new());
    for event in std::str::from_utf8(stream).unwrap().split("\n\n").filter(|event| !event.is_empty()) {
        let data = event.split("data: ").nth(1).map_or(Value::Null, |data| serde_json::from_str(data).unwrap());
        match (data["delta"]["text"].as_str(), data["delta"]["partial_json"].as_str()) {
            (Some(piece), _) => text += piece,
            (_, Some(piece)) => input += piece,
            _ => others.push(event.to_owned()),
        }
    }
    (text, input, others)
}

fn restore(masked: &Masked, pieces: &[&[u8]]) -> Vec<u8> {
    let mut restorer = masked.restorer.sse();
    let mut out: Vec<u8> = pieces.iter().flat_map(|piece| restorer.push(piece)).collect();
    out.extend(restorer.finish().0);
    out
}

const PLAIN: &str = "i-0123456789abcdef0 at 10.20.30.40 in vpc-1a2b3c4d, s3://acme-payments-logs/x, account 012345678901, secret\\\"quotedé\n";

#[test]
fn what_was_masked_is_restored_however_the_model_cuts_it() {
    let masked = masked();
    let shown = shown(&masked);
    for identifier in [INSTANCE, BUCKET, "10.20.30", "1a2b3c4d", "012345678901", "quoted"] {
        assert!(!shown.contains(identifier), "{identifier} in {shown}");
    }
    for size in 1..80 {
        let sent = stream(&shown, size);
        let (text, input, others) = read(&restore(&masked, &[sent.as_bytes()]));
        assert_eq!(text, PLAIN, "pieces of {size}");
        assert_eq!(serde_json::from_str::<Value>(&input).unwrap()["command"], PLAIN, "pieces of {size}");
        assert_eq!(others, read(sent.as_bytes()).2, "pieces of {size}");
    }
}

#[test]
fn the_bytes_of_the_stream_may_be_cut_anywhere() {
    let masked = masked();
    let stream = stream(&shown(&masked), 7).replace('\n', "\r\n").into_bytes();
    let whole = restore(&masked, &[&stream]);
    for cut in 0..stream.len() {
        assert_eq!(restore(&masked, &[&stream[..cut], &stream[cut..]]), whole, "cut at {cut}");
    }
    let single: Vec<_> = stream.chunks(1).collect();
    assert_eq!(restore(&masked, &single), whole);
}

#[test]
fn escapes_in_a_tools_input_may_be_cut_anywhere() {
    let masked = masked();
    let instance = shown(&masked)[..19].to_owned();
    let escaped = instance.bytes().map(|byte| format!("\\u{byte:04x}")).collect::<Vec<_>>().concat();
    let input = format!(r#"{{"a\"":"\\{escaped}\n\/{instance}\\"}}"#);
    for size in 1..input.len() {
        let mut sent = String::new();
        for piece in input.as_bytes().chunks(size) {
            sent += &delta(0, "input_json_delta", "partial_json", std::str::from_utf8(piece).unwrap());
        }
        sent += &event("content_block_stop", &json!({"type": "content_block_stop", "index": 0}));
        let (_, restored, _) = read(&restore(&masked, &[sent.as_bytes()]));
        assert_eq!(restored, format!(r#"{{"a\"":"\\{INSTANCE}\n\/{INSTANCE}\\"}}"#), "pieces of {size}");
    }
}

#[test]
fn a_number_that_is_a_token_stays_json() {
    let masked = masked();
    let account = shown(&masked).split("account ").nth(1).unwrap()[..12].to_owned();
    let sent = delta(0, "input_json_delta", "partial_json", &format!(r#"{{"n":{account},"s":"{account}"}}"#));
    let (_, restored, _) = read(&restore(&masked, &[sent.as_bytes()]));
    assert_eq!(restored, format!(r#"{{"n":{account},"s":"012345678901"}}"#), "the original has a leading zero");
}

#[test]
fn only_what_may_become_a_token_waits() {
    let masked = masked();
    let shown = shown(&masked);
    let mut restorer = masked.restorer.sse();
    let passed = |bytes: Vec<u8>| read(&bytes).0;
    assert_eq!(passed(restorer.push(delta(0, "text_delta", "text", "It is ").as_bytes())), "It is ");
    assert_eq!(passed(restorer.push(delta(0, "text_delta", "text", &format!("x {}", &shown[..10])).as_bytes())), "x ");
    assert_eq!(
        restorer.push(b"event: ping\ndata: {\"type\":\"ping\"}\n\n"),
        b"event: ping\ndata: {\"type\":\"ping\"}\n\n"
    );
    assert_eq!(passed(restorer.push(delta(0, "text_delta", "text", &shown[10..19]).as_bytes())), INSTANCE);
    assert_eq!(passed(restorer.push(delta(0, "text_delta", "text", "end i-").as_bytes())), "end ");
    let stop = event("content_block_stop", &json!({"type": "content_block_stop", "index": 0}));
    let flushed = restorer.push(stop.as_bytes());
    assert_eq!(flushed, [delta(0, "text_delta", "text", "i-").as_bytes(), stop.as_bytes()].concat());
    assert_eq!(restorer.finish().1.restored, 1);
}

#[test]
fn a_neighbour_in_a_masked_network_is_restored_and_a_foreign_token_is_counted() {
    let masked = masked();
    let address = shown(&masked).split("at ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let network = address.rsplit_once('.').unwrap().0.to_owned();
    let rules = Settings::default().compile().unwrap();
    let foreign = Masker::new(rules, [9; 32])
        .mask_request(&Bytes::from(r#"{"system":"vol-0aaaaaaaaaaaaaaaa"}"#.to_owned()))
        .unwrap();
    let foreign = String::from_utf8(foreign.body.to_vec()).unwrap()[11..32].to_owned();
    let said = format!("{network}.41, {network}.0/24, 9.{network}.1, {foreign}.");
    let mut restorer = masked.restorer.sse();
    let mut out = restorer.push(delta(0, "text_delta", "text", &said).as_bytes());
    let (rest, receipt) = restorer.finish();
    out.extend(rest);
    assert_eq!(read(&out).0, format!("10.20.30.41, 10.20.30.0/24, 9.{network}.1, {foreign}."));
    assert_eq!((receipt.restored, receipt.unknown), (2, 1));
}

#[test]
fn a_stream_that_breaks_off_gives_what_was_held_back() {
    let masked = masked();
    let mut restorer = masked.restorer.sse();
    let out = restorer.push(delta(0, "text_delta", "text", "the i-0").as_bytes());
    assert_eq!(read(&out).0, "the ");
    assert!(restorer.push(b"event: content_block_de").is_empty());
    let rest = String::from_utf8(restorer.finish().0).unwrap();
    assert_eq!(rest, format!("{}event: content_block_de", delta(0, "text_delta", "text", "i-0")));
}

#[test]
fn an_error_event_is_restored_after_what_was_held_back() {
    let masked = masked();
    let instance = shown(&masked)[..19].to_owned();
    let error = |name: &str| event("error", &json!({"type": "error", "error": {"type": "api_error", "message": name}}));
    let sent = delta(0, "text_delta", "text", "i-") + &error(&instance);
    let expected = delta(0, "text_delta", "text", "i-") + &error(INSTANCE);
    assert_eq!(String::from_utf8(restore(&masked, &[sent.as_bytes()])).unwrap(), expected);
}

proptest! {
    #[test]
    fn any_bytes_pass_in_order_and_cuts_do_not_matter(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "\n", "\r", "\r\n", "\n\n", "event: x\n", "data: {}\n\n", "data: {\"type\":\"ping\"}", ":c\n\n", "é", "data: x\ndata: y\n\n", "\u{0}",
        ]), 0..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let masked = masked();
        let stream = pieces.concat().into_bytes();
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]).collect();
        prop_assert_eq!(restore(&masked, &pieces), stream);
    }
}
