//! The refresh token that clients hold: sealed, so that it says nothing to them and needs no row anywhere, and a
//! refresh works while the store is down (auth contract §6, §12).
//!
//! It carries what a refresh needs: the session, how often it was refreshed, and the identity provider's own token.

use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::domain::session::{Keys, Unsealable};
use crate::wire::seal::NONCE_BYTES;

/// Says that the token is ours and which form the content has.
const PREFIX: &str = "spr1.";

const PURPOSE: &str = "refresh token 1";

/// A refresh token, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// The session that it continues.
    pub session_id: String,
    /// How often the session was refreshed before this token was made; 0 at sign-in.
    pub generation: u64,
    /// What the identity provider issued.
    pub idp_token: Secret<String>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    sid: String,
    #[serde(rename = "gen")]
    generation: u64,
    idp: String,
}

impl RefreshToken {
    /// The text that the client gets.
    pub fn seal(self, keys: &Keys, nonce: [u8; NONCE_BYTES]) -> String {
        let content =
            Content { sid: self.session_id, generation: self.generation, idp: self.idp_token.reveal().clone() };
        let content = serde_json::to_vec(&content).expect("strings and a number");
        format!("{PREFIX}{}", keys.seal(PURPOSE, &content, nonce))
    }

    /// Opens what a client presents.
    pub fn open(text: &str, keys: &Keys) -> Result<Self, Unsealable> {
        let sealed = text.strip_prefix(PREFIX).ok_or(Unsealable::Foreign)?;
        let content = keys.open(PURPOSE, sealed)?;
        let content: Content = serde_json::from_slice(&content).map_err(|_| Unsealable::Foreign)?;
        Ok(Self { session_id: content.sid, generation: content.generation, idp_token: Secret::new(content.idp) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secret: &str) -> Keys {
        Keys::new([Secret::new(secret.to_owned())]).expect("not empty")
    }

    #[test]
    fn it_comes_back_as_it_was_and_shows_nothing() {
        let token = RefreshToken {
            session_id: "s-1".to_owned(),
            generation: 7,
            idp_token: Secret::new("from-the-provider".to_owned()),
        };
        let text = token.clone().seal(&keys("one"), [9; NONCE_BYTES]);
        assert!(text.starts_with("spr1.") && !text.contains("provider"));
        assert_eq!(RefreshToken::open(&text, &keys("one")), Ok(token));
    }

    #[test]
    fn a_foreign_token_is_told_from_one_of_another_key() {
        let sealed = keys("one").seal("grant", b"{}", [0; NONCE_BYTES]);
        for (text, verdict) in [
            ("", Unsealable::Foreign),
            ("an-idp-token", Unsealable::Foreign),
            ("spr1.", Unsealable::Foreign),
            ("spr1.0000000000000000.AAAA", Unsealable::UnknownKey),
            (&format!("spr1.{sealed}"), Unsealable::Foreign),
        ] {
            assert_eq!(RefreshToken::open(text, &keys("one")), Err(verdict), "{text}");
        }
    }
}
