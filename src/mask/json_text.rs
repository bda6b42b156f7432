//! Reads a JSON document without rebuilding it: finds the strings that hold text (`zone` says which), decodes them into
//! one buffer, and remembers where every decoded byte came from, so that an edit replaces bytes in place and all others
//! stay as they were sent.
//!
//! It is a complete reader of RFC 8259: what it accepts is JSON. What the strings mean is not its business.

use std::borrow::Cow;

use super::zone::Zone;

/// Objects and arrays may be nested this deep. The Messages API allows less; the limit protects the stack.
const MAX_DEPTH: usize = 128;

/// Separates the decoded strings. It is part of no identifier, so that nothing is found across two strings.
const SEPARATOR: u8 = 0;

/// Why a document could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum JsonError {
    /// Not JSON; the offset of the first byte that cannot be.
    #[error("not JSON at byte {0}")]
    Syntax(usize),
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested too deeply")]
    TooDeep,
}

/// All text of a document.
#[derive(Debug, Default)]
pub(crate) struct Texts {
    /// The decoded strings, each followed by a separator.
    pub(crate) text: Vec<u8>,
    /// Where each string lies in `text`, without its separator.
    pub(crate) strings: Vec<Piece>,
    /// From `text` onwards, decoded bytes lie at `raw` onwards in the document, until the next run.
    runs: Vec<Run>,
}

/// One string of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    /// First byte in the decoded text.
    pub(crate) start: usize,
    /// Behind its last byte.
    pub(crate) end: usize,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    text: usize,
    raw: usize,
}

/// Where the bytes of a document are after it was edited.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moves(
    /// The end of each edit in the document, in order, and how far everything from there on moves.
    Vec<(usize, isize)>,
);

impl Moves {
    /// Where what was at `offset`, outside of all edits, is now.
    pub(crate) fn place(&self, offset: usize) -> usize {
        let before = self.0.partition_point(|(end, _)| *end <= offset);
        let shift = before.checked_sub(1).map_or(0, |last| self.0[last].1);
        offset.saturating_add_signed(shift)
    }
}

/// A replacement of decoded bytes, in order and without overlaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Edit<'a> {
    /// First decoded byte that is replaced.
    pub(crate) start: usize,
    /// Behind the last one. Never beyond the string in which `start` lies.
    pub(crate) end: usize,
    /// What stands there instead, as it is written in a JSON string.
    pub(crate) with: &'a [u8],
}

impl Texts {
    /// Reads the document `body`, whose outermost value lies in `zone`.
    pub(crate) fn read(body: &[u8], zone: Zone) -> Result<Self, JsonError> {
        if let Err(error) = simdutf8::compat::from_utf8(body) {
            return Err(JsonError::Syntax(error.valid_up_to()));
        }
        let mut reader = Reader { body, at: 0, texts: Self::default() };
        reader.texts.text.reserve(body.len());
        reader.space();
        reader.value(zone, 0)?;
        reader.space();
        if reader.at == body.len() { Ok(reader.texts) } else { Err(JsonError::Syntax(reader.at)) }
    }

    /// The document with `edits` applied, and where what they leave as it is lies behind them.
    pub(crate) fn apply(&self, body: &[u8], edits: &[Edit<'_>]) -> (Vec<u8>, Moves) {
        let mut in_place: Vec<_> =
            edits.iter().map(|edit| (self.raw(edit.start), self.raw(edit.end), edit.with)).collect();
        // A deferred string is decoded after strings that follow it in the document.
        in_place.sort_unstable_by_key(|(start, ..)| *start);
        let growth: usize = in_place.iter().map(|(start, end, with)| with.len().saturating_sub(end - start)).sum();
        let mut out = Vec::with_capacity(body.len() + growth);
        let mut moves = Vec::with_capacity(in_place.len());
        let mut copied = 0;
        for (start, end, with) in in_place {
            out.extend_from_slice(&body[copied..start]);
            out.extend_from_slice(with);
            copied = end;
            moves.push((end, out.len().cast_signed() - end.cast_signed()));
        }
        out.extend_from_slice(&body[copied..]);
        (out, Moves(moves))
    }

    /// Where the decoded byte at `text` begins in the document.
    fn raw(&self, text: usize) -> usize {
        let run = self.runs[self.runs.partition_point(|run| run.text <= text) - 1];
        run.raw + (text - run.text)
    }
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    texts: Texts,
}

impl<'a> Reader<'a> {
    const fn syntax<T>(&self) -> Result<T, JsonError> {
        Err(JsonError::Syntax(self.at))
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.peek() == Some(byte) {
            self.at += 1;
            Ok(())
        } else {
            self.syntax()
        }
    }

    fn value(&mut self, zone: Zone, depth: usize) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'"') if zone.holds_text() => self.text(),
            Some(b'"') => self.skip_string().map(|_| ()),
            Some(b'{' | b'[') if depth == MAX_DEPTH => Err(JsonError::TooDeep),
            Some(b'{') => self.object(zone, depth),
            Some(b'[') => self.array(zone, depth),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.syntax(),
        }
    }

    fn array(&mut self, zone: Zone, depth: usize) -> Result<(), JsonError> {
        self.expect(b'[')?;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(zone, depth + 1)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return self.syntax(),
            }
            self.space();
        }
    }

    fn object(&mut self, zone: Zone, depth: usize) -> Result<(), JsonError> {
        // What `data` is may be said behind it, and more than once: only what nobody calls anything but base64 is left.
        let (mut data, mut is_base64, mut is_other) = (Vec::new(), false, false);
        self.expect(b'{')?;
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let name = if zone.names_are_text() {
                self.text()?;
                Cow::default()
            } else {
                self.name()?
            };
            self.space();
            self.expect(b':')?;
            self.space();
            if zone == Zone::Source {
                match &*name {
                    b"type" if self.body[self.at..].starts_with(b"\"base64\"") => is_base64 = true,
                    b"type" => is_other = true,
                    b"data" if self.peek() == Some(b'"') => data.push(self.at),
                    _ => {}
                }
            }
            self.value(zone.member(&name), depth + 1)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.syntax(),
            }
            self.space();
        }
        self.at += 1;
        if is_other || !is_base64 {
            let end = self.at;
            for place in data {
                self.at = place;
                self.text()?;
            }
            self.at = end;
        }
        Ok(())
    }

    /// The decoded name of a member; escapes in names are legal, and must not hide what a name says.
    fn name(&mut self) -> Result<Cow<'a, [u8]>, JsonError> {
        let start = self.at + 1;
        let escaped = self.skip_string()?;
        let raw = &self.body[start..self.at - 1];
        if escaped { decode(raw).map(Cow::Owned).ok_or(JsonError::Syntax(start)) } else { Ok(Cow::Borrowed(raw)) }
    }

    /// Passes over a string; whether it has escapes.
    fn skip_string(&mut self) -> Result<bool, JsonError> {
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            self.plain()?;
            self.at += 1;
            if self.body[self.at - 1] == b'"' {
                return Ok(escaped);
            }
            escaped = true;
            self.at += match self.peek() {
                Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 1,
                Some(b'u')
                    if self.body[self.at + 1..].iter().take_while(|b| b.is_ascii_hexdigit()).take(4).count() == 4 =>
                {
                    5
                }
                _ => return self.syntax(),
            };
        }
    }

    /// The part of a string up to its next quote or escape.
    fn plain(&mut self) -> Result<&'a [u8], JsonError> {
        let rest = &self.body[self.at..];
        let Some(length) = memchr::memchr2(b'"', b'\\', rest) else {
            self.at = self.body.len();
            return self.syntax();
        };
        let plain = &rest[..length];
        // Without an early exit, so that the compiler can test many bytes at once.
        if plain.iter().fold(0, |found, byte| found | u8::from(*byte < 0x20)) != 0 {
            return self.syntax();
        }
        self.at += length;
        Ok(plain)
    }

    /// Takes a string over into the texts, decoded as it is read.
    fn text(&mut self) -> Result<(), JsonError> {
        self.expect(b'"')?;
        let start = self.texts.text.len();
        loop {
            // What follows, up to an escape, is written as it is.
            self.texts.runs.push(Run { text: self.texts.text.len(), raw: self.at });
            let plain = self.plain()?;
            self.texts.text.extend_from_slice(plain);
            if self.peek() == Some(b'"') {
                break;
            }
            self.escape()?;
        }
        self.at += 1;
        self.texts.strings.push(Piece { start, end: self.texts.text.len() });
        self.texts.text.push(SEPARATOR);
        Ok(())
    }

    /// Takes an escape over into the texts.
    fn escape(&mut self) -> Result<(), JsonError> {
        let Some((character, length)) = escape(&self.body[self.at..]) else { return self.syntax() };
        let text = &mut self.texts.text;
        match u8::try_from(character) {
            // Nearly all are line breaks and quotes.
            Ok(byte) if byte.is_ascii() => text.push(byte),
            _ => text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        self.at += length;
        Ok(())
    }

    fn word(&mut self, word: &[u8]) -> Result<(), JsonError> {
        if !self.body[self.at..].starts_with(word) {
            return self.syntax();
        }
        self.at += word.len();
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let digits = self.body[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        if digits == 0 { self.syntax() } else { Ok(()) }
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }
}

/// What the inside of a JSON string says; `None` if an escape is none. An unpaired surrogate becomes U+FFFD.
fn decode(raw: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(plain) = memchr::memchr(b'\\', rest) {
        let (character, length) = escape(&rest[plain..])?;
        text.extend_from_slice(&rest[..plain]);
        text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        rest = &rest[plain + length..];
    }
    text.extend_from_slice(rest);
    Some(text)
}

/// The content of the JSON string `written`, quotes included; `None` if it is none.
pub(crate) fn string(written: &[u8]) -> Option<Vec<u8>> {
    decode(written.strip_prefix(b"\"")?.strip_suffix(b"\"")?)
}

/// The character that the escape at the start of `raw` stands for, and the escape's length; `None` if it is cut off or
/// not one.
pub(crate) fn escape(raw: &[u8]) -> Option<(char, usize)> {
    let character = match raw.get(1)? {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        byte @ (b'"' | b'\\' | b'/') => char::from(*byte),
        b'u' => {
            let unit = unit(raw)?;
            let low = raw.get(6..).and_then(unit_of_escape).filter(|low| (0xdc00..0xe000).contains(low));
            return Some(match (unit, low) {
                (0xd800..0xdc00, Some(low)) => {
                    let scalar = 0x1_0000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                    (char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER), 12)
                }
                _ => (char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER), 6),
            });
        }
        _ => return None,
    };
    Some((character, 2))
}

fn unit_of_escape(raw: &[u8]) -> Option<u32> {
    raw.starts_with(b"\\u").then(|| unit(raw)).flatten()
}

/// The four hexadecimal digits of `\uXXXX`.
fn unit(raw: &[u8]) -> Option<u32> {
    raw.get(2..6)?.iter().try_fold(0, |unit, byte| Some(unit << 4 | char::from(*byte).to_digit(16)?))
}

/// Appends `text` as it is written inside a JSON string.
pub(crate) fn encode(text: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            0..0x20 => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
            _ => out.push(byte),
        }
    }
}

#[cfg(test)]
#[path = "json_text/tests.rs"]
mod tests;
