//! The table of contents: every path the gateway answers, once.

use http::{Method, Uri};

/// An endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `GET /`: the landing page.
    Landing,
    /// `GET /healthz`: the process is alive.
    Healthz,
    /// `GET /readyz`: it can serve.
    Readyz,
    /// `GET /protocol`: the wire contract for client developers.
    Protocol,
    /// `/.well-known/oauth-authorization-server`, every method.
    Discovery,
    /// `POST /oauth/device_authorization`.
    DeviceAuthorization,
    /// `GET /device`: the page where a person confirms a user code.
    DevicePage,
    /// `POST /device`.
    DeviceVerify,
    /// `POST /device/deny`.
    DeviceDeny,
    /// `/oauth/callback`, every method.
    Callback,
    /// `POST /oauth/token`.
    Token,
    /// `POST /oauth/revoke`.
    Revoke,
    /// `/managed/settings`, every method.
    ManagedSettings,
    /// `GET /user/bootstrap`.
    UserBootstrap,
    /// `POST /v1/messages`.
    Messages,
    /// `POST /v1/messages/count_tokens`.
    CountTokens,
    /// `GET /v1/models`.
    Models,
    /// `GET /api/oauth/usage`: the caller's spending.
    Usage,
    /// The admin API, every method: what is not there is told in its own words.
    Organizations,
    /// `POST /v1/metrics`.
    Metrics,
    /// `POST /v1/logs`.
    Logs,
    /// `POST /v1/traces`.
    Traces,
}

/// `uri` without the dot segments of its path (RFC 3986 §5.2.4), as clients and proxies understand it (auth contract
/// §4.6); `None` if it has none.
pub fn without_dots(uri: &Uri) -> Option<Uri> {
    let is = |segment: &str, spellings: &[&str]| spellings.iter().any(|one| one.eq_ignore_ascii_case(segment));
    let is_dot = |segment: &str| is(segment, &[".", "%2e"]);
    let is_parent = |segment: &str| is(segment, &["..", ".%2e", "%2e.", "%2e%2e"]);
    let segments = || uri.path().split('/').skip(1);
    if !segments().any(|segment| is_dot(segment) || is_parent(segment)) {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in segments() {
        ends_open = is_dot(segment) || is_parent(segment);
        if is_parent(segment) {
            kept.pop();
        } else if !ends_open {
            kept.push(segment);
        }
    }
    if ends_open {
        kept.push("");
    }
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    Uri::try_from(format!("/{}{query}", kept.join("/"))).ok()
}

impl Route {
    /// Finds the endpoint. The path is compared exactly: case-sensitive, nothing decoded, no trailing slash forgiven
    /// (auth contract §4.6). Unlike the reference, `HEAD` is answered where `GET` is a probe or a page (§14).
    pub fn find(method: &Method, path: &str) -> Option<Self> {
        let get = method == Method::GET;
        let get_or_head = get || method == Method::HEAD;
        let post = method == Method::POST;
        Some(match path {
            "/" if get_or_head => Self::Landing,
            "/healthz" if get_or_head => Self::Healthz,
            "/readyz" if get_or_head => Self::Readyz,
            "/protocol" if get_or_head => Self::Protocol,
            "/.well-known/oauth-authorization-server" => Self::Discovery,
            "/oauth/device_authorization" if post => Self::DeviceAuthorization,
            "/device" if get_or_head => Self::DevicePage,
            "/device" if post => Self::DeviceVerify,
            "/device/deny" if post => Self::DeviceDeny,
            "/oauth/callback" => Self::Callback,
            "/oauth/token" if post => Self::Token,
            "/oauth/revoke" if post => Self::Revoke,
            "/managed/settings" => Self::ManagedSettings,
            "/user/bootstrap" if get => Self::UserBootstrap,
            "/v1/messages" if post => Self::Messages,
            "/v1/messages/count_tokens" if post => Self::CountTokens,
            "/v1/models" if get => Self::Models,
            "/api/oauth/usage" if get => Self::Usage,
            "/v1/organizations/analytics/cost"
            | "/v1/organizations/explain"
            | "/v1/organizations/spend_limits"
            | "/v1/organizations/spend_reservations"
            | "/v1/organizations/usage" => Self::Organizations,
            path if path.starts_with("/v1/organizations/spend_limits/") => Self::Organizations,
            "/v1/organizations/sessions" | "/v1/organizations/signing_keys/rotate" => Self::Organizations,
            path if path.starts_with("/v1/organizations/sessions/") => Self::Organizations,
            "/v1/organizations/users" | "/v1/organizations/audit_events" | "/v1/organizations/audit_events/export" => {
                Self::Organizations
            }
            "/v1/metrics" if post => Self::Metrics,
            "/v1/logs" if post => Self::Logs,
            "/v1/traces" if post => Self::Traces,
            _ => return None,
        })
    }

    /// Its path, as a label for metrics and traces: bounded, whatever clients send.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Landing => "/",
            Self::Healthz => "/healthz",
            Self::Readyz => "/readyz",
            Self::Protocol => "/protocol",
            Self::Discovery => "/.well-known/oauth-authorization-server",
            Self::DeviceAuthorization => "/oauth/device_authorization",
            Self::DevicePage | Self::DeviceVerify => "/device",
            Self::DeviceDeny => "/device/deny",
            Self::Callback => "/oauth/callback",
            Self::Token => "/oauth/token",
            Self::Revoke => "/oauth/revoke",
            Self::ManagedSettings => "/managed/settings",
            Self::UserBootstrap => "/user/bootstrap",
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
            Self::Models => "/v1/models",
            Self::Usage => "/api/oauth/usage",
            Self::Organizations => "/v1/organizations",
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
            Self::Traces => "/v1/traces",
        }
    }

    /// Whether it is a probe, which is answered before the size and allow-list checks (auth contract §4.2).
    pub const fn is_probe(self) -> bool {
        matches!(self, Self::Healthz | Self::Readyz)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_segments_are_resolved_and_nothing_else() {
        for (path, resolved) in [
            ("/x/../healthz", Some("/healthz")),
            ("/./healthz?a=/../b", Some("/healthz?a=/../b")),
            ("/a/b/../../healthz", Some("/healthz")),
            ("/%2e%2E/healthz", Some("/healthz")),
            ("/%2E/healthz", Some("/healthz")),
            ("/x/..", Some("/")),
            ("/v1/messages/.", Some("/v1/messages/")),
            ("/a/%2e./b", Some("/b")),
            ("/healthz", None),
            ("//healthz", None),
            ("/a/...", None),
            ("/a/..b/.c", None),
            ("/%252e/healthz", None),
            ("/healthz?x=/../", None),
        ] {
            let found = without_dots(&Uri::try_from(path).expect("a path"));
            assert_eq!(found.map(|uri| uri.to_string()).as_deref(), resolved, "{path}");
        }
    }
}
