//! Clock, entropy, log, files and tasks ← wasi clocks, random, stderr and filesystem.

use std::io::Write;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::LocalBoxFuture;
use spin_sdk::wasip3;

use crate::domain::ids::Timestamp;
use crate::ports::{Clock, Entropy, Files, Log, Tasks};

/// The host's clocks.
pub(super) struct SystemClock;

#[async_trait(?Send)]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is ports.clock")]
    fn now(&self) -> Timestamp {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
    }

    async fn sleep(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        wasip3::clocks::monotonic_clock::wait_for(nanos).await;
    }
}

/// The host's random bytes.
pub(super) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        // wasi:random never fails; a host that has none does not start the component.
        getrandom::fill(bytes).expect("wasi:random gives as many bytes as are asked for");
    }
}

/// Standard error: audit events and operational lines, one write each.
pub(super) struct Stderr;

impl Log for Stderr {
    fn line(&self, line: &str) {
        // A host that does not take the line leaves nothing else to tell.
        let _ = std::io::stderr().write_all(whole(line).as_bytes());
    }
}

/// Standard output: figures for our own host, which alone asks for them.
pub(super) struct Stdout;

impl Log for Stdout {
    fn line(&self, line: &str) {
        let mut stdout = std::io::stdout().lock();
        // What is not counted is not worth more than that.
        let _ = stdout.write_all(whole(line).as_bytes()).and_then(|()| stdout.flush());
    }
}

fn whole(line: &str) -> String {
    let mut whole = String::with_capacity(line.len() + 1);
    whole.push_str(line);
    whole.push('\n');
    whole
}

/// Files that the host mounted.
pub(super) struct MountedFiles;

impl Files for MountedFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        std::fs::read(path).map_err(|error| error.to_string())
    }
}

/// Tasks that keep the instance alive until they end.
pub(super) struct SpinTasks;

impl Tasks for SpinTasks {
    fn spawn(&self, task: LocalBoxFuture<'static, ()>) {
        spin_sdk::wit_bindgen::spawn(task);
    }
}
