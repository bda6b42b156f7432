//! Google access tokens: a service account's key, another credential file, or the metadata server
//! (inference contract §10.1; "Application Default Credentials").

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Method;
use rsa::RsaPrivateKey;
use rsa::pkcs1::DecodeRsaPrivateKey;
use rsa::pkcs1v15::SigningKey;
use rsa::pkcs8::DecodePrivateKey;
use rsa::signature::{SignatureEncoding, Signer};
use serde::Deserialize;
use serde_json::json;
use sha2::Sha256;

use super::{CannotObtain, Credential, Obtained, Pending, State, Step, World, bearer, form, json, request, success};
use crate::config::{GoogleAuth, Secret};
use crate::domain::ids::Timestamp;

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// Used whatever `token_uri` a key file names: a file must not choose where its signature goes.
const TOKEN_ADDRESS: &str = "https://oauth2.googleapis.com/token";
const METADATA_HOST: &str = "metadata.google.internal";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// Life of an assertion in seconds; Google takes no longer one.
const ASSERTION_LIFE: i64 = 3600;

const SERVICE: &str = "Google's token service";

/// What an answer is waited for.
pub(super) enum Awaited {
    /// An access token.
    Token,
    /// The subject token of a federation, from the address in its file.
    Subject(Box<ExternalAccount>),
    /// An access token with which a service account is to be impersonated.
    TokenFor { impersonation_url: String },
    /// The service account's access token.
    Impersonated,
}

/// A credential file, by its `type`.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum CredentialFile {
    ServiceAccount(ServiceAccount),
    AuthorizedUser { client_id: String, client_secret: String, refresh_token: String },
    ExternalAccount(Box<ExternalAccount>),
}

#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
}

/// Workload identity federation.
#[derive(Deserialize)]
pub(super) struct ExternalAccount {
    audience: String,
    subject_token_type: String,
    token_url: String,
    service_account_impersonation_url: Option<String>,
    credential_source: CredentialSource,
}

#[derive(Deserialize)]
struct CredentialSource {
    file: Option<String>,
    url: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    format: Format,
}

#[derive(Default, Deserialize)]
struct Format {
    #[serde(rename = "type")]
    kind: Option<String>,
    subject_token_field_name: Option<String>,
}

pub(super) fn obtain(auth: &GoogleAuth, world: &World<'_>) -> Result<Step, CannotObtain> {
    match auth {
        GoogleAuth::AccessToken(token) => {
            Ok(Step::Done(Obtained { credential: Credential::Bearer(token.clone()), expires_at: None }))
        }
        GoogleAuth::ServiceAccountFile(path) => from_file(path, world),
        GoogleAuth::DefaultChain => match world.variable("GOOGLE_APPLICATION_CREDENTIALS") {
            Some(path) => from_file(&path, world),
            None => from_metadata(world),
        },
    }
}

fn from_metadata(world: &World<'_>) -> Result<Step, CannotObtain> {
    let host = world.variable("GCE_METADATA_HOST").or_else(|| world.variable("GCE_METADATA_IP"));
    let host = host.unwrap_or_else(|| METADATA_HOST.to_owned());
    let address = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
    let request = request(Method::GET, &address, &[("metadata-flavor", "Google")], "")?;
    Ok(wait(request, Awaited::Token))
}

fn from_file(path: &str, world: &World<'_>) -> Result<Step, CannotObtain> {
    let file: CredentialFile = serde_json::from_slice(&world.file(path)?)
        .map_err(|_| CannotObtain::Unusable(format!("{path} is not a Google credential file that can be used")))?;
    match file {
        CredentialFile::ServiceAccount(account) => {
            let assertion = account.assertion(world.now).ok_or_else(|| {
                CannotObtain::Unusable(format!("{path} does not contain an RSA private key that can sign"))
            })?;
            let request = form(TOKEN_ADDRESS, &[("grant_type", JWT_BEARER), ("assertion", &assertion)])?;
            Ok(wait(request, Awaited::Token))
        }
        CredentialFile::AuthorizedUser { client_id, client_secret, refresh_token } => {
            let parameters = [
                ("grant_type", "refresh_token"),
                ("client_id", client_id.as_str()),
                ("client_secret", client_secret.as_str()),
                ("refresh_token", refresh_token.as_str()),
            ];
            Ok(wait(form(TOKEN_ADDRESS, &parameters)?, Awaited::Token))
        }
        CredentialFile::ExternalAccount(account) => {
            match (&account.credential_source.file, &account.credential_source.url) {
                (Some(token_path), _) => {
                    let subject = account.subject(&world.file(token_path)?)?;
                    account.exchange(&subject)
                }
                (None, Some(address)) => {
                    let mut request = request(Method::GET, address, &[], "")?;
                    for (name, value) in &account.credential_source.headers {
                        let header = http::HeaderName::try_from(name).ok().zip(http::HeaderValue::try_from(value).ok());
                        let (name, value) = header
                            .ok_or_else(|| CannotObtain::Unusable(format!("{path} names an impossible header")))?;
                        request.headers_mut().insert(name, value);
                    }
                    Ok(wait(request, Awaited::Subject(account)))
                }
                (None, None) => Err(CannotObtain::Unusable(format!(
                    "{path} takes its token from a source that is not supported; file and url are"
                ))),
            }
        }
    }
}

fn wait(request: http::Request<Bytes>, awaited: Awaited) -> Step {
    Step::Send(Box::new(request), Pending(State::Google(awaited)))
}

impl Awaited {
    pub(super) fn answer(self, answer: &http::Response<Bytes>, world: &World<'_>) -> Result<Step, CannotObtain> {
        match self {
            Self::Token => bearer(SERVICE, answer, world.now).map(Step::Done),
            Self::Subject(account) => {
                let subject = account.subject(success("the source of the identity token", answer)?)?;
                account.exchange(&subject)
            }
            Self::TokenFor { impersonation_url } => {
                let Credential::Bearer(token) = bearer(SERVICE, answer, world.now)?.credential else {
                    return Err(CannotObtain::BadAnswer { service: SERVICE });
                };
                let authorization = format!("Bearer {}", token.reveal());
                let headers = [("content-type", "application/json"), ("authorization", authorization.as_str())];
                let body = json!({ "scope": [SCOPE] }).to_string();
                Ok(wait(request(Method::POST, &impersonation_url, &headers, body)?, Self::Impersonated))
            }
            Self::Impersonated => impersonated(answer).map(Step::Done),
        }
    }
}

fn impersonated(answer: &http::Response<Bytes>) -> Result<Obtained, CannotObtain> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Impersonated {
        access_token: String,
        expire_time: String,
    }
    let service = "Google's service account impersonation";
    let token: Impersonated = json(service, answer)?;
    let expires_at = super::aws::timestamp(&token.expire_time).ok_or(CannotObtain::BadAnswer { service })?;
    Ok(Obtained { credential: Credential::Bearer(Secret::new(token.access_token)), expires_at: Some(expires_at) })
}

impl ServiceAccount {
    /// A signed JWT (RFC 7523) that Google exchanges for an access token.
    fn assertion(&self, now: Timestamp) -> Option<String> {
        let pem = self.private_key.trim();
        let key = RsaPrivateKey::from_pkcs8_pem(pem).or_else(|_| RsaPrivateKey::from_pkcs1_pem(pem)).ok()?;
        let mut header = json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.private_key_id {
            header["kid"] = json!(id);
        }
        let claims = json!({
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": TOKEN_ADDRESS,
            "iat": now.as_secs(),
            "exp": now.as_secs() + ASSERTION_LIFE,
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signing_input = format!("{}.{}", part(&header), part(&claims));
        let signature = SigningKey::<Sha256>::new(key).try_sign(signing_input.as_bytes()).ok()?;
        Some(format!("{signing_input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes())))
    }
}

impl ExternalAccount {
    /// The token in a source's text.
    fn subject(&self, text: &[u8]) -> Result<String, CannotObtain> {
        let unusable = || CannotObtain::Unusable("the source of the identity token does not contain one".to_owned());
        let format = &self.credential_source.format;
        if format.kind.as_deref() == Some("json") {
            let value: serde_json::Value = serde_json::from_slice(text).map_err(|_| unusable())?;
            let name = format.subject_token_field_name.as_deref().unwrap_or("access_token");
            return value.get(name).and_then(|token| token.as_str()).map(str::to_owned).ok_or_else(unusable);
        }
        let text = std::str::from_utf8(text).map_err(|_| unusable())?;
        Ok(text.trim().to_owned())
    }

    /// RFC 8693.
    fn exchange(&self, subject: &str) -> Result<Step, CannotObtain> {
        let request = form(
            &self.token_url,
            &[
                ("grant_type", TOKEN_EXCHANGE),
                ("audience", &self.audience),
                ("scope", SCOPE),
                ("requested_token_type", ACCESS_TOKEN),
                ("subject_token", subject),
                ("subject_token_type", &self.subject_token_type),
            ],
        )?;
        let awaited = match &self.service_account_impersonation_url {
            Some(url) => Awaited::TokenFor { impersonation_url: url.clone() },
            None => Awaited::Token,
        };
        Ok(wait(request, awaited))
    }
}
