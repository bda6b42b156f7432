//! One SQLite file: a thread that owns the connection and works through jobs in order.
//!
//! Blocking work never reaches the runtime's threads, and one owner needs no locks. Key-value and SQL stand on it.

use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use crate::private;

type Job = Box<dyn FnOnce(&Connection) + Send>;

/// Prepared statements that are kept.
const STATEMENTS: usize = 128;

/// A handle on the thread. The thread ends, and the file is closed, with the last handle.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    jobs: Sender<Job>,
}

/// The thread is gone, which only a panic on it brings about.
#[derive(Debug, thiserror::Error)]
#[error("the database thread is gone")]
pub(crate) struct Gone;

impl Database {
    /// Opens, and if need be creates, the file at `path`, and prepares it with `setup`.
    pub(crate) fn open(path: &Path, setup: &str) -> rusqlite::Result<Self> {
        // A rendered runtime configuration names a directory that nobody has made yet. Where it cannot be made, opening
        // the file says so.
        if let Some(directory) = path.parent() {
            let _ = private::create_directory(directory);
        }
        // What SQLite puts beside the file gets the file's permissions. Where it cannot be made, opening it says so.
        let _ = private::create_file(path);
        let connection = Connection::open(path)?;
        // Other processes may use the same file: they take turns.
        connection.busy_timeout(Duration::from_secs(5))?;
        // Readers do not wait for the writer; a crash of the machine loses at most the last commits, never the file.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute_batch(setup)?;
        Self::of(connection, path)
    }

    /// Opens the file at `path`, which must be there, and changes nothing in it.
    pub(crate) fn open_for_reading(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        Self::of(connection, path)
    }

    fn of(connection: Connection, path: &Path) -> rusqlite::Result<Self> {
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        let (jobs, waiting) = mpsc::channel::<Job>();
        let work = move || {
            for job in waiting {
                job(&connection);
            }
        };
        let name = path.file_stem().map_or_else(|| "sqlite".into(), |stem| stem.to_string_lossy().into_owned());
        std::thread::Builder::new().name(name).spawn(work).map_err(|error| {
            rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOMEM),
                Some(error.to_string()),
            )
        })?;
        Ok(Self { jobs })
    }

    /// Runs `work` on the thread and returns what it returned.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (done, result) = oneshot::channel();
        let job = Box::new(move |connection: &Connection| {
            // Whoever asked may have stopped waiting.
            let _ = done.send(work(connection));
        });
        self.jobs.send(job).map_err(|_| Gone)?;
        result.await.map_err(|_| Gone)
    }
}
