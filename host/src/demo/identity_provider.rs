//! A small identity provider for one machine: OIDC Core 1.0, code flow, with PKCE (RFC 7636) and rotating
//! refresh tokens. It serves one client, knows its people by heart, and forgets everything when the process ends.
//!
//! Its pages are in `sign_in_page`, its memory in `grants`.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, LOCATION, WWW_AUTHENTICATE};
use http::{Method, Request, Response, StatusCode};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::grants::{Expiring, token};
use super::http::{Body, Service, json as json_response, response};
use super::sign_in_page;

/// How long a person may look at the sign-in page.
const INTERACTION_TTL: Duration = Duration::from_mins(10);
/// How long an authorization code waits to be redeemed (RFC 6749 §4.1.2 recommends at most ten minutes).
const CODE_TTL: Duration = Duration::from_mins(1);
/// Life of access tokens and id tokens.
const TOKEN_TTL: Duration = Duration::from_mins(10);
/// How long a refresh token waits for its next use.
const SESSION_TTL: Duration = Duration::from_hours(30 * 24);
/// The longest name that can be typed.
const MAX_NAME_CHARS: usize = 60;

/// The only party that may ask for sign-ins.
pub(super) struct Client {
    pub(super) id: String,
    pub(super) secret: String,
    pub(super) redirect_uri: Url,
}

/// Somebody who can sign in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) sub: String,
    pub(super) name: String,
    pub(super) email: String,
    pub(super) groups: Vec<String>,
}

impl Person {
    /// The people that the sign-in page offers.
    fn demonstration() -> Vec<Self> {
        let person = |sub: &str, name: &str, groups: &[&str]| Self {
            sub: sub.to_owned(),
            name: name.to_owned(),
            email: format!("{sub}@example.com"),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
        };
        vec![
            person("ada", "Ada Lovelace", &["engineering"]),
            person("grace", "Grace Hopper", &["engineering", "platform"]),
            person("katherine", "Katherine Johnson", &["research"]),
        ]
    }

    /// Somebody who typed a name. The same name is the same person.
    fn named(name: &str) -> Option<Self> {
        let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
        if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
            return None;
        }
        let sub = format!("guest-{:.10}", URL_SAFE_NO_PAD.encode(Sha256::digest(&name)));
        Some(Self { email: format!("{sub}@example.com"), sub, name, groups: vec!["guests".to_owned()] })
    }
}

/// The provider.
pub(super) struct IdentityProvider {
    issuer: String,
    client: Client,
    people: Vec<Person>,
    key: SigningKey,
    memory: Mutex<Memory>,
}

struct Memory {
    /// People who are looking at the sign-in page.
    interactions: Expiring<Authorization>,
    codes: Expiring<Code>,
    sessions: Expiring<Session>,
    access_tokens: Expiring<Person>,
}

/// An authorization request that has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Authorization {
    state: Option<String>,
    nonce: Option<String>,
    /// SHA-256 of the verifier, in base64url.
    code_challenge: String,
    scopes: Vec<String>,
}

/// An authorization code. A redeemed one is remembered, so that a second use can end what the first one began.
enum Code {
    Waiting(Authorization, SignIn),
    Redeemed { session: Option<String> },
}

/// Who signed in, and when.
#[derive(Debug, Clone)]
struct SignIn {
    person: Person,
    at: SystemTime,
}

/// What a refresh token stands for. The token is the session's key and, after a dot, its current secret.
struct Session {
    sign_in: SignIn,
    scopes: Vec<String>,
    secret: String,
}

/// Why an authorization request is not shown to a person.
#[derive(Debug, PartialEq, Eq)]
enum AuthorizationError {
    /// Nobody to redirect to: the person is told (RFC 6749 §4.1.2.1).
    NotOurClient,
    /// The client is told by redirect.
    Refused { code: &'static str, description: &'static str, state: Option<String> },
}

/// An error of the token endpoint (RFC 6749 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TokenError {
    InvalidClient,
    InvalidGrant,
    InvalidRequest,
    InvalidScope,
    UnsupportedGrantType,
}

impl IdentityProvider {
    /// A provider that calls itself `issuer`, with a new signing key.
    pub(super) fn new(issuer: &str, client: Client) -> Self {
        let memory = Memory {
            interactions: Expiring::new(),
            codes: Expiring::new(),
            sessions: Expiring::new(),
            access_tokens: Expiring::new(),
        };
        Self {
            issuer: issuer.to_owned(),
            client,
            people: Person::demonstration(),
            key: signing_key(),
            memory: Mutex::new(memory),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// OIDC Discovery 1.0 §3.
    fn discovery(&self) -> Value {
        let issuer = &self.issuer;
        json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "userinfo_endpoint": format!("{issuer}/userinfo"),
            "jwks_uri": format!("{issuer}/jwks"),
            "scopes_supported": ["openid", "profile", "email", "groups", "offline_access"],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "code_challenge_methods_supported": ["S256"],
            "claims_supported": ["sub", "name", "email", "email_verified", "groups", "auth_time", "nonce"],
            "authorization_response_iss_parameter_supported": true,
        })
    }

    /// RFC 7517 §5.
    fn jwks(&self) -> Value {
        let (x, y) = self.coordinates();
        let kid = self.key_id();
        json!({"keys": [{"kty": "EC", "crv": "P-256", "x": x, "y": y, "use": "sig", "alg": "ES256", "kid": kid}]})
    }

    /// Shows the sign-in page, or says by redirect why not.
    fn authorize(&self, parameters: &Form, now: SystemTime) -> Response<Body> {
        match self.check_authorization(parameters) {
            Ok(authorization) => {
                let interaction = self.memory().interactions.insert(authorization, INTERACTION_TTL, now);
                self.page(StatusCode::OK, sign_in_page::choose(&self.people, &interaction))
            }
            Err(AuthorizationError::NotOurClient) => self.page(
                StatusCode::BAD_REQUEST,
                sign_in_page::problem(
                    "This link is not from the demo gateway",
                    "Its client or return address is unknown here. Start the sign-in again from your terminal.",
                ),
            ),
            Err(AuthorizationError::Refused { code, description, state }) => {
                self.redirect(&[("error", code), ("error_description", description)], state.as_deref())
            }
        }
    }

    /// RFC 6749 §4.1.1, RFC 7636 §4.3 and OIDC Core §3.1.2.1. PKCE is required.
    fn check_authorization(&self, parameters: &Form) -> Result<Authorization, AuthorizationError> {
        let ours = parameters.is_unambiguous()
            && parameters.get("client_id") == Some(&*self.client.id)
            && parameters.get("redirect_uri") == Some(self.client.redirect_uri.as_str());
        if !ours {
            return Err(AuthorizationError::NotOurClient);
        }
        let state = parameters.get("state").map(str::to_owned);
        let refused = |code, description| AuthorizationError::Refused { code, description, state: state.clone() };

        if parameters.get("response_type") != Some("code") {
            return Err(refused("unsupported_response_type", "only the code flow is offered"));
        }
        if parameters.get("response_mode").is_some_and(|mode| mode != "query") {
            return Err(refused("invalid_request", "only response_mode=query is offered"));
        }
        let scopes = parameters.get("scope").unwrap_or_default();
        let scopes: Vec<_> = scopes.split(' ').filter(|scope| !scope.is_empty()).map(str::to_owned).collect();
        if !scopes.iter().any(|scope| scope == "openid") {
            return Err(refused("invalid_scope", "scope must contain openid"));
        }
        let challenge = parameters.get("code_challenge").filter(|challenge| challenge.len() == 43);
        let (Some(challenge), Some("S256")) = (challenge, parameters.get("code_challenge_method")) else {
            return Err(refused("invalid_request", "PKCE with S256 is required"));
        };
        if parameters.get("prompt") == Some("none") {
            return Err(refused("login_required", "nobody is signed in here without choosing"));
        }
        Ok(Authorization {
            nonce: parameters.get("nonce").map(str::to_owned),
            code_challenge: challenge.to_owned(),
            scopes,
            state,
        })
    }

    /// Takes the choice of the sign-in page back to the client. Each page can be answered once.
    fn sign_in(&self, form: &Form, now: SystemTime) -> Response<Body> {
        let interaction = form.get("interaction").unwrap_or_default();
        let person = match (form.get("cancel"), form.get("person"), form.get("name")) {
            (Some(_), _, _) => None,
            (_, Some(sub), _) => self.people.iter().find(|person| person.sub == sub).cloned(),
            (_, _, name) => match Person::named(name.unwrap_or_default()) {
                Some(person) => Some(person),
                None => {
                    return self.page(
                        StatusCode::BAD_REQUEST,
                        sign_in_page::problem("That name does not work", "Go back and type up to 60 characters."),
                    );
                }
            },
        };
        let mut memory = self.memory();
        let Some(authorization) = memory.interactions.take(interaction, now) else {
            return self.page(
                StatusCode::BAD_REQUEST,
                sign_in_page::problem(
                    "This sign-in page has been used or has expired",
                    "Start the sign-in again from your terminal.",
                ),
            );
        };
        let state = authorization.state.clone();
        let Some(person) = person else {
            let description = "the person canceled the sign-in";
            return self.redirect(&[("error", "access_denied"), ("error_description", description)], state.as_deref());
        };
        let code = memory.codes.insert(Code::Waiting(authorization, SignIn { person, at: now }), CODE_TTL, now);
        self.redirect(&[("code", &code)], state.as_deref())
    }

    /// RFC 6749 §3.2.
    fn token(&self, request: &Request<Bytes>, now: SystemTime) -> Result<Value, TokenError> {
        let form = Form::parse(request.body());
        if !form.is_unambiguous() {
            return Err(TokenError::InvalidRequest);
        }
        if !self.is_client(authorization(request), &form) {
            return Err(TokenError::InvalidClient);
        }
        match form.get("grant_type") {
            Some("authorization_code") => self.redeem(&form, now),
            Some("refresh_token") => self.refresh(&form, now),
            Some(_) => Err(TokenError::UnsupportedGrantType),
            None => Err(TokenError::InvalidRequest),
        }
    }

    /// `client_secret_basic` or `client_secret_post` (RFC 6749 §2.3.1).
    fn is_client(&self, authorization: Option<&str>, form: &Form) -> bool {
        let basic = authorization.and_then(|value| value.strip_prefix("Basic ")).and_then(basic_credentials);
        let given = match &basic {
            Some((id, secret)) => (Some(&**id), Some(&**secret)),
            None => (form.get("client_id"), form.get("client_secret")),
        };
        given == (Some(&*self.client.id), Some(&*self.client.secret))
    }

    /// RFC 6749 §4.1.3. Any attempt uses the code up; a second one ends the session that the first one started.
    fn redeem(&self, form: &Form, now: SystemTime) -> Result<Value, TokenError> {
        let code = form.get("code").ok_or(TokenError::InvalidRequest)?;
        let mut memory = self.memory();
        match memory.codes.take(code, now).ok_or(TokenError::InvalidGrant)? {
            Code::Redeemed { session } => {
                session.and_then(|session| memory.sessions.take(&session, now));
                Err(TokenError::InvalidGrant)
            }
            Code::Waiting(authorization, sign_in) => {
                let challenge =
                    form.get("code_verifier").map(|verifier| URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)));
                let same_place = form.get("redirect_uri") == Some(self.client.redirect_uri.as_str());
                if !same_place || challenge.as_ref() != Some(&authorization.code_challenge) {
                    return Err(TokenError::InvalidGrant);
                }
                let Authorization { nonce, scopes, .. } = authorization;
                let refreshable = scopes.iter().any(|scope| scope == "offline_access");
                let mut tokens = self.issue(&mut memory, &sign_in, &scopes, nonce.as_deref(), now);
                let session = refreshable.then(|| {
                    let secret = token();
                    let session = Session { sign_in, scopes, secret: secret.clone() };
                    let id = memory.sessions.insert(session, SESSION_TTL, now);
                    tokens["refresh_token"] = format!("{id}.{secret}").into();
                    id
                });
                memory.codes.replace(code, Code::Redeemed { session }, CODE_TTL, now);
                Ok(tokens)
            }
        }
    }

    /// RFC 6749 §6, rotating (RFC 9700 §4.14.2): a token that was rotated away ends its session.
    fn refresh(&self, form: &Form, now: SystemTime) -> Result<Value, TokenError> {
        let refresh_token = form.get("refresh_token").ok_or(TokenError::InvalidRequest)?;
        let (id, secret) = refresh_token.split_once('.').ok_or(TokenError::InvalidGrant)?;
        let mut memory = self.memory();
        let mut session = memory.sessions.take(id, now).ok_or(TokenError::InvalidGrant)?;
        if session.secret != secret {
            return Err(TokenError::InvalidGrant);
        }
        let asked = form.get("scope").unwrap_or_default().split(' ').filter(|scope| !scope.is_empty());
        let mut asked_too_much = asked.filter(|scope| !session.scopes.iter().any(|granted| granted == scope));
        if asked_too_much.next().is_some() {
            memory.sessions.replace(id, session, SESSION_TTL, now);
            return Err(TokenError::InvalidScope);
        }
        let mut tokens = self.issue(&mut memory, &session.sign_in, &session.scopes, None, now);
        session.secret = token();
        tokens["refresh_token"] = format!("{id}.{}", session.secret).into();
        memory.sessions.replace(id, session, SESSION_TTL, now);
        Ok(tokens)
    }

    fn issue(
        &self,
        memory: &mut Memory,
        sign_in: &SignIn,
        scopes: &[String],
        nonce: Option<&str>,
        now: SystemTime,
    ) -> Value {
        json!({
            "access_token": memory.access_tokens.insert(sign_in.person.clone(), TOKEN_TTL, now),
            "token_type": "Bearer",
            "expires_in": TOKEN_TTL.as_secs(),
            "scope": scopes.join(" "),
            "id_token": self.id_token(sign_in, nonce, now),
        })
    }

    /// OIDC Core §2. The person's claims are always in it, so that no client needs userinfo.
    fn id_token(&self, sign_in: &SignIn, nonce: Option<&str>, now: SystemTime) -> String {
        let mut claims = person_claims(&sign_in.person);
        claims["iss"] = self.issuer.as_str().into();
        claims["aud"] = self.client.id.as_str().into();
        claims["iat"] = seconds(now).into();
        claims["exp"] = seconds(now + TOKEN_TTL).into();
        claims["auth_time"] = seconds(sign_in.at).into();
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": self.key_id()});
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature: Signature = self.key.sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    /// OIDC Core §5.3.
    fn userinfo(&self, request: &Request<Bytes>, now: SystemTime) -> Response<Body> {
        let access_token = authorization(request).and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if let Some(person) = self.memory().access_tokens.find(access_token, now) {
            return json_response(StatusCode::OK, &person_claims(person));
        }
        let mut refusal = json_response(StatusCode::UNAUTHORIZED, &json!({"error": "invalid_token"}));
        let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
        refusal.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        refusal
    }

    /// Back to the client, with `iss` (RFC 9207).
    fn redirect(&self, parameters: &[(&str, &str)], state: Option<&str>) -> Response<Body> {
        let mut target = self.client.redirect_uri.clone();
        target.query_pairs_mut().extend_pairs(parameters).extend_pairs(state.map(|state| ("state", state)));
        target.query_pairs_mut().append_pair("iss", &self.issuer);
        let mut redirect = response(StatusCode::SEE_OTHER, "text/plain", "");
        if let Ok(location) = HeaderValue::try_from(target.as_str()) {
            redirect.headers_mut().insert(LOCATION, location);
        }
        redirect
    }

    fn page(&self, status: StatusCode, body: String) -> Response<Body> {
        let mut page = response(status, "text/html; charset=utf-8", body);
        // `form-action` also judges the redirect that follows a form, so the client's origin is in it.
        let policy = format!(
            "default-src 'none'; style-src 'unsafe-inline'; form-action 'self' {}; frame-ancestors 'none'; base-uri 'none'",
            self.client.redirect_uri.origin().ascii_serialization()
        );
        let headers = page.headers_mut();
        if let Ok(policy) = HeaderValue::try_from(policy) {
            headers.insert(CONTENT_SECURITY_POLICY, policy);
        }
        headers.insert(HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer"));
        page
    }

    /// The thumbprint of the public key (RFC 7638 §3.2: members in this order, no spaces).
    fn key_id(&self) -> String {
        let (x, y) = self.coordinates();
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
    }

    /// The public key's coordinates in base64url. An uncompressed point is `04`, x, y (SEC 1 §2.3.3).
    fn coordinates(&self) -> (String, String) {
        let point = self.key.verifying_key().to_sec1_point(false);
        let (x, y) = point.as_bytes()[1..].split_at(32);
        (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
    }
}

impl Service for IdentityProvider {
    fn answer(&self, request: &Request<Bytes>, now: SystemTime) -> Response<Body> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/.well-known/openid-configuration") => json_response(StatusCode::OK, &self.discovery()),
            (&Method::GET, "/jwks") => json_response(StatusCode::OK, &self.jwks()),
            (&Method::GET, "/authorize") => {
                self.authorize(&Form::parse(request.uri().query().unwrap_or_default().as_bytes()), now)
            }
            (&Method::POST, "/authorize") => self.authorize(&Form::parse(request.body()), now),
            (&Method::POST, "/sign-in") => self.sign_in(&Form::parse(request.body()), now),
            (&Method::POST, "/token") => match self.token(request, now) {
                Ok(tokens) => json_response(StatusCode::OK, &tokens),
                Err(error) => error.response(),
            },
            (&Method::GET | &Method::POST, "/userinfo") => self.userinfo(request, now),
            _ => response(StatusCode::NOT_FOUND, "text/plain", "not found"),
        }
    }
}

impl TokenError {
    fn response(self) -> Response<Body> {
        let (status, code) = match self {
            Self::InvalidClient => (StatusCode::UNAUTHORIZED, "invalid_client"),
            Self::InvalidGrant => (StatusCode::BAD_REQUEST, "invalid_grant"),
            Self::InvalidRequest => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::InvalidScope => (StatusCode::BAD_REQUEST, "invalid_scope"),
            Self::UnsupportedGrantType => (StatusCode::BAD_REQUEST, "unsupported_grant_type"),
        };
        let mut response = json_response(status, &json!({"error": code}));
        if self == Self::InvalidClient {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"demo\""));
        }
        response
    }
}

/// Parameters of a query or a form.
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(encoded: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// The value of `name`; an empty one counts as absent (RFC 6749 §3.1).
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Whether no parameter is there twice (RFC 6749 §3.1).
    fn is_unambiguous(&self) -> bool {
        self.0.iter().enumerate().all(|(index, (key, _))| self.0[..index].iter().all(|(earlier, _)| earlier != key))
    }
}

fn person_claims(person: &Person) -> Value {
    json!({
        "sub": person.sub,
        "name": person.name,
        "email": person.email,
        "email_verified": true,
        "groups": person.groups,
    })
}

fn authorization(request: &Request<Bytes>) -> Option<&str> {
    request.headers().get(AUTHORIZATION)?.to_str().ok()
}

/// Client id and secret out of HTTP Basic, form-decoded as RFC 6749 §2.3.1 asks for.
fn basic_credentials(encoded: &str) -> Option<(String, String)> {
    let decoded = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    let decode = |part: &str| Form::parse(format!("part={part}").as_bytes()).get("part").map(str::to_owned);
    Some((decode(id)?, decode(secret)?))
}

fn signing_key() -> SigningKey {
    loop {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system provides randomness");
        // Fails only for zero and for numbers beyond the group order: practically never.
        if let Ok(key) = SigningKey::from_slice(&bytes) {
            return key;
        }
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests;
