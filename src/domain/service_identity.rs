//! Whether a program's own token makes it one of the configured service identities (RFC 8693 §2.1, RFC 7523 §3).
//!
//! Keys are fetched by `idp.rs`; that a token is accepted once is the store's to see to.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use url::Url;

use crate::config::{Json, ServiceIdentity};
use crate::domain::checksum::hex;
use crate::domain::identity::{self, Identity};
use crate::domain::ids::Timestamp;
use crate::wire::jwks::{Algorithm, JwkSet};
use crate::wire::jwt::Jws;

/// What subjects of service identities begin with. No person has such a subject.
pub const SUBJECT_PREFIX: &str = "service:";

/// A token that is good for longer is not that of a job, and would have to be remembered for longer.
const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// Why a token makes nobody anything. The text is for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No token, or no JSON object in it.
    #[error("the token is malformed")]
    Malformed,
    /// An issuer that no entry names.
    #[error("no service identity has the issuer {0}")]
    Issuer(String),
    /// Unsigned, symmetric, or unknown.
    #[error("the algorithm {0} is not accepted")]
    Algorithm(String),
    /// A `kid` that the key set does not have; it may be stale.
    #[error("the token is signed with an unknown key")]
    UnknownKey,
    /// No key made the signature.
    #[error("the signature is invalid")]
    Signature,
    /// A required claim is missing or has the wrong type.
    #[error("the token misses the claim `{0}`")]
    Missing(&'static str),
    /// For somebody else.
    #[error("the audience does not match")]
    Audience,
    /// Over.
    #[error("the token has expired")]
    Expired,
    /// Not begun.
    #[error("the token is not yet valid")]
    NotYetValid,
    /// Good for more than `LONGEST_LIFE`.
    #[error("the token is good for more than a day")]
    TooLong,
    /// A condition does not hold.
    #[error("the claim `{0}` does not fit")]
    Claim(String),
}

/// Where an issuer's keys are: the part of a discovery document that issuers without people have, too.
#[derive(Debug, Clone, Deserialize)]
pub struct IssuerMetadata {
    issuer: String,
    /// Where the keys are.
    pub jwks_uri: Url,
}

/// The document is not this issuer's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the discovery document is unusable: {0}")]
pub struct UnusableMetadata(String);

impl IssuerMetadata {
    /// Where the document of `identity`'s issuer is.
    pub fn url(identity: &ServiceIdentity) -> String {
        identity.discovery_url.as_ref().map_or_else(
            || format!("{}/.well-known/openid-configuration", identity.issuer.as_str().trim_end_matches('/')),
            |url| url.as_str().to_owned(),
        )
    }

    /// Reads the discovery document of `issuer`. Unlike that of an identity provider it must speak for exactly this
    /// issuer: nobody is asked, so nothing else says whose keys these are.
    pub fn parse(document: &[u8], issuer: &Url) -> Result<Self, UnusableMetadata> {
        let metadata: Self = serde_json::from_slice(document).map_err(|error| UnusableMetadata(error.to_string()))?;
        if !is_issuer(&metadata.issuer, issuer) {
            return Err(UnusableMetadata(format!("it speaks for the issuer {}, not for {issuer}", metadata.issuer)));
        }
        if !matches!(metadata.jwks_uri.scheme(), "http" | "https") {
            return Err(UnusableMetadata(format!("{} is not http(s)", metadata.jwks_uri)));
        }
        Ok(metadata)
    }
}

/// Whether `iss` names `configured`; a slash at the end does not matter.
fn is_issuer(iss: &str, configured: &Url) -> bool {
    iss.trim_end_matches('/') == configured.as_str().trim_end_matches('/')
}

/// The entries of `identities` whose issuer the token names. Nothing is verified yet.
pub fn candidates<'a>(token: &str, identities: &'a [ServiceIdentity]) -> Result<Vec<&'a ServiceIdentity>, Invalid> {
    let jws = Jws::parse(token).map_err(|_| Invalid::Malformed)?;
    let claims: Json = serde_json::from_slice(&jws.payload).map_err(|_| Invalid::Malformed)?;
    let issuer = claims.get("iss").and_then(Value::as_str).ok_or(Invalid::Missing("iss"))?;
    let found: Vec<_> = identities.iter().filter(|identity| is_issuer(issuer, &identity.issuer)).collect();
    if found.is_empty() { Err(Invalid::Issuer(issuer.chars().take(200).collect())) } else { Ok(found) }
}

/// A token that proved itself to be of a service identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// The token's `sub`: which job it was, for the audit trail.
    pub subject: Option<String>,
    /// What it is remembered by, if it has a `jti`.
    pub once: Option<Once>,
}

/// What is remembered of a token so that it works once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Once {
    /// Hex SHA-256 over issuer and `jti`.
    pub digest: String,
    /// From then on nobody accepts the token anyway.
    pub until: Timestamp,
}

/// Whether `token`, signed by one of `keys`, is of `identity`.
pub fn verify(token: &str, keys: &JwkSet, identity: &ServiceIdentity, now: Timestamp) -> Result<Proven, Invalid> {
    let jws = Jws::parse(token).map_err(|_| Invalid::Malformed)?;
    let algorithm = Algorithm::parse(&jws.header.alg)
        .ok_or_else(|| Invalid::Algorithm(jws.header.alg.chars().take(20).collect()))?;
    let kid = jws.header.kid.as_deref();
    if !keys.knows(kid) {
        return Err(Invalid::UnknownKey);
    }
    if !keys.verify(algorithm, kid, jws.signing_input, &jws.signature) {
        return Err(Invalid::Signature);
    }
    let claims: Json = serde_json::from_slice(&jws.payload).map_err(|_| Invalid::Malformed)?;
    check(&claims, identity, now)
}

fn check(claims: &Json, identity: &ServiceIdentity, now: Timestamp) -> Result<Proven, Invalid> {
    let issuer = claims.get("iss").and_then(Value::as_str).ok_or(Invalid::Missing("iss"))?;
    if !is_issuer(issuer, &identity.issuer) {
        return Err(Invalid::Issuer(issuer.chars().take(200).collect()));
    }
    let is_for_us = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(|audience| audience == identity.audience.as_str()),
        Some(Value::String(audience)) => *audience == identity.audience,
        _ => return Err(Invalid::Missing("aud")),
    };
    if !is_for_us {
        return Err(Invalid::Audience);
    }
    let until = instant(claims.get("exp")).ok_or(Invalid::Missing("exp"))?.plus(identity.clock_skew);
    if until <= now {
        return Err(Invalid::Expired);
    }
    if until > now.plus(LONGEST_LIFE).plus(identity.clock_skew) {
        return Err(Invalid::TooLong);
    }
    if let Some(begin) = claims.get("nbf")
        && instant(Some(begin)).ok_or(Invalid::Missing("nbf"))? > now.plus(identity.clock_skew)
    {
        return Err(Invalid::NotYetValid);
    }
    for (path, patterns) in &identity.claims {
        let fits = |value: &Value| patterns.iter().any(|pattern| fits(pattern, value));
        if !identity::find(claims, path).is_some_and(fits) {
            return Err(Invalid::Claim(path.0.clone()));
        }
    }
    let once = match claims.get("jti") {
        Some(Value::String(jti)) if !jti.is_empty() => Some(Once { digest: digest(issuer, jti), until }),
        _ => None,
    };
    Ok(Proven { subject: claims.get("sub").and_then(Value::as_str).map(str::to_owned), once })
}

/// Who the program is from now on.
pub fn identity(configured: &ServiceIdentity) -> Identity {
    Identity {
        subject: format!("{SUBJECT_PREFIX}{}", configured.name),
        email: None,
        name: Some(configured.name.clone()),
        groups: configured.groups.clone(),
    }
}

/// A slash at the end of the issuer must not make two tokens of one.
fn digest(issuer: &str, jti: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(issuer.trim_end_matches('/'));
    hash.update([0]);
    hash.update(jti);
    hex(&hash.finalize())
}

/// A NumericDate (RFC 7519 §2), rounded down to the millisecond.
fn instant(seconds: Option<&Value>) -> Option<Timestamp> {
    let seconds = seconds?.as_f64()?;
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked on the same line")]
    (seconds.abs() < 1e14).then(|| Timestamp::from_millis((seconds * 1000.0) as i64))
}

/// Whether a claim fits `pattern`: text, a number or a switch as it is written, or a list of which one fits.
fn fits(pattern: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => is_match(pattern, text),
        Value::Number(number) => is_match(pattern, &number.to_string()),
        Value::Bool(switch) => is_match(pattern, if *switch { "true" } else { "false" }),
        Value::Array(values) => values.iter().any(|value| !value.is_array() && fits(pattern, value)),
        Value::Null | Value::Object(_) => false,
    }
}

/// Whether `text` is `pattern`, in which `*` stands for any characters. Takes time in proportion to both.
fn is_match(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut pieces = rest.split('*');
    // What stands behind the last star must end the text; what stands between two is taken as early as it comes.
    let last = pieces.next_back().unwrap_or_default();
    for piece in pieces {
        match text.find(piece) {
            Some(at) => text = &text[at + piece.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::config::ClaimPath;
    use crate::testing;

    const NOW: Timestamp = Timestamp::from_secs(1_900_000_100);

    fn configured(claims: &[(&str, &[&str])]) -> ServiceIdentity {
        let patterns = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        ServiceIdentity {
            claims: claims.iter().map(|(claim, given)| (ClaimPath((*claim).to_owned()), patterns(given))).collect(),
            ..testing::service_identity()
        }
    }

    fn object(value: Value) -> Json {
        match value {
            Value::Object(map) => map,
            other => panic!("not an object: {other}"),
        }
    }

    fn good() -> Value {
        json!({
            "iss": "https://ci.example.test", "aud": "https://gw.example.test", "sub": "repo:acme/app", "jti": "j-1",
            "iat": 1_900_000_000, "exp": 1_900_000_400, "repository": "acme/app", "ref": "refs/heads/main",
        })
    }

    #[test]
    fn stars_stand_for_anything_and_nothing_else_does() {
        for (pattern, text, is) in [
            ("acme/app", "acme/app", true),
            ("acme/app", "acme/application", false),
            ("acme/app", "Acme/app", false),
            ("acme/*", "acme/app", true),
            ("acme/*", "acme/", true),
            ("acme/*", "acme", false),
            ("acme/*", "evil/acme/app", false),
            ("acme/*", "acmeevil/app", false),
            ("*/main", "refs/heads/main", true),
            ("*/main", "refs/heads/main2", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("a**b", "ab", true),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a.c", "abc", false),
            ("[a]?", "a", false),
            ("é*", "éa", true),
        ] {
            assert_eq!(is_match(pattern, text), is, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn a_match_is_what_a_regular_expression_finds(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            let pieces: Vec<String> = pattern.split('*').map(regex::escape).collect();
            let expression = regex::Regex::new(&format!("^{}$", pieces.join(".*"))).expect("an expression");
            prop_assert_eq!(is_match(&pattern, &text), expression.is_match(&text));
        }

        #[test]
        fn no_text_makes_it_panic(token: String, pattern: String) {
            let _ = candidates(&token, &[configured(&[])]);
            let _ = verify(&token, &JwkSet::default(), &configured(&[]), NOW);
            let _ = is_match(&pattern, &token);
        }
    }

    #[test]
    fn claims_fit_as_they_are_written() {
        let claims = json!({
            "repository": "acme/app", "project_id": 17, "ref_protected": true, "groups": ["a", "b", ["c"]], "none": null,
            "kubernetes.io": {"namespace": "build"},
        });
        let mut all = good();
        all.as_object_mut().expect("an object").extend(object(claims));
        for (claim, patterns, fits) in [
            ("repository", &["acme/*"][..], true),
            ("repository", &["other/*", "acme/app"], true),
            ("repository", &["other/*"], false),
            ("project_id", &["17"], true),
            ("project_id", &["1"], false),
            ("ref_protected", &["true"], true),
            ("groups", &["b"], true),
            ("groups", &["c"], false),
            ("none", &["*"], false),
            ("missing", &["*"], false),
            ("/kubernetes.io/namespace", &["build"], true),
            ("kubernetes.io", &["*"], false),
        ] {
            let verdict = check(&object(all.clone()), &configured(&[(claim, patterns)]), NOW);
            let refusal = if fits { None } else { Some(Invalid::Claim(claim.to_owned())) };
            assert_eq!(verdict.err(), refusal, "{claim} {patterns:?}");
        }
    }

    #[test]
    fn tokens_follow_the_table() {
        let lenient = ServiceIdentity { clock_skew: Duration::from_mins(1), ..configured(&[]) };
        for (name, value, strictly, leniently) in [
            ("x", json!(1), None, None),
            ("iss", json!("https://ci.example.test/"), None, None),
            ("iss", json!(null), Some(Invalid::Missing("iss")), Some(Invalid::Missing("iss"))),
            ("iss", json!("https://x.test"), Some(issuer("https://x.test")), Some(issuer("https://x.test"))),
            ("aud", json!(["x", "https://gw.example.test"]), None, None),
            ("aud", json!("https://gw.example.test/"), Some(Invalid::Audience), Some(Invalid::Audience)),
            ("aud", json!([]), Some(Invalid::Audience), Some(Invalid::Audience)),
            ("aud", json!(null), Some(Invalid::Missing("aud")), Some(Invalid::Missing("aud"))),
            ("exp", json!(1_900_000_100), Some(Invalid::Expired), None),
            ("exp", json!(1_900_000_100.5), None, None),
            ("exp", json!(1_900_000_040), Some(Invalid::Expired), Some(Invalid::Expired)),
            ("exp", json!("1900000400"), Some(Invalid::Missing("exp")), Some(Invalid::Missing("exp"))),
            ("exp", json!(1e300), Some(Invalid::Missing("exp")), Some(Invalid::Missing("exp"))),
            ("exp", json!(1_900_086_500), None, None),
            ("exp", json!(1_900_086_501), Some(Invalid::TooLong), Some(Invalid::TooLong)),
            ("nbf", json!(1_900_000_160), Some(Invalid::NotYetValid), None),
            ("nbf", json!("now"), Some(Invalid::Missing("nbf")), Some(Invalid::Missing("nbf"))),
        ] {
            let mut claims = good();
            claims[name] = value.clone();
            let claims = object(claims);
            assert_eq!(check(&claims, &configured(&[]), NOW).err(), strictly, "{name}: {value}");
            assert_eq!(check(&claims, &lenient, NOW).err(), leniently, "{name}: {value}, leniently");
        }
    }

    fn issuer(text: &str) -> Invalid {
        Invalid::Issuer(text.to_owned())
    }

    #[test]
    fn a_token_is_remembered_by_issuer_and_jti() {
        let once = |name: &str, value: Value| {
            let mut claims = good();
            claims[name] = value;
            check(&object(claims), &configured(&[]), NOW).expect("good").once
        };
        let first = once("x", json!(1)).expect("it has a jti");
        assert_eq!((first.digest.len(), first.until), (64, Timestamp::from_secs(1_900_000_400)));
        assert_eq!(once("iss", json!("https://ci.example.test/")).expect("a jti").digest, first.digest);
        assert_ne!(once("jti", json!("j-2")).expect("a jti").digest, first.digest);
        assert_eq!(once("jti", json!("")), None);
        assert_eq!(once("jti", json!(7)), None);
    }

    #[test]
    fn candidates_are_the_entries_of_the_tokens_issuer() {
        let entries = [
            ServiceIdentity { name: "a".to_owned(), ..testing::service_identity() },
            ServiceIdentity {
                issuer: Url::parse("https://other.example.test/x").expect("a URL"),
                ..testing::service_identity()
            },
            ServiceIdentity { name: "b".to_owned(), ..testing::service_identity() },
        ];
        let token = |claims: Value| {
            crate::wire::jwt::compact(br#"{"alg":"ES256"}"#, claims.to_string().as_bytes(), |_| vec![0])
        };
        let found = candidates(&token(good()), &entries).expect("known");
        assert_eq!(found.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let stranger = candidates(&token(json!({"iss": "https://x.test"})), &entries);
        assert_eq!(stranger.err(), Some(issuer("https://x.test")));
        assert_eq!(candidates(&token(json!({})), &entries).err(), Some(Invalid::Missing("iss")));
        assert_eq!(candidates("x", &entries).err(), Some(Invalid::Malformed));
    }

    #[test]
    fn a_document_must_speak_for_its_issuer() {
        let issuer = Url::parse("https://ci.example.test").expect("a URL");
        for (document, is_usable) in [
            (json!({"issuer": "https://ci.example.test", "jwks_uri": "https://ci.example.test/jwks"}), true),
            (json!({"issuer": "https://ci.example.test/", "jwks_uri": "https://ci.example.test/jwks"}), true),
            (json!({"issuer": "https://evil.test", "jwks_uri": "https://ci.example.test/jwks"}), false),
            (json!({"issuer": "https://ci.example.test", "jwks_uri": "file:///jwks"}), false),
            (json!({"issuer": "https://ci.example.test"}), false),
            (json!([]), false),
        ] {
            let parsed = IssuerMetadata::parse(document.to_string().as_bytes(), &issuer);
            assert_eq!(parsed.is_ok(), is_usable, "{document}");
        }
    }
}
