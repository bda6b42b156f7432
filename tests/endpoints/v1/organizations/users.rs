//! `/v1/organizations/users`: erasing a person.

use std::time::Duration;

use futures_executor::block_on;
use http::Method;
use sallyport::store::NewSession;
use serde_json::{Value, json};

use super::{ADMIN, LIMITS, READ_KEY, WRITE_KEY, admin_get, admin_post};
use crate::support::{Answer, RequestBuilder, START, TestGateway, get, post, request};

const USERS: &str = "/v1/organizations/users";
const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

fn erase(query: &str) -> RequestBuilder {
    request(Method::DELETE, &format!("{USERS}?{query}")).header("x-api-key", WRITE_KEY)
}

fn read(gateway: &mut TestGateway, path: &str) -> Value {
    let answer = gateway.send(admin_get(path));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// A gateway where Ada has a session, a cap, and has spent half a cent; its audit trail is copied.
fn gateway() -> (TestGateway, String) {
    let mut gateway = TestGateway::with_config(&format!("{ADMIN}audit: {{store: true}}\n"));
    let session = NewSession {
        id: "s-1",
        subject: "ada",
        email: Some("ada@example.test"),
        name: Some("Ada"),
        means: "device",
        from: "192.0.2.9",
        client: "claude-code/2.1",
        key_id: "k",
        generation: 0,
        expires_at: START.plus(Duration::from_hours(1)),
    };
    assert!(block_on(gateway.gateway.store().begin_session(session, START)).expect("it runs"));
    let token = gateway.token_with(|claims| {
        claims["sid"] = json!("s-1");
        claims["groups"] = json!(["eng"]);
        claims["name"] = json!("Ada");
    });
    gateway.send(admin_post(&json!({"scope": {"type": "user", "user_id": "ada"}, "amount": "9", "period": "daily"})));
    gateway.http.answer(200, JSON, r#"{"usage":{"input_tokens":1000,"output_tokens":0}}"#);
    let asked = post("/v1/messages").bearer(&token).json(&json!({"model": "claude-opus-4-8"}));
    assert_eq!(gateway.send(asked).status, 200);
    (gateway, token)
}

#[test]
fn a_person_is_erased_once_and_their_money_goes_by_a_name_that_says_nothing() {
    let (mut gateway, token) = gateway();
    let cost = "/v1/organizations/analytics/cost?starting_at=2031-02-03T00:00:00Z";
    let total = read(&mut gateway, cost)["data"][0]["cost"].clone();
    let counts = json!({
        "deleted": {"principals": 1, "principal_groups": 1, "spend_limits": 1, "alerts": 0},
        // The cap was set, and is deleted now; the day, the week, the month, a row of the report, the request.
        "pseudonymized": {"sessions": 1, "spend": 5, "spend_limit_changes": 2, "audit_events": 2},
    });
    let looked = gateway.send(erase("user_id=ada&dry_run=true")).json();
    assert_eq!(
        looked,
        json!({
            "type": "user_erased", "user_id": "ada", "dry_run": true, "pseudonym": null,
            "deleted": counts["deleted"], "pseudonymized": counts["pseudonymized"],
        })
    );
    assert_eq!(gateway.send(get("/v1/models").bearer(&token)).status, 200, "nothing has happened yet");
    gateway.log.lines();

    let erased = gateway.send(erase("user_id=ada")).json();
    let pseudonym = erased["pseudonym"].as_str().expect("a name").to_owned();
    assert!(pseudonym.starts_with("erased-") && pseudonym.len() == 39, "{pseudonym}");
    assert_eq!((&erased["deleted"], &erased["pseudonymized"]), (&counts["deleted"], &counts["pseudonymized"]));
    let lines = gateway.log.lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let event: Value = serde_json::from_str(&lines[0]).expect("an event");
    assert!(event["request_id"].is_string());
    let told = [&event["evt"], &event["result"], &event["actor"], &event["pseudonym"], &event["sessions"]];
    assert_eq!(told, [&json!("user.erase"), &json!("success"), &json!("admin-key:ci"), &json!(pseudonym), &json!(1)]);

    assert_eq!(gateway.send(get("/v1/models").bearer(&token)).status, 401, "signed out");
    assert_eq!(read(&mut gateway, LIMITS)["data"], json!([]));
    assert_eq!(read(&mut gateway, "/v1/organizations/sessions?user_id=ada")["data"], json!([]));
    let changes = read(&mut gateway, &format!("{LIMITS}/audit"));
    for (index, action, image) in [(0, "spend_limit.delete", "before"), (1, "spend_limit.upsert", "after")] {
        let change = &changes["data"][index];
        assert_eq!((&change["action"], &change["actor"]), (&json!(action), &json!("admin-key:ci")));
        assert_eq!(change[image]["scope"], json!({"type": "user", "user_id": pseudonym}));
    }
    let people = read(&mut gateway, &format!("{LIMITS}/effective?period[]=daily"));
    let row = &people["data"][0];
    assert_eq!(
        (&row["period_to_date_spend"], &row["amount"], &row["groups"]),
        (&json!("0.5"), &json!(null), &json!([]))
    );
    assert_eq!(
        row["actor"],
        json!({"type": "user_actor", "user_id": pseudonym, "name": null, "email_address": null, "deleted": true})
    );
    assert_eq!(read(&mut gateway, cost)["data"][0]["cost"], total);
    let by_actor = format!("{cost}&group_by[]=actor&exclude_deleted_users=");
    assert_eq!(read(&mut gateway, &format!("{by_actor}false"))["data"][0]["group"]["actor"]["user_id"], pseudonym);
    assert_eq!(read(&mut gateway, &format!("{by_actor}true"))["data"], json!([]));
    let usage = "/v1/organizations/usage?starting_at=2031-02-03&group_by[]=user&group_by[]=session";
    let usage = read(&mut gateway, usage);
    assert_eq!(usage["data"][0]["session_id"], format!("{pseudonym}-1"));
    assert_eq!(usage["data"][0]["actor"]["deleted"], true);
    let trail = gateway.send(admin_get("/v1/organizations/audit_events"));
    assert!(trail.text().contains(&pseudonym) && trail.text().contains("\"inference\""), "{}", trail.text());
    for word in ["\"ada\"", "ada@example.test"] {
        assert!(!trail.text().contains(word), "{word}: {}", trail.text());
    }

    let again = gateway.send(erase("user_id=ada"));
    assert_eq!((again.status.as_u16(), &again.json()["pseudonym"]), (200, &json!(null)));
    let zeros = |answer: &Value| answer.as_object().is_some_and(|counts| counts.values().all(|count| *count == 0));
    assert!(zeros(&again.json()["deleted"]) && zeros(&again.json()["pseudonymized"]), "{}", again.text());
}

#[test]
fn a_request_that_ends_after_its_caller_was_erased_brings_nobody_back() {
    let (mut gateway, token) = gateway();
    // Another replica, which has not kept who Ada is a moment ago.
    let mut replica = gateway.replica();
    replica.http.answer(200, JSON, r#"{"usage":{"input_tokens":1000,"output_tokens":0}}"#);
    let answer = replica.begin(post("/v1/messages").bearer(&token).json(&json!({"model": "claude-opus-4-8"})));
    let pseudonym = gateway.send(erase("user_id=ada")).json()["pseudonym"].as_str().expect("a name").to_owned();
    gateway.clock.advance(Duration::from_secs(5));
    replica.end(answer);
    let people = read(&mut gateway, &format!("{LIMITS}/effective?period[]=daily"));
    assert_eq!(people["data"].as_array().map(Vec::len), Some(1), "{people}");
    assert_eq!(people["data"][0]["actor"]["user_id"], pseudonym);
    assert_eq!(people["data"][0]["period_to_date_spend"], "1");
    assert_eq!(gateway.db.number("SELECT COUNT(*) FROM principals"), 0);
}

#[test]
fn what_cannot_be_meant_erases_nobody() {
    let (mut gateway, _) = gateway();
    let message = |answer: &Answer| answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned();
    for (query, told) in [
        ("", "user_id: Required"),
        ("user_id=", "user_id: String must contain at least 1 character(s)"),
        ("user_id=ada&user_id=bob", "user_id: give it once"),
        ("user=ada", "user: unknown parameter; accepted are user_id, dry_run"),
        ("user_id=ada&force=true", "force: unknown parameter; accepted are user_id, dry_run"),
        ("user_id=ada&dry_run=yes", "dry_run: must be one of true, false"),
        ("user_id=ada&dry_run=", "dry_run: must be one of true, false"),
        ("user_id=ada&dry_run=true&dry_run=false", "dry_run: give it once"),
        ("user_id=erased-00112233445566778899aabbccddeeff", "user_id: is the pseudonym of somebody who was erased"),
    ] {
        let answer = gateway.send(erase(query));
        assert_eq!((answer.status.as_u16(), message(&answer)), (400, told.to_owned()), "{query}");
    }
    let finops = gateway.token_with(|claims| {
        claims["sub"] = json!("fin");
        claims["groups"] = json!(["finops"]);
    });
    let (developer, path) = (gateway.token(&["eng"]), format!("{USERS}?user_id=fin"));
    let answer = gateway.send(request(Method::DELETE, &path).bearer(&finops));
    let told = "user_id: is your own; use an admin key, or ask another administrator";
    assert_eq!((answer.status.as_u16(), message(&answer)), (400, told.to_owned()));
    for (asked, status, told) in [
        (request(Method::DELETE, &path).header("x-api-key", READ_KEY), 403, "requires write:users"),
        (request(Method::DELETE, &path).bearer(&developer), 401, "missing or invalid admin credentials"),
        (request(Method::DELETE, &path), 401, "missing or invalid admin credentials"),
        (get(USERS).header("x-api-key", WRITE_KEY), 404, "not found"),
        (post(USERS).header("x-api-key", WRITE_KEY), 404, "not found"),
    ] {
        let answer = gateway.send(asked);
        assert_eq!((answer.status.as_u16(), message(&answer)), (status, told.to_owned()));
    }
    assert_eq!(read(&mut gateway, "/v1/organizations/sessions")["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(gateway.db.number("SELECT COUNT(*) FROM principals"), 1);
    gateway.db.is_down.set(true);
    let answer = gateway.send(erase("user_id=ada"));
    assert_eq!((answer.status.as_u16(), message(&answer)), (500, "internal server error".to_owned()));
}
