//! `GET /v1/organizations/explain`.

use serde_json::{Value, json};

use super::{ADMIN, LIMITS, READ_KEY, WRITE_KEY, admin_get, admin_post};
use crate::support::{TestGateway, get, post, request};

const PATH: &str = "/v1/organizations/explain";

const POLICIES: &str = "
models: [{id: house-model, upstream_model: {a: somebody-elses-model}}]
managed:
  policies:
    - match: {groups: [contractors]}
      cli: {availableModels: [haiku]}
    - match: {groups: [eng]}
      cli: {availableModels: [opus, house-model], permissions: {deny: [WebFetch]}}
    - cli: {permissions: {deny: [Bash]}}
";

fn gateway() -> TestGateway {
    TestGateway::with_config(&format!("{ADMIN}{POLICIES}"))
}

fn explained(gateway: &mut TestGateway, query: &str) -> Value {
    let answer = gateway.send(admin_get(&format!("{PATH}?{query}")));
    assert_eq!(answer.status, 200, "{query}");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    answer.json()
}

#[test]
fn policies_settings_models_upstreams_and_caps_are_told() {
    let mut gateway = gateway();
    for (scope, amount, period) in [
        (json!({"type": "organization"}), json!("900"), "daily"),
        (json!({"type": "rbac_group", "rbac_group_id": "eng"}), json!(null), "weekly"),
        (json!({"type": "user", "user_id": "ada"}), json!("5"), "monthly"),
    ] {
        let set = admin_post(&json!({"scope": scope, "amount": amount, "period": period}));
        assert_eq!(gateway.send(set).status, 200);
    }

    let said = explained(&mut gateway, "email=ada%40example.com&groups=eng,staff&user_id=ada&model=claude-opus-4-8");

    let outcomes: Vec<_> = said["policies"].as_array().expect("a list").iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, ["does not match", "matches", "merged below"]);
    assert_eq!(said["policies"][0]["reason"], "not in any of the groups contractors");
    assert_eq!(said["merged"], json!([1, 2]));
    assert_eq!(said["settings"]["permissions"]["deny"], json!(["Bash", "WebFetch"]));
    assert_eq!(said["models"][0], json!({"id": "house-model", "source": "models[0]"}));
    assert_eq!(said["models"][1]["source"], "built in");
    assert_eq!(said["upstreams"][0]["models"].as_array().map(Vec::len), said["models"].as_array().map(Vec::len));
    assert_eq!(said["model"]["denied"], Value::Null);
    assert_eq!(said["model"]["upstreams"][0]["model"], "claude-opus-4-8");
    let caps = &said["caps"];
    assert_eq!((&caps["status"], &caps["is_blocked"]), (&json!("known"), &json!(false)));
    let cap = |index: usize| {
        let cap = &caps["periods"][index];
        (cap["period"].clone(), cap["amount"].clone(), cap["source"]["type"].clone())
    };
    assert_eq!(cap(0), (json!("daily"), json!("900"), json!("organization")));
    assert_eq!(cap(1), (json!("weekly"), json!(null), json!("rbac_group")));
    assert_eq!(cap(2), (json!("monthly"), json!("5"), json!("user")));
    assert_eq!(caps["periods"][2]["resets_at"], "2031-03-01T00:00:00.000Z");
}

#[test]
fn whoever_was_seen_before_needs_no_groups_and_no_id() {
    let mut gateway = gateway();
    let token = gateway.token(&["eng"]);
    gateway.http.answer(
        200,
        &[("content-type", "application/json")],
        r#"{"usage":{"input_tokens":1000000,"output_tokens":1}}"#,
    );
    let asked = post("/v1/messages").bearer(&token).json(&json!({"model": "claude-opus-4-8", "messages": []}));
    assert_eq!(gateway.send(asked).status, 200);
    let listed = gateway.send(admin_get(&format!("{LIMITS}/effective"))).json();
    let actor = &listed["data"][0]["actor"];
    let (email, user_id) = (actor["email_address"].as_str().expect("known"), actor["user_id"].as_str().expect("known"));

    let said = explained(&mut gateway, &format!("email={}", email.to_uppercase().replace('@', "%40")));

    assert_eq!((&said["user_id"], &said["groups"]), (&json!(user_id), &json!(["eng"])));
    assert_eq!((&said["groups_from"], &said["policies"][1]["outcome"]), (&json!("last_seen"), &json!("matches")));
    assert_eq!(said["caps"]["periods"][0]["period_to_date_spend"], "500.003");
    // What the question says wins.
    let said = explained(&mut gateway, &format!("user_id={user_id}&groups="));
    assert_eq!((&said["groups"], &said["groups_from"]), (&json!([]), &json!("question")));
    let said = explained(&mut gateway, "groups[]=a,b&groups[]=c");
    assert_eq!((&said["groups"], &said["user_id"]), (&json!(["a,b", "c"]), &Value::Null));
}

#[test]
fn it_is_for_administrators_answers_without_a_database_and_says_what_it_needs() {
    let mut gateway = gateway();
    let developer = gateway.token(&["eng"]);
    let path = format!("{PATH}?email=a%40example.com");
    for (asked, status) in [
        (get(&path), 401),
        (get(&path).bearer(&developer), 401),
        (get(&path).header("x-api-key", READ_KEY), 200),
        (get(PATH).header("x-api-key", READ_KEY), 400),
        (get(&format!("{PATH}?email=")).header("x-api-key", READ_KEY), 400),
        (request("DELETE".parse().expect("a method"), &path).header("x-api-key", WRITE_KEY), 404),
    ] {
        assert_eq!(gateway.send(asked).status.as_u16(), status);
    }
    let answer = gateway.send(admin_get(PATH));
    assert_eq!(answer.json()["error"]["message"], "email: Required, unless groups or user_id are given");

    gateway.db.is_down.set(true);
    let said = explained(&mut gateway, "email=a%40example.com&groups=eng");
    assert_eq!(said["caps"]["status"], "unknown");
    assert_eq!(said["policies"][1]["outcome"], "matches");
}
