//! After an answer: is it taken, is the next upstream tried, and which error is told in the end
//! (inference contract §8.3 and §8.4).

use http::StatusCode;

/// What an answer means for the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the answer.
    Take,
    /// It failed; another upstream may do better.
    TryNext,
    /// It failed and would fail elsewhere too: it is told to the client at once.
    GiveUp,
}

impl Verdict {
    /// Of the status of an answer to `POST /v1/messages`, and to `/count_tokens` unless the upstream is Bedrock.
    pub fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            100..=299 => Self::Take,
            // From 600 on it is not HTTP (RFC 9110 §15).
            401 | 403 | 404 | 429 | 500.. => Self::TryNext,
            _ => Self::GiveUp,
        }
    }
}

/// The answers of upstreams that failed: of all of them, one may be told in the end. `A` is the answer.
#[derive(Debug)]
pub struct Failures<A> {
    best: Option<(Rank, A)>,
}

/// How much a status tells the client, least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    NotImplemented,
    /// One that fails over only because the operator said so (`failover_on`).
    Chosen,
    NotFound,
    Denied,
    RateLimited,
}

impl Rank {
    /// Server errors have no rank: they never reach the client.
    fn of(status: StatusCode) -> Option<Self> {
        match status.as_u16() {
            429 => Some(Self::RateLimited),
            401 | 403 => Some(Self::Denied),
            404 => Some(Self::NotFound),
            501 => Some(Self::NotImplemented),
            400..=499 => Some(Self::Chosen),
            _ => None,
        }
    }
}

impl<A> Failures<A> {
    /// No failure yet.
    pub const fn new() -> Self {
        Self { best: None }
    }

    /// Whether an answer that is told with this status (see [`told_as`](super::told_as)) would be kept, so that its body is worth reading.
    pub fn wants(&self, status: StatusCode) -> bool {
        Rank::of(status).is_some_and(|rank| self.best.as_ref().is_none_or(|(best, _)| rank >= *best))
    }

    /// Adds an answer that [`Verdict::TryNext`] was said of, under the status that it is told with. Of two that tell equally much, the later one stays.
    pub fn add(&mut self, status: StatusCode, answer: A) {
        if let (true, Some(rank)) = (self.wants(status), Rank::of(status)) {
            self.best = Some((rank, answer));
        }
    }

    /// The answer to tell; `None` is the gateway's own 502.
    pub fn into_answer(self) -> Option<A> {
        self.best.map(|(_, answer)| answer)
    }
}

impl<A> Default for Failures<A> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_one_verdict() {
        for (verdict, statuses) in [
            (Verdict::Take, &[200, 201, 202, 204][..]),
            (Verdict::TryNext, &[401, 403, 404, 429, 500, 501, 502, 503, 504, 529, 599, 600, 999]),
            (Verdict::GiveUp, &[301, 304, 307, 400, 402, 405, 408, 409, 413, 418, 421, 422, 425, 451, 499]),
        ] {
            for status in statuses {
                assert_eq!(Verdict::of(StatusCode::from_u16(*status).unwrap()), verdict, "{status}");
            }
        }
    }

    #[test]
    fn the_answer_told_in_the_end_is_the_one_that_says_most() {
        for (statuses, told) in [
            (&[500, 529][..], None),
            (&[], None),
            (&[501, 503], Some(0)),
            (&[404, 501], Some(0)),
            (&[404, 404, 500], Some(1)),
            (&[401, 404, 403], Some(2)),
            (&[403, 401, 500], Some(1)),
            (&[429, 401, 404, 501], Some(0)),
            (&[429, 429, 401], Some(1)),
            (&[402, 500], Some(0)),
            (&[402, 408], Some(1)),
            (&[402, 501], Some(0)),
            (&[404, 402], Some(0)),
        ] {
            let mut failures = Failures::new();
            for (index, status) in statuses.iter().enumerate() {
                failures.add(StatusCode::from_u16(*status).unwrap(), index);
            }
            assert_eq!(failures.into_answer(), told, "{statuses:?}");
        }
    }
}
