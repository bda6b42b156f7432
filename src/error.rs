//! [`Failure`]: what an endpoint returns when it cannot do its work, and its rendering for each audience.
//!
//! Every failure has two messages: what the caller may read, and a cause that only the log keeps. Decisions below the
//! endpoints have their own small error enums; they become failures where an endpoint knows what they mean.

use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;

use crate::exchange::{self, Response};
use crate::ports::DbError;
use crate::store::StoreError;

/// A request that could not be served.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    kind: &'static str,
    message: String,
    dialect: Dialect,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<String>,
}

/// Which protocol the error is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// `{"type":"error","request_id":…,"error":{"type":…,"message":…}}` (inference contract §2.4).
    Messages,
    /// `{"error":…,"error_description":…}` (RFC 6749 §5.2).
    Oauth,
    /// The message as plain text.
    Plain,
}

impl Failure {
    fn new(dialect: Dialect, status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), dialect, headers: Vec::new(), cause: None }
    }

    /// An error of the Messages API: `kind` is its `error.type`.
    pub fn messages(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self::new(Dialect::Messages, status, kind, message)
    }

    /// `400 invalid_request_error`.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::messages(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// `401`: one message for a missing, malformed, expired or forged token (auth contract §4.6).
    ///
    /// Unlike the reference it tells the client not to retry, which makes it ask for sign-in at once (§13).
    pub fn unauthenticated() -> Self {
        Self::messages(StatusCode::UNAUTHORIZED, "authentication_error", "invalid token")
            .with_header(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"))
    }

    /// `500` without any detail; `cause` goes to the log.
    pub fn internal(cause: impl Into<String>) -> Self {
        Self::messages(StatusCode::INTERNAL_SERVER_ERROR, "api_error", "internal server error").because(cause)
    }

    /// An error of the token or device authorization endpoint: `kind` is its `error`.
    pub fn oauth(status: StatusCode, kind: &'static str, description: impl Into<String>) -> Self {
        Self::new(Dialect::Oauth, status, kind, description)
    }

    /// A plain-text answer.
    pub fn plain(status: StatusCode, text: &'static str) -> Self {
        Self::new(Dialect::Plain, status, "", text)
    }

    /// Adds a response header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds the cause that the log keeps.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// What the log keeps, if there is something to keep.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The status it will be answered with.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer.
    pub fn render(self, request_id: &str) -> Response {
        let mut response = match self.dialect {
            Dialect::Messages => exchange::json(
                self.status,
                &json!({
                    "type": "error",
                    "request_id": request_id,
                    "error": { "type": self.kind, "message": self.message },
                }),
            ),
            Dialect::Oauth => {
                let mut response =
                    exchange::json(self.status, &json!({ "error": self.kind, "error_description": self.message }));
                // RFC 6749 §5.1: answers of the token endpoint are never cached.
                let headers = response.headers_mut();
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
                headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
                response
            }
            Dialect::Plain => {
                let mut response = exchange::plain(self.status, "");
                *response.body_mut() = self.message.into();
                response
            }
        };
        response.headers_mut().extend(self.headers);
        response
    }
}

impl From<DbError> for Failure {
    fn from(error: DbError) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::internal(error.to_string())
    }
}
