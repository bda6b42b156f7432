//! `GET /v1/models`: the models that this caller may use (inference contract §6).

use std::rc::Rc;

use http::StatusCode;

use crate::error::Failure;
use crate::exchange::{Request, Response, json};
use crate::gateway::{Context, Gateway};

/// Answers `GET /v1/models`.
pub(crate) async fn get(gateway: &Rc<Gateway>, context: &Context, request: Request) -> Result<Response, Failure> {
    let session = gateway.session(context, &request).await?;
    let list =
        gateway.catalog.list(&gateway.config.upstreams, session.groups(), |model| gateway.may_use(&session, model));
    Ok(json(StatusCode::OK, &list))
}
