//! Session tokens made outside the gateway, good and bad (auth contract §7.1).

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::SESSION_SECRET;

/// A good session of `sub` at a site that signs with [`SESSION_SECRET`].
pub(crate) fn session(issuer: &str, sub: &str) -> String {
    session_with(issuer, &json!({"sub": sub, "email": format!("{sub}@example.com")}))
}

/// The same with claims of the story's own.
pub(crate) fn session_with(issuer: &str, claims: &Value) -> String {
    let now = unix_now();
    let mut all = json!({"aud": "claude-gateway", "iss": issuer, "iat": now, "exp": now + 3600});
    let own = claims.as_object().expect("an object").clone();
    all.as_object_mut().expect("an object").extend(own);
    forge(&header(SESSION_SECRET), &all, SESSION_SECRET)
}

/// A token with this header and these claims, signed HS256 with `secret` whatever the header says.
pub(crate) fn forge(header: &Value, claims: &Value, secret: &str) -> String {
    let input =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

/// The header of a session token that `secret` signs.
pub(crate) fn header(secret: &str) -> Value {
    let digest = Sha256::digest(secret.as_bytes());
    let first = u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"));
    json!({"alg": "HS256", "typ": "JWT", "kid": format!("{first:016x}")})
}

/// Seconds since 1970.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs()
}
