//! `grant_type=refresh_token` (RFC 6749 §6, auth contract §6): a session goes on, if the identity provider says so and
//! the refresh token is the newest of its session.
//!
//! Of several requests with one token, one asks the identity provider and the others get the same answer: providers that
//! rotate their own tokens would take the second question for theft. For the same reason a question that was asked is seen
//! through when nobody waits for it any more: the client gets its answer when it asks again. While the store is away nobody
//! can tell, and every token is taken.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Fuse, FusedFuture, LocalBoxFuture};
use http::{StatusCode, header};

use super::{Bearer, TokenResponse, missing};
use crate::config::Oidc;
use crate::domain::audit::{AuditEvent, SessionEnded, SessionOutcome};
use crate::domain::device_grant::INTERVAL;
use crate::domain::ids::Timestamp;
use crate::domain::providers;
use crate::domain::refresh_token::RefreshToken;
use crate::domain::rotation::{self, Verdict};
use crate::domain::session::Keys;
use crate::endpoints::oauth::answer;
use crate::endpoints::retry_after;
use crate::error::Failure;
use crate::exchange::Response;
use crate::gateway::{Context, Gateway};
use crate::idp::{self, SignedIn, Step, Trouble};
use crate::log::Level;
use crate::sessions::{Beginning, Client};
use crate::store::{Refreshed, StoreError};
use crate::upkeep;
use crate::wire::form::Form;

/// Seals what a refresh is answered.
const PURPOSE: &str = "refresh answer 1";

/// How long one refresh may take in all; somewhat later another one may try.
const LIMIT: Duration = Duration::from_secs(40);
const CLAIM: Duration = Duration::from_secs(45);

/// How long a client waits for it.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// How often, and after which pause, the answer of another request is looked for.
const LOOKS: u32 = 25;
const PAUSE: Duration = Duration::from_millis(200);

/// How long the store may take before it counts as away.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the store says.
enum Claim {
    /// The refresh is ours until then.
    Ours(Timestamp),
    /// It was done before: the answer, sealed, and how old it is.
    Done(String, Duration),
    /// It cannot be asked.
    Unknown,
}

/// Goes on with a session, or ends it.
pub(super) async fn refresh(
    gateway: &Rc<Gateway>,
    context: &Context,
    client: &Client,
    form: &Form,
) -> Result<Response, Failure> {
    let presented = form.non_empty("refresh_token").ok_or_else(|| missing("refresh_token"))?;
    upkeep::after_response(gateway);
    let opened = gateway.unseal(|keys| RefreshToken::open(presented, keys)).await?;
    let mut token = opened.map_err(|error| ended(gateway, context, &format!("refresh token: {error}")))?;
    provider(gateway, context, &token)?;
    let claim = claim(gateway, context, client, &mut token).await?;
    if let Claim::Done(sealed, age) = &claim {
        return again(gateway, context, sealed, *age).await;
    }
    let exchange = Exchange {
        gateway: Rc::clone(gateway),
        context: context.clone(),
        client: client.clone(),
        claim,
        is_awaited: Rc::new(Cell::new(true)),
    };
    match SeenThrough::begin(exchange, token).answer().await {
        Some(answer) => answer,
        None => {
            Err(takes_too_long(gateway, context, "the identity provider takes long; its answer is still waited for"))
        }
    }
}

/// Who issued what is in `token`.
fn provider<'a>(gateway: &'a Gateway, context: &Context, token: &RefreshToken) -> Result<&'a Oidc, Failure> {
    providers::find(&gateway.config.oidc, token.provider.as_deref())
        .ok_or_else(|| ended(gateway, context, "refresh token: its identity provider is not configured any more"))
}

/// The one question to the identity provider.
struct Exchange {
    gateway: Rc<Gateway>,
    context: Context,
    client: Client,
    claim: Claim,
    /// Whether the client still waits.
    is_awaited: Rc<Cell<bool>>,
}

/// An exchange that goes on in the background when its request is over, whether the client has left or waited long enough.
struct SeenThrough {
    gateway: Rc<Gateway>,
    is_awaited: Rc<Cell<bool>>,
    exchange: Fuse<LocalBoxFuture<'static, Result<Response, Failure>>>,
}

impl SeenThrough {
    fn begin(exchange: Exchange, token: RefreshToken) -> Self {
        Self {
            gateway: Rc::clone(&exchange.gateway),
            is_awaited: Rc::clone(&exchange.is_awaited),
            exchange: exchange.run(token).boxed_local().fuse(),
        }
    }

    /// What it comes to, if that does not take long.
    async fn answer(mut self) -> Option<Result<Response, Failure>> {
        let gateway = Rc::clone(&self.gateway);
        gateway.in_time(CLIENT_PATIENCE, &mut self.exchange).await
    }
}

impl Drop for SeenThrough {
    fn drop(&mut self) {
        if !self.exchange.is_terminated() {
            self.is_awaited.set(false);
            let rest = std::mem::replace(&mut self.exchange, Fuse::terminated());
            self.gateway.ports.tasks.spawn(rest.map(drop).boxed_local());
        }
    }
}

/// Who may refresh the session. A session that the store does not know yet begins.
async fn claim(
    gateway: &Rc<Gateway>,
    context: &Context,
    client: &Client,
    token: &mut RefreshToken,
) -> Result<Claim, Failure> {
    for _ in 0..LOOKS {
        let now = gateway.ports.clock.now();
        let until = now.plus(CLAIM);
        let store = gateway.store();
        let claimed = store.claim_refresh(&token.session_id, token.generation, until, now);
        let verdict = match gateway.stored_in_time(PATIENCE, claimed).await {
            Ok(verdict) => verdict,
            Err(error) => {
                gateway.log(Level::Warn, &format!("a session is refreshed without the store: {error}"));
                return Ok(Claim::Unknown);
            }
        };
        match verdict {
            Some(Verdict::Newest) => {
                token.is_known = true;
                return Ok(Claim::Ours(until));
            }
            Some(Verdict::Again { answer, age }) => return Ok(Claim::Done(answer, age)),
            Some(Verdict::UnderWay) => gateway.ports.clock.sleep(PAUSE).await,
            Some(Verdict::Reused) => return Err(reused(gateway, context, token).await),
            Some(Verdict::Over) => return Err(ended(gateway, context, "the session has ended")),
            None if token.is_known => return Err(ended(gateway, context, "the session is over and forgotten")),
            None => {
                if let Err(error) = begin(gateway, context, client, token).await {
                    gateway.log(Level::Warn, &format!("a session is refreshed without the store: {error}"));
                    return Ok(Claim::Unknown);
                }
            }
        }
    }
    Err(takes_too_long(gateway, context, "another refresh of this session takes too long"))
}

/// The row of a session that began without one. Whose it is the identity provider will say.
async fn begin(gateway: &Gateway, context: &Context, client: &Client, token: &RefreshToken) -> Result<(), StoreError> {
    let beginning = Beginning {
        id: &token.session_id,
        means: "refresh",
        subject: "",
        email: None,
        name: None,
        key_id: "",
        generation: token.generation,
        is_refreshable: true,
        ttl: gateway.config.session.ttl,
    };
    gateway.begin_session(context, client, beginning).await
}

/// Somebody has a token that was exchanged before: the session ends, for both.
async fn reused(gateway: &Gateway, context: &Context, token: &RefreshToken) -> Failure {
    match gateway.store().end_session(&token.session_id, gateway.ports.clock.now()).await {
        Ok(Some(session)) => {
            let event = SessionEnded {
                sid: &session.id,
                sub: Some(session.subject.as_str()).filter(|subject| !subject.is_empty()),
                actor: None,
                client_ip: context.client_ip,
            };
            gateway.audit(context, &AuditEvent::SessionReuse(event));
            gateway.remember_ended(&session.id);
        }
        // Somebody else has ended it at the same time.
        Ok(None) => {}
        Err(error) => gateway.log(Level::Error, &format!("a session could not be ended: {error}")),
    }
    ended(gateway, context, "the refresh token was used before")
}

impl Exchange {
    /// Asks, and notes what the identity provider says.
    async fn run(self, token: RefreshToken) -> Result<Response, Failure> {
        let Self { gateway, context, .. } = &self;
        let provider = provider(gateway, context, &token)?;
        let trouble = match gateway.in_time(LIMIT, idp::refresh(gateway, provider, &token.idp_token)).await {
            Some(Ok(signed_in)) => return self.go_on(token, signed_in).await,
            Some(Err(trouble)) => trouble,
            None => passing("the identity provider takes too long"),
        };
        if let Claim::Ours(until) = self.claim {
            let store = gateway.store();
            let outcome = if trouble.is_final {
                gateway.remember_ended(&token.session_id);
                store.end_session(&token.session_id, gateway.ports.clock.now()).await.map(drop)
            } else {
                store.release_refresh(&token.session_id, until).await
            };
            if let Err(error) = outcome {
                gateway.log(Level::Warn, &format!("a failed refresh could not be noted: {error}"));
            }
        }
        Err(refused(gateway, context, &trouble))
    }

    /// New tokens. They are handed out only if the session is still there.
    async fn go_on(&self, token: RefreshToken, signed_in: SignedIn) -> Result<Response, Failure> {
        let Self { gateway, context, client, .. } = self;
        let SignedIn { identity, refresh_token } = signed_in;
        let keys = gateway.keys().await?;
        let ttl = gateway.config.session.ttl;
        let generation = token.generation;
        let session_id = token.session_id.clone();
        let access_token = gateway.mint(context, &keys, &identity, &session_id, ttl);
        let next = RefreshToken {
            generation: generation.saturating_add(1),
            // Rotation follows the identity provider: without a new token the known one goes on (auth contract §6).
            idp_token: refresh_token.unwrap_or(token.idp_token),
            ..token
        };
        let response = TokenResponse {
            access_token,
            refresh_token: Some(next.seal(&keys, gateway.random())),
            token_type: Bearer::Bearer,
            expires_in: ttl.as_secs(),
            email: identity.email.clone(),
        };
        if let Claim::Ours(_) = self.claim {
            let now = gateway.ports.clock.now();
            let refreshed = Refreshed {
                id: &session_id,
                from_generation: generation,
                subject: &identity.subject,
                email: identity.email.as_deref(),
                name: identity.name.as_deref(),
                from: &client.ip.to_string(),
                key_id: keys.signer(),
                answer: &sealed(gateway, &keys, &response),
                is_awaited: self.is_awaited.get(),
                expires_at: rotation::end_of(now, ttl, true),
            };
            match gateway.stored_in_time(PATIENCE, gateway.store().note_refresh(refreshed, now)).await {
                Ok(true) => {}
                Ok(false) => {
                    return Err(ended(
                        gateway,
                        context,
                        "the session was ended meanwhile, or the identity provider names another person",
                    ));
                }
                // The identity provider has rotated its token: without the new one the person would have to sign in again.
                Err(error) => gateway.log(Level::Warn, &format!("a refresh could not be noted: {error}")),
            }
        }
        let event = SessionOutcome::success(&identity.subject, identity.email.as_deref(), context.client_ip, ttl);
        gateway.audit(context, &AuditEvent::SessionRefresh(event));
        Ok(answer(&response))
    }
}

fn sealed(gateway: &Gateway, keys: &Keys, response: &TokenResponse) -> String {
    let content = serde_json::to_vec(response).expect("strings and a number");
    keys.seal(PURPOSE, &content, gateway.random())
}

/// What the last refresh was answered some time ago, for a client that lost it.
async fn again(gateway: &Rc<Gateway>, context: &Context, sealed: &str, age: Duration) -> Result<Response, Failure> {
    let content = gateway.unseal(|keys| keys.open(PURPOSE, sealed)).await?;
    let response = content.ok().and_then(|content| serde_json::from_slice::<TokenResponse>(&content).ok());
    match response {
        Some(response) if age < rotation::GRACE => Ok(answer(&response)),
        // Its token has been valid for a while.
        Some(response) => {
            Ok(answer(&TokenResponse { expires_in: response.expires_in.saturating_sub(age.as_secs()), ..response }))
        }
        None => Err(ended(gateway, context, "the key of the last answer is gone")),
    }
}

/// The session is over; `cause` is for the audit trail.
fn ended(gateway: &Gateway, context: &Context, cause: &str) -> Failure {
    refused(gateway, context, &Trouble { step: Step::TokenEndpoint, is_final: true, cause: cause.to_owned() })
}

/// Nobody knows yet; `cause` is for the audit trail.
fn takes_too_long(gateway: &Gateway, context: &Context, cause: &str) -> Failure {
    refused(gateway, context, &passing(cause))
}

fn passing(cause: &str) -> Trouble {
    Trouble { step: Step::TokenEndpoint, is_final: false, cause: cause.to_owned() }
}

/// The answer to a refresh that failed: final, and the session is over; or passing, and the client tries again.
fn refused(gateway: &Gateway, context: &Context, trouble: &Trouble) -> Failure {
    let (status, kind, description) = if trouble.is_final {
        (StatusCode::UNAUTHORIZED, "invalid_grant", "the session has ended; sign in again")
    } else {
        let description = "the identity provider cannot be asked right now; try again later";
        (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", description)
    };
    let event = SessionOutcome::fail(context.client_ip, &trouble.cause).at(trouble.step.name(), kind);
    gateway.audit(context, &AuditEvent::SessionRefresh(event));
    let failure = Failure::oauth(status, kind, description);
    if trouble.is_final { failure } else { failure.with_header(header::RETRY_AFTER, retry_after(INTERVAL)) }
}
