//! The ring of session secrets when the configuration names none: in the key-value store, newest first.
//!
//! Secrets never enter SQL, but SQL decides which ring is current: a ring is written under its own id first, then the
//! pointer `session-keys` is moved to it by compare-and-set, then it is copied to where everybody looks. Two instances
//! that start at once therefore end with one ring, and of two rotations at once none is lost. Reading needs the
//! key-value store only.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::config::Secret;
use crate::domain::ids::Timestamp;
use crate::domain::session::{Keys, hex};
use crate::ports::{Clock, Entropy, KeyValue, KeyValueError};
use crate::store::{Store, StoreError};

/// The pointer in SQL, and the key under which everybody finds the current ring.
const CURRENT: &str = "session-keys";

/// How often, and after which pause, the ring of another instance is looked for before it counts as lost.
const LOOKS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(200);

/// Rotations that may get in between before one gives up.
const ATTEMPTS: u32 = 5;

/// What is needed to look after the ring.
pub struct SigningKeys<'a> {
    /// Decides.
    pub store: Store<'a>,
    /// Keeps.
    pub key_value: &'a dyn KeyValue,
    /// For new secrets.
    pub entropy: &'a dyn Entropy,
    /// For the pauses.
    pub clock: &'a dyn Clock,
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
    #[error("the session keys in the key-value store are damaged; delete `session-keys` to make new ones")]
    Damaged,
    /// Others rotate all the time.
    #[error("the session keys were rotated by somebody else at the same time; look at the list and try again")]
    Contended,
}

/// One key, for people: no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyInfo {
    /// Its id, as in token headers.
    pub kid: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When a newer key took over signing; the newest has none.
    pub retired_at: Option<Timestamp>,
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
    retired_at: Option<i64>,
}

impl Ring {
    fn keys(&self) -> Result<Keys, RingError> {
        Keys::new(self.keys.iter().map(|key| Secret::new(key.secret.clone()))).ok_or(RingError::Damaged)
    }
}

impl SigningKeys<'_> {
    /// The current keys; made now if there are none.
    pub async fn load(&self) -> Result<Keys, RingError> {
        self.current().await?.keys()
    }

    /// All keys, newest first.
    pub async fn list(&self) -> Result<Vec<KeyInfo>, RingError> {
        let ring = self.current().await?;
        let keys = ring.keys()?;
        let times = ring.keys.iter().map(|key| (key.created_at, key.retired_at));
        Ok(keys
            .ids()
            .zip(times)
            .map(|(kid, (created_at, retired_at))| KeyInfo {
                kid: kid.to_owned(),
                created_at: Timestamp::from_millis(created_at),
                retired_at: retired_at.map(Timestamp::from_millis),
            })
            .collect())
    }

    /// Puts a new key in front; the old ones go on verifying. Returns the list after that.
    pub async fn rotate(&self) -> Result<Vec<KeyInfo>, RingError> {
        for _ in 0..ATTEMPTS {
            let mut ring = self.current().await?;
            let now = self.clock.now();
            // The pointer is missing when the database is newer than the ring.
            let pointer = self.store.point_first(CURRENT, &ring.id, now).await?;
            if pointer != ring.id {
                // What everybody reads is behind, or the pointer's ring is lost; then ours takes its place.
                ring = self.find(&pointer).await?.unwrap_or(ring);
            }
            if let Some(newest) = ring.keys.first_mut() {
                newest.retired_at = Some(now.as_millis());
            }
            ring.keys.insert(0, self.new_key(now));
            ring.id = self.random_id();
            self.set(&slot(&ring.id), &ring).await?;
            if self.store.point(CURRENT, &pointer, &ring.id, now).await? {
                self.publish(ring).await?;
                self.key_value.delete(&slot(&pointer)).await?;
                return self.list().await;
            }
            self.key_value.delete(&slot(&ring.id)).await?;
        }
        Err(RingError::Contended)
    }

    async fn current(&self) -> Result<Ring, RingError> {
        match self.get(CURRENT).await? {
            Some(ring) => Ok(ring),
            None => self.create().await,
        }
    }

    async fn create(&self) -> Result<Ring, RingError> {
        let now = self.clock.now();
        let ring = Ring { id: self.random_id(), keys: vec![self.new_key(now)] };
        self.set(&slot(&ring.id), &ring).await?;
        let winner = self.store.point_first(CURRENT, &ring.id, now).await?;
        if winner != ring.id {
            if let Some(theirs) = self.await_ring(&winner).await? {
                self.key_value.delete(&slot(&ring.id)).await?;
                return self.publish(theirs).await;
            }
            // The key-value store was emptied, or is another one than the database remembers: begin anew, once.
            if !self.store.point(CURRENT, &winner, &ring.id, now).await? {
                return Err(RingError::Contended);
            }
        }
        self.publish(ring).await
    }

    /// Copies `ring` to where everybody looks, then makes sure that no newer one was overwritten.
    async fn publish(&self, mut ring: Ring) -> Result<Ring, RingError> {
        for _ in 0..ATTEMPTS {
            self.set(CURRENT, &ring).await?;
            match self.store.pointer(CURRENT).await? {
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
            if let Some(ring) = self.get(CURRENT).await? {
                return Ok(Some(ring));
            }
            self.clock.sleep(PAUSE).await;
        }
        Ok(None)
    }

    async fn find(&self, id: &str) -> Result<Option<Ring>, RingError> {
        self.get(&slot(id)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Ring>, RingError> {
        let Some(bytes) = self.key_value.find(key).await? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| RingError::Damaged)
    }

    async fn set(&self, key: &str, ring: &Ring) -> Result<(), RingError> {
        let bytes = serde_json::to_vec(ring).expect("strings and numbers");
        Ok(self.key_value.set(key, &bytes).await?)
    }

    fn new_key(&self, now: Timestamp) -> RingKey {
        let mut secret = [0; 48];
        self.entropy.fill(&mut secret);
        RingKey { secret: URL_SAFE_NO_PAD.encode(secret), created_at: now.as_millis(), retired_at: None }
    }

    fn random_id(&self) -> String {
        let mut id = [0; 16];
        self.entropy.fill(&mut id);
        hex(&id)
    }
}

/// Where a ring is kept under its own id.
fn slot(id: &str) -> String {
    format!("{CURRENT}/{id}")
}
