//! The provider that speaks the Anthropic wire format itself: nothing is translated, little is touched
//! (inference contract §5 and §9).

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::headers;
use super::{Call, CannotPrepare, Credential};
use crate::config::Upstream;
use crate::wire::content_encoding::undecodable;
use crate::wire::json_edit::Edits;

/// Where requests go when no `base_url` is configured.
const DEFAULT_BASE: &str = "https://api.anthropic.com";
/// The beta that lets a bearer token take the place of an API key.
pub(super) const OAUTH_BETA: &str = "oauth-2025-04-20";

/// Headers of an answer that belong to the connection with the upstream, or to the gateway's account there.
const DROPPED_FROM_ANSWERS: [&str; 8] = [
    "connection",
    "content-encoding",
    "content-length",
    "transfer-encoding",
    "via",
    "cf-ray",
    "request-id",
    "x-request-id",
];
/// The same, as the beginning of a name.
const DROPPED_PREFIX: &str = "anthropic-ratelimit-";

/// The root of all paths.
pub(super) fn base(upstream: &Upstream) -> &str {
    upstream.base_url.as_deref().unwrap_or(DEFAULT_BASE)
}

pub(super) fn prepare(
    upstream: &Upstream,
    forward_user_identity: bool,
    call: &Call<'_>,
    model: &str,
    credential: &Credential,
) -> Result<http::Request<bytes::Bytes>, CannotPrepare> {
    let mut headers = HeaderMap::with_capacity(16);
    for name in [header::ACCEPT, header::CONTENT_TYPE] {
        if let Some(value) = headers::joined(call.headers, &name) {
            headers.insert(name, value);
        }
    }
    if let Some(value) = headers::accept_encoding(call.headers) {
        headers.insert(header::ACCEPT_ENCODING, value);
    }
    headers.entry(header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    if let Some(version) = headers::joined(call.headers, "anthropic-version") {
        headers.insert("anthropic-version", version);
    }
    headers::copy_stainless(call.headers, &mut headers, |_| true);
    headers.insert(header::USER_AGENT, headers::user_agent(call.headers));

    let oauth = matches!(credential, Credential::Bearer(_)).then_some(OAUTH_BETA);
    headers::insert_betas(&mut headers, headers::betas(call.headers, call.strip_tags, oauth));
    if forward_user_identity {
        identify(call, &mut headers);
    }
    headers::insert_static(&mut headers, upstream)?;
    headers::insert_credential(&mut headers, credential)?;

    let mut edits = Edits::new();
    if model != call.message.model() {
        edits.set("model", &model);
    }
    if call.strip_tags {
        edits.remove("tags");
    }
    let body = edits.apply(call.message.body(), call.message.object());

    let query = call.query.map(|query| format!("?{query}")).unwrap_or_default();
    super::post(&format!("{}{}{query}", base(upstream), call.operation.path()), headers, body)
}

/// Inference contract §9.4. A name that no header can carry is left out.
fn identify(call: &Call<'_>, headers: &mut HeaderMap) {
    let mut insert = |name: &'static str, value: &str| {
        if !value.is_empty()
            && let Ok(value) = HeaderValue::from_bytes(value.as_bytes())
        {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    insert("x-claude-gateway-user-id", call.caller.sub);
    if let Some(email) = call.caller.email {
        insert("x-claude-gateway-user-email", email);
        insert("x-litellm-end-user-id", email);
    }
}

/// What the client sees of the headers of an answer (inference contract §5.3). A coding that the gateway cannot take off
/// is the client's affair.
pub(super) fn answer_headers(upstream: &HeaderMap) -> HeaderMap {
    let mut headers = upstream.clone();
    for name in DROPPED_FROM_ANSWERS {
        headers.remove(name);
    }
    if let Some(coding) = undecodable(upstream) {
        headers.insert(header::CONTENT_ENCODING, coding.clone());
    }
    let account: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with(DROPPED_PREFIX)).cloned().collect();
    for name in account {
        headers.remove(name);
    }
    headers
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::{Caller, Message, Operation};
    use super::*;
    use crate::config::{AnthropicAuth, Provider, Secret};

    fn upstream() -> Upstream {
        let auth = AnthropicAuth::ApiKey(Secret::new("placeholder-key".into()));
        Upstream {
            base_url: Some("https://llm.example/prefix".into()),
            headers: vec![("x-team".into(), "one".into()), ("x-stainless-os".into(), "ours".into())],
            ..crate::testing::upstream("a", Provider::Anthropic { auth, forward_user_identity: false })
        }
    }

    fn key() -> Credential {
        Credential::ApiKey(Secret::new("placeholder-key".into()))
    }

    fn client(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    struct Asked {
        headers: HeaderMap,
        body: &'static str,
        model: &'static str,
        strip_tags: bool,
        identity: bool,
        credential: Credential,
    }

    impl Asked {
        fn with(headers: &[(&'static str, &'static str)]) -> Self {
            let body = r#"{ "model" : "claude-opus-5", "n":1.0,"n":2,"tags":{} }"#;
            let headers = client(headers);
            Self { headers, body, model: "claude-opus-5", strip_tags: false, identity: false, credential: key() }
        }

        fn send(&self) -> http::Request<Bytes> {
            let message = Message::parse(Bytes::from_static(self.body.as_bytes())).unwrap();
            let call = Call {
                operation: Operation::Messages,
                query: Some("beta=true&x=%20"),
                headers: &self.headers,
                message: &message,
                caller: Caller { sub: "user-1", email: Some("a@example.com") },
                strip_tags: self.strip_tags,
            };
            prepare(&upstream(), self.identity, &call, self.model, &self.credential).unwrap()
        }
    }

    fn shown(headers: &HeaderMap) -> String {
        let mut lines: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines.join("\n")
    }

    #[test]
    fn only_the_headers_that_the_contract_names_are_forwarded() {
        let sent = Asked::with(&[
            ("accept", "application/json"),
            ("accept-encoding", "gzip, br"),
            ("content-type", "application/json"),
            ("anthropic-version", "2023-06-01"),
            ("anthropic-beta", "one"),
            ("anthropic-beta", "two, three"),
            ("anthropic-dangerous-direct-browser-access", "true"),
            ("x-stainless-lang", "js"),
            ("x-stainless-os", "theirs"),
            ("user-agent", "claude-cli/2.0"),
            ("authorization", "Bearer session"),
            ("x-api-key", "theirs"),
            ("cookie", "a=b"),
            ("x-app", "cli"),
            ("x-claude-gateway-user-id", "forged"),
            ("content-encoding", "identity"),
            ("traceparent", "00-1"),
        ])
        .send();
        assert_eq!(sent.uri(), "https://llm.example/prefix/v1/messages?beta=true&x=%20");
        assert_eq!(
            shown(sent.headers()),
            format!(
                "accept-encoding: gzip, br\naccept: application/json\nanthropic-beta: one, two, three\n\
                 anthropic-version: 2023-06-01\ncontent-type: application/json\n\
                 user-agent: claude-cli/2.0 cc-gateway/{0}\nx-api-key: placeholder-key\nx-stainless-lang: js\n\
                 x-stainless-os: ours\nx-team: one",
                env!("CARGO_PKG_VERSION")
            )
        );
    }

    #[test]
    fn only_codings_that_can_be_taken_off_again_are_asked_for() {
        for (accepted, expected) in [
            ("gzip,deflate;q=0.5 , br", "gzip,deflate;q=0.5 , br"),
            ("gzip, deflate, br, zstd", "gzip, deflate, br"),
            ("zstd", "identity"),
            ("*", "identity"),
        ] {
            assert_eq!(Asked::with(&[("accept-encoding", accepted)]).send().headers()["accept-encoding"], expected);
        }
    }

    #[test]
    fn what_the_client_leaves_out_is_not_made_up() {
        let sent = Asked::with(&[]).send();
        assert_eq!(
            shown(sent.headers()),
            format!(
                "accept: */*\nuser-agent: cc-gateway/{}\nx-api-key: placeholder-key\nx-stainless-os: ours\nx-team: one",
                env!("CARGO_PKG_VERSION")
            )
        );
    }

    #[test]
    fn a_body_that_needs_no_change_leaves_as_it_came() {
        let asked = Asked::with(&[]);
        assert_eq!(asked.send().body(), asked.body);
    }

    #[test]
    fn another_model_id_changes_nothing_else() {
        let asked = Asked { model: "claude-opus-5-x", ..Asked::with(&[]) };
        assert_eq!(asked.send().body(), r#"{ "model" : "claude-opus-5-x", "n":1.0,"n":2,"tags":{} }"#);
    }

    #[test]
    fn tags_for_the_gateway_leave_body_and_betas() {
        for (betas, expected) in [
            ("one, request-tags-2026-08-21 ,two", Some("one,two")),
            ("request-tags-2026-08-21", None),
            ("one , two", Some("one , two")),
        ] {
            let sent = Asked { strip_tags: true, ..Asked::with(&[("anthropic-beta", betas)]) }.send();
            assert_eq!(sent.headers().get("anthropic-beta").map(|value| value.to_str().unwrap()), expected);
            assert_eq!(sent.body(), r#"{ "model" : "claude-opus-5", "n":1.0,"n":2 }"#);
        }
    }

    #[test]
    fn a_bearer_token_brings_its_beta() {
        for (betas, expected) in [
            (&[][..], "oauth-2025-04-20"),
            (&[("anthropic-beta", "one")], "one, oauth-2025-04-20"),
            (&[("anthropic-beta", "oauth-2025-04-20,one")], "oauth-2025-04-20,one"),
        ] {
            let credential = Credential::Bearer(Secret::new("placeholder-token".into()));
            let sent = Asked { credential, ..Asked::with(betas) }.send();
            assert_eq!(sent.headers()["anthropic-beta"], expected);
            assert_eq!(sent.headers()["authorization"], "Bearer placeholder-token");
            assert!(sent.headers()["authorization"].is_sensitive());
            assert!(!sent.headers().contains_key("x-api-key"));
        }
    }

    #[test]
    fn identity_is_sent_only_when_configured() {
        let sent = Asked { identity: true, ..Asked::with(&[("x-claude-gateway-user-id", "forged")]) }.send();
        assert_eq!(sent.headers()["x-claude-gateway-user-id"], "user-1");
        assert_eq!(sent.headers()["x-claude-gateway-user-email"], "a@example.com");
        assert_eq!(sent.headers()["x-litellm-end-user-id"], "a@example.com");
        assert!(!Asked::with(&[]).send().headers().contains_key("x-claude-gateway-user-id"));
    }

    #[test]
    fn answers_lose_what_belongs_to_the_connection_or_to_the_account() {
        let headers = client(&[
            ("connection", "close"),
            ("content-encoding", "gzip"),
            ("content-length", "5"),
            ("via", "1.1 x"),
            ("cf-ray", "x"),
            ("request-id", "req_1"),
            ("x-request-id", "x"),
            ("anthropic-ratelimit-requests-remaining", "1"),
            ("anthropic-ratelimit-unified-5h-status", "allowed"),
            ("retry-after", "5"),
            ("x-should-retry", "true"),
            ("anthropic-organization-id", "o"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("server", "cloudflare"),
        ]);
        assert_eq!(
            shown(&answer_headers(&headers)),
            "anthropic-organization-id: o\nretry-after: 5\nserver: cloudflare\nset-cookie: a=1\nset-cookie: b=2\n\
             x-should-retry: true"
        );
    }
}
