//! The gateway's own database as the command line uses it, without the component: the same statements over the same two
//! databases.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use sallyport::ports::{Db, DbError, Dialect, Row, Value};

use crate::capability::{postgres, sqlite};
use crate::commands::serve::{reach_postgres, sqlite_file};
use crate::commands::{Common, Faults};
use crate::console;
use crate::manifest::{Manifest, RuntimeConfig};
use crate::private;
use crate::settings::Settings;

/// The database that a configuration names.
pub(crate) struct OwnStore {
    place: Place,
    limits: postgres::Limits,
}

enum Place {
    File(PathBuf),
    Server(Box<postgres::Address>),
}

/// An open one.
pub(crate) enum Open {
    Sqlite(sqlite::Direct),
    Postgres(postgres::Direct),
}

impl OwnStore {
    /// Finds out where it is; nothing is opened yet.
    pub(crate) fn of(settings: &Settings, common: &Common) -> Result<Self, Faults> {
        let store = &settings.config.store;
        let limits = postgres::Limits { connections: store.max_connections, connect_timeout: store.connect_timeout };
        let place = if let Some(address) = settings.postgres_url().map_err(|fault| vec![fault])? {
            let address = postgres::Address::parse(address);
            Place::Server(Box::new(address.map_err(|error| vec![format!("store.postgres_url: {error}")])?))
        } else {
            let manifest = common.manifest.as_deref().map(Manifest::read).transpose()?;
            let runtime_config = common.runtime_config.as_deref().map(RuntimeConfig::read).transpose()?;
            Place::File(sqlite_file(&common.state_dir, manifest.as_ref(), &runtime_config.unwrap_or_default()))
        };
        Ok(Self { place, limits })
    }

    /// An error where there is nothing yet: a mistyped directory must not look like one without anybody in it.
    pub(crate) fn must_exist(common: &Common) -> Result<(), Faults> {
        Ok(Self::of(&Settings::read_leniently(&common.config)?, common)?.exists()?)
    }

    fn exists(&self) -> anyhow::Result<()> {
        match &self.place {
            Place::File(path) if !path.exists() => {
                Err(anyhow!("{} is not there: no gateway has been started on it", path.display()))
            }
            Place::File(_) | Place::Server(_) => Ok(()),
        }
    }

    /// Opens it for reading. Nothing is made: what is not there is an error.
    pub(crate) async fn open_for_reading(&self) -> anyhow::Result<Open> {
        self.exists()?;
        match &self.place {
            Place::File(path) => {
                let opened = sqlite::Direct::open_for_reading(path);
                Ok(Open::Sqlite(opened.with_context(|| format!("cannot read {}", path.display()))?))
            }
            Place::Server(address) => {
                console::plain("… asking PostgreSQL");
                let reached = address.try_connect(self.limits).await;
                reached.map_err(|fault| anyhow!("cannot connect to PostgreSQL: {}", fault.message))?;
                Ok(Open::Postgres(address.direct(self.limits)?))
            }
        }
    }

    /// Opens it; a file that is not there is made.
    pub(crate) async fn open(&self) -> anyhow::Result<Open> {
        match &self.place {
            Place::File(path) => {
                if let Some(directory) = path.parent() {
                    private::create_directory(directory)
                        .with_context(|| format!("cannot create {}", directory.display()))?;
                }
                let opened = sqlite::Direct::open(path);
                Ok(Open::Sqlite(opened.with_context(|| format!("cannot open {}", path.display()))?))
            }
            Place::Server(address) => {
                reach_postgres(address, self.limits).await?;
                Ok(Open::Postgres(address.direct(self.limits)?))
            }
        }
    }

    /// Whether there is nothing yet.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(&self.place, Place::File(path) if !path.exists())
    }
}

#[async_trait(?Send)]
impl Db for Open {
    async fn run(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
        match self {
            Self::Sqlite(db) => db.run(statement, parameters).await,
            Self::Postgres(db) => db.run(statement, parameters).await,
        }
    }

    fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(db) => db.dialect(),
            Self::Postgres(db) => db.dialect(),
        }
    }
}
