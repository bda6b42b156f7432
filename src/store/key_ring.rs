//! Rings of secrets in the key-value store, newest first: those of sessions, when the configuration names none, and
//! those of masking.
//!
//! A new key signs a little after it was made, when every replica has read it, so that nobody is ever shown a token
//! whose key they do not know. The one before goes on verifying until nothing that it signed or sealed can be valid, and
//! then disappears by itself.
//!
//! Secrets never enter SQL, but SQL decides which ring is current: a ring is written under its own id first, then the
//! pointer (`session-keys`) is moved to it by compare-and-set, then it is copied to where everybody looks. Two instances
//! that start at once therefore end with one ring, and of two rotations at once none is lost. Reading needs the
//! key-value store only.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::domain::checksum::hex;
use crate::domain::ids::Timestamp;
use crate::domain::session::{Keys, key_id};
use crate::ports::{Clock, Entropy, KeyValue, KeyValueError};
use crate::store::{Store, StoreError};

/// How often, and after which pause, the ring of another instance is looked for before it counts as lost.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Rotations that may get in between before one gives up.
const ATTEMPTS: u32 = 5;

/// How much longer than its last signature a key is kept: for what replicas sign that have not read the ring, and for
/// clocks that differ.
const SLACK: Duration = Duration::from_hours(1);

/// Keys that a ring may have.
const MOST: usize = 50;

/// What the secrets of a ring are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// They sign session tokens and seal.
    Sessions,
    /// They make the tokens of masked identifiers.
    Masking,
}

impl Purpose {
    /// The pointer in SQL, and the key under which everybody finds the current ring.
    const fn current(self) -> &'static str {
        match self {
            Self::Sessions => "session-keys",
            Self::Masking => "masking-keys",
        }
    }

    /// How long a new key is known before it is used: longer than instances go without reading the ring.
    const fn heads_up(self) -> Duration {
        match self {
            Self::Sessions => Duration::from_secs(5),
            Self::Masking => Duration::from_mins(2),
        }
    }
}

/// What is needed to look after a ring.
pub struct KeyRing<'a> {
    /// Which.
    pub purpose: Purpose,
    /// Decides.
    pub store: Store<'a>,
    /// Keeps.
    pub key_value: &'a dyn KeyValue,
    /// For new secrets.
    pub entropy: &'a dyn Entropy,
    /// For the pauses.
    pub clock: &'a dyn Clock,
    /// How long something that a key signs or seals may be valid.
    pub lifetime: Duration,
}

/// The ring cannot be read or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The key-value store failed.
    #[error(transparent)]
    KeyValue(#[from] KeyValueError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ring is not what was written.
    #[error("the keys in the key-value store are damaged; delete `{0}` there to make new ones")]
    Damaged(&'static str),
    /// There are `MOST` keys.
    #[error("there are {MOST} keys that still verify; wait until the oldest has gone, or revoke it")]
    Full,
    /// There is no such key.
    #[error("no key with this id; `sallyport keys list` shows them")]
    NoSuchKey,
    /// Others rotate all the time.
    #[error("the keys were rotated by somebody else at the same time; look at the list and try again")]
    Contended,
}

/// One key, for people: no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// Its id, as in the headers of session tokens.
    pub kid: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it signs.
    pub signs_from: Timestamp,
    /// When a newer key takes over signing; the newest has none.
    pub retired_at: Option<Timestamp>,
    /// When it disappears; the newest does not.
    pub verifies_until: Option<Timestamp>,
}

/// One key, for those who work with it.
#[derive(Debug, Clone)]
pub struct RingSecret {
    /// The secret: 48 random bytes as text.
    pub secret: Secret<String>,
    /// From when on it is used.
    pub used_from: Timestamp,
}

#[derive(Clone, Serialize, Deserialize)]
struct Ring {
    id: String,
    keys: Vec<RingKey>,
}

#[derive(Clone, Serialize, Deserialize)]
struct RingKey {
    secret: String,
    created_at: i64,
    /// Absent for one that signed at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signs_from: Option<i64>,
    retired_at: Option<i64>,
    /// Absent for one that was retired before keys disappeared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    verifies_until: Option<i64>,
}

impl RingKey {
    fn signs_from(&self) -> i64 {
        self.signs_from.unwrap_or(self.created_at)
    }

    fn verifies_until(&self, lifetime: Duration) -> Option<Timestamp> {
        let retired_at = Timestamp::from_millis(self.retired_at?);
        Some(self.verifies_until.map_or_else(|| retired_at.plus(lifetime + SLACK), Timestamp::from_millis))
    }

    fn retire(&mut self, at: Timestamp, lifetime: Duration) {
        self.retired_at = Some(at.as_millis());
        self.verifies_until = Some(at.plus(lifetime + SLACK).as_millis());
    }
}

impl Ring {
    /// The keys that still verify, the one that signs first.
    fn keys(&self, lifetime: Duration, now: Timestamp) -> Option<Keys> {
        let mut keys = self.lasting(lifetime, now);
        let signer = keys.iter().position(|key| key.signs_from() <= now.as_millis()).unwrap_or_default();
        if signer < keys.len() {
            keys[..=signer].rotate_right(1);
        }
        Keys::new(keys.into_iter().map(|key| Secret::new(key.secret.clone())))
    }

    /// The keys that still verify, newest first.
    fn lasting(&self, lifetime: Duration, now: Timestamp) -> Vec<&RingKey> {
        self.keys.iter().filter(|key| key.verifies_until(lifetime).is_none_or(|end| end > now)).collect()
    }

    fn infos(&self, lifetime: Duration, now: Timestamp) -> Vec<KeyInfo> {
        let info = |key: &RingKey| KeyInfo {
            kid: key_id(&key.secret),
            created_at: Timestamp::from_millis(key.created_at),
            signs_from: Timestamp::from_millis(key.signs_from()),
            retired_at: key.retired_at.map(Timestamp::from_millis),
            verifies_until: key.verifies_until(lifetime),
        };
        self.lasting(lifetime, now).into_iter().map(info).collect()
    }

    /// Removes keys whose time is over. Whether there were any.
    fn prune(&mut self, lifetime: Duration, now: Timestamp) -> bool {
        let before = self.keys.len();
        self.keys.retain(|key| key.verifies_until(lifetime).is_none_or(|end| end > now));
        self.keys.len() < before
    }
}

impl KeyRing<'_> {
    /// The current keys; made now if there are none.
    pub async fn load(&self) -> Result<Keys, RingError> {
        self.current().await?.keys(self.lifetime, self.clock.now()).ok_or_else(|| self.damaged())
    }

    /// The current secrets, newest first and never none; made now if there are none.
    pub async fn secrets(&self) -> Result<Vec<RingSecret>, RingError> {
        let ring = self.current().await?;
        let secret = |key: &RingKey| RingSecret {
            secret: Secret::new(key.secret.clone()),
            used_from: Timestamp::from_millis(key.signs_from()),
        };
        let secrets: Vec<_> = ring.lasting(self.lifetime, self.clock.now()).into_iter().map(secret).collect();
        if secrets.is_empty() { Err(self.damaged()) } else { Ok(secrets) }
    }

    /// All keys, newest first. Makes none: a list changes nothing.
    pub async fn list(&self) -> Result<Vec<KeyInfo>, RingError> {
        let ring = self.get(self.purpose.current()).await?;
        Ok(ring.map(|ring| ring.infos(self.lifetime, self.clock.now())).unwrap_or_default())
    }

    /// Puts a new key in front; the old ones go on verifying for their time. Returns the list after that.
    pub async fn rotate(&self) -> Result<Vec<KeyInfo>, RingError> {
        self.change(|ring, now| {
            ring.prune(self.lifetime, now);
            if ring.keys.len() >= MOST {
                return Err(RingError::Full);
            }
            let from = now.plus(self.purpose.heads_up());
            if let Some(newest) = ring.keys.first_mut() {
                newest.retire(from, self.lifetime);
            }
            let mut key = self.new_key(now);
            key.signs_from = Some(from.as_millis());
            ring.keys.insert(0, key);
            Ok(true)
        })
        .await
    }

    /// Removes the key `kid`: nothing that it signed or sealed is valid any more. If it was the newest, a new one signs
    /// at once. Returns the list after that.
    pub async fn revoke(&self, kid: &str) -> Result<Vec<KeyInfo>, RingError> {
        if self.get(self.purpose.current()).await?.is_none() {
            return Err(RingError::NoSuchKey);
        }
        self.change(|ring, now| {
            let place = ring.keys.iter().position(|key| key_id(&key.secret) == kid).ok_or(RingError::NoSuchKey)?;
            ring.keys.remove(place);
            match ring.keys.first_mut() {
                // It may have been waiting for its turn while the one that is gone signed.
                Some(newest) if newest.retired_at.is_none() => {
                    newest.signs_from = Some(newest.signs_from().min(now.as_millis()));
                }
                _ => ring.keys.insert(0, self.new_key(now)),
            }
            Ok(true)
        })
        .await
    }

    /// Removes keys whose time is over.
    pub async fn prune(&self) -> Result<(), RingError> {
        let Some(mut ring) = self.get(self.purpose.current()).await? else { return Ok(()) };
        if ring.prune(self.lifetime, self.clock.now()) {
            self.change(|ring, now| Ok(ring.prune(self.lifetime, now))).await?;
        }
        Ok(())
    }

    /// Changes the ring as `edit` does, unless that says that there is nothing to change.
    async fn change(
        &self,
        edit: impl Fn(&mut Ring, Timestamp) -> Result<bool, RingError>,
    ) -> Result<Vec<KeyInfo>, RingError> {
        for _ in 0..ATTEMPTS {
            let mut ring = self.current().await?;
            let now = self.clock.now();
            // The pointer is missing when the database is newer than the ring.
            let pointer = self.store.point_first(self.purpose.current(), &ring.id, now).await?;
            if pointer != ring.id {
                // What everybody reads is behind, or the pointer's ring is lost; then ours takes its place.
                ring = self.find(&pointer).await?.unwrap_or(ring);
            }
            if !edit(&mut ring, now)? {
                return self.list().await;
            }
            ring.id = self.random_id();
            self.set(&self.slot(&ring.id), &ring).await?;
            if self.store.point(self.purpose.current(), &pointer, &ring.id, now).await? {
                self.publish(ring).await?;
                self.key_value.delete(&self.slot(&pointer)).await?;
                return self.list().await;
            }
            self.key_value.delete(&self.slot(&ring.id)).await?;
        }
        Err(RingError::Contended)
    }

    async fn current(&self) -> Result<Ring, RingError> {
        match self.get(self.purpose.current()).await? {
            Some(ring) => Ok(ring),
            None => self.create().await,
        }
    }

    async fn create(&self) -> Result<Ring, RingError> {
        let now = self.clock.now();
        let ring = Ring { id: self.random_id(), keys: vec![self.new_key(now)] };
        self.set(&self.slot(&ring.id), &ring).await?;
        let winner = self.store.point_first(self.purpose.current(), &ring.id, now).await?;
        if winner != ring.id {
            if let Some(theirs) = self.await_ring(&winner).await? {
                self.key_value.delete(&self.slot(&ring.id)).await?;
                return self.publish(theirs).await;
            }
            // The key-value store was emptied, or is another one than the database remembers: begin anew, once.
            if !self.store.point(self.purpose.current(), &winner, &ring.id, now).await? {
                return Err(RingError::Contended);
            }
        }
        self.publish(ring).await
    }

    /// Copies `ring` to where everybody looks, then makes sure that no newer one was overwritten.
    async fn publish(&self, mut ring: Ring) -> Result<Ring, RingError> {
        for _ in 0..ATTEMPTS {
            self.set(self.purpose.current(), &ring).await?;
            match self.store.pointer(self.purpose.current()).await? {
                Some(newer) if newer != ring.id => match self.find(&newer).await? {
                    Some(newer) => ring = newer,
                    None => return Ok(ring),
                },
                _ => return Ok(ring),
            }
        }
        Err(RingError::Contended)
    }

    async fn await_ring(&self, id: &str) -> Result<Option<Ring>, RingError> {
        for _ in 0..LOOKS {
            if let Some(ring) = self.find(id).await? {
                return Ok(Some(ring));
            }
            // A later rotation removes the ring that it replaced, after it has published its own.
            if let Some(ring) = self.get(self.purpose.current()).await? {
                return Ok(Some(ring));
            }
            self.clock.sleep(PAUSE).await;
        }
        Ok(None)
    }

    async fn find(&self, id: &str) -> Result<Option<Ring>, RingError> {
        self.get(&self.slot(id)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Ring>, RingError> {
        let Some(bytes) = self.key_value.find(key).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| self.damaged())
    }

    async fn set(&self, key: &str, ring: &Ring) -> Result<(), RingError> {
        let bytes = serde_json::to_vec(ring).expect("strings and numbers");
        Ok(self.key_value.set(key, &bytes).await?)
    }

    const fn damaged(&self) -> RingError {
        RingError::Damaged(self.purpose.current())
    }

    /// Where a ring is kept under its own id.
    fn slot(&self, id: &str) -> String {
        format!("{}/{id}", self.purpose.current())
    }

    fn new_key(&self, now: Timestamp) -> RingKey {
        let mut secret = [0; 48];
        self.entropy.fill(&mut secret);
        RingKey {
            secret: URL_SAFE_NO_PAD.encode(secret),
            created_at: now.as_millis(),
            signs_from: None,
            retired_at: None,
            verifies_until: None,
        }
    }

    fn random_id(&self) -> String {
        let mut id = [0; 16];
        self.entropy.fill(&mut id);
        hex(&id)
    }
}
