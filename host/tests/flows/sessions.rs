//! Sessions as things, through the component: refreshed by one of many, ended everywhere, and their keys rotated while
//! everybody works.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::{
    Answer, Browser, Device, Gateway, Idp, Postgres, Site, Store, Tokens, Upstream, eventually, poll, question,
    refresh, sign_in,
};

/// What the administrator of the stories shows.
const ADMIN_KEY: &str = "admin-key-for-tests-only-0123456789abcdef";
const ADMIN: &str = "admin:\n  write_keys:\n    - id: ops\n      key: admin-key-for-tests-only-0123456789abcdef\n";
const SESSIONS: &str = "/v1/organizations/sessions";
const ROTATE: &str = "/v1/organizations/signing_keys/rotate";

/// A site on `store` with people who can sign in, a model, and an administrator.
struct Place {
    idp: Idp,
    site: Site,
    upstream: Upstream,
    database: Option<Postgres>,
}

impl Place {
    fn on(store: Store) -> Option<Self> {
        let (mut site, database) = store.site()?;
        ADMIN.clone_into(&mut site.more);
        site.transcript.secret(ADMIN_KEY);
        let idp = Idp::start(&mut site)?;
        let upstream = Upstream::claude();
        site.use_upstream(&upstream);
        Some(Self { idp, site, upstream, database })
    }
}

fn use_session(gateway: &Gateway, tokens: &Tokens) -> Answer {
    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send()
}

fn revoke(gateway: &Gateway, token: &str) -> Answer {
    gateway.post("/oauth/revoke").form(&[("token", token)]).send()
}

fn sessions(gateway: &Gateway, query: &str) -> Vec<Value> {
    let answer = gateway.get(&format!("{SESSIONS}{query}")).header("x-api-key", ADMIN_KEY).send().expect(200);
    answer.json()["data"].as_array().expect("a list").clone()
}

fn assert_is_out(answer: &Answer) {
    assert_eq!(answer.status, 401, "{}", answer.status_and_text());
    assert_eq!(answer.header("x-should-retry"), "false");
    assert_eq!(answer.json()["error"], json!({"type": "authentication_error", "message": "invalid token"}));
}

/// Refreshes the session at `gateway` until `key` signs.
fn until_signed_by(key: &str, gateway: &Gateway, mut tokens: Tokens) -> Tokens {
    eventually("the new key's turn", || {
        tokens = Tokens::of(gateway, &refresh(gateway, &tokens.refresh));
        (kid(&tokens.access) == key).then_some(())
    });
    tokens
}

/// The key that signed a token.
fn kid(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().expect("a header")).expect("base64url");
    let header: Value = serde_json::from_slice(&header).expect("JSON");
    header["kid"].as_str().expect("a key id").to_owned()
}

#[test]
fn refreshes_at_the_same_moment_are_one_refresh_on_sqlite() {
    refreshes_at_the_same_moment_are_one_refresh(Store::Sqlite);
}

#[test]
fn refreshes_at_the_same_moment_are_one_refresh_on_postgresql() {
    refreshes_at_the_same_moment_are_one_refresh(Store::Postgres);
}

fn refreshes_at_the_same_moment_are_one_refresh(store: Store) {
    let Some(place) = Place::on(store) else { return };
    let gateway = place.site.start();
    let first = sign_in(&gateway, "ada");

    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let refreshes: Vec<_> = (0..8).map(|_| scope.spawn(|| refresh(&gateway, &first.refresh))).collect();
        refreshes.into_iter().map(|refresh| refresh.join().expect("an answer")).collect()
    });

    // The provider rotates its own tokens and would end everything, had it been asked twice.
    let tokens: Vec<Tokens> = answers.iter().map(|answer| Tokens::of(&gateway, answer)).collect();
    let different: BTreeSet<&str> = tokens.iter().map(|tokens| tokens.refresh.as_str()).collect();
    assert_eq!(different.len(), 1, "all got the same answer");
    assert_eq!(gateway.log.events("session.refresh").len(), 1);
    use_session(&gateway, &tokens[0]).expect(200);
    let next = Tokens::of(&gateway, &refresh(&gateway, &tokens[0].refresh));
    use_session(&gateway, &next).expect(200);
    assert!(gateway.log.events("session.reuse").is_empty());
}

#[test]
fn a_client_that_lost_the_answer_asks_again_on_sqlite() {
    a_client_that_lost_the_answer_asks_again(Store::Sqlite);
}

#[test]
fn a_client_that_lost_the_answer_asks_again_on_postgresql() {
    a_client_that_lost_the_answer_asks_again(Store::Postgres);
}

fn a_client_that_lost_the_answer_asks_again(store: Store) {
    let Some(place) = Place::on(store) else { return };
    let gateway = place.site.start();
    let first = sign_in(&gateway, "ada");

    // It leaves before anything has come back.
    let body = format!("grant_type=refresh_token&refresh_token={}", first.refresh);
    let mut connection = gateway.connect();
    connection.send(format!(
        "POST /oauth/token HTTP/1.1\r\nhost: {}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
         content-length: {}\r\n\r\n{body}",
        gateway.address,
        body.len()
    ));
    drop(connection);

    let again = refresh(&gateway, &first.refresh);
    let second = Tokens::of(&gateway, &again);
    assert_eq!(refresh(&gateway, &first.refresh).text(), again.text(), "and once more");
    use_session(&gateway, &second).expect(200);
    Tokens::of(&gateway, &refresh(&gateway, &second.refresh));
    assert!(gateway.log.events("session.reuse").is_empty());
}

#[test]
fn a_stolen_refresh_token_ends_the_session_on_sqlite() {
    a_stolen_refresh_token_ends_the_session(Store::Sqlite);
}

#[test]
fn a_stolen_refresh_token_ends_the_session_on_postgresql() {
    a_stolen_refresh_token_ends_the_session(Store::Postgres);
}

fn a_stolen_refresh_token_ends_the_session(store: Store) {
    let Some(place) = Place::on(store) else { return };
    let gateway = place.site.start();
    let stolen = sign_in(&gateway, "ada");
    let other = sign_in(&gateway, "ada");
    let second = Tokens::of(&gateway, &refresh(&gateway, &stolen.refresh));
    let third = Tokens::of(&gateway, &refresh(&gateway, &second.refresh));
    use_session(&gateway, &third).expect(200);

    assert_eq!(refresh(&gateway, &stolen.refresh).expect(401).json()["error"], "invalid_grant");

    let event = gateway.log.event("session.reuse", |_| true);
    assert_eq!((&event["sub"], &event["client_ip"]), (&json!("ada"), &json!("127.0.0.1")));
    eventually("the end of the session", || (use_session(&gateway, &third).status == 401).then_some(()));
    assert_is_out(&use_session(&gateway, &third));
    assert_eq!(refresh(&gateway, &third.refresh).expect(401).json()["error"], "invalid_grant");
    // Whoever it is, their other sign-in is none of the thief's.
    use_session(&gateway, &other).expect(200);
    Tokens::of(&gateway, &refresh(&gateway, &other.refresh));
}

#[test]
fn signing_out_ends_the_session_on_sqlite() {
    signing_out_ends_the_session(Store::Sqlite);
}

#[test]
fn signing_out_ends_the_session_on_postgresql() {
    signing_out_ends_the_session(Store::Postgres);
}

fn signing_out_ends_the_session(store: Store) {
    let Some(place) = Place::on(store) else { return };
    let gateway = place.site.start();
    let discovery = gateway.get("/.well-known/oauth-authorization-server").send().expect(200).json();
    assert_eq!(discovery["revocation_endpoint"], format!("{}/oauth/revoke", place.site.public_url));
    let tokens = sign_in(&gateway, "ada");
    use_session(&gateway, &tokens).expect(200);

    // As the client does it: first one token, then the other.
    assert_eq!(revoke(&gateway, &tokens.access).status_and_text(), "200 ");
    let hint = [("token", tokens.refresh.as_str()), ("token_type_hint", "refresh_token")];
    assert_eq!(gateway.post("/oauth/revoke").form(&hint).send().status_and_text(), "200 ");
    assert_eq!(gateway.log.event("session.revoke", |_| true)["actor"], "client");
    // Another instance of the same process may need a moment.
    eventually("the end of the session", || (use_session(&gateway, &tokens).status == 401).then_some(()));
    assert_is_out(&use_session(&gateway, &tokens));
    assert_eq!(refresh(&gateway, &tokens.refresh).expect(401).json()["error"], "invalid_grant");
    assert!(sessions(&gateway, "").is_empty());

    let seen = place.upstream.seen().len();
    for body in ["", "token=", "Token=x", "token_type_hint=access_token"] {
        let form = gateway.post("/oauth/revoke").header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(form.body(body).send().expect(400).json()["error"], "invalid_request", "{body:?}");
    }
    for token in ["x", "a.b.c", "spr2.x", "\0\u{7f}", "<script>", &"x".repeat(100_000), &tokens.access] {
        assert_eq!(revoke(&gateway, token).status_and_text(), "200 ", "{token:.20}");
    }
    let raw = gateway.post("/oauth/revoke").header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(raw.body(b"token=\xff\xfe\0".to_vec()).send().status, 200);
    let json = gateway.post("/oauth/revoke").json(&json!({"token": tokens.access})).send();
    assert_eq!(json.expect(400).json()["error"], "invalid_request");
    assert_eq!(revoke(&gateway, &"x".repeat(300_000)).status, 413);
    assert_eq!(gateway.get("/oauth/revoke").send().status, 401);
    assert_eq!(place.upstream.seen().len(), seen, "nothing of it reached a model");
    let tokens = sign_in(&gateway, "ada");
    use_session(&gateway, &tokens).expect(200);
}

#[test]
fn a_session_that_is_ended_at_one_gateway_is_ended_at_the_other() {
    let Some(place) = Place::on(Store::Postgres) else { return };
    let replica = place.site.replica();
    let (first, second) = (place.site.start(), replica.start());
    let device = Device::authorize(&first);
    Browser::of("ada").sign_in(&second, &device.user_code).expect(200);
    let lost = Tokens::of(&second, &poll(&second, &device));
    let (kept, other) = (sign_in(&first, "ada"), sign_in(&first, "grace"));
    let listed = sessions(&first, "?user_id=ada");
    assert_eq!(listed.len(), 2);
    assert_eq!((&listed[0]["means"], &listed[0]["created_from"]), (&json!("device"), &json!("127.0.0.1")));
    assert_eq!(listed[0]["email_address"], "ada@example.com");
    let id = listed[0]["id"].as_str().expect("an id");

    // Busy at the other one, when it is ended here.
    for _ in 0..20 {
        use_session(&second, &lost).expect(200);
    }
    let path = format!("{SESSIONS}/{id}");
    first.delete(&path).header("x-api-key", ADMIN_KEY).send().expect(200);
    let ended = std::time::Instant::now();
    let refused = eventually("the refusal of the other gateway", || {
        let answer = use_session(&second, &lost);
        (answer.status != 200).then_some(answer)
    });
    println!("the other gateway refused the session {} ms after it was ended", ended.elapsed().as_millis());
    assert_is_out(&refused);
    assert_eq!(first.log.event("session.revoke", |_| true)["actor"], "admin-key:ops");
    second.log.event("auth.denied", |event| event["reason"] == "session_ended");
    for gateway in [&first, &second] {
        assert_eq!(refresh(gateway, &lost.refresh).expect(401).json()["error"], "invalid_grant");
        use_session(gateway, &kept).expect(200);
    }

    // Everything of one person, and nothing of another.
    first.delete(&format!("{SESSIONS}?user_id=ada")).header("x-api-key", ADMIN_KEY).send().expect(200);
    eventually("the refusal of the other gateway", || (use_session(&second, &kept).status == 401).then_some(()));
    use_session(&second, &other).expect(200);
    assert!(sessions(&second, "?user_id=ada").is_empty());
    first.delete(&path).header("x-api-key", ADMIN_KEY).send().expect(404);
    first.delete(SESSIONS).header("x-api-key", ADMIN_KEY).send().expect(400);
    first.delete(&format!("{SESSIONS}?user_id=grace")).send().expect(401);
    use_session(&first, &other).expect(200);
}

#[test]
fn keys_are_rotated_while_two_gateways_work_and_nobody_is_refused() {
    let Some(place) = Place::on(Store::Postgres) else { return };
    let replica = place.site.replica();
    let gateways = [place.site.start(), replica.start()];
    let before = sign_in(&gateways[0], "ada");
    let mut watched = sign_in(&gateways[1], "ada");
    let is_over = AtomicBool::new(false);

    // Each worker refreshes at one gateway and shows the new token at once to the other.
    let work = |number: usize| {
        let (mint, show) = (&gateways[number % 2], &gateways[(number + 1) % 2]);
        let mut tokens = sign_in(mint, "grace");
        let mut kids = BTreeSet::new();
        loop {
            // Once more after the last rotation, which may have come in the middle of a round.
            let is_last = is_over.load(Ordering::Relaxed);
            use_session(show, &tokens).expect(200);
            use_session(show, &before).expect(200);
            tokens = Tokens::of(mint, &refresh(mint, &tokens.refresh));
            kids.insert(kid(&tokens.access));
            if is_last {
                break;
            }
        }
        use_session(show, &tokens).expect(200);
        kids
    };
    let (rotated, used) = std::thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..4).map(|number| scope.spawn(move || work(number))).collect();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let mut rotated = Vec::new();
            for gateway in &gateways {
                let answer = gateway.post(ROTATE).header("x-api-key", ADMIN_KEY).send().expect(200);
                let newest = answer.json()["data"][0]["id"].as_str().expect("an id").to_owned();
                for gateway in &gateways {
                    watched = until_signed_by(&newest, gateway, watched.clone());
                }
                rotated.push(newest);
            }
            rotated
        }));
        is_over.store(true, Ordering::Relaxed);
        let used: Vec<_> = workers.into_iter().map(|worker| worker.join().expect("nobody is refused")).collect();
        (outcome.expect("it rotates"), used)
    });
    let used: BTreeSet<String> = used.into_iter().flatten().collect();
    assert!(rotated.iter().all(|newest| used.contains(newest)), "{rotated:?} {used:?}");
    for gateway in &gateways {
        assert!(gateway.log.events("auth.denied").is_empty());
        assert_eq!(gateway.log.events("key.rotate").len(), 1);
        use_session(gateway, &before).expect(200);
    }
    drop(place.database);
}

#[test]
fn the_command_line_lists_rotates_and_revokes_keys() {
    let Some(mut place) = Place::on(Store::Sqlite) else { return };
    place.site.more.push_str("rate_limits:\n  device_authorization: {max: 1000}\n  device_verify: {max: 1000}\n");
    let site = &place.site;
    // Nothing is there, and a list leaves it so.
    assert_eq!(site.said("keys", &["list", "--json"]), json!({"keys": []}).to_string());
    assert_eq!(site.said("keys", &["list"]), "no keys yet: the first start makes one");
    assert!(!site.state().exists());

    let gateway = site.start();
    let (before, other) = (sign_in(&gateway, "ada"), sign_in(&gateway, "grace"));
    let keys = |action: &[&str]| {
        let said = site.said("keys", &[action, &["--json"]].concat());
        serde_json::from_str::<Value>(&said).expect("JSON")["keys"].as_array().expect("a list").clone()
    };
    let first = keys(&["list"]);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0]["kid"], kid(&before.access));
    assert_eq!(keys(&["list"]), first);

    let newest = keys(&["rotate"])[0]["kid"].as_str().expect("an id").to_owned();
    let after = until_signed_by(&newest, &gateway, other);
    use_session(&gateway, &before).expect(200);
    use_session(&gateway, &after).expect(200);

    // Somebody may have seen the old key.
    assert_eq!(keys(&["revoke", &kid(&before.access)]).len(), 1);
    eventually("the end of its sessions", || (use_session(&gateway, &before).status == 401).then_some(()));
    assert_is_out(&use_session(&gateway, &before));
    assert_eq!(refresh(&gateway, &before.refresh).expect(401).json()["error"], "invalid_grant");
    use_session(&gateway, &after).expect(200);
    assert!(sessions(&gateway, "?user_id=ada").is_empty());
    assert!(site.complaint("keys", &["revoke", "0000"]).contains("no key with this id"));

    // And now the new one: the gateway makes another.
    assert_ne!(keys(&["revoke", &newest])[0]["kid"], newest.as_str());
    eventually("the end of its sessions", || (use_session(&gateway, &after).status == 401).then_some(()));
    // A sign-in that is under way at that moment may have to begin again.
    let tokens = eventually("a sign-in", || {
        let device = Device::authorize(&gateway);
        let page = Browser::of("ada").sign_in(&gateway, &device.user_code);
        let answer = poll(&gateway, &device);
        (page.status == 200 && answer.status == 200).then(|| Tokens::of(&gateway, &answer))
    });
    use_session(&gateway, &tokens).expect(200);
    drop(place.idp);
}

#[test]
fn a_list_of_keys_writes_nothing_to_postgresql_either() {
    let Some(database) = Postgres::start() else { return };
    let mut site = Site::new();
    site.issuer = "https://login.example.com".to_owned();
    site.use_postgres(&database);
    site.upstreams.push("https://api.example.com".to_owned());

    assert_eq!(site.said("keys", &["list", "--json"]), json!({"keys": []}).to_string());

    assert!(!site.state().exists());
    let tables = "select count(*) from information_schema.tables where table_schema = 'public'";
    assert_eq!(database.query(tables).as_deref(), Some("0"));
}

#[test]
fn a_decision_stands_whoever_else_decides_on_sqlite() {
    a_decision_stands_whoever_else_decides(Store::Sqlite);
}

#[test]
fn a_decision_stands_whoever_else_decides_on_postgresql() {
    a_decision_stands_whoever_else_decides(Store::Postgres);
}

fn a_decision_stands_whoever_else_decides(store: Store) {
    let Some(place) = Place::on(store) else { return };
    let gateway = place.site.start();
    for _ in 0..5 {
        let device = Device::authorize(&gateway);
        let browser = Browser::of("ada");
        let back = browser.authenticate(browser.confirm(&gateway, &device.user_code));
        let no = || {
            let form = [("user_code", device.user_code.as_str())];
            gateway.post("/device/deny").header("sec-fetch-site", "same-origin").form(&form).send()
        };
        // The person comes back, somebody says no, and the device asks, all at once.
        let (yes, no, polls) = std::thread::scope(|scope| {
            let yes = scope.spawn(|| browser.arrive(&gateway, back.clone()));
            let no = scope.spawn(no);
            let polls: Vec<_> = (0..6)
                .map(|_| {
                    scope.spawn(|| {
                        eventually("a decision", || {
                            let answer = poll(&gateway, &device);
                            let waits = ["authorization_pending", "slow_down"];
                            (!waits.iter().any(|wait| answer.json()["error"] == *wait)).then_some(answer)
                        })
                    })
                })
                .collect();
            let polls: Vec<_> = polls.into_iter().map(|poll| poll.join().expect("an answer")).collect();
            (yes.join().expect("a page"), no.join().expect("a page"), polls)
        });
        let count = |wanted: &str| {
            let name = |answer: &Answer| answer.json()["error"].as_str().unwrap_or("tokens").to_owned();
            polls.iter().filter(|answer| name(answer) == wanted).count()
        };
        let approved = yes.status == 200;
        assert_ne!(approved, no.status == 200, "{} {}", yes.status, no.status);
        assert_eq!((count("tokens"), count("access_denied")), if approved { (1, 0) } else { (0, 1) });
        assert_eq!(count("expired_token"), 5);
    }
}

#[test]
fn rate_limits_count_at_two_gateways_together() {
    let Some(database) = Postgres::start() else { return };
    let (provider, upstream) = (crate::support::discovery(), Upstream::claude());
    let mut site = Site::for_inference(&provider, &upstream);
    site.use_postgres(&database);
    site.more = "rate_limits:\n  device_authorization: {max: 7, window_seconds: 3600}\n  \
         device_verify: {max: 5, window_seconds: 3600}\n"
        .to_owned();
    let replica = site.replica();
    let gateways = [site.start(), replica.start()];

    let answers = at_once(&gateways, |gateway| gateway.post("/oauth/device_authorization").send());
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 7);
    for refused in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((refused.status, &refused.json()["error"]), (429, &json!("slow_down")));
        assert_ne!(refused.header("retry-after"), "");
    }
    let answers = at_once(&gateways, |gateway| {
        let form = [("user_code", "BBBB-BBBB")];
        gateway.post("/device").header("sec-fetch-site", "same-origin").form(&form).send()
    });
    assert_eq!(answers.iter().filter(|answer| answer.status == 404).count(), 5);
    assert_eq!(answers.iter().filter(|answer| answer.status == 429).count(), 15);
}

/// Twenty requests at the same moment, half at each of two gateways.
fn at_once(gateways: &[Gateway; 2], ask: impl Fn(&Gateway) -> Answer + Sync) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let ask = &ask;
        let asked: Vec<_> = (0..20).map(|number| scope.spawn(move || ask(&gateways[number % 2]))).collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    })
}
