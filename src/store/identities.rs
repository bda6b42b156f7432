//! Who people are, as their last request said, for reports.

use crate::domain::ids::Timestamp;
use crate::domain::spend::calendar::Period;
use crate::ports::Value;
use crate::store::{Store, StoreError, as_text};

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

impl Store<'_> {
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
