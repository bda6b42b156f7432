//! AWS keys: the default chain as far as it makes sense on a server (environment, web identity, container, instance),
//! and roles that are assumed with what it gives (inference contract §10.1).

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{AwsKeys, CannotObtain, Credential, Obtained, Pending, State, Step, World, form, json, request, success};
use crate::config::{AssumeRole, AwsAuth, Secret};
use crate::domain::ids::Timestamp;
use crate::wire::sigv4::Signer;

const STS: &str = "AWS STS";
const CONTAINER: &str = "the container's credential endpoint";
const INSTANCE: &str = "the instance metadata service";

/// Where ECS hands out credentials.
const CONTAINER_HOST: &str = "http://169.254.170.2";
const INSTANCE_HOST: &str = "http://169.254.169.254";
const INSTANCE_ROLES: &str = "/latest/meta-data/iam/security-credentials/";
/// Life of an `IMDSv2` session in seconds.
const INSTANCE_SESSION: &str = "21600";

/// How sessions of roles are called when nothing else is said.
const SESSION_NAME: &str = "cc-gateway";
/// Version of the STS API.
const STS_VERSION: (&str, &str) = ("Version", "2011-06-15");

/// What an answer is waited for, and what is done with the keys in the end.
pub(super) struct Awaited {
    from: From,
    then: Then,
}

enum From {
    /// Keys from STS, in XML.
    Sts,
    /// Keys from ECS or EKS.
    Container,
    /// The token of an `IMDSv2` session.
    InstanceSession,
    /// The name of the instance's role.
    InstanceRole { session: String },
    /// Keys from the instance's role.
    Instance,
}

/// The role to assume with the keys, and where.
struct Then {
    region: String,
    role: Option<AssumeRole>,
}

/// The credential that the configuration holds.
pub(super) fn configured(auth: &AwsAuth) -> Option<Credential> {
    match auth {
        AwsAuth::DefaultChain => None,
        AwsAuth::Keys { access_key_id, secret_access_key, session_token } => Some(Credential::AwsKeys(AwsKeys {
            access_key_id: access_key_id.clone(),
            secret_access_key: secret_access_key.clone(),
            session_token: session_token.clone(),
        })),
        AwsAuth::Bearer(token) => Some(Credential::Bearer(token.clone())),
    }
}

/// What a service accepts beside signatures.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Accepts {
    KeysOnly,
    /// A Bedrock API key too.
    BedrockToken,
}

pub(super) fn obtain(
    region: &str,
    auth: &AwsAuth,
    accepts: Accepts,
    role: Option<&AssumeRole>,
    world: &World<'_>,
) -> Result<Step, CannotObtain> {
    let then = Then { region: region.to_owned(), role: role.cloned() };
    // An API key cannot assume a role.
    let accepts = if role.is_some() { Accepts::KeysOnly } else { accepts };
    if let Some(credential) = configured(auth).or_else(|| from_environment(accepts, world)) {
        return then.go(Obtained { credential, expires_at: None }, world);
    }
    if let (Some(path), Some(role)) = (world.variable("AWS_WEB_IDENTITY_TOKEN_FILE"), world.variable("AWS_ROLE_ARN")) {
        let session = world.variable("AWS_ROLE_SESSION_NAME");
        let parameters = [
            ("Action", "AssumeRoleWithWebIdentity"),
            STS_VERSION,
            ("RoleArn", &role),
            ("RoleSessionName", session.as_deref().unwrap_or(SESSION_NAME)),
            ("WebIdentityToken", &world.token_file(&path)?),
        ];
        let request = form(&sts(region, world), &parameters)?;
        return Ok(then.wait(request, From::Sts));
    }
    if let Some(request) = container(world)? {
        return Ok(then.wait(request, From::Container));
    }
    if world.variable("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Err(CannotObtain::NoSource("AWS"));
    }
    let headers = [("x-aws-ec2-metadata-token-ttl-seconds", INSTANCE_SESSION)];
    let request = request(Method::PUT, &format!("{}/latest/api/token", instance_host(world)), &headers, "")?;
    Ok(then.wait(request, From::InstanceSession))
}

fn from_environment(accepts: Accepts, world: &World<'_>) -> Option<Credential> {
    if let (Some(access_key_id), Some(secret)) =
        (world.variable("AWS_ACCESS_KEY_ID"), world.variable("AWS_SECRET_ACCESS_KEY"))
    {
        return Some(Credential::AwsKeys(AwsKeys {
            access_key_id,
            secret_access_key: Secret::new(secret),
            session_token: world.variable("AWS_SESSION_TOKEN").map(Secret::new),
        }));
    }
    let token = world.variable("AWS_BEARER_TOKEN_BEDROCK").filter(|_| accepts == Accepts::BedrockToken)?;
    Some(Credential::Bearer(Secret::new(token)))
}

/// The endpoint of ECS or of EKS Pod Identity.
fn container(world: &World<'_>) -> Result<Option<http::Request<Bytes>>, CannotObtain> {
    let relative = world.variable("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI");
    let address = match relative.map(|path| format!("{CONTAINER_HOST}{path}")) {
        Some(address) => address,
        None => match world.variable("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
            Some(address) => address,
            None => return Ok(None),
        },
    };
    let token = match world.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(path) => Some(world.token_file(&path)?),
        None => world.variable("AWS_CONTAINER_AUTHORIZATION_TOKEN"),
    };
    let headers: Vec<(&str, &str)> = token.iter().map(|token| ("authorization", token.as_str())).collect();
    request(Method::GET, &address, &headers, "").map(Some)
}

fn instance_host(world: &World<'_>) -> String {
    let host = world.variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| INSTANCE_HOST.to_owned());
    host.trim_end_matches('/').to_owned()
}

fn sts(region: &str, world: &World<'_>) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    world.variable("AWS_ENDPOINT_URL_STS").unwrap_or_else(|| format!("https://sts.{region}.{domain}/"))
}

impl Then {
    fn wait(self, request: http::Request<Bytes>, from: From) -> Step {
        Step::Send(Box::new(request), Pending(State::Aws(Awaited { from, then: self })))
    }

    /// The keys are there: they are the credential, or they open the role.
    fn go(mut self, obtained: Obtained, world: &World<'_>) -> Result<Step, CannotObtain> {
        let Some(role) = self.role.take() else { return Ok(Step::Done(obtained)) };
        let Credential::AwsKeys(keys) = &obtained.credential else {
            return Err(CannotObtain::Unusable(
                "assume_role needs AWS keys; a bearer token cannot assume a role".to_owned(),
            ));
        };
        let mut parameters = vec![
            ("Action", "AssumeRole"),
            STS_VERSION,
            ("RoleArn", role.role_arn.as_str()),
            ("RoleSessionName", role.session_name.as_deref().unwrap_or(SESSION_NAME)),
        ];
        parameters.extend(role.external_id.as_deref().map(|id| ("ExternalId", id)));
        let mut request = form(&sts(&self.region, world), &parameters)?;
        let signer = Signer {
            access_key_id: &keys.access_key_id,
            secret_access_key: keys.secret_access_key.reveal(),
            session_token: keys.session_token.as_ref().map(|token| token.reveal().as_str()),
            region: &self.region,
            service: "sts",
        };
        signer
            .sign(&mut request, world.now.as_secs())
            .map_err(|_| CannotObtain::Unusable("the request to assume a role cannot be signed".to_owned()))?;
        Ok(self.wait(request, From::Sts))
    }
}

impl Awaited {
    pub(super) fn answer(self, answer: &http::Response<Bytes>, world: &World<'_>) -> Result<Step, CannotObtain> {
        let Self { from, then } = self;
        match from {
            From::Sts => then.go(from_xml(success(STS, answer)?)?, world),
            From::Container => then.go(from_json(CONTAINER, answer)?, world),
            From::Instance => then.go(from_json(INSTANCE, answer)?, world),
            From::InstanceSession => {
                let session = text(answer)?;
                let address = format!("{}{INSTANCE_ROLES}", instance_host(world));
                let request = request(Method::GET, &address, &[("x-aws-ec2-metadata-token", &session)], "")?;
                Ok(then.wait(request, From::InstanceRole { session }))
            }
            From::InstanceRole { session } => {
                let roles = text(answer)?;
                let role = roles.lines().next().unwrap_or_default().trim();
                let address = format!("{}{INSTANCE_ROLES}{role}", instance_host(world));
                let request = request(Method::GET, &address, &[("x-aws-ec2-metadata-token", &session)], "")?;
                Ok(then.wait(request, From::Instance))
            }
        }
    }
}

fn text(answer: &http::Response<Bytes>) -> Result<String, CannotObtain> {
    let text = std::str::from_utf8(success(INSTANCE, answer)?).unwrap_or_default().trim();
    if text.is_empty() { Err(CannotObtain::BadAnswer { service: INSTANCE }) } else { Ok(text.to_owned()) }
}

/// Keys as containers and instances hand them out.
fn from_json(service: &'static str, answer: &http::Response<Bytes>) -> Result<Obtained, CannotObtain> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Keys {
        access_key_id: String,
        secret_access_key: String,
        token: Option<String>,
        expiration: Option<String>,
    }
    let keys: Keys = json(service, answer)?;
    Ok(Obtained {
        credential: Credential::AwsKeys(AwsKeys {
            access_key_id: keys.access_key_id,
            secret_access_key: Secret::new(keys.secret_access_key),
            session_token: keys.token.map(Secret::new),
        }),
        expires_at: keys.expiration.as_deref().and_then(timestamp),
    })
}

/// Keys as STS hands them out. Its values contain nothing that XML escapes.
fn from_xml(body: &[u8]) -> Result<Obtained, CannotObtain> {
    let bad = || CannotObtain::BadAnswer { service: STS };
    let text = std::str::from_utf8(body).map_err(|_| bad())?;
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (value, _) = rest.split_once(&format!("</{name}>"))?;
        Some(value.trim().to_owned())
    };
    let credential = Credential::AwsKeys(AwsKeys {
        access_key_id: element("AccessKeyId").ok_or_else(bad)?,
        secret_access_key: Secret::new(element("SecretAccessKey").ok_or_else(bad)?),
        session_token: Some(Secret::new(element("SessionToken").ok_or_else(bad)?)),
    });
    let expires_at = element("Expiration").and_then(|at| timestamp(&at)).ok_or_else(bad)?;
    Ok(Obtained { credential, expires_at: Some(expires_at) })
}

/// An instant in RFC 3339.
pub(super) fn timestamp(text: &str) -> Option<Timestamp> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    let since_epoch = Duration::from_secs(u64::try_from(at.unix_timestamp()).ok()?);
    Some(Timestamp::from_secs(0).plus(since_epoch))
}
