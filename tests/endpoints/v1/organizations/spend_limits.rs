//! `/v1/organizations/spend_limits`: caps through their whole life.

use std::time::Duration;

use serde_json::{Value, json};

use super::{ADMIN, LIMITS, WRITE_KEY, admin_get, admin_post};
use crate::support::{TestGateway, post, request};

fn user(name: &str) -> Value {
    json!({"type": "user", "user_id": name})
}

fn set(gateway: &mut TestGateway, body: &Value) -> Value {
    let answer = gateway.send(admin_post(body));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

fn read(gateway: &mut TestGateway, path: &str) -> Value {
    let answer = gateway.send(admin_get(path));
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

fn refusal(gateway: &mut TestGateway, path: &str) -> String {
    let answer = gateway.send(admin_get(path));
    assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    answer.json()["error"]["message"].as_str().expect("text").to_owned()
}

#[test]
fn a_cap_is_set_replaced_read_and_deleted_and_each_change_is_recorded() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let group = json!({"type": "rbac_group", "rbac_group_id": "ops"});
    let first = set(&mut gateway, &json!({"scope": group, "amount": "0100", "unknown": 1}));
    assert_eq!(
        first,
        json!({
            "type": "spend_limit", "id": first["id"], "created_at": "2031-02-03T04:05:06.789Z",
            "updated_at": "2031-02-03T04:05:06.789Z", "scope": group, "amount": "100", "currency": "USD",
            "period": "monthly", "pooled_budget": null,
        })
    );
    let id = first["id"].as_str().expect("text").to_owned();
    assert!(id.len() == 36 && id.starts_with("spl_"), "{id}");
    gateway.clock.advance(Duration::from_secs(1));
    let pool = json!({"amount": "500"});
    let second = set(&mut gateway, &json!({"scope": group, "amount": "200", "pooled_budget": pool}));
    assert_eq!((&second["id"], &second["created_at"]), (&first["id"], &first["created_at"]));
    assert_eq!(second["updated_at"], "2031-02-03T04:05:07.789Z");
    assert_eq!(
        second["pooled_budget"],
        json!({"amount": "500", "paused": false, "currency": "USD", "period_to_date_spend": "0"})
    );
    assert_eq!(read(&mut gateway, &format!("{LIMITS}/{id}")), second);
    let deletion = request("DELETE".parse().expect("a method"), &format!("{LIMITS}/{id}"));
    let answer = gateway.send(deletion.header("x-api-key", WRITE_KEY));
    assert_eq!(answer.json(), json!({"type": "spend_limit_deleted", "id": id}));
    let third = set(&mut gateway, &json!({"scope": group, "amount": null}));
    assert_ne!(third["id"], first["id"]);
    assert_eq!((&third["amount"], &third["pooled_budget"]), (&json!(null), &json!(null)));

    let audit = read(&mut gateway, &format!("{LIMITS}/audit?limit=3"));
    assert_eq!(audit["has_more"], true);
    let actions: Vec<&Value> = audit["data"].as_array().expect("a list").iter().map(|row| &row["action"]).collect();
    assert_eq!(actions, ["spend_limit.upsert", "spend_limit.delete", "spend_limit.upsert"]);
    let changed = &audit["data"][2];
    assert_eq!(
        changed,
        &json!({
            "type": "audit_event", "id": changed["id"], "created_at": "2031-02-03T04:05:07.789Z",
            "actor": "admin-key:ci", "action": "spend_limit.upsert", "target_id": id,
            "before": {"id": id, "scope": group, "amount": "100", "period": "monthly", "currency": "USD",
                "created_at": "2031-02-03T04:05:06.789Z", "updated_at": "2031-02-03T04:05:06.789Z",
                "pooled_budget": null},
            "after": {"id": id, "scope": group, "amount": "200", "period": "monthly", "currency": "USD",
                "created_at": "2031-02-03T04:05:06.789Z", "updated_at": "2031-02-03T04:05:07.789Z",
                "pooled_budget": {"amount": "500", "paused": false}},
            "reason": null,
        })
    );
    let last = changed["id"].as_str().expect("text");
    let older = read(&mut gateway, &format!("{LIMITS}/audit?after_id={last}"));
    assert_eq!((older["data"].as_array().map(Vec::len), &older["has_more"]), (Some(1), &json!(false)));
    assert_eq!(older["data"][0]["before"], json!(null));
    assert_eq!(refusal(&mut gateway, &format!("{LIMITS}/audit?after_id=x")), "after_id: must be an audit event id");
    let events = gateway.log.audit();
    let names: Vec<&Value> = events.iter().map(|event| &event["evt"]).collect();
    let upsert = "admin.limit.upsert";
    assert_eq!(names, [upsert, upsert, "admin.limit.delete", upsert]);
    assert_eq!((&events[0]["amount"], &events[3]["amount"]), (&json!("100"), &json!(null)));
    assert_eq!(events[2].get("amount"), None);
}

#[test]
fn a_body_that_is_wrong_changes_nothing() {
    let mut gateway = TestGateway::with_config(ADMIN);
    for (body, message) in [
        ("", "invalid JSON body"),
        ("[]", "Expected object, received array"),
        (r#"{"scope":{"type":"organization"}}"#, "amount: Required"),
        (
            r#"{"scope":{"type":"organization"},"amount":"1","pooled_budget":{"amount":"5"}}"#,
            "pooled_budget: only a cap of scope rbac_group can have one",
        ),
    ] {
        let answer = gateway.send(post(LIMITS).header("x-api-key", WRITE_KEY).body(body));
        assert_eq!((answer.status.as_u16(), &answer.json()["error"]["message"]), (400, &json!(message)), "{body}");
    }
    assert_eq!(read(&mut gateway, LIMITS), json!({"data": [], "has_more": false, "first_id": null, "last_id": null}));
    assert_eq!(read(&mut gateway, &format!("{LIMITS}/audit"))["data"], json!([]));
}

#[test]
fn text_that_looks_like_sql_is_text() {
    let mut gateway = TestGateway::with_config(ADMIN);
    for name in ["'; DROP TABLE spend_limits; --", "a\"b", "$1", "?1", "\u{1f600}", "%", "a:b#1"] {
        let cap = set(&mut gateway, &json!({"scope": user(name), "amount": "1"}));
        assert_eq!(cap["scope"]["user_id"], name);
    }
    assert_eq!(read(&mut gateway, LIMITS)["data"].as_array().map(Vec::len), Some(7));
}

#[test]
fn the_list_is_paged_in_both_directions() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let ids: Vec<String> = (0..5)
        .map(|index| {
            let body = json!({"scope": user(&format!("u{index}")), "amount": "1", "period": "daily"});
            set(&mut gateway, &body)["id"].as_str().expect("text").to_owned()
        })
        .collect();
    for (query, expected, has_more) in [
        ("limit=2".to_owned(), 0..2, true),
        ("limit=5&limit=1".to_owned(), 0..5, false),
        (format!("limit=2&after_id={}", ids[1]), 2..4, true),
        (format!("limit=2&after_id={}", ids[2]), 3..5, false),
        (format!("limit=2&before_id={}", ids[4]), 2..4, true),
        (format!("limit=2&before_id={}", ids[2]), 0..2, false),
        (format!("before_id={}", ids[0]), 0..0, false),
        ("scope_type=rbac_group&x=y".to_owned(), 0..0, false),
    ] {
        let page = read(&mut gateway, &format!("{LIMITS}?{query}"));
        let found: Vec<&str> =
            page["data"].as_array().expect("a list").iter().filter_map(|cap| cap["id"].as_str()).collect();
        assert_eq!(found, ids[expected.clone()], "{query}");
        assert_eq!(page["has_more"], has_more, "{query}");
        assert_eq!(page["first_id"].as_str(), ids[expected.clone()].first().map(String::as_str));
        assert_eq!(page["last_id"].as_str(), ids[expected].last().map(String::as_str));
    }
    let range = "limit: must be between 1 and 1000";
    for (query, message) in [
        ("limit=0", range),
        ("limit=1001", range),
        ("limit=x", range),
        ("limit=1.5", range),
        ("limit=", range),
        ("limit=%2B5", range),
        ("after_id=a&before_id=b", "after_id and before_id are mutually exclusive"),
        ("after_id=a", "after_id: no spend limit with this id"),
        ("before_id=a", "before_id: no spend limit with this id"),
        ("scope_type=team", "scope_type: must be one of organization, rbac_group, user"),
    ] {
        assert_eq!(refusal(&mut gateway, &format!("{LIMITS}?{query}")), message, "{query}");
    }
}

#[test]
fn caps_that_are_added_while_somebody_pages_neither_hide_nor_repeat_others() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let add = |gateway: &mut TestGateway, name: String| {
        set(gateway, &json!({"scope": user(&name), "amount": "1"}))["id"].as_str().expect("text").to_owned()
    };
    let first: Vec<String> = (0..7).map(|index| add(&mut gateway, format!("u{index}"))).collect();
    let ids = |page: &Value| -> Vec<String> {
        let caps = page["data"].as_array().expect("a list");
        caps.iter().filter_map(|cap| cap["id"].as_str().map(str::to_owned)).collect()
    };
    let (mut forward, mut cursor, mut added) = (Vec::new(), String::new(), Vec::new());
    loop {
        let page = read(&mut gateway, &format!("{LIMITS}?limit=2{cursor}"));
        forward.extend(ids(&page));
        if page["has_more"] == false {
            break;
        }
        if added.len() < 3 {
            added.push(add(&mut gateway, format!("new{}", added.len())));
        }
        cursor = format!("&after_id={}", page["last_id"].as_str().expect("an id"));
    }
    assert_eq!(forward, [first.clone(), added.clone()].concat());
    let (mut backward, mut cursor) = (Vec::new(), added[2].clone());
    loop {
        let page = read(&mut gateway, &format!("{LIMITS}?limit=3&before_id={cursor}"));
        backward.splice(0..0, ids(&page));
        if page["has_more"] == false {
            break;
        }
        add(&mut gateway, format!("late{}", backward.len()));
        cursor = page["first_id"].as_str().expect("an id").to_owned();
    }
    assert_eq!(backward, forward[..9]);
}

#[test]
fn effective_caps_come_with_their_source_and_what_was_spent() {
    let mut gateway = TestGateway::with_config(ADMIN);
    for (name, groups) in [("bob", &["ops"][..]), ("ada", &["eng"]), ("cyd", &[])] {
        let token = gateway.token_with(|claims| {
            claims["sub"] = json!(name);
            claims["name"] = json!(name.to_uppercase());
            claims["groups"] = json!(groups);
        });
        let usage = json!({"usage": {"input_tokens": name.as_bytes()[0], "output_tokens": 0}});
        gateway.http.answer(200, &[("content-type", "application/json")], usage.to_string());
        gateway.send(post("/v1/messages").bearer(&token).json(&json!({"model": "claude-opus-4-8"})));
    }
    let cap = set(
        &mut gateway,
        &json!({"scope": {"type": "rbac_group", "rbac_group_id": "eng"}, "amount": null, "period": "daily"}),
    );
    let organization = json!({"scope": {"type": "organization"}, "amount": "7", "period": "daily"});
    let organization = set(&mut gateway, &organization);
    let path = format!("{LIMITS}/effective");
    let rows = read(&mut gateway, &path)["data"].clone();
    let described: Vec<(&str, &str)> = rows
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|row| Some((row["scope"]["user_id"].as_str()?, row["period"].as_str()?)))
        .collect();
    let periods = ["daily", "weekly", "monthly"];
    let expected: Vec<(&str, &str)> =
        ["ada", "bob", "cyd"].into_iter().flat_map(|name| periods.map(|period| (name, period))).collect();
    assert_eq!(described, expected);
    assert_eq!(
        rows[0],
        json!({
            "scope": user("ada"), "groups": ["eng"],
            "actor": {"type": "user_actor", "user_id": "ada", "name": "ADA", "email_address": "ada@example.test", "deleted": false},
            "amount": null, "currency": "USD", "period": "daily",
            "source": {"type": "rbac_group", "rbac_group_id": "eng"}, "spend_limit_id": cap["id"],
            "period_to_date_spend": "0.049", "projected_spend": "0.285",
        })
    );
    assert_eq!((&rows[3]["amount"], &rows[3]["spend_limit_id"]), (&json!("7"), &organization["id"]));
    assert_eq!((&rows[4]["amount"], &rows[4]["source"]), (&json!(null), &json!(null)));

    let page = read(&mut gateway, &format!("{path}?period[]=daily&limit=2&sort=spend_desc"));
    let names = |page: &Value| -> Vec<String> {
        let rows = page["data"].as_array().expect("a list");
        rows.iter().filter_map(|row| row["scope"]["user_id"].as_str().map(str::to_owned)).collect()
    };
    assert_eq!(names(&page), ["cyd", "bob"]);
    let token = page["next_page"].as_str().expect("a token");
    let rest = read(&mut gateway, &format!("{path}?period[]=daily&limit=2&sort=spend_desc&page={token}"));
    assert_eq!((names(&rest), &rest["next_page"]), (vec!["ada".to_owned()], &json!(null)));
    let page = read(&mut gateway, &format!("{path}?period[]=daily&limit=1"));
    let token = page["next_page"].as_str().expect("a token");
    assert_eq!(names(&read(&mut gateway, &format!("{path}?period[]=daily&limit=1&page={token}"))), ["bob"]);
    assert_eq!(names(&read(&mut gateway, &format!("{path}?period[]=daily&q=BO"))), ["bob"]);
    let named = read(&mut gateway, &format!("{path}?period[]=weekly&user_ids[]=new&user_ids[]=ada&limit=1&q=zz"));
    assert_eq!(names(&named), ["ada", "new"]);
    assert_eq!(named["data"][1]["actor"]["name"], json!(null));

    let many = "user_ids[]=x&".repeat(101);
    for (query, message) in [
        ("sort=x", "sort: must be spend_desc"),
        ("sort=spend_desc", "sort=spend_desc requires exactly one period[]"),
        ("sort=spend_desc&period[]=daily&period[]=weekly", "sort=spend_desc requires exactly one period[]"),
        ("period[]=yearly", "period[]: must be one of daily, weekly, monthly"),
        ("page=x", "page: invalid page token"),
        ("page=W10", "page: invalid page token"),
        ("limit=0", "limit: must be between 1 and 1000"),
        (many.as_str(), "user_ids[]: at most 100 entries per request"),
    ] {
        assert_eq!(refusal(&mut gateway, &format!("{path}?{query}")), message, "{query}");
    }
}
