//! The official client libraries of the Anthropic API, each in a script that uses all we serve and prints what it saw.

use std::process::Command;

use serde_json::Value;

use super::programs::{command, node, python};
use super::{Gateway, MODEL, lacks};

/// What `@anthropic-ai/sdk` (npm) sees; `None` (and says so) without `Node.js`.
pub(crate) fn typescript_sdk(gateway: &Gateway, token: &str) -> Option<Value> {
    (!lacks(&["node", "npm"]))
        .then(|| run(gateway, token, Command::new("node").arg("sdk.mjs").current_dir(node()).env("MODEL", MODEL)))
}

/// What `@anthropic-ai/sdk` (npm) sees in a conversation that uses everything, about `model`.
pub(crate) fn typescript_sdk_in_full(gateway: &Gateway, token: &str, model: &str) -> Option<Value> {
    (!lacks(&["node", "npm"])).then(|| {
        run(gateway, token, Command::new("node").arg("sdk_in_full.mjs").current_dir(node()).env("MODEL", model))
    })
}

/// What `anthropic` (`PyPI`) sees in the same conversation.
pub(crate) fn python_sdk_in_full(gateway: &Gateway, token: &str, model: &str) -> Option<Value> {
    let script = super::programs::source("python").join("sdk_in_full.py");
    (!lacks(&["python3"])).then(|| run(gateway, token, Command::new(python()).arg(script).env("MODEL", model)))
}

/// What `anthropic` (`PyPI`) sees; `None` (and says so) without Python.
pub(crate) fn python_sdk(gateway: &Gateway, token: &str) -> Option<Value> {
    let script = super::programs::source("python").join("sdk.py");
    (!lacks(&["python3"])).then(|| run(gateway, token, Command::new(python()).arg(script).env("MODEL", MODEL)))
}

fn run(gateway: &Gateway, token: &str, program: &mut Command) -> Value {
    for ours in ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"] {
        program.env_remove(ours);
    }
    let output = command(program.env("GATEWAY", gateway.url("")).env("TOKEN", token));
    gateway.transcript.answered(output.as_bytes());
    serde_json::from_str(output.trim()).expect("JSON")
}
