//! JSON Web Key Sets (RFC 7517) and the signatures that their public keys verify: RSA, ECDSA and Ed25519.
//!
//! It does not know whose keys these are, how fresh they are, or which algorithm is wanted.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rsa::signature::Verifier;
use rsa::{BoxedUint, RsaPublicKey, pkcs1v15, pss};
use serde::Deserialize;
use sha2::{Sha256, Sha384, Sha512};

/// A signature algorithm (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// As headers spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm that a header names; `None` for one that needs a shared secret or none at all.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Every one of them.
    const ALL: [Self; 10] = [
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Ps256,
        Self::Ps384,
        Self::Ps512,
        Self::Es256,
        Self::Es384,
        Self::Es512,
        Self::EdDsa,
    ];

    /// The key type and, where it matters, the curve that go with it.
    const fn key_type(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => ("RSA", None),
            Self::Es256 => ("EC", Some("P-256")),
            Self::Es384 => ("EC", Some("P-384")),
            Self::Es512 => ("EC", Some("P-521")),
            Self::EdDsa => ("OKP", Some("Ed25519")),
        }
    }
}

/// A key set. Keys that are not understood are kept out, not refused: a provider may publish others beside its own.
#[derive(Debug, Clone, Default)]
pub struct JwkSet {
    keys: Vec<Jwk>,
}

/// The document is no key set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed key set")]
pub struct Malformed;

#[derive(Debug, Clone, Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl JwkSet {
    /// Reads a key set document.
    pub fn parse(document: &[u8]) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<serde_json::Value>,
        }
        let document: Document = serde_json::from_slice(document).map_err(|_| Malformed)?;
        Ok(Self { keys: document.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect() })
    }

    /// Whether a signature by `kid` could be checked with this set: a key of that name is here, or no name is asked for.
    pub fn knows(&self, kid: Option<&str>) -> bool {
        kid.is_none_or(|kid| self.keys.iter().any(|key| key.kid.as_deref() == Some(kid)))
    }

    /// Whether one of the keys that `kid` names (all of them without a `kid`) made `signature` over `signing_input`.
    pub fn verify(&self, algorithm: Algorithm, kid: Option<&str>, signing_input: &str, signature: &[u8]) -> bool {
        self.keys
            .iter()
            .filter(|key| kid.is_none() || key.kid.as_deref() == kid)
            .filter(|key| key.suits(algorithm))
            .any(|key| key.verify(algorithm, signing_input.as_bytes(), signature).is_some())
    }
}

impl Jwk {
    /// Whether the key is meant for `algorithm`, as far as it says (RFC 7517 §4.2, §4.4).
    fn suits(&self, algorithm: Algorithm) -> bool {
        let (kty, crv) = algorithm.key_type();
        self.kty == kty
            && crv.is_none_or(|crv| self.crv.as_deref() == Some(crv))
            && self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.alg.as_deref().is_none_or(|alg| {
                // RFC 9864 names the curve.
                alg == algorithm.name() || (algorithm == Algorithm::EdDsa && alg == "Ed25519")
            })
    }

    fn verify(&self, algorithm: Algorithm, input: &[u8], signature: &[u8]) -> Option<()> {
        match algorithm {
            Algorithm::Rs256 => verify(&pkcs1v15::VerifyingKey::<Sha256>::new(self.rsa()?), input, signature),
            Algorithm::Rs384 => verify(&pkcs1v15::VerifyingKey::<Sha384>::new(self.rsa()?), input, signature),
            Algorithm::Rs512 => verify(&pkcs1v15::VerifyingKey::<Sha512>::new(self.rsa()?), input, signature),
            // The salt is as long as the hash (RFC 7518 §3.5).
            Algorithm::Ps256 => verify(&pss::VerifyingKey::<Sha256>::new(self.rsa()?), input, signature),
            Algorithm::Ps384 => verify(&pss::VerifyingKey::<Sha384>::new(self.rsa()?), input, signature),
            Algorithm::Ps512 => verify(&pss::VerifyingKey::<Sha512>::new(self.rsa()?), input, signature),
            Algorithm::Es256 => {
                let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(&self.point(32)?).ok()?;
                verify::<_, p256::ecdsa::Signature>(&key, input, signature)
            }
            Algorithm::Es384 => {
                let key = p384::ecdsa::VerifyingKey::from_sec1_bytes(&self.point(48)?).ok()?;
                verify::<_, p384::ecdsa::Signature>(&key, input, signature)
            }
            Algorithm::Es512 => {
                let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(&self.point(66)?).ok()?;
                verify::<_, p521::ecdsa::Signature>(&key, input, signature)
            }
            Algorithm::EdDsa => {
                let key = decode(self.x.as_deref())?.try_into().ok()?;
                let key = ed25519_dalek::VerifyingKey::from_bytes(&key).ok()?;
                let signature = ed25519_dalek::Signature::from_slice(signature).ok()?;
                key.verify_strict(input, &signature).ok()
            }
        }
    }

    fn rsa(&self) -> Option<RsaPublicKey> {
        let modulus = BoxedUint::from_be_slice_vartime(&decode(self.n.as_deref())?);
        let exponent = BoxedUint::from_be_slice_vartime(&decode(self.e.as_deref())?);
        RsaPublicKey::new(modulus, exponent).ok()
    }

    /// The point in SEC 1 form. Coordinates without their leading zeros are met in practice and are filled up.
    fn point(&self, width: usize) -> Option<Vec<u8>> {
        let mut point = vec![4];
        for coordinate in [&self.x, &self.y] {
            let coordinate = decode(coordinate.as_deref())?;
            point.extend(std::iter::repeat_n(0, width.checked_sub(coordinate.len())?));
            point.extend(coordinate);
        }
        Some(point)
    }
}

fn decode(member: Option<&str>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(member?).ok()
}

fn verify<K, S>(key: &K, input: &[u8], signature: &[u8]) -> Option<()>
where
    K: Verifier<S>,
    S: for<'a> TryFrom<&'a [u8]>,
{
    let signature = S::try_from(signature).ok()?;
    key.verify(input, &signature).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::jwt::Jws;

    const ALL: [Algorithm; 10] = Algorithm::ALL;

    /// Keys and tokens made by another implementation; `tests/vectors/jwks/make.py` says how.
    fn vectors() -> (JwkSet, Vec<(String, String)>) {
        let keys = include_bytes!("../../tests/vectors/jwks/keys.json");
        let tokens = include_bytes!("../../tests/vectors/jwks/tokens.json");
        let tokens: std::collections::BTreeMap<String, String> = serde_json::from_slice(tokens).expect("tokens");
        (JwkSet::parse(keys).expect("a key set"), tokens.into_iter().collect())
    }

    #[test]
    fn tokens_of_another_implementation_verify_with_their_algorithm_only() {
        let (keys, tokens) = vectors();
        assert_eq!(tokens.len(), ALL.len());
        for (name, token) in &tokens {
            let jws = Jws::parse(token).expect("a token");
            for algorithm in ALL {
                for kid in [jws.header.kid.as_deref(), None] {
                    let verified = keys.verify(algorithm, kid, jws.signing_input, &jws.signature);
                    assert_eq!(verified, algorithm.name() == name, "{name} as {} with {kid:?}", algorithm.name());
                }
            }
        }
    }

    #[test]
    fn only_names_of_public_key_algorithms_are_understood() {
        for algorithm in ALL {
            assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
        }
        for name in ["", "none", "HS256", "rs256", "ES256K"] {
            assert_eq!(Algorithm::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_tampered_token_does_not_verify() {
        let (keys, tokens) = vectors();
        for (algorithm, (_, token)) in
            ALL.iter().map(|one| (one, tokens.iter().find(|(name, _)| name == one.name()).expect("a token")))
        {
            let jws = Jws::parse(token).expect("a token");
            let mut signature = jws.signature.clone();
            signature[10] ^= 1;
            assert!(!keys.verify(*algorithm, None, jws.signing_input, &signature), "{}", algorithm.name());
            assert!(!keys.verify(*algorithm, None, &jws.signing_input[1..], &jws.signature), "{}", algorithm.name());
            assert!(!keys.verify(*algorithm, None, jws.signing_input, &[]), "{}", algorithm.name());
            assert!(!keys.verify(*algorithm, Some("foreign"), jws.signing_input, &jws.signature));
        }
    }

    #[test]
    fn a_key_for_encryption_or_another_algorithm_is_not_used() {
        let (_, tokens) = vectors();
        let text = include_str!("../../tests/vectors/jwks/keys.json");
        let token = &tokens.iter().find(|(name, _)| name == "ES256").expect("a token").1;
        let jws = Jws::parse(token).expect("a token");
        for (from, to, verified) in [
            ("", "", true),
            ("\"use\": \"sig\"", "\"use\": \"enc\"", false),
            ("\"use\": \"sig\"", "\"alg\": \"ES256\"", true),
            ("\"use\": \"sig\"", "\"alg\": \"ES384\"", false),
        ] {
            let keys = JwkSet::parse(text.replace(from, to).as_bytes()).expect("a key set");
            let found = keys.verify(Algorithm::Es256, None, jws.signing_input, &jws.signature);
            assert_eq!(found, verified, "{from} → {to}");
        }
    }

    #[test]
    fn keys_that_are_not_understood_do_not_spoil_the_set() {
        let keys =
            JwkSet::parse(br#"{"keys":[{"kty":"oct","k":"AA"},{"no":1},{"kty":"RSA","kid":"a","n":"!","e":""}]}"#)
                .expect("a key set");
        assert!(keys.knows(Some("a")) && keys.knows(None) && !keys.knows(Some("b")));
        assert!(!keys.verify(Algorithm::Rs256, None, "e30.e30", &[0; 256]));
        for document in ["", "[]", "{}", r#"{"keys":{}}"#] {
            assert!(JwkSet::parse(document.as_bytes()).is_err(), "{document}");
        }
    }
}
