//! Bodies that nobody writes on purpose, or only on purpose: nothing may leave because JSON was written in an unusual way.

use bytes::Bytes;
use sallyport::mask::{Refused, Settings};
use serde_json::Value;

use crate::masker;

const INSTANCE: &str = "i-0a1b2c3d4e5f60718";

/// What leaves, for a body that can be masked.
fn sent(body: impl Into<Bytes>) -> String {
    let masked = masker(&Settings::default()).mask_request(&body.into()).expect("a request that can be masked");
    String::from_utf8(masked.body.to_vec()).expect("UTF-8")
}

fn refused(body: impl Into<Bytes>) -> Refused {
    masker(&Settings::default()).mask_request(&body.into()).expect_err("a request that must not leave")
}

/// Every value that `text` stands for, with its escapes undone.
fn read(text: &str) -> String {
    let mut said = String::new();
    collect(&serde_json::from_str(text).expect("JSON"), &mut said);
    said
}

fn collect(value: &Value, said: &mut String) {
    match value {
        Value::String(text) => said.push_str(text),
        Value::Array(elements) => elements.iter().for_each(|element| collect(element, said)),
        Value::Object(members) => members.iter().for_each(|(name, value)| {
            said.push_str(name);
            collect(value, said);
        }),
        _ => {}
    }
}

#[test]
fn all_of_several_members_of_one_name_are_masked() {
    let id = INSTANCE;
    for body in [
        format!(r#"{{"messages":[{{"content":"{id}"}}],"messages":[{{"content":"b {id}"}}]}}"#),
        format!(r#"{{"system":"{id}","system":"b"}}"#),
        format!(r#"{{"messages":[{{"content":[{{"type":"text","text":"{id}","text":"b"}}]}}]}}"#),
        format!(r#"{{"messages":[{{"content":[{{"source":{{"type":"text","data":"{id}","data":"b"}}}}]}}]}}"#),
        format!(r#"{{"messages":[{{"content":[{{"source":{{"type":"text","data":"{id}","type":"base64"}}}}]}}]}}"#),
        format!(r#"{{"messages":[{{"content":[{{"source":{{"type":"base64","data":"{id}","type":"text"}}}}]}}]}}"#),
        format!(r#"{{"messages":[{{"content":[{{"source":{{"data":"{id}"}}}}]}}]}}"#),
    ] {
        let sent = sent(body.clone());
        assert!(!sent.contains(id), "{body} left as {sent}");
    }
}

#[test]
fn no_escape_hides_an_identifier_or_what_a_member_is() {
    let escaped = INSTANCE.bytes().map(|byte| format!("\\u{byte:04x}")).collect::<Vec<_>>().concat();
    let upper = INSTANCE.bytes().map(|byte| format!("\\u{byte:04X}")).collect::<Vec<_>>().concat();
    for body in [
        format!(r#"{{"system":"{escaped}"}}"#),
        format!(r#"{{"system":" {upper}","x":"\n{upper}"}}"#),
        r#"{"system":"i\u002d0a1b2c3d4e5f60718"}"#.to_owned(),
        format!(r#"{{"s\u0079stem":[{{"t\u0065xt":"{INSTANCE}"}}]}}"#),
        format!(r#"{{"messages":[{{"content":[{{"source":{{"type":"te\u0078t","data":"{INSTANCE}"}}}}]}}]}}"#),
        format!(r#"{{"messages":[{{"content":[{{"source":{{"t\u0079pe":"text","d\u0061ta":"{INSTANCE}"}}}}]}}]}}"#),
        format!(r#"{{"messages":[{{"content":[{{"type":"tool_use","input":{{"{escaped}":1}}}}]}}]}}"#),
        format!(r#"{{"system":"\u0000{INSTANCE}\u0000"}}"#),
        format!(r#"{{"system":"\ud800{INSTANCE}\udc00"}}"#),
        format!(r#"{{"system":"\ud83d\ude00{INSTANCE}\ud83d"}}"#),
        format!(r#"{{"system":"\u00e9{INSTANCE}é\/{INSTANCE}\"{INSTANCE}\\{INSTANCE}"}}"#),
    ] {
        let sent = sent(body.clone());
        // Lone surrogates are no text for serde_json: without them, it may judge.
        let judged = ["\\ud800", "\\udc00"].iter().fold(sent.clone(), |text, lone| text.replace(lone, ""));
        let judged = judged.replace("\\ud83d\"", "\"");
        assert!(!read(&judged).contains(INSTANCE), "{body} left as {sent}");
    }
}

#[test]
fn what_is_not_edited_stays_however_odd_it_is() {
    let odd = r#""a\ud800b\u0000\/\u00E9" : [ 1.00e+0 , -0, true,{"":[]} ]"#;
    let sent = sent(format!("\r\n\t{{ {odd} ,\"system\" :\"{INSTANCE}\"}} "));
    assert!(sent.contains(odd) && sent.starts_with("\r\n\t{ ") && sent.ends_with("\"} "), "{sent}");
    assert!(!sent.contains(INSTANCE));
}

#[test]
fn a_huge_string_is_masked_to_its_end() {
    let lines = format!("{INSTANCE} is there\\n").repeat(100_000);
    let sent = sent(format!(r#"{{"system":"{lines}"}}"#));
    assert!(!sent.contains(INSTANCE));
    assert_eq!(sent.len(), lines.len() + r#"{"system":""}"#.len(), "tokens of the same length");
}

#[test]
fn what_is_not_json_in_utf8_is_refused() {
    let utf16: Vec<u8> = "{\"system\":\"i-0a1b2c3d4e5f60718\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    for body in [
        utf16,
        b"\xef\xbb\xbf{}".to_vec(),
        b"{\"system\":\"\xff\"}".to_vec(),
        b"{\"system\":\"\xed\xa0\x80\"}".to_vec(),
        b"{\"system\":\"a\nb\"}".to_vec(),
        b"{\"system\":\"a\x00b\"}".to_vec(),
        b"{\"system\":\"\\u12\"}".to_vec(),
        b"{\"system\":\"".to_vec(),
        b"{\"system\":\"a\"} {\"system\":\"b\"}".to_vec(),
        b"\x1f\x8b\x08\x00".to_vec(),
        [&b"{\"a\":"[..], &b"[".repeat(128), &b"]".repeat(128), b"}"].concat(),
    ] {
        let refused = refused(body.clone());
        assert!(matches!(refused, Refused::Unreadable(_)), "{:?}: {refused}", String::from_utf8_lossy(&body));
    }
}

#[test]
fn signed_and_encrypted_values_stay_even_where_they_hold_what_looks_like_an_identifier() {
    let body = format!(
        r#"{{"model":"{INSTANCE}","messages":[{{"role":"assistant","content":[{{"type":"thinking","thinking":"{INSTANCE} 10.0.1.5","signature":"{INSTANCE}"}},{{"type":"redacted_thinking","data":"{INSTANCE}"}},{{"type":"tool_use","id":"{INSTANCE}","name":"{INSTANCE}","input":{{}}}},{{"type":"tool_result","tool_use_id":"{INSTANCE}","content":[{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{INSTANCE}"}}}}]}},{{"type":"web_search_result","encrypted_content":"{INSTANCE}","cache_control":{{"type":"{INSTANCE}"}}}}]}}]}}"#
    );
    assert_eq!(sent(body.clone()), body);
}
