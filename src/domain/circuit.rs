//! [`Circuit`]: whether an upstream is asked, judged by what became of the attempts before.
//!
//! Closed, it counts failures in a row. Enough of them open it: nobody asks until its pause is over. Then one request of
//! all replicas is let through; what becomes of that one closes it, or opens it again for longer. Who that one is, and
//! what the other replicas know, is agreed on in the store (`resilience.rs`); nothing here waits or draws lots.

use std::time::Duration;

use crate::config::Breaker;
use crate::domain::ids::Timestamp;

/// After so long without a failure, those before it are forgotten.
const FORGET: Duration = Duration::from_mins(10);

/// For how long a turn is claimed at first, and how much of it must be left when it is taken: the others have to learn of
/// the longer claim before the first one ends.
pub const TURN: Duration = Duration::from_secs(10);
const MARGIN: Duration = Duration::from_secs(5);

/// By how much the clocks of replicas may differ.
const SKEW: Duration = Duration::from_mins(1);

/// How an attempt failed, as far as it is the upstream's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No connection, or one that broke before an answer.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// An answer that says so, and how long it asks to be left alone.
    Status(u16, Option<Duration>),
}

impl Fault {
    /// What a status says about an upstream: anything but 429 and 5xx says that it works, and so does 501, which is about
    /// the request.
    pub fn of(status: u16, retry_after: Option<Duration>) -> Option<Self> {
        matches!(status, 429 | 500 | 502..=599).then_some(Self::Status(status, retry_after))
    }

    /// Whether it is one of the whole upstream; else it is one of the model that was asked for, since limits and capacity
    /// are given out by model.
    pub const fn is_of_all_models(self) -> bool {
        matches!(self, Self::Unreachable | Self::TimedOut)
    }

    /// In a word, for the audit trail.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timeout",
            Self::Status(429, _) => "rate_limited",
            Self::Status(529, _) => "overloaded",
            Self::Status(..) => "server_error",
        }
    }

    const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Status(_, retry_after) => retry_after,
            Self::Unreachable | Self::TimedOut => None,
        }
    }
}

/// One time of being left alone: what replicas tell each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Its number among those in a row, from 1.
    pub round: u32,
    /// When the first of them began.
    pub since: Timestamp,
    /// Before this instant nobody asks. Whoever claims the turn moves it ahead.
    pub until: Timestamp,
}

impl Opening {
    /// Whether nobody is to ask at `now`. An end that lies further ahead than any can was set by a clock that was wrong.
    pub fn is_running(&self, rules: &Breaker, longest_attempt: Duration, now: Timestamp) -> bool {
        let longest = with_jitter(rules.max_cooldown, u32::MAX).max(longest_attempt).max(TURN) + SKEW;
        now < self.until && self.until.since(now) <= longest
    }
}

/// Whose turn it is to find out whether an upstream works again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Nobody's here, as far as is known.
    Unclaimed,
    /// The other replicas are being asked.
    Claiming,
    /// The next request's of this instance.
    Ours,
    /// A request of this instance is under way.
    Taken,
}

/// What is known about one upstream, or one model of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circuit(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32, failed_at: Timestamp },
    Open { opening: Opening, turn: Turn },
}

/// Whether a request may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It may.
    Ask,
    /// It may, as the one that finds out: [`Circuit::take_turn`].
    Probe,
    /// It may not before this instant. If that is over, somebody else finds out just now.
    Wait(Timestamp),
    /// It may not, and somebody has to claim the turn: [`Circuit::claim`].
    Due(Opening),
}

impl Default for Circuit {
    fn default() -> Self {
        Self(State::Closed { failures: 0, failed_at: Timestamp::from_millis(0) })
    }
}

/// The rules, and how long an attempt may take until it has headers.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// As configured.
    pub breaker: &'a Breaker,
    /// The longest that the turn may be taken.
    pub longest_attempt: Duration,
}

impl Circuit {
    /// An attempt that began at `begun` succeeded; true if this closes it. One that began before it opened says nothing.
    pub fn succeeded(&mut self, begun: Timestamp) -> bool {
        match self.0 {
            State::Open { opening, .. } if begun < opening.since => false,
            before => {
                *self = Self::default();
                matches!(before, State::Open { .. })
            }
        }
    }

    /// An attempt that began at `begun` failed; the opening, if this opens it. `jitter` is random. While it is open, only
    /// the attempt whose turn it was counts.
    pub fn failed(
        &mut self,
        fault: Fault,
        begun: Timestamp,
        rules: Rules<'_>,
        jitter: u32,
        now: Timestamp,
    ) -> Option<Opening> {
        let (round, since) = match self.0 {
            State::Closed { failures, failed_at } => {
                let failures = if now.is_within(FORGET, failed_at) { failures + 1 } else { 1 };
                if failures < rules.breaker.failures {
                    self.0 = State::Closed { failures, failed_at: now };
                    return None;
                }
                (1, now)
            }
            State::Open { opening, turn: Turn::Taken } if begun >= opening.since => {
                (opening.round.saturating_add(1), opening.since)
            }
            State::Open { .. } => return None,
        };
        let pause = pause(round, fault.retry_after(), rules.breaker, jitter);
        let opening = Opening { round, since, until: now.plus(pause) };
        self.0 = State::Open { opening, turn: Turn::Unclaimed };
        Some(opening)
    }

    /// The turn is being claimed for this instance.
    pub fn claim(&mut self) {
        if let State::Open { turn, .. } = &mut self.0 {
            *turn = Turn::Claiming;
        }
    }

    /// The turn is this instance's until `until`.
    pub fn claimed(&mut self, until: Timestamp) {
        if let State::Open { opening, turn } = &mut self.0 {
            (opening.until, *turn) = (until, Turn::Ours);
        }
    }

    /// The turn is somebody else's.
    pub fn lost(&mut self) {
        if let State::Open { turn: turn @ Turn::Claiming, .. } = &mut self.0 {
            *turn = Turn::Unclaimed;
        }
    }

    /// A request takes the turn: the opening before and from now on.
    pub fn take_turn(&mut self, rules: Rules<'_>, now: Timestamp) -> Option<(Opening, Opening)> {
        let State::Open { opening, turn: turn @ Turn::Ours } = &mut self.0 else { return None };
        let before = *opening;
        (opening.until, *turn) = (now.plus(rules.longest_attempt), Turn::Taken);
        Some((before, *opening))
    }

    /// The request that had `taken` the turn found out nothing: the opening from now on, which is over at once. `None` if
    /// the turn is over.
    pub fn give_turn_back(&mut self, taken: Opening, now: Timestamp) -> Option<Opening> {
        let State::Open { opening, turn: turn @ Turn::Taken } = &mut self.0 else { return None };
        if *opening != taken {
            return None;
        }
        (opening.until, *turn) = (now, Turn::Unclaimed);
        Some(*opening)
    }

    /// Takes over what the other replicas know. What this instance does itself at the moment, it knows better.
    pub fn adopt(&mut self, known: Option<Opening>) {
        match (self.0, known) {
            (State::Open { opening, turn }, Some(known)) if turn != Turn::Unclaimed && opening.since == known.since => {
            }
            (State::Closed { .. } | State::Open { .. }, Some(opening)) => {
                self.0 = State::Open { opening, turn: Turn::Unclaimed };
            }
            (State::Open { .. }, None) => *self = Self::default(),
            (State::Closed { .. }, None) => {}
        }
    }

    /// Whether a request may ask at `now`.
    pub fn admission(&self, rules: Rules<'_>, now: Timestamp) -> Admission {
        let State::Open { opening, turn } = self.0 else { return Admission::Ask };
        let is_running = opening.is_running(rules.breaker, rules.longest_attempt, now);
        match turn {
            Turn::Ours if now.plus(MARGIN) <= opening.until && is_running => Admission::Probe,
            Turn::Claiming => Admission::Wait(opening.until),
            _ if is_running => Admission::Wait(opening.until),
            _ => Admission::Due(opening),
        }
    }

    /// The opening, while it is open.
    pub const fn opening(&self) -> Option<Opening> {
        match self.0 {
            State::Open { opening, .. } => Some(opening),
            State::Closed { .. } => None,
        }
    }

    /// Whether there is nothing to remember.
    pub fn is_blank(&self) -> bool {
        matches!(self.0, State::Closed { failures: 0, .. })
    }
}

/// How long the pause of this round is: twice the one before, or what the upstream asks for, both bounded, and up to a
/// fifth more, so that replicas and upstreams do not come back all at once.
fn pause(round: u32, retry_after: Option<Duration>, breaker: &Breaker, jitter: u32) -> Duration {
    let factor = 1_u32.checked_shl(round - 1).unwrap_or(u32::MAX);
    let own = breaker.cooldown.saturating_mul(factor);
    with_jitter(own.max(retry_after.unwrap_or_default()).min(breaker.max_cooldown), jitter)
}

fn with_jitter(pause: Duration, jitter: u32) -> Duration {
    let most = pause.as_millis() / 5;
    let more = most * u128::from(jitter) / u128::from(u32::MAX);
    pause.saturating_add(Duration::from_millis(u64::try_from(more).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);
    const BREAKER: Breaker = Breaker {
        is_enabled: true,
        failures: 3,
        cooldown: Duration::from_secs(10),
        max_cooldown: Duration::from_mins(1),
    };
    const RULES: Rules<'static> = Rules { breaker: &BREAKER, longest_attempt: Duration::from_secs(30) };

    fn secs(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn fail(circuit: &mut Circuit, fault: Fault, now: Timestamp) -> Option<Opening> {
        circuit.failed(fault, now, RULES, 0, now)
    }

    fn opened(fault: Fault) -> Circuit {
        let mut circuit = Circuit::default();
        for _ in 1..BREAKER.failures {
            assert_eq!(fail(&mut circuit, fault, NOW), None);
            assert_eq!(circuit.admission(RULES, NOW), Admission::Ask);
        }
        assert!(fail(&mut circuit, fault, NOW).is_some());
        circuit
    }

    /// Lets the pause pass and the turn be claimed and taken.
    fn probing(circuit: &mut Circuit) -> Timestamp {
        let now = circuit.opening().expect("open").until;
        assert!(matches!(circuit.admission(RULES, now), Admission::Due(_)));
        circuit.claim();
        circuit.claimed(now.plus(TURN));
        assert_eq!(circuit.admission(RULES, now), Admission::Probe);
        circuit.take_turn(RULES, now).expect("ours");
        now
    }

    #[test]
    fn only_what_is_the_upstreams_fault_counts() {
        for (status, counts) in [
            (200, false),
            (302, false),
            (400, false),
            (401, false),
            (402, false),
            (404, false),
            (413, false),
            (429, true),
            (500, true),
            (501, false),
            (502, true),
            (503, true),
            (504, true),
            (529, true),
            (599, true),
        ] {
            assert_eq!(Fault::of(status, None).is_some(), counts, "{status}");
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
        let mut circuit = Circuit::default();
        for _ in 0..5 {
            assert_eq!(fail(&mut circuit, Fault::Unreachable, NOW), None);
            assert_eq!(fail(&mut circuit, Fault::Unreachable, NOW), None);
            assert!(!circuit.succeeded(NOW));
        }
        let circuit = opened(Fault::Unreachable);
        let until = NOW.plus(secs(10));
        assert_eq!(circuit.opening(), Some(Opening { round: 1, since: NOW, until }));
        assert_eq!(circuit.admission(RULES, NOW), Admission::Wait(until));
    }

    #[test]
    fn failures_of_long_ago_are_forgotten() {
        let mut circuit = Circuit::default();
        let mut now = NOW;
        for _ in 0..10 {
            assert_eq!(fail(&mut circuit, Fault::TimedOut, now), None);
            now = now.plus(FORGET);
        }
    }

    #[test]
    fn the_pause_grows_honours_retry_after_and_is_bounded() {
        let retry = |after: u64| Fault::Status(429, Some(secs(after)));
        for (round, fault, jitter, expected) in [
            (1, Fault::Unreachable, 0, secs(10)),
            (2, Fault::Unreachable, 0, secs(20)),
            (3, Fault::Unreachable, 0, secs(40)),
            (4, Fault::Unreachable, 0, secs(60)),
            (40, Fault::Unreachable, 0, secs(60)),
            (1, Fault::Unreachable, u32::MAX, secs(12)),
            (1, Fault::Unreachable, u32::MAX / 2, secs(10) + Duration::from_millis(999)),
            (1, retry(3), 0, secs(10)),
            (1, retry(25), 0, secs(25)),
            (3, retry(25), 0, secs(40)),
            (1, retry(86_400), 0, secs(60)),
            (1, retry(u64::MAX), u32::MAX, secs(72)),
        ] {
            assert_eq!(pause(round, fault.retry_after(), &BREAKER, jitter), expected, "{round} {fault:?}");
        }
    }

    #[test]
    fn one_request_finds_out_and_closes_it_or_opens_it_for_longer() {
        let mut circuit = opened(Fault::Unreachable);
        let now = probing(&mut circuit);
        assert_eq!(circuit.admission(RULES, now), Admission::Wait(now.plus(RULES.longest_attempt)));
        let again = fail(&mut circuit, Fault::Unreachable, now).expect("for longer");
        assert_eq!(again, Opening { round: 2, since: NOW, until: now.plus(secs(20)) });

        let now = probing(&mut circuit);
        assert!(circuit.succeeded(now));
        assert_eq!(circuit, Circuit::default());
        assert_eq!(fail(&mut circuit, Fault::Unreachable, now), None, "it counts from the beginning");
    }

    #[test]
    fn attempts_from_before_and_those_without_the_turn_change_nothing() {
        let mut circuit = opened(Fault::Unreachable);
        let before = circuit;
        let earlier = Timestamp::from_secs(999_999);
        assert!(!circuit.succeeded(earlier));
        assert_eq!(fail(&mut circuit, Fault::Unreachable, NOW), None);
        assert_eq!(circuit, before);
        // The last upstream left is asked all the same; if it answers, that is that.
        assert!(circuit.succeeded(NOW));
    }

    #[test]
    fn a_turn_that_nobody_takes_or_that_finds_out_nothing_is_due_again() {
        let mut circuit = opened(Fault::Unreachable);
        let now = NOW.plus(secs(10));
        circuit.claim();
        assert_eq!(circuit.admission(RULES, now), Admission::Wait(now), "one claim at a time");
        circuit.lost();
        assert!(matches!(circuit.admission(RULES, now), Admission::Due(_)));
        circuit.claim();
        circuit.claimed(now.plus(TURN));
        let late = now.plus(secs(6));
        assert_eq!(circuit.admission(RULES, late), Admission::Wait(now.plus(TURN)), "too late to take it");
        assert!(matches!(circuit.admission(RULES, now.plus(TURN)), Admission::Due(_)));
        let (_, taken) = circuit.take_turn(RULES, now).expect("ours");
        assert_eq!(circuit.take_turn(RULES, now), None, "one request at a time");
        let after = circuit.give_turn_back(taken, now).expect("it had it");
        assert_eq!((after.until, circuit.give_turn_back(taken, now)), (now, None));
        assert!(matches!(circuit.admission(RULES, now), Admission::Due(_)));
    }

    #[test]
    fn what_replicas_know_is_taken_over_unless_this_instance_is_at_it() {
        let theirs = Opening { round: 2, since: NOW, until: NOW.plus(secs(20)) };
        let mut circuit = Circuit::default();
        circuit.adopt(Some(theirs));
        assert_eq!(circuit.admission(RULES, NOW), Admission::Wait(theirs.until));
        circuit.adopt(None);
        assert_eq!(circuit, Circuit::default());

        let mut ours = opened(Fault::Unreachable);
        probing(&mut ours);
        let before = ours;
        ours.adopt(Some(Opening { round: 1, ..theirs }));
        assert_eq!(ours, before);
    }

    #[test]
    fn an_end_from_a_clock_that_was_wrong_holds_nobody_up() {
        let mut circuit = Circuit::default();
        circuit.adopt(Some(Opening { round: 1, since: NOW, until: NOW.plus(secs(1_000_000)) }));
        assert!(matches!(circuit.admission(RULES, NOW), Admission::Due(_)));
    }

    /// What can happen, and how many milliseconds later.
    #[derive(Debug, Clone)]
    enum Step {
        Fail(u64),
        Succeed,
        Claim,
        Adopt(Option<u64>),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..100_000_u64).prop_map(Step::Fail),
            1 => Just(Step::Succeed),
            2 => Just(Step::Claim),
            1 => prop::option::of(0..132_000_u64).prop_map(Step::Adopt),
        ]
    }

    proptest! {
        /// Whatever happens: what is closed is asked; no pause is longer than the bound; and after the longest of them
        /// somebody may find out.
        #[test]
        fn nothing_is_left_alone_for_ever(steps in prop::collection::vec((step(), 0..20_000_u64, any::<u32>()), 0..60)) {
            let mut circuit = Circuit::default();
            let mut now = NOW;
            let longest = Duration::from_secs(72).max(RULES.longest_attempt).max(TURN) + SKEW;
            for (step, later, jitter) in steps {
                now = now.plus(Duration::from_millis(later));
                match step {
                    Step::Fail(after) => {
                        let fault = Fault::Status(429, Some(Duration::from_millis(after)));
                        if let Some(opening) = circuit.failed(fault, now, RULES, jitter, now) {
                            prop_assert!(opening.until.since(now) <= Duration::from_secs(72));
                            prop_assert!(opening.until.since(now) >= BREAKER.cooldown);
                        }
                    }
                    Step::Succeed => {
                        circuit.succeeded(now);
                        prop_assert_eq!(circuit.admission(RULES, now), Admission::Ask);
                    }
                    Step::Claim => match circuit.admission(RULES, now) {
                        Admission::Due(_) => {
                            circuit.claim();
                            circuit.claimed(now.plus(TURN));
                        }
                        Admission::Probe => prop_assert!(circuit.take_turn(RULES, now).is_some()),
                        Admission::Ask | Admission::Wait(_) => {}
                    },
                    Step::Adopt(until) => circuit.adopt(until.map(|until| Opening {
                        round: 1, since: now, until: now.plus(Duration::from_millis(until)),
                    })),
                }
                if circuit.opening().is_none() {
                    prop_assert_eq!(circuit.admission(RULES, now), Admission::Ask);
                }
                let later = now.plus(longest);
                prop_assert!(!matches!(circuit.admission(RULES, later), Admission::Wait(until) if until > later));
            }
        }
    }
}
