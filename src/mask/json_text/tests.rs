//! Reading and editing JSON in place.

use super::{Edit, JsonError, MAX_DEPTH, Texts, encode};
use crate::mask::zone::Zone;

fn texts(body: &str, zone: Zone) -> Vec<String> {
    let texts = Texts::read(body.as_bytes(), zone).unwrap();
    texts.strings.iter().map(|piece| String::from_utf8(texts.text[piece.start..piece.end].to_vec()).unwrap()).collect()
}

#[test]
fn strings_are_decoded_and_protocol_values_are_left_out() {
    let body = r#"{"model":"m","system":[{"type":"text","text":"a\n\u0041\ud83d\ude00\/b","cache_control":{"type":"ephemeral"}}],
        "messages":[{"role":"user","content":"hi"},{"role":"assistant","content":[{"type":"thinking","thinking":"t","signature":"s"},
        {"type":"tool_use","id":"toolu_1","name":"Bash","input":{"k":"v","n":[1,-2.5e3,true,null]}}]}]}"#;
    assert_eq!(texts(body, Zone::Request), ["a\nA😀/b", "hi", "k", "v", "n"]);
}

#[test]
fn data_is_text_only_in_a_text_source_wherever_its_type_stands() {
    let body = r#"{"messages":[{"content":[
        {"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AAAA"}},
        {"type":"document","source":{"type":"text","data":"first"},"title":"one"},
        {"type":"document","source":{"data":"second","type":"text"},"title":"two"}]}]}"#;
    assert_eq!(texts(body, Zone::Request), ["first", "one", "second", "two"]);
}

#[test]
fn an_escaped_member_name_is_still_that_name() {
    assert_eq!(texts(r#"{"mod\u0065l":"m","t\u0065xt":"x"}"#, Zone::Request), ["x"]);
}

#[test]
fn edits_replace_exactly_their_bytes() {
    let body = r#"{ "b" : "say \"i-1\"\t\u0069-1 \ud83d\ude00 i-1" , "n":1.0 }"#;
    let texts = Texts::read(body.as_bytes(), Zone::Block).unwrap();
    let edits: Vec<_> = memchr::memmem::find_iter(&texts.text, "i-1")
        .map(|start| Edit { start, end: start + 3, with: b"TOKEN" })
        .collect();
    assert_eq!(edits.len(), 3);
    let edited = String::from_utf8(texts.apply(body.as_bytes(), &edits).0).unwrap();
    assert_eq!(edited, r#"{ "b" : "say \"TOKEN\"\tTOKEN \ud83d\ude00 TOKEN" , "n":1.0 }"#);
    assert_eq!(texts.apply(body.as_bytes(), &[]).0, body.as_bytes());
}

#[test]
fn it_accepts_what_serde_json_accepts_and_nothing_else() {
    for body in [
        "",
        " ",
        "{",
        "{}",
        "[]",
        "[1,]",
        "{\"a\":}",
        "{\"a\":1,}",
        "{'a':1}",
        "nul",
        "null",
        "01",
        "-",
        "-0",
        "1.",
        "1e",
        "1e+9",
        "\"a",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12g4\"",
        "\"\\ud800\"",
        "[[]]",
        "[1 2]",
        "{\"a\" 1}",
        "true false",
        "{\"a\":\"b\"}x",
        "\u{feff}{}",
        "[1,2,{\"a\":[]}]",
        "{1:2}",
        ".5",
        "+1",
        "\"\\",
        "\"a\nb\"",
        "{\"a\tb\":1}",
    ] {
        let ours = Texts::read(body.as_bytes(), Zone::Request).is_ok();
        // serde_json keeps the surrogate's validity for the time when the string is asked for.
        let theirs = serde_json::from_str::<Box<serde_json::value::RawValue>>(body).is_ok() || body == "\"\\ud800\"";
        assert_eq!(ours, theirs, "{body}");
    }
    assert!(matches!(Texts::read(b"\"\xff\"", Zone::Request), Err(JsonError::Syntax(1))));
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(Texts::read(nested(MAX_DEPTH).as_bytes(), Zone::Request).is_ok());
    assert_eq!(Texts::read(nested(MAX_DEPTH + 1).as_bytes(), Zone::Request).unwrap_err(), JsonError::TooDeep);
}

#[test]
fn what_is_encoded_decodes_to_itself() {
    let all: String = (0..0x300).filter_map(char::from_u32).collect();
    let mut written = b"\"".to_vec();
    encode(all.as_bytes(), &mut written);
    written.push(b'"');
    assert_eq!(serde_json::from_slice::<String>(&written).unwrap(), all);
}
