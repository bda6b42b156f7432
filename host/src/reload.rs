//! A new configuration without a restart: when SIGHUP arrives, or when a file of the configuration has other content.
//!
//! Files are looked at, not subscribed to: what a symbolic link leads to, a mount that was swapped, and an editor that
//! writes a new file in place of the old are all the same to somebody who reads the content again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sallyport::config::{Config, Listen, Metrics};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::capability::postgres;
use crate::commands::Faults;
use crate::console;
use crate::generation::{Generation, Generations, Ground};
use crate::metrics;
use crate::settings::Settings;

/// Pause between two looks. What two looks in a row find is taken to be written completely.
const LOOK: Duration = Duration::from_millis(500);

/// Replaces the current generation when its configuration changes.
pub(crate) struct Reloader {
    ground: Arc<Ground>,
    generations: Arc<Generations>,
    /// What only a start can change.
    at_start: Listen,
    metrics_at_start: Option<Metrics>,
}

impl Reloader {
    /// For the configuration that the command line named.
    pub(crate) fn new(ground: Arc<Ground>, generations: Arc<Generations>) -> Self {
        let config = &generations.current().config;
        let (at_start, metrics_at_start) = (config.listen.clone(), config.observability.metrics.clone());
        Self { ground, generations, at_start, metrics_at_start }
    }

    /// Watches for as long as it is polled.
    pub(crate) async fn run(self, mut hangups: Hangups) {
        let mut watch = Watch::of(self.path(), &self.generations.current()).await;
        loop {
            tokio::select! {
                () = hangups.recv() => console::info("SIGHUP: reading the configuration again"),
                () = watch.changed() => console::info("the configuration has changed: reading it again"),
            }
            match self.reload().await {
                Ok(()) => {
                    watch.follow(self.path(), &self.generations.current());
                }
                Err(Faults(faults)) => {
                    for fault in &faults {
                        console::error(&format!("configuration not reloaded: {}", fault.replace(['\n', '\r'], " ")));
                    }
                    self.report(&faults).await;
                    console::error(
                        "the gateway goes on with the configuration it has; correct the file, or send SIGHUP to try \
                         again",
                    );
                }
            }
        }
    }

    fn path(&self) -> &Path {
        &self.ground.options.common.config
    }

    /// Reads, prepares, starts; only then does anybody notice.
    async fn reload(&self) -> Result<(), Faults> {
        let options = &self.ground.options;
        let settings = Settings::read(self.path(), &options.variables, options.allow_loopback)?;
        let address = settings.config.store.postgres_url.as_ref();
        let address = address.map(|address| postgres::Address::parse(address.reveal())).transpose();
        let address = address.map_err(|error| Faults(vec![format!("store.postgres_url: {error}")]))?;
        let next = self.ground.generation(settings, address.as_ref()).await?;
        let started = match next.start(self.path()).await {
            Ok(started) => started,
            Err(faults) => {
                next.pool().retire();
                return Err(faults);
            }
        };
        for line in &started.lines {
            console::info(line);
        }
        for warning in next.warnings.iter().chain(&started.warnings) {
            console::warn(warning);
        }
        for key in self.only_at_start(&next.config) {
            console::warn(&format!("{key} has changed; it takes effect at the next start"));
        }
        let sha256 = next.config.sha256.clone();
        self.generations.replace(next);
        if let Some(metrics) = metrics::wanted() {
            metrics.reconfigured();
        }
        self.report(&[]).await;
        console::info(&format!("configuration reloaded: sha256 {sha256}"));
        Ok(())
    }

    /// Has the component that serves now write the audit event.
    async fn report(&self, faults: &[String]) {
        let input = json!({ "config_path": self.path().display().to_string(), "faults": faults });
        if let Err(error) = self.generations.current().control().call("reloaded", &input).await {
            console::warn(&format!("the reload could not be audited: {error}"));
        }
    }

    /// Keys whose new values have to wait.
    fn only_at_start(&self, config: &Config) -> Vec<&'static str> {
        let (then, now) = (&self.at_start, &config.listen);
        let scraped = |metrics: &Option<Metrics>| {
            metrics.as_ref().map(|metrics| (metrics.listen, metrics.token.as_ref().map(|token| token.reveal().clone())))
        };
        let files = |listen: &Listen| listen.tls.as_ref().map(|tls| (tls.cert.clone(), tls.key.clone()));
        // With `--listen`, the file does not decide where.
        let decides = self.ground.options.listen.is_none();
        let changed = [
            ("listen.host", decides && now.host != then.host),
            ("listen.port", decides && now.port != then.port),
            ("listen.tls", files(now) != files(then)),
            ("observability.metrics", scraped(&config.observability.metrics) != scraped(&self.metrics_at_start)),
        ];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
    }
}

type Digests = Vec<(PathBuf, Option<Vec<u8>>)>;

/// The files of a configuration, and what was in them when they were read.
struct Watch {
    known: Digests,
}

impl Watch {
    async fn of(config: &Path, generation: &Generation) -> Self {
        let mut known = look(paths(config, generation)).await;
        // What was read at the start; the file may have changed since.
        known[0].1 = Some(digest(generation.text.as_bytes()));
        Self { known }
    }

    /// Looks at other files from now on. Those that stay are compared with what was seen before the reload.
    fn follow(&mut self, config: &Path, generation: &Generation) {
        let known = |path: PathBuf| {
            let before = self.known.iter().find(|(known, _)| *known == path).map(|(_, digest)| digest.clone());
            let digest = before.unwrap_or_else(|| std::fs::read(&path).ok().map(|bytes| digest(&bytes)));
            (path, digest)
        };
        self.known = paths(config, generation).into_iter().map(known).collect();
        self.known[0].1 = Some(digest(generation.text.as_bytes()));
    }

    /// Completes when the files have other content than before. A file that is away for a moment is being replaced.
    async fn changed(&mut self) {
        let mut last = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let now = look(self.known.iter().map(|(path, _)| path.clone()).collect()).await;
            let is_there = now.iter().all(|(_, digest)| digest.is_some());
            if now == self.known || !is_there {
                last = None;
            } else if last.as_ref() == Some(&now) {
                self.known = now;
                return;
            } else {
                last = Some(now);
            }
        }
    }
}

fn paths(config: &Path, generation: &Generation) -> Vec<PathBuf> {
    std::iter::once(config.to_path_buf()).chain(generation.sources.iter().cloned()).collect()
}

async fn look(paths: Vec<PathBuf>) -> Digests {
    let mut found = Vec::with_capacity(paths.len());
    for path in paths {
        let content = tokio::fs::read(&path).await.ok();
        found.push((path, content.map(|bytes| digest(&bytes))));
    }
    found
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// SIGHUP, where there is one.
pub(crate) struct Hangups {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

impl Hangups {
    /// From now on, SIGHUP does not end the process.
    pub(crate) fn watch() -> std::io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            signal: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?,
        })
    }

    #[cfg(unix)]
    async fn recv(&mut self) {
        if self.signal.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    #[cfg(not(unix))]
    async fn recv(&mut self) {
        std::future::pending::<()>().await;
    }
}
