//! [`Destination`]: how much is under way to one collector, and whether it is to be left alone (auth contract §10).

use std::time::Duration;

use crate::domain::breaker::Breaker;
use crate::domain::ids::Timestamp;

/// Exports to one destination that an instance has under way, and their bytes. One export always fits.
const MOST_EXPORTS: usize = 32;
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// How often the operator is told that exports are dropped for want of room.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// What an instance remembers of one destination.
#[derive(Debug, Default)]
pub struct Destination {
    breaker: Breaker,
    exports: usize,
    bytes: u64,
    /// Exports dropped for want of room that the operator has not been told of.
    untold: u64,
    told_at: Option<Timestamp>,
}

/// Whether an export may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// It may; [`Destination::leave`] gives its room back.
    Admitted,
    /// The destination failed too often.
    Paused,
    /// There is no room. The number of exports dropped for that, if the operator is to be told now.
    Full(Option<u64>),
}

impl Destination {
    /// Takes room for `bytes`.
    pub fn enter(&mut self, bytes: u64, now: Timestamp) -> Entry {
        if self.is_paused(now) {
            return Entry::Paused;
        }
        let has_room = self.exports < MOST_EXPORTS && self.bytes.saturating_add(bytes) <= MOST_BYTES;
        if self.exports == 0 || has_room {
            self.exports += 1;
            self.bytes += bytes;
            return Entry::Admitted;
        }
        self.untold += 1;
        if self.told_at.is_some_and(|at| now.since(at) < TELL_EVERY) {
            return Entry::Full(None);
        }
        self.told_at = Some(now);
        Entry::Full(Some(std::mem::take(&mut self.untold)))
    }

    /// An export of `bytes` is over.
    pub fn leave(&mut self, bytes: u64) {
        self.exports = self.exports.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// Whether it is to be left alone at `now`.
    pub fn is_paused(&self, now: Timestamp) -> bool {
        self.breaker.is_open(now)
    }

    /// Notes a success.
    pub fn succeeded(&mut self) {
        self.breaker.succeeded();
    }

    /// Notes a failure; true when it has the destination left alone from now on.
    pub fn failed(&mut self, now: Timestamp) -> bool {
        self.breaker.failed(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1000);

    #[test]
    fn exports_are_bounded_by_number_and_by_bytes_but_one_always_fits() {
        let mut destination = Destination::default();
        assert_eq!(destination.enter(MOST_BYTES * 2, NOW), Entry::Admitted);
        assert_eq!(destination.enter(1, NOW), Entry::Full(Some(1)));
        assert_eq!(destination.enter(1, NOW), Entry::Full(None));
        assert_eq!(destination.enter(1, NOW.plus(TELL_EVERY)), Entry::Full(Some(2)));
        destination.leave(MOST_BYTES * 2);
        for _ in 0..MOST_EXPORTS {
            assert_eq!(destination.enter(1, NOW), Entry::Admitted);
        }
        assert!(matches!(destination.enter(1, NOW), Entry::Full(_)));
        destination.leave(1);
        assert_eq!(destination.enter(1, NOW), Entry::Admitted);
    }

    #[test]
    fn a_destination_that_fails_is_left_alone_for_a_while() {
        let mut destination = Destination::default();
        assert!((0..4).all(|_| !destination.failed(NOW)));
        assert!(destination.failed(NOW) && destination.is_paused(NOW));
        assert_eq!(destination.enter(1, NOW), Entry::Paused);
        assert_eq!(destination.enter(1, NOW.plus(Duration::from_secs(30))), Entry::Admitted);
    }
}
