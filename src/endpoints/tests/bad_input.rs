//! Whatever is sent to the sign-in surface is answered: with a status that says what is wrong, without a trap, and without
//! anything in a page that the sender wrote as markup.

use proptest::prelude::*;
use proptest::test_runner::{Config as Cases, TestRunner};

use super::*;
use crate::config::Oidc;

const URLENCODED: &[u8] = b"application/x-www-form-urlencoded";

/// What a browser would act on if it were not escaped.
const INJECTIONS: [&str; 8] = [
    "\"><script>alert(1)</script>",
    "' onmouseover='alert(1)",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<b>",
    "javascript:alert(1)",
    "&lt;script&gt;\u{202e}\u{0}",
];

fn world() -> World {
    World::with(|config| {
        config.rate_limits.device_verify.max = u32::MAX;
        config.rate_limits.device_authorization.max = u32::MAX;
        config.service_identities = vec![testing::service_identity()];
    })
}

/// A request of bytes.
fn send(world: &World, method: &str, target: &str, content_type: Option<&[u8]>, body: Vec<u8>) -> Answer {
    let context = Context {
        request_id: REQUEST_ID.to_owned(),
        client_ip: IpAddr::from([192, 0, 2, 1]),
        origin: ORIGIN.to_owned(),
        trace: None,
    };
    let uri: http::Uri = target.parse().expect("a target");
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let route = Route::find(&method, uri.path());
    let mut headers = http::HeaderMap::new();
    headers.insert("origin", ORIGIN.parse().expect("a value"));
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_bytes(content_type).expect("a value"));
    }
    let request = Request { method, uri, scheme: "https", headers, peer: None, body: body_of(body), control: None };
    let response = block_on(dispatch(&world.gateway, &context, route, request))
        .unwrap_or_else(|failure| failure.render(&context.request_id));
    let (parts, body) = response.into_parts();
    let Body::Full(body) = body else { panic!("sign-in streams nothing") };
    let body = String::from_utf8(body.to_vec()).expect("text");
    Answer { status: parts.status.as_u16(), headers: parts.headers, body }
}

fn encode(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

#[test]
fn another_method_is_an_unknown_path() {
    let world = world();
    for (method, target) in [
        ("GET", "/oauth/device_authorization"),
        ("GET", "/oauth/token"),
        ("PUT", "/oauth/token"),
        ("PATCH", "/device"),
        ("DELETE", "/device"),
        ("GET", "/device/deny"),
        ("OPTIONS", "/device"),
        ("TRACE", "/oauth/token"),
        ("BREW", "/device"),
        ("POST", "/"),
        ("POST", "/protocol"),
    ] {
        let answer = send(&world, method, target, Some(URLENCODED), b"user_code=BBBBBBBB".to_vec());
        assert_eq!(answer.status, 401, "{method} {target}");
        assert_eq!(answer.json()["error"]["type"], "authentication_error", "{method} {target}");
    }
    // These answer every method (auth contract §0); the body of a callback does not count.
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        let discovery = send(&world, method, "/.well-known/oauth-authorization-server", None, b"x".to_vec());
        assert_eq!(discovery.status, 200, "{method}");
        let callback = send(&world, method, "/oauth/callback", Some(URLENCODED), b"code=c&state=s&error=e".to_vec());
        assert_eq!((callback.status, callback.body.contains("This link has expired")), (400, true), "{method}");
    }
}

#[test]
fn odd_bodies_are_refused_where_they_are_read() {
    let world = world();
    let repeated = format!("grant_type=x&{}", "grant_type=refresh_token&".repeat(2000));
    let long = "B".repeat(200_000);
    let bodies: Vec<(Option<&[u8]>, Vec<u8>)> = vec![
        (None, b"user_code=BBBBBBBB&grant_type=refresh_token&refresh_token=x".to_vec()),
        (Some(b""), Vec::new()),
        (Some(b"application/json"), br#"{"user_code":"BBBBBBBB","grant_type":"refresh_token"}"#.to_vec()),
        (Some(b"text/plain; charset=\xff"), b"user_code=BBBBBBBB".to_vec()),
        (Some(URLENCODED), Vec::new()),
        (Some(URLENCODED), b"user_code&grant_type".to_vec()),
        (Some(URLENCODED), b"user_code=&grant_type=".to_vec()),
        (Some(URLENCODED), b"user_code=\0\xff\xfe&grant_type=\0\xff".to_vec()),
        (Some(URLENCODED), b"user_code=%00%FF&grant_type=%00%FF%C3%28".to_vec()),
        (Some(URLENCODED), b"user_code=%&grant_type=%zz".to_vec()),
        (Some(URLENCODED), repeated.into_bytes()),
        (Some(URLENCODED), format!("user_code={long}&grant_type={long}").into_bytes()),
        (Some(b"multipart/form-data"), b"--x--".to_vec()),
        (Some(b"multipart/form-data; boundary=x"), b"--x\r\n\r\n\r\n--x--".to_vec()),
        (Some(b"multipart/form-data; boundary=\"\""), b"----".to_vec()),
        (
            Some(b"multipart/form-data; boundary=x"),
            b"--x\r\ncontent-disposition: form-data; name=\"\0\"\r\n\r\n\xff\r\n--x--".to_vec(),
        ),
    ];
    for (content_type, body) in bodies {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        for target in ["/device", "/device/deny"] {
            let answer = send(&world, "POST", target, content_type, body.clone());
            let expected = if body.len() > 256 * 1024 { 413 } else { 404 };
            assert_eq!(answer.status, expected, "{target} {shown}");
        }
        let token = send(&world, "POST", "/oauth/token", content_type, body.clone());
        assert!(matches!(token.status, 400 | 413), "{shown}: {}", token.status);
        if token.status == 400 {
            assert!(["invalid_request", "unsupported_grant_type"].contains(&token.error().1.as_str()), "{shown}");
        }
        // Its body is not looked at (auth contract §5.1).
        let authorization = send(&world, "POST", "/oauth/device_authorization", content_type, body);
        assert_eq!(authorization.status, 200, "{shown}");
    }
}

#[test]
fn every_parameter_of_every_grant_may_be_odd() {
    let world = world();
    let grants: [(&str, &[&str]); 4] = [
        ("urn:ietf:params:oauth:grant-type:device_code", &["device_code"]),
        ("refresh_token", &["refresh_token"]),
        ("urn:ietf:params:oauth:grant-type:token-exchange", &["subject_token", "subject_token_type"]),
        ("urn:ietf:params:oauth:grant-type:jwt-bearer", &["assertion"]),
    ];
    for (grant, parameters) in grants {
        for value in ["", "%00", "%FF%FE", "%C3%28", "...", "a.b.c", "e30.e30.e30", &"x".repeat(100_000), "%3Cb%3E"] {
            let rest = parameters.iter().map(|name| format!("&{name}={value}")).collect::<Vec<_>>().concat();
            let answer =
                send(&world, "POST", "/oauth/token", Some(URLENCODED), format!("grant_type={grant}{rest}").into());
            assert!(matches!(answer.status, 400 | 401), "{grant} {value:.20}: {} {}", answer.status, answer.body);
            assert!(!answer.body.contains("<b>"), "{grant}");
            assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
        }
    }
}

#[test]
fn nothing_that_somebody_wrote_becomes_markup() {
    let several = |world: &mut Config| {
        world.rate_limits.device_verify.max = u32::MAX;
        let provider = |name: &str, domain: &str| Oidc {
            name: Some(name.to_owned()),
            email_domains: vec![domain.to_owned()],
            ..testing::oidc()
        };
        world.oidc = vec![provider("a", "a.test"), provider("b", "b.test")];
    };
    for text in INJECTIONS {
        let configured = World::with(|config| {
            config.login_notice = Some(text.to_owned());
            config.branding.name = text.to_owned();
        });
        let world = World::with(several);
        let (_, user_code) = world.device();
        let given = encode(text);
        let signed_in = {
            let world = World::new();
            world.idp.claims.borrow_mut()["email"] = json!(format!("{text}@example.com"));
            let (_, user_code) = world.device();
            world.approve(&user_code)
        };
        let get = |target: &str| send(&world, "GET", target, None, Vec::new());
        let pages = [
            ("user_code", get(&format!("/device?user_code={given}"))),
            ("error", get(&format!("/oauth/callback?error={given}"))),
            ("error_description", get(&format!("/oauth/callback?error=e&error_description={given}"))),
            ("iss", get(&format!("/oauth/callback?code=c&state={given}&iss={given}"))),
            (
                "email",
                send(
                    &world,
                    "POST",
                    "/device",
                    Some(URLENCODED),
                    format!("user_code={user_code}&email={given}%40c.test").into(),
                ),
            ),
            (
                "provider",
                send(
                    &world,
                    "POST",
                    "/device",
                    Some(URLENCODED),
                    format!("user_code={user_code}&provider={given}").into(),
                ),
            ),
            ("the person's address", signed_in),
            ("login_notice and the name", send(&configured, "GET", "/device", None, Vec::new())),
            ("the name on the landing page", send(&configured, "GET", "/", None, Vec::new())),
        ];
        for (field, page) in pages {
            assert_eq!(page.header(header::CONTENT_TYPE), "text/html; charset=utf-8", "{field}: {}", page.status);
            let body = &page.body;
            // Attributes are in double quotes: a single one ends nothing.
            for markup in ["<script", "<img", "<!--", "<b>", "</title><sc", "</style><sc", "href=\"javascript:"] {
                assert!(!body.contains(markup), "{field} with {text}: {markup}");
            }
        }
    }
}

#[test]
fn no_bytes_make_an_endpoint_fail_or_panic() {
    let world = world();
    let content_types: Vec<Option<&[u8]>> =
        vec![None, Some(URLENCODED), Some(b"multipart/form-data; boundary=b"), Some(b"application/json")];
    let strategy = (
        proptest::sample::select(vec!["/device", "/device/deny", "/oauth/token", "/oauth/revoke", "/oauth/callback"]),
        proptest::sample::select(content_types),
        proptest::collection::vec(any::<u8>(), 0..200),
        "(grant_type|user_code|device_code|refresh_token|subject_token|token|email)=[a-zA-Z0-9%.:&=_-]{0,60}",
    );
    let outcome = TestRunner::new(Cases::with_cases(200)).run(&strategy, |(target, content_type, noise, form)| {
        let body = [form.as_bytes(), b"&", &noise].concat();
        let answer = send(&world, "POST", target, content_type, body);
        prop_assert!(answer.status < 500, "{target}: {}", answer.body);
        let query = encode(&String::from_utf8_lossy(&noise));
        let answer = send(&world, "GET", &format!("{target}?{form}&state={query}"), None, Vec::new());
        prop_assert!(answer.status < 500, "{target}: {}", answer.body);
        Ok(())
    });
    outcome.expect("no bytes do");
}
