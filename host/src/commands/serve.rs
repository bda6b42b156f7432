//! `sallyport serve`: check, connect, migrate, discover; then listen, until a signal says to stop.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use rustls::ServerConfig;
use sallyport::config::Config;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::{Common, Faults};
use crate::capability::http::Outbound;
use crate::capability::key_value::KeyValueStores;
use crate::capability::postgres::{self, PostgresPools};
use crate::capability::sqlite::SqliteDatabases;
use crate::component::INSTANCE_MEMORY;
use crate::control::Control;
use crate::egress::Egress;
use crate::generation::{Generations, Ground};
use crate::guard::Guard;
use crate::hosts::Reach;
use crate::lane::Lanes;
use crate::listen::{self, Server};
use crate::manifest::{Manifest, RuntimeConfig};
use crate::operator::{self, Phase};
use crate::reload::{Hangups, Reloader};
use crate::settings::Settings;
use crate::{console, egress, environment, private, tls};

/// Attempts to reach PostgreSQL, and the pause between two (auth contract §1.2).
const CONNECT_ATTEMPTS: u32 = 3;
const CONNECT_PAUSE: Duration = Duration::from_secs(2);
/// Time that open requests get after a signal, unless `CLAUDE_GATEWAY_DRAIN_TIMEOUT_MS` says otherwise.
const DRAIN: Duration = Duration::from_secs(25);
/// Time for the component's work after the last response: audit lines, settled reservations.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Arguments of `serve`.
#[derive(Args, Debug, Clone)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Listen here instead of where the configuration says, e.g. 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// How operational lines are written; audit events are JSON in any case
    #[arg(long, value_enum, value_name = "FORM", default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Forms of operational lines.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
enum LogFormat {
    /// The reference's form: a tag, the time, the level, the message
    Text,
    /// One JSON object per line
    Json,
}

/// What a host is made of. The command line gives the plain ones; others may add to them.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Files and directories.
    pub(crate) common: Common,
    /// Where to listen, if not where the configuration says.
    pub(crate) listen: Option<String>,
    /// Values of variables besides those of the environment.
    pub(crate) variables: Vec<(String, String)>,
    /// Whether loopback targets are allowed.
    pub(crate) allow_loopback: bool,
}

impl From<Common> for Options {
    fn from(common: Common) -> Self {
        let allow_loopback = environment::switch("CLAUDE_GATEWAY_ALLOW_LOOPBACK");
        Self { common, listen: None, variables: Vec::new(), allow_loopback }
    }
}

/// Serves until a signal, as the command line asks.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Faults> {
    if arguments.log_format == LogFormat::Json {
        console::write_as(sallyport::log::Format::Json);
    }
    let mut options = Options::from(arguments.common);
    options.listen = arguments.listen;
    serve(&options, |_, _| {}).await
}

/// Serves until a signal. `ready` is told the scheme and the address that is listened on.
pub(crate) async fn serve(options: &Options, ready: impl FnOnce(&str, SocketAddr)) -> Result<(), Faults> {
    // Signals count from the beginning: a start that takes long can be called off.
    let signals = Signals::watch()?;
    let hangups = Hangups::watch().context("cannot watch SIGHUP")?;
    let host = tokio::select! {
        host = Host::prepare(options) => host?,
        () = signals.first() => return Ok(()),
    };
    let generation = host.generations.current();
    if let Some(wanted) = &generation.config.observability.metrics {
        operator::start(wanted, Arc::clone(&host.generations)).await?;
    }
    let started = tokio::select! {
        started = generation.start(&options.common.config) => started?,
        () = signals.first() => return Ok(()),
    };
    let address = options.listen.clone().unwrap_or_else(|| address(&generation.config));
    let lanes = Lanes::start()?;
    let listener = listen::bind(&address).await?;
    let local = listener.local_addr().context("no local address")?;
    for line in &started.lines {
        console::info(line);
    }
    host.announce(local);
    for warning in generation.warnings.iter().chain(&started.warnings) {
        console::warn(warning);
    }
    drop(generation);
    Phase::Serving.begin();
    ready(host.server.scheme(), local);
    host.listen(listener, &lanes, &signals, hangups).await;
    Ok(())
}

fn address(config: &Config) -> String {
    let host = &config.listen.host;
    if host.contains(':') && !host.starts_with('[') {
        return format!("[{host}]:{}", config.listen.port);
    }
    format!("{host}:{}", config.listen.port)
}

/// A host that is ready to listen.
pub(crate) struct Host {
    ground: Arc<Ground>,
    generations: Arc<Generations>,
    server: Arc<Server>,
}

impl Host {
    /// Reads everything, opens everything, and loads the component. All faults of files are found together.
    pub(crate) async fn prepare(options: &Options) -> Result<Self, Faults> {
        let Prepared { settings, manifest, runtime_config, tls, postgres } = Prepared::read(options)?;
        let state = &options.common.state_dir;
        private::create_directory(state).with_context(|| format!("cannot create {}", state.display()))?;
        let ground = Ground {
            options: options.clone(),
            key_value: key_value(state, manifest.as_ref(), &runtime_config)?,
            sqlite: sqlite(state, manifest.as_ref(), &runtime_config)?,
            manifest,
            runtime_config,
            instance_memory: INSTANCE_MEMORY,
        };
        let generations = Generations::new(ground.generation(settings, postgres.as_ref()).await?);
        Ok(Self { ground: Arc::new(ground), server: Server::new(Arc::clone(&generations), tls), generations })
    }

    /// Into the component.
    pub(crate) fn control(&self) -> Control {
        self.generations.current().control().clone()
    }

    /// Says where and for whom the gateway is there (auth contract §1.2).
    fn announce(&self, local: SocketAddr) {
        console::info(&format!("sallyport listening on {}://{local}", self.server.scheme()));
        let generation = self.generations.current();
        let config = &generation.config;
        console::info(&format!(
            "public URL: {}",
            config.listen.public_url.as_deref().unwrap_or("taken from each request's Host header")
        ));
        let clients = if config.listen.trusted_proxies.is_empty() {
            "the TCP peer".to_owned()
        } else {
            let proxies: Vec<String> = config.listen.trusted_proxies.iter().map(ToString::to_string).collect();
            format!("X-Forwarded-For of {}", proxies.join(", "))
        };
        console::info(&format!("client addresses: {clients}"));
        let restriction = |name: &str, allowed: &[String]| match allowed {
            [] => String::new(),
            _ => format!(", {name} {}", allowed.join(", ")),
        };
        for provider in &config.oidc {
            console::info(&format!(
                "identity provider: {}{}{}{}",
                provider.name.as_ref().map(|name| format!("{name}, ")).unwrap_or_default(),
                provider.issuer,
                restriction("domains", &provider.allowed_email_domains),
                restriction("groups", &provider.allowed_groups)
            ));
        }
        if !config.service_identities.is_empty() {
            let programs = config.service_identities.iter().map(|entry| format!("{} ({})", entry.name, entry.issuer));
            console::info(&format!("service identities: {}", programs.collect::<Vec<_>>().join(", ")));
        }
        let upstreams: Vec<String> = config
            .upstreams
            .iter()
            .map(|upstream| match &upstream.groups {
                Some(groups) => format!("{} (groups {})", upstream.name, groups.join(", ")),
                None => upstream.name.clone(),
            })
            .collect();
        console::info(&format!("upstreams: {}", upstreams.join(", ")));
        console::info(&format!("store: {}", if config.store.postgres_url.is_some() { "PostgreSQL" } else { "SQLite" }));
        console::info(&format!("managed settings: {}", if config.managed.is_some() { "configured" } else { "none" }));
    }

    /// Serves until the first signal, then lets open requests finish (auth contract §1.5).
    async fn listen(&self, listener: TcpListener, lanes: &Lanes, signals: &Signals, hangups: Hangups) {
        let reloader = Reloader::new(Arc::clone(&self.ground), Arc::clone(&self.generations));
        let reloads = tokio::spawn(reloader.run(hangups));
        let stop = async {
            signals.first().await;
            Phase::Draining.begin();
            let delay = environment::find("CLAUDE_GATEWAY_DRAIN_DELAY_MS").and_then(|millis| millis.parse().ok());
            let delay = delay.map_or(Duration::ZERO, Duration::from_millis);
            if !delay.is_zero() {
                console::info(&format!("draining: not ready any more, no new connections in {} ms", delay.as_millis()));
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = signals.second() => {}
                }
            }
        };
        let graceful = Arc::clone(&self.server).serve(listener, lanes, stop).await;
        reloads.abort();
        let drain = environment::find("CLAUDE_GATEWAY_DRAIN_TIMEOUT_MS").and_then(|millis| millis.parse().ok());
        let drain = drain.map_or(DRAIN, Duration::from_millis);
        console::info(&format!("shutting down: no new connections, {} open requests", self.generations.in_flight()));
        let finished = async {
            graceful.shutdown().await;
            self.generations.at_rest().await;
        };
        let cut = tokio::select! {
            () = finished => None,
            () = tokio::time::sleep(drain) => Some("the drain time is over"),
            () = signals.second() => Some("a second signal arrived"),
        };
        match cut {
            None => console::info("all requests are finished"),
            Some(why) => console::warn(&format!("{why}: {} requests were cut", self.generations.in_flight())),
        }
    }

    /// Waits for the component's work after its last answer.
    pub(crate) async fn end(self) {
        let _ = tokio::time::timeout(AFTERMATH, self.generations.at_rest()).await;
    }
}

/// Where the ring of signing keys is, for a command that only looks: what is not there is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ring {
    /// In the state directory, or where the runtime configuration says.
    Here,
    /// Not on this machine, or the configuration names the keys; there is no state directory.
    Elsewhere,
    /// There is none yet.
    Nowhere,
}

impl Ring {
    /// Looks for it.
    pub(crate) fn of(options: &Options) -> Result<Self, Faults> {
        let Prepared { settings, manifest, runtime_config, postgres, .. } = Prepared::read(options)?;
        let state = &options.common.state_dir;
        let labels = manifest.as_ref().map(|manifest| &manifest.key_value_stores);
        let stores = files(state, labels, &runtime_config.key_value_stores, "key_value");
        let is_named = !settings.config.session.jwt_secrets.is_empty();
        if !is_named && postgres.is_none() && !stores.iter().all(|(_, path)| path.exists()) {
            return Ok(Self::Nowhere);
        }
        Ok(if state.exists() { Self::Here } else { Self::Elsewhere })
    }
}

/// What the files say.
struct Prepared {
    settings: Settings,
    manifest: Option<Manifest>,
    runtime_config: RuntimeConfig,
    tls: Option<ServerConfig>,
    postgres: Option<postgres::Address>,
}

impl Prepared {
    fn read(options: &Options) -> Result<Self, Faults> {
        let common = &options.common;
        let mut faults = Vec::new();
        let manifest = common.manifest.as_deref().map(Manifest::read).transpose();
        let manifest = manifest.unwrap_or_else(|found| {
            faults.extend(found);
            None
        });
        let runtime_config =
            common.runtime_config.as_deref().map_or_else(|| Ok(RuntimeConfig::default()), RuntimeConfig::read);
        let runtime_config = runtime_config.unwrap_or_else(|found| {
            faults.extend(found);
            RuntimeConfig::default()
        });
        let settings = match Settings::read(&common.config, &options.variables, options.allow_loopback) {
            Ok(settings) => settings,
            Err(found) => {
                faults.splice(0..0, found);
                return Err(Faults(faults));
            }
        };
        let tls = tls::terminating(&settings.config).unwrap_or_else(|error| {
            faults.push(format!("{error:#}"));
            None
        });
        let postgres = settings.config.store.postgres_url.as_ref().and_then(|address| {
            let address = postgres::Address::parse(address.reveal());
            address.map_err(|error| faults.push(format!("store.postgres_url: {error}"))).ok()
        });
        if faults.is_empty() {
            Ok(Self { settings, manifest, runtime_config, tls, postgres })
        } else {
            Err(Faults(faults))
        }
    }
}

pub(crate) async fn reach_postgres(address: &postgres::Address, limits: postgres::Limits) -> anyhow::Result<()> {
    let mut attempt = 1;
    loop {
        let Err(fault) = address.try_connect(limits).await else { return Ok(()) };
        if fault.lasting || attempt == CONNECT_ATTEMPTS {
            return Err(anyhow!("cannot connect to PostgreSQL at {}: {}", named(address), fault.message));
        }
        console::warn(&format!(
            "cannot connect to PostgreSQL at {} (attempt {attempt} of {CONNECT_ATTEMPTS}): {}",
            named(address),
            fault.message
        ));
        attempt += 1;
        tokio::time::sleep(CONNECT_PAUSE).await;
    }
}

/// `host:port`, without what is secret in an address.
fn named(address: &postgres::Address) -> String {
    address.hosts().iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>().join(", ")
}

/// Outbound HTTP as the configuration, the manifest and the runtime configuration want it.
pub(crate) fn outbound(
    settings: &Settings,
    manifest: Option<&Manifest>,
    runtime_config: &RuntimeConfig,
) -> Result<Arc<Outbound>, Faults> {
    let config = &settings.config;
    let mut trust = runtime_config.client_tls.clone();
    trust.extend(tls::configured(config)?);
    let tls = tls::Outbound::new(&trust)?;
    let reach = Reach::of(config);
    let egress = Egress::new(config, egress::Environment::read(), &reach.metadata_hosts);
    let guard = Guard {
        allow_loopback: settings.allow_loopback,
        metadata_hosts: reach.metadata_hosts,
        block_networks: runtime_config.block_networks.clone(),
    };
    let allowed = manifest.map_or(reach.hosts, |manifest| manifest.allowed_outbound_hosts.clone());
    Ok(Arc::new(Outbound::new(guard, tls, allowed, egress)))
}

/// The component may use the configured database, and others only if the manifest names them.
pub(crate) fn postgres_pools(
    outbound: &Arc<Outbound>,
    configured: Option<&postgres::Address>,
    limits: postgres::Limits,
) -> PostgresPools {
    let outbound = Arc::clone(outbound);
    let configured = configured.map(postgres::Address::hosts).unwrap_or_default();
    PostgresPools::new(
        limits,
        Box::new(move |host, port| {
            configured.iter().any(|(known, at)| known == host && *at == port)
                || outbound.allows("postgres", host, port)
                || outbound.allows("postgresql", host, port)
        }),
    )
}

/// Labels and files of stores: those that the manifest names, or `default`; where the runtime configuration says, or
/// in the state directory.
fn files(
    state: &Path,
    labels: Option<&Vec<String>>,
    paths: &std::collections::HashMap<String, PathBuf>,
    kind: &str,
) -> Vec<(String, PathBuf)> {
    let default = vec!["default".to_owned()];
    let labels = labels.unwrap_or(&default);
    let file = |label: &String| {
        let name = if label == "default" { format!("{kind}.db") } else { format!("{kind}-{label}.db") };
        (label.clone(), paths.get(label).cloned().unwrap_or_else(|| state.join(name)))
    };
    labels.iter().map(file).collect()
}

fn key_value(state: &Path, manifest: Option<&Manifest>, config: &RuntimeConfig) -> anyhow::Result<KeyValueStores> {
    let mut stores = KeyValueStores::default();
    let labels = manifest.map(|manifest| &manifest.key_value_stores);
    for (label, path) in files(state, labels, &config.key_value_stores, "key_value") {
        stores.open(&label, &path).with_context(|| format!("cannot open the key-value store {}", path.display()))?;
    }
    Ok(stores)
}

fn sqlite(state: &Path, manifest: Option<&Manifest>, config: &RuntimeConfig) -> anyhow::Result<SqliteDatabases> {
    let mut databases = SqliteDatabases::default();
    let labels = manifest.map(|manifest| &manifest.sqlite_databases);
    for (name, path) in files(state, labels, &config.sqlite_databases, "sqlite") {
        databases.open(&name, &path).with_context(|| format!("cannot open the database {}", path.display()))?;
    }
    Ok(databases)
}

/// The file of the gateway's own SQLite database.
pub(crate) fn sqlite_file(state: &Path, manifest: Option<&Manifest>, config: &RuntimeConfig) -> PathBuf {
    let labels = manifest.map(|manifest| &manifest.sqlite_databases);
    let files = files(state, labels, &config.sqlite_databases, "sqlite");
    let own = files.into_iter().find(|(label, _)| label == "default");
    own.map_or_else(|| state.join("sqlite.db"), |(_, path)| path)
}

/// SIGTERM and SIGINT, counted.
struct Signals {
    first: Arc<Notify>,
    second: Arc<Notify>,
}

impl Signals {
    fn watch() -> anyhow::Result<Self> {
        let signals = Self { first: Arc::default(), second: Arc::default() };
        let (first, second) = (Arc::clone(&signals.first), Arc::clone(&signals.second));
        let mut received = received().context("cannot watch signals")?;
        tokio::spawn(async move {
            received.recv().await;
            first.notify_one();
            received.recv().await;
            second.notify_one();
        });
        Ok(signals)
    }

    async fn first(&self) {
        self.first.notified().await;
    }

    async fn second(&self) {
        self.second.notified().await;
    }
}

#[cfg(unix)]
struct Received {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
fn received() -> std::io::Result<Received> {
    use tokio::signal::unix::{SignalKind, signal};

    Ok(Received { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
}

#[cfg(unix)]
impl Received {
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Received;

#[cfg(not(unix))]
fn received() -> std::io::Result<Received> {
    Ok(Received)
}

#[cfg(not(unix))]
impl Received {
    async fn recv(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
