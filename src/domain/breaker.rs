//! [`Breaker`]: after several failures in a row nobody is asked for a while (auth contract §10).

use std::time::Duration;

use crate::domain::ids::Timestamp;

/// Failures in a row that open it.
const FAILURES: u32 = 5;

/// How long it stays open.
const PAUSE: Duration = Duration::from_secs(30);

/// The recent past of one destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Breaker {
    failures: u32,
    open_until: Option<Timestamp>,
}

impl Breaker {
    /// Whether the destination is to be left alone at `now`.
    pub fn is_open(&self, now: Timestamp) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }

    /// Notes a success.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Notes a failure; true when it opens the breaker.
    pub fn failed(&mut self, now: Timestamp) -> bool {
        self.failures += 1;
        if self.failures < FAILURES || self.is_open(now) {
            return false;
        }
        self.failures = 0;
        self.open_until = Some(now.plus(PAUSE));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_failures_in_a_row_open_it_for_half_a_minute() {
        let mut breaker = Breaker::default();
        let start = Timestamp::from_secs(1000);
        for _ in 0..4 {
            assert!(!breaker.failed(start));
        }
        breaker.succeeded();
        for _ in 0..4 {
            assert!(!breaker.failed(start));
            assert!(!breaker.is_open(start));
        }
        assert!(breaker.failed(start));
        assert!(breaker.is_open(start.plus(Duration::from_secs(29))));
        assert!(!breaker.is_open(start.plus(Duration::from_secs(30))));
    }
}
