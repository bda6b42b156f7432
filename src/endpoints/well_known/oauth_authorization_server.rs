//! `/.well-known/oauth-authorization-server`: where clients find everything else (RFC 8414, auth contract §4.4).

use std::rc::Rc;

use http::StatusCode;
use serde_json::json;

use crate::endpoints::oauth::token_exchange::{JWT_BEARER, TOKEN_EXCHANGE};
use crate::error::Failure;
use crate::exchange::{Request, Response, json};
use crate::gateway::{Context, Gateway};

/// Answers every method.
#[expect(clippy::unused_async, reason = "endpoints are asynchronous")]
pub(crate) async fn get(gateway: &Rc<Gateway>, context: &Context, _request: Request) -> Result<Response, Failure> {
    let origin = &context.origin;
    let mut grants = vec!["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"];
    if !gateway.config.service_identities.is_empty() {
        grants.extend([TOKEN_EXCHANGE, JWT_BEARER]);
    }
    Ok(json(
        StatusCode::OK,
        &json!({
            "issuer": origin,
            "device_authorization_endpoint": format!("{origin}/oauth/device_authorization"),
            "token_endpoint": format!("{origin}/oauth/token"),
            "revocation_endpoint": format!("{origin}/oauth/revoke"),
            "grant_types_supported": grants,
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["none"],
            "revocation_endpoint_auth_methods_supported": ["none"],
            "scopes_supported": ["openid", "profile", "email"],
            "gateway_protocol_version": 1,
        }),
    ))
}
