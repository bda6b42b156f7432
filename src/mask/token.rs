//! Tokens: what stands in a request in the place of an identifier.
//!
//! A token is a function of the organisation's key, the kind and the value (HMAC-SHA256, RFC 2104), and of nothing else:
//! every request, session, replica and restart makes the same one, so that prompt caches keep working. Its last
//! characters are a keyed check of those before them: whoever has the key recognises a token without any table. Tokens
//! consist of ASCII letters, digits and `-`, which JSON never escapes.
//!
//! Addresses have mappings of their own (`address`), because their tokens must keep who is whose neighbour.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// The organisation's key, ready to use.
#[derive(Clone)]
pub(crate) struct Key {
    mac: Hmac<Sha256>,
    /// SHA-256 that has read a secret block: enough for a check of a few characters, and half of an HMAC's work.
    /// There is nothing to gain by forging a check: it only makes a word count as a token.
    check: Sha256,
}

impl Key {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let mac = Hmac::new_from_slice(key).expect("HMAC takes a key of any length");
        let mut key = Self { mac, check: Sha256::new() };
        for half in [0, 1] {
            let secret = key.bytes(CHECK, &[&[half]]);
            key.check.update(secret);
        }
        key
    }

    /// 32 bytes that only the key's owner can compute from `parts`, of which all but the last are free of NUL.
    pub(crate) fn bytes(&self, purpose: u8, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.mac.clone();
        mac.update(&[purpose]);
        for part in parts {
            mac.update(part);
            mac.update(&[0]);
        }
        mac.finalize().into_bytes().into()
    }

    /// The same for the check of a token.
    fn check(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut check = self.check.clone();
        for part in parts {
            check.update(part);
            check.update([0]);
        }
        check.finalize().into()
    }
}

/// What the HMAC is for. Two purposes never see each other's output.
const TAG: u8 = b't';
const CHECK: u8 = b'c';

/// The characters of which a token's variable part is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alphabet {
    /// `0-9`, the first one never `0`: an account id may stand as a JSON number.
    Digits,
    /// `0-9a-f`
    Hex,
    /// `0-9A-F`
    HexUpper,
    /// `a-z2-7`
    Base32,
    /// `A-Z2-7`
    Base32Upper,
    /// `0-9a-z`
    Lower,
    /// `0-9A-Za-z`
    Mixed,
}

impl Alphabet {
    const fn characters(self) -> &'static [u8] {
        match self {
            Self::Digits => b"0123456789",
            Self::Hex => b"0123456789abcdef",
            Self::HexUpper => b"0123456789ABCDEF",
            Self::Base32 => b"abcdefghijklmnopqrstuvwxyz234567",
            Self::Base32Upper => b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567",
            Self::Lower => b"0123456789abcdefghijklmnopqrstuvwxyz",
            Self::Mixed => b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
        }
    }

    pub(crate) fn contains(self, byte: u8) -> bool {
        self.characters().contains(&byte)
    }
}

/// How a token of some kind looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    /// What every token begins with, such as `vol-0`.
    pub(crate) prefix: &'static str,
    /// What follows.
    pub(crate) alphabet: Alphabet,
    /// How many characters follow.
    pub(crate) length: usize,
    /// How many of them, the last ones, are the check. Zero where there is no room for one.
    pub(crate) check: usize,
}

impl Form {
    /// The token for `value`. Attempts after the first are for the case, as rare as the form is long, that the token
    /// is already that of another value in the same request.
    pub(crate) fn token(&self, key: &Key, kind: &str, value: &[u8], attempt: u8) -> Vec<u8> {
        let mut token = self.prefix.as_bytes().to_vec();
        let free = self.length - self.check;
        self.fill(&mut token, free, |block| key.bytes(TAG, &[kind.as_bytes(), &[attempt, block], value]));
        if self.alphabet == Alphabet::Digits && self.prefix.is_empty() && token[0] == b'0' {
            token[0] = b'9';
        }
        let check = self.check(key, kind, &token);
        token.extend_from_slice(&check);
        token
    }

    /// Whether `text` is a token of this form, made with `key`.
    pub(crate) fn is_token(&self, key: &Key, kind: &str, text: &[u8]) -> bool {
        if self.check == 0 || !self.fits(text) {
            return false;
        }
        let (tag, check) = text.split_at(text.len() - self.check);
        self.check(key, kind, tag) == check
    }

    /// Whether `text` has this form.
    pub(crate) fn fits(&self, text: &[u8]) -> bool {
        text.strip_prefix(self.prefix.as_bytes())
            .is_some_and(|rest| rest.len() == self.length && rest.iter().all(|byte| self.alphabet.contains(*byte)))
    }

    fn check(&self, key: &Key, kind: &str, tag: &[u8]) -> Vec<u8> {
        let mut check = Vec::with_capacity(self.check);
        if self.check > 0 {
            self.fill(&mut check, self.check, |block| key.check(&[kind.as_bytes(), &[block], tag]));
        }
        check
    }

    /// Appends `count` characters, drawn from as many blocks as that takes.
    fn fill(&self, out: &mut Vec<u8>, count: usize, mut block: impl FnMut(u8) -> [u8; 32]) {
        let characters = self.alphabet.characters();
        let end = out.len() + count;
        for number in 0..=u8::MAX {
            // Two bytes for each character make the bias of the remainder negligible.
            for pair in block(number).chunks_exact(2) {
                if out.len() == end {
                    return;
                }
                let draw = usize::from(u16::from_be_bytes([pair[0], pair[1]]));
                out.push(characters[draw % characters.len()]);
            }
        }
    }
}

/// A token that looks like `value`: digits become digits, letters letters of the same case; the first `keep` bytes and
/// everything else stay. For custom patterns, whose form only the operator knows.
pub(crate) fn alike(key: &Key, kind: &str, value: &[u8], keep: usize, attempt: u8) -> Vec<u8> {
    let mut token = value.to_vec();
    let mut block = [0; 32];
    for (index, byte) in token.iter_mut().enumerate().skip(keep) {
        let (number, place) = ((index - keep) / 32, (index - keep) % 32);
        if place == 0 {
            let number = u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
            block = key.bytes(TAG, &[kind.as_bytes(), &[attempt], &number, value]);
        }
        *byte = match *byte {
            b'0'..=b'9' => b'0' + block[place] % 10,
            b'A'..=b'Z' => b'A' + block[place] % 26,
            // Also what is not ASCII or needs an escape: a token is neither.
            b'a'..=b'z' | b'"' | b'\\' | 0..0x20 | 0x80.. => b'a' + block[place] % 26,
            other => other,
        };
    }
    token
}

#[cfg(test)]
mod tests {
    use super::{Alphabet, Form, Key, alike};

    const VOLUME: Form = Form { prefix: "vol-0", alphabet: Alphabet::Hex, length: 16, check: 5 };

    #[test]
    fn a_token_depends_on_key_kind_and_value_and_on_nothing_else() {
        let key = Key::new(&[7; 32]);
        let token = VOLUME.token(&key, "aws.ebs_volume", b"vol-0aaaaaaaaaaaaaaaa", 0);
        assert_eq!(token, VOLUME.token(&Key::new(&[7; 32]), "aws.ebs_volume", b"vol-0aaaaaaaaaaaaaaaa", 0));
        assert_eq!(token.len(), "vol-0aaaaaaaaaaaaaaaa".len());
        for other in [
            VOLUME.token(&Key::new(&[8; 32]), "aws.ebs_volume", b"vol-0aaaaaaaaaaaaaaaa", 0),
            VOLUME.token(&key, "aws.efs", b"vol-0aaaaaaaaaaaaaaaa", 0),
            VOLUME.token(&key, "aws.ebs_volume", b"vol-0aaaaaaaaaaaaaaab", 0),
            VOLUME.token(&key, "aws.ebs_volume", b"vol-0aaaaaaaaaaaaaaaa", 1),
        ] {
            assert_ne!(token, other);
        }
    }

    #[test]
    fn a_token_is_recognised_without_a_table_and_only_with_the_key() {
        let key = Key::new(&[7; 32]);
        for form in [
            VOLUME,
            Form { prefix: "bucket-", alphabet: Alphabet::Base32, length: 16, check: 4 },
            Form { prefix: "", alphabet: Alphabet::Digits, length: 12, check: 3 },
            Form { prefix: "", alphabet: Alphabet::Mixed, length: 100, check: 4 },
        ] {
            let mut token = form.token(&key, "kind", b"value", 0);
            assert!(form.fits(&token));
            assert!(form.is_token(&key, "kind", &token));
            assert!(!form.is_token(&Key::new(&[8; 32]), "kind", &token));
            assert!(!form.is_token(&key, "other", &token));
            let last = token.last_mut().unwrap();
            *last = if *last == b'2' { b'3' } else { b'2' };
            assert!(!form.is_token(&key, "kind", &token));
        }
    }

    #[test]
    fn a_custom_token_keeps_its_prefix_and_its_shape() {
        let token = String::from_utf8(alike(&Key::new(&[7; 32]), "custom.code", b"PRJ-12ab_\"\n", 4, 0)).unwrap();
        assert_ne!(token, "PRJ-12ab_\"\n");
        assert!(token.starts_with("PRJ-"));
        assert!(token[4..6].bytes().all(|byte| byte.is_ascii_digit()), "{token}");
        assert!(token[6..8].bytes().all(|byte| byte.is_ascii_lowercase()), "{token}");
        assert_eq!(&token[8..9], "_");
        assert!(token[9..].bytes().all(|byte| byte.is_ascii_lowercase()), "{token}");
    }
}
