//! [`CountPause`]: when Bedrock is not asked to count tokens for a while (inference contract §10.5).
//!
//! One value per upstream and model; where it is kept is the business of `counting/pauses.rs`.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use crate::domain::ids::Timestamp;

/// How long a failure lasts.
const PAUSE: Duration = Duration::from_mins(10);

/// What is known about counting on one upstream, for one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CountPause {
    has_succeeded: bool,
    /// Milliseconds since 1970.
    until: Option<i64>,
}

impl CountPause {
    /// Whether the upstream is to be asked.
    pub fn may_ask(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now >= Timestamp::from_millis(until))
    }

    /// A count came back.
    pub fn succeeded(&mut self) {
        *self = Self { has_succeeded: true, until: None };
    }

    /// The upstream answered with an error.
    pub fn failed(&mut self, status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) {
        let is_from_aws = headers.keys().any(|name| name.as_str().starts_with("x-amzn-"));
        let is_throttled = status == StatusCode::TOO_MANY_REQUESTS && is_from_aws && self.has_succeeded;
        let is_too_long = status == StatusCode::BAD_REQUEST && super::cloud_error::says_prompt_is_too_long(body);
        if !is_throttled && !is_too_long {
            self.failed_without_answer(now);
        }
    }

    /// The upstream did not answer, or not with a count.
    pub fn failed_without_answer(&mut self, now: Timestamp) {
        self.until = Some(now.plus(PAUSE).as_millis());
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    #[test]
    fn a_failure_pauses_counting_unless_it_says_nothing_about_counting() {
        let aws = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-amzn-requestid"),
            HeaderValue::from_static("placeholder"),
        )]);
        let too_long = &b"{\"message\":\"Prompt is too long: 5 > 4\"}"[..];
        for (status, headers, body, has_succeeded, may_ask) in [
            (403, &aws, &b""[..], true, false),
            (429, &aws, b"", true, true),
            (429, &aws, b"", false, false),
            (429, &HeaderMap::new(), b"", true, false),
            (400, &aws, too_long, false, true),
            (400, &aws, b"{\"message\":\"no\"}", true, false),
            (500, &aws, too_long, true, false),
        ] {
            let mut pause = CountPause::default();
            if has_succeeded {
                pause.succeeded();
            }
            pause.failed(StatusCode::from_u16(status).unwrap(), headers, body, NOW);
            assert_eq!(pause.may_ask(NOW.plus(Duration::from_secs(599))), may_ask, "{status} {has_succeeded}");
            assert!(pause.may_ask(NOW.plus(PAUSE)));
        }
    }
}
