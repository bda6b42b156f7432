//! `GET /v1/organizations/analytics/cost`.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::{ADMIN, admin_get};
use crate::support::{TestGateway, post};

const COST: &str = "/v1/organizations/analytics/cost";

fn read(gateway: &mut TestGateway, query: &str) -> Value {
    let answer = gateway.send(admin_get(&format!("{COST}?{query}")));
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    answer.json()
}

fn refusal(gateway: &mut TestGateway, query: &str) -> String {
    let answer = gateway.send(admin_get(&format!("{COST}?{query}")));
    assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    answer.json()["error"]["message"].as_str().expect("text").to_owned()
}

/// Ada spends a cent each day, Bob two on the second day; sessions last for the whole test.
fn two_days() -> TestGateway {
    let mut gateway = TestGateway::with_config(ADMIN);
    let spend = |gateway: &mut TestGateway, name: &str, groups: &[&str], searches: u64| {
        let token = gateway.token_with(|claims| {
            claims["sub"] = json!(name);
            claims["groups"] = json!(groups);
            claims["exp"] = json!(2_000_000_000);
        });
        let usage = json!({"usage": {"input_tokens": 0, "server_tool_use": {"web_search_requests": searches}}});
        gateway.http.answer(200, &[("content-type", "application/json")], usage.to_string());
        gateway.send(post("/v1/messages").bearer(&token).json(&json!({"model": "claude-opus-4-8"})));
    };
    spend(&mut gateway, "ada", &["eng", "ops"], 1);
    gateway.clock.advance(Duration::from_hours(24));
    spend(&mut gateway, "ada", &["eng"], 1);
    spend(&mut gateway, "bob", &["ops"], 2);
    gateway
}

#[test]
fn costs_are_told_in_total_by_day_by_person_and_by_group() {
    let mut gateway = two_days();
    let rows = |page: &Value| -> Vec<String> {
        let rows = page["data"].as_array().expect("a list");
        let row = |row: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let (group, day) = (&row["group"], &text(&row["starting_at"])[..10]);
            format!(
                "{day} {} {} {}",
                text(&group["actor"]["user_id"]),
                text(&group["rbac_group_id"]),
                text(&row["cost"]["amount"])
            )
        };
        rows.iter().map(row).collect()
    };
    for (query, expected) in [
        ("", &["2031-02-01 - - 4.000000"][..]),
        ("&group_by[]=actor", &["2031-02-01 ada - 2.000000", "2031-02-01 bob - 2.000000"]),
        ("&group_by[]=rbac_group_id", &["2031-02-01 - ops 3.000000", "2031-02-01 - eng 2.000000"]),
        ("&rbac_group_ids[]=ops&rbac_group_ids[]=eng", &["2031-02-01 - - 4.000000"]),
        ("&rbac_group_ids[]=ops", &["2031-02-01 - - 3.000000"]),
        ("&actor_ids[]=bob", &["2031-02-01 - - 2.000000"]),
        (
            "&time_bucket_width=1d&order_by=time&order=asc&ending_at=2031-02-09T00:00:00Z",
            &["2031-02-03 - - 1.000000", "2031-02-04 - - 3.000000"],
        ),
        ("&actor_ids[]=nobody", &[]),
    ] {
        let page = read(&mut gateway, &format!("starting_at=2031-02-01T00:00:00Z{query}"));
        assert_eq!(rows(&page), expected, "{query}");
    }
    let page = read(&mut gateway, "starting_at=2031-02-01T00:00:00Z&group_by[]=actor&actor_ids[]=ada");
    let members = page["data"][0]["group"]["actor"].as_object().expect("an actor");
    assert!(members.keys().eq(["type", "user_id", "email_address", "name", "deleted"]), "the contract's order");
    let row = &page["data"][0];
    assert_eq!((&row["ending_at"], &row["cost"]["requests"]), (&json!("2031-02-05T00:00:00Z"), &json!(null)));
    assert_eq!(row["group"]["actor"]["email_address"], "ada@example.test");
    assert_eq!(row["group"].as_object().map(serde_json::Map::len), Some(21));
    assert_eq!(page["data_refreshed_at"], "2031-02-04T04:05:06.789Z");
}

#[test]
fn pages_of_a_range_that_may_still_grow_end_with_the_first() {
    let mut gateway = two_days();
    for (now_later, is_good) in [(0, false), (20, false), (21, true)] {
        gateway.clock.advance(Duration::from_hours(now_later));
        let range = "starting_at=2031-02-01T00:00:00Z&ending_at=2031-02-05T00:00:00Z&group_by[]=actor&limit=1";
        let first = read(&mut gateway, range);
        assert_eq!(first["has_more"], true);
        let token = first["next_page"].as_str().expect("a token").to_owned();
        let next = format!("{range}&page={token}");
        if is_good {
            assert_eq!(read(&mut gateway, &next)["data"].as_array().map(Vec::len), Some(1));
            let other = next.replace("group_by[]=actor", "group_by[]=rbac_group_id");
            assert_eq!(refusal(&mut gateway, &other), "page: invalid page token");
        } else if now_later == 0 {
            assert_eq!(refusal(&mut gateway, &next), "page: invalid page token");
        }
    }
}

#[test]
fn what_is_wrong_is_named() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let many = format!("starting_at=2031-02-01T00:00:00Z{}", "&actor_ids[]=x".repeat(101));
    for (query, message) in [
        ("starting_at=2031-02-01", "starting_at: must be an RFC 3339 timestamp"),
        ("starting_at=2031-02-01T00:00:00", "starting_at: must be an RFC 3339 timestamp"),
        ("starting_at=2031-02-01T00:00Z", "starting_at: must be an RFC 3339 timestamp"),
        (
            "starting_at=%F0%9F%98%80%F0%9F%98%80%F0%9F%98%80%F0%9F%98%80%F0%9F%98%80%F0%9F%98%80",
            "starting_at: must be",
        ),
        ("starting_at=2031-02-05T00:00:00Z", "starting_at: must be before ending_at, which defaults to now"),
        (
            "starting_at=2031-02-03T00:00:00Z&ending_at=2031-02-02T00:00:00Z",
            "starting_at: must be before ending_at, which defaults to now",
        ),
        (
            "starting_at=2031-01-01T00:00:00Z&ending_at=2031-02-02T00:00:00Z",
            "ending_at: the range may span at most 31 days",
        ),
        ("starting_at=2031-02-01T00:00:00Z&time_bucket_width=1d", "ending_at: required when time_bucket_width is set"),
        ("starting_at=2031-02-01T00:00:00Z&time_bucket_width=1h", "time_bucket_width: must be one of 1d"),
        ("starting_at=2031-02-01T00:00:00Z&group_by[]=model", "group_by[]: must be"),
        ("starting_at=2031-02-01T00:00:00Z&exclude_deleted_users=true", "exclude_deleted_users: requires"),
        ("starting_at=2031-02-01T00:00:00Z&order=up", "order: must be one of asc, desc"),
        ("starting_at=2031-02-01T00:00:00Z&order_by=x", "order_by: must be one of"),
        ("starting_at=2031-02-01T00:00:00Z&actor_types[]=x", "actor_types[]: must be user_actor"),
        ("starting_at=2031-02-01T00:00:00Z&models[]=x", "models[]: unknown parameter; accepted are starting_at,"),
        ("", "starting_at: Required"),
        (&many, "actor_ids[]: at most 100 entries per request"),
    ] {
        let told = refusal(&mut gateway, query);
        assert!(told.starts_with(message), "{query}: {told}");
    }
    for starting_at in [
        "2031-02-01t00:00:00z",
        "2031-02-01%2000:00:00Z",
        "2031-02-01T00:00:00.123Z",
        "2031-02-01T00:00:00%2B02:00",
        "2031-02-01T00:00:00+02:00",
    ] {
        assert_eq!(read(&mut gateway, &format!("starting_at={starting_at}"))["data"], json!([]), "{starting_at}");
    }
}
