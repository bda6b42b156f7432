//! Programs sign in with the token of their own issuer, and no secret is stored anywhere.

use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{
    Answer, Gateway, Issuer, MODEL, Site, Store, Upstream, binary, discovery, message, question, unix_now,
};

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

const ADMIN_KEY: &str = "admin-key-for-tests-only-0123456789abc";

/// A site at which jobs of `acme/*` on the main branch sign in, and may use one model.
fn site(store: Store, issuer: &Issuer, upstream: &Upstream) -> Option<(Site, Option<crate::support::Postgres>)> {
    let (mut site, database) = store.site()?;
    site.issuer = format!("http://{}", discovery().address);
    site.use_upstream(upstream);
    let _ = write!(
        site.more,
        "service_identities:\n  - name: release\n    issuer: {}\n    audience: {}\n    \
         claims: {{ repository: acme/*, ref: refs/heads/main }}\n    groups: [ci]\n\
         managed:\n  policies:\n    - match: {{ groups: [ci] }}\n      cli: {{ availableModels: [{MODEL}] }}\n    \
         - cli: {{ availableModels: [claude-opus-4-8] }}\n\
         admin:\n  write_keys: [{{ id: ops, key: {ADMIN_KEY} }}]\n",
        issuer.url, site.public_url
    );
    Some((site, database))
}

fn exchange(gateway: &Gateway, token: &str) -> Answer {
    gateway
        .post("/oauth/token")
        .form(&[
            ("grant_type", EXCHANGE),
            ("subject_token", token),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ])
        .send()
}

#[test]
fn a_job_gets_an_answer_of_a_model_on_sqlite() {
    a_job_gets_an_answer_of_a_model(Store::Sqlite);
}

#[test]
fn a_job_gets_an_answer_of_a_model_on_postgresql() {
    a_job_gets_an_answer_of_a_model(Store::Postgres);
}

fn a_job_gets_an_answer_of_a_model(store: Store) {
    let (issuer, upstream) = (Issuer::start(), Upstream::claude());
    let Some((site, _database)) = site(store, &issuer, &upstream) else { return };
    let gateway = site.start();
    let grants = gateway.get("/.well-known/oauth-authorization-server").send().json()["grant_types_supported"].clone();
    assert!(grants.as_array().expect("a list").contains(&json!(EXCHANGE)), "{grants}");

    let token = issuer.token(&site.public_url, &json!({"jti": "job-1"}));
    gateway.transcript.unlogged(&token);
    let answer = exchange(&gateway, &token).expect(200).json();
    assert_eq!(answer["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    assert_eq!((&answer["token_type"], &answer["expires_in"]), (&json!("Bearer"), &json!(3600)));
    assert_eq!(answer.get("refresh_token"), None);
    let session = answer["access_token"].as_str().expect("a token");
    gateway.transcript.unlogged(session);
    let minted = gateway.log.event("service.mint", |event| event["result"] == "success");
    assert_eq!(
        (&minted["sub"], &minted["subject"]),
        (&json!("service:release"), &json!("repo:acme/app:ref:refs/heads/main"))
    );

    // The same policies as for people, the same audit trail.
    let said = gateway.post("/v1/messages").bearer(session).json(&question(false)).send().expect(200);
    assert_eq!(said.json(), message());
    assert_eq!(gateway.log.event("inference", |_| true)["sub"], "service:release");
    let mut other = question(false);
    other["model"] = json!("claude-opus-4-8");
    let refused = gateway.post("/v1/messages").bearer(session).json(&other).send();
    assert_eq!(refused.status, 400, "{}", refused.status_and_text());

    // The same caps.
    let cap = json!({"scope": {"type": "user", "user_id": "service:release"}, "amount": "0", "period": "daily"});
    gateway.post("/v1/organizations/spend_limits").header("x-api-key", ADMIN_KEY).json(&cap).send().expect(200);
    gateway.post("/v1/messages").bearer(session).json(&question(false)).send().expect(429);
    gateway.log.event("spend.blocked", |event| event["sub"] == "service:release");

    // Once: the second exchange of the token is refused, and so are all but one at the same moment.
    assert_eq!(exchange(&gateway, &token).expect(400).json()["error"], "invalid_request");
    gateway.log.event("service.mint", |event| event["err"] == "the token was exchanged before");
    let token = issuer.token(&site.public_url, &json!({"jti": "job-2"}));
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..10).map(|_| scope.spawn(|| exchange(&gateway, &token).status)).collect();
        all.into_iter().map(|answer| answer.join().expect("an answer")).collect()
    });
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 400).count(), 9, "{answers:?}");
}

#[test]
fn a_token_that_does_not_fit_opens_nothing() {
    let (issuer, upstream) = (Issuer::start(), Upstream::claude());
    let Some((site, _)) = site(Store::Sqlite, &issuer, &upstream) else { return };
    let gateway = site.start();
    let now = unix_now();
    let token = |claims: Value| issuer.token(&site.public_url, &claims);
    let other = Issuer::start();
    let good = token(json!({}));
    for (what, token) in [
        ("wrong audience", issuer.token("https://elsewhere.example.com", &json!({}))),
        ("wrong repository", token(json!({"repository": "evil/app"}))),
        ("wrong branch", token(json!({"ref": "refs/heads/main-2"}))),
        ("expired", token(json!({"exp": now - 1}))),
        ("not yet valid", token(json!({"nbf": now + 600}))),
        ("another issuer", other.token(&site.public_url, &json!({}))),
        ("another issuer in our name", other.token(&site.public_url, &json!({"iss": issuer.url}))),
        ("no token", "x".to_owned()),
    ] {
        let answer = exchange(&gateway, &token);
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("invalid_request")), "{what}");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    gateway.log.event("service.mint", |event| event["err"] == "the token is malformed");
    assert_eq!(gateway.log.events("service.mint").len(), 8);
    exchange(&gateway, &good).expect(200);
    assert_eq!(upstream.seen().len(), 0);
}

#[test]
fn a_check_online_asks_each_issuer_for_its_keys() {
    let (issuer, upstream) = (Issuer::start(), Upstream::claude());
    let Some((mut site, _)) = site(Store::Sqlite, &issuer, &upstream) else { return };
    let check = |site: &Site| -> Vec<Value> {
        fs::write(site.file("gateway.yaml"), site.yaml()).expect("a file");
        let output = Command::new(binary())
            .args(["check", "--online", "--json"])
            .current_dir(site.file(""))
            .env_clear()
            .envs([("CLAUDE_GATEWAY_ALLOW_LOOPBACK", "1"), ("CLIENT_SECRET", "x"), ("UPSTREAM_KEY", "x")])
            .output()
            .expect("a run");
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let attempts = said["online"].as_array().expect("a list").iter();
        attempts.filter(|attempt| attempt["key"] == "service_identities[0] (release)").cloned().collect()
    };
    let attempts = check(&site);
    assert_eq!(attempts.iter().map(|attempt| &attempt["ok"]).collect::<Vec<_>>(), [true, true], "{attempts:?}");
    site.more = site.more.replace(&issuer.url, &format!("{}/other", issuer.url));
    let attempts = check(&site);
    assert_eq!(attempts.iter().map(|attempt| &attempt["ok"]).collect::<Vec<_>>(), [false], "{attempts:?}");
}
