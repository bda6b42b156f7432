//! The answer in flight: push bytes, get bytes.
//!
//! A [`Translator`] turns the stream of one provider into the events that clients know. Which provider needs which is
//! decided in `upstream`; reading usage as it passes is [`meter`]'s.

use bytes::Bytes;

pub mod bedrock;
mod client_events;
pub mod cloud_sse;
pub mod meter;

/// Turns the body of an upstream's answer into the body of ours. How the input is cut does not matter.
pub trait Translator {
    /// Takes the next piece and gives what can be sent so far; that may be nothing.
    ///
    /// After an error event in `output` the stream is over: [`Translated::is_over`] says so, and nothing more is read.
    fn push(&mut self, piece: &[u8]) -> Translated;

    /// The upstream's body ended, or broke off. What is left to send.
    fn finish(self: Box<Self>, end: End) -> Bytes;
}

/// What a [`Translator`] made of a piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translated {
    /// To be sent. Empty means that no event passed: silence, as far as the client can tell.
    pub output: Bytes,
    /// Whether the stream is over, whatever the upstream may still send.
    pub is_over: bool,
}

/// How an upstream's body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As HTTP says a body ends.
    Complete,
    /// The connection broke.
    BrokeOff,
}

/// What a client gets when a translated stream has been silent for a while (inference contract §10).
pub const PING: Bytes = Bytes::from_static(b"event: ping\ndata: {\"type\": \"ping\"}\n\n");

#[cfg(test)]
mod tests;
