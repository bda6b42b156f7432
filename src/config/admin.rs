//! Sections `admin` and `enforcement` (auth contract §3.7, inference contract §17 and §20).

use std::time::Duration;

use super::decode::{Keys, section};
use super::kind::{Kind, choice, formed, list, non_empty, non_empty_list, positive, secret, switch, text, whole};
use super::telemetry::https_url;
use super::{Admin, AdminKey, Alert, AlertScope, Enforcement, GroupLimitMode, Secret};

pub(super) fn admin(keys: &mut Keys<'_, '_>) -> Option<Admin> {
    let write_keys =
        keys.or("write_keys", list(section(admin_key)), "[]", "Keys with which the admin API may be read and written.");
    let read_keys = keys.or("read_keys", list(section(admin_key)), "[]", "Keys with which the admin API may be read.");
    let admin_groups = keys.or(
        "admin_groups",
        list(non_empty()),
        "[]",
        "Groups whose signed-in members may read and write the admin API.",
    );
    let blocked_message = keys.optional(
        "blocked_message",
        text(),
        "Sentence appended to the refusal of a request over its spend limit, for example whom to ask.",
    );
    let audit_retention_days =
        keys.or("audit_retention_days", positive(), "365", "Days for which changes of limits stay in the audit list.");
    let spend_retention_months = keys.or("spend_retention_months", positive(), "13", "Months for which spend is kept.");
    let identity_retention_days = keys.or(
        "identity_retention_days",
        positive(),
        "90",
        "Days for which the name and address of a person who does not return are kept.",
    );
    let group_limit_mode = keys.or(
        "group_limit_mode",
        choice(&[("min", GroupLimitMode::Min), ("max", GroupLimitMode::Max)]),
        "min",
        "Which limit counts for a member of several limited groups: the smallest (`min`) or the largest (`max`).",
    );
    let alerts = keys.or(
        "alerts",
        list(section(alert)),
        "[]",
        "Who is told when spend reaches a share of a cap, once for each share and period.",
    );
    let billing_group_tag = keys.optional(
        "billing_group_tag",
        billing_group_tag(),
        "Name of the request tag with which a client says which of its groups a request is for. 1 to 64 letters, digits \
         and `_ . : / = + - @`, not beginning with `anthropic`.",
    );

    let (write_keys, read_keys) = (write_keys?, read_keys?);
    let all = || write_keys.iter().map(|key| ("write_keys", key)).chain(read_keys.iter().map(|key| ("read_keys", key)));
    for (position, (list, key)) in all().enumerate() {
        if all().take(position).any(|(_, earlier)| earlier.id == key.id) {
            let index = if list == "read_keys" { position - write_keys.len() } else { position };
            let path = format!("{}[{index}].id", keys.path_of(list));
            keys.report.fault_at(&path, "is the id of another key too; ids are unique over both lists");
        }
    }
    let alerts = alerts?.into_iter().enumerate().filter_map(|(index, (alert, secret))| {
        let secret = secret.or_else(|| write_keys.first().map(|key| key.key.clone()));
        if secret.is_none() {
            let path = format!("{}[{index}]", keys.path_of("alerts"));
            keys.report.fault_at(&path, "needs a `secret` to sign with: there is no key in `write_keys` either");
        }
        Some(Alert { secret: secret?, ..alert })
    });
    let alerts = alerts.collect();
    Some(Admin {
        alerts,
        admin_groups: admin_groups?,
        blocked_message,
        audit_retention_days: audit_retention_days?,
        spend_retention_months: spend_retention_months?,
        identity_retention_days: identity_retention_days?,
        group_limit_mode: group_limit_mode?,
        billing_group_tag,
        write_keys,
        read_keys,
    })
}

fn admin_key(keys: &mut Keys<'_, '_>) -> Option<AdminKey> {
    let id = keys.required("id", non_empty(), "Name of the key in the audit list.");
    let key = keys.required("key", secret(32), "The key, at least 32 characters; sent as `x-api-key`.");
    Some(AdminKey { id: id?, key: key? })
}

/// A receiver, and its secret if it has one of its own.
fn alert(keys: &mut Keys<'_, '_>) -> Option<(Alert, Option<Secret<String>>)> {
    let at =
        keys.required("at", non_empty_list(whole(1, 1000)), "Shares of a cap in percent, for example `[50, 80, 100]`.");
    let webhook = keys.required(
        "webhook",
        https_url(),
        "URL that gets a `POST` with JSON for each share that is reached. `http:` only on loopback.",
    );
    let secret = keys.optional(
        "secret",
        secret(16),
        "What the body is signed with (HMAC-SHA-256, header `x-sallyport-signature`), at least 16 characters. Without \
         it, the first key of `write_keys`.",
    );
    let scope = keys.required(
        "scope",
        choice(&[
            ("organization", AlertScope::Organization),
            ("group", AlertScope::Group),
            ("user", AlertScope::User),
        ]),
        "Which caps it is about: those that the organization gives everybody, those of groups and their pools, or those \
         of single people.",
    );
    let webhook = webhook?.to_string();
    Some((Alert { at: at?, webhook, secret: Secret::new(String::new()), scope: scope? }, secret))
}

fn billing_group_tag() -> Kind<String> {
    formed("the name of a tag").check(|tag| {
        let is_allowed = |character: char| character.is_ascii_alphanumeric() || "_.:/=+-@".contains(character);
        if tag.chars().count() > 64 || !tag.chars().all(is_allowed) {
            return Err("must be 1 to 64 letters, digits and _ . : / = + - @".to_owned());
        }
        if tag.to_ascii_lowercase().starts_with("anthropic") {
            return Err("must not begin with `anthropic`".to_owned());
        }
        Ok(tag)
    })
}

pub(super) fn enforcement(keys: &mut Keys<'_, '_>) -> Option<Enforcement> {
    let fail_closed_on_error = keys.or(
        "fail_closed_on_error",
        switch(),
        "false",
        "Whether requests are refused while spend cannot be checked because the database does not answer. Needs `admin`.",
    );
    let reservation_ttl = keys.or(
        "reservation_ttl_seconds",
        whole(1, 86_400).map(Duration::from_secs),
        "900",
        "How long a request's reservation counts when nobody tells its end, because the process died, in seconds. Longer \
         than the longest answer takes.",
    );
    Some(Enforcement { fail_closed_on_error: fail_closed_on_error?, reservation_ttl: reservation_ttl? })
}
