//! AWS Signature Version 4 in headers, by `aws-sigv4`. `now` is an argument; what is signed is the request as it is sent.

use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use bytes::Bytes;
use http::header::ACCEPT_ENCODING;

/// Keys and scope of a signature.
#[derive(Clone, Copy)]
pub struct Signer<'a> {
    /// Access key id.
    pub access_key_id: &'a str,
    /// Secret access key.
    pub secret_access_key: &'a str,
    /// Session token of temporary keys.
    pub session_token: Option<&'a str>,
    /// Region.
    pub region: &'a str,
    /// Service, as in the credential scope.
    pub service: &'a str,
}

/// The request cannot be signed: a header is not text, or the address is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request cannot be signed")]
pub struct CannotSign;

impl Signer<'_> {
    /// Adds `authorization`, `x-amz-date`, `x-amz-content-sha256` and, with a session token, `x-amz-security-token`.
    /// All headers that are there are signed, except `user-agent` and `accept-encoding`,
    /// which proxies change.
    pub fn sign(&self, request: &mut http::Request<Bytes>, unix_secs: i64) -> Result<(), CannotSign> {
        let identity = Credentials::new(
            self.access_key_id,
            self.secret_access_key,
            self.session_token.map(str::to_owned),
            None,
            "gateway",
        )
        .into();
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.excluded_headers.get_or_insert_default().push(ACCEPT_ENCODING.as_str().into());
        let params = SigningParams::builder()
            .identity(&identity)
            .region(self.region)
            .name(self.service)
            .time(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_secs).unwrap_or(0)))
            .settings(settings)
            .build()
            .map_err(|_| CannotSign)?
            .into();

        let mut headers = Vec::with_capacity(request.headers().len());
        for (name, value) in request.headers() {
            headers.push((name.as_str(), value.to_str().map_err(|_| CannotSign)?));
        }
        let signable = SignableRequest::new(
            request.method().as_str(),
            request.uri().to_string(),
            headers.into_iter(),
            SignableBody::Bytes(request.body()),
        )
        .map_err(|_| CannotSign)?;
        let (instructions, _) = sign(signable, &params).map_err(|_| CannotSign)?.into_parts();
        instructions.apply_to_request_http1x(request);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue, Method};

    use super::*;

    const HEADERS: [(&str, &str); 7] = [
        ("content-type", "application/json"),
        ("accept", "application/json"),
        ("anthropic-version", "2023-06-01"),
        ("x-stainless-lang", "js"),
        ("user-agent", "cc-gateway/0"),
        ("accept-encoding", "identity"),
        ("anthropic-beta", "a,  b , c"),
    ];

    fn authorization(
        uri: &str,
        service: &str,
        token: Option<&str>,
        headers: &[(&str, &str)],
        body: &'static str,
    ) -> String {
        let mut request = http::Request::new(Bytes::from_static(body.as_bytes()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.parse().unwrap();
        *request.headers_mut() = headers
            .iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap()))
            .collect::<HeaderMap>();
        let signer = Signer {
            access_key_id: "placeholder-id",
            secret_access_key: "placeholder-secret",
            session_token: token,
            region: "eu-central-1",
            service,
        };
        signer.sign(&mut request, 1_700_000_000).unwrap();
        assert_eq!(request.headers()["x-amz-date"], "20231114T221320Z");
        assert_eq!(request.headers().get("x-amz-security-token").map(|token| token.to_str().unwrap()), token);
        request.headers()["authorization"].to_str().unwrap().to_owned()
    }

    /// The signatures were made by botocore 1.44.5 (`SigV4Auth`, payload signing on) from the same requests.
    #[test]
    fn signatures_are_those_of_botocore() {
        let bedrock = "https://bedrock-runtime.eu-central-1.amazonaws.com/model";
        let all = "accept;anthropic-beta;anthropic-version;content-type;host;x-amz-content-sha256;x-amz-date;\
                   x-stainless-lang";
        let with_token = "accept;anthropic-beta;anthropic-version;content-type;host;x-amz-content-sha256;x-amz-date;\
                          x-amz-security-token;x-stainless-lang";
        for (uri, service, token, headers, body, signed, signature) in [
            (
                format!("{bedrock}/us.anthropic.claude-sonnet-4-5-20250929-v1:0/invoke"),
                "bedrock",
                None,
                &HEADERS[..],
                r#"{"a":"é"}"#,
                all,
                "f038847c52aea37946e6ba185d7dce29c27901d414a5fab203e25d1831d27cfe",
            ),
            (
                format!(
                    "{bedrock}/arn:aws:bedrock:us-east-1:1111:application-inference-profile%2Fab12/\
                     invoke-with-response-stream"
                ),
                "bedrock",
                Some("placeholder/token=="),
                &HEADERS,
                "{}",
                with_token,
                "005cad760ba29824cf1bfefb5c84ebbc85804d96385ebfffce13d03eb9a1d96e",
            ),
            (
                "http://127.0.0.1:8443/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/count-tokens".to_owned(),
                "bedrock",
                None,
                &HEADERS[..2],
                "{}",
                "accept;content-type;host;x-amz-content-sha256;x-amz-date",
                "94c6ee2dae41efcb4c091cbd7c77d638b2526c4846439694d98435d8655942c5",
            ),
            (
                "https://aws-external-anthropic.eu-central-1.api.aws/v1/messages".to_owned(),
                "aws-external-anthropic",
                None,
                &HEADERS,
                "",
                all,
                "dcc673a60f003029ef9c9af9e403d16f3b974fe498942ba40ff00072681ea7c9",
            ),
            (
                "https://sts.eu-central-1.amazonaws.com/".to_owned(),
                "sts",
                None,
                &[("content-type", "application/x-www-form-urlencoded")],
                "Action=AssumeRole&Version=2011-06-15",
                "content-type;host;x-amz-content-sha256;x-amz-date",
                "1c399591c329dde0c7a333d994a6862bc3ee1de83c4d57e9193799a4a1da612e",
            ),
            (
                "https://example.com/a%20b/c~d?x=1&y=a%2Fb&a=".to_owned(),
                "bedrock",
                None,
                &[],
                "",
                "host;x-amz-content-sha256;x-amz-date",
                "bc477abc9f38389340499081318b9fa1f02ebef98621d5921cc2e14e6d6b4a9f",
            ),
        ] {
            assert_eq!(
                authorization(&uri, service, token, headers, body),
                format!(
                    "AWS4-HMAC-SHA256 Credential=placeholder-id/20231114/eu-central-1/{service}/aws4_request, \
                     SignedHeaders={signed}, Signature={signature}"
                ),
                "{uri}"
            );
        }
    }
}
