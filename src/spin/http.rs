//! Requests and responses ← wasi:http, in both directions.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{FutureExt, LocalBoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use spin_sdk::wasip3::http::client;
use spin_sdk::wasip3::http::types::{
    ErrorCode, Fields, Method as WasiMethod, Request as WasiRequest, RequestOptions, Response as WasiResponse, Scheme,
    Trailers,
};
use spin_sdk::wasip3::{wit_future, wit_stream};
use spin_sdk::wit_bindgen::rt::async_support::{FutureReader, FutureWriter, StreamReader, StreamResult, StreamWriter};

use crate::exchange::{Body, CutOff, Request, Response};
use crate::ports::{BodySink, BoxStream, ByteStream, ClientLeft, Http, HttpError, Outbound, StreamError};

/// The largest piece of a body that is read at once.
const PIECE: usize = 64 * 1024;

/// Headers with which the host tells the component about the connection; a client's own never arrive.
const HOST_HEADER_PREFIX: &str = "spin-";
const CLIENT_ADDRESS: &str = "spin-client-addr";
/// Sent by our own host with requests that it makes itself.
const CONTROL: &str = "sallyport-control";

/// Reads the host's request. The second value lets a streamed response notice that the client left.
pub(super) fn incoming(request: WasiRequest) -> Result<(Request, Client), ErrorCode> {
    let method = Method::try_from(request.get_method()).map_err(|_| ErrorCode::HttpRequestMethodInvalid)?;
    let path = request.get_path_with_query().unwrap_or_else(|| "/".to_owned());
    let uri = Uri::try_from(path).map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
    let scheme = if matches!(request.get_scheme(), Some(Scheme::Https)) { "https" } else { "http" };
    let authority = request.get_authority();

    let mut headers = HeaderMap::with_capacity(16);
    let mut peer = None;
    let mut control = None;
    for (name, value) in request.get_headers().copy_all() {
        if name == CLIENT_ADDRESS {
            peer = address(&value);
        } else if name == CONTROL {
            control = String::from_utf8(value).ok();
        } else if !name.starts_with(HOST_HEADER_PREFIX)
            && let Ok(name) = HeaderName::try_from(name)
            && let Ok(value) = HeaderValue::try_from(value)
        {
            headers.append(name, value);
        }
    }
    // WASI carries `Host` as the authority (RFC 9110 §7.2).
    if !headers.contains_key(header::HOST)
        && let Some(authority) = authority
        && let Ok(authority) = HeaderValue::try_from(authority)
    {
        headers.insert(header::HOST, authority);
    }

    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let stream = Rc::new(RefCell::new(Some(Incoming::of_request(request, declared))));
    let client = Client(Rc::clone(&stream));
    let body = Box::new(SharedIncoming(stream));
    Ok((Request { method, uri, scheme, headers, peer, body, control }, client))
}

/// `192.0.2.1:5555` or `[2001:db8::1]:443`.
fn address(value: &[u8]) -> Option<std::net::IpAddr> {
    let socket: std::net::SocketAddr = std::str::from_utf8(value).ok()?.parse().ok()?;
    Some(socket.ip())
}

/// Hands the response to the host. Its body goes on being produced after this function returned.
pub(super) fn outgoing(response: Response, client: Client) -> Result<WasiResponse, ErrorCode> {
    let (mut parts, body) = response.into_parts();
    if let Body::Full(bytes) = &body {
        parts.headers.insert(header::CONTENT_LENGTH, bytes.len().into());
    }
    let fields = fields(&parts.headers);
    let body = match body {
        Body::Relayed(stream) => match stream.into_any().downcast::<Incoming>() {
            Ok(incoming) => {
                if let Incoming { stream, end: Some(end), .. } = *incoming {
                    let (response, _transmitted) = WasiResponse::new(fields, Some(stream), end);
                    response.set_status_code(parts.status.as_u16()).map_err(|()| ErrorCode::HttpProtocolError)?;
                    return Ok(response);
                }
                Body::empty()
            }
            // Only the gateway's own requests to upstreams make such streams.
            Err(_) => return Err(ErrorCode::InternalError(None)),
        },
        body => body,
    };
    let (mut writer, reader) = wit_stream::new::<u8>();
    let (end, trailers) = wit_future::new::<Result<Option<Trailers>, ErrorCode>>(|| Ok(None));
    let (response, _transmitted) = match body {
        Body::Relayed(_) => return Err(ErrorCode::InternalError(None)),
        Body::Full(bytes) if bytes.is_empty() => WasiResponse::new(fields, None, trailers),
        Body::Full(bytes) => {
            spin_sdk::wit_bindgen::spawn(async move {
                writer.write_all(bytes.into()).await;
                drop(end);
            });
            WasiResponse::new(fields, Some(reader), trailers)
        }
        Body::Streamed(produce) => {
            let sink = Sink { writer: Rc::new(RefCell::new(Some(writer))), client: Some(client) };
            let writer = Rc::clone(&sink.writer);
            spin_sdk::wit_bindgen::spawn(async move {
                let outcome = produce(Box::new(sink)).await;
                // The stream ends before its verdict, whoever still holds the sink.
                writer.borrow_mut().take();
                finish(end, outcome).await;
            });
            WasiResponse::new(fields, Some(reader), trailers)
        }
    };
    response.set_status_code(parts.status.as_u16()).map_err(|()| ErrorCode::HttpProtocolError)?;
    Ok(response)
}

async fn finish(end: FutureWriter<Result<Option<Trailers>, ErrorCode>>, outcome: Result<(), CutOff>) {
    if outcome.is_err() {
        // A client that is gone does not need the verdict.
        let _ = end.write(Err(ErrorCode::HttpResponseIncomplete)).await;
    }
}

fn fields(headers: &HeaderMap) -> Fields {
    let list: Vec<(String, Vec<u8>)> =
        headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    Fields::from_list(&list).unwrap_or_else(|_| {
        // The host refuses headers that belong to a connection; the others still go.
        let fields = Fields::new();
        for (name, value) in &list {
            let _ = fields.append(name, value);
        }
        fields
    })
}

/// What tells that a client has left: its request's body, which our host keeps open for as long as the client stays.
pub(super) struct Client(Rc<RefCell<Option<Incoming>>>);

impl Client {
    async fn left(self) {
        let Some(mut incoming) = self.0.borrow_mut().take() else { return std::future::pending().await };
        if incoming.remaining != Some(0) || incoming.ended_with_error().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// A body that arrives.
struct Incoming {
    stream: StreamReader<u8>,
    end: Option<FutureReader<Result<Option<Trailers>, ErrorCode>>>,
    /// Bytes still to come, when the length was declared.
    remaining: Option<u64>,
    /// Size of the next read.
    piece: usize,
}

impl Incoming {
    fn of_request(request: WasiRequest, declared: Option<u64>) -> Self {
        let (_, handled) = wit_future::new::<Result<(), ErrorCode>>(|| Ok(()));
        let (stream, end) = WasiRequest::consume_body(request, handled);
        // One read takes a whole body of known, modest size.
        let piece = declared.map_or(PIECE, |length| usize::try_from(length).unwrap_or(PIECE).clamp(1, 16 * PIECE));
        Self { stream, end: Some(end), remaining: declared, piece }
    }

    fn of_response(response: WasiResponse) -> Self {
        let (_, handled) = wit_future::new::<Result<(), ErrorCode>>(|| Ok(()));
        let (stream, end) = WasiResponse::consume_body(response, handled);
        Self { stream, end: Some(end), remaining: None, piece: PIECE }
    }

    async fn next(&mut self) -> Option<Result<Bytes, StreamError>> {
        if self.remaining == Some(0) {
            return None;
        }
        loop {
            let (result, bytes) = self.stream.read(Vec::with_capacity(self.piece)).await;
            match result {
                StreamResult::Complete(0) => {}
                StreamResult::Complete(read) => {
                    self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(read as u64));
                    return Some(Ok(bytes.into()));
                }
                StreamResult::Dropped | StreamResult::Cancelled => {
                    let end = self.end.take()?.await;
                    let truncated = self.remaining.is_some_and(|remaining| remaining > 0);
                    return match end {
                        Err(error) => Some(Err(StreamError(error.to_string()))),
                        Ok(_) if truncated => Some(Err(StreamError("shorter than its content-length".to_owned()))),
                        Ok(_) => None,
                    };
                }
            }
        }
    }

    /// Waits for the end of a body that was read whole; the error it ended with, if any.
    async fn ended_with_error(&mut self) -> Option<ErrorCode> {
        let (StreamResult::Dropped, _) = self.stream.read(Vec::with_capacity(1)).await else { return None };
        self.end.take()?.await.err()
    }
}

/// The request body as the gateway reads it. It is shared with [`Client`], so it does not go when the gateway is done.
struct SharedIncoming(Rc<RefCell<Option<Incoming>>>);

#[async_trait(?Send)]
impl ByteStream for SharedIncoming {
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    async fn next(&mut self) -> Option<Result<Bytes, StreamError>> {
        // Taken out while it is read, so that no borrow is held across the wait.
        let mut incoming = self.0.borrow_mut().take()?;
        let piece = incoming.next().await;
        self.0.borrow_mut().replace(incoming);
        piece
    }
}

#[async_trait(?Send)]
impl ByteStream for Incoming {
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    async fn next(&mut self) -> Option<Result<Bytes, StreamError>> {
        Incoming::next(self).await
    }
}

/// The client's end of a streamed response.
struct Sink {
    writer: Rc<RefCell<Option<StreamWriter<u8>>>>,
    client: Option<Client>,
}

#[async_trait(?Send)]
impl BodySink for Sink {
    async fn send(&mut self, bytes: Bytes) -> Result<(), ClientLeft> {
        let mut writer = self.writer.borrow_mut().take().ok_or(ClientLeft)?;
        let unsent = writer.write_all(bytes.into()).await;
        self.writer.borrow_mut().replace(writer);
        if unsent.is_empty() { Ok(()) } else { Err(ClientLeft) }
    }

    fn left(&mut self) -> LocalBoxFuture<'static, ()> {
        match self.client.take() {
            Some(client) => client.left().boxed_local(),
            None => std::future::pending().boxed_local(),
        }
    }
}

/// Outbound HTTP through the host.
pub(super) struct SpinHttp;

#[async_trait(?Send)]
impl Http for SpinHttp {
    async fn send(&self, outbound: Outbound) -> Result<http::Response<BoxStream>, HttpError> {
        let request = request(outbound).map_err(|()| HttpError::Protocol("the request is malformed".to_owned()))?;
        let response = client::send(request).await.map_err(error)?;
        let status = response.get_status_code();
        let mut headers = HeaderMap::with_capacity(16);
        for (name, value) in response.get_headers().copy_all() {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.append(name, value);
            }
        }
        let body: BoxStream = Box::new(Incoming::of_response(response));
        let mut answer = http::Response::new(body);
        *answer.status_mut() =
            http::StatusCode::from_u16(status).map_err(|_| HttpError::Protocol(format!("status {status}")))?;
        *answer.headers_mut() = headers;
        Ok(answer)
    }
}

fn request(outbound: Outbound) -> Result<WasiRequest, ()> {
    let (mut parts, body) = outbound.request.into_parts();
    parts.headers.remove(header::HOST);
    parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    let options = outbound.first_byte_timeout.map(|timeout| {
        let options = RequestOptions::new();
        let nanos = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        // A host without time-outs still sends the request.
        let _ = options.set_connect_timeout(Some(nanos));
        let _ = options.set_first_byte_timeout(Some(nanos));
        options
    });
    let (end, trailers) = wit_future::new::<Result<Option<Trailers>, ErrorCode>>(|| Ok(None));
    let contents = if body.is_empty() {
        drop(end);
        None
    } else {
        let (mut writer, reader) = wit_stream::new::<u8>();
        spin_sdk::wit_bindgen::spawn(async move {
            writer.write_all(body.into()).await;
            drop(end);
        });
        Some(reader)
    };
    let (request, _transmitted) = WasiRequest::new(fields(&parts.headers), contents, trailers, options);
    request.set_method(&WasiMethod::from(&parts.method))?;
    let scheme = if parts.uri.scheme_str() == Some("http") { Scheme::Http } else { Scheme::Https };
    request.set_scheme(Some(&scheme))?;
    request.set_authority(parts.uri.authority().map(http::uri::Authority::as_str))?;
    request.set_path_with_query(parts.uri.path_and_query().map(http::uri::PathAndQuery::as_str))?;
    Ok(request)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn error(code: ErrorCode) -> HttpError {
    let text = code.to_string();
    match code {
        ErrorCode::DnsTimeout
        | ErrorCode::DnsError(_)
        | ErrorCode::DestinationNotFound
        | ErrorCode::DestinationUnavailable
        | ErrorCode::DestinationIpUnroutable
        | ErrorCode::ConnectionRefused
        | ErrorCode::ConnectionLimitReached
        | ErrorCode::TlsProtocolError
        | ErrorCode::TlsCertificateError
        | ErrorCode::TlsAlertReceived(_) => HttpError::Connect(text),
        ErrorCode::DestinationIpProhibited | ErrorCode::HttpRequestDenied => HttpError::Forbidden(text),
        ErrorCode::ConnectionTimeout
        | ErrorCode::ConnectionReadTimeout
        | ErrorCode::ConnectionWriteTimeout
        | ErrorCode::HttpResponseTimeout => HttpError::Timeout(text),
        _ => HttpError::Protocol(text),
    }
}
