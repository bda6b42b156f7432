//! Several instances of one gateway on the same stores, and everybody whom they ask, in one function that a test writes.
//! Compiled for tests only.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http::HeaderMap;

use crate::config::Config;
use crate::domain::identity::Identity;
use crate::domain::ids::Timestamp;
use crate::domain::session::Terms;
use crate::exchange::{Body, Request, read_body};
use crate::gateway::Gateway;
use crate::ports::{
    BodySink, BoxStream, ClientLeft, Clock, Db, DbError, Dialect, Http, HttpError, KeyValue, KeyValueError, Outbound,
    Ports, Row, Value,
};
use crate::testing::{CountingEntropy, KeptLog, MemoryFiles, MemoryKeyValue, QueuedTasks, TestSqlite, body_of};

/// What is asked, and what is answered.
type Script = Rc<dyn Fn(&http::Request<Bytes>) -> (u16, String)>;

/// The world that the instances share.
pub(crate) struct Replicas {
    pub(crate) clock: Rc<Cell<Timestamp>>,
    pub(crate) key_value: MemoryKeyValue,
    /// While set, neither store answers.
    pub(crate) stores_are_down: Rc<Cell<bool>>,
    pub(crate) files: MemoryFiles,
    pub(crate) log: KeptLog,
    pub(crate) figures: KeptLog,
    pub(crate) tasks: QueuedTasks,
    pub(crate) environment: HashMap<String, String>,
    /// Every request that was sent.
    pub(crate) sent: Rc<RefCell<Vec<http::Request<Bytes>>>>,
    db: Rc<TestSqlite>,
    script: Script,
    made: Cell<u64>,
}

impl Replicas {
    pub(crate) fn new(script: impl Fn(&http::Request<Bytes>) -> (u16, String) + 'static) -> Self {
        Self {
            clock: Rc::new(Cell::new(Timestamp::from_secs(1_900_000_000))),
            key_value: MemoryKeyValue::default(),
            stores_are_down: Rc::default(),
            files: MemoryFiles::default(),
            log: KeptLog::default(),
            figures: KeptLog::default(),
            tasks: QueuedTasks::default(),
            environment: HashMap::new(),
            sent: Rc::default(),
            db: Rc::new(TestSqlite::new()),
            script: Rc::new(script),
            made: Cell::new(0),
        }
    }

    /// One more instance.
    pub(crate) fn instance(&self, config: Config) -> Rc<Gateway> {
        let entropy = CountingEntropy::default();
        for _ in 0..self.made.replace(self.made.get() + 1) {
            entropy.skip_ahead();
        }
        let is_down = Rc::clone(&self.stores_are_down);
        let ports = Ports {
            clock: Box::new(StillClock(Rc::clone(&self.clock))),
            entropy: Box::new(entropy),
            http: Box::new(Scripted { script: Rc::clone(&self.script), sent: Rc::clone(&self.sent) }),
            key_value: Box::new(Fallible { of: self.key_value.clone(), is_down: Rc::clone(&is_down) }),
            db: Box::new(Fallible { of: Rc::clone(&self.db), is_down }),
            log: Box::new(self.log.clone()),
            figures: Some(Box::new(self.figures.clone())),
            files: Box::new(self.files.clone()),
            tasks: Box::new(self.tasks.clone()),
            environment: self.environment.clone(),
            log_level: crate::log::Level::Debug,
            log_format: crate::log::Format::Text,
            allow_loopback: false,
            control: None,
        };
        Rc::new(Gateway::new(config, ports))
    }

    /// What `gateway` answers to a signed-in person who posts `body`.
    pub(crate) fn ask(&self, gateway: &Rc<Gateway>, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        futures_executor::block_on(async {
            let identity =
                Identity { subject: "ada".to_owned(), email: None, name: None, groups: vec!["eng".to_owned()] };
            let keys = gateway.keys().await.unwrap_or_else(|_| panic!("no keys"));
            let origin = "https://gw.example.test";
            let terms = Terms { session_id: "s", origin, billing_group_tag: None, ttl: Duration::from_hours(1) };
            let token = keys.mint(&identity, terms, self.clock.get());
            let mut map = HeaderMap::new();
            for (name, value) in headers.iter().copied().chain([("authorization", format!("Bearer {token}").as_str())])
            {
                map.append(http::HeaderName::try_from(name).expect("a name"), value.parse().expect("a value"));
            }
            let request = Request {
                method: http::Method::POST,
                uri: path.parse().expect("a path"),
                scheme: "https",
                headers: map,
                peer: None,
                body: body_of(body.to_owned()),
                control: None,
            };
            let (head, body) = gateway.handle(request).await.into_parts();
            let body = match body {
                Body::Full(whole) => whole,
                Body::Relayed(mut stream) => read_body(&mut stream, 1 << 20).await.expect("a body"),
                Body::Streamed(produce) => {
                    let sink = Sink::default();
                    produce(Box::new(sink.clone())).await.expect("all of it");
                    Bytes::from(sink.0.take())
                }
            };
            let json = serde_json::from_slice(&body).unwrap_or_default();
            Answer { status: head.status.as_u16(), headers: head.headers, json }
        })
    }

    /// Lets time pass.
    pub(crate) fn wait(&self, duration: Duration) {
        self.clock.set(self.clock.get().plus(duration));
    }

    /// Runs what was left behind, and what that leaves behind.
    pub(crate) fn run_tasks(&self) {
        loop {
            let tasks = self.tasks.0.take();
            if tasks.is_empty() {
                return;
            }
            futures_executor::block_on(futures_util::future::join_all(tasks));
        }
    }

    /// How many requests went to `path`.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.sent.borrow().iter().filter(|request| request.uri().path() == path).count()
    }

    /// The audit events named `name`.
    pub(crate) fn audited(&self, name: &str) -> Vec<serde_json::Value> {
        let lines = self.log.0.borrow();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        events.filter(|event| event["evt"] == name).collect()
    }
}

/// An answer, read whole.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    /// Null if it is none.
    pub(crate) json: serde_json::Value,
}

/// A client that stays to the end.
#[derive(Clone, Default)]
struct Sink(Rc<RefCell<Vec<u8>>>);

#[async_trait(?Send)]
impl BodySink for Sink {
    async fn send(&mut self, bytes: Bytes) -> Result<(), ClientLeft> {
        self.0.borrow_mut().extend_from_slice(&bytes);
        Ok(())
    }

    fn left(&mut self) -> LocalBoxFuture<'static, ()> {
        std::future::pending().boxed_local()
    }
}

/// Time that moves only when the test says so; who sleeps lets all others have a turn.
struct StillClock(Rc<Cell<Timestamp>>);

#[async_trait(?Send)]
impl Clock for StillClock {
    fn now(&self) -> Timestamp {
        self.0.get()
    }

    async fn sleep(&self, _: Duration) {
        give_way().await;
    }
}

async fn give_way() {
    let mut has_yielded = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return std::task::Poll::Ready(());
        }
        context.waker().wake_by_ref();
        std::task::Poll::Pending
    })
    .await;
}

struct Scripted {
    script: Script,
    sent: Rc<RefCell<Vec<http::Request<Bytes>>>>,
}

#[async_trait(?Send)]
impl Http for Scripted {
    async fn send(&self, request: Outbound) -> Result<http::Response<BoxStream>, HttpError> {
        let (status, body) = (self.script)(&request.request);
        self.sent.borrow_mut().push(request.request);
        // Nobody answers at once.
        for _ in 0..5 {
            give_way().await;
        }
        if status == 0 {
            return Err(HttpError::Connect("refused".to_owned()));
        }
        let mut response = http::Response::new(body_of(body));
        *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, json);
        Ok(response)
    }
}

/// A store that can be away.
struct Fallible<T> {
    of: T,
    is_down: Rc<Cell<bool>>,
}

#[async_trait(?Send)]
impl KeyValue for Fallible<MemoryKeyValue> {
    async fn find(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        self.up()?;
        self.of.find(key).await
    }

    async fn set(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
        self.up()?;
        self.of.set(key, value).await
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.up()?;
        self.of.delete(key).await
    }
}

impl<T> Fallible<T> {
    fn up(&self) -> Result<(), KeyValueError> {
        if self.is_down.get() { Err(KeyValueError("it is down".to_owned())) } else { Ok(()) }
    }
}

#[async_trait(?Send)]
impl Db for Fallible<Rc<TestSqlite>> {
    async fn run(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        self.up().map_err(|error| DbError::Unavailable(error.to_string()))?;
        self.of.run(statement, parameters).await
    }

    fn dialect(&self) -> Dialect {
        self.of.dialect()
    }
}
