//! `/v1/organizations/audit_events`: the copy of the audit trail, by page and as an export.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ADMIN, admin_get};
use crate::support::{TestGateway, get, request};

const EVENTS: &str = "/v1/organizations/audit_events";

fn with_copy() -> TestGateway {
    TestGateway::with_config(&format!("{ADMIN}audit: {{store: true, retention_days: 2}}\n"))
}

/// A refused address, and a served request of Ada; returns the lines on standard error.
fn some_events(gateway: &mut TestGateway) -> Vec<String> {
    gateway.log.lines();
    assert_eq!(gateway.send(get("/v1/models")).status, 401);
    gateway.clock.advance(Duration::from_secs(1));
    let ada = gateway.token(&[]);
    gateway.http.answer(200, &[("request-id", "req_up")], r#"{"usage":{"input_tokens":1,"output_tokens":1}}"#);
    let asked = crate::support::post("/v1/messages").bearer(&ada).json(&json!({"model": "claude-opus-4-6"}));
    assert_eq!(gateway.send(asked).status, 200);
    let lines = gateway.log.lines();
    lines.into_iter().filter(|line| line.starts_with('{')).collect()
}

#[test]
fn the_copy_has_the_lines_of_standard_error_and_is_paged_newest_first() {
    let mut gateway = with_copy();
    let written = some_events(&mut gateway);
    assert_eq!(written.len(), 2, "{written:?}");
    let page = gateway.send(admin_get(EVENTS));
    assert_eq!(page.header("cache-control"), Some("no-store"));
    let page = page.json();
    let entries: Vec<Value> =
        page["data"].as_array().expect("a list").iter().map(|event| event["entry"].clone()).collect();
    let expected: Vec<Value> = written.iter().rev().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(entries, expected);
    assert_eq!(page["has_more"], false);

    let first = gateway.send(admin_get(&format!("{EVENTS}?limit=1"))).json();
    assert_eq!((&first["has_more"], &first["data"][0]["entry"]["evt"]), (&json!(true), &json!("inference")));
    let after = first["last_id"].as_str().expect("an id").to_owned();
    let second = gateway.send(admin_get(&format!("{EVENTS}?limit=1&after_id={after}"))).json();
    assert_eq!((&second["has_more"], &second["data"][0]["entry"]["evt"]), (&json!(false), &json!("auth.denied")));
}

#[test]
fn events_are_found_by_person_name_and_time_and_what_cannot_be_meant_is_refused() {
    let mut gateway = with_copy();
    some_events(&mut gateway);
    for (query, expected) in [
        ("user_ids[]=ada", "inference"),
        ("user_ids[]=ada@example.test", "inference"),
        ("user_ids[]=bob", ""),
        ("events[]=auth.denied", "auth.denied"),
        ("events[]=auth.denied&events[]=inference", "inference auth.denied"),
        ("ending_at=2031-02-03T04:05:07Z", "auth.denied"),
        ("starting_at=2031-02-03T04:05:07Z&ending_at=2031-02-04T00:00:00Z", "inference"),
    ] {
        let page = gateway.send(admin_get(&format!("{EVENTS}?{query}"))).json();
        let names: Vec<&str> = page["data"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|event| event["entry"]["evt"].as_str())
            .collect();
        assert_eq!(names.join(" "), expected, "{query}");
    }
    for (query, message) in [
        (
            "user=ada",
            "user: unknown parameter; accepted are starting_at, ending_at, user_ids[], events[], after_id, limit",
        ),
        ("limit=0", "limit: must be between 1 and 1000"),
        ("after_id=x", "after_id: must be an audit event id"),
        ("after_id=99999999999999999999", "after_id: must be an audit event id"),
        ("starting_at=yesterday", "starting_at: must be an RFC 3339 timestamp such as 2031-02-03T00:00:00Z"),
        ("starting_at=2031-02-03T00:00:00Z&ending_at=2031-02-03T00:00:00Z", "starting_at: must be before ending_at"),
    ] {
        let answer = gateway.send(admin_get(&format!("{EVENTS}?{query}")));
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (400, &json!(message)), "{query}");
    }
    let answer = gateway.send(admin_get(&format!("{EVENTS}/export?format=xml")));
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["message"]),
        (400, &json!("format: must be ndjson or csv"))
    );
}

#[test]
fn an_export_is_complete_oldest_first_and_readable_by_spreadsheets() {
    let mut gateway = with_copy();
    let written = some_events(&mut gateway);
    let export = gateway.send(admin_get(&format!("{EVENTS}/export")));
    assert_eq!(export.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(export.text().lines().collect::<Vec<_>>(), written);

    let csv = gateway.send(admin_get(&format!("{EVENTS}/export?format=csv&events[]=inference")));
    let rows: Vec<&str> = csv.text().split("\r\n").collect();
    assert_eq!(rows[0], "id,ts,evt,request_id,sub,email,client_ip,result,reason,entry");
    assert_eq!((rows.len(), rows[2]), (3, ""));
    assert!(rows[1].contains(",inference,") && rows[1].contains(",ada,ada@example.test,"), "{}", rows[1]);
    assert!(rows[1].ends_with("}\""), "{}", rows[1]);

    gateway.db.is_down.set(true);
    assert!(gateway.send(admin_get(&format!("{EVENTS}/export"))).cut_off);
}

#[test]
fn the_copy_is_for_administrators_alone_and_only_where_it_is_kept() {
    let mut gateway = with_copy();
    let (admin, developer) = (gateway.token(&["finops"]), gateway.token(&["eng"]));
    for path in [EVENTS, "/v1/organizations/audit_events/export"] {
        assert_eq!(gateway.send(get(path)).status, 401);
        assert_eq!(gateway.send(get(path).bearer(&developer)).status, 401);
        assert_eq!(gateway.send(get(path).bearer(&admin)).status, 200);
        assert_eq!(gateway.send(request(http::Method::DELETE, path).bearer(&admin)).status, 404);
    }
    let mut without = TestGateway::with_config(ADMIN);
    let answer = without.send(admin_get(EVENTS));
    let message = json!("audit events are not kept: set audit.store to true");
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (404, &message));
}

#[test]
fn events_wait_for_a_database_that_is_away_and_old_ones_are_forgotten() {
    let mut gateway = with_copy();
    gateway.db.is_down.set(true);
    gateway.send(get("/v1/models"));
    assert!(gateway.log.lines().iter().any(|line| line.contains("could not be copied")));
    gateway.db.is_down.set(false);
    gateway.send(get("/v1/models"));
    assert_eq!(gateway.send(admin_get(EVENTS)).json()["data"].as_array().map(Vec::len), Some(2));

    gateway.clock.advance(Duration::from_hours(49));
    gateway.send(get("/v1/models"));
    assert_eq!(gateway.send(admin_get(EVENTS)).json()["data"].as_array().map(Vec::len), Some(1));
}
