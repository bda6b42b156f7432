//! What the demo's identity provider remembers: bounded, expiring, in memory only.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// How many entries of one kind are kept; beyond that, the one that would expire first gives way.
const MAX_ENTRIES: usize = 1000;

/// Values under random keys, each until it expires.
pub(super) struct Expiring<T> {
    entries: HashMap<String, Entry<T>>,
}

struct Entry<T> {
    value: T,
    expires: SystemTime,
}

impl<T> Expiring<T> {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self { entries: HashMap::new() }
    }

    /// Keeps `value` for `ttl` and returns the unguessable key under which it can be found.
    pub(super) fn insert(&mut self, value: T, ttl: Duration, now: SystemTime) -> String {
        let key = token();
        self.replace(&key, value, ttl, now);
        key
    }

    /// Keeps `value` under a key that [`Expiring::insert`] made.
    pub(super) fn replace(&mut self, key: &str, value: T, ttl: Duration, now: SystemTime) {
        self.entries.retain(|_, entry| entry.expires > now);
        if self.entries.len() >= MAX_ENTRIES {
            let first = self.entries.iter().min_by_key(|(_, entry)| entry.expires).map(|(key, _)| key.clone());
            first.and_then(|key| self.entries.remove(&key));
        }
        self.entries.insert(key.to_owned(), Entry { value, expires: now + ttl });
    }

    /// Removes and returns the value; nobody finds it again.
    pub(super) fn take(&mut self, key: &str, now: SystemTime) -> Option<T> {
        self.entries.remove(key).filter(|entry| entry.expires > now).map(|entry| entry.value)
    }

    /// The value, if it is still there.
    pub(super) fn find(&self, key: &str, now: SystemTime) -> Option<&T> {
        self.entries.get(key).filter(|entry| entry.expires > now).map(|entry| &entry.value)
    }
}

/// 32 random bytes in base64url: 43 characters that nobody guesses.
///
/// # Panics
/// When the operating system gives no randomness, without which no token can be issued.
pub(super) fn token() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system provides randomness");
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    #[test]
    fn a_value_is_taken_once_and_only_before_it_expires() {
        let now = SystemTime::UNIX_EPOCH;
        let mut entries = Expiring::new();
        let (first, second) = (entries.insert("first", TTL, now), entries.insert("second", TTL, now));

        assert_eq!(entries.take(&first, now), Some("first"));
        assert_eq!(entries.take(&first, now), None);
        assert_eq!(entries.find(&second, now + TTL), None);
    }

    #[test]
    fn the_oldest_entry_gives_way_when_there_are_too_many() {
        let now = SystemTime::UNIX_EPOCH;
        let mut entries = Expiring::new();
        let oldest = entries.insert((), TTL / 2, now);
        let kept = entries.insert((), TTL, now);
        for _ in 2..=MAX_ENTRIES {
            entries.insert((), TTL, now);
        }

        assert_eq!(entries.entries.len(), MAX_ENTRIES);
        assert_eq!(entries.find(&oldest, now), None);
        assert_eq!(entries.find(&kept, now), Some(&()));
    }
}
