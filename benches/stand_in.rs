//! A stand-in for the Messages API that costs next to nothing, so that a measurement shows the gateway before it.
//!
//! `stand-in ADDRESS` listens there and prints the address. Every request is read to its end and answered with 200:
//! a JSON message, or with `?deltas=N` a stream of server-sent events with N deltas, all at once or, with
//! `&pause_ms=M`, each M milliseconds after the one before. Nothing is checked; judging requests is not its job.

use std::convert::Infallible;
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, Either, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What `Either` makes of two bodies that cannot fail.
type BodyError = Box<dyn std::error::Error + Send + Sync>;

const MESSAGE: &str = r#"{"id":"msg_stand_in","type":"message","role":"assistant","model":"claude-haiku-4-5-20251001","content":[{"type":"text","text":"Hello from the stand-in."}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":12,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":7}}"#;

const OPENING: &str = concat!(
    "event: message_start\n",
    r#"data: {"type":"message_start","message":{"id":"msg_stand_in","type":"message","role":"assistant","model":"claude-haiku-4-5-20251001","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":12,"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":1}}}"#,
    "\n\nevent: content_block_start\n",
    r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#,
    "\n\n",
);

const DELTA: &str = concat!(
    "event: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a few words "}}"#,
    "\n\n",
);

const CLOSING: &str = concat!(
    "event: content_block_stop\n",
    r#"data: {"type":"content_block_stop","index":0}"#,
    "\n\nevent: message_delta\n",
    r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":200}}"#,
    "\n\nevent: message_stop\n",
    r#"data: {"type":"message_stop"}"#,
    "\n\n",
);

// One thread: the stand-in must not compete with what is measured for more than it needs.
#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let service = service_fn(async |request| Ok::<_, Infallible>(answer(request).await));
            // Without writev, hyper gathers the many small chunks of a stream into few writes.
            // An error here is a client that went away.
            let _ = http1::Builder::new().writev(false).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Response<impl Body<Data = Bytes, Error = BodyError>> {
    let query = request.uri().query().unwrap_or_default();
    let parameter = |name: &str| {
        let value = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        value.and_then(|(_, value)| value.parse::<u32>().ok())
    };
    let (deltas, pause_ms) = (parameter("deltas"), parameter("pause_ms").unwrap_or_default());
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}

    let (content_type, body) = match deltas {
        None => ("application/json", Either::Left(Full::new(Bytes::from_static(MESSAGE.as_bytes())))),
        Some(deltas) => {
            let events = events(deltas, Duration::from_millis(pause_ms.into()));
            ("text/event-stream; charset=utf-8", Either::Right(StreamBody::new(Box::pin(events))))
        }
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert("request-id", HeaderValue::from_static("req_stand_in"));
    response
}

/// The opening, `deltas` times a delta, and the closing; each in a chunk of its own.
fn events(deltas: u32, pause: Duration) -> impl stream::Stream<Item = Result<Frame<Bytes>, Infallible>> {
    stream::unfold(0, move |step| async move {
        let text = match step {
            0 => OPENING,
            step if step <= deltas => DELTA,
            step if step == deltas + 1 => CLOSING,
            _ => return None,
        };
        if step > 0 && !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Some((Ok(Frame::data(Bytes::from_static(text.as_bytes()))), step + 1))
    })
}
