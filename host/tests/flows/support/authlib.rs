//! A second `OpenID` implementation: `PyPI` `oidc-provider-mock`, which is made of Authlib. Unlike the first, it answers a
//! refresh without an id token and without a new refresh token, and forgets `state` when a person says no.

use std::process::{Child, Command, Stdio};

use reqwest::Url;
use serde_json::{Value, json};

use super::http::plain_client;
use super::programs::{lacks, python};
use super::{Site, eventually, free_port, person};

/// A running provider that knows `ada` and `eve`, as the other one does. Ends on drop.
pub(crate) struct Authlib {
    pub(crate) issuer: String,
    process: Child,
}

impl Authlib {
    /// Starts a provider and points the site at it. `None` (and says so) on a machine without Python.
    pub(crate) fn start(site: &mut Site) -> Option<Self> {
        if lacks(&["python3"]) {
            return None;
        }
        let port = free_port();
        let process = Command::new(python())
            .args(["-m", "oidc_provider_mock", "--require-nonce", "--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python");
        let provider = Self { issuer: format!("http://127.0.0.1:{port}"), process };
        let discovery = format!("{}/.well-known/openid-configuration", provider.issuer);
        eventually("the identity provider", || plain_client().get(&discovery).send().ok());
        provider.change("ada", &person("ada@example.com", true, &["engineering"]));
        provider.change("eve", &person("eve@example.net", true, &["engineering"]));
        site.issuer.clone_from(&provider.issuer);
        Some(provider)
    }

    /// Replaces the claims of a person.
    pub(crate) fn change(&self, login: &str, claims: &Value) {
        let response = plain_client().put(format!("{}/users/{login}", self.issuer)).json(claims).send();
        assert_eq!(response.expect("an answer").status().as_u16(), 204);
    }

    /// Ends everything that a person has.
    pub(crate) fn revoke(&self, login: &str) {
        let response =
            plain_client().post(format!("{}/users/{login}/revoke-tokens", self.issuer)).json(&json!({})).send();
        assert_eq!(response.expect("an answer").status().as_u16(), 204);
    }

    /// What a browser does there: sends the form with this field, and is sent back.
    pub(crate) fn authenticate(start: Url, field: (&str, &str)) -> Url {
        let response = plain_client().post(start).form(&[field]).send().expect("an answer");
        let location = response.headers().get("location").map(|value| value.to_str().expect("text").to_owned());
        let Some(location) = location else {
            panic!("the provider answered {}: {}", response.status(), response.text().unwrap_or_default());
        };
        location.parse().expect("a URL")
    }
}

impl Drop for Authlib {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
