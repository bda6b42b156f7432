//! Tables: what may be asked for, what each upstream calls it, and who may name it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::{AnthropicAuth, AwsAuth, FoundryAuth, GoogleAuth, Secret};

fn upstream(name: &str, provider: Provider) -> Upstream {
    crate::testing::upstream(name, provider)
}

fn anthropic() -> Upstream {
    let auth = AnthropicAuth::ApiKey(Secret::new("placeholder".into()));
    upstream("anthropic", Provider::Anthropic { auth, forward_user_identity: false })
}

fn bedrock(region: &str) -> Upstream {
    let provider =
        Provider::Bedrock { region: region.into(), auth: AwsAuth::DefaultChain, guardrail: None, assume_role: None };
    upstream("bedrock", provider)
}

fn mantle() -> Upstream {
    let provider = Provider::Mantle { region: "us-east-1".into(), auth: AwsAuth::DefaultChain, assume_role: None };
    upstream("mantle", provider)
}

fn vertex() -> Upstream {
    let (region, project_id) = ("global".into(), "p".into());
    upstream("vertex", Provider::Vertex { region, project_id, auth: GoogleAuth::DefaultChain })
}

fn google_cloud() -> Upstream {
    let (project_id, workspace_id, location) = ("p".into(), "w".into(), "global".into());
    let auth = GoogleAuth::DefaultChain;
    upstream("gc", Provider::AnthropicGoogleCloud { project_id, workspace_id, location, auth })
}

fn foundry() -> Upstream {
    upstream("foundry", Provider::Foundry { resource: "r".into(), auth: FoundryAuth::AzureAd })
}

fn model(id: &str, mapped: &[(&str, &str)]) -> Model {
    let upstream_model: BTreeMap<_, _> = mapped.iter().map(|(name, id)| ((*name).into(), (*id).into())).collect();
    Model { id: id.into(), label: None, description: None, upstream_model }
}

fn catalog(configured: Vec<Model>) -> Catalog {
    Catalog::new(configured, true)
}

#[test]
fn every_provider_gets_its_own_id() {
    for (upstream, expected) in [
        (anthropic(), "claude-sonnet-4-5-20250929"),
        (bedrock("us-east-1"), "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        (bedrock("ca-central-1"), "us.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        (bedrock("us-gov-west-1"), "anthropic.claude-sonnet-4-5-20250929-v1:0"),
        (bedrock("eu-central-1"), "anthropic.claude-sonnet-4-5-20250929-v1:0"),
        (vertex(), "claude-sonnet-4-5@20250929"),
        (google_cloud(), "claude-sonnet-4-5-20250929"),
        (foundry(), "claude-sonnet-4-5"),
    ] {
        assert_eq!(catalog(vec![]).resolve("claude-sonnet-4-5", &upstream).as_deref(), Ok(expected));
    }
    assert_eq!(catalog(vec![]).resolve("CLAUDE-HAIKU-4-5", &mantle()).as_deref(), Ok("anthropic.claude-haiku-4-5"));
}

#[test]
fn a_model_is_known_by_every_spelling_of_every_provider_and_by_no_other() {
    let known = [
        "claude-sonnet-4-5",
        "claude-sonnet-4-5@20250929",
        "us.anthropic.claude-opus-4-8",
        "anthropic.claude-opus-4-8",
        "CLAUDE-OPUS-4-8",
        "US.anthropic.claude-3-5-sonnet-20241022-v2:0",
        "claude-3-5-sonnet-v2@20241022",
    ];
    for name in known {
        assert!(catalog(vec![]).resolve(name, &anthropic()).is_ok(), "{name}");
    }
    let unknown = [
        "opus",
        "claude-opus-4-8[1m]",
        "claude-opus-4-8-latest",
        "claude-opus-4-0",
        "claude-sonnet-4-5-20250101",
        "eu.anthropic.claude-opus-4-8",
        "anthropic.claude-sonnet-4-5-20250929-v1:0",
        "anthropic/claude-opus-4-8",
        "claude-opus-4.8",
        " claude-opus-4-8",
        "claude-opus-9",
        " ",
        "é",
    ];
    for name in unknown {
        let error = catalog(vec![]).resolve(name, &anthropic()).unwrap_err();
        assert_eq!(error.to_string(), format!("model {name} is not in the operator's model allowlist"));
    }
}

#[test]
fn the_reason_of_each_upstream_is_told_in_order() {
    let mut limited = anthropic();
    limited.models = Some(vec!["claude-opus-4-8".into()]);
    let upstreams = [limited, mantle(), bedrock("us-east-1")];
    let configured = vec![model("mine", &[("elsewhere", "x")])];
    for (requested, expected) in [
        (
            "claude-9",
            "model claude-9 is not in the operator's model allowlist; model claude-9 is not in the operator's model \
             allowlist; model claude-9 is not in the operator's model allowlist",
        ),
        (
            "MINE",
            "model MINE is not served by upstream 'anthropic'; model mine has no upstream_model.mantle configured; \
             model mine has no upstream_model.bedrock configured",
        ),
    ] {
        let refused = catalog(configured.clone()).plan(&upstreams, &[], requested).unwrap_err();
        assert_eq!(refused.to_string(), expected);
    }
    let refused = catalog(vec![]).plan(&upstreams[..2], &[], "Claude-Opus-4-6").unwrap_err();
    assert_eq!(
        refused.to_string(),
        "model Claude-Opus-4-6 is not served by upstream 'anthropic'; model Claude-Opus-4-6 is not available on mantle"
    );
}

#[test]
fn upstreams_of_other_groups_do_not_exist_for_a_request() {
    let mut reserved = anthropic();
    reserved.groups = Some(vec!["research".into()]);
    let upstreams = [reserved, mantle(), bedrock("us-east-1")];
    let catalog = catalog(vec![]);
    let plan = catalog.plan(&upstreams, &["sales".into()], "claude-opus-4-6").unwrap();
    assert_eq!(plan.permitted, 2);
    assert_eq!(plan.candidates, [Candidate { upstream: 2, model: "us.anthropic.claude-opus-4-6-v1".into() }]);
    assert_eq!(catalog.plan(&upstreams[..1], &[], "nonsense"), Err(Refused::NoUpstreamForGroups));
    let plan = catalog.plan(&upstreams[..1], &["research".into()], "claude-opus-4-6").unwrap();
    assert_eq!(plan.permitted, 1);
}

#[test]
fn configuration_maps_built_in_models_in_any_spelling_and_custom_ones_only_where_it_says() {
    let catalog = catalog(vec![
        model("claude-sonnet-4-5", &[("bedrock", "arn:aws:bedrock:eu-west-1:1:application-inference-profile/x")]),
        model("fast", &[("anthropic", "claude-haiku-4-5-20251001")]),
    ]);
    let mapped = catalog.resolve("claude-sonnet-4-5-20250929", &bedrock("us-east-1"));
    assert_eq!(mapped.as_deref(), Ok("arn:aws:bedrock:eu-west-1:1:application-inference-profile/x"));
    let unmapped = catalog.resolve("claude-sonnet-4-5-20250929", &anthropic());
    assert_eq!(unmapped.as_deref(), Ok("claude-sonnet-4-5-20250929"));
    assert_eq!(catalog.resolve("FAST", &anthropic()).as_deref(), Ok("claude-haiku-4-5-20251001"));
    assert!(catalog.resolve("fast", &bedrock("us-east-1")).is_err());
}

#[test]
fn built_in_models_can_be_switched_off() {
    let catalog = Catalog::new(vec![model("claude-opus-4-8", &[("vertex", "x")])], false);
    assert_eq!(catalog.resolve("us.anthropic.claude-opus-4-8", &anthropic()).as_deref(), Ok("claude-opus-4-8"));
    assert!(matches!(catalog.resolve("claude-opus-5", &anthropic()), Err(NotServed::Unknown(_))));
    assert_eq!(catalog.list(&[anthropic()], &[], |_| true).data.len(), 1);
}

#[test]
fn the_list_shows_configured_models_first_and_hides_their_built_in_twins() {
    let mut fast = model("fast-one", &[("anthropic", "claude-haiku-4-5-20251001")]);
    fast.label = Some("Fast One".into());
    fast.description = Some("for CI".into());
    let configured =
        vec![fast, model("claude-opus-4-8", &[("anthropic", "x")]), model("claude-haiku-4-5", &[("anthropic", "y")])];
    let list = catalog(configured).list(&[anthropic()], &[], |_| true);
    let ids: Vec<&str> = list.data.iter().map(|model| model.id.as_str()).collect();
    assert_eq!(
        ids[..5],
        ["fast-one", "claude-opus-4-8", "claude-haiku-4-5", "claude-opus-4-6", "claude-sonnet-4-5-20250929"]
    );
    assert_eq!(ids.iter().filter(|id| **id == "claude-opus-4-8").count(), 1);
    assert!(ids.contains(&"claude-haiku-4-5-20251001"));
    assert_eq!(
        serde_json::to_string(&list.data[0]).unwrap(),
        r#"{"type":"model","id":"fast-one","display_name":"Fast One","description":"for CI","max_input_tokens":200000}"#
    );
    assert_eq!(
        serde_json::to_string(&list.data[3]).unwrap(),
        r#"{"type":"model","id":"claude-opus-4-6","display_name":"claude-opus-4-6"}"#
    );
}

#[test]
fn the_window_is_that_of_the_model_that_is_asked_in_the_end() {
    let mut limited = anthropic();
    limited.groups = Some(vec!["sales".into()]);
    limited.name = "limited".to_owned();
    let upstreams = [limited, anthropic()];
    for (entry, groups, window) in [
        (model("claude-opus-4-8", &[("anthropic", "unknown")]), &[][..], None),
        (model("claude-haiku-4-5", &[("anthropic", "claude-opus-4-6")]), &[], None),
        (model("claude-haiku-4-5", &[("anthropic", "claude-opus-4-8")]), &[], Some(1_000_000)),
        (model("claude-haiku-4-5", &[("limited", "claude-opus-4-8")]), &[], Some(200_000)),
        (model("claude-haiku-4-5", &[("limited", "claude-opus-4-8")]), &["sales".to_owned()], Some(1_000_000)),
        (model("mine", &[("limited", "unknown"), ("anthropic", "claude-opus-4-8")]), &[], Some(1_000_000)),
        (model("mine", &[("limited", "unknown"), ("anthropic", "claude-opus-4-8")]), &["sales".to_owned()], None),
    ] {
        let shown = format!("{entry:?} {groups:?}");
        let list = catalog(vec![entry]).list(&upstreams, groups, |_| true);
        assert_eq!(list.data[0].max_input_tokens, window, "{shown}");
    }
}

#[test]
fn the_list_shows_only_what_the_caller_can_use() {
    let catalog = catalog(vec![]);
    assert!(catalog.list(&[mantle()], &[], |_| true).data.iter().all(|model| model.id != "claude-opus-4-6"));
    let only = ["haiku".to_owned()];
    let list = catalog.list(&[mantle()], &[], |name| allows(&only, name));
    assert_eq!(
        list.data.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(),
        ["claude-haiku-4-5-20251001", "claude-haiku-5-5"]
    );
    let mut reserved = anthropic();
    reserved.groups = Some(vec!["research".into()]);
    let list = serde_json::to_string(&catalog.list(&[reserved], &[], |_| true)).unwrap();
    assert_eq!(list, r#"{"data":[],"has_more":false,"first_id":null,"last_id":null}"#);
}

#[test]
fn a_policy_entry_covers_exactly_what_the_contract_says() {
    for (entry, covered, not_covered) in [
        (
            "opus",
            vec!["claude-opus-4-8", "us.anthropic.claude-opus-4-8", "CLAUDE-OPUS-5"],
            vec!["claude-sonnet-5", "opus", "claude-opus-mine"],
        ),
        ("Opus[1m]", vec!["claude-opus-4-8"], vec!["claude-haiku-5-5"]),
        ("sonnet", vec!["claude-3-7-sonnet"], vec!["claude-opus-5"]),
        (
            "claude-opus-4",
            vec!["claude-opus-4-8", "claude-opus-4", "claude-opus-4-20250514"],
            vec!["claude-opus-5", "us.anthropic.claude-opus-4-8"],
        ),
        ("claude-opus-5", vec!["claude-opus-5", "claude-opus-5-5"], vec!["claude-opus-4-5"]),
        ("opus-4-7", vec!["claude-opus-4-7"], vec!["claude-opus-4-8", "claude-opus-4-70"]),
        ("claude-sonnet-4-5", vec!["claude-sonnet-4-5", "claude-sonnet-4-5-20250929"], vec!["claude-sonnet-4-6"]),
        ("claude-sonnet-4-5-20250929", vec!["claude-sonnet-4-5-20250929"], vec!["claude-sonnet-4-5"]),
        ("us.anthropic.claude-opus-4-8", vec!["us.anthropic.claude-opus-4-8"], vec!["claude-opus-4-8"]),
        ("mine", vec!["mine", "MINE"], vec!["mine-2", "claude-opus-5"]),
        ("default", vec![], vec!["claude-opus-5"]),
        ("best", vec![], vec!["claude-opus-5"]),
        ("opusplan", vec![], vec!["claude-opus-5"]),
        ("claude", vec![], vec!["claude-opus-5"]),
        ("", vec![], vec!["claude-opus-5"]),
    ] {
        let entries = [entry.to_owned()];
        for name in covered {
            assert!(allows(&entries, name), "{entry} should cover {name}");
        }
        for name in not_covered {
            assert!(!allows(&entries, name), "{entry} should not cover {name}");
        }
    }
    assert!(!allows(&[""; 0], "claude-opus-5"));
}

proptest! {
    #[test]
    fn no_name_makes_it_fail(name in "(us\\.|eu\\.)?(anthropic\\.)?(claude-|CLAUDE-)?(opus|é|3)?[-@:.]?\\PC{0,6}") {
        let known = built_in::find(&name);
        prop_assert_eq!(catalog(vec![]).resolve(&name, &anthropic()).is_ok(), known.is_some());
        if let Some(model) = known {
            prop_assert!(allows(&[model.family().to_owned()], &name));
        }
        prop_assert!(allows(std::slice::from_ref(&name), &name) || name.ends_with("[1m]") || name.to_lowercase() == "opus");
    }
}
