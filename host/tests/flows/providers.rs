//! Two identity providers behind one gateway: each signs its own people in, and nobody is mistaken for somebody else.

use serde_json::json;

use crate::support::{
    Browser, Device, Gateway, Idp, Site, Store, Tokens, Upstream, eventually, poll, question, refresh,
};

/// A site where employees sign in with one provider and partners with another one, and both providers.
fn site(store: Store) -> Option<(Site, Option<crate::support::Postgres>, Idp, Idp)> {
    let (mut site, database) = store.site()?;
    let corp = Idp::start(&mut site)?;
    let partners = Idp::start(&mut site)?;
    site.providers = vec![
        ("corp", corp.issuer.clone(), "match: { email_domain: example.com }"),
        ("partners", partners.issuer.clone(), "label: Partners, groups_prefix: partners/"),
    ];
    Some((site, database, corp, partners))
}

/// Signs `login` in with these fields of the form; the answer to the last poll.
fn sign_in(gateway: &Gateway, login: &str, fields: &[(&str, &str)]) -> (u16, crate::support::Answer) {
    let device = Device::authorize(gateway);
    let browser = Browser::of(login);
    let back = browser.authenticate(browser.confirm_with(gateway, &device.user_code, fields));
    let page = browser.arrive(gateway, back).status;
    (page, poll(gateway, &device))
}

#[test]
fn people_of_two_providers_sign_in_and_go_on_at_their_own_on_sqlite() {
    people_of_two_providers_sign_in_and_go_on_at_their_own(Store::Sqlite);
}

#[test]
fn people_of_two_providers_sign_in_and_go_on_at_their_own_on_postgresql() {
    people_of_two_providers_sign_in_and_go_on_at_their_own(Store::Postgres);
}

fn people_of_two_providers_sign_in_and_go_on_at_their_own(store: Store) {
    let Some((mut site, _database, _corp, partners)) = site(store) else { return };
    let upstream = Upstream::claude();
    site.use_upstream(&upstream);
    let gateway = site.start();

    let page = gateway.get("/device?user_code=BCDF-GHJK").send().expect(200);
    assert!(page.text().contains("name=\"email\"") && page.text().contains("with Partners"), "{}", page.text());

    let (_, ada) = sign_in(&gateway, "ada", &[("email", "ada@example.com")]);
    let ada = Tokens::of(&gateway, &ada);
    gateway.log.event("session.mint", |event| event["sub"] == "corp:ada");
    let (_, eve) = sign_in(&gateway, "eve", &[("provider", "partners")]);
    let eve = Tokens::of(&gateway, &eve);
    gateway.log.event("session.mint", |event| event["sub"] == "partners:eve");

    // Each refresh goes to the provider that knows the token.
    let ada = Tokens::of(&gateway, &refresh(&gateway, &ada.refresh));
    let eve = Tokens::of(&gateway, &refresh(&gateway, &eve.refresh));
    for sub in ["corp:ada", "partners:eve"] {
        gateway.log.event("session.refresh", |event| event["sub"] == sub && event["result"] == "success");
    }
    for (tokens, sub) in [(&ada, "corp:ada"), (&eve, "partners:eve")] {
        gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
        gateway.log.event("inference", |event| event["sub"] == sub);
    }

    // Ada at the partners' has an address that is not theirs to give.
    let (page, answer) = sign_in(&gateway, "ada", &[("provider", "partners")]);
    assert_eq!((page, &answer.json()["error"]), (403, &json!("access_denied")));
    let refused = gateway.log.event("session.mint", |event| event["result"] == "fail");
    assert_eq!(refused["err"], "the email domain is that of another identity provider");

    // One provider that is gone keeps nobody of the other one out.
    drop(partners);
    assert_eq!(refresh(&gateway, &eve.refresh).status, 503);
    Tokens::of(&gateway, &refresh(&gateway, &ada.refresh));
}

#[test]
fn one_provider_that_is_away_does_not_stop_the_start() {
    let Some((mut site, _, _corp, partners)) = site(Store::Sqlite) else { return };
    site.use_upstream(&Upstream::claude());
    drop(partners);
    let gateway = site.start();
    let (_, ada) = sign_in(&gateway, "ada", &[("email", "ada@example.com")]);
    Tokens::of(&gateway, &ada);
    eventually("a warning", || gateway.log.text().contains("discovery of partners failed").then_some(()));

    site.providers[0].1 = site.providers[1].1.clone();
    drop(gateway);
    assert!(site.refusal().contains("discovery of corp failed"));
}
