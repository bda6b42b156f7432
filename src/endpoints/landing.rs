//! `GET /`: what a person sees who opens the gateway's address (auth contract §4.1).

use std::rc::Rc;

use http::StatusCode;

use crate::endpoints::{FormAction, page};
use crate::error::Failure;
use crate::exchange::{Request, Response};
use crate::gateway::{Context, Gateway};
use crate::pages::Landing;

/// Answers `GET /`.
#[expect(clippy::unused_async, reason = "endpoints are asynchronous")]
pub(crate) async fn get(gateway: &Rc<Gateway>, context: &Context, _request: Request) -> Result<Response, Failure> {
    let hosts: Vec<_> = gateway.config.oidc.iter().filter_map(|provider| provider.issuer.host_str()).collect();
    let landing = Landing {
        origin: context.origin.clone(),
        identity_provider: hosts.join(", "),
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(page(gateway, StatusCode::OK, &landing, FormAction::Nowhere))
}
