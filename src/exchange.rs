//! One HTTP exchange as the gateway sees it: a [`Request`] in, a [`Response`] out, free of any SDK.

use std::any::Any;
use std::net::IpAddr;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use http::{HeaderMap, Method, StatusCode, Uri, header};

use crate::ports::{BodySink, BoxStream, ByteStream, StreamError};

/// An incoming request.
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path and query; scheme and authority are not trusted and not here.
    pub uri: Uri,
    /// `http` or `https`, as the host saw it.
    pub scheme: &'static str,
    /// Headers, without those that the host itself added.
    pub headers: HeaderMap,
    /// The TCP peer; `None` when the host does not tell.
    pub peer: Option<IpAddr>,
    /// The body.
    pub body: BoxStream,
    /// Content of the host's control header, if the host sent one.
    pub control: Option<String>,
}

impl Request {
    /// The one value of `name`, if it is there and is text.
    pub fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Why a body could not be read whole.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Larger than the limit.
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// The client broke off.
    #[error(transparent)]
    BrokeOff(#[from] StreamError),
}

/// Reads `body` whole, but not more than `limit` bytes. A body that comes in one piece is not copied.
pub async fn read_body(body: &mut BoxStream, limit: u64) -> Result<Bytes, BodyError> {
    let Some(first) = body.next().await else { return Ok(Bytes::new()) };
    let first = first?;
    let mut whole: Option<BytesMut> = None;
    let mut size = first.len() as u64;
    while size <= limit {
        let Some(piece) = body.next().await else {
            return Ok(whole.map_or(first, BytesMut::freeze));
        };
        let piece = piece?;
        size += piece.len() as u64;
        whole.get_or_insert_with(|| BytesMut::from(&first[..])).extend_from_slice(&piece);
    }
    Err(BodyError::TooLarge(limit))
}

/// A body that is all there.
pub fn in_one_piece(whole: Bytes) -> BoxStream {
    Box::new(Whole(Some(whole)))
}

struct Whole(Option<Bytes>);

#[async_trait(?Send)]
impl ByteStream for Whole {
    async fn next(&mut self) -> Option<Result<Bytes, StreamError>> {
        self.0.take().map(Ok)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// An answer.
pub type Response = http::Response<Body>;

/// The body of an answer.
pub enum Body {
    /// All of it is here.
    Full(Bytes),
    /// It is an upstream's, and nobody reads along: the host may move it without the component. A body that breaks off
    /// cuts the connection, and a client that leaves closes the upstream's.
    Relayed(BoxStream),
    /// It is produced while it is sent; its length is not known.
    Streamed(Producer),
}

/// Produces a streamed body: runs to its end whether or not the client stays, so whatever must happen after a
/// response (settling, audit) happens inside it. `Err` cuts the connection, as an upstream that broke off does.
pub type Producer = Box<dyn FnOnce(Box<dyn BodySink>) -> LocalBoxFuture<'static, Result<(), CutOff>>>;

/// The body ends here although it is not complete; the client must see a broken connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutOff;

impl Body {
    /// No body.
    pub const fn empty() -> Self {
        Self::Full(Bytes::new())
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self::Full(bytes.into())
    }
}

/// A `text/plain` answer: the contract's form for probes and transport errors (auth contract §4.6).
pub fn plain(status: StatusCode, text: &'static str) -> Response {
    with_type(status, "text/plain;charset=utf-8", Bytes::from_static(text.as_bytes()))
}

/// A JSON answer.
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Response {
    let text = serde_json::to_vec(value).expect("answers are made of strings, numbers and maps with string keys");
    with_type(status, "application/json;charset=utf-8", text)
}

/// An HTML answer.
pub fn html(status: StatusCode, page: String) -> Response {
    with_type(status, "text/html; charset=utf-8", page)
}

fn with_type(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}
