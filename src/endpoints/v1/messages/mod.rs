//! `POST /v1/messages`: forward one inference request and stream the answer back (inference contract §4).

pub(crate) mod count_tokens;

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use http::StatusCode;

use crate::domain::audit::{AuditEvent, Billing};
use crate::domain::ids::Timestamp;
use crate::domain::session::Session;
use crate::error::Failure;
use crate::exchange::{Request, Response};
use crate::gateway::{Context, Gateway};
use crate::relay::{self, Inference};
use crate::upstream::catalog::{self, Plan};
use crate::upstream::{self, Message, Operation};

/// Answers `POST /v1/messages`.
pub(crate) async fn post(gateway: &Rc<Gateway>, context: &Context, request: Request) -> Result<Response, Failure> {
    infer(gateway, context, request, Operation::Messages).await
}

/// What both operations share: session, body, policy, plan, and the relay.
async fn infer(
    gateway: &Rc<Gateway>,
    context: &Context,
    mut request: Request,
    operation: Operation,
) -> Result<Response, Failure> {
    let received = gateway.ports.clock.now();
    let session = gateway.session(context, &request).await?;
    let prepared = prepare(gateway, &session, &mut request).await;
    let clearance = match operation {
        Operation::CountTokens => None,
        // A blocked caller is told so whatever they send (inference contract §4).
        Operation::Messages => match gateway.clear(context, &session, prepared.as_ref().ok()).await {
            Ok(clearance) => clearance,
            Err(refusal) => return Ok(refusal),
        },
    };
    let (message, plan) =
        prepared.inspect_err(|failure| refused(gateway, context, (&session, operation), received, failure))?;
    let query = request.uri.query().map(str::to_owned);
    let tag = gateway.config.admin.as_ref().and_then(|admin| admin.billing_group_tag.as_deref());
    let billing_group = tag.map_or(upstream::BillingGroup::Absent, |tag| message.billing_group(tag, session.groups()));
    let inference = Inference {
        operation,
        query,
        headers: request.headers,
        message,
        masked: OnceCell::new(),
        session,
        plan,
        has_next: Cell::new(false),
        received,
        clearance,
        billing_group,
        count_is_estimated: Cell::new(false),
    };
    relay::send(gateway, context, inference).await
}

/// The audit line of a request that no upstream was chosen for (inference contract §12).
fn refused(
    gateway: &Gateway,
    context: &Context,
    (session, operation): (&Session, Operation),
    received: Timestamp,
    failure: &Failure,
) {
    let event = AuditEvent::Inference {
        sub: session.subject(),
        email: session.email(),
        path: operation.path(),
        model: None,
        upstream: None,
        upstream_request_id: None,
        upstream_cloud_request_id: None,
        billing: Billing::default(),
        status: failure.status().as_u16(),
        ms: gateway.ports.clock.now().millis_since(received),
        count: None,
        masking: None,
    };
    gateway.audit(context, &event);
}

/// Body, policy and plan.
async fn prepare(gateway: &Gateway, session: &Session, request: &mut Request) -> Result<(Message, Plan), Failure> {
    let body = gateway.body(request).await?;
    let message = Message::parse(body).map_err(|malformed| {
        // A body that cannot be read cannot be masked either: the refusal says so where that is the rule.
        let note = if gateway.enforces_masking(session.groups()) { "masking: " } else { "" };
        Failure::invalid_request(format!("{note}{malformed}"))
    })?;
    if !gateway.may_use(session, message.model()) {
        return Err(Failure::invalid_request(format!(
            "model {} is not in your role's availableModels allowlist",
            message.model()
        )));
    }
    let mut plan = gateway.catalog.plan(&gateway.config.upstreams, session.groups(), message.model()).map_err(
        |refused: catalog::Refused| {
            Failure::messages(StatusCode::BAD_REQUEST, "invalid_request_error", refused.to_string())
        },
    )?;
    gateway.share(&mut plan, &request.headers, &message, session);
    Ok((message, plan))
}
