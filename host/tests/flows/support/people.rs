//! What people and their programs do: a terminal that asks for a code, a browser that confirms it, polling, refreshing.

use reqwest::Url;
use reqwest::blocking::Client;
use reqwest::redirect::Policy;

use super::{Answer, Gateway, PATIENCE, eventually};

/// A started sign-in, as the terminal knows it.
pub(crate) struct Device {
    pub(crate) device_code: String,
    pub(crate) user_code: String,
}

impl Device {
    /// Starts a sign-in (RFC 8628 §3.1).
    pub(crate) fn authorize(gateway: &Gateway) -> Self {
        let answer = gateway.post("/oauth/device_authorization").form(&[("surface", "claude_code")]).send().expect(200);
        let text = |name: &str| answer.json()[name].as_str().expect("text").to_owned();
        let device = Self { device_code: text("device_code"), user_code: text("user_code") };
        gateway.transcript.unlogged(&device.device_code);
        gateway.transcript.unlogged(&device.user_code);
        device
    }
}

/// A browser in which one person is signed in at the identity provider. Keeps cookies.
pub(crate) struct Browser {
    client: Client,
    login: String,
}

impl Browser {
    pub(crate) fn of(login: &str) -> Self {
        let client = Client::builder().redirect(Policy::none()).cookie_store(true).timeout(PATIENCE).build();
        Self { client: client.expect("a client"), login: login.to_owned() }
    }

    /// Confirms a user code at `gateway` and returns where the browser is sent: the identity provider.
    pub(crate) fn confirm(&self, gateway: &Gateway, user_code: &str) -> Url {
        self.confirm_with(gateway, user_code, &[])
    }

    /// The same, with more fields of the form.
    pub(crate) fn confirm_with(&self, gateway: &Gateway, user_code: &str, more: &[(&str, &str)]) -> Url {
        let page =
            gateway.call(self.client.get(gateway.url(&format!("/device?user_code={user_code}")))).send().expect(200);
        assert!(page.text().contains(user_code), "the page shows the code: {}", page.text());
        let posted = gateway
            .call(self.client.post(gateway.url("/device")))
            .header("sec-fetch-site", "same-origin")
            .form(&[&[("user_code", user_code)], more].concat())
            .send()
            .expect(302);
        posted.header("location").parse().expect("a URL")
    }

    /// Signs in at the identity provider and returns where the browser is sent back to, without going there.
    pub(crate) fn authenticate(&self, start: Url) -> Url {
        let provider = start.origin();
        let mut url = start;
        for _ in 0..10 {
            let response = self.client.get(url.clone()).header("x-login", &self.login).send().expect("an answer");
            let status = response.status();
            let location = response.headers().get("location").map(|value| value.to_str().expect("text").to_owned());
            let Some(location) = location else {
                panic!("the identity provider answered {status}: {}", response.text().unwrap_or_default());
            };
            url = url.join(&location).expect("a URL");
            if url.origin() != provider {
                return url;
            }
        }
        panic!("redirected in circles")
    }

    /// Returns to the gateway and reads the page there.
    pub(crate) fn arrive(&self, gateway: &Gateway, url: Url) -> Answer {
        gateway.call(self.client.get(url)).send()
    }

    /// The whole of a browser's part.
    pub(crate) fn sign_in(&self, gateway: &Gateway, user_code: &str) -> Answer {
        let provider = self.confirm(gateway, user_code);
        let back = self.authenticate(provider);
        self.arrive(gateway, back)
    }
}

/// What a sign-in or a refresh gives.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
}

impl Tokens {
    #[track_caller]
    pub(crate) fn of(gateway: &Gateway, answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{}", answer.status_and_text());
        let body = answer.json();
        assert_eq!(body["token_type"], "Bearer");
        assert_eq!(body["expires_in"], 3600);
        let text = |name: &str| body[name].as_str().expect("text").to_owned();
        let tokens = Self { access: text("access_token"), refresh: text("refresh_token") };
        gateway.transcript.unlogged(&tokens.access);
        gateway.transcript.unlogged(&tokens.refresh);
        tokens
    }
}

/// Signs `login` in, from the code to the tokens.
#[track_caller]
pub(crate) fn sign_in(gateway: &Gateway, login: &str) -> Tokens {
    let device = Device::authorize(gateway);
    let page = Browser::of(login).sign_in(gateway, &device.user_code);
    assert_eq!(page.status, 200, "{}", page.status_and_text());
    Tokens::of(gateway, &poll(gateway, &device))
}

/// Polls once (RFC 8628 §3.4).
pub(crate) fn poll(gateway: &Gateway, device: &Device) -> Answer {
    gateway
        .post("/oauth/token")
        .form(&[("grant_type", "urn:ietf:params:oauth:grant-type:device_code"), ("device_code", &device.device_code)])
        .send()
}

/// Asks for new tokens (RFC 6749 §6).
pub(crate) fn refresh(gateway: &Gateway, refresh_token: &str) -> Answer {
    gateway.post("/oauth/token").form(&[("grant_type", "refresh_token"), ("refresh_token", refresh_token)]).send()
}

/// Waits until the store is back.
pub(crate) fn until_ready(gateway: &Gateway) {
    eventually("readiness", || (gateway.get("/readyz").send().status == 200).then_some(()));
}
