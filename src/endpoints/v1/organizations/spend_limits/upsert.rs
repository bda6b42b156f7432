//! Setting one cap: what it is, what it becomes, and the write that holds only if nobody was faster.

use std::rc::Rc;

use super::super::Refusal;
use super::{ATTEMPTS, busy, changed};
use crate::domain::audit::AuditEvent;
use crate::domain::checksum::hex;
use crate::domain::spend::limit::{Limit, Wish};
use crate::gateway::Gateway;
use crate::store::Change;

/// A cap before and after a wish is granted.
pub(super) struct Plan {
    /// What it is; nothing if there is none.
    pub(super) before: Option<Limit>,
    /// What it becomes.
    pub(super) after: Limit,
    from_version: i64,
}

impl Plan {
    /// Whether there is nothing to do.
    pub(super) fn is_settled(&self) -> bool {
        self.before.as_ref().is_some_and(|before| before.amount == self.after.amount && before.pool == self.after.pool)
    }
}

/// What granting `wish` means now.
pub(super) async fn plan(gateway: &Rc<Gateway>, wish: &Wish) -> Result<Plan, Refusal> {
    let stored = gateway.store().find_limit(&wish.scope, wish.period).await?;
    let from_version = stored.as_ref().map_or(0, |stored| stored.version);
    let before = stored.filter(|stored| !stored.is_deleted).map(|stored| stored.limit);
    let new_id = format!("spl_{}", hex(&gateway.random::<16>()));
    let after = wish
        .clone()
        .grant(before.as_ref(), &new_id, gateway.ports.clock.now())
        .map_err(|refused| Refusal::invalid(refused.to_string()))?;
    Ok(Plan { before, after, from_version })
}

/// Grants `wish`.
pub(super) async fn write(gateway: &Rc<Gateway>, actor: &str, wish: Wish) -> Result<Plan, Refusal> {
    for _ in 0..ATTEMPTS {
        let plan = plan(gateway, &wish).await?;
        let before = plan.before.as_ref().map_or_else(String::new, |limit| limit.to_image().to_string());
        let change = Change {
            limit: &plan.after,
            is_deletion: false,
            from_version: plan.from_version,
            actor,
            action: "spend_limit.upsert",
            before: &before,
            after: &plan.after.to_image().to_string(),
            at: plan.after.updated_at,
        };
        if gateway.store().change_limit(change).await? {
            let amount = plan.after.amount.map(|amount| amount.to_string());
            gateway.record(&AuditEvent::AdminLimitUpsert { changed: changed(actor, &plan.after), amount }, None);
            return Ok(plan);
        }
    }
    Err(busy())
}
