//! The device grant (RFC 8628): its states, what is kept in each, and what a poll is answered.
//!
//! ```text
//! Pending ──approve──▶ Approved ──poll──▶ redeemed
//!    ├──────deny─────▶ Denied ────poll──▶ redeemed
//!    └──────fail─────▶ Failed ────poll──▶ redeemed
//! ```
//!
//! Every arrow is one conditional statement in `store/device_grants.rs`: the first decision stands, and a decided
//! grant is redeemed once. Tokens are made by `session.rs`.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Secret;
use crate::domain::checksum::hex;
use crate::domain::ids::Timestamp;
use crate::domain::session::{Keys, Unsealable};
use crate::wire::seal::NONCE_BYTES;

/// How long a grant waits for a decision, and how long a decision waits to be fetched.
pub const LIFETIME: Duration = Duration::from_mins(10);

/// What clients are told to wait between polls (RFC 8628 §3.2).
pub const INTERVAL: Duration = Duration::from_secs(5);

/// The window in which a second poll is too early; shorter than [`INTERVAL`], so that a prompt client is never told off.
pub const PACE: Duration = Duration::from_secs(4);

const PURPOSE: &str = "device grant 1";

/// The secret that a device polls with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceCode(Secret<String>);

impl DeviceCode {
    /// The code of 32 random bytes: 43 characters of base64url.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// A code that somebody presents; it may not exist.
    pub fn presented(text: &str) -> Self {
        Self(Secret::new(text.to_owned()))
    }

    /// For the one response that carries it.
    pub const fn reveal(&self) -> &String {
        self.0.reveal()
    }

    /// What is stored in its place.
    pub fn hash(&self) -> GrantId {
        GrantId(hex(&Sha256::digest(self.0.reveal().as_bytes())))
    }
}

/// Names a grant: lower-case hex SHA-256 of its device code. Knowing it lets nobody poll.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantId(String);

impl GrantId {
    /// Reads what [`GrantId::as_str`] wrote.
    pub const fn stored(text: String) -> Self {
        Self(text)
    }

    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a grant stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nobody has decided.
    Pending,
    /// Signed in; tokens wait.
    Approved,
    /// The person said no.
    Denied,
    /// The identity provider or the configuration said no.
    Failed,
}

impl State {
    /// As it is stored.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Denied => "denied",
            Self::Failed => "failed",
        }
    }

    /// Reads what [`State::name`] wrote.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Pending, Self::Approved, Self::Denied, Self::Failed].into_iter().find(|state| state.name() == name)
    }
}

/// What is kept, sealed, of a grant that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Who asked for the code, by address.
    pub requested_from: IpAddr,
    /// When, RFC 3339.
    pub requested_at: String,
}

/// What is kept, sealed, of a grant that was approved: the answer to the next poll.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Session token.
    pub access_token: String,
    /// What the identity provider issued to refresh with, if it did.
    pub idp_token: Option<String>,
    /// Which provider issued it, by its name among several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The session that begins when they are fetched.
    pub session_id: String,
    /// Whose.
    pub subject: String,
    /// Shown to the person before the credential is stored (auth contract §13).
    pub email: Option<String>,
    /// Name.
    pub name: Option<String>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("[tokens]")
    }
}

/// The sealed content carries the same expiry as its row, so a row that lives too long does not help.
#[derive(Serialize, Deserialize)]
struct Content<T> {
    exp: i64,
    #[serde(flatten)]
    facts: T,
}

/// Seals the facts of a grant for as long as its row lives.
pub fn seal(facts: &impl Serialize, expires_at: Timestamp, keys: &Keys, nonce: [u8; NONCE_BYTES]) -> String {
    let content = Content { exp: expires_at.as_millis(), facts };
    keys.seal(PURPOSE, &serde_json::to_vec(&content).expect("facts are strings"), nonce)
}

/// Opens what [`seal`] made. `Ok(None)` means that it is over, or was sealed for another state.
pub fn open<T: for<'a> Deserialize<'a>>(sealed: &str, keys: &Keys, now: Timestamp) -> Result<Option<T>, Unsealable> {
    let content = keys.open(PURPOSE, sealed)?;
    let content: Option<Content<T>> = serde_json::from_slice(&content).ok();
    Ok(content.filter(|content| content.exp > now.as_millis()).map(|content| content.facts))
}

/// What the store found when a device polled. A decided grant was redeemed by this very poll.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polled {
    /// Where the grant stands.
    pub state: State,
    /// What is kept of it.
    pub sealed: String,
    /// Whether the last accepted poll is less than [`PACE`] ago.
    pub is_early: bool,
}

/// What a poll is answered (RFC 8628 §3.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poll {
    /// Signed in.
    Tokens(Tokens),
    /// Not yet decided.
    AuthorizationPending,
    /// Not yet decided, and asked too soon.
    SlowDown,
    /// Denied or failed.
    AccessDenied,
    /// Unknown, over, or already redeemed.
    ExpiredToken,
}

/// The answer to a poll. `SlowDown` never delays a decided grant (auth contract §5.7).
pub fn answer(polled: Option<Polled>, keys: &Keys, now: Timestamp) -> Result<Poll, Unsealable> {
    let Some(polled) = polled else { return Ok(Poll::ExpiredToken) };
    Ok(match polled.state {
        State::Pending if polled.is_early => Poll::SlowDown,
        State::Pending => match open::<Asked>(&polled.sealed, keys, now)? {
            Some(_) => Poll::AuthorizationPending,
            None => Poll::ExpiredToken,
        },
        State::Approved => open(&polled.sealed, keys, now)?.map_or(Poll::ExpiredToken, Poll::Tokens),
        State::Denied | State::Failed => Poll::AccessDenied,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);

    fn keys(secret: &str) -> Keys {
        Keys::new([Secret::new(secret.to_owned())]).expect("not empty")
    }

    fn tokens() -> Tokens {
        Tokens {
            access_token: "a".to_owned(),
            idp_token: Some("b".to_owned()),
            provider: None,
            session_id: "s-1".to_owned(),
            subject: "alice".to_owned(),
            email: Some("alice@example.com".to_owned()),
            name: None,
        }
    }

    #[test]
    fn a_device_code_is_43_characters_and_is_stored_as_its_hash() {
        let code = DeviceCode::from_random([0; 32]);
        assert_eq!(code.reveal().len(), 43);
        assert_eq!(DeviceCode::presented(code.reveal()), code);
        // printf %s AAAA… | sha256sum
        assert_eq!(
            DeviceCode::presented("abc").hash().as_str(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn polls_are_answered_by_the_table() {
        let keys = keys("one");
        let end = NOW.plus(LIFETIME);
        let asked = Asked { requested_from: IpAddr::from([192, 0, 2, 1]), requested_at: NOW.to_rfc3339() };
        let tokens = tokens();
        let waiting = seal(&asked, end, &keys, [1; NONCE_BYTES]);
        let signed_in = seal(&tokens, end, &keys, [2; NONCE_BYTES]);
        for (state, sealed, is_early, at, poll) in [
            (State::Pending, &waiting, false, NOW, Poll::AuthorizationPending),
            (State::Pending, &waiting, true, NOW, Poll::SlowDown),
            (State::Pending, &waiting, false, end, Poll::ExpiredToken),
            (State::Approved, &signed_in, true, NOW, Poll::Tokens(tokens.clone())),
            (State::Approved, &signed_in, false, end, Poll::ExpiredToken),
            (State::Approved, &waiting, false, NOW, Poll::ExpiredToken),
            (State::Denied, &waiting, true, NOW, Poll::AccessDenied),
            (State::Failed, &waiting, false, NOW, Poll::AccessDenied),
        ] {
            let polled = Polled { state, sealed: sealed.clone(), is_early };
            assert_eq!(answer(Some(polled), &keys, at), Ok(poll), "{state:?} {is_early}");
        }
        assert_eq!(answer(None, &keys, NOW), Ok(Poll::ExpiredToken));
        let polled = Polled { state: State::Approved, sealed: signed_in, is_early: false };
        assert_eq!(answer(Some(polled), &self::keys("two"), NOW), Err(Unsealable::UnknownKey));
    }

    #[test]
    fn states_are_stored_by_name() {
        for state in [State::Pending, State::Approved, State::Denied, State::Failed] {
            assert_eq!(State::parse(state.name()), Some(state));
        }
        assert_eq!(State::parse("redeemed"), None);
    }

    #[test]
    fn debug_output_shows_no_token() {
        assert_eq!(format!("{:?}", tokens()), "[tokens]");
    }
}
