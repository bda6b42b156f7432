//! `GET /v1/models`.

use crate::support::{CONFIG, TestGateway, get};

#[test]
fn the_list_is_in_the_contracts_form_and_needs_a_session() {
    let mut gateway = TestGateway::new();
    let answer = gateway.send(get("/v1/models"));
    assert_eq!(answer.status, 401);

    let token = gateway.token(&[]);
    let answer = gateway.send(get("/v1/models").bearer(&token));
    assert_eq!(answer.status, 200);
    let list = answer.json();
    assert_eq!((&list["has_more"], &list["first_id"], &list["last_id"]), (&false.into(), &().into(), &().into()));
    let first = &list["data"][0];
    assert_eq!((&first["type"], &first["id"]), (&"model".into(), &"claude-opus-4-6".into()));
    assert!(first.get("max_input_tokens").is_none());
}

#[test]
fn what_the_callers_policy_does_not_allow_is_not_listed() {
    let policies = "managed: {policies: [{match: {groups: [small]}, cli: {availableModels: [haiku]}}]}";
    let mut gateway = TestGateway::with_config(&format!("{CONFIG}\n{policies}"));
    let token = gateway.token(&["small"]);
    let ids: Vec<String> = gateway.send(get("/v1/models").bearer(&token)).json()["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|model| model["id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(ids, ["claude-haiku-4-5-20251001", "claude-haiku-5-5"]);
}
