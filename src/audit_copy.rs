//! The copy of the audit trail in the database (`audit.store`): a bounded queue per instance, written in batches behind
//! the responses. Standard error is the trail itself; a database that is away costs the copy only what does not fit.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::FutureExt;

use crate::domain::ids::Timestamp;
use crate::gateway::Gateway;
use crate::log::Level;
use crate::store::{BATCH, KeptEvent};
use crate::upkeep;

/// Events that may wait; what comes when so many wait takes the place of the oldest.
const MOST_WAITING: usize = 4096;

/// How often the operator is told that the copy has gaps.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// Events on their way into the database.
#[derive(Default)]
pub(crate) struct AuditQueue {
    /// The gateway itself: whoever writes an event need not own it.
    owner: RefCell<Weak<Gateway>>,
    waiting: RefCell<VecDeque<KeptEvent>>,
    is_writing: Cell<bool>,
    lost: Cell<u64>,
    warned_at: Cell<Option<Timestamp>>,
}

impl AuditQueue {
    /// Events of `gateway` are written from now on.
    pub(crate) fn adopt(&self, gateway: &Rc<Gateway>) {
        if self.owner.borrow().strong_count() == 0 {
            *self.owner.borrow_mut() = Rc::downgrade(gateway);
        }
    }

    /// Queues the event in `line`.
    pub(crate) fn push(&self, at: Timestamp, evt: &str, line: &str) {
        let fields: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let field = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
        let event =
            KeptEvent { at, evt: evt.to_owned(), sub: field("sub"), email: field("email"), entry: line.to_owned() };
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= MOST_WAITING {
            waiting.pop_front();
            self.lost.set(self.lost.get() + 1);
        }
        waiting.push_back(event);
        drop(waiting);
        let Some(gateway) = self.owner.borrow().upgrade() else { return };
        if !self.is_writing.replace(true) {
            let owner = Rc::clone(&gateway);
            let writing = async move {
                write(&owner).await;
                upkeep::after_response(&owner);
            };
            gateway.ports.tasks.spawn(writing.boxed_local());
        }
    }
}

/// Writes what waits, also what comes meanwhile. What cannot be written waits for the next event.
async fn write(gateway: &Gateway) {
    let queue = &gateway.cache.audit;
    loop {
        let batch: Vec<KeptEvent> = {
            let mut waiting = queue.waiting.borrow_mut();
            // Powers of two, so that few different statements exist.
            let count = waiting.len().min(BATCH);
            let count = if count == 0 { 0 } else { 1 << count.ilog2() };
            waiting.drain(..count).collect()
        };
        if batch.is_empty() {
            break;
        }
        if let Err(error) = gateway.store().keep_audit(&batch).await {
            let mut waiting = queue.waiting.borrow_mut();
            for event in batch.into_iter().rev() {
                if waiting.len() < MOST_WAITING {
                    waiting.push_front(event);
                } else {
                    queue.lost.set(queue.lost.get() + 1);
                }
            }
            drop(waiting);
            warn(gateway, &error.to_string());
            break;
        }
    }
    queue.is_writing.set(false);
}

fn warn(gateway: &Gateway, error: &str) {
    let queue = &gateway.cache.audit;
    let now = gateway.ports.clock.now();
    if queue.warned_at.get().is_some_and(|at| now.since(at) < WARN_EVERY) {
        return;
    }
    queue.warned_at.set(Some(now));
    let (waiting, lost) = (queue.waiting.borrow().len(), queue.lost.take());
    gateway.log(
        Level::Warn,
        &format!(
            "audit events could not be copied into the database: {error}; {waiting} wait for the next event, {lost} were \
             dropped from the copy (standard error has them)"
        ),
    );
}
