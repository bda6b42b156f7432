//! `/v1/organizations/sessions`: who is signed in, and ending that. An ended session is refused within five seconds, on
//! every replica.

use std::rc::Rc;

use serde_json::{Value, json};

use super::{Administrator, Query, Refusal};
use crate::gateway::{Context, Gateway};
use crate::store::{Edge, SessionRow, SessionsQuery};

/// A page of sessions, oldest first.
pub(super) async fn list(gateway: &Rc<Gateway>, query: &Query) -> Result<Value, Refusal> {
    query.accept_only(&["user_id", "limit", "after_id", "before_id"])?;
    let limit = query.limit(20)?;
    let (edge, name) = match (query.first("after_id"), query.first("before_id")) {
        (Some(_), Some(_)) => return Err(Refusal::invalid("after_id and before_id are mutually exclusive")),
        (Some(id), None) => (Edge::After(id), "after_id"),
        (None, Some(id)) => (Edge::Before(id), "before_id"),
        (None, None) => (Edge::First, ""),
    };
    let subject = query.first("user_id").map(user_id).transpose()?;
    let wanted = SessionsQuery { edge, most: limit + 1, subject };
    let found = gateway.store().sessions(wanted, gateway.ports.clock.now()).await?;
    let mut found = found.ok_or_else(|| Refusal::invalid(format!("{name}: no session with this id")))?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = found.len() > most;
    if has_more {
        match edge {
            Edge::Before(_) => drop(found.remove(0)),
            Edge::First | Edge::After(_) => found.truncate(most),
        }
    }
    Ok(json!({
        "data": found.iter().map(shown).collect::<Vec<_>>(),
        "has_more": has_more,
        "first_id": found.first().map(|session| &session.id),
        "last_id": found.last().map(|session| &session.id),
    }))
}

/// Ends one session.
pub(super) async fn delete(
    gateway: &Rc<Gateway>,
    context: &Context,
    administrator: &Administrator,
    id: &str,
) -> Result<Value, Refusal> {
    administrator.require_write("sessions")?;
    let ended = gateway.store().end_session(id, gateway.ports.clock.now()).await?;
    let ended = ended.ok_or_else(|| Refusal::not_found("session not found"))?;
    gateway.note_ended(context, &administrator.actor, &[ended]);
    Ok(json!({"type": "session_deleted", "id": id}))
}

/// Ends all sessions of one person.
pub(super) async fn delete_all(
    gateway: &Rc<Gateway>,
    context: &Context,
    administrator: &Administrator,
    query: &Query,
) -> Result<Value, Refusal> {
    administrator.require_write("sessions")?;
    if query.names().any(|name| name != "user_id") || query.pairs().len() > 1 {
        return Err(Refusal::invalid("give user_id, once, and nothing else"));
    }
    let subject = user_id(query.first("user_id").ok_or_else(|| Refusal::invalid("user_id: Required"))?)?;
    let ended = gateway.store().end_sessions_of(subject, gateway.ports.clock.now()).await?;
    gateway.note_ended(context, &administrator.actor, &ended);
    let ids: Vec<&str> = ended.iter().map(|session| session.id.as_str()).collect();
    Ok(json!({"type": "sessions_deleted", "user_id": subject, "ids": ids}))
}

fn user_id(text: &str) -> Result<&str, Refusal> {
    if text.is_empty() {
        return Err(Refusal::invalid("user_id: String must contain at least 1 character(s)"));
    }
    Ok(text)
}

fn shown(session: &SessionRow) -> Value {
    let known = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    let was_refreshed = session.refreshed_at != session.created_at;
    let refreshed = |value: Value| if was_refreshed { value } else { Value::Null };
    json!({
        "type": "session",
        "id": session.id,
        "user_id": session.subject,
        "email_address": known(&session.email),
        "name": known(&session.name),
        "means": session.means,
        "created_at": session.created_at,
        "created_from": session.created_from,
        "user_agent": known(&session.client),
        "last_refreshed_at": refreshed(session.refreshed_at.to_rfc3339().into()),
        "last_refreshed_from": refreshed(session.refreshed_from.as_str().into()),
        "expires_at": session.expires_at,
    })
}
