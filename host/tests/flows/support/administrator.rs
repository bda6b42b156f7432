//! An administrator's script: a client of the admin API, written against its contract and nothing else.

use reqwest::Method;
use serde_json::Value;

use super::{Answer, Gateway};

/// A key of `write_keys`.
pub(crate) const ADMIN_KEY: &str = "admin-key-for-tests-only-0123456789abcdef";

/// Caps.
pub(crate) const LIMITS: &str = "/v1/organizations/spend_limits";

/// The section that turns metering on; lines of the same section may follow.
pub(crate) fn admin() -> String {
    format!("admin:\n  write_keys:\n    - {{id: ci, key: {ADMIN_KEY}}}\n")
}

impl Gateway {
    /// Asks as an administrator; the answer may be any.
    pub(crate) fn administer(&self, method: Method, path: &str, body: Option<&str>) -> Answer {
        let mut call = self.request(method, path).header("x-api-key", ADMIN_KEY);
        if let Some(body) = body {
            call = call.header("content-type", "application/json").body(body);
        }
        call.send()
    }

    /// Reads something as an administrator.
    #[track_caller]
    pub(crate) fn read(&self, path: &str) -> Value {
        self.administer(Method::GET, path, None).expect(200).json()
    }

    /// Sets a cap and returns it.
    #[track_caller]
    pub(crate) fn set_cap(&self, cap: &Value) -> Value {
        self.administer(Method::POST, LIMITS, Some(&cap.to_string())).expect(200).json()
    }
}
