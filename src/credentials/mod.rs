//! Credentials that have to be obtained: asked for once for however many requests need them, kept by the instance and,
//! sealed, for all others in the store ([`shared`]), and renewed ahead of their end beside the requests.
//!
//! What is asked of whom is decided in `upstream/credentials/`; this file only sends and remembers. Requests that wait for
//! one another look again after a while: there are no wake-ups between them.

mod shared;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;

use crate::domain::figure::Figure;
use crate::domain::ids::Timestamp;
use crate::exchange::read_body;
use crate::gateway::Gateway;
use crate::log::Level;
use crate::ports::{Clock, Outbound};
use crate::upstream::credentials::{self, Credential, Freshness, Obtained, Step, World};

/// How long one request to a token service may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest answer of a token service that is read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// The most requests that one credential takes; the longest chain has four.
const MAX_STEPS: usize = 8;

/// How long a request waits for a credential that somebody else obtains, before it obtains one itself.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// How long a renewal ahead of the end is not tried again after it failed.
const AGAIN_AFTER: Duration = Duration::from_secs(15);

/// How urgently a credential is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// A request waits for it.
    Now,
    /// The one that is there goes on working for a while.
    Ahead,
}

impl Need {
    /// Whether a credential that others have obtained will do.
    fn is_met_by(self, obtained: &Obtained, now: Timestamp) -> bool {
        match self {
            Self::Now => obtained.freshness(now) != Freshness::Expired,
            Self::Ahead => obtained.freshness(now) == Freshness::Fresh,
        }
    }
}

/// How often this instance has renewed a credential, and what came of it the last time.
#[derive(Clone)]
pub(crate) struct Renewed {
    times: u64,
    at: Timestamp,
    /// Why there is none.
    failure: Option<String>,
}

impl Gateway {
    /// The credential for an upstream, by its index in the configuration. `Err` says why there is none.
    pub(crate) async fn credential(self: &Rc<Self>, upstream: usize) -> Result<Credential, String> {
        if let Some(credential) = credentials::configured(&self.config.upstreams[upstream].provider) {
            return Ok(credential);
        }
        if let Some(obtained) = self.known_credential(upstream) {
            match obtained.freshness(self.ports.clock.now()) {
                Freshness::Fresh => return Ok(obtained.credential),
                Freshness::Due => {
                    self.renew_beside(upstream);
                    return Ok(obtained.credential);
                }
                Freshness::Expired => {}
            }
        }
        self.renew_together(upstream).await
    }

    /// The credential that this instance has, unless the upstream has refused it.
    fn known_credential(&self, upstream: usize) -> Option<Obtained> {
        let known = self.cache.credentials.borrow().get(&upstream).cloned();
        known.filter(|known| !self.is_refused(upstream, &known.credential))
    }

    fn is_refused(&self, upstream: usize, credential: &Credential) -> bool {
        self.cache.refused_credentials.borrow().get(&upstream) == Some(credential)
    }

    /// Forgets a credential that an upstream did not take, here and in the store; the next request obtains another. One
    /// that has taken its place meanwhile stays. Another request may have read the refused one from the store just
    /// before: this instance uses it no more, wherever it comes from.
    pub(crate) async fn forget_credential(self: &Rc<Self>, upstream: usize, refused: &Credential) {
        self.cache.refused_credentials.borrow_mut().insert(upstream, refused.clone());
        self.shared_credential(upstream).forget(refused).await;
    }

    /// Renews in the background, once for however many requests see that it is due.
    fn renew_beside(self: &Rc<Self>, upstream: usize) {
        let now = self.ports.clock.now();
        let last = self.cache.renewed.borrow().get(&upstream).cloned();
        let has_just_failed = last.is_some_and(|last| last.failure.is_some() && now.is_within(AGAIN_AFTER, last.at));
        if has_just_failed {
            return;
        }
        let Some(turn) = Turn::take(self, upstream) else { return };
        let gateway = Rc::clone(self);
        let renewal = async move {
            let _turn = turn;
            if let Err(reason) = gateway.renew(upstream, Need::Ahead).await {
                let name = &gateway.config.upstreams[upstream].name;
                gateway.log(Level::Warn, &format!("upstream {name}: its credential cannot be renewed yet: {reason}"));
            }
        };
        self.ports.tasks.spawn(renewal.boxed_local());
    }

    /// Obtains a credential for all requests of this instance that need one now: the first of them does it, the others
    /// wait for what comes of it.
    async fn renew_together(self: &Rc<Self>, upstream: usize) -> Result<Credential, String> {
        let last = || self.cache.renewed.borrow().get(&upstream).cloned();
        let before = last().map_or(0, |last| last.times);
        let mut waiting = Waiting::new(&*self.ports.clock);
        loop {
            if let Some(_turn) = Turn::take(self, upstream) {
                return self.renew(upstream, Need::Now).await;
            }
            if !waiting.go_on().await {
                return self.renew(upstream, Need::Now).await;
            }
            let Some(renewed) = last().filter(|last| last.times > before) else { continue };
            if let Some(reason) = renewed.failure {
                return Err(reason);
            }
            // However short it lasts, it was made for this request, too.
            if let Some(known) = self.known_credential(upstream) {
                return Ok(known.credential);
            }
        }
    }

    async fn renew(self: &Rc<Self>, upstream: usize, need: Need) -> Result<Credential, String> {
        let outcome = self.obtain(upstream, need).await;
        let failure = outcome.as_ref().err().cloned();
        let mut renewed = self.cache.renewed.borrow_mut();
        let times = renewed.get(&upstream).map_or(0, |last| last.times) + 1;
        renewed.insert(upstream, Renewed { times, at: self.ports.clock.now(), failure });
        drop(renewed);
        let obtained = outcome?;
        let credential = obtained.credential.clone();
        self.cache.credentials.borrow_mut().insert(upstream, obtained);
        Ok(credential)
    }

    async fn obtain(self: &Rc<Self>, upstream: usize, need: Need) -> Result<Obtained, String> {
        let step = self.with_world(|world| credentials::obtain(&self.config.upstreams[upstream], world));
        match step.map_err(|error| error.to_string())? {
            // Nobody has to be asked: the environment holds it, and it belongs into no store.
            Step::Done(obtained) => Ok(obtained),
            step @ Step::Send(..) => self.shared_credential(upstream).obtain(step, need).await,
        }
    }

    /// Asks the token service itself.
    async fn exchange(&self, upstream: usize, step: Step) -> Result<Obtained, String> {
        let outcome = self.follow(step).await;
        // Should the service insist on one that was refused, it is for the upstream to say so again.
        if outcome.as_ref().is_ok_and(|obtained| self.is_refused(upstream, &obtained.credential)) {
            self.cache.refused_credentials.borrow_mut().remove(&upstream);
        }
        self.count_credential(upstream, if outcome.is_ok() { "obtained" } else { "failed" });
        outcome
    }

    fn count_credential(&self, upstream: usize, outcome: &str) {
        self.count(&Figure::Credential { upstream: &self.config.upstreams[upstream].name, outcome });
    }

    /// Sends what `step` says, and what its answers lead to, until the credential is there.
    pub(crate) async fn follow(&self, mut step: Step) -> Result<Obtained, String> {
        for _ in 0..MAX_STEPS {
            match step {
                Step::Done(obtained) => return Ok(obtained),
                Step::Send(request, pending) => {
                    let answer = self.ask(*request).await?;
                    let next = self.with_world(|world| pending.answer(&answer, world));
                    step = next.map_err(|error| error.to_string())?;
                }
            }
        }
        Err("its credential takes more requests than any known chain".to_owned())
    }

    fn with_world<T>(&self, decide: impl FnOnce(&World<'_>) -> T) -> T {
        let variable = |name: &str| self.ports.environment.get(name).cloned();
        let file = |path: &str| self.ports.files.read(path);
        decide(&World { variable: &variable, file: &file, now: self.ports.clock.now() })
    }

    async fn ask(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, String> {
        let service = request.uri().host().unwrap_or_default().to_owned();
        let outbound = Outbound { request, first_byte_timeout: Some(PATIENCE) };
        let answer = self.ports.http.send(outbound).await.map_err(|error| format!("{service}: {error}"))?;
        let (head, mut body) = answer.into_parts();
        let body = read_body(&mut body, MAX_ANSWER_BYTES).await.map_err(|error| format!("{service}: {error}"))?;
        Ok(http::Response::from_parts(head, body))
    }
}

/// The turn of one request to obtain a credential. It ends when this is dropped, also with a request that is given up.
struct Turn {
    gateway: Rc<Gateway>,
    upstream: usize,
}

impl Turn {
    fn take(gateway: &Rc<Gateway>, upstream: usize) -> Option<Self> {
        let is_free = gateway.cache.renewing.borrow_mut().insert(upstream);
        is_free.then(|| Self { gateway: Rc::clone(gateway), upstream })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.gateway.cache.renewing.borrow_mut().remove(&self.upstream);
    }
}

/// Looking again, ever less often, for [`LONGEST_WAIT`] at most.
struct Waiting<'a> {
    clock: &'a dyn Clock,
    waited: Duration,
    pause: Duration,
}

impl<'a> Waiting<'a> {
    const FIRST: Duration = Duration::from_millis(20);
    const LAST: Duration = Duration::from_millis(320);

    fn new(clock: &'a dyn Clock) -> Self {
        Self { clock, waited: Duration::ZERO, pause: Self::FIRST }
    }

    /// Waits a little; `false` if it has been long enough.
    async fn go_on(&mut self) -> bool {
        if self.waited >= LONGEST_WAIT {
            return false;
        }
        self.clock.sleep(self.pause).await;
        self.waited += self.pause;
        self.pause = (self.pause * 2).min(Self::LAST);
        true
    }
}

#[cfg(test)]
mod tests;
