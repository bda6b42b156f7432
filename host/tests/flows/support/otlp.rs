//! OTLP by an implementation that is not ours: `opentelemetry-proto` (`PyPI`).

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::lacks;
use super::programs::{command, piped, python, source};

/// An export of metrics, protobuf; `None` (and says so) without Python.
pub(crate) fn metrics_export() -> Option<Vec<u8>> {
    if lacks(&["python3"]) {
        return None;
    }
    let text = command(Command::new(python()).arg(source("python").join("otlp.py")).arg("make"));
    Some(STANDARD.decode(text.trim()).expect("base64"))
}

/// What is in `body`: an export of `metrics` in protobuf, or of `spans` in JSON.
pub(crate) fn decoded(kind: &str, body: &[u8]) -> Value {
    serde_json::from_str(&piped("otlp.py", kind, &STANDARD.encode(body))).expect("JSON")
}
