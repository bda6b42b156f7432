//! Everything that a site said to anyone, kept so that it can be searched for what must never be said, and so that every
//! audit event of every story is held against `docs/audit.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde_json::Value;

/// The operators' document of the audit trail.
const AUDIT: &str = include_str!("../../../../docs/audit.md");

/// Events by name; of each the fields, and whether they are always there.
static EVENTS: LazyLock<BTreeMap<&str, BTreeMap<&str, bool>>> = LazyLock::new(|| {
    let sections = AUDIT.split("\n### ").skip(1).map(|section| section.split_once('\n').expect("a heading"));
    sections
        .flat_map(|(heading, text)| {
            let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
            let fields: BTreeMap<&str, bool> = rows
                .filter(|(field, _)| !field.contains('.'))
                .map(|(field, about)| (field, !about.starts_with("*Optional.*") && field != "request_id"))
                .collect();
            heading.split('`').skip(1).step_by(2).map(move |name| (name, fields.clone())).collect::<Vec<_>>()
        })
        .collect()
});

/// What a site said, and what it must not say.
#[derive(Clone, Default)]
pub(crate) struct Transcript(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    /// To clients: status lines, headers and bodies.
    answers: Vec<u8>,
    /// On standard error.
    log: Vec<u8>,
    /// To operators and what they run: metrics, spans, webhooks, exports of the audit trail.
    reports: Vec<u8>,
    /// Must be in none of them.
    secrets: Vec<String>,
    /// Must not be in the log or a report; their owners get them in answers.
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

    pub(crate) fn reported(&self, bytes: &[u8]) {
        self.with(|inner| inner.reports.extend_from_slice(bytes));
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
            let reports = String::from_utf8_lossy(&inner.reports);
            for text in inner.secrets.iter().chain(&inner.unlogged) {
                assert!(!log.contains(text), "standard error contains {text:?}:\n{}", around(&log, text));
                assert!(!reports.contains(text), "a report contains {text:?}:\n{}", around(&reports, text));
            }
            log.lines().filter(|line| line.starts_with('{')).for_each(assert_documented);
            for text in inner.secrets.iter().chain(&inner.internal) {
                assert!(!answers.contains(text), "an answer contains {text:?}:\n{}", around(&answers, text));
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A line of JSON is an operational line, or an event of the document with the fields that are said there.
fn assert_documented(line: &str) {
    let Ok(event) = serde_json::from_str::<Value>(line) else {
        // The last words of a gateway that was killed.
        assert!(!line.ends_with('}'), "no JSON: {line}");
        return;
    };
    let event = event.as_object().unwrap_or_else(|| panic!("no object: {line}"));
    let Some(name) = event.get("evt") else {
        let keys: Vec<&str> = event.keys().map(String::as_str).filter(|key| *key != "request_id").collect();
        assert_eq!(keys, ["ts", "level", "msg"], "{line}");
        return;
    };
    let fields = EVENTS.get(name.as_str().unwrap_or_default());
    let fields = fields.unwrap_or_else(|| panic!("docs/audit.md has no {name}: {line}"));
    let found: BTreeSet<&str> = event.keys().map(String::as_str).filter(|key| !["ts", "evt"].contains(key)).collect();
    for field in &found {
        assert!(fields.contains_key(field), "docs/audit.md has no {name}.{field}: {line}");
    }
    for (field, is_always_there) in fields {
        assert!(!is_always_there || found.contains(field), "{name}.{field} is missing: {line}");
    }
}

/// The lines of `haystack` that contain `needle`.
fn around(haystack: &str, needle: &str) -> String {
    haystack.lines().filter(|line| line.contains(needle)).collect::<Vec<_>>().join("\n")
}
