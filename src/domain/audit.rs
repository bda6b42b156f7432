//! [`AuditEvent`]: everything the gateway ever writes to the audit trail, and its form: one JSON object per line
//! (auth contract §11, inference contract §12). Prompts, answers, tokens and secrets have no field here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;

use crate::domain::ids::Timestamp;

/// One event. Fields are the contract's; absent ones are left out.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum AuditEvent<'a> {
    /// `config.load`: the gateway starts with this configuration. It has no `request_id`.
    ConfigLoad {
        /// Where it was read.
        path: &'a str,
        /// Digest of its meaning, not of its text.
        sha256: &'a str,
    },
    /// `config.reload`: a changed configuration was taken over, or refused. It has no `request_id`.
    ConfigReload {
        /// `success`, or `fail` when the gateway goes on with the configuration it has.
        result: &'static str,
        /// Where it was read.
        path: &'a str,
        /// Digest of what is in effect now.
        sha256: &'a str,
        /// The faults, separated by `; `.
        #[serde(skip_serializing_if = "Option::is_none")]
        err: Option<&'a str>,
    },
    /// `access.denied`: the address may not enter.
    AccessDenied {
        /// `ip_denylist` or `ip_not_allowlisted`.
        reason: &'static str,
        /// The client's address.
        client_ip: IpAddr,
    },
    /// `auth.denied`: no valid session.
    AuthDenied {
        /// `missing_token`, `invalid_token`, or `session_ended`.
        reason: &'static str,
        /// Path without the query.
        path: &'a str,
        /// The client's address.
        client_ip: IpAddr,
    },
    /// `managed.serve`: a settings document was delivered.
    ManagedServe(SettingsServed),
    /// `desktop_bootstrap.serve`, `desktop_bootstrap.denied`: Claude Desktop asked for its configuration.
    DesktopBootstrap(BootstrapDecided),
    /// `device.authorize`: a device asked for a code.
    DeviceAuthorize {
        /// `success` or `rate_limited`.
        result: &'static str,
        /// The device's address.
        client_ip: IpAddr,
    },
    /// `device.verify`: a person posted a code.
    DeviceVerify {
        /// `redirect`, `unknown_code`, `unknown_provider`, `csrf_rejected`, `rate_limited`,
        /// `idp_unavailable`, or `error`.
        result: &'static str,
        /// The browser's address.
        client_ip: IpAddr,
        /// Why, where the result does not say it.
        #[serde(skip_serializing_if = "Option::is_none")]
        err: Option<&'a str>,
    },
    /// `device.deny`: a person stopped a sign-in.
    DeviceDeny {
        /// `denied`.
        result: &'static str,
        /// The browser's address.
        client_ip: IpAddr,
        /// The address that had asked for the code; absent when it cannot be read any more.
        #[serde(skip_serializing_if = "Option::is_none")]
        requested_from: Option<IpAddr>,
        /// When, RFC 3339.
        #[serde(skip_serializing_if = "Option::is_none")]
        requested_at: Option<&'a str>,
    },
    /// `device.callback`: a browser came back and the grant stays as it is.
    DeviceCallback {
        /// `browser_mismatch`, and beyond the reference: `idp_error`, `invalid_state`, `not_waiting`, `error`.
        result: &'static str,
        /// The browser's address.
        client_ip: IpAddr,
        /// What the identity provider said.
        #[serde(skip_serializing_if = "Option::is_none")]
        err: Option<&'a str>,
    },
    /// `session.mint`: a sign-in succeeded or failed.
    SessionMint(SessionOutcome<'a>),
    /// `session.refresh`: a session goes on, or does not.
    SessionRefresh(SessionOutcome<'a>),
    /// `session.create`: tokens were fetched, a session begins.
    SessionCreate(SessionBegun<'a>),
    /// `session.revoke`: a session was ended before its time.
    SessionRevoke(SessionEnded<'a>),
    /// `session.reuse`: a refresh token was presented that had been exchanged before; its session was ended.
    SessionReuse(SessionEnded<'a>),
    /// `key.rotate`: there is a new key.
    KeyRotate(KeyChanged<'a>),
    /// `key.revoke`: a signing key is gone, and with it the sessions that it signed.
    KeyRevoke(KeyChanged<'a>),
    /// `service.mint`: a program exchanged its token for a session token, or could not.
    ServiceMint(ServiceOutcome<'a>),
    /// `inference`: one request to a model.
    Inference {
        /// Whose.
        #[serde(skip_serializing_if = "Option::is_none")]
        sub: Option<&'a str>,
        /// Whose, for people.
        #[serde(skip_serializing_if = "Option::is_none")]
        email: Option<&'a str>,
        /// `/v1/messages` or `/v1/messages/count_tokens`.
        path: &'a str,
        /// The model as the client named it; null when no upstream was chosen.
        model: Option<&'a str>,
        /// The upstream whose answer was returned; null for the gateway's own.
        upstream: Option<&'a str>,
        /// The upstream's id of the request.
        upstream_request_id: Option<&'a str>,
        /// The cloud's id of the request.
        upstream_cloud_request_id: Option<&'a str>,
        /// Who pays, of the caller's groups.
        #[serde(flatten)]
        billing: Billing<'a>,
        /// Status returned to the client.
        status: u16,
        /// Milliseconds until the response headers.
        ms: u64,
        /// `estimated` where no upstream could count and the gateway estimated.
        #[serde(skip_serializing_if = "Option::is_none")]
        count: Option<&'static str>,
        /// What masking did; absent where it does not apply.
        #[serde(skip_serializing_if = "Option::is_none")]
        masking: Option<&'a MaskingReceipt>,
    },
    /// `breaker.open`: an upstream failed again and again and is left alone for a while. It has no `request_id`.
    BreakerOpen {
        /// The upstream.
        upstream: &'a str,
        /// The upstream's id of the model; absent when it is left alone for all of them.
        #[serde(skip_serializing_if = "Option::is_none")]
        model: Option<&'a str>,
        /// The last failure: `unreachable`, `timeout`, `rate_limited`, `overloaded` or `server_error`.
        reason: &'static str,
        /// 1; more when it was left alone before and still failed.
        round: u32,
        /// Until when, RFC 3339.
        until: Timestamp,
        /// Whether the other replicas know; false while the database is away.
        shared: bool,
    },
    /// `breaker.close`: an upstream that was left alone answers again. It has no `request_id`.
    BreakerClose {
        /// The upstream.
        upstream: &'a str,
        /// The upstream's id of the model; absent for all of them.
        #[serde(skip_serializing_if = "Option::is_none")]
        model: Option<&'a str>,
    },
    /// `upstream.refusal`: an upstream refuses something that requests can do without; they go there without it.
    UpstreamRefusal {
        /// Its configured name.
        upstream: &'a str,
        /// The upstream's id of the model that it is about; absent for all.
        #[serde(skip_serializing_if = "Option::is_none")]
        model: Option<&'a str>,
        /// `beta`, or `field` for a member of the body.
        kind: &'static str,
        /// What it is called.
        name: &'a str,
        /// When it is tried again, RFC 3339.
        until: &'a str,
    },
    /// `spend.metered`: what an answer cost; only with `admin.billing_group_tag`.
    SpendMetered {
        /// Whose.
        #[serde(skip_serializing_if = "Option::is_none")]
        sub: Option<&'a str>,
        /// Who pays, of the caller's groups.
        #[serde(flatten)]
        billing: Billing<'a>,
        /// The model as the client named it.
        model: &'a str,
        /// Tokens.
        input_tokens: u64,
        /// Tokens.
        output_tokens: u64,
        /// Tokens.
        #[serde(skip_serializing_if = "is_zero")]
        cache_read_input_tokens: u64,
        /// Tokens.
        #[serde(skip_serializing_if = "is_zero")]
        cache_creation_input_tokens: u64,
        /// Rounded to six decimals.
        cents: serde_json::Number,
    },
    /// `spend.blocked`: a caller may not spend more.
    SpendBlocked {
        /// Whose.
        #[serde(skip_serializing_if = "Option::is_none")]
        sub: Option<&'a str>,
        /// `over_limit` or `store_error`, and beyond the reference `reserved`: other requests hold what is left.
        cause: &'static str,
        /// The exhausted cap in cents.
        #[serde(skip_serializing_if = "Option::is_none")]
        cap_cents: Option<String>,
        /// Type of its scope, or `group_pool`.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<&'static str>,
        /// Over what.
        #[serde(skip_serializing_if = "Option::is_none")]
        period: Option<&'static str>,
        /// The exhausted pools in charging order.
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        groups: &'a [String],
    },
    /// `admin.denied`: no administrator. It has no `request_id`.
    AdminDenied {
        /// `no_credentials`, `invalid_key` or `bearer_rejected`.
        reason: &'static str,
        /// Method.
        method: &'a str,
        /// Path without the query.
        path: &'a str,
        /// The client's address.
        client_ip: IpAddr,
    },
    /// `admin.limit.upsert`: a cap was set. It has no `request_id`.
    AdminLimitUpsert {
        /// Which.
        #[serde(flatten)]
        changed: LimitChanged<'a>,
        /// Cents; null is unlimited.
        amount: Option<String>,
    },
    /// `admin.limit.delete`: a cap was removed. It has no `request_id`.
    AdminLimitDelete(LimitChanged<'a>),
    /// `user.erase`: a person was erased. It does not say who.
    UserErase(UserErased<'a>),
}

/// A cap that an administrator has changed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct LimitChanged<'a> {
    /// `admin-key:<id>` or `oidc:<sub>`.
    pub actor: &'a str,
    /// The cap's id.
    pub target: &'a str,
    /// Type of its scope.
    pub scope_type: &'static str,
    /// Whose; empty for the organization.
    pub scope_id: &'a str,
    /// Over what.
    pub period: &'static str,
}

/// A person who was erased.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct UserErased<'a> {
    /// `success`, or `fail` if it stopped on the way and has to be asked for again.
    pub result: &'static str,
    /// `admin-key:<id>`, `oidc:<sub>`, or `operator`.
    pub actor: &'a str,
    /// What stands for the person in the books; absent if nothing of theirs was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pseudonym: Option<&'a str>,
    /// How many sessions ended.
    pub sessions: usize,
}

/// A session that began.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SessionBegun<'a> {
    /// Its id.
    pub sid: &'a str,
    /// Whose.
    pub sub: &'a str,
    /// Whose, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<&'a str>,
    /// `device`, `token_exchange`, or `refresh` for one that began before there were sessions.
    pub means: &'static str,
    /// Who fetched its tokens, by address.
    pub client_ip: IpAddr,
    /// With which program.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub user_agent: &'a str,
}

/// A session that was ended.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SessionEnded<'a> {
    /// Its id.
    pub sid: &'a str,
    /// Whose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<&'a str>,
    /// Who ended it: `admin-key:<id>`, `oidc:<sub>`, or `client` for whoever had one of its tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<&'a str>,
    /// The address that asked.
    pub client_ip: IpAddr,
}

/// A key that was made or removed.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct KeyChanged<'a> {
    /// Which.
    pub kid: &'a str,
    /// `masking` for a key that makes the tokens of masked identifiers; absent for one that signs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ring: Option<&'static str>,
    /// `admin-key:<id>`, `oidc:<sub>`, or `command-line`.
    pub actor: &'a str,
    /// How many sessions ended with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<usize>,
}

/// What a request said about who pays (inference contract §17).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Billing<'a> {
    /// A group of the caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub billing_group: Option<&'a str>,
    /// Whether it said something that is no group of the caller.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub billing_group_ignored: bool,
}

/// What masking did to one request and its answer: counts, never values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct MaskingReceipt {
    /// `enforce` or `shadow`.
    pub mode: &'static str,
    /// Identifiers that were replaced (in shadow mode: would have been), by kind.
    pub masked: BTreeMap<String, u64>,
    /// Tokens that were restored in the answer.
    pub restored: u64,
    /// Tokens in the answer that are not the request's own.
    pub unknown: u64,
    /// Why the request was refused: `unreadable`, `too_long`, `too_many`, `secret` or `key_unavailable`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<&'static str>,
}

const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The audit event `managed.serve`, without what every event has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingsServed {
    /// Who asked.
    pub sub: String,
    /// The e-mail address, if the session has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The first policy that holds.
    pub policy_index: usize,
    /// All contributors, when several specific policies hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_indexes: Option<Vec<usize>>,
    /// Checksum of the document.
    pub checksum: String,
}

/// The audit event, without what every event has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootstrapDecided {
    /// `desktop_bootstrap.serve` or `desktop_bootstrap.denied`.
    #[serde(skip)]
    pub event: &'static str,
    /// Why it was denied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// Who asked.
    pub sub: String,
    /// The e-mail address, if the session has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The first policy that holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_index: Option<usize>,
    /// All contributors, when several specific policies hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_indexes: Option<Vec<usize>>,
}

/// How a sign-in or a refresh went.
#[derive(Debug, Serialize)]
pub struct SessionOutcome<'a> {
    /// `success` or `fail`.
    result: &'static str,
    /// Who, on success.
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    /// The e-mail address, if the session has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    /// The address of the browser, or of the client that refreshes.
    client_ip: IpAddr,
    /// Life of the session token, on success.
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_hours: Option<serde_json::Number>,
    /// Where a refresh failed: `token_endpoint`, `claims`, `userinfo_fallback` or `userinfo_no_id_token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<&'static str>,
    /// The OAuth error that a failed refresh was answered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'static str>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    err: Option<&'a str>,
}

impl<'a> SessionOutcome<'a> {
    /// It went well, for so long.
    pub fn success(sub: &'a str, email: Option<&'a str>, client_ip: IpAddr, ttl: Duration) -> Self {
        Self {
            result: "success",
            sub: Some(sub),
            email,
            client_ip,
            ttl_hours: hours(ttl),
            step: None,
            answer: None,
            err: None,
        }
    }

    /// It did not, because of `err`.
    pub const fn fail(client_ip: IpAddr, err: &'a str) -> Self {
        Self {
            result: "fail",
            sub: None,
            email: None,
            client_ip,
            ttl_hours: None,
            step: None,
            answer: None,
            err: Some(err),
        }
    }

    /// The same of a refresh: the step that failed, and the OAuth error that was answered.
    #[must_use]
    pub const fn at(self, step: &'static str, answer: &'static str) -> Self {
        Self { step: Some(step), answer: Some(answer), ..self }
    }
}

/// How the exchange of a program's token went (RFC 8693).
#[derive(Debug, Serialize)]
pub struct ServiceOutcome<'a> {
    /// `success` or `fail`.
    pub result: &'static str,
    /// `service:<name>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<&'a str>,
    /// The token's issuer, as configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer: Option<&'a str>,
    /// The token's own `sub`: which job it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<&'a str>,
    /// The program's address.
    pub client_ip: IpAddr,
    /// Life of the session token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_hours: Option<serde_json::Number>,
    /// The OAuth error that was answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<&'static str>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub err: Option<&'a str>,
}

/// A life in hours, as the audit trail spells it: whole where it is.
pub fn hours(ttl: Duration) -> Option<serde_json::Number> {
    let secs = ttl.as_secs();
    if secs.is_multiple_of(3600) {
        Some((secs / 3600).into())
    } else {
        serde_json::Number::from_f64(ttl.as_secs_f64() / 3600.0)
    }
}

impl AuditEvent<'_> {
    /// The event's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ConfigLoad { .. } => "config.load",
            Self::ConfigReload { .. } => "config.reload",
            Self::AccessDenied { .. } => "access.denied",
            Self::AuthDenied { .. } => "auth.denied",
            Self::ManagedServe(_) => "managed.serve",
            Self::DesktopBootstrap(decided) => decided.event,
            Self::DeviceAuthorize { .. } => "device.authorize",
            Self::DeviceVerify { .. } => "device.verify",
            Self::DeviceDeny { .. } => "device.deny",
            Self::DeviceCallback { .. } => "device.callback",
            Self::SessionMint(_) => "session.mint",
            Self::SessionRefresh(_) => "session.refresh",
            Self::SessionCreate(_) => "session.create",
            Self::SessionRevoke(_) => "session.revoke",
            Self::SessionReuse(_) => "session.reuse",
            Self::KeyRotate(_) => "key.rotate",
            Self::KeyRevoke(_) => "key.revoke",
            Self::ServiceMint(_) => "service.mint",
            Self::Inference { .. } => "inference",
            Self::BreakerOpen { .. } => "breaker.open",
            Self::BreakerClose { .. } => "breaker.close",
            Self::UpstreamRefusal { .. } => "upstream.refusal",
            Self::SpendMetered { .. } => "spend.metered",
            Self::SpendBlocked { .. } => "spend.blocked",
            Self::AdminDenied { .. } => "admin.denied",
            Self::AdminLimitUpsert { .. } => "admin.limit.upsert",
            Self::AdminLimitDelete(_) => "admin.limit.delete",
            Self::UserErase(_) => "user.erase",
        }
    }

    /// Whether the event says which request it belongs to; these do not (auth contract §11).
    const fn has_request_id(&self) -> bool {
        !matches!(
            self,
            Self::ConfigLoad { .. }
                | Self::ConfigReload { .. }
                | Self::BreakerOpen { .. }
                | Self::BreakerClose { .. }
                | Self::AdminDenied { .. }
                | Self::AdminLimitUpsert { .. }
                | Self::AdminLimitDelete(_)
        )
    }

    /// The line: `ts`, `evt` and `request_id` first, then the event's own fields.
    pub fn line(&self, at: Timestamp, request_id: Option<&str>) -> String {
        let fields = serde_json::to_string(self).expect("events are made of strings and numbers");
        let mut line = format!("{{\"ts\":\"{}\",\"evt\":\"{}\"", at.to_rfc3339(), self.name());
        if let Some(id) = request_id.filter(|_| self.has_request_id()) {
            // Ids are UUIDs or match [A-Za-z0-9._-]: nothing to escape.
            line.push_str(",\"request_id\":\"");
            line.push_str(id);
            line.push('"');
        }
        if fields.len() > "{}".len() {
            line.push(',');
        }
        line.push_str(&fields[1..]);
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_that_starts_with_time_name_and_request() {
        let event = AuditEvent::AuthDenied {
            reason: "missing_token",
            path: "/v1/messages",
            client_ip: "2001:db8::1".parse().expect("an address"),
        };
        assert_eq!(
            event.line(Timestamp::from_millis(0), Some("abc")),
            r#"{"ts":"1970-01-01T00:00:00.000Z","evt":"auth.denied","request_id":"abc","reason":"missing_token","path":"/v1/messages","client_ip":"2001:db8::1"}"#
        );
    }
    #[test]
    fn session_events_have_the_fields_of_their_outcome_only() {
        let ip = IpAddr::from([192, 0, 2, 1]);
        let head = r#"{"ts":"1970-01-01T00:00:00.000Z","evt":"session."#;
        for (event, rest) in [
            (
                AuditEvent::SessionMint(SessionOutcome::success("a", Some("e"), ip, Duration::from_hours(1))),
                r#"mint","result":"success","sub":"a","email":"e","client_ip":"192.0.2.1","ttl_hours":1}"#,
            ),
            (
                AuditEvent::SessionRefresh(SessionOutcome::success("a", None, ip, Duration::from_mins(30))),
                r#"refresh","result":"success","sub":"a","client_ip":"192.0.2.1","ttl_hours":0.5}"#,
            ),
            (
                AuditEvent::SessionRefresh(SessionOutcome::fail(ip, "no").at("claims", "invalid_grant")),
                r#"refresh","result":"fail","client_ip":"192.0.2.1","step":"claims","answer":"invalid_grant","err":"no"}"#,
            ),
        ] {
            assert_eq!(event.line(Timestamp::from_millis(0), None), format!("{head}{rest}"));
        }
    }
}
