//! `POST /v1/messages` while upstreams fail: which are asked, which are left alone, and what replicas agree on.

use std::time::Duration;

use sallyport::ports::HttpError;
use serde_json::json;

use crate::support::{Answer, TestGateway, post};

fn config(upstreams: &str, more: &str) -> String {
    format!(
        "listen: {{host: 127.0.0.1, public_url: 'https://gateway.example.test'}}\n\
         oidc: {{issuer: 'https://login.example.test', client_id: sallyport, client_secret: placeholder}}\n\
         session: {{jwt_secret: placeholder-placeholder-placeholder-placeholder-}}\n\
         observability: {{metrics: {{listen: '127.0.0.1:9464'}}}}\n\
         upstreams:\n{upstreams}{more}"
    )
}

fn upstream(name: &str, more: &str) -> String {
    format!(
        "  - {{name: {name}, provider: anthropic, base_url: 'https://{name}.example.test', auth: {{api_key: x}}{more}}}\n"
    )
}

/// Two upstreams and a breaker that three failures open.
fn two(more: &str) -> String {
    config(&(upstream("a", more) + &upstream("b", "")), "resilience: {breaker: {failures: 3}}\n")
}

fn ask_for(gateway: &mut TestGateway, model: &str) -> Answer {
    let token = gateway.token(&[]);
    let body = json!({"model": model, "max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]});
    gateway.send(post("/v1/messages").bearer(&token).json(&body))
}

fn ask(gateway: &mut TestGateway) -> Answer {
    ask_for(gateway, "claude-opus-4-8")
}

/// Who was asked since the last look.
fn asked(gateway: &TestGateway) -> String {
    let requests = gateway.http.requests();
    let hosts = requests.iter().map(|request| request.uri().host().expect("a host").split('.').next().expect("a name"));
    hosts.collect::<Vec<_>>().join(" ")
}

/// One request that the first upstream fails and the second answers.
fn fail_over(gateway: &mut TestGateway, status: u16, headers: &[(&str, &str)]) {
    gateway.http.answer(status, headers, "{}");
    gateway.http.answer(200, &[], "{}");
    assert_eq!(ask(gateway).status, 200);
    assert_eq!(asked(gateway), "a b");
}

/// One request, answered by whoever is asked.
fn is_answered_by(gateway: &mut TestGateway, expected: &str) {
    gateway.http.answer(200, &[], "{}");
    assert_eq!(ask(gateway).status, 200);
    assert_eq!(asked(gateway), expected);
}

fn events(gateway: &TestGateway, name: &str) -> Vec<serde_json::Value> {
    gateway
        .log
        .audit()
        .into_iter()
        .filter(|event| event["evt"].as_str().is_some_and(|evt| evt.starts_with(name)))
        .collect()
}

#[test]
fn a_status_that_the_operator_names_fails_over_and_is_told_if_nobody_answers() {
    for (first, second, status, from) in
        [(402, 200, 200, "b"), (402, 500, 402, "a"), (402, 429, 429, "b"), (408, 200, 408, "a")]
    {
        let mut gateway = TestGateway::with_config(&two(", failover_on: [402]"));
        gateway.http.answer(first, &[("retry-after", "7")], r#"{"from":"a"}"#);
        if first == 402 {
            gateway.http.answer(second, &[], r#"{"from":"b"}"#);
        }
        let answer = ask(&mut gateway);
        assert_eq!((answer.status.as_u16(), &answer.json()["from"]), (status, &json!(from)), "{first} {second}");
        assert_eq!(asked(&gateway), if first == 402 { "a b" } else { "a" });
        let upstream = json!(from);
        assert_eq!(events(&gateway, "inference")[0]["upstream"], upstream, "{first} {second}");
    }
}

#[test]
fn an_upstream_that_fails_again_and_again_is_left_alone_and_one_request_finds_out_whether_it_is_back() {
    let mut gateway = TestGateway::with_config(&two(""));
    for _ in 0..3 {
        fail_over(&mut gateway, 500, &[]);
    }
    let opened = events(&gateway, "breaker");
    assert_eq!(opened.len(), 1, "{opened:?}");
    assert_eq!(
        [&opened[0]["evt"], &opened[0]["upstream"], &opened[0]["model"], &opened[0]["reason"], &opened[0]["round"]],
        [&json!("breaker.open"), &json!("a"), &json!("claude-opus-4-8"), &json!("server_error"), &json!(1)]
    );
    assert_eq!(opened[0]["shared"], true);
    assert_eq!(gateway.db.number("SELECT count(*) FROM breakers"), 1);
    is_answered_by(&mut gateway, "b");
    // Another model has a circuit of its own.
    gateway.http.answer(200, &[], "{}");
    assert_eq!(ask_for(&mut gateway, "claude-haiku-4-5").status, 200);
    assert_eq!(asked(&gateway), "a");

    // The pause is over: this request has the turn claimed, beside it, and the next one takes it. It fails once more.
    gateway.pass(Duration::from_secs(12));
    is_answered_by(&mut gateway, "b");
    fail_over(&mut gateway, 503, &[]);
    is_answered_by(&mut gateway, "b");
    let opened = events(&gateway, "breaker");
    assert_eq!((opened.len(), &opened[0]["round"]), (1, &json!(2)), "{opened:?}");

    gateway.pass(Duration::from_secs(12));
    is_answered_by(&mut gateway, "b");
    gateway.pass(Duration::from_secs(12));
    is_answered_by(&mut gateway, "b");
    is_answered_by(&mut gateway, "a");
    is_answered_by(&mut gateway, "a");
    let closed = events(&gateway, "breaker");
    assert_eq!((closed.len(), &closed[0]["evt"], &closed[0]["upstream"]), (1, &json!("breaker.close"), &json!("a")));
    assert_eq!(gateway.db.number("SELECT count(*) FROM breakers"), 0);
    let figures = gateway.figures.lines().concat();
    assert!(
        figures.contains(r#""figure":"breaker","upstream":"a","model":"claude-opus-4-8","is_open":true"#),
        "{figures}"
    );
    assert!(figures.contains(r#""figure":"left_out","upstream":"a","reason":"breaker""#), "{figures}");
}

#[test]
fn a_trial_that_fails_in_another_way_prolongs_the_pause_too() {
    let mut gateway = TestGateway::with_config(&two(""));
    for _ in 0..3 {
        fail_over(&mut gateway, 500, &[]);
    }
    is_answered_by(&mut gateway, "b");
    for _ in 0..2 {
        gateway.pass(Duration::from_mins(5));
        // One request has the store asked whose turn it is, the next has the turn.
        is_answered_by(&mut gateway, "b");
        gateway.http.fail(HttpError::Timeout("no headers".to_owned()));
        gateway.http.answer(200, &[], "{}");
        assert_eq!(ask(&mut gateway).status, 200);
        assert_eq!(asked(&gateway), "a b");
        is_answered_by(&mut gateway, "b");
    }
    let rounds: Vec<_> = events(&gateway, "breaker.open").iter().map(|event| event["round"].clone()).collect();
    assert_eq!(rounds, [json!(1), json!(2), json!(3)]);
}

#[test]
fn connections_that_fail_are_of_the_whole_upstream() {
    let mut gateway = TestGateway::with_config(&two(""));
    for error in [
        HttpError::Connect("refused".to_owned()),
        HttpError::Timeout("no headers".to_owned()),
        HttpError::Protocol("reset".to_owned()),
    ] {
        gateway.http.fail(error);
        is_answered_by(&mut gateway, "a b");
    }
    let opened = events(&gateway, "breaker");
    assert_eq!((opened.len(), &opened[0]["reason"], opened[0].get("model")), (1, &json!("unreachable"), None));
    for model in ["claude-opus-4-8", "claude-haiku-4-5"] {
        gateway.http.answer(200, &[], "{}");
        assert_eq!(ask_for(&mut gateway, model).status, 200);
        assert_eq!(asked(&gateway), "b", "{model}");
    }
}

#[test]
fn a_success_in_between_and_errors_of_the_request_count_for_nothing() {
    let mut gateway = TestGateway::with_config(&two(""));
    for status in [500, 429, 401, 500, 529, 404, 500, 501, 503, 500] {
        fail_over(&mut gateway, status, &[]);
    }
    for status in [400, 413] {
        gateway.http.answer(status, &[], "{}");
        assert_eq!(ask(&mut gateway).status.as_u16(), status);
    }
    asked(&gateway);
    fail_over(&mut gateway, 500, &[]);
    fail_over(&mut gateway, 500, &[]);
    assert_eq!(events(&gateway, "breaker"), [] as [serde_json::Value; 0]);
}

#[test]
fn retry_after_is_honoured_within_bounds() {
    for (after, left_alone, back) in [("60", 59, 73), ("1000000", 299, 361), ("1", 9, 12)] {
        let mut gateway = TestGateway::with_config(&two(""));
        for _ in 0..3 {
            fail_over(&mut gateway, 429, &[("retry-after", after)]);
        }
        gateway.pass(Duration::from_secs(left_alone));
        is_answered_by(&mut gateway, "b");
        is_answered_by(&mut gateway, "b");
        gateway.pass(Duration::from_secs(back - left_alone));
        is_answered_by(&mut gateway, "b");
        is_answered_by(&mut gateway, "a");
    }
}

#[test]
fn replicas_know_what_one_of_them_found_out_and_one_request_of_all_finds_out_the_rest() {
    let mut first = TestGateway::with_config(&two(""));
    let mut second = first.replica();
    is_answered_by(&mut second, "a");
    for _ in 0..3 {
        fail_over(&mut first, 500, &[]);
    }
    // It looks beside a request, a second after it looked last; the next request knows.
    second.pass(Duration::from_secs(1));
    is_answered_by(&mut second, "a");
    is_answered_by(&mut second, "b");
    assert_eq!(events(&second, "breaker"), [] as [serde_json::Value; 0], "it was told already");

    first.pass(Duration::from_secs(12));
    is_answered_by(&mut first, "b");
    is_answered_by(&mut second, "b");
    is_answered_by(&mut second, "b");
    // The turn is the first's.
    is_answered_by(&mut first, "a");
    assert_eq!(events(&first, "breaker").last().expect("an event")["evt"], "breaker.close");
    second.pass(Duration::from_secs(1));
    is_answered_by(&mut second, "b");
    is_answered_by(&mut second, "a");
}

#[test]
fn without_the_store_each_instance_decides_by_itself() {
    let mut gateway = TestGateway::with_config(&two(""));
    gateway.db.is_down.set(true);
    for _ in 0..3 {
        fail_over(&mut gateway, 500, &[]);
    }
    let opened = events(&gateway, "breaker");
    assert_eq!((opened.len(), &opened[0]["shared"]), (1, &json!(false)));
    is_answered_by(&mut gateway, "b");
    gateway.pass(Duration::from_secs(12));
    is_answered_by(&mut gateway, "b");
    fail_over(&mut gateway, 500, &[]);
    // Once the store is back, it learns what there is to know.
    gateway.db.is_down.set(false);
    gateway.pass(Duration::from_secs(1));
    is_answered_by(&mut gateway, "b");
    assert_eq!(gateway.db.number("SELECT round FROM breakers"), 2);
    gateway.pass(Duration::from_secs(24));
    is_answered_by(&mut gateway, "b");
    is_answered_by(&mut gateway, "a");
    assert_eq!(gateway.db.number("SELECT count(*) FROM breakers"), 0);
}

#[test]
fn no_request_fails_before_somebody_was_asked() {
    let mut gateway = TestGateway::with_config(&two(""));
    for _ in 0..3 {
        gateway.http.answer(500, &[], "{}");
        gateway.http.answer(500, &[("retry-after", "100")], "{}");
        assert_eq!(ask(&mut gateway).status, 502);
        assert_eq!(asked(&gateway), "a b");
    }
    // Both are left alone; a's pause ends first, and it alone is asked.
    gateway.http.answer(500, &[], "{}");
    assert_eq!(ask(&mut gateway).status, 502);
    assert_eq!(asked(&gateway), "a");
    is_answered_by(&mut gateway, "a");
    is_answered_by(&mut gateway, "a");
}

#[test]
fn one_whose_pause_is_over_has_a_chance_when_all_others_failed() {
    let mut gateway = TestGateway::with_config(&two(""));
    for _ in 0..3 {
        fail_over(&mut gateway, 500, &[]);
    }
    gateway.http.answer(500, &[], "{}");
    assert_eq!((ask(&mut gateway).status.as_u16(), asked(&gateway).as_str()), (502, "b"));
    gateway.pass(Duration::from_secs(12));
    gateway.http.answer(500, &[], "{}");
    gateway.http.answer(200, &[], "{}");
    assert_eq!((ask(&mut gateway).status.as_u16(), asked(&gateway).as_str()), (200, "b a"));
}

#[test]
fn one_upstream_alone_is_always_asked_and_costs_no_statement() {
    let mut gateway = TestGateway::new();
    for _ in 0..30 {
        gateway.http.answer(500, &[], "{}");
        assert_eq!(ask(&mut gateway).status, 502);
        gateway.pass(Duration::from_secs(1));
    }
    assert_eq!((gateway.http.requests().len(), gateway.db.statements.get()), (30, 0));
    assert!(gateway.log.lines().iter().all(|line| !line.contains("breaker")));
}

#[test]
fn the_breaker_can_be_switched_off() {
    let off = two("").replace("failures: 3", "enabled: false, failures: 3");
    let mut gateway = TestGateway::with_config(&off);
    for _ in 0..20 {
        fail_over(&mut gateway, 500, &[]);
    }
    assert_eq!(events(&gateway, "breaker"), [] as [serde_json::Value; 0]);
}

#[test]
fn the_defaults_leave_a_handful_of_failures_to_the_order_of_the_file() {
    let mut gateway = TestGateway::with_config(&config(&(upstream("a", "") + &upstream("b", "")), ""));
    for _ in 0..9 {
        fail_over(&mut gateway, 529, &[("retry-after", "9")]);
    }
}

#[test]
fn further_attempts_are_bounded_by_the_requests_and_a_lone_request_is_not() {
    let upstreams = upstream("a", "") + &upstream("b", "") + &upstream("c", "");
    let more = "resilience: {breaker: {enabled: false}, retry_budget: {percent: 50, minimum: 2}}\n";
    let mut gateway = TestGateway::with_config(&config(&upstreams, more));
    let mut attempts = Vec::new();
    for _ in 0..10 {
        (0..3).for_each(|_| gateway.http.answer(500, &[], "{}"));
        assert_eq!(ask(&mut gateway).status, 502);
        let count = asked(&gateway).split(' ').count();
        // What was scripted and not asked for is not there for the next.
        gateway.http.forget();
        attempts.push(count);
    }
    assert_eq!(attempts[0], 3, "a lone request");
    assert_eq!(attempts.iter().sum::<usize>(), 10 + 2 + 5, "{attempts:?}");
    assert!(gateway.figures.lines().concat().contains(r#""figure":"left_out","upstream":"b","reason":"budget""#));
    gateway.pass(Duration::from_secs(61));
    (0..3).for_each(|_| gateway.http.answer(500, &[], "{}"));
    ask(&mut gateway);
    assert_eq!(asked(&gateway), "a b c");
}

#[test]
fn equals_share_conversations_by_weight_and_each_stays_where_it_is() {
    let upstreams =
        upstream("first", "") + &upstream("a", ", weight: 3") + &upstream("b", ", weight: 1") + &upstream("last", "");
    let mut gateway = TestGateway::with_config(&config(
        &upstreams,
        "resilience: {breaker: {enabled: false}, retry_budget: {enabled: false}}\n",
    ));
    let token = gateway.token(&[]);
    let mut first_of = |conversation: &str, in_body: bool| {
        (0..4).for_each(|_| gateway.http.answer(500, &[], "{}"));
        let mut body = json!({"model": "claude-opus-4-8", "messages": []});
        let mut request = post("/v1/messages").bearer(&token);
        if in_body {
            body["metadata"] = json!({"user_id": conversation});
        } else {
            request = request.header("x-claude-code-session-id", conversation);
        }
        gateway.send(request.json(&body));
        let asked = asked(&gateway);
        gateway.http.forget();
        let [first, second, third, last] = asked.split(' ').collect::<Vec<_>>()[..] else { panic!("{asked}") };
        assert_eq!((first, last), ("first", "last"));
        assert_ne!(second, third);
        second.to_owned()
    };
    let mut at_a = 0;
    for number in 0..200 {
        let conversation = format!("conversation-{number}");
        let place = first_of(&conversation, false);
        if number < 20 {
            assert_eq!(first_of(&conversation, false), place);
            assert_eq!(first_of(&conversation, true), place, "wherever it is named");
        }
        at_a += usize::from(place == "a");
    }
    assert!((125..175).contains(&at_a), "{at_a} of 200");
}
