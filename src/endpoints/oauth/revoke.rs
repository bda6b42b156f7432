//! `POST /oauth/revoke` (RFC 7009): whoever has a token of a session may end the session.
//!
//! Both kinds of token end the whole session: a person who signs out means that. A token that is unknown, over or not
//! ours is answered like one that was revoked (§2.2). No client authentication: there are only public clients.

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};

use crate::domain::ids::Timestamp;
use crate::domain::refresh_token::RefreshToken;
use crate::domain::rotation::IDLE;
use crate::endpoints::{form_body, retry_after};
use crate::error::Failure;
use crate::exchange::{Request, Response, plain};
use crate::gateway::{Context, Gateway};
use crate::store::{EndedSession, NewSession, StoreError};
use crate::wire::form::Form;

/// When a client is told to try again while the store is away.
const RETRY: Duration = Duration::from_secs(5);

/// A session that a token belongs to.
struct Named {
    id: String,
    subject: String,
    /// Until when a token of it can pass; `None` if the store has its row, or had it.
    unknown_until: Option<Timestamp>,
}

/// Ends the session of `token`. `token_type_hint` helps nobody here: the two kinds look different.
pub(crate) async fn post(gateway: &Rc<Gateway>, context: &Context, mut request: Request) -> Result<Response, Failure> {
    let body = form_body(gateway, &mut request).await?;
    let form = Form::parse(request.header(header::CONTENT_TYPE), &body)
        .map_err(|error| bad_request(&format!("{error}; send application/x-www-form-urlencoded")))?;
    let token = form.non_empty("token").ok_or_else(|| bad_request("the parameter token is missing"))?;
    if let Some(named) = find(gateway, context, token).await? {
        let ended = end(gateway, context, &named).await.map_err(|error| {
            let description = "the session cannot be ended right now; try again later";
            Failure::oauth(StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", description)
                .with_header(header::RETRY_AFTER, retry_after(RETRY))
                .because(error.to_string())
        })?;
        gateway.remember_ended(&named.id);
        gateway.note_ended(context, "client", &Vec::from_iter(ended));
    }
    let mut response = plain(StatusCode::OK, "");
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn find(gateway: &Rc<Gateway>, context: &Context, token: &str) -> Result<Option<Named>, Failure> {
    let idle = gateway.ports.clock.now().plus(IDLE);
    if RefreshToken::is_one(token) {
        let opened = gateway.unseal(|keys| RefreshToken::open(token, keys)).await?;
        return Ok(opened.ok().map(|token| Named {
            id: token.session_id,
            subject: String::new(),
            unknown_until: (!token.is_known).then_some(idle),
        }));
    }
    let Ok(session) = gateway.verify_signed(token, &context.origin).await? else { return Ok(None) };
    Ok(session.id().map(|id| Named {
        id: id.to_owned(),
        subject: session.subject().unwrap_or_default().to_owned(),
        unknown_until: Some(session.expires_at().max(idle)),
    }))
}

/// A session that the store does not know, because it began before there were rows or while the store was failing, is
/// noted so that it can end.
async fn end(gateway: &Gateway, context: &Context, named: &Named) -> Result<Option<EndedSession>, StoreError> {
    let now = gateway.ports.clock.now();
    let ended = gateway.store().end_session(&named.id, now).await?;
    let (None, Some(expires_at)) = (&ended, named.unknown_until) else { return Ok(ended) };
    let session = NewSession {
        id: &named.id,
        subject: &named.subject,
        email: None,
        name: None,
        means: "revoke",
        from: &context.client_ip.to_string(),
        client: "",
        key_id: "",
        generation: 0,
        expires_at,
    };
    gateway.store().begin_session(session, now).await?;
    gateway.store().end_session(&named.id, now).await
}

fn bad_request(description: &str) -> Failure {
    Failure::oauth(StatusCode::BAD_REQUEST, "invalid_request", description)
}
