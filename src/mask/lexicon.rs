//! The map back: the tokens of one request and what they stand for. It is made while the request is masked, lives as
//! long as its answer, and is never stored.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::boundary;

/// The tokens of one request.
#[derive(Debug, Default)]
pub(crate) struct Lexicon {
    /// In order, to see whether a text may go on to be a token.
    entries: BTreeMap<Vec<u8>, Entry>,
    /// Lengths of tokens by their first byte, longest first.
    lengths: Vec<Vec<usize>>,
    /// A bit for each pair of bytes with which a token begins: most places of a text are told by it.
    pairs: Vec<u64>,
}

/// What a token stands for. `Debug` says nothing of it.
pub(crate) struct Entry {
    /// The identifier.
    pub(crate) original: Vec<u8>,
    edge: Edge,
}

/// What has to be around a token. Long ones need nothing: chance does not produce them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Anything.
    Any,
    /// A word begins before and ends behind it.
    Word,
    /// It is an IPv4 address, or with a `.` at its end the network part of one.
    Address,
}

/// What is at some place of a text.
#[derive(Debug)]
pub(crate) enum At<'a> {
    /// No token, whatever follows.
    Nothing,
    /// A token of this length.
    Token(usize, &'a Entry),
    /// It depends on what follows.
    Undecided,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("[identifier]")
    }
}

impl Lexicon {
    /// Whether `token` is taken.
    pub(crate) fn contains(&self, token: &[u8]) -> bool {
        self.entries.contains_key(token)
    }

    /// How many tokens there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a token, unless it is there.
    pub(crate) fn add(&mut self, token: Vec<u8>, original: Vec<u8>, edge: Edge) {
        self.entries.entry(token).or_insert(Entry { original, edge });
    }

    /// Prepares for looking up. Nothing may be added afterwards.
    pub(crate) fn seal(mut self) -> Self {
        self.lengths = vec![Vec::new(); 256];
        self.pairs = vec![0; 1024];
        for token in self.entries.keys() {
            let pair = pair(token);
            self.pairs[pair / 64] |= 1 << (pair % 64);
            let lengths = &mut self.lengths[usize::from(token[0])];
            if !lengths.contains(&token.len()) {
                lengths.push(token.len());
            }
        }
        for lengths in &mut self.lengths {
            lengths.sort_unstable_by_key(|length| std::cmp::Reverse(*length));
        }
        self
    }

    /// Looks at `text[at..]`. With `open`, more may follow behind the end of `text`.
    pub(crate) fn at(&self, text: &[u8], at: usize, open: bool) -> At<'_> {
        let rest = &text[at..];
        let lengths = &self.lengths[usize::from(rest[0])];
        if lengths.is_empty() {
            return At::Nothing;
        }
        if rest.len() >= 2 {
            let pair = pair(rest);
            if self.pairs[pair / 64] >> (pair % 64) & 1 == 0 {
                return At::Nothing;
            }
        }
        if open && self.may_become_token(rest) {
            return At::Undecided;
        }
        for length in lengths.iter().filter(|length| **length <= rest.len()) {
            let Some(entry) = self.entries.get(&rest[..*length]) else { continue };
            if !entry.edge.begins(text, at) {
                continue;
            }
            let is_prefix = matches!(rest[length - 1], b'.' | b'-');
            if entry.edge == Edge::Any || is_prefix {
                return At::Token(*length, entry);
            }
            if open && rest.len() == *length {
                return At::Undecided;
            }
            if boundary::ends(text, at + length) {
                return At::Token(*length, entry);
            }
        }
        At::Nothing
    }

    /// Whether some token begins with `rest` and is longer.
    fn may_become_token(&self, rest: &[u8]) -> bool {
        let mut longer = self.entries.range::<[u8], _>((Bound::Excluded(rest), Bound::Unbounded));
        longer.next().is_some_and(|(token, _)| token.starts_with(rest))
    }
}

/// The first two bytes, as a number. No token is shorter.
fn pair(text: &[u8]) -> usize {
    usize::from(text[0]) << 8 | usize::from(text[1])
}

impl Edge {
    fn begins(self, text: &[u8], at: usize) -> bool {
        match self {
            Self::Any => true,
            Self::Word => boundary::begins(text, at),
            Self::Address => boundary::begins(text, at) && !boundary::continues_number(text, at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{At, Edge, Lexicon};

    fn lexicon() -> Lexicon {
        let mut lexicon = Lexicon::default();
        lexicon.add(b"i-0abc".to_vec(), b"one".to_vec(), Edge::Any);
        lexicon.add(b"123456".to_vec(), b"two".to_vec(), Edge::Word);
        lexicon.add(b"10.7.3.".to_vec(), b"10.0.1.".to_vec(), Edge::Address);
        lexicon.add(b"10.7.3.0/22".to_vec(), b"10.0.0.0/22".to_vec(), Edge::Address);
        lexicon.seal()
    }

    fn at(text: &str, at: usize, open: bool) -> String {
        match lexicon().at(text.as_bytes(), at, open) {
            At::Nothing => "nothing".to_owned(),
            At::Undecided => "undecided".to_owned(),
            At::Token(length, entry) => format!("{length} {}", String::from_utf8_lossy(&entry.original)),
        }
    }

    #[test]
    fn only_what_can_still_become_a_token_is_undecided() {
        for (text, place, open, found) in [
            ("i", 0, true, "undecided"),
            ("i", 0, false, "nothing"),
            ("i-0ab", 0, true, "undecided"),
            ("i-0ax", 0, true, "nothing"),
            ("i-0abc", 0, true, "6 one"),
            ("ai-0abc", 1, true, "6 one"),
            ("123456", 0, true, "undecided"),
            ("123456", 0, false, "6 two"),
            ("123456 ", 0, true, "6 two"),
            ("1234567", 0, true, "nothing"),
            ("0123456 ", 1, true, "nothing"),
            ("\\n123456 ", 2, true, "6 two"),
            ("10.7.3.", 0, true, "undecided"),
            ("10.7.3.9", 0, true, "7 10.0.1."),
            ("10.7.3.0", 0, true, "undecided"),
            ("10.7.3.0/22", 0, true, "undecided"),
            ("10.7.3.0/22 ", 0, true, "11 10.0.0.0/22"),
            ("10.7.3.0/24", 0, true, "7 10.0.1."),
            ("9.10.7.3.1", 2, true, "nothing"),
        ] {
            assert_eq!(at(text, place, open), found, "{text:?} {place} {open}");
        }
    }
}
