//! `gateway.yaml` → [`Config`]: typed, complete, secrets sealed. Every fault is reported, each with its path and line.
//!
//! This module owns what the configuration *means*; what is done with it lives with those who do it.
//! Contract: configuration sections 2 and 3.

mod address;
mod admin;
mod audit;
mod branding;
mod caps;
mod catalog;
mod cri;
mod decode;
mod destinations;
mod egress;
mod expand;
mod fault;
mod gateway;
mod http;
mod kind;
mod listen;
mod managed;
mod masking;
mod models;
mod observability;
mod oidc;
mod pricing;
mod reference;
mod report;
mod resilience;
mod schema;
mod secret;
mod self_healing;
mod service_identities;
mod session;
mod settings;
mod shape;
mod spin;
mod store;
mod telemetry;
mod upstreams;
mod yaml;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

pub use caps::caps;
pub use destinations::{destinations, is_metadata, upstream_origin};
pub use fault::Fault;
pub use reference::reference;
pub use schema::json_schema;
pub use secret::Secret;
pub use spin::{SpinFiles, render_spin, without_effect_under_spin};

use crate::mask::Rules;
use crate::ports::Files;
use report::Report;

/// A JSON object with its keys in the order in which they were written.
pub type Json = serde_json::Map<String, serde_json::Value>;

/// What a configuration is parsed with, besides its text.
pub struct Sources<'a> {
    /// Values of the variables that [`variables`] listed; a name that is missing is undefined.
    pub variables: HashMap<String, String>,
    /// For `${file:…}`.
    pub files: &'a dyn Files,
    /// Whether loopback targets are allowed (`CLAUDE_GATEWAY_ALLOW_LOOPBACK`).
    pub allow_loopback: bool,
}

/// A configuration without faults.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Risky but legal choices.
    pub warnings: Vec<Fault>,
}

/// The names of all variables that `text` mentions as `${NAME}`, each once. None if `text` is not YAML.
pub fn variables(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(document) = yaml::read(text) {
        expand::names(&document.root, &mut names);
    }
    names
}

/// Parses `text`, collecting every fault before giving up. Faults and warnings are in the order of the file.
pub fn parse(text: &str, sources: &Sources<'_>) -> Result<Loaded, Vec<Fault>> {
    let mut document = yaml::read(text).map_err(|fault| vec![fault])?;
    let mut report = Report::new(sources);
    for (key, place) in document.repeated {
        let message = format!("the key `{key}` is written twice in one mapping; this one counts");
        report.warnings.push(Fault::new("", place, message));
    }
    expand::expand(&mut document.root, "", &mut report);
    let config = gateway::gateway(&document.root, &mut report);
    let (faults, warnings) = report.findings();
    match config {
        Some(config) if faults.is_empty() => {
            Ok(Loaded { config: Config { sha256: report.digest(), ..config }, warnings })
        }
        _ => Err(faults),
    }
}

/// The whole configuration. Immutable for the life of an instance.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients reach the gateway, and who stands in front of it.
    pub listen: Listen,
    /// The identity providers, nearly always one. Never empty.
    pub oidc: Vec<Oidc>,
    /// Programs that sign in with a token of their own issuer, in the order in which they are tried.
    pub service_identities: Vec<ServiceIdentity>,
    /// Session tokens.
    pub session: Session,
    /// The SQL database.
    pub store: Store,
    /// Model providers, in the order in which they are tried. Never empty.
    pub upstreams: Vec<Upstream>,
    /// Configured models, in file order.
    pub models: Vec<Model>,
    /// Whether the built-in catalog is served beside `models`.
    pub auto_include_builtin_models: bool,
    /// Spend limits and the admin API; `None` switches both off.
    pub admin: Option<Admin>,
    /// The copy of the audit trail in the database.
    pub audit: Audit,
    /// What happens when an upstream refuses something that a request can do without.
    pub self_healing: SelfHealing,
    /// What happens when spend cannot be checked.
    pub enforcement: Enforcement,
    /// Price adjustments; `None` when the section is absent.
    pub pricing: Option<Pricing>,
    /// Managed settings; `None` when the section is absent.
    pub managed: Option<Managed>,
    /// What is masked, how and for whom; `None` when the section is absent.
    pub masking: Option<Arc<Rules>>,
    /// Telemetry relay.
    pub telemetry: Telemetry,
    /// What the gateway tells about itself.
    pub observability: Observability,
    /// Which client addresses may speak to the gateway.
    pub access_control: AccessControl,
    /// Sizes.
    pub limits: Limits,
    /// Waiting times.
    pub timeouts: Timeouts,
    /// When upstreams are left alone, and how much failing over may cost.
    pub resilience: Resilience,
    /// Sign-in rate limits.
    pub rate_limits: RateLimits,
    /// What pages look like.
    pub branding: Branding,
    /// Shown on the sign-in page and by clients. Line breaks are already spaces.
    pub login_notice: Option<String>,
    /// Lower-case hex SHA-256 of the effective configuration: same meaning, same digest.
    pub sha256: String,
}

/// Section `listen`.
#[derive(Debug, Clone)]
pub struct Listen {
    /// Host to bind; only the native host uses it.
    pub host: String,
    /// Port to bind; only the native host uses it.
    pub port: u16,
    /// The public origin without a trailing slash, verbatim; `None` derives it from each request's `Host`.
    pub public_url: Option<String>,
    /// Certificate and key for TLS termination; only the native host uses it.
    pub tls: Option<Tls>,
    /// Peers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// Section `listen.tls`: paths of PEM files.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificate chain.
    pub cert: String,
    /// Private key.
    pub key: String,
}

/// Section `oidc`, or one entry of it.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the configuration")]
pub struct Oidc {
    /// Its name; every entry of a list has one of its own.
    pub name: Option<String>,
    /// What the sign-in page calls it.
    pub label: Option<String>,
    /// Lower-case domains of the addresses that it signs in; empty means that it is offered by name.
    pub email_domains: Vec<String>,
    /// Whether its subjects stay as they are among several providers. At most one entry has it.
    pub keep_subjects: bool,
    /// What its groups begin with from then on.
    pub groups_prefix: String,
    /// The issuer as written, without judgement about a trailing slash.
    pub issuer: Url,
    /// OAuth client id.
    pub client_id: String,
    /// OAuth client secret; absent with `private_key_jwt`.
    pub client_secret: Option<Secret<String>>,
    /// How the client authenticates; `None` negotiates.
    pub token_endpoint_auth_method: Option<TokenEndpointAuthMethod>,
    /// Key and certificate for `private_key_jwt`.
    pub client_assertion: Option<ClientAssertion>,
    /// Lower-case domains; empty means unrestricted.
    pub allowed_email_domains: Vec<String>,
    /// Exact groups; empty means unrestricted.
    pub allowed_groups: Vec<String>,
    /// Claim that carries the groups.
    pub groups_claim: ClaimPath,
    /// Claims that may carry the e-mail; the first present one wins. Never empty.
    pub email_claim: Vec<ClaimPath>,
    /// Claim that becomes the session's `sub`.
    pub user_id_claim: ClaimPath,
    /// Whether `scope` is sent with refresh requests.
    pub scope_on_refresh: bool,
    /// Requested scopes; contains `openid`.
    pub scopes: Vec<String>,
    /// Extra parameters of the authorization request, in file order.
    pub extra_auth_params: Vec<(String, String)>,
    /// Whether userinfo fills missing e-mail or groups.
    pub userinfo_fallback: bool,
    /// Whether PKCE (RFC 7636, S256) is used.
    pub use_pkce: bool,
    /// Tolerance on `exp` and `nbf` of id tokens.
    pub clock_skew: Duration,
    /// The only signature algorithm that an id token may have.
    pub id_token_signed_response_alg: SigningAlg,
    /// Extra accepted `azp` values.
    pub additional_authorized_parties: Vec<String>,
    /// Discovery document, when it is not below the issuer.
    pub discovery_url: Option<Url>,
    /// Extra origins for `form-action` of the sign-in page.
    pub form_action_origins: Vec<String>,
    /// PEM text of extra roots for the identity provider; only the native host uses it.
    pub ca_cert_pem: Option<String>,
    /// Google directory look-up of groups.
    pub google_groups: Option<GoogleGroups>,
    /// Whether identity provider requests use the proxy of the environment; only the native host uses it.
    pub use_proxy: Option<bool>,
    /// TLS towards the identity provider; only the native host uses it.
    pub tls: Option<ClientTls>,
}

/// A claim by flat key, or by RFC 6901 pointer when it starts with `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimPath(pub String);

/// `oidc.token_endpoint_auth_method`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenEndpointAuthMethod {
    /// HTTP Basic.
    ClientSecretBasic,
    /// Form parameters.
    ClientSecretPost,
    /// RFC 7523 assertion.
    PrivateKeyJwt,
}

/// `oidc.client_assertion`.
#[derive(Debug, Clone)]
pub struct ClientAssertion {
    /// RSA private key, PEM.
    pub private_key_pem: Secret<String>,
    /// Its certificate, PEM.
    pub certificate_pem: String,
}

/// JWS algorithms an identity provider may sign with (RFC 7518 §3.1, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum SigningAlg {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

/// `oidc.google_groups`.
#[derive(Debug, Clone)]
pub struct GoogleGroups {
    /// Path of the service account key file.
    pub service_account_json_path: String,
    /// Administrator to impersonate.
    pub admin_email: String,
}

/// One entry of `service_identities`.
#[derive(Debug, Clone)]
pub struct ServiceIdentity {
    /// Its name; the subject is `service:<name>`.
    pub name: String,
    /// Whose tokens count.
    pub issuer: Url,
    /// Discovery document, when it is not below the issuer.
    pub discovery_url: Option<Url>,
    /// What `aud` must be or contain.
    pub audience: String,
    /// Claims and the patterns of which one must fit, in file order. Never empty, nor is any list of patterns.
    pub claims: Vec<(ClaimPath, Vec<String>)>,
    /// Groups of the identity.
    pub groups: Vec<String>,
    /// Life of its session tokens; at most an hour.
    pub ttl: Duration,
    /// Tolerance on `exp` and `nbf` of its tokens.
    pub clock_skew: Duration,
}

/// Section `session`.
#[derive(Debug, Clone)]
pub struct Session {
    /// Signing secrets, newest first; empty means that the key ring in the key-value store is used.
    pub jwt_secrets: Vec<Secret<String>>,
    /// Life of a session token.
    pub ttl: Duration,
}

/// Section `store`.
#[derive(Debug, Clone)]
pub struct Store {
    /// PostgreSQL address with user name and password merged in; `None` means SQLite.
    pub postgres_url: Option<Secret<String>>,
    /// Connections per process.
    pub max_connections: u32,
    /// Bound on each connection attempt at start.
    pub connect_timeout: Duration,
}

/// One entry of `upstreams`.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Unique name; defaults to the provider's.
    pub name: String,
    /// Which provider, with what only it knows.
    pub provider: Provider,
    /// Base URL without a trailing slash, when configured.
    pub base_url: Option<String>,
    /// Static headers added to every request, names in lower case.
    pub headers: Vec<(String, String)>,
    /// If present, only these models are sent here. Never empty.
    pub models: Option<Vec<String>>,
    /// If present, only callers in one of these groups are sent here. Never empty.
    pub groups: Option<Vec<String>>,
    /// Statuses of its answers after which the next upstream is tried, beyond those of the contract.
    pub failover_on: Vec<u16>,
    /// Its share of the requests among neighbours that have a weight as well; `None` stands alone.
    pub weight: Option<u32>,
    /// How it is reached; `None` is as the environment says. Only the native host uses it.
    pub proxy: Option<Proxy>,
    /// TLS towards it; only the native host uses it.
    pub tls: Option<ClientTls>,
}

/// Section `resilience`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resilience {
    /// When upstreams are left alone.
    pub breaker: Breaker,
    /// How much failing over may cost.
    pub retry_budget: RetryBudget,
}

/// `resilience.breaker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Whether there is one.
    pub is_enabled: bool,
    /// Failures in a row that open it; at least 1.
    pub failures: u32,
    /// How long it stays open the first time.
    pub cooldown: Duration,
    /// The most of that. Not less than `cooldown`.
    pub max_cooldown: Duration,
}

/// `resilience.retry_budget`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Whether there is one.
    pub is_enabled: bool,
    /// Further attempts for a hundred requests.
    pub percent: u32,
    /// Further attempts that there always are.
    pub minimum: u32,
    /// Over how long both are counted.
    pub window: Duration,
}

/// `upstreams[].proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// Without a proxy, whatever the environment says.
    Direct,
    /// Through the proxy at this URL, which may contain a user name and a password.
    Via(Secret<String>),
}

/// `upstreams[].tls` and `oidc.tls`: files in PEM form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// Certificate authorities.
    pub ca_file: Option<String>,
    /// Whether the machine's authorities are trusted as well.
    pub system_roots: bool,
    /// Client certificate with its chain, and its private key.
    pub identity: Option<(String, String)>,
    /// Passphrase of the private key.
    pub client_key_passphrase: Option<Secret<String>>,
    /// The oldest version of TLS that is spoken.
    pub min_version: MinTls,
}

/// `min_version`: the oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinTls {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// `upstreams[].provider` and its own keys.
#[derive(Debug, Clone)]
pub enum Provider {
    /// The Anthropic wire format, spoken directly.
    Anthropic {
        /// Credential.
        auth: AnthropicAuth,
        /// Whether the caller's identity is sent along.
        forward_user_identity: bool,
    },
    /// Amazon Bedrock, InvokeModel.
    Bedrock {
        /// AWS region.
        region: String,
        /// Credential.
        auth: AwsAuth,
        /// Guardrail on every invocation.
        guardrail: Option<Guardrail>,
        /// Role to assume.
        assume_role: Option<AssumeRole>,
    },
    /// Amazon Bedrock's Anthropic-format endpoint.
    Mantle {
        /// AWS region.
        region: String,
        /// Credential.
        auth: AwsAuth,
        /// Role to assume.
        assume_role: Option<AssumeRole>,
    },
    /// Claude Platform on AWS.
    AnthropicAws {
        /// AWS region.
        region: String,
        /// Workspace.
        workspace_id: String,
        /// API key; wins over AWS credentials.
        api_key: Option<Secret<String>>,
        /// AWS credential.
        auth: AwsAuth,
    },
    /// Claude on Google Cloud.
    AnthropicGoogleCloud {
        /// Project.
        project_id: String,
        /// Workspace.
        workspace_id: String,
        /// Location.
        location: String,
        /// Credential.
        auth: GoogleAuth,
    },
    /// Google Vertex AI.
    Vertex {
        /// Region, `global`, or a multi-region.
        region: String,
        /// Project.
        project_id: String,
        /// Credential.
        auth: GoogleAuth,
    },
    /// Microsoft Foundry.
    Foundry {
        /// Resource name.
        resource: String,
        /// Credential.
        auth: FoundryAuth,
    },
}

impl Provider {
    /// The name that `gateway.yaml` uses.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Anthropic { .. } => "anthropic",
            Self::Bedrock { .. } => "bedrock",
            Self::Mantle { .. } => "mantle",
            Self::AnthropicAws { .. } => "anthropicAws",
            Self::AnthropicGoogleCloud { .. } => "anthropicGoogleCloud",
            Self::Vertex { .. } => "vertex",
            Self::Foundry { .. } => "foundry",
        }
    }
}

/// Credential for the Anthropic wire format.
#[derive(Debug, Clone)]
pub enum AnthropicAuth {
    /// Sent as `x-api-key`.
    ApiKey(Secret<String>),
    /// Sent as bearer.
    OauthToken(Secret<String>),
    /// Workload identity federation.
    WorkloadIdentity {
        /// Federation rule.
        federation_rule_id: String,
        /// Organization.
        organization_id: String,
        /// Path of the identity token, read again at each exchange.
        identity_token_file: String,
        /// Workspace.
        workspace_id: Option<String>,
        /// Service account.
        service_account_id: Option<String>,
    },
}

/// AWS credential.
#[derive(Debug, Clone)]
pub enum AwsAuth {
    /// The default chain: environment, web identity, container, instance.
    DefaultChain,
    /// Static keys.
    Keys {
        /// Access key id.
        access_key_id: String,
        /// Secret access key.
        secret_access_key: Secret<String>,
        /// Session token.
        session_token: Option<Secret<String>>,
    },
    /// Bedrock API key.
    Bearer(Secret<String>),
}

/// Bedrock guardrail.
#[derive(Debug, Clone)]
pub struct Guardrail {
    /// Identifier.
    pub id: String,
    /// Version.
    pub version: String,
}

/// AWS role to assume.
#[derive(Debug, Clone)]
pub struct AssumeRole {
    /// Role ARN.
    pub role_arn: String,
    /// External id.
    pub external_id: Option<String>,
    /// Session name.
    pub session_name: Option<String>,
}

/// Google credential.
#[derive(Debug, Clone)]
pub enum GoogleAuth {
    /// Application Default Credentials.
    DefaultChain,
    /// Path of a service account key file.
    ServiceAccountFile(String),
    /// A static token.
    AccessToken(Secret<String>),
}

/// Foundry credential.
#[derive(Debug, Clone)]
pub enum FoundryAuth {
    /// Sent as `x-api-key`.
    ApiKey(Secret<String>),
    /// Microsoft Entra.
    AzureAd,
}

/// One entry of `models`.
#[derive(Debug, Clone)]
pub struct Model {
    /// What clients ask for.
    pub id: String,
    /// Display name.
    pub label: Option<String>,
    /// Description.
    pub description: Option<String>,
    /// Upstream name → the id it receives. Never empty.
    pub upstream_model: BTreeMap<String, String>,
}

/// Section `admin`.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Who is told when a cap fills up.
    pub alerts: Vec<Alert>,
    /// Keys that may read and write.
    pub write_keys: Vec<AdminKey>,
    /// Keys that may read.
    pub read_keys: Vec<AdminKey>,
    /// Groups whose members are administrators.
    pub admin_groups: Vec<String>,
    /// Appended to refusals.
    pub blocked_message: Option<String>,
    /// Days for which the admin audit is kept.
    pub audit_retention_days: u32,
    /// Months for which spend is kept.
    pub spend_retention_months: u32,
    /// Days for which identities are kept.
    pub identity_retention_days: u32,
    /// Which of several group caps counts.
    pub group_limit_mode: GroupLimitMode,
    /// Request tag that names a billing group.
    pub billing_group_tag: Option<String>,
}

/// One admin key.
#[derive(Debug, Clone)]
pub struct AdminKey {
    /// Its name in the audit trail.
    pub id: String,
    /// The key.
    pub key: Secret<String>,
}

/// `admin.group_limit_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupLimitMode {
    /// The smallest cap counts.
    Min,
    /// The largest cap counts.
    Max,
}

/// An entry of `admin.alerts`.
#[derive(Debug, Clone)]
pub struct Alert {
    /// Shares of a cap, in percent. Never empty.
    pub at: Vec<u32>,
    /// Where it is told.
    pub webhook: String,
    /// What the body is signed with.
    pub secret: Secret<String>,
    /// Which caps it is about.
    pub scope: AlertScope,
}

/// `admin.alerts[].scope`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlertScope {
    /// Caps of the organization.
    Organization,
    /// Caps of groups, and their pools.
    Group,
    /// Caps of people.
    User,
}

/// Section `audit`.
#[derive(Debug, Clone, Copy)]
pub struct Audit {
    /// Whether events are copied into the database.
    pub store: bool,
    /// Days for which the copy is kept.
    pub retention_days: u32,
}

/// Section `self_healing`.
#[derive(Debug, Clone)]
pub struct SelfHealing {
    /// Whether requests are sent again without it.
    pub enabled: bool,
    /// Members of the body that may be left out besides those that the gateway knows.
    pub fields: Vec<String>,
}

/// Section `enforcement`.
#[derive(Debug, Clone)]
pub struct Enforcement {
    /// Whether requests are refused when spend cannot be checked.
    pub fail_closed_on_error: bool,
    /// How long a reservation counts whose end nobody tells.
    pub reservation_ttl: Duration,
}

/// Section `pricing`. Amounts are the decimal text of the configuration: money is never floating point.
#[derive(Debug, Clone)]
pub struct Pricing {
    /// Factor on every price.
    pub multiplier: Option<String>,
    /// Price rows.
    pub overrides: Vec<PriceOverride>,
}

/// One price row, US dollars per million tokens.
#[derive(Debug, Clone)]
pub struct PriceOverride {
    /// Upstream name.
    pub upstream: String,
    /// Model.
    pub model: String,
    /// Input tokens.
    pub input: String,
    /// Output tokens.
    pub output: String,
    /// Cache reads.
    pub cache_read: String,
    /// Cache writes.
    pub cache_write: String,
}

/// Section `managed`.
#[derive(Debug, Clone)]
pub struct Managed {
    /// Policies in file order; `managed.settings` is already a single catch-all here. `None` when neither key is there.
    pub policies: Option<Vec<Policy>>,
    /// How several matching policies combine.
    pub policy_mode: PolicyMode,
}

/// `managed.policy_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PolicyMode {
    /// The first match, merged onto the catch-all.
    #[default]
    FirstMatch,
    /// All matches up to the first catch-all.
    Layered,
}

/// One policy as written; matching and merging are in `domain::policy`.
#[derive(Debug, Clone)]
pub struct Policy {
    /// At least one of these groups; `None` does not restrict.
    pub groups: Option<Vec<String>>,
    /// Lower-case e-mail domain; `None` does not restrict.
    pub email_domain: Option<String>,
    /// The settings document (`cli`, its alias `settings`, or `code`); `None` inherits.
    pub settings: Option<Json>,
    /// Whether the document came from `code`.
    pub is_code: bool,
    /// The Claude Desktop document.
    pub desktop: Option<Json>,
    /// Whether a `cli` document is also served to Claude Desktop.
    pub serve_to_desktop: bool,
}

/// Section `telemetry`.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    /// Collectors.
    pub forward_to: Vec<Collector>,
    /// Attributes pushed to clients, in file order.
    pub resource_attributes: Vec<(String, String)>,
}

/// One collector.
#[derive(Debug, Clone)]
pub struct Collector {
    /// Base URL without a trailing slash.
    pub url: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, Secret<String>)>,
    /// Whether metrics go there.
    pub metrics: bool,
    /// Whether logs go there.
    pub logs: bool,
    /// Whether traces go there.
    pub traces: bool,
    /// Google credential, when a Google access token is to be sent.
    pub google: Option<GoogleAuth>,
}

/// Section `observability`.
#[derive(Debug, Clone, Default)]
pub struct Observability {
    /// Metrics; only the native host has a listener for them.
    pub metrics: Option<Metrics>,
    /// Traces of the gateway's own work.
    pub otlp: Option<Otlp>,
}

/// `observability.metrics`.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Where they are listened for.
    pub listen: SocketAddr,
    /// What a scraper has to show; never `None` unless `listen` is loopback.
    pub token: Option<Secret<String>>,
}

/// `observability.otlp`.
#[derive(Debug, Clone)]
pub struct Otlp {
    /// Base URL without a trailing slash.
    pub url: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, Secret<String>)>,
    /// How many of a hundred requests are traced that do not say it themselves.
    pub sample_percent: u8,
    /// How long spans are gathered.
    pub delay: Duration,
}

/// Section `access_control`.
#[derive(Debug, Clone, Default)]
pub struct AccessControl {
    /// If not empty, only these may enter.
    pub allow_cidrs: Vec<IpNet>,
    /// These may not enter.
    pub deny_cidrs: Vec<IpNet>,
}

/// Section `limits`, in bytes.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest request body.
    pub max_request_bytes: u64,
    /// Largest sum of header names, values and four bytes each.
    pub max_request_header_bytes: Option<u64>,
    /// Longest URL, scheme and host included.
    pub max_url_length: Option<u64>,
}

/// Section `timeouts`.
#[derive(Debug, Clone)]
pub struct Timeouts {
    /// Wait for an upstream's response headers.
    pub upstream_ttfb: Duration,
}

/// Section `rate_limits`.
#[derive(Debug, Clone)]
pub struct RateLimits {
    /// `POST /oauth/device_authorization`, per client address.
    pub device_authorization: RateLimit,
    /// Posts of user codes, per client address.
    pub device_verify: RateLimit,
}

/// Section `branding`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branding {
    /// What pages call the gateway.
    pub name: String,
    /// Where people find help; http(s) or mailto.
    pub support_url: Option<String>,
    /// Buttons and links.
    pub accent_color: Option<Color>,
    /// The same on dark pages.
    pub accent_color_dark: Option<Color>,
}

/// An sRGB color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Color {
    pub red: u8,
    pub green: u8,
    pub blue: u8,
}

/// A fixed-window limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests per window.
    pub max: u32,
    /// The window.
    pub window: Duration,
}

#[cfg(test)]
mod tests;
