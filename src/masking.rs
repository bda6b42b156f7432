//! Masking around a request: the key of this instance, the message that leaves in the place of the client's
//! ([`MaskedMessage`]), and its answer on the way back ([`Restoring`]).
//!
//! How identifiers are found, replaced and restored lives in `mask`; where the keys live, in `store/key_ring.rs`. What
//! cannot be masked is a failure here, before anything is sent: nothing leaves unmasked.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode};
use sha2::{Digest, Sha256};

use crate::domain::audit::MaskingReceipt;
use crate::domain::ids::Timestamp;
use crate::error::Failure;
use crate::gateway::Gateway;
use crate::log::Level;
use crate::mask::{Masker, Mode, Receipt, Restorer, Rules, SseRestorer};
use crate::relay::Record;
use crate::store::key_ring::{Purpose, RingSecret};
use crate::upstream::Message;

/// After this time the ring is read again: sooner than a new key is used (`Purpose::heads_up` in `store/key_ring.rs`), so
/// that all replicas change at the same moment and one value never has two tokens.
const FRESH: Duration = Duration::from_mins(1);

/// How many identifiers were replaced in the request, told to the client.
const MASKED: HeaderName = HeaderName::from_static("x-sallyport-masked");

/// The masker of an instance, and the keys of which it uses one.
#[derive(Clone)]
pub(crate) struct KnownMasker {
    masker: Rc<Masker>,
    /// Newest first; never empty.
    secrets: Rc<[RingSecret]>,
    /// Which of them the masker has.
    in_use: usize,
    loaded_at: Timestamp,
}

/// What masking has done in this instance since it started, for metrics: counts, never values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MaskingTotals {
    /// Requests that were masked, or in shadow mode looked at.
    pub requests: u64,
    /// Requests that were refused because they could not be masked.
    pub refused: u64,
    /// Identifiers that were replaced (in shadow mode: would have been), by kind.
    pub masked: BTreeMap<String, u64>,
    /// Tokens that were restored in answers.
    pub restored: u64,
    /// Tokens in answers that were not their request's own.
    pub unknown: u64,
}

impl Gateway {
    /// What masking has done so far in this instance.
    pub fn masking_totals(&self) -> MaskingTotals {
        self.cache.masking_totals.borrow().clone()
    }

    /// Adds one request to the totals, when its answer has ended.
    pub(crate) fn count_masking(&self, receipt: &MaskingReceipt) {
        let mut totals = self.cache.masking_totals.borrow_mut();
        totals.requests += 1;
        totals.refused += u64::from(receipt.refused.is_some());
        totals.restored += receipt.restored;
        totals.unknown += receipt.unknown;
        for (kind, count) in &receipt.masked {
            match totals.masked.get_mut(kind) {
                Some(total) => *total += count,
                None => {
                    totals.masked.insert(kind.clone(), *count);
                }
            }
        }
    }

    /// Reads the masking keys, or makes them, before anybody waits for them. Nothing without masking.
    pub(crate) async fn prepare_masking(&self) -> Result<(), String> {
        match self.config.masking.as_ref().filter(|rules| rules.mode() != Mode::Off) {
            Some(rules) => self.masker(rules).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// The masker with the key that is in use now.
    async fn masker(&self, rules: &Arc<Rules>) -> Result<Rc<Masker>, String> {
        let now = self.ports.clock.now();
        let known = self.cache.masker.borrow().clone();
        let mut known = match known {
            Some(known) if now.since(known.loaded_at) < FRESH => known,
            known => match (self.key_ring(Purpose::Masking).secrets().await, known) {
                (Ok(secrets), _) => KnownMasker::new(rules, secrets, now),
                (Err(error), Some(known)) => {
                    // They stay right until somebody rotates them.
                    let message = "masking keys cannot be read again, going on with the known ones";
                    self.log(Level::Warn, &format!("{message}: {error}"));
                    KnownMasker { loaded_at: now, ..known }
                }
                (Err(error), None) => return Err(error.to_string()),
            },
        };
        if known.in_use != in_use(&known.secrets, now) {
            known = KnownMasker { loaded_at: known.loaded_at, ..KnownMasker::new(rules, known.secrets, now) };
        }
        let masker = Rc::clone(&known.masker);
        self.cache.masker.replace(Some(known));
        Ok(masker)
    }

    /// The rules for requests of members of `groups` to `upstream`; `None` if these are not masked.
    pub(crate) fn masks(&self, upstream: usize, groups: &[String]) -> Option<&Arc<Rules>> {
        let name = &self.config.upstreams[upstream].name;
        let rules = self.config.masking.as_ref()?;
        rules.apply_to(name, groups.iter().map(String::as_str)).then_some(rules)
    }

    /// Whether a request of a member of `groups` that cannot be masked is refused.
    pub(crate) fn enforces_masking(&self, groups: &[String]) -> bool {
        let is_enforced = self.config.masking.as_ref().is_some_and(|rules| rules.mode() == Mode::Enforce);
        is_enforced && (0..self.config.upstreams.len()).any(|upstream| self.masks(upstream, groups).is_some())
    }

    /// The message as it may leave for the upstreams to which `rules` apply. In shadow mode nothing is refused.
    pub(crate) async fn mask(&self, rules: &Arc<Rules>, message: &Message) -> Result<MaskedMessage, Unmaskable> {
        let mode = rules.mode();
        let receipt = MaskingReceipt { mode: mode.name(), ..MaskingReceipt::default() };
        let masked = match self.masker(rules).await {
            Ok(masker) => masker.mask_request(message.body()),
            Err(cause) if mode == Mode::Shadow => {
                self.log(Level::Warn, &format!("masking in shadow mode: {cause}"));
                return Ok(MaskedMessage { message: message.clone(), restorer: None, receipt });
            }
            Err(cause) => {
                let receipt = MaskingReceipt { refused: Some("key_unavailable"), ..receipt };
                let text = "masking: the gateway's masking key is not available, so nothing was sent; try again later";
                let failure = Failure::messages(StatusCode::SERVICE_UNAVAILABLE, "api_error", text);
                return Err(Unmaskable { failure: failure.because(format!("masking keys: {cause}")), receipt });
            }
        };
        let refused = |code, text: String| Unmaskable {
            failure: Failure::invalid_request(text),
            receipt: MaskingReceipt { refused: Some(code), ..receipt.clone() },
        };
        let masked = masked.map_err(|reason| refused(reason.code(), reason.to_string()))?;
        let outgoing = message.edited(masked.body.clone(), |offset| masked.place(offset));
        let restorer = (mode == Mode::Enforce).then_some(masked.restorer);
        Ok(MaskedMessage {
            message: outgoing,
            restorer,
            receipt: MaskingReceipt { masked: masked.receipt.masked, ..receipt },
        })
    }
}

impl KnownMasker {
    fn new(rules: &Arc<Rules>, secrets: impl Into<Rc<[RingSecret]>>, now: Timestamp) -> Self {
        let secrets = secrets.into();
        let in_use = in_use(&secrets, now);
        let masker = Rc::new(Masker::new(Arc::clone(rules), key(&secrets[in_use])));
        Self { masker, secrets, in_use, loaded_at: now }
    }
}

/// Which of `secrets`, newest first, makes tokens now: the newest whose time has come.
fn in_use(secrets: &[RingSecret], now: Timestamp) -> usize {
    secrets.iter().position(|secret| secret.used_from <= now).unwrap_or(secrets.len() - 1)
}

fn key(secret: &RingSecret) -> [u8; 32] {
    Sha256::digest(secret.secret.reveal().as_bytes()).into()
}

/// A request that must not leave.
pub(crate) struct Unmaskable {
    /// What the client is told.
    pub(crate) failure: Failure,
    /// What the audit trail is told.
    pub(crate) receipt: MaskingReceipt,
}

/// A message that may leave, and what is needed to read its answer.
pub(crate) struct MaskedMessage {
    /// What leaves.
    pub(crate) message: Message,
    /// Puts the identifiers back; `None` in shadow mode.
    pub(crate) restorer: Option<Restorer>,
    /// What was masked.
    pub(crate) receipt: MaskingReceipt,
}

impl MaskedMessage {
    /// Tells the client how much was masked, if anything was.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        let count: u64 = self.receipt.masked.values().sum();
        if self.restorer.is_some() && count > 0 {
            headers.insert(MASKED, count.into());
        }
    }

    /// An answer that came in one piece, with its identifiers, and the completed receipt.
    pub(crate) fn restore(&self, body: Bytes) -> (Bytes, MaskingReceipt) {
        let Some(restorer) = &self.restorer else { return (body, self.receipt.clone()) };
        let (restored, receipt) = restorer.json_with_receipt(&body);
        (restored.into(), complete(&self.receipt, &receipt))
    }
}

fn complete(asked: &MaskingReceipt, answered: &Receipt) -> MaskingReceipt {
    MaskingReceipt { restored: answered.restored, unknown: answered.unknown, ..asked.clone() }
}

/// A streamed answer on its way to the client. However it ends, its audit line is written when this is dropped.
pub(crate) struct Restoring {
    sse: SseRestorer,
    record: Record,
}

impl Restoring {
    /// Restores the answer of which `record` is the audit line.
    pub(crate) fn new(restorer: &Restorer, record: Record) -> Self {
        Self { sse: restorer.sse(), record }
    }

    /// Takes the next piece; what the client may have now.
    pub(crate) fn push(&mut self, piece: &[u8]) -> Bytes {
        self.sse.push(piece).into()
    }

    /// The answer has ended: what was held back.
    pub(crate) fn finish(&mut self) -> Bytes {
        self.sse.flush().into()
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        self.record.restored(self.sse.receipt().restored, self.sse.receipt().unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Settings;
    use crate::wire::json_object::Object;

    #[test]
    fn the_members_of_a_masked_body_are_where_they_are_said_to_be() {
        let body = r#" { "system" : "i-0a1b2c3d4e5f60718 \u0069-0a1b2c3d4e5f60719", "n":1.0, "messages":
            [{"content":"s3://acme-payments/x 10.0.1.5"}],"model":"m","metadata":{"10.0.1.6":"acme-payments"} , "stream":true}"#;
        let message = Message::parse(Bytes::from_static(body.as_bytes())).expect("a message");
        let masker = Masker::new(Settings::default().compile().expect("no faults"), [7; 32]);
        let masked = masker.mask_request(message.body()).expect("masked");
        assert_eq!(masked.receipt.total(), 6);
        let edited = message.edited(masked.body.clone(), |offset| masked.place(offset));
        assert_eq!(Ok(edited.object()), Object::scan(&masked.body).as_ref());
        assert_eq!((edited.model(), edited.is_stream(), edited.body()), ("m", true, &masked.body));
    }
}
