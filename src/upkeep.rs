//! Upkeep without a daemon: a request that finds a sweep due leaves one behind, to be done after its response.

use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::alerts;
use crate::domain::figure::Figure;
use crate::domain::ids::Timestamp;
use crate::gateway::Gateway;
use crate::log::Level;
use crate::store::{Retention, StoreError, Swept};

/// How often an instance asks whether a sweep is due; replicas agree in the store on who does it.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// Has a bounded sweep done in the background, if it is time to ask for one.
pub(crate) fn after_response(gateway: &Rc<Gateway>) {
    let now = gateway.ports.clock.now();
    let asked = &gateway.cache.asked_for_sweep;
    if asked.get().is_some_and(|at| now.is_within(ASK_EVERY, at)) {
        return;
    }
    asked.set(Some(now));
    let owner = Rc::clone(gateway);
    let sweep = async move {
        match owner.store().sweep(now, audit_copy(&owner, now), retention(&owner, now)).await {
            Ok(None) => {}
            Ok(Some(swept)) => {
                count(&owner, &swept);
                prune_keys(&owner).await;
            }
            Err(error) => owner.log(Level::Warn, &format!("rows that are over could not be deleted: {error}")),
        }
        alerts::send_due(&owner).await;
    };
    gateway.ports.tasks.spawn(sweep.boxed_local());
}

fn count(gateway: &Gateway, swept: &Swept) {
    for (table, rows) in &swept.deleted {
        gateway.count(&Figure::Swept { table, rows: *rows as u64 });
    }
    gateway.count(&Figure::Reservation { outcome: "expired", count: swept.expired as u64 });
}

/// Signing keys whose time is over disappear.
async fn prune_keys(gateway: &Gateway) {
    if let Some(ring) = gateway.signing_keys()
        && let Err(error) = ring.prune().await
    {
        gateway.log(Level::Warn, &format!("signing keys that are over could not be removed: {error}"));
    }
}

/// Does all of it at once.
pub(crate) async fn at_once(gateway: &Gateway) -> Result<Swept, StoreError> {
    let now = gateway.ports.clock.now();
    let swept = gateway.store().sweep_all(now, audit_copy(gateway, now), retention(gateway, now)).await?;
    prune_keys(gateway).await;
    Ok(swept)
}

/// Until when the copy of the audit trail is forgotten, also of one that is no longer written.
fn audit_copy(gateway: &Gateway, now: Timestamp) -> Timestamp {
    days_before(now, gateway.config.audit.retention_days.into())
}

fn days_before(now: Timestamp, days: u64) -> Timestamp {
    let millis = i64::try_from(days.saturating_mul(24 * 60 * 60 * 1000)).unwrap_or(i64::MAX);
    Timestamp::from_millis(now.as_millis().saturating_sub(millis).max(0))
}

/// Until when spending is forgotten; nothing is without `admin`. A month is 31 days here: nobody misses what is kept a
/// little longer.
fn retention(gateway: &Gateway, now: Timestamp) -> Option<Retention> {
    let admin = gateway.config.admin.as_ref()?;
    let ago = |days: u64| days_before(now, days);
    Some(Retention {
        spend: ago(u64::from(admin.spend_retention_months) * 31),
        audit: ago(admin.audit_retention_days.into()),
        identity: ago(admin.identity_retention_days.into()),
    })
}
