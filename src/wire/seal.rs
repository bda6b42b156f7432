//! Sealing: authenticated encryption with a key of its own per purpose, as short printable text.
//!
//! HKDF-SHA256 (RFC 5869) derives the key from a secret and the purpose; XChaCha20-Poly1305 seals, with the purpose as
//! additional data. It does not know where secrets come from, nor which of several to use.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use sha2::Sha256;

/// Random bytes that every sealing needs: with 192 bits, chance alone keeps them apart.
pub const NONCE_BYTES: usize = 24;

/// A key that seals and opens texts of one purpose.
pub struct SealingKey {
    cipher: XChaCha20Poly1305,
    purpose: &'static str,
}

impl SealingKey {
    /// The key for `purpose` that follows from `secret`.
    pub fn derive(secret: &[u8], purpose: &'static str) -> Self {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(Some(b"sallyport"), secret)
            .expand(purpose.as_bytes(), &mut key)
            .expect("32 bytes are less than HKDF's limit of 255 blocks");
        Self { cipher: XChaCha20Poly1305::new(&key.into()), purpose }
    }

    /// Seals `content` with a fresh random `nonce`: base64url of the nonce and the ciphertext.
    pub fn seal(&self, content: &[u8], nonce: [u8; NONCE_BYTES]) -> String {
        let payload = Payload { msg: content, aad: self.purpose.as_bytes() };
        let mut sealed = nonce.to_vec();
        let ciphertext = self.cipher.encrypt(&XNonce::from(nonce), payload);
        sealed.extend(ciphertext.expect("the content is far below the cipher's limit of 256 GiB"));
        URL_SAFE_NO_PAD.encode(sealed)
    }

    /// Opens what [`SealingKey::seal`] made; `None` if it was made with another key, for another purpose, or changed.
    pub fn open(&self, sealed: &str) -> Option<Vec<u8>> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, ciphertext) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload { msg: ciphertext, aad: self.purpose.as_bytes() };
        self.cipher.decrypt(&XNonce::from(*nonce), payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_same_secret_and_purpose_open_it() {
        let sealed = SealingKey::derive(b"one", "state").seal(b"content", [7; NONCE_BYTES]);
        assert_eq!(SealingKey::derive(b"one", "state").open(&sealed).as_deref(), Some(&b"content"[..]));
        assert_eq!(SealingKey::derive(b"two", "state").open(&sealed), None);
        assert_eq!(SealingKey::derive(b"one", "grant").open(&sealed), None);
    }

    proptest! {
        #[test]
        fn a_changed_character_is_noticed(at: proptest::sample::Index, to in "[A-Za-z0-9_-]") {
            let key = SealingKey::derive(b"secret", "state");
            let sealed = key.seal(b"content", [1; NONCE_BYTES]);
            let at = at.index(sealed.len());
            let changed = format!("{}{to}{}", &sealed[..at], &sealed[at + 1..]);
            prop_assert_eq!(key.open(&changed).is_some(), changed == sealed);
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            prop_assert_eq!(SealingKey::derive(b"secret", "state").open(&text), None);
        }
    }
}
