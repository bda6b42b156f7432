//! How we speak to the identity provider: its discovery document, the requests to its token endpoint, and how to read
//! the answers (OpenID Connect Discovery, RFC 6749, RFC 7523; auth contract §3.2, §5.6, §6).
//!
//! Sending is `idp.rs`; id tokens are judged in `id_token.rs`.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

use crate::config::{ClientAssertion, Oidc, Secret, SigningAlg, TokenEndpointAuthMethod};
use crate::domain::ids::Timestamp;
use crate::wire::jwks::Algorithm;
use crate::wire::jwt;

/// What the discovery document says (OpenID Connect Discovery §3), as far as the gateway uses it.
#[derive(Debug, Clone, Deserialize)]
pub struct Metadata {
    /// Whom id tokens must come from.
    pub issuer: String,
    /// Where browsers go. A provider without one is noticed at the first sign-in.
    pub authorization_endpoint: Option<Url>,
    /// Where codes and refresh tokens are exchanged.
    pub token_endpoint: Url,
    /// Where the keys are.
    pub jwks_uri: Url,
    /// Where more is known about a person.
    pub userinfo_endpoint: Option<Url>,
    #[serde(default)]
    token_endpoint_auth_methods_supported: Vec<String>,
}

/// The document is not a discovery document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the discovery document is unusable: {0}")]
pub struct UnusableMetadata(String);

impl Metadata {
    /// Where the document is.
    pub fn url(oidc: &Oidc) -> String {
        oidc.discovery_url.as_ref().map_or_else(
            || format!("{}/.well-known/openid-configuration", oidc.issuer.as_str().trim_end_matches('/')),
            |url| url.as_str().to_owned(),
        )
    }

    /// Reads a discovery document.
    pub fn parse(document: &[u8]) -> Result<Self, UnusableMetadata> {
        let metadata: Self = serde_json::from_slice(document).map_err(|error| UnusableMetadata(error.to_string()))?;
        for url in [&metadata.token_endpoint, &metadata.jwks_uri].into_iter().chain(&metadata.userinfo_endpoint) {
            if !matches!(url.scheme(), "http" | "https") {
                return Err(UnusableMetadata(format!("{url} is not http(s)")));
            }
        }
        Ok(metadata)
    }

    /// Whether the document speaks for another issuer than the configured one. That is trusted, as the reference does
    /// (auth contract §14): multi-tenant issuers and `discovery_url` need it. It is worth a line in the log.
    pub fn differs_from(&self, configured: &Url) -> bool {
        self.issuer.trim_end_matches('/') != configured.as_str().trim_end_matches('/')
    }
}

/// The algorithm that id tokens must have.
pub const fn algorithm(configured: SigningAlg) -> Algorithm {
    match configured {
        SigningAlg::Rs256 => Algorithm::Rs256,
        SigningAlg::Rs384 => Algorithm::Rs384,
        SigningAlg::Rs512 => Algorithm::Rs512,
        SigningAlg::Ps256 => Algorithm::Ps256,
        SigningAlg::Ps384 => Algorithm::Ps384,
        SigningAlg::Ps512 => Algorithm::Ps512,
        SigningAlg::Es256 => Algorithm::Es256,
        SigningAlg::Es384 => Algorithm::Es384,
        SigningAlg::Es512 => Algorithm::Es512,
        SigningAlg::EdDsa => Algorithm::EdDsa,
    }
}

/// A request to the token endpoint: the form, and what authenticates it.
pub struct TokenRequest {
    /// `application/x-www-form-urlencoded` body.
    pub body: String,
    /// `Authorization` header, with `client_secret_basic`.
    pub authorization: Option<Secret<String>>,
}

/// What is exchanged for tokens.
#[derive(Debug, Clone, Copy)]
pub enum Grant<'a> {
    /// A code (RFC 6749 §4.1.3).
    Code {
        /// `code`.
        code: &'a str,
        /// `redirect_uri`, as in the authorization request.
        redirect_uri: &'a str,
        /// `code_verifier`, with PKCE.
        code_verifier: Option<&'a str>,
    },
    /// A refresh token (RFC 6749 §6).
    Refresh {
        /// `refresh_token`.
        refresh_token: &'a Secret<String>,
    },
}

/// The configured key or certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("oidc.client_assertion: {0}")]
pub struct UnusableAssertionKey(String);

impl TokenRequest {
    /// The request for `grant`, authenticated as configured or, without a method, as the document allows.
    /// `jti` names the assertion of `private_key_jwt`.
    pub fn new(
        grant: Grant<'_>,
        oidc: &Oidc,
        metadata: &Metadata,
        jti: &str,
        now: Timestamp,
    ) -> Result<Self, UnusableAssertionKey> {
        let mut form = Serializer::new(String::new());
        match grant {
            Grant::Code { code, redirect_uri, code_verifier } => {
                form.append_pair("grant_type", "authorization_code");
                form.append_pair("code", code).append_pair("redirect_uri", redirect_uri);
                if let Some(verifier) = code_verifier {
                    form.append_pair("code_verifier", verifier);
                }
            }
            Grant::Refresh { refresh_token } => {
                form.append_pair("grant_type", "refresh_token");
                form.append_pair("refresh_token", refresh_token.reveal());
                if oidc.scope_on_refresh {
                    form.append_pair("scope", &oidc.scopes.join(" "));
                }
            }
        }
        let secret = oidc.client_secret.as_ref().map(|secret| secret.reveal().as_str()).unwrap_or_default();
        let mut authorization = None;
        match method(oidc, metadata) {
            TokenEndpointAuthMethod::ClientSecretBasic => authorization = Some(basic(&oidc.client_id, secret)),
            TokenEndpointAuthMethod::ClientSecretPost => {
                form.append_pair("client_id", &oidc.client_id).append_pair("client_secret", secret);
            }
            TokenEndpointAuthMethod::PrivateKeyJwt => {
                let key = oidc.client_assertion.as_ref().ok_or_else(|| UnusableAssertionKey("missing".to_owned()))?;
                let assertion = assertion(key, &oidc.client_id, metadata.token_endpoint.as_str(), jti, now)?;
                form.append_pair("client_id", &oidc.client_id)
                    .append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
                    .append_pair("client_assertion", &assertion);
            }
        }
        Ok(Self { body: form.finish(), authorization })
    }
}

/// Without a configured method: basic, or post when the document lists only that (auth contract §3.2).
fn method(oidc: &Oidc, metadata: &Metadata) -> TokenEndpointAuthMethod {
    oidc.token_endpoint_auth_method.unwrap_or_else(|| {
        let lists = |name| metadata.token_endpoint_auth_methods_supported.iter().any(|method| method == name);
        if lists("client_secret_post") && !lists("client_secret_basic") {
            TokenEndpointAuthMethod::ClientSecretPost
        } else {
            TokenEndpointAuthMethod::ClientSecretBasic
        }
    })
}

/// RFC 6749 §2.3.1: id and secret are form-encoded before they are joined.
fn basic(id: &str, secret: &str) -> Secret<String> {
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    Secret::new(format!("Basic {}", STANDARD.encode(format!("{}:{}", encode(id), encode(secret)))))
}

/// The assertion of RFC 7523 §2.2, with both thumbprints of the certificate (auth contract §3.2).
fn assertion(
    key: &ClientAssertion,
    client_id: &str,
    audience: &str,
    jti: &str,
    now: Timestamp,
) -> Result<String, UnusableAssertionKey> {
    let certificate = certificate_der(&key.certificate_pem)
        .ok_or_else(|| UnusableAssertionKey("certificate_pem is not a certificate".to_owned()))?;
    let header = json!({
        "alg": "RS256",
        "typ": "JWT",
        "x5t": URL_SAFE_NO_PAD.encode(Sha1::digest(&certificate)),
        "x5t#S256": URL_SAFE_NO_PAD.encode(Sha256::digest(&certificate)),
    });
    let now = now.as_secs();
    let claims = json!({
        "iss": client_id, "sub": client_id, "aud": audience, "jti": jti, "iat": now, "nbf": now, "exp": now + 300,
    });
    jwt::sign_rs256(key.private_key_pem.reveal(), &header.to_string(), &claims.to_string())
        .map_err(|error| UnusableAssertionKey(format!("private_key_pem: {error}")))
}

/// The first certificate of a PEM text (RFC 7468).
pub(super) fn certificate_der(pem: &str) -> Option<Vec<u8>> {
    let body = pem.split_once("-----BEGIN CERTIFICATE-----")?.1.split_once("-----END CERTIFICATE-----")?.0;
    let body: String = body.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    STANDARD.decode(body).ok()
}

/// Tokens of the identity provider.
#[derive(Deserialize)]
pub struct IdpTokens {
    /// Proof of who signed in; may be absent after a refresh.
    pub id_token: Option<String>,
    /// For userinfo.
    pub access_token: Option<String>,
    /// For later.
    pub refresh_token: Option<String>,
}

/// Why the token endpoint gave no tokens. The text is for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// An OAuth error (RFC 6749 §5.2).
    #[error("{}", describe(.error, .description.as_deref()))]
    Oauth {
        /// `error`.
        error: String,
        /// `error_description`.
        description: Option<String>,
    },
    /// Neither tokens nor an OAuth error.
    #[error("the token endpoint answered {0} with unreadable content")]
    Unreadable(u16),
}

/// An OAuth error as the audit trail spells it: the code, its description in parentheses.
pub fn describe(error: &str, description: Option<&str>) -> String {
    description.map_or_else(|| error.to_owned(), |description| format!("{error} ({description})"))
}

impl IdpTokens {
    /// Reads an answer of the token endpoint.
    pub fn parse(status: http::StatusCode, body: &[u8]) -> Result<Self, TokenRefusal> {
        #[derive(Deserialize)]
        struct Problem {
            error: String,
            error_description: Option<String>,
        }
        if status.is_success() {
            return serde_json::from_slice(body).map_err(|_| TokenRefusal::Unreadable(status.as_u16()));
        }
        match serde_json::from_slice::<Problem>(body) {
            // `invalid_grant` ends a session, so it counts only where RFC 6749 §5.2 puts it.
            Ok(problem) if status.is_client_error() => {
                Err(TokenRefusal::Oauth { error: problem.error, description: problem.error_description })
            }
            _ => Err(TokenRefusal::Unreadable(status.as_u16())),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use rsa::pkcs8::DecodePrivateKey;

    use super::*;
    use crate::testing;

    const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);

    fn metadata(methods: &[&str]) -> Metadata {
        let document = json!({
            "issuer": "https://idp.example.test", "token_endpoint": "https://idp.example.test/token",
            "jwks_uri": "https://idp.example.test/jwks", "token_endpoint_auth_methods_supported": methods,
        });
        Metadata::parse(document.to_string().as_bytes()).expect("a discovery document")
    }

    const CODE: Grant<'static> =
        Grant::Code { code: "c d", redirect_uri: "https://gw.example.test/oauth/callback", code_verifier: Some("v") };

    #[test]
    fn discovery_is_below_the_issuer_unless_it_is_elsewhere() {
        let mut oidc = testing::oidc();
        for (issuer, url) in [
            ("https://idp.example.test", "https://idp.example.test/.well-known/openid-configuration"),
            ("https://idp.example.test/a/", "https://idp.example.test/a/.well-known/openid-configuration"),
        ] {
            oidc.issuer = Url::parse(issuer).expect("a URL");
            assert_eq!(Metadata::url(&oidc), url);
        }
        oidc.discovery_url = Some(Url::parse("https://x.test/.well-known/y?z").expect("a URL"));
        assert_eq!(Metadata::url(&oidc), "https://x.test/.well-known/y?z");
    }

    #[test]
    fn an_unusable_document_is_refused_and_another_issuer_is_noticed() {
        for document in [
            "",
            "{}",
            r#"{"issuer":"i","token_endpoint":"t","jwks_uri":"j"}"#,
            r#"{"issuer":"i","token_endpoint":"file:///t","jwks_uri":"https://j.test"}"#,
        ] {
            assert!(Metadata::parse(document.as_bytes()).is_err(), "{document}");
        }
        for (configured, differs) in [("https://idp.example.test/", false), ("https://idp.example.test/x", true)] {
            assert_eq!(metadata(&[]).differs_from(&Url::parse(configured).expect("a URL")), differs, "{configured}");
        }
    }

    #[test]
    fn the_client_authenticates_as_configured_or_as_the_provider_allows() {
        for (configured, listed, uses_basic) in [
            (None, vec![], true),
            (None, vec!["client_secret_post"], false),
            (None, vec!["client_secret_post", "client_secret_basic"], true),
            (None, vec!["private_key_jwt"], true),
            (Some(TokenEndpointAuthMethod::ClientSecretPost), vec!["client_secret_basic"], false),
            (Some(TokenEndpointAuthMethod::ClientSecretBasic), vec!["client_secret_post"], true),
        ] {
            let oidc = Oidc { token_endpoint_auth_method: configured, ..testing::oidc() };
            let request = TokenRequest::new(CODE, &oidc, &metadata(&listed), "j", NOW).expect("a request");
            let form = "grant_type=authorization_code&code=c+d\
                &redirect_uri=https%3A%2F%2Fgw.example.test%2Foauth%2Fcallback&code_verifier=v";
            if uses_basic {
                assert_eq!(request.body, form, "{listed:?}");
                // gateway:client+secret%2F%26, form-encoded before it is joined.
                let expected = format!("Basic {}", STANDARD.encode("gateway:client+secret%2F%26"));
                assert_eq!(request.authorization.map(|header| header.reveal().clone()), Some(expected));
            } else {
                let secret = "client_id=gateway&client_secret=client+secret%2F%26";
                assert_eq!(request.body, format!("{form}&{secret}"), "{listed:?}");
                assert!(request.authorization.is_none());
            }
        }
    }

    #[test]
    fn a_refresh_sends_scopes_only_when_asked_to() {
        let token = Secret::new("r".to_owned());
        for (scope_on_refresh, body) in [
            (false, "grant_type=refresh_token&refresh_token=r"),
            (true, "grant_type=refresh_token&refresh_token=r&scope=openid+profile+email+offline_access"),
        ] {
            let oidc = Oidc { scope_on_refresh, ..testing::oidc() };
            let grant = Grant::Refresh { refresh_token: &token };
            assert_eq!(TokenRequest::new(grant, &oidc, &metadata(&[]), "j", NOW).expect("a request").body, body);
        }
    }

    #[test]
    fn private_key_jwt_signs_an_assertion_that_names_its_certificate() {
        let (private_key_pem, certificate_pem) = testing::client_certificate();
        let oidc = Oidc {
            client_secret: None,
            token_endpoint_auth_method: Some(TokenEndpointAuthMethod::PrivateKeyJwt),
            client_assertion: Some(ClientAssertion {
                private_key_pem: Secret::new(private_key_pem.clone()),
                certificate_pem: certificate_pem.clone(),
            }),
            ..testing::oidc()
        };
        let request = TokenRequest::new(CODE, &oidc, &metadata(&[]), "j-1", NOW).expect("a request");
        assert!(request.authorization.is_none());
        let form = crate::wire::form::Form::urlencoded(request.body.as_bytes());
        assert_eq!(form.first("client_id"), Some("gateway"));
        let type_ = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
        assert_eq!(form.first("client_assertion_type"), Some(type_));
        let assertion = form.first("client_assertion").expect("an assertion");
        let jws = jwt::Jws::parse(assertion).expect("a token");
        let claims: serde_json::Value = serde_json::from_slice(&jws.payload).expect("claims");
        assert_eq!(
            claims,
            json!({
                "iss": "gateway", "sub": "gateway", "aud": "https://idp.example.test/token", "jti": "j-1",
                "iat": 1_900_000_000, "nbf": 1_900_000_000, "exp": 1_900_000_300,
            })
        );
        let key = rsa::RsaPrivateKey::from_pkcs8_pem(private_key_pem.trim()).expect("a key");
        let verifier = rsa::pkcs1v15::VerifyingKey::<Sha256>::new(key.to_public_key());
        let signature = rsa::pkcs1v15::Signature::try_from(jws.signature.as_slice()).expect("a signature");
        rsa::signature::Verifier::verify(&verifier, jws.signing_input.as_bytes(), &signature).expect("genuine");
        let header = URL_SAFE_NO_PAD.decode(assertion.split('.').next().expect("a header")).expect("base64url");
        let header: serde_json::Value = serde_json::from_slice(&header).expect("JSON");
        let der = certificate_der(&certificate_pem).expect("a certificate");
        assert_eq!(header["x5t"], URL_SAFE_NO_PAD.encode(Sha1::digest(&der)));
        assert_eq!(header["x5t#S256"], URL_SAFE_NO_PAD.encode(Sha256::digest(&der)));
    }

    #[test]
    fn answers_of_the_token_endpoint_are_told_apart() {
        let oauth = |error: &str, description: Option<&str>| {
            Some(TokenRefusal::Oauth { error: error.to_owned(), description: description.map(str::to_owned) })
        };
        for (status, body, refusal) in [
            (200, r#"{"access_token":"a","id_token":"i","expires_in":"3600"}"#, None),
            (200, "<html>", Some(TokenRefusal::Unreadable(200))),
            (400, r#"{"error":"invalid_grant"}"#, oauth("invalid_grant", None)),
            (401, r#"{"error":"invalid_client","error_description":"no"}"#, oauth("invalid_client", Some("no"))),
            (500, r#"{"error":"invalid_grant"}"#, Some(TokenRefusal::Unreadable(500))),
            (503, "<html>", Some(TokenRefusal::Unreadable(503))),
            (302, "", Some(TokenRefusal::Unreadable(302))),
            (400, "", Some(TokenRefusal::Unreadable(400))),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(IdpTokens::parse(status, body.as_bytes()).err(), refusal, "{status} {body}");
        }
        let refusal = oauth("invalid_client", Some("no")).expect("just made");
        assert_eq!(refusal.to_string(), "invalid_client (no)");
    }
}
