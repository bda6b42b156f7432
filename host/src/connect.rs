//! Connections to servers: by TCP, through a corporate proxy where one is to be used, and by TLS.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::egress::Egress;
use crate::guard::{Guard, Resolver};
use crate::hosts::port;
use crate::tls;

/// No connection attempt may take longer, whatever the component allows.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// TLS could not begin.
#[derive(Debug, thiserror::Error)]
#[error("TLS: {0}")]
pub(crate) struct TlsFault(String);

/// Connects by TCP, through a proxy where one is to be used, and by TLS when the scheme says so.
#[derive(Clone)]
pub(crate) struct Connector {
    http: HttpConnector<Resolver>,
    tls: Arc<tls::Outbound>,
    egress: Arc<Egress>,
}

impl Connector {
    /// Connections that `guard` allows, in the way that `egress` says.
    pub(crate) fn new(guard: Arc<Guard>, tls: tls::Outbound, egress: Arc<Egress>) -> Self {
        let mut http = HttpConnector::new_with_resolver(Resolver(guard));
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        http.set_keepalive(Some(Duration::from_mins(1)));
        Self { http, tls: Arc::new(tls), egress }
    }
}

impl Service<Uri> for Connector {
    type Response = Socket;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = BoxFuture<'static, Result<Socket, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = Arc::clone(&self.tls);
        let secure = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().to_owned();
        if let Some(proxy) = self.egress.proxy(&uri) {
            let to_proxy = ToProxy { http: self.http.clone(), tls: Arc::clone(&tls) };
            return Box::pin(through(proxy, to_proxy, uri, secure, host, tls));
        }
        let port = port(&uri).unwrap_or_default();
        let tcp = self.http.call(uri);
        Box::pin(async move {
            let tcp = tcp.await?;
            if !secure {
                return Ok(Socket::Plain(tcp));
            }
            Ok(Socket::Tls(Box::new(TokioIo::new(handshake(&tls, (&host, port), tcp.into_inner()).await?))))
        })
    }
}

/// A connection to `uri` through `proxy`: a tunnel (RFC 9110 §9.3.6) that ends in TLS, or, where the target speaks plain
/// HTTP, the connection to the proxy itself, which forwards.
async fn through(
    proxy: Intercept,
    mut to_proxy: ToProxy,
    uri: Uri,
    secure: bool,
    host: String,
    tls: Arc<tls::Outbound>,
) -> Result<Socket, Box<dyn StdError + Send + Sync>> {
    let address = proxy.uri().authority().map(ToString::to_string).unwrap_or_default();
    let failed = |source| ProxyFault { proxy: address.clone(), target: uri.to_string(), source };
    if !secure {
        let stream = to_proxy.call(proxy.uri().clone()).await.map_err(failed)?;
        return Ok(Socket::Proxied { stream, is_http2: false, is_forwarded: true });
    }
    let mut tunnel = Tunnel::new(proxy.uri().clone(), to_proxy);
    if let Some(credentials) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(credentials.clone());
    }
    let stream = tokio::time::timeout(CONNECT_TIMEOUT, tunnel.call(uri.clone())).await;
    let stream = stream.map_err(|_| failed(io::Error::from(io::ErrorKind::TimedOut).into()))?;
    let stream = stream.map_err(|error| failed(error.into()))?;
    let stream = handshake(&tls, (&host, port(&uri).unwrap_or_default()), TokioIo::new(stream)).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(Socket::Proxied { stream: Box::new(TokioIo::new(stream)), is_http2, is_forwarded: false })
}

/// TLS with `host` at `port` on `stream`.
async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &tls::Outbound,
    (host, port): (&str, u16),
    stream: S,
) -> Result<TlsStream<S>, Box<dyn StdError + Send + Sync>> {
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    let config = tls.of(host, port).map_err(|error| TlsFault(format!("{error:#}")))?;
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TlsConnector::from(config).connect(name, stream)).await;
    Ok(connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
}

/// Connects to a proxy, which may be reached by TLS itself.
#[derive(Clone)]
struct ToProxy {
    http: HttpConnector<Resolver>,
    tls: Arc<tls::Outbound>,
}

impl Service<Uri> for ToProxy {
    type Response = Box<dyn Duplex>;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.http.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, proxy: Uri) -> Self::Future {
        let tls = Arc::clone(&self.tls);
        let secure = proxy.scheme_str() == Some("https");
        let (host, port) = (proxy.host().unwrap_or_default().to_owned(), port(&proxy).unwrap_or_default());
        let tcp = self.http.call(proxy);
        Box::pin(async move {
            let tcp = tcp.await?;
            if !secure {
                return Ok(Box::new(tcp) as Self::Response);
            }
            let config = tls.to_proxy(&host, port).map_err(|error| TlsFault(format!("{error:#}")))?;
            let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
            let stream = TlsConnector::from(config).connect(name, tcp.into_inner()).await?;
            Ok(Box::new(TokioIo::new(stream)) as Self::Response)
        })
    }
}

/// A connection of whatever kind.
pub(crate) trait Duplex: Read + Write + Send + Unpin {}

impl<T: Read + Write + Send + Unpin> Duplex for T {}

/// A proxy did not let us through.
#[derive(Debug, thiserror::Error)]
#[error("the proxy {proxy}, on the way to {target}: {source}")]
pub(crate) struct ProxyFault {
    /// Host and port of the proxy.
    pub(crate) proxy: String,
    target: String,
    source: Box<dyn StdError + Send + Sync>,
}

/// A connection.
pub(crate) enum Socket {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<TlsStream<TcpStream>>>),
    /// Through a proxy: in a tunnel, or to the proxy, which forwards.
    Proxied {
        stream: Box<dyn Duplex>,
        is_http2: bool,
        is_forwarded: bool,
    },
}

impl Connection for Socket {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(stream) if stream.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            Self::Proxied { is_http2: true, .. } => Connected::new().negotiated_h2(),
            // The request line then has the whole URL (RFC 9112 §3.2.2).
            Self::Proxied { is_forwarded: true, .. } => Connected::new().proxy(true),
            _ => Connected::new(),
        }
    }
}

impl Read for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
            Self::Proxied { stream, .. } => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }
}

impl Write for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
            Self::Proxied { stream, .. } => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
            Self::Proxied { stream, .. } => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
            Self::Proxied { stream, .. } => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Proxied { stream, .. } => stream.is_write_vectored(),
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
            Self::Proxied { stream, .. } => Pin::new(stream.as_mut()).poll_write_vectored(context, slices),
        }
    }
}
