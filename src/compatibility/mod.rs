//! Self-healing compatibility: a request that an upstream refuses for something that it can do without is sent once more
//! without it, and what was refused is left out for a day, by all instances and replicas.
//!
//! What may be left out is decided in `upstream/compatibility.rs`; this file sends and remembers. Two replicas that remember
//! different things at the same moment may lose one of them in the store; it is then found out once more.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{StatusCode, response};
use serde::{Deserialize, Serialize};

use crate::domain::audit::AuditEvent;
use crate::domain::figure::Figure;
use crate::domain::ids::Timestamp;
use crate::exchange::{in_one_piece, read_body};
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use crate::ports::{BoxStream, KeyValueError};
use crate::relay::{ERROR_PATIENCE, MAX_ERROR_BYTES, Relay, decode};
use crate::upstream::catalog::Candidate;
use crate::upstream::compatibility::{Dispensable, refused, without};
use crate::upstream::{self, Call};

/// How long something is left out.
const DAY: Duration = Duration::from_hours(24);

/// The most that is remembered of one upstream; what was refused first makes room.
const MOST: usize = 64;

/// After this time what others have found out is read beside the requests, and after the second one before them: an
/// instance that was idle may have missed much.
const FRESH: Duration = Duration::from_secs(5);
const STALE: Duration = Duration::from_secs(30);

/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Something that an upstream refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Refusal {
    #[serde(flatten)]
    what: Dispensable,
    /// For which of its models; `None` for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Milliseconds since 1970.
    since: i64,
}

impl Refusal {
    fn counts(&self, now: Timestamp) -> bool {
        now.is_within(DAY, Timestamp::from_millis(self.since))
    }

    fn is_about(&self, model: &str) -> bool {
        self.model.as_deref().is_none_or(|own| own == model)
    }

    fn is_same(&self, other: &Self) -> bool {
        self.what == other.what && self.model == other.model
    }

    /// The end of its time.
    pub(crate) fn until(&self) -> Timestamp {
        Timestamp::from_millis(self.since).plus(DAY)
    }

    /// What is left out, for people.
    pub(crate) fn described(&self) -> String {
        let of = self.model.as_ref().map(|model| format!(" of {model}")).unwrap_or_default();
        format!("{} {}{of}", self.what.kind(), self.what.name())
    }
}

/// What is known of one upstream.
#[derive(Default)]
pub(crate) struct Refusals {
    all: Vec<Refusal>,
    read_at: Option<Timestamp>,
}

impl Relay<'_> {
    /// Asks one upstream, without what it is known to refuse; once more if it refuses something now.
    pub(crate) async fn ask_compatibly(
        &self,
        candidate: &Candidate,
        call: &Call<'_>,
    ) -> Result<http::Response<BoxStream>, String> {
        let rules = &self.gateway.config.self_healing;
        if !rules.enabled {
            return self.ask(candidate, call).await;
        }
        let known = self.gateway.refusals(candidate).await;
        let reduced = without(call.headers, call.message, &known);
        let call = match &reduced {
            Some(reduced) => Call { headers: &reduced.headers, message: &reduced.message, ..*call },
            None => *call,
        };
        let answer = self.ask(candidate, &call).await?;
        if answer.status() != StatusCode::BAD_REQUEST {
            return Ok(answer);
        }
        let (answer, error) = read_whole(self.gateway, answer).await;
        let found = refused(call.headers, call.message, &rules.fields, &error);
        let Some(rest) = without(call.headers, call.message, &found) else { return Ok(answer) };
        let again = Call { headers: &rest.headers, message: &rest.message, ..call };
        let mut answer = self.ask(candidate, &again).await?;
        if answer.status() == StatusCode::BAD_REQUEST {
            let (refusal, second_error) = read_whole(self.gateway, answer).await;
            let named = refused(call.headers, call.message, &rules.fields, &second_error);
            if found.iter().any(|one| named.contains(one)) {
                // It names the same although that is gone: it was not about that.
                return Ok(refusal);
            }
            answer = refusal;
        }
        let model = says_model(&error).then(|| candidate.model.clone());
        self.gateway.remember_refusals(self.context, candidate.upstream, model.as_deref(), found).await;
        Ok(answer)
    }
}

/// Whether an error is about one model, not about the upstream.
fn says_model(error: &[u8]) -> bool {
    String::from_utf8_lossy(error).to_lowercase().contains("model")
}

/// The answer again, and its body as text.
async fn read_whole(gateway: &Gateway, answer: http::Response<BoxStream>) -> (http::Response<BoxStream>, Bytes) {
    let (head, mut body): (response::Parts, BoxStream) = answer.into_parts();
    // What cannot be read, or does not come, is as good as empty.
    let whole = gateway.in_time(ERROR_PATIENCE, read_body(&mut body, MAX_ERROR_BYTES)).await;
    let whole = whole.and_then(Result::ok).unwrap_or_default();
    let text = decode(&head, whole.clone()).unwrap_or_default();
    (http::Response::from_parts(head, in_one_piece(whole)), text)
}

impl Gateway {
    /// What requests to `candidate` go without.
    async fn refusals(self: &Rc<Self>, candidate: &Candidate) -> Vec<Dispensable> {
        let (index, now) = (candidate.upstream, self.ports.clock.now());
        let read_at = self.cache.refusals.borrow().get(&index).and_then(|known| known.read_at);
        match read_at {
            Some(at) if now.is_within(FRESH, at) => {}
            Some(at) if now.is_within(STALE, at) => {
                // One request has it read, and none waits.
                self.cache.refusals.borrow_mut().entry(index).or_default().read_at = Some(now);
                let gateway = Rc::clone(self);
                self.ports.tasks.spawn(async move { gateway.read_refusals(index).await }.boxed_local());
            }
            _ => self.read_refusals(index).await,
        }
        let refusals = self.cache.refusals.borrow();
        let all = refusals.get(&index).map(|known| known.all.as_slice()).unwrap_or_default();
        let counts = |one: &&Refusal| one.counts(now) && one.is_about(&candidate.model);
        all.iter().filter(counts).map(|one| one.what.clone()).collect()
    }

    /// Takes over what others have found out. While the store is away, what this instance knows has to do.
    async fn read_refusals(&self, index: usize) {
        let stored = self.stored_refusals(index).await.unwrap_or_default();
        self.add_refusals(index, stored);
    }

    /// What is in the store and still counts.
    pub(crate) async fn stored_refusals(&self, index: usize) -> Result<Vec<Refusal>, KeyValueError> {
        let found = self.in_time(PATIENCE, self.ports.key_value.find(&self.refusals_name(index))).await;
        let found = found.unwrap_or_else(|| Err(KeyValueError("no answer in time".to_owned())))?;
        let mut all: Vec<Refusal> = found.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        all.retain(|one| one.counts(self.ports.clock.now()));
        Ok(all)
    }

    /// Adds to what this instance knows; returns what is new to it.
    fn add_refusals(&self, index: usize, found: Vec<Refusal>) -> Vec<Refusal> {
        let now = self.ports.clock.now();
        let mut refusals = self.cache.refusals.borrow_mut();
        let known = refusals.entry(index).or_default();
        known.read_at = Some(now);
        known.all.retain(|one| one.counts(now));
        let mut new = Vec::new();
        for one in found {
            if !known.all.iter().any(|other| other.is_same(&one)) {
                new.push(one.clone());
                known.all.push(one);
            }
        }
        let surplus = known.all.len().saturating_sub(MOST);
        known.all.sort_by_key(|one| one.since);
        known.all.drain(..surplus);
        new
    }

    /// Remembers what `index` has refused, here and for all others, and tells the operator.
    async fn remember_refusals(&self, context: &Context, index: usize, model: Option<&str>, found: Vec<Dispensable>) {
        let since = self.ports.clock.now().as_millis();
        let found = found.into_iter().map(|what| Refusal { what, model: model.map(str::to_owned), since });
        // Others may have found out the same, or something else.
        self.read_refusals(index).await;
        let new = self.add_refusals(index, found.collect());
        if new.is_empty() {
            return;
        }
        let name = &self.config.upstreams[index].name;
        for one in &new {
            let kind = one.what.kind();
            let until = one.until().to_rfc3339();
            let event =
                AuditEvent::UpstreamRefusal { upstream: name, model, kind, name: one.what.name(), until: &until };
            self.audit(context, &event);
            self.count(&Figure::Refusal { upstream: name, kind });
            let message =
                format!("upstream {name} refuses the {}: requests go without it until {until}", one.described());
            self.log_of(context, Level::Warn, &message);
        }
        let all = self.cache.refusals.borrow().get(&index).map(|known| known.all.clone()).unwrap_or_default();
        let bytes = serde_json::to_vec(&all).expect("strings and numbers");
        let kept = self.in_time(PATIENCE, self.ports.key_value.set(&self.refusals_name(index), &bytes)).await;
        if !matches!(kept, Some(Ok(()))) {
            self.log(Level::Warn, &format!("upstream {name}: other instances find out by themselves what it refuses"));
        }
    }

    fn refusals_name(&self, index: usize) -> String {
        format!("refusals/{}", upstream::fingerprint(&self.config.upstreams[index]))
    }
}

#[cfg(test)]
mod tests;
