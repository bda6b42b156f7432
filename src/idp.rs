//! The conversation with the identity provider: documents fetched and kept, codes and refresh tokens exchanged, userinfo
//! asked. What the answers mean is decided in `domain/{oidc,id_token,identity}.rs`.
//!
//! Every request is given up after [`PATIENCE`], a refresh after [`REFRESH_PATIENCE`]. A failure says whether it is final: a
//! provider that is away or slow ends nobody's session (auth contract §14).

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Method, StatusCode, header};
use sha2::{Digest, Sha256};
use url::Url;

use crate::config::{GoogleGroups, Json, Oidc, Secret, ServiceIdentity};
use crate::domain::checksum::hex;
use crate::domain::google_groups::{self, AccessToken, ServiceAccount};
use crate::domain::id_token::{self, Expected, Invalid};
use crate::domain::identity::{Claims, Identity, Refusal};
use crate::domain::ids::Timestamp;
use crate::domain::oidc::{Grant, IdpTokens, Metadata, TokenRefusal, TokenRequest, algorithm};
use crate::domain::providers;
use crate::domain::service_identity::{self, IssuerMetadata, Proven, SUBJECT_PREFIX};
use crate::exchange::read_body;
use crate::gateway::Gateway;
use crate::log::Level;
use crate::ports::Outbound;
use crate::store::cache::Document;
use crate::wire::jwks::JwkSet;

/// How long one request may take, body included (auth contract §5.6).
const PATIENCE: Duration = Duration::from_millis(3500);

/// The same for the request that refreshes: a provider that rotates its tokens has used one up when it answers, and
/// whoever does not wait for the next one has to sign in again.
const REFRESH_PATIENCE: Duration = Duration::from_secs(30);

/// The largest answer that is read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// How long documents count as fresh. When they cannot be fetched again, older ones go on serving.
const FRESH: Duration = Duration::from_mins(10);

/// How long an older document serves without another attempt, so that a slow provider does not slow down every page.
const RETRY: Duration = Duration::from_secs(30);

/// The least time between two fetches of the key set for the sake of an unknown `kid`.
const KEY_SET_FLOOR: Duration = Duration::from_mins(1);

/// The identity provider gave no usable answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdpError {
    /// No answer in time.
    #[error("{0} did not answer within 3.5 s")]
    TimedOut(String),
    /// No answer at all.
    #[error("{0}: {1}")]
    Unreachable(String, String),
    /// An answer that is not what was asked for.
    #[error("{0}: {1}")]
    Unusable(String, String),
}

/// At which step a sign-in or refresh failed, as the audit trail spells it (auth contract §11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    TokenEndpoint,
    Claims,
    UserinfoFallback,
    UserinfoNoIdToken,
}

impl Step {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::TokenEndpoint => "token_endpoint",
            Self::Claims => "claims",
            Self::UserinfoFallback => "userinfo_fallback",
            Self::UserinfoNoIdToken => "userinfo_no_id_token",
        }
    }
}

/// Why nobody can be signed in, or go on being.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// Where it happened.
    pub(crate) step: Step,
    /// Whether trying again later is pointless.
    pub(crate) is_final: bool,
    /// For the audit trail.
    pub(crate) cause: String,
}

impl Trouble {
    fn refused(step: Step, cause: &impl ToString) -> Self {
        Self { step, is_final: true, cause: cause.to_string() }
    }

    fn passing(step: Step, cause: &impl ToString) -> Self {
        Self { step, is_final: false, cause: cause.to_string() }
    }
}

/// A person whom the identity provider vouches for.
pub(crate) struct SignedIn {
    pub(crate) identity: Identity,
    /// What the identity provider issued to refresh with.
    pub(crate) refresh_token: Option<Secret<String>>,
}

/// What is expected of tokens that answer an authorization code.
pub(crate) struct CodeExchange<'a> {
    pub(crate) code: &'a str,
    pub(crate) redirect_uri: &'a str,
    pub(crate) code_verifier: Option<&'a str>,
    pub(crate) nonce: &'a str,
    /// `iss` of the callback (RFC 9207).
    pub(crate) issuer: Option<&'a str>,
}

/// The discovery document of `oidc`.
pub(crate) async fn metadata(gateway: &Gateway, oidc: &Oidc) -> Result<Metadata, IdpError> {
    let url = Metadata::url(oidc);
    let document =
        document(gateway, &url, FRESH, |body| Metadata::parse(body).map(drop).map_err(|e| e.to_string())).await?;
    let metadata = Metadata::parse(&document.body).map_err(|error| IdpError::Unusable(url, error.to_string()))?;
    let configured = &oidc.issuer;
    if document.fetched_at == gateway.ports.clock.now() && metadata.differs_from(configured) {
        let text = format!("the discovered issuer {} is not the configured {configured}", metadata.issuer);
        gateway.log(Level::Warn, &text);
    }
    Ok(metadata)
}

/// Exchanges an authorization code and decides who signed in (auth contract §5.6).
pub(crate) async fn sign_in(gateway: &Gateway, oidc: &Oidc, exchange: CodeExchange<'_>) -> Result<SignedIn, Trouble> {
    let metadata = metadata(gateway, oidc).await.map_err(|error| Trouble::passing(Step::TokenEndpoint, &error))?;
    if exchange.issuer.is_some_and(|issuer| issuer != metadata.issuer) {
        return Err(Trouble::refused(Step::TokenEndpoint, &"callback `iss` does not match the discovered issuer"));
    }
    let CodeExchange { code, redirect_uri, code_verifier, nonce, .. } = exchange;
    let tokens = token(gateway, oidc, &metadata, Grant::Code { code, redirect_uri, code_verifier }).await?;
    let id_token = tokens.id_token.as_deref();
    let id_token =
        id_token.ok_or_else(|| Trouble::refused(Step::TokenEndpoint, &"the token response has no id_token"))?;
    let claims = verify(gateway, oidc, &metadata, id_token, Some(nonce)).await?;
    finish(gateway, oidc, &metadata, claims, tokens).await
}

/// Asks the identity provider whether a session may go on, and as whom (auth contract §6).
pub(crate) async fn refresh(
    gateway: &Gateway,
    oidc: &Oidc,
    refresh_token: &Secret<String>,
) -> Result<SignedIn, Trouble> {
    let metadata = metadata(gateway, oidc).await.map_err(|error| Trouble::passing(Step::TokenEndpoint, &error))?;
    let tokens = token(gateway, oidc, &metadata, Grant::Refresh { refresh_token }).await?;
    let claims = if let Some(id_token) = tokens.id_token.as_deref() {
        verify(gateway, oidc, &metadata, id_token, None).await?
    } else {
        let userinfo = userinfo(gateway, &metadata, &tokens).await;
        Claims::of_userinfo(userinfo.map_err(|error| Trouble::passing(Step::UserinfoNoIdToken, &error))?)
    };
    finish(gateway, oidc, &metadata, claims, tokens).await
}

/// Claims → identity, with userinfo where the configuration wants it.
async fn finish(
    gateway: &Gateway,
    oidc: &Oidc,
    metadata: &Metadata,
    mut claims: Claims,
    tokens: IdpTokens,
) -> Result<SignedIn, Trouble> {
    gateway.log(Level::Debug, &format!("id_token claims: {}", claims.names().join(", ")));
    if oidc.userinfo_fallback && tokens.id_token.is_some() && claims.have_gaps(oidc) {
        let userinfo = userinfo(gateway, metadata, &tokens).await;
        let userinfo = userinfo.map_err(|error| Trouble::passing(Step::UserinfoFallback, &error))?;
        claims = claims.fill(userinfo).map_err(|refusal| Trouble::refused(Step::UserinfoFallback, &refusal))?;
    }
    if let Some(settings) = &oidc.google_groups
        && let Some(email) = claims.email(oidc)
    {
        let groups = directory_groups(gateway, settings, email).await;
        claims = claims.with_directory_groups(groups.map_err(|cause| Trouble::passing(Step::Claims, &cause))?);
    }
    let identity = claims.identity(oidc).map_err(|refusal| match refusal {
        // A provider that forgot the configured claim once may send it again (auth contract §6).
        Refusal::MissingUserId(ref claim) if claim != "sub" => Trouble::passing(Step::Claims, &refusal),
        refusal => Trouble::refused(Step::Claims, &refusal),
    })?;
    let identity = providers::keep_apart(&gateway.config.oidc, oidc, identity)
        .map_err(|refusal| Trouble::refused(Step::Claims, &refusal))?;
    if !gateway.config.service_identities.is_empty() && identity.subject.starts_with(SUBJECT_PREFIX) {
        let cause = format!("subjects that begin with {SUBJECT_PREFIX} are those of service identities");
        return Err(Trouble::refused(Step::Claims, &cause));
    }
    Ok(SignedIn { identity, refresh_token: tokens.refresh_token.filter(|token| !token.is_empty()).map(Secret::new) })
}

async fn token(gateway: &Gateway, oidc: &Oidc, metadata: &Metadata, grant: Grant<'_>) -> Result<IdpTokens, Trouble> {
    let patience = match &grant {
        Grant::Code { .. } => PATIENCE,
        Grant::Refresh { .. } => REFRESH_PATIENCE,
    };
    let mut jti = [0; 16];
    gateway.ports.entropy.fill(&mut jti);
    let now = gateway.ports.clock.now();
    let request = TokenRequest::new(grant, oidc, metadata, &hex(&jti), now)
        .map_err(|error| Trouble::passing(Step::TokenEndpoint, &error))?;
    let mut builder = http::Request::builder()
        .method(Method::POST)
        .uri(metadata.token_endpoint.as_str())
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::ACCEPT, "application/json");
    if let Some(authorization) = request.authorization {
        builder = builder.header(header::AUTHORIZATION, sensitive(authorization.reveal()));
    }
    let outbound = builder.body(Bytes::from(request.body));
    let (status, body) = send_patiently(gateway, &metadata.token_endpoint, outbound, patience)
        .await
        .map_err(|error| Trouble::passing(Step::TokenEndpoint, &error))?;
    IdpTokens::parse(status, &body).map_err(|refusal| match &refusal {
        TokenRefusal::Oauth { error, .. } if error == "invalid_grant" => {
            Trouble::refused(Step::TokenEndpoint, &refusal)
        }
        _ => Trouble::passing(Step::TokenEndpoint, &refusal),
    })
}

/// Where the keys of `identity`'s issuer are.
pub(crate) async fn issuer_metadata(gateway: &Gateway, identity: &ServiceIdentity) -> Result<IssuerMetadata, IdpError> {
    let url = IssuerMetadata::url(identity);
    let read = |body: &[u8]| IssuerMetadata::parse(body, &identity.issuer).map_err(|error| error.to_string());
    let document = document(gateway, &url, FRESH, |body| read(body).map(drop)).await?;
    read(&document.body).map_err(|why| IdpError::Unusable(url, why))
}

/// Proof that a program's token is of `identity`, or why it is not.
pub(crate) async fn subject_token(
    gateway: &Gateway,
    identity: &ServiceIdentity,
    token: &str,
) -> Result<Proven, Unproven<service_identity::Invalid>> {
    let metadata = issuer_metadata(gateway, identity).await.map_err(|error| Unproven::Passing(error.to_string()))?;
    with_keys(gateway, &metadata.jwks_uri, &service_identity::Invalid::UnknownKey, |keys| {
        service_identity::verify(token, keys, identity, gateway.ports.clock.now())
    })
    .await
}

async fn verify(
    gateway: &Gateway,
    oidc: &Oidc,
    metadata: &Metadata,
    id_token: &str,
    nonce: Option<&str>,
) -> Result<Claims, Trouble> {
    let expected = Expected {
        issuer: &metadata.issuer,
        client_id: &oidc.client_id,
        additional_authorized_parties: &oidc.additional_authorized_parties,
        algorithm: algorithm(oidc.id_token_signed_response_alg),
        clock_skew: oidc.clock_skew,
        nonce,
    };
    let claims = with_keys(gateway, &metadata.jwks_uri, &Invalid::UnknownKey, |keys| {
        id_token::verify(id_token, keys, &expected, gateway.ports.clock.now())
    });
    match claims.await {
        Ok(claims) => Ok(Claims::of_id_token(claims)),
        Err(Unproven::Final(invalid)) => Err(Trouble::refused(Step::TokenEndpoint, &invalid)),
        Err(Unproven::Passing(cause)) => Err(Trouble::passing(Step::TokenEndpoint, &cause)),
    }
}

/// Why a signed token proves nothing.
pub(crate) enum Unproven<E> {
    /// It is wrong, and will be.
    Final(E),
    /// Its keys cannot be had now, or may have been published a moment ago.
    Passing(String),
}

/// Judges a token with the keys at `jwks_uri`. A key that is not there makes the set be fetched once more, but not more
/// often than [`KEY_SET_FLOOR`] says: anybody can send a token with a made-up `kid`.
async fn with_keys<T, E: PartialEq + ToString>(
    gateway: &Gateway,
    jwks_uri: &Url,
    unknown_key: &E,
    judge: impl Fn(&JwkSet) -> Result<T, E>,
) -> Result<T, Unproven<E>> {
    let started = gateway.ports.clock.now();
    let mut age = FRESH;
    loop {
        let (keys, fetched_at) =
            key_set(gateway, jwks_uri, age).await.map_err(|error| Unproven::Passing(error.to_string()))?;
        match judge(&keys) {
            Ok(proof) => return Ok(proof),
            Err(invalid) if invalid == *unknown_key && age == FRESH => age = KEY_SET_FLOOR,
            // The key may have been published after our last look, which was too recent to look again.
            Err(invalid) if invalid == *unknown_key && fetched_at < started => {
                return Err(Unproven::Passing(invalid.to_string()));
            }
            Err(invalid) => return Err(Unproven::Final(invalid)),
        }
    }
}

async fn key_set(gateway: &Gateway, jwks_uri: &Url, age: Duration) -> Result<(JwkSet, Timestamp), IdpError> {
    let url = jwks_uri.as_str();
    let document = document(gateway, url, age, |body| JwkSet::parse(body).map(drop).map_err(|e| e.to_string())).await?;
    let keys = JwkSet::parse(&document.body);
    let keys = keys.map_err(|error| IdpError::Unusable(url.to_owned(), error.to_string()))?;
    Ok((keys, document.fetched_at))
}

async fn userinfo(gateway: &Gateway, metadata: &Metadata, tokens: &IdpTokens) -> Result<Json, IdpError> {
    let unusable = |why: &str| IdpError::Unusable("userinfo".to_owned(), why.to_owned());
    let url = metadata.userinfo_endpoint.as_ref().ok_or_else(|| unusable("the provider has no userinfo_endpoint"))?;
    let token = tokens.access_token.as_deref().ok_or_else(|| unusable("the token response has no access_token"))?;
    let outbound = http::Request::builder()
        .uri(url.as_str())
        .header(header::ACCEPT, "application/json")
        .header(header::AUTHORIZATION, sensitive(&format!("Bearer {token}")))
        .body(Bytes::new());
    let (status, body) = send(gateway, url, outbound).await?;
    if status != StatusCode::OK {
        return Err(IdpError::Unusable(url.to_string(), format!("status {}", status.as_u16())));
    }
    serde_json::from_slice(&body).map_err(|_| IdpError::Unusable(url.to_string(), "not a JSON object".to_owned()))
}

/// The groups of `email` in Google's directory.
async fn directory_groups(gateway: &Gateway, settings: &GoogleGroups, email: &str) -> Result<Vec<String>, String> {
    let token = directory_token(gateway, settings).await?;
    let mut groups = Vec::new();
    let mut page = None;
    for _ in 0..google_groups::MAX_PAGES {
        let url = google_groups::Page::url(email, page.as_deref());
        let outbound = http::Request::builder()
            .uri(url.as_str())
            .header(header::AUTHORIZATION, sensitive(&format!("Bearer {}", token.reveal())))
            .body(Bytes::new());
        let (status, body) = send(gateway, &url, outbound).await.map_err(|error| error.to_string())?;
        let read = google_groups::Page::parse(status, &body).map_err(|error| error.to_string())?;
        groups.extend(read.groups);
        page = read.next;
        if page.is_none() {
            break;
        }
    }
    Ok(groups)
}

/// The access token for the directory, kept while it is good for another minute.
async fn directory_token(gateway: &Gateway, settings: &GoogleGroups) -> Result<Secret<String>, String> {
    let now = gateway.ports.clock.now();
    let known = gateway.cache.directory_tokens.borrow().get(&settings.service_account_json_path).cloned();
    if let Some((token, ends_at)) = known
        && ends_at.since(now) > Duration::from_mins(1)
    {
        return Ok(token);
    }
    let file = gateway.ports.files.read(&settings.service_account_json_path)?;
    let account = ServiceAccount::parse(&file).map_err(|error| error.to_string())?;
    let form = account.token_request(&settings.admin_email, now).map_err(|error| error.to_string())?;
    let outbound = http::Request::builder()
        .method(Method::POST)
        .uri(account.token_uri().as_str())
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Bytes::from(form));
    let (status, body) = send(gateway, account.token_uri(), outbound).await.map_err(|error| error.to_string())?;
    let AccessToken { token, lifetime } = AccessToken::parse(status, &body).map_err(|error| error.to_string())?;
    let kept = (token.clone(), now.plus(lifetime));
    gateway.cache.directory_tokens.borrow_mut().insert(settings.service_account_json_path.clone(), kept);
    Ok(token)
}

/// The document at `url`, not older than `age` if it can be had: from memory, from the key-value store, from the
/// network; failing that, an older one. What does not pass `check` is never kept.
async fn document(
    gateway: &Gateway,
    url: &str,
    age: Duration,
    check: impl Fn(&[u8]) -> Result<(), String>,
) -> Result<Document, IdpError> {
    let now = gateway.ports.clock.now();
    let is_fresh = |document: &Document| now.is_within(age, document.fetched_at);
    // A pause that is longer than any was begun before the clock was set back.
    let is_paused = |document: &Document| now < document.next_try && document.next_try <= now.plus(RETRY);
    let mut known = gateway.cache.documents.borrow().get(url).cloned();
    if let Some(document) = known.as_ref().filter(|document| is_fresh(document) || is_paused(document)) {
        return Ok(document.clone());
    }
    let key = format!("idp/{}", hex(&Sha256::digest(url.as_bytes())));
    let shared = find_shared(gateway, &key).await.filter(|document| check(&document.body).is_ok());
    if let Some(shared) = shared
        && known.as_ref().is_none_or(|known| known.fetched_at < shared.fetched_at)
    {
        remember(gateway, url, &shared);
        if is_fresh(&shared) {
            return Ok(shared);
        }
        known = Some(shared);
    }
    match fetch(gateway, url, check).await {
        Ok(body) => {
            let document = Document { body, fetched_at: now, next_try: now };
            remember(gateway, url, &document);
            share(gateway, &key, &document).await;
            Ok(document)
        }
        Err(error) => match known {
            Some(older) => {
                let since = older.fetched_at.to_rfc3339();
                gateway.log(Level::Warn, &format!("{error}; going on with what was fetched at {since}"));
                let older = Document { next_try: now.plus(RETRY), ..older };
                remember(gateway, url, &older);
                Ok(older)
            }
            None => Err(error),
        },
    }
}

fn remember(gateway: &Gateway, url: &str, document: &Document) {
    gateway.cache.documents.borrow_mut().insert(url.to_owned(), document.clone());
}

/// In the key-value store: eight bytes of time, then the document.
async fn find_shared(gateway: &Gateway, key: &str) -> Option<Document> {
    let bytes = gateway.ports.key_value.find(key).await.ok()??;
    let (time, body) = bytes.split_first_chunk()?;
    let fetched_at = Timestamp::from_millis(i64::from_be_bytes(*time));
    Some(Document { body: Bytes::copy_from_slice(body), fetched_at, next_try: fetched_at })
}

async fn share(gateway: &Gateway, key: &str, document: &Document) {
    let bytes = [&document.fetched_at.as_millis().to_be_bytes()[..], &document.body].concat();
    if let Err(error) = gateway.ports.key_value.set(key, &bytes).await {
        gateway.log(Level::Warn, &format!("a document of the identity provider cannot be shared: {error}"));
    }
}

async fn fetch(gateway: &Gateway, url: &str, check: impl Fn(&[u8]) -> Result<(), String>) -> Result<Bytes, IdpError> {
    let unusable = |why: String| IdpError::Unusable(url.to_owned(), why);
    let parsed = Url::parse(url).map_err(|error| unusable(error.to_string()))?;
    let outbound = http::Request::builder().uri(url).header(header::ACCEPT, "application/json").body(Bytes::new());
    let (status, body) = send(gateway, &parsed, outbound).await?;
    if status != StatusCode::OK {
        return Err(unusable(format!("status {}", status.as_u16())));
    }
    check(&body).map_err(unusable)?;
    Ok(body)
}

/// Sends one request and reads the answer, all within [`PATIENCE`]. Redirects are not followed.
async fn send(
    gateway: &Gateway,
    url: &Url,
    request: http::Result<http::Request<Bytes>>,
) -> Result<(StatusCode, Bytes), IdpError> {
    send_patiently(gateway, url, request, PATIENCE).await
}

/// The same within `patience`.
async fn send_patiently(
    gateway: &Gateway,
    url: &Url,
    request: http::Result<http::Request<Bytes>>,
    patience: Duration,
) -> Result<(StatusCode, Bytes), IdpError> {
    // Without query: it may carry what is nobody's business.
    let name = || url[..url::Position::AfterPath].to_owned();
    let request = request.map_err(|error| IdpError::Unusable(name(), error.to_string()))?;
    let exchange = async {
        let outbound = Outbound { request, first_byte_timeout: Some(patience) };
        let response = gateway
            .ports
            .http
            .send(outbound)
            .await
            .map_err(|error| IdpError::Unreachable(name(), error.to_string()))?;
        let (parts, mut body) = response.into_parts();
        let body = read_body(&mut body, MAX_ANSWER_BYTES).await;
        Ok((parts.status, body.map_err(|error| IdpError::Unusable(name(), error.to_string()))?))
    };
    gateway.in_time(patience, exchange.boxed_local()).await.unwrap_or_else(|| Err(IdpError::TimedOut(name())))
}

/// A header value that is kept out of debug output.
fn sensitive(text: &str) -> HeaderValue {
    let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}
