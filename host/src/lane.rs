//! Lanes: one thread per processor, each with a runtime of its own, on which a connection spends its life.
//!
//! Everything that a request touches, from its socket through the instance to the connection upstream, lives on the
//! lane of its client's connection. Waking a task of the same thread costs next to nothing; waking another thread costs
//! more than serving a small request.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use tokio::runtime::Handle;

thread_local! {
    /// Zero on every thread that is no lane: start, control channel, commands.
    static LANE: Cell<usize> = const { Cell::new(0) };
}

/// The lane of this thread, from 1; zero elsewhere.
pub(crate) fn current() -> usize {
    LANE.get()
}

/// How many values [`current`] can have.
pub(crate) fn count() -> usize {
    processors() + 1
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// The threads. They end with the process.
pub(crate) struct Lanes(Vec<Lane>);

struct Lane {
    runtime: Handle,
    tasks: Arc<AtomicUsize>,
}

impl Lanes {
    /// Starts a lane for each processor.
    pub(crate) fn start() -> Result<Self> {
        (1..count()).map(Lane::start).collect::<Result<_>>().map(Self)
    }

    /// Runs `task` on the lane that has the fewest.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(lane) = self.0.iter().min_by_key(|lane| lane.tasks.load(Ordering::Relaxed)) else { return };
        let counted = Counted::new(&lane.tasks);
        lane.runtime.spawn(async move {
            task.await;
            drop(counted);
        });
    }
}

impl Lane {
    fn start(number: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        let handle = runtime.handle().clone();
        let live = move || {
            LANE.set(number);
            runtime.block_on(std::future::pending::<()>());
        };
        std::thread::Builder::new().name(format!("lane-{number}")).spawn(live).context("no thread")?;
        Ok(Self { runtime: handle, tasks: Arc::default() })
    }
}

/// Counts a task for as long as it lives, however it ends.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(tasks: &Arc<AtomicUsize>) -> Self {
        tasks.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(tasks))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_spread_over_the_lanes_and_know_where_they_are() {
        let lanes = Lanes::start().expect("threads");
        let (told, heard) = std::sync::mpsc::channel();
        for _ in 1..count() {
            let told = told.clone();
            lanes.spawn(async move {
                told.send(current()).expect("the test listens");
                std::future::pending::<()>().await;
            });
        }
        let mut seen: Vec<usize> = heard.iter().take(count() - 1).collect();
        seen.sort_unstable();
        assert_eq!(seen, (1..count()).collect::<Vec<_>>());
        assert_eq!(current(), 0);
    }
}
