//! A `PostgreSQL` server of one's own: a fresh cluster in a temporary directory, on a port of its own.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use super::programs::{command, search_path, skipped};
use super::{eventually, free_port};

/// Trust authentication does not ask for it, but a gateway must keep it to itself.
pub(crate) const PASSWORD: &str = "database-password-for-tests-only";

/// A running server; ends on drop.
pub(crate) struct Postgres {
    bin: PathBuf,
    directory: TempDir,
    port: u16,
    server: Option<Child>,
}

impl Postgres {
    /// Makes a cluster and starts it; `None` (and says so) on a machine without `PostgreSQL`.
    pub(crate) fn start() -> Option<Self> {
        let Some(bin) = programs() else {
            skipped("PostgreSQL");
            return None;
        };
        let directory = TempDir::with_prefix("sallyport-postgres-").expect("a directory");
        if let Some((uid, gid)) = owner() {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid)).expect("an owner");
        }
        let mut postgres = Self { bin, directory, port: free_port(), server: None };
        let data = postgres.data();
        command(
            postgres
                .program("initdb")
                .args(["--username=sallyport", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-D"])
                .arg(data),
        );
        postgres.start_again();
        Some(postgres)
    }

    /// Starts the server after [`Self::stop`], with what it had.
    pub(crate) fn start_again(&mut self) {
        assert!(self.server.is_none(), "already running");
        let log = fs::File::create(self.directory.path().join("log")).expect("a log");
        let (data, port) = (self.data(), self.port.to_string());
        let server = self
            .program("postgres")
            .args(["-F", "-h", "127.0.0.1", "-k", "", "-p", &port, "-D"])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("postgres");
        self.server = Some(server);
        eventually("PostgreSQL", || self.query("select 1"));
    }

    /// Ends the server at once, connections and all.
    pub(crate) fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let pid = Pid::from_child(&server);
            // Immediate shutdown; its own children go with it.
            kill_process(pid, Signal::QUIT).expect("a signal");
            server.wait().expect("an end");
        }
    }

    /// Where the gateway finds it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://sallyport:{PASSWORD}@{}/postgres", self.address())
    }

    /// Host and port.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The client program.
    pub(crate) fn psql(&self) -> PathBuf {
        self.bin.join("psql")
    }

    /// The result of `sql`, without ornament; `None` while there is no server.
    pub(crate) fn query(&self, sql: &str) -> Option<String> {
        let output = Command::new(self.bin.join("psql"))
            .args(["-X", "-A", "-t", "-h", "127.0.0.1", "-U", "sallyport", "-d", "postgres"])
            .args(["-p", &self.port.to_string(), "-c", sql])
            .output()
            .expect("psql");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// `PostgreSQL` refuses to run as root, so root runs it as `postgres`.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        command.current_dir(self.directory.path());
        if let Some((uid, gid)) = owner() {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// User and group that the server runs as, when that is not the present user.
fn owner() -> Option<(u32, u32)> {
    let id = |kind| command(Command::new("id").args([kind, "postgres"])).trim().parse().expect("a number");
    geteuid().is_root().then(|| (id("-u"), id("-g")))
}

/// The directory with `PostgreSQL`'s programs: the newest of the usual places, or one of `PATH`.
fn programs() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path().join("bin")).collect())
        .unwrap_or_default();
    versions.sort();
    let has_all = |directory: &PathBuf| {
        ["initdb", "postgres", "psql"].iter().all(|program| Path::new(directory).join(program).is_file())
    };
    versions.into_iter().rev().chain(search_path()).find(has_all)
}
