//! From a code in a terminal, through a browser and an identity provider, to an answer of a model.

use serde_json::{Value, json};

use crate::support::{
    Browser, DELTAS, Device, Idp, Site, Store, Tokens, Upstream, message, person, poll, question, refresh, sign_in,
};

#[test]
fn a_person_signs_in_and_gets_an_answer_on_sqlite() {
    a_person_signs_in_and_gets_an_answer(Store::Sqlite);
}

#[test]
fn a_person_signs_in_and_gets_an_answer_on_postgresql() {
    a_person_signs_in_and_gets_an_answer(Store::Postgres);
}

fn a_person_signs_in_and_gets_an_answer(store: Store) {
    let Some((mut site, _database)) = store.site() else { return };
    let Some(_idp) = Idp::start(&mut site) else { return };
    let upstream = Upstream::claude();
    site.use_upstream(&upstream);
    let gateway = site.start();

    let device = Device::authorize(&gateway);
    let waiting = poll(&gateway, &device).expect(400);
    assert_eq!(waiting.json()["error"], "authorization_pending");

    let browser = Browser::of("ada");
    let page = browser.sign_in(&gateway, &device.user_code).expect(200);
    assert!(page.header("content-type").starts_with("text/html"));
    assert!(page.header("content-security-policy").contains("frame-ancestors 'none'"));
    let minted = gateway.log.event("session.mint", |_| true);
    assert_eq!((&minted["result"], &minted["email"]), (&json!("success"), &json!("ada@example.com")));

    let tokens = Tokens::of(&gateway, &poll(&gateway, &device));
    let again = poll(&gateway, &device).expect(400);
    assert_eq!(again.json()["error"], "expired_token", "a device code works once");

    let answer = gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
    assert_eq!(answer.json(), message());
    let streamed = gateway.post("/v1/messages").bearer(&tokens.access).json(&question(true)).send().expect(200);
    assert!(streamed.header("content-type").starts_with("text/event-stream"));
    assert!(DELTAS.iter().all(|delta| streamed.text().contains(delta)), "{}", streamed.text());

    let line = gateway.log.event("inference", |_| true);
    assert_eq!(line["sub"], "ada");
    assert_eq!(line["email"], "ada@example.com");
    assert_eq!(line["status"], 200);
    assert_eq!(line["request_id"], answer.header("x-request-id"));
}

#[test]
fn polls_at_the_same_moment_get_one_token() {
    let Some((site, _idp)) = Site::with_idp() else { return };
    let gateway = site.start();
    let device = Device::authorize(&gateway);
    Browser::of("ada").sign_in(&gateway, &device.user_code).expect(200);

    let answers: Vec<_> = std::thread::scope(|scope| {
        let polls: Vec<_> = (0..20).map(|_| scope.spawn(|| poll(&gateway, &device))).collect();
        polls.into_iter().map(|poll| poll.join().expect("an answer")).collect()
    });

    let (redeemed, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert_eq!(redeemed.len(), 1);
    Tokens::of(&gateway, redeemed[0]);
    for answer in refused {
        assert_eq!((answer.status, &answer.json()["error"]), (400, &json!("expired_token")));
    }
}

#[test]
fn providers_that_sign_with_other_algorithms_are_understood() {
    for algorithm in ["ES256", "PS256", "ES512", "EdDSA"] {
        let mut site = Site::new();
        site.id_token_alg = algorithm;
        let Some(_idp) = Idp::start(&mut site) else { return };
        let upstream = Upstream::claude();
        site.use_upstream(&upstream);
        let gateway = site.start();

        let tokens = sign_in(&gateway, "grace");
        gateway.get("/v1/models").bearer(&tokens.access).send().expect(200);
    }
}

#[test]
fn an_address_in_another_domain_is_refused_on_sqlite() {
    a_stranger_is_refused(Store::Sqlite, "eve", "domain");
}

#[test]
fn an_address_in_another_domain_is_refused_on_postgresql() {
    a_stranger_is_refused(Store::Postgres, "eve", "domain");
}

#[test]
fn an_unverified_address_is_refused_on_sqlite() {
    a_stranger_is_refused(Store::Sqlite, "mallory", "verified");
}

#[test]
fn an_unverified_address_is_refused_on_postgresql() {
    a_stranger_is_refused(Store::Postgres, "mallory", "verified");
}

fn a_stranger_is_refused(store: Store, login: &str, reason: &str) {
    let Some((mut site, _database)) = store.site() else { return };
    let Some(_idp) = Idp::start(&mut site) else { return };
    let upstream = Upstream::claude();
    site.use_upstream(&upstream);
    let gateway = site.start();
    let device = Device::authorize(&gateway);

    let page = Browser::of(login).sign_in(&gateway, &device.user_code).expect(403);

    assert!(page.header("content-type").starts_with("text/html"));
    assert!(!page.text().contains(reason), "why is for the operator: {}", page.text());
    let event = gateway.log.event("session.mint", |event| event["result"] == "fail");
    assert!(event["err"].as_str().expect("a reason").contains(reason), "{event}");
    assert_eq!(poll(&gateway, &device).expect(400).json()["error"], "access_denied");
    assert_eq!(poll(&gateway, &device).expect(400).json()["error"], "expired_token");
}

#[test]
fn a_person_who_says_no_stops_the_sign_in() {
    let Some((site, _idp)) = Site::with_idp() else { return };
    let gateway = site.start();
    let device = Device::authorize(&gateway);

    gateway
        .post("/device/deny")
        .header("sec-fetch-site", "same-origin")
        .form(&[("user_code", &device.user_code)])
        .send()
        .expect(200);

    assert_eq!(gateway.log.event("device.deny", |_| true)["result"], "denied");
    assert_eq!(poll(&gateway, &device).expect(400).json()["error"], "access_denied");
}

#[test]
fn a_page_of_another_site_cannot_confirm_a_code() {
    let Some((site, _idp)) = Site::with_idp() else { return };
    let gateway = site.start();
    let device = Device::authorize(&gateway);

    let page = gateway
        .post("/device")
        .header("sec-fetch-site", "cross-site")
        .header("origin", &site.public_url)
        .form(&[("user_code", &device.user_code)])
        .send();

    assert_eq!((page.status, page.header("location")), (403, ""));
    gateway.log.event("device.verify", |event| event["result"] == "csrf_rejected");
    assert_eq!(poll(&gateway, &device).expect(400).json()["error"], "authorization_pending");
}

#[test]
fn a_browser_that_did_not_start_the_sign_in_cannot_end_it() {
    let Some((site, _idp)) = Site::with_idp() else { return };
    let gateway = site.start();
    let device = Device::authorize(&gateway);
    let browser = Browser::of("ada");
    let back = browser.authenticate(browser.confirm(&gateway, &device.user_code));

    let elsewhere = Browser::of("eve").arrive(&gateway, back.clone());
    assert_eq!(elsewhere.status, 400, "{}", elsewhere.status_and_text());
    gateway.log.event("device.callback", |event| event["result"] == "browser_mismatch");

    let mut damaged = back.clone();
    damaged.query_pairs_mut().clear().extend_pairs(back.query_pairs().map(|(name, value)| match &*name {
        "state" => (name, format!("{}AAAA", &value[..value.len() - 4]).into()),
        _ => (name, value),
    }));
    browser.arrive(&gateway, damaged).expect(400);
    assert_eq!(poll(&gateway, &device).expect(400).json()["error"], "authorization_pending");

    browser.arrive(&gateway, back.clone()).expect(200);
    let tokens = Tokens::of(&gateway, &poll(&gateway, &device));
    gateway.get("/v1/models").bearer(&tokens.access).send().expect(200);

    // The same link once more decides nothing.
    browser.arrive(&gateway, back).expect(400);
    assert_eq!(poll(&gateway, &device).expect(400).json()["error"], "expired_token");
}

#[test]
fn a_refresh_rotates_and_the_old_token_is_worthless() {
    let Some((site, _idp)) = Site::with_idp() else { return };
    let gateway = site.start();
    let first = sign_in(&gateway, "ada");

    let second = Tokens::of(&gateway, &refresh(&gateway, &first.refresh));
    assert_ne!(first.refresh, second.refresh);
    assert_eq!(gateway.log.event("session.refresh", |_| true)["result"], "success");
    gateway.post("/v1/messages").bearer(&second.access).json(&question(false)).send().expect(200);
    let third = Tokens::of(&gateway, &refresh(&gateway, &second.refresh));

    // Somebody uses a token that was already exchanged: one of the two has stolen it, and both are out.
    assert_eq!(refresh(&gateway, &first.refresh).expect(401).json()["error"], "invalid_grant");
    assert_eq!(refresh(&gateway, &third.refresh).expect(401).json()["error"], "invalid_grant");
}

#[test]
fn a_refresh_asks_the_provider_again() {
    let Some((site, idp)) = Site::with_idp() else { return };
    let gateway = site.start();
    let first = sign_in(&gateway, "ada");

    idp.change("ada", &person("ada.lovelace@example.com", true, &["everyone"]));
    let second = Tokens::of(&gateway, &refresh(&gateway, &first.refresh));
    assert_eq!(
        gateway.log.event("session.refresh", |event| event["result"] == "success")["email"],
        "ada.lovelace@example.com"
    );

    idp.change("ada", &person("ada@example.net", true, &["everyone"]));
    assert_eq!(refresh(&gateway, &second.refresh).expect(401).json()["error"], "invalid_grant");
}

#[test]
fn a_person_who_was_removed_is_out_at_the_next_refresh() {
    let Some((site, idp)) = Site::with_idp() else { return };
    let gateway = site.start();
    let tokens = sign_in(&gateway, "grace");

    idp.change("grace", &Value::Null);

    assert_eq!(refresh(&gateway, &tokens.refresh).expect(401).json()["error"], "invalid_grant");
}

#[test]
fn a_refresh_token_that_was_tampered_with_is_refused() {
    let Some((site, _idp)) = Site::with_idp() else { return };
    let gateway = site.start();
    let tokens = sign_in(&gateway, "grace");
    let (begin, end) = tokens.refresh.split_at(tokens.refresh.len() / 2);
    let flipped = if end.starts_with('A') { "B" } else { "A" };

    let answer = refresh(&gateway, &format!("{begin}{flipped}{}", &end[1..]));

    assert_eq!(answer.expect(401).json()["error"], "invalid_grant");
    Tokens::of(&gateway, &refresh(&gateway, &tokens.refresh));
}
