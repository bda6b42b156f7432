//! The edge: the host's request in, [`Gateway::handle`], the response out. The only place that names the SDK.
//!
//! It moves, it does not decide. Each file adapts one import of the component to one port.
//!
//! Instances are reused and shared between concurrent requests, and a future that one request polls is never awaited
//! by another: the runtime has no wake-ups between tasks.

mod host;
mod http;
mod key_value;
mod postgres;
mod sqlite;
mod variables;

use std::cell::OnceCell;
use std::collections::HashMap;
use std::rc::Rc;

use spin_sdk::wasip3;
use spin_sdk::wasip3::http::types::{ErrorCode, Request, Response};

use crate::config::{self, Config};
use crate::gateway::{self, Gateway};
use crate::ports::{Clock, Db, KeyValue, Log, Ports, Variables};
use crate::store::key_value::SqlKeyValue;
use crate::upstream::credentials;

/// Where the configuration is mounted.
const CONFIG_PATH: &str = "/gateway.yaml";

struct Component;

wasip3::http::service::export!(Component);

impl wasip3::exports::http::handler::Guest for Component {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let (request, client) = http::incoming(request)?;
        let response = match gateway().await {
            Some(gateway) => gateway.handle(request).await,
            None => gateway::unconfigured(&request.headers, &host::SystemEntropy),
        };
        http::outgoing(response, client)
    }
}

thread_local! {
    /// Built by the first request and kept for the life of the instance. `None` inside: the configuration is faulty.
    static GATEWAY: OnceCell<Option<Rc<Gateway>>> = const { OnceCell::new() };
}

/// This instance's gateway. Requests that arrive while the first one still builds it build their own; one is kept.
async fn gateway() -> Option<Rc<Gateway>> {
    if let Some(built) = GATEWAY.with(|cell| cell.get().cloned()) {
        return built;
    }
    let built = build().await;
    GATEWAY.with(|cell| cell.get_or_init(|| built).clone())
}

async fn build() -> Option<Rc<Gateway>> {
    let log = host::Stderr;
    let files = host::MountedFiles;
    match load(&files).await {
        Ok(config) => {
            let ports = ports(&config, environment(&config).await);
            Some(Rc::new(Gateway::new(config, ports)))
        }
        Err(faults) => {
            for fault in faults {
                let format = variables::log_format();
                log.line(&format.line(host::SystemClock.now(), crate::log::Level::Error, None, &fault));
            }
            None
        }
    }
}

async fn load(files: &host::MountedFiles) -> Result<Config, Vec<String>> {
    use crate::ports::Files;

    let text = files.read(CONFIG_PATH).map_err(|why| vec![format!("{CONFIG_PATH}: {why}")])?;
    let text = String::from_utf8(text).map_err(|_| vec![format!("{CONFIG_PATH} is not UTF-8")])?;
    let mut values = HashMap::new();
    for name in config::variables(&text) {
        if let Some(value) = variables::SpinVariables.find(&name).await {
            values.insert(name, value);
        }
    }
    let sources = config::Sources {
        variables: values,
        files,
        allow_loopback: variables::switch("CLAUDE_GATEWAY_ALLOW_LOOPBACK"),
    };
    match config::parse(&text, &sources) {
        Ok(loaded) => Ok(loaded.config),
        Err(faults) => Err(faults.iter().map(ToString::to_string).collect()),
    }
}

/// What credential chains look for; only asked where an upstream has one.
async fn environment(config: &Config) -> HashMap<String, String> {
    let mut found = HashMap::new();
    if config.upstreams.iter().any(|upstream| credentials::configured(&upstream.provider).is_none()) {
        for name in credentials::VARIABLES {
            if let Some(value) = variables::SpinVariables.find(name).await {
                found.insert(name.to_owned(), value);
            }
        }
    }
    found
}

fn ports(config: &Config, environment: HashMap<String, String>) -> Ports {
    // With PostgreSQL several machines serve together, so what they must agree on lives there, too.
    let (db, key_value): (Box<dyn Db>, Box<dyn KeyValue>) = match &config.store.postgres_url {
        Some(address) => {
            let postgres = || postgres::SpinPostgres::new(address.reveal().clone());
            (Box::new(postgres()), Box::new(SqlKeyValue::new(postgres())))
        }
        None => (Box::new(sqlite::SpinSqlite), Box::new(key_value::SpinKeyValue)),
    };
    Ports {
        clock: Box::new(host::SystemClock),
        entropy: Box::new(host::SystemEntropy),
        http: Box::new(http::SpinHttp),
        key_value,
        db,
        log: Box::new(host::Stderr),
        figures: variables::counts_figures().then(|| Box::new(host::Stdout) as Box<dyn Log>),
        files: Box::new(host::MountedFiles),
        tasks: Box::new(host::SpinTasks),
        environment,
        log_level: variables::log_level(),
        log_format: variables::log_format(),
        allow_loopback: variables::switch("CLAUDE_GATEWAY_ALLOW_LOOPBACK"),
        control: variables::control_token(),
    }
}
