//! JSON Web Signatures in compact form (RFC 7515): taken apart without judgement, HS256 made and checked,
//! RS256 made.
//!
//! What a token must say is decided by those who read it (`domain/session.rs`, `domain/oidc.rs`); public-key
//! signatures are in `jwks.rs`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rsa::RsaPrivateKey;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::DecodePrivateKey;
use rsa::signature::{SignatureEncoding, Signer};
use rsa::traits::PublicKeyParts;
use serde::Deserialize;
use sha2::Sha256;

/// The longest token that is looked at. A token with 2000 groups has about 37 kB (auth contract §7.1).
const MAX_BYTES: usize = 256 * 1024;

/// A token taken apart; nothing is verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jws<'a> {
    /// The protected header.
    pub header: Header,
    /// The payload, decoded.
    pub payload: Vec<u8>,
    /// What the signature covers.
    pub signing_input: &'a str,
    /// The signature, decoded.
    pub signature: Vec<u8>,
}

/// The parts of a protected header that decide how to verify.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Header {
    /// Algorithm.
    pub alg: String,
    /// Which key.
    pub kid: Option<String>,
    /// Extensions that a reader must understand (RFC 7515 §4.1.11); we understand none.
    crit: Option<serde_json::Value>,
}

/// The text is no compact JWS, or needs an extension that is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed token")]
pub struct Malformed;

impl<'a> Jws<'a> {
    /// Takes `token` apart.
    pub fn parse(token: &'a str) -> Result<Self, Malformed> {
        if token.len() > MAX_BYTES {
            return Err(Malformed);
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(Malformed)?;
        let (header, payload) = signing_input.split_once('.').ok_or(Malformed)?;
        // A payload with a third dot is not base64url and fails there.
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| Malformed)?;
        if header.crit.is_some() {
            return Err(Malformed);
        }
        Ok(Self { header, payload: decode(payload)?, signing_input, signature: decode(signature)? })
    }
}

fn decode(part: &str) -> Result<Vec<u8>, Malformed> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| Malformed)
}

/// A token of `header` and `payload`, both JSON, with the signature that `sign` makes of what it covers.
pub fn compact(header: &[u8], payload: &[u8], sign: impl FnOnce(&str) -> Vec<u8>) -> String {
    let mut token = URL_SAFE_NO_PAD.encode(header);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(payload, &mut token);
    let signature = sign(&token);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut token);
    token
}

/// The key cannot sign. Which key it is, the caller knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the private key is not an RSA key in PEM form that can sign")]
pub struct UnusableKey;

/// A token of `header` and `payload`, both JSON, signed with RS256 (RFC 7518 §3.3) by a key in PKCS #8 or PKCS #1 PEM.
pub fn sign_rs256(private_key_pem: &str, header: &str, payload: &str) -> Result<String, UnusableKey> {
    let pem = private_key_pem.trim();
    let key = RsaPrivateKey::from_pkcs8_pem(pem).or_else(|_| RsaPrivateKey::from_pkcs1_pem(pem));
    let signer = SigningKey::<Sha256>::new(key.map_err(|_| UnusableKey)?);
    let mut outcome = Err(UnusableKey);
    let token = compact(header.as_bytes(), payload.as_bytes(), |input| {
        let signature = signer.try_sign(input.as_bytes());
        outcome = signature.as_ref().map(|_| ()).map_err(|_| UnusableKey);
        signature.map(|signature| signature.to_vec()).unwrap_or_default()
    });
    outcome.map(|()| token)
}

/// The modulus of an RSA private key in PKCS #8 or PKCS #1 PEM, big-endian.
pub fn rsa_modulus(private_key_pem: &str) -> Result<Vec<u8>, UnusableKey> {
    let pem = private_key_pem.trim();
    let key = RsaPrivateKey::from_pkcs8_pem(pem).or_else(|_| RsaPrivateKey::from_pkcs1_pem(pem));
    let modulus = key.map_err(|_| UnusableKey)?.n_bytes();
    Ok(modulus.iter().copied().skip_while(|byte| *byte == 0).collect())
}

/// An HS256 key (RFC 7518 §3.2), prepared once: every use starts from the state that the secret leaves.
#[derive(Clone)]
pub struct Hs256Key(Hmac<Sha256>);

impl Hs256Key {
    /// The key of `secret`.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes keys of any length"))
    }

    /// The signature of `signing_input`.
    pub fn sign(&self, signing_input: &str) -> Vec<u8> {
        let mut mac = self.0.clone();
        mac.update(signing_input.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }

    /// Whether `signature` is that of `signing_input`; takes the same time wherever they differ.
    pub fn verify(&self, signing_input: &str, signature: &[u8]) -> bool {
        let mut mac = self.0.clone();
        mac.update(signing_input.as_bytes());
        mac.verify_slice(signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_7515_verifies() {
        // RFC 7515 appendix A.1.
        let secret = URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .expect("base64url");
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
            eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
            dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let jws = Jws::parse(token).expect("a token");
        assert_eq!(jws.header.alg, "HS256");
        assert!(Hs256Key::new(&secret).verify(jws.signing_input, &jws.signature));
        assert!(!Hs256Key::new(b"another").verify(jws.signing_input, &jws.signature));
    }

    #[test]
    fn what_is_no_token_is_malformed() {
        for token in ["", ".", "..", "a.b.c", "e30.e30.", "e30.e30", "eyJhbGciOiJub25lIn0.e30.e30.e30"] {
            assert_eq!(Jws::parse(token), Err(Malformed), "{token}");
        }
    }

    #[test]
    fn a_token_with_an_extension_that_must_be_understood_is_refused() {
        let key = Hs256Key::new(b"key");
        let token = compact(br#"{"alg":"HS256","crit":["b64"],"b64":false}"#, b"{}", |input| key.sign(input));
        assert_eq!(Jws::parse(&token), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(token: String) {
            let _ = Jws::parse(&token);
        }

        #[test]
        fn what_is_made_is_taken_apart(payload: Vec<u8>) {
            let key = Hs256Key::new(b"key");
            let token = compact(br#"{"alg":"HS256","kid":"k"}"#, &payload, |input| key.sign(input));
            let jws = Jws::parse(&token).expect("a token");
            prop_assert!(key.verify(jws.signing_input, &jws.signature));
            prop_assert_eq!(jws.payload, payload);
        }
    }
}
