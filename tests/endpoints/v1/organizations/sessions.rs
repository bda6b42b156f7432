//! `/v1/organizations/sessions`: who is signed in, and ending that.

use std::time::Duration;

use futures_executor::block_on;
use sallyport::store::NewSession;
use serde_json::{Value, json};

use super::{ADMIN, READ_KEY, WRITE_KEY, admin_get};
use crate::support::{Answer, RequestBuilder, START, TestGateway, get, request};

const SESSIONS: &str = "/v1/organizations/sessions";

fn delete(path: &str) -> RequestBuilder {
    request(http::Method::DELETE, path).header("x-api-key", WRITE_KEY)
}

/// A gateway where Ada has two sessions and Bob has one, a second apart.
fn gateway() -> TestGateway {
    let gateway = TestGateway::with_config(ADMIN);
    for (number, (id, subject)) in [("s-1", "ada"), ("s-2", "bob"), ("s-3", "ada")].into_iter().enumerate() {
        let session = NewSession {
            id,
            subject,
            email: (subject == "ada").then_some("ada@example.test"),
            name: None,
            means: "device",
            from: "192.0.2.9",
            client: "claude-code/2.1",
            key_id: "k",
            generation: 0,
            expires_at: START.plus(Duration::from_hours(1)),
        };
        let at = START.plus(Duration::from_secs(number as u64));
        assert!(block_on(gateway.gateway.store().begin_session(session, at)).expect("it runs"));
    }
    gateway
}

fn ids(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let body = answer.json();
    let data = body["data"].as_array().expect("a list");
    let ids: Vec<String> = data.iter().map(|session| session["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(body["first_id"].as_str(), ids.first().map(String::as_str));
    assert_eq!(body["last_id"].as_str(), ids.last().map(String::as_str));
    ids
}

fn token(gateway: &TestGateway, sid: &str, groups: &[&str]) -> String {
    gateway.token_with(|claims| {
        claims["sid"] = json!(sid);
        claims["groups"] = json!(groups);
    })
}

#[test]
fn sessions_are_listed_page_by_page() {
    let mut gateway = gateway();
    let answer = gateway.send(admin_get(SESSIONS));
    assert_eq!(ids(&answer), ["s-1", "s-2", "s-3"]);
    assert_eq!(answer.json()["has_more"], false);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(
        answer.json()["data"][0],
        json!({
            "type": "session", "id": "s-1", "user_id": "ada", "email_address": "ada@example.test", "name": null,
            "means": "device", "created_at": "2031-02-03T04:05:06.789Z", "created_from": "192.0.2.9",
            "user_agent": "claude-code/2.1", "last_refreshed_at": null, "last_refreshed_from": null,
            "expires_at": "2031-02-03T05:05:06.789Z",
        })
    );
    for (query, expected, has_more) in [
        ("limit=2", &["s-1", "s-2"][..], true),
        ("limit=2&after_id=s-2", &["s-3"], false),
        ("limit=1&before_id=s-3", &["s-2"], true),
        ("limit=2&before_id=s-3", &["s-1", "s-2"], false),
        ("user_id=ada", &["s-1", "s-3"], false),
        ("user_id=ada&limit=1", &["s-1"], true),
        ("user_id=ada&limit=1&after_id=s-1", &["s-3"], false),
        ("user_id=ADA", &[], false),
        ("user_id=%00%FF", &[], false),
    ] {
        let answer = gateway.send(admin_get(&format!("{SESSIONS}?{query}")));
        assert_eq!(ids(&answer), expected, "{query}");
        assert_eq!(answer.json()["has_more"], has_more, "{query}");
    }
    gateway.clock.advance(Duration::from_hours(1));
    assert!(ids(&gateway.send(admin_get(SESSIONS))).is_empty(), "what is over is not listed");
}

#[test]
fn a_query_that_is_wrong_is_told_what_is_wrong() {
    let mut gateway = gateway();
    for (query, message) in [
        ("limit=0", "limit: must be between 1 and 1000"),
        ("user=ada", "user: unknown parameter; accepted are user_id, limit, after_id, before_id"),
        ("limit=1001", "limit: must be between 1 and 1000"),
        ("limit=x", "limit: must be between 1 and 1000"),
        ("after_id=s-1&before_id=s-2", "after_id and before_id are mutually exclusive"),
        ("after_id=unknown", "after_id: no session with this id"),
        ("before_id=%00", "before_id: no session with this id"),
        ("user_id=", "user_id: String must contain at least 1 character(s)"),
    ] {
        let answer = gateway.send(admin_get(&format!("{SESSIONS}?{query}")));
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (400, &json!(message)), "{query}");
    }
    for (query, message) in [
        ("", "user_id: Required"),
        ("?user_id=", "user_id: String must contain at least 1 character(s)"),
        ("?user=ada", "give user_id, once, and nothing else"),
        ("?user_id=ada&user_id=bob", "give user_id, once, and nothing else"),
        ("?user_id=ada&dry_run=true", "give user_id, once, and nothing else"),
    ] {
        let answer = gateway.send(delete(&format!("{SESSIONS}{query}")));
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (400, &json!(message)), "{query}");
    }
    for (method, path, message) in [
        ("DELETE", "/unknown", "session not found"),
        ("DELETE", "/%00%FF'\"", "session not found"),
        ("DELETE", "/", "session not found"),
        ("DELETE", "/s-1/x", "not found"),
        ("GET", "/s-1", "not found"),
        ("POST", "", "not found"),
        ("PATCH", "/s-1", "not found"),
        ("OPTIONS", "", "not found"),
    ] {
        let asked = request(method.parse().expect("a method"), &format!("{SESSIONS}{path}"));
        let answer = gateway.send(asked.header("x-api-key", WRITE_KEY));
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (404, &json!(message)), "{path}");
    }
    assert_eq!(ids(&gateway.send(admin_get(SESSIONS))).len(), 3, "nobody was signed out");
}

#[test]
fn only_those_who_may_write_end_sessions() {
    let mut gateway = gateway();
    for path in [format!("{SESSIONS}/s-1"), format!("{SESSIONS}?user_id=ada")] {
        let answer = gateway.send(request(http::Method::DELETE, &path).header("x-api-key", READ_KEY));
        assert_eq!(answer.status, 403);
        assert_eq!(answer.json()["error"]["message"], "requires write:sessions");
        let developer = gateway.token(&["eng"]);
        for asked in [get(SESSIONS), request(http::Method::DELETE, &path)] {
            assert_eq!(gateway.send(asked.bearer(&developer)).status, 401);
        }
    }
    assert_eq!(ids(&gateway.send(admin_get(SESSIONS))).len(), 3);
    let mut without = TestGateway::new();
    let session = without.token(&[]);
    assert_eq!(without.send(get(SESSIONS).bearer(&session)).status, 404);
    assert_eq!(without.send(get(SESSIONS)).status, 401);
}

#[test]
fn an_ended_session_is_refused_and_audited() {
    let mut gateway = gateway();
    let (one, three) = (token(&gateway, "s-1", &[]), token(&gateway, "s-3", &[]));
    assert_eq!(gateway.send(get("/v1/models").bearer(&one)).status, 200);
    gateway.log.lines();

    let answer = gateway.send(delete(&format!("{SESSIONS}/s-1")));
    assert_eq!(answer.json(), json!({"type": "session_deleted", "id": "s-1"}));
    let audit = gateway.log.audit();
    let event = &audit[0];
    assert_eq!(
        (&event["evt"], &event["sid"], &event["sub"], &event["actor"], &event["client_ip"]),
        (&json!("session.revoke"), &json!("s-1"), &json!("ada"), &json!("admin-key:ci"), &json!("192.0.2.7"))
    );
    let answer = gateway.send(get("/v1/models").bearer(&one));
    assert_eq!((answer.status.as_u16(), answer.header("x-should-retry")), (401, Some("false")));
    assert_eq!(gateway.log.audit()[0]["reason"], "session_ended");
    assert_eq!(gateway.send(get("/v1/models").bearer(&three)).status, 200);
    assert_eq!(gateway.send(delete(&format!("{SESSIONS}/s-1"))).status, 404, "once");
}

#[test]
fn everything_that_one_person_has_is_ended_together() {
    let mut gateway = gateway();
    // An administrator's own session is no exception.
    let admin = token(&gateway, "s-3", &["finops"]);
    let bob = token(&gateway, "s-2", &["finops"]);
    gateway.log.lines();
    let path = format!("{SESSIONS}?user_id=ada");
    let answer = gateway.send(request(http::Method::DELETE, &path).bearer(&admin));
    let mut body = answer.json();
    body["ids"].as_array_mut().expect("a list").sort_by_key(Value::to_string);
    assert_eq!(body, json!({"type": "sessions_deleted", "user_id": "ada", "ids": ["s-1", "s-3"]}));
    let audit = gateway.log.audit();
    assert_eq!(audit.len(), 2);
    assert!(audit.iter().all(|event| event["evt"] == "session.revoke" && event["actor"] == "oidc:ada"));
    assert_eq!(gateway.send(request(http::Method::DELETE, &path).bearer(&admin)).status, 401);
    let again = gateway.send(request(http::Method::DELETE, &path).bearer(&bob));
    assert_eq!(again.json()["ids"], json!([]));
    assert_eq!(ids(&gateway.send(admin_get(SESSIONS))), ["s-2"]);
}

#[test]
fn a_verdict_is_not_asked_for_with_every_request() {
    let mut gateway = gateway();
    let token = token(&gateway, "s-1", &[]);
    assert_eq!(gateway.send(get("/v1/models").bearer(&token)).status, 200);
    let before = gateway.db.statements.get();
    for _ in 0..100 {
        assert_eq!(gateway.send(get("/v1/models").bearer(&token)).status, 200);
    }
    assert_eq!(gateway.db.statements.get(), before);
    gateway.clock.advance(Duration::from_secs(3));
    for _ in 0..100 {
        assert_eq!(gateway.send(get("/v1/models").bearer(&token)).status, 200);
    }
    assert_eq!(gateway.db.statements.get(), before + 1);
}

#[test]
fn the_store_being_away_is_said_and_changes_nothing() {
    let mut gateway = gateway();
    gateway.db.is_down.set(true);
    for asked in [admin_get(SESSIONS), delete(&format!("{SESSIONS}/s-1")), delete(&format!("{SESSIONS}?user_id=ada"))] {
        let answer = gateway.send(asked);
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["type"]), (500, &json!("api_error")));
    }
    gateway.db.is_down.set(false);
    assert_eq!(ids(&gateway.send(admin_get(SESSIONS))).len(), 3);
}
