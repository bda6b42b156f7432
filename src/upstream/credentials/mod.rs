//! [`Credential`]: what proves to an upstream that the gateway may call it, and how one is obtained.
//!
//! A credential that the configuration does not hold is obtained in steps: [`obtain`] gives a request to send, its
//! answer goes to [`Pending::answer`], which gives the next request or the credential. Sending, caching (sealed), and
//! letting many requests share one refresh belong to the caller:
//!
//! ```text
//! let mut step = obtain(provider, base_url, &world)?;
//! let obtained = loop {
//!     match step {
//!         Step::Done(obtained) => break obtained,
//!         Step::Send(request, pending) => step = pending.answer(&send(*request).await?, &world)?,
//!     }
//! };
//! ```

mod anthropic_wif;
mod aws;
mod azure;
mod google;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::form_urlencoded;

use crate::config::{AnthropicAuth, FoundryAuth, GoogleAuth, Provider, Secret, Upstream};
use crate::domain::checksum::hex;
use crate::domain::ids::Timestamp;
use aws::Accepts;

/// A credential that is ready to be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// Sent as `x-api-key`.
    ApiKey(Secret<String>),
    /// Sent as `Authorization: Bearer`.
    Bearer(Secret<String>),
    /// Signs requests (AWS Signature Version 4).
    AwsKeys(AwsKeys),
}

/// A set of AWS keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsKeys {
    /// Access key id.
    pub access_key_id: String,
    /// Secret access key.
    pub secret_access_key: Secret<String>,
    /// Session token; temporary keys have one.
    pub session_token: Option<Secret<String>>,
}

/// A credential and how long it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obtained {
    /// The credential.
    pub credential: Credential,
    /// When it stops working; `None` if never.
    pub expires_at: Option<Timestamp>,
}

/// Whether a credential is to be used or renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// To be used.
    Fresh,
    /// To be used, and renewed beside the request.
    Due,
    /// To be renewed first.
    Expired,
}

/// Within this time before its end a credential is renewed beside the requests that use it.
const DUE: Duration = Duration::from_mins(2);
/// Within this time before its end a credential is not used any more: a request may be on its way for a while.
const TOO_LATE: Duration = Duration::from_secs(30);

/// What obtaining a credential needs to know of the world around the gateway.
pub struct World<'a> {
    /// The value of a variable; asked for names in [`VARIABLES`] only.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The content of a file; read again each time, because tokens rotate on disk.
    pub file: &'a dyn Fn(&str) -> Result<Vec<u8>, String>,
    /// Now.
    pub now: Timestamp,
}

/// The variables in which platforms describe their identities.
pub const VARIABLES: [&str; 25] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_EC2_METADATA_SERVICE_ENDPOINT",
    "AWS_ENDPOINT_URL_STS",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GCE_METADATA_HOST",
    "GCE_METADATA_IP",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
];

/// The next thing to do.
pub enum Step {
    /// Send this and hand the answer to [`Pending::answer`].
    Send(Box<http::Request<Bytes>>, Pending),
    /// The credential is there.
    Done(Obtained),
}

/// What is to be done with the answer that is waited for.
pub struct Pending(State);

enum State {
    AnthropicWif,
    Aws(aws::Awaited),
    Google(google::Awaited),
    Azure,
}

/// Why there is no credential. The text is for the log; no secret and no answer is quoted in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotObtain {
    /// Nothing in the configuration or the environment says how.
    #[error("no {0} credentials are configured, and the environment has none")]
    NoSource(&'static str),
    /// A file cannot be read.
    #[error("cannot read {path}: {reason}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        reason: String,
    },
    /// Something in the configuration or the environment is not what it should be.
    #[error("{0}")]
    Unusable(String),
    /// The token service refused.
    #[error("{service} answered {status} to the request for a credential")]
    Refused {
        /// Which.
        service: &'static str,
        /// Its status.
        status: u16,
    },
    /// The token service answered something else than a credential.
    #[error("{service} did not answer with a credential")]
    BadAnswer {
        /// Which.
        service: &'static str,
    },
}

/// The credential of `provider`, if the configuration holds it; `None` when it has to be obtained first.
pub fn configured(provider: &Provider) -> Option<Credential> {
    match provider {
        Provider::Anthropic { auth: AnthropicAuth::ApiKey(key), .. }
        | Provider::AnthropicAws { api_key: Some(key), .. }
        | Provider::Foundry { auth: FoundryAuth::ApiKey(key), .. } => Some(Credential::ApiKey(key.clone())),
        Provider::Anthropic { auth: AnthropicAuth::OauthToken(token), .. }
        | Provider::Vertex { auth: GoogleAuth::AccessToken(token), .. }
        | Provider::AnthropicGoogleCloud { auth: GoogleAuth::AccessToken(token), .. } => {
            Some(Credential::Bearer(token.clone()))
        }
        Provider::AnthropicAws { auth, .. } => aws::configured(auth),
        // With a role, the keys of the configuration only open it.
        Provider::Bedrock { auth, assume_role, .. } | Provider::Mantle { auth, assume_role, .. } => {
            let is_final =
                |credential: &Credential| assume_role.is_none() || !matches!(credential, Credential::AwsKeys(_));
            aws::configured(auth).filter(is_final)
        }
        Provider::Anthropic { auth: AnthropicAuth::WorkloadIdentity { .. }, .. }
        | Provider::Vertex { auth: GoogleAuth::DefaultChain | GoogleAuth::ServiceAccountFile(_), .. }
        | Provider::AnthropicGoogleCloud {
            auth: GoogleAuth::DefaultChain | GoogleAuth::ServiceAccountFile(_), ..
        }
        | Provider::Foundry { auth: FoundryAuth::AzureAd, .. } => None,
    }
}

/// The first step towards a credential for `upstream`.
pub fn obtain(upstream: &Upstream, world: &World<'_>) -> Result<Step, CannotObtain> {
    if let Some(credential) = configured(&upstream.provider) {
        return Ok(Step::Done(Obtained { credential, expires_at: None }));
    }
    match &upstream.provider {
        Provider::Anthropic { auth, .. } => anthropic_wif::exchange(super::anthropic::base(upstream), auth, world),
        Provider::Bedrock { region, auth, assume_role, .. } | Provider::Mantle { region, auth, assume_role } => {
            aws::obtain(region, auth, Accepts::BedrockToken, assume_role.as_ref(), world)
        }
        Provider::AnthropicAws { region, auth, .. } => aws::obtain(region, auth, Accepts::KeysOnly, None, world),
        Provider::Vertex { auth, .. } | Provider::AnthropicGoogleCloud { auth, .. } => google::obtain(auth, world),
        Provider::Foundry { .. } => azure::obtain(world),
    }
}

/// The variables that say whose credential it will be; none of them is secret.
const IDENTIFYING: [&str; 9] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
];

/// Whose credential `upstream` has, as a digest: where it is the same, a credential may be shared; where the configuration
/// says otherwise, it is another.
pub fn identity(upstream: &Upstream, world: &World<'_>) -> String {
    let mut digest = Sha256::new();
    digest.update(super::fingerprint(upstream));
    for name in IDENTIFYING {
        digest.update(format!(" {:?}", world.variable(name)));
    }
    hex(&digest.finalize())
}

/// A Google access token for something else than an upstream, such as a telemetry collector.
pub fn obtain_google(auth: &GoogleAuth, world: &World<'_>) -> Result<Step, CannotObtain> {
    google::obtain(auth, world)
}

/// Whether an answer of `upstream` means that its cached credential has been withdrawn: it is dropped, a new one is
/// obtained, and the request is sent once more (inference contract §9.5).
pub fn is_withdrawn(upstream: &Upstream, status: StatusCode) -> bool {
    let has_federation =
        matches!(&upstream.provider, Provider::Anthropic { auth: AnthropicAuth::WorkloadIdentity { .. }, .. });
    has_federation && status == StatusCode::UNAUTHORIZED
}

impl Pending {
    /// What to do after `answer`, whose body is all there.
    pub fn answer(self, answer: &http::Response<Bytes>, world: &World<'_>) -> Result<Step, CannotObtain> {
        match self.0 {
            State::AnthropicWif => bearer("the token exchange", answer, world.now).map(Step::Done),
            State::Aws(awaited) => awaited.answer(answer, world),
            State::Google(awaited) => awaited.answer(answer, world),
            State::Azure => bearer("Microsoft Entra", answer, world.now).map(Step::Done),
        }
    }
}

impl Obtained {
    /// Whether it is to be used at `now`.
    pub fn freshness(&self, now: Timestamp) -> Freshness {
        match self.expires_at {
            Some(end) if now.plus(TOO_LATE) >= end => Freshness::Expired,
            Some(end) if now.plus(DUE) >= end => Freshness::Due,
            _ => Freshness::Fresh,
        }
    }

    /// As bytes to be sealed and cached. They are as secret as the credential.
    pub fn to_bytes(&self) -> Secret<Vec<u8>> {
        let (kind, fields) = match &self.credential {
            Credential::ApiKey(key) => (Kind::ApiKey, [Some(key.reveal().clone()), None, None]),
            Credential::Bearer(token) => (Kind::Bearer, [Some(token.reveal().clone()), None, None]),
            Credential::AwsKeys(keys) => (
                Kind::AwsKeys,
                [
                    Some(keys.access_key_id.clone()),
                    Some(keys.secret_access_key.reveal().clone()),
                    keys.session_token.as_ref().map(|token| token.reveal().clone()),
                ],
            ),
        };
        let cached = Cached { kind, fields, expires_at: self.expires_at.map(Timestamp::as_millis) };
        Secret::new(serde_json::to_vec(&cached).expect("strings and numbers"))
    }

    /// From [`Obtained::to_bytes`]; nothing if they are something else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let Cached { kind, fields, expires_at } = serde_json::from_slice(bytes).ok()?;
        let [first, second, third] = fields;
        let credential = match kind {
            Kind::ApiKey => Credential::ApiKey(Secret::new(first?)),
            Kind::Bearer => Credential::Bearer(Secret::new(first?)),
            Kind::AwsKeys => Credential::AwsKeys(AwsKeys {
                access_key_id: first?,
                secret_access_key: Secret::new(second?),
                session_token: third.map(Secret::new),
            }),
        };
        Some(Self { credential, expires_at: expires_at.map(Timestamp::from_millis) })
    }
}

#[derive(Serialize, Deserialize)]
struct Cached {
    kind: Kind,
    fields: [Option<String>; 3],
    expires_at: Option<i64>,
}

#[derive(Serialize, Deserialize)]
enum Kind {
    ApiKey,
    Bearer,
    AwsKeys,
}

impl World<'_> {
    /// A variable that is there and not empty.
    fn variable(&self, name: &str) -> Option<String> {
        debug_assert!(VARIABLES.contains(&name), "{name} is not in VARIABLES");
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, CannotObtain> {
        (self.file)(path).map_err(|reason| CannotObtain::File { path: path.to_owned(), reason })
    }

    /// A token in a file: text without surrounding blanks.
    fn token_file(&self, path: &str) -> Result<String, CannotObtain> {
        let text = String::from_utf8(self.file(path)?)
            .map_err(|_| CannotObtain::Unusable(format!("{path} does not contain a token")))?;
        Ok(text.trim().to_owned())
    }
}

/// A token answer of RFC 6749 §5.1. Azure's managed identity writes numbers as strings, and on App Service tells when
/// the token ends, not how long it lasts.
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<serde_json::Value>,
    expires_on: Option<serde_json::Value>,
}

/// Life of a token whose answer does not tell.
const UNTOLD_LIFE: u64 = 300;

fn bearer(service: &'static str, answer: &http::Response<Bytes>, now: Timestamp) -> Result<Obtained, CannotObtain> {
    let token: TokenAnswer = json(service, answer)?;
    let seconds = |value: serde_json::Value| match value {
        serde_json::Value::String(text) => text.parse().ok(),
        number => number.as_i64(),
    };
    let life = token.expires_in.and_then(seconds).and_then(|life| u64::try_from(life).ok());
    let expires_at = match (life, token.expires_on.and_then(seconds)) {
        (None, Some(end)) => Timestamp::from_secs(end),
        (life, _) => now.plus(Duration::from_secs(life.unwrap_or(UNTOLD_LIFE))),
    };
    Ok(Obtained { credential: Credential::Bearer(Secret::new(token.access_token)), expires_at: Some(expires_at) })
}

/// The JSON of a successful answer.
fn json<T: serde::de::DeserializeOwned>(
    service: &'static str,
    answer: &http::Response<Bytes>,
) -> Result<T, CannotObtain> {
    serde_json::from_slice(success(service, answer)?).map_err(|_| CannotObtain::BadAnswer { service })
}

/// The body of a successful answer.
fn success<'a>(service: &'static str, answer: &'a http::Response<Bytes>) -> Result<&'a Bytes, CannotObtain> {
    if answer.status().is_success() {
        Ok(answer.body())
    } else {
        Err(CannotObtain::Refused { service, status: answer.status().as_u16() })
    }
}

fn request(
    method: Method,
    address: &str,
    headers: &[(&'static str, &str)],
    body: impl Into<Bytes>,
) -> Result<http::Request<Bytes>, CannotObtain> {
    let unusable = || CannotObtain::Unusable(format!("{address} is not an address to ask for credentials"));
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let value = HeaderValue::try_from(*value)
            .map_err(|_| CannotObtain::Unusable(format!("{name} would contain what no header can carry")))?;
        map.insert(HeaderName::from_static(name), value);
    }
    let mut request = http::Request::new(body.into());
    *request.method_mut() = method;
    *request.uri_mut() = address.parse().map_err(|_| unusable())?;
    *request.headers_mut() = map;
    Ok(request)
}

/// A POST of form parameters.
fn form(address: &str, parameters: &[(&str, &str)]) -> Result<http::Request<Bytes>, CannotObtain> {
    let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    request(Method::POST, address, &[("content-type", "application/x-www-form-urlencoded")], body)
}

#[cfg(test)]
mod tests;
