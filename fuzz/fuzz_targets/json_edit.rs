//! Bodies as a client may send them, edited as they are for an upstream.
//!
//! An object stays one. An edit means what it means on the parsed object, and nothing else changes: without an edit that
//! finds something, no byte.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sallyport::upstream::Message;
use sallyport::wire::json_edit::Edits;
use sallyport::wire::json_object::Object;
use serde_json::{Map, Value, json};

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    let parsed = serde_json::from_slice::<Map<String, Value>>(data).ok();
    let Ok(object) = Object::scan(&body) else {
        assert!(parsed.is_none(), "an object is not found");
        assert!(Message::parse(body).is_err());
        return;
    };
    if let Ok(message) = Message::parse(body.clone()) {
        for derived in [message.for_counting(), message.for_probing()] {
            assert_eq!(derived.model(), message.model());
        }
        let (_, _) = (message.asked(), message.estimated_input());
    }

    let mut absent = Edits::new();
    absent.remove("a member that nobody has");
    assert_eq!(absent.apply(&body, &object), body);

    let mut edits = Edits::new();
    edits.set("model", &"m").remove("stream").remove("tags").set("anthropic_version", &json!({"a": [1]}));
    let edited = edits.apply(&body, &object);
    let again = Object::scan(&edited).expect("it stays an object");
    assert_eq!(again.value(&edited, "model"), Some(&b"\"m\""[..]));
    assert!(again.find(&edited, "stream").is_none() && again.find(&edited, "tags").is_none());
    // Edited twice is edited once.
    assert_eq!(edits.apply(&edited, &again), edited);
    for member in object.members() {
        let is_edited = ["model", "stream", "tags", "anthropic_version"].iter().any(|name| member.is_named(&body, name));
        let text = &body[member.key.start..member.value.end];
        assert!(is_edited || edited.windows(text.len()).any(|window| window == text), "a member was changed");
    }
    if let Some(mut expected) = parsed {
        expected.insert("model".to_owned(), json!("m"));
        expected.insert("anthropic_version".to_owned(), json!({"a": [1]}));
        expected.remove("stream");
        expected.remove("tags");
        let edited: Map<String, Value> = serde_json::from_slice(&edited).expect("it stays JSON");
        assert_eq!(edited, expected);
    }
});
