//! Where nobody can count: first the truth, then an estimate that was learned from real answers.

use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use crate::config::{AnthropicAuth, AwsAuth, Config, Provider, Secret};
use crate::gateway::Gateway;
use crate::testing;
use crate::testing_replicas::{Answer, Replicas};

/// Three bytes of the messages to a token, and no way to count.
fn replicas() -> Replicas {
    Replicas::new(|request| {
        if request.uri().path().ends_with("/count-tokens") {
            return (500, "{}".to_owned());
        }
        let tokens = request.body().len() / 3;
        let usage = json!({"input_tokens": tokens / 2, "cache_read_input_tokens": tokens / 4,
            "cache_creation_input_tokens": tokens / 4, "output_tokens": 5});
        (200, json!({"type": "message", "usage": usage}).to_string())
    })
}

fn config() -> Config {
    let provider = Provider::Bedrock {
        region: "eu-west-1".to_owned(),
        auth: AwsAuth::Bearer(Secret::new("placeholder-token".to_owned())),
        guardrail: None,
        assume_role: None,
    };
    Config { upstreams: vec![testing::upstream("br", provider)], ..testing::config() }
}

fn body(words: usize) -> String {
    let text = "four ".repeat(words);
    json!({"model": "claude-sonnet-4-6", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}).to_string()
}

fn count(replicas: &Replicas, gateway: &Rc<Gateway>, words: usize) -> Answer {
    replicas.ask(gateway, "/v1/messages/count_tokens", &[], &body(words))
}

fn message(replicas: &Replicas, gateway: &Rc<Gateway>, words: usize) {
    assert_eq!(replicas.ask(gateway, "/v1/messages", &[], &body(words)).status, 200);
    replicas.run_tasks();
}

#[test]
fn before_anything_was_learned_the_client_is_told_that_nobody_can_count() {
    let replicas = replicas();
    let gateway = replicas.instance(config());
    for _ in 0..2 {
        let answer = count(&replicas, &gateway, 100);
        assert_eq!((answer.status, &answer.json["error"]["type"]), (501, &json!("not_supported")));
        assert_eq!(answer.headers["x-should-retry"], "false");
        assert!(!answer.headers.contains_key("x-sallyport-count"));
    }
    assert!(replicas.audited("inference").iter().all(|event| event.get("count").is_none()));
}

#[test]
fn after_a_failure_no_instance_asks_for_ten_minutes_unless_it_cannot_know() {
    let replicas = replicas();
    let [one, other, third] = [(); 3].map(|()| replicas.instance(config()));
    let asked =
        || replicas.sent.borrow().iter().filter(|request| request.uri().path().ends_with("/count-tokens")).count();
    for gateway in [&one, &other, &one] {
        assert_eq!(count(&replicas, gateway, 100).status, 501);
    }
    assert_eq!(asked(), 1);
    replicas.stores_are_down.set(true);
    for _ in 0..2 {
        assert_eq!(count(&replicas, &third, 100).status, 501);
    }
    assert_eq!(asked(), 2, "without the store it finds out by itself, once");
    replicas.stores_are_down.set(false);
    replicas.wait(Duration::from_mins(10));
    for gateway in [&one, &other] {
        assert_eq!(count(&replicas, gateway, 100).status, 501);
    }
    assert_eq!(asked(), 3);
}

#[test]
fn real_usage_makes_an_estimate_that_is_a_little_too_high_and_says_what_it_is_on_every_instance() {
    let replicas = replicas();
    let [one, other] = [(); 2].map(|()| replicas.instance(config()));
    assert_eq!(count(&replicas, &one, 100).status, 501, "from now on answers are read");
    for _ in 0..5 {
        message(&replicas, &one, 4_000);
    }
    for gateway in [&one, &other, &replicas.instance(config())] {
        let answer = count(&replicas, gateway, 2_000);
        assert_eq!((answer.status, answer.headers["x-sallyport-count"].to_str().expect("text")), (200, "estimated"));
        assert_eq!(answer.headers["content-type"], "application/json;charset=utf-8");
        let tokens = answer.json["input_tokens"].as_u64().expect("a number");
        assert!((3_400..=3_800).contains(&tokens), "{tokens}");
    }
    let events = replicas.audited("inference");
    let estimated = events.iter().filter(|event| event["count"] == "estimated");
    assert!(estimated.clone().all(|event| event["status"] == 200 && event["upstream"].is_null()));
    assert_eq!(estimated.count(), 3);
    let figures = replicas.figures.0.borrow();
    let figures = figures.iter().filter(|line| line.contains(r#""figure":"estimated_count","upstream":"br""#));
    assert_eq!(figures.count(), 3);
}

#[test]
fn an_api_that_does_not_know_how_to_count_is_helped_out_in_whichever_way_it_says_so() {
    for (status, estimated) in [(404, 200), (405, 200), (501, 200), (400, 400), (413, 413)] {
        let replicas = Replicas::new(move |request| {
            if request.uri().path().ends_with("/count_tokens") {
                return (status, r#"{"detail":"no"}"#.to_owned());
            }
            let usage = json!({"input_tokens": request.body().len() / 3, "output_tokens": 5});
            (200, json!({"type": "message", "usage": usage}).to_string())
        });
        let auth = AnthropicAuth::ApiKey(Secret::new("placeholder-key".to_owned()));
        let provider = Provider::Anthropic { auth, forward_user_identity: false };
        let upstreams = vec![testing::upstream("an", provider)];
        let gateway = replicas.instance(Config { upstreams, ..testing::config() });
        assert_eq!(count(&replicas, &gateway, 100).status, status, "nothing is known yet");
        message(&replicas, &gateway, 400);
        let answer = count(&replicas, &gateway, 400);
        assert_eq!((answer.status, answer.headers.contains_key("x-sallyport-count")), (estimated, estimated == 200));
    }
}

#[test]
fn what_several_instances_learn_adds_up_in_the_store() {
    let replicas = replicas();
    let instances = [(); 2].map(|()| replicas.instance(config()));
    for gateway in &instances {
        count(&replicas, gateway, 100);
        message(&replicas, gateway, 400);
    }
    replicas.wait(Duration::from_secs(30));
    message(&replicas, &instances[0], 400);
    let stored: Vec<serde_json::Value> = replicas
        .key_value
        .0
        .borrow()
        .iter()
        .filter(|(name, _)| name.starts_with("calibration/"))
        .map(|(_, value)| serde_json::from_slice(value).expect("JSON"))
        .collect();
    assert_eq!(stored.len(), 1);
    assert_eq!(stored[0]["requests"], 3);
}

#[test]
fn without_the_store_an_instance_estimates_with_what_it_has_learned() {
    let replicas = replicas();
    let gateway = replicas.instance(config());
    replicas.stores_are_down.set(true);
    count(&replicas, &gateway, 100);
    message(&replicas, &gateway, 400);
    assert_eq!(count(&replicas, &gateway, 400).status, 200);
}
