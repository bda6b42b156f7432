//! Section `session` (auth contract §3.3).

use std::time::Duration;

use super::Session;
use super::decode::Keys;
use super::kind::{Kind, decimal, one_or_many, secret};

/// Longer sessions would outlive what a refresh is for: asking the identity provider again.
const MAX_TTL: Duration = Duration::from_hours(366 * 24);

pub(super) fn session(keys: &mut Keys<'_, '_>) -> Option<Session> {
    let jwt_secret = keys.optional(
        "jwt_secret",
        one_or_many(secret(32)),
        "Secret that signs session tokens, at least 32 characters; or a list, of which the first signs and all verify. \
         Without it the gateway makes its own keys and keeps them in the key-value store.",
    );
    let ttl = keys.or("ttl_hours", hours(), "1", "Life of a session token, in hours; fractions are allowed.");
    Some(Session { jwt_secrets: jwt_secret.unwrap_or_default(), ttl: ttl? })
}

fn hours() -> Kind<Duration> {
    decimal().check(|hours| {
        let hours: f64 = hours.parse().unwrap_or_default();
        let ttl = Duration::try_from_secs_f64(hours * 3600.0).unwrap_or(Duration::MAX);
        match ttl {
            ttl if ttl < Duration::from_secs(1) => Err("must be greater than 0".to_owned()),
            ttl if ttl > MAX_TTL => Err("must be at most one year".to_owned()),
            ttl => Ok(ttl),
        }
    })
}
