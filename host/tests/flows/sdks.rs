//! The official SDKs notice nothing: they speak to the gateway as they would to the API.

use serde_json::{Value, json};

use crate::support::{DELTAS, Gateway, MODEL, Site, Upstream, discovery, python_sdk, typescript_sdk};

#[test]
fn the_typescript_sdk_gets_messages_streams_counts_and_models() {
    conversation(typescript_sdk);
}

#[test]
fn the_python_sdk_gets_messages_streams_counts_and_models() {
    conversation(python_sdk);
}

fn conversation(sdk: impl Fn(&Gateway, &str) -> Option<Value>) {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();

    let Some(seen) = sdk(&gateway, &site.session("ada")) else { return };

    assert_eq!(seen["text"], DELTAS.concat());
    assert_eq!(seen["stop_reason"], "end_turn");
    assert_eq!(seen["deltas"], json!(DELTAS));
    assert_eq!(seen["streamed"], DELTAS.concat());
    assert_eq!(seen["output_tokens"], 7);
    assert_eq!(seen["counted"], 11);
    assert!(seen["models"].as_array().expect("a list").contains(&json!(MODEL)), "{}", seen["models"]);
    assert_eq!(seen["refused"], json!({"kind": "AuthenticationError", "status": 401}));
}
