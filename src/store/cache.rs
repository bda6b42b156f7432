//! What an instance remembers of things that can go stale. Nothing here belongs to a request, but
//! `current`, which says whose turn it is.
//!
//! Whether something is still fresh is decided by those who use it: `keyring.rs`, `sessions.rs`, `credentials/`,
//! `counting/`, `compatibility/` and `idp.rs`.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::audit_copy::AuditQueue;
use crate::compatibility::Refusals;
use crate::config::Secret;
use crate::counting::Learned;
use crate::credentials::Renewed;
use crate::domain::destination::Destination;
use crate::domain::ids::Timestamp;
use crate::keyring::KnownKeys;
use crate::log::Current;
use crate::masking::{KnownMasker, MaskingTotals};
use crate::resilience::Health;
use crate::sessions::Known;
use crate::spans::SpanQueue;
use crate::upstream::CountPause;
use crate::upstream::credentials::{Credential, Obtained};

/// The memory of one instance.
#[derive(Default)]
pub struct Cache {
    /// Whether the schema was seen complete.
    pub(crate) is_migrated: Cell<bool>,
    /// Session keys.
    pub(crate) keys: RefCell<Option<KnownKeys>>,
    /// The masker, made with the keys as they were loaded last.
    pub(crate) masker: RefCell<Option<KnownMasker>>,
    /// What masking has done so far.
    pub(crate) masking_totals: RefCell<MaskingTotals>,
    /// Documents of the identity provider by address. A handful: discovery and keys.
    pub(crate) documents: RefCell<HashMap<String, Document>>,
    /// Which upstream is not asked to count tokens of which model for now, by index and the upstream's id.
    pub(crate) count_pauses: RefCell<HashMap<(usize, String), CountPause>>,
    /// Which upstreams fail, and how many further attempts that has cost.
    pub(crate) health: RefCell<Health>,
    /// What is known of the tokens of a model, by the upstream's index and its id of the model.
    pub(crate) calibrations: RefCell<HashMap<(usize, String), Learned>>,
    /// What upstreams refuse, by their index.
    pub(crate) refusals: RefCell<HashMap<usize, Refusals>>,
    /// Credentials that upstreams refused, the last of each, by the upstream's index.
    pub(crate) refused_credentials: RefCell<HashMap<usize, Credential>>,
    /// Credentials that were obtained, by the upstream's index.
    pub(crate) credentials: RefCell<HashMap<usize, Obtained>>,
    /// Collectors of telemetry, by their index.
    pub(crate) destinations: RefCell<HashMap<usize, Destination>>,
    /// Upstreams whose credential is being renewed.
    pub(crate) renewing: RefCell<HashSet<usize>>,
    /// How the last renewal of an upstream's credential ended.
    pub(crate) renewed: RefCell<HashMap<usize, Renewed>>,
    /// Access tokens for Google's directory by the path of their key file, and when they end.
    pub(crate) directory_tokens: RefCell<HashMap<String, (Secret<String>, Timestamp)>>,
    /// Audit events on their way into the database.
    pub(crate) audit: AuditQueue,
    /// Spans on their way out.
    pub(crate) spans: SpanQueue,
    /// When this instance last asked whether a sweep is due.
    pub(crate) asked_for_sweep: Cell<Option<Timestamp>>,
    /// People whose identity was kept a short while ago, by subject: a digest of it, and when.
    pub(crate) identities: RefCell<HashMap<String, ([u8; 32], Timestamp)>>,
    /// Callers' spending as it was told a moment ago, by subject and groups.
    pub(crate) usage: RefCell<HashMap<String, (serde_json::Value, Timestamp)>>,
    /// What is known of sessions, by id.
    pub(crate) sessions: RefCell<HashMap<String, Known>>,
    /// When the store last could not say whether a session was ended.
    pub(crate) store_failed_at: Cell<Option<Timestamp>>,
    /// Ids of alerts about spend that were kept.
    pub(crate) alerts: RefCell<HashSet<String>>,
    /// Models without a price that the operator was warned of.
    pub(crate) unknown_prices: RefCell<HashSet<String>>,
    /// The request that is being worked on.
    pub(crate) current: Current,
    /// When the operator was last warned of a rate limit.
    pub(crate) warned_of_rate_limit: Cell<Option<Timestamp>>,
}

/// A fetched document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its bytes.
    pub body: Bytes,
    /// When it was fetched, by whichever replica.
    pub fetched_at: Timestamp,
    /// Before this instant it is not fetched again: the last attempt failed.
    pub next_try: Timestamp,
}
