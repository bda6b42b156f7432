//! [`Object`]: where the members of a JSON object lie in its text (RFC 8259), without building their values.
//!
//! The scan checks the whole grammar but not the encoding of strings: bytes that are not UTF-8 and lone surrogates pass,
//! as they do through every tolerant parser, because the text is forwarded and not interpreted. Editing is in
//! [`json_edit`](super::json_edit).

use std::borrow::Cow;
use std::ops::Range;

use serde::de::DeserializeOwned;

/// The places of the members of one JSON object. Valid only for the text that was scanned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// In the order of the text; duplicates included.
    members: Vec<Member>,
    /// Just after the opening brace.
    inside: usize,
}

/// One member: its key with quotes and its value without surrounding blanks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The key, quotes included.
    pub key: Range<usize>,
    /// The value.
    pub value: Range<usize>,
}

/// Why a text has no members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotObject {
    /// It is not JSON. A byte order mark counts (RFC 8259 §8.1 forbids it).
    #[error("not JSON")]
    Invalid,
    /// It is JSON of another type.
    #[error("not a JSON object")]
    OtherType,
}

impl Object {
    /// Finds the members of `text`, reading each byte once. Nesting costs one byte per level and no stack.
    pub fn scan(text: &[u8]) -> Result<Self, NotObject> {
        let mut scanner = Scanner { text, at: 0 };
        scanner.blanks();
        let object = if scanner.peek() == Some(b'{') { Some(scanner.object()) } else { None };
        let Some(object) = object else {
            scanner.value().and_then(|()| scanner.end()).map_err(|Invalid| NotObject::Invalid)?;
            return Err(NotObject::OtherType);
        };
        let object = object.map_err(|Invalid| NotObject::Invalid)?;
        scanner.end().map_err(|Invalid| NotObject::Invalid)?;
        Ok(object)
    }

    /// The same members in a text with edits inside of values; `place` says where what was at an offset is now.
    #[must_use]
    pub fn moved(&self, place: impl Fn(usize) -> usize) -> Self {
        let range = |range: &Range<usize>| place(range.start)..place(range.end);
        let member = |member: &Member| Member { key: range(&member.key), value: range(&member.value) };
        Self { members: self.members.iter().map(member).collect(), inside: place(self.inside) }
    }

    /// All members, duplicates included.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Just after the opening brace.
    pub(super) const fn inside(&self) -> usize {
        self.inside
    }

    /// The member that counts when `name` occurs several times: the last.
    pub fn find(&self, text: &[u8], name: &str) -> Option<&Member> {
        self.members.iter().rev().find(|member| member.is_named(text, name))
    }

    /// The text of the value of `name`.
    pub fn value<'t>(&self, text: &'t [u8], name: &str) -> Option<&'t [u8]> {
        self.find(text, name).map(|member| &text[member.value.clone()])
    }

    /// The value of `name` as a `T`; `None` when it is absent or something else.
    pub fn read<T: DeserializeOwned>(&self, text: &[u8], name: &str) -> Option<T> {
        serde_json::from_slice(self.value(text, name)?).ok()
    }
}

impl Member {
    /// Whether the key is `name`, however it is escaped.
    pub fn is_named(&self, text: &[u8], name: &str) -> bool {
        let quoted = &text[self.key.clone()];
        let bare = &quoted[1..quoted.len() - 1];
        if bare.contains(&b'\\') {
            serde_json::from_slice::<Cow<'_, str>>(quoted).is_ok_and(|key| key == name)
        } else {
            bare == name.as_bytes()
        }
    }
}

/// The text is not JSON.
struct Invalid;

struct Scanner<'t> {
    text: &'t [u8],
    at: usize,
}

impl Scanner<'_> {
    fn object(&mut self) -> Result<Object, Invalid> {
        self.expect(b'{')?;
        let inside = self.at;
        let mut members = Vec::with_capacity(16);
        self.blanks();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Object { members, inside });
        }
        loop {
            let key = self.key()?;
            self.blanks();
            let from = self.at;
            self.value()?;
            members.push(Member { key, value: from..self.at });
            self.blanks();
            match self.next()? {
                b',' => self.blanks(),
                b'}' => return Ok(Object { members, inside }),
                _ => return Err(Invalid),
            }
        }
    }

    /// One value with everything in it; starts at blanks or at the value, ends just after it.
    fn value(&mut self) -> Result<(), Invalid> {
        // The closing bytes of the containers that are open.
        let mut open = Vec::new();
        loop {
            self.blanks();
            match self.peek().ok_or(Invalid)? {
                b'{' => {
                    self.at += 1;
                    self.blanks();
                    if self.peek() == Some(b'}') {
                        self.at += 1;
                    } else {
                        self.key()?;
                        open.push(b'}');
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    self.blanks();
                    if self.peek() == Some(b']') {
                        self.at += 1;
                    } else {
                        open.push(b']');
                        continue;
                    }
                }
                b'"' => {
                    self.string()?;
                }
                b't' => self.literal(b"true")?,
                b'f' => self.literal(b"false")?,
                b'n' => self.literal(b"null")?,
                _ => self.number()?,
            }
            if !self.after_value(&mut open)? {
                return Ok(());
            }
        }
    }

    /// Closes what ends here; whether another value follows.
    fn after_value(&mut self, open: &mut Vec<u8>) -> Result<bool, Invalid> {
        while let Some(&closing) = open.last() {
            self.blanks();
            match self.next()? {
                b',' if closing == b'}' => {
                    self.blanks();
                    self.key()?;
                    return Ok(true);
                }
                b',' => return Ok(true),
                byte if byte == closing => {
                    open.pop();
                }
                _ => return Err(Invalid),
            }
        }
        Ok(false)
    }

    /// A key and its colon; the place of the key.
    fn key(&mut self) -> Result<Range<usize>, Invalid> {
        let key = self.string()?;
        self.blanks();
        self.expect(b':')?;
        Ok(key)
    }

    fn string(&mut self) -> Result<Range<usize>, Invalid> {
        let from = self.at;
        self.expect(b'"')?;
        loop {
            let rest = &self.text[self.at..];
            let length = memchr::memchr2(b'"', b'\\', rest).ok_or(Invalid)?;
            // Without an early exit, so that the compiler can test many bytes at once.
            if rest[..length].iter().fold(0, |found, byte| found | u8::from(*byte < 0x20)) != 0 {
                return Err(Invalid);
            }
            self.at += length + 1;
            if rest[length] == b'"' {
                return Ok(from..self.at);
            }
            match self.next()? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                b'u' => {
                    for _ in 0..4 {
                        if !self.next()?.is_ascii_hexdigit() {
                            return Err(Invalid);
                        }
                    }
                }
                _ => return Err(Invalid),
            }
        }
    }

    fn number(&mut self) -> Result<(), Invalid> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.next()? {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            _ => return Err(Invalid),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(())
    }

    fn some_digits(&mut self) -> Result<(), Invalid> {
        if !self.next()?.is_ascii_digit() {
            return Err(Invalid);
        }
        self.digits();
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Invalid> {
        if !self.text[self.at..].starts_with(word) {
            return Err(Invalid);
        }
        self.at += word.len();
        Ok(())
    }

    fn end(&mut self) -> Result<(), Invalid> {
        self.blanks();
        if self.at == self.text.len() { Ok(()) } else { Err(Invalid) }
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), Invalid> {
        if self.next()? == byte { Ok(()) } else { Err(Invalid) }
    }

    fn next(&mut self) -> Result<u8, Invalid> {
        let byte = self.peek().ok_or(Invalid)?;
        self.at += 1;
        Ok(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;

    /// Pieces that make texts which are nearly JSON.
    fn nearly_json() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"a\"",
            "\"\\u00e9\"",
            "\"\\ud800\"",
            "\"\\x\"",
            "\"",
            "1",
            "-0",
            "01",
            "1.5e3",
            "1.",
            "-",
            "true",
            "fals",
            "null",
            " ",
            "\n",
            "\u{1}",
            "{\"a\":",
            "[1,",
            "\"b\":2",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn it_accepts_what_serde_json_accepts(text in nearly_json()) {
            let expected = serde_json::from_str::<IgnoredAny>(&text).is_ok();
            let accepted = !matches!(Object::scan(text.as_bytes()), Err(NotObject::Invalid));
            prop_assert_eq!(accepted, expected, "{}", text);
        }

        #[test]
        fn no_bytes_make_it_fail_and_it_judges_them_as_serde_json_does(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let expected = serde_json::from_slice::<IgnoredAny>(&text).is_ok();
            prop_assert_eq!(!matches!(Object::scan(&text), Err(NotObject::Invalid)), expected);
        }

        #[test]
        fn members_are_found_where_serde_json_finds_them(text in "\\{ ?(\"[ab]\" ?: ?(1|\"x\\\\n\"|\\[1, 2\\]|\\{\"a\":0\\}) ?, ?){0,4}\"c\":true \\}") {
            let object = Object::scan(text.as_bytes()).unwrap();
            let value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
            for (name, expected) in value {
                prop_assert_eq!(object.read::<serde_json::Value>(text.as_bytes(), &name), Some(expected));
            }
        }
    }

    #[test]
    fn what_is_not_an_object_is_told_apart_from_what_is_not_json() {
        for (text, expected) in [
            (&b""[..], NotObject::Invalid),
            (b"\xef\xbb\xbf{}", NotObject::Invalid),
            (b"{} {}", NotObject::Invalid),
            (b"{\"a\":1,}", NotObject::Invalid),
            (b"\x1f\x8b\x08", NotObject::Invalid),
            (b"[]", NotObject::OtherType),
            (b" null ", NotObject::OtherType),
            (b"\"{}\"", NotObject::OtherType),
        ] {
            assert_eq!(Object::scan(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_utf8_pass_inside_strings() {
        let text = b"{\"a\":\"\xff\xfe\",\"model\":\"m\"}";
        assert_eq!(Object::scan(text).unwrap().read::<String>(text, "model").as_deref(), Some("m"));
    }

    #[test]
    fn an_escaped_key_is_the_same_key_and_the_last_duplicate_counts() {
        let text = br#"{"model":"a","mod\u0065l":"b"}"#;
        assert_eq!(Object::scan(text).unwrap().read::<String>(text, "model").as_deref(), Some("b"));
    }

    #[test]
    fn deep_nesting_needs_no_stack() {
        let text = [b"{\"a\":".to_vec(), b"[".repeat(1_000_000), b"]".repeat(1_000_000), b"}".to_vec()].concat();
        assert_eq!(Object::scan(&text).unwrap().members().len(), 1);
    }
}
