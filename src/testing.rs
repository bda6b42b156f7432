//! Stand-ins for the world, and configurations, for tests of this crate. Compiled for tests only.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use url::Url;

use crate::config::{
    self, ClaimPath, Config, Oidc, Provider, RateLimit, Secret, ServiceIdentity, SigningAlg, Upstream,
};
use crate::domain::ids::Timestamp;
use crate::ports::{Clock, Db, DbError, Dialect, Entropy, KeyValue, KeyValueError, Log, Row, Tasks, Value};

/// An identity provider at `https://idp.example.test` with every default.
pub(crate) fn oidc() -> Oidc {
    Oidc {
        name: None,
        label: None,
        email_domains: Vec::new(),
        keep_subjects: false,
        groups_prefix: String::new(),
        issuer: Url::parse("https://idp.example.test").expect("a URL"),
        client_id: "gateway".to_owned(),
        client_secret: Some(Secret::new("client secret/&".to_owned())),
        token_endpoint_auth_method: None,
        client_assertion: None,
        allowed_email_domains: Vec::new(),
        allowed_groups: Vec::new(),
        groups_claim: ClaimPath("groups".to_owned()),
        email_claim: vec![ClaimPath("email".to_owned())],
        user_id_claim: ClaimPath("sub".to_owned()),
        scope_on_refresh: false,
        scopes: ["openid", "profile", "email", "offline_access"].map(str::to_owned).to_vec(),
        extra_auth_params: Vec::new(),
        userinfo_fallback: false,
        use_pkce: true,
        clock_skew: Duration::ZERO,
        id_token_signed_response_alg: SigningAlg::Rs256,
        additional_authorized_parties: Vec::new(),
        discovery_url: None,
        form_action_origins: Vec::new(),
        ca_cert_pem: None,
        google_groups: None,
        use_proxy: None,
        tls: None,
    }
}

/// An upstream with nothing but its provider.
pub(crate) fn upstream(name: &str, provider: Provider) -> Upstream {
    Upstream {
        name: name.to_owned(),
        provider,
        base_url: None,
        headers: Vec::new(),
        models: None,
        groups: None,
        failover_on: Vec::new(),
        weight: None,
        proxy: None,
        tls: None,
    }
}

/// The issuer of jobs' tokens in the test world.
pub(crate) const CI_ISSUER: &str = "https://idp.example.test/ci";

/// The second identity provider of the test world; it describes the same people as the first.
pub(crate) const PARTNERS_ISSUER: &str = "https://idp.example.test/partners";

/// A program whose issuer is at `https://ci.example.test`.
pub(crate) fn service_identity() -> ServiceIdentity {
    ServiceIdentity {
        name: "release".to_owned(),
        issuer: Url::parse("https://ci.example.test").expect("a URL"),
        discovery_url: None,
        audience: "https://gw.example.test".to_owned(),
        claims: vec![(ClaimPath("repository".to_owned()), vec!["acme/*".to_owned()])],
        groups: vec!["ci".to_owned()],
        ttl: Duration::from_hours(1),
        clock_skew: Duration::ZERO,
    }
}

/// The look that nobody has configured.
pub(crate) fn branding() -> config::Branding {
    config::Branding { name: "Sallyport".to_owned(), support_url: None, accent_color: None, accent_color_dark: None }
}

/// A gateway at `https://gw.example.test` with every default and one signing secret.
pub(crate) fn config() -> Config {
    Config {
        listen: config::Listen {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            public_url: Some("https://gw.example.test".to_owned()),
            tls: None,
            trusted_proxies: Vec::new(),
        },
        oidc: vec![oidc()],
        service_identities: Vec::new(),
        session: config::Session { jwt_secrets: vec![Secret::new("one".to_owned())], ttl: Duration::from_hours(1) },
        store: config::Store { postgres_url: None, max_connections: 5, connect_timeout: Duration::from_secs(5) },
        upstreams: Vec::new(),
        models: Vec::new(),
        auto_include_builtin_models: true,
        admin: None,
        audit: config::Audit { store: false, retention_days: 365 },
        self_healing: config::SelfHealing { enabled: true, fields: Vec::new() },
        enforcement: config::Enforcement { fail_closed_on_error: false, reservation_ttl: Duration::from_mins(15) },
        pricing: None,
        managed: None,
        masking: None,
        telemetry: config::Telemetry::default(),
        observability: config::Observability::default(),
        access_control: config::AccessControl::default(),
        limits: config::Limits { max_request_bytes: 1 << 20, max_request_header_bytes: None, max_url_length: None },
        timeouts: config::Timeouts { upstream_ttfb: Duration::from_mins(2) },
        resilience: config::Resilience {
            breaker: config::Breaker {
                is_enabled: true,
                failures: 10,
                cooldown: Duration::from_secs(10),
                max_cooldown: Duration::from_mins(5),
            },
            retry_budget: config::RetryBudget {
                is_enabled: true,
                percent: 100,
                minimum: 20,
                window: Duration::from_mins(1),
            },
        },
        rate_limits: config::RateLimits {
            device_authorization: RateLimit { max: 30, window: Duration::from_mins(10) },
            device_verify: RateLimit { max: 10, window: Duration::from_mins(10) },
        },
        branding: branding(),
        login_notice: None,
        sha256: String::new(),
    }
}

/// Time that moves only when it is told to, or slept through.
pub(crate) struct ManualClock(pub(crate) Rc<Cell<Timestamp>>);

#[async_trait(?Send)]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.0.get()
    }

    async fn sleep(&self, duration: Duration) {
        // Others get their turn first: a race against a sleep is won by what is ready.
        let mut yielded = false;
        std::future::poll_fn(|context| {
            if std::mem::replace(&mut yielded, true) {
                return std::task::Poll::Ready(());
            }
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
        self.0.set(self.0.get().plus(duration));
    }
}

/// Bytes that differ from call to call and are the same in every run.
#[derive(Default)]
pub(crate) struct CountingEntropy(Cell<u64>);

impl CountingEntropy {
    /// Skips what another one gives first, so that the two differ.
    pub(crate) fn skip_ahead(&self) {
        self.0.set(self.0.get() + 1_000_000);
    }
}

impl Entropy for CountingEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        use sha2::Digest;

        for chunk in bytes.chunks_mut(32) {
            self.0.set(self.0.get() + 1);
            chunk.copy_from_slice(&sha2::Sha256::digest(self.0.get().to_le_bytes())[..chunk.len()]);
        }
    }
}

/// A key-value store in memory; clones share it.
#[derive(Clone, Default)]
pub(crate) struct MemoryKeyValue(pub(crate) Rc<RefCell<BTreeMap<String, Vec<u8>>>>);

#[async_trait(?Send)]
impl KeyValue for MemoryKeyValue {
    async fn find(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
        Ok(self.0.borrow().get(key).cloned())
    }

    async fn set(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
        self.0.borrow_mut().insert(key.to_owned(), value.to_vec());
        Ok(())
    }

    async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
        self.0.borrow_mut().remove(key);
        Ok(())
    }
}

/// Lines, kept.
#[derive(Clone, Default)]
pub(crate) struct KeptLog(pub(crate) Rc<RefCell<Vec<String>>>);

impl Log for KeptLog {
    fn line(&self, line: &str) {
        self.0.borrow_mut().push(line.to_owned());
    }
}

/// Tasks that wait until the test runs them.
#[derive(Clone, Default)]
pub(crate) struct QueuedTasks(pub(crate) Rc<RefCell<Vec<LocalBoxFuture<'static, ()>>>>);

impl Tasks for QueuedTasks {
    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        self.0.borrow_mut().push(task);
    }
}

/// SQLite through rusqlite, as the adapters of the component use it: one statement per call.
pub(crate) struct TestSqlite {
    connection: rusqlite::Connection,
    /// While set, the database is down.
    pub(crate) is_down: Rc<Cell<bool>>,
}

impl TestSqlite {
    /// A database of its own, in memory.
    pub(crate) fn new() -> Self {
        Self::at("file::memory:")
    }

    /// The database at `path`.
    pub(crate) fn at(path: &str) -> Self {
        let connection = rusqlite::Connection::open(path).expect("SQLite opens");
        connection.busy_timeout(Duration::from_secs(20)).expect("a timeout is set");
        Self { connection, is_down: Rc::default() }
    }

    fn query(&self, statement: &str, parameters: &[Value]) -> rusqlite::Result<Vec<Row>> {
        let mut statement = self.connection.prepare(&statement.replace('$', "?"))?;
        let columns = statement.column_count();
        let parameters = rusqlite::params_from_iter(parameters.iter().map(|value| match value {
            Value::Null => rusqlite::types::Value::Null,
            Value::Integer(integer) => (*integer).into(),
            Value::Text(text) => text.clone().into(),
            Value::Bytes(bytes) => bytes.clone().into(),
        }));
        let mut rows = statement.query(parameters)?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            let row: rusqlite::Result<Row> = (0..columns).map(|column| row.get(column).map(from_sqlite)).collect();
            all.push(row?);
        }
        Ok(all)
    }
}

fn from_sqlite(value: rusqlite::types::Value) -> Value {
    match value {
        rusqlite::types::Value::Null => Value::Null,
        rusqlite::types::Value::Integer(integer) => Value::Integer(integer),
        rusqlite::types::Value::Real(real) => panic!("a REAL came out: {real}"),
        rusqlite::types::Value::Text(text) => Value::Text(text),
        rusqlite::types::Value::Blob(bytes) => Value::Bytes(bytes),
    }
}

#[async_trait(?Send)]
impl Db for TestSqlite {
    async fn run(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        if self.is_down.get() {
            return Err(DbError::Unavailable("it is down".to_owned()));
        }
        self.query(statement, parameters).map_err(|error| DbError::Refused(error.to_string()))
    }

    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }
}

/// PostgreSQL through tokio-postgres, prepared statements only, as the adapters of the component use it.
///
/// Without tokio's runtime: cargo would give its features to the component, too, and tokio refuses them there.
pub(crate) struct TestPostgres {
    client: tokio_postgres::Client,
    connection: RefCell<LocalBoxFuture<'static, ()>>,
    /// The schema that goes away with this connection.
    owned_schema: Option<String>,
}

impl Drop for TestPostgres {
    fn drop(&mut self) {
        if let Some(schema) = &self.owned_schema {
            let sql = format!("DROP SCHEMA {schema} CASCADE");
            // A test that failed says so by itself.
            let _ = self.drive(self.client.batch_execute(&sql));
        }
    }
}

/// Polls until `future` is ready: a test has nothing better to do.
fn busily<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(outcome) = poll(&mut context) {
            return outcome;
        }
        std::thread::yield_now();
    }
}

/// A socket that is asked again and again.
struct Polled(std::net::TcpStream);

impl Polled {
    fn outcome<T>(result: std::io::Result<T>) -> Poll<std::io::Result<T>> {
        match result {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Poll::Pending,
            result => Poll::Ready(result),
        }
    }
}

impl tokio::io::AsyncRead for Polled {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = std::io::Read::read(&mut &self.0, buffer.initialize_unfilled());
        Self::outcome(read.map(|count| buffer.advance(count)))
    }
}

impl tokio::io::AsyncWrite for Polled {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Self::outcome(std::io::Write::write(&mut &self.0, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(self.0.shutdown(std::net::Shutdown::Both))
    }
}

impl TestPostgres {
    /// The database at the address that `SALLYPORT_TEST_POSTGRES` holds, in the schema `schema`; `None` without one.
    pub(crate) fn open(schema: &str) -> Option<Self> {
        #[expect(clippy::disallowed_methods, reason = "whoever runs the tests says where PostgreSQL is")]
        let address = std::env::var("SALLYPORT_TEST_POSTGRES").ok().filter(|address| !address.is_empty())?;
        let address: tokio_postgres::Config = address.parse().expect("an address");
        let host = match address.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            _ => "127.0.0.1".to_owned(),
        };
        let port = address.get_ports().first().copied().unwrap_or(5432);
        let socket = std::net::TcpStream::connect((host.as_str(), port)).expect("PostgreSQL listens");
        socket.set_nonblocking(true).expect("a socket can be polled");
        let mut connecting = Box::pin(address.connect_raw(Polled(socket), tokio_postgres::NoTls));
        let (client, connection) = busily(|context| connecting.as_mut().poll(context)).expect("PostgreSQL answers");
        let connection = RefCell::new(connection.map(drop).boxed_local());
        let this = Self { client, connection, owned_schema: None };
        let choose = format!("SET search_path = {schema}");
        this.drive(this.client.batch_execute(&choose)).expect("a schema is chosen");
        Some(this)
    }

    /// Runs the connection and what waits for it.
    fn drive<T>(&self, waiting: impl Future<Output = T>) -> T {
        let mut waiting = std::pin::pin!(waiting);
        busily(|context| {
            let _ = self.connection.borrow_mut().as_mut().poll(context);
            waiting.as_mut().poll(context)
        })
    }

    /// A schema of its own, empty; the name is returned for further connections.
    pub(crate) fn fresh() -> Option<(Self, String)> {
        static NUMBER: Mutex<u32> = Mutex::new(0);
        let number = {
            let mut number = NUMBER.lock().expect("no test panics here");
            *number += 1;
            *number
        };
        let schema = format!("sallyport_test_{}_{number}", std::process::id());
        let mut db = Self::open(&schema)?;
        let sql = format!("DROP SCHEMA IF EXISTS {schema} CASCADE; CREATE SCHEMA {schema}");
        db.drive(db.client.batch_execute(&sql)).expect("a schema is made");
        db.owned_schema = Some(schema.clone());
        Some((db, schema))
    }
}

#[async_trait(?Send)]
impl Db for TestPostgres {
    async fn run(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        use tokio_postgres::types::{ToSql, Type};

        let refused = |error: tokio_postgres::Error| {
            let detail = error.as_db_error().map(ToString::to_string);
            DbError::Refused(detail.unwrap_or_else(|| error.to_string()))
        };
        let boxed: Vec<Box<dyn ToSql + Sync>> = parameters
            .iter()
            .map(|value| -> Box<dyn ToSql + Sync> {
                match value {
                    Value::Null => Box::new(None::<i64>),
                    Value::Integer(integer) => Box::new(*integer),
                    Value::Text(text) => Box::new(text.clone()),
                    Value::Bytes(bytes) => Box::new(bytes.clone()),
                }
            })
            .collect();
        let parameters: Vec<&(dyn ToSql + Sync)> = boxed.iter().map(AsRef::as_ref).collect();
        let rows = self.drive(self.client.query(statement, &parameters)).map_err(refused)?;
        Ok(rows
            .iter()
            .map(|row| {
                (0..row.len())
                    .map(|column| match *row.columns()[column].type_() {
                        Type::INT8 => row.get::<_, Option<i64>>(column).map_or(Value::Null, Value::Integer),
                        Type::INT4 => {
                            row.get::<_, Option<i32>>(column).map_or(Value::Null, |n| Value::Integer(n.into()))
                        }
                        Type::BYTEA => row.get::<_, Option<Vec<u8>>>(column).map_or(Value::Null, Value::Bytes),
                        _ => row.get::<_, Option<String>>(column).map_or(Value::Null, Value::Text),
                    })
                    .collect()
            })
            .collect())
    }

    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }
}

/// An RSA key and a certificate of it, PEM, made for this run.
pub(crate) fn client_certificate() -> (String, String) {
    use base64::Engine;
    use rsa::pkcs8::{EncodePrivateKey, LineEnding};

    let key = rsa::RsaPrivateKey::new(&mut SeededRng(7), 2048).expect("a key");
    let private = key.to_pkcs8_pem(LineEnding::LF).expect("it encodes").to_string();
    // Only its bytes are hashed: what stands in for the certificate need not be one.
    let der = base64::engine::general_purpose::STANDARD.encode([48; 600]);
    (private, format!("-----BEGIN CERTIFICATE-----\n{der}\n-----END CERTIFICATE-----\n"))
}

/// Not random at all; good enough for keys that protect nothing.
struct SeededRng(u64);

impl rsa::rand_core::TryRng for SeededRng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
        self.try_next_u64().map(|number| number as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ (mixed >> 31))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.try_next_u64()?.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl rsa::rand_core::TryCryptoRng for SeededRng {}

/// An identity provider at `https://idp.example.test` that signs with Ed25519 and does as it is told.
#[derive(Clone)]
pub(crate) struct FakeIdp {
    /// Claims of the next id token, without those that belong to the exchange; also what userinfo says.
    pub(crate) claims: Rc<RefCell<serde_json::Value>>,
    /// What userinfo says instead.
    pub(crate) userinfo: Rc<RefCell<Option<serde_json::Value>>>,
    /// How it behaves.
    pub(crate) mood: Rc<Cell<Mood>>,
    /// What the token endpoint answers instead of tokens.
    pub(crate) refusal: Rc<RefCell<Option<(u16, String)>>>,
    /// What Google's directory answers instead of one group.
    pub(crate) directory: Rc<RefCell<Option<(u16, String)>>>,
    /// Whether it issues refresh tokens.
    pub(crate) refreshes: Rc<Cell<bool>>,
    /// Whether a refresh brings an id token.
    pub(crate) is_thin: Rc<Cell<bool>>,
    /// The key that signs, by its number; the key set always has exactly this one.
    pub(crate) key: Rc<Cell<u8>>,
    /// The nonce of the running sign-in.
    pub(crate) nonce: Rc<RefCell<String>>,
    /// Path and body of every request.
    pub(crate) requests: Rc<RefCell<Vec<(String, String)>>>,
    clock: Rc<Cell<Timestamp>>,
}

/// How a provider behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// No connection.
    Down,
    /// Never answers.
    Slow,
    /// Answers with a page.
    Broken,
}

impl FakeIdp {
    fn new(clock: Rc<Cell<Timestamp>>) -> Self {
        let claims = serde_json::json!({
            "sub": "alice", "email": "alice@example.com", "email_verified": true, "name": "Alice A", "groups": ["eng"],
        });
        Self {
            claims: Rc::new(RefCell::new(claims)),
            userinfo: Rc::default(),
            mood: Rc::new(Cell::new(Mood::Well)),
            refusal: Rc::default(),
            directory: Rc::default(),
            refreshes: Rc::new(Cell::new(true)),
            is_thin: Rc::default(),
            key: Rc::new(Cell::new(1)),
            nonce: Rc::default(),
            requests: Rc::default(),
            clock,
        }
    }

    /// How often `path` was asked.
    pub(crate) fn count(&self, path: &str) -> usize {
        self.requests.borrow().iter().filter(|(asked, _)| asked == path).count()
    }

    /// The last body that was posted to `path`, as a form.
    pub(crate) fn last_form(&self, path: &str) -> crate::wire::form::Form {
        let requests = self.requests.borrow();
        let body = requests.iter().rev().find(|(asked, _)| asked == path).map(|(_, body)| body.clone());
        crate::wire::form::Form::urlencoded(body.unwrap_or_default().as_bytes())
    }

    fn signing_key(&self) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&[self.key.get(); 32])
    }

    /// A job's token with these claims, and what else it needs.
    pub(crate) fn job_token(&self, claims: serde_json::Value) -> String {
        let now = self.clock.get().as_secs();
        let mut all = serde_json::json!({
            "iss": CI_ISSUER, "aud": "https://gw.example.test", "sub": "repo:acme/app", "iat": now, "exp": now + 300,
            "repository": "acme/app",
        });
        let serde_json::Value::Object(claims) = claims else { panic!("claims are an object") };
        all.as_object_mut().expect("an object").extend(claims);
        self.sign(&all)
    }

    fn sign(&self, claims: &serde_json::Value) -> String {
        use ed25519_dalek::Signer;

        let header = format!(r#"{{"alg":"EdDSA","kid":"k{}"}}"#, self.key.get());
        let key = self.signing_key();
        crate::wire::jwt::compact(header.as_bytes(), claims.to_string().as_bytes(), |input| {
            key.sign(input.as_bytes()).to_bytes().to_vec()
        })
    }

    fn id_token(&self, base: &str, nonce: Option<&str>) -> String {
        let mut claims = self.claims.borrow().clone();
        let now = self.clock.get().as_secs();
        for (name, value) in
            [("iss", base.into()), ("aud", "gateway".into()), ("iat", now.into()), ("exp", (now + 300).into())]
        {
            if claims.get(name).is_none() {
                claims[name] = value;
            }
        }
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        self.sign(&claims)
    }

    fn answer(&self, path: &str, body: &str) -> (u16, String) {
        use base64::Engine;
        use base64::engine::general_purpose::URL_SAFE_NO_PAD;
        use serde_json::json;

        let (base, path) = match path.strip_prefix("/partners") {
            Some(rest) => (PARTNERS_ISSUER, rest),
            None => ("https://idp.example.test", path),
        };
        match path {
            "/ci/.well-known/openid-configuration" => {
                (200, json!({"issuer": CI_ISSUER, "jwks_uri": format!("{CI_ISSUER}/jwks")}).to_string())
            }
            "/.well-known/openid-configuration" => (
                200,
                json!({
                    "issuer": base, "authorization_endpoint": format!("{base}/authorize"),
                    "token_endpoint": format!("{base}/token"), "jwks_uri": format!("{base}/jwks"),
                    "userinfo_endpoint": format!("{base}/userinfo"),
                })
                .to_string(),
            ),
            "/jwks" | "/ci/jwks" => {
                let x = URL_SAFE_NO_PAD.encode(self.signing_key().verifying_key().as_bytes());
                let kid = format!("k{}", self.key.get());
                (200, json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}]}).to_string())
            }
            "/google-token" => (200, json!({"access_token": "directory-access", "expires_in": 3600}).to_string()),
            "/admin/directory/v1/groups" => {
                let other = self.directory.borrow().clone();
                other.unwrap_or_else(|| (200, json!({"groups": [{"email": "eng@example.com"}]}).to_string()))
            }
            "/userinfo" => {
                let other = self.userinfo.borrow().clone();
                (200, other.unwrap_or_else(|| self.claims.borrow().clone()).to_string())
            }
            "/token" => {
                if let Some(refusal) = self.refusal.borrow().clone() {
                    return refusal;
                }
                let is_refresh = body.contains("grant_type=refresh_token");
                let mut tokens = json!({"access_token": "idp-access", "token_type": "Bearer"});
                if !is_refresh {
                    tokens["id_token"] = self.id_token(base, Some(&self.nonce.borrow())).into();
                } else if !self.is_thin.get() {
                    tokens["id_token"] = self.id_token(base, None).into();
                }
                if self.refreshes.get() {
                    tokens["refresh_token"] = format!("idp-refresh-{}", self.count("/token")).into();
                }
                (200, tokens.to_string())
            }
            _ => (404, String::new()),
        }
    }
}

#[async_trait(?Send)]
impl crate::ports::Http for FakeIdp {
    async fn send(
        &self,
        request: crate::ports::Outbound,
    ) -> Result<http::Response<crate::ports::BoxStream>, crate::ports::HttpError> {
        let (parts, body) = request.request.into_parts();
        let body = String::from_utf8(body.to_vec()).expect("a form");
        self.requests.borrow_mut().push((parts.uri.path().to_owned(), body.clone()));
        let (status, answer) = match self.mood.get() {
            Mood::Well => self.answer(parts.uri.path(), &body),
            Mood::Down => return Err(crate::ports::HttpError::Connect("refused".to_owned())),
            Mood::Slow => std::future::pending().await,
            Mood::Broken => (200, "<html>maintenance</html>".to_owned()),
        };
        let mut response = http::Response::new(body_of(answer));
        *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        Ok(response)
    }
}

/// A body that comes in one piece.
pub(crate) fn body_of(text: impl Into<bytes::Bytes>) -> crate::ports::BoxStream {
    struct Once(Option<bytes::Bytes>);

    #[async_trait(?Send)]
    impl crate::ports::ByteStream for Once {
        fn into_any(self: Box<Self>) -> Box<dyn std::any::Any> {
            self
        }

        async fn next(&mut self) -> Option<Result<bytes::Bytes, crate::ports::StreamError>> {
            self.0.take().map(Ok)
        }
    }

    Box::new(Once(Some(text.into())))
}

/// Files in memory; clones share them.
#[derive(Clone, Default)]
pub(crate) struct MemoryFiles(pub(crate) Rc<RefCell<BTreeMap<String, Vec<u8>>>>);

impl crate::ports::Files for MemoryFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        self.0.borrow().get(path).cloned().ok_or_else(|| format!("{path}: no such file"))
    }
}

/// A gateway in a world that a test holds the strings of.
pub(crate) struct World {
    pub(crate) gateway: Rc<crate::gateway::Gateway>,
    pub(crate) idp: FakeIdp,
    pub(crate) clock: Rc<Cell<Timestamp>>,
    pub(crate) log: KeptLog,
    pub(crate) key_value: MemoryKeyValue,
    pub(crate) tasks: QueuedTasks,
    pub(crate) files: MemoryFiles,
    pub(crate) db_is_down: Rc<Cell<bool>>,
}

impl World {
    /// A gateway of `config`, whose identity provider signs with Ed25519.
    pub(crate) fn of(mut config: Config) -> Self {
        for provider in &mut config.oidc {
            provider.id_token_signed_response_alg = SigningAlg::EdDsa;
        }
        let clock = Rc::new(Cell::new(Timestamp::from_secs(1_900_000_000)));
        let (idp, log, key_value, tasks) =
            (FakeIdp::new(Rc::clone(&clock)), KeptLog::default(), MemoryKeyValue::default(), QueuedTasks::default());
        let files = MemoryFiles::default();
        let db = TestSqlite::new();
        let db_is_down = Rc::clone(&db.is_down);
        let ports = crate::ports::Ports {
            clock: Box::new(ManualClock(Rc::clone(&clock))),
            entropy: Box::<CountingEntropy>::default(),
            http: Box::new(idp.clone()),
            key_value: Box::new(key_value.clone()),
            db: Box::new(db),
            log: Box::new(log.clone()),
            figures: None,
            files: Box::new(files.clone()),
            tasks: Box::new(tasks.clone()),
            environment: std::collections::HashMap::new(),
            log_level: crate::log::Level::Info,
            log_format: crate::log::Format::Text,
            allow_loopback: false,
            control: None,
        };
        let gateway = Rc::new(crate::gateway::Gateway::new(config, ports));
        Self { gateway, idp, clock, log, key_value, tasks, files, db_is_down }
    }

    /// Lets time pass.
    pub(crate) fn wait(&self, duration: Duration) {
        self.clock.set(self.clock.get().plus(duration));
    }

    /// The audit events named `name`, and forgets all of them.
    pub(crate) fn audited(&self, name: &str) -> Vec<serde_json::Value> {
        self.log
            .0
            .borrow_mut()
            .drain(..)
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok())
            .filter(|event| event["evt"] == name)
            .collect()
    }
}
