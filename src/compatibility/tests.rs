//! What is refused once is left out by all instances for a day; what is asked never is.

use std::rc::Rc;
use std::time::Duration;

use http::Request;
use serde_json::{Value, json};

use crate::config::{AnthropicAuth, Config, Provider, Secret, SelfHealing};
use crate::gateway::Gateway;
use crate::testing;
use crate::testing_replicas::{Answer, Replicas};

const BETA: &str = "new-thing-2026-01-01";

fn config() -> Config {
    let auth = AnthropicAuth::ApiKey(Secret::new("placeholder-key".to_owned()));
    let provider = Provider::Anthropic { auth, forward_user_identity: false };
    Config { upstreams: vec![testing::upstream("a", provider)], ..testing::config() }
}

fn refusal(message: &str) -> (u16, String) {
    let error = json!({"type": "error", "error": {"type": "invalid_request_error", "message": message}});
    (400, error.to_string())
}

fn betas<T>(request: &Request<T>) -> String {
    request.headers().get("anthropic-beta").map(|value| value.to_str().expect("text").to_owned()).unwrap_or_default()
}

/// An upstream that knows no new beta, no `service_tier`, and no `safeguards`; these it refuses one after the other.
fn replicas() -> Replicas {
    Replicas::new(|request| {
        let body: Value = serde_json::from_slice(request.body()).expect("JSON");
        if betas(request).contains(BETA) {
            return refusal(&format!("Unexpected value(s) `{BETA}` for the `anthropic-beta` header."));
        }
        for field in ["safeguards", "service_tier", "mine"] {
            if body.get(field).is_some() {
                return refusal(&format!("{field}: Extra inputs are not permitted"));
            }
        }
        (200, json!({"type": "message"}).to_string())
    })
}

fn ask(replicas: &Replicas, gateway: &Rc<Gateway>, betas: &str, more: &str) -> Answer {
    let body = format!(r#"{{ "model":"claude-sonnet-4-6","max_tokens" : 9{more},"messages":[] }}"#);
    replicas.ask(gateway, "/v1/messages", &[("anthropic-beta", betas)], &body)
}

/// Betas and body of every request that was sent since the last time.
fn sent(replicas: &Replicas) -> Vec<(String, String)> {
    let text =
        |request: Request<bytes::Bytes>| (betas(&request), String::from_utf8(request.body().to_vec()).expect("text"));
    replicas.sent.borrow_mut().drain(..).map(text).collect()
}

#[test]
fn a_beta_that_is_refused_is_left_out_at_once_by_all_instances_and_for_a_day() {
    let replicas = replicas();
    let [one, other] = [(); 2].map(|()| replicas.instance(config()));
    let both = format!("first,{BETA},last");

    assert_eq!(ask(&replicas, &one, &both, "").status, 200);
    let asked: Vec<String> = sent(&replicas).into_iter().map(|(betas, _)| betas).collect();
    assert_eq!(asked, [both.as_str(), "first,last"]);
    for gateway in [&one, &other] {
        assert_eq!(ask(&replicas, gateway, &both, "").status, 200);
        assert_eq!(sent(&replicas).len(), 1);
    }
    let events = replicas.audited("upstream.refusal");
    assert_eq!(events.len(), 1);
    let until = "2030-03-18T17:46:40.000Z";
    assert_eq!(
        (&events[0]["upstream"], &events[0]["kind"], &events[0]["name"], &events[0]["until"]),
        (&json!("a"), &json!("beta"), &json!(BETA), &json!(until))
    );
    assert!(events[0]["request_id"].is_string() && events[0].get("model").is_none());
    let figure = r#"{"figure":"refusal","upstream":"a","kind":"beta"}"#;
    assert_eq!(replicas.figures.0.borrow().iter().filter(|line| *line == figure).count(), 1);
    let warning = format!("upstream a refuses the beta {BETA}: requests go without it until {until}");
    assert!(replicas.log.0.borrow().iter().any(|line| line.contains(&warning)));

    replicas.wait(Duration::from_hours(24) - Duration::from_millis(1));
    ask(&replicas, &other, &both, "");
    assert_eq!(sent(&replicas).len(), 1);
    replicas.wait(Duration::from_millis(1));
    ask(&replicas, &other, &both, "");
    assert_eq!(sent(&replicas).len(), 2, "after a day it is tried again");
    assert_eq!(replicas.audited("upstream.refusal").len(), 2);
}

#[test]
fn a_member_is_cut_out_and_every_other_byte_stays() {
    let replicas = replicas();
    let gateway = replicas.instance(config());
    for requests in [2, 1] {
        assert_eq!(ask(&replicas, &gateway, "x", r#", "service_tier" : "auto""#).status, 200);
        let asked = sent(&replicas);
        assert_eq!(asked.len(), requests);
        let body = r#"{ "model":"claude-sonnet-4-6","max_tokens" : 9,"messages":[] }"#;
        assert_eq!(asked[requests - 1], ("x".to_owned(), body.to_owned()));
    }
}

#[test]
fn what_is_asked_is_never_changed_and_its_refusal_reaches_the_client() {
    let replicas = replicas();
    let gateway = replicas.instance(config());
    for _ in 0..2 {
        let answer = ask(&replicas, &gateway, "x", r#","safeguards":{},"service_tier":"auto""#);
        assert_eq!(
            (answer.status, &answer.json["error"]["message"]),
            (400, &json!("safeguards: Extra inputs are not permitted"))
        );
        assert_eq!(sent(&replicas).len(), 1);
    }
    assert!(replicas.audited("upstream.refusal").is_empty());
    // After the beta it is the safeguards' turn: the client is told of those.
    let answer = ask(&replicas, &gateway, BETA, r#","safeguards":{}"#);
    assert_eq!(answer.json["error"]["message"], "safeguards: Extra inputs are not permitted");
    assert_eq!(sent(&replicas).len(), 2);
    assert_eq!(replicas.audited("upstream.refusal").len(), 1, "of the beta");
}

#[test]
fn two_refusals_in_a_row_take_two_requests() {
    let replicas = replicas();
    let gateway = replicas.instance(config());
    let answer = ask(&replicas, &gateway, BETA, r#","service_tier":"auto""#);
    assert_eq!(answer.json["error"]["message"], "service_tier: Extra inputs are not permitted");
    assert_eq!(sent(&replicas).len(), 2, "it is sent again once");
    assert_eq!(ask(&replicas, &gateway, BETA, r#","service_tier":"auto""#).status, 200);
    assert_eq!(sent(&replicas).len(), 2);
    ask(&replicas, &gateway, BETA, r#","service_tier":"auto""#);
    assert_eq!(sent(&replicas).len(), 1);
}

#[test]
fn an_upstream_that_keeps_on_naming_what_is_gone_is_believed_nothing() {
    let replicas =
        Replicas::new(|_| refusal(&format!("Unexpected value(s) `{BETA}` for the `anthropic-beta` header.")));
    let gateway = replicas.instance(config());
    for _ in 0..2 {
        assert_eq!(ask(&replicas, &gateway, BETA, "").status, 400);
        assert_eq!(sent(&replicas).len(), 2);
    }
    assert!(replicas.key_value.0.borrow().is_empty());
}

#[test]
fn members_of_the_operators_choice_go_too_and_nothing_goes_when_it_is_switched_off() {
    for (enabled, fields, requests, status) in
        [(true, vec!["mine".to_owned()], 2, 200), (true, vec![], 1, 400), (false, vec!["mine".to_owned()], 1, 400)]
    {
        let replicas = replicas();
        let gateway = replicas.instance(Config { self_healing: SelfHealing { enabled, fields }, ..config() });
        assert_eq!(ask(&replicas, &gateway, "x", r#","mine":1"#).status, status);
        assert_eq!(sent(&replicas).len(), requests);
    }
}

#[test]
fn without_the_store_an_instance_remembers_by_itself() {
    let replicas = replicas();
    let gateway = replicas.instance(config());
    replicas.stores_are_down.set(true);
    for requests in [2, 1] {
        assert_eq!(ask(&replicas, &gateway, BETA, "").status, 200);
        assert_eq!(sent(&replicas).len(), requests);
    }
}

#[test]
fn what_is_remembered_is_bounded_and_the_latest_stay() {
    let replicas = Replicas::new(|request| {
        let betas = betas(request);
        if betas.is_empty() {
            return (200, json!({"type": "message"}).to_string());
        }
        refusal(&format!("Unexpected value(s) `{betas}` for the `anthropic-beta` header."))
    });
    let gateway = replicas.instance(config());
    for number in 0..100 {
        replicas.wait(Duration::from_secs(1));
        assert_eq!(ask(&replicas, &gateway, &format!("beta-{number}"), "").status, 200);
    }
    let stored = replicas.key_value.0.borrow().values().next().cloned().expect("it is kept");
    let stored: Vec<Value> = serde_json::from_slice(&stored).expect("JSON");
    assert_eq!((stored.len(), &stored[63]["name"], &stored[0]["name"]), (64, &json!("beta-99"), &json!("beta-36")));
}

#[test]
fn what_one_model_refuses_goes_to_the_others() {
    let replicas = Replicas::new(|request| {
        let is_refused = betas(request).contains(BETA) && String::from_utf8_lossy(request.body()).contains("haiku");
        if is_refused {
            return refusal(&format!("The beta `{BETA}` is not supported by this model."));
        }
        (200, json!({"type": "message"}).to_string())
    });
    let gateway = replicas.instance(config());
    for (model, expected) in [("claude-haiku-4-5", 2), ("claude-sonnet-4-6", 1), ("claude-haiku-4-5", 1)] {
        let body = json!({"model": model, "max_tokens": 9, "messages": []}).to_string();
        assert_eq!(replicas.ask(&gateway, "/v1/messages", &[("anthropic-beta", BETA)], &body).status, 200);
        let asked = sent(&replicas);
        assert_eq!(asked.len(), expected, "{model}");
        assert_eq!(asked[expected - 1].0.is_empty(), model.contains("haiku"));
    }
    assert!(replicas.audited("upstream.refusal")[0]["model"].as_str().expect("a model").contains("haiku"));
}
