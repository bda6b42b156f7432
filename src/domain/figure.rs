//! [`Figure`]: what the component tells a host that counts, one JSON object per line on standard output. What the audit
//! trail says already (sign-ins, refreshes, denials, answers) is not said again. No figure names a person.

use serde::{Deserialize, Serialize};

/// One figure.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "figure", rename_all = "snake_case")]
pub enum Figure<'a> {
    /// One attempt at an upstream is decided.
    Attempt {
        /// The upstream's configured name.
        upstream: &'a str,
        /// `ok`, `no_answer`, `unreadable`, or the status as text.
        outcome: &'a str,
        /// Milliseconds until the response headers, or until it was given up.
        ms: u64,
        /// Whether the next upstream is tried because of it.
        failover: bool,
    },
    /// A credential of an upstream was needed anew.
    Credential {
        /// The upstream's configured name.
        upstream: &'a str,
        /// `obtained` or `failed` by an exchange, or `shared`: somebody else had obtained it.
        outcome: &'a str,
    },
    /// What an answer used and cost.
    Usage {
        /// The upstream's configured name.
        upstream: &'a str,
        /// The upstream's id of the model: from the catalog or the configuration, never a client's own words.
        model: &'a str,
        /// Tokens.
        input_tokens: u64,
        /// Tokens.
        output_tokens: u64,
        /// Tokens.
        cache_read_input_tokens: u64,
        /// Tokens.
        cache_creation_input_tokens: u64,
        /// Nano-dollars.
        nanos: u64,
        /// Whether it is in the books; `None` where there are none (without `admin`).
        settled: Option<bool>,
    },
    /// Reservations that came to this.
    Reservation {
        /// `held`, `refused`, `settled`, `released` or `expired`.
        outcome: &'a str,
        /// How many.
        count: u64,
    },
    /// An upstream refuses something that requests can do without.
    Refusal {
        /// The upstream's configured name.
        upstream: &'a str,
        /// `beta` or `field`.
        kind: &'a str,
    },
    /// Tokens were estimated because no upstream could count them.
    EstimatedCount {
        /// The upstream whose answers it was learned from.
        upstream: &'a str,
    },
    /// One export of telemetry is over.
    Export {
        /// Host of the destination.
        destination: &'a str,
        /// `metrics`, `logs` or `traces`; `spans` for the gateway's own.
        signal: &'a str,
        /// `sent`, `refused`, `failed`, `paused` or `full`.
        outcome: &'a str,
        /// Attempts after the first.
        retries: u32,
    },
    /// An upstream that would have been asked was left out of a request.
    LeftOut {
        /// The upstream's configured name.
        upstream: &'a str,
        /// `breaker`, or `budget` when there were too many further attempts lately.
        reason: &'a str,
    },
    /// An instance knows from now on that an upstream is left alone, or is not any more.
    Breaker {
        /// The upstream's configured name.
        upstream: &'a str,
        /// The upstream's id of the model; `*` for all of them.
        model: &'a str,
        /// Whether it is left alone.
        is_open: bool,
    },
    /// Rows that upkeep deleted.
    Swept {
        /// The table.
        table: &'a str,
        /// How many.
        rows: u64,
    },
}

impl Figure<'_> {
    /// The line, without its line break.
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("figures are made of strings and numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_read_as_it_was_written() {
        let figure = Figure::Attempt { upstream: "a", outcome: "429", ms: 12, failover: true };
        let line = figure.line();
        assert_eq!(line, r#"{"figure":"attempt","upstream":"a","outcome":"429","ms":12,"failover":true}"#);
        let read: Figure<'_> = serde_json::from_str(&line).expect("it reads");
        assert!(matches!(read, Figure::Attempt { upstream: "a", failover: true, .. }));
    }
}
