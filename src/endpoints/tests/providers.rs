//! Several identity providers: who is asked, and what keeps their people apart.

use super::*;
use crate::config::Oidc;
use crate::domain::refresh_token::RefreshToken;
use crate::testing::PARTNERS_ISSUER;

fn corp() -> Oidc {
    Oidc {
        name: Some("corp".to_owned()),
        email_domains: vec!["example.com".to_owned()],
        form_action_origins: vec!["https://login.example.com".to_owned()],
        ..testing::oidc()
    }
}

fn partners() -> Oidc {
    Oidc {
        name: Some("partners".to_owned()),
        label: Some("Partners & <friends>".to_owned()),
        issuer: PARTNERS_ISSUER.parse().expect("a URL"),
        groups_prefix: "partners/".to_owned(),
        ..testing::oidc()
    }
}

fn world() -> World {
    World::with(|config| config.oidc = vec![corp(), partners()])
}

impl World {
    fn say(&self, user_code: &str, more: &str) -> Answer {
        self.send(Method::POST, "/device", &[OURS, FORM], &format!("user_code={user_code}{more}"))
    }

    /// Confirms a code with these further fields, and comes back: the token response.
    fn sign_in_with(&self, more: &str) -> Value {
        let (device_code, user_code) = self.device();
        let answer = self.return_with(&user_code, more);
        assert_eq!(answer.status, 200, "{}", answer.body);
        self.poll(&device_code).json()
    }

    fn return_with(&self, user_code: &str, more: &str) -> Answer {
        let answer = self.say(user_code, more);
        assert_eq!(answer.status, 302, "{}", answer.body);
        let location = answer.header(header::LOCATION);
        let query = Form::urlencoded(location.split_once('?').expect("a query").1.as_bytes());
        self.idp.nonce.replace(query.first("nonce").expect("a nonce").to_owned());
        let cookie = answer.header(header::SET_COOKIE).split(';').next().expect("a cookie").to_owned();
        self.come_back(&format!("/oauth/callback?code=c&state={}", query.first("state").expect("a state")), &cookie)
    }
}

#[test]
fn the_page_asks_for_the_address_and_offers_who_has_no_domain() {
    let world = world();
    let (_, user_code) = world.device();
    let confirm = world.send(Method::GET, &format!("/device?user_code={user_code}"), &[], "");
    let choose = world.say(&user_code, "");
    for answer in [confirm, choose] {
        assert_eq!(answer.status, 200);
        assert_is_page(&answer, "'self' https://idp.example.test https://login.example.com");
        assert!(answer.body.contains(r#"<input type="email" id="email" name="email""#), "{}", answer.body);
        assert!(answer.body.contains(r#"name="provider" value="partners""#));
        assert!(answer.body.contains("Partners &amp; &lt;friends&gt;") && !answer.body.contains(r#"value="corp""#));
        assert!(answer.body.contains(&user_code));
    }
    assert_eq!(world.results("device.verify"), Vec::<String>::new());
    let landing = world.send(Method::GET, "/", &[], "");
    assert!(landing.body.contains("idp.example.test, idp.example.test"));
}

#[test]
fn with_one_provider_nothing_is_asked() {
    let world = World::with(|config| config.oidc = vec![corp()]);
    let (_, user_code) = world.device();
    let confirm = world.send(Method::GET, &format!("/device?user_code={user_code}"), &[], "");
    assert!(!confirm.body.contains("name=\"email\"") && !confirm.body.contains("name=\"provider\""));
    assert_eq!(world.say(&user_code, "").status, 302);
    let tokens = world.sign_in();
    assert_eq!(world.session(&tokens["access_token"]).subject(), Some("alice"));
}

#[test]
fn an_address_or_a_name_leads_to_the_provider() {
    let world = world();
    let (_, user_code) = world.device();
    for (more, start) in [
        ("&email=alice%40Example.com", "https://idp.example.test/authorize?"),
        ("&email=bob%40other.test", "https://idp.example.test/partners/authorize?"),
        ("&provider=partners&email=alice%40example.com", "https://idp.example.test/partners/authorize?"),
        ("&provider=partners&email=", "https://idp.example.test/partners/authorize?"),
        ("&provider=&email=alice%40example.com", "https://idp.example.test/authorize?"),
    ] {
        let answer = world.say(&user_code, more);
        assert_eq!(answer.status, 302, "{more}");
        let location = answer.header(header::LOCATION);
        assert!(location.starts_with(start), "{more}: {location}");
        let hint = Form::urlencoded(more.as_bytes()).non_empty("email").map(str::to_owned);
        let query = Form::urlencoded(location.split_once('?').expect("a query").1.as_bytes());
        assert_eq!(query.first("login_hint"), hint.as_deref(), "{more}");
    }
    for (more, said) in [
        ("&email=alice", "no e-mail address"),
        ("&provider=gone", "Choose another one"),
        ("&provider=%00%FF", "Choose another one"),
    ] {
        let answer = world.say(&user_code, more);
        assert_eq!(answer.status, 400, "{more}");
        assert!(answer.body.contains(said) && answer.body.contains("0a1b2c3d"), "{more}: {}", answer.body);
    }
    assert_eq!(world.results("device.verify")[5..], ["unknown_provider"; 3]);
    let closed = World::with(|config| {
        config.oidc = vec![corp(), Oidc { email_domains: vec!["partner.test".to_owned()], ..partners() }];
    });
    let (_, user_code) = closed.device();
    let answer = closed.say(&user_code, "&email=%22%3E%3Cscript%3E%40other.test");
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("addresses of this domain") && !answer.body.contains("<script"));
    assert!(answer.body.contains("&quot;&gt;&lt;script&gt;@other.test"), "what was typed is not lost: {}", answer.body);
}

#[test]
fn the_same_subject_at_two_providers_is_two_people() {
    let world = world();
    let ours = world.sign_in_with("&email=alice%40example.com");
    let ours = world.session(&ours["access_token"]);
    assert_eq!((ours.subject(), ours.groups()), (Some("corp:alice"), &["eng".to_owned()][..]));
    world.idp.claims.borrow_mut()["email"] = json!("alice@partner.test");
    let theirs = world.sign_in_with("&provider=partners");
    let theirs = world.session(&theirs["access_token"]);
    assert_eq!((theirs.subject(), theirs.groups()), (Some("partners:alice"), &["partners/eng".to_owned()][..]));
}

#[test]
fn a_provider_cannot_give_out_the_addresses_of_another_one() {
    let world = world();
    let (device_code, user_code) = world.device();
    assert_eq!(world.return_with(&user_code, "&provider=partners").status, 403);
    assert_eq!(
        world.audited("session.mint").pop().expect("audited")["err"],
        "the email domain is that of another identity provider"
    );
    assert_eq!(world.poll(&device_code).error().1, "access_denied");
}

#[test]
fn a_refresh_goes_to_the_provider_that_signed_the_person_in() {
    let world = world();
    world.idp.claims.borrow_mut()["email"] = json!("alice@partner.test");
    let theirs = world.sign_in_with("&provider=partners");
    let answer = world.refresh(theirs["refresh_token"].as_str().expect("a token"));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!((world.idp.count("/partners/token"), world.idp.count("/token")), (2, 0));
    assert_eq!(world.session(&answer.json()["access_token"]).subject(), Some("partners:alice"));
    // Taken out of the configuration, it signs nobody in any more.
    let without = World::with(|config| config.oidc = vec![corp()]);
    let answer = without.refresh(theirs["refresh_token"].as_str().expect("a token"));
    assert_eq!(answer.error(), (401, "invalid_grant".to_owned()));
    let event = without.audited("session.refresh").pop().expect("audited");
    assert_eq!(event["err"], "refresh token: its identity provider is not configured any more");
}

#[test]
fn the_provider_that_was_there_first_may_keep_its_subjects_and_sessions() {
    let world = World::with(|config| config.oidc = vec![Oidc { keep_subjects: true, ..corp() }, partners()]);
    // A token from before, when there was one provider and it had no name.
    let token = RefreshToken {
        session_id: "s-1".to_owned(),
        generation: 0,
        is_known: false,
        provider: None,
        idp_token: Secret::new("idp-refresh-1".to_owned()),
    };
    let keys = block_on(world.gateway.keys()).unwrap_or_else(|_| panic!("no keys"));
    let answer = world.refresh(&token.seal(&keys, world.gateway.random()));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(world.session(&answer.json()["access_token"]).subject(), Some("alice"));
    world.idp.claims.borrow_mut()["sub"] = json!("partners:alice");
    let (_, user_code) = world.device();
    assert_eq!(world.return_with(&user_code, "&email=alice%40example.com").status, 403);
}

#[test]
fn a_sign_in_cannot_end_at_another_provider() {
    let world = world();
    let (_, user_code) = world.device();
    let answer = world.say(&user_code, "&provider=partners");
    let location = answer.header(header::LOCATION).to_owned();
    let query = Form::urlencoded(location.split_once('?').expect("a query").1.as_bytes());
    world.idp.nonce.replace(query.first("nonce").expect("a nonce").to_owned());
    let cookie = answer.header(header::SET_COOKIE).split(';').next().expect("a cookie").to_owned();
    let callback = format!(
        "/oauth/callback?code=c&state={}&iss=https%3A%2F%2Fidp.example.test",
        query.first("state").expect("a state")
    );
    assert_eq!(world.come_back(&callback, &cookie).status, 403);
    assert_eq!((world.idp.count("/partners/token"), world.idp.count("/token")), (0, 0));
}

#[test]
fn the_pages_show_while_one_of_the_providers_is_away() {
    let world = world();
    world.idp.mood.set(Mood::Down);
    let answer = world.send(Method::GET, "/device?user_code=x", &[], "");
    assert_eq!(answer.status, 200);
    assert_is_page(&answer, "'self' https://login.example.com");
}
