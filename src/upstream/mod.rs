//! Providers as pure translators: a call in, a request out; an answer in, a verdict and the client's answer out.
//!
//! A relay uses this layer in the following order. Nothing here waits, sends, or asks for the time.
//!
//! 1. [`Message::parse`] reads the body; [`Catalog::plan`] says where it may go, and as which model.
//! 2. For each candidate: if [`may_pause`] says so, ask its [`CountPause`] first. Then [`credentials::configured`], or a
//!    credential that was obtained as [`credentials`] describes; then [`prepare`] makes the request to send. An answer of
//!    which [`credentials::is_withdrawn`] is true is repeated once with a new credential.
//! 3. [`verdict()`] judges the status. `TryNext`: hand [`error_answer`] to [`Failures::add`] (if
//!    [`Failures::wants`] it [`told_as`] it will be) and go on. `GiveUp`: [`error_answer`] is the answer. `Take`: [`head`] makes the headers that the client sees,
//!    and [`form`] says what becomes of the body. An attempt that has no answer at all: [`without_answer`].
//! 4. When no candidate is left: [`Failures::into_answer`], else [`all_failed`].
//!
//! Streams are translated in `stream`; who may ask and what it costs is decided in `domain`.

mod anthropic;
mod bedrock;
pub mod catalog;
mod cloud;
mod cloud_error;
pub mod compatibility;
mod count_pause;
pub mod credentials;
mod estimate;
mod headers;
mod message;
mod messages_clouds;
mod verdict;
mod vertex;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, response};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::config::{Provider, Upstream};
use crate::domain::checksum::hex;
use crate::domain::ids::Timestamp;
use crate::stream::Translator;
use crate::stream::bedrock::BedrockStream;
use crate::stream::cloud_sse::CloudSse;

use crate::wire::json_object::{NotObject, Object};

use bedrock::Bedrock;
use messages_clouds::MessagesCloud;

pub use catalog::Catalog;
pub use count_pause::CountPause;
pub use credentials::{AwsKeys, Credential};
pub use headers::USER_AGENT;
pub use message::{BillingGroup, Malformed, Message};
pub use verdict::{Failures, Verdict};

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `POST /v1/messages`.
    Messages,
    /// `POST /v1/messages/count_tokens`.
    CountTokens,
}

impl Operation {
    /// Its path, here and in the Anthropic wire format.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
        }
    }
}

/// One inference request as every upstream gets to see it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// What is asked for.
    pub operation: Operation,
    /// The query as it came, without `?`.
    pub query: Option<&'a str>,
    /// The client's headers.
    pub headers: &'a HeaderMap,
    /// The body (masked, if masking is on).
    pub message: &'a Message,
    /// Who asks.
    pub caller: Caller<'a>,
    /// Whether `tags` and their beta are for the gateway alone: `admin.billing_group_tag` is set (inference contract §17).
    pub strip_tags: bool,
}

/// Who asks, for upstreams that want to know.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Subject of the session.
    pub sub: &'a str,
    /// Its e-mail address.
    pub email: Option<&'a str>,
}

/// Why there is no request for an upstream; the next one is tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotPrepare {
    /// The upstream cannot count tokens of this model.
    #[error("the upstream cannot count tokens of this model")]
    CannotCount,
    /// The address that results from the configuration is none.
    #[error("not a valid address: {0}")]
    BadAddress(String),
    /// A header from this part of the configuration cannot be sent.
    #[error("{0} contains characters that no header can carry")]
    BadHeader(&'static str),
    /// No signature can be made of the request.
    #[error("the request cannot be signed")]
    CannotSign,
}

/// The request that asks `upstream` what `call` asks for. `model` is what this upstream calls the model
/// ([`catalog::Candidate::model`]). `content-length` is left to the sender.
pub fn prepare(
    upstream: &Upstream,
    call: &Call<'_>,
    model: &str,
    credential: &Credential,
    now: Timestamp,
) -> Result<http::Request<Bytes>, CannotPrepare> {
    let messages_cloud = match &upstream.provider {
        Provider::Anthropic { forward_user_identity, .. } => {
            return anthropic::prepare(upstream, *forward_user_identity, call, model, credential);
        }
        Provider::Bedrock { region, guardrail, .. } => {
            let bedrock = Bedrock { region, guardrail: guardrail.as_ref() };
            return bedrock.prepare(upstream, call, model, credential, now);
        }
        Provider::Vertex { region, project_id, .. } => {
            return vertex::prepare(upstream, region, project_id, call, model, credential);
        }
        Provider::Mantle { region, .. } => MessagesCloud {
            default_base: format!("https://bedrock-mantle.{region}.api.aws/anthropic"),
            refuses_tags: true,
            workspace_id: None,
            aws: Some((region, "bedrock-mantle")),
        },
        Provider::AnthropicAws { region, workspace_id, .. } => MessagesCloud {
            default_base: format!("https://aws-external-anthropic.{region}.api.aws"),
            refuses_tags: false,
            workspace_id: Some(workspace_id),
            aws: Some((region, "aws-external-anthropic")),
        },
        Provider::AnthropicGoogleCloud { project_id, workspace_id, location, .. } => MessagesCloud {
            default_base: format!(
                "https://claude.googleapis.com/v1/projects/{project_id}/locations/{location}/workspaces/{workspace_id}\
                 /invoke"
            ),
            refuses_tags: false,
            workspace_id: None,
            aws: None,
        },
        Provider::Foundry { resource, .. } => MessagesCloud {
            default_base: format!("https://{resource}.services.ai.azure.com/anthropic"),
            refuses_tags: false,
            workspace_id: None,
            aws: None,
        },
    };
    messages_cloud.prepare(upstream, call, model, credential, now)
}

/// What the status of `upstream`'s answer means for the request.
pub fn verdict(upstream: &Upstream, operation: Operation, status: StatusCode) -> Verdict {
    match (Verdict::of(status), operation, &upstream.provider) {
        // Inference contract §10.5: whatever AWS says, another upstream may be able to count.
        (Verdict::GiveUp, Operation::CountTokens, Provider::Bedrock { .. }) => Verdict::TryNext,
        // Inference contract §5.4 and §13.1: it is relayed as it is, and metered.
        (Verdict::GiveUp, _, Provider::Anthropic { .. }) if status.is_redirection() => Verdict::Take,
        (Verdict::GiveUp, _, _) if upstream.failover_on.contains(&status.as_u16()) => Verdict::TryNext,
        (verdict, _, _) => verdict,
    }
}

/// Whether [`CountPause`] governs this operation on `upstream`. Elsewhere a count that fails says nothing about the next.
pub fn may_pause(upstream: &Upstream, operation: Operation) -> bool {
    matches!((&upstream.provider, operation), (Provider::Bedrock { .. }, Operation::CountTokens))
}

/// A digest of where `upstream` leads and how: what is remembered of it in the store belongs to it only while the
/// configuration says the same. Secrets do not show in it.
pub fn fingerprint(upstream: &Upstream) -> String {
    let Upstream { name, base_url, provider, .. } = upstream;
    hex(&Sha256::digest(format!("{name:?} {base_url:?} {provider:?}")))
}

/// What becomes of the body of an answer that is taken.
pub enum Form {
    /// It is relayed piece by piece as it comes, decompressed if need be.
    Relay,
    /// It is read whole and goes through [`json_answer`].
    Json,
    /// It is translated piece by piece; silence is filled with [`stream::PING`](crate::stream::PING): every 5 s it is
    /// checked whether 15 s have passed without output.
    Stream(Box<dyn Translator>),
}

const JSON_TYPE: &[u8] = b"application/json";
const EVENT_STREAM_TYPE: &[u8] = b"application/vnd.amazon.eventstream";

/// What becomes of the body of an answer with this head.
pub fn form(upstream: &Upstream, call: &Call<'_>, head: &response::Parts, request_id: &str) -> Form {
    if let Provider::Anthropic { .. } = &upstream.provider {
        return Form::Relay;
    }
    let content_type = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if call.operation == Operation::CountTokens || !call.message.is_stream() || content_type.starts_with(JSON_TYPE) {
        Form::Json
    } else if content_type.starts_with(EVENT_STREAM_TYPE) {
        Form::Stream(Box::new(BedrockStream::new(request_id)))
    } else {
        Form::Stream(Box::new(CloudSse::new(request_id)))
    }
}

/// The headers of an answer that is taken, without those that the gateway adds itself: `request-id`, `x-request-id`,
/// limits, security.
pub fn head(upstream: &Upstream, form: &Form, head: &response::Parts) -> HeaderMap {
    match (&upstream.provider, form) {
        (Provider::Anthropic { .. }, _) => anthropic::answer_headers(&head.headers),
        (_, Form::Relay | Form::Json) => json_headers(),
        (_, Form::Stream(_)) => HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (header::CONNECTION, HeaderValue::from_static("keep-alive")),
        ]),
    }
}

/// The client's form of a JSON answer that is taken; an error means that the next upstream is tried.
pub fn json_answer(upstream: &Upstream, operation: Operation, body: Bytes) -> Result<Bytes, Unreadable> {
    match (&upstream.provider, operation) {
        (Provider::Anthropic { .. }, _) => Ok(body),
        (Provider::Bedrock { .. }, Operation::CountTokens) => bedrock::counted(&body),
        _ => match Object::scan(&body) {
            Err(NotObject::Invalid) => Err(Unreadable),
            Ok(_) | Err(NotObject::OtherType) => Ok(body),
        },
    }
}

/// An answer of 200 that does not parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the upstream's answer is not the JSON that it should be")]
pub struct Unreadable;

/// The client's form of an answer that failed: `body` is all of it. Its status may differ from the upstream's. Its `x-request-id` is left to the gateway.
pub fn error_answer(
    upstream: &Upstream,
    call: &Call<'_>,
    head: &response::Parts,
    body: Bytes,
    request_id: &str,
) -> http::Response<Bytes> {
    match (&upstream.provider, call.operation) {
        (Provider::Anthropic { .. }, _) => {
            let mut answer = http::Response::new(body);
            *answer.status_mut() = head.status;
            *answer.headers_mut() = anthropic::answer_headers(&head.headers);
            answer
        }
        (Provider::Bedrock { .. }, Operation::CountTokens) => cannot_count(request_id),
        (provider, _) => cloud_error::answer(provider.name(), call.message.model(), head.status, &body, request_id),
    }
}

/// The status that [`error_answer`] will have: whether it is wanted can be asked before its body is read.
pub fn told_as(upstream: &Upstream, operation: Operation, status: StatusCode) -> StatusCode {
    match (&upstream.provider, operation) {
        (Provider::Bedrock { .. }, Operation::CountTokens) => StatusCode::NOT_IMPLEMENTED,
        _ => status,
    }
}

/// What an attempt leaves behind for [`Failures::add`] when there is no answer: no request could be made, no credential
/// obtained, no connection, or counting is paused ([`CountPause`]).
pub fn without_answer(upstream: &Upstream, operation: Operation, request_id: &str) -> Option<http::Response<Bytes>> {
    match (&upstream.provider, operation) {
        (Provider::Bedrock { .. }, Operation::CountTokens) => Some(cannot_count(request_id)),
        _ => None,
    }
}

/// Inference contract §10.5. Clients then count by themselves, and need not ask again.
fn cannot_count(request_id: &str) -> http::Response<Bytes> {
    let message = "count_tokens is not available on this Bedrock upstream";
    let mut answer = envelope(StatusCode::NOT_IMPLEMENTED, "not_supported", message, request_id);
    answer.headers_mut().insert("x-should-retry", HeaderValue::from_static("false"));
    answer
}

/// The gateway's own answer when nothing better can be told: `permitted` is [`catalog::Plan::permitted`].
pub fn all_failed(permitted: usize, request_id: &str) -> http::Response<Bytes> {
    envelope(StatusCode::BAD_GATEWAY, "api_error", &format!("all upstreams failed ({permitted} attempted)"), request_id)
}

/// The ids under which `upstream`'s operator finds a request: its own, and its cloud's (inference contract §12).
pub fn request_ids(headers: &HeaderMap) -> RequestIds {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let aws = text("x-amzn-requestid");
    RequestIds { upstream: text("request-id").or_else(|| aws.clone()), cloud: aws.or_else(|| text("apim-request-id")) }
}

/// See [`request_ids`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestIds {
    /// `upstream_request_id` of the audit trail.
    pub upstream: Option<String>,
    /// `upstream_cloud_request_id` of the audit trail.
    pub cloud: Option<String>,
}

/// An error in the form of the Messages API (inference contract §2.4).
fn envelope(status: StatusCode, kind: &str, message: &str, request_id: &str) -> http::Response<Bytes> {
    let body = json!({"type": "error", "request_id": request_id, "error": {"type": kind, "message": message}});
    let mut answer = http::Response::new(Bytes::from(body.to_string()));
    *answer.status_mut() = status;
    *answer.headers_mut() = json_headers();
    answer
}

fn json_headers() -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static("application/json;charset=utf-8"))])
}

fn post(address: &str, headers: HeaderMap, body: Bytes) -> Result<http::Request<Bytes>, CannotPrepare> {
    let uri: http::Uri = address.parse().map_err(|_| CannotPrepare::BadAddress(address.to_owned()))?;
    let mut request = http::Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    *request.headers_mut() = headers;
    Ok(request)
}

#[cfg(test)]
mod tests;
