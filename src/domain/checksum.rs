//! The checksum of a settings document, which clients compute for themselves and compare (auth contract §8.1).

use sha2::{Digest, Sha256};

use serde_json::{Map, Number, Value};

/// `sha256:` and the lower-case hex digest of the canonical form of `document`.
pub fn of(document: &Map<String, Value>) -> String {
    format!("sha256:{}", hex(&Sha256::digest(canonical(document))))
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// JSON without white space, keys sorted at every level, array order kept, only what JSON demands escaped.
///
/// Clients are JavaScript: keys sort by UTF-16 code units, and numbers are spelled as `JSON.stringify` does.
pub fn canonical(document: &Map<String, Value>) -> String {
    let mut text = String::new();
    write_object(document, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(object) => write_object(object, text),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        Value::Number(number) => text.push_str(&spelled(number)),
        // For these, serde_json and JSON.stringify agree.
        Value::Null | Value::Bool(_) | Value::String(_) => text.push_str(&value.to_string()),
    }
}

fn write_object(object: &Map<String, Value>, text: &mut String) {
    let mut entries: Vec<_> = object.iter().collect();
    entries.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    text.push('{');
    for (index, (key, value)) in entries.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&Value::from(key.as_str()).to_string());
        text.push(':');
        write(value, text);
    }
    text.push('}');
}

/// ECMA-262, `Number::toString`, for a finite number.
fn spelled(number: &Number) -> String {
    let number = number.as_f64().unwrap_or_default();
    if number == 0.0 {
        return "0".to_owned();
    }
    let size = number.abs();
    if (1e-6..1e21).contains(&size) {
        return format!("{number}");
    }
    // Rust writes `1e21` and `1e-7` where ECMAScript writes `1e+21` and `1e-7`.
    let text = format!("{number:e}");
    if size >= 1e21 { text.replace('e', "e+") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).expect("the test's own JSON")
    }

    #[test]
    fn the_canonical_form_is_what_a_javascript_client_computes() {
        for (document, expected) in [
            ("{}", "{}"),
            (r#"{"b":1,"a":{"d":[2,1],"c":null}}"#, r#"{"a":{"c":null,"d":[2,1]},"b":1}"#),
            (r#"{"ä":"é\u0000\n\u007f\/"}"#, "{\"ä\":\"é\\u0000\\n\u{7f}/\"}"),
            (
                r#"{"n":[1.0,-0.0,1e21,18446744073709551615,0.000001,1e-7,2.50,1e3]}"#,
                r#"{"n":[1,0,1e+21,18446744073709552000,0.000001,1e-7,2.5,1000]}"#,
            ),
            // U+1F600 is written with surrogates (0xD83D…), which sort before U+FF5E.
            ("{\"\u{ff5e}\":1,\"\u{1f600}\":2}", "{\"\u{1f600}\":2,\"\u{ff5e}\":1}"),
        ] {
            assert_eq!(canonical(&object(document)), expected);
        }
    }

    #[test]
    fn checksums_agree_with_sha256_of_the_canonical_form() {
        // printf '{}' | sha256sum
        assert_eq!(of(&object("{}")), "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        // printf '{"availableModels":["claude-haiku-4-5"],"env":{"A":"1"}}' | sha256sum
        assert_eq!(
            of(&object(r#"{"env":{"A":"1"},"availableModels":["claude-haiku-4-5"]}"#)),
            "sha256:d93d398ef522daf6d78d93395dafd71f7d0d2890513a0092c1f4daeaead26c0e"
        );
    }
}
