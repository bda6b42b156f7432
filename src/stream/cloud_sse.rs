//! [`CloudSse`]: a cloud's server-sent events as a client sees them.

use bytes::Bytes;

use super::client_events::ClientEvents;
use super::{End, Translated, Translator};
use crate::wire::sse;

/// Translates the streams of Vertex, Mantle, Foundry and both Claude platforms. Keeps at most [`sse::MAX_EVENT`] bytes.
#[derive(Debug)]
pub struct CloudSse {
    decoder: sse::Decoder,
    events: ClientEvents,
}

impl CloudSse {
    /// `request_id` is told in an error event.
    pub fn new(request_id: &str) -> Self {
        Self { decoder: sse::Decoder::new(), events: ClientEvents::new(request_id) }
    }

    fn translate(&mut self) {
        while let Some(sse::Fields { name, data }) = self.decoder.next_fields() {
            if !(name.is_empty() && data.is_empty()) {
                self.events.event(name, &data);
            }
        }
    }
}

impl Translator for CloudSse {
    fn push(&mut self, piece: &[u8]) -> Translated {
        if self.events.is_over() {
            return self.events.take();
        }
        if self.decoder.push(piece).is_err() {
            self.events.fail();
        }
        self.translate();
        self.events.take()
    }

    fn finish(mut self: Box<Self>, end: End) -> Bytes {
        match end {
            End::Complete => {
                self.decoder.end();
                self.translate();
            }
            End::BrokeOff => self.events.fail(),
        }
        self.events.into_output()
    }
}
