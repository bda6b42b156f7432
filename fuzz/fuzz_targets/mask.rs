//! Bodies as a client may send them, masked; and answers that say everything again.
//!
//! What is masked stays JSON of the same shape, nothing that was found is left, masking again finds the same tokens for the
//! same identifiers, and what comes back through the restorer is what was sent, wherever the answer is cut.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sallyport::mask::{Masker, Settings};
use serde_json::{Value, json};

static MASKER: LazyLock<Masker> =
    LazyLock::new(|| Masker::new(Settings::default().compile().expect("settings without faults"), [42; 32]));

fn shape(value: &Value) -> Value {
    match value {
        Value::String(_) => Value::Null,
        Value::Array(elements) => elements.iter().map(shape).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        other => other.clone(),
    }
}

fuzz_target!(|data: &[u8]| {
    // As a body, and as what somebody says in one.
    let said = String::from_utf8_lossy(data);
    let request = json!({"model": "m", "messages": [{"role": "user", "content": said}]}).to_string();
    for body in [Bytes::copy_from_slice(data), Bytes::from(request)] {
        let Ok(masked) = MASKER.mask_request(&body) else { continue };
        // JSON may have numbers that are too large for this library.
        let Ok(asked) = serde_json::from_slice::<Value>(&body) else { continue };
        let sent: Value = serde_json::from_slice(&masked.body).expect("it stays JSON");
        assert_eq!(shape(&sent), shape(&asked));
        if masked.receipt.total() == 0 {
            assert_eq!(masked.body, body);
        }
        assert_eq!(MASKER.mask_request(&body).expect("it could be masked").body, masked.body);

        let Some(text) = sent["messages"][0]["content"].as_str() else { continue };
        let answer = |text: &Value| json!({"type": "message", "content": [{"type": "text", "text": text}]}).to_string();
        let original = answer(&asked["messages"][0]["content"]);
        if masked.restorer.json(original.as_bytes()) != original.as_bytes() {
            // Somebody has written what happens to be a token, in a form that is not masked: it cannot be told from one.
            continue;
        }
        let restored = masked.restorer.json(answer(&json!(text)).as_bytes());
        assert_eq!(String::from_utf8_lossy(&restored), original);
    }
});
