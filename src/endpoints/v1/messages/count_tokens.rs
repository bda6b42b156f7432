//! `POST /v1/messages/count_tokens`: count the tokens of a request; never billed (inference contract §1).

use std::rc::Rc;

use crate::error::Failure;
use crate::exchange::{Request, Response};
use crate::gateway::{Context, Gateway};
use crate::upstream::Operation;

/// Answers `POST /v1/messages/count_tokens`.
pub(crate) async fn post(gateway: &Rc<Gateway>, context: &Context, request: Request) -> Result<Response, Failure> {
    super::infer(gateway, context, request, Operation::CountTokens).await
}
