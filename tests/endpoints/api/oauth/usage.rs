//! `GET /api/oauth/usage`.

use std::time::Duration;

use serde_json::json;

use crate::endpoints::v1::organizations::{ADMIN, admin_post};
use crate::support::{CONFIG, TestGateway, get};

#[test]
fn a_caller_reads_what_is_spent_and_what_is_left() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let token = gateway.token(&[]);
    let answer = gateway.send(get("/api/oauth/usage").bearer(&token));
    assert_eq!(answer.json()["extra_usage"]["monthly_limit"], json!(null));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let cap = json!({"scope": {"type": "user", "user_id": "ada"}, "amount": "100", "period": "daily"});
    assert_eq!(gateway.send(admin_post(&cap)).status, 200);
    let limits = |gateway: &mut TestGateway| {
        gateway.send(get("/api/oauth/usage").bearer(&token)).json()["limits"].as_array().map(Vec::len)
    };
    assert_eq!(limits(&mut gateway), Some(0), "kept for two seconds");
    gateway.clock.advance(Duration::from_secs(2));
    assert_eq!(limits(&mut gateway), Some(1));
    gateway.clock.advance(Duration::from_secs(2));
    gateway.db.is_down.set(true);
    let answer = gateway.send(get("/api/oauth/usage").bearer(&token));
    assert_eq!((answer.status.as_u16(), answer.text()), (503, "spend limit unavailable"));
}

#[test]
fn without_the_admin_section_there_is_nothing_to_read() {
    let mut gateway = TestGateway::with_config(CONFIG);
    let token = gateway.token(&[]);
    let answer = gateway.send(get("/api/oauth/usage").bearer(&token));
    assert_eq!((answer.status.as_u16(), answer.text()), (404, "not configured"));
    assert_eq!(gateway.send(get("/api/oauth/usage")).status, 401);
}
