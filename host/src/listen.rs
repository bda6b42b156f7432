//! Inbound HTTP ← hyper: TCP, TLS, HTTP/1.1 and HTTP/2, what of a request the component gets to see, and draining.
//!
//! What the component cannot judge is judged here: WASI hides how a body is framed, so `411` is ours, and a component
//! that broke down cannot say so itself.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use sallyport::gateway::client_request_id;
use sallyport::log::Level;
use sallyport::routes::Route;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use uuid::Uuid;
use wasmtime_wasi_http::{Error, WasiBody};

use crate::console;
use crate::generation::Generations;
use crate::identified::{Identified, Open, Requests};
use crate::lane::Lanes;
use crate::metrics::{self, Measured};
use crate::operator::Phase;
use crate::pool::{Exchange, NoAnswer};
use crate::presence::{RequestBody, ResponseBody, Served};

/// Connections that the kernel holds until we accept them.
const BACKLOG: u32 = 1024;
/// How long a client may take for its TLS handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may rest before the head of its next request is complete.
const REST: Duration = Duration::from_secs(75);
/// Requests that a client may have open on one HTTP/2 connection.
const STREAMS: u32 = 250;
/// HTTP/2 receive window of a stream.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// HTTP/2 receive window of a connection.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// Only where the gateway itself ends TLS (auth contract §4.5).
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");
/// On every answer (auth contract §4.5).
const COMMON: [(HeaderName, &str); 4] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CLIENT_ADDRESS: HeaderName = HeaderName::from_static("spin-client-addr");
const HOST_HEADER_PREFIX: &str = "spin-";
/// Carries the control token in requests that the host makes itself.
pub(crate) const CONTROL: HeaderName = HeaderName::from_static("sallyport-control");

/// Listens on `address`. A port that is in use is an error.
pub(crate) async fn bind(address: &str) -> Result<TcpListener> {
    let resolved = tokio::net::lookup_host(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for candidate in resolved {
        match try_bind(candidate) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last).with_context(|| format!("cannot listen on {address}"))
}

fn try_bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of a process that just ended do not keep the port; a process that listens does.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What all connections share.
pub(crate) struct Server {
    generations: Arc<Generations>,
    tls: Option<TlsAcceptor>,
    http: auto::Builder<TokioExecutor>,
}

impl Server {
    /// A server that has the current one of `generations` answer, over TLS if there are settings for it.
    pub(crate) fn new(generations: Arc<Generations>, tls: Option<ServerConfig>) -> Arc<Self> {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1().timer(TokioTimer::new()).header_read_timeout(REST);
        http.http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval(Duration::from_mins(1))
            .keep_alive_timeout(Duration::from_secs(20));
        Arc::new(Self { generations, tls: tls.map(|tls| TlsAcceptor::from(Arc::new(tls))), http })
    }

    /// The scheme that clients use.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Serves until `stop` completes; then no connection is accepted any more. What is returned completes when the
    /// open connections have finished.
    pub(crate) async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        lanes: &Lanes,
        stop: impl Future<Output = ()>,
    ) -> GracefulShutdown {
        let graceful = GracefulShutdown::new();
        let mut stop = std::pin::pin!(stop);
        loop {
            let accepted = tokio::select! {
                biased;
                () = &mut stop => return graceful,
                accepted = listener.accept() => accepted,
            };
            let (socket, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // A connection that broke before it was accepted says nothing about the next one. A process that
                    // has too many files open gets some back with a little patience.
                    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                        console::warn(&format!("cannot accept a connection: {error}"));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    continue;
                }
            };
            let watcher = graceful.watcher();
            let server = Arc::clone(&self);
            let Ok(socket) = socket.into_std() else { continue };
            lanes.spawn(async move {
                // The lane's own runtime watches the socket from here on.
                let Ok(socket) = TcpStream::from_std(socket) else { return };
                // Small answers must not wait for the acknowledgement of earlier ones.
                let _ = socket.set_nodelay(true);
                match &server.tls {
                    None => server.connection(TokioIo::new(socket), peer, watcher).await,
                    Some(acceptor) => {
                        let handshake = tokio::time::timeout(PATIENCE, acceptor.accept(socket));
                        if let Ok(Ok(stream)) = handshake.await {
                            server.connection(TokioIo::new(stream), peer, watcher).await;
                        }
                    }
                }
            });
        }
    }

    async fn connection<S>(
        self: &Arc<Self>,
        socket: S,
        peer: SocketAddr,
        watcher: hyper_util::server::graceful::Watcher,
    ) where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let requests = Arc::new(Requests::default());
        let service = service_fn(|request| {
            let (server, open) = (Arc::clone(self), requests.begin());
            async move { Ok::<_, Infallible>(server.answer(request, peer, open).await) }
        });
        let server = Arc::clone(self);
        let lines = move |status_line: &[u8]| server.unreadable(status_line);
        let connection = self.http.serve_connection(Identified::new(socket, Arc::clone(&requests), lines), service);
        // How a connection ends is its client's business; what matters of it is in the audit trail.
        let _ = watcher.watch(connection).await;
    }

    /// Answers a request that is `open` until its answer is on its way to the end.
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr, open: Open) -> Response<ResponseBody<Probe>> {
        let own_id = client_request_id(request.headers()).map(str::to_owned);
        let id = || own_id.unwrap_or_else(fresh_id);
        let head = request.method() == Method::HEAD;
        let route = Route::find(request.method(), request.uri().path()).map_or("unknown", Route::path);
        let mut measured = metrics::wanted().map(|metrics| metrics.begin(route));
        if route == "/readyz" && Phase::current() == Phase::Draining {
            let text = if head { "" } else { "draining" };
            let response = Self::common(StatusCode::SERVICE_UNAVAILABLE, &id(), "text/plain;charset=utf-8", text);
            return self.by_itself(response, head, measured, open);
        }
        let scheme = if self.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
        let incoming = match incoming(request, peer, scheme) {
            Ok(incoming) => incoming,
            Err(refusal) => return self.by_itself(Self::refusal(refusal, &id()), head, measured, open),
        };
        // A request stays with the configuration under which it arrived.
        let pool = Arc::clone(self.generations.current().pool());
        let exchange = pool.admit(incoming.length.unwrap_or_default()).await;
        let served = Served::watch(Arc::clone(&exchange.presence));
        let answer = pool.answer(Arc::clone(&exchange), incoming.request(&exchange)).await;
        let mut response = answer.unwrap_or_else(|no_answer| Self::no_answer(&no_answer, &id()));
        if self.tls.is_some() {
            response.headers_mut().entry(header::STRICT_TRANSPORT_SECURITY).or_insert(HSTS);
        }
        let bodiless = head || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if let Some(measured) = &mut measured {
            measured.answered(response.status());
        }
        response.map(|body| ResponseBody::new(body, served, bodiless, Probe(Some(exchange), measured, open)))
    }

    /// An answer that needs no component.
    fn by_itself(
        &self,
        mut response: Response<WasiBody>,
        bodiless: bool,
        mut measured: Option<Measured>,
        open: Open,
    ) -> Response<ResponseBody<Probe>> {
        if self.tls.is_some() {
            response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, HSTS);
        }
        if let Some(measured) = &mut measured {
            measured.answered(response.status());
        }
        let served = Served::watch(Arc::default());
        response.map(|body| ResponseBody::new(body, served, bodiless, Probe(None, measured, open)))
    }

    /// Header lines for what the HTTP layer answers to what it cannot read as a request.
    fn unreadable(&self, status_line: &[u8]) -> Vec<u8> {
        let id = fresh_id();
        let status = String::from_utf8_lossy(status_line).trim_start_matches("HTTP/1.1 ").to_owned();
        console::line_of(&id, Level::Debug, &format!("what came is no request that can be read: answered {status}"));
        if let Some(metrics) = metrics::wanted() {
            metrics.unreadable(status.split(' ').next().unwrap_or_default());
        }
        let mut lines: Vec<u8> = COMMON.iter().fold(Vec::new(), |lines, (name, value)| line(lines, name, value));
        if let (Some(_), Ok(value)) = (&self.tls, HSTS.to_str()) {
            lines = line(lines, &header::STRICT_TRANSPORT_SECURITY, value);
        }
        line(lines, &REQUEST_ID, &id)
    }

    fn no_answer(no_answer: &NoAnswer, id: &str) -> Response<WasiBody> {
        match no_answer {
            NoAnswer::Refused(code) => {
                console::line_of(id, Level::Debug, &format!("request refused: {code:?}"));
                Self::refusal(Refusal::Malformed, id)
            }
            NoAnswer::BrokeDown => Self::internal_error(StatusCode::INTERNAL_SERVER_ERROR, id),
            NoAnswer::Unavailable => Self::internal_error(StatusCode::SERVICE_UNAVAILABLE, id),
        }
    }

    /// What a client is told when the component cannot say anything (auth contract §4.6).
    fn internal_error(status: StatusCode, id: &str) -> Response<WasiBody> {
        console::line_of(id, Level::Warn, &format!("request {id} was answered {status}"));
        let body = format!(
            r#"{{"type":"error","request_id":"{id}","error":{{"type":"api_error","message":"internal server error"}}}}"#
        );
        Self::common(status, id, "application/json;charset=utf-8", body)
    }

    fn refusal(refusal: Refusal, id: &str) -> Response<WasiBody> {
        match refusal {
            Refusal::Malformed => {
                let mut response = Self::common(StatusCode::BAD_REQUEST, id, "text/plain;charset=utf-8", "");
                // Bare, as what the HTTP layer refuses by itself.
                response.headers_mut().remove(header::CONTENT_TYPE);
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                response
            }
            Refusal::LengthRequired => {
                Self::common(StatusCode::LENGTH_REQUIRED, id, "text/plain;charset=utf-8", "length required")
            }
        }
    }

    /// An answer with the headers that every answer has (auth contract §4.5).
    fn common(status: StatusCode, id: &str, content_type: &'static str, body: impl Into<Bytes>) -> Response<WasiBody> {
        let mut response = Response::new(full(body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        for (name, value) in COMMON {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Ok(id) = HeaderValue::try_from(id) {
            headers.insert(REQUEST_ID, id);
        }
        response
    }
}

fn fresh_id() -> String {
    Uuid::new_v4().to_string()
}

/// `lines` and another one.
fn line(mut lines: Vec<u8>, name: &HeaderName, value: &str) -> Vec<u8> {
    for part in [name.as_str(), ": ", value, "\r\n"] {
        lines.extend_from_slice(part.as_bytes());
    }
    lines
}

fn full(body: impl Into<Bytes>) -> WasiBody {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Asks whether the instance behind a response broke down, and keeps the exchange for as long as the response lives.
/// It also measures how long that is.
pub(crate) struct Probe(
    Option<Arc<Exchange>>,
    #[expect(dead_code, reason = "it counts when it goes")] Option<Measured>,
    #[expect(dead_code, reason = "the request is open for as long")] Open,
);

impl crate::presence::BrokeDown for Probe {
    fn broke_down(&self) -> bool {
        self.0.as_ref().is_some_and(|exchange| exchange.broke_down())
    }
}

/// Why a request does not reach the component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It is not a request that HTTP knows: a bare `400`.
    Malformed,
    /// Its body has no declared length: `411` (auth contract §4.6).
    LengthRequired,
}

/// A request on its way in.
struct ToComponent<B> {
    request: Request<B>,
    /// Bytes of its body, if known beforehand.
    length: Option<u64>,
}

impl ToComponent<Incoming> {
    /// The request as the component gets it. Its body keeps `exchange`.
    fn request(self, exchange: &Arc<Exchange>) -> Request<WasiBody> {
        let known = self.length.is_some();
        let kept = Arc::clone(exchange);
        self.request.map(|body| {
            if known {
                RequestBody::new(body, Arc::clone(&exchange.presence), kept).boxed_unsync()
            } else {
                // Without a declared length the component needs the end of the body to know that it is complete.
                body.map_err(move |_| {
                    let _ = &kept;
                    Error::ConnectionTerminated
                })
                .boxed_unsync()
            }
        })
    }
}

/// Makes of a client's request what the component gets: an absolute URI, the client's address, and no header that only
/// the host may set.
fn incoming<B: Body>(request: Request<B>, peer: SocketAddr, scheme: Scheme) -> Result<ToComponent<B>, Refusal> {
    let (mut parts, body) = request.into_parts();
    let framing = framing(&parts.headers, parts.version, is_probe(&parts.method, parts.uri.path()))?;
    let authority = authority(&parts.uri, &parts.headers, parts.version)?;
    // `CONNECT` has no path, and an authority without a path is not a URI.
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let mut uri = http::uri::Parts::default();
    uri.path_and_query = Some(path);
    if let Some(authority) = authority {
        uri.scheme = Some(scheme);
        uri.authority = Some(authority);
    }
    parts.uri = Uri::from_parts(uri).map_err(|_| Refusal::Malformed)?;

    clean(&mut parts.headers);
    if let Ok(address) = HeaderValue::try_from(peer.to_string()) {
        parts.headers.insert(CLIENT_ADDRESS, address);
    }
    let length = match framing {
        Some(length) => Some(length),
        None if body.is_end_stream() => {
            parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            Some(0)
        }
        None => None,
    };
    Ok(ToComponent { request: Request::from_parts(parts, body), length })
}

/// Probes are answered whatever their framing (auth contract §4.6).
fn is_probe(method: &Method, path: &str) -> bool {
    method == Method::GET && matches!(path, "/healthz" | "/readyz")
}

/// The declared length of the body, if there is one.
fn framing(headers: &HeaderMap, version: Version, is_probe: bool) -> Result<Option<u64>, Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = match lengths.next() {
        Some(length) => {
            let digits = length.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            Some(digits.and_then(|digits| digits.parse().ok()).ok_or(Refusal::Malformed)?)
        }
        None => None,
    };
    if lengths.next().is_some() {
        return Err(Refusal::Malformed);
    }
    if version < Version::HTTP_2 && headers.contains_key(header::TRANSFER_ENCODING) {
        // RFC 9112 §6.1: both together smell of request smuggling.
        if length.is_some() {
            return Err(Refusal::Malformed);
        }
        if !is_probe {
            return Err(Refusal::LengthRequired);
        }
    }
    Ok(length)
}

/// RFC 9112 §3.2: HTTP/1.1 requires exactly one `Host`; an absolute target wins over it.
fn authority(uri: &Uri, headers: &HeaderMap, version: Version) -> Result<Option<Authority>, Refusal> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() || (host.is_none() && version == Version::HTTP_11) {
        return Err(Refusal::Malformed);
    }
    if let Some(authority) = uri.authority() {
        return Ok(Some(authority.clone()));
    }
    match host {
        Some(host) if !host.is_empty() => {
            Ok(Some(Authority::try_from(host.as_bytes()).map_err(|_| Refusal::Malformed)?))
        }
        _ => Ok(None),
    }
}

/// Removes what a client must not say to the component, and what concerns this connection only.
fn clean(headers: &mut HeaderMap) {
    let forbidden: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with(HOST_HEADER_PREFIX) || **name == CONTROL || **name == header::EXPECT)
        .cloned()
        .collect();
    for name in forbidden {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::Empty;

    use super::*;

    fn request(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Request<Full<Bytes>> {
        build(Request::builder()).body(Full::from("body")).expect("a request")
    }

    fn peer() -> SocketAddr {
        "192.0.2.7:5555".parse().expect("an address")
    }

    #[test]
    fn a_client_cannot_speak_with_the_hosts_voice() {
        let request = request(|request| {
            request
                .uri("/v1/messages?beta=true")
                .header("host", "gw.example:8443")
                .header("spin-client-addr", "203.0.113.1:1")
                .header("Spin-Path-Info", "/x")
                .header("sallyport-control", "guess")
                .header("expect", "100-continue")
                .header("x-kept", "yes")
        });
        let incoming = incoming(request, peer(), Scheme::HTTPS).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        let headers = incoming.request.headers();
        assert_eq!(incoming.request.uri(), "https://gw.example:8443/v1/messages?beta=true");
        let client: Vec<_> = headers.get_all("spin-client-addr").iter().collect();
        assert_eq!(client, ["192.0.2.7:5555"]);
        for name in ["spin-path-info", "sallyport-control", "expect"] {
            assert!(!headers.contains_key(name), "{name}");
        }
        assert!(headers.contains_key("x-kept"));
    }

    #[test]
    fn what_the_host_answers_itself_has_the_id_of_the_request_and_the_headers_of_every_answer() {
        for (no_answer, status) in [
            (NoAnswer::Refused(wasmtime_wasi_http::p3::bindings::http::types::ErrorCode::HttpProtocolError), 400),
            (NoAnswer::BrokeDown, 500),
            (NoAnswer::Unavailable, 503),
        ] {
            let response = Server::no_answer(&no_answer, "the-clients.own_id");
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()["x-request-id"], "the-clients.own_id");
            for (name, value) in COMMON {
                assert_eq!(response.headers()[name], value, "{no_answer:?}");
            }
        }
    }

    #[test]
    fn a_request_without_a_body_says_so() {
        let request = Request::get("/").header("host", "gw.example").body(Empty::<Bytes>::new()).expect("a request");
        let incoming = incoming(request, peer(), Scheme::HTTP).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        assert_eq!(incoming.length, Some(0));
        assert_eq!(incoming.request.headers()["content-length"], "0");
    }

    #[test]
    fn framing_that_hides_a_length_is_refused() {
        type Case = (&'static [(&'static str, &'static str)], Version, bool, Result<Option<u64>, Refusal>);
        let cases: [Case; 9] = [
            (&[], Version::HTTP_11, false, Ok(None)),
            (&[("content-length", "7")], Version::HTTP_11, false, Ok(Some(7))),
            (&[("content-length", "+7")], Version::HTTP_11, false, Err(Refusal::Malformed)),
            (&[("content-length", "7"), ("content-length", "7")], Version::HTTP_11, false, Err(Refusal::Malformed)),
            (&[("transfer-encoding", "chunked")], Version::HTTP_11, false, Err(Refusal::LengthRequired)),
            (&[("transfer-encoding", "chunked")], Version::HTTP_11, true, Ok(None)),
            (
                &[("transfer-encoding", "chunked"), ("content-length", "7")],
                Version::HTTP_11,
                true,
                Err(Refusal::Malformed),
            ),
            (&[], Version::HTTP_2, false, Ok(None)),
            (&[("content-length", "7")], Version::HTTP_2, false, Ok(Some(7))),
        ];
        for (lines, version, is_probe, expected) in cases {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(framing(&headers, version, is_probe), expected, "{lines:?} {version:?}");
        }
    }

    #[test]
    fn a_request_belongs_to_exactly_one_host() {
        for (uri, hosts, version, expected) in [
            ("/", &["a.example"][..], Version::HTTP_11, Ok(Some("a.example"))),
            ("http://b.example/", &["a.example"], Version::HTTP_11, Ok(Some("b.example"))),
            ("/", &[], Version::HTTP_11, Err(Refusal::Malformed)),
            ("/", &["a", "b"], Version::HTTP_11, Err(Refusal::Malformed)),
            ("/", &["a b"], Version::HTTP_11, Err(Refusal::Malformed)),
            ("/", &[], Version::HTTP_10, Ok(None)),
            ("https://c.example/", &[], Version::HTTP_2, Ok(Some("c.example"))),
        ] {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_static(host));
            }
            let found = authority(&Uri::from_static(uri), &headers, version);
            let found = found.map(|authority| authority.map(|authority| authority.to_string()));
            assert_eq!(found, expected.map(|authority| authority.map(str::to_owned)), "{uri} {hosts:?}");
        }
    }
}
