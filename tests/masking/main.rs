//! Masking, judged from outside: what leaves, what comes back, what must be left alone, and what it costs.
//!
//! Nothing in here looks like a credential: such values are put together when the tests run.

mod choices;
mod conversation;
mod kinds;
mod measures;
mod megabyte;
mod odd_json;
mod round_trip;
mod timing;

use bytes::Bytes;
use sallyport::mask::{Masked, Masker, Settings};
use serde_json::{Value, json};

/// A masker for `settings`, with a fixed key.
fn masker(settings: &Settings) -> Masker {
    Masker::new(settings.compile().expect("settings without faults"), [42; 32])
}

/// A request that says `text`.
fn request(text: &str) -> Bytes {
    json!({"model": "claude", "messages": [{"role": "user", "content": text}]}).to_string().into()
}

/// The masked request and what it says.
fn mask(masker: &Masker, text: &str) -> (Masked, String) {
    let masked = masker.mask_request(&request(text)).expect("a request that can be masked");
    let body: Value = serde_json::from_slice(&masked.body).expect("JSON");
    let text = body["messages"][0]["content"].as_str().expect("text").to_owned();
    (masked, text)
}

/// What a client reads when the model says `text`.
fn restore(masked: &Masked, text: &str) -> String {
    let answer = json!({"type": "message", "content": [{"type": "text", "text": text}]}).to_string();
    let answer: Value = serde_json::from_slice(&masked.restorer.json(answer.as_bytes())).expect("JSON");
    answer["content"][0]["text"].as_str().expect("text").to_owned()
}
