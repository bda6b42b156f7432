//! [`Retries`]: how many further attempts there may be, so that failing over cannot multiply the load of an outage.

use crate::config::RetryBudget;
use crate::domain::ids::Timestamp;

/// Into how many parts the window is cut.
const PARTS: usize = 10;

/// Requests and further attempts of the window that ends now, of one instance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retries {
    parts: [Part; PARTS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    /// Which part of all time this is.
    number: i64,
    requests: u32,
    retries: u32,
}

impl Retries {
    /// A request is sent for the first time.
    pub fn begin(&mut self, budget: &RetryBudget, now: Timestamp) {
        let part = self.part(budget, now);
        part.requests = part.requests.saturating_add(1);
    }

    /// Takes one further attempt, if there is one left. `upstreams` is how many there are: one request may always try
    /// them all.
    pub fn take(&mut self, budget: &RetryBudget, upstreams: usize, now: Timestamp) -> bool {
        if !budget.is_enabled {
            return true;
        }
        let has_room = self.has_room(budget, upstreams, now);
        if has_room {
            let part = self.part(budget, now);
            part.retries = part.retries.saturating_add(1);
        }
        has_room
    }

    /// Whether a further attempt is left.
    pub fn has_room(&self, budget: &RetryBudget, upstreams: usize, now: Timestamp) -> bool {
        let newest = number(budget, now);
        let oldest = newest - i64::try_from(PARTS).unwrap_or(i64::MAX) + 1;
        let current = self.parts.iter().filter(|part| (oldest..=newest).contains(&part.number));
        let (requests, retries) = current.fold((0_u64, 0_u64), |(requests, retries), part| {
            (requests + u64::from(part.requests), retries + u64::from(part.retries))
        });
        let minimum = u64::from(budget.minimum).max(upstreams.saturating_sub(1) as u64);
        !budget.is_enabled || retries < minimum + requests * u64::from(budget.percent) / 100
    }

    /// The part that `now` is in; what was there before is over.
    fn part(&mut self, budget: &RetryBudget, now: Timestamp) -> &mut Part {
        let number = number(budget, now);
        let place = number.rem_euclid(i64::try_from(PARTS).unwrap_or(1));
        let part = &mut self.parts[usize::try_from(place).unwrap_or_default()];
        if part.number != number {
            *part = Part { number, ..Part::default() };
        }
        part
    }
}

fn number(budget: &RetryBudget, now: Timestamp) -> i64 {
    let parts = i64::try_from(PARTS).unwrap_or(1);
    let length = i64::try_from(budget.window.as_millis()).unwrap_or(i64::MAX) / parts;
    now.as_millis().div_euclid(length.max(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    fn budget(percent: u32, minimum: u32) -> RetryBudget {
        RetryBudget { is_enabled: true, percent, minimum, window: Duration::from_secs(10) }
    }

    /// How many further attempts there are after so many requests.
    fn taken(budget: RetryBudget, upstreams: usize, requests: u32) -> u32 {
        let mut retries = Retries::default();
        (0..requests).for_each(|_| retries.begin(&budget, NOW));
        (0..10_000).filter(|_| retries.take(&budget, upstreams, NOW)).count().try_into().expect("few")
    }

    #[test]
    fn further_attempts_are_a_fraction_of_the_requests_and_a_minimum() {
        for (percent, minimum, upstreams, requests, expected) in [
            (20, 3, 2, 0, 3),
            (20, 3, 2, 1, 3),
            (20, 3, 2, 100, 23),
            (0, 1, 2, 100, 1),
            (100, 20, 3, 100, 120),
            // One request may always try every upstream.
            (0, 1, 6, 1, 5),
        ] {
            let found = taken(budget(percent, minimum), upstreams, requests);
            assert_eq!(found, expected, "{percent} {minimum} {upstreams} {requests}");
        }
        assert_eq!(taken(RetryBudget { is_enabled: false, ..budget(0, 1) }, 2, 0), 10_000);
    }

    #[test]
    fn the_window_slides() {
        let budget = budget(0, 2);
        let mut retries = Retries::default();
        assert!(retries.take(&budget, 2, NOW) && retries.take(&budget, 2, NOW.plus(Duration::from_secs(5))));
        assert!(!retries.take(&budget, 2, NOW.plus(Duration::from_secs(9))));
        assert!(retries.take(&budget, 2, NOW.plus(Duration::from_secs(10))));
        assert!(!retries.take(&budget, 2, NOW.plus(Duration::from_secs(14))));
        assert!(retries.take(&budget, 2, NOW.plus(Duration::from_secs(15))));
        // A clock that was set back finds room; one that jumps ahead, too.
        assert!(retries.take(&budget, 2, Timestamp::from_secs(0)));
        assert!(retries.take(&budget, 2, Timestamp::from_secs(2_000_000)));
    }

    proptest! {
        /// In any window, further attempts stay below what the requests of the window allow, and a request that comes
        /// alone is never refused one.
        #[test]
        fn no_window_has_more_than_its_share(
            events in prop::collection::vec((0..3_000_u64, prop::bool::weighted(0.6)), 1..200),
            percent in 0..150_u32,
        ) {
            let budget = budget(percent, 4);
            let mut retries = Retries::default();
            let mut now = NOW;
            let (mut requests, mut taken) = (Vec::new(), Vec::new());
            for (later, is_request) in events {
                now = now.plus(Duration::from_millis(later));
                if is_request {
                    retries.begin(&budget, now);
                    requests.push(now);
                    continue;
                }
                let lately = |all: &[Timestamp], length: Duration| {
                    all.iter().filter(|at| now.since(**at) < length).count() as u64
                };
                // The part that is under way is not complete.
                let (most, least) = (budget.window, budget.window * 9 / 10);
                let is_taken = retries.take(&budget, 2, now);
                let allowed = |length| 4 + lately(&requests, length) * u64::from(percent) / 100;
                if is_taken {
                    prop_assert!(lately(&taken, least) < allowed(most));
                    taken.push(now);
                } else {
                    prop_assert!(lately(&taken, most) >= allowed(least));
                }
            }
        }
    }
}
