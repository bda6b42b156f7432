//! `/oauth/…`.

pub(crate) mod callback;
pub(crate) mod device_authorization;
pub(crate) mod revoke;
pub(crate) mod token;
pub(crate) mod token_exchange;

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::exchange::{self, Response};

/// A JSON answer that nobody may keep (RFC 6749 §5.1).
fn answer(value: &impl Serialize) -> Response {
    let mut response = exchange::json(StatusCode::OK, value);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    response
}
