//! Restoring a streamed answer: the server-sent events of the Messages API, on their way to the client.
//!
//! Text and tool input arrive in small pieces, and a token may be cut anywhere. Each content block is therefore one
//! flow: only its end, and only if it can still become a token, waits for the next piece. Events that are not changed
//! leave as the bytes they came in, those of thinking always; pings and unknown events overtake what waits.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Receipt;
use super::json_text;
use super::restore::{Dictionary, Flow, Notation};
use super::zone::Zone;

/// A longer event passes as it is: no event of the Messages API comes near it.
const MAX_EVENT_BYTES: usize = 16 * 1024 * 1024;

/// Restores one stream.
pub struct SseRestorer {
    dictionary: Rc<Dictionary>,
    receipt: Receipt,
    /// The beginning of an event.
    buffer: Vec<u8>,
    /// How far the buffer has been searched: the start of its last line.
    line: usize,
    blocks: BTreeMap<u64, Block>,
}

/// A content block that is being streamed.
struct Block {
    flow: Flow,
    /// Its latest event, and where the text is in it: the frame for what is flushed.
    frame: (Vec<u8>, Range<usize>),
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    index: u64,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    partial_json: Option<&'a RawValue>,
}

impl std::fmt::Debug for SseRestorer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("SseRestorer").field("receipt", &self.receipt).finish_non_exhaustive()
    }
}

impl SseRestorer {
    pub(crate) fn new(dictionary: Rc<Dictionary>, receipt: Receipt) -> Self {
        Self { dictionary, receipt, buffer: Vec::new(), line: 0, blocks: BTreeMap::new() }
    }

    /// Takes the next bytes of the stream, cut anywhere; returns what the client may have now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = self.event_end() {
            let rest = self.buffer.split_off(end);
            let event = std::mem::replace(&mut self.buffer, rest);
            self.line = 0;
            self.event(event, &mut out);
        }
        if self.buffer.len() > MAX_EVENT_BYTES {
            out.append(&mut self.buffer);
            self.line = 0;
        }
        out
    }

    /// What was masked in the request, and restored so far.
    pub const fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// The stream has ended: what was held back, and the completed receipt.
    pub fn finish(mut self) -> (Vec<u8>, Receipt) {
        (self.flush(), self.receipt)
    }

    /// The stream has ended: what was held back.
    pub fn flush(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        let rest = std::mem::take(&mut self.buffer);
        let is_event = data(&rest).is_some_and(|data| serde_json::from_slice::<&RawValue>(&rest[data]).is_ok());
        if is_event {
            self.event(rest, &mut out);
            self.flush_all(&mut out);
        } else {
            self.flush_all(&mut out);
            out.extend_from_slice(&rest);
        }
        out
    }

    /// Behind the blank line that ends the first event in the buffer. Lines end with CRLF, LF or CR.
    fn event_end(&mut self) -> Option<usize> {
        loop {
            let length = memchr::memchr2(b'\n', b'\r', &self.buffer[self.line..])?;
            let at = self.line + length;
            let next = match (self.buffer[at], self.buffer.get(at + 1)) {
                (b'\r', Some(b'\n')) => at + 2,
                // It may be half of a CRLF.
                (b'\r', None) => return None,
                _ => at + 1,
            };
            self.line = next;
            if length == 0 {
                return Some(next);
            }
        }
    }

    fn event(&mut self, event: Vec<u8>, out: &mut Vec<u8>) {
        // Comments, and events in a form that the Messages API does not use.
        let Some(data) = data(&event) else { return out.extend_from_slice(&event) };
        let Ok(head) = serde_json::from_slice::<Head<'_>>(&event[data.clone()]) else {
            return out.extend_from_slice(&event);
        };
        match head.kind.as_str() {
            "content_block_delta" => {
                let delta = head.delta.and_then(|delta| serde_json::from_str::<Delta<'_>>(delta.get()).ok());
                let index = head.index;
                let place = |value: &RawValue| {
                    let start = value.get().as_ptr().addr() - event.as_ptr().addr();
                    start..start + value.get().len()
                };
                match delta {
                    Some(Delta { kind, text: Some(value), .. }) if kind == "text_delta" => {
                        let value = place(value);
                        self.delta(index, Notation::Plain, event, value, out);
                    }
                    Some(Delta { kind, partial_json: Some(value), .. }) if kind == "input_json_delta" => {
                        let value = place(value);
                        self.delta(index, Notation::Json, event, value, out);
                    }
                    Some(Delta { kind, .. }) if kind == "thinking_delta" || kind == "signature_delta" => {
                        out.extend_from_slice(&event);
                    }
                    _ => self.document(&event, data, out),
                }
            }
            "content_block_stop" => {
                self.end_block(head.index, out);
                out.extend_from_slice(&event);
            }
            "message_start" | "content_block_start" => self.document(&event, data, out),
            "message_delta" | "message_stop" | "error" => {
                self.flush_all(out);
                self.document(&event, data, out);
            }
            _ => out.extend_from_slice(&event),
        }
    }

    /// A piece of a block's text: the JSON string at `value`.
    fn delta(&mut self, index: u64, notation: Notation, event: Vec<u8>, value: Range<usize>, out: &mut Vec<u8>) {
        let Some(text) = json_text::string(&event[value.clone()]) else { return out.extend_from_slice(&event) };
        let block =
            self.blocks.entry(index).or_insert_with(|| Block { flow: Flow::new(notation), frame: (Vec::new(), 0..0) });
        block.flow.push(&text);
        let restored = block.flow.advance(&self.dictionary, &mut self.receipt, true);
        if restored == text {
            out.extend_from_slice(&event);
        } else if !restored.is_empty() {
            write(&event, value.clone(), &restored, out);
        }
        if block.flow.holds() {
            block.frame = (event, value);
        }
    }

    fn end_block(&mut self, index: u64, out: &mut Vec<u8>) {
        let Some(mut block) = self.blocks.remove(&index) else { return };
        let rest = block.flow.advance(&self.dictionary, &mut self.receipt, false);
        if !rest.is_empty() {
            let (event, value) = block.frame;
            write(&event, value, &rest, out);
        }
    }

    fn flush_all(&mut self, out: &mut Vec<u8>) {
        while let Some(index) = self.blocks.keys().next().copied() {
            self.end_block(index, out);
        }
    }

    /// An event that is complete in itself.
    fn document(&mut self, event: &[u8], data: Range<usize>, out: &mut Vec<u8>) {
        match self.dictionary.document(&event[data.clone()], Zone::Event, &mut self.receipt) {
            Some(restored) => {
                out.extend_from_slice(&event[..data.start]);
                out.extend_from_slice(&restored);
                out.extend_from_slice(&event[data.end..]);
            }
            None => out.extend_from_slice(event),
        }
    }
}

/// The event with `text` in the place of the string at `value`.
fn write(event: &[u8], value: Range<usize>, text: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&event[..=value.start]);
    json_text::encode(text, out);
    out.extend_from_slice(&event[value.end - 1..]);
}

/// Where the data of an event is, if it has one line of it.
fn data(event: &[u8]) -> Option<Range<usize>> {
    let mut found = None;
    let mut start = 0;
    for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
        if let Some(value) = line.strip_prefix(b"data:") {
            if found.is_some() {
                return None;
            }
            let end = start + line.len();
            found = Some(end - value.len()..end);
        }
        start += line.len() + 1;
    }
    found
}

#[cfg(test)]
#[path = "sse/tests.rs"]
mod tests;
