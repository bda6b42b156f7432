//! The session keys of this instance, fresh enough: read once, kept for a while, read again when a token names a key
//! that is not there.
//!
//! Where the ring lives is `store/key_ring.rs`; what keys do is `domain/session.rs`.

use std::rc::Rc;
use std::time::Duration;

use crate::domain::ids::Timestamp;
use crate::domain::rotation::IDLE;
use crate::domain::session::{Denied, Keys, Session, Unsealable};
use crate::error::Failure;
use crate::gateway::Gateway;
use crate::log::Level;
use crate::store::Store;
use crate::store::key_ring::{KeyRing, Purpose};

/// After this time the ring is read again, by one request while the others go on with what is known: a new key is known
/// before it signs (`Purpose::heads_up` in `store/key_ring.rs`), and one that was removed is forgotten within seconds.
const FRESH: Duration = Duration::from_secs(2);

/// Keys that are older than this are used by nobody: every request reads. An instance that was idle may have missed much.
const STALE: Duration = Duration::from_secs(4);

/// A token with an unknown key makes the instance read the ring, but not more often than this: anybody can send one.
const FLOOR: Duration = Duration::from_secs(1);

/// How long the key-value store is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(10);

/// The session keys as an instance knows them.
#[derive(Clone)]
pub(crate) struct KnownKeys {
    keys: Rc<Keys>,
    /// When they were read.
    read_at: Timestamp,
    /// Before this instant nobody reads them again.
    next_read: Timestamp,
}

impl Gateway {
    /// The SQL store.
    pub fn store(&self) -> Store<'_> {
        Store::new(&*self.ports.db, &self.cache.is_migrated)
    }

    /// The ring of session secrets in the key-value store; `None` when the configuration names the secrets.
    pub fn signing_keys(&self) -> Option<KeyRing<'_>> {
        self.config.session.jwt_secrets.is_empty().then(|| self.key_ring(Purpose::Sessions))
    }

    /// A ring in the key-value store.
    pub(crate) fn key_ring(&self, purpose: Purpose) -> KeyRing<'_> {
        KeyRing {
            purpose,
            store: self.store(),
            key_value: &*self.ports.key_value,
            entropy: &*self.ports.entropy,
            clock: &*self.ports.clock,
            lifetime: self.config.session.ttl.max(IDLE),
        }
    }

    /// Random bytes.
    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.ports.entropy.fill(&mut bytes);
        bytes
    }

    /// The session keys.
    pub async fn keys(&self) -> Result<Rc<Keys>, Failure> {
        let now = self.ports.clock.now();
        let known = self.cache.keys.borrow().clone();
        let Some(known) = known else { return self.read_keys(None, now).await };
        // A pause that is longer than any was begun before the clock was set back.
        let is_fresh = now < known.next_read && known.next_read <= now.plus(FRESH.max(PAUSE));
        if is_fresh || self.signing_keys().is_none() {
            return Ok(known.keys);
        }
        if now.since(known.read_at) < STALE {
            // One request reads; the others go on with what is known.
            self.cache.keys.replace(Some(KnownKeys { next_read: now.plus(FRESH), ..known.clone() }));
        }
        self.read_keys(Some(known), now).await
    }

    /// The session keys, read again unless that was done a moment ago.
    async fn latest_keys(&self) -> Result<Rc<Keys>, Failure> {
        let now = self.ports.clock.now();
        let known = self.cache.keys.borrow().clone();
        match known {
            Some(known) if now.is_within(FLOOR, known.read_at) || self.signing_keys().is_none() => Ok(known.keys),
            known => self.read_keys(known, now).await,
        }
    }

    /// Verifies a session token for the gateway at `origin`: its signature and claims, and that its session goes on.
    pub async fn verify(self: &Rc<Self>, token: &str, origin: &str) -> Result<Result<Session, Denied>, Failure> {
        let verdict = self.verify_signed(token, origin).await?;
        if let Ok(session) = &verdict
            && let Some(id) = session.id()
            && self.has_ended(id).await
        {
            return Ok(Err(Denied::Ended));
        }
        Ok(verdict)
    }

    /// The same without regard to whether the session was ended.
    pub(crate) async fn verify_signed(&self, token: &str, origin: &str) -> Result<Result<Session, Denied>, Failure> {
        let now = self.ports.clock.now();
        let verdict = self.keys().await?.verify(token, origin, now);
        if verdict != Err(Denied::UnknownKey) {
            return Ok(verdict);
        }
        Ok(self.latest_keys().await?.verify(token, origin, now))
    }

    /// Opens something sealed.
    pub(crate) async fn unseal<T>(
        &self,
        open: impl Fn(&Keys) -> Result<T, Unsealable>,
    ) -> Result<Result<T, Unsealable>, Failure> {
        match open(&*self.keys().await?) {
            Err(Unsealable::UnknownKey) => Ok(open(&*self.latest_keys().await?)),
            opened => Ok(opened),
        }
    }

    async fn read_keys(&self, known: Option<KnownKeys>, now: Timestamp) -> Result<Rc<Keys>, Failure> {
        let read = match self.signing_keys() {
            Some(ring) => ring.load().await.map_err(|error| error.to_string()),
            None => Keys::new(self.config.session.jwt_secrets.iter().cloned())
                .ok_or_else(|| "session.jwt_secret is empty".to_owned()),
        };
        match (read, known) {
            (Ok(keys), _) => {
                let keys = Rc::new(keys);
                let known = KnownKeys { keys: Rc::clone(&keys), read_at: now, next_read: now.plus(FRESH) };
                self.cache.keys.replace(Some(known));
                Ok(keys)
            }
            (Err(error), Some(known)) => {
                // Sessions outlive a key-value store that is away for a while.
                self.log(
                    Level::Warn,
                    &format!("session keys cannot be read again, going on with the known ones: {error}"),
                );
                let keys = Rc::clone(&known.keys);
                self.cache.keys.replace(Some(KnownKeys { read_at: now, next_read: now.plus(PAUSE), ..known }));
                Ok(keys)
            }
            (Err(error), None) => Err(Failure::internal(format!("session keys: {error}"))),
        }
    }
}
