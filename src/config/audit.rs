//! Section `audit`: the copy of the audit trail in the database.

use super::Audit;
use super::decode::Keys;
use super::kind::{switch, whole};

pub(super) fn audit(keys: &mut Keys<'_, '_>) -> Option<Audit> {
    let store = keys.or(
        "store",
        switch(),
        "false",
        "Whether audit events are copied into the database, where the admin API finds them \
         (`GET /v1/organizations/audit_events`). Standard error gets them in any case.",
    );
    let retention_days =
        keys.or("retention_days", whole(1, 3660), "365", "Days for which the copy is kept; at most ten years.");
    let (store, retention_days) = (store?, retention_days?);
    if !store && keys.has("retention_days") {
        keys.warn("retention_days", "has no effect without `store: true`");
    }
    Some(Audit { store, retention_days })
}
