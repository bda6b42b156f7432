//! A gateway whose world is made of values: the clock stands still until it is advanced, randomness is counted,
//! other servers answer from a script, the database is SQLite in memory, and the log is a list.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_executor::{LocalPool, LocalSpawner};
use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::task::LocalSpawnExt;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, Method, StatusCode};
use sallyport::config::{self, Sources};
use sallyport::domain::ids::Timestamp;
use sallyport::exchange::{Body, CutOff, Request, Response};
use sallyport::gateway::Gateway;
use sallyport::log::{Format, Level};
use sallyport::ports::{
    BodySink, BoxStream, ByteStream, ClientLeft, Clock, Db, DbError, Dialect, Entropy, Files, Http, HttpError,
    KeyValue, KeyValueError, Log, Outbound, Ports, Row, StreamError, Tasks, Value,
};
use serde_json::json;
use sha2::Sha256;

/// The moment at which every test starts: 2031-02-03T04:05:06.789Z.
pub(crate) const START: Timestamp = Timestamp::from_millis(1_927_857_906_789);

/// A secret of the least allowed length and more; obviously no real one.
pub(crate) const JWT_SECRET: &str = "placeholder-placeholder-placeholder-placeholder-";

/// What the host shows when it asks for itself.
const CONTROL: &str = "control-control-control-control-";

/// The public origin of the gateway under test.
pub(crate) const ORIGIN: &str = "https://gateway.example.test";

/// `gateway.yaml` of most tests; a test appends or replaces sections as text.
pub(crate) const CONFIG: &str = "
listen: {host: 127.0.0.1, public_url: 'https://gateway.example.test'}
oidc: {issuer: 'https://login.example.test', client_id: sallyport, client_secret: placeholder}
session: {jwt_secret: placeholder-placeholder-placeholder-placeholder-}
upstreams:
  - {name: a, provider: anthropic, base_url: 'https://upstream.example.test', auth: {api_key: upstream-credential}}
";

/// A gateway and its world.
pub(crate) struct TestGateway {
    pub(crate) gateway: Rc<Gateway>,
    pub(crate) clock: Rc<ManualClock>,
    pub(crate) http: Rc<ScriptedHttp>,
    pub(crate) log: Rc<CapturedLog>,
    pub(crate) figures: Rc<CapturedLog>,
    pub(crate) db: Rc<MemoryDb>,
    pub(crate) key_value: Rc<MemoryKeyValue>,
    config: String,
    pool: LocalPool,
}

impl TestGateway {
    /// With [`CONFIG`].
    pub(crate) fn new() -> Self {
        Self::with_config(CONFIG)
    }

    /// With a configuration of the test's own.
    pub(crate) fn with_config(text: &str) -> Self {
        let clock = Rc::new(ManualClock { now: Cell::new(START), waiting: RefCell::default() });
        Self::sharing(text, clock, Rc::new(MemoryDb::new()), Rc::default())
    }

    /// Another gateway of the same service: same time, database and key-value store.
    pub(crate) fn replica(&self) -> Self {
        Self::sharing(&self.config, Rc::clone(&self.clock), Rc::clone(&self.db), Rc::clone(&self.key_value))
    }

    fn sharing(text: &str, clock: Rc<ManualClock>, db: Rc<MemoryDb>, key_value: Rc<MemoryKeyValue>) -> Self {
        let sources = Sources { variables: HashMap::new(), files: &NoFiles, allow_loopback: false };
        let loaded = config::parse(text, &sources)
            .unwrap_or_else(|faults| panic!("the test's configuration is faulty: {faults:#?}"));
        let pool = LocalPool::new();
        let http = Rc::new(ScriptedHttp::default());
        let log = Rc::new(CapturedLog::default());
        let figures = Rc::new(CapturedLog::default());
        let ports = Ports {
            clock: Box::new(Shared(Rc::clone(&clock))),
            entropy: Box::new(CountedEntropy(Cell::new(0))),
            http: Box::new(Shared(Rc::clone(&http))),
            key_value: Box::new(Shared(Rc::clone(&key_value))),
            db: Box::new(Shared(Rc::clone(&db))),
            log: Box::new(Shared(Rc::clone(&log))),
            figures: (loaded.config.observability.metrics.is_some())
                .then(|| Box::new(Shared(Rc::clone(&figures))) as Box<dyn Log>),
            files: Box::new(NoFiles),
            tasks: Box::new(PoolTasks(pool.spawner())),
            environment: HashMap::new(),
            log_level: Level::Debug,
            log_format: Format::Text,
            allow_loopback: false,
            control: Some(CONTROL.to_owned()),
        };
        let gateway = Rc::new(Gateway::new(loaded.config, ports));
        Self { gateway, clock, http, log, figures, db, key_value, config: text.to_owned(), pool }
    }

    /// What is wrong with a configuration.
    pub(crate) fn faults(text: &str) -> Vec<String> {
        let sources = Sources { variables: HashMap::new(), files: &NoFiles, allow_loopback: false };
        let faults = config::parse(text, &sources).err().unwrap_or_default();
        faults.iter().map(ToString::to_string).collect()
    }

    /// Sends a request and reads the whole answer; what the answer leaves running is run to its end.
    pub(crate) fn send(&mut self, request: RequestBuilder) -> Answer {
        self.send_until(request, None)
    }

    /// Runs what was left running, as far as it goes.
    pub(crate) fn settle(&mut self) {
        self.pool.run_until_stalled();
    }

    /// The same for a client that leaves after some pieces.
    pub(crate) fn send_until(&mut self, request: RequestBuilder, patience: Option<usize>) -> Answer {
        let answer = self.pool.run_until(answer(Rc::clone(&self.gateway), request.into_request(), patience));
        self.pool.run_until_stalled();
        answer
    }

    /// Sends a request and reads nothing of its answer yet.
    pub(crate) fn begin(&mut self, request: RequestBuilder) -> Response {
        self.pool.run_until(self.gateway.handle(request.into_request()))
    }

    /// Sends a request and waits for nothing: the beginning of its answer is put into what is returned.
    pub(crate) fn leave(&mut self, request: RequestBuilder) -> Rc<RefCell<Option<Response>>> {
        let (gateway, request) = (Rc::clone(&self.gateway), request.into_request());
        let begun = Rc::<RefCell<Option<Response>>>::default();
        let answer = Rc::clone(&begun);
        let asked = async move { *answer.borrow_mut() = Some(gateway.handle(request).await) };
        self.gateway.ports.tasks.spawn(asked.boxed_local());
        self.pool.run_until_stalled();
        begun
    }

    /// Goes on reading an answer that was begun, beside everything else: what has arrived so far is in what is returned.
    pub(crate) fn read_on(&mut self, response: Response) -> Rc<RefCell<Vec<u8>>> {
        let Body::Streamed(produce) = response.into_body() else { panic!("an answer in one") };
        let received = Rc::<RefCell<Vec<u8>>>::default();
        let reading = produce(Box::new(CollectingSink { received: Rc::clone(&received), patience: None }));
        self.gateway.ports.tasks.spawn(reading.map(drop).boxed_local());
        self.pool.run_until_stalled();
        received
    }

    /// Reads an answer that was begun.
    pub(crate) fn end(&mut self, response: Response) -> Answer {
        let answer = self.pool.run_until(read(response, None));
        self.pool.run_until_stalled();
        answer
    }

    /// What the host asks for itself.
    pub(crate) fn control(&mut self, operation: &str, input: &serde_json::Value) -> serde_json::Value {
        let mut request = post(&format!("/.sallyport/{operation}")).json(input).into_request();
        request.control = Some(CONTROL.to_owned());
        let response = self.pool.run_until(self.gateway.handle(request));
        self.end(response).json()
    }

    /// Lets time pass, and what waited for it go on.
    pub(crate) fn pass(&mut self, duration: Duration) {
        self.clock.advance(duration);
        self.pool.run_until_stalled();
    }

    /// A session token for Ada with these groups.
    pub(crate) fn token(&self, groups: &[&str]) -> String {
        self.token_with(|claims| claims["groups"] = json!(groups))
    }

    /// A session token with claims of the test's own, signed with the gateway's secret.
    pub(crate) fn token_with(&self, change: impl FnOnce(&mut serde_json::Value)) -> String {
        let now = self.gateway.ports.clock.now().as_secs();
        let mut claims = json!({
            "sub": "ada", "email": "ada@example.test", "aud": "claude-gateway", "iss": ORIGIN,
            "iat": now, "exp": now + 3600,
        });
        change(&mut claims);
        let mut key = Hmac::<Sha256>::new_from_slice(JWT_SECRET.as_bytes()).expect("any length will do");
        let input = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        key.update(input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(key.finalize().into_bytes()))
    }
}

async fn answer(gateway: Rc<Gateway>, request: Request, patience: Option<usize>) -> Answer {
    read(gateway.handle(request).await, patience).await
}

async fn read(response: Response, patience: Option<usize>) -> Answer {
    let (parts, body) = response.into_parts();
    let is_relayed = matches!(body, Body::Relayed(_));
    let (body, cut_off) = match body {
        Body::Full(bytes) => (bytes.to_vec(), false),
        Body::Relayed(mut stream) => {
            let mut bytes = Vec::new();
            loop {
                match stream.next().await {
                    None => break (bytes, false),
                    Some(Ok(piece)) => bytes.extend_from_slice(&piece),
                    Some(Err(_)) => break (bytes, true),
                }
            }
        }
        Body::Streamed(produce) => {
            let received = Rc::new(RefCell::new(Vec::new()));
            let outcome = produce(Box::new(CollectingSink { received: Rc::clone(&received), patience })).await;
            let bytes = received.borrow().clone();
            (bytes, outcome == Err(CutOff))
        }
    };
    Answer { status: parts.status, headers: parts.headers, body, cut_off, is_relayed }
}

/// What a client received.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Whether the body broke off.
    pub(crate) cut_off: bool,
    /// Whether the component read nothing of it.
    pub(crate) is_relayed: bool,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a text body")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a text header"))
    }
}

/// A request in the making.
pub(crate) struct RequestBuilder {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Vec<Bytes>,
}

pub(crate) fn get(path: &str) -> RequestBuilder {
    request(Method::GET, path)
}

pub(crate) fn post(path: &str) -> RequestBuilder {
    request(Method::POST, path)
}

pub(crate) fn request(method: Method, path: &str) -> RequestBuilder {
    RequestBuilder { method, path: path.to_owned(), headers: HeaderMap::new(), body: Vec::new() }
        .header("host", "gateway.example.test")
}

impl RequestBuilder {
    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, value.parse().expect("a header value"));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body.push(body.into());
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn json(self, value: &serde_json::Value) -> Self {
        self.header("content-type", "application/json").body(value.to_string())
    }

    fn into_request(mut self) -> Request {
        let length: usize = self.body.iter().map(Bytes::len).sum();
        self.headers.entry("content-length").or_insert(length.into());
        Request {
            method: self.method,
            uri: self.path.parse().expect("a path"),
            scheme: "https",
            headers: self.headers,
            peer: Some("192.0.2.7".parse().expect("an address")),
            body: Box::new(Pieces(self.body.into_iter().map(Ok).collect())),
            control: None,
        }
    }
}

/// A body from a list.
pub(crate) struct Pieces(pub(crate) VecDeque<Result<Bytes, StreamError>>);

#[async_trait(?Send)]
impl ByteStream for Pieces {
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    async fn next(&mut self) -> Option<Result<Bytes, StreamError>> {
        self.0.pop_front()
    }
}

/// A body that comes when the test says so: pieces that are pushed, and nothing until then.
#[derive(Clone, Default)]
pub(crate) struct Held(Rc<RefCell<Coming>>);

/// What was pushed, `None` being the end, and who waits for more.
#[derive(Default)]
struct Coming {
    pieces: VecDeque<Option<Bytes>>,
    waiting: Option<Waker>,
}

impl Held {
    /// The next piece; `None` is the end.
    pub(crate) fn push(&self, piece: Option<Bytes>) {
        let coming = &mut *self.0.borrow_mut();
        coming.pieces.push_back(piece);
        coming.waiting.take().into_iter().for_each(Waker::wake);
    }
}

#[async_trait(?Send)]
impl ByteStream for Held {
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }

    async fn next(&mut self) -> Option<Result<Bytes, StreamError>> {
        std::future::poll_fn(|context| {
            let coming = &mut *self.0.borrow_mut();
            if let Some(piece) = coming.pieces.pop_front() {
                return Poll::Ready(piece.map(Ok));
            }
            coming.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// A client that keeps what it receives, and leaves after `patience` pieces if it has a limit.
pub(crate) struct CollectingSink {
    pub(crate) received: Rc<RefCell<Vec<u8>>>,
    pub(crate) patience: Option<usize>,
}

#[async_trait(?Send)]
impl BodySink for CollectingSink {
    async fn send(&mut self, bytes: Bytes) -> Result<(), ClientLeft> {
        match &mut self.patience {
            Some(0) => return Err(ClientLeft),
            Some(left) => *left -= 1,
            None => {}
        }
        self.received.borrow_mut().extend_from_slice(&bytes);
        Ok(())
    }

    fn left(&mut self) -> LocalBoxFuture<'static, ()> {
        std::future::pending().boxed_local()
    }
}

/// A port that the test keeps a hand on.
struct Shared<T>(Rc<T>);

/// A clock that stands still until it is advanced.
pub(crate) struct ManualClock {
    now: Cell<Timestamp>,
    waiting: RefCell<Vec<Waker>>,
}

impl ManualClock {
    pub(crate) fn advance(&self, duration: Duration) {
        self.now.set(self.now.get().plus(duration));
        for waker in self.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}

#[async_trait(?Send)]
impl Clock for Shared<ManualClock> {
    fn now(&self) -> Timestamp {
        self.0.now.get()
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.now().plus(duration);
        std::future::poll_fn(|context| {
            if self.now() >= until {
                return Poll::Ready(());
            }
            self.0.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// Bytes that differ from call to call and are the same in every run.
struct CountedEntropy(Cell<u16>);

impl Entropy for CountedEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for byte in bytes {
            // The lap is told too, so that ids do not come again after a few requests.
            let [lap, count] = self.0.get().to_be_bytes();
            *byte = count ^ lap.wrapping_mul(37);
            self.0.set(self.0.get().wrapping_add(1));
        }
    }
}

/// Other servers: answers in the order in which they were scripted, and the requests they got.
#[derive(Default)]
pub(crate) struct ScriptedHttp {
    answers: RefCell<VecDeque<Result<http::Response<BoxStream>, HttpError>>>,
    requests: RefCell<Vec<http::Request<Bytes>>>,
}

impl ScriptedHttp {
    /// The next request is answered so.
    pub(crate) fn answer(&self, status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) {
        self.answer_in_pieces(status, headers, vec![Ok(body.into())]);
    }

    /// The next request is answered so, before those that were scripted earlier.
    pub(crate) fn answer_first(&self, status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) {
        self.answer(status, headers, body);
        self.answers.borrow_mut().rotate_right(1);
    }

    /// The next request is answered with a body in pieces.
    pub(crate) fn answer_in_pieces(
        &self,
        status: u16,
        headers: &[(&str, &str)],
        pieces: Vec<Result<Bytes, StreamError>>,
    ) {
        self.answer_with(status, headers, Box::new(Pieces(pieces.into())));
    }

    /// The next request is answered with this body.
    pub(crate) fn answer_with(&self, status: u16, headers: &[(&str, &str)], body: BoxStream) {
        let mut response = http::Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        self.answers.borrow_mut().push_back(Ok(response.body(body).expect("a response")));
    }

    /// The next request fails so.
    pub(crate) fn fail(&self, error: HttpError) {
        self.answers.borrow_mut().push_back(Err(error));
    }

    /// What was scripted and not asked for is void.
    pub(crate) fn forget(&self) {
        self.answers.borrow_mut().clear();
    }

    /// The requests so far; the list starts again.
    pub(crate) fn requests(&self) -> Vec<http::Request<Bytes>> {
        self.requests.take()
    }
}

#[async_trait(?Send)]
impl Http for Shared<ScriptedHttp> {
    async fn send(&self, outbound: Outbound) -> Result<http::Response<BoxStream>, HttpError> {
        let place = outbound.request.uri().to_string();
        self.0.requests.borrow_mut().push(outbound.request);
        let scripted = self.0.answers.borrow_mut().pop_front();
        scripted.unwrap_or_else(|| panic!("no answer is scripted for {place}"))
    }
}

/// A key-value store in memory.
#[derive(Default)]
pub(crate) struct MemoryKeyValue {
    values: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Whether it cannot be reached.
    pub(crate) is_down: Cell<bool>,
}

impl MemoryKeyValue {
    fn values(&self) -> Result<&RefCell<BTreeMap<String, Vec<u8>>>, KeyValueError> {
        if self.is_down.get() { Err(KeyValueError("the test took it away".to_owned())) } else { Ok(&self.values) }
    }
}

#[async_trait(?Send)]
impl KeyValue for Shared<MemoryKeyValue> {
    async fn find(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Ok(self.0.values()?.borrow().get(key).cloned())
    }

    async fn set(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
        self.0.values()?.borrow_mut().insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.0.values()?.borrow_mut().remove(key);
        Ok(())
    }
}

/// SQLite in memory.
pub(crate) struct MemoryDb {
    connection: rusqlite::Connection,
    /// Whether it cannot be reached.
    pub(crate) is_down: Cell<bool>,
    /// Whether it does what it is told and then does not say so.
    pub(crate) loses_answers: Cell<bool>,
    /// How many statements it has run.
    pub(crate) statements: Cell<usize>,
}

impl MemoryDb {
    pub(crate) fn new() -> Self {
        let connection = rusqlite::Connection::open_in_memory().expect("SQLite in memory");
        Self { connection, is_down: Cell::new(false), loses_answers: Cell::new(false), statements: Cell::new(0) }
    }

    /// The one number that `statement` finds.
    pub(crate) fn number(&self, statement: &str) -> i64 {
        self.connection.query_row(statement, [], |row| row.get(0)).expect("one number")
    }
}

#[async_trait(?Send)]
impl Db for Shared<MemoryDb> {
    async fn run(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        use rusqlite::types::{Value as Sqlite, ValueRef};

        let refused = |error: rusqlite::Error| DbError::Refused(error.to_string());
        if self.0.is_down.get() {
            return Err(DbError::Unavailable("the test took it away".to_owned()));
        }
        self.0.statements.set(self.0.statements.get() + 1);
        let mut prepared = self.0.connection.prepare_cached(&statement.replace('$', "?")).map_err(refused)?;
        let parameters = parameters.iter().map(|value| match value {
            Value::Null => Sqlite::Null,
            Value::Integer(integer) => Sqlite::Integer(*integer),
            Value::Text(text) => Sqlite::Text(text.clone()),
            Value::Bytes(bytes) => Sqlite::Blob(bytes.clone()),
        });
        let columns = prepared.column_count();
        let mut rows = prepared.query(rusqlite::params_from_iter(parameters)).map_err(refused)?;
        let mut result = Vec::new();
        while let Some(row) = rows.next().map_err(refused)? {
            let values = (0..columns).map(|column| match row.get_ref(column).expect("a column") {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(integer) => Value::Integer(integer),
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
                ValueRef::Real(real) => panic!("no column is REAL, but one held {real}"),
            });
            result.push(values.collect());
        }
        if self.0.loses_answers.get() {
            return Err(DbError::Unavailable("the test took its answer".to_owned()));
        }
        Ok(result)
    }

    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }
}

/// Lines that were logged.
#[derive(Default)]
pub(crate) struct CapturedLog(RefCell<Vec<String>>);

impl CapturedLog {
    /// The audit events so far, parsed; the list starts again.
    pub(crate) fn audit(&self) -> Vec<serde_json::Value> {
        self.0
            .take()
            .iter()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).expect("an audit line is JSON"))
            .collect()
    }

    /// All lines so far; the list starts again.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.take()
    }
}

impl Log for Shared<CapturedLog> {
    fn line(&self, line: &str) {
        self.0.0.borrow_mut().push(line.to_owned());
    }
}

/// No files.
struct NoFiles;

impl Files for NoFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        Err(format!("{path}: no such file"))
    }
}

struct PoolTasks(LocalSpawner);

impl Tasks for PoolTasks {
    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.0.spawn_local(task).expect("the pool lives as long as the test");
    }
}
