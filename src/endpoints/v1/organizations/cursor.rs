//! Pages of a list that is read by ids, forwards and backwards: `limit`, `after_id`, `before_id` (inference contract
//! §18.5).

use serde_json::{Value, json};

use super::{Query, Refusal};
use crate::store::Edge;

/// Which page is wanted.
pub(super) struct Cursor<'a> {
    /// Where it lies.
    pub(super) edge: Edge<'a>,
    /// How much is asked of the store: one more than is shown, so that it is known whether there is more.
    pub(super) most: i64,
}

impl<'a> Cursor<'a> {
    /// Reads the parameters.
    pub(super) fn parse(query: &'a Query) -> Result<Self, Refusal> {
        let limit = query.limit(20)?;
        let edge = match (query.first("after_id"), query.first("before_id")) {
            (Some(_), Some(_)) => return Err(Refusal::invalid("after_id and before_id are mutually exclusive")),
            (Some(id), None) => Edge::After(id),
            (None, Some(id)) => Edge::Before(id),
            (None, None) => Edge::First,
        };
        Ok(Self { edge, most: limit + 1 })
    }

    /// The page that the store has `found`, of things called `what`; nothing if it does not know the cursor's.
    pub(super) fn page<T>(
        &self,
        found: Option<Vec<T>>,
        what: &str,
        id: impl Fn(&T) -> &str,
        shown: impl Fn(&T) -> Value,
    ) -> Result<Value, Refusal> {
        let name = if matches!(self.edge, Edge::Before(_)) { "before_id" } else { "after_id" };
        let mut found = found.ok_or_else(|| Refusal::invalid(format!("{name}: no {what} with this id")))?;
        let limit = usize::try_from(self.most - 1).unwrap_or(usize::MAX);
        let has_more = found.len() > limit;
        if has_more {
            match self.edge {
                Edge::Before(_) => drop(found.remove(0)),
                Edge::First | Edge::After(_) => found.truncate(limit),
            }
        }
        Ok(json!({
            "data": found.iter().map(shown).collect::<Vec<_>>(),
            "has_more": has_more,
            "first_id": found.first().map(&id),
            "last_id": found.last().map(&id),
        }))
    }
}
