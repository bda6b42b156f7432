//! The copy of the audit trail: written in batches, read in pages.

use std::fmt::Write;

use crate::domain::ids::Timestamp;
use crate::ports::Value;
use crate::store::{Store, StoreError, as_text, integer, padded_list, text};

/// The most events that one statement writes.
pub const BATCH: usize = 32;

/// One event of the trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEvent {
    /// When it happened.
    pub at: Timestamp,
    /// Its name.
    pub evt: String,
    /// Whose; empty where it says nobody's.
    pub sub: String,
    /// Whose, by e-mail address; empty where it says none.
    pub email: String,
    /// The line.
    pub entry: String,
}

/// Which events are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditQuery {
    /// From then on.
    pub from: Timestamp,
    /// Until then, exclusively.
    pub to: Timestamp,
    /// Of one of these people, by subject or e-mail address; of everybody and nobody if empty.
    pub users: Vec<String>,
    /// With one of these names; with any if empty.
    pub events: Vec<String>,
    /// In which order, and after which event.
    pub page: AuditPage,
    /// At most so many.
    pub most: i64,
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditPage {
    /// The newest first, all older than this number.
    Before(i64),
    /// The oldest first, all newer than this number.
    After(i64),
}

/// One event of the copy, with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number; later events have larger ones.
    pub seq: i64,
    /// The line.
    pub entry: String,
}

impl Store<'_> {
    /// Keeps `events`, at most [`BATCH`] of them, all or none.
    pub async fn keep_audit(&self, events: &[KeptEvent]) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let row = |index: usize| {
            let marks: Vec<String> = (1..=5).map(|column| format!("${}", index * 5 + column)).collect();
            format!("({})", marks.join(", "))
        };
        let rows: Vec<String> = (0..events.len()).map(row).collect();
        let statement = format!("INSERT INTO audit_events (at, evt, sub, email, entry) VALUES {}", rows.join(", "));
        let values = events.iter().flat_map(|event| {
            [
                Value::Integer(event.at.as_millis()),
                as_text(&event.evt),
                as_text(&event.sub),
                as_text(&event.email),
                as_text(&event.entry),
            ]
        });
        self.run(&statement, &values.collect::<Vec<_>>()).await.map(drop)
    }

    /// The events that `query` wants.
    pub async fn audit_events(&self, query: &AuditQuery) -> Result<Vec<AuditRow>, StoreError> {
        let (side, order, seq) = match query.page {
            AuditPage::Before(seq) => ("<", "DESC", seq),
            AuditPage::After(seq) => (">", "ASC", seq),
        };
        let mut parameters = vec![
            Value::Integer(seq),
            Value::Integer(query.from.as_millis()),
            Value::Integer(query.to.as_millis()),
            Value::Integer(query.most),
        ];
        let mut conditions = String::new();
        if !query.users.is_empty() {
            let (marks, values) = padded_list(parameters.len() + 1, &query.users);
            let _ = write!(conditions, " AND (sub IN ({marks}) OR email IN ({marks}))");
            parameters.extend(values);
        }
        if !query.events.is_empty() {
            let (marks, values) = padded_list(parameters.len() + 1, &query.events);
            let _ = write!(conditions, " AND evt IN ({marks})");
            parameters.extend(values);
        }
        let statement = format!(
            "SELECT seq, entry FROM audit_events WHERE seq {side} $1 AND at >= $2 AND at < $3{conditions} \
             ORDER BY seq {order} LIMIT $4"
        );
        let rows = self.run(&statement, &parameters).await?;
        rows.into_iter()
            .map(|mut row| {
                let seq = integer(&row, 0, "audit_events", "seq")?;
                Ok(AuditRow { seq, entry: text(&mut row, 1, "audit_events", "entry")? })
            })
            .collect()
    }
}
