//! `admin.alerts`: what receivers are told when a cap fills up.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use super::organizations::{ADMIN, admin_post};
use crate::support::{TestGateway, post};

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const SECRET: &str = "placeholder-placeholder";

fn gateway(scope: &str) -> TestGateway {
    let alerts = format!(
        "{ADMIN}  alerts: [{{at: [50, 100], webhook: 'https://hooks.example.test/in', secret: {SECRET}, scope: {scope}}}]"
    );
    TestGateway::with_config(&alerts)
}

/// Ada's request costs so many tenths of a cent.
fn spend(gateway: &mut TestGateway, tenths: u64) {
    let token = gateway.token(&["eng"]);
    let usage = json!({"usage": {"input_tokens": tenths * 200, "output_tokens": 0}});
    gateway.http.answer_first(200, JSON, usage.to_string());
    let answer = gateway.send(post("/v1/messages").bearer(&token).json(&json!({"model": "claude-opus-4-8"})));
    assert_eq!(answer.status, 200);
}

/// What was sent since the last look, of which each was signed as it should be.
fn told(gateway: &TestGateway) -> Vec<Value> {
    let requests = gateway.http.requests();
    let hooks = requests.iter().filter(|request| request.uri().host() == Some("hooks.example.test"));
    hooks
        .map(|request| {
            let header = |name: &str| request.headers()[name].to_str().expect("text").to_owned();
            let signature = header("x-sallyport-signature");
            let (time, given) = signature.split_once(",v1=").expect("both");
            let time = time.strip_prefix("t=").expect("a time");
            let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
            mac.update(format!("{time}.").as_bytes());
            mac.update(request.body());
            let digest = mac.finalize().into_bytes();
            let expected = digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
            assert_eq!(given, expected);
            let body: Value = serde_json::from_slice(request.body()).expect("JSON");
            assert_eq!(header("x-sallyport-delivery"), body["id"].as_str().expect("text"));
            body
        })
        .collect()
}

fn percents(told: &[Value]) -> Vec<u64> {
    told.iter().filter_map(|body| body["threshold_percent"].as_u64()).collect()
}

#[test]
fn each_threshold_is_told_once_in_a_period() {
    let mut gateway = gateway("user");
    gateway.send(admin_post(&json!({"scope": {"type": "user", "user_id": "ada"}, "amount": "1", "period": "daily"})));
    spend(&mut gateway, 4);
    assert_eq!(told(&gateway), [json!(null); 0]);
    gateway.http.answer(204, &[], "");
    spend(&mut gateway, 1);
    let first = told(&gateway);
    assert_eq!(
        first,
        [json!({
            "type": "spend_alert", "id": first[0]["id"], "created_at": "2031-02-03T04:05:06.789Z",
            "threshold_percent": 50, "source": "user", "user_id": "ada", "period": "daily",
            "period_key": "2031-02-03", "resets_at": "2031-02-04T00:00:00.000Z", "currency": "USD", "amount": "1",
            "period_to_date_spend": "0.5",
        })]
    );
    spend(&mut gateway, 1);
    assert_eq!(told(&gateway), [json!(null); 0]);
    gateway.http.answer(200, &[], "");
    spend(&mut gateway, 4);
    assert_eq!(percents(&told(&gateway)), [100]);
    gateway.clock.advance(Duration::from_hours(24));
    gateway.http.answer(200, &[], "");
    gateway.http.answer(200, &[], "");
    let token = gateway.token_with(|claims| claims["exp"] = json!(2_000_000_000));
    gateway.http.answer_first(200, JSON, r#"{"usage":{"input_tokens":4000,"output_tokens":0}}"#);
    gateway.send(post("/v1/messages").bearer(&token).json(&json!({"model": "claude-opus-4-8"})));
    let mut next_day = percents(&told(&gateway));
    next_day.sort_unstable();
    assert_eq!(next_day, [50, 100], "a new period, and both at once");
}

#[test]
fn a_receiver_that_fails_is_asked_again_later_and_nobody_waits_for_it() {
    let mut gateway = gateway("organization");
    gateway.send(admin_post(&json!({"scope": {"type": "organization"}, "amount": "2", "period": "weekly"})));
    gateway.http.answer(500, &[], "");
    spend(&mut gateway, 10);
    let first = told(&gateway);
    assert_eq!(percents(&first), [50]);
    assert!(gateway.log.lines().iter().any(|line| line.contains("it answered 500; tried again later")));
    spend(&mut gateway, 1);
    assert_eq!(told(&gateway), [json!(null); 0], "not at once");
    gateway.clock.advance(Duration::from_secs(31));
    gateway.http.fail(sallyport::ports::HttpError::Connect("refused".to_owned()));
    spend(&mut gateway, 1);
    assert_eq!(told(&gateway), first);
    gateway.clock.advance(Duration::from_secs(61));
    gateway.http.answer(200, &[], "");
    spend(&mut gateway, 1);
    assert_eq!(told(&gateway), first);
    gateway.clock.advance(Duration::from_hours(2));
    let token = gateway.token_with(|claims| claims["exp"] = json!(2_000_000_000));
    gateway.http.answer_first(200, JSON, "{}");
    gateway.http.answer(200, JSON, r#"{"input_tokens":1}"#);
    gateway.send(post("/v1/messages").bearer(&token).json(&json!({"model": "claude-opus-4-8"})));
    assert_eq!(told(&gateway), [json!(null); 0], "it has arrived");
}

#[test]
fn the_pool_of_a_group_is_the_groups() {
    let mut gateway = gateway("group");
    let scope = json!({"type": "rbac_group", "rbac_group_id": "eng"});
    gateway.send(admin_post(&json!({"scope": scope, "amount": "1000", "pooled_budget": {"amount": "2"}})));
    gateway.http.answer(200, &[], "");
    spend(&mut gateway, 10);
    let told = told(&gateway);
    assert_eq!((percents(&told), &told[0]["rbac_group_id"]), (vec![50], &json!("eng")));
    assert_eq!((&told[0]["source"], &told[0]["amount"]), (&json!("group_pool"), &json!("2")));
}

#[test]
fn without_a_secret_of_its_own_a_receiver_needs_a_write_key() {
    let alerts = "alerts: [{at: [80], webhook: 'https://hooks.example.test/in', scope: user}]";
    let with_key = TestGateway::with_config(&format!("{ADMIN}  {alerts}"));
    assert_eq!(with_key.gateway.config.admin.as_ref().map(|admin| admin.alerts.len()), Some(1));
    let hosts = sallyport::config::destinations(&with_key.gateway.config);
    assert!(hosts.contains("https://hooks.example.test"));
    for (alert, message) in [
        ("{at: [80], webhook: 'https://h.example.test', scope: user}", "admin.alerts[0]: needs a `secret`"),
        ("{at: [], webhook: 'https://h.example.test', scope: user, secret: 0123456789abcdef}", "admin.alerts[0].at:"),
        (
            "{at: [0], webhook: 'https://h.example.test', scope: user, secret: 0123456789abcdef}",
            "admin.alerts[0].at[0]:",
        ),
        (
            "{at: [1], webhook: 'http://h.example.test', scope: user, secret: 0123456789abcdef}",
            "must begin with https://",
        ),
        (
            "{at: [1], webhook: 'https://h.example.test', scope: team, secret: 0123456789abcdef}",
            "admin.alerts[0].scope:",
        ),
        ("{at: [1], webhook: 'https://h.example.test', scope: user, secret: short}", "admin.alerts[0].secret:"),
    ] {
        let faults = TestGateway::faults(&format!("{}admin: {{alerts: [{alert}]}}", crate::support::CONFIG));
        assert!(faults.iter().any(|fault| fault.contains(message)), "{alert}: {faults:?}");
    }
}
