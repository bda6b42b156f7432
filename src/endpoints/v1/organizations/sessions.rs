//! `/v1/organizations/sessions`: who is signed in, and ending that. An ended session is refused within five seconds, on
//! every replica.

use std::rc::Rc;

use serde_json::{Value, json};

use super::cursor::Cursor;
use super::{Administrator, Query, Refusal};
use crate::gateway::{Context, Gateway};
use crate::store::{SessionRow, SessionsQuery};

/// A page of sessions, oldest first.
pub(super) async fn list(gateway: &Rc<Gateway>, query: &Query) -> Result<Value, Refusal> {
    query.accept_only(&["user_id", "limit", "after_id", "before_id"])?;
    let cursor = Cursor::parse(query)?;
    let subject = query.first("user_id").map(user_id).transpose()?;
    let wanted = SessionsQuery { edge: cursor.edge, most: cursor.most, subject };
    let found = gateway.store().sessions(wanted, gateway.ports.clock.now()).await?;
    cursor.page(found, "session", |session| &session.id, shown)
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

/// What names a person.
pub(super) fn user_id(text: &str) -> Result<&str, Refusal> {
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
