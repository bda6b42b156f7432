//! Workload identity federation: an identity token from a file for an access token (inference contract §9.5).

use http::Method;
use serde::Serialize;

use super::{CannotObtain, Pending, State, Step, World, request};
use crate::config::AnthropicAuth;

#[derive(Serialize)]
struct Exchange<'a> {
    grant_type: &'static str,
    assertion: &'a str,
    federation_rule_id: &'a str,
    organization_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace_id: Option<&'a str>,
}

pub(super) fn exchange(base: &str, auth: &AnthropicAuth, world: &World<'_>) -> Result<Step, CannotObtain> {
    let AnthropicAuth::WorkloadIdentity {
        federation_rule_id,
        organization_id,
        identity_token_file,
        workspace_id,
        service_account_id,
    } = auth
    else {
        return Err(CannotObtain::NoSource("Anthropic"));
    };
    let body = Exchange {
        grant_type: "urn:ietf:params:oauth:grant-type:jwt-bearer",
        assertion: &world.token_file(identity_token_file)?,
        federation_rule_id,
        organization_id,
        service_account_id: service_account_id.as_deref(),
        workspace_id: workspace_id.as_deref(),
    };
    let headers =
        [("content-type", "application/json"), ("anthropic-beta", "oauth-2025-04-20,oidc-federation-2026-04-01")];
    let body = serde_json::to_vec(&body).expect("strings");
    let request = request(Method::POST, &format!("{base}/v1/oauth/token"), &headers, body)?;
    Ok(Step::Send(Box::new(request), Pending(State::AnthropicWif)))
}
