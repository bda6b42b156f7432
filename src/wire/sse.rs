//! Server-sent events (WHATWG HTML §9.2): bytes in, events out, each with the bytes that it came in.

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};

/// The largest event that is kept in memory, in bytes.
pub const MAX_EVENT: usize = 16 * 1024 * 1024;

/// Cuts a stream into events. The raw bytes of all events and [`Decoder::rest`], one after the other, are the input.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// Length of the event that [`Decoder::next_fields`] gave and that is still at the start of the buffer.
    given: usize,
    /// Start of the line that is not complete; everything before it is complete lines of this event.
    line: usize,
    /// Up to here the incomplete line has no break.
    searched: usize,
    /// Whether nothing more will come.
    is_over: bool,
}

/// What an event says, without its raw bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields<'a> {
    /// Value of the last `event` field; empty when there is none.
    pub name: &'a [u8],
    /// Values of the `data` fields, joined with line feeds; empty when there is none.
    pub data: Cow<'a, [u8]>,
}

/// One event, or a block of comments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Exactly what came, with the blank line that ends it.
    pub raw: Bytes,
    /// Value of the last `event` field; empty when there is none.
    pub name: Bytes,
    /// Values of the `data` fields, joined with line feeds; empty when there is none.
    pub data: Bytes,
}

/// An event is larger than [`MAX_EVENT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {MAX_EVENT} bytes")]
pub struct TooLong;

impl Decoder {
    /// At the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what came. Take the events with [`Decoder::next_event`] or [`Decoder::next_fields`] before adding more.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), TooLong> {
        self.drop_given();
        if self.buffer.len() + piece.len() > MAX_EVENT.max(piece.len()) {
            return Err(TooLong);
        }
        self.buffer.extend_from_slice(piece);
        Ok(())
    }

    /// Nothing more will come: a carriage return at the very end is a line break of its own.
    pub fn end(&mut self) {
        self.is_over = true;
    }

    /// The next complete event.
    pub fn next_event(&mut self) -> Option<Event> {
        let length = self.next_length()?;
        let raw = self.buffer.split_to(length).freeze();
        let Fields { name, data } = Fields::parse(&raw);
        let (name, data) = (
            raw.slice_ref(name),
            match data {
                Cow::Borrowed(data) => raw.slice_ref(data),
                Cow::Owned(data) => data.into(),
            },
        );
        Some(Event { raw, name, data })
    }

    /// What the next complete event says: for those who do not need its raw bytes, and cheaper.
    pub fn next_fields(&mut self) -> Option<Fields<'_>> {
        self.given = self.next_length()?;
        Some(Fields::parse(&self.buffer[..self.given]))
    }

    /// What came after the last complete event. A stream that ends here ends without it (§9.2.6).
    pub fn rest(&self) -> &[u8] {
        &self.buffer[self.given..]
    }

    fn drop_given(&mut self) {
        self.buffer.advance(std::mem::take(&mut self.given));
    }

    /// Length of the complete event at the start of the buffer.
    fn next_length(&mut self) -> Option<usize> {
        self.drop_given();
        loop {
            let Some(length) = memchr2(b'\n', b'\r', &self.buffer[self.searched..]) else {
                self.searched = self.buffer.len();
                return None;
            };
            let at = self.searched + length;
            let mut next = at + 1;
            if self.buffer[at] == b'\r' {
                match self.buffer.get(next) {
                    Some(b'\n') => next += 1,
                    Some(_) => {}
                    None if self.is_over => {}
                    // What comes next decides whether the line ends here or one byte later.
                    None => {
                        self.searched = at;
                        return None;
                    }
                }
            }
            if at == self.line {
                self.line = 0;
                self.searched = 0;
                return Some(next);
            }
            self.line = next;
            self.searched = next;
        }
    }
}

impl<'a> Fields<'a> {
    fn parse(raw: &'a [u8]) -> Self {
        let mut lines = raw.strip_prefix(b"\xef\xbb\xbf").unwrap_or(raw);
        let mut name = &b""[..];
        let mut data: Option<Cow<'a, [u8]>> = None;
        while !lines.is_empty() {
            let end = memchr2(b'\n', b'\r', lines).unwrap_or(lines.len());
            let line = &lines[..end];
            lines = lines.get(end + 1..).unwrap_or_default();
            let colon = memchr(b':', line).unwrap_or(line.len());
            let value = line.get(colon + 1..).unwrap_or_default();
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &line[..colon] {
                b"event" => name = value,
                b"data" => {
                    data = Some(match data {
                        None => Cow::Borrowed(value),
                        Some(before) => Cow::Owned([&before, &b"\n"[..], value].concat()),
                    });
                }
                _ => {}
            }
        }
        Self { name, data: data.unwrap_or_default() }
    }
}

/// Writes one event: its name, its data on as many lines as it has, a blank line.
pub fn write(name: &[u8], data: &[u8], output: &mut BytesMut) {
    output.reserve(name.len() + data.len() + 24);
    output.extend_from_slice(b"event: ");
    output.extend_from_slice(name);
    for line in data.split(|byte| *byte == b'\n') {
        output.extend_from_slice(b"\ndata: ");
        output.extend_from_slice(line.strip_suffix(b"\r").unwrap_or(line));
    }
    output.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Event>, Vec<u8>) {
        let mut decoder = Decoder::new();
        let mut events = Vec::new();
        for piece in pieces {
            decoder.push(piece).unwrap();
            events.extend(std::iter::from_fn(|| decoder.next_event()));
        }
        let rest = decoder.rest().to_vec();
        (events, rest)
    }

    #[test]
    fn an_event_is_its_fields() {
        for (text, name, data) in [
            ("event: a\ndata: b\n\n", "a", "b"),
            ("event:a\r\ndata:b\r\n\r\n", "a", "b"),
            ("event: a\rdata: b\r\rx", "a", "b"),
            ("data: b\ndata:  c\nevent: x\n\n", "x", "b\n c"),
            (": comment\n\n", "", ""),
            ("\u{feff}data: b\n\n", "", "b"),
            ("id: 1\nretry: 5\ndata\n\n", "", ""),
            ("\n", "", ""),
        ] {
            let (events, _) = decode([text.as_bytes()]);
            assert_eq!((&events[0].name[..], &events[0].data[..]), (name.as_bytes(), data.as_bytes()), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_complete_is_no_event() {
        let (events, rest) = decode([&b"data: a\n\ndata: b\n"[..]]);
        assert_eq!(events.len(), 1);
        assert_eq!(rest, b"data: b\n");
    }

    #[test]
    fn an_event_may_end_with_the_stream() {
        for (text, is_event) in [("data: a\r\r", true), ("data: a\n\r", true), ("data: a\r", false), ("data: a", false)]
        {
            let mut decoder = Decoder::new();
            decoder.push(text.as_bytes()).unwrap();
            assert_eq!(decoder.next_event(), None, "{text:?}: a line feed may follow");
            decoder.end();
            assert_eq!(decoder.next_event().is_some(), is_event, "{text:?}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut decoder = Decoder::new();
        let piece = vec![b'x'; MAX_EVENT];
        decoder.push(&piece).unwrap();
        assert_eq!(decoder.next_event(), None);
        assert_eq!(decoder.push(b"x"), Err(TooLong));
    }

    #[test]
    fn data_with_line_breaks_is_written_on_several_lines() {
        let mut output = BytesMut::new();
        write(b"a", b"{\r\n1}", &mut output);
        assert_eq!(&output[..], b"event: a\ndata: {\ndata: 1}\n\n");
        let (events, _) = decode([&output[..]]);
        assert_eq!(&events[0].data[..], b"{\n1}");
    }

    proptest! {
        #[test]
        fn how_the_input_is_cut_does_not_matter_and_no_byte_is_lost(
            text in "(event: ?a|data: ?b|data|: c|x)?(\n|\r\n|\r){0,3}(event: ?a|data: b|é)?(\n|\r\n|\r){0,3}(data: d)?(\n|\r\n|\r){0,3}",
            cuts in prop::collection::vec(0usize..40, 0..6),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]);
            let (events, rest) = decode(pieces);
            let (whole, whole_rest) = decode([bytes]);
            prop_assert_eq!(&events, &whole);
            prop_assert_eq!(&rest, &whole_rest);
            let again = [events.iter().flat_map(|event| event.raw.to_vec()).collect(), rest].concat();
            prop_assert_eq!(again, bytes);

            let mut decoder = Decoder::new();
            let mut fields = Vec::new();
            for piece in cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]) {
                decoder.push(piece).unwrap();
                while let Some(Fields { name, data }) = decoder.next_fields() {
                    fields.push((name.to_vec(), data.into_owned()));
                }
            }
            prop_assert_eq!(decoder.rest(), &whole_rest);
            let whole: Vec<_> = whole.iter().map(|event| (event.name.to_vec(), event.data.to_vec())).collect();
            prop_assert_eq!(fields, whole);
        }
    }
}
