//! Section `cri`, customer-routed inference (auth contract §3.11): known, so that a file that has it can be judged, but
//! not supported.

use super::decode::{Keys, section};
use super::kind::{list, non_empty, switch, text};

pub(super) fn cri(keys: &mut Keys<'_, '_>) -> Option<()> {
    let enabled =
        keys.or("enabled", switch(), "false", "Must not be `true`: customer-routed inference is not supported.");
    let _ = keys.optional("audience", list(non_empty()), "Without effect.");
    let _ = keys.optional("org_allowlist", list(non_empty()), "Without effect.");
    let _ = keys.optional("issuer", text(), "Without effect.");
    let _ = keys.optional("jwks_url", text(), "Without effect.");
    let _ = keys.optional("policy", section(policy), "Without effect.");
    if enabled? {
        keys.fault(
            "enabled",
            "customer-routed inference is not supported: sign-in is by OIDC; remove the `cri` section",
        );
    } else {
        keys.warn("", "has no effect: customer-routed inference is not supported");
    }
    Some(())
}

#[expect(clippy::unnecessary_wraps, reason = "it is one of several sections")]
fn policy(keys: &mut Keys<'_, '_>) -> Option<()> {
    let _ = keys.optional("webhook", section(webhook), "Without effect.");
    Some(())
}

#[expect(clippy::unnecessary_wraps, reason = "it is one of several sections")]
fn webhook(keys: &mut Keys<'_, '_>) -> Option<()> {
    let _ = keys.optional("url", text(), "Without effect.");
    let _ = keys.optional("fail_closed", switch(), "Without effect.");
    Some(())
}
