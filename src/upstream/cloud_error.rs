//! What a client is told about the errors of cloud providers (inference contract §11).
//!
//! Little of what a cloud says is meant for the gateway's users: account ids, quotas, policies. What passes is an error
//! in Anthropic's own form, and what clients act on: they recover by themselves from the causes in [`PHRASES`].

use bytes::Bytes;
use http::StatusCode;
use serde_json::Value;

use super::envelope;

/// The types an error of the Messages API may have.
const ERROR_TYPES: [&str; 10] = [
    "invalid_request_error",
    "request_too_large",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "rate_limit_error",
    "billing_error",
    "overloaded_error",
    "timeout_error",
    "api_error",
];

/// Statuses that are told in one way, whatever the upstream's body says.
const BY_STATUS: [(u16, &str, &str); 5] = [
    (401, "authentication_error", "upstream authentication failed — check the gateway operator"),
    (403, "permission_error", "upstream denied the request — check the gateway operator"),
    (404, "not_found_error", "upstream resource not found"),
    (429, "rate_limit_error", "upstream rate limit exceeded"),
    (501, "not_supported", "upstream does not support this endpoint"),
];

/// What Bedrock says of a model id that it does not know.
const UNKNOWN_MODEL: &str = "The provided model identifier is invalid.";

/// How a cause shows itself in a text.
enum Sign {
    /// All of the message is this, in any case, with or without a full stop.
    Whole(&'static str),
    /// One of these occurs.
    Any(&'static [&'static str]),
    /// One of these occurs, in any case.
    AnyCase(&'static [&'static str]),
    /// These occur in this order, with nothing but the given number of bytes between one and the next.
    Near(&'static [&'static str], usize),
    /// All of these occur, in any case and order.
    All(&'static [&'static str]),
}

/// Signs of causes and the message that each becomes; the first that matches counts (inference contract §11.1).
const PHRASES: &[(Sign, &str)] = &[
    (Sign::Whole("input is too long"), "Input is too long."),
    (Sign::Near(&["The request size (", " bytes) exceeds ", "MB limit."], 16), "Input is too long."),
    (Sign::Any(&["The message size ("]), "Input is too long."),
    (
        Sign::AnyCase(&["prompt is too long", "input is too long for requested model"]),
        "capability_rejected: prompt_too_long",
    ),
    (
        Sign::Any(&["input length and `max_tokens` exceed context limit"]),
        "capability_rejected: max_tokens_context_overflow",
    ),
    (
        Sign::Any(&["adaptive thinking is not supported", "thinking.type.adaptive is not supported"]),
        "capability_rejected: thinking_type:adaptive",
    ),
    (Sign::Near(&["thinking.type.adaptive", "not supported"], 24), "capability_rejected: thinking_type:adaptive"),
    (Sign::Near(&["thinking.type.enabled", "not supported"], 24), "capability_rejected: thinking_type:enabled"),
    (Sign::All(&["thinking", "signature", "invalid"]), "capability_rejected: thinking_signature"),
    (Sign::All(&["thinking", "signature", "required"]), "capability_rejected: thinking_signature"),
    (Sign::All(&["thinking", "signature", "missing"]), "capability_rejected: thinking_signature"),
    (Sign::All(&["thinking", "cannot be modified"]), "capability_rejected: thinking_signature"),
    (Sign::All(&["redacted_thinking", "invalid"]), "capability_rejected: thinking_signature"),
    (
        Sign::Near(&["messages.", ".role: Input should be 'user' or 'assistant'"], 8),
        "capability_rejected: mid_conv_system",
    ),
    (Sign::Any(&["role 'system' is not supported on this model"]), "capability_rejected: mid_conv_system"),
    (
        Sign::Any(&[
            "output_config: Extra inputs",
            "output_config.effort: Extra inputs",
            "output_config.task_budget: Extra inputs",
            "does not support the effort parameter",
        ]),
        "capability_rejected: effort_unsupported",
    ),
    (
        Sign::Any(&["output_config.format: Extra inputs are not permitted"]),
        "capability_rejected: structured_outputs_unsupported",
    ),
    (Sign::Near(&["messages.", "cache_control: Extra inputs"], 64), "capability_rejected: cache_control_field"),
    (Sign::Any(&["cache_control.ephemeral.scope: Extra inputs"]), "capability_rejected: cache_control_field"),
    (
        Sign::AnyCase(&[
            "image exceeds",
            "image is too large",
            "image too large",
            "image dimensions",
            "could not process image",
            "image.source.base64",
        ]),
        "capability_rejected: image_block",
    ),
    (Sign::All(&["image", "media type"]), "capability_rejected: image_block"),
    (
        Sign::AnyCase(&["pdf pages", "pdf specified", "pdf is password", "password-protected pdf", "invalid pdf"]),
        "capability_rejected: document_block",
    ),
    (Sign::All(&["pdf", "password"]), "capability_rejected: document_block"),
    (Sign::All(&["pdf", "not valid"]), "capability_rejected: document_block"),
    (Sign::Any(&[".document:", ".document.source"]), "capability_rejected: document_block"),
];

/// The client's form of an error. `requested` is the model as the client named it.
pub(super) fn answer(
    provider: &str,
    requested: &str,
    status: StatusCode,
    body: &[u8],
    request_id: &str,
) -> http::Response<Bytes> {
    let told = |kind: &str, message: &str| envelope(status, kind, message, request_id);
    if let Some((_, kind, message)) = BY_STATUS.iter().find(|(code, ..)| *code == status.as_u16()) {
        return told(kind, message);
    }
    match status.as_u16() {
        400 => {
            let message = anthropic_message(body).unwrap_or_else(|| {
                if provider == "bedrock" && message_of(body) == UNKNOWN_MODEL {
                    return format!("model {requested} is not available on {provider}");
                }
                cause(body).unwrap_or("upstream rejected the request").to_owned()
            });
            told("invalid_request_error", &message)
        }
        413 => {
            let message = anthropic_message(body)
                .unwrap_or_else(|| cause(body).unwrap_or("request too large for this upstream").to_owned());
            told("request_too_large", &message)
        }
        402..=499 => told("api_error", "upstream error"),
        // A redirect, or something that HTTP does not know: the client could do nothing with it.
        _ => envelope(StatusCode::BAD_GATEWAY, "api_error", "upstream error", request_id),
    }
}

/// Whether an error is about the length of the prompt.
pub(super) fn says_prompt_is_too_long(body: &[u8]) -> bool {
    matches!(cause(body), Some("Input is too long." | "capability_rejected: prompt_too_long"))
}

/// The message of an error in Anthropic's form; nothing if it is in another.
fn anthropic_message(body: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let error = value.get("error")?;
    let kind = error.get("type")?.as_str()?;
    let message = error.get("message")?.as_str()?;
    let is_envelope = value.get("type")?.as_str()? == "error" && ERROR_TYPES.contains(&kind) && !message.is_empty();
    is_envelope.then(|| message.to_owned())
}

/// What clients are told of a cause that they can act on.
fn cause(body: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(body);
    // The type that most errors carry says nothing about what was invalid.
    let lower = text.to_lowercase().replace("invalid_request_error", "");
    let message = message_of(body);
    PHRASES.iter().find(|(sign, _)| sign.is_in(&text, &lower, &message)).map(|(_, told)| *told)
}

/// The sentence in an error, wherever its provider puts it.
pub(super) fn message_of(body: &[u8]) -> String {
    let text = || String::from_utf8_lossy(body).trim().to_owned();
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return text() };
    let inner = value.get("error").and_then(|error| error.get("message"));
    let message = [inner, value.get("message"), value.get("Message"), Some(&value)]
        .into_iter()
        .find_map(|candidate| candidate?.as_str().map(|message| message.trim().to_owned()))
        .unwrap_or_else(text);
    // An error may be wrapped in another one's message.
    if message.starts_with('{') && message.len() < body.len() { message_of(message.as_bytes()) } else { message }
}

impl Sign {
    /// `lower` is `text` in lower case; `message` is the sentence in it.
    fn is_in(&self, text: &str, lower: &str, message: &str) -> bool {
        match self {
            Self::Whole(phrase) => message.strip_suffix('.').unwrap_or(message).eq_ignore_ascii_case(phrase),
            Self::Any(phrases) => phrases.iter().any(|phrase| text.contains(phrase)),
            Self::AnyCase(phrases) => phrases.iter().any(|phrase| lower.contains(phrase)),
            Self::All(phrases) => phrases.iter().all(|phrase| lower.contains(phrase)),
            Self::Near(phrases, distance) => is_near(text, phrases, *distance),
        }
    }
}

/// Whether the phrases follow one another in `text`, each at most `distance` bytes after the one before.
fn is_near(text: &str, phrases: &[&str], distance: usize) -> bool {
    let Some((first, others)) = phrases.split_first() else { return true };
    text.match_indices(first).any(|(at, found)| {
        let mut rest = &text[at + found.len()..];
        others.iter().all(|phrase| match rest.find(phrase) {
            Some(gap) if gap <= distance => {
                rest = &rest[gap + phrase.len()..];
                true
            }
            _ => false,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &str) -> (u16, String, String) {
        let answer = answer("bedrock", "Asked", StatusCode::from_u16(status).unwrap(), body.as_bytes(), "id-1");
        let value: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(value["request_id"], "id-1");
        let text = |name: &str| value["error"][name].as_str().unwrap().to_owned();
        (answer.status().as_u16(), text("type"), text("message"))
    }

    #[test]
    fn each_status_is_told_in_its_own_way() {
        for (status, kind, message) in [
            (401, "authentication_error", "upstream authentication failed — check the gateway operator"),
            (403, "permission_error", "upstream denied the request — check the gateway operator"),
            (404, "not_found_error", "upstream resource not found"),
            (429, "rate_limit_error", "upstream rate limit exceeded"),
            (501, "not_supported", "upstream does not support this endpoint"),
            (402, "api_error", "upstream error"),
            (422, "api_error", "upstream error"),
        ] {
            let body = r#"{"type":"error","error":{"type":"api_error","message":"account 123456789012"}}"#;
            assert_eq!(told(status, body), (status, kind.into(), message.into()));
        }
        assert_eq!(told(302, "").0, 502);
    }

    #[test]
    fn an_error_in_anthropics_form_keeps_its_message() {
        let body = |outer: &str, kind: &str, message: &str| {
            format!(r#"{{"type":"{outer}","error":{{"type":"{kind}","message":"{message}"}}}}"#)
        };
        for (status, body, kind, message) in [
            (400, body("error", "api_error", "tags: é"), "invalid_request_error", "tags: é"),
            (413, body("error", "invalid_request_error", "big"), "request_too_large", "big"),
            (400, body("error", "strange", "x"), "invalid_request_error", "upstream rejected the request"),
            (400, body("other", "api_error", "x"), "invalid_request_error", "upstream rejected the request"),
            (400, body("error", "api_error", ""), "invalid_request_error", "upstream rejected the request"),
            (413, body("other", "api_error", "x"), "request_too_large", "request too large for this upstream"),
            (
                413,
                body("other", "api_error", "prompt is too long"),
                "request_too_large",
                "capability_rejected: prompt_too_long",
            ),
        ] {
            assert_eq!(told(status, &body), (status, kind.into(), message.into()), "{body}");
        }
    }

    #[test]
    fn an_error_in_the_message_of_another_is_read() {
        let inner = r#"{\"type\":\"error\",\"error\":{\"message\":\"Input is too long.\"}}"#;
        for (body, message) in [
            (r#"{"message":"{\"message\":\"Input is too long.\"}"}"#.to_owned(), "Input is too long."),
            (format!(r#"{{"message":"{inner}"}}"#), "Input is too long."),
            (format!(r#"{{"message":"no: {inner}"}}"#), "upstream rejected the request"),
            (r#"{"message":"{"}"#.to_owned(), "upstream rejected the request"),
        ] {
            assert_eq!(told(400, &body), (400, "invalid_request_error".into(), message.into()), "{body}");
        }
    }

    #[test]
    fn causes_that_clients_act_on_have_constant_texts() {
        for (upstream, expected) in [
            ("input is too LONG", "Input is too long."),
            ("Input is too long.", "Input is too long."),
            ("The request size (20971530 bytes) exceeds 20 MB limit.", "Input is too long."),
            ("The message size (20971530 bytes) is too much", "Input is too long."),
            ("Validation: Prompt Is Too Long: 5 > 4", "capability_rejected: prompt_too_long"),
            ("Input is too long for requested model.", "capability_rejected: prompt_too_long"),
            (
                "input length and `max_tokens` exceed context limit: 1",
                "capability_rejected: max_tokens_context_overflow",
            ),
            ("adaptive thinking is not supported on this model", "capability_rejected: thinking_type:adaptive"),
            ("'thinking.type.enabled' is not supported", "capability_rejected: thinking_type:enabled"),
            ("\\\"thinking.type.enabled\\\" is not supported", "capability_rejected: thinking_type:enabled"),
            (
                "messages.1.content.0: Invalid `signature` in `thinking` block",
                "capability_rejected: thinking_signature",
            ),
            ("messages.1.content.0.thinking.signature: Field required", "capability_rejected: thinking_signature"),
            ("`thinking` blocks in the latest message cannot be modified", "capability_rejected: thinking_signature"),
            ("Invalid `data` in `redacted_thinking` block", "capability_rejected: thinking_signature"),
            ("messages.12.role: Input should be 'user' or 'assistant'", "capability_rejected: mid_conv_system"),
            ("role 'system' is not supported on this model", "capability_rejected: mid_conv_system"),
            ("output_config.effort: Extra inputs are not permitted", "capability_rejected: effort_unsupported"),
            ("This model does not support the effort parameter.", "capability_rejected: effort_unsupported"),
            (
                "output_config.format: Extra inputs are not permitted",
                "capability_rejected: structured_outputs_unsupported",
            ),
            ("messages.0.content.1.cache_control: Extra inputs are", "capability_rejected: cache_control_field"),
            ("system.0.cache_control.ephemeral.scope: Extra inputs are", "capability_rejected: cache_control_field"),
            ("image exceeds 5 MB maximum: 6 bytes", "capability_rejected: image_block"),
            ("At least one of the image dimensions exceed max", "capability_rejected: image_block"),
            ("Could not process image", "capability_rejected: image_block"),
            ("A maximum of 100 PDF pages may be provided.", "capability_rejected: document_block"),
            ("The PDF specified is password protected.", "capability_rejected: document_block"),
            ("messages.0.content.0.document: nope", "capability_rejected: document_block"),
            ("The provided model identifier is invalid.", "model Asked is not available on bedrock"),
            ("invalid_request_error: thinking with signature", "upstream rejected the request"),
            ("max_tokens: 5 > 4, which is the maximum", "upstream rejected the request"),
            ("context_management: Extra inputs are not permitted", "upstream rejected the request"),
            ("safeguards: Extra inputs are not permitted", "upstream rejected the request"),
            ("tools.0.input_schema: Field required", "upstream rejected the request"),
        ] {
            for body in [upstream.to_owned(), format!("{{\"message\":\"{upstream}\"}}")] {
                assert_eq!(told(400, &body).2, expected, "{body}");
            }
        }
    }
}
