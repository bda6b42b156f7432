//! `POST /v1/organizations/signing_keys/rotate`.

use std::time::Duration;

use serde_json::json;

use super::{ADMIN, READ_KEY, WRITE_KEY};
use crate::support::{Answer, START, TestGateway, post, request};

const ROTATE: &str = "/v1/organizations/signing_keys/rotate";

/// A gateway that makes its own keys.
fn gateway() -> TestGateway {
    TestGateway::with_config(
        &ADMIN.replace("session: {jwt_secret: placeholder-placeholder-placeholder-placeholder-}\n", ""),
    )
}

fn rotate(gateway: &mut TestGateway) -> Answer {
    gateway.send(post(ROTATE).header("x-api-key", WRITE_KEY))
}

#[test]
fn a_rotation_lists_the_keys_newest_first_and_is_audited() {
    let mut gateway = gateway();
    let answer = rotate(&mut gateway);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let keys = answer.json()["data"].clone();
    let turn = START.plus(Duration::from_secs(5));
    assert_eq!(keys.as_array().map(Vec::len), Some(2));
    assert_eq!(
        keys[0],
        json!({
            "type": "signing_key", "id": keys[0]["id"], "created_at": START, "signs_from": turn, "retired_at": null,
            "verifies_until": null,
        })
    );
    assert_eq!((&keys[1]["retired_at"], &keys[1]["created_at"]), (&json!(turn), &json!(START)));
    assert_eq!(keys[1]["verifies_until"], json!(turn.plus(Duration::from_hours(90 * 24 + 1))));
    let audit = gateway.log.audit();
    let event = audit.iter().find(|event| event["evt"] == "key.rotate").expect("audited");
    assert_eq!((&event["kid"], &event["actor"]), (&keys[0]["id"], &json!("admin-key:ci")));
    assert!(!answer.text().contains("secret"));
}

#[test]
fn what_cannot_be_rotated_is_said() {
    let mut configured = TestGateway::with_config(ADMIN);
    let answer = rotate(&mut configured);
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (400, &json!("invalid_request_error")));
    assert!(answer.json()["error"]["message"].as_str().expect("text").starts_with("session.jwt_secret names the keys"));

    let mut gateway = gateway();
    let answer = gateway.send(post(ROTATE).header("x-api-key", READ_KEY));
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["message"]),
        (403, &json!("requires write:signing_keys"))
    );
    assert_eq!(gateway.send(post(ROTATE)).status, 401);
    for (method, path) in [("GET", ROTATE), ("DELETE", ROTATE), ("PUT", ROTATE)] {
        let asked = request(method.parse().expect("a method"), path).header("x-api-key", WRITE_KEY);
        assert_eq!(gateway.send(asked).status, 404, "{method} {path}");
    }
    // Paths beside it belong to nobody.
    let asked = post("/v1/organizations/signing_keys").header("x-api-key", WRITE_KEY);
    assert_eq!(gateway.send(asked).status, 401);
    for _ in 0..49 {
        assert_eq!(rotate(&mut gateway).status, 200);
    }
    let answer = rotate(&mut gateway);
    assert_eq!(answer.status, 400);
    assert!(answer.json()["error"]["message"].as_str().expect("text").contains("50 keys"));
    gateway.db.is_down.set(true);
    assert_eq!(rotate(&mut gateway).status, 500);
    // A body is not looked at.
    gateway.db.is_down.set(false);
    gateway.clock.advance(Duration::from_hours(91 * 24));
    let answer = gateway.send(post(ROTATE).header("x-api-key", WRITE_KEY).body("\0{\"kid\":1}"));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["data"].as_array().map(Vec::len), Some(2));
}
