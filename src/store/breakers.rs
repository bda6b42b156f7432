//! Upstreams that are left alone: what replicas agree on. A row is there while one is; every change is conditional on what
//! whoever makes it has seen.

use crate::domain::circuit::Opening;
use crate::domain::ids::Timestamp;
use crate::ports::Value;
use crate::store::{Store, StoreError, as_text, integer, text};

/// One upstream that is left alone, or one model of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenBreaker {
    /// The upstream's name.
    pub upstream: String,
    /// The upstream's id of the model; empty for all of them.
    pub model: String,
    /// Since when, and for how long.
    pub opening: Opening,
}

impl Store<'_> {
    /// All of them.
    pub async fn open_breakers(&self) -> Result<Vec<OpenBreaker>, StoreError> {
        let rows = self.run("SELECT upstream, model, round, opened_at, open_until FROM breakers", &[]).await?;
        rows.into_iter()
            .map(|mut row| {
                let at = |index, column| integer(&row, index, "breakers", column).map(Timestamp::from_millis);
                let (since, until) = (at(3, "opened_at")?, at(4, "open_until")?);
                let round = u32::try_from(integer(&row, 2, "breakers", "round")?);
                let round = round.map_err(|_| StoreError::Inconsistent { table: "breakers", column: "round" })?;
                Ok(OpenBreaker {
                    upstream: text(&mut row, 0, "breakers", "upstream")?,
                    model: text(&mut row, 1, "breakers", "model")?,
                    opening: Opening { round, since, until },
                })
            })
            .collect()
    }

    /// Keeps a breaker that opens; `false` if another replica was quicker.
    pub async fn open_breaker(&self, upstream: &str, model: &str, opening: Opening) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "INSERT INTO breakers (upstream, model, round, opened_at, open_until) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (upstream, model) DO NOTHING RETURNING upstream",
                &[
                    as_text(upstream),
                    as_text(model),
                    Value::Integer(opening.round.into()),
                    Value::Integer(opening.since.as_millis()),
                    Value::Integer(opening.until.as_millis()),
                ],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Moves the end of a pause from `seen` to that of `to`; `false` if somebody else has, or has closed it: of several
    /// that claim the turn at once, one gets it.
    pub async fn move_breaker(
        &self,
        upstream: &str,
        model: &str,
        seen: Timestamp,
        to: Opening,
    ) -> Result<bool, StoreError> {
        let rows = self
            .run(
                "UPDATE breakers SET round = $1, open_until = $2 WHERE upstream = $3 AND model = $4 AND open_until = $5 \
                 RETURNING upstream",
                &[
                    Value::Integer(to.round.into()),
                    Value::Integer(to.until.as_millis()),
                    as_text(upstream),
                    as_text(model),
                    Value::Integer(seen.as_millis()),
                ],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Forgets a breaker that closes; `false` if another replica was quicker.
    pub async fn close_breaker(&self, upstream: &str, model: &str) -> Result<bool, StoreError> {
        let statement = "DELETE FROM breakers WHERE upstream = $1 AND model = $2 RETURNING upstream";
        Ok(!self.run(statement, &[as_text(upstream), as_text(model)]).await?.is_empty())
    }
}
