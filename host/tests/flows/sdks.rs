//! The official SDKs notice nothing: they speak to the gateway as they would to the API.

use serde_json::{Value, json};

use crate::support::cloud::{PROVIDERS, Wanted, assert_credential, providers};
use crate::support::{
    DELTAS, Gateway, MODEL, Site, Upstream, discovery, python_sdk, python_sdk_in_full, typescript_sdk,
    typescript_sdk_in_full,
};

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

#[test]
fn the_typescript_sdk_is_at_home_with_every_provider() {
    in_full(typescript_sdk_in_full);
}

#[test]
fn the_python_sdk_is_at_home_with_every_provider() {
    in_full(python_sdk_in_full);
}

fn in_full(sdk: impl Fn(&Gateway, &str, &str) -> Option<Value>) {
    // All of them have it.
    let model = "claude-opus-4-8";
    for (name, keys) in PROVIDERS {
        let (provider, upstream) = (discovery(), providers());
        let mut site = Site::without_upstreams(&provider);
        site.use_entry(&upstream, keys);
        let gateway = site.start();

        let Some(seen) = sdk(&gateway, &site.session("ada"), model) else { return };

        let whole = json!({
            "kinds": ["thinking", "text", "tool_use"], "text": DELTAS.concat(), "thinking": "Let me see.",
            "tool": [["weather", {"city": "Köln 🌦"}]], "stop_reason": "tool_use", "output_tokens": 23,
        });
        assert_eq!((&seen["message"], &seen["streamed"]), (&whole, &whole), "{name}");
        assert_eq!((&seen["deltas"], &seen["counted"]), (&json!(7), &json!(11)), "{name}");
        // What Anthropic says is told as it is, what clouds say in the gateway's words.
        let kind = |kind: &'static str| if name == "anthropic" { "api_error" } else { kind };
        let expected = json!({
            "400": ["BadRequestError", 400, kind("invalid_request_error")],
            "401": ["AuthenticationError", 401, kind("authentication_error")],
            "403": ["PermissionDeniedError", 403, kind("permission_error")],
            "404": ["NotFoundError", 404, kind("not_found_error")],
            "429": ["RateLimitError", 429, kind("rate_limit_error")],
            "500": ["InternalServerError", 502, "api_error"],
        });
        assert_eq!(seen["errors"], expected, "{name}");
        let broken = if name == "anthropic" { "overloaded_error" } else { "api_error" };
        assert_eq!((&seen["said"], &seen["broken"]), (&json!(DELTAS[0]), &json!(broken)), "{name}");
        assert_eq!(seen["retried"], DELTAS.concat(), "{name}");

        let requests = upstream.seen();
        for request in &requests {
            assert_credential(name, request);
        }
        let first = requests.first().expect("a request");
        assert_eq!(Wanted::by(first), Some(Wanted::Message), "{name}");
        let beta = "context-1m-2025-08-07";
        if name == "bedrock" {
            let body: Value = serde_json::from_slice(&first.body).expect("JSON");
            assert_eq!((first.header("anthropic-beta"), &body["anthropic_beta"]), ("", &json!([beta])));
        } else {
            assert_eq!(first.header("anthropic-beta"), beta, "{name}");
        }
    }
}
