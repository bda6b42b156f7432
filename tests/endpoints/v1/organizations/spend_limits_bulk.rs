//! `PUT /v1/organizations/spend_limits/bulk`: caps that are kept in a file.

use http::Method;
use serde_json::{Value, json};

use super::{ADMIN, LIMITS, READ_KEY, WRITE_KEY, admin_get, admin_post};
use crate::support::{Answer, TestGateway, request};

fn put(gateway: &mut TestGateway, body: &Value) -> Answer {
    gateway.send(request(Method::PUT, &format!("{LIMITS}/bulk")).header("x-api-key", WRITE_KEY).json(body))
}

fn apply(gateway: &mut TestGateway, body: &Value) -> Value {
    let answer = put(gateway, body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn read(gateway: &mut TestGateway, path: &str) -> Value {
    gateway.send(admin_get(path)).json()
}

/// What was done, as `action scope period before after`.
fn changes(answer: &Value) -> Vec<String> {
    let change = |change: &Value| {
        let scope = &change["scope"];
        let amount = |image: &Value| image["amount"].as_str().unwrap_or("-").to_owned();
        format!(
            "{} {} {} {} {}",
            change["action"].as_str().expect("text"),
            scope["user_id"].as_str().or_else(|| scope["rbac_group_id"].as_str()).unwrap_or("*"),
            change["period"].as_str().expect("text"),
            amount(&change["before"]),
            amount(&change["after"])
        )
    };
    answer["changes"].as_array().expect("a list").iter().map(change).collect()
}

fn wanted() -> Value {
    json!([
        {"scope": {"type": "organization"}, "amount": "100", "period": "daily"},
        {"scope": {"type": "user", "user_id": "ada"}, "amount": "5"},
        {"scope": {"type": "rbac_group", "rbac_group_id": "eng"}, "amount": "7", "pooled_budget": {"amount": "70"}},
    ])
}

#[test]
fn caps_become_what_the_list_says_and_each_change_is_recorded() {
    let mut gateway = TestGateway::with_config(ADMIN);
    gateway.send(admin_post(&json!({"scope": {"type": "user", "user_id": "ada"}, "amount": "4"})));
    gateway.send(admin_post(&json!({"scope": {"type": "user", "user_id": "old"}, "amount": "1"})));
    let expected =
        ["create * daily - 100", "update ada monthly 4 5", "create eng monthly - 7", "delete old monthly 1 -"];

    let planned = apply(&mut gateway, &json!({"limits": wanted(), "prune": true, "dry_run": true}));
    assert_eq!(changes(&planned), expected);
    assert_eq!((&planned["dry_run"], &planned["changes"][0]["after"]["id"]), (&json!(true), &json!(null)));
    let audit = |gateway: &mut TestGateway| read(gateway, &format!("{LIMITS}/audit"))["data"].as_array().map(Vec::len);
    assert_eq!(audit(&mut gateway), Some(2), "nothing was written");
    assert_eq!(read(&mut gateway, LIMITS)["data"].as_array().map(Vec::len), Some(2));

    let done = apply(&mut gateway, &json!({"limits": wanted(), "prune": true}));
    assert_eq!((changes(&done), &done["unchanged"]), (expected.map(str::to_owned).to_vec(), &json!(0)));
    assert_eq!(audit(&mut gateway), Some(6));
    let newest = read(&mut gateway, &format!("{LIMITS}/audit?limit=1"))["data"][0].clone();
    assert_eq!((&newest["action"], &newest["actor"]), (&json!("spend_limit.delete"), &json!("admin-key:ci")));
    assert_eq!(read(&mut gateway, LIMITS)["data"].as_array().map(Vec::len), Some(3));

    let again = apply(&mut gateway, &json!({"limits": wanted(), "prune": true}));
    assert_eq!((&again["changes"], &again["unchanged"]), (&json!([]), &json!(3)));
    assert_eq!(audit(&mut gateway), Some(6), "what is as it should be leaves no trace");
    let none = apply(&mut gateway, &json!({"limits": []}));
    assert_eq!(none["changes"], json!([]), "without prune nothing goes away");
}

#[test]
fn a_list_with_a_fault_changes_nothing() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let good = json!({"scope": {"type": "organization"}, "amount": "1"});
    let many: Vec<Value> = (0..1001).map(|_| good.clone()).collect();
    for (body, message) in [
        (json!([]), "Expected object, received array"),
        (json!({}), "limits: Required"),
        (json!({"limits": {}}), "limits: Expected array, received object"),
        (json!({"limits": many}), "limits: at most 1000 entries per request"),
        (json!({"limits": [], "purge": true}), "purge: unknown key; known are limits, prune, dry_run"),
        (json!({"limits": [], "prune": "yes"}), "prune: Expected boolean, received string"),
        (json!({"limits": [good, 7]}), "limits[1]: Expected object, received number"),
        (json!({"limits": [good, {"scope": {"type": "user", "user_id": "a"}}]}), "limits[1].amount: Required"),
        (
            json!({"limits": [good, {"scope": {"type": "organization"}, "amount": "2"}]}),
            "limits[1]: is the same limit as limits[0]",
        ),
        (
            json!({"limits": [good, {"scope": {"type": "user", "user_id": "a"}, "amount": "1", "pooled_budget": {}}]}),
            "limits[1].pooled_budget: only a cap of scope rbac_group can have one",
        ),
        (
            json!({"limits": [{"scope": {"type": "organization"}, "amount": -1}]}),
            "limits[0].amount: Expected string, received number",
        ),
        (
            json!({"limits": [{"scope": {"type": "organization"}, "amount": "1", "currency": "EUR"}]}),
            "limits[0].currency: Invalid literal value, expected \"USD\"",
        ),
    ] {
        let answer = put(&mut gateway, &body);
        assert_eq!((answer.status.as_u16(), answer.json()["error"]["message"].as_str()), (400, Some(message)));
    }
    assert_eq!(read(&mut gateway, LIMITS)["data"], json!([]));
    let body = json!({"limits": []});
    let reader = request(Method::PUT, &format!("{LIMITS}/bulk")).header("x-api-key", READ_KEY).json(&body);
    assert_eq!(gateway.send(reader).status, 403);
    let nobody = request(Method::PUT, &format!("{LIMITS}/bulk")).json(&body);
    assert_eq!(gateway.send(nobody).status, 401);
    let garbled = request(Method::PUT, &format!("{LIMITS}/bulk")).header("x-api-key", WRITE_KEY).body("{");
    assert_eq!(gateway.send(garbled).json()["error"]["message"], "invalid JSON body");
}
