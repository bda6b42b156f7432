//! A model provider under control: it records what it is asked and answers as it is told, to the byte and to the moment.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::gateway::UPSTREAM_KEY;
use super::{PATIENCE, eventually};

/// A model of the built-in catalog.
pub(crate) const MODEL: &str = "claude-sonnet-4-6";

/// The text of a streamed answer, in the pieces in which it is sent.
pub(crate) const DELTAS: [&str; 3] = ["Hello", ", ", "world."];

/// What nobody but the model may read.
pub(crate) const PROMPT: &str = "the prompt is nobody's business";

/// A request for a message.
pub(crate) fn question(stream: bool) -> Value {
    json!({
        "model": MODEL, "max_tokens": 64, "stream": stream,
        "messages": [{"role": "user", "content": PROMPT}],
    })
}

/// A request for a message of [`Upstream::told`] that costs what `usage` does.
pub(crate) fn question_of(model: &str, usage: &Value, stream: bool) -> Value {
    let mut question = question(stream);
    question["model"] = model.into();
    question["metadata"] = json!({"usage": usage});
    question
}

/// The answer of an API to [`question`] without streaming.
pub(crate) fn message() -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL,
        "content": [{"type": "text", "text": DELTAS.concat()}],
        "stop_reason": "end_turn", "stop_sequence": null,
        "usage": {"input_tokens": 9, "output_tokens": 7},
    })
}

/// What a stream says, block by block.
pub(crate) fn said(stream: &str) -> Vec<String> {
    let mut blocks = BTreeMap::<u64, String>::new();
    for data in stream.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let data: Value = serde_json::from_str(data).expect("JSON");
        for member in ["text", "partial_json", "thinking"] {
            if let Some(text) = data["delta"][member].as_str() {
                blocks.entry(data["index"].as_u64().expect("an index")).or_default().push_str(text);
            }
        }
    }
    blocks.into_values().collect()
}

/// The events of a streamed answer, in order.
pub(crate) fn events() -> Vec<String> {
    let start = json!({
        "type": "message_start",
        "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [],
            "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 9, "output_tokens": 1},
        },
    });
    let block = json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}});
    let deltas = DELTAS
        .map(|text| json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}));
    let end = [
        json!({"type": "content_block_stop", "index": 0}),
        json!({
            "type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
            "usage": {"output_tokens": 7},
        }),
        json!({"type": "message_stop"}),
    ];
    [start, block]
        .into_iter()
        .chain(deltas)
        .chain(end)
        .map(|event| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("text")))
        .collect()
}

/// A request as it arrived. Header names are in lower case.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Seen {
    /// The value of a header; empty if it is not there.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }
}

/// A listening upstream.
pub(crate) struct Upstream {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    /// Answers each request with `respond`, each connection on a thread of its own.
    pub(crate) fn start(respond: impl Fn(Exchange) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (record, respond) = (Arc::clone(&seen), Arc::new(respond));
        // Ends with the process: nothing to release.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (record, respond) = (Arc::clone(&record), Arc::clone(&respond));
                std::thread::spawn(move || serve(&stream, &record, respond.as_ref()));
            }
        });
        Self { address, seen }
    }

    /// Hands each request to the story, which answers it when and how it likes.
    pub(crate) fn held() -> (Self, Receiver<Exchange>) {
        let (sender, receiver) = channel();
        // A story that is over asks for no more.
        (Self::start(move |exchange| drop(sender.send(exchange))), receiver)
    }

    /// Answers like the Anthropic API.
    pub(crate) fn claude() -> Self {
        Self::start(|mut exchange| {
            let authorised = exchange.seen.header("x-api-key") == UPSTREAM_KEY;
            let wants_stream = exchange.json()["stream"] == true;
            match exchange.seen.path.split('?').next() {
                _ if !authorised => exchange.answer(401, &[], &json!({"type": "error"})),
                Some("/v1/messages") if wants_stream => {
                    exchange.begin_stream();
                    for event in events() {
                        exchange.piece(event.as_bytes()).expect("a reader");
                    }
                    exchange.end();
                }
                Some("/v1/messages") => exchange.answer(200, &[("request-id", "req_upstream")], &message()),
                Some("/v1/messages/count_tokens") => exchange.answer(200, &[], &json!({"input_tokens": 11})),
                _ => exchange.answer(404, &[], &json!({"type": "error"})),
            }
        })
    }

    /// Answers with the usage that the request has in its `metadata`, in the form that it asks for.
    pub(crate) fn told() -> Self {
        Self::start(|mut exchange| {
            let request = exchange.json();
            let usage = &request["metadata"]["usage"];
            if request["stream"] != true {
                let mut answer = message();
                answer["usage"] = usage.clone();
                return exchange.answer(200, &[], &answer);
            }
            let mut first = usage.clone();
            // A placeholder, as the API has it.
            first["output_tokens"] = 1.into();
            let last = json!({
                "output_tokens": usage["output_tokens"].as_u64().unwrap_or(0),
                "server_tool_use": usage["server_tool_use"],
            });
            let events = [
                json!({"type": "message_start", "message": {"usage": first}}),
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}}),
                json!({"type": "message_delta", "delta": {}, "usage": last}),
                json!({"type": "message_stop"}),
            ];
            exchange.begin_stream();
            for event in events {
                let name = event["type"].as_str().unwrap_or_default();
                exchange.piece(format!("event: {name}\ndata: {event}\n\n").as_bytes()).expect("a reader");
            }
            exchange.end();
        })
    }

    /// Everything that was asked so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A provider's discovery document and nothing more: enough for a gateway to start with, not to sign in.
pub(crate) fn discovery() -> Upstream {
    discovery_when(&Arc::new(AtomicBool::new(true)))
}

/// The same, which answers as soon as it `may`.
pub(crate) fn discovery_when(may: &Arc<AtomicBool>) -> Upstream {
    let may = Arc::clone(may);
    Upstream::start(move |exchange| {
        eventually("the story to go on", || may.load(Ordering::Acquire).then_some(()));
        let issuer = format!("http://{}", exchange.seen.header("host"));
        let document = match exchange.seen.path.as_str() {
            "/.well-known/openid-configuration" => json!({
                "issuer": issuer,
                "authorization_endpoint": format!("{issuer}/auth"),
                "token_endpoint": format!("{issuer}/token"),
                "jwks_uri": format!("{issuer}/jwks"),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            }),
            _ => json!({"keys": []}),
        };
        exchange.answer(200, &[], &document);
    })
}

/// One request, waiting for its answer. Dropped without an answer, the connection is closed.
pub(crate) struct Exchange {
    pub(crate) seen: Seen,
    stream: TcpStream,
    /// Tells the connection whether it may carry another request.
    whole: Option<Sender<()>>,
}

impl Exchange {
    /// The body as JSON; `null` if it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.seen.body).unwrap_or_default()
    }

    /// A whole answer.
    pub(crate) fn answer(self, status: u16, headers: &[(&str, &str)], body: &Value) {
        let headers = [&[("content-type", "application/json")], headers].concat();
        self.answer_bytes(status, &headers, body.to_string().as_bytes());
    }

    /// A whole answer that need not be JSON.
    pub(crate) fn answer_bytes(mut self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let head = format!("HTTP/1.1 {status} Told\r\n{}content-length: {}\r\n\r\n", lines(headers), body.len());
        self.write(&[head.as_bytes(), body].concat()).expect("a reader");
        self.finish();
    }

    /// The head of a streamed answer with these headers.
    pub(crate) fn begin(&mut self, headers: &[(&str, &str)]) {
        let head = format!("HTTP/1.1 200 OK\r\n{}transfer-encoding: chunked\r\n\r\n", lines(headers));
        self.write(head.as_bytes()).expect("a reader");
    }

    /// Bytes as they are, whatever HTTP has to say about them.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.write(bytes)
    }

    /// Closes this side only: nothing more will come, and requests would still be read.
    pub(crate) fn half_close(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The head of a streamed answer.
    pub(crate) fn begin_stream(&mut self) {
        self.try_begin_stream().expect("a reader");
    }

    /// The head of a streamed answer, for a reader that may be gone.
    pub(crate) fn try_begin_stream(&mut self) -> std::io::Result<()> {
        self.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    }

    /// One piece of a streamed answer. Waits while the reader takes nothing.
    pub(crate) fn piece(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.write(&chunk)
    }

    /// The regular end of a streamed answer.
    pub(crate) fn end(mut self) {
        self.write(b"0\r\n\r\n").expect("a reader");
        self.finish();
    }

    /// The regular end of a streamed answer, for a reader that may be gone.
    pub(crate) fn try_end(mut self) {
        if self.write(b"0\r\n\r\n").is_ok() {
            self.finish();
        }
    }

    /// Waits until the gateway has closed the connection, for as long as a story waits.
    pub(crate) fn until_gone(&mut self) {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        let _ = self.stream.read(&mut [0; 1]);
    }

    /// Waits until the gateway has closed the connection.
    pub(crate) fn until_closed(mut self) {
        self.stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => {}
            Ok(_) => panic!("the gateway sent more than one request"),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the gateway kept the connection: {error}"),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    fn finish(&mut self) {
        if let Some(whole) = self.whole.take() {
            let _ = whole.send(());
        }
    }
}

fn lines(headers: &[(&str, &str)]) -> String {
    headers.iter().fold(String::new(), |lines, (name, value)| format!("{lines}{name}: {value}\r\n"))
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.whole.is_some() {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }
}

/// Serves one connection for as long as answers are whole.
fn serve(stream: &TcpStream, record: &Mutex<Vec<Seen>>, respond: &dyn Fn(Exchange)) {
    stream.set_nodelay(true).expect("a socket option");
    let mut pending = Vec::new();
    while let Some(seen) = read_request(stream, &mut pending) {
        record.lock().unwrap_or_else(PoisonError::into_inner).push(seen.clone());
        let (whole, answered) = channel();
        respond(Exchange { seen, stream: stream.try_clone().expect("a handle"), whole: Some(whole) });
        if answered.recv().is_err() {
            return;
        }
    }
}

/// Reads one request; `None` when there is none, or only a part.
fn read_request(mut stream: &TcpStream, pending: &mut Vec<u8>) -> Option<Seen> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        if let Some((seen, used)) = parse(pending) {
            pending.drain(..used);
            return Some(seen);
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => pending.extend_from_slice(&buffer[..count]),
        }
    }
}

/// The request at the beginning of `bytes` and its length, if it is there completely.
fn parse(bytes: &[u8]) -> Option<(Seen, usize)> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = request.parse(bytes).expect("a request") else { return None };
    let headers: Vec<(String, String)> = request
        .headers
        .iter()
        .map(|header| (header.name.to_lowercase(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let mut seen = Seen {
        method: request.method.expect("a method").to_owned(),
        path: request.path.expect("a path").to_owned(),
        headers,
        body: Vec::new(),
    };
    let length: usize = match seen.header("content-length") {
        "" => {
            assert_eq!(seen.header("transfer-encoding"), "", "a provider needs a content-length: {seen:?}");
            0
        }
        length => length.parse().expect("a number"),
    };
    let end = head + length;
    seen.body = bytes.get(head..end)?.to_vec();
    Some((seen, end))
}
