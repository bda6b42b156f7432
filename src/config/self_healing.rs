//! Section `self_healing`: requests without what an upstream refuses by name.

use super::SelfHealing;
use super::decode::Keys;
use super::kind::{formed, list, switch};
use crate::upstream::compatibility::may_be_left_out;

pub(super) fn self_healing(keys: &mut Keys<'_, '_>) -> Option<SelfHealing> {
    let enabled = keys.or(
        "enabled",
        switch(),
        "true",
        "Whether a request that an upstream refuses by name (400) for a beta or an optional member of its body is sent \
         once more without it. What was refused is left out for a day, and the audit trail says so \
         (`upstream.refusal`). What changes what is asked is never left out.",
    );
    let field = formed("the name of a member of a request").check(|name| {
        if may_be_left_out(&name) {
            return Ok(name);
        }
        Err(format!("`{name}` cannot be left out: a request without it would ask something else"))
    });
    let fields = keys.or(
        "fields",
        list(field),
        "[]",
        "Members of the body that may be left out besides `cache_control`, `context_management`, `diagnostics` and \
         `service_tier`.",
    );
    let (enabled, fields) = (enabled?, fields?);
    if !enabled && !fields.is_empty() {
        keys.warn("fields", "has no effect with `enabled: false`");
    }
    Some(SelfHealing { enabled, fields })
}
