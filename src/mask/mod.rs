//! Reversible masking: company identifiers are replaced by keyed tokens before a request leaves, and put back in the
//! answer, so that the developer notices nothing.
//!
//! **settings** become rules; **request** reads the body (**`json_text`**, **zone**), looks for identifiers (**find**, **exact**,
//! with the table **kinds**, **formats**, **arn** and **address**), makes their tokens (**token**, **address**), edits the
//! body in place and leaves the map back (**lexicon**); **restore** and **sse** put the identifiers into the answer.
//!
//! Everything here is a function of its arguments: no clock, no store, no I/O. The key comes from outside. No original
//! outlives its request, and none is ever part of an error, a receipt or a `Debug` output.

mod address;
mod anchors;
mod arn;
mod boundary;
mod exact;
mod find;
mod formats;
mod json_text;
mod kinds;
mod lexicon;
mod request;
mod restore;
mod settings;
mod sse;
mod token;
mod zone;

use std::collections::BTreeMap;

pub use kinds::{Family, KINDS, Kind};
pub use request::{Masked, Masker, Refused};
pub use restore::Restorer;
pub use settings::{CustomPattern, DEFAULT_MAX_BODY_BYTES, Mode, Rules, Secrets, Settings, kind_names};
pub use sse::SseRestorer;

/// What masking did to one request and its answer, for the audit trail and metrics: counts, never values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Receipt {
    /// How many identifiers were replaced (in shadow mode: would have been), by kind.
    pub masked: BTreeMap<String, u64>,
    /// How many tokens were restored in the answer.
    pub restored: u64,
    /// How many tokens of this organisation the answer contained that are not the request's own; they were passed on.
    pub unknown: u64,
}

impl Receipt {
    /// How many identifiers were replaced.
    pub fn total(&self) -> u64 {
        self.masked.values().sum()
    }
}
