//! Outbound HTTP ← hyper and rustls: keep-alive, HTTP/1.1 and HTTP/2, no redirects, nothing decompressed.
//!
//! A response body that is dropped closes its connection, or resets its HTTP/2 stream, at once.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody};

use super::coalesced::Coalesced;
use crate::connect::Connector;
use crate::console;
use crate::egress::Egress;
use crate::fault::{broken, fault, remedy};
use crate::guard::Guard;
use crate::hosts::{Pattern, port};
use crate::lane;
use crate::tls;

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
    egress: Arc<Egress>,
}

struct Share {
    client: Client<Connector, WasiBody>,
    open: Arc<AtomicUsize>,
}

impl Outbound {
    /// A client that calls `allowed` and nothing else, in the way that `egress` says.
    pub(crate) fn new(guard: Guard, tls: tls::Outbound, allowed: Vec<Pattern>, egress: Egress) -> Self {
        let egress = Arc::new(egress);
        let guard = Arc::new(guard);
        let connector = Connector::new(Arc::clone(&guard), tls, Arc::clone(&egress));
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
        Self { shares, guard, allowed: RwLock::new(allowed), egress }
    }

    /// Adds origins that the identity provider's discovery document names. They may be called only if `allowed`.
    pub(crate) fn know_identity_provider(&self, origins: &[String], allowed: bool) {
        self.egress.know_identity_provider(origins.iter().cloned());
        if allowed {
            self.allow(origins);
        }
    }

    /// Allows more origins.
    pub(crate) fn allow(&self, origins: &[String]) {
        let patterns = origins.iter().filter_map(|origin| match origin.parse::<Pattern>() {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                console::warn(&error.to_string());
                None
            }
        });
        self.allowed.write().unwrap_or_else(PoisonError::into_inner).extend(patterns);
    }

    /// Whether the component may call `scheme://host:port`.
    pub(crate) fn allows(&self, scheme: &str, host: &str, port: u16) -> bool {
        let allowed = self.allowed.read().unwrap_or_else(PoisonError::into_inner);
        allowed.iter().any(|pattern| pattern.matches(scheme, host, port))
    }

    fn check(&self, uri: &Uri) -> Result<(), Error> {
        let scheme = uri.scheme_str().ok_or(Error::HttpRequestUriInvalid)?;
        let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?;
        let port = port(uri).ok_or(Error::HttpRequestUriInvalid)?;
        if !self.allows(scheme, host, port) {
            console::warn(&format!("outbound request refused: {scheme}://{host}:{port} is not an allowed host"));
            return Err(Error::HttpRequestDenied);
        }
        self.guard.check_host(host).map_err(|prohibited| {
            console::warn(&prohibited.to_string());
            Error::DestinationIpProhibited
        })
    }

    /// A request that a proxy forwards carries the proxy's credentials itself; one in a tunnel does not.
    fn authorize_at_proxy(&self, request: &mut Request<WasiBody>) {
        if request.uri().scheme_str() == Some("http")
            && let Some(proxy) = self.egress.proxy(request.uri())
            && let Some(credentials) = proxy.basic_auth()
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, credentials.clone());
        }
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
        self.authorize_at_proxy(&mut request);
        let target = request.uri().clone();
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
        let response = response.map_err(|error| {
            if let Some(remedy) = remedy(&target, &error) {
                console::warn(&remedy);
            }
            fault(&error)
        })?;
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
