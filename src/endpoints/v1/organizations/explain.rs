//! `GET /v1/organizations/explain`: what the configuration means for one person. An endpoint of our own; the reference
//! has none.
//!
//! It answers also while the database is away: then the caps are unknown, and that is said.

use std::rc::Rc;

use serde_json::Value;

use super::{Query, Refusal};
use crate::explanation::{Explanation, Person, Question, Spending, look_up};
use crate::gateway::Gateway;

/// The explanation.
pub(super) async fn get(gateway: &Rc<Gateway>, query: &Query) -> Result<Value, Refusal> {
    let question = question(query)?;
    let at = gateway.ports.clock.now();
    let (person, spending) = match look_up(gateway.store(), &question, at).await {
        Ok((person, standing)) => (person, Spending::Known { standing, at }),
        Err(error) => (Person::of(&question), Spending::Unknown(error.to_string())),
    };
    let (policies, catalog) = (&gateway.policies, &gateway.catalog);
    let model = question.model.as_deref();
    Ok(Explanation::of(&gateway.config, policies, catalog, person, model, spending).to_json())
}

fn question(query: &Query) -> Result<Question, Refusal> {
    let text = |name: &str| query.first(name).filter(|value| !value.is_empty()).map(str::to_owned);
    let mut groups = query.all("groups[]")?;
    let listed = query.first("groups");
    groups.extend(listed.unwrap_or_default().split(',').filter(|group| !group.is_empty()).map(str::to_owned));
    let are_given = listed.is_some() || !groups.is_empty();
    let question = Question {
        email: text("email"),
        groups: are_given.then_some(groups),
        user_id: text("user_id"),
        model: text("model"),
    };
    if question.email.is_none() && question.groups.is_none() && question.user_id.is_none() {
        return Err(Refusal::invalid("email: Required, unless groups or user_id are given"));
    }
    Ok(question)
}
