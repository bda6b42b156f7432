//! `/v1/organizations/spend_limits`: set, list, read and delete caps (inference contract §18.3 to §18.6).

pub(crate) mod audit;
mod body;
pub(crate) mod bulk;
pub(crate) mod effective;
mod upsert;

use std::rc::Rc;

use serde_json::{Value, json};

use super::cursor::Cursor;
use super::{Administrator, Query, Refusal};
use crate::domain::audit::{AuditEvent, LimitChanged};
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::Limit;
use crate::gateway::Gateway;
use crate::store::{Change, Page, Stored};

/// How often a change is tried again because somebody else was faster.
const ATTEMPTS: u32 = 20;

const NOT_FOUND: &str = "spend limit not found";

/// Sets a cap.
pub(super) async fn post(gateway: &Rc<Gateway>, administrator: &Administrator, body: &[u8]) -> Result<Value, Refusal> {
    let wish = body::parse(body).map_err(Refusal::invalid)?;
    let limit = upsert::write(gateway, &administrator.actor, wish).await?.after;
    if limit.pool.amount.is_none() {
        return Ok(limit.to_json("0"));
    }
    let month = Period::Monthly.key(gateway.ports.clock.now());
    let stored = gateway.store().limit_by_id(&limit.id, &month).await?;
    let spent = stored.map_or_else(|| "0".to_owned(), |stored| stored.pool_spent.cents());
    Ok(limit.to_json(&spent))
}

/// One cap.
pub(super) async fn get(gateway: &Rc<Gateway>, id: &str) -> Result<Value, Refusal> {
    Ok(shown(&find(gateway, id).await?))
}

/// Removes a cap.
pub(super) async fn delete(gateway: &Rc<Gateway>, administrator: &Administrator, id: &str) -> Result<Value, Refusal> {
    remove(gateway, &administrator.actor, id).await?;
    Ok(json!({"type": "spend_limit_deleted", "id": id}))
}

async fn remove(gateway: &Rc<Gateway>, actor: &str, id: &str) -> Result<(), Refusal> {
    for _ in 0..ATTEMPTS {
        let stored = find(gateway, id).await?;
        let change = Change {
            limit: &stored.limit,
            is_deletion: true,
            from_version: stored.version,
            actor,
            action: "spend_limit.delete",
            before: &stored.limit.to_image().to_string(),
            after: "",
            at: gateway.ports.clock.now(),
        };
        if gateway.store().change_limit(change).await? {
            gateway.record(&AuditEvent::AdminLimitDelete(changed(actor, &stored.limit)), None);
            return Ok(());
        }
    }
    Err(busy())
}

/// A page of caps.
pub(super) async fn list(gateway: &Rc<Gateway>, query: &Query) -> Result<Value, Refusal> {
    let cursor = Cursor::parse(query)?;
    let scope_type = query.first("scope_type");
    if scope_type.is_some_and(|kind| !["organization", "rbac_group", "user"].contains(&kind)) {
        return Err(Refusal::invalid("scope_type: must be one of organization, rbac_group, user"));
    }
    let month = Period::Monthly.key(gateway.ports.clock.now());
    let page = Page { edge: cursor.edge, most: cursor.most, scope_type, month: &month };
    let found = gateway.store().limits(page).await?;
    cursor.page(found, "spend limit", |stored| &stored.limit.id, shown)
}

async fn find(gateway: &Rc<Gateway>, id: &str) -> Result<Stored, Refusal> {
    let month = Period::Monthly.key(gateway.ports.clock.now());
    let found = gateway.store().limit_by_id(id, &month).await?;
    found.ok_or_else(|| Refusal::not_found(NOT_FOUND))
}

fn shown(stored: &Stored) -> Value {
    stored.limit.to_json(&stored.pool_spent.cents())
}

fn changed<'a>(actor: &'a str, limit: &'a Limit) -> LimitChanged<'a> {
    LimitChanged {
        actor,
        target: &limit.id,
        scope_type: limit.scope.kind(),
        scope_id: limit.scope.id(),
        period: limit.period.name(),
    }
}

fn busy() -> Refusal {
    Refusal::Broken(crate::error::Failure::internal("a spend limit was changed by others all the time"))
}
