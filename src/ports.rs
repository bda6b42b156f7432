//! What the gateway asks of the world: traits only, each with the fewest methods that let its adapter be dull.
//!
//! The adapters are in `spin/` (the component) and, for tests, in `tests/support`. Nothing here knows what a gateway is.

use std::any::Any;
use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use crate::domain::ids::Timestamp;
use crate::log::{Format, Level};

/// Everything the world gives to one instance of the gateway.
pub struct Ports {
    /// The time, and waiting for it to pass.
    pub clock: Box<dyn Clock>,
    /// Random bytes.
    pub entropy: Box<dyn Entropy>,
    /// Outbound HTTP.
    pub http: Box<dyn Http>,
    /// The key-value store: session keys, and caches that replicas share.
    pub key_value: Box<dyn KeyValue>,
    /// The SQL database: grants, sessions, counters, money.
    pub db: Box<dyn Db>,
    /// Where audit events and operational lines go.
    pub log: Box<dyn Log>,
    /// Where figures for the host's metrics go; `None` where the host counts nothing.
    pub figures: Option<Box<dyn Log>>,
    /// Files that the operator mounted (tokens that rotate on disk).
    pub files: Box<dyn Files>,
    /// Work that goes on after the response was sent.
    pub tasks: Box<dyn Tasks>,
    /// Variables in which platforms describe their identities (`upstream::credentials::VARIABLES`), where defined.
    pub environment: HashMap<String, String>,
    /// The least important operational lines that are written.
    pub log_level: Level,
    /// The form of operational lines.
    pub log_format: Format,
    /// Whether loopback targets may be called (`CLAUDE_GATEWAY_ALLOW_LOOPBACK`).
    pub allow_loopback: bool,
    /// What a request of the host itself carries; `None` where the host makes none.
    pub control: Option<String>,
}

/// The time.
#[async_trait(?Send)]
pub trait Clock {
    /// Now, in UTC.
    fn now(&self) -> Timestamp;

    /// Returns after `duration` has passed.
    async fn sleep(&self, duration: Duration);
}

/// A cryptographically secure source of random bytes.
pub trait Entropy {
    /// Fills `bytes` with randomness.
    fn fill(&self, bytes: &mut [u8]);
}

/// Outbound HTTP. Redirects are never followed.
#[async_trait(?Send)]
pub trait Http {
    /// Sends `request` and returns when the response headers are there.
    async fn send(&self, request: Outbound) -> Result<http::Response<BoxStream>, HttpError>;
}

/// One request to another server.
pub struct Outbound {
    /// The request; its URI is absolute.
    pub request: http::Request<Bytes>,
    /// How long to wait for the response headers; `None` waits as long as the host does.
    pub first_byte_timeout: Option<Duration>,
}

/// Why an outbound request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// No connection: refused, unresolvable, unreachable, or TLS failed.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The host does not let the gateway call this address.
    #[error("not allowed: {0}")]
    Forbidden(String),
    /// No response headers in time.
    #[error("timed out: {0}")]
    Timeout(String),
    /// The connection broke, or the peer does not speak HTTP.
    #[error("protocol error: {0}")]
    Protocol(String),
}

/// A body that arrives in pieces.
#[async_trait(?Send)]
pub trait ByteStream {
    /// The next piece; `None` at the end. Nothing follows an error. Dropping the stream closes its connection.
    async fn next(&mut self) -> Option<Result<Bytes, StreamError>>;

    /// The stream itself, for an edge that can hand it on without reading it.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// A boxed [`ByteStream`].
pub type BoxStream = Box<dyn ByteStream>;

/// A body that broke off before its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the body broke off: {0}")]
pub struct StreamError(pub String);

/// Where a streamed response body goes: the client, one piece at a time.
#[async_trait(?Send)]
pub trait BodySink {
    /// Sends one piece; returns when the host has taken it (back-pressure). An error means that the client has left.
    async fn send(&mut self, bytes: Bytes) -> Result<(), ClientLeft>;

    /// A future that completes when the client has left; where the host cannot tell, it never does. Ask once.
    fn left(&mut self) -> LocalBoxFuture<'static, ()>;
}

/// The client closed its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client left")]
pub struct ClientLeft;

/// The key-value store. Values are opaque bytes.
#[async_trait(?Send)]
pub trait KeyValue {
    /// The value under `key`.
    async fn find(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError>;

    /// Puts `value` under `key`, replacing what was there.
    async fn set(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError>;

    /// Removes `key`; it need not exist.
    async fn delete(&self, key: &str) -> Result<(), KeyValueError>;
}

/// The key-value store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key-value store: {0}")]
pub struct KeyValueError(pub String);

/// A SQL database: run this statement with these values, give me rows.
///
/// Statements are written in the subset that SQLite and PostgreSQL share, with `$1`, `$2`, … as placeholders.
#[async_trait(?Send)]
pub trait Db {
    /// Runs one statement. Rows come back for `SELECT` and `RETURNING`; otherwise the list is empty.
    async fn run(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError>;

    /// Which of the two databases this is; only migrations and locks need to know.
    fn dialect(&self) -> Dialect;
}

/// The two databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite 3.35 or newer.
    Sqlite,
    /// PostgreSQL 12 or newer.
    Postgres,
}

/// A value going into or coming out of a statement: the types that both databases have.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// SQL NULL.
    Null,
    /// `BIGINT`.
    Integer(i64),
    /// `TEXT`.
    Text(String),
    /// `BYTEA` in PostgreSQL, `BLOB` in SQLite.
    Bytes(Vec<u8>),
}

/// One row, columns in the order of the statement.
pub type Row = Vec<Value>;

/// Why a statement has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DbError {
    /// The database cannot be reached, or is too slow.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// The database refused the statement.
    #[error("database refused the statement: {0}")]
    Refused(String),
}

/// Where lines go. One call is one line.
pub trait Log {
    /// Writes one line, without its line break.
    fn line(&self, line: &str);
}

/// Read-only files.
pub trait Files {
    /// The content of the file at `path`, or why it cannot be read.
    fn read(&self, path: &str) -> Result<Vec<u8>, String>;
}

/// Where `${NAME}` in the configuration gets its values.
#[async_trait(?Send)]
pub trait Variables {
    /// The value of `name`, if it is defined.
    async fn find(&self, name: &str) -> Option<String>;
}

/// Work that outlives the handler.
pub trait Tasks {
    /// Runs `task` to its end, also when the client has left.
    fn spawn(&self, task: LocalBoxFuture<'static, ()>);
}
