//! [`BedrockStream`]: `application/vnd.amazon.eventstream` as server-sent events (inference contract §10.2).

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use super::client_events::ClientEvents;
use super::{End, Translated, Translator};
use crate::wire::event_stream::{Decoder, Message};

/// Translates the stream of `InvokeModelWithResponseStream`. Keeps at most one frame
/// ([`MAX_FRAME`](crate::wire::event_stream::MAX_FRAME)).
#[derive(Debug)]
pub struct BedrockStream {
    decoder: Decoder,
    events: ClientEvents,
}

/// The payload of a `chunk`; the padding beside `bytes` is nobody's.
#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    bytes: Cow<'a, str>,
}

impl BedrockStream {
    /// `request_id` is told in an error event.
    pub fn new(request_id: &str) -> Self {
        Self { decoder: Decoder::new(), events: ClientEvents::new(request_id) }
    }

    fn message(&mut self, message: &Message) {
        if message.message_type != "event" {
            return self.events.fail();
        }
        if message.kind != "chunk" {
            return;
        }
        let json = serde_json::from_slice::<Chunk<'_>>(&message.payload).ok();
        match json.and_then(|chunk| STANDARD.decode(&*chunk.bytes).ok()) {
            Some(json) => self.events.event(b"", &json),
            None => self.events.fail(),
        }
    }
}

impl Translator for BedrockStream {
    fn push(&mut self, piece: &[u8]) -> Translated {
        if !self.events.is_over() {
            self.decoder.push(piece);
        }
        while !self.events.is_over() {
            match self.decoder.next_message() {
                Ok(Some(message)) => self.message(&message),
                Ok(None) => break,
                Err(_) => self.events.fail(),
            }
        }
        self.events.take()
    }

    fn finish(mut self: Box<Self>, end: End) -> Bytes {
        if end == End::BrokeOff || !self.decoder.is_empty() {
            self.events.fail();
        }
        self.events.into_output()
    }
}
