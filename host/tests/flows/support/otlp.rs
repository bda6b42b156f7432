//! OTLP by an implementation that is not ours: `opentelemetry-proto` (`PyPI`).

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::lacks;
use super::programs::{command, python, source};

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
    let mut program = Command::new(python())
        .arg(source("python").join("otlp.py"))
        .arg(kind)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    // The pipe closes with the handle.
    let text = STANDARD.encode(body);
    program.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("a reader");
    let output = program.wait_with_output().expect("an end");
    assert!(output.status.success(), "the export cannot be decoded: {:?}", String::from_utf8_lossy(body));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
