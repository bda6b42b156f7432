//! Only a session that this gateway made opens the door.

use serde_json::{Value, json};

use crate::support::{Site, Upstream, discovery, forge, header, question, unix_now};

#[test]
fn a_token_that_is_not_ours_reaches_no_upstream() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();
    let (secret, other) = (crate::support::SESSION_SECRET, "another secret that is long enough, 0123456789");
    let now = unix_now();
    let claims = |change: Value| {
        let mut claims = json!({
            "sub": "ada", "email": "ada@example.com", "aud": "claude-gateway", "iss": site.public_url,
            "iat": now, "exp": now + 3600,
        });
        claims.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        claims
    };
    let good = forge(&header(secret), &claims(json!({})), secret);
    gateway.get("/v1/models").bearer(&good).send().expect(200);
    let (signed, signature) = good.rsplit_once('.').expect("a signature");
    let unsigned = forge(&json!({"alg": "none", "typ": "JWT"}), &claims(json!({})), secret);
    let (head, rest) = good.split_once('.').expect("a header");
    let (_, richer) = forge(&header(secret), &claims(json!({"groups": ["admin"]})), other)
        .split_once('.')
        .map(|(head, rest)| (head.to_owned(), rest.to_owned()))
        .expect("a payload");
    let (richer, _) = richer.split_once('.').expect("a payload");

    let bad = [
        ("expired", forge(&header(secret), &claims(json!({"iat": now - 7200, "exp": now - 3600})), secret)),
        ("expiring now", forge(&header(secret), &claims(json!({"exp": now})), secret)),
        ("not yet valid", forge(&header(secret), &claims(json!({"nbf": now + 3600})), secret)),
        ("signed by another", forge(&header(other), &claims(json!({})), other)),
        ("signed by another, with our kid", forge(&header(secret), &claims(json!({})), other)),
        ("alg none, signed", unsigned.clone()),
        ("alg none, unsigned", format!("{}.", unsigned.rsplit_once('.').expect("a signature").0)),
        ("alg HS384", forge(&json!({"alg": "HS384", "kid": header(secret)["kid"]}), &claims(json!({})), secret)),
        ("for another audience", forge(&header(secret), &claims(json!({"aud": "someone-else"})), secret)),
        ("of another issuer", forge(&header(secret), &claims(json!({"iss": "https://example.com"})), secret)),
        ("with another payload", format!("{head}.{richer}.{signature}")),
        ("with a cut signature", good[..good.len() - 2].to_owned()),
        ("without a signature", format!("{signed}.")),
        ("without a header", rest.to_owned()),
        ("no token at all", "sk-placeholder".to_owned()),
    ];
    for (what, token) in bad {
        for path in ["/v1/messages", "/v1/messages/count_tokens"] {
            let answer = gateway.post(path).bearer(&token).json(&question(false)).send();
            assert_eq!(answer.status, 401, "{what}: {}", answer.status_and_text());
            assert_eq!(answer.header("x-should-retry"), "false", "{what}");
            let body = answer.json();
            assert_eq!(body["error"], json!({"type": "authentication_error", "message": "invalid token"}), "{what}");
            assert_eq!(body["request_id"], answer.header("x-request-id"), "{what}");
        }
    }
    for scheme in ["", "bearer ", "Bearer  ", "Basic "] {
        let call = gateway.post("/v1/messages").header("authorization", &format!("{scheme}{good}"));
        assert_eq!(call.json(&question(false)).send().status, 401, "{scheme:?}");
    }
    assert_eq!(gateway.post("/v1/messages").header("x-api-key", &good).json(&question(false)).send().status, 401);

    assert_eq!(upstream.seen().len(), 0, "nothing reached the upstream");
    gateway.log.event("auth.denied", |event| event["reason"] == "invalid_token");
    gateway.log.event("auth.denied", |event| event["reason"] == "missing_token");
}

#[test]
fn an_unknown_path_is_told_apart_only_with_a_session() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();

    gateway.get("/v1/secrets").send().expect(401);
    let answer = gateway.get("/v1/secrets").bearer(&site.session("ada")).send();
    assert_eq!(answer.status_and_text(), "404 not found");
}
