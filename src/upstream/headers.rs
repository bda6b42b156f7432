//! Headers of requests to upstreams: what providers have in common in forwarding, adding and dropping them.

use http::header::AsHeaderName;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{CannotPrepare, Credential};
use crate::config::Upstream;
use crate::wire::content_encoding::is_known;

/// How the gateway names itself; the product name is the reference's, which operators' rules look for.
pub const USER_AGENT: &str = concat!("cc-gateway/", env!("CARGO_PKG_VERSION"));
/// The beta that allows `tags` in a body.
pub(super) const TAGS_BETA: &str = "request-tags-2026-08-21";
/// Every provider but Bedrock takes betas in this header.
pub(super) const BETA: HeaderName = HeaderName::from_static("anthropic-beta");

/// All values of `name` as one, joined with `, ` (RFC 9110 §5.3).
pub(super) fn joined(headers: &HeaderMap, name: impl AsHeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(first.clone()) };
    let mut all = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        all.extend_from_slice(b", ");
        all.extend_from_slice(value.as_bytes());
    }
    HeaderValue::from_bytes(&all).ok()
}

/// The client's `accept-encoding`, unchanged if the gateway can read all of it, else without the rest: an answer in a
/// coding that it cannot take off again could not be metered.
pub(super) fn accept_encoding(client: &HeaderMap) -> Option<HeaderValue> {
    let value = joined(client, header::ACCEPT_ENCODING)?;
    let text = value.to_str().unwrap_or_default();
    let is_readable = |coding: &&str| {
        let name = coding.split(';').next().unwrap_or_default().trim();
        is_known(name) || name.eq_ignore_ascii_case("identity")
    };
    let readable: Vec<&str> = text.split(',').map(str::trim).filter(is_readable).collect();
    match (readable.len() == text.split(',').count(), readable.is_empty()) {
        (true, _) => Some(value),
        (_, true) => Some(HeaderValue::from_static("identity")),
        _ => HeaderValue::try_from(readable.join(", ")).ok(),
    }
}

/// The client's description of its SDK, as far as it is `fit` to be sent.
pub(super) fn copy_stainless(from: &HeaderMap, to: &mut HeaderMap, fit: impl Fn(&HeaderValue) -> bool) {
    for name in from.keys().filter(|name| name.as_str().starts_with("x-stainless-")) {
        if let Some(value) = joined(from, name).filter(&fit) {
            to.insert(name.clone(), value);
        }
    }
}

/// The client's `user-agent` with ours appended.
pub(super) fn user_agent(client: &HeaderMap) -> HeaderValue {
    let ours = HeaderValue::from_static(USER_AGENT);
    let Some(client) = client.get(header::USER_AGENT).filter(|client| !client.is_empty()) else { return ours };
    HeaderValue::from_bytes(&[client.as_bytes(), b" ", USER_AGENT.as_bytes()].concat()).unwrap_or(ours)
}

/// The betas that the client asks for, in order: trimmed, without empty ones.
pub(super) fn beta_names(client: &HeaderMap) -> Vec<String> {
    let Some(value) = joined(client, BETA) else { return Vec::new() };
    let text = String::from_utf8_lossy(value.as_bytes());
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// The value of `anthropic-beta` for an upstream: the client's text, unless something has to leave or to be added.
pub(super) fn betas(client: &HeaderMap, strip_tags: bool, added: Option<&str>) -> Option<HeaderValue> {
    let mut names = beta_names(client);
    let mut value = joined(client, BETA).filter(|_| !names.is_empty());
    if strip_tags && names.iter().any(|name| name == TAGS_BETA) {
        names.retain(|name| name != TAGS_BETA);
        value = if names.is_empty() { None } else { HeaderValue::try_from(names.join(",")).ok() };
    }
    let Some(added) = added.filter(|added| !names.iter().any(|name| name == added)) else { return value };
    match value {
        Some(value) => HeaderValue::from_bytes(&[value.as_bytes(), b", ", added.as_bytes()].concat()).ok(),
        None => HeaderValue::from_str(added).ok(),
    }
}

pub(super) fn insert_betas(headers: &mut HeaderMap, betas: Option<HeaderValue>) {
    if let Some(betas) = betas {
        headers.insert(BETA, betas);
    }
}

/// The upstream's `headers:`. They replace what the client sent under the same name (inference contract §9.2).
pub(super) fn insert_static(headers: &mut HeaderMap, upstream: &Upstream) -> Result<(), CannotPrepare> {
    for (name, value) in &upstream.headers {
        let name = HeaderName::try_from(name).map_err(|_| CannotPrepare::BadHeader("headers"))?;
        let value = HeaderValue::try_from(value).map_err(|_| CannotPrepare::BadHeader("headers"))?;
        headers.insert(name, value);
    }
    Ok(())
}

/// `x-api-key` or `Authorization: Bearer`. AWS keys are no header: they sign (see [`cloud`](super::cloud)).
pub(super) fn insert_credential(headers: &mut HeaderMap, credential: &Credential) -> Result<(), CannotPrepare> {
    let (name, mut value) = match credential {
        Credential::ApiKey(key) => (HeaderName::from_static("x-api-key"), HeaderValue::try_from(key.reveal().as_str())),
        Credential::Bearer(token) => {
            (header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {}", token.reveal())))
        }
        Credential::AwsKeys(_) => return Ok(()),
    };
    let value = value.as_mut().map_err(|_| CannotPrepare::BadHeader("credential"))?;
    value.set_sensitive(true);
    headers.insert(name, value.clone());
    Ok(())
}
