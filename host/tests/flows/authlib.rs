//! The same sign-in with a second `OpenID` implementation, which does some things differently.

use serde_json::json;

use crate::support::{Authlib, Browser, Device, Gateway, Site, Tokens, Upstream, person, poll, question, refresh};

/// A site whose people are at the second implementation.
fn site() -> Option<(Site, Authlib)> {
    let mut site = Site::new();
    let provider = Authlib::start(&mut site)?;
    site.use_upstream(&Upstream::claude());
    Some((site, provider))
}

/// A person's part: the status of the page at the end.
fn browse(gateway: &Gateway, device: &Device, field: (&str, &str)) -> u16 {
    let browser = Browser::of("");
    let back = Authlib::authenticate(browser.confirm(gateway, &device.user_code), field);
    browser.arrive(gateway, back).status
}

#[test]
fn a_person_signs_in_goes_on_and_is_out_when_the_provider_says_so() {
    let Some((site, provider)) = site() else { return };
    let gateway = site.start();
    let device = Device::authorize(&gateway);
    assert_eq!(poll(&gateway, &device).expect(400).json()["error"], "authorization_pending");
    assert_eq!(browse(&gateway, &device, ("sub", "ada")), 200);
    let tokens = Tokens::of(&gateway, &poll(&gateway, &device));
    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);

    // A refresh brings no id token: userinfo says who it is. And no new refresh token: the known one goes on.
    provider.change("ada", &person("ada.lovelace@example.com", true, &["everyone"]));
    let tokens = Tokens::of(&gateway, &refresh(&gateway, &tokens.refresh));
    let refreshed = gateway.log.event("session.refresh", |event| event["result"] == "success");
    assert_eq!((&refreshed["sub"], &refreshed["email"]), (&json!("ada"), &json!("ada.lovelace@example.com")));
    let tokens = Tokens::of(&gateway, &refresh(&gateway, &tokens.refresh));

    provider.revoke("ada");
    assert_eq!(refresh(&gateway, &tokens.refresh).expect(401).json()["error"], "invalid_grant");
}

#[test]
fn whoever_may_not_enter_or_does_not_want_to_is_not_signed_in() {
    let Some((site, _provider)) = site() else { return };
    let gateway = site.start();
    let device = Device::authorize(&gateway);
    assert_eq!(browse(&gateway, &device, ("sub", "eve")), 403);
    assert_eq!(poll(&gateway, &device).expect(400).json()["error"], "access_denied");
    let refused = gateway.log.event("session.mint", |event| event["result"] == "fail");
    assert_eq!(refused["err"], "email domain not allowed");

    // Without `state` nobody knows whose sign-in it was: it goes on waiting.
    let device = Device::authorize(&gateway);
    assert_eq!(browse(&gateway, &device, ("action", "deny")), 400);
    gateway.log.event("device.callback", |event| event["result"] == "idp_error");
    assert_eq!(poll(&gateway, &device).expect(400).json()["error"], "authorization_pending");
    assert_eq!(browse(&gateway, &device, ("sub", "ada")), 200);
}
