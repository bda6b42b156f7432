//! An issuer of tokens for programs, as GitHub Actions or Kubernetes are: a discovery document, keys, and jobs that have
//! a token without asking anybody.

use std::sync::atomic::{AtomicU8, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer, SigningKey};
use serde_json::{Value, json};

use super::{Upstream, unix_now};

/// A listening issuer.
pub(crate) struct Issuer {
    pub(crate) url: String,
    key: SigningKey,
}

impl Issuer {
    pub(crate) fn start() -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(1);
        // Each has a key of its own, all under one name.
        let key = SigningKey::from_bytes(&[NUMBER.fetch_add(1, Ordering::Relaxed); 32]);
        let x = URL_SAFE_NO_PAD.encode(key.verifying_key().as_bytes());
        let server = Upstream::start(move |exchange| {
            let base = format!("http://{}", exchange.seen.header("host"));
            match exchange.seen.path.as_str() {
                "/.well-known/openid-configuration" => {
                    exchange.answer(200, &[], &json!({"issuer": base, "jwks_uri": format!("{base}/keys")}));
                }
                "/keys" => {
                    let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "jobs", "use": "sig", "x": x});
                    exchange.answer(200, &[], &json!({"keys": [key]}));
                }
                _ => exchange.answer(404, &[], &json!({})),
            }
        });
        Self { url: format!("http://{}", server.address), key }
    }

    /// The token of a job of `acme/app`, for five minutes, with these claims besides or instead.
    pub(crate) fn token(&self, audience: &str, claims: &Value) -> String {
        let now = unix_now();
        let mut all = json!({
            "iss": self.url, "aud": audience, "sub": "repo:acme/app:ref:refs/heads/main", "iat": now, "nbf": now - 5,
            "exp": now + 300, "repository": "acme/app", "ref": "refs/heads/main",
        });
        all.as_object_mut().expect("an object").extend(claims.as_object().expect("an object").clone());
        let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": "jobs"});
        let input =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(all.to_string()));
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(self.key.sign(input.as_bytes()).to_bytes()))
    }
}
