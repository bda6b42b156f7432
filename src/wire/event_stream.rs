//! Frames of `application/vnd.amazon.eventstream`: bytes in, messages out. Both checksums of a frame are verified by
//! `aws-smithy-eventstream`; what is added here is the bound on its size, and that a length which is not genuine is
//! noticed before the rest of its frame is waited for.

use aws_smithy_eventstream::frame::read_message_from;
use bytes::{Bytes, BytesMut};

/// The largest frame, in bytes: the format allows 16 MiB of payload and 128 KiB of headers.
pub const MAX_FRAME: usize = (16 * 1024 + 128 + 1) * 1024;
/// The smallest frame: a prelude with its checksum, and the checksum of all.
const MIN_FRAME: usize = 16;
/// Two lengths and their checksum, of four bytes each.
const PRELUDE: usize = 12;

/// Cuts a stream into messages.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

/// One message; headers that are not text are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `:message-type`: `event`, `exception` or `error`.
    pub message_type: String,
    /// `:event-type` or `:exception-type`.
    pub kind: String,
    /// The payload.
    pub payload: Bytes,
}

/// Why there is no next message. Nothing after it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Shorter than a frame can be, or longer than [`MAX_FRAME`].
    #[error("a frame has an impossible length")]
    Length,
    /// A checksum is wrong, or the headers are not well-formed.
    #[error("a frame is damaged")]
    Damaged,
}

impl Decoder {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what came. Take the messages with [`Decoder::next_message`] before adding more.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next complete message.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| FrameError::Length)?;
        if !(MIN_FRAME..=MAX_FRAME).contains(&length) {
            return Err(FrameError::Length);
        }
        let Some(prelude) = self.buffer.first_chunk::<PRELUDE>() else { return Ok(None) };
        let (lengths, checksum) = prelude.split_at(PRELUDE - 4);
        if crc32fast::hash(lengths).to_be_bytes() != checksum {
            return Err(FrameError::Damaged);
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        let frame = self.buffer.split_to(length).freeze();
        let message = read_message_from(frame).map_err(|_| FrameError::Damaged)?;
        let header = |names: &[&str]| {
            let mut headers = message.headers().iter();
            let header = headers.find(|header| names.contains(&header.name().as_str()));
            header.and_then(|header| header.value().as_string().ok()).map(|text| text.as_str().to_owned())
        };
        Ok(Some(Message {
            message_type: header(&[":message-type"]).unwrap_or_default(),
            kind: header(&[":event-type", ":exception-type", ":error-code"]).unwrap_or_default(),
            payload: message.payload().clone(),
        }))
    }

    /// Whether the stream ended between two messages.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Written by hand from the description of the format, with the checksums of Python's `zlib.crc32`.
    const FRAME: &[u8] = b"\x00\x00\x00\x4a\x00\x00\x00\x2a\xac\xda\x56\x57\
        \x0d:message-type\x07\x00\x05event\x0b:event-type\x07\x00\x05chunk{\"bytes\":\"e30=\"}\x6f\xae\x25\x77";

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Message>, Result<bool, FrameError>) {
        let mut decoder = Decoder::new();
        let mut messages = Vec::new();
        for piece in pieces {
            decoder.push(piece);
            loop {
                match decoder.next_message() {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(error) => return (messages, Err(error)),
                }
            }
        }
        (messages, Ok(decoder.is_empty()))
    }

    #[test]
    fn a_frame_is_its_headers_and_its_payload() {
        let frame = FRAME.to_vec();
        assert_eq!(frame.len(), 0x4a);
        let expected = Message {
            message_type: "event".into(),
            kind: "chunk".into(),
            payload: Bytes::from_static(b"{\"bytes\":\"e30=\"}"),
        };
        let twice = [&frame[..], &frame].concat();
        for cut in 0..twice.len() {
            let (messages, end) = decode([&twice[..cut], &twice[cut..]]);
            assert_eq!((&messages[..], end), (&[expected.clone(), expected.clone()][..], Ok(true)), "cut at {cut}");
        }
        assert_eq!(decode([&frame[..frame.len() - 1]]), (Vec::new(), Ok(false)));
    }

    #[test]
    fn a_frame_with_any_wrong_byte_is_refused() {
        let frame = FRAME.to_vec();
        for at in 0..frame.len() {
            let mut damaged = frame.clone();
            damaged[at] ^= 0x10;
            let (messages, end) = decode([&damaged[..]]);
            assert!(messages.is_empty(), "{at}");
            assert!(end.is_err(), "{at}");
        }
    }

    #[test]
    fn a_length_that_is_not_genuine_is_noticed_before_its_frame_is_there() {
        let mut damaged = FRAME[..PRELUDE].to_vec();
        damaged[1] = 0x40;
        assert_eq!(decode([&damaged[..]]), (Vec::new(), Err(FrameError::Damaged)));
        assert_eq!(decode([&FRAME[..PRELUDE]]), (Vec::new(), Ok(false)));
    }

    #[test]
    fn impossible_lengths_are_refused_before_anything_is_kept() {
        for length in [0u32, 15, 0x0200_0000, u32::MAX] {
            let (_, end) = decode([&length.to_be_bytes()[..]]);
            assert_eq!(end, Err(FrameError::Length), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), length in 0u8..200) {
            let bytes = [&[0, 0, 0, length][..], &bytes].concat();
            let (messages, _) = decode([&bytes[..]]);
            prop_assert!(messages.is_empty(), "a checksum cannot be guessed");
        }
    }
}
