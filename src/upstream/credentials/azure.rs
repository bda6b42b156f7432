//! Microsoft Entra tokens for Foundry: client secret, workload identity, managed identity, in this order, as the
//! environment offers them (inference contract §10.1).

use http::Method;
use url::form_urlencoded;

use super::{CannotObtain, Pending, State, Step, World, form, request};

const SCOPE: &str = "https://cognitiveservices.azure.com/.default";
/// What the scope is called where managed identities are handed out.
const RESOURCE: &str = "https://cognitiveservices.azure.com";
const AUTHORITY: &str = "https://login.microsoftonline.com";
const METADATA: &str = "http://169.254.169.254";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

pub(super) fn obtain(world: &World<'_>) -> Result<Step, CannotObtain> {
    let client_id = world.variable("AZURE_CLIENT_ID");
    let request = match (world.variable("AZURE_TENANT_ID"), &client_id) {
        (Some(tenant), Some(client_id)) => {
            let authority = world.variable("AZURE_AUTHORITY_HOST").unwrap_or_else(|| AUTHORITY.to_owned());
            // The host alone, or its address.
            let scheme = if authority.contains("://") { "" } else { "https://" };
            let address = format!("{scheme}{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
            let grant = [("grant_type", "client_credentials"), ("client_id", client_id.as_str()), ("scope", SCOPE)];
            if let Some(secret) = world.variable("AZURE_CLIENT_SECRET") {
                Some(form(&address, &[&grant[..], &[("client_secret", secret.as_str())]].concat())?)
            } else if let Some(path) = world.variable("AZURE_FEDERATED_TOKEN_FILE") {
                let token = world.token_file(&path)?;
                let assertion = [("client_assertion_type", ASSERTION_TYPE), ("client_assertion", token.as_str())];
                Some(form(&address, &[&grant[..], &assertion].concat())?)
            } else {
                None
            }
        }
        _ => None,
    };
    let request = match request {
        Some(request) => request,
        None => managed_identity(client_id.as_deref(), world)?,
    };
    Ok(Step::Send(Box::new(request), Pending(State::Azure)))
}

/// The identity of the App Service or of the virtual machine; `client_id` chooses among several.
fn managed_identity(client_id: Option<&str>, world: &World<'_>) -> Result<http::Request<bytes::Bytes>, CannotObtain> {
    let query = |version: &str| {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("api-version", version).append_pair("resource", RESOURCE);
        if let Some(client_id) = client_id {
            query.append_pair("client_id", client_id);
        }
        query.finish()
    };
    if let (Some(endpoint), Some(secret)) = (world.variable("IDENTITY_ENDPOINT"), world.variable("IDENTITY_HEADER")) {
        let address = format!("{endpoint}?{}", query("2019-08-01"));
        return request(Method::GET, &address, &[("x-identity-header", &secret)], "");
    }
    let host = world.variable("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or_else(|| METADATA.to_owned());
    let address = format!("{}/metadata/identity/oauth2/token?{}", host.trim_end_matches('/'), query("2018-02-01"));
    request(Method::GET, &address, &[("metadata", "true")], "")
}
