//! Credentials that have to be obtained: every chain of AWS, Google, Azure and Anthropic against services that count what
//! they are asked, and what the upstream gets in the end.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::support::cloud::{ACCESS_KEY_ID, assert_signed, assertion, providers};
use crate::support::{
    Authority, Exchange, Gateway, MODEL, Proxy, Seen, Server, Site, UPSTREAM_KEY, Upstream, discovery, eventually,
    lacks, question,
};

/// What services hand out.
const ID: &str = "TEMPORARYACCESSKEYID";
const SECRET: &str = "temporary-secret-for-tests-only";
const SESSION: &str = "temporary/session+token==";
const TOKEN: &str = "obtained-token-for-tests-only";
/// What Google gives for an identity from elsewhere.
const FEDERATED: &str = "federated-token-for-tests-only";
/// What is shown to them.
const SHOWN: &str = "identity-token-for-tests-only";

/// An identity service that hands out keys and tokens in every form there is.
fn services() -> Upstream {
    Upstream::start(|exchange| {
        let path = exchange.seen.path.clone();
        let keys = json!({
            "AccessKeyId": ID, "SecretAccessKey": SECRET, "Token": SESSION, "Expiration": "2099-01-01T00:00:00Z",
        });
        let token = json!({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600});
        let text = |exchange: Exchange, text: &str| exchange.answer_bytes(200, &[], text.as_bytes());
        match path.split('?').next().expect("a path") {
            "/" => text(
                exchange,
                &format!(
                    "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>{ID}</AccessKeyId>\
                     <SecretAccessKey>{SECRET}</SecretAccessKey><SessionToken>{SESSION}</SessionToken>\
                     <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
                ),
            ),
            "/latest/api/token" => text(exchange, "imds-session"),
            "/latest/meta-data/iam/security-credentials/" => text(exchange, "the-role\n"),
            "/container" | "/latest/meta-data/iam/security-credentials/the-role" => exchange.answer(200, &[], &keys),
            "/v1/token" => exchange.answer(
                200,
                &[],
                &json!({
                    "access_token": FEDERATED, "token_type": "Bearer", "expires_in": 3600,
                    "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
                }),
            ),
            path if path.ends_with(":generateAccessToken") => {
                exchange.answer(200, &[], &json!({"accessToken": TOKEN, "expireTime": "2099-01-01T00:00:00Z"}));
            }
            "/msi/token" => {
                exchange.answer(200, &[], &json!({"access_token": TOKEN, "expires_on": "4070908800"}));
            }
            _ => exchange.answer(200, &[], &token),
        }
    })
}

/// A site whose only upstream has an entry with these keys and looks for its credential in the environment.
struct Chain {
    site: Site,
    _provider: Upstream,
    upstream: Upstream,
    services: Upstream,
}

impl Chain {
    fn new(keys: &str) -> Self {
        let (provider, upstream, services) = (discovery(), providers(), services());
        let mut site = Site::without_upstreams(&provider);
        for secret in [SECRET, SESSION, TOKEN, FEDERATED, SHOWN] {
            site.transcript.secret(secret);
        }
        site.transcript.internal(&services.address);
        fs::write(site.file("shown"), format!("{SHOWN}\n")).expect("a file");
        site.use_entry(&upstream, keys);
        Self { site, _provider: provider, upstream, services }
    }

    fn bedrock(more: &str) -> Self {
        Self::new(&format!("provider: bedrock, region: us-east-1{more}"))
    }

    fn service(&self, path: &str) -> String {
        format!("http://{}{path}", self.services.address)
    }

    fn shown(&self) -> String {
        self.site.file("shown").display().to_string()
    }

    fn ask(&self, gateway: &Gateway) {
        gateway.post("/v1/messages").bearer(&self.site.session("ada")).json(&question(false)).send().expect(200);
    }

    /// Asks three questions, one after the other, of a gateway with this environment: what services and upstream saw.
    fn run(&mut self, environment: Vec<(&'static str, String)>) -> (Vec<Seen>, Vec<Seen>) {
        self.site.environment = environment;
        let gateway = self.site.start();
        for _ in 0..3 {
            self.ask(&gateway);
        }
        (self.services.seen(), self.upstream.seen())
    }
}

/// What services were asked, as method and path.
fn asked(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(|seen| format!("{} {}", seen.method, seen.path)).collect()
}

fn body(seen: &Seen) -> String {
    String::from_utf8_lossy(&seen.body).into_owned()
}

#[track_caller]
fn assert_temporary_keys(seen: &[Seen]) {
    assert_eq!(seen.len(), 3);
    assert_signed(seen, ID, SECRET, "us-east-1/bedrock");
    assert!(seen.iter().all(|seen| seen.header("x-amz-security-token") == SESSION));
}

#[test]
fn aws_keys_of_the_environment_are_used_as_they_are() {
    let mut chain = Chain::bedrock("");
    let (services, upstream) = chain.run(vec![
        ("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ("AWS_SESSION_TOKEN", SESSION.to_owned()),
        ("AWS_BEARER_TOKEN_BEDROCK", TOKEN.to_owned()),
    ]);
    assert_eq!(asked(&services), [""; 0]);
    assert_signed(&upstream, ACCESS_KEY_ID, SECRET, "us-east-1/bedrock");

    let mut chain = Chain::bedrock("");
    let (_, upstream) = chain.run(vec![("AWS_BEARER_TOKEN_BEDROCK", TOKEN.to_owned())]);
    assert_eq!(upstream[0].header("authorization"), format!("Bearer {TOKEN}"));
}

#[test]
fn a_web_identity_is_exchanged_for_keys_at_sts() {
    let mut chain = Chain::bedrock("");
    let environment = vec![
        ("AWS_WEB_IDENTITY_TOKEN_FILE", chain.shown()),
        ("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/gateway".to_owned()),
        ("AWS_ROLE_SESSION_NAME", "one".to_owned()),
        ("AWS_ENDPOINT_URL_STS", chain.service("/")),
    ];
    let (services, upstream) = chain.run(environment);
    assert_eq!(asked(&services), ["POST /"], "one exchange for all requests");
    assert_eq!(
        body(&services[0]),
        format!(
            "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&\
             RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fgateway&RoleSessionName=one&WebIdentityToken={SHOWN}"
        )
    );
    assert_eq!(services[0].header("authorization"), "", "nobody has keys yet");
    assert_temporary_keys(&upstream);
}

#[test]
fn a_container_gets_its_keys_from_its_own_endpoint() {
    let mut chain = Chain::bedrock("");
    let environment = vec![
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", chain.service("/container")),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", chain.shown()),
    ];
    let (services, upstream) = chain.run(environment);
    assert_eq!(asked(&services), ["GET /container"]);
    assert_eq!(services[0].header("authorization"), SHOWN);
    assert_temporary_keys(&upstream);
}

#[test]
fn an_instance_gets_its_keys_from_the_metadata_service_in_a_session() {
    let mut chain = Chain::bedrock("");
    let endpoint = chain.service("/");
    let (services, upstream) = chain.run(vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", endpoint)]);
    assert_eq!(
        asked(&services),
        [
            "PUT /latest/api/token",
            "GET /latest/meta-data/iam/security-credentials/",
            "GET /latest/meta-data/iam/security-credentials/the-role",
        ]
    );
    assert_eq!(services[0].header("x-aws-ec2-metadata-token-ttl-seconds"), "21600");
    assert_eq!(services[2].header("x-aws-ec2-metadata-token"), "imds-session");
    assert_temporary_keys(&upstream);
}

#[test]
fn configured_keys_open_the_role_that_is_to_be_assumed() {
    let mut chain = Chain::bedrock(&format!(
        ", assume_role: {{ role_arn: \"arn:aws:iam::111122223333:role/inference\", external_id: outside }}, \
         auth: {{ aws_access_key_id: {ACCESS_KEY_ID}, aws_secret_access_key: \"${{UPSTREAM_KEY}}\" }}"
    ));
    let endpoint = chain.service("/");
    let (services, upstream) = chain.run(vec![("AWS_ENDPOINT_URL_STS", endpoint)]);
    assert_eq!(asked(&services), ["POST /"]);
    assert_eq!(
        body(&services[0]),
        "Action=AssumeRole&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Finference&\
         RoleSessionName=cc-gateway&ExternalId=outside"
    );
    assert_signed(&services, ACCESS_KEY_ID, UPSTREAM_KEY, "us-east-1/sts");
    assert_temporary_keys(&upstream);
}

#[test]
fn without_any_source_of_keys_the_upstream_is_skipped_and_the_operator_told() {
    let mut chain = Chain::bedrock("");
    chain.site.environment = vec![("AWS_EC2_METADATA_DISABLED", "true".to_owned())];
    let gateway = chain.site.start();
    gateway.post("/v1/messages").bearer(&chain.site.session("ada")).json(&question(false)).send().expect(502);
    let line = "no AWS credentials are configured, and the environment has none";
    eventually(line, || gateway.log.text().contains(line).then_some(()));
    assert_eq!(chain.upstream.seen().len(), 0);
}

const VERTEX: &str = "provider: vertex, region: us-east5, project_id: p-1";

#[track_caller]
fn assert_bearer(seen: &[Seen]) {
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|seen| seen.header("authorization") == format!("Bearer {TOKEN}")), "{seen:?}");
}

#[test]
fn a_machine_of_google_gets_its_token_from_the_metadata_server() {
    for variable in ["GCE_METADATA_HOST", "GCE_METADATA_IP"] {
        let mut chain = Chain::new(VERTEX);
        let host = chain.services.address.clone();
        let (services, upstream) = chain.run(vec![(variable, host)]);
        assert_eq!(asked(&services), ["GET /computeMetadata/v1/instance/service-accounts/default/token"]);
        assert_eq!(services[0].header("metadata-flavor"), "Google");
        assert_bearer(&upstream);
    }
}

/// The services as an address that is called by these names through a proxy gives them.
fn tls(authority: &Authority, names: &str, services: &Upstream) -> Server {
    let (certificate, key) = authority.issue("google", names, 2);
    Server::nginx(&format!(
        "server {{ listen 127.0.0.1:PORT ssl; ssl_certificate {}; ssl_certificate_key {}; \
         location / {{ proxy_pass http://{}; proxy_set_header host $host; }} }}",
        certificate.display(),
        key.display(),
        services.address
    ))
}

#[test]
fn a_service_account_signs_for_its_token_and_no_file_chooses_where_it_is_sent() {
    if lacks(&["nginx", "openssl", "python3"]) {
        return;
    }
    let mut chain = Chain::new("provider: anthropicGoogleCloud, project_id: p-1, workspace_id: ws-1");
    let authority = Authority::new();
    let server = tls(&authority, "DNS:oauth2.googleapis.com", &chain.services);
    let (proxy, tunnels) = Proxy::tunnel(format!("127.0.0.1:{}", server.port));
    let (public, private) = authority.issue("account", "DNS:account", 2);
    let account = chain.site.file("account.json");
    let file = json!({
        "type": "service_account", "client_email": "gateway@p-1.iam.gserviceaccount.com", "private_key_id": "key-1",
        "private_key": fs::read_to_string(&private).expect("a key"), "token_uri": "https://elsewhere.example/token",
    });
    fs::write(&account, file.to_string()).expect("a file");
    let (services, upstream) = chain.run(vec![
        ("GOOGLE_APPLICATION_CREDENTIALS", account.display().to_string()),
        ("HTTPS_PROXY", format!("http://{}", proxy.address)),
        ("SSL_CERT_FILE", authority.certificate().display().to_string()),
    ]);

    assert_eq!(tunnels.try_iter().collect::<Vec<_>>(), ["oauth2.googleapis.com:443"]);
    assert_eq!(asked(&services), ["POST /token"], "one exchange for all requests");
    let form = body(&services[0]);
    let token = form
        .strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=")
        .unwrap_or_else(|| panic!("{form}"));
    let certificate = fs::read_to_string(public).expect("a certificate");
    let judged = assertion(token, &certificate).expect("Python is here");
    assert_eq!(judged["header"], json!({"alg": "RS256", "typ": "JWT", "kid": "key-1"}));
    let claims = &judged["claims"];
    assert_eq!(
        (&claims["iss"], &claims["aud"], &claims["scope"]),
        (
            &json!("gateway@p-1.iam.gserviceaccount.com"),
            &json!("https://oauth2.googleapis.com/token"),
            &json!("https://www.googleapis.com/auth/cloud-platform"),
        )
    );
    assert_eq!(claims["exp"].as_i64().expect("a number") - claims["iat"].as_i64().expect("a number"), 3600);
    assert_bearer(&upstream);
}

#[test]
fn an_identity_from_elsewhere_is_exchanged_at_google_and_opens_a_service_account() {
    if lacks(&["nginx", "openssl"]) {
        return;
    }
    let authority = Authority::new();
    let configured = format!("{VERTEX}, auth: {{ service_account_json: \"${{CREDENTIAL_FILE}}\" }}");
    for (keys, variable) in [(VERTEX, "GOOGLE_APPLICATION_CREDENTIALS"), (configured.as_str(), "CREDENTIAL_FILE")] {
        let mut chain = Chain::new(keys);
        let names = "DNS:sts.googleapis.com,DNS:iamcredentials.googleapis.com";
        let server = tls(&authority, names, &chain.services);
        let (proxy, tunnels) = Proxy::tunnel(format!("127.0.0.1:{}", server.port));
        let (audience, kind) = ("//iam.googleapis.com/pools/p/providers/q", "urn:ietf:params:oauth:token-type:jwt");
        let impersonation = "/v1/projects/-/serviceAccounts/gateway@p-1.iam.gserviceaccount.com:generateAccessToken";
        let file = json!({
            "type": "external_account", "audience": audience, "subject_token_type": kind,
            "token_url": "https://sts.googleapis.com/v1/token",
            "service_account_impersonation_url": format!("https://iamcredentials.googleapis.com{impersonation}"),
            "credential_source": {"file": chain.shown()},
        });
        let account = chain.site.file("federation.json");
        fs::write(&account, file.to_string()).expect("a file");
        let (services, upstream) = chain.run(vec![
            (variable, account.display().to_string()),
            ("HTTPS_PROXY", format!("http://{}", proxy.address)),
            ("SSL_CERT_FILE", authority.certificate().display().to_string()),
        ]);

        let called: Vec<String> = tunnels.try_iter().collect();
        assert_eq!(called, ["sts.googleapis.com:443", "iamcredentials.googleapis.com:443"]);
        assert_eq!(asked(&services), ["POST /v1/token".to_owned(), format!("POST {impersonation}")]);
        let form: std::collections::BTreeMap<String, String> =
            url::form_urlencoded::parse(&services[0].body).into_owned().collect();
        for (name, value) in [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("audience", audience),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("subject_token", SHOWN),
            ("subject_token_type", kind),
        ] {
            assert_eq!(form.get(name).map(String::as_str), Some(value), "{form:?}");
        }
        assert_eq!(services[1].header("authorization"), format!("Bearer {FEDERATED}"));
        assert_bearer(&upstream);
    }
}

const FOUNDRY: &str = "provider: foundry, resource: res-1, auth: { use_azure_ad: true }";

#[test]
fn entra_gives_tokens_to_clients_workloads_and_machines() {
    let scope = "https%3A%2F%2Fcognitiveservices.azure.com";
    let client = |chain: &Chain| {
        vec![
            ("AZURE_TENANT_ID", "tenant-1".to_owned()),
            ("AZURE_CLIENT_ID", "client-1".to_owned()),
            ("AZURE_AUTHORITY_HOST", chain.service("")),
        ]
    };
    let grant = format!("grant_type=client_credentials&client_id=client-1&scope={scope}%2F.default");

    let mut chain = Chain::new(FOUNDRY);
    let mut environment = client(&chain);
    environment.push(("AZURE_CLIENT_SECRET", SECRET.to_owned()));
    let (services, upstream) = chain.run(environment);
    assert_eq!(asked(&services), ["POST /tenant-1/oauth2/v2.0/token"]);
    assert_eq!(body(&services[0]), format!("{grant}&client_secret={SECRET}"));
    assert_bearer(&upstream);
    assert!(upstream.iter().all(|seen| seen.header("x-api-key").is_empty()));

    let mut chain = Chain::new(FOUNDRY);
    let mut environment = client(&chain);
    environment.push(("AZURE_FEDERATED_TOKEN_FILE", chain.shown()));
    let (services, upstream) = chain.run(environment);
    let kind = "urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
    assert_eq!(body(&services[0]), format!("{grant}&client_assertion_type={kind}&client_assertion={SHOWN}"));
    assert_bearer(&upstream);

    let mut chain = Chain::new(FOUNDRY);
    let environment = vec![("IDENTITY_ENDPOINT", chain.service("/msi/token")), ("IDENTITY_HEADER", SECRET.to_owned())];
    let (services, upstream) = chain.run(environment);
    assert_eq!(asked(&services), [format!("GET /msi/token?api-version=2019-08-01&resource={scope}")]);
    assert_eq!(services[0].header("x-identity-header"), SECRET);
    assert_bearer(&upstream);

    let mut chain = Chain::new(FOUNDRY);
    let host = chain.service("/");
    let (services, upstream) = chain.run(vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", host)]);
    let path = "/metadata/identity/oauth2/token";
    assert_eq!(asked(&services), [format!("GET {path}?api-version=2018-02-01&resource={scope}")]);
    assert_eq!(services[0].header("metadata"), "true");
    assert_bearer(&upstream);
}

/// An Anthropic-format upstream that hands out numbered tokens with this life and takes those that `accepts` does.
fn federated(life: u64, accepts: impl Fn(u64) -> bool + Send + Sync + 'static) -> Upstream {
    let tokens = AtomicU64::new(0);
    Upstream::start(move |exchange| {
        if exchange.seen.path == "/v1/oauth/token" {
            let number = tokens.fetch_add(1, Ordering::Relaxed) + 1;
            return exchange.answer(
                200,
                &[],
                &json!({"access_token": format!("{TOKEN}-{number}"), "expires_in": life}),
            );
        }
        let bearer = exchange.seen.header("authorization").strip_prefix("Bearer ").unwrap_or_default();
        let number = bearer.rsplit('-').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        let (status, body) = if accepts(number) {
            (200, json!({"type": "message", "model": MODEL, "content": []}))
        } else {
            (401, json!({"type": "error"}))
        };
        exchange.answer(status, &[], &body);
    })
}

/// A gateway with workload identity at `upstream`, and its site.
fn with_federation(provider: &Upstream, upstream: &Upstream) -> Site {
    let mut site = Site::without_upstreams(provider);
    site.transcript.secret(TOKEN);
    site.transcript.secret(SHOWN);
    let file = site.file("shown");
    fs::write(&file, format!("{SHOWN}-first\n")).expect("a file");
    site.use_entry(
        upstream,
        &format!(
            "provider: anthropic, auth: {{ federation_rule_id: rule-1, organization_id: org-1, \
             identity_token_file: \"{}\", workspace_id: ws-1 }}",
            file.display()
        ),
    );
    site
}

fn exchanges(upstream: &Upstream) -> Vec<Value> {
    let seen = upstream.seen();
    let exchanges = seen.iter().filter(|seen| seen.path == "/v1/oauth/token");
    exchanges.map(|seen| serde_json::from_slice(&seen.body).expect("JSON")).collect()
}

#[test]
fn a_federated_token_that_is_withdrawn_is_exchanged_again_with_the_file_as_it_is_then() {
    // The first token works once more than it is withdrawn.
    let uses = AtomicU64::new(0);
    let upstream = federated(3600, move |number| number > 1 || uses.fetch_add(1, Ordering::Relaxed) == 0);
    let provider = discovery();
    let site = with_federation(&provider, &upstream);
    let gateway = site.start();
    let ask = || gateway.post("/v1/messages").bearer(&site.session("ada")).json(&question(false)).send().expect(200);

    ask();
    fs::write(site.file("shown"), format!("{SHOWN}-second\n")).expect("a file");
    ask();
    ask();

    let assertions: Vec<Value> = exchanges(&upstream).iter().map(|body| body["assertion"].clone()).collect();
    assert_eq!(assertions, [json!(format!("{SHOWN}-first")), json!(format!("{SHOWN}-second"))]);
    let expected = json!({
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": format!("{SHOWN}-first"),
        "federation_rule_id": "rule-1", "organization_id": "org-1", "workspace_id": "ws-1",
    });
    assert_eq!(exchanges(&upstream)[0], expected);
    let seen = upstream.seen();
    assert_eq!(seen[0].header("anthropic-beta"), "oauth-2025-04-20,oidc-federation-2026-04-01");
    let messages: Vec<&Seen> = seen.iter().filter(|seen| seen.path == "/v1/messages").collect();
    let tokens: Vec<&str> =
        messages.iter().map(|seen| seen.header("authorization").rsplit('-').next().expect("one")).collect();
    assert_eq!(tokens, ["1", "1", "2", "2"], "the second request was sent twice");
    assert!(messages.iter().all(|seen| seen.header("anthropic-beta") == "oauth-2025-04-20"));
}

#[test]
fn a_token_that_is_about_to_end_is_used_while_the_next_one_is_fetched() {
    // Within two minutes of its end a token is due, within half a minute it is too late.
    let upstream = federated(60, |_| true);
    let provider = discovery();
    let site = with_federation(&provider, &upstream);
    let gateway = site.start();
    let ask = || gateway.post("/v1/messages").bearer(&site.session("ada")).json(&question(false)).send().expect(200);

    ask();
    ask();
    eventually("the renewal", || (exchanges(&upstream).len() >= 2).then_some(()));

    let seen = upstream.seen();
    let second = seen.iter().filter(|seen| seen.path == "/v1/messages").nth(1).expect("two requests");
    assert!(second.header("authorization").ends_with("-1"), "{}", second.header("authorization"));
}

#[test]
fn an_exchange_that_fails_is_no_answer_and_the_next_upstream_is_tried() {
    let provider = discovery();
    let refusing = Upstream::start(|exchange| exchange.answer(403, &[], &json!({"error": "account 111122223333"})));
    let second = providers();
    let mut site = with_federation(&provider, &refusing);
    site.use_entry(&second, "name: second, provider: foundry, resource: res-1, auth: { api_key: \"${UPSTREAM_KEY}\" }");
    let gateway = site.start();

    gateway.post("/v1/messages").bearer(&site.session("ada")).json(&question(false)).send().expect(200);

    assert_eq!(gateway.log.event("inference", |_| true)["upstream"], "second");
    let line = "the token exchange answered 403 to the request for a credential";
    eventually(line, || gateway.log.text().contains(line).then_some(()));
    assert!(refusing.seen().iter().all(|seen| seen.path == "/v1/oauth/token"));
}
