//! Serving the two stand-ins of the demo over HTTP/1.1: read a request whole, ask the service, write its answer.
//!
//! What is answered is decided in `identity_provider` and `upstream`, which know neither sockets nor the clock.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::channel::Channel;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// The largest request body that is read: the limit of the Messages API.
const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;

/// A pause after a failed accept, so that a machine out of file descriptors is not kept busy as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers requests; all it learns of the world is in its arguments.
pub(super) trait Service: Send + Sync + 'static {
    /// The answer to `request`, which arrived at `now`.
    fn answer(&self, request: &Request<Bytes>, now: SystemTime) -> Response<Body>;
}

/// The body of an answer.
pub(super) enum Body {
    /// Sent at once.
    Whole(Bytes),
    /// Sent piece by piece.
    Paced(Vec<Piece>),
}

/// A piece of a streamed answer.
pub(super) struct Piece {
    /// How long to wait before it is sent.
    pub(super) pause: Duration,
    /// What is sent.
    pub(super) bytes: Bytes,
}

/// Serves connections until the task is dropped.
pub(super) async fn serve(listener: TcpListener, service: Arc<dyn Service>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Without it, small pieces of a stream would wait for delayed acknowledgements.
        let _ = stream.set_nodelay(true);
        let service = Arc::clone(&service);
        tokio::spawn(async move {
            let respond = service_fn(move |request| {
                let service = Arc::clone(&service);
                async move { Ok::<_, Infallible>(respond(request, &*service).await) }
            });
            // An error here is a client that went away, which is its right.
            let _ =
                http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), respond).await;
        });
    }
}

/// An answer of `status` with a body of `content_type` that nobody may keep.
pub(super) fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Whole(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    response(status, "application/json", value.to_string())
}

async fn respond(request: Request<Incoming>, service: &dyn Service) -> Response<Either<Full<Bytes>, Channel<Bytes>>> {
    let (parts, body) = request.into_parts();
    let answer = match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => service.answer(&Request::from_parts(parts, body.to_bytes()), now()),
        Err(_) => response(StatusCode::PAYLOAD_TOO_LARGE, "text/plain", "payload too large"),
    };
    answer.map(|body| match body {
        Body::Whole(bytes) => Either::Left(Full::new(bytes)),
        Body::Paced(pieces) => Either::Right(pace(pieces)),
    })
}

fn pace(pieces: Vec<Piece>) -> Channel<Bytes> {
    let (mut sender, body) = Channel::new(1);
    tokio::spawn(async move {
        for piece in pieces {
            tokio::time::sleep(piece.pause).await;
            if sender.send_data(piece.bytes).await.is_err() {
                return; // The client has left.
            }
        }
    });
    body
}

#[expect(clippy::disallowed_methods, reason = "the demo's stand-ins have no ports; this is their only clock")]
fn now() -> SystemTime {
    SystemTime::now()
}
