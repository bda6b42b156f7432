//! The sign-in endpoints behind stand-ins for the world: every row of auth contract §5, §6 and §12.

use std::net::IpAddr;
use std::time::Duration;

use futures_executor::block_on;
use http::{Method, header};
use serde_json::{Value, json};

use crate::config::{Config, RateLimit, Secret};
use crate::domain::ids::Timestamp;
use crate::endpoints::dispatch;
use crate::exchange::{Body, Request};
use crate::gateway::Context;
use crate::routes::Route;
use crate::testing::{self, Mood, World, body_of};
use crate::wire::form::Form;

const ORIGIN: &str = "https://gw.example.test";
const REQUEST_ID: &str = "0a1b2c3d-0000-4000-8000-000000000000";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const OURS: (&str, &str) = ("origin", ORIGIN);

/// An answer, read whole.
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: impl header::AsHeaderName) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    fn error(&self) -> (u16, String) {
        (self.status, self.json()["error"].as_str().expect("an OAuth error").to_owned())
    }
}

impl World {
    fn new() -> Self {
        Self::of(testing::config())
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = testing::config();
        change(&mut config);
        Self::of(config)
    }

    fn send(&self, method: Method, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.send_from([192, 0, 2, 1], method, target, headers, body)
    }

    fn send_from(&self, ip: [u8; 4], method: Method, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let context = Context {
            request_id: REQUEST_ID.to_owned(),
            client_ip: IpAddr::from(ip),
            origin: ORIGIN.to_owned(),
            trace: None,
        };
        let uri: http::Uri = target.parse().expect("a target");
        let route = Route::find(&method, uri.path());
        let mut map = http::HeaderMap::new();
        for (name, value) in headers {
            map.append(http::HeaderName::try_from(*name).expect("a name"), value.parse().expect("a value"));
        }
        let body = body_of(body.to_owned());
        let request = Request { method, uri, scheme: "https", headers: map, peer: None, body, control: None };
        let response = block_on(dispatch(&self.gateway, &context, route, request))
            .unwrap_or_else(|failure| failure.render(&context.request_id));
        let (parts, body) = response.into_parts();
        let Body::Full(body) = body else { panic!("sign-in streams nothing") };
        let body = String::from_utf8(body.to_vec()).expect("text");
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// A device asks: device code and user code.
    fn device(&self) -> (String, String) {
        let answer = self.send(Method::POST, "/oauth/device_authorization", &[], "");
        assert_eq!(answer.status, 200);
        let body = answer.json();
        (
            body["device_code"].as_str().expect("a code").to_owned(),
            body["user_code"].as_str().expect("a code").to_owned(),
        )
    }

    fn verify(&self, user_code: &str) -> Answer {
        self.send(Method::POST, "/device", &[OURS, FORM], &format!("user_code={user_code}"))
    }

    /// A person confirms the code and comes back from the identity provider: the callback's target and the cookie.
    fn leave(&self, user_code: &str) -> (String, String) {
        let answer = self.verify(user_code);
        assert_eq!(answer.status, 302, "{}", answer.body);
        let location = answer.header(header::LOCATION);
        let query = Form::urlencoded(location.split_once('?').expect("a query").1.as_bytes());
        self.idp.nonce.replace(query.first("nonce").expect("a nonce").to_owned());
        let cookie = answer.header(header::SET_COOKIE).split(';').next().expect("a cookie").to_owned();
        (format!("/oauth/callback?code=c&state={}", query.first("state").expect("a state")), cookie)
    }

    fn come_back(&self, callback: &str, cookie: &str) -> Answer {
        self.send(Method::GET, callback, &[("cookie", cookie)], "")
    }

    fn approve(&self, user_code: &str) -> Answer {
        let (callback, cookie) = self.leave(user_code);
        self.come_back(&callback, &cookie)
    }

    fn poll(&self, device_code: &str) -> Answer {
        let body = format!("grant_type=urn:ietf:params:oauth:grant-type:device_code&device_code={device_code}");
        self.send(Method::POST, "/oauth/token", &[FORM], &body)
    }

    fn refresh(&self, refresh_token: &str) -> Answer {
        let body = format!("grant_type=refresh_token&refresh_token={refresh_token}");
        self.send(Method::POST, "/oauth/token", &[FORM], &body)
    }

    /// A whole sign-in: the token response.
    fn sign_in(&self) -> Value {
        let (device_code, user_code) = self.device();
        assert_eq!(self.approve(&user_code).status, 200);
        let answer = self.poll(&device_code);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    fn results(&self, event: &str) -> Vec<String> {
        self.audited(event).iter().map(|event| event["result"].as_str().expect("a result").to_owned()).collect()
    }

    fn session(&self, token: &Value) -> crate::domain::session::Session {
        let verdict = block_on(self.gateway.verify(token.as_str().expect("a token"), ORIGIN));
        verdict.unwrap_or_else(|_| panic!("no keys")).expect("valid")
    }
}

fn assert_is_page(answer: &Answer, form_action: &str) {
    assert_eq!(answer.header(header::CONTENT_TYPE), "text/html; charset=utf-8");
    assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
    assert_eq!(answer.header(header::PRAGMA), "no-cache");
    let policy = answer.header(header::CONTENT_SECURITY_POLICY);
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    let rest = format!("; frame-ancestors 'none'; form-action {form_action}; base-uri 'none'");
    assert!(policy.ends_with(&rest), "{policy}");
}

#[test]
fn discovery_has_the_contracts_keys_and_says_where_to_revoke() {
    let answer = World::new().send(Method::PUT, "/.well-known/oauth-authorization-server", &[], "");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header(header::CONTENT_TYPE), "application/json;charset=utf-8");
    assert_eq!(
        answer.json(),
        json!({
            "issuer": "https://gw.example.test",
            "device_authorization_endpoint": "https://gw.example.test/oauth/device_authorization",
            "token_endpoint": "https://gw.example.test/oauth/token",
            "revocation_endpoint": "https://gw.example.test/oauth/revoke",
            "grant_types_supported": ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
            "scopes_supported": ["openid", "profile", "email"],
            "gateway_protocol_version": 1,
        })
    );
}

#[test]
fn discovery_lists_the_grants_of_programs_where_there_are_some() {
    let world = World::with(|config| config.service_identities = vec![testing::service_identity()]);
    let answer = world.send(Method::GET, "/.well-known/oauth-authorization-server", &[], "");
    assert_eq!(
        answer.json()["grant_types_supported"],
        json!([
            "urn:ietf:params:oauth:grant-type:device_code",
            "refresh_token",
            "urn:ietf:params:oauth:grant-type:token-exchange",
            "urn:ietf:params:oauth:grant-type:jwt-bearer",
        ])
    );
}

#[test]
fn the_landing_page_names_gateway_and_provider() {
    let answer = World::new().send(Method::GET, "/", &[], "");
    assert_eq!(answer.status, 200);
    assert_is_page(&answer, "'none'");
    for text in ["https://gw.example.test", "idp.example.test", "/.well-known/oauth-authorization-server"] {
        assert!(answer.body.contains(text), "{text}");
    }
}

mod device_authorization {
    use super::*;

    #[test]
    fn any_body_is_answered_alike() {
        let world = World::with(|config| config.login_notice = Some("Staff only".to_owned()));
        for (content_type, body) in [("", ""), ("application/json", "{}"), ("text/plain", "zzz"), (FORM.1, "a=b")] {
            let answer =
                world.send(Method::POST, "/oauth/device_authorization", &[("content-type", content_type)], body);
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
            assert_eq!(answer.header(header::PRAGMA), "no-cache");
            let body = answer.json();
            let user_code = body["user_code"].as_str().expect("a code");
            assert_eq!(body["device_code"].as_str().expect("a code").len(), 43);
            assert_eq!(body["verification_uri"], "https://gw.example.test/device");
            assert_eq!(
                body["verification_uri_complete"],
                format!("https://gw.example.test/device?user_code={user_code}")
            );
            assert_eq!((&body["expires_in"], &body["interval"]), (&json!(600), &json!(5)));
            assert_eq!(body["login_notice"], "Staff only");
        }
        assert_eq!(world.results("device.authorize"), ["success"; 4]);
    }

    #[test]
    fn too_many_requests_are_refused_with_the_time_to_wait_and_one_warning() {
        let limit = RateLimit { max: 2, window: Duration::from_mins(1) };
        let world = World::with(|config| config.rate_limits.device_authorization = limit);
        world.device();
        world.wait(Duration::from_millis(500));
        world.device();
        for _ in 0..3 {
            let answer = world.send(Method::POST, "/oauth/device_authorization", &[], "");
            assert_eq!(answer.error(), (429, "slow_down".to_owned()));
            assert_eq!(answer.header(header::RETRY_AFTER), "60");
        }
        let warnings = world.log.0.borrow().iter().filter(|line| line.contains(" warn ")).count();
        assert_eq!(warnings, 1);
        assert_eq!(
            world.results("device.authorize"),
            ["success", "success", "rate_limited", "rate_limited", "rate_limited"]
        );
        let other = world.send_from([192, 0, 2, 2], Method::POST, "/oauth/device_authorization", &[], "");
        assert_eq!(other.status, 200);
        world.wait(Duration::from_mins(1));
        world.device();
    }

    #[test]
    fn a_sweep_is_left_behind_from_time_to_time() {
        let world = World::new();
        world.device();
        world.device();
        assert_eq!(world.tasks.0.borrow().len(), 1);
        world.wait(Duration::from_secs(700));
        world.device();
        for task in world.tasks.0.take() {
            block_on(task);
        }
        let rows = block_on(world.gateway.ports.db.run("SELECT COUNT(*) FROM device_grants", &[])).expect("it runs");
        assert_eq!(rows[0][0], crate::ports::Value::Integer(1));
    }

    #[test]
    fn no_code_is_stored_in_the_clear() {
        let world = World::new();
        let (device_code, user_code) = world.device();
        world.approve(&user_code);
        let rows = block_on(world.gateway.ports.db.run("SELECT * FROM device_grants", &[])).expect("it runs");
        let rows = format!("{rows:?}");
        for secret in [device_code.as_str(), "eyJ", "spr1.", "spr2.", "alice", "192.0.2.1"] {
            assert!(!rows.contains(secret), "{secret} in {rows}");
        }
    }
}

mod device_page {
    use super::*;

    #[test]
    fn the_form_is_shown_without_a_code_and_while_the_database_is_down() {
        let world = World::with(|config| config.oidc[0].form_action_origins = vec!["https://*.example.com".to_owned()]);
        world.db_is_down.set(true);
        for target in ["/device", "/device?user_code=", "/device?x=y"] {
            let answer = world.send(Method::GET, target, &[], "");
            assert_eq!(answer.status, 200);
            assert_is_page(&answer, "'self' https://idp.example.test https://*.example.com");
            assert!(answer.body.contains(r#"<form method="post" action="/device">"#));
            assert!(answer.body.contains(r#"name="user_code""#));
        }
        // The document is fetched once.
        assert_eq!(world.idp.count("/.well-known/openid-configuration"), 1);
    }

    #[test]
    fn a_given_code_is_shown_as_it_is_and_escaped_and_never_submitted_by_itself() {
        let world = World::with(|config| config.login_notice = Some("<b>Staff</b>".to_owned()));
        let answer =
            world.send(Method::GET, "/device?user_code=%22%3E%3Cscript%3Ealert(1)%3C/script%3E%00%FF", &[], "");
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("<script") && !answer.body.contains("<b>"));
        assert!(answer.body.contains("&lt;script&gt;"));
        assert!(answer.body.contains(r#"formaction="/device/deny""#));
        assert!(answer.body.contains("gw.example.test"));
    }

    #[test]
    fn it_shows_while_the_provider_is_away() {
        let world = World::new();
        world.idp.mood.set(Mood::Down);
        let answer = world.send(Method::GET, "/device", &[], "");
        assert_eq!(answer.status, 200);
        assert_is_page(&answer, "'self'");
    }
}

mod device_verify {
    use super::*;

    #[test]
    fn a_known_code_leads_to_the_provider_with_a_mark_on_the_browser() {
        let world = World::new();
        let (_, user_code) = world.device();
        let answer = world.verify(&user_code.to_lowercase().replace('-', "%20"));
        assert_eq!(answer.status, 302);
        let location = answer.header(header::LOCATION);
        assert!(location.starts_with("https://idp.example.test/authorize?client_id=gateway&scope=openid%20profile"));
        let cookie = answer.header(header::SET_COOKIE);
        assert!(cookie.starts_with("__Host-gw_dev="), "{cookie}");
        assert!(cookie.ends_with("; Max-Age=600; HttpOnly; SameSite=Lax; Path=/; Secure"), "{cookie}");
        assert_eq!(cookie.split(['=', ';']).nth(1).map(str::len), Some(43));
        assert_eq!(world.results("device.verify"), ["redirect"]);
        // It may be posted again while it waits.
        assert_eq!(world.verify(&user_code).status, 302);
    }

    #[test]
    fn posts_from_elsewhere_are_blocked_and_not_counted() {
        let limit = RateLimit { max: 1, window: Duration::from_mins(1) };
        let world = World::with(|config| config.rate_limits.device_verify = limit);
        let (_, user_code) = world.device();
        for headers in [
            vec![("sec-fetch-site", "cross-site"), OURS, FORM],
            vec![("sec-fetch-site", "same-site"), OURS, FORM],
            vec![("origin", "http://evil.test"), FORM],
            vec![("origin", "null"), FORM],
            vec![("referer", "https://gw.example.test/device"), FORM],
        ] {
            for target in ["/device", "/device/deny"] {
                let answer = world.send(Method::POST, target, &headers, &format!("user_code={user_code}"));
                assert_eq!(answer.status, 403, "{headers:?}");
                assert_is_page(&answer, "'self' https://idp.example.test");
                assert!(answer.body.contains("another site") && answer.body.contains("0a1b2c3d"));
            }
        }
        assert_eq!(world.results("device.verify"), ["csrf_rejected"; 10]);
        let answer =
            world.send(Method::POST, "/device", &[("sec-fetch-site", "none"), FORM], &format!("user_code={user_code}"));
        assert_eq!(answer.status, 302);
    }

    #[test]
    fn a_code_that_is_not_known_shows_the_form_again() {
        let world = World::with(|config| config.rate_limits.device_verify.max = 100);
        let (_, user_code) = world.device();
        let form = |code: &str| (FORM.1, format!("user_code={code}"));
        for (content_type, body) in [
            form(&format!("{user_code}B")),
            form(&user_code[1..]),
            form(&format!("1{user_code}")),
            form("BBBB-BBBB"),
            form(""),
            form("%00%FF%F0%9F%98%80"),
            (FORM.1, String::new()),
            ("application/json", json!({"user_code": user_code}).to_string()),
            ("", format!("user_code={user_code}")),
            ("multipart/form-data; boundary=b", format!("user_code={user_code}")),
        ] {
            let answer =
                world.send(Method::POST, "/device?user_code=BBBBBBBB", &[OURS, ("content-type", content_type)], &body);
            assert_eq!(answer.status, 404, "{content_type} {body}");
            assert_is_page(&answer, "'self' https://idp.example.test");
            assert!(answer.body.contains("role=\"alert\"") && answer.body.contains("0a1b2c3d"));
        }
        assert_eq!(world.results("device.verify"), ["unknown_code"; 10]);
    }

    #[test]
    fn a_multipart_form_is_read() {
        let world = World::new();
        let (_, user_code) = world.device();
        let body =
            format!("--zz\r\ncontent-disposition: form-data; name=\"user_code\"\r\n\r\n{user_code}\r\n--zz--\r\n");
        let headers = [OURS, ("content-type", "multipart/form-data; boundary=zz")];
        assert_eq!(world.send(Method::POST, "/device", &headers, &body).status, 302);
    }

    #[test]
    fn valid_and_invalid_codes_count_against_one_limit() {
        let limit = RateLimit { max: 2, window: Duration::from_secs(90) };
        let world = World::with(|config| config.rate_limits.device_verify = limit);
        let (_, user_code) = world.device();
        assert_eq!(world.verify("BBBB-BBBB").status, 404);
        assert_eq!(world.verify("BBBB-BBBC").status, 404);
        let denial = world.send(Method::POST, "/device/deny", &[OURS, FORM], "user_code=BBBBBBBD");
        let answer = world.verify(&user_code);
        for answer in [denial, answer] {
            assert_eq!(answer.status, 429);
            assert_eq!(answer.header(header::RETRY_AFTER), "90");
            assert!(answer.body.contains("2 minutes"));
        }
        assert_eq!(world.results("device.verify"), ["unknown_code", "unknown_code", "rate_limited", "rate_limited"]);
        world.wait(Duration::from_secs(90));
        assert_eq!(world.verify(&user_code).status, 302);
    }

    #[test]
    fn a_provider_that_is_away_is_said_to_be_away() {
        for mood in [Mood::Down, Mood::Slow, Mood::Broken] {
            let world = World::new();
            let (device_code, user_code) = world.device();
            world.idp.mood.set(mood);
            let answer = world.verify(&user_code);
            assert_eq!(answer.status, 503, "{mood:?}");
            assert!(answer.body.contains("0a1b2c3d"));
            assert_eq!(world.results("device.verify"), ["idp_unavailable"]);
            // Nothing is lost: the person may try again.
            assert_eq!(world.poll(&device_code).error().1, "authorization_pending");
            world.idp.mood.set(Mood::Well);
            assert_eq!(world.verify(&user_code).status, 302);
        }
    }

    #[test]
    fn a_known_document_goes_on_serving_while_the_provider_is_away() {
        let world = World::new();
        world.device();
        world.send(Method::GET, "/device", &[], "");
        world.wait(Duration::from_hours(1));
        world.idp.mood.set(Mood::Down);
        let (_, user_code) = world.device();
        assert_eq!(world.verify(&user_code).status, 302);
        // It is asked again after a while, not with every page.
        assert_eq!(world.verify(&user_code).status, 302);
        assert_eq!(world.idp.count("/.well-known/openid-configuration"), 2);
        world.wait(Duration::from_secs(30));
        world.idp.mood.set(Mood::Well);
        assert_eq!(world.verify(&user_code).status, 302);
        assert_eq!(world.idp.count("/.well-known/openid-configuration"), 3);
        // Another instance finds it in the key-value store.
        assert!(world.key_value.0.borrow().keys().any(|key| key.starts_with("idp/")));
    }
}

mod deny {
    use super::*;

    #[test]
    fn a_waiting_sign_in_is_stopped() {
        let world = World::new();
        let (device_code, user_code) = world.device();
        let (callback, cookie) = world.leave(&user_code);
        let body = format!("user_code={user_code}");
        let answer = world.send_from([192, 0, 2, 9], Method::POST, "/device/deny", &[OURS, FORM], &body);
        assert_eq!(answer.status, 200);
        assert_is_page(&answer, "'self'");
        let event = world.audited("device.deny").pop().expect("audited");
        assert_eq!(event["result"], "denied");
        assert_eq!(event["client_ip"], "192.0.2.9");
        assert_eq!(event["requested_from"], "192.0.2.1");
        assert_eq!(event["requested_at"], Timestamp::from_secs(1_900_000_000).to_rfc3339());
        assert_eq!(world.come_back(&callback, &cookie).status, 400);
        assert_eq!(world.poll(&device_code).error(), (400, "access_denied".to_owned()));
        assert_eq!(world.poll(&device_code).error(), (400, "expired_token".to_owned()));
    }

    #[test]
    fn what_does_not_wait_cannot_be_stopped() {
        let world = World::new();
        let (device_code, user_code) = world.device();
        world.approve(&user_code);
        world.log.0.borrow_mut().clear();
        for code in [user_code.as_str(), "BBBB-BBBB", ""] {
            let answer = world.send(Method::POST, "/device/deny", &[OURS, FORM], &format!("user_code={code}"));
            assert_eq!(answer.status, 404, "{code}");
        }
        assert_eq!(world.results("device.verify"), ["unknown_code"; 3]);
        assert_eq!(world.poll(&device_code).status, 200);
    }
}

mod callback {
    use super::*;

    type Change = Box<dyn Fn(&World)>;

    #[test]
    fn success_takes_the_mark_off_and_is_audited() {
        let world = World::new();
        let (_, user_code) = world.device();
        let answer = world.approve(&user_code);
        assert_eq!(answer.status, 200);
        assert_is_page(&answer, "'self'");
        assert!(answer.body.contains("alice@example.com"));
        assert_eq!(
            answer.header(header::SET_COOKIE),
            "__Host-gw_dev=; Max-Age=0; HttpOnly; SameSite=Lax; Path=/; Secure"
        );
        let event = world.audited("session.mint").pop().expect("audited");
        assert_eq!(event["request_id"], REQUEST_ID);
        assert_eq!(event["result"], "success");
        assert_eq!(event["sub"], "alice");
        assert_eq!(event["email"], "alice@example.com");
        assert_eq!(event["client_ip"], "192.0.2.1");
        assert_eq!(event["ttl_hours"], 1);
        let form = world.idp.last_form("/token");
        assert_eq!(form.first("grant_type"), Some("authorization_code"));
        assert_eq!(form.first("redirect_uri"), Some("https://gw.example.test/oauth/callback"));
        assert_eq!(form.first("code_verifier").map(str::len), Some(43));
    }

    #[test]
    fn every_failure_before_the_exchange_leaves_the_grant_waiting() {
        let world = World::new();
        let (device_code, user_code) = world.device();
        let (callback, cookie) = world.leave(&user_code);
        let state = callback.split_once("state=").expect("a state").1;
        for (target, cookie, status, result) in [
            ("/oauth/callback".to_owned(), cookie.as_str(), 400, "invalid_state"),
            (format!("/oauth/callback?state={state}"), cookie.as_str(), 400, "invalid_state"),
            ("/oauth/callback?code=c".to_owned(), cookie.as_str(), 400, "invalid_state"),
            (
                format!("/oauth/callback?code=c&state={}AAAA", &state[..state.len() - 4]),
                cookie.as_str(),
                400,
                "invalid_state",
            ),
            ("/oauth/callback?code=c&state=%00%FF".to_owned(), cookie.as_str(), 400, "invalid_state"),
            (format!("{callback}&error=access_denied&error_description=%3Cb%3Eno"), cookie.as_str(), 400, "idp_error"),
            (callback.clone(), "", 400, "browser_mismatch"),
            (callback.clone(), "__Host-gw_dev=AAAA", 400, "browser_mismatch"),
        ] {
            let answer = world.come_back(&target, cookie);
            assert_eq!(answer.status, status, "{target}");
            assert_is_page(&answer, "'self'");
            assert!(answer.body.contains("0a1b2c3d") && !answer.body.contains("<b>"), "{target}");
            assert_eq!(world.results("device.callback"), [result], "{target}");
        }
        world.wait(Duration::from_secs(5));
        assert_eq!(world.poll(&device_code).error().1, "authorization_pending");
        assert_eq!(world.come_back(&callback, &cookie).status, 200);
        assert_eq!(world.idp.count("/token"), 1);
    }

    #[test]
    fn the_first_of_two_browser_legs_decides_and_a_code_works_once() {
        let world = World::new();
        let (device_code, user_code) = world.device();
        let (second, second_cookie) = world.leave(&user_code);
        let (first, first_cookie) = world.leave(&user_code);
        assert_eq!(world.come_back(&first, &second_cookie).status, 400);
        assert_eq!(world.come_back(&first, &first_cookie).status, 200);
        world.log.0.borrow_mut().clear();
        assert_eq!(world.come_back(&first, &first_cookie).status, 400);
        assert_eq!(world.come_back(&second, &second_cookie).status, 400);
        assert_eq!(world.results("device.callback"), ["not_waiting"; 2]);
        assert_eq!(world.poll(&device_code).status, 200);
    }

    #[test]
    fn state_ends_after_ten_minutes_whatever_the_grant_does() {
        let world = World::new();
        let (_, user_code) = world.device();
        let (callback, cookie) = world.leave(&user_code);
        world.wait(Duration::from_mins(10));
        assert_eq!(world.come_back(&callback, &cookie).status, 400);
        assert_eq!(world.results("device.callback"), ["invalid_state"]);
    }

    #[test]
    fn a_refused_exchange_fails_the_grant_and_tells_only_the_operator_why() {
        let changed =
            |name: &'static str, value: Value| move |world: &World| world.idp.claims.borrow_mut()[name] = value;
        let claims = |name: &'static str, value: Value| -> Change {
            Box::new(move |world: &World| changed(name, value.clone())(world))
        };
        let refusal = |status: u16, body: &'static str| -> Change {
            Box::new(move |world: &World| drop(world.idp.refusal.replace(Some((status, body.to_owned())))))
        };
        let mood = |mood: Mood| -> Change { Box::new(move |world: &World| world.idp.mood.set(mood)) };
        for (change, status, err) in [
            (claims("email", json!("a@evil.test")), 403, "email domain not allowed"),
            (claims("groups", json!(["ops"])), 403, "user is not a member of an allowed group"),
            (claims("email_verified", json!("false")), 403, "id_token email is not verified"),
            (claims("iss", json!("https://other.test")), 403, "id_token issuer does not match"),
            (claims("aud", json!("other")), 403, "id_token audience does not match"),
            (claims("exp", json!(1)), 403, "id_token has expired"),
            (
                Box::new(|world: &World| drop(world.idp.nonce.replace("other".to_owned()))),
                403,
                "id_token nonce does not match",
            ),
            (refusal(400, r#"{"error":"invalid_grant","error_description":"used"}"#), 403, "invalid_grant (used)"),
            (refusal(200, r#"{"access_token":"a"}"#), 403, "the token response has no id_token"),
            (refusal(401, r#"{"error":"invalid_client"}"#), 400, "invalid_client"),
            (mood(Mood::Down), 400, "https://idp.example.test/token: cannot connect: refused"),
            (mood(Mood::Slow), 400, "https://idp.example.test/token did not answer within 3.5 s"),
        ] {
            let world = World::with(|config| {
                config.oidc[0].allowed_email_domains = vec!["example.com".to_owned()];
                config.oidc[0].allowed_groups = vec!["eng".to_owned()];
            });
            let (device_code, user_code) = world.device();
            let (callback, cookie) = world.leave(&user_code);
            change(&world);
            let answer = world.come_back(&callback, &cookie);
            assert_eq!(answer.status, status, "{err}");
            assert!(!answer.body.contains(err) && answer.body.contains("0a1b2c3d"), "{err}");
            let event = world.audited("session.mint").pop().expect("audited");
            assert_eq!((&event["result"], &event["err"]), (&json!("fail"), &json!(err)));
            assert_eq!(world.poll(&device_code).error().1, "access_denied", "{err}");
            assert_eq!(world.poll(&device_code).error().1, "expired_token", "{err}");
        }
    }

    #[test]
    fn the_issuer_in_the_callback_must_be_the_discovered_one() {
        for (issuer, status) in [("https%3A%2F%2Fidp.example.test", 200), ("https%3A%2F%2Fother.test", 403)] {
            let world = World::new();
            let (_, user_code) = world.device();
            let (callback, cookie) = world.leave(&user_code);
            assert_eq!(world.come_back(&format!("{callback}&iss={issuer}"), &cookie).status, status);
        }
    }

    #[test]
    fn userinfo_is_asked_when_email_or_groups_are_missing_and_the_configuration_wants_it() {
        for (fallback, claims, calls) in [
            (true, json!({"sub": "alice", "email": "e", "groups": []}), 0),
            (true, json!({"sub": "alice", "email": "e"}), 1),
            (false, json!({"sub": "alice"}), 0),
        ] {
            let world = World::with(|config| config.oidc[0].userinfo_fallback = fallback);
            world.idp.userinfo.replace(Some(json!({"sub": "alice", "groups": ["from-userinfo"]})));
            world.idp.claims.replace(claims);
            let tokens = world.sign_in();
            assert_eq!(world.idp.count("/userinfo"), calls);
            let groups: &[&str] = if calls == 1 { &["from-userinfo"] } else { &[] };
            assert_eq!(world.session(&tokens["access_token"]).groups(), groups);
        }
        let world = World::with(|config| config.oidc[0].userinfo_fallback = true);
        world.idp.claims.replace(json!({"sub": "alice"}));
        world.idp.userinfo.replace(Some(json!({"sub": "bob"})));
        let (device_code, user_code) = world.device();
        assert_eq!(world.approve(&user_code).status, 403);
        assert_eq!(world.poll(&device_code).error().1, "access_denied");
    }

    #[test]
    fn a_new_signing_key_is_fetched_once_and_not_more_often_than_once_a_minute() {
        let world = World::new();
        world.sign_in();
        assert_eq!(world.idp.count("/jwks"), 1);
        world.sign_in();
        assert_eq!(world.idp.count("/jwks"), 1);
        world.idp.key.set(2);
        world.wait(Duration::from_secs(10));
        let (_, user_code) = world.device();
        assert_eq!(world.approve(&user_code).status, 400);
        assert_eq!(world.idp.count("/jwks"), 1);
        world.wait(Duration::from_mins(1));
        world.sign_in();
        assert_eq!(world.idp.count("/jwks"), 2);
    }

    #[test]
    fn without_pkce_no_verifier_is_sent() {
        let world = World::with(|config| config.oidc[0].use_pkce = false);
        world.sign_in();
        assert_eq!(world.idp.last_form("/token").first("code_verifier"), None);
    }
}

mod token {
    use super::*;

    #[test]
    fn what_is_no_token_request_is_refused() {
        let world = World::new();
        let grant = "grant_type=urn:ietf:params:oauth:grant-type:device_code";
        for (content_type, body, error) in [
            ("application/json", "{}".to_owned(), "invalid_request"),
            ("", "grant_type=refresh_token".to_owned(), "invalid_request"),
            (FORM.1, String::new(), "unsupported_grant_type"),
            (FORM.1, "grant_type=password".to_owned(), "unsupported_grant_type"),
            (FORM.1, "grant_type=Refresh_Token".to_owned(), "unsupported_grant_type"),
            (
                FORM.1,
                "grant_type=password&grant_type=refresh_token&refresh_token=x".to_owned(),
                "unsupported_grant_type",
            ),
            (FORM.1, grant.to_owned(), "invalid_request"),
            (FORM.1, format!("{grant}&device_code="), "invalid_request"),
            (FORM.1, format!("{grant}&device_code=unknown"), "expired_token"),
            (FORM.1, format!("{grant}&device_code=%00%FF"), "expired_token"),
            (FORM.1, "grant_type=refresh_token".to_owned(), "invalid_request"),
            (FORM.1, "grant_type=refresh_token&refresh_token=".to_owned(), "invalid_request"),
        ] {
            let answer = world.send(Method::POST, "/oauth/token", &[("content-type", content_type)], &body);
            assert_eq!(answer.error(), (400, error.to_owned()), "{body}");
            assert!(!answer.json()["error_description"].as_str().expect("a description").is_empty());
            assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
        }
    }

    #[test]
    fn a_body_that_is_too_large_is_not_read() {
        let world = World::with(|config| config.limits.max_request_bytes = 1000);
        for (size, status) in [(1000, 400), (1001, 413)] {
            for target in ["/oauth/token", "/device"] {
                let answer = world.send(Method::POST, target, &[OURS, FORM], &"x".repeat(size));
                let status = if (target, status) == ("/device", 400) { 404 } else { status };
                assert_eq!(answer.status, status, "{target} {size}");
            }
        }
        let world = World::new();
        assert_eq!(world.send(Method::POST, "/oauth/token", &[FORM], &"x".repeat(256 * 1024 + 1)).status, 413);
    }

    #[test]
    fn an_approved_grant_gives_tokens_once() {
        let world = World::new();
        let (device_code, user_code) = world.device();
        assert_eq!(world.poll(&device_code).error(), (400, "authorization_pending".to_owned()));
        let early = world.poll(&device_code);
        assert_eq!(early.error(), (429, "slow_down".to_owned()));
        assert_eq!(early.header(header::RETRY_AFTER), "5");
        world.approve(&user_code);
        let answer = world.poll(&device_code);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
        let tokens = answer.json();
        let keys: Vec<&String> = tokens.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["access_token", "refresh_token", "token_type", "expires_in", "email"]);
        assert_eq!(tokens["token_type"], "Bearer");
        assert_eq!(tokens["expires_in"], 3600);
        assert_eq!(tokens["email"], "alice@example.com");
        let session = world.session(&tokens["access_token"]);
        assert_eq!(
            (session.subject(), session.name(), session.groups()),
            (Some("alice"), Some("Alice A"), &["eng".to_owned()][..])
        );
        assert_eq!(session.id().map(str::len), Some(32));
        assert!(!answer.body.contains("idp-refresh"));
        assert_eq!(world.poll(&device_code).error(), (400, "expired_token".to_owned()));
    }

    #[test]
    fn without_a_refresh_token_of_the_provider_there_is_none() {
        let world = World::new();
        world.idp.refreshes.set(false);
        world.idp.claims.borrow_mut()["email"] = Value::Null;
        let tokens = world.sign_in();
        let keys: Vec<&String> = tokens.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["access_token", "token_type", "expires_in"]);
    }

    #[test]
    fn a_grant_ends_after_ten_minutes_and_waits_ten_more_when_it_is_decided() {
        let world = World::new();
        let (device_code, user_code) = world.device();
        world.wait(Duration::from_secs(599));
        world.approve(&user_code);
        world.wait(Duration::from_secs(599));
        assert_eq!(world.poll(&device_code).status, 200);
        let (device_code, _) = world.device();
        world.wait(Duration::from_mins(10));
        assert_eq!(world.poll(&device_code).error().1, "expired_token");
    }

    #[test]
    fn the_database_being_down_is_500_and_nothing_is_lost() {
        let world = World::new();
        let (device_code, user_code) = world.device();
        world.approve(&user_code);
        world.db_is_down.set(true);
        assert_eq!(world.poll(&device_code).status, 500);
        assert_eq!(world.send(Method::POST, "/oauth/device_authorization", &[], "").status, 500);
        let answer = world.verify(&user_code);
        assert_eq!(answer.status, 500);
        assert_is_page(&answer, "'self'");
        assert!(answer.body.contains("0a1b2c3d") && !answer.body.contains("it is down"), "{}", answer.body);
        let event = world.audited("device.verify").pop().expect("audited");
        assert_eq!(event["result"], "error");
        assert!(event["err"].as_str().expect("a reason").contains("it is down"), "{event}");
        world.db_is_down.set(false);
        assert_eq!(world.poll(&device_code).status, 200);
    }
}

mod refresh {
    use super::*;

    type Change = fn(&World);

    fn refusal(world: &World, status: u16, body: &str) {
        world.idp.refusal.replace(Some((status, body.to_owned())));
    }

    fn claim(world: &World, name: &str, value: Value) {
        world.idp.claims.borrow_mut()[name] = value;
    }

    fn refresh_token(tokens: &Value) -> &str {
        tokens["refresh_token"].as_str().expect("a refresh token")
    }

    #[test]
    fn a_session_goes_on_with_new_claims_while_the_database_is_down() {
        let world = World::new();
        let tokens = world.sign_in();
        let before = world.session(&tokens["access_token"]);
        world.db_is_down.set(true);
        world.wait(Duration::from_mins(50));
        world.idp.claims.borrow_mut()["groups"] = json!(["ops"]);
        let answer = world.refresh(refresh_token(&tokens));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let event = world.audited("session.refresh").pop().expect("audited");
        assert_eq!((&event["result"], &event["sub"]), (&json!("success"), &json!("alice")));
        let form = world.idp.last_form("/token");
        assert_eq!(form.first("refresh_token"), Some("idp-refresh-1"));
        assert_eq!(form.first("scope"), None);
        let tokens = answer.json();
        let after = world.session(&tokens["access_token"]);
        assert_eq!(after.groups(), ["ops"]);
        assert_eq!(after.id(), before.id());
        assert_eq!(tokens["expires_in"], 3600);
        // The provider rotates its token, and so do we.
        assert_eq!(world.refresh(refresh_token(&tokens)).status, 200);
        assert_eq!(world.idp.last_form("/token").first("refresh_token"), Some("idp-refresh-2"));
        // It need not.
        world.idp.refreshes.set(false);
        let tokens = world.refresh(refresh_token(&tokens)).json();
        world.refresh(refresh_token(&tokens));
        assert_eq!(world.idp.last_form("/token").first("refresh_token"), Some("idp-refresh-2"));
    }

    #[test]
    fn a_foreign_or_damaged_refresh_token_ends_the_session_without_asking_anybody() {
        let world = World::new();
        let tokens = world.sign_in();
        let ours = refresh_token(&tokens);
        let calls = world.idp.count("/token");
        for token in ["idp-refresh-1", "spr1.", "%00", "spr2.", &format!("{}AAAA", &ours[..ours.len() - 4])] {
            let answer = world.refresh(token);
            assert_eq!(answer.error(), (401, "invalid_grant".to_owned()), "{token}");
            let event = world.audited("session.refresh").pop().expect("audited");
            assert_eq!((&event["step"], &event["answer"]), (&json!("token_endpoint"), &json!("invalid_grant")));
        }
        assert_eq!(world.idp.count("/token"), calls);
    }

    #[test]
    fn what_the_provider_says_decides_between_the_end_and_a_later_try() {
        let final_ = (401, "invalid_grant");
        let later = (503, "temporarily_unavailable");
        let table: [(Change, (u16, &str), &str); 17] = [
            (|world| refusal(world, 400, r#"{"error":"invalid_grant"}"#), final_, "token_endpoint"),
            (|world| refusal(world, 401, r#"{"error":"invalid_client"}"#), later, "token_endpoint"),
            (|world| refusal(world, 400, r#"{"error":"interaction_required"}"#), later, "token_endpoint"),
            (|world| refusal(world, 500, r#"{"error":"invalid_grant"}"#), later, "token_endpoint"),
            (|world| refusal(world, 503, "<html>"), later, "token_endpoint"),
            (|world| refusal(world, 200, "<html>"), later, "token_endpoint"),
            (|world| world.idp.mood.set(Mood::Down), later, "token_endpoint"),
            // The reference ends the session here (auth contract §14).
            (|world| world.idp.mood.set(Mood::Slow), later, "token_endpoint"),
            (|world| world.idp.mood.set(Mood::Broken), later, "token_endpoint"),
            (|world| claim(world, "aud", json!("other")), final_, "token_endpoint"),
            (|world| claim(world, "email", json!("a@evil.test")), final_, "claims"),
            (|world| claim(world, "email_verified", json!(false)), final_, "claims"),
            (|world| claim(world, "oid", Value::Null), later, "claims"),
            (
                |world| {
                    claim(world, "groups", Value::Null);
                    world.idp.userinfo.replace(Some(json!({"sub": "bob"})));
                },
                final_,
                "userinfo_fallback",
            ),
            (
                |world| {
                    claim(world, "groups", Value::Null);
                    world.idp.userinfo.replace(Some(json!("no object")));
                },
                later,
                "userinfo_fallback",
            ),
            (
                |world| {
                    world.idp.is_thin.set(true);
                    world.idp.userinfo.replace(Some(json!("no object")));
                },
                later,
                "userinfo_no_id_token",
            ),
            (
                |world| {
                    world.idp.is_thin.set(true);
                    claim(world, "email", json!("a@evil.test"));
                },
                final_,
                "claims",
            ),
        ];
        for (number, (change, (status, error), step)) in table.into_iter().enumerate() {
            let world = World::with(|config| {
                config.oidc[0].allowed_email_domains = vec!["example.com".to_owned()];
                config.oidc[0].user_id_claim = crate::config::ClaimPath("oid".to_owned());
                config.oidc[0].userinfo_fallback = true;
            });
            world.idp.claims.borrow_mut()["oid"] = json!("O-1");
            let tokens = world.sign_in();
            change(&world);
            let answer = world.refresh(refresh_token(&tokens));
            assert_eq!(answer.error(), (status, error.to_owned()), "row {number}");
            let event = world.audited("session.refresh").pop().expect("audited");
            assert_eq!(event["result"], "fail", "row {number}");
            assert_eq!((&event["step"], &event["answer"]), (&json!(step), &json!(error)), "row {number}");
            assert!(event["err"].is_string());
            assert_eq!(answer.header(header::RETRY_AFTER).is_empty(), status == 401);
        }
    }

    #[test]
    fn without_an_id_token_userinfo_says_who_it_is() {
        let world = World::new();
        let tokens = world.sign_in();
        world.idp.is_thin.set(true);
        let answer = world.refresh(refresh_token(&tokens));
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(world.idp.count("/userinfo"), 1);
        assert_eq!(world.session(&answer.json()["access_token"]).email(), Some("alice@example.com"));
    }

    #[test]
    fn scopes_are_sent_only_when_configured_and_extra_parameters_never() {
        let world = World::with(|config| {
            config.oidc[0].scope_on_refresh = true;
            config.oidc[0].extra_auth_params = vec![("prompt".to_owned(), "consent".to_owned())];
        });
        let tokens = world.sign_in();
        world.refresh(refresh_token(&tokens));
        let form = world.idp.last_form("/token");
        assert_eq!(form.first("scope"), Some("openid profile email offline_access"));
        assert_eq!(form.first("prompt"), None);
    }
}

mod sessions;

mod google_groups {
    use super::*;

    fn world() -> World {
        let world = World::with(|config| {
            config.oidc[0].allowed_groups = vec!["eng@example.com".to_owned()];
            config.oidc[0].google_groups = Some(crate::config::GoogleGroups {
                service_account_json_path: "/key.json".to_owned(),
                admin_email: "admin@example.com".to_owned(),
            });
        });
        let (private_key, _) = testing::client_certificate();
        let file = json!({
            "client_email": "robot@example.com", "private_key": private_key,
            "token_uri": "https://idp.example.test/google-token",
        });
        world.files.0.borrow_mut().insert("/key.json".to_owned(), file.to_string().into_bytes());
        world
    }

    #[test]
    fn the_directory_says_which_groups_somebody_is_in() {
        let world = world();
        let tokens = world.sign_in();
        assert_eq!(world.session(&tokens["access_token"]).groups(), ["eng@example.com"]);
        world.sign_in();
        assert_eq!((world.idp.count("/google-token"), world.idp.count("/admin/directory/v1/groups")), (1, 2));
        // A directory that is away ends no session.
        world.idp.directory.replace(Some((500, String::new())));
        let answer = world.refresh(tokens["refresh_token"].as_str().expect("a token"));
        assert_eq!(answer.error(), (503, "temporarily_unavailable".to_owned()));
        // One that knows of no group does.
        world.idp.directory.replace(Some((200, "{}".to_owned())));
        let answer = world.refresh(tokens["refresh_token"].as_str().expect("a token"));
        assert_eq!(answer.error(), (401, "invalid_grant".to_owned()));
    }

    #[test]
    fn an_unusable_key_file_lets_nobody_in() {
        let world = world();
        world.files.0.borrow_mut().clear();
        let (_, user_code) = world.device();
        assert_eq!(world.approve(&user_code).status, 400);
        assert_eq!(world.audited("session.mint")[0]["err"], "/key.json: no such file");
    }
}

mod keys {
    use super::*;

    #[test]
    fn without_a_configured_secret_a_ring_is_made_and_rotation_breaks_nothing() {
        let world = World::with(|config| config.session.jwt_secrets.clear());
        let before = world.sign_in();
        let (device_code, user_code) = world.device();
        world.approve(&user_code);
        let keys = world.gateway.signing_keys().expect("a ring");
        assert_eq!(block_on(keys.rotate()).expect("rotated").len(), 2);
        // Within the time in which the ring counts as fresh, a token of the new key makes the instance look again.
        let other = World::with(|config| config.session.jwt_secrets.clear());
        *other.key_value.0.borrow_mut() = world.key_value.0.borrow().clone();
        other.wait(Duration::from_secs(5));
        world.wait(Duration::from_secs(5));
        let after = other.sign_in();
        assert_ne!(
            crate::domain::session::key_of(after["access_token"].as_str().expect("a token")),
            crate::domain::session::key_of(before["access_token"].as_str().expect("a token")),
        );
        world.session(&after["access_token"]);
        world.session(&before["access_token"]);
        assert_eq!(world.poll(&device_code).status, 200);
        assert_eq!(world.refresh(before["refresh_token"].as_str().expect("a token")).status, 200);
    }

    #[test]
    fn a_key_that_another_instance_revoked_is_forgotten_within_seconds() {
        for (wait, is_forgotten) in [(1999, false), (2000, true), (3_600_000, true)] {
            let world = World::with(|config| config.session.jwt_secrets.clear());
            let token = world.sign_in()["access_token"].as_str().expect("a token").to_owned();
            let kid = crate::domain::session::key_of(&token).expect("a key");
            let keys = world.gateway.signing_keys().expect("a ring");
            block_on(keys.revoke(&kid)).expect("revoked");
            world.wait(Duration::from_millis(wait));
            let verdict = block_on(world.gateway.verify(&token, ORIGIN)).unwrap_or_else(|_| panic!("keys are known"));
            let unknown = crate::domain::session::Denied::UnknownKey;
            assert_eq!(verdict.err(), is_forgotten.then_some(unknown), "after {wait} ms");
        }
    }

    #[test]
    fn a_token_with_an_unknown_key_does_not_make_the_instance_read_the_ring_every_time() {
        let world = World::with(|config| config.session.jwt_secrets.clear());
        world.sign_in();
        let foreign = World::with(|config| config.session.jwt_secrets = vec![Secret::new("foreign".to_owned())]);
        let token = foreign.sign_in()["access_token"].as_str().expect("a token").to_owned();
        world.key_value.0.borrow_mut().insert("session-keys".to_owned(), b"damaged".to_vec());
        for _ in 0..3 {
            let verdict = block_on(world.gateway.verify(&token, ORIGIN)).unwrap_or_else(|_| panic!("keys are known"));
            assert_eq!(verdict, Err(crate::domain::session::Denied::UnknownKey));
        }
        assert!(!world.log.0.borrow().iter().any(|line| line.contains("damaged")));
    }
}

#[test]
fn no_secret_reaches_the_log() {
    let world = World::new();
    let tokens = world.sign_in();
    world.refresh(tokens["refresh_token"].as_str().expect("a token"));
    world.idp.mood.set(Mood::Down);
    world.refresh(tokens["refresh_token"].as_str().expect("a token"));
    let log = world.log.0.borrow().join("\n");
    for secret in ["idp-refresh", "idp-access", "spr1.", "spr2.", "eyJ", "client secret", "code=c"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

mod bad_input;
mod providers;
mod service_identities;
