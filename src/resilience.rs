//! Which upstreams a request asks, in which order, and what is learned from how they answer: conversations that stay where
//! their prompt cache is, breakers whose state all replicas share, and a budget for further attempts.
//!
//! What is decided lives in `domain::circuit`, `domain::retry_budget` and `domain::share`. No request waits for the store
//! here: it looks at what this instance knows; what others know is read, and what they must know is written, beside it.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::FutureExt;
use http::{HeaderMap, header};

use crate::config::Upstream;
use crate::domain::audit::AuditEvent;
use crate::domain::circuit::{Admission, Circuit, Fault, Opening, Rules, TURN};
use crate::domain::figure::Figure;
use crate::domain::ids::Timestamp;
use crate::domain::retry_budget::Retries;
use crate::domain::session::Session;
use crate::domain::share;
use crate::gateway::Gateway;
use crate::log::Level;
use crate::ports::{BoxStream, HttpError};
use crate::relay::Inference;
use crate::store::{OpenBreaker, StoreError};
use crate::upstream::catalog::{Candidate, Plan};
use crate::upstream::{Message, Operation};

/// How often an instance looks at what the others know.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the store is waited for; then this instance decides by itself.
const PATIENCE: Duration = Duration::from_millis(2500);

/// What the last of `upstream_ttfb_ms` is given, so that the others know of its outcome before they try themselves.
const MARGIN: Duration = Duration::from_secs(10);

/// The header in which Claude Code names its conversation.
const CONVERSATION: &str = "x-claude-code-session-id";

/// An upstream by its index and one of its models by its id; empty for all of them.
type Key = (usize, String);

/// What one instance knows of its upstreams.
#[derive(Default)]
pub(crate) struct Health {
    /// Only of those that failed lately.
    circuits: BTreeMap<Key, Known>,
    retries: Retries,
    looked_at: Option<Timestamp>,
    /// What is to be told to the store, or asked of it, in order.
    jobs: VecDeque<Job>,
    is_working: bool,
}

#[derive(Default)]
struct Known {
    circuit: Circuit,
    /// Whether the store knows that it is open.
    is_shared: bool,
}

/// One errand to the store.
enum Job {
    /// What do the others know?
    Look,
    /// This one is open from now on, because of this; silently, if everybody was told before.
    Open(Key, Opening, Option<Fault>),
    /// This one's pause ended at the instant that was seen, and ends so now, because of this.
    Move(Key, Timestamp, Opening, Option<Fault>),
    /// Who finds out whether this one works again?
    Claim(Key, Opening),
    /// This one works again. Whether the store knew that it was open.
    Close(Key, bool),
}

impl Job {
    const fn key(&self) -> Option<&Key> {
        match self {
            Self::Look => None,
            Self::Open(key, ..) | Self::Move(key, ..) | Self::Claim(key, ..) | Self::Close(key, _) => Some(key),
        }
    }
}

/// The way of one request through its candidates.
pub(crate) struct Route<'a> {
    gateway: &'a Rc<Gateway>,
    operation: Operation,
    rest: std::slice::Iter<'a, Candidate>,
    /// Those that are left alone, and until when.
    passed_over: Vec<(Timestamp, &'a Candidate)>,
    asked: usize,
}

/// One candidate that may be asked.
pub(crate) struct Step<'a> {
    pub(crate) candidate: &'a Candidate,
    _turn: Option<Turn>,
}

impl<'a> Route<'a> {
    /// The way of `inference`.
    pub(crate) fn of(gateway: &'a Rc<Gateway>, inference: &'a Inference) -> Self {
        let now = gateway.ports.clock.now();
        gateway.look(now);
        gateway.cache.health.borrow_mut().retries.begin(&gateway.config.resilience.retry_budget, now);
        Self {
            gateway,
            operation: inference.operation,
            rest: inference.plan.candidates.iter(),
            passed_over: Vec::new(),
            asked: 0,
        }
    }

    /// The next to be asked. Those that are left alone are passed over. If nobody else was there to ask, the one whose
    /// pause ends first is asked all the same: no request fails before somebody was asked. If everybody else failed, one
    /// whose pause is over has a chance.
    pub(crate) fn next(&mut self) -> Option<Step<'a>> {
        let now = self.gateway.ports.clock.now();
        while let Some(candidate) = self.rest.next() {
            match self.gateway.admission(candidate, self.operation, now) {
                Admission::Ask => return self.step(candidate, None, now),
                Admission::Probe => {
                    let turn = self.gateway.take_turn(candidate, now);
                    return self.step(candidate, Some(turn), now);
                }
                Admission::Wait(until) => self.passed_over.push((until, candidate)),
                Admission::Due(opening) => {
                    self.gateway.claim_turn(candidate, now);
                    self.passed_over.push((opening.until, candidate));
                }
            }
        }
        let least_bad = (0..self.passed_over.len()).min_by_key(|place| self.passed_over[*place].0)?;
        if self.asked > 0 && now < self.passed_over[least_bad].0 {
            return None;
        }
        let (_, candidate) = self.passed_over.remove(least_bad);
        self.left_out();
        self.step(candidate, None, now)
    }

    /// Whether another one would be asked if the last fails.
    pub(crate) fn has_next(&self) -> bool {
        let gateway = self.gateway;
        let now = gateway.ports.clock.now();
        let may_ask = |candidate: &Candidate| {
            matches!(gateway.admission(candidate, self.operation, now), Admission::Ask | Admission::Probe)
        };
        let budget = &gateway.config.resilience.retry_budget;
        gateway.cache.health.borrow().retries.has_room(budget, gateway.config.upstreams.len(), now)
            && (self.rest.clone().any(may_ask) || self.passed_over.iter().any(|(until, _)| *until <= now))
    }

    fn step(&mut self, candidate: &'a Candidate, turn: Option<Turn>, now: Timestamp) -> Option<Step<'a>> {
        let gateway = self.gateway;
        let budget = &gateway.config.resilience.retry_budget;
        let upstreams = gateway.config.upstreams.len();
        if self.asked > 0 && !gateway.cache.health.borrow_mut().retries.take(budget, upstreams, now) {
            let upstream = &gateway.config.upstreams[candidate.upstream].name;
            gateway.count(&Figure::LeftOut { upstream, reason: "budget" });
            gateway.log(Level::Warn, &format!("upstream {upstream}: not tried, the retry budget is used up"));
            self.rest = [].iter();
            self.left_out();
            return None;
        }
        self.asked += 1;
        Some(Step { candidate, _turn: turn })
    }

    /// Those that were passed over stay so.
    fn left_out(&mut self) {
        for (_, candidate) in self.passed_over.drain(..) {
            let upstream = &self.gateway.config.upstreams[candidate.upstream].name;
            self.gateway.count(&Figure::LeftOut { upstream, reason: "breaker" });
        }
    }
}

impl Drop for Route<'_> {
    fn drop(&mut self) {
        self.left_out();
    }
}

/// The turn to find out whether an upstream works again. Whoever has it and finds out nothing gives it back.
struct Turn {
    gateway: Rc<Gateway>,
    taken: Vec<(Key, Opening)>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let now = self.gateway.ports.clock.now();
        for (key, taken) in self.taken.drain(..) {
            let mut health = self.gateway.cache.health.borrow_mut();
            let after = health.circuits.get_mut(&key).and_then(|known| known.circuit.give_turn_back(taken, now));
            drop(health);
            if let Some(after) = after {
                self.gateway.errand(Job::Move(key, taken.until, after, None));
            }
        }
    }
}

/// The circuits that decide about a candidate.
fn keys(candidate: &Candidate) -> [Key; 2] {
    [(candidate.upstream, String::new()), (candidate.upstream, candidate.model.clone())]
}

impl Gateway {
    /// Puts neighbouring candidates with weights into the order of the conversation that `headers` and `message` are part
    /// of.
    pub(crate) fn share(&self, plan: &mut Plan, headers: &HeaderMap, message: &Message, session: &Session) {
        let upstreams = &self.config.upstreams;
        if upstreams.iter().all(|upstream| upstream.weight.is_none()) {
            return;
        }
        let conversation = conversation(headers, message, session);
        let candidates = std::mem::take(&mut plan.candidates);
        for equals in candidates.chunk_by(|one, next| are_equals(upstreams, one.upstream, next.upstream)) {
            let named = equals.iter().map(|candidate| {
                let upstream = &upstreams[candidate.upstream];
                (candidate.clone(), upstream.name.as_str(), upstream.weight.unwrap_or_default())
            });
            match equals {
                [alone] => plan.candidates.push(alone.clone()),
                _ => plan.candidates.extend(share::order(named.collect(), &conversation)),
            }
        }
    }

    /// Learns from what became of an attempt that began at `begun`.
    pub(crate) fn observe(
        self: &Rc<Self>,
        candidate: &Candidate,
        operation: Operation,
        begun: Timestamp,
        answer: &Result<http::Response<BoxStream>, HttpError>,
    ) {
        // Whether an upstream counts tokens says nothing about whether it answers.
        if operation != Operation::Messages || self.rules().is_none() {
            return;
        }
        let fault = match answer {
            Ok(answer) => Fault::of(answer.status().as_u16(), retry_after(answer.headers())),
            Err(HttpError::Timeout(_)) => Some(Fault::TimedOut),
            Err(HttpError::Connect(_) | HttpError::Protocol(_)) => Some(Fault::Unreachable),
            // The host does not let us.
            Err(HttpError::Forbidden(_)) => return,
        };
        let [upstream, model] = keys(candidate);
        match fault {
            None => {
                self.succeeded(upstream, begun);
                self.succeeded(model, begun);
            }
            Some(fault) if fault.is_of_all_models() => {
                self.failed(upstream, fault, begun);
                // It may have been the model's turn to show that it works again.
                if self.is_open(&model) {
                    self.failed(model, fault, begun);
                }
            }
            Some(fault) => {
                self.succeeded(upstream, begun);
                self.failed(model, fault, begun);
            }
        }
    }

    /// The rules of breakers, if there are any: one upstream is always asked.
    fn rules(&self) -> Option<Rules<'_>> {
        let breaker = &self.config.resilience.breaker;
        let longest_attempt = self.config.timeouts.upstream_ttfb.saturating_add(MARGIN);
        (breaker.is_enabled && self.config.upstreams.len() > 1).then_some(Rules { breaker, longest_attempt })
    }

    fn admission(&self, candidate: &Candidate, operation: Operation, now: Timestamp) -> Admission {
        let health = self.cache.health.borrow();
        let Some(rules) = self.rules().filter(|_| !health.circuits.is_empty()) else { return Admission::Ask };
        let known = keys(candidate).into_iter().filter_map(|key| health.circuits.get(&key));
        let strictest =
            known.map(|known| known.circuit.admission(rules, now)).max_by_key(|admission| match admission {
                Admission::Ask => 0,
                Admission::Probe => 1,
                Admission::Due(_) => 2,
                Admission::Wait(_) => 3,
            });
        match strictest {
            None => Admission::Ask,
            // Counting tokens finds out nothing.
            Some(Admission::Probe) if operation == Operation::CountTokens => Admission::Wait(now),
            Some(Admission::Due(opening)) if operation == Operation::CountTokens => Admission::Wait(opening.until),
            Some(admission) => admission,
        }
    }

    fn claim_turn(self: &Rc<Self>, candidate: &Candidate, now: Timestamp) {
        let Some(rules) = self.rules() else { return };
        for key in keys(candidate) {
            let mut health = self.cache.health.borrow_mut();
            let Some(known) = health.circuits.get_mut(&key) else { continue };
            let Admission::Due(opening) = known.circuit.admission(rules, now) else { continue };
            known.circuit.claim();
            drop(health);
            self.errand(Job::Claim(key, opening));
        }
    }

    fn take_turn(self: &Rc<Self>, candidate: &Candidate, now: Timestamp) -> Turn {
        let mut turn = Turn { gateway: Rc::clone(self), taken: Vec::new() };
        let Some(rules) = self.rules() else { return turn };
        for key in keys(candidate) {
            let mut health = self.cache.health.borrow_mut();
            let Some(known) = health.circuits.get_mut(&key) else { continue };
            let Some((before, taken)) = known.circuit.take_turn(rules, now) else { continue };
            drop(health);
            self.errand(Job::Move(key.clone(), before.until, taken, None));
            turn.taken.push((key, taken));
        }
        turn
    }

    fn is_open(&self, key: &Key) -> bool {
        self.cache.health.borrow().circuits.get(key).is_some_and(|known| known.circuit.opening().is_some())
    }

    fn succeeded(self: &Rc<Self>, key: Key, begun: Timestamp) {
        let mut health = self.cache.health.borrow_mut();
        let Some(known) = health.circuits.get_mut(&key) else { return };
        let closes = known.circuit.succeeded(begun);
        let (is_shared, is_blank) = (known.is_shared, known.circuit.is_blank());
        if is_blank {
            health.circuits.remove(&key);
        }
        drop(health);
        if closes {
            self.tell(&key, false);
            self.errand(Job::Close(key, is_shared));
        }
    }

    fn failed(self: &Rc<Self>, key: Key, fault: Fault, begun: Timestamp) {
        let Some(rules) = self.rules() else { return };
        let (now, jitter) = (self.ports.clock.now(), u32::from_be_bytes(self.random()));
        let mut health = self.cache.health.borrow_mut();
        let known = health.circuits.entry(key.clone()).or_default();
        let before = known.circuit.opening();
        let opening = known.circuit.failed(fault, begun, rules, jitter, now);
        drop(health);
        match (before, opening) {
            (_, None) => {}
            (None, Some(opening)) => {
                self.tell(&key, true);
                self.errand(Job::Open(key, opening, Some(fault)));
            }
            (Some(before), Some(opening)) => self.errand(Job::Move(key, before.until, opening, Some(fault))),
        }
    }

    /// Has a look at what the others know, if the last was a while ago.
    fn look(self: &Rc<Self>, now: Timestamp) {
        if self.rules().is_none() {
            return;
        }
        let mut health = self.cache.health.borrow_mut();
        if health.looked_at.is_some_and(|at| now.is_within(LOOK_EVERY, at)) {
            return;
        }
        health.looked_at = Some(now);
        let is_waiting = health.jobs.iter().any(|job| matches!(job, Job::Look));
        drop(health);
        if !is_waiting {
            self.errand(Job::Look);
        }
    }

    /// Queues an errand to the store, to be run beside the requests.
    fn errand(self: &Rc<Self>, job: Job) {
        let mut health = self.cache.health.borrow_mut();
        health.jobs.push_back(job);
        if std::mem::replace(&mut health.is_working, true) {
            return;
        }
        drop(health);
        let gateway = Rc::clone(self);
        let work = async move {
            while let Some(job) = gateway.next_job() {
                gateway.run(job).await;
            }
        };
        self.ports.tasks.spawn(work.boxed_local());
    }

    fn next_job(&self) -> Option<Job> {
        let mut health = self.cache.health.borrow_mut();
        let job = health.jobs.pop_front();
        health.is_working = job.is_some();
        job
    }

    async fn run(self: &Rc<Self>, job: Job) {
        let store = self.store();
        match job {
            Job::Look => {
                if let Some(open) = self.soon(store.open_breakers()).await {
                    self.adopt(open);
                }
            }
            Job::Open((upstream, model), opening, fault) => {
                let name = &self.config.upstreams[upstream].name;
                let kept = self.soon(store.open_breaker(name, &model, opening)).await;
                let key = (upstream, model);
                if let Some(known) = self.cache.health.borrow_mut().circuits.get_mut(&key) {
                    known.is_shared |= kept == Some(true);
                }
                self.after(&key, kept, opening, fault);
            }
            Job::Move((upstream, model), seen, to, fault) => {
                let name = &self.config.upstreams[upstream].name;
                let moved = self.soon(store.move_breaker(name, &model, seen, to)).await;
                self.after(&(upstream, model), moved, to, fault);
            }
            Job::Claim((upstream, model), seen) => {
                let until = self.ports.clock.now().plus(TURN);
                let name = &self.config.upstreams[upstream].name;
                let claimed = self.soon(store.move_breaker(name, &model, seen.until, Opening { until, ..seen })).await;
                let is_lost = claimed == Some(false);
                if let Some(known) = self.cache.health.borrow_mut().circuits.get_mut(&(upstream, model)) {
                    // Without the store, each instance takes its own turn.
                    if is_lost { known.circuit.lost() } else { known.circuit.claimed(until) }
                }
                if is_lost {
                    self.errand(Job::Look);
                }
            }
            Job::Close((upstream, model), was_shared) => {
                let name = &self.config.upstreams[upstream].name;
                let closed = self.soon(store.close_breaker(name, &model)).await;
                if !was_shared || closed != Some(false) {
                    let about = about(name, &model);
                    self.log(Level::Info, &format!("{about} answers again"));
                    self.record(&AuditEvent::BreakerClose { upstream: name, model: named(&model) }, None);
                }
            }
        }
    }

    /// A pause is known to the store, or not: whoever was the first to say so, or cannot ask, tells the operator.
    fn after(self: &Rc<Self>, key: &Key, kept: Option<bool>, to: Opening, fault: Option<Fault>) {
        if kept == Some(false) {
            self.errand(Job::Look);
            return;
        }
        let Some(fault) = fault else { return };
        let (name, model) = (&self.config.upstreams[key.0].name, &key.1);
        let pause = to.until.since(self.ports.clock.now());
        let about = about(name, model);
        let reason = fault.reason();
        self.log(Level::Warn, &format!("{about} is left alone for {} s: {reason}", pause.as_secs()));
        let event = AuditEvent::BreakerOpen {
            upstream: name,
            model: named(model),
            reason,
            round: to.round,
            until: to.until,
            shared: kept == Some(true),
        };
        self.record(&event, None);
    }

    /// Takes over what the others know, but for what is on its way to them.
    fn adopt(self: &Rc<Self>, open: Vec<OpenBreaker>) {
        let mut health = self.cache.health.borrow_mut();
        let Health { circuits, jobs, .. } = &mut *health;
        let is_known_better = |key: &Key| jobs.iter().any(|job| job.key() == Some(key));
        let mut there = BTreeMap::new();
        for OpenBreaker { upstream, model, opening } in open {
            if let Some(index) = self.config.upstreams.iter().position(|known| known.name == upstream) {
                there.insert((index, model), opening);
            }
        }
        let (mut changed, mut untold) = (Vec::new(), Vec::new());
        circuits.retain(|key, known| {
            let Some(ours) = known.circuit.opening() else { return true };
            if there.contains_key(key) || is_known_better(key) {
                return true;
            }
            if !known.is_shared {
                untold.push(Job::Open(key.clone(), ours, None));
                return true;
            }
            changed.push((key.clone(), false));
            false
        });
        for (key, opening) in there {
            if is_known_better(&key) {
                continue;
            }
            let known = circuits.entry(key.clone()).or_default();
            if known.circuit.opening().is_none() {
                changed.push((key, true));
            }
            known.circuit.adopt(Some(opening));
            known.is_shared = true;
        }
        drop(health);
        for (key, is_open) in changed {
            self.tell(&key, is_open);
        }
        for job in untold {
            self.errand(job);
        }
    }

    /// What the store says, if it does soon.
    async fn soon<T>(&self, answer: impl Future<Output = Result<T, StoreError>>) -> Option<T> {
        self.stored_in_time(PATIENCE, answer)
            .await
            .map_err(|reason| self.log(Level::Debug, &format!("what is known of upstreams is not shared: {reason}")))
            .ok()
    }

    fn tell(&self, (upstream, model): &Key, is_open: bool) {
        let model = named(model).unwrap_or("*");
        self.count(&Figure::Breaker { upstream: &self.config.upstreams[*upstream].name, model, is_open });
    }
}

fn named(model: &str) -> Option<&str> {
    (!model.is_empty()).then_some(model)
}

fn about(upstream: &str, model: &str) -> String {
    named(model).map_or_else(|| format!("upstream {upstream}"), |model| format!("upstream {upstream} for {model}"))
}

/// Whether requests are shared among two upstreams: every one from the first to the second has a weight.
fn are_equals(upstreams: &[Upstream], one: usize, other: usize) -> bool {
    upstreams[one..=other].iter().all(|upstream| upstream.weight.is_some())
}

/// What requests of one conversation have in common: the id that Claude Code gives it, what the request says about its
/// user, or the session. Nobody can be somebody else.
fn conversation(headers: &HeaderMap, message: &Message, session: &Session) -> String {
    let header = headers.get(CONVERSATION).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty());
    let named = header.map(str::to_owned).or_else(|| message.user_id());
    let own = named.as_deref().or(session.id()).unwrap_or_default();
    format!("{}\n{own}", session.subject().unwrap_or_default())
}

/// How long an upstream asks to be left alone (RFC 9110 §10.2.3); dates are not read.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}
