//! `GET /v1/organizations/usage`, and `/v1/organizations/spend_reservations`.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{ADMIN, admin_get};
use crate::support::{TestGateway, post};

const USAGE: &str = "/v1/organizations/usage";

fn read(gateway: &mut TestGateway, query: &str) -> Value {
    let answer = gateway.send(admin_get(&format!("{USAGE}?{query}")));
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    answer.json()
}

fn refusal(gateway: &mut TestGateway, path: &str) -> String {
    let answer = gateway.send(admin_get(path));
    assert_eq!(answer.status, 400, "{path}: {}", answer.text());
    answer.json()["error"]["message"].as_str().expect("text").to_owned()
}

fn ask(gateway: &mut TestGateway, name: &str, groups: &[&str], model: &str, input: u64) {
    let token = gateway.token_with(|claims| {
        claims["sub"] = json!(name);
        claims["name"] = json!(format!("=\"{name}\", the first\n"));
        claims["groups"] = json!(groups);
        claims["exp"] = json!(2_000_000_000);
        claims["sid"] = json!(format!("s-{name}"));
    });
    let usage = json!({"usage": {
        "input_tokens": input, "output_tokens": 2, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 4,
        "server_tool_use": {"web_search_requests": 1},
    }});
    gateway.http.answer(200, &[("content-type", "application/json")], usage.to_string());
    let answer = gateway.send(post("/v1/messages").bearer(&token).json(&json!({"model": model})));
    assert_eq!(answer.status, 200);
}

/// Ada asks twice on the first day, and once on the second; so does Bob, once, of another model.
fn two_days() -> TestGateway {
    let mut gateway = TestGateway::with_config(ADMIN);
    ask(&mut gateway, "ada", &["eng", "ops"], "claude-opus-4-8", 100);
    ask(&mut gateway, "ada", &["eng", "ops"], "claude-opus-4-8", 100);
    gateway.clock.advance(Duration::from_hours(24));
    ask(&mut gateway, "ada", &["eng"], "claude-opus-4-8", 10);
    ask(&mut gateway, "bob", &["ops"], "claude-haiku-4-5", 1000);
    gateway
}

/// A row in one line: what it is of, requests, input, cost.
fn line(row: &Value) -> String {
    let text = |pointer: &str| row.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned();
    let of = ["/day", "/actor/user_id", "/rbac_group_id", "/model", "/upstream", "/session_id"].map(text);
    format!("{} {} {} {}", of.join(" "), row["requests"], row["tokens"]["input_tokens"], text("/cost/amount"))
}

fn lines(page: &Value) -> Vec<String> {
    page["data"].as_array().expect("a list").iter().map(line).collect()
}

#[test]
fn usage_is_told_by_every_dimension() {
    let mut gateway = two_days();
    for (query, expected) in [
        ("", &["- - - - - - 4 1210 4.229480"][..]),
        ("&group_by[]=day", &["2031-02-03 - - - - - 2 200 2.115300", "2031-02-04 - - - - - 2 1010 2.114180"]),
        ("&group_by[]=user", &["- ada - - - - 3 210 3.127950", "- bob - - - - 1 1000 1.101530"]),
        ("&group_by[]=group", &["- - eng - - - 3 210 3.127950", "- - ops - - - 3 1200 3.216830"]),
        (
            "&group_by[]=model&group_by[]=upstream",
            &["- - - claude-haiku-4-5-20251001 a - 1 1000 1.101530", "- - - claude-opus-4-8 a - 3 210 3.127950"],
        ),
        ("&user_ids[]=bob", &["- - - - - - 1 1000 1.101530"]),
        ("&models[]=claude-opus-4-8&group_by[]=session", &["- - - - - s-ada 3 210 3.127950"]),
        ("&upstreams[]=b", &[]),
        ("&rbac_group_ids[]=eng", &["- - - - - - 3 210 3.127950"]),
        (
            "&rbac_group_ids[]=ops&group_by[]=group&group_by[]=day",
            &["2031-02-03 - ops - - - 2 200 2.115300", "2031-02-04 - ops - - - 1 1000 1.101530"],
        ),
        ("&ending_at=2031-02-04", &["- - - - - - 2 200 2.115300"]),
        ("&user_ids[]='%20OR%201=1%20--", &[]),
    ] {
        let page = read(&mut gateway, &format!("starting_at=2031-02-03{query}"));
        assert_eq!(lines(&page), expected, "{query}");
        assert_eq!((&page["has_more"], &page["next_page"]), (&json!(false), &json!(null)));
    }
    let page = read(&mut gateway, "starting_at=2031-02-03T00:00:00Z&group_by[]=user");
    assert_eq!(
        page["data"][1],
        json!({
            "day": null,
            "actor": {"type": "user_actor", "user_id": "bob", "name": "=\"bob\", the first\n", "email_address": "ada@example.test", "deleted": false},
            "rbac_group_id": null, "model": null, "upstream": null, "session_id": null, "requests": 1,
            "tokens": {
                "input_tokens": 1000, "output_tokens": 2, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 4,
            },
            "web_search_requests": 1, "cost": {"currency": "USD", "amount": "1.101530"},
        })
    );
    assert_eq!(
        (&page["starting_at"], &page["ending_at"]),
        (&json!("2031-02-03T00:00:00Z"), &json!("2031-02-05T00:00:00Z"))
    );
}

#[test]
fn rows_are_bounded_by_days_people_and_models_and_not_by_requests() {
    let mut gateway = TestGateway::with_config(ADMIN);
    for _ in 0..20 {
        ask(&mut gateway, "ada", &[], "claude-opus-4-8", 1);
    }
    assert_eq!(gateway.db.number("SELECT COUNT(*) FROM spend WHERE kind <> 'hold'"), 4);
    assert_eq!(gateway.db.number("SELECT requests FROM spend WHERE kind = 'usage'"), 20);
    // The ids of what was settled are kept for some minutes only.
    gateway.clock.advance(Duration::from_mins(11));
    ask(&mut gateway, "ada", &[], "claude-opus-4-8", 1);
    assert_eq!(gateway.db.number("SELECT COUNT(*) FROM spend WHERE kind = 'hold'"), 1);
}

#[test]
fn pages_follow_one_another_while_rows_are_added() {
    let mut gateway = two_days();
    let query = "starting_at=2031-02-03&group_by[]=day&group_by[]=user&limit=1";
    let first = read(&mut gateway, query);
    assert_eq!(lines(&first), ["2031-02-03 ada - - - - 2 200 2.115300"]);
    let token = first["next_page"].as_str().expect("a token").to_owned();
    // A row before the page and one after it.
    ask(&mut gateway, "aaa", &[], "claude-opus-4-8", 0);
    let second = read(&mut gateway, &format!("{query}&page={token}"));
    assert_eq!(lines(&second), ["2031-02-04 aaa - - - - 1 0 1.007650"]);
    let token = second["next_page"].as_str().expect("a token").to_owned();
    let third = read(&mut gateway, &format!("{query}&page={token}"));
    assert_eq!(lines(&third)[0].split(' ').nth(1), Some("ada"));
    let other = format!("{USAGE}?starting_at=2031-02-03&group_by[]=user&page={token}");
    assert_eq!(refusal(&mut gateway, &other), "page: invalid page token");
}

#[test]
fn a_csv_document_is_what_python_reads() {
    let mut gateway = two_days();
    let path = format!("{USAGE}?starting_at=2031-02-03&group_by[]=user&group_by[]=day&format=csv");
    let answer = gateway.send(admin_get(&path));
    assert_eq!(answer.header("content-type"), Some("text/csv; charset=utf-8"));
    assert!(answer.header("request-id").is_some_and(|id| id.starts_with("req_")));
    let head = "day,user_id,email_address,name,rbac_group_id,model,upstream,session_id,requests,input_tokens,\
         output_tokens,cache_read_input_tokens,cache_creation_input_tokens,web_search_requests,cost_cents\r\n";
    let row = "2031-02-03,ada,ada@example.test,\"'=\"\"ada\"\", the first\n\",,,,,2,200,4,6,8,2,2.115300\r\n";
    assert!(answer.text().starts_with(&format!("{head}{row}")), "{}", answer.text());
    // Two parts put together are the whole.
    let first = gateway.send(admin_get(&format!("{path}&limit=2")));
    let token = first.header("x-next-page").expect("a token").to_owned();
    let second = gateway.send(admin_get(&format!("{path}&limit=2&page={token}")));
    assert_eq!(format!("{}{}", first.text(), second.text()), answer.text());
    assert_eq!(second.header("x-next-page"), None);

    let script = "import csv, decimal, io, sys\n\
         rows = list(csv.DictReader(io.TextIOWrapper(sys.stdin.buffer, 'utf-8', newline='')))\n\
         total = sum(decimal.Decimal(row['cost_cents']) for row in rows)\n\
         print(len(rows), sum(int(row['requests']) for row in rows), total, rows[0]['name'].strip())";
    let python = Command::new("python3").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut python) = python else {
        assert!(std::env::var_os("SALLYPORT_TEST_REQUIRE").is_none(), "needs python3");
        return;
    };
    std::io::Write::write_all(&mut python.stdin.take().expect("a pipe"), answer.text().as_bytes()).expect("a reader");
    let output = python.wait_with_output().expect("an end");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "3 4 4.229480 '=\"ada\", the first");
}

#[test]
fn what_is_wrong_is_told_by_name() {
    let mut gateway = TestGateway::with_config(ADMIN);
    for (query, message) in [
        ("", "starting_at: Required"),
        ("starting_at=x", "starting_at: must be an RFC 3339 timestamp such as 2031-02-03T00:00:00Z"),
        ("starting_at=2031-02-30", "starting_at: must be an RFC 3339 timestamp such as 2031-02-03T00:00:00Z"),
        ("starting_at=2031-02-04", "starting_at: must be before ending_at, which defaults to now"),
        ("starting_at=2030-01-01&ending_at=2031-03-01", "ending_at: the range may span at most 400 days"),
        (
            "starting_at=2031-02-03&group_by[]=x",
            "group_by[]: must be one of day, user, group, model, upstream, session",
        ),
        ("starting_at=2031-02-03&format=xml", "format: must be one of json, csv"),
        ("starting_at=2031-02-03&limit=0", "limit: must be between 1 and 1000"),
        ("starting_at=2031-02-03&page=x", "page: invalid page token"),
        ("starting_at=2031-02-03&page=e30", "page: invalid page token"),
    ] {
        assert_eq!(refusal(&mut gateway, &format!("{USAGE}?{query}")), message, "{query}");
    }
    assert!(refusal(&mut gateway, &format!("{USAGE}?since=x")).starts_with("since: unknown parameter; accepted are "));
    let reservations = "/v1/organizations/spend_reservations";
    assert_eq!(refusal(&mut gateway, &format!("{reservations}?state=x")), "state: must be one of expired, held");
}

#[test]
fn reservations_are_listed_while_they_last_and_when_they_have_expired() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let token = gateway.token(&[]);
    for _ in 0..3 {
        gateway.http.answer(200, &[("content-type", "application/json")], "{}");
        // A process that ends takes its bills along.
        let body = json!({"model": "claude-opus-4-8", "max_tokens": 10});
        std::mem::forget(gateway.begin(post("/v1/messages").bearer(&token).json(&body)));
    }
    let list = |gateway: &mut TestGateway, query: &str| {
        let answer = gateway.send(admin_get(&format!("/v1/organizations/spend_reservations?{query}")));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    let page = list(&mut gateway, "state=held&limit=2");
    assert_eq!((page["data"].as_array().map(Vec::len), &page["has_more"]), (Some(2), &json!(true)));
    let last = page["last_id"].as_str().expect("an id").to_owned();
    let rest = list(&mut gateway, &format!("state=held&limit=2&after_id={last}"));
    assert_eq!((rest["data"].as_array().map(Vec::len), &rest["has_more"]), (Some(1), &json!(false)));
    assert_eq!(list(&mut gateway, "")["data"], json!([]));
    gateway.clock.advance(Duration::from_mins(15));
    ask(&mut gateway, "bob", &[], "claude-opus-4-8", 1);
    let expired = list(&mut gateway, "state=expired");
    assert_eq!(
        expired["data"][0],
        json!({
            "type": "spend_reservation", "id": expired["data"][0]["id"], "state": "expired", "user_id": "ada",
            "rbac_group_id": null, "amount": "3.5", "currency": "USD", "day": "2031-02-03",
            "expires_at": "2031-02-03T04:20:06.789Z",
        })
    );
    assert_eq!(expired["data"].as_array().map(Vec::len), Some(3));
}
