//! OTLP by an implementation that is not ours: `opentelemetry-proto` (`PyPI`).

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::programs::{command, piped, python, source};

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Protobuf,
    Json,
}

impl Form {
    const fn name(self) -> &'static str {
        match self {
            Self::Protobuf => "protobuf",
            Self::Json => "json",
        }
    }

    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }
}

/// An export of `metrics`, `logs` or `traces`. Needs Python.
pub(crate) fn export(signal: &str, form: Form) -> Vec<u8> {
    let mode = format!("make:{signal}:{}", form.name());
    let text = command(Command::new(python()).arg(source("python").join("otlp.py")).arg(mode));
    STANDARD.decode(text.trim()).expect("base64")
}

/// What is in an export of this signal.
pub(crate) fn decoded(signal: &str, form: Form, body: &[u8]) -> Value {
    let mode = format!("read:{signal}:{}", form.name());
    serde_json::from_str(&piped("otlp.py", &mode, &STANDARD.encode(body))).expect("JSON")
}
