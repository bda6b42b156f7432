//! A configuration at work: the instances that were made with it and the world that they may reach. There is one current
//! generation; earlier ones finish what they began.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, anyhow};
use sallyport::config::Config;

use crate::capability::key_value::KeyValueStores;
use crate::capability::postgres;
use crate::capability::sqlite::SqliteDatabases;
use crate::capability::variables::Variables;
use crate::commands::Faults;
use crate::commands::serve::{Options, outbound, postgres_pools, reach_postgres};
use crate::control::{Control, Started};
use crate::egress::Environment;
use crate::instance::{Factory, World};
use crate::manifest::{Manifest, RuntimeConfig};
use crate::pool::Pool;
use crate::settings::{Mounts, Settings, lines};

/// How often somebody looks whether an earlier generation is done.
const LOOK: Duration = Duration::from_millis(200);

/// What stays as it is while the process lives.
pub(crate) struct Ground {
    /// The command line.
    pub(crate) options: Options,
    /// `spin.toml`.
    pub(crate) manifest: Option<Manifest>,
    /// `runtime-config.toml`.
    pub(crate) runtime_config: RuntimeConfig,
    /// Key-value stores.
    pub(crate) key_value: KeyValueStores,
    /// SQLite databases.
    pub(crate) sqlite: SqliteDatabases,
    /// The most memory of one instance, in bytes; at most [`INSTANCE_MEMORY`](crate::component::INSTANCE_MEMORY).
    pub(crate) instance_memory: usize,
}

impl Ground {
    /// Prepares instances for `settings`. Nothing is asked of the component yet.
    pub(crate) async fn generation(
        &self,
        settings: Settings,
        postgres: Option<&postgres::Address>,
    ) -> Result<Generation, Faults> {
        let limits = postgres::Limits {
            connections: settings.config.store.max_connections,
            connect_timeout: settings.config.store.connect_timeout,
        };
        if let Some(address) = postgres {
            reach_postgres(address, limits).await?;
        }
        let mounts = settings.mount(&self.options.common.state_dir).context("cannot prepare the component's files")?;
        let token = Control::token();
        let outbound = outbound(&settings, self.manifest.as_ref(), &self.runtime_config)?;
        let world = World {
            key_value: self.key_value.clone(),
            sqlite: self.sqlite.clone(),
            postgres: postgres_pools(&outbound, postgres, limits),
            outbound,
            variables: Variables::new(&settings.variables),
            environment: settings.environment(&token),
            mounts: mounts.directories.clone(),
        };
        let factory = Factory::new(Arc::new(world), self.instance_memory)
            .map_err(|error| anyhow!("cannot load the component: {error:#}"))?;
        let pool = Pool::new(factory);
        let mut warnings = lines(&self.options.common.config, &settings.warnings);
        warnings.extend(Environment::read().warnings(&settings.config));
        Ok(Generation {
            control: Control::new(Arc::clone(&pool), token),
            pool,
            text: settings.text,
            sources: settings.sources,
            config: settings.config,
            warnings,
            hosts_are_fixed: self.manifest.is_some(),
            _mounts: mounts,
        })
    }
}

/// A configuration at work.
pub(crate) struct Generation {
    /// What the configuration means.
    pub(crate) config: Config,
    /// What an operator should know about it.
    pub(crate) warnings: Vec<String>,
    /// Its text.
    pub(crate) text: String,
    /// Files that it was read from besides.
    pub(crate) sources: BTreeSet<PathBuf>,
    control: Control,
    pool: Arc<Pool>,
    /// Whether the manifest alone says which hosts may be called.
    hosts_are_fixed: bool,
    _mounts: Mounts,
}

impl Generation {
    /// Its instances.
    pub(crate) const fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Into its instances.
    pub(crate) const fn control(&self) -> &Control {
        &self.control
    }

    /// Has the component migrate, prepare its keys and discover its identity provider. Until then, nobody may be served.
    pub(crate) async fn start(&self, config: &Path) -> Result<Started, Faults> {
        let started = self.control.start(config).await.map_err(anyhow::Error::from)?;
        if !started.faults.is_empty() {
            return Err(Faults(started.faults));
        }
        // A manifest has the last word about which hosts may be called.
        let outbound = &self.pool.factory().world().outbound;
        outbound.know_identity_provider(&started.outbound_hosts, !self.hosts_are_fixed);
        Ok(started)
    }

    /// Whether no instance is left, so that nothing can need its files any more.
    fn is_deserted(&self) -> bool {
        // Two are ours: `pool` and the one in `control`. Each instance holds another.
        Arc::strong_count(&self.pool) == 2
    }
}

/// The current generation, and those before it that are not done.
pub(crate) struct Generations {
    current: RwLock<Arc<Generation>>,
    earlier: Mutex<Vec<Arc<Generation>>>,
}

impl Generations {
    /// Only this one.
    pub(crate) fn new(first: Generation) -> Arc<Self> {
        Arc::new(Self { current: RwLock::new(Arc::new(first)), earlier: Mutex::default() })
    }

    /// The one that serves.
    pub(crate) fn current(&self) -> Arc<Generation> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has `next` serve from the next request on. The one before finishes its requests and goes.
    pub(crate) fn replace(self: &Arc<Self>, next: Generation) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let previous = std::mem::replace(&mut *current, Arc::new(next));
        drop(current);
        self.earlier().push(Arc::clone(&previous));
        previous.pool.retire();
        let generations = Arc::clone(self);
        tokio::spawn(async move {
            // The list has one, and we have one.
            while !previous.is_deserted() || Arc::strong_count(&previous) > 2 {
                tokio::time::sleep(LOOK).await;
            }
            generations.earlier().retain(|other| !Arc::ptr_eq(other, &previous));
        });
    }

    /// Requests that are not completely done.
    pub(crate) fn in_flight(&self) -> usize {
        self.all().iter().map(|generation| generation.pool.in_flight()).sum()
    }

    /// Waits until no instance has anything to do, not even after a response.
    pub(crate) async fn at_rest(&self) {
        for generation in self.all() {
            generation.pool.at_rest().await;
        }
    }

    fn all(&self) -> Vec<Arc<Generation>> {
        let mut all = self.earlier().clone();
        all.push(self.current());
        all
    }

    fn earlier(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Generation>>> {
        self.earlier.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::Common;
    use crate::control::ControlError;

    const CONFIG: &str = "
listen: { host: 127.0.0.1 }
oidc: { issuer: 'http://127.0.0.1:1', client_id: sallyport, client_secret: placeholder }
upstreams: [{ provider: anthropic, auth: { api_key: placeholder } }]
";

    #[tokio::test(flavor = "multi_thread")]
    async fn an_instance_that_breaks_down_fails_what_it_was_doing_and_another_goes_on() {
        let state = tempfile::tempdir().expect("a directory");
        let common = Common {
            config: "gateway.yaml".into(),
            state_dir: state.path().to_owned(),
            manifest: None,
            runtime_config: None,
        };
        let ground = Ground {
            options: Options::from(common),
            manifest: None,
            runtime_config: RuntimeConfig::default(),
            key_value: KeyValueStores::default(),
            sqlite: SqliteDatabases::default(),
            instance_memory: 24 * 1024 * 1024,
        };
        let settings = Settings::parse(CONFIG.to_owned(), &[], true).expect("a configuration");
        let generation = ground.generation(settings, None).await.map_err(|Faults(lines)| lines).expect("instances");
        let control = generation.control().clone();

        // More than there is room for, in one instance with others that are small.
        let too_much = PathBuf::from("x".repeat(20 * 1024 * 1024));
        let (broken, other) = tokio::join!(control.start(&too_much), async {
            // Whoever shares the instance shares its end; whoever comes after that does not.
            while control.start(Path::new("gateway.yaml")).await.is_err() {}
            control.start(Path::new("gateway.yaml")).await
        });

        assert!(matches!(broken, Err(ControlError::BrokeDown)), "{broken:?}");
        let other = other.expect("an answer");
        assert!(!other.faults.is_empty(), "a gateway without stores must not start: {other:?}");
    }
}
