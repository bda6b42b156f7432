//! `DELETE /v1/organizations/users?user_id=…`: erases a person. The reference has no such request.

use std::rc::Rc;

use serde_json::Value;

use super::sessions::user_id;
use super::{Administrator, Query, Refusal};
use crate::erasure::NotErased;
use crate::gateway::{Context, Gateway};
use crate::store::Act;

/// Erases, or with `dry_run=true` tells what there is to erase.
pub(super) async fn delete(
    gateway: &Rc<Gateway>,
    context: &Context,
    administrator: &Administrator,
    query: &Query,
) -> Result<Value, Refusal> {
    administrator.require_write("users")?;
    query.accept_only(&["user_id", "dry_run"])?;
    for name in ["user_id", "dry_run"] {
        if query.names().filter(|given| *given == name).count() > 1 {
            return Err(Refusal::invalid(format!("{name}: give it once")));
        }
    }
    let subject = user_id(query.first("user_id").ok_or_else(|| Refusal::invalid("user_id: Required"))?)?;
    let act = match query.first("dry_run") {
        None | Some("false") => Act::Write,
        Some("true") => Act::Look,
        Some(_) => return Err(Refusal::invalid("dry_run: must be one of true, false")),
    };
    gateway.erase(Some(context), subject, &administrator.actor, act).await.map_err(|refused| match refused {
        NotErased::Store(error) => error.into(),
        told => Refusal::invalid(told.to_string()),
    })
}
