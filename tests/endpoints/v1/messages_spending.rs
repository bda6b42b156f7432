//! `POST /v1/messages`: leave to spend before it, and the bill after it.

use bytes::Bytes;
use sallyport::ports::StreamError;
use serde_json::{Value, json};

use super::organizations::{ADMIN, admin_get, admin_post};
use crate::support::{TestGateway, post};

fn ask() -> Value {
    json!({"model": "claude-opus-4-8", "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]})
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const SSE: &[(&str, &str)] = &[("content-type", "text/event-stream")];

/// What Ada has spent today, in cents.
fn spent(gateway: &mut TestGateway) -> String {
    let answer = gateway.send(admin_get("/v1/organizations/spend_limits/effective?user_ids[]=ada&period[]=daily"));
    answer.json()["data"][0]["period_to_date_spend"].as_str().expect("text").to_owned()
}

fn cap(gateway: &mut TestGateway, scope: &Value, amount: &str, more: &[(&str, Value)]) {
    let mut body = json!({"scope": scope, "amount": amount});
    for (name, value) in more {
        body[*name] = value.clone();
    }
    let answer = gateway.send(admin_post(&body));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[expect(clippy::unnecessary_wraps, reason = "it is a piece of a stream, and others fail")]
fn event(data: &Value) -> Result<Bytes, StreamError> {
    let kind = data["type"].as_str().expect("a type");
    Ok(Bytes::from(format!("event: {kind}\ndata: {data}\n\n")))
}

fn stream() -> Vec<Result<Bytes, StreamError>> {
    let text = "x".repeat(400);
    vec![
        event(&json!({"type": "message_start", "message": {"usage": {"input_tokens": 1000, "output_tokens": 1}}})),
        event(&json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})),
        event(&json!({"type": "message_delta", "usage": {"output_tokens": 200}})),
        event(&json!({"type": "message_stop"})),
    ]
}

#[test]
fn an_answer_is_billed_once_however_it_ends() {
    let broken = |count: usize| {
        let mut pieces = stream();
        pieces.truncate(count);
        pieces.push(Err(StreamError("reset".to_owned())));
        pieces
    };
    // 1000 tokens of input cost half a cent; 100 estimated ones of output a quarter, 200 told ones half.
    for (pieces, patience, expected) in [
        (stream(), None, "1"),
        (stream(), Some(3), "1"),
        (stream(), Some(1), "0.75"),
        (broken(3), None, "1"),
        (broken(2), None, "0.75"),
        (broken(1), None, "0.5"),
        (broken(0), None, "0"),
    ] {
        let mut gateway = TestGateway::with_config(ADMIN);
        let token = gateway.token(&[]);
        gateway.http.answer_in_pieces(200, SSE, pieces);
        gateway.send_until(post("/v1/messages").bearer(&token).json(&ask()), patience);
        assert_eq!(spent(&mut gateway), expected, "{patience:?}");
    }
}

#[test]
fn errors_counts_and_gateways_without_admin_cost_nothing() {
    let usage = r#"{"usage":{"input_tokens":1000,"output_tokens":0}}"#;
    let mut gateway = TestGateway::with_config(ADMIN);
    let token = gateway.token(&[]);
    gateway.http.answer(400, JSON, usage);
    assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask())).status, 400);
    gateway.http.answer(200, JSON, usage);
    assert_eq!(gateway.send(post("/v1/messages/count_tokens").bearer(&token).json(&ask())).status, 200);
    assert_eq!(spent(&mut gateway), "0");
    gateway.http.answer(200, JSON, usage);
    gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
    assert_eq!(spent(&mut gateway), "0.5");
}

#[test]
fn a_redirection_costs_what_it_tells_and_nothing_is_guessed_of_it() {
    let usage = r#"{"usage":{"input_tokens":1000,"output_tokens":0}}"#;
    for (body, expected) in [(usage, "0.5"), ("{}", "0"), ("<a>Moved</a>", "0")] {
        let mut gateway = TestGateway::with_config(ADMIN);
        let token = gateway.token(&[]);
        gateway.http.answer(
            307,
            &[("content-type", "application/json"), ("location", "https://elsewhere.example/")],
            body,
        );
        cap(&mut gateway, &json!({"type": "organization"}), "9", &[]);
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
        assert_eq!((answer.status.as_u16(), answer.text()), (307, body));
        assert_eq!(answer.header("location"), Some("https://elsewhere.example/"));
        for absent in ["request-id", "anthropic-ratelimit-unified-status"] {
            assert_eq!(answer.header(absent), None);
        }
        assert_eq!(gateway.http.requests().len(), 1, "it is not followed, and nothing is counted");
        assert_eq!(spent(&mut gateway), expected);
        assert_eq!(reserved(&gateway), 0);
    }
}

#[test]
fn what_cannot_be_read_is_estimated_by_its_length() {
    for kind in ["application/json", "text/event-stream"] {
        let mut gateway = TestGateway::with_config(ADMIN);
        let token = gateway.token(&[]);
        gateway.http.answer(200, &[("content-type", kind), ("content-encoding", "zstd")], "z".repeat(400));
        gateway.http.answer(200, JSON, r#"{"input_tokens":2000}"#);
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
        assert_eq!((answer.text().len(), answer.header("content-encoding")), (400, Some("zstd")));
        assert_eq!(spent(&mut gateway), "1.25", "a cent of input, and a hundred tokens: {kind}");
    }
}

#[test]
fn an_answer_without_usage_is_counted_by_the_upstream_or_estimated() {
    for (status, counted, expected) in [(200, r#"{"input_tokens":2000}"#, "1.003"), (500, "{}", "0.009")] {
        let mut gateway = TestGateway::with_config(ADMIN);
        let token = gateway.token(&[]);
        gateway.http.answer(200, JSON, "{}");
        gateway.http.answer(status, JSON, counted);
        gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
        let asked = gateway.http.requests().pop().expect("a count");
        assert_eq!(asked.uri().path(), "/v1/messages/count_tokens");
        assert_eq!(&asked.body()[..], br#"{"messages":[{"role":"user","content":"hi"}],"model":"claude-opus-4-8"}"#);
        assert_eq!(spent(&mut gateway), expected);
    }
}

#[test]
fn a_caller_over_a_cap_is_refused_whatever_they_send() {
    let mut gateway =
        TestGateway::with_config(&ADMIN.replace("write_keys", "blocked_message: ask finance\n  write_keys"));
    let token = gateway.token(&["eng"]);
    cap(&mut gateway, &json!({"type": "user", "user_id": "ada"}), "1", &[("period", json!("daily"))]);
    gateway.http.answer_in_pieces(200, SSE, stream());
    let first = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
    assert_eq!(first.header("anthropic-ratelimit-unified-status"), Some("allowed"));
    gateway.log.lines();
    let answer = gateway.send(post("/v1/messages").bearer(&token).body("{not json"));
    assert_eq!(answer.status, 429);
    assert_eq!(
        answer.json(),
        json!({"type": "error", "error": {"type": "billing_error", "message": "spend limit reached · resets Feb 4 · ask finance"}})
    );
    assert_eq!(answer.header("x-should-retry"), Some("false"));
    assert_eq!(answer.header("request-id"), None);
    let audit = gateway.log.audit();
    assert_eq!(audit.len(), 1);
    assert_eq!(
        (&audit[0]["evt"], &audit[0]["cause"], &audit[0]["cap_cents"], &audit[0]["source"], &audit[0]["period"]),
        (&json!("spend.blocked"), &json!("over_limit"), &json!("1"), &json!("user"), &json!("daily"))
    );
    let counted = post("/v1/messages/count_tokens").bearer(&token).json(&ask());
    gateway.http.answer(200, JSON, "{}");
    assert_eq!(gateway.send(counted).status, 200, "counting is exempt");
}

#[test]
fn a_pool_is_charged_and_then_blocks_its_members_only() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let (member, other) = (gateway.token(&["eng"]), gateway.token_with(|claims| claims["sub"] = json!("bob")));
    let pool = [("pooled_budget", json!({"amount": "1"}))];
    cap(&mut gateway, &json!({"type": "rbac_group", "rbac_group_id": "eng"}), "100", &pool);
    gateway.http.answer_in_pieces(200, SSE, stream());
    assert_eq!(gateway.send(post("/v1/messages").bearer(&member).json(&ask())).status, 200);
    let listed = gateway.send(admin_get("/v1/organizations/spend_limits")).json();
    assert_eq!(listed["data"][0]["pooled_budget"]["period_to_date_spend"], "1");
    let answer = gateway.send(post("/v1/messages").bearer(&member).json(&ask()));
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("anthropic-ratelimit-unified-overage-scope"), Some("group_pool"));
    gateway.http.answer_in_pieces(200, SSE, stream());
    assert_eq!(gateway.send(post("/v1/messages").bearer(&other).json(&ask())).status, 200);
}

#[test]
fn when_spending_cannot_be_looked_up_the_configuration_decides() {
    for (addition, status) in [("", 200), ("enforcement: {fail_closed_on_error: true}", 429)] {
        let mut gateway = TestGateway::with_config(&format!("{ADMIN}\n{addition}"));
        let token = gateway.token(&[]);
        gateway.db.is_down.set(true);
        gateway.http.answer_in_pieces(200, SSE, stream());
        let answer = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.header("anthropic-ratelimit-unified-status"), None);
        if status == 429 {
            assert_eq!(answer.json()["error"]["message"], "spend limit unavailable");
            assert_eq!(answer.header("anthropic-ratelimit-unified-overage-disabled-reason"), Some("fetch_error"));
            assert_eq!(answer.header("retry-after"), None);
            assert!(gateway.log.audit().iter().any(|event| event["cause"] == "store_error"));
        }
    }
}

#[test]
fn a_request_takes_one_statement_before_and_one_after_whatever_the_number_of_caps() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let groups: Vec<String> = (0..20).map(|index| format!("g{index}")).collect();
    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
    let token = gateway.token(&groups);
    for group in &groups {
        let pool = [("pooled_budget", json!({"amount": "1000"}))];
        cap(&mut gateway, &json!({"type": "rbac_group", "rbac_group_id": group}), "100", &pool);
    }
    // The first one also keeps who the caller is, and finds a sweep due.
    gateway.http.answer_in_pieces(200, SSE, stream());
    gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
    let mut count = |expected: usize| {
        gateway.http.answer_in_pieces(200, SSE, stream());
        let before = gateway.db.statements.get();
        assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask())).status, 200);
        assert_eq!(gateway.db.statements.get() - before, expected);
    };
    count(2);
    count(2);
}

#[test]
fn sessions_alerts_and_the_rows_of_reports_take_no_statement_of_their_own() {
    let alerts =
        "  alerts: [{at: [50], webhook: 'https://hooks.example.test', secret: placeholder-placeholder, scope: user}]\n";
    let mut gateway = TestGateway::with_config(&format!("{ADMIN}{alerts}"));
    cap(&mut gateway, &json!({"type": "user", "user_id": "ada"}), "100000", &[("period", json!("daily"))]);
    for group in ["a", "b"] {
        let pool = [("pooled_budget", json!({"amount": "100000"}))];
        cap(&mut gateway, &json!({"type": "rbac_group", "rbac_group_id": group}), "100000", &pool);
    }
    let token = |gateway: &TestGateway, sid: &str| {
        gateway.token_with(|claims| {
            claims["sid"] = json!(sid);
            claims["groups"] = json!(["a", "b"]);
        })
    };
    // What the first request of an instance and of a session needs besides: whether the session has ended, who it is.
    for sid in ["s-1", "s-2"] {
        gateway.http.answer_in_pieces(200, SSE, stream());
        let token = token(&gateway, sid);
        assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask())).status, 200);
    }
    for model in ["claude-opus-4-8", "claude-haiku-4-5", "claude-opus-4-8"] {
        for sid in ["s-1", "s-2"] {
            gateway.http.answer_in_pieces(200, SSE, stream());
            let (token, before) = (token(&gateway, sid), gateway.db.statements.get());
            let mut asked = ask();
            asked["model"] = json!(model);
            assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&asked)).status, 200);
            assert_eq!(gateway.db.statements.get() - before, 2, "{model} {sid}");
        }
    }
    assert_eq!(gateway.db.number("SELECT COUNT(*) FROM spend WHERE kind = 'usage'"), 4);
    assert_eq!(gateway.db.number("SELECT SUM(requests) FROM spend WHERE kind = 'pool'"), 8);
}

#[test]
fn billing_groups_reach_the_audit_trail_and_not_the_upstream() {
    let config = ADMIN.replace("write_keys", "billing_group_tag: team\n  write_keys");
    for (tags, group, ignored) in [
        (json!({"team": "ops", "x": "y"}), json!("ops"), json!(null)),
        (json!({"team": "nope"}), json!(null), json!(true)),
        (json!({"team": 7}), json!(null), json!(true)),
        (json!({}), json!(null), json!(null)),
    ] {
        let mut gateway = TestGateway::with_config(&config);
        let token = gateway.token(&["ops"]);
        let mut body = ask();
        body["tags"] = tags;
        gateway.http.answer(200, JSON, r#"{"usage":{"input_tokens":1000,"output_tokens":1}}"#);
        gateway.send(post("/v1/messages").bearer(&token).json(&body));
        assert!(!String::from_utf8_lossy(gateway.http.requests()[0].body()).contains("tags"));
        let audit = gateway.log.audit();
        let metered = audit.iter().find(|event| event["evt"] == "spend.metered").expect("metered");
        for event in [&audit[0], metered] {
            assert_eq!((&event["billing_group"], &event["billing_group_ignored"]), (&group, &ignored), "{event}");
        }
        assert_eq!((&metered["cents"], &metered["input_tokens"]), (&json!(0.5025), &json!(1000)));
    }
}

/// What Ada's requests under way have reserved today, in nano-dollars.
fn reserved(gateway: &TestGateway) -> i64 {
    gateway.db.number("SELECT COALESCE(SUM(held), 0) FROM spend WHERE kind = 'day'")
}

#[test]
fn what_a_request_may_cost_is_reserved_until_it_ends() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let token = gateway.token(&[]);
    cap(&mut gateway, &json!({"type": "user", "user_id": "ada"}), "2", &[("period", json!("daily"))]);
    let ask = || post("/v1/messages").bearer(&token).json(&ask());
    gateway.http.answer_in_pieces(200, SSE, stream());
    let first = gateway.begin(ask());
    assert_eq!(first.status(), 200);
    // 2000 tokens of input and 1000 of output, the least that is reckoned: a cent and two and a half.
    assert_eq!(reserved(&gateway), 35_000_000);
    let second = gateway.send(ask());
    assert_eq!(second.status, 429);
    assert_eq!(second.json()["error"]["type"], "billing_error");
    assert_eq!((second.header("x-should-retry"), second.header("retry-after")), (Some("true"), Some("2")));
    assert_eq!(second.header("anthropic-ratelimit-unified-status"), None, "the cap is not reached");
    assert!(gateway.log.audit().iter().any(|event| event["cause"] == "reserved"));
    gateway.end(first);
    assert_eq!((spent(&mut gateway).as_str(), reserved(&gateway)), ("1", 0));
    gateway.http.answer_in_pieces(200, SSE, stream());
    assert_eq!(gateway.send(ask()).status, 200);
    assert_eq!(gateway.send(ask()).header("x-should-retry"), Some("false"), "now it is");
    assert_eq!((spent(&mut gateway).as_str(), reserved(&gateway)), ("2", 0));
}

#[test]
fn what_does_not_reach_a_model_reserves_nothing_in_the_end() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let token = gateway.token(&[]);
    gateway.http.answer(400, JSON, "{}");
    assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask())).status, 400);
    gateway.http.fail(sallyport::ports::HttpError::Timeout("slow".to_owned()));
    assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask())).status, 502);
    for body in ["{not json", r#"{"model":"nobody-serves-this"}"#] {
        assert_eq!(gateway.send(post("/v1/messages").bearer(&token).body(body)).status, 400);
    }
    gateway.http.answer_in_pieces(200, SSE, vec![]);
    assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask())).status, 200);
    assert_eq!(reserved(&gateway), 0);
    let listed = gateway.send(admin_get("/v1/organizations/spend_limits/effective")).json();
    assert_eq!(listed["data"], json!([]), "whoever has spent nothing is not listed");
}

#[test]
fn what_the_dead_reserved_is_taken_back_when_it_is_in_the_way() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let token = gateway.token(&[]);
    cap(&mut gateway, &json!({"type": "user", "user_id": "ada"}), "2", &[("period", json!("weekly"))]);
    // A process that ends takes its bills along.
    gateway.http.answer_in_pieces(200, SSE, stream());
    std::mem::forget(gateway.begin(post("/v1/messages").bearer(&token).json(&ask())));
    assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask())).status, 429);
    gateway.clock.advance(std::time::Duration::from_mins(15));
    gateway.http.answer_in_pieces(200, SSE, stream());
    assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask())).status, 200);
    assert_eq!((spent(&mut gateway).as_str(), reserved(&gateway)), ("1", 0));
}

#[test]
fn a_client_that_leaves_before_the_first_byte_pays_for_the_input() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let token = gateway.token(&[]);
    let mut pieces = stream();
    pieces.insert(0, Ok(Bytes::from_static(b": nothing yet\n\n")));
    gateway.http.answer_in_pieces(200, SSE, pieces);
    gateway.send_until(post("/v1/messages").bearer(&token).json(&ask()), Some(0));
    assert_eq!((spent(&mut gateway).as_str(), reserved(&gateway)), ("0.5", 0));
}

#[test]
fn a_store_that_comes_back_gets_what_it_missed_once() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let token = gateway.token(&[]);
    gateway.http.answer_in_pieces(200, SSE, stream());
    let first = gateway.begin(post("/v1/messages").bearer(&token).json(&ask()));
    gateway.db.is_down.set(true);
    gateway.end(first);
    gateway.db.is_down.set(false);
    assert_eq!(spent(&mut gateway), "0");
    gateway.clock.advance(std::time::Duration::from_secs(1));
    gateway.settle();
    assert_eq!((spent(&mut gateway).as_str(), reserved(&gateway)), ("1", 0));
    // The answer of a statement that was carried out may get lost: the next attempt finds it done.
    gateway.http.answer_in_pieces(200, SSE, stream());
    let second = gateway.begin(post("/v1/messages").bearer(&token).json(&ask()));
    gateway.db.loses_answers.set(true);
    gateway.end(second);
    gateway.db.loses_answers.set(false);
    gateway.clock.advance(std::time::Duration::from_secs(1));
    gateway.settle();
    assert_eq!((spent(&mut gateway).as_str(), reserved(&gateway)), ("2", 0));
}

/// The instant of `text`, from the test's beginning on.
fn until(text: &str) -> std::time::Duration {
    let at = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).expect("RFC 3339");
    let millis = i64::try_from(at.unix_timestamp_nanos() / 1_000_000).expect("this millennium");
    std::time::Duration::from_millis(u64::try_from(millis - crate::support::START.as_millis()).expect("ahead"))
}

#[test]
fn a_cap_starts_again_when_its_period_does_to_the_millisecond() {
    for (period, last, resets) in [
        ("daily", "2031-02-03T23:59:59.999Z", "2031-02-04T00:00:00Z"),
        ("daily", "2032-02-28T23:59:59.999Z", "2032-02-29T00:00:00Z"),
        ("daily", "2031-12-31T23:59:59.999Z", "2032-01-01T00:00:00Z"),
        ("weekly", "2031-02-09T23:59:59.999Z", "2031-02-10T00:00:00Z"),
        ("weekly", "2032-01-04T23:59:59.999Z", "2032-01-05T00:00:00Z"),
        ("monthly", "2031-02-28T23:59:59.999Z", "2031-03-01T00:00:00Z"),
        ("monthly", "2032-02-29T23:59:59.999Z", "2032-03-01T00:00:00Z"),
        ("monthly", "2031-04-30T23:59:59.999Z", "2031-05-01T00:00:00Z"),
        ("monthly", "2031-12-31T23:59:59.999Z", "2032-01-01T00:00:00Z"),
    ] {
        let mut gateway = TestGateway::with_config(ADMIN);
        let token = gateway.token_with(|claims| claims["exp"] = json!(2_000_000_000));
        cap(&mut gateway, &json!({"type": "user", "user_id": "ada"}), "1", &[("period", json!(period))]);
        gateway.clock.advance(until(last));
        gateway.http.answer_in_pieces(200, SSE, stream());
        assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask())).status, 200, "{last}");
        let refused = gateway.send(post("/v1/messages").bearer(&token).json(&ask()));
        assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (429, Some("1")), "{last}");
        let seconds =
            (until(resets).as_millis() + u128::try_from(crate::support::START.as_millis()).expect("positive")) / 1000;
        let told = refused.header("anthropic-ratelimit-unified-reset").map(str::to_owned);
        assert_eq!(told, Some(seconds.to_string()), "{last}");
        gateway.clock.advance(std::time::Duration::from_millis(1));
        gateway.http.answer_in_pieces(200, SSE, stream());
        assert_eq!(gateway.send(post("/v1/messages").bearer(&token).json(&ask())).status, 200, "{resets}");
    }
}

#[test]
fn a_request_that_crosses_midnight_belongs_to_the_day_on_which_it_was_let_in() {
    let mut gateway = TestGateway::with_config(ADMIN);
    let token = gateway.token_with(|claims| claims["exp"] = json!(2_000_000_000));
    gateway.clock.advance(until("2031-02-03T23:59:59.999Z"));
    gateway.http.answer_in_pieces(200, SSE, stream());
    let first = gateway.begin(post("/v1/messages").bearer(&token).json(&ask()));
    gateway.clock.advance(std::time::Duration::from_secs(1));
    gateway.end(first);
    assert_eq!(spent(&mut gateway), "0", "not to the next one");
    let sums = "SELECT SUM(nanos) FROM spend WHERE kind IN ('day', 'usage') AND period = '2031-02-03'";
    assert_eq!(gateway.db.number(sums), 20_000_000);
}
