//! Rotating refresh tokens: which of a session's tokens is the newest, and what presenting another one means
//! (RFC 9700 §4.14.2).
//!
//! Each refresh makes the next generation. While the store is down nobody can tell generations apart and every token is
//! taken (auth contract §12), so a token may be newer than the store knows.

use std::time::Duration;

use crate::domain::ids::Timestamp;

/// How long a refresh may be asked again, by a client that lost the answer.
pub const GRACE: Duration = Duration::from_secs(30);

/// The same where nobody waited any more when the answer was there: the client has nothing but the token that was
/// exchanged for it, and comes back when somebody works with it again.
pub const KEPT: Duration = Duration::from_hours(24);

/// How long a session lives without being refreshed, unless its token lives longer.
pub const IDLE: Duration = Duration::from_hours(90 * 24);

/// How a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Generation of the newest refresh token that is known.
    pub generation: u64,
    /// When that one was made.
    pub refreshed_at: Timestamp,
    /// Until then somebody is refreshing it.
    pub claimed_until: Timestamp,
    /// What the last refresh was answered, sealed; empty when that is not known any more.
    pub answer: String,
    /// Whether nobody waited for it.
    pub is_unfetched: bool,
    /// Whether it was ended, or is over.
    pub is_over: bool,
}

/// What presenting a refresh token means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the newest: the session goes on.
    Newest,
    /// It is, and another request is refreshing the session with it.
    UnderWay,
    /// It was the newest a moment ago, or its answer was never fetched: the client gets the same answer once more.
    Again {
        /// The answer, sealed.
        answer: String,
        /// How old it is.
        age: Duration,
    },
    /// It was exchanged before. Two parties have it, and one of them has stolen it.
    Reused,
    /// The session has ended.
    Over,
}

impl Standing {
    /// Judges a refresh token of the generation `presented`.
    pub fn judge(self, presented: u64, now: Timestamp) -> Verdict {
        if self.is_over {
            return Verdict::Over;
        }
        if presented >= self.generation {
            return if self.claimed_until > now { Verdict::UnderWay } else { Verdict::Newest };
        }
        let is_last = presented.saturating_add(1) == self.generation;
        let age = now.since(self.refreshed_at);
        let limit = if self.is_unfetched { KEPT } else { GRACE };
        if is_last && age < limit && !self.answer.is_empty() {
            return Verdict::Again { answer: self.answer, age };
        }
        Verdict::Reused
    }
}

/// When nothing of a session that gets a token of `ttl` now can be valid any more.
pub fn end_of(now: Timestamp, ttl: Duration, is_refreshable: bool) -> Timestamp {
    now.plus(if is_refreshable { ttl.max(IDLE) } else { ttl })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);

    #[test]
    fn generations_are_judged_by_the_table() {
        let begin = Standing {
            generation: 5,
            refreshed_at: NOW,
            claimed_until: Timestamp::from_secs(0),
            answer: "sealed".to_owned(),
            is_unfetched: false,
            is_over: false,
        };
        let again = |millis| Verdict::Again { answer: "sealed".to_owned(), age: Duration::from_millis(millis) };
        let unfetched = Standing { is_unfetched: true, ..begin.clone() };
        let day = u64::try_from(KEPT.as_millis()).unwrap();
        let claimed = Standing { claimed_until: NOW.plus(Duration::from_secs(1)), ..begin.clone() };
        let over = Standing { is_over: true, ..begin.clone() };
        let forgotten = Standing { answer: String::new(), ..begin.clone() };
        for (standing, presented, millis, verdict) in [
            (&begin, 5, 0, Verdict::Newest),
            // Made while the store was down.
            (&begin, 6, 0, Verdict::Newest),
            (&begin, 4, 0, again(0)),
            (&begin, 4, 29_999, again(29_999)),
            (&begin, 4, 30_000, Verdict::Reused),
            (&begin, 3, 0, Verdict::Reused),
            (&begin, 0, 0, Verdict::Reused),
            (&forgotten, 4, 0, Verdict::Reused),
            (&unfetched, 4, day - 1, again(day - 1)),
            (&unfetched, 4, day, Verdict::Reused),
            (&unfetched, 3, 0, Verdict::Reused),
            (&unfetched, 5, 0, Verdict::Newest),
            (&claimed, 5, 0, Verdict::UnderWay),
            (&claimed, 5, 1000, Verdict::Newest),
            // Whoever has an older one needs not wait for the verdict.
            (&claimed, 4, 0, again(0)),
            (&claimed, 3, 0, Verdict::Reused),
            (&over, 5, 0, Verdict::Over),
            (&over, 3, 0, Verdict::Over),
        ] {
            let at = NOW.plus(Duration::from_millis(millis));
            assert_eq!(standing.clone().judge(presented, at), verdict, "{presented} after {millis} ms");
        }
    }

    #[test]
    fn a_session_lives_as_long_as_its_longest_token() {
        let hour = Duration::from_hours(1);
        assert_eq!(end_of(NOW, hour, false), NOW.plus(hour));
        assert_eq!(end_of(NOW, hour, true), NOW.plus(IDLE));
        assert_eq!(end_of(NOW, IDLE + hour, true), NOW.plus(IDLE + hour));
    }
}
