//! Putting identifiers back: into running text, and into answers that come in one piece. Streams are in `sse`.

use std::rc::Rc;

use super::Receipt;
use super::boundary::LOOK_BEHIND;
use super::json_text::{self, Edit, Texts};
use super::kinds::KINDS;
use super::lexicon::{At, Lexicon};
use super::sse::SseRestorer;
use super::token::Key;
use super::zone::Zone;

/// Puts the identifiers of one request back into its answer.
#[derive(Clone)]
pub struct Restorer {
    pub(crate) dictionary: Rc<Dictionary>,
    receipt: Receipt,
}

/// What a restorer knows.
pub(crate) struct Dictionary {
    lexicon: Lexicon,
    key: Key,
}

impl std::fmt::Debug for Restorer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Restorer").field("tokens", &self.dictionary.lexicon.len()).finish_non_exhaustive()
    }
}

impl Restorer {
    pub(crate) fn new(lexicon: Lexicon, key: Key, receipt: Receipt) -> Self {
        Self { dictionary: Rc::new(Dictionary { lexicon, key }), receipt }
    }

    /// Whether there is nothing to restore: answers may pass as they are.
    pub fn is_idle(&self) -> bool {
        self.dictionary.lexicon.is_empty()
    }

    /// What was masked in the request.
    pub const fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// Restores an answer that came in one piece: a message, or an error. What is not JSON is taken as text.
    pub fn json(&self, body: &[u8]) -> Vec<u8> {
        self.json_with_receipt(body).0
    }

    /// The same, with the request's receipt completed.
    pub fn json_with_receipt(&self, body: &[u8]) -> (Vec<u8>, Receipt) {
        let mut receipt = self.receipt.clone();
        let body = self.dictionary.document(body, Zone::Answer, &mut receipt).unwrap_or_else(|| body.to_vec());
        (body, receipt)
    }

    /// Restores an answer that comes as server-sent events.
    pub fn sse(&self) -> SseRestorer {
        SseRestorer::new(Rc::clone(&self.dictionary), self.receipt.clone())
    }
}

impl Dictionary {
    /// The document with identifiers put back; `None` if it stays as it is.
    pub(crate) fn document(&self, body: &[u8], zone: Zone, receipt: &mut Receipt) -> Option<Vec<u8>> {
        let Ok(texts) = Texts::read(body, zone) else {
            let mut flow = Flow::new(Notation::Plain);
            flow.push(body);
            let restored = flow.advance(self, receipt, false);
            return (restored.as_slice() != body).then_some(restored);
        };
        let mut found = Vec::new();
        for piece in &texts.strings {
            let text = &texts.text[piece.start..piece.end];
            self.count_unknown(text, receipt);
            let mut at = 0;
            while at < text.len() {
                match self.lexicon.at(text, at, false) {
                    At::Token(length, entry) => {
                        let mut original = Vec::with_capacity(entry.original.len());
                        json_text::encode(&entry.original, &mut original);
                        found.push((piece.start + at, piece.start + at + length, original));
                        at += length;
                    }
                    At::Nothing | At::Undecided => at += 1,
                }
            }
        }
        receipt.restored += u64::try_from(found.len()).unwrap_or(u64::MAX);
        let edits: Vec<_> = found.iter().map(|(start, end, with)| Edit { start: *start, end: *end, with }).collect();
        (!edits.is_empty()).then(|| texts.apply(body, &edits).0)
    }

    /// Counts tokens in `text` that were made with our key, but not for this request.
    fn count_unknown(&self, text: &[u8], receipt: &mut Receipt) {
        let mut words = Words::default();
        words.push(text, |word| receipt.unknown += u64::from(self.is_unknown(word)));
        words.finish(|word| receipt.unknown += u64::from(self.is_unknown(word)));
    }

    fn is_unknown(&self, word: &[u8]) -> bool {
        // Two random characters would be a token now and then.
        let forms = |kind: &'static super::Kind| {
            let ids = kind.ids.iter().map(|id| &id.long);
            ids.chain(kind.forms).filter(|form| form.check >= 4 || form.length == 12)
        };
        KINDS.iter().any(|kind| forms(kind).any(|form| form.is_token(&self.key, kind.name, word)))
            && !self.lexicon.contains(word)
    }
}

/// Words of letters, digits and hyphens, told apart as text arrives. Longer ones than any token are left out.
#[derive(Debug, Default)]
pub(crate) struct Words {
    word: Vec<u8>,
}

impl Words {
    /// Longer than every token that is recognised.
    const MAX: usize = 64;

    pub(crate) fn push(&mut self, text: &[u8], mut each: impl FnMut(&[u8])) {
        for &byte in text {
            if byte.is_ascii_alphanumeric() || byte == b'-' {
                if self.word.len() <= Self::MAX {
                    self.word.push(byte);
                }
            } else if !self.word.is_empty() {
                self.finish(&mut each);
            }
        }
    }

    pub(crate) fn finish(&mut self, mut each: impl FnMut(&[u8])) {
        // Hardly any word of a language is as long as the shortest of these tokens and has a digit.
        if (12..=Self::MAX).contains(&self.word.len()) {
            each(&self.word);
        }
        self.word.clear();
    }
}

/// How the text of a flow is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notation {
    /// As it is.
    Plain,
    /// As a JSON document that arrives in pieces: strings have escapes, and numbers may be tokens too.
    Json,
}

/// Text that arrives in pieces, in which tokens are replaced. Only an end that can still become a token is held back.
#[derive(Debug)]
pub(crate) struct Flow {
    notation: Notation,
    /// What is held back, as it was written.
    held: Vec<u8>,
    /// The decoded text right before it, for the boundaries of words.
    before: Vec<u8>,
    /// In [`Notation::Json`]: whether what is held begins inside a string.
    in_string: bool,
    words: Words,
}

impl Flow {
    pub(crate) fn new(notation: Notation) -> Self {
        Self { notation, held: Vec::new(), before: Vec::new(), in_string: false, words: Words::default() }
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, text: &[u8]) {
        self.held.extend_from_slice(text);
    }

    /// Whether something is held back.
    pub(crate) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Everything that is decided by now; with `open` false, all of it.
    pub(crate) fn advance(&mut self, dictionary: &Dictionary, receipt: &mut Receipt, open: bool) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        let decoded = Decoded::new(&held, self.notation, &self.before, open);
        let text = &decoded.text;
        let first = self.before.len();
        let mut out = Vec::with_capacity(held.len());
        let mut at = first;
        while at < text.len() {
            let (from, next) = (decoded.raw(at), at + 1);
            match dictionary.lexicon.at(text, at, open) {
                At::Undecided if open => break,
                At::Token(length, entry) if self.may_stand(&entry.original) => {
                    match self.notation {
                        Notation::Plain => out.extend_from_slice(&entry.original),
                        Notation::Json => json_text::encode(&entry.original, &mut out),
                    }
                    receipt.restored += 1;
                    at += length;
                }
                _ => {
                    let written = &held[from..decoded.raw(next)];
                    // Only an unescaped quote opens or closes a string.
                    self.in_string ^= self.notation == Notation::Json && written == b"\"";
                    out.extend_from_slice(written);
                    at = next;
                }
            }
        }
        let passed = &text[first..at];
        self.words.push(passed, |word| receipt.unknown += u64::from(dictionary.is_unknown(word)));
        let rest = decoded.raw(at);
        self.held = held[rest..].to_vec();
        if !open {
            out.append(&mut self.held);
            self.words.finish(|word| receipt.unknown += u64::from(dictionary.is_unknown(word)));
        }
        self.before = text[at.saturating_sub(LOOK_BEHIND)..at].to_vec();
        out
    }

    /// Outside of strings only numbers may stand, and those have no leading zero.
    fn may_stand(&self, original: &[u8]) -> bool {
        self.notation == Notation::Plain
            || self.in_string
            || (original.iter().all(u8::is_ascii_digit) && original.first() != Some(&b'0'))
    }
}

/// Held text with its escapes decoded.
struct Decoded {
    /// What came before, and the text.
    text: Vec<u8>,
    /// For each byte of `text` behind what came before, and for its end: where it is written.
    places: Option<Vec<usize>>,
    before: usize,
}

impl Decoded {
    fn new(held: &[u8], notation: Notation, before: &[u8], open: bool) -> Self {
        let mut text = before.to_vec();
        if notation == Notation::Plain || memchr::memchr(b'\\', held).is_none() {
            text.extend_from_slice(held);
            return Self { text, places: None, before: before.len() };
        }
        let mut places = Vec::with_capacity(held.len() + 1);
        let mut at = 0;
        while at < held.len() {
            let length = if held[at] == b'\\' {
                match json_text::escape(&held[at..]) {
                    Some((character, length)) => {
                        let start = text.len();
                        text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                        places.extend(std::iter::repeat_n(at, text.len() - start));
                        at += length;
                        continue;
                    }
                    // The escape is cut off: it may become anything.
                    None if open && held.len() - at < 6 => break,
                    None => 1,
                }
            } else {
                1
            };
            text.push(held[at]);
            places.push(at);
            at += length;
        }
        places.push(at);
        Self { text, places: Some(places), before: before.len() }
    }

    fn raw(&self, at: usize) -> usize {
        self.places.as_ref().map_or(at - self.before, |places| places[at - self.before])
    }
}
