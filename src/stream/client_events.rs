//! [`ClientEvents`]: what a client sees of a translated stream (inference contract §10).
//!
//! Only the events of the Messages API pass, each in one form. Whatever goes wrong ends the stream with one error event
//! that hides all details: a cloud's errors name accounts and quotas.

use bytes::{Bytes, BytesMut};
use memchr::memchr2;
use serde_json::json;

use super::Translated;
use crate::wire::json_object::Object;
use crate::wire::sse;

/// The events that pass; `error` ends the stream.
const EVENTS: [&[u8]; 6] = [
    b"message_start",
    b"content_block_start",
    b"content_block_delta",
    b"content_block_stop",
    b"message_delta",
    b"message_stop",
];

/// Collects the output of a translator.
#[derive(Debug)]
pub(super) struct ClientEvents {
    request_id: String,
    output: BytesMut,
    is_over: bool,
}

impl ClientEvents {
    pub(super) fn new(request_id: &str) -> Self {
        Self { request_id: request_id.to_owned(), output: BytesMut::new(), is_over: false }
    }

    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// One event of the upstream: its JSON, and its name where the stream gives one apart from the JSON.
    pub(super) fn event(&mut self, name: &[u8], json: &[u8]) {
        if self.is_over || name == b"ping" {
            return;
        }
        let is_known = |name: &[u8]| EVENTS.contains(&name);
        if !name.is_empty() && !is_known(name) && name != b"error" {
            return;
        }
        let Ok(object) = Object::scan(json) else { return self.fail() };
        let kind = object.value(json, "type");
        let kind = kind.and_then(|quoted| quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")).unwrap_or_default();
        if name == b"error" || kind == b"error" {
            self.fail();
        } else if is_known(kind) {
            // JSON that comes on several lines goes on one: a line break in it is blank space, never part of a text.
            let lines = memchr2(b'\n', b'\r', json).map(|_| {
                let one_line = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
                json.iter().map(one_line).collect::<Vec<u8>>()
            });
            sse::write(kind, lines.as_deref().unwrap_or(json), &mut self.output);
        }
    }

    /// Something went wrong: the stream is over.
    pub(super) fn fail(&mut self) {
        if !self.is_over {
            let error = json!({
                "type": "error",
                "request_id": self.request_id,
                "error": {"type": "api_error", "message": "upstream error"},
            });
            sse::write(b"error", error.to_string().as_bytes(), &mut self.output);
            self.is_over = true;
        }
    }

    pub(super) fn take(&mut self) -> Translated {
        Translated { output: self.output.split().freeze(), is_over: self.is_over }
    }

    pub(super) fn into_output(self) -> Bytes {
        self.output.freeze()
    }
}
