//! Tokens and key sets as anybody may send or publish them.
//!
//! The first line is a token, the rest a key set. What is taken apart must have come from the text, and no algorithm may
//! panic over a key or a signature.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sallyport::wire::jwks::{Algorithm, JwkSet};
use sallyport::wire::jwt::Jws;

fuzz_target!(|data: &[u8]| {
    let (token, keys) = data.iter().position(|byte| *byte == b'\n').map_or((data, &[][..]), |at| data.split_at(at));
    let keys = JwkSet::parse(keys).unwrap_or_default();
    let Ok(token) = std::str::from_utf8(token) else { return };
    let Ok(jws) = Jws::parse(token) else { return };
    assert!(token.starts_with(jws.signing_input));
    let kid = jws.header.kid.as_deref();
    if let Some(algorithm) = Algorithm::parse(&jws.header.alg) {
        let verified = keys.verify(algorithm, kid, jws.signing_input, &jws.signature);
        assert!(!verified || keys.knows(kid));
    }
});
