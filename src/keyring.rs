//! The session keys of this instance, fresh enough: read once, kept for a while, read again when a token names a key
//! that is not there.
//!
//! Where the ring lives is `store/signing_keys.rs`; what keys do is `domain/session.rs`.

use std::rc::Rc;
use std::time::Duration;

use crate::domain::session::{Denied, Keys, Session, Unsealable};
use crate::error::Failure;
use crate::gateway::Gateway;
use crate::log::Level;
use crate::store::Store;
use crate::store::signing_keys::SigningKeys;

/// After this time the ring is read again: an upper bound on how long a removed key still verifies.
const FRESH: Duration = Duration::from_mins(1);

/// A token with an unknown key makes the instance read the ring, but not more often than this: anybody can send one.
const FLOOR: Duration = Duration::from_secs(2);

impl Gateway {
    /// The SQL store.
    pub fn store(&self) -> Store<'_> {
        Store::new(&*self.ports.db, &self.cache.is_migrated)
    }

    /// The ring in the key-value store; `None` when the configuration names the secrets.
    pub fn signing_keys(&self) -> Option<SigningKeys<'_>> {
        self.config.session.jwt_secrets.is_empty().then(|| SigningKeys {
            store: self.store(),
            key_value: &*self.ports.key_value,
            entropy: &*self.ports.entropy,
            clock: &*self.ports.clock,
        })
    }

    /// Random bytes.
    pub(crate) fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.ports.entropy.fill(&mut bytes);
        bytes
    }

    /// The session keys.
    pub async fn keys(&self) -> Result<Rc<Keys>, Failure> {
        self.keys_younger_than(FRESH).await
    }

    /// Verifies a session token for the gateway at `origin`.
    pub async fn verify(&self, token: &str, origin: &str) -> Result<Result<Session, Denied>, Failure> {
        let now = self.ports.clock.now();
        let verdict = self.keys().await?.verify(token, origin, now);
        if verdict != Err(Denied::UnknownKey) {
            return Ok(verdict);
        }
        Ok(self.keys_younger_than(FLOOR).await?.verify(token, origin, now))
    }

    /// Opens something sealed.
    pub(crate) async fn unseal<T>(
        &self,
        open: impl Fn(&Keys) -> Result<T, Unsealable>,
    ) -> Result<Result<T, Unsealable>, Failure> {
        match open(&*self.keys().await?) {
            Err(Unsealable::UnknownKey) => Ok(open(&*self.keys_younger_than(FLOOR).await?)),
            opened => Ok(opened),
        }
    }

    async fn keys_younger_than(&self, age: Duration) -> Result<Rc<Keys>, Failure> {
        let now = self.ports.clock.now();
        let known = self.cache.keys.borrow().clone();
        let Some(ring) = self.signing_keys() else {
            let keys = match known {
                Some((keys, _)) => keys,
                None => Keys::new(self.config.session.jwt_secrets.iter().cloned())
                    .map(Rc::new)
                    .ok_or_else(|| Failure::internal("session.jwt_secret is empty"))?,
            };
            self.cache.keys.replace(Some((Rc::clone(&keys), now)));
            return Ok(keys);
        };
        if let Some((keys, loaded_at)) = &known
            && now.since(*loaded_at) < age
        {
            return Ok(Rc::clone(keys));
        }
        match (ring.load().await, known) {
            (Ok(keys), _) => {
                let keys = Rc::new(keys);
                self.cache.keys.replace(Some((Rc::clone(&keys), now)));
                Ok(keys)
            }
            (Err(error), Some((keys, _))) => {
                // Sessions outlive a key-value store that is away for a while.
                self.log(
                    Level::Warn,
                    &format!("session keys cannot be read again, going on with the known ones: {error}"),
                );
                self.cache.keys.replace(Some((Rc::clone(&keys), now)));
                Ok(keys)
            }
            (Err(error), None) => Err(Failure::internal(format!("session keys: {error}"))),
        }
    }
}
