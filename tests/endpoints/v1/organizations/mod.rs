//! The admin API: who may use it, and its envelope.

mod analytics;
mod audit_events;
mod explain;
mod sessions;
mod signing_keys;
mod spend_limits;
mod spend_limits_bulk;
mod usage;
mod users;

use serde_json::{Value, json};

use crate::support::{CONFIG, RequestBuilder, TestGateway, get, post, request};

pub(crate) const WRITE_KEY: &str = "write-placeholder-write-placeholder-write";
pub(crate) const READ_KEY: &str = "read-placeholder-read-placeholder-read-";

/// A gateway with the admin API.
pub(crate) const ADMIN: &str = "
listen: {host: 127.0.0.1, public_url: 'https://gateway.example.test'}
oidc: {issuer: 'https://login.example.test', client_id: sallyport, client_secret: placeholder}
session: {jwt_secret: placeholder-placeholder-placeholder-placeholder-}
upstreams:
  - {name: a, provider: anthropic, base_url: 'https://upstream.example.test', auth: {api_key: upstream-credential}}
admin:
  write_keys: [{id: ci, key: write-placeholder-write-placeholder-write}]
  read_keys: [{id: report, key: read-placeholder-read-placeholder-read-}]
  admin_groups: [finops]
";

pub(crate) const LIMITS: &str = "/v1/organizations/spend_limits";

pub(crate) fn admin_get(path: &str) -> RequestBuilder {
    get(path).header("x-api-key", READ_KEY)
}

pub(crate) fn admin_post(body: &Value) -> RequestBuilder {
    post(LIMITS).header("x-api-key", WRITE_KEY).json(body)
}

fn anybody() -> Value {
    json!({"scope": {"type": "organization"}, "amount": "1"})
}

#[test]
fn a_key_alone_decides_and_a_session_needs_an_admin_group() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let (admin, developer) = (gateway.token(&["finops"]), gateway.token(&["eng"]));
    let bearer = |token: &str| format!("Bearer {token}");
    for (key, authorization, read, write, reason) in [
        (None, None, 401, 401, "no_credentials"),
        (Some("wrong"), None, 401, 401, "invalid_key"),
        (Some(""), None, 401, 401, "invalid_key"),
        (Some("wrong"), Some(bearer(&admin)), 401, 401, "invalid_key"),
        (None, Some(bearer(&developer)), 401, 401, "bearer_rejected"),
        (None, Some(bearer(WRITE_KEY)), 401, 401, "bearer_rejected"),
        (Some(READ_KEY), None, 200, 403, ""),
        (Some(READ_KEY), Some(bearer(&admin)), 200, 403, ""),
        (Some(WRITE_KEY), None, 200, 200, ""),
        (None, Some(bearer(&admin)), 200, 200, ""),
    ] {
        let with = |mut request: RequestBuilder| {
            if let Some(key) = key {
                request = request.header("x-api-key", key);
            }
            if let Some(authorization) = &authorization {
                request = request.header("authorization", authorization);
            }
            request
        };
        gateway.log.lines();
        let answer = gateway.send(with(get(LIMITS)));
        assert_eq!(answer.status.as_u16(), read, "{key:?} {authorization:?}");
        let id = answer.header("request-id").expect("an id").to_owned();
        assert!(id.len() == 36 && id.starts_with("req_"), "{id}");
        assert_eq!(answer.header("cache-control"), (read == 200).then_some("no-store"));
        if read == 401 {
            let message = "missing or invalid admin credentials";
            assert_eq!(
                answer.json(),
                json!({"type": "error", "error": {"type": "authentication_error", "message": message}, "request_id": id})
            );
            let audit = &gateway.log.audit()[0];
            assert_eq!(
                (&audit["evt"], &audit["reason"], &audit["method"], &audit["path"]),
                (&json!("admin.denied"), &json!(reason), &json!("GET"), &json!(LIMITS))
            );
        }
        let answer = gateway.send(with(post(LIMITS).body(anybody().to_string())));
        assert_eq!(answer.status.as_u16(), write, "{key:?} {authorization:?}");
        assert_eq!(answer.header("cache-control"), None);
        if write == 403 {
            assert_eq!(answer.json()["error"]["message"], "requires write:spend_limits");
        }
    }
}

#[test]
fn what_is_not_there_is_told_in_the_admin_apis_own_words() {
    let mut gateway = TestGateway::with_config(ADMIN);
    for (method, path, message) in [
        ("GET", "/v1/organizations/spend_limits/", "spend limit not found"),
        ("GET", "/v1/organizations/spend_limits/spl_x", "spend limit not found"),
        ("GET", "/v1/organizations/spend_limits/'%00\"", "spend limit not found"),
        ("DELETE", "/v1/organizations/spend_limits/spl_x", "spend limit not found"),
        ("GET", "/v1/organizations/spend_limits/a/b", "not found"),
        ("POST", "/v1/organizations/spend_limits/spl_x", "not found"),
        ("PATCH", "/v1/organizations/spend_limits", "not found"),
        ("OPTIONS", "/v1/organizations/spend_limits", "not found"),
        ("POST", "/v1/organizations/analytics/cost", "not found"),
    ] {
        let asked = request(method.parse().expect("a method"), path).header("x-api-key", WRITE_KEY);
        let answer = gateway.send(asked);
        assert_eq!(answer.status, 404, "{method} {path}");
        let error = &answer.json()["error"];
        assert_eq!((&error["type"], &error["message"]), (&json!("not_found_error"), &json!(message)), "{path}");
    }
    let mut without = TestGateway::with_config(CONFIG);
    let answer = without.send(admin_get(LIMITS));
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (401, &json!("invalid token")));
    gateway.db.is_down.set(true);
    let answer = gateway.send(admin_get(LIMITS));
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (500, &json!("internal server error")));
}
