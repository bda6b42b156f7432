//! The refresh token that clients hold: sealed, so that it says nothing to them and needs no row anywhere, and a
//! refresh works while the store is down (auth contract §6, §12).
//!
//! It carries what a refresh needs: the session, how often it was refreshed, and the identity provider's own token. What
//! a generation means is decided in `rotation.rs`.

use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::domain::session::{Keys, Unsealable};
use crate::wire::seal::NONCE_BYTES;

/// Says that the token is ours and whether the store knows its session.
const UNKNOWN: Form = Form { prefix: "spr1.", purpose: "refresh token 1", is_known: false };
const KNOWN: Form = Form { prefix: "spr2.", purpose: "refresh token 2", is_known: true };

struct Form {
    prefix: &'static str,
    purpose: &'static str,
    is_known: bool,
}

/// A refresh token, opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefreshToken {
    /// The session that it continues.
    pub session_id: String,
    /// How often the session was refreshed before this token was made; 0 at sign-in.
    pub generation: u64,
    /// Whether the store has a row of the session, or had one. A session without one gets it at its next refresh: it
    /// began before there were any, or while the store was failing.
    pub is_known: bool,
    /// Which provider issued it, by its name among several.
    pub provider: Option<String>,
    /// What the identity provider issued.
    pub idp_token: Secret<String>,
}

#[derive(Serialize, Deserialize)]
struct Content {
    sid: String,
    #[serde(rename = "gen")]
    generation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    idp: String,
}

impl RefreshToken {
    /// The text that the client gets.
    pub fn seal(self, keys: &Keys, nonce: [u8; NONCE_BYTES]) -> String {
        let form = if self.is_known { KNOWN } else { UNKNOWN };
        let content = Content {
            sid: self.session_id,
            generation: self.generation,
            provider: self.provider,
            idp: self.idp_token.reveal().clone(),
        };
        let content = serde_json::to_vec(&content).expect("strings and a number");
        format!("{}{}", form.prefix, keys.seal(form.purpose, &content, nonce))
    }

    /// Whether `text` has the look of one; it may still be anything.
    pub fn is_one(text: &str) -> bool {
        text.starts_with(KNOWN.prefix) || text.starts_with(UNKNOWN.prefix)
    }

    /// Opens what a client presents.
    pub fn open(text: &str, keys: &Keys) -> Result<Self, Unsealable> {
        let of_form = |form: Form| Some((text.strip_prefix(form.prefix)?, form));
        let (sealed, form) = of_form(KNOWN).or_else(|| of_form(UNKNOWN)).ok_or(Unsealable::Foreign)?;
        let content = keys.open(form.purpose, sealed)?;
        let content: Content = serde_json::from_slice(&content).map_err(|_| Unsealable::Foreign)?;
        Ok(Self {
            session_id: content.sid,
            generation: content.generation,
            is_known: form.is_known,
            provider: content.provider,
            idp_token: Secret::new(content.idp),
        })
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
        for (is_known, prefix) in [(false, "spr1."), (true, "spr2.")] {
            let token = RefreshToken {
                session_id: "s-1".to_owned(),
                generation: 7,
                is_known,
                provider: Some("corp".to_owned()),
                idp_token: Secret::new("from-the-provider".to_owned()),
            };
            let text = token.clone().seal(&keys("one"), [9; NONCE_BYTES]);
            assert!(text.starts_with(prefix) && !text.contains("provider"));
            assert_eq!(RefreshToken::open(&text, &keys("one")), Ok(token));
            // One form does not pass for the other.
            let other = if is_known { "spr1." } else { "spr2." };
            let disguised = text.replacen(prefix, other, 1);
            assert_eq!(RefreshToken::open(&disguised, &keys("one")), Err(Unsealable::Foreign));
        }
    }

    #[test]
    fn a_foreign_token_is_told_from_one_of_another_key() {
        let sealed = keys("one").seal("grant", b"{}", [0; NONCE_BYTES]);
        for (text, verdict) in [
            ("", Unsealable::Foreign),
            ("an-idp-token", Unsealable::Foreign),
            ("spr1.", Unsealable::Foreign),
            ("spr2.", Unsealable::Foreign),
            ("spr2.0000000000000000.AAAA", Unsealable::UnknownKey),
            (&format!("spr2.{sealed}"), Unsealable::Foreign),
        ] {
            assert_eq!(RefreshToken::open(text, &keys("one")), Err(verdict), "{text}");
        }
    }
}
