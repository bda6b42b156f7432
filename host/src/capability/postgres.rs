//! spin:postgres ← tokio-postgres, with a pool of connections per address.
//!
//! A statement is prepared once per connection; from then on it is one round trip. Connections that died while they
//! rested in the pool are not the component's concern: what can be repeated without doing it twice is repeated.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts};
use rustls::pki_types::ServerName;
use sallyport::ports;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};
use tokio_postgres::{Row, Socket};
use tokio_rustls::TlsConnector;
use url::Url;
use wasmtime::component::{Accessor, FutureReader, Resource, StreamReader};

use super::Imports;
use super::bindings::spin::postgres::postgres::{
    Column, Connection, DbDataType, DbError, DbValue, Error, Host, HostConnection, HostConnectionWithStore,
    ParameterValue, QueryError,
};
use crate::instance::Instance;
use crate::metrics;
use crate::tls::{self, SslMode};

/// A connection that rested longer than this is asked whether it lives before it is used.
const TRUSTED_REST: Duration = Duration::from_secs(15);
/// How long such a question may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a statement may take; a server that is silent for longer counts as unreachable.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Addresses for which pools are kept.
const ADDRESSES: usize = 16;

/// Sizes and times of a pool.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections per address.
    pub(crate) connections: u32,
    /// How long one attempt to connect may take, and how long a statement waits for a free connection.
    pub(crate) connect_timeout: Duration,
}

/// Whether the component may connect to a host and port.
type Allows = Box<dyn Fn(&str, u16) -> bool + Send + Sync>;

/// The pools of the component, by address.
pub(crate) struct PostgresPools {
    pools: Mutex<Vec<(String, Pool)>>,
    limits: Limits,
    allows: Allows,
}

impl PostgresPools {
    /// No pools yet. `allows` judges hosts and ports.
    pub(crate) fn new(limits: Limits, allows: Allows) -> Self {
        Self { pools: Mutex::default(), limits, allows }
    }

    /// The pool for `address`; no connection is made yet.
    fn open(&self, address: &str) -> Result<u32, Error> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let position = match pools.iter().position(|(known, _)| known == address) {
            Some(position) => position,
            None if pools.len() == ADDRESSES => return Err(Error::Other("too many addresses".to_owned())),
            None => {
                let address_parsed =
                    Address::parse(address).map_err(|error| Error::ConnectionFailed(error.to_string()))?;
                for (host, port) in address_parsed.hosts() {
                    if !(self.allows)(&host, port) {
                        let message = format!("{host}:{port} is not an allowed host");
                        return Err(Error::ConnectionFailed(message));
                    }
                }
                let pool =
                    address_parsed.pool(self.limits).map_err(|error| Error::ConnectionFailed(error.to_string()))?;
                pools.push((address.to_owned(), pool));
                pools.len() - 1
            }
        };
        Ok(u32::try_from(position).expect("there are few addresses"))
    }

    fn get(&self, connection: &Resource<Connection>) -> Pool {
        // A resource is made by `open` only, and pools are never removed.
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)[connection.rep() as usize].1.clone()
    }
}

/// An address of a PostgreSQL server, with what libpq understands and tokio-postgres does not taken out.
pub(crate) struct Address {
    config: tokio_postgres::Config,
    mode: SslMode,
    roots: Option<String>,
}

/// An address that is none.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadAddress(String);

impl Address {
    /// Parses `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…`.
    pub(crate) fn parse(address: &str) -> Result<Self, BadAddress> {
        // What is wrong is said without the address, which has a password in it.
        let bad = |what: &str| BadAddress(format!("the PostgreSQL address {what}"));
        let mut url = Url::parse(address).map_err(|_| bad("is not a URL"))?;
        let mut mode = SslMode::Prefer;
        let mut roots = None;
        let mut rest = Vec::new();
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "sslmode" => {
                    mode = match value.as_ref() {
                        "disable" => SslMode::Disable,
                        "allow" | "prefer" => SslMode::Prefer,
                        "require" => SslMode::Require,
                        "verify-ca" => SslMode::VerifyCa,
                        "verify-full" => SslMode::VerifyFull,
                        other => return Err(bad(&format!("has an unknown sslmode `{other}`"))),
                    }
                }
                "sslrootcert" if value == "system" => mode = SslMode::VerifyFull,
                "sslrootcert" => {
                    let read = std::fs::read_to_string(value.as_ref());
                    roots = Some(read.map_err(|error| bad(&format!("names sslrootcert {value}: {error}")))?);
                }
                _ => rest.push((name.into_owned(), value.into_owned())),
            }
        }
        url.set_query(None);
        if !rest.is_empty() {
            url.query_pairs_mut().extend_pairs(rest);
        }
        let mut config: tokio_postgres::Config =
            url.as_str().parse().map_err(|error: tokio_postgres::Error| bad(&format!("is not usable: {error}")))?;
        config.ssl_mode(match mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => tokio_postgres::config::SslMode::Require,
        });
        if config.get_application_name().is_none() {
            config.application_name("sallyport");
        }
        Ok(Self { config, mode, roots })
    }

    /// Hosts and ports it names; a socket directory counts as `localhost`.
    pub(crate) fn hosts(&self) -> Vec<(String, u16)> {
        let ports = self.config.get_ports();
        let port = |index: usize| ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
        let host = |host: &tokio_postgres::config::Host| match host {
            tokio_postgres::config::Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            tokio_postgres::config::Host::Unix(_) => "localhost".to_owned(),
        };
        self.config.get_hosts().iter().enumerate().map(|(index, named)| (host(named), port(index))).collect()
    }

    fn tls(&self) -> anyhow::Result<MakeRustls> {
        Ok(MakeRustls(TlsConnector::from(Arc::new(tls::postgres(self.mode, self.roots.clone())?))))
    }

    fn config(&self, limits: Limits) -> tokio_postgres::Config {
        let mut config = self.config.clone();
        config
            .connect_timeout(limits.connect_timeout)
            .keepalives_idle(Duration::from_secs(30))
            .keepalives_interval(Duration::from_secs(10))
            .keepalives_retries(3)
            .tcp_user_timeout(STATEMENT_TIMEOUT);
        config
    }

    fn pool(&self, limits: Limits) -> anyhow::Result<Pool> {
        // `Fast` only asks whether the connection is known to be closed; `connection` asks the rest.
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config(self.config(limits), self.tls()?, recycling);
        let timeouts = Timeouts {
            wait: Some(limits.connect_timeout),
            create: Some(limits.connect_timeout),
            recycle: Some(CHECK_TIMEOUT),
        };
        let size = usize::try_from(limits.connections)?;
        Ok(Pool::builder(manager).max_size(size).runtime(Runtime::Tokio1).timeouts(timeouts).build()?)
    }

    /// A pool for the command line itself, without the component.
    pub(crate) fn direct(&self, limits: Limits) -> anyhow::Result<Direct> {
        Ok(Direct(self.pool(limits)?))
    }

    /// One connection, for reading somebody else's database.
    pub(crate) async fn client(&self, limits: Limits) -> Result<tokio_postgres::Client, String> {
        let tls = self.tls().map_err(|error| format!("{error:#}"))?;
        let (client, connection) = self.config(limits).connect(tls).await.map_err(|error| describe(&error))?;
        // It ends with the client; whoever waits for an answer then is told why.
        tokio::spawn(connection);
        Ok(client)
    }

    /// The same address with `password`, if it has none.
    #[must_use]
    pub(crate) fn or_password(mut self, password: Option<String>) -> Self {
        if let Some(password) = password.filter(|_| self.config.get_password().is_none()) {
            self.config.password(password);
        }
        self
    }

    /// Connects once and leaves again: whether the database can be reached, as a check before the start.
    pub(crate) async fn try_connect(&self, limits: Limits) -> Result<(), ConnectFault> {
        let tls = self.tls().map_err(|error| ConnectFault { message: format!("{error:#}"), lasting: true })?;
        let config = self.config(limits);
        // The library bounds the connection, not what the server says on it.
        let Ok(connect) = tokio::time::timeout(limits.connect_timeout, config.connect(tls)).await else {
            let message = format!("no answer within {} s", limits.connect_timeout.as_secs());
            return Err(ConnectFault { message, lasting: false });
        };
        // Dropping both halves closes the connection.
        connect.map(drop).map_err(|error| ConnectFault { lasting: is_lasting(&error), message: describe(&error) })
    }
}

/// Why no connection could be made.
#[derive(Debug)]
pub(crate) struct ConnectFault {
    /// What happened.
    pub(crate) message: String,
    /// Whether trying again is pointless: the server itself refused (auth contract §1.2).
    pub(crate) lasting: bool,
}

fn is_lasting(error: &tokio_postgres::Error) -> bool {
    if let Some(state) = error.code() {
        // A server that starts or stops, or has no connection left, may have changed its mind in two seconds.
        return ![
            SqlState::CANNOT_CONNECT_NOW,
            SqlState::ADMIN_SHUTDOWN,
            SqlState::CRASH_SHUTDOWN,
            SqlState::TOO_MANY_CONNECTIONS,
        ]
        .contains(state);
    }
    error.to_string().contains("TLS")
}

/// The message of the server, or of the innermost cause.
fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(database) = error.as_db_error() {
        return format!("{}: {} ({})", database.severity(), database.message(), database.code().code());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

/// Whether the connection, rather than the statement, is to blame.
fn is_connection_fault(error: &tokio_postgres::Error) -> bool {
    if let Some(state) = error.code() {
        return was_cut_off(state) || state.code().starts_with("08");
    }
    let cause = std::error::Error::source(error);
    error.is_closed() || cause.is_some_and(<dyn std::error::Error + 'static>::is::<std::io::Error>)
}

/// The server ended the session; whatever it was doing was rolled back.
fn was_cut_off(state: &SqlState) -> bool {
    [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW].contains(state)
}

/// A connection that is most likely alive.
async fn connection(pool: &Pool) -> Result<Object, Error> {
    loop {
        let since = Instant::now();
        let object = pool.get().await;
        if let Some(metrics) = metrics::wanted() {
            let status = pool.status();
            metrics.pool(since, status.size, status.available);
        }
        let object = object.map_err(|error| Error::ConnectionFailed(pool_fault(&error)))?;
        if Object::metrics(&object).last_used() < TRUSTED_REST {
            return Ok(object);
        }
        match tokio::time::timeout(CHECK_TIMEOUT, object.simple_query("")).await {
            Ok(Ok(_)) => return Ok(object),
            _ => drop(Object::take(object)),
        }
    }
}

fn pool_fault(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => describe(error),
        PoolError::Timeout(_) => "timed out waiting for a connection".to_owned(),
        other => other.to_string(),
    }
}

/// What of a statement is of interest.
#[derive(Clone, Copy)]
enum Wanted {
    Rows,
    Count,
}

/// What a statement came to.
struct Outcome {
    statement: tokio_postgres::Statement,
    rows: Vec<Row>,
    changed: u64,
}

/// What one attempt came to.
enum Attempt {
    Done(Outcome),
    /// The connection was at fault and nothing was changed: another one may do it.
    Again(Error),
    Failed(Error),
}

/// Runs `statement`, on another connection when the first one turns out to be dead before anything was done.
async fn run(pool: &Pool, statement: &str, parameters: &[Parameter], wanted: Wanted) -> Result<Outcome, Error> {
    let references: Vec<&(dyn ToSql + Sync)> =
        parameters.iter().map(|parameter| parameter as &(dyn ToSql + Sync)).collect();
    // Every connection of the pool may be stale; one more is certainly new.
    let mut attempts = pool.status().max_size + 1;
    loop {
        let object = connection(pool).await?;
        let attempt = tokio::time::timeout(STATEMENT_TIMEOUT, once(&object, statement, &references, wanted));
        let attempt = attempt.await.unwrap_or_else(|_| {
            Attempt::Failed(Error::ConnectionFailed("the database did not answer in time".to_owned()))
        });
        match attempt {
            Attempt::Done(result) => return Ok(result),
            Attempt::Again(error) => {
                drop(Object::take(object));
                attempts -= 1;
                if attempts == 0 {
                    return Err(error);
                }
            }
            Attempt::Failed(error) => {
                if matches!(error, Error::ConnectionFailed(_)) {
                    drop(Object::take(object));
                }
                return Err(error);
            }
        }
    }
}

async fn once(object: &Object, text: &str, parameters: &[&(dyn ToSql + Sync)], wanted: Wanted) -> Attempt {
    let mut fresh_plan = false;
    loop {
        let statement = match object.prepare_cached(text).await {
            Ok(statement) => statement,
            // Preparing changes nothing.
            Err(error) if is_connection_fault(&error) => return Attempt::Again(fault(&error)),
            Err(error) => return Attempt::Failed(fault(&error)),
        };
        if statement.params().len() != parameters.len() {
            let expected = statement.params().len();
            let message = format!("the statement has {expected} parameters, {} were given", parameters.len());
            return Attempt::Failed(Error::BadParameter(message));
        }
        let outcome = match wanted {
            Wanted::Rows => {
                object.query(&statement, parameters).await.map(|rows| Outcome { statement, rows, changed: 0 })
            }
            Wanted::Count => {
                let changed = object.execute(&statement, parameters).await;
                changed.map(|changed| Outcome { statement, rows: Vec::new(), changed })
            }
        };
        let error = match outcome {
            Ok(outcome) => return Attempt::Done(outcome),
            Err(error) => error,
        };
        // A migration changed a table under a prepared statement; a new one fits.
        if error.code() == Some(&SqlState::FEATURE_NOT_SUPPORTED) && !fresh_plan {
            object.statement_cache.clear();
            fresh_plan = true;
            continue;
        }
        let harmless = error.code().is_some_and(was_cut_off) || is_reading(text);
        return if is_connection_fault(&error) && harmless {
            Attempt::Again(fault(&error))
        } else {
            Attempt::Failed(fault(&error))
        };
    }
}

/// Whether a statement certainly changes nothing, so that it may run twice.
fn is_reading(statement: &str) -> bool {
    let word = statement.split_whitespace().next().unwrap_or_default();
    word.eq_ignore_ascii_case("SELECT") && !statement.to_ascii_lowercase().contains("pg_")
}

fn fault(error: &tokio_postgres::Error) -> Error {
    if is_connection_fault(error) {
        return Error::ConnectionFailed(describe(error));
    }
    match error.as_db_error() {
        Some(database) => Error::QueryFailed(QueryError::DbError(DbError {
            as_text: describe(error),
            severity: database.severity().to_owned(),
            code: database.code().code().to_owned(),
            message: database.message().to_owned(),
            detail: database.detail().map(str::to_owned),
            extras: [
                ("table", database.table()),
                ("column", database.column()),
                ("constraint", database.constraint()),
                ("hint", database.hint()),
            ]
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect(),
        })),
        None => Error::QueryFailed(QueryError::Text(describe(error))),
    }
}

/// A value on its way in. It takes the type that the statement asks for, as far as nothing is lost.
#[derive(Debug)]
enum Parameter {
    Null,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Parameter {
    fn of(value: ParameterValue) -> Result<Self, Error> {
        Ok(match value {
            ParameterValue::DbNull => Self::Null,
            ParameterValue::Boolean(boolean) => Self::Boolean(boolean),
            ParameterValue::Int8(integer) => Self::Integer(integer.into()),
            ParameterValue::Int16(integer) => Self::Integer(integer.into()),
            ParameterValue::Int32(integer) => Self::Integer(integer.into()),
            ParameterValue::Int64(integer) => Self::Integer(integer),
            ParameterValue::Floating32(float) => Self::Float(float.into()),
            ParameterValue::Floating64(float) => Self::Float(float),
            ParameterValue::Str(text) => Self::Text(text),
            ParameterValue::Binary(bytes) => Self::Bytes(bytes),
            _ => return Err(Error::BadParameter("this host takes booleans, numbers, text and bytes".to_owned())),
        })
    }
}

impl Parameter {
    fn own(value: &ports::Value) -> Self {
        match value {
            ports::Value::Null => Self::Null,
            ports::Value::Integer(integer) => Self::Integer(*integer),
            ports::Value::Text(text) => Self::Text(text.clone()),
            ports::Value::Bytes(bytes) => Self::Bytes(bytes.clone()),
        }
    }
}

impl ToSql for Parameter {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Boolean(boolean) if *kind == Type::BOOL => out.put_u8((*boolean).into()),
            Self::Integer(integer) if *kind == Type::INT8 => out.put_i64(*integer),
            Self::Integer(integer) if *kind == Type::INT4 => out.put_i32((*integer).try_into()?),
            Self::Integer(integer) if *kind == Type::INT2 => out.put_i16((*integer).try_into()?),
            Self::Integer(integer) if *kind == Type::FLOAT8 => {
                #[expect(clippy::cast_precision_loss, reason = "the statement asked for a floating-point number")]
                out.put_f64(*integer as f64);
            }
            Self::Float(float) if *kind == Type::FLOAT8 => out.put_f64(*float),
            Self::Text(text) if <&str as ToSql>::accepts(kind) => out.put_slice(text.as_bytes()),
            Self::Bytes(bytes) if *kind == Type::BYTEA => out.put_slice(bytes),
            _ => return Err(format!("a value of another type was given for a parameter of type {kind}").into()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.to_sql(kind, out)
    }
}

/// A value on its way out, as the server sent it.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn row(row: &Row) -> Result<Vec<DbValue>, Error> {
    row.columns().iter().enumerate().map(|(index, column)| value(row, index, column.type_())).collect()
}

fn value(row: &Row, index: usize, kind: &Type) -> Result<DbValue, Error> {
    fn read<'a, T: FromSql<'a>>(kind: &Type, raw: &'a [u8]) -> Result<T, Box<dyn std::error::Error + Sync + Send>> {
        T::from_sql(kind, raw)
    }

    let unreadable = |error: &dyn fmt::Display| Error::ValueConversionFailed(error.to_string());
    let raw: Option<Raw<'_>> = row.try_get(index).map_err(|error| unreadable(&error))?;
    let Some(Raw(raw)) = raw else { return Ok(DbValue::DbNull) };
    let value = match *kind {
        Type::BOOL => read(kind, raw).map(DbValue::Boolean),
        Type::INT2 => read(kind, raw).map(DbValue::Int16),
        Type::INT4 => read(kind, raw).map(DbValue::Int32),
        Type::INT8 => read(kind, raw).map(DbValue::Int64),
        Type::FLOAT4 => read(kind, raw).map(DbValue::Floating32),
        Type::FLOAT8 => read(kind, raw).map(DbValue::Floating64),
        Type::BYTEA => Ok(DbValue::Binary(raw.to_vec())),
        _ if <String as FromSql>::accepts(kind) => read(kind, raw).map(DbValue::Str),
        _ => Ok(DbValue::Unsupported(raw.to_vec())),
    };
    value.map_err(|error| unreadable(&error))
}

fn column(column: &tokio_postgres::Column) -> Column {
    let data_type = match *column.type_() {
        Type::BOOL => DbDataType::Boolean,
        Type::INT2 => DbDataType::Int16,
        Type::INT4 => DbDataType::Int32,
        Type::INT8 => DbDataType::Int64,
        Type::FLOAT4 => DbDataType::Floating32,
        Type::FLOAT8 => DbDataType::Floating64,
        Type::BYTEA => DbDataType::Binary,
        ref kind if <String as FromSql>::accepts(kind) => DbDataType::Str,
        ref kind => DbDataType::Other(kind.name().to_owned()),
    };
    Column { name: column.name().to_owned(), data_type }
}

/// Columns and rows of a statement.
type Table = (Vec<Column>, Vec<Vec<DbValue>>);

async fn query(pool: &Pool, statement: &str, parameters: Vec<ParameterValue>) -> Result<Table, Error> {
    let parameters: Vec<Parameter> = parameters.into_iter().map(Parameter::of).collect::<Result<_, _>>()?;
    let Outcome { statement, rows, .. } = measured(run(pool, statement, &parameters, Wanted::Rows)).await?;
    let columns = statement.columns().iter().map(column).collect();
    Ok((columns, rows.iter().map(row).collect::<Result<_, _>>()?))
}

async fn execute(pool: &Pool, statement: &str, parameters: Vec<ParameterValue>) -> Result<u64, Error> {
    let parameters: Vec<Parameter> = parameters.into_iter().map(Parameter::of).collect::<Result<_, _>>()?;
    Ok(measured(run(pool, statement, &parameters, Wanted::Count)).await?.changed)
}

async fn measured<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let since = Instant::now();
    let outcome = work.await;
    if let Some(metrics) = metrics::wanted() {
        metrics.store("postgres", since, outcome.is_ok());
    }
    outcome
}

/// The configured database, used by the command line itself.
pub(crate) struct Direct(Pool);

#[async_trait::async_trait(?Send)]
impl ports::Db for Direct {
    async fn run(&self, statement: &str, parameters: &[ports::Value]) -> Result<Vec<ports::Row>, ports::DbError> {
        let parameters: Vec<Parameter> = parameters.iter().map(Parameter::own).collect();
        let outcome = run(&self.0, statement, &parameters, Wanted::Rows).await.map_err(own_error)?;
        let own = |found: &Row| row(found)?.into_iter().map(own_value).collect();
        outcome.rows.iter().map(own).collect::<Result<_, _>>().map_err(own_error)
    }

    fn dialect(&self) -> ports::Dialect {
        ports::Dialect::Postgres
    }
}

fn own_value(value: DbValue) -> Result<ports::Value, Error> {
    Ok(match value {
        DbValue::DbNull => ports::Value::Null,
        DbValue::Int16(integer) => ports::Value::Integer(integer.into()),
        DbValue::Int32(integer) => ports::Value::Integer(integer.into()),
        DbValue::Int64(integer) => ports::Value::Integer(integer),
        DbValue::Str(text) => ports::Value::Text(text),
        DbValue::Binary(bytes) => ports::Value::Bytes(bytes),
        _ => return Err(Error::ValueConversionFailed("a column is neither a whole number, text nor bytes".to_owned())),
    })
}

fn own_error(error: Error) -> ports::DbError {
    match error {
        Error::ConnectionFailed(message) => ports::DbError::Unavailable(message),
        Error::QueryFailed(QueryError::DbError(error)) => ports::DbError::Refused(error.as_text),
        Error::QueryFailed(QueryError::Text(message))
        | Error::BadParameter(message)
        | Error::ValueConversionFailed(message)
        | Error::Other(message) => ports::DbError::Refused(message),
    }
}

impl Host for Instance {}

impl HostConnection for Instance {}

impl<T: Send> HostConnectionWithStore<T> for Imports {
    async fn drop(_: &Accessor<T, Self>, _: Resource<Connection>) -> wasmtime::Result<()> {
        Ok(())
    }

    async fn open_async(
        accessor: &Accessor<T, Self>,
        address: String,
    ) -> wasmtime::Result<Result<Resource<Connection>, Error>> {
        let opened = accessor.with(|mut access| access.get().world.postgres.open(&address));
        Ok(opened.map(Resource::new_own))
    }

    async fn query_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<ParameterValue>,
    ) -> wasmtime::Result<Result<(Vec<Column>, StreamReader<Vec<DbValue>>, FutureReader<Result<(), Error>>), Error>>
    {
        let pool = accessor.with(|mut access| access.get().world.postgres.get(&connection));
        // A task of its own: the driver must not wait for the component's other work.
        let asked = tokio::spawn(async move { query(&pool, &statement, parameters).await }).await?;
        let (columns, rows) = match asked {
            Ok(table) => table,
            Err(error) => return Ok(Err(error)),
        };
        accessor.with(|mut access| {
            let rows = StreamReader::new(&mut access, rows)?;
            let outcome = FutureReader::new(&mut access, async { wasmtime::error::Ok(Ok(())) })?;
            Ok(Ok((columns, rows, outcome)))
        })
    }

    async fn execute_async(
        accessor: &Accessor<T, Self>,
        connection: Resource<Connection>,
        statement: String,
        parameters: Vec<ParameterValue>,
    ) -> wasmtime::Result<Result<u64, Error>> {
        let pool = accessor.with(|mut access| access.get().world.postgres.get(&connection));
        Ok(tokio::spawn(async move { execute(&pool, &statement, parameters).await }).await?)
    }
}

/// rustls for tokio-postgres.
#[derive(Clone)]
struct MakeRustls(TlsConnector);

impl MakeTlsConnect<Socket> for MakeRustls {
    type Stream = RustlsStream;
    type TlsConnect = Rustls;
    type Error = std::io::Error;

    fn make_tls_connect(&mut self, host: &str) -> std::io::Result<Rustls> {
        let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
        Ok(Rustls { connector: self.0.clone(), name })
    }
}

struct Rustls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl TlsConnect<Socket> for Rustls {
    type Stream = RustlsStream;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<RustlsStream>> + Send>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move { Ok(RustlsStream(self.connector.connect(self.name, stream).await?)) })
    }
}

/// A TLS connection to PostgreSQL.
struct RustlsStream(tokio_rustls::client::TlsStream<Socket>);

impl TlsStream for RustlsStream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for RustlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for RustlsStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_how_sure_to_be_of_the_server() {
        for (address, mode) in [
            ("postgres://u:p@db.example/d", SslMode::Prefer),
            ("postgresql://u:p@db.example/d?sslmode=disable", SslMode::Disable),
            ("postgres://u:p@db.example/d?sslmode=prefer", SslMode::Prefer),
            ("postgres://u:p@db.example/d?sslmode=require", SslMode::Require),
            ("postgres://u:p@db.example/d?sslmode=verify-ca", SslMode::VerifyCa),
            ("postgres://u:p@db.example/d?application_name=x&sslmode=verify-full", SslMode::VerifyFull),
        ] {
            let parsed = Address::parse(address).unwrap_or_else(|error| panic!("{address}: {error}"));
            assert_eq!(parsed.mode, mode, "{address}");
            assert_eq!(parsed.hosts(), [("db.example".to_owned(), 5432)], "{address}");
        }
    }

    #[test]
    fn a_bad_address_is_refused_without_showing_its_password() {
        for address in ["postgres://u:hunter2@db/d?sslmode=maybe", "nonsense hunter2", "postgres://u:hunter2@db:port/d"]
        {
            let error = Address::parse(address).err().unwrap_or_else(|| panic!("{address} was accepted"));
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn integers_take_the_width_of_their_column() {
        let mut out = BytesMut::new();
        for (kind, bytes) in [(Type::INT2, 2), (Type::INT4, 4), (Type::INT8, 8)] {
            out.clear();
            assert!(Parameter::Integer(7).to_sql(&kind, &mut out).is_ok());
            assert_eq!(out.len(), bytes, "{kind}");
        }
        assert!(Parameter::Integer(i64::MAX).to_sql(&Type::INT4, &mut out).is_err());
        assert!(Parameter::Text("7".to_owned()).to_sql(&Type::INT8, &mut out).is_err());
    }

    #[test]
    fn only_plain_selects_run_twice() {
        for (statement, reading) in [
            ("SELECT a FROM t", true),
            ("  select a from t", true),
            ("SELECT pg_advisory_lock($1)", false),
            ("INSERT INTO t VALUES ($1)", false),
            ("WITH x AS (DELETE FROM t RETURNING a) SELECT a FROM x", false),
        ] {
            assert_eq!(is_reading(statement), reading, "{statement}");
        }
    }
}
