//! What goes on while something else does not.

use serde_json::json;

use crate::support::{
    Device, Idp, Postgres, Site, Tokens, Upstream, message, person, poll, question, refresh, sign_in, until_ready,
};

#[test]
fn refresh_and_inference_go_on_while_postgresql_is_stopped() {
    let Some(mut database) = Postgres::start() else { return };
    let mut site = Site::new();
    site.use_postgres(&database);
    let Some(_idp) = Idp::start(&mut site) else { return };
    let upstream = Upstream::claude();
    site.use_upstream(&upstream);
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");
    let waiting = Device::authorize(&gateway);

    database.stop();
    assert_eq!(gateway.get("/healthz").send().status_and_text(), "200 ok");
    assert_eq!(gateway.get("/readyz").send().status_and_text(), "503 store unavailable");
    let renewed = Tokens::of(&gateway, &refresh(&gateway, &tokens.refresh));
    assert_ne!(renewed.refresh, tokens.refresh);
    let answer = gateway.post("/v1/messages").bearer(&renewed.access).json(&question(false)).send().expect(200);
    assert_eq!(answer.json(), message());
    gateway.get("/v1/models").bearer(&renewed.access).send().expect(200);
    let failed = gateway.post("/oauth/device_authorization").send().expect(500);
    assert_eq!(failed.json()["error"], json!({"type": "api_error", "message": "internal server error"}));

    database.start_again();
    until_ready(&gateway);
    assert_eq!(poll(&gateway, &waiting).expect(400).json()["error"], "authorization_pending");
    sign_in(&gateway, "grace");
}

#[test]
fn a_valid_session_outlives_its_identity_provider() {
    let mut site = Site::new();
    let Some(idp) = Idp::start(&mut site) else { return };
    let upstream = Upstream::claude();
    site.use_upstream(&upstream);
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");

    drop(idp);

    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
    let answer = refresh(&gateway, &tokens.refresh).expect(503);
    assert_eq!(answer.json()["error"], "temporarily_unavailable");
}

#[test]
fn a_restart_signs_nobody_out() {
    let mut site = Site::new();
    let Some(idp) = Idp::start(&mut site) else { return };
    let upstream = Upstream::claude();
    site.use_upstream(&upstream);
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");
    gateway.kill();

    let gateway = site.start();
    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
    idp.change("ada", &person("ada@example.com", true, &[]));
    Tokens::of(&gateway, &refresh(&gateway, &tokens.refresh));
}
