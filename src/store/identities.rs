//! Who people are, as their last request said, for reports.

use crate::domain::ids::Timestamp;
use crate::domain::spend::calendar::Period;
use crate::ports::Value;
use crate::store::{Store, StoreError, as_text, text};

const TABLE: &str = "principals";

/// A person as a session describes them.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// Subject.
    pub subject: &'a str,
    /// E-mail address.
    pub email: Option<&'a str>,
    /// Name.
    pub name: Option<&'a str>,
    /// Groups.
    pub groups: &'a [String],
}

/// A person as their last request described them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Subject.
    pub principal: String,
    /// E-mail address; empty when unknown.
    pub email: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl Store<'_> {
    /// The person with this subject, if they were seen.
    pub async fn last_seen_as(&self, subject: &str) -> Result<Option<Seen>, StoreError> {
        self.last_seen("principal = $1", subject).await
    }

    /// Who was seen last with this e-mail address, in any case.
    pub async fn last_seen_with(&self, email: &str) -> Result<Option<Seen>, StoreError> {
        self.last_seen("LOWER(email) = LOWER($1)", email).await
    }

    async fn last_seen(&self, condition: &str, value: &str) -> Result<Option<Seen>, StoreError> {
        let statement = format!(
            "SELECT principal, email, member_of FROM principals WHERE {condition} \
             ORDER BY updated_at DESC, principal LIMIT 1"
        );
        let rows = self.run(&statement, &[as_text(value)]).await?;
        let seen = |mut row| {
            Ok(Seen {
                principal: text(&mut row, 0, TABLE, "principal")?,
                email: text(&mut row, 1, TABLE, "email")?,
                groups: serde_json::from_str(&text(&mut row, 2, TABLE, "member_of")?)
                    .map_err(|_| StoreError::Inconsistent { table: TABLE, column: "member_of" })?,
            })
        };
        rows.into_iter().next().map(seen).transpose()
    }

    /// Keeps who this is, and adds their groups to those of the day.
    pub async fn note_identity(&self, identity: Identity<'_>, now: Timestamp) -> Result<(), StoreError> {
        let groups = serde_json::Value::from(identity.groups).to_string();
        self.run(
            "INSERT INTO principals (principal, email, name, member_of, updated_at) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (principal) DO UPDATE SET email = excluded.email, name = excluded.name, \
             member_of = excluded.member_of, updated_at = excluded.updated_at",
            &[
                as_text(identity.subject),
                as_text(identity.email.unwrap_or_default()),
                as_text(identity.name.unwrap_or_default()),
                as_text(groups),
                Value::Integer(now.as_millis()),
            ],
        )
        .await?;
        if identity.groups.is_empty() {
            return Ok(());
        }
        let rows: Vec<String> = (0..identity.groups.len()).map(|index| format!("($1, $2, ${})", index + 3)).collect();
        let statement = format!(
            "INSERT INTO principal_groups (day, principal, member_of) VALUES {} ON CONFLICT DO NOTHING",
            rows.join(", ")
        );
        let mut parameters = vec![as_text(Period::Daily.key(now)), as_text(identity.subject)];
        parameters.extend(identity.groups.iter().map(as_text));
        self.run(&statement, &parameters).await.map(drop)
    }
}
