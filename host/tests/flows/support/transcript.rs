//! Everything that a site said to anyone, kept so that it can be searched for what must never be said.

use std::sync::{Arc, Mutex, PoisonError};

/// What a site said, and what it must not say.
#[derive(Clone, Default)]
pub(crate) struct Transcript(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// To clients: status lines, headers and bodies.
    answers: Vec<u8>,
    /// On standard error.
    log: Vec<u8>,
    /// Must be in neither.
    secrets: Vec<String>,
    /// Must not be in the log; their owners get them in answers.
    unlogged: Vec<String>,
    /// Must not be in an answer; operators may read them in the log.
    internal: Vec<String>,
}

impl Transcript {
    pub(crate) fn answered(&self, bytes: &[u8]) {
        self.with(|inner| inner.answers.extend_from_slice(bytes));
    }

    pub(crate) fn logged(&self, line: &str) {
        self.with(|inner| {
            inner.log.extend_from_slice(line.as_bytes());
            inner.log.push(b'\n');
        });
    }

    pub(crate) fn secret(&self, text: &str) {
        self.with(|inner| inner.secrets.push(text.to_owned()));
    }

    pub(crate) fn unlogged(&self, text: &str) {
        self.with(|inner| inner.unlogged.push(text.to_owned()));
    }

    pub(crate) fn internal(&self, text: &str) {
        self.with(|inner| inner.internal.push(text.to_owned()));
    }

    /// Panics if anything was said that must not be.
    pub(crate) fn assert_discreet(&self) {
        self.with(|inner| {
            let log = String::from_utf8_lossy(&inner.log);
            let answers = String::from_utf8_lossy(&inner.answers);
            for text in inner.secrets.iter().chain(&inner.unlogged) {
                assert!(!log.contains(text), "standard error contains {text:?}:\n{}", around(&log, text));
            }
            for text in inner.secrets.iter().chain(&inner.internal) {
                assert!(!answers.contains(text), "an answer contains {text:?}:\n{}", around(&answers, text));
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The lines of `haystack` that contain `needle`.
fn around(haystack: &str, needle: &str) -> String {
    haystack.lines().filter(|line| line.contains(needle)).collect::<Vec<_>>().join("\n")
}
