//! What leaves contains no identifier, and what comes back is what would have come without masking.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sallyport::mask::{Masked, Secrets, Settings};
use serde_json::{Value, json};

use crate::conversation::{Conversation, generate};
use crate::masker;

fn masked(conversation: &Conversation) -> Masked {
    masker(&Settings { secrets: Secrets::Mask, ..Settings::default() }).mask_request(&conversation.body).unwrap()
}

#[test]
fn none_of_two_thousand_identifiers_leaves() {
    for seed in 0..3 {
        let conversation = generate(seed, 2000);
        let masked = masked(&conversation);
        let sent = std::str::from_utf8(&masked.body).unwrap();
        let left: Vec<_> = conversation.written.iter().filter(|(_, value)| sent.contains(value.as_str())).collect();
        assert!(left.is_empty(), "seed {seed}: {left:?}");

        let mut written = BTreeMap::<String, u64>::new();
        conversation.written.iter().for_each(|(kind, _)| *written.entry((*kind).to_owned()).or_default() += 1);
        assert_eq!(masked.receipt.masked, written, "seed {seed}: each once, and nothing else");
    }
}

#[test]
fn what_is_not_an_identifier_leaves_byte_for_byte() {
    let conversation = generate(7, 300);
    let body = String::from_utf8(conversation.body.to_vec()).unwrap();
    // Spacing, number forms and escapes that a serialiser would not write.
    let body = body.replace("\"temperature\":1.0", " \"temperature\" :\t1.00e0 ").replace("fail", "f\\u0061il");
    let masked = masker(&Settings::default()).mask_request(&body.clone().into()).unwrap();
    let sent = std::str::from_utf8(&masked.body).unwrap();
    for kept in [
        " \"temperature\" :\t1.00e0 ",
        "f\\u0061il",
        "\"thinking\":\"They ask about their network. \\\"Quoted\\\" é.\",\"signature\":\"c2lnbmF0dXJl\"",
    ] {
        assert!(sent.contains(kept), "{kept}");
    }
    let shape = |body: &str| -> Vec<String> {
        let body: Value = serde_json::from_str(body).unwrap();
        let mut keys = Vec::new();
        collect_keys(&body, &mut keys);
        keys
    };
    assert_eq!(shape(sent), shape(&body), "members keep their order");
}

fn collect_keys(value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            keys.push(key.clone());
            collect_keys(value, keys);
        }),
        Value::Array(elements) => elements.iter().for_each(|element| collect_keys(element, keys)),
        _ => {}
    }
}

#[test]
fn an_echo_comes_back_whole_in_one_piece_and_as_a_stream() {
    let conversation = generate(11, 2000);
    let masked = masked(&conversation);
    let (asked, sent): (Value, Value) =
        (serde_json::from_slice(&conversation.body).unwrap(), serde_json::from_slice(&masked.body).unwrap());
    for (asked, sent) in asked["messages"].as_array().unwrap().iter().zip(sent["messages"].as_array().unwrap()) {
        let answer = |content: &Value| json!({"id": "msg_1", "type": "message", "content": content}).to_string();
        let restored = masked.restorer.json(answer(&sent["content"]).as_bytes());
        assert_eq!(String::from_utf8(restored).unwrap(), answer(&asked["content"]));
    }

    let said = sent["messages"].to_string();
    let expected = asked["messages"].to_string();
    for size in [1, 3, 17, 64, 1000] {
        let mut restorer = masked.restorer.sse();
        let mut received = Vec::new();
        for piece in said.chars().collect::<Vec<_>>().chunks(size) {
            let text: String = piece.iter().collect();
            let data =
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}});
            received.extend(restorer.push(format!("event: content_block_delta\ndata: {data}\n\n").as_bytes()));
        }
        let (rest, receipt) = restorer.finish();
        received.extend(rest);
        let text: String = (std::str::from_utf8(&received).unwrap().lines())
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str::<Value>(data).unwrap()["delta"]["text"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(text, expected, "pieces of {size}");
        assert_eq!(receipt.unknown, 0);
        assert!(receipt.restored >= 1900, "{}", receipt.restored);
    }
}

#[test]
fn two_turns_of_a_conversation_share_the_masked_prefix() {
    let conversation = generate(5, 400);
    let full: Value = serde_json::from_slice(&conversation.body).unwrap();
    let mut earlier = full.clone();
    earlier["messages"].as_array_mut().unwrap().truncate(6);
    // The cache reads tools, system and messages; its prefix is the beginning of each.
    let (masker, other) = (masker(&Settings::default()), masker(&Settings::default()));
    let sent: Value = serde_json::from_slice(&masker.mask_request(&full.to_string().into()).unwrap().body).unwrap();
    let before: Value = serde_json::from_slice(&other.mask_request(&earlier.to_string().into()).unwrap().body).unwrap();
    assert_eq!(sent["system"].to_string(), before["system"].to_string());
    assert_eq!(sent["tools"].to_string(), before["tools"].to_string());
    let messages = sent["messages"].to_string();
    let prefix = before["messages"].to_string();
    assert!(messages.starts_with(prefix.strip_suffix(']').unwrap()));
    assert_ne!(prefix, earlier["messages"].to_string());
}

#[test]
fn shadow_mode_counts_and_changes_nothing() {
    let conversation = generate(3, 100);
    let settings = Settings { mode: sallyport::mask::Mode::Shadow, ..Settings::default() };
    let masked = masker(&settings).mask_request(&conversation.body).unwrap();
    assert_eq!(masked.body, conversation.body);
    assert!(masked.receipt.total() >= 100);
    assert!(masked.restorer.is_idle());
    assert!(masker(&settings).mask_request(&"not JSON".into()).is_ok());
}

#[test]
fn what_cannot_be_masked_is_refused() {
    let conversation = generate(3, 100);
    let settings = Settings { max_body_bytes: 1000, ..Settings::default() };
    let refusal =
        |settings: &Settings, body: &bytes::Bytes| masker(settings).mask_request(body).unwrap_err().to_string();
    assert!(refusal(&settings, &conversation.body).starts_with("masking: "));
    assert!(refusal(&Settings::default(), &"not JSON".into()).starts_with("masking: "));
    assert!(refusal(&Settings::default(), &"[".repeat(1000).into()).starts_with("masking: "));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_put_together_comes_back(pieces in prop::collection::vec(prop::sample::select(vec![
        "i-0a1b2c3d4e5f60718", "vol-1a2b3c4d", "10.0.1.5", "10.0.1.", "10.0.0.0/16", "10.20.0.0/14", "192.168.3.4", "ip-10-0-1-5",
        "-10-0-1-", "fd12:3456:789a:1::1", "fd12:3456:789a::/48", "arn:aws:iam::123456789012:role/deployer", "123456789012",
        "account ", "1234-5678-9012", "s3://acme-payments", "acme-payments", ".s3.eu-west-1.amazonaws.com", "orders.c9akciq32xyz.eu-west-1.rds.amazonaws.com",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com/shop", "PRJ-123456", " ", "\n", "\\n", "\\", "\"", "/", ".", ":", "-", "_", "a", "0", "5", "é", "%2F",
        "\u{1b}[32m", "{", "}", "$", "*", ",", "version ",
    ]), 0..12)) {
        let custom = vec![sallyport::mask::CustomPattern { name: "project".to_owned(), pattern: "PRJ-[0-9]{6}".to_owned() }];
        let settings = Settings { secrets: Secrets::Mask, custom, ..Settings::default() };
        thread_local!(static MASKER: std::cell::OnceCell<sallyport::mask::Masker> = const { std::cell::OnceCell::new() });
        let text = pieces.concat();
        let (shown, restored) = MASKER.with(|masker| {
            let (masked, shown) = crate::mask(masker.get_or_init(|| crate::masker(&settings)), &text);
            let restored = crate::restore(&masked, &shown);
            (shown, restored)
        });
        prop_assert_eq!(restored, text, "{}", shown);
    }
}
