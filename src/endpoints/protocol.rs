//! `GET /protocol`: the wire contract for client developers, as it stands in `docs/protocol.md`.

use http::{HeaderValue, StatusCode, header};

use crate::exchange::{Response, plain};

/// Answers `GET /protocol`.
pub(crate) fn get() -> Response {
    let mut response = plain(StatusCode::OK, include_str!("../../docs/protocol.md"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/markdown; charset=utf-8"));
    response
}
