//! Whether an id token is genuine and meant for this sign-in (OpenID Connect Core §3.1.3.7, auth contract §5.6).
//!
//! What its claims mean is decided in `identity.rs`; keys are fetched by `idp.rs`.

use std::time::Duration;

use serde_json::Value;

use crate::config::Json;
use crate::domain::ids::Timestamp;
use crate::wire::jwks::{Algorithm, JwkSet};
use crate::wire::jwt::Jws;

/// What an id token must say.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The discovered issuer.
    pub issuer: &'a str,
    /// Our client id.
    pub client_id: &'a str,
    /// Extra accepted `azp` values.
    pub additional_authorized_parties: &'a [String],
    /// The only accepted algorithm.
    pub algorithm: Algorithm,
    /// Tolerance on `exp` and `nbf`.
    pub clock_skew: Duration,
    /// The nonce of the sign-in; a refresh has none.
    pub nonce: Option<&'a str>,
}

/// Why an id token is not accepted. The text is for the audit trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// No token, or no JSON object in it.
    #[error("id_token is malformed")]
    Malformed,
    /// Another algorithm than the configured one.
    #[error("id_token algorithm is not the configured one")]
    Algorithm,
    /// A `kid` that the key set does not have; it may be stale.
    #[error("id_token is signed with an unknown key")]
    UnknownKey,
    /// No key made the signature.
    #[error("id_token signature is invalid")]
    Signature,
    /// A required claim is missing or has the wrong type.
    #[error("id_token misses the claim `{0}`")]
    Missing(&'static str),
    /// Another issuer.
    #[error("id_token issuer does not match")]
    Issuer,
    /// Another client.
    #[error("id_token audience does not match")]
    Audience,
    /// Issued to another party.
    #[error("id_token authorized party (azp) does not match")]
    AuthorizedParty,
    /// Over.
    #[error("id_token has expired")]
    Expired,
    /// Not begun.
    #[error("id_token is not yet valid")]
    NotYetValid,
    /// Of another sign-in.
    #[error("id_token nonce does not match")]
    Nonce,
}

/// Verifies `token`; returns its claims.
pub fn verify(token: &str, keys: &JwkSet, expected: &Expected<'_>, now: Timestamp) -> Result<Json, Invalid> {
    let jws = Jws::parse(token).map_err(|_| Invalid::Malformed)?;
    if jws.header.alg != expected.algorithm.name() {
        return Err(Invalid::Algorithm);
    }
    let kid = jws.header.kid.as_deref();
    if !keys.knows(kid) {
        return Err(Invalid::UnknownKey);
    }
    if !keys.verify(expected.algorithm, kid, jws.signing_input, &jws.signature) {
        return Err(Invalid::Signature);
    }
    let claims: Json = serde_json::from_slice(&jws.payload).map_err(|_| Invalid::Malformed)?;
    check(&claims, expected, now)?;
    Ok(claims)
}

fn check(claims: &Json, expected: &Expected<'_>, now: Timestamp) -> Result<(), Invalid> {
    if claims.get("iss").ok_or(Invalid::Missing("iss"))?.as_str() != Some(expected.issuer) {
        return Err(Invalid::Issuer);
    }
    let audiences = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.as_slice(),
        Some(audience @ Value::String(_)) => std::slice::from_ref(audience),
        _ => return Err(Invalid::Missing("aud")),
    };
    if !audiences.iter().any(|audience| audience == expected.client_id) {
        return Err(Invalid::Audience);
    }
    match claims.get("azp") {
        None if audiences.len() > 1 => return Err(Invalid::AuthorizedParty),
        None => {}
        Some(Value::String(party))
            if party == expected.client_id || expected.additional_authorized_parties.contains(party) => {}
        Some(_) => return Err(Invalid::AuthorizedParty),
    }
    let seconds = |name| claims.get(name).and_then(Value::as_f64).ok_or(Invalid::Missing(name));
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit into 53 bits for 285 000 years")]
    let (now, skew) = (now.as_millis() as f64 / 1000.0, expected.clock_skew.as_secs_f64());
    seconds("iat")?;
    if seconds("exp")? + skew <= now {
        return Err(Invalid::Expired);
    }
    if claims.contains_key("nbf") && seconds("nbf")? - skew > now {
        return Err(Invalid::NotYetValid);
    }
    if claims.get("sub").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(Invalid::Missing("sub"));
    }
    if expected.nonce.is_some_and(|nonce| claims.get("nonce").and_then(Value::as_str) != Some(nonce)) {
        return Err(Invalid::Nonce);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_900_000_100);

    fn expected() -> Expected<'static> {
        Expected {
            issuer: "https://idp.example.test",
            client_id: "gateway",
            additional_authorized_parties: &[],
            algorithm: Algorithm::Rs256,
            clock_skew: Duration::ZERO,
            nonce: Some("n-1"),
        }
    }

    #[test]
    fn tokens_of_another_implementation_are_accepted_with_the_configured_algorithm() {
        let keys = JwkSet::parse(include_bytes!("../../tests/vectors/jwks/keys.json")).expect("a key set");
        let tokens: std::collections::BTreeMap<String, String> =
            serde_json::from_slice(include_bytes!("../../tests/vectors/jwks/tokens.json")).expect("tokens");
        for (algorithm, name) in [
            (Algorithm::Rs256, "RS256"),
            (Algorithm::Ps512, "PS512"),
            (Algorithm::Es512, "ES512"),
            (Algorithm::EdDsa, "EdDSA"),
        ] {
            let expected = Expected { algorithm, ..expected() };
            assert!(verify(&tokens[name], &keys, &expected, NOW).is_ok(), "{name}");
            assert_eq!(verify(&tokens["ES256"], &keys, &expected, NOW), Err(Invalid::Algorithm), "{name}");
        }
        let late = Timestamp::from_secs(1_900_003_600);
        assert_eq!(verify(&tokens["RS256"], &keys, &expected(), late), Err(Invalid::Expired));
        assert_eq!(verify(&tokens["RS256"], &JwkSet::default(), &expected(), NOW), Err(Invalid::UnknownKey));
        let others = r#"{"keys":[{"kid":"rsa","kty":"EC"}]}"#;
        let others = JwkSet::parse(others.as_bytes()).expect("a key set");
        assert_eq!(verify(&tokens["RS256"], &others, &expected(), NOW), Err(Invalid::Signature));
        assert_eq!(verify("e30.e30.", &keys, &expected(), NOW), Err(Invalid::Malformed));
        // {"alg":"none"}
        assert_eq!(verify("eyJhbGciOiJub25lIn0.e30.", &keys, &expected(), NOW), Err(Invalid::Algorithm));
    }

    #[test]
    fn claims_follow_the_table() {
        let listed = ["other".to_owned()];
        let lenient = Expected {
            additional_authorized_parties: &listed,
            clock_skew: Duration::from_mins(1),
            nonce: None,
            ..expected()
        };
        let good = json!({
            "iss": "https://idp.example.test", "aud": "gateway", "sub": "alice", "nonce": "n-1",
            "iat": 1_900_000_000_i64, "exp": 1_900_003_600_i64,
        });
        for (name, value, strictly, leniently) in [
            ("x", json!(1), None, None),
            ("iss", json!("https://idp.example.test/"), Some(Invalid::Issuer), Some(Invalid::Issuer)),
            ("iss", json!(null), Some(Invalid::Issuer), Some(Invalid::Issuer)),
            ("aud", json!(["gateway"]), None, None),
            ("aud", json!("gatewa"), Some(Invalid::Audience), Some(Invalid::Audience)),
            ("aud", json!([]), Some(Invalid::Audience), Some(Invalid::Audience)),
            ("aud", json!(["gateway", "x"]), Some(Invalid::AuthorizedParty), Some(Invalid::AuthorizedParty)),
            ("aud", json!(7), Some(Invalid::Missing("aud")), Some(Invalid::Missing("aud"))),
            ("azp", json!("gateway"), None, None),
            ("azp", json!("other"), Some(Invalid::AuthorizedParty), None),
            ("azp", json!("third"), Some(Invalid::AuthorizedParty), Some(Invalid::AuthorizedParty)),
            ("azp", json!(null), Some(Invalid::AuthorizedParty), Some(Invalid::AuthorizedParty)),
            ("exp", json!(1_900_000_100_i64), Some(Invalid::Expired), None),
            ("exp", json!(1_900_000_040_i64), Some(Invalid::Expired), Some(Invalid::Expired)),
            ("exp", json!("soon"), Some(Invalid::Missing("exp")), Some(Invalid::Missing("exp"))),
            ("nbf", json!(1_900_000_160_i64), Some(Invalid::NotYetValid), None),
            ("nbf", json!(1_900_000_161_i64), Some(Invalid::NotYetValid), Some(Invalid::NotYetValid)),
            ("iat", json!(1_999_999_999_i64), None, None),
            ("iat", json!(null), Some(Invalid::Missing("iat")), Some(Invalid::Missing("iat"))),
            ("sub", json!(""), Some(Invalid::Missing("sub")), Some(Invalid::Missing("sub"))),
            ("nonce", json!("n-2"), Some(Invalid::Nonce), None),
            ("nonce", json!(null), Some(Invalid::Nonce), None),
        ] {
            let mut claims = good.clone();
            claims[name] = value.clone();
            let claims = claims.as_object().expect("an object");
            assert_eq!(check(claims, &expected(), NOW).err(), strictly, "{name}: {value}");
            assert_eq!(check(claims, &lenient, NOW).err(), leniently, "{name}: {value}, leniently");
        }
        for name in ["iss", "aud", "exp", "iat", "sub", "nonce"] {
            let mut claims = good.as_object().expect("an object").clone();
            claims.remove(name);
            assert!(check(&claims, &expected(), NOW).is_err(), "without {name}");
        }
    }
}
