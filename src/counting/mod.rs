//! `count_tokens` where no upstream can count: an estimate that is calibrated with what the model's answers were billed.
//!
//! What was learned is shared through the store, so that replicas and new instances know it. Without anything learned
//! there is no estimate, and the client is told what the upstreams said (inference contract §10.5).

mod pauses;

use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::domain::calibration::Calibration;
use crate::domain::checksum::hex;
use crate::domain::figure::Figure;
use crate::domain::ids::Timestamp;
use crate::exchange::{self, Response};
use crate::gateway::Gateway;
use crate::relay::Relay;
use crate::stream::meter::Usage;
use crate::upstream::catalog::Candidate;
use crate::upstream::{self, Operation};

/// The header that says that a count is an estimate. An exact one has none.
const HEADER: HeaderName = HeaderName::from_static("x-sallyport-count");

/// How often what was learned goes into the store, and how long what came out of it is used before it is read again.
const SHARE_EVERY: Duration = Duration::from_secs(30);

/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// How its names in the store begin.
const KIND: &str = "calibration";

/// What is known of one model at one upstream.
#[derive(Default)]
pub(crate) struct Learned {
    /// All of it.
    calibration: Calibration,
    /// The part that is not in the store yet.
    unshared: Calibration,
    shared_at: Option<Timestamp>,
    read_at: Option<Timestamp>,
    /// Whether a count was asked for that nobody could give: then answers are worth reading for it.
    is_wanted: bool,
}

/// Whether a request to count that failed with this status failed because nobody can count.
const fn nobody_can_count(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED)
}

impl Relay<'_> {
    /// The estimate in place of an answer with `status`, if there is one.
    pub(crate) async fn estimated_count(&self, status: StatusCode) -> Option<Response> {
        if self.inference.operation != Operation::CountTokens || !nobody_can_count(status) {
            return None;
        }
        for candidate in &self.inference.plan.candidates {
            let calibration = self.gateway.calibration(candidate).await;
            let Some(tokens) = calibration.estimate(self.sent(candidate.upstream).weight()) else { continue };
            let upstream = &self.gateway.config.upstreams[candidate.upstream].name;
            self.gateway.count(&Figure::EstimatedCount { upstream });
            self.inference.count_is_estimated.set(true);
            let mut response = exchange::json(StatusCode::OK, &json!({ "input_tokens": tokens }));
            response.headers_mut().insert(HEADER, HeaderValue::from_static("estimated"));
            let is_masked = self.gateway.masks(candidate.upstream, self.inference.session.groups()).is_some();
            if let Some(masked) = self.inference.masked.get().filter(|_| is_masked) {
                masked.tell(response.headers_mut());
            }
            return Some(response);
        }
        None
    }

    /// Learns from what an answer of `candidate` was billed.
    pub(crate) async fn learn(&self, candidate: &Candidate, usage: &Usage) {
        let message = self.sent(candidate.upstream);
        // What a search finds is billed as input, too, and was no part of the request.
        if usage.web_search_requests > 0 || message.asked().may_search {
            return;
        }
        let tokens = usage
            .input_tokens
            .saturating_add(usage.cache_read_input_tokens)
            .saturating_add(usage.cache_creation_input_tokens);
        let mut seen = Calibration::default();
        seen.learn(message.weight(), tokens);
        if seen.is_empty() {
            return;
        }
        let now = self.gateway.ports.clock.now();
        let is_due = {
            let mut learned = self.gateway.cache.calibrations.borrow_mut();
            let learned = learned.entry(key(candidate)).or_default();
            learned.calibration.add(seen);
            learned.unshared.add(seen);
            let is_due = learned.shared_at.is_none_or(|at| !now.is_within(SHARE_EVERY, at));
            if is_due {
                learned.shared_at = Some(now);
            }
            is_due
        };
        if is_due {
            self.gateway.share_calibration(candidate).await;
        }
    }
}

fn key(candidate: &Candidate) -> (usize, String) {
    (candidate.upstream, candidate.model.clone())
}

impl Gateway {
    /// Whether answers of `candidate` are read for the sake of counts although nothing is metered.
    pub(crate) fn wants_to_learn(&self, candidate: &Candidate) -> bool {
        self.cache.calibrations.borrow().get(&key(candidate)).is_some_and(|learned| learned.is_wanted)
    }

    /// What is known of the model.
    async fn calibration(&self, candidate: &Candidate) -> Calibration {
        let now = self.ports.clock.now();
        let is_fresh = {
            let mut learned = self.cache.calibrations.borrow_mut();
            let learned = learned.entry(key(candidate)).or_default();
            learned.is_wanted = true;
            !learned.calibration.is_empty() && learned.read_at.is_some_and(|at| now.is_within(SHARE_EVERY, at))
        };
        if !is_fresh {
            let stored = self.stored_calibration(candidate).await;
            self.take_over(candidate, stored);
        }
        self.cache.calibrations.borrow().get(&key(candidate)).map(|learned| learned.calibration).unwrap_or_default()
    }

    /// Adds what was learned to what others have learned.
    async fn share_calibration(&self, candidate: &Candidate) {
        let Some(mut stored) = self.stored_calibration(candidate).await else { return };
        let unshared = {
            let mut learned = self.cache.calibrations.borrow_mut();
            std::mem::take(&mut learned.entry(key(candidate)).or_default().unshared)
        };
        stored.add(unshared);
        let bytes = serde_json::to_vec(&stored).expect("numbers");
        // What two write at once counts once: of thousands of requests, that is no loss.
        let _ = self.in_time(PATIENCE, self.ports.key_value.set(&self.name_in_store(KIND, candidate), &bytes)).await;
        self.take_over(candidate, Some(stored));
    }

    /// What is in the store, and what is not there yet.
    fn take_over(&self, candidate: &Candidate, stored: Option<Calibration>) {
        let mut learned = self.cache.calibrations.borrow_mut();
        let learned = learned.entry(key(candidate)).or_default();
        learned.read_at = Some(self.ports.clock.now());
        if let Some(mut all) = stored {
            all.add(learned.unshared);
            if !all.is_empty() {
                learned.calibration = all;
            }
        }
    }

    /// Nothing while the store is away.
    async fn stored_calibration(&self, candidate: &Candidate) -> Option<Calibration> {
        let found = self.in_time(PATIENCE, self.ports.key_value.find(&self.name_in_store(KIND, candidate))).await;
        let found = found?.ok()?;
        Some(found.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default())
    }

    /// Where what is known of a model at an upstream is kept, among what is known of this kind.
    fn name_in_store(&self, kind: &str, candidate: &Candidate) -> String {
        let place = upstream::fingerprint(&self.config.upstreams[candidate.upstream]);
        format!("{kind}/{}", hex(&Sha256::digest(format!("{place} {}", candidate.model))))
    }
}

#[cfg(test)]
mod tests;
