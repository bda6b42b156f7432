//! Outbound HTTP ← hyper and rustls: keep-alive, HTTP/1.1 and HTTP/2, no redirects, nothing decompressed.
//!
//! A response body that is dropped closes its connection, or resets its HTTP/2 stream, at once.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector, capture_connection};
use hyper_util::client::legacy::{self, Client};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::coalesced::Coalesced;
use crate::console;
use crate::guard::{Guard, Prohibited, Resolver};
use crate::hosts::{Pattern, default_port};
use crate::lane;
use crate::tls;

/// No connection attempt may take longer, whatever the component allows.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections are kept for less than the minute after which load balancers like to drop them.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
/// Requests that share one HTTP/2 connection. Servers commonly allow a hundred; what is beyond would silently wait.
const STREAMS_PER_CONNECTION: usize = 64;
/// HTTP/2 connections per host, at most; beyond, they are shared by more requests than is good.
const CONNECTIONS: usize = 64;
/// HTTP/2 receive window of a stream.
const STREAM_WINDOW: u32 = 1024 * 1024;
/// HTTP/2 receive window of a connection.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// The client of all instances.
pub(crate) struct Outbound {
    /// By lane. Each has connections of its own: at most one per host with HTTP/2, any number with HTTP/1.1.
    shares: Vec<Vec<Share>>,
    guard: Arc<Guard>,
    allowed: RwLock<Vec<Pattern>>,
}

struct Share {
    client: Client<Connector, WasiBody>,
    open: Arc<AtomicUsize>,
}

impl Outbound {
    /// A client that calls `allowed` and nothing else.
    pub(crate) fn new(guard: Guard, tls: tls::Outbound, allowed: Vec<Pattern>) -> Self {
        let guard = Arc::new(guard);
        let mut http = HttpConnector::new_with_resolver(Resolver(Arc::clone(&guard)));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_keepalive(Some(Duration::from_mins(1)));
        let connector = Connector { http, tls: Arc::new(tls) };
        let mut builder = Client::builder(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(20));
        let share = || Share { client: builder.build(connector.clone()), open: Arc::default() };
        let each = CONNECTIONS.div_ceil(lane::count());
        let shares = (0..lane::count()).map(|_| (0..each).map(|_| share()).collect()).collect();
        Self { shares, guard, allowed: RwLock::new(allowed) }
    }

    /// Allows more hosts.
    pub(crate) fn allow(&self, more: impl IntoIterator<Item = Pattern>) {
        self.allowed.write().unwrap_or_else(PoisonError::into_inner).extend(more);
    }

    /// Whether the component may call `scheme://host:port`.
    pub(crate) fn allows(&self, scheme: &str, host: &str, port: u16) -> bool {
        let allowed = self.allowed.read().unwrap_or_else(PoisonError::into_inner);
        allowed.iter().any(|pattern| pattern.matches(scheme, host, port))
    }

    fn check(&self, uri: &Uri) -> Result<(), Error> {
        let scheme = uri.scheme_str().ok_or(Error::HttpRequestUriInvalid)?;
        let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?;
        let port = uri.port_u16().or_else(|| default_port(scheme)).ok_or(Error::HttpRequestUriInvalid)?;
        if !self.allows(scheme, host, port) {
            console::warn(&format!("outbound request refused: {scheme}://{host}:{port} is not an allowed host"));
            return Err(Error::HttpRequestDenied);
        }
        self.guard.check_host(host).map_err(|prohibited| {
            console::warn(&prohibited.to_string());
            Error::DestinationIpProhibited
        })
    }

    /// The first client of this lane with room for another request, so that connections stay few and warm.
    fn share(&self) -> &Share {
        let shares = &self.shares[lane::current()];
        let room = |share: &&Share| share.open.load(Ordering::Relaxed) < STREAMS_PER_CONNECTION;
        let emptiest = || shares.iter().min_by_key(|share| share.open.load(Ordering::Relaxed));
        shares.iter().find(room).or_else(emptiest).expect("every lane has at least one client")
    }

    /// Sends `request` and returns when the response headers are there.
    pub(crate) async fn send(
        self: Arc<Self>,
        mut request: Request<WasiBody>,
        options: RequestOptions,
    ) -> Result<Response<WasiBody>, Error> {
        self.check(request.uri())?;
        let share = self.share();
        let open = Open::count(&share.open);
        let mut connection = capture_connection(&mut request);
        let mut sent = std::pin::pin!(share.client.request(request));
        // The wait for the connection ends with the connection, or with an answer or fault that comes first.
        let early = tokio::select! {
            biased;
            response = &mut sent => Some(response),
            connected = within(options.connect_timeout, connection.wait_for_connection_metadata()) => {
                if connected.is_none() {
                    return Err(Error::ConnectionTimeout);
                }
                None
            }
        };
        let response = match early {
            Some(response) => response,
            None => within(options.first_byte_timeout, sent).await.ok_or(Error::HttpResponseTimeout)?,
        };
        let response = response.map_err(|error| fault(&error))?;
        let between = options.between_bytes_timeout;
        Ok(response.map(|body| {
            let answer = Answer { body, between, silence: None, _open: open };
            // A body of known length comes in pieces as large as the connection reads.
            if answer.size_hint().exact().is_some() {
                answer.boxed_unsync()
            } else {
                Coalesced::new(answer).boxed_unsync()
            }
        }))
    }
}

/// `None` when it takes longer than `limit`.
async fn within<T>(limit: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, future).await.ok(),
        None => Some(future.await),
    }
}

/// Counts a request for as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn count(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer.
struct Answer {
    body: Incoming,
    between: Option<Duration>,
    silence: Option<Pin<Box<tokio::time::Sleep>>>,
    _open: Open,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            this.silence = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| broken(&error))));
        }
        let Some(limit) = this.between else { return Poll::Pending };
        ready!(this.silence.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit))).as_mut().poll(context));
        Poll::Ready(Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn broken(error: &hyper::Error) -> Error {
    if error.is_incomplete_message() {
        Error::HttpResponseIncomplete
    } else if error.is_parse() {
        Error::HttpProtocolError
    } else {
        Error::ConnectionTerminated
    }
}

/// What went wrong, from the outermost error to the one that started it.
fn fault(error: &legacy::Error) -> Error {
    let connecting = error.is_connect();
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    let mut resolving = false;
    let mut text = error.to_string();
    while let Some(found) = cause {
        if found.is::<Prohibited>() {
            return Error::DestinationIpProhibited;
        }
        if found.is::<TlsFault>() {
            return Error::TlsProtocolError;
        }
        if let Some(tls) = found.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    Error::TlsCertificateError
                }
                _ => Error::TlsProtocolError,
            };
        }
        // An `io::Error` shows its custom error as its own text and hides it from `source`.
        if let Some(inner) = found.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(tls) = inner.downcast_ref::<rustls::Error>()
        {
            return match tls {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    Error::TlsCertificateError
                }
                _ => Error::TlsProtocolError,
            };
        }
        text = found.to_string();
        resolving = resolving || text.starts_with("dns error");
        if connecting
            && !resolving
            && let Some(io) = found.downcast_ref::<io::Error>()
        {
            return match io.kind() {
                io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
                io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Error::DestinationIpUnroutable,
                _ => Error::DestinationUnavailable,
            };
        }
        if let Some(hyper) = found.downcast_ref::<hyper::Error>()
            && !connecting
        {
            return broken(hyper);
        }
        cause = found.source();
    }
    if resolving {
        Error::DnsError { rcode: Some(text), info_code: None }
    } else if connecting {
        Error::DestinationUnavailable
    } else {
        Error::ConnectionTerminated
    }
}

/// TLS could not begin.
#[derive(Debug, thiserror::Error)]
#[error("TLS: {0}")]
struct TlsFault(String);

/// Connects by TCP, and by TLS when the scheme says so.
#[derive(Clone)]
struct Connector {
    http: HttpConnector<Resolver>,
    tls: Arc<tls::Outbound>,
}

impl Service<Uri> for Connector {
    type Response = Socket;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = BoxFuture<'static, Result<Socket, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().to_owned();
        let tcp = self.http.call(uri);
        let tls = Arc::clone(&self.tls);
        Box::pin(async move {
            let tcp = tcp.await?;
            if !secure {
                return Ok(Socket::Plain(tcp));
            }
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
            let config = tls.of(&host).map_err(|error| TlsFault(format!("{error:#}")))?;
            let handshake = TlsConnector::from(config).connect(name, tcp.into_inner());
            let stream = within(Some(CONNECT_TIMEOUT), handshake).await;
            let stream = stream.ok_or_else(|| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(Socket::Tls(Box::new(TokioIo::new(stream))))
        })
    }
}

/// A connection.
enum Socket {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

impl Read for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl Write for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write_vectored(context, slices),
        }
    }
}
