//! Every chain: what is asked of whom, and what its answer becomes.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rsa::pkcs1v15::{Signature, VerifyingKey};
use rsa::pkcs8::{EncodePrivateKey, LineEnding};
use rsa::signature::Verifier;
use rsa::{RsaPrivateKey, rand_core};
use serde_json::{Value, json};
use sha2::Sha256;

use super::*;
use crate::config::{AssumeRole, AwsAuth};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);
const STS_ANSWER: &str = "<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>id-2</AccessKeyId>\
    <SecretAccessKey>secret-2</SecretAccessKey><SessionToken>session/2+==</SessionToken>\
    <Expiration>2023-11-14T23:13:20Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>";

/// The world of one test.
#[derive(Default)]
struct Around {
    variables: HashMap<&'static str, &'static str>,
    files: HashMap<&'static str, String>,
}

impl Around {
    fn with(variables: &[(&'static str, &'static str)], files: &[(&'static str, &str)]) -> Self {
        Self {
            variables: variables.iter().copied().collect(),
            files: files.iter().map(|(path, text)| (*path, (*text).to_owned())).collect(),
        }
    }

    fn run<T>(&self, test: impl FnOnce(&World<'_>) -> T) -> T {
        test(&World {
            variable: &|name| self.variables.get(name).map(|value| (*value).to_owned()),
            file: &|path| self.files.get(path).map(|text| text.clone().into_bytes()).ok_or("not found".to_owned()),
            now: NOW,
        })
    }

    /// Answers the requests of a chain in turn; the requests as text, and how the chain ends.
    fn chain(&self, provider: Provider, answers: &[(u16, &str)]) -> (Vec<String>, Result<Obtained, CannotObtain>) {
        let upstream = crate::testing::upstream("u", provider);
        self.run(|world| {
            let mut requests = Vec::new();
            let mut answers = answers.iter();
            let mut step = obtain(&upstream, world);
            loop {
                match step {
                    Ok(Step::Done(obtained)) => return (requests, Ok(obtained)),
                    Err(error) => return (requests, Err(error)),
                    Ok(Step::Send(request, pending)) => {
                        requests.push(shown(&request));
                        let (status, body) = answers.next().expect("an answer for every request");
                        let answer = http::Response::builder().status(*status);
                        let answer = answer.body(Bytes::copy_from_slice(body.as_bytes())).unwrap();
                        step = pending.answer(&answer, world);
                    }
                }
            }
        })
    }
}

fn shown(request: &http::Request<Bytes>) -> String {
    let mut lines = vec![format!("{} {}", request.method(), request.uri())];
    lines.extend(request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
    format!("{}\n\n{}", lines.join("\n"), std::str::from_utf8(request.body()).unwrap())
}

fn bedrock(auth: AwsAuth, assume_role: Option<AssumeRole>) -> Provider {
    Provider::Bedrock { region: "eu-west-1".into(), auth, guardrail: None, assume_role }
}

fn vertex(auth: GoogleAuth) -> Provider {
    Provider::Vertex { region: "global".into(), project_id: "p".into(), auth }
}

fn foundry() -> Provider {
    Provider::Foundry { resource: "r".into(), auth: FoundryAuth::AzureAd }
}

fn token(text: &str, expires_at: i64) -> Obtained {
    Obtained {
        credential: Credential::Bearer(Secret::new(text.into())),
        expires_at: Some(Timestamp::from_secs(expires_at)),
    }
}

fn aws_keys(id: &str, secret: &str, session: Option<&str>, expires_at: Option<i64>) -> Obtained {
    Obtained {
        credential: Credential::AwsKeys(AwsKeys {
            access_key_id: id.into(),
            secret_access_key: Secret::new(secret.into()),
            session_token: session.map(|token| Secret::new(token.into())),
        }),
        expires_at: expires_at.map(Timestamp::from_secs),
    }
}

#[test]
fn workload_identity_is_exchanged_for_a_token() {
    let auth = AnthropicAuth::WorkloadIdentity {
        federation_rule_id: "rule".into(),
        organization_id: "org".into(),
        identity_token_file: "/token".into(),
        workspace_id: Some("ws".into()),
        service_account_id: None,
    };
    let provider = Provider::Anthropic { auth, forward_user_identity: false };
    let around = Around::with(&[], &[("/token", " the-token\n")]);
    let (requests, obtained) = around.chain(provider.clone(), &[(200, r#"{"access_token":"t","expires_in":60}"#)]);
    assert_eq!(
        requests,
        ["POST https://api.anthropic.com/v1/oauth/token\ncontent-type: application/json\n\
          anthropic-beta: oauth-2025-04-20,oidc-federation-2026-04-01\n\n\
          {\"grant_type\":\"urn:ietf:params:oauth:grant-type:jwt-bearer\",\"assertion\":\"the-token\",\
          \"federation_rule_id\":\"rule\",\"organization_id\":\"org\",\"workspace_id\":\"ws\"}"]
    );
    let obtained = obtained.unwrap();
    assert_eq!(obtained, token("t", 1_700_000_060));
    assert_eq!(obtained.freshness(NOW), Freshness::Due);

    let (_, refused) = around.chain(provider.clone(), &[(403, r#"{"secret":"detail"}"#)]);
    assert_eq!(refused.unwrap_err().to_string(), "the token exchange answered 403 to the request for a credential");
    let (_, missing) = Around::default().chain(provider, &[]);
    assert_eq!(missing.unwrap_err().to_string(), "cannot read /token: not found");
}

#[test]
fn aws_keys_of_the_environment_come_before_everything_else() {
    let variables = [
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_SESSION_TOKEN", ""),
        ("AWS_BEARER_TOKEN_BEDROCK", "token"),
    ];
    let around = Around::with(&variables, &[]);
    let (requests, obtained) = around.chain(bedrock(AwsAuth::DefaultChain, None), &[]);
    assert!(requests.is_empty());
    assert_eq!(obtained, Ok(aws_keys("id", "secret", None, None)));
    let around = Around::with(&variables[3..], &[]);
    let (_, obtained) = around.chain(bedrock(AwsAuth::DefaultChain, None), &[]);
    assert_eq!(obtained.unwrap().credential, Credential::Bearer(Secret::new("token".into())));
}

#[test]
fn a_web_identity_assumes_its_role() {
    let variables = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"), ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r")];
    let around = Around::with(&variables, &[("/token", "jwt")]);
    let (requests, obtained) = around.chain(bedrock(AwsAuth::DefaultChain, None), &[(200, STS_ANSWER)]);
    assert_eq!(
        requests,
        ["POST https://sts.eu-west-1.amazonaws.com/\ncontent-type: application/x-www-form-urlencoded\n\n\
          Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr&\
          RoleSessionName=cc-gateway&WebIdentityToken=jwt"]
    );
    assert_eq!(obtained, Ok(aws_keys("id-2", "secret-2", Some("session/2+=="), Some(1_700_003_600))));
}

#[test]
fn containers_hand_out_keys() {
    let answer = r#"{"AccessKeyId":"i","SecretAccessKey":"s","Token":"t","Expiration":"2023-11-14T22:23:20.500Z"}"#;
    for (variables, expected) in [
        (&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")][..], "GET http://169.254.170.2/v2/x\n\n"),
        (
            &[
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/token"),
            ],
            "GET http://169.254.170.23/v1/credentials\nauthorization: pod-token\n\n",
        ),
    ] {
        let around = Around::with(variables, &[("/token", "pod-token\n")]);
        let (requests, obtained) = around.chain(bedrock(AwsAuth::DefaultChain, None), &[(200, answer)]);
        assert_eq!(requests, [expected]);
        assert_eq!(obtained, Ok(aws_keys("i", "s", Some("t"), Some(1_700_000_600))));
    }
}

#[test]
fn instances_hand_out_the_keys_of_their_role_within_a_session() {
    let keys =
        r#"{"Code":"Success","AccessKeyId":"i","SecretAccessKey":"s","Token":"t","Expiration":"2023-11-14T22:23:20Z"}"#;
    let around = Around::default();
    let answers = [(200, "session-token"), (200, "my-role\n"), (200, keys)];
    let (requests, obtained) = around.chain(bedrock(AwsAuth::DefaultChain, None), &answers);
    let roles = "http://169.254.169.254/latest/meta-data/iam/security-credentials/";
    assert_eq!(
        requests,
        [
            "PUT http://169.254.169.254/latest/api/token\nx-aws-ec2-metadata-token-ttl-seconds: 21600\n\n".to_owned(),
            format!("GET {roles}\nx-aws-ec2-metadata-token: session-token\n\n"),
            format!("GET {roles}my-role\nx-aws-ec2-metadata-token: session-token\n\n"),
        ]
    );
    assert_eq!(obtained, Ok(aws_keys("i", "s", Some("t"), Some(1_700_000_600))));
    let around = Around::with(&[("AWS_EC2_METADATA_DISABLED", "true")], &[]);
    let (_, nothing) = around.chain(bedrock(AwsAuth::DefaultChain, None), &[]);
    assert_eq!(nothing, Err(CannotObtain::NoSource("AWS")));
}

#[test]
fn a_role_is_assumed_with_whatever_keys_there_are() {
    let role = AssumeRole { role_arn: "arn:r".into(), external_id: Some("e".into()), session_name: None };
    let auth = AwsAuth::Keys {
        access_key_id: "id".into(),
        secret_access_key: Secret::new("secret".into()),
        session_token: None,
    };
    let (requests, obtained) = Around::default().chain(bedrock(auth, Some(role.clone())), &[(200, STS_ANSWER)]);
    assert_eq!(requests.len(), 1);
    assert!(
        requests[0].ends_with(
            "\n\nAction=AssumeRole&Version=2011-06-15&RoleArn=arn%3Ar&RoleSessionName=cc-gateway&ExternalId=e"
        )
    );
    assert!(requests[0].contains("Credential=id/20231114/eu-west-1/sts/aws4_request"), "{}", requests[0]);
    assert_eq!(obtained, Ok(aws_keys("id-2", "secret-2", Some("session/2+=="), Some(1_700_003_600))));

    let around = Around::with(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")], &[]);
    let answers = [(200, r#"{"AccessKeyId":"i","SecretAccessKey":"s","Token":"t"}"#), (200, STS_ANSWER)];
    let (requests, obtained) = around.chain(bedrock(AwsAuth::DefaultChain, Some(role)), &answers);
    assert!(requests[1].contains("x-amz-security-token: t"));
    assert!(obtained.is_ok());
}

#[test]
fn an_answer_without_keys_is_no_credential() {
    let around = Around::with(&[("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")], &[]);
    for (status, body, expected) in [
        (200, "{}", CannotObtain::BadAnswer { service: "the container's credential endpoint" }),
        (200, "<html>", CannotObtain::BadAnswer { service: "the container's credential endpoint" }),
        (500, "", CannotObtain::Refused { service: "the container's credential endpoint", status: 500 }),
    ] {
        let (_, error) = around.chain(bedrock(AwsAuth::DefaultChain, None), &[(status, body)]);
        assert_eq!(error, Err(expected));
    }
}

/// A generator that is anything but random: the same key in every run.
struct Counter(u64);

impl rand_core::TryRng for Counter {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = self.0.to_le_bytes()[7];
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Counter {}

#[test]
fn a_service_account_signs_for_its_token() {
    let key = RsaPrivateKey::new(&mut Counter(1), 1024).unwrap();
    let file = json!({
        "type": "service_account",
        "client_email": "sa@p.iam.gserviceaccount.com",
        "private_key": key.to_pkcs8_pem(LineEnding::LF).unwrap().as_str(),
        "private_key_id": "key-1",
        "token_uri": "https://elsewhere.example/token",
    });
    let around = Around::with(&[], &[("/sa.json", &file.to_string())]);
    let provider = vertex(GoogleAuth::ServiceAccountFile("/sa.json".into()));
    let (requests, obtained) = around.chain(provider, &[(200, r#"{"access_token":"g","expires_in":3599}"#)]);
    assert_eq!(obtained, Ok(token("g", 1_700_003_599)));

    let prefix = "POST https://oauth2.googleapis.com/token\ncontent-type: application/x-www-form-urlencoded\n\n\
                  grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
    let assertion = requests[0].strip_prefix(prefix).unwrap();
    let (signing_input, signature) = assertion.rsplit_once('.').unwrap();
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let signature = Signature::try_from(&decode(signature)[..]).unwrap();
    VerifyingKey::<Sha256>::new(key.to_public_key()).verify(signing_input.as_bytes(), &signature).unwrap();
    let (header, claims) = signing_input.split_once('.').unwrap();
    let [header, claims]: [Value; 2] = [header, claims].map(|part| serde_json::from_slice(&decode(part)).unwrap());
    assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "key-1"}));
    assert_eq!(
        claims,
        json!({
            "iss": "sa@p.iam.gserviceaccount.com",
            "scope": "https://www.googleapis.com/auth/cloud-platform",
            "aud": "https://oauth2.googleapis.com/token",
            "iat": 1_700_000_000,
            "exp": 1_700_003_600,
        })
    );
}

#[test]
fn google_gives_tokens_to_machines_people_and_federations() {
    let answer = (200, r#"{"access_token":"g","expires_in":100}"#);
    let (requests, obtained) = Around::default().chain(vertex(GoogleAuth::DefaultChain), &[answer]);
    assert_eq!(
        requests,
        ["GET http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token\n\
          metadata-flavor: Google\n\n"]
    );
    assert_eq!(obtained, Ok(token("g", 1_700_000_100)));

    let person = r#"{"type":"authorized_user","client_id":"c","client_secret":"s","refresh_token":"r"}"#;
    let around = Around::with(&[("GOOGLE_APPLICATION_CREDENTIALS", "/adc.json")], &[("/adc.json", person)]);
    let (requests, _) = around.chain(vertex(GoogleAuth::DefaultChain), &[answer]);
    assert!(requests[0].ends_with("\n\ngrant_type=refresh_token&client_id=c&client_secret=s&refresh_token=r"));

    let federation = r#"{"type":"external_account","audience":"aud","subject_token_type":"jwt",
        "token_url":"https://sts.googleapis.com/v1/token",
        "service_account_impersonation_url":"https://iamcredentials.googleapis.com/v1/x:generateAccessToken",
        "credential_source":{"file":"/subject.json","format":{"type":"json","subject_token_field_name":"id"}}}"#;
    let files = [("/adc.json", federation), ("/subject.json", r#"{"id":"subject"}"#)];
    let around = Around::with(&[("GOOGLE_APPLICATION_CREDENTIALS", "/adc.json")], &files);
    let impersonated = (200, r#"{"accessToken":"h","expireTime":"2023-11-14T22:23:20Z"}"#);
    let (requests, obtained) = around.chain(vertex(GoogleAuth::DefaultChain), &[answer, impersonated]);
    assert!(requests[0].starts_with("POST https://sts.googleapis.com/v1/token\n"));
    assert!(requests[0].contains("&subject_token=subject&subject_token_type=jwt"));
    assert!(requests[1].contains("\nauthorization: Bearer g\n"));
    assert_eq!(obtained, Ok(token("h", 1_700_000_600)));
}

#[test]
fn a_credential_file_that_is_none_is_named() {
    let around =
        Around::with(&[], &[("/sa.json", r#"{"type":"service_account","client_email":"x","private_key":"x"}"#)]);
    let (_, error) = around.chain(vertex(GoogleAuth::ServiceAccountFile("/sa.json".into())), &[]);
    assert_eq!(error.unwrap_err().to_string(), "/sa.json does not contain an RSA private key that can sign");
    let around = Around::with(&[], &[("/sa.json", "{}")]);
    let (_, error) = around.chain(vertex(GoogleAuth::ServiceAccountFile("/sa.json".into())), &[]);
    assert_eq!(error.unwrap_err().to_string(), "/sa.json is not a Google credential file that can be used");
}

#[test]
fn entra_gives_tokens_for_secrets_assertions_and_machines() {
    let client = [("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")];
    let grant = "POST https://login.microsoftonline.com/t/oauth2/v2.0/token\n\
                 content-type: application/x-www-form-urlencoded\n\n\
                 grant_type=client_credentials&client_id=c&scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default";
    let resource = "resource=https%3A%2F%2Fcognitiveservices.azure.com";
    for (variables, expected) in [
        ([&client[..], &[("AZURE_CLIENT_SECRET", "s")]].concat(), format!("{grant}&client_secret=s")),
        (
            [&client[..], &[("AZURE_FEDERATED_TOKEN_FILE", "/token")]].concat(),
            format!(
                "{grant}&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&\
                 client_assertion=jwt"
            ),
        ),
        (
            [&client[..], &[("AZURE_CLIENT_SECRET", "s"), ("AZURE_AUTHORITY_HOST", "login.microsoftonline.us/")]]
                .concat(),
            format!("{}&client_secret=s", grant.replace("microsoftonline.com", "microsoftonline.us")),
        ),
        (
            vec![("IDENTITY_ENDPOINT", "http://127.0.0.1:41741/msi/token"), ("IDENTITY_HEADER", "h")],
            format!("GET http://127.0.0.1:41741/msi/token?api-version=2019-08-01&{resource}\nx-identity-header: h\n\n"),
        ),
        (
            vec![("AZURE_CLIENT_ID", "c")],
            format!(
                "GET http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&{resource}&client_id=c\n\
                 metadata: true\n\n"
            ),
        ),
    ] {
        let around = Around::with(&variables, &[("/token", "jwt")]);
        let (requests, obtained) = around.chain(foundry(), &[(200, r#"{"access_token":"a","expires_in":"3600"}"#)]);
        assert_eq!(requests, [expected]);
        assert_eq!(obtained, Ok(token("a", 1_700_003_600)));
    }
    // App Service tells the moment, not the time that is left.
    for (answer, end) in [
        (r#"{"access_token":"a","expires_on":"1700000900"}"#, 1_700_000_900),
        (r#"{"access_token":"a","expires_on":1700000900}"#, 1_700_000_900),
        (r#"{"access_token":"a"}"#, 1_700_000_300),
    ] {
        let (_, obtained) = Around::with(&[("AZURE_CLIENT_ID", "c")], &[]).chain(foundry(), &[(200, answer)]);
        assert_eq!(obtained, Ok(token("a", end)), "{answer}");
    }
}

#[test]
fn a_credential_is_renewed_before_it_ends() {
    for (left, expected) in [
        (3600, Freshness::Fresh),
        (121, Freshness::Fresh),
        (120, Freshness::Due),
        (31, Freshness::Due),
        (30, Freshness::Expired),
        (-5, Freshness::Expired),
    ] {
        assert_eq!(token("t", 1_700_000_000 + left).freshness(NOW), expected, "{left}");
    }
    assert_eq!(aws_keys("i", "s", None, None).freshness(NOW), Freshness::Fresh);
}

#[test]
fn a_cached_credential_is_the_same_credential_and_debug_output_shows_no_secret() {
    let key = Obtained { credential: Credential::ApiKey(Secret::new("hidden".into())), expires_at: None };
    for obtained in [key, token("hidden", 5), aws_keys("i", "hidden", Some("hidden"), Some(7))] {
        assert_eq!(Obtained::from_bytes(obtained.to_bytes().reveal()).as_ref(), Some(&obtained));
        assert!(!format!("{obtained:?}").contains("hidden"));
    }
    assert_eq!(Obtained::from_bytes(b"{}"), None);
}
