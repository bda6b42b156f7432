//! What is accepted, what is refused and how it is said, section by section.

use std::fmt::Write;
use std::time::Duration;

use super::*;

mod branding;
mod every_key;
mod providers;
mod rendered;
mod resilience;
mod service_identities;

/// The least that a gateway needs.
const MINIMAL: [(&str, &str); 3] = [
    ("listen", "listen: { host: localhost }"),
    ("oidc", "oidc: { issuer: https://idp.example.com, client_id: gateway, client_secret: example }"),
    ("upstreams", "upstreams: [{ provider: anthropic, auth: { api_key: example } }]"),
];

/// `text`, completed below by what it lacks, so that its own lines keep their numbers.
fn completed(text: &str) -> String {
    let mut whole = format!("{text}\n");
    for (name, section) in MINIMAL {
        if !text.lines().any(|line| line.starts_with(&format!("{name}:"))) {
            writeln!(whole, "{section}").expect("memory");
        }
    }
    whole
}

struct TestFiles;

impl Files for TestFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        match path {
            "/etc/ca.pem" => Ok(b"-----BEGIN CERTIFICATE-----\nexample\n-----END CERTIFICATE-----\n".to_vec()),
            "/settings.json" => Ok(b"{\"availableModels\": [\"opus\"],\n\t\"model\": \"opus\"}".to_vec()),
            "/bad-settings.json" => Ok(b"{\"modle\": \"opus\", \"model\": 1}".to_vec()),
            "/secret" => Ok(format!("{}\n", "s".repeat(40)).into_bytes()),
            _ => Err("no such file".to_owned()),
        }
    }
}

fn sources(allow_loopback: bool) -> Sources<'static> {
    let long = "0123456789abcdef0123456789abcdef".to_owned();
    let variables = [
        ("PORT", "8443".to_owned()),
        ("OIDC_SECRET", "example".to_owned()),
        ("NEW_SECRET", long),
        ("DB_PASSWORD", "p@ss".to_owned()),
        ("API_KEY", "example".to_owned()),
        ("EMPTY", String::new()),
    ];
    let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Sources { variables, files: &TestFiles, allow_loopback }
}

fn load(text: &str) -> Loaded {
    match parse(&completed(text), &sources(false)) {
        Ok(loaded) => loaded,
        Err(faults) => panic!("{text}\n{}", shown(&faults)),
    }
}

fn shown(faults: &[Fault]) -> String {
    faults.iter().map(|fault| fault.to_string().replace("gateway.yaml:", "")).collect::<Vec<_>>().join("\n")
}

fn faults(text: &str) -> String {
    parse(&completed(text), &sources(false)).map_or_else(|faults| shown(&faults), |_| "accepted".to_owned())
}

/// A file and what is said about it, as `line:column: path: message`.
type Case = (&'static str, &'static str);

#[track_caller]
fn check(cases: &[Case]) {
    let wrong: Vec<_> = cases
        .iter()
        .map(|(text, expected)| (*text, *expected, faults(text)))
        .filter(|(_, expected, actual)| actual != expected)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_smallest_file_loads_with_the_documented_defaults() {
    let Loaded { config, warnings } = load("");
    assert_eq!(warnings, []);
    assert_eq!((config.listen.port, config.listen.public_url), (8080, None));
    assert_eq!(config.oidc[0].scopes, ["openid", "profile", "email", "offline_access"]);
    assert_eq!(config.oidc[0].groups_claim, ClaimPath("groups".to_owned()));
    assert_eq!(config.oidc[0].email_claim, [ClaimPath("email".to_owned())]);
    assert_eq!(config.oidc[0].user_id_claim, ClaimPath("sub".to_owned()));
    assert_eq!(config.oidc[0].id_token_signed_response_alg, SigningAlg::Rs256);
    assert!(config.oidc[0].use_pkce && !config.oidc[0].userinfo_fallback && !config.oidc[0].scope_on_refresh);
    assert!(config.session.jwt_secrets.is_empty());
    assert_eq!(config.session.ttl, Duration::from_hours(1));
    assert!(config.store.postgres_url.is_none());
    assert_eq!((config.store.max_connections, config.store.connect_timeout), (5, Duration::from_secs(5)));
    assert_eq!(config.upstreams[0].name, "anthropic");
    assert!(config.auto_include_builtin_models && config.admin.is_none() && !config.enforcement.fail_closed_on_error);
    assert_eq!(config.limits.max_request_bytes, 33_554_432);
    assert_eq!(config.timeouts.upstream_ttfb, Duration::from_mins(2));
    let window = Duration::from_mins(10);
    assert_eq!(config.rate_limits.device_authorization, RateLimit { max: 30, window });
    assert_eq!(config.rate_limits.device_verify, RateLimit { max: 10, window });
}

#[test]
fn a_file_with_every_key_loads() {
    let Loaded { config, warnings } = load(include_str!("complete.yaml"));
    let warnings: Vec<_> = warnings.iter().map(|warning| warning.path.as_str()).collect();
    // The built-in models are switched off, and these are such.
    let unused = ["upstreams[0].models[0]", "upstreams[3].models[0]"];
    // Not all upstreams are masked.
    let others = ["managed.policies[0].cli.somethingNew", "masking.upstreams", "cri"];
    assert_eq!(warnings, [&unused[..], &others[..]].concat());
    assert_eq!((config.listen.port, config.listen.public_url.as_deref()), (8443, Some("https://gateway.example.com")));
    assert_eq!(config.oidc[0].allowed_email_domains, ["example.com", "sub.example.com"]);
    assert_eq!(config.oidc[0].allowed_groups, ["eng", "ops"]);
    assert_eq!(config.oidc[0].form_action_origins, ["https://login.example.com", "https://*.example.com"]);
    assert_eq!(config.session.ttl, Duration::from_mins(30));
    let address = config.store.postgres_url.expect("given");
    assert_eq!(address.reveal(), "postgres://gateway:p%40ss@db.example.com/gateway?sslmode=require");
    let names: Vec<_> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let expected =
        ["proxy", "anthropic", "bedrock", "mantle", "anthropicAws", "anthropicGoogleCloud", "vertex", "foundry"];
    assert_eq!(names, expected);
    assert_eq!(config.upstreams[0].base_url.as_deref(), Some("https://proxy.example.com/claude"));
    assert_eq!(config.upstreams[0].headers, [("x-team".to_owned(), "tools".to_owned())]);
    let pricing = config.pricing.expect("given");
    assert_eq!((pricing.multiplier.as_deref(), pricing.overrides[0].cache_write.as_str()), (Some("0.9"), "5.625"));
    let policies = config.managed.and_then(|managed| managed.policies).expect("given");
    let settings = serde_json::Value::Object(policies[0].settings.clone().expect("given")).to_string();
    assert_eq!(settings, r#"{"availableModels":["opus"],"env":{"A":"1","B":2},"somethingNew":true}"#);
    assert_eq!(policies[0].email_domain.as_deref(), Some("example.com"));
    assert!(policies[1].settings.is_some() && !policies[1].is_code);
    assert_eq!(config.login_notice.as_deref(), Some("Line one Line two"));
}

#[test]
fn the_document_as_a_whole_is_judged() {
    check(&[
        (
            "listen:\nprot: 1",
            "1:7: listen: is empty: expected a mapping, or remove the key\n2:1: prot: unknown key; known here: listen, oidc, service_identities, session, store, upstreams, models, auto_include_builtin_models, admin, audit, self_healing, enforcement, pricing, managed, masking, telemetry, observability, access_control, limits, timeouts, resilience, rate_limits, branding, login_notice, cri",
        ),
        ("telemtry: {}", "1:1: telemtry: unknown key; did you mean `telemetry`?"),
        (
            "dev: true",
            "1:6: dev: was removed: there is no development mode with a store in memory; leave `store` out to use SQLite, or set `store.postgres_url` to use PostgreSQL",
        ),
        ("a: 1\n---\nb: 2", "2:1: a second document begins here: the configuration is one document"),
        (
            "login_notice: ''\nauto_include_builtin_models: 'true'",
            "1:15: login_notice: must not be empty\n2:30: auto_include_builtin_models: expected true or false without quotes, found text",
        ),
        (
            "cri: { enabled: true }",
            "1:17: cri.enabled: customer-routed inference is not supported: sign-in is by OIDC; remove the `cri` section",
        ),
        (
            "login_notice: ${NOPE}-${ALSO_NOT}\nsession: { jwt_secret: '${file:relative}' }",
            "1:15: login_notice: the variable NOPE is not defined\n1:15: login_notice: the variable ALSO_NOT is not defined\n2:24: session.jwt_secret: ${file:relative}: the path must be absolute",
        ),
    ]);
    for (text, expected) in [
        ("", "the configuration is empty"),
        ("- a", "1:1: expected a mapping, found a list"),
        ("{}", "1:1: the key `listen` is missing\n1:1: the key `oidc` is missing\n1:1: the key `upstreams` is missing"),
    ] {
        assert_eq!(parse(text, &sources(false)).map_err(|faults| shown(&faults)).err().as_deref(), Some(expected));
    }
}

struct MountedSecrets;

impl Files for MountedSecrets {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        match path {
            "/secrets/db/url" => Ok(b"postgresql://gateway@/gateway?host=db".to_vec()),
            _ if path.starts_with("/secrets/") => Ok(b"0123456789abcdef0123456789abcdef\n".to_vec()),
            _ => Err("no such file".to_owned()),
        }
    }
}

#[test]
fn deployments_as_operators_have_them_load_without_a_word() {
    let variables = [
        ("PUBLIC_URL", "https://gateway.example.com"),
        ("OIDC_ISSUER", "https://idp.example.com/oauth2/default"),
        ("OIDC_CLIENT_ID", "gateway"),
        ("OIDC_CLIENT_SECRET", "example"),
        ("JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("DB_HOST", "db.example.com"),
        ("DB_USERNAME", "gateway"),
        ("DB_PASSWORD", "example"),
        ("ADMIN_KEY", "0123456789abcdef0123456789abcdef"),
        ("OTEL_KEY", "example"),
        ("PORT", "8080"),
    ];
    let variables: HashMap<_, _> =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for text in [include_str!("aws.yaml"), include_str!("gcp.yaml")] {
        let sources = Sources { variables: variables.clone(), files: &MountedSecrets, allow_loopback: false };
        match parse(text, &sources) {
            Ok(loaded) => assert_eq!(shown(&loaded.warnings), ""),
            Err(faults) => panic!("{}", shown(&faults)),
        }
    }
}

#[test]
fn json_is_accepted_with_tabs_and_comments_with_anything() {
    let json = "{\n\t\"listen\": {\"host\": \"localhost\"},\n\t\"oidc\": {\"issuer\": \"https://idp.example.com\",\n\t\t\"client_id\": \"x\", \"client_secret\": \"x\"},\n\t\"upstreams\": [{\"provider\": \"anthropic\", \"auth\": {\"api_key\": \"x\"}}]\n}\n";
    assert_eq!(parse(json, &sources(false)).map_err(|faults| shown(&faults)).err(), None);
    check(&[
        ("session:\t{}\t# A comment: with a colon, [brackets] and ${VARIABLES}.", "accepted"),
        (
            "x-defaults: &none {}\nlimits: *none",
            "1:1: x-defaults: unknown key; known here: listen, oidc, service_identities, session, store, upstreams, models, auto_include_builtin_models, admin, audit, self_healing, enforcement, pricing, managed, masking, telemetry, observability, access_control, limits, timeouts, resilience, rate_limits, branding, login_notice, cri",
        ),
        ("limits: &none {}\ntimeouts: *none", "accepted"),
    ]);
}

#[test]
fn listen_is_judged() {
    check(&[
        ("listen: {}", "1:9: listen: `public_url` is required unless `host` is 127.0.0.1, localhost or ::1"),
        (
            "listen: { host: 127.0.0.2 }",
            "1:9: listen: `public_url` is required unless `host` is 127.0.0.1, localhost or ::1",
        ),
        ("listen: { host: '::1', port: '9000' }", "accepted"),
        ("listen: { host: localhost, port: 70000 }", "1:34: listen.port: must be at most 65535"),
        ("listen: { host: localhost, port: 80.5 }", "1:34: listen.port: expected a whole number"),
        ("listen: { host: localhost, port: '${EMPTY}' }", "1:34: listen.port: expected a whole number"),
        ("listen: { public_url: custom://gateway/base }", "accepted"),
        (
            "listen: { public_url: gateway.example.com }",
            "1:23: listen.public_url: is not a URL such as https://gateway.example.com: relative URL without a base",
        ),
        (
            "listen:\n  host: localhost\n  tls: { cert: x }\n  prot: 1",
            "3:8: listen.tls: the key `key` is missing\n4:3: listen.prot: unknown key; did you mean `port`?",
        ),
        (
            "listen: { host: localhost, trusted_proxies: ['*', 10.0.0.1/33] }",
            "1:46: listen.trusted_proxies[0]: expected an IP address or a range such as 10.0.0.0/8; names are not looked up\n1:51: listen.trusted_proxies[1]: expected an IP address or a range such as 10.0.0.0/8; names are not looked up",
        ),
    ]);
}

#[test]
fn oidc_is_judged() {
    const START: &str = "oidc:\n  issuer: https://idp.example.com\n  client_id: gateway\n";
    let with_secret = |rest: &str| faults(&format!("{START}  client_secret: example\n  {rest}"));
    for (rest, expected) in [
        (
            "allowed_email_domains: ['', ' ']",
            "5:26: oidc.allowed_email_domains: has only blank entries, which would not restrict anything; remove the key if that is meant",
        ),
        (
            "allowed_groups: [' ']",
            "5:19: oidc.allowed_groups: has only blank entries, which would not restrict anything; remove the key if that is meant",
        ),
        ("allowed_groups: eng", "5:19: oidc.allowed_groups: expected a list, found text"),
        ("email_claim: []", "5:16: oidc.email_claim: must have at least one entry"),
        ("email_claim: ''", "5:16: oidc.email_claim: must not be empty"),
        ("email_claim: [a, '']", "5:20: oidc.email_claim[1]: must not be empty"),
        ("scopes: [profile]", "5:11: oidc.scopes: must contain `openid`"),
        ("scopes: [openid, a b]", "5:20: oidc.scopes[1]: is more than one scope: make it several entries"),
        (
            "extra_auth_params: { state: x, '': y, prompt: 1 }",
            "5:24: oidc.extra_auth_params.state: is set by the gateway itself\n5:34: oidc.extra_auth_params.: a parameter must have a name\n5:49: oidc.extra_auth_params.prompt: expected text, found a number: put it in quotes",
        ),
        ("clock_skew_seconds: -1", "5:23: oidc.clock_skew_seconds: must be at least 0"),
        (
            "id_token_signed_response_alg: HS256",
            "5:33: oidc.id_token_signed_response_alg: expected RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512 or EdDSA; did you mean `ES256`?",
        ),
        (
            "discovery_url: https://idp.example.com/openid",
            "5:18: oidc.discovery_url: the path must contain /.well-known/",
        ),
        (
            "discovery_url: http://metadata.google.internal/.well-known/x",
            "5:18: oidc.discovery_url: metadata.google.internal is a link-local or metadata address, which the gateway never connects to",
        ),
        (
            "form_action_origins: [\"https://a.example.com; script-src *\", ftp://x]",
            "5:25: oidc.form_action_origins[0]: must not contain spaces, quotes, commas or semicolons\n5:64: oidc.form_action_origins[1]: must begin with https:// or http://",
        ),
        (
            "google_groups: { admin_email: someone }",
            "5:18: oidc.google_groups: the key `service_account_json_path` is missing\n5:33: oidc.google_groups.admin_email: is not an e-mail address",
        ),
        (
            "ca_cert_pem: nonsense",
            "5:16: oidc.ca_cert_pem: is not a PEM certificate: give its text, for example with ${file:/path/ca.pem}",
        ),
        ("use_pkce: 'yes'", "5:13: oidc.use_pkce: expected true or false without quotes, found text"),
        (
            "client_assertion: { private_key_pem: k, certificate_pem: c }",
            "5:21: oidc.client_assertion: is only allowed with `token_endpoint_auth_method: private_key_jwt`",
        ),
        (
            "token_endpoint_auth_method: private_key_jwt",
            "4:18: oidc.client_secret: must be absent with `token_endpoint_auth_method: private_key_jwt`",
        ),
        (
            "token_endpoint_auth_method: basic",
            "5:31: oidc.token_endpoint_auth_method: expected client_secret_basic, client_secret_post or private_key_jwt",
        ),
    ] {
        assert_eq!(with_secret(rest), expected, "{rest}");
    }
    let without_secret = |rest: &str| faults(&format!("{START}  {rest}"));
    for (rest, expected) in [
        ("use_pkce: true", "2:3: oidc: the key `client_secret` is missing"),
        ("client_secret: ${EMPTY}", "4:18: oidc.client_secret: must not be empty"),
        (
            "token_endpoint_auth_method: private_key_jwt",
            "2:3: oidc: `client_assertion` is required with `token_endpoint_auth_method: private_key_jwt`",
        ),
        (
            "token_endpoint_auth_method: private_key_jwt\n  client_assertion: { private_key_pem: k, certificate_pem: c }",
            "accepted",
        ),
    ] {
        assert_eq!(without_secret(rest), expected, "{rest}");
    }
    check(&[
        (
            "oidc: { issuer: http://127.0.0.1:9000, client_id: 12345 }",
            "1:7: oidc: the key `client_secret` is missing\n1:17: oidc.issuer: 127.0.0.1 is a loopback address; set CLAUDE_GATEWAY_ALLOW_LOOPBACK=1 to allow it\n1:51: oidc.client_id: expected text, found a number: put it in quotes",
        ),
        (
            "oidc: { issuer: ldap://x, client_id: '', client_secret: x }",
            "1:17: oidc.issuer: must begin with https:// or http://, not ldap:\n1:38: oidc.client_id: must not be empty",
        ),
    ]);
}

#[test]
fn session_and_store_are_judged() {
    check(&[
        ("session: {}", "accepted"),
        ("session: { jwt_secret: '${file:/secret}' }", "accepted"),
        ("session: { jwt_secret: short }", "1:24: session.jwt_secret: must have at least 32 characters, has 5"),
        (
            "session: { jwt_secret: ['${NEW_SECRET}', short] }",
            "1:42: session.jwt_secret[1]: must have at least 32 characters, has 5",
        ),
        ("session: { jwt_secret: [] }", "1:24: session.jwt_secret: must have at least one entry"),
        ("session: { ttl_hours: 0 }", "1:23: session.ttl_hours: must be greater than 0"),
        ("session: { ttl_hours: -1 }", "1:23: session.ttl_hours: expected a number such as 12.50"),
        ("session: { ttl_hours: 1e9 }", "1:23: session.ttl_hours: must be at most one year"),
        ("session: { ttl: 1 }", "1:12: session.ttl: unknown key; known here: jwt_secret, ttl_hours"),
        ("store: {}", "accepted"),
        (
            "store: { postgres_url: mysql://db }",
            "1:24: store.postgres_url: must begin with postgres:// or postgresql://",
        ),
        ("store: { password: x }", "1:8: store: `username` and `password` need a `postgres_url`"),
        (
            "store: { max_connections: 0, connect_timeout_seconds: 61 }",
            "1:27: store.max_connections: must be at least 1\n1:55: store.connect_timeout_seconds: must be at most 60",
        ),
    ]);
}

#[test]
fn upstreams_are_judged() {
    check(&[
        ("upstreams: []", "1:12: upstreams: must have at least one entry"),
        (
            "upstreams: [{ provider: vertx, region: x }]",
            "1:25: upstreams[0].provider: expected anthropic, bedrock, mantle, anthropicAws, anthropicGoogleCloud, vertex or foundry; did you mean `vertex`?",
        ),
        ("upstreams: [{ region: x }]", "1:13: upstreams[0]: the key `provider` is missing"),
        ("upstreams: [{ provider: anthropic }]", "1:13: upstreams[0]: the key `auth` is missing"),
        (
            "upstreams: [{ provider: anthropic, auth: {} }]",
            "1:42: upstreams[0].auth: expected exactly one of `api_key`, `oauth_token`, or `federation_rule_id` with its companions",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { api_key: a, oauth_token: b } }]",
            "1:42: upstreams[0].auth: expected exactly one of `api_key`, `oauth_token`, or `federation_rule_id` with its companions",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { federation_rule_id: a } }]",
            "1:42: upstreams[0].auth: the key `organization_id` is missing\n1:42: upstreams[0].auth: the key `identity_token_file` is missing",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { oauth_token: a }, forward_user_identity: true }]",
            "1:85: upstreams[0].forward_user_identity: needs a `base_url` that is not the Anthropic API",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { oauth_token: a }, base_url: 'http://localhost:9' , forward_user_identity: true }]",
            "accepted",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { oauth_token: a }, base_url: https://0xa9fea9fe/ }]",
            "1:72: upstreams[0].base_url: 169.254.169.254 is a link-local or metadata address, which the gateway never connects to",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { oauth_token: a }, models: [], groups: [''] }]",
            "1:70: upstreams[0].models: must have at least one entry\n1:83: upstreams[0].groups[0]: must not be empty",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { oauth_token: a }, headers: { Authorization: x, anthropic-beta: x, 'a b': x, x-a: '', x-b: ' x' } }]",
            "1:73: upstreams[0].headers.Authorization: is set by the gateway itself and cannot be configured\n1:91: upstreams[0].headers.anthropic-beta: is set by the gateway itself and cannot be configured\n1:110: upstreams[0].headers.a b: is not a header name\n1:125: upstreams[0].headers.x-a: must not be empty\n1:134: upstreams[0].headers.x-b: must be printable ASCII without blanks around it",
        ),
        (
            "upstreams:\n  - provider: bedrock\n    regoin: eu-central-1\n    auth: { aws_access_key_id: x }",
            "3:5: upstreams[0].regoin: unknown key; did you mean `region`?\n4:11: upstreams[0].auth: `aws_access_key_id` and `aws_secret_access_key` belong together, `aws_session_token` to both",
        ),
        (
            "upstreams: [{ provider: bedrock, region: us.evil.example/, guardrail: { id: x }, assume_role: { role_arn: 'arn:aws:iam::1:user/x' } }]",
            "1:42: upstreams[0].region: is not a region such as eu-central-1\n1:71: upstreams[0].guardrail: the key `version` is missing\n1:107: upstreams[0].assume_role.role_arn: is not the ARN of an IAM role, such as arn:aws:iam::123456789012:role/gateway",
        ),
        (
            "upstreams: [{ provider: mantle, region: us-east-1 }]",
            "1:13: upstreams[0]: the key `models` is missing; provider mantle needs it",
        ),
        (
            "upstreams: [{ provider: mantle, region: us-east-1, models: [m], guardrail: { id: x, version: y } }]",
            "1:65: upstreams[0].guardrail: unknown key; known here: provider, region, auth, assume_role, name, base_url, headers, models, groups, failover_on, weight, proxy, tls",
        ),
        (
            "upstreams: [{ name: a, provider: bedrock, region: us-east-1, guardrail: { id: x, version: y } }, { name: b, provider: bedrock, region: us-east-1 }, { name: c, provider: bedrock, region: us-east-1, guardrail: { id: x, version: z } }]",
            "1:98: upstreams[1]: the key `guardrail` is missing, but upstream `a` has one: requests would get around it; give every bedrock upstream one, or none",
        ),
        (
            "upstreams: [{ provider: mantle, region: us-east-1, models: [m] }, { name: a, provider: bedrock, region: us-east-1, guardrail: { id: x, version: y } }]",
            "1:25: upstreams[0].provider: mantle knows no guardrails, but upstream `a` has one: requests would get around it; remove one of the two",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { oauth_token: a }, base_url: 'https://h.example/p?x=1' }, { name: b, provider: anthropic, auth: { oauth_token: a }, base_url: 'https://h.example/p#f' }]",
            "1:72: upstreams[0].base_url: must not have a query: paths are appended to it; remove what follows `?`\n1:169: upstreams[1].base_url: must not have a fragment: paths are appended to it; remove what follows `#`",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { oauth_token: a }, base_url: 'https://me:secret@h.example/' }]",
            "1:72: upstreams[0].base_url: must not have a name or a password in it: credentials belong into `auth` or `headers`",
        ),
        (
            "upstreams: [{ provider: anthropicAws, region: us-east-1, auth: { aws_bearer_token: x } }]",
            "1:13: upstreams[0]: the key `workspace_id` is missing\n1:66: upstreams[0].auth.aws_bearer_token: unknown key; known here: api_key, aws_access_key_id, aws_secret_access_key, aws_session_token",
        ),
        (
            "upstreams: [{ provider: anthropicGoogleCloud, project_id: a/b, workspace_id: w }]",
            "1:59: upstreams[0].project_id: must not contain slashes, question marks, number signs or spaces",
        ),
        ("upstreams: [{ provider: vertex, region: global }]", "1:13: upstreams[0]: the key `project_id` is missing"),
        (
            "upstreams: [{ provider: foundry, resource: -x, auth: { use_azure_ad: false } }]",
            "1:44: upstreams[0].resource: must be 2 to 64 letters, digits and inner hyphens\n1:54: upstreams[0].auth: expected exactly one of `api_key` and `use_azure_ad: true`",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { oauth_token: a }, proxy: 'socks5://user:pass@proxy:1080', tls: { system_roots: false, client_cert_file: /c, client_key_passphrase: p, min_version: TLSv1.1 } }]",
            "1:69: upstreams[0].proxy: expected `direct`, or a proxy such as http://proxy.example.com:3128; a proxy of the kind socks5: is not supported\n1:107: upstreams[0].tls: `client_cert_file` and `client_key_file` belong together\n1:123: upstreams[0].tls.system_roots: `false` needs a `ca_file`: nothing would be trusted\n1:175: upstreams[0].tls.client_key_passphrase: needs a `client_key_file`\n1:191: upstreams[0].tls.min_version: expected TLSv1.2 or TLSv1.3; did you mean `TLSv1.2`?",
        ),
        (
            "upstreams:\n  - { name: a, provider: anthropic, auth: { oauth_token: a }, proxy: direct }\n  - { name: b, provider: anthropic, auth: { oauth_token: b }, tls: { min_version: TLSv1.3 } }",
            "3:5: upstreams[1].proxy: differs from that of upstream `a`, which is at https://api.anthropic.com too\n3:68: upstreams[1].tls: differs from that of upstream `a`, which is at https://api.anthropic.com too",
        ),
        (
            "upstreams:\n  - { provider: vertex, region: global, project_id: p }\n  - { provider: vertex, region: us, project_id: p }",
            "3:5: upstreams[1].name: another upstream has the name `vertex` too; give each a `name` of its own",
        ),
    ]);
}

#[test]
fn models_and_money_are_judged() {
    const ROW: &str = "input: 1, output: 1, cache_read: 1, cache_write: 1";
    check(&[
        ("models: [{ id: m }]", "1:10: models[0]: the key `upstream_model` is missing"),
        ("models: [{ id: m, upstream_model: {} }]", "1:35: models[0].upstream_model: must name at least one upstream"),
        (
            "models: [{ id: m, upstream_model: { anthropc: x } }]",
            "1:47: models[0].upstream_model.anthropc: `anthropc` is not the name of an upstream; there is anthropic; did you mean `anthropic`?",
        ),
        (
            "models: [{ id: m, upstream_model: { anthropic: x } }, { id: m, upstream_model: { anthropic: y } }]",
            "accepted",
        ),
        ("admin: {}", "accepted"),
        (
            "admin: { write_keys: [{ id: a, key: short }], read_keys: [{ id: a }] }",
            "1:37: admin.write_keys[0].key: must have at least 32 characters, has 5\n1:59: admin.read_keys[0]: the key `key` is missing",
        ),
        (
            "admin: { write_keys: [{ id: a, key: '${NEW_SECRET}' }], read_keys: [{ id: b, key: '${NEW_SECRET}' }, { id: a, key: '${NEW_SECRET}' }] }",
            "1:108: admin.read_keys[1].id: is the id of another key too; ids are unique over both lists",
        ),
        (
            "admin: { admin_groups: [''], group_limit_mode: avg, audit_retention_days: 0 }",
            "1:25: admin.admin_groups[0]: must not be empty\n1:48: admin.group_limit_mode: expected min or max\n1:75: admin.audit_retention_days: must be at least 1",
        ),
        ("admin: { billing_group_tag: AnthropicX }", "1:29: admin.billing_group_tag: must not begin with `anthropic`"),
        (
            "admin: { billing_group_tag: a b }",
            "1:29: admin.billing_group_tag: must be 1 to 64 letters, digits and _ . : / = + - @",
        ),
        (
            "enforcement: { fail_closed_on_error: true }",
            "1:38: enforcement.fail_closed_on_error: needs an `admin` section: without one nothing is limited",
        ),
        ("enforcement: { fail_closed_on_error: true }\nadmin: {}", "accepted"),
        (
            "pricing: { multiplier: 0.5 }",
            "1:10: pricing: needs an `admin` section or a managed policy: without them it has no effect",
        ),
        (
            "pricing: { multiplier: 0.5 }\nmanaged: { policies: [] }",
            "1:10: pricing: needs an `admin` section or a managed policy: without them it has no effect",
        ),
        ("pricing: { multiplier: '10' }\nmanaged: { policies: [{}] }", "accepted"),
        ("pricing: { multiplier: 0 }\nadmin: {}", "1:24: pricing.multiplier: must be greater than 0"),
        ("pricing: { multiplier: 10.01 }\nadmin: {}", "1:24: pricing.multiplier: must be at most 10"),
        (
            "pricing: { overrides: [{ upstream: anthropic, model: m, input: 0, output: x, cache_read: 1 }] }\nadmin: {}",
            "1:24: pricing.overrides[0]: the key `cache_write` is missing\n1:64: pricing.overrides[0].input: must be greater than 0\n1:75: pricing.overrides[0].output: expected a number such as 12.50",
        ),
    ]);
    let rows = |first: &str, second: &str| {
        faults(&format!("admin: {{}}\npricing:\n  overrides:\n    - {{ {first}, {ROW} }}\n    - {{ {second}, {ROW} }}"))
    };
    assert_eq!(rows("upstream: anthropic, model: a", "upstream: anthropic, model: b"), "accepted");
    assert_eq!(
        rows("upstream: anthropic, model: a", "upstream: anthropic, model: A"),
        "5:37: pricing.overrides[1].model: an earlier row has a price for the same model on the same upstream"
    );
    assert_eq!(
        rows("upstream: anthropic, model: a", "upstream: bedrock, model: a"),
        "5:19: pricing.overrides[1].upstream: `bedrock` is not the name of an upstream; there is anthropic"
    );
}

#[test]
fn managed_policies_are_judged() {
    check(&[
        ("managed: {}", "accepted"),
        ("managed: { policies: [{}] }", "accepted"),
        (
            "managed: { policies: [{ match: { groups: [] } }] }",
            "1:42: managed.policies[0].match.groups: must have at least one entry",
        ),
        (
            "managed: { policies: [{ match: { groups: ['', ' '] } }] }",
            "1:43: managed.policies[0].match.groups[0]: must not be empty",
        ),
        (
            "managed: { policies: [{ match: { email_domain: a@b } }, { match: { email_domain: '@' } }, { match: { email_domain: '@@a' } }] }",
            "1:48: managed.policies[0].match.email_domain: expected one domain such as example.com\n1:82: managed.policies[1].match.email_domain: expected one domain such as example.com\n1:116: managed.policies[2].match.email_domain: expected one domain such as example.com",
        ),
        (
            "managed: { policies: [{ code: {}, cli: {} }] }",
            "1:31: managed.policies[0].code: a policy has `code` or `cli`, not both",
        ),
        (
            "managed: { policies: [{ code: {}, match: { groups: [a] } }, { cli: {} }] }",
            "1:61: managed.policies[1]: has `cli`, but another policy has `code`: either all policies have `code`, or none",
        ),
        ("managed: { policies: [{ cli: { model: m }, settings: { theme: dark } }] }", "accepted"),
        (
            "managed: { policies: [{ cli: }] }",
            "1:28: managed.policies[0].cli: is empty: expected a mapping, or remove the key",
        ),
        (
            "managed: { policy_mode: layred }",
            "1:25: managed.policy_mode: expected first_match or layered; did you mean `layered`?",
        ),
        (
            "managed: { policies: [{ cli: { mcpServers: {}, modle: x, model: 1, availableModels: opus } }] }",
            "1:44: managed.policies[0].cli.mcpServers: cannot be delivered by a gateway; use `managedMcpServers`\n1:55: managed.policies[0].cli.modle: Claude Code has no such setting; did you mean `model`? (for a newer one, set `managed.unknown_keys: warn`)\n1:65: managed.policies[0].cli.model: expected text\n1:85: managed.policies[0].cli.availableModels: expected a list of text",
        ),
        (
            "managed: { policies: [{ cli: { extraKnownMarketplaces: {}, additionalMarketplaces: {} } }] }",
            "1:84: managed.policies[0].cli.additionalMarketplaces: is the same setting as `extraKnownMarketplaces`: set only one of them",
        ),
        (
            "managed:\n  policies:\n    - cli:\n        hooks:\n          PreTool: []\n          Stop: [{ hooks: [{ type: cmd }, {}] }, {}]\n          SessionEnd: {}",
            "5:20: managed.policies[0].cli.hooks.PreTool: Claude Code has no such hook event; did you mean `PreToolUse`? (for a newer one, set `managed.unknown_keys: warn`)\n6:36: managed.policies[0].cli.hooks.Stop[0].hooks[0].type: expected agent, command, http, mcp_tool or prompt (for a newer one, set `managed.unknown_keys: warn`)\n6:43: managed.policies[0].cli.hooks.Stop[0].hooks[1]: expected a mapping with a `type`: agent, command, http, mcp_tool or prompt\n6:50: managed.policies[0].cli.hooks.Stop[1]: expected a mapping with a list `hooks`\n7:23: managed.policies[0].cli.hooks.SessionEnd: expected a list of matchers, each with `hooks`",
        ),
        ("managed: { unknown_keys: warn, policies: [{ cli: { brandNew: 1, hooks: { Newer: [] } } }] }", "accepted"),
        (
            "managed: { unknown_keys: warn, policies: [{ cli: { model: 1 } }] }",
            "1:59: managed.policies[0].cli.model: expected text",
        ),
        (
            "managed: { policies: [{ cli: { env: { A: .inf } } }] }",
            "1:42: managed.policies[0].cli.env.A: is not a number that JSON can hold",
        ),
        (
            "managed: { policies: [{ desktop: { inferenceProvider: x, otlpX: x, expiresAt: 1, bootstrapUrl: x, isDxtEnabled: true, upstreams: x, chatTabEnabled: 1 } }] }",
            "1:55: managed.policies[0].desktop.inferenceProvider: is computed by the gateway and cannot be set\n1:65: managed.policies[0].desktop.otlpX: is computed by the gateway and cannot be set\n1:79: managed.policies[0].desktop.expiresAt: is computed by the gateway and cannot be set\n1:96: managed.policies[0].desktop.bootstrapUrl: is only read from the device's local management, not from a gateway\n1:113: managed.policies[0].desktop.isDxtEnabled: is now called `isDesktopExtensionEnabled`\n1:130: managed.policies[0].desktop.upstreams: is a section of gateway.yaml, not a setting of Claude Desktop; check the indentation\n1:149: managed.policies[0].desktop.chatTabEnabled: expected true or false",
        ),
        (
            "managed: { policies: [{ desktop: { builtinToolPolicy: { Bash: deny } } }] }",
            "1:63: managed.policies[0].desktop.builtinToolPolicy.Bash: expected allow or ask",
        ),
        ("managed: { settings: /settings.json }", "accepted"),
        ("managed: { settings: /none.json }", "1:22: managed.settings: cannot read /none.json: no such file"),
        (
            "managed: { settings: /secret }",
            "1:22: managed.settings: /secret is not a JSON object: expected value at line 1 column 1",
        ),
        (
            "managed: { settings: /bad-settings.json }",
            "1:22: managed.settings.modle: Claude Code has no such setting; did you mean `model`? (for a newer one, set `managed.unknown_keys: warn`)\n1:22: managed.settings.model: expected text",
        ),
        ("managed: { policies: [], settings: /none.json }", "accepted"),
    ]);
    let from_file = load("managed: { settings: /settings.json }").config.managed.and_then(|managed| managed.policies);
    let policies = from_file.expect("one catch-all");
    assert_eq!((policies.len(), policies[0].settings.as_ref().map(Json::len)), (1, Some(2)));
}

#[test]
fn telemetry_is_judged() {
    check(&[
        ("telemetry: { forward_to: [{}] }", "1:27: telemetry.forward_to[0]: the key `url` is missing"),
        (
            "telemetry: { forward_to: [{ url: 'http://localhost:4318' }, { url: 'https://otel.example.com/?a=b' }] }",
            "accepted",
        ),
        (
            "telemetry: { forward_to: [{ url: 'http://otel.example.com' }, { url: 'http://127.0.0.1:4318' }] }",
            "1:34: telemetry.forward_to[0].url: must begin with https://; http:// is only for loopback\n1:70: telemetry.forward_to[1].url: 127.0.0.1 is a loopback address; set CLAUDE_GATEWAY_ALLOW_LOOPBACK=1 to allow it",
        ),
        (
            "telemetry: { forward_to: [{ url: 'https://otel.example.com', auth: { google: {} } }] }",
            "1:68: telemetry.forward_to[0].auth: a Google access token is only sent to googleapis.com",
        ),
        (
            "telemetry: { forward_to: [{ url: 'https://evilgoogleapis.com', auth: { google: {} } }] }",
            "1:70: telemetry.forward_to[0].auth: a Google access token is only sent to googleapis.com",
        ),
        ("telemetry: { forward_to: [{ url: 'https://telemetry.googleapis.com', auth: { google: {} } }] }", "accepted"),
        (
            "telemetry: { resource_attributes: { a: 'b c', user.email: x, 'a b': c, d: 1 } }",
            "1:40: telemetry.resource_attributes.a: must be 1 to 255 printable ASCII characters without spaces and without , ; = \\ \" %\n1:47: telemetry.resource_attributes.user.email: is reserved: clients and the gateway set it themselves\n1:62: telemetry.resource_attributes.a b: an attribute name is 1 to 255 letters, digits, dots, underscores and hyphens\n1:75: telemetry.resource_attributes.d: expected text, found a number: put it in quotes",
        ),
    ]);
    let text = completed("telemetry: { forward_to: [{ url: 'http://127.0.0.1:4318/' }] }");
    let loaded = parse(&text, &sources(true)).expect("loopback is allowed");
    assert_eq!(loaded.config.telemetry.forward_to[0].url, "http://127.0.0.1:4318");
}

#[test]
fn sizes_times_and_rates_are_judged() {
    check(&[
        (
            "limits: { max_request_bytes: 0, max_url_length: '2000', max_body: 1 }",
            "1:30: limits.max_request_bytes: must be at least 1\n1:57: limits.max_body: unknown key; known here: max_request_bytes, max_request_header_bytes, max_url_length",
        ),
        ("timeouts: { upstream_ttfb_ms: soon }", "1:31: timeouts.upstream_ttfb_ms: expected a whole number"),
        (
            "rate_limits: { device_verify: { max: 1.5 } }",
            "1:38: rate_limits.device_verify.max: expected a whole number",
        ),
        (
            "access_control: { allow_cidrs: [all] }",
            "1:33: access_control.allow_cidrs[0]: expected an IP address or a range such as 10.0.0.0/8; names are not looked up",
        ),
        ("limits:", "1:7: limits: is empty: expected a mapping, or remove the key"),
    ]);
}

#[test]
fn risky_choices_are_warned_about() {
    for (text, expected) in [
        (
            "limits: { max_url_length: 1, max_url_length: 2 }",
            "1:30: the key `max_url_length` is written twice in one mapping; this one counts",
        ),
        (
            "listen: { host: localhost, trusted_proxies: [0.0.0.0/0] }",
            "1:45: listen.trusted_proxies: trusts every peer: any client can then choose the address it is known by",
        ),
        ("listen: { host: localhost, public_url: 'https://gw.example.com/' }", ""),
        (
            "listen: { host: localhost, public_url: 'https://gw.example.com/claude' }",
            "1:40: listen.public_url: goes on with `/claude` after the origin: clients and browsers are sent to addresses that begin with it, but the gateway answers at the root alone. Have the proxy in front take `/claude` off, or name the origin",
        ),
        (
            "access_control: { allow_cidrs: [], deny_cidrs: [10.0.0.0/8] }",
            "1:32: access_control.allow_cidrs: is empty, which lets every address in; name some, or remove the key",
        ),
        (
            "limits: { max_request_bytes: 67108865 }",
            "1:30: limits.max_request_bytes: is more than the memory of an instance has room for: bodies above 67108864 get 413",
        ),
        ("limits: { max_request_bytes: 67108864 }", ""),
        (
            "managed: { policies: [{ cli: { availableModels: [haiku, claude-fable-5] } }] }",
            "1:23: managed.policies[0]: `availableModels` (haiku, claude-fable-5) leaves out the model that clients start with, an Opus or a Sonnet model: set `model`, or `enforceAvailableModels: true`",
        ),
        ("managed: { policies: [{ cli: { availableModels: [haiku], model: haiku } }] }", ""),
        ("managed: { policies: [{ cli: { availableModels: [haiku], enforceAvailableModels: true } }] }", ""),
        (
            "managed: { policies: [{ match: { groups: [a] }, cli: { availableModels: [haiku] } }, { cli: { model: haiku } }] }",
            "",
        ),
        ("managed: { policies: [{ cli: { availableModels: [haiku, claude-sonnet-4-6] } }] }", ""),
        ("cri: {}", "1:6: cri: has no effect: customer-routed inference is not supported"),
        (
            "telemetry: { forward_to: [{ url: 'https://otel.example.com' }] }",
            "1:26: telemetry.forward_to: without `listen.public_url` clients are not told to export; what they send anyway is relayed",
        ),
        (
            "telemetry: { resource_attributes: { a: b } }",
            "1:35: telemetry.resource_attributes: has no effect without `forward_to`",
        ),
        (
            "managed: { policies: [{}, { match: { groups: [a] } }] }",
            "1:27: managed.policies[1]: never counts: policy 0 above already matches everyone it matches",
        ),
        (
            "managed: { policies: [{ match: { groups: [a, b] } }, { match: { groups: [b], email_domain: x.example } }] }",
            "1:54: managed.policies[1]: never counts: policy 0 above already matches everyone it matches",
        ),
        ("managed: { policy_mode: layered, policies: [{ match: { groups: [a] } }, { match: { groups: [a] } }] }", ""),
        (
            "managed: { policies: [{ code: {}, serve_to_desktop: false }] }",
            "1:53: managed.policies[0].serve_to_desktop: has no effect: `code` is always served to Claude Desktop sessions",
        ),
        (
            "managed: { policies: [{ cli: { availableModels: [] } }] }",
            "1:49: managed.policies[0].cli.availableModels: an empty list refuses every request",
        ),
        (
            "managed: { policies: [{ desktop: { somethingNew: 1 } }] }",
            "1:50: managed.policies[0].desktop.somethingNew: is not known to be a setting of Claude Desktop; delivered as written",
        ),
        (
            "managed: { policies: [], settings: /settings.json }",
            "1:36: managed.settings: is ignored, because `policies` is there",
        ),
        (
            "oidc: { issuer: https://idp.example.com, client_id: x, client_secret: x, allowed_email_domains: [a.example] }\nmanaged: { policies: [{ match: { email_domain: b.example } }] }",
            "2:48: managed.policies[0].match.email_domain: matches nobody: `oidc.allowed_email_domains` does not let b.example sign in",
        ),
    ] {
        assert_eq!(shown(&load(text).warnings), expected, "{text}");
    }
}

#[test]
fn the_digest_is_of_what_is_meant_not_of_what_is_written() {
    let digest = |text: &str| load(text).config.sha256;
    let plain = digest("session: { jwt_secret: 0123456789abcdef0123456789abcdef }\nadmin: { group_limit_mode: min }");
    assert_eq!(plain.len(), 64);
    for same in [
        "# A comment.\nadmin: {}\nsession:\n  jwt_secret: '${NEW_SECRET}'\n",
        "admin: {}\nsession: { jwt_secret: ['${NEW_SECRET}'], ttl_hours: '1.0' }\nlimits: {}",
        "admin: {}\nsession: { jwt_secret: '${NEW_SECRET}' }\noidc: { client_secret: \"${OIDC_SECRET}\", client_id: gateway, issuer: https://idp.example.com, email_claim: [email] }",
        "admin: {}\nsession: { jwt_secret: '${NEW_SECRET}' }\nlimits: { max_request_bytes: 33554432 }\nmodels: []",
    ] {
        assert_eq!(digest(same), plain, "{same}");
    }
    for other in [
        "session: { jwt_secret: 0123456789abcdef0123456789abcdeX }\nadmin: {}",
        "session: { jwt_secret: '${NEW_SECRET}' }",
        "session: { jwt_secret: '${NEW_SECRET}', ttl_hours: 2 }\nadmin: {}",
        "session: { jwt_secret: ['${NEW_SECRET}', '${NEW_SECRET}'] }\nadmin: {}",
    ] {
        assert_ne!(digest(other), plain, "{other}");
    }
    let policy = |settings: &str| digest(&format!("managed: {{ policies: [{{ cli: {settings} }}] }}"));
    assert_eq!(policy("{ model: a, env: { A: '1', B: '2' } }"), policy("{ env: { B: '2', A: '1' }, model: a }"));
    assert_ne!(policy("{ env: { A: '1' } }"), policy("{ env: { A: 1 } }"));
}

#[test]
fn secrets_are_neither_printed_nor_shown() {
    let text = completed(
        "session:\n  jwt_secret: hunter2\nstore:\n  postgres_url: hunter2\nadmin:\n  api_secret: hunter2\n  read_kyes: [{ id: a, key: hunter2 }]\n  write_keys: [{ id: a, kye: hunter2 }, { id: '', key: hunter2-hunter2-hunter2-hunter2- }]",
    );
    let faults = parse(&text, &sources(false)).expect_err("six faults");
    assert_eq!(faults.len(), 6, "{}", shown(&faults));
    for fault in &faults {
        let rendered = fault.render(&text);
        assert!(!rendered.contains("hunter2"), "{rendered}");
        assert!(rendered.contains('…'), "{rendered}");
    }
    for broken in ["oidc:\n  client_secret: \"hunter2\n", "a: [\n- hunter2 }", "a:\n  b: *hunter2", "a:\n  b: @hunter2"]
    {
        let faults = parse(broken, &sources(false)).expect_err("not YAML");
        assert!(!faults[0].render(broken).contains("hunter2"), "{}", faults[0].render(broken));
    }
    let loaded = load(include_str!("complete.yaml"));
    assert!(!format!("{loaded:?}").contains("0123456789abcdef0123456789abcdef"));
}

#[test]
fn a_misspelt_key_is_one_fault_and_its_line_is_shown() {
    check(&[
        (
            "oidc:\n  issuer: https://idp.example.com\n  clientid: x\n  client_secrt: ${OIDC_SECRET}",
            "3:3: oidc.clientid: unknown key; did you mean `client_id`?\n4:3: oidc.client_secrt: unknown key; did you mean `client_secret`?",
        ),
        (
            "upstrems: [{ provider: anthropic, auth: { api_key: x } }]\nupstreams: []",
            "1:1: upstrems: unknown key; did you mean `upstreams`?\n2:12: upstreams: must have at least one entry",
        ),
        (
            "listen: { public_ur: 'https://gateway.example.com' }",
            "1:11: listen.public_ur: unknown key; did you mean `public_url`?",
        ),
        (
            "upstreams: [{ provider: mantle, region: us-east-1, model: [x] }]",
            "1:52: upstreams[0].model: unknown key; did you mean `models`?",
        ),
        (
            "store: { postgres_uri: x, username: y }",
            "1:10: store.postgres_uri: unknown key; did you mean `postgres_url`?",
        ),
    ]);
    let text = completed("limits:\n  max_request_byte: 5\nsession:\n  jwt_secrte: ${NEW_SECRET}");
    let faults = parse(&text, &sources(false)).expect_err("two faults");
    assert!(faults[0].render(&text).contains("\n  2 |   max_request_byte: 5\n"), "{}", faults[0].render(&text));
    assert!(faults[1].render(&text).contains("\n  4 |   jwt_secrte: ${NEW_SECRET}\n"), "{}", faults[1].render(&text));
}

#[test]
fn variables_are_listed_once_and_only_where_they_are_expanded() {
    let text = "# ${COMMENT}\n${KEY}: ${A}${B}\nb: ['${A} ${C_1}', \"${file:/x}\", '${lower}']\nn: 1";
    assert_eq!(variables(text), ["A", "B", "C_1", "lower"]);
    assert_eq!(variables("a: ["), Vec::<String>::new());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "(?s).{0,200}") {
        let _ = parse(&text, &sources(false));
        let _ = variables(&text);
    }

    #[test]
    fn no_damage_to_a_good_file_makes_the_parser_panic(
        cuts in proptest::collection::vec((0..5000_usize, "[\\[\\]{}:,&*!|>'\"#%@`\\-? \t\n\\$a-c0~]{0,4}"), 1..6),
    ) {
        let mut text = include_str!("complete.yaml").to_owned();
        for (at, piece) in cuts {
            let at = at % text.len();
            if text.is_char_boundary(at) && text.is_char_boundary(at + 1) {
                text.replace_range(at..=at, &piece);
            }
        }
        if let Err(faults) = parse(&text, &sources(false)) {
            proptest::prop_assert!(!faults.is_empty());
            for fault in faults {
                let _ = fault.render(&text);
            }
        }
    }
}

#[test]
fn models_that_route_nothing_and_defaults_that_are_refused_are_warned_about() {
    for (text, expected) in [
        ("auto_include_builtin_models: true", ""),
        (
            "upstreams: [{ provider: anthropic, auth: { api_key: x }, base_url: 'https://h.example/p/v1' }]",
            "1:68: upstreams[0].base_url: `/v1/messages` is appended: requests go to https://h.example/p/v1/v1/messages",
        ),
        ("upstreams: [{ provider: bedrock, region: us-east-1, base_url: 'https://h.example/v1' }]", ""),
        (
            "masking: { upstreams: [a] }\nupstreams: [{ name: a, provider: anthropic, auth: { api_key: x } }, { name: b, provider: bedrock, region: us-east-1 }]",
            "1:23: masking.upstreams: requests to `b` are not masked, also when they go there because another upstream failed or is left alone",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { api_key: x }, models: [claude-opus-4-8, claude-opsu-4-8] }]",
            "1:84: upstreams[0].models[1]: routes nothing: model claude-opsu-4-8 is not in the operator's model allowlist",
        ),
        (
            "upstreams: [{ provider: anthropic, auth: { api_key: x }, models: [claude-opus-4-8] }]\nmodels: [{ id: own, upstream_model: { anthropic: own } }]",
            "2:10: models[0]: routes nothing: model own is not served by upstream 'anthropic'",
        ),
        ("managed: { policies: [{ cli: { model: opus, availableModels: [claude-opus-4-8] } }] }", ""),
        ("managed: { policies: [{ cli: { model: claude-opus-4-8, availableModels: [opus] } }] }", ""),
        ("managed: { policies: [{ cli: { model: default, availableModels: [haiku] } }] }", ""),
        (
            "managed: { policies: [{ cli: { model: claude-opus-4-8, availableModels: [haiku] } }] }",
            "1:23: managed.policies[0]: the default model `claude-opus-4-8` is not in `availableModels` (haiku): its users start with a model that is refused",
        ),
        (
            "managed: { policies: [{ match: { groups: [a] }, cli: { model: opus } }, { cli: { availableModels: [haiku] } }] }",
            "1:23: managed.policies[0]: the default model `opus` is not in `availableModels` (haiku): its users start with a model that is refused\n1:73: managed.policies[1]: `availableModels` (haiku) leaves out the model that clients start with, an Opus or a Sonnet model: set `model`, or `enforceAvailableModels: true`",
        ),
    ] {
        assert_eq!(shown(&load(text).warnings), expected, "{text}");
    }
}

#[test]
fn two_prices_for_one_model_are_a_fault_in_whatever_spelling() {
    let row = |model: &str| {
        format!("{{ upstream: anthropic, model: {model}, input: 1, output: 1, cache_read: 1, cache_write: 1 }}")
    };
    let found = faults(&format!(
        "admin: {{}}\npricing: {{ overrides: [{}, {}] }}",
        row("claude-opus-4-8"),
        row("anthropic.claude-opus-4-8")
    ));
    assert!(found.contains("pricing.overrides[1].model: an earlier row has a price for the same model"), "{found}");
}

#[test]
fn faults_of_masking_are_told_with_their_place() {
    check(&[
        ("masking: {}", "accepted"),
        ("masking: { mode: enforced }", "1:18: masking.mode: expected enforce, shadow or off; did you mean `enforce`?"),
        (
            "masking:\n  kinds: [aws, aws.ec2_instnce, private_ipv4]",
            "2:16: masking.kinds[1]: no such kind: \"aws.ec2_instnce\"; use a family (aws, private_ip, secrets) or a kind \
             such as \"aws.ec2_instance\"; did you mean `aws.ec2_instance`?\n\
             2:33: masking.kinds[2]: no such kind: \"private_ipv4\"; use a family (aws, private_ip, secrets) or a kind \
             such as \"aws.ec2_instance\"; did you mean `private_ip.v4`?",
        ),
        (
            "masking:\n  custom:\n    - { name: code, pattern: 'PRJ-(' }\n    - { name: code, pattern: '[0-9]*' }\n    \
             - { name: Code, pattern: '(?:[0-9]{1000}){1000}' }",
            "3:30: masking.custom[0].pattern: does not compile: unclosed group\n\
             4:15: masking.custom[1].name: \"code\" is used twice\n\
             4:30: masking.custom[1].pattern: matches the empty string\n\
             5:15: masking.custom[2].name: must be 1 to 64 of a-z, 0-9 and _\n\
             5:30: masking.custom[2].pattern: too costly: it compiles to more than 256 KiB; use smaller repetitions",
        ),
        (
            "masking: { allow: [10.0.0.0/8, '*'] }",
            "1:32: masking.allow[1]: would allow everything; use \"mode: off\" if that is meant",
        ),
        (
            "masking: { upstreams: [anthropc] }",
            "1:24: masking.upstreams[0]: `anthropc` is not the name of an upstream; there is anthropic; did you mean \
             `anthropic`?",
        ),
        ("masking: { upstreams: [] }", "1:23: masking.upstreams: must have at least one entry"),
        ("masking: { group: {} }", "1:12: masking.group: unknown key; did you mean `groups`?"),
    ]);
}

#[test]
fn what_the_gateway_tells_about_itself_is_for_those_who_may_know() {
    check(&[
        (
            "observability: { metrics: { listen: '0.0.0.0:9464' } }",
            "1:27: observability.metrics: `token` is required unless `listen` is a loopback address: metrics are not for everybody",
        ),
        (
            "observability: { metrics: { listen: '127.0.0.1:8080' } }",
            "1:37: observability.metrics.listen: is the port of the gateway itself; metrics need another one",
        ),
        (
            "observability: { metrics: { listen: 'localhost:9464' } }",
            "1:37: observability.metrics.listen: expected an IP address and a port such as 127.0.0.1:9464 or [::1]:9464",
        ),
        (
            "observability: { metrics: { listen: '0.0.0.0:9464', token: short } }",
            "1:60: observability.metrics.token: must have at least 16 characters, has 5",
        ),
        (
            "observability: { otlp: { url: 'ftp://x', sample_percent: 101 } }",
            "1:31: observability.otlp.url: must begin with https:// or http://, not ftp:\n1:58: observability.otlp.sample_percent: must be at most 100",
        ),
        ("audit: { store: true, retention_days: 0 }", "1:39: audit.retention_days: must be at least 1"),
    ]);
    let config = load("observability: { metrics: { listen: '127.0.0.1:9464' } }").config;
    assert!(config.observability.metrics.is_some_and(|metrics| metrics.token.is_none()));
    assert!(!load("").config.audit.store && load("").config.observability.otlp.is_none());
}
