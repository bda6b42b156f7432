//! Session tokens: minted, verified, and the keys that do both (auth contract §7).
//!
//! Where the keys come from is `store/key_ring.rs`; what an identity is made of is `identity.rs`.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Secret;
use crate::domain::checksum::hex;
use crate::domain::identity::Identity;
use crate::domain::ids::Timestamp;
use crate::wire::jwt::{self, Hs256Key, Jws};
use crate::wire::seal::{NONCE_BYTES, SealingKey};

/// The audience of every session token.
const AUDIENCE: &str = "claude-gateway";

/// Proof that a request carries a valid session token. Only [`Keys::verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    subject: Option<String>,
    email: Option<String>,
    name: Option<String>,
    groups: Vec<String>,
    billing_group: Option<String>,
    id: Option<String>,
    expires_at: Timestamp,
}

impl Session {
    /// Whose session it is: the claim `sub`. Every token of ours has one; one made by hand with the secret may not.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// The e-mail address as the identity provider spells it; may be empty.
    pub fn email(&self) -> Option<&str> {
        self.email.as_deref()
    }

    /// The person's name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The person's groups, in the identity provider's order.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// The claim `billing_group_tag`.
    pub fn billing_group(&self) -> Option<&str> {
        self.billing_group.as_deref()
    }

    /// The session's id, the claim `sid`: it stays the same when the session is refreshed.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// When the token ends.
    pub const fn expires_at(&self) -> Timestamp {
        self.expires_at
    }
}

/// Why a token proves nothing. Callers are told none of it (auth contract §4.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It is no token, or a claim has the wrong type.
    #[error("malformed token")]
    Malformed,
    /// It is not signed with HS256.
    #[error("wrong algorithm")]
    WrongAlgorithm,
    /// It names a key that is not in the ring; the ring may be stale.
    #[error("unknown key")]
    UnknownKey,
    /// The signature is not that of the key.
    #[error("wrong signature")]
    WrongSignature,
    /// It is for somebody else.
    #[error("wrong audience")]
    WrongAudience,
    /// Another gateway made it.
    #[error("wrong issuer")]
    WrongIssuer,
    /// It has ended, or never says when.
    #[error("expired")]
    Expired,
    /// It has not begun.
    #[error("not yet valid")]
    NotYetValid,
    /// Its session was ended.
    #[error("the session was ended")]
    Ended,
}

impl Denied {
    /// As the audit trail spells it (auth contract §11); beyond the reference: `session_ended`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Ended => "session_ended",
            _ => "invalid_token",
        }
    }
}

/// Why something sealed cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsealable {
    /// It names a key that is not in the ring; the ring may be stale.
    #[error("sealed with an unknown key")]
    UnknownKey,
    /// It was not sealed by a key of ours, not for this purpose, or was changed.
    #[error("not sealed by this gateway")]
    Foreign,
}

/// Session secrets: the first signs and seals, all of them verify and open. Never empty.
pub struct Keys(Vec<Key>);

struct Key {
    /// See [`key_id`].
    kid: String,
    hs256: Hs256Key,
    secret: Secret<String>,
}

impl Key {
    fn new(secret: Secret<String>) -> Self {
        let bytes = secret.reveal().as_bytes();
        Self { kid: key_id(secret.reveal()), hs256: Hs256Key::new(bytes), secret }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.0.iter().map(|key| &key.kid)).finish()
    }
}

#[derive(Serialize)]
struct Minted<'a> {
    sub: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    billing_group_tag: Option<&'a str>,
    sid: &'a str,
    aud: &'a str,
    iss: &'a str,
    iat: i64,
    exp: i64,
}

#[derive(Deserialize)]
struct Presented {
    sub: Option<String>,
    email: Option<String>,
    name: Option<String>,
    groups: Option<Vec<String>>,
    billing_group_tag: Option<String>,
    sid: Option<String>,
    aud: Option<Audience>,
    iss: Option<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// What a token says about its session besides who it is.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The session's id.
    pub session_id: &'a str,
    /// Public origin of the gateway.
    pub origin: &'a str,
    /// `admin.billing_group_tag`.
    pub billing_group_tag: Option<&'a str>,
    /// How long the token is good.
    pub ttl: Duration,
}

impl Keys {
    /// The ring of `secrets`, the one that signs first; `None` if there are none.
    pub fn new(secrets: impl IntoIterator<Item = Secret<String>>) -> Option<Self> {
        let keys: Vec<Key> = secrets.into_iter().map(Key::new).collect();
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// The ids of all keys, the one that signs first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.kid.as_str())
    }

    /// The id of the key that signs and seals.
    pub fn signer(&self) -> &str {
        &self.0[0].kid
    }

    /// A session token for `identity`.
    pub fn mint(&self, identity: &Identity, terms: Terms<'_>, now: Timestamp) -> String {
        let key = &self.0[0];
        let iat = now.as_secs();
        let claims = Minted {
            sub: &identity.subject,
            email: identity.email.as_deref(),
            name: identity.name.as_deref(),
            groups: &identity.groups,
            billing_group_tag: terms.billing_group_tag,
            sid: terms.session_id,
            aud: AUDIENCE,
            iss: terms.origin,
            iat,
            exp: iat.saturating_add(i64::try_from(terms.ttl.as_secs()).unwrap_or(i64::MAX)),
        };
        let header = format!(r#"{{"alg":"HS256","typ":"JWT","kid":"{}"}}"#, key.kid);
        let payload = serde_json::to_vec(&claims).expect("claims are strings and numbers");
        jwt::compact(header.as_bytes(), &payload, |input| key.hs256.sign(input))
    }

    /// Verifies `token` for the gateway at `origin` (auth contract §7.2). Unlike the reference, a token without `exp`
    /// or with groups that are no array of strings is refused (§14).
    pub fn verify(&self, token: &str, origin: &str, now: Timestamp) -> Result<Session, Denied> {
        let jws = Jws::parse(token).map_err(|jwt::Malformed| Denied::Malformed)?;
        if jws.header.alg != "HS256" {
            return Err(Denied::WrongAlgorithm);
        }
        let key = match jws.header.kid.as_deref() {
            Some(kid) => self.find(kid).ok_or(Denied::UnknownKey)?,
            None => &self.0[0],
        };
        if !key.hs256.verify(jws.signing_input, &jws.signature) {
            return Err(Denied::WrongSignature);
        }
        let claims: Presented = serde_json::from_slice(&jws.payload).map_err(|_| Denied::Malformed)?;
        let for_us = match claims.aud {
            Some(Audience::One(audience)) => audience == AUDIENCE,
            Some(Audience::Several(audiences)) => audiences.iter().any(|audience| audience == AUDIENCE),
            None => false,
        };
        if !for_us {
            return Err(Denied::WrongAudience);
        }
        if claims.iss.as_deref() != Some(origin) {
            return Err(Denied::WrongIssuer);
        }
        let expires_at = claims.exp.and_then(instant).filter(|end| *end > now).ok_or(Denied::Expired)?;
        if claims.nbf.is_some_and(|begin| instant(begin).is_none_or(|begin| begin > now)) {
            return Err(Denied::NotYetValid);
        }
        Ok(Session {
            subject: claims.sub,
            email: claims.email,
            name: claims.name,
            groups: claims.groups.unwrap_or_default(),
            billing_group: claims.billing_group_tag,
            id: claims.sid,
            expires_at,
        })
    }

    /// Seals `content` for `purpose` with the key that signs: the key's id, a dot, the sealed text.
    pub fn seal(&self, purpose: &'static str, content: &[u8], nonce: [u8; NONCE_BYTES]) -> String {
        let key = &self.0[0];
        let sealed = SealingKey::derive(key.secret.reveal().as_bytes(), purpose).seal(content, nonce);
        format!("{}.{sealed}", key.kid)
    }

    /// Opens what [`Keys::seal`] made for the same purpose, with any key that is still in the ring.
    pub fn open(&self, purpose: &'static str, sealed: &str) -> Result<Vec<u8>, Unsealable> {
        let (kid, sealed) = sealed.split_once('.').ok_or(Unsealable::Foreign)?;
        let key = self.find(kid).ok_or(Unsealable::UnknownKey)?;
        SealingKey::derive(key.secret.reveal().as_bytes(), purpose).open(sealed).ok_or(Unsealable::Foreign)
    }

    fn find(&self, kid: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.kid == kid)
    }
}

/// The id of the key that a secret is (auth contract §7.1).
pub fn key_id(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes())[..8])
}

/// The id of the key that `token` says has signed it; nothing is verified.
pub fn key_of(token: &str) -> Option<String> {
    Jws::parse(token).ok()?.header.kid
}

/// A NumericDate (RFC 7519 §2), which may have a fraction; `None` for one that no calendar reaches.
fn instant(seconds: f64) -> Option<Timestamp> {
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked on the same line")]
    (seconds.abs() < 1e14).then(|| Timestamp::from_millis((seconds * 1000.0) as i64))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::json;

    use super::*;

    const ORIGIN: &str = "https://gw.example.test";
    const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);

    fn keys(secrets: &[&str]) -> Keys {
        Keys::new(secrets.iter().map(|secret| Secret::new((*secret).to_owned()))).expect("not empty")
    }

    fn terms() -> Terms<'static> {
        Terms { session_id: "s-1", origin: ORIGIN, billing_group_tag: None, ttl: Duration::from_hours(1) }
    }

    fn alice() -> Identity {
        Identity {
            subject: "alice".to_owned(),
            email: Some("alice@example.com".to_owned()),
            name: Some("Alice A".to_owned()),
            groups: vec!["eng".to_owned()],
        }
    }

    /// A token made by hand with the secret `one`.
    fn by_hand(header: &serde_json::Value, claims: &serde_json::Value) -> String {
        let key = Hs256Key::new(b"one");
        jwt::compact(header.to_string().as_bytes(), claims.to_string().as_bytes(), |input| key.sign(input))
    }

    #[test]
    fn a_token_has_the_claims_of_the_contract() {
        let token = keys(&["one"]).mint(&alice(), Terms { billing_group_tag: Some("team"), ..terms() }, NOW);
        let parts: Vec<String> = token
            .split('.')
            .take(2)
            .map(|part| String::from_utf8(URL_SAFE_NO_PAD.decode(part).expect("base64url")).expect("text"))
            .collect();
        assert_eq!(parts[0], r#"{"alg":"HS256","typ":"JWT","kid":"7692c3ad3540bb80"}"#);
        assert_eq!(
            parts[1],
            r#"{"sub":"alice","email":"alice@example.com","name":"Alice A","groups":["eng"],"billing_group_tag":"team","sid":"s-1","aud":"claude-gateway","iss":"https://gw.example.test","iat":1900000000,"exp":1900003600}"#
        );
    }

    #[test]
    fn what_is_minted_is_verified_until_it_ends() {
        let keys = keys(&["one"]);
        let token = keys.mint(&alice(), terms(), NOW);
        let session = keys.verify(&token, ORIGIN, NOW).expect("valid");
        assert_eq!(session.subject(), Some("alice"));
        assert_eq!(session.email(), Some("alice@example.com"));
        assert_eq!(session.name(), Some("Alice A"));
        assert_eq!(session.groups(), ["eng"]);
        assert_eq!(session.id(), Some("s-1"));
        let end = NOW.plus(Duration::from_hours(1));
        assert_eq!(session.expires_at(), end);
        assert!(keys.verify(&token, ORIGIN, Timestamp::from_millis(end.as_millis() - 1)).is_ok());
        assert_eq!(keys.verify(&token, ORIGIN, end), Err(Denied::Expired));
    }

    #[test]
    fn verification_follows_the_table() {
        let header = json!({"alg": "HS256"});
        let claims = json!({"sub": "alice", "aud": "claude-gateway", "iss": ORIGIN, "exp": 1_900_000_001_i64});
        let with = |name: &str, value: serde_json::Value| {
            let mut claims = claims.clone();
            claims[name] = value;
            by_hand(&header, &claims)
        };
        let without = |name: &str| {
            let mut claims = claims.clone();
            claims.as_object_mut().expect("an object").shift_remove(name);
            by_hand(&header, &claims)
        };
        let kid = "7692c3ad3540bb80";
        for (what, token, verdict) in [
            ("as it should be", by_hand(&header, &claims), None),
            ("its kid", by_hand(&json!({"alg": "HS256", "kid": kid, "typ": "x"}), &claims), None),
            (
                "foreign kid",
                by_hand(&json!({"alg": "HS256", "kid": "0000000000000000"}), &claims),
                Some(Denied::UnknownKey),
            ),
            ("alg none", by_hand(&json!({"alg": "none"}), &claims), Some(Denied::WrongAlgorithm)),
            ("HS512", by_hand(&json!({"alg": "HS512"}), &claims), Some(Denied::WrongAlgorithm)),
            ("no alg", by_hand(&json!({}), &claims), Some(Denied::Malformed)),
            ("claims that are no object", by_hand(&header, &json!([1])), Some(Denied::Malformed)),
            ("audience in a list", with("aud", json!(["x", "claude-gateway"])), None),
            ("other audience", with("aud", json!("claude")), Some(Denied::WrongAudience)),
            ("empty audience list", with("aud", json!([])), Some(Denied::WrongAudience)),
            ("no audience", without("aud"), Some(Denied::WrongAudience)),
            ("other issuer", with("iss", json!("https://gw.example.test/")), Some(Denied::WrongIssuer)),
            ("no issuer", without("iss"), Some(Denied::WrongIssuer)),
            ("ends now", with("exp", json!(1_900_000_000_i64)), Some(Denied::Expired)),
            ("ends in half a second", with("exp", json!(1_900_000_000.5)), None),
            ("never ends", without("exp"), Some(Denied::Expired)),
            ("ends beyond all calendars", with("exp", json!(1e300)), Some(Denied::Expired)),
            ("end is text", with("exp", json!("1900000001")), Some(Denied::Malformed)),
            ("begins now", with("nbf", json!(1_900_000_000_i64)), None),
            ("begins later", with("nbf", json!(1_900_000_001_i64)), Some(Denied::NotYetValid)),
            ("issued in the future", with("iat", json!(1_990_000_000_i64)), None),
            ("groups are a string", with("groups", json!("eng")), Some(Denied::Malformed)),
            ("groups are numbers", with("groups", json!([1])), Some(Denied::Malformed)),
            ("no subject", without("sub"), None),
            ("unknown claim", with("x", json!({"y": 1})), None),
        ] {
            assert_eq!(keys(&["one"]).verify(&token, ORIGIN, NOW).err(), verdict, "{what}");
        }
    }

    #[test]
    fn a_tampered_token_is_refused() {
        let keys = keys(&["one"]);
        let token = keys.mint(&alice(), terms(), NOW);
        let (head, signature) = token.rsplit_once('.').expect("three parts");
        let admin = by_hand(&json!({"alg": "HS256"}), &json!({"sub": "admin"}));
        let payload = admin.split('.').nth(1).expect("three parts");
        let header = head.split_once('.').expect("two parts").0;
        for (forged, verdict) in [
            (format!("{header}.{payload}.{signature}"), Denied::WrongSignature),
            (format!("{head}."), Denied::WrongSignature),
            (head.to_owned(), Denied::Malformed),
            (format!("{token}A"), Denied::WrongSignature),
            (format!(" {token}"), Denied::Malformed),
            (String::new(), Denied::Malformed),
        ] {
            assert_eq!(keys.verify(&forged, ORIGIN, NOW), Err(verdict), "{forged}");
        }
    }

    #[test]
    fn rotation_signs_with_the_new_key_and_accepts_both() {
        let old = keys(&["old"]);
        let both = keys(&["new", "old"]);
        let new = keys(&["new"]);
        let before = old.mint(&alice(), terms(), NOW);
        let after = both.mint(&alice(), terms(), NOW);
        assert!(both.verify(&before, ORIGIN, NOW).is_ok());
        assert!(new.verify(&after, ORIGIN, NOW).is_ok());
        assert_eq!(new.verify(&before, ORIGIN, NOW), Err(Denied::UnknownKey));
        // Without a key id only the first secret is tried (auth contract §7.2).
        let claims = json!({"aud": "claude-gateway", "iss": ORIGIN, "exp": 1_900_000_001_i64});
        let bare = by_hand(&json!({"alg": "HS256"}), &claims);
        assert!(keys(&["one", "two"]).verify(&bare, ORIGIN, NOW).is_ok());
        assert_eq!(keys(&["two", "one"]).verify(&bare, ORIGIN, NOW), Err(Denied::WrongSignature));
    }

    #[test]
    fn what_is_sealed_opens_while_its_key_is_in_the_ring() {
        let sealed = keys(&["old"]).seal("grant", b"content", [3; NONCE_BYTES]);
        assert_eq!(keys(&["new", "old"]).open("grant", &sealed).as_deref(), Ok(&b"content"[..]));
        assert_eq!(keys(&["new"]).open("grant", &sealed), Err(Unsealable::UnknownKey));
        assert_eq!(keys(&["old"]).open("state", &sealed), Err(Unsealable::Foreign));
        assert_eq!(keys(&["old"]).open("grant", "1//an-idp-token"), Err(Unsealable::Foreign));
    }

    #[test]
    fn debug_output_shows_no_secret() {
        assert_eq!(format!("{:?}", keys(&["one"])), r#"["7692c3ad3540bb80"]"#);
    }
}
