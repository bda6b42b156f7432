//! `upstreams` (auth contract §3.5, inference contract §9 and §10): one function per provider, plus what all share.

use url::Url;

use super::address::base_url;
use super::decode::{Keys, Tagged, section};
use super::egress;
use super::kind::{Kind, formed, list, map, non_empty, non_empty_list, secret, switch, whole};
use super::report::{Report, item};
use super::{AnthropicAuth, AssumeRole, AwsAuth, FoundryAuth, GoogleAuth, Guardrail, Provider, Secret, Upstream};

/// Headers that the gateway sets itself or that would change who is asking (inference contract §9.2).
const RESERVED_HEADERS: [&str; 19] = [
    "authorization",
    "x-api-key",
    "api-key",
    "proxy-authorization",
    "host",
    "content-type",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "accept",
    "accept-encoding",
    "user-agent",
    "x-goog-user-project",
    "x-litellm-end-user-id",
];

/// The same, by prefix.
const RESERVED_HEADER_PREFIXES: [&str; 5] =
    ["anthropic-", "x-stainless-", "x-amz-", "x-amzn-", "x-claude-gateway-user-"];

const PROVIDERS: &[Tagged<Provider>] = &[
    ("anthropic", "The Anthropic API, or anything that speaks its wire format.", anthropic),
    ("bedrock", "Amazon Bedrock, InvokeModel.", bedrock),
    ("mantle", "Amazon Bedrock's endpoint in the Anthropic wire format. `models` is required.", mantle),
    ("anthropicAws", "Claude Platform on AWS.", anthropic_aws),
    ("anthropicGoogleCloud", "Claude on Google Cloud.", anthropic_google_cloud),
    ("vertex", "Google Vertex AI.", vertex),
    ("foundry", "Microsoft Foundry.", foundry),
];

pub(super) fn upstream(keys: &mut Keys<'_, '_>) -> Option<Upstream> {
    let provider = keys.tagged("provider", "Who serves the models; decides which other keys there are.", PROVIDERS);
    let name = keys.optional(
        "name",
        non_empty(),
        "Name by which `models`, `pricing` and the audit log refer to it; unique. Default: the provider.",
    );
    let base_url = keys.optional(
        "base_url",
        base_url(),
        "Replaces the provider's whole default address, including its path. Paths such as `/v1/messages` are appended.",
    );
    let headers = keys.or(
        "headers",
        map(header_name, header_value()),
        "{}",
        "Headers added to every request; they replace a client's header of the same name. Headers that carry \
         credentials, describe the body or the connection, or that the gateway sets itself (`host`, `accept…`, \
         `user-agent`, `anthropic-*`, `x-stainless-*`, `x-amz*`) are refused.",
    );
    let models = keys.optional(
        "models",
        non_empty_list(non_empty()),
        "If present, only these models are sent here, in any spelling.",
    );
    let groups = keys.optional(
        "groups",
        non_empty_list(non_empty()),
        "If present, only members of one of these groups are sent here. For anyone else the upstream does not exist.",
    );
    let failover_on = keys.or(
        "failover_on",
        list(failover_status()),
        "[]",
        "Statuses of this upstream after which the next one is tried, beyond 401, 403, 404, 429 and 5xx, which always do: for \
         example 402 (its account is empty), 408, 409. If no upstream takes the request, the client gets that answer. \
         Statuses that say that the request itself is wrong (400, 405, 406, 411 to 417, 422, 426, 428, 431) are refused: \
         every upstream would say the same.",
    );
    let weight = keys.optional(
        "weight",
        whole(0, 1000),
        "Neighbouring upstreams that have a weight are equals: requests are shared among them in this proportion, a \
         conversation staying with one of them because its prompt cache is there, and the others are tried when that one \
         fails. 0 takes nothing but that. Without a weight, upstreams are tried in the order of the file.",
    );
    let proxy = egress::proxy(keys);
    let tls = keys.optional(
        "tls",
        section(egress::client_tls),
        "TLS towards this upstream. Only `sallyport serve` uses it; for Spin, `sallyport render spin` puts it into the \
         runtime configuration.",
    );

    let (provider, headers, failover_on) = (provider?, headers?, failover_on?);
    warn_of_failover(&failover_on, keys);
    if let Provider::Anthropic { forward_user_identity: true, .. } = provider
        && base_url.as_deref().is_none_or(is_anthropic_api)
    {
        keys.fault("forward_user_identity", "needs a `base_url` that is not the Anthropic API");
    }
    // Others append other paths, some of which begin after `/v1`.
    let appends_v1 = !matches!(provider, Provider::Bedrock { .. } | Provider::Vertex { .. });
    if let Some(base) = base_url.as_deref().filter(|base| appends_v1 && ends_in_v1(base)) {
        keys.warn("base_url", format!("`/v1/messages` is appended: requests go to {base}/v1/messages"));
    }
    if let Provider::Mantle { .. } = provider
        && !keys.has("models")
    {
        keys.lacks("models", "the key `models` is missing; provider mantle needs it");
    }
    Some(Upstream {
        name: name.unwrap_or_else(|| provider.name().to_owned()),
        provider,
        base_url,
        headers: headers.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect(),
        models,
        groups,
        failover_on,
        weight,
        proxy,
        tls,
    })
}

/// A guardrail that another upstream lacks would be left behind by failing over (inference contract §10.2).
pub(super) fn judge_guardrails(upstreams: &[Upstream], report: &mut Report<'_>) {
    let is_guarded = |upstream: &Upstream| match &upstream.provider {
        Provider::Bedrock { guardrail, .. } => Some(guardrail.is_some()),
        // It has none.
        Provider::Mantle { .. } => Some(false),
        _ => None,
    };
    let Some(guarded) = upstreams.iter().find(|upstream| is_guarded(upstream) == Some(true)) else { return };
    for (place, other) in upstreams.iter().enumerate().filter(|(_, upstream)| is_guarded(upstream) == Some(false)) {
        let (path, message) = match &other.provider {
            Provider::Mantle { .. } => (
                format!("upstreams[{place}].provider"),
                format!(
                    "mantle knows no guardrails, but upstream `{}` has one: requests would get around it; remove one of \
                     the two",
                    guarded.name
                ),
            ),
            _ => (
                format!("upstreams[{place}]"),
                format!(
                    "the key `guardrail` is missing, but upstream `{}` has one: requests would get around it; give every \
                     bedrock upstream one, or none",
                    guarded.name
                ),
            ),
        };
        report.fault_at(&path, message);
    }
}

/// A status of `failover_on`.
fn failover_status() -> Kind<u16> {
    whole::<u16>(400, 599).check(|status| match status {
        400 | 405 | 406 | 411..=417 | 422 | 426 | 428 | 431 => Err(format!(
            "{status} says that the request itself is wrong: the other upstreams would refuse it, too, and the client has \
             to be told; remove it"
        )),
        _ => Ok(status),
    })
}

fn warn_of_failover(statuses: &[u16], keys: &mut Keys<'_, '_>) {
    for (place, status) in statuses.iter().enumerate() {
        let path = item(&keys.path_of("failover_on"), place);
        if matches!(status, 401 | 403 | 404 | 429 | 500..=599) {
            keys.report.warn_at(&path, format!("{status} fails over anyway: it need not be listed"));
        } else if statuses[..place].contains(status) {
            keys.report.warn_at(&path, format!("{status} is listed already"));
        }
    }
}

fn ends_in_v1(base_url: &str) -> bool {
    base_url.ends_with("/v1") || base_url.ends_with("/v1/messages")
}

fn is_anthropic_api(base_url: &str) -> bool {
    let url = Url::parse(base_url).ok();
    url.as_ref().and_then(Url::host_str).is_some_and(|host| {
        let host = host.trim_end_matches('.');
        host == "anthropic.com" || host.ends_with(".anthropic.com")
    })
}

fn header_name(name: &str) -> Result<(), String> {
    if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err("is not a header name".to_owned());
    }
    let name = name.to_lowercase();
    let is_reserved = RESERVED_HEADERS.contains(&name.as_str())
        || RESERVED_HEADER_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    if is_reserved { Err("is set by the gateway itself and cannot be configured".to_owned()) } else { Ok(()) }
}

/// Header values are often secrets, so they are handled as such while they are judged.
fn header_value() -> Kind<String> {
    secret(1).check(|value| {
        let value = value.reveal();
        let is_printable = value.chars().all(|character| character == ' ' || character.is_ascii_graphic());
        if is_printable && value.trim() == value {
            Ok(value.clone())
        } else {
            Err("must be printable ASCII without blanks around it".to_owned())
        }
    })
}

fn anthropic(keys: &mut Keys<'_, '_>) -> Option<Provider> {
    let auth = keys.required("auth", section(anthropic_auth), "Credential: exactly one of the three forms.");
    let forward_user_identity = keys.or(
        "forward_user_identity",
        switch(),
        "false",
        "Whether the caller's id (`x-claude-gateway-user-id`) and e-mail address (`x-claude-gateway-user-email`, \
         `x-litellm-end-user-id`) are sent along, for a proxy behind `base_url` that accounts by person. Refused for the \
         Anthropic API itself.",
    );
    Some(Provider::Anthropic { auth: auth?, forward_user_identity: forward_user_identity? })
}

fn anthropic_auth(keys: &mut Keys<'_, '_>) -> Option<AnthropicAuth> {
    const FEDERATION: [&str; 3] = ["federation_rule_id", "organization_id", "identity_token_file"];

    let api_key = keys.optional("api_key", secret(1), "First form: an API key.");
    let oauth_token = keys.optional("oauth_token", secret(1), "Second form: an OAuth token, sent as bearer.");
    let rule = keys.optional("federation_rule_id", non_empty(), "Third form, workload identity: the federation rule.");
    let organization = keys.optional("organization_id", non_empty(), "Third form: the organization.");
    let file = keys.optional(
        "identity_token_file",
        non_empty(),
        "Third form: path of the workload's identity token; it is read again for each exchange.",
    );
    let workspace_id = keys.optional("workspace_id", non_empty(), "Third form, optional: the workspace.");
    let service_account_id =
        keys.optional("service_account_id", non_empty(), "Third form, optional: the service account.");

    let federated = FEDERATION.iter().chain(&["workspace_id", "service_account_id"]).any(|name| keys.has(name));
    let forms = [keys.has("api_key"), keys.has("oauth_token"), federated];
    if forms.iter().filter(|given| **given).count() != 1 {
        keys.fault("", "expected exactly one of `api_key`, `oauth_token`, or `federation_rule_id` with its companions");
        return None;
    }
    if federated {
        for name in FEDERATION.into_iter().filter(|name| !keys.has(name)).collect::<Vec<_>>() {
            keys.lacks(name, format!("the key `{name}` is missing"));
        }
        return Some(AnthropicAuth::WorkloadIdentity {
            federation_rule_id: rule?,
            organization_id: organization?,
            identity_token_file: file?,
            workspace_id,
            service_account_id,
        });
    }
    api_key.map(AnthropicAuth::ApiKey).or(oauth_token.map(AnthropicAuth::OauthToken))
}

fn bedrock(keys: &mut Keys<'_, '_>) -> Option<Provider> {
    let region = keys.required("region", region(), "AWS region.");
    let auth = keys.or("auth", section(aws_auth), "{}", AWS_AUTH);
    let guardrail = keys.optional(
        "guardrail",
        section(guardrail),
        "Guardrail on every invocation. All `bedrock` upstreams have one, or none has, and none beside `mantle`: requests \
         would get around it.",
    );
    let assume_role = keys.optional("assume_role", section(assume_role), ASSUME_ROLE);
    Some(Provider::Bedrock { region: region?, auth: auth?, guardrail, assume_role })
}

fn mantle(keys: &mut Keys<'_, '_>) -> Option<Provider> {
    let region = keys.required("region", region(), "AWS region.");
    let auth = keys.or("auth", section(aws_auth), "{}", AWS_AUTH);
    let assume_role = keys.optional("assume_role", section(assume_role), ASSUME_ROLE);
    Some(Provider::Mantle { region: region?, auth: auth?, assume_role })
}

fn anthropic_aws(keys: &mut Keys<'_, '_>) -> Option<Provider> {
    let region = keys.required("region", region(), "AWS region.");
    let workspace_id = keys.required("workspace_id", non_empty(), "Workspace.");
    let auth = keys.or(
        "auth",
        section(anthropic_aws_auth),
        "{}",
        "Credential. Empty: the AWS default chain (environment, web identity, container, instance).",
    );
    let (api_key, auth) = auth?;
    Some(Provider::AnthropicAws { region: region?, workspace_id: workspace_id?, api_key, auth })
}

const AWS_AUTH: &str = "Credential: `aws_bearer_token`, or an access key. Empty: the AWS default chain (environment, web \
                        identity, container, instance).";
const ASSUME_ROLE: &str = "Role to assume with the credential.";

fn aws_auth(keys: &mut Keys<'_, '_>) -> Option<AwsAuth> {
    let bearer = keys.optional("aws_bearer_token", secret(1), "Bedrock API key; wins over an access key.");
    let access_key = access_key(keys)?;
    Some(bearer.map_or(access_key, AwsAuth::Bearer))
}

fn anthropic_aws_auth(keys: &mut Keys<'_, '_>) -> Option<(Option<Secret<String>>, AwsAuth)> {
    let api_key = keys.optional("api_key", secret(1), "API key; wins over an access key.");
    Some((api_key, access_key(keys)?))
}

/// The three keys of an AWS access key; the default chain without them.
fn access_key(keys: &mut Keys<'_, '_>) -> Option<AwsAuth> {
    let access_key_id = keys.optional("aws_access_key_id", non_empty(), "Access key id.");
    let secret_access_key = keys.optional("aws_secret_access_key", secret(1), "Secret access key.");
    let session_token = keys.optional("aws_session_token", secret(1), "Session token of a temporary access key.");
    match (keys.has("aws_access_key_id"), keys.has("aws_secret_access_key"), keys.has("aws_session_token")) {
        (false, false, false) => Some(AwsAuth::DefaultChain),
        (true, true, _) => {
            Some(AwsAuth::Keys { access_key_id: access_key_id?, secret_access_key: secret_access_key?, session_token })
        }
        _ => {
            keys.fault(
                "",
                "`aws_access_key_id` and `aws_secret_access_key` belong together, `aws_session_token` to both",
            );
            None
        }
    }
}

fn guardrail(keys: &mut Keys<'_, '_>) -> Option<Guardrail> {
    let id = keys.required("id", non_empty(), "Identifier or ARN.");
    let version = keys.required("version", non_empty(), "Version, for example `\"1\"` or `DRAFT`.");
    Some(Guardrail { id: id?, version: version? })
}

fn assume_role(keys: &mut Keys<'_, '_>) -> Option<AssumeRole> {
    let role_arn = keys.required(
        "role_arn",
        formed("the ARN of an IAM role").such_that(
            |arn| is_role_arn(arn),
            "is not the ARN of an IAM role, such as arn:aws:iam::123456789012:role/gateway",
        ),
        "ARN of the role.",
    );
    let external_id = keys.optional("external_id", non_empty(), "External id that the role's trust policy asks for.");
    let session_name = keys.optional("session_name", non_empty(), "Name of the session in CloudTrail.");
    Some(AssumeRole { role_arn: role_arn?, external_id, session_name })
}

fn is_role_arn(arn: &str) -> bool {
    let mut parts = arn.splitn(6, ':');
    let is_account = |part: &str| part.len() == 12 && part.chars().all(|digit| digit.is_ascii_digit());
    parts.next() == Some("arn")
        && parts.next().is_some_and(|partition| partition.starts_with("aws"))
        && parts.next() == Some("iam")
        && parts.next() == Some("")
        && parts.next().is_some_and(is_account)
        && parts.next().and_then(|resource| resource.strip_prefix("role/")).is_some_and(|name| !name.is_empty())
}

fn anthropic_google_cloud(keys: &mut Keys<'_, '_>) -> Option<Provider> {
    let project_id = keys.required("project_id", path_segment(), "Project.");
    let workspace_id = keys.required("workspace_id", non_empty(), "Workspace.");
    let location = keys.or("location", path_segment(), "global", "Location.");
    let auth = keys.or("auth", section(google_auth), "{}", GOOGLE_AUTH);
    Some(Provider::AnthropicGoogleCloud {
        project_id: project_id?,
        workspace_id: workspace_id?,
        location: location?,
        auth: auth?,
    })
}

fn vertex(keys: &mut Keys<'_, '_>) -> Option<Provider> {
    let region = keys.required("region", region(), "Region, `global`, or one of the multi-regions `us` and `eu`.");
    let project_id = keys.required("project_id", path_segment(), "Project.");
    let auth = keys.or("auth", section(google_auth), "{}", GOOGLE_AUTH);
    Some(Provider::Vertex { region: region?, project_id: project_id?, auth: auth? })
}

const GOOGLE_AUTH: &str = "Credential. Empty: Application Default Credentials.";

#[expect(clippy::unnecessary_wraps, reason = "it is one of several sections")]
fn google_auth(keys: &mut Keys<'_, '_>) -> Option<GoogleAuth> {
    let file = keys.optional("service_account_json", non_empty(), "Path of a service account's key file.");
    let token = keys.optional("access_token", secret(1), "A static access token; wins over a key file.");
    Some(match (token, file) {
        (Some(token), _) => GoogleAuth::AccessToken(token),
        (None, Some(file)) => GoogleAuth::ServiceAccountFile(file),
        (None, None) => GoogleAuth::DefaultChain,
    })
}

fn foundry(keys: &mut Keys<'_, '_>) -> Option<Provider> {
    let resource = keys.required(
        "resource",
        formed("the name of a Foundry resource")
            .such_that(|name| is_resource_name(name), "must be 2 to 64 letters, digits and inner hyphens"),
        "Resource name: the first label of `<resource>.services.ai.azure.com`.",
    );
    let auth = keys.required("auth", section(foundry_auth), "Credential: exactly one of the two.");
    Some(Provider::Foundry { resource: resource?, auth: auth? })
}

fn is_resource_name(name: &str) -> bool {
    let is_inner = |character: char| character.is_ascii_alphanumeric() || character == '-';
    (2..=64).contains(&name.len()) && name.chars().all(is_inner) && !name.starts_with('-') && !name.ends_with('-')
}

fn foundry_auth(keys: &mut Keys<'_, '_>) -> Option<FoundryAuth> {
    let api_key = keys.optional("api_key", secret(1), "API key.");
    let use_azure_ad =
        keys.optional("use_azure_ad", switch(), "`true`: Microsoft Entra, from the environment's credential.");
    match (keys.has("api_key"), use_azure_ad) {
        (true, None) => api_key.map(FoundryAuth::ApiKey),
        (false, Some(true)) => Some(FoundryAuth::AzureAd),
        _ => {
            keys.fault("", "expected exactly one of `api_key` and `use_azure_ad: true`");
            None
        }
    }
}

/// A region becomes part of a host name, so it must not be able to name another host.
fn region() -> Kind<String> {
    formed("a region such as eu-central-1").such_that(
        |region| region.chars().all(|character| character.is_ascii_alphanumeric() || character == '-'),
        "is not a region such as eu-central-1",
    )
}

/// A project or location becomes part of a path, so it must be one segment.
fn path_segment() -> Kind<String> {
    formed("a name").such_that(
        |name| !name.contains(['/', '?', '#', ' ']),
        "must not contain slashes, question marks, number signs or spaces",
    )
}
