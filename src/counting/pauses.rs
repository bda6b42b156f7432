//! Where it is kept that Bedrock is not asked to count for a while (inference contract §10.5): in the instance, and behind
//! it in the key-value store, so that what one instance finds out holds for all. Without the store, each instance goes by
//! what it has found out itself.
//!
//! When it is asked is decided in [`CountPause`].

use super::{PATIENCE, key};
use crate::domain::ids::Timestamp;
use crate::gateway::Gateway;
use crate::upstream::catalog::Candidate;
use crate::upstream::{self, CountPause, Operation};

/// How its names in the store begin.
const KIND: &str = "count-pause";

impl Gateway {
    /// Whether `candidate` is to be asked.
    pub(crate) async fn may_count(&self, candidate: &Candidate, operation: Operation) -> bool {
        if !upstream::may_pause(&self.config.upstreams[candidate.upstream], operation) {
            return true;
        }
        let now = self.ports.clock.now();
        if !self.known_pause(candidate).may_ask(now) {
            return false;
        }
        let stored = self.in_time(PATIENCE, self.ports.key_value.find(&self.name_in_store(KIND, candidate))).await;
        let Some(Ok(Some(bytes))) = stored else { return true };
        let Ok(pause) = serde_json::from_slice::<CountPause>(&bytes) else { return true };
        self.cache.count_pauses.borrow_mut().insert(key(candidate), pause);
        pause.may_ask(now)
    }

    /// Remembers what a count came to.
    pub(crate) async fn count_came_to(
        &self,
        candidate: &Candidate,
        operation: Operation,
        outcome: impl FnOnce(&mut CountPause, Timestamp),
    ) {
        if !upstream::may_pause(&self.config.upstreams[candidate.upstream], operation) {
            return;
        }
        let before = self.known_pause(candidate);
        let mut pause = before;
        outcome(&mut pause, self.ports.clock.now());
        if pause == before {
            return;
        }
        self.cache.count_pauses.borrow_mut().insert(key(candidate), pause);
        let bytes = serde_json::to_vec(&pause).expect("a flag and a number");
        // What is not kept, the others find out by themselves.
        let _ = self.in_time(PATIENCE, self.ports.key_value.set(&self.name_in_store(KIND, candidate), &bytes)).await;
    }

    fn known_pause(&self, candidate: &Candidate) -> CountPause {
        self.cache.count_pauses.borrow().get(&key(candidate)).copied().unwrap_or_default()
    }
}
