//! Requests to every cloud, as they leave; and what becomes of answers.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::*;
use crate::config::{AwsAuth, FoundryAuth, GoogleAuth, Guardrail, Secret};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const BODY: &str = r#"{"model":"asked", "stream":true,"tags":{"a":"b"},"user_profile_id":"profile-1","max_tokens":5,
 "anthropic_beta":["in-body"," two "],"messages":[{"role":"user","content":"é \u00e9"}],"temperature":1.0}"#;

fn upstream(provider: Provider) -> Upstream {
    let headers = vec![("x-team".to_owned(), "one".to_owned())];
    Upstream { headers, ..crate::testing::upstream("u", provider) }
}

fn bedrock() -> Upstream {
    upstream(Provider::Bedrock {
        region: "eu-central-1".into(),
        auth: AwsAuth::DefaultChain,
        guardrail: Some(Guardrail { id: "g1".into(), version: "2".into() }),
        assume_role: None,
    })
}

fn mantle() -> Upstream {
    upstream(Provider::Mantle { region: "us-east-1".into(), auth: AwsAuth::DefaultChain, assume_role: None })
}

fn anthropic_aws() -> Upstream {
    upstream(Provider::AnthropicAws {
        region: "us-east-1".into(),
        workspace_id: "ws-1".into(),
        api_key: None,
        auth: AwsAuth::DefaultChain,
    })
}

fn google_cloud() -> Upstream {
    upstream(Provider::AnthropicGoogleCloud {
        project_id: "p1".into(),
        workspace_id: "ws-1".into(),
        location: "global".into(),
        auth: GoogleAuth::DefaultChain,
    })
}

fn vertex(region: &str) -> Upstream {
    let (region, project_id) = (region.into(), "p1".into());
    upstream(Provider::Vertex { region, project_id, auth: GoogleAuth::DefaultChain })
}

fn foundry() -> Upstream {
    upstream(Provider::Foundry { resource: "res".into(), auth: FoundryAuth::AzureAd })
}

fn bearer() -> Credential {
    Credential::Bearer(Secret::new("placeholder-token".into()))
}

fn keys() -> Credential {
    Credential::AwsKeys(AwsKeys {
        access_key_id: "placeholder-id".into(),
        secret_access_key: Secret::new("placeholder-secret".into()),
        session_token: Some(Secret::new("placeholder-session".into())),
    })
}

fn client_headers() -> HeaderMap {
    let lines = [
        ("anthropic-beta", "one, request-tags-2026-08-21,, two"),
        ("anthropic-version", "2099-01-01"),
        ("accept", "text/event-stream"),
        ("user-agent", "claude-cli/2.0"),
        ("x-stainless-lang", "js"),
        ("x-app", "cli"),
    ];
    lines.into_iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
}

/// Runs `test` with a call for `body`.
fn with_call<T>(operation: Operation, body: &str, test: impl FnOnce(&Call<'_>) -> T) -> T {
    let message = Message::parse(Bytes::copy_from_slice(body.as_bytes())).unwrap();
    let headers = client_headers();
    let caller = Caller { sub: "user-1", email: None };
    test(&Call { operation, query: Some("beta=true"), headers: &headers, message: &message, caller, strip_tags: false })
}

fn sent(
    upstream: &Upstream,
    operation: Operation,
    body: &str,
    model: &str,
    credential: &Credential,
) -> http::Request<Bytes> {
    with_call(operation, body, |call| prepare(upstream, call, model, credential, NOW)).unwrap()
}

/// Headers without those that every cloud gets.
fn shown(request: &http::Request<Bytes>) -> String {
    let headers = request.headers();
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["accept"], "application/json");
    assert_eq!(headers["anthropic-version"], "2023-06-01");
    assert_eq!(headers["user-agent"], USER_AGENT);
    assert_eq!(headers["x-stainless-lang"], "js");
    let common = ["content-type", "accept", "accept-encoding", "anthropic-version", "user-agent", "x-stainless-lang"];
    let mut lines: Vec<String> = headers
        .iter()
        .filter(|(name, _)| !common.contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    lines.join("\n")
}

fn text(body: &Bytes) -> &str {
    std::str::from_utf8(body).unwrap()
}

#[test]
fn bedrock_has_the_model_in_the_path_and_the_betas_in_the_body() {
    let model = "eu.anthropic.claude-sonnet-4-5-20250929-v1:0";
    let request = sent(&bedrock(), Operation::Messages, BODY, model, &bearer());
    assert_eq!(
        request.uri(),
        "https://bedrock-runtime.eu-central-1.amazonaws.com/model/eu.anthropic.claude-sonnet-4-5-20250929-v1:0\
         /invoke-with-response-stream"
    );
    assert_eq!(
        shown(&request),
        "anthropic-user-profile-id: profile-1\nauthorization: Bearer placeholder-token\n\
         x-amzn-bedrock-guardrailidentifier: g1\nx-amzn-bedrock-guardrailversion: 2\nx-team: one"
    );
    assert_eq!(
        text(request.body()),
        r#"{"max_tokens":5,
 "anthropic_beta":["in-body","two","one"],"messages":[{"role":"user","content":"é \u00e9"}],"temperature":1.0,"anthropic_version":"bedrock-2023-05-31"}"#
    );
}

#[test]
fn bedrock_keeps_what_the_body_says_and_leaves_out_what_is_empty() {
    let body = r#"{"model":"asked","anthropic_version":"own","anthropic_beta":"no list"}"#;
    let arn = "arn:aws:bedrock:us-east-1:1111:application-inference-profile/ab12";
    let request = sent(&bedrock(), Operation::Messages, body, arn, &bearer());
    assert_eq!(
        request.uri().path(),
        "/model/arn:aws:bedrock:us-east-1:1111:application-inference-profile%2Fab12/invoke"
    );
    assert_eq!(text(request.body()), r#"{"anthropic_version":"own","anthropic_beta":["one","two"]}"#);
}

#[test]
fn aws_keys_sign_for_their_service() {
    for (upstream, scope) in [
        (bedrock(), "eu-central-1/bedrock/aws4_request"),
        (mantle(), "us-east-1/bedrock-mantle/aws4_request"),
        (anthropic_aws(), "us-east-1/aws-external-anthropic/aws4_request"),
    ] {
        let request = sent(&upstream, Operation::Messages, BODY, "m", &keys());
        let authorization = request.headers()["authorization"].to_str().unwrap();
        assert!(authorization.contains(scope), "{authorization}");
        assert!(authorization.contains("anthropic-user-profile-id;anthropic-version;"), "{authorization}");
        assert!(authorization.contains("x-stainless-lang"), "{authorization}");
        assert_eq!(request.headers()["x-amz-security-token"], "placeholder-session");
    }
}

#[test]
fn bedrock_counts_tokens_of_what_it_would_run() {
    for (model, body, path, inner) in [
        (
            "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
            r#"{"model":"asked","messages":[],"tools":[],"tags":{},"anthropic_beta":["context-management-2025-06-27"]}"#,
            "anthropic.claude-sonnet-4-5-20250929-v1%3A0",
            r#"{"messages":[],"anthropic_beta":["context-management-2025-06-27"],"anthropic_version":"bedrock-2023-05-31","max_tokens":1}"#,
        ),
        (
            "anthropic.claude-opus-4-8",
            r#"{"model":"asked","thinking":{"type":"enabled","budget_tokens":2048},"tools":[1]}"#,
            "anthropic.claude-opus-4-8",
            r#"{"thinking":{"type":"enabled","budget_tokens":2048},"tools":[1],"anthropic_version":"bedrock-2023-05-31","max_tokens":2049}"#,
        ),
        (
            "arn:aws:bedrock:us-east-1::foundation-model/anthropic.claude-x-v1:0",
            r#"{"model":"asked","max_tokens":0}"#,
            "anthropic.claude-x-v1%3A0",
            r#"{"max_tokens":0,"anthropic_version":"bedrock-2023-05-31"}"#,
        ),
    ] {
        let request = sent(&bedrock(), Operation::CountTokens, body, model, &bearer());
        assert_eq!(request.uri().path(), format!("/model/{path}/count-tokens"));
        assert_eq!(shown(&request), "authorization: Bearer placeholder-token");
        let outer: Value = serde_json::from_slice(request.body()).unwrap();
        let encoded = outer["input"]["invokeModel"]["body"].as_str().unwrap();
        assert_eq!(String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap(), inner);
    }
    for model in ["arn:aws:bedrock:us-east-1:1:application-inference-profile/x", "my-deployment", "us.meta.llama"] {
        let refused = with_call(Operation::CountTokens, BODY, |call| prepare(&bedrock(), call, model, &bearer(), NOW));
        assert_eq!(refused.unwrap_err(), CannotPrepare::CannotCount, "{model}");
    }
}

#[test]
fn clouds_with_the_anthropic_wire_format_differ_in_address_and_tags() {
    let with_tags = r#"{"model":"m-1", "stream":true,"tags":{"a":"b"},"max_tokens":5,
 "anthropic_beta":["in-body"," two "],"messages":[{"role":"user","content":"é \u00e9"}],"temperature":1.0}"#;
    let without_tags = with_tags.replace(r#","tags":{"a":"b"}"#, "");
    let all_betas = "anthropic-beta: one, request-tags-2026-08-21,, two\nanthropic-user-profile-id: profile-1\n";
    let other_betas = "anthropic-beta: one,two\nanthropic-user-profile-id: profile-1\n";
    for (upstream, base, headers, body) in [
        (mantle(), "https://bedrock-mantle.us-east-1.api.aws/anthropic", other_betas.to_owned(), &without_tags[..]),
        (
            anthropic_aws(),
            "https://aws-external-anthropic.us-east-1.api.aws",
            format!("{all_betas}anthropic-workspace-id: ws-1\n"),
            with_tags,
        ),
        (
            google_cloud(),
            "https://claude.googleapis.com/v1/projects/p1/locations/global/workspaces/ws-1/invoke",
            all_betas.to_owned(),
            with_tags,
        ),
        (foundry(), "https://res.services.ai.azure.com/anthropic", all_betas.to_owned(), with_tags),
    ] {
        let request = sent(&upstream, Operation::Messages, BODY, "m-1", &bearer());
        assert_eq!(request.uri().to_string(), format!("{base}/v1/messages"));
        assert_eq!(shown(&request), format!("{headers}authorization: Bearer placeholder-token\nx-team: one"));
        assert_eq!(text(request.body()), body);
        let counted = sent(&upstream, Operation::CountTokens, BODY, "m-1", &bearer());
        assert_eq!(counted.uri().to_string(), format!("{base}/v1/messages/count_tokens"));
    }
}

#[test]
fn tags_for_the_gateway_alone_reach_no_provider() {
    for tags in [r#"{"team":"a"}"#, r#""text""#, "null"] {
        let body = format!(r#"{{"model":"m","tags":{tags},"safeguards":{{"x":1}},"max_tokens":5}}"#);
        for upstream in [bedrock(), mantle(), anthropic_aws(), google_cloud(), vertex("eu"), foundry()] {
            for operation in [Operation::Messages, Operation::CountTokens] {
                let request = with_call(operation, &body, |call| {
                    prepare(&upstream, &Call { strip_tags: true, ..*call }, "anthropic.m", &bearer(), NOW).unwrap()
                });
                let name = upstream.provider.name();
                let betas = request.headers().get("anthropic-beta").map(|betas| betas.to_str().unwrap().to_owned());
                let outer: Value = serde_json::from_slice(request.body()).unwrap();
                let sent = match outer["input"]["invokeModel"]["body"].as_str() {
                    Some(inner) => serde_json::from_slice(&STANDARD.decode(inner).unwrap()).unwrap(),
                    None => outer,
                };
                assert_eq!(sent.get("tags"), None, "{name} {operation:?}");
                assert_eq!(sent["safeguards"], json!({"x": 1}), "{name} {operation:?}");
                assert_eq!(betas.as_deref(), (name != "bedrock").then_some("one,two"), "{name} {operation:?}");
            }
        }
    }
}

#[test]
fn vertex_has_the_model_in_the_path() {
    let places = "projects/p1/locations";
    for (region, stream, base) in [
        ("europe-west1", "true", "https://europe-west1-aiplatform.googleapis.com/v1"),
        ("global", "false", "https://aiplatform.googleapis.com/v1"),
        ("eu", "true", "https://aiplatform.eu.rep.googleapis.com/v1"),
    ] {
        let body = format!(r#"{{"model":"asked","stream":{stream},"tags":1}}"#);
        let request = sent(&vertex(region), Operation::Messages, &body, "claude-sonnet-4-5@20250929", &bearer());
        let action = if stream == "true" { "streamRawPredict" } else { "rawPredict" };
        assert_eq!(
            request.uri().to_string(),
            format!("{base}/{places}/{region}/publishers/anthropic/models/claude-sonnet-4-5@20250929:{action}")
        );
        assert_eq!(text(request.body()), format!(r#"{{"stream":{stream},"anthropic_version":"vertex-2023-10-16"}}"#));
        assert_eq!(shown(&request), "anthropic-beta: one,two\nauthorization: Bearer placeholder-token\nx-team: one");
        let counted = sent(&vertex(region), Operation::CountTokens, &body, "m@1", &bearer());
        assert_eq!(
            counted.uri().to_string(),
            format!("{base}/{places}/{region}/publishers/anthropic/models/count-tokens:rawPredict")
        );
        assert_eq!(text(counted.body()), format!(r#"{{"model":"m@1","stream":{stream}}}"#));
    }
}

#[test]
fn a_configured_base_url_replaces_the_whole_default() {
    for (mut upstream, expected) in [
        (bedrock(), "http://localhost:1/x/model/m/invoke-with-response-stream"),
        (
            vertex("global"),
            "http://localhost:1/x/projects/p1/locations/global/publishers/anthropic/models/m:streamRawPredict",
        ),
        (foundry(), "http://localhost:1/x/v1/messages"),
        (mantle(), "http://localhost:1/x/v1/messages"),
    ] {
        upstream.base_url = Some("http://localhost:1/x".into());
        assert_eq!(sent(&upstream, Operation::Messages, BODY, "m", &bearer()).uri().to_string(), expected);
    }
}

fn head_of(status: u16, content_type: &'static str) -> response::Parts {
    let response = http::Response::builder().status(status).header("content-type", content_type);
    response.header("retry-after", "5").header("x-amzn-requestid", "aws-1").body(()).unwrap().into_parts().0
}

#[test]
fn an_answer_has_the_form_that_was_asked_for() {
    let plain = r#"{"model":"m"}"#;
    for (upstream, operation, body, content_type, expected) in [
        (bedrock(), Operation::Messages, BODY, "application/vnd.amazon.eventstream", "stream"),
        (bedrock(), Operation::Messages, BODY, "text/event-stream", "stream"),
        (bedrock(), Operation::Messages, plain, "application/json", "json"),
        (bedrock(), Operation::CountTokens, BODY, "application/json", "json"),
        (vertex("eu"), Operation::Messages, BODY, "text/event-stream; charset=utf-8", "stream"),
        (foundry(), Operation::Messages, BODY, "application/json", "json"),
    ] {
        let parts = head_of(200, content_type);
        let form = with_call(operation, body, |call| form(&upstream, call, &parts, "id-1"));
        let headers = head(&upstream, &form, &parts);
        match form {
            Form::Relay => panic!("clouds are translated"),
            Form::Json => {
                assert_eq!(expected, "json");
                assert_eq!(headers, json_headers());
            }
            Form::Stream(_) => {
                assert_eq!(expected, "stream");
                assert_eq!(headers["content-type"], "text/event-stream");
                assert_eq!(headers["cache-control"], "no-cache");
                assert_eq!(headers.len(), 3);
            }
        }
    }
}

#[test]
fn json_answers_of_clouds_must_be_json() {
    let body = Bytes::from_static(b"{\"id\": 1.0}");
    assert_eq!(json_answer(&foundry(), Operation::Messages, body.clone()), Ok(body));
    assert_eq!(json_answer(&foundry(), Operation::Messages, Bytes::from_static(b"<html>")), Err(Unreadable));
    let counted = Bytes::from_static(b"{\"inputTokens\":7}");
    assert_eq!(
        json_answer(&bedrock(), Operation::CountTokens, counted),
        Ok(Bytes::from_static(b"{\"input_tokens\":7}"))
    );
    assert_eq!(json_answer(&bedrock(), Operation::CountTokens, Bytes::from_static(b"{}")), Err(Unreadable));
}

#[test]
fn a_bedrock_that_cannot_count_says_so_at_the_end_only() {
    assert_eq!(verdict(&bedrock(), Operation::CountTokens, StatusCode::BAD_REQUEST), Verdict::TryNext);
    assert_eq!(verdict(&bedrock(), Operation::Messages, StatusCode::BAD_REQUEST), Verdict::GiveUp);
    let answer = with_call(Operation::CountTokens, BODY, |call| {
        error_answer(&bedrock(), call, &head_of(429, "application/json"), Bytes::new(), "id-1")
    });
    assert_eq!(answer.status(), 501);
    assert_eq!(answer.headers()["x-should-retry"], "false");
    assert_eq!(
        text(answer.body()),
        r#"{"type":"error","request_id":"id-1","error":{"type":"not_supported","message":"count_tokens is not available on this Bedrock upstream"}}"#
    );
}

#[test]
fn errors_of_clouds_carry_none_of_their_headers_and_those_of_anthropic_keep_theirs() {
    let auth = crate::config::AnthropicAuth::ApiKey(Secret::new("placeholder-key".into()));
    let anthropic = upstream(Provider::Anthropic { auth, forward_user_identity: false });
    let body = Bytes::from_static(b"slow down");
    with_call(Operation::Messages, BODY, |call| {
        let cloud = error_answer(&foundry(), call, &head_of(429, "text/plain"), body.clone(), "id-1");
        assert_eq!(cloud.headers(), &json_headers());
        let direct = error_answer(&anthropic, call, &head_of(429, "text/plain"), body.clone(), "id-1");
        assert_eq!((direct.status().as_u16(), direct.body()), (429, &body));
        assert_eq!(direct.headers()["retry-after"], "5");
    });
}

#[test]
fn the_gateways_own_answer_counts_the_upstreams() {
    let answer = all_failed(3, "id-1");
    assert_eq!(answer.status(), 502);
    assert_eq!(
        text(answer.body()),
        r#"{"type":"error","request_id":"id-1","error":{"type":"api_error","message":"all upstreams failed (3 attempted)"}}"#
    );
}

#[test]
fn request_ids_come_from_the_upstream_or_its_cloud() {
    let map = |lines: &[(&'static str, &'static str)]| -> HeaderMap {
        lines.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    };
    for (headers, upstream, cloud) in [
        (map(&[("request-id", "r"), ("x-amzn-requestid", "a")]), Some("r"), Some("a")),
        (map(&[("x-amzn-requestid", "a"), ("apim-request-id", "z")]), Some("a"), Some("a")),
        (map(&[("request-id", "r"), ("apim-request-id", "z")]), Some("r"), Some("z")),
        (map(&[]), None, None),
    ] {
        let ids = request_ids(&headers);
        assert_eq!((ids.upstream.as_deref(), ids.cloud.as_deref()), (upstream, cloud));
    }
}
