//! What an upstream refuses by name although a request can do without it, and requests without that.
//!
//! A client is often newer than the upstream that it reaches through a gateway. Its new beta, or a member of the body that
//! only makes things cheaper or faster, is then a reason for the upstream to refuse all of the request. Nothing that
//! changes what is asked is ever left out: betas in [`KEPT_BETAS`] stay, and of the members of the body only those in
//! [`FIELDS`] go, and those that the operator names, which may not be in [`KEPT_FIELDS`].

use http::{HeaderMap, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Message, cloud_error, headers};
use crate::wire::json_edit::Edits;

/// Something that a request can do without.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum Dispensable {
    /// A beta, in the header or the body.
    Beta(String),
    /// A member of the body.
    Field(String),
}

impl Dispensable {
    /// `beta` or `field`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Beta(_) => "beta",
            Self::Field(_) => "field",
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        match self {
            Self::Beta(name) | Self::Field(name) => name,
        }
    }
}

/// Members of the body that only say how an answer is made, not what it says.
pub const FIELDS: [&str; 4] = ["cache_control", "context_management", "diagnostics", "service_tier"];

/// Members of the body that say what is asked, who asks, or where it may be worked on.
pub const KEPT_FIELDS: [&str; 24] = [
    "anthropic_version",
    "container",
    "fallbacks",
    "inference_geo",
    "max_tokens",
    "mcp_servers",
    "messages",
    "metadata",
    "model",
    "output_config",
    "output_format",
    "safeguards",
    "speed",
    "stop_sequences",
    "stream",
    "system",
    "tags",
    "temperature",
    "thinking",
    "tool_choice",
    "tools",
    "top_k",
    "top_p",
    "user_profile_id",
];

/// How betas begin without which the answer would be another one, or nobody's.
pub const KEPT_BETAS: [&str; 9] = [
    "effort-",
    "fallback",
    "oauth-",
    "oidc-",
    "output-",
    "request-tags-",
    "safeguard",
    "structured-outputs-",
    "task-budgets-",
];

/// Members of the body that nobody takes without the beta that begins so.
const TOGETHER: [(&str, &str); 1] = [("context-management-", "context_management")];

/// The longest name that is remembered; all that there are, are shorter.
const LONGEST_NAME: usize = 100;

/// What an error says of something that is refused.
const REFUSING: [&str; 12] = [
    "unexpected value",
    "invalid",
    "unsupported",
    "not supported",
    "unknown",
    "not available",
    "not permitted",
    "not allowed",
    "not enabled",
    "unrecognized",
    "not recognized",
    "does not support",
];

/// What stands before and after the name of a member that is refused. What begins a path stands alone or after a blank:
/// `tools.0.cache_control` is not `cache_control`.
const REFUSED_FIELD: [(&str, &str); 8] = [
    ("", ": Extra inputs are not permitted"),
    ("#: extraneous key [", "] is not permitted"),
    ("Unknown name \"", "\": Cannot find field"),
    ("Unrecognized request argument supplied: ", ""),
    ("unknown field `", "`"),
    ("unexpected keyword argument '", "'"),
    ("Unknown parameter: '", "'"),
    ("Unsupported parameter: '", "'"),
];

/// What the error `body` refuses by name of what is in the request, and may be left out. `more_fields` are the operator's.
pub fn refused(headers: &HeaderMap, message: &Message, more_fields: &[String], body: &[u8]) -> Vec<Dispensable> {
    let text = cloud_error::message_of(body);
    let lower = text.to_lowercase();
    let mut refused = Vec::new();
    if lower.contains("beta") && REFUSING.iter().any(|word| lower.contains(word)) {
        let named = betas(headers, message).into_iter().filter(|beta| is_dispensable(beta) && has_word(&text, beta));
        refused.extend(named.map(Dispensable::Beta));
    }
    let (text_of_body, object) = (message.body(), message.object());
    let is_there = |field: &&str| object.find(text_of_body, field).is_some();
    let own = more_fields.iter().map(String::as_str);
    let named = FIELDS.into_iter().chain(own).filter(is_there).filter(|field| is_refused(&text, field));
    refused.extend(named.map(|field| Dispensable::Field(field.to_owned())));
    for (beta, field) in TOGETHER {
        let is_gone = refused.iter().any(|one| matches!(one, Dispensable::Beta(name) if name.starts_with(beta)));
        let field_is_named = refused.iter().any(|one| matches!(one, Dispensable::Field(name) if name == field));
        if is_gone && !field_is_named && is_there(&field) {
            refused.push(Dispensable::Field(field.to_owned()));
        }
    }
    refused
}

/// Headers and body of a request without some of what it had.
pub struct Reduced {
    /// The client's, but for betas.
    pub headers: HeaderMap,
    /// The client's, but for members.
    pub message: Message,
}

/// The request without what is in `left_out`; nothing if nothing of it is there.
pub fn without(headers: &HeaderMap, message: &Message, left_out: &[Dispensable]) -> Option<Reduced> {
    if left_out.is_empty() {
        return None;
    }
    let goes = |beta: &str| left_out.iter().any(|one| matches!(one, Dispensable::Beta(name) if name == beta));
    let mut reduced = Reduced { headers: headers.clone(), message: message.clone() };
    let mut names = headers::beta_names(headers);
    let before = names.len();
    names.retain(|name| !goes(name));
    let header_changes = names.len() < before;
    if header_changes {
        reduced.headers.remove(headers::BETA);
        if let (false, Ok(value)) = (names.is_empty(), HeaderValue::try_from(names.join(","))) {
            reduced.headers.insert(headers::BETA, value);
        }
    }
    let (body, object) = (message.body(), message.object());
    let mut edits = Edits::new();
    if let Some(written) = object.read::<Vec<Value>>(body, BETA_FIELD) {
        let kept: Vec<&Value> =
            written.iter().filter(|beta| !beta.as_str().is_some_and(|name| goes(name.trim()))).collect();
        match (kept.len() == written.len(), kept.is_empty()) {
            (true, _) => {}
            (_, true) => drop(edits.remove(BETA_FIELD)),
            _ => drop(edits.set(BETA_FIELD, &kept)),
        }
    }
    for one in left_out {
        if let Dispensable::Field(name) = one
            && object.find(body, name).is_some()
        {
            edits.remove(name);
        }
    }
    if !edits.is_empty() {
        // A body that was read before can be read without some of its members.
        reduced.message = Message::parse(edits.apply(body, object)).ok()?;
    }
    (header_changes || !edits.is_empty()).then_some(reduced)
}

/// Where betas may stand in a body.
const BETA_FIELD: &str = "anthropic_beta";

fn betas(headers: &HeaderMap, message: &Message) -> Vec<String> {
    let in_body = message.object().read::<Vec<Value>>(message.body(), BETA_FIELD).unwrap_or_default();
    let in_body = in_body.iter().filter_map(|beta| Some(beta.as_str()?.trim().to_owned()));
    let mut all: Vec<String> = Vec::new();
    for beta in headers::beta_names(headers).into_iter().chain(in_body) {
        if !all.contains(&beta) {
            all.push(beta);
        }
    }
    all
}

fn is_dispensable(beta: &str) -> bool {
    let is_plain = !beta.is_empty() && beta.len() <= LONGEST_NAME && beta.bytes().all(is_part_of_name);
    let lower = beta.to_ascii_lowercase();
    is_plain && !KEPT_BETAS.iter().any(|kept| lower.starts_with(kept))
}

/// Whether the name of a member may be left out when the operator says so.
pub fn may_be_left_out(field: &str) -> bool {
    let is_plain = !field.is_empty() && field.len() <= LONGEST_NAME && field.bytes().all(is_part_of_name);
    is_plain && !KEPT_FIELDS.contains(&field) && field != BETA_FIELD
}

const fn is_part_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// Whether `name` stands in `text` and is not a part of a longer name. A full stop may end a sentence after it.
fn has_word(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].bytes().next_back();
        let mut after = text[at + name.len()..].bytes();
        let (next, one_more) = (after.next(), after.next());
        let ends = match next {
            Some(b'.') => !one_more.is_some_and(is_part_of_name),
            next => !next.is_some_and(is_part_of_name),
        };
        !before.is_some_and(is_part_of_name) && ends
    })
}

fn is_refused(text: &str, field: &str) -> bool {
    REFUSED_FIELD.iter().any(|(before, after)| {
        let phrase = format!("{before}{field}{after}");
        text.match_indices(&phrase).any(|(at, _)| {
            let begins = !text[..at].bytes().next_back().is_some_and(is_part_of_name);
            let ends = !after.is_empty() || !text[at + phrase.len()..].bytes().next().is_some_and(is_part_of_name);
            begins && ends
        })
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn request(betas: &str, body: &str) -> (HeaderMap, Message) {
        let mut headers = HeaderMap::new();
        headers.insert("x-other", HeaderValue::from_static("stays"));
        if !betas.is_empty() {
            headers.insert(headers::BETA, HeaderValue::try_from(betas).unwrap());
        }
        (headers, Message::parse(Bytes::copy_from_slice(body.as_bytes())).unwrap())
    }

    fn beta(name: &str) -> Dispensable {
        Dispensable::Beta(name.to_owned())
    }

    fn field(name: &str) -> Dispensable {
        Dispensable::Field(name.to_owned())
    }

    const BETAS: &str =
        "one-2026-01-01, context-1m-2025-08-07,one-2026-01-01.5, oauth-2025-04-20,safeguards-2026-01-01";
    const BODY: &str = r#"{"model":"m","anthropic_beta":["in-body-1"," effort-2025-11-24 "],"context_management":{},
        "service_tier":"auto","safeguards":{},"thinking":{},"output_config":{},"mine":1,"cache_control":{}}"#;

    #[test]
    fn what_is_refused_by_name_is_found_in_every_wording() {
        let (headers, message) = request(BETAS, BODY);
        for (text, expected) in [
            (
                "Unexpected value(s) `one-2026-01-01` for the `anthropic-beta` header. Please consult our documentation.",
                vec![beta("one-2026-01-01")],
            ),
            (
                "Unexpected value(s) `context-1m-2025-08-07`, `in-body-1` for the `anthropic-beta` header.",
                vec![beta("context-1m-2025-08-07"), beta("in-body-1")],
            ),
            ("invalid beta flag: one-2026-01-01.", vec![beta("one-2026-01-01")]),
            ("The beta context-1m-2025-08-07 is not available for this model", vec![beta("context-1m-2025-08-07")]),
            ("invalid beta flag", vec![]),
            ("The long context beta is not yet available for this subscription.", vec![]),
            ("Unexpected value(s) `one-2026-01` for the `anthropic-beta` header.", vec![]),
            ("messages.0: `one-2026-01-01` is invalid", vec![]),
            ("set the beta context-1m-2025-08-07 to read more", vec![]),
            ("context_management: Extra inputs are not permitted", vec![field("context_management")]),
            (
                "service_tier: Extra inputs are not permitted, context_management: Extra inputs are not permitted",
                vec![field("context_management"), field("service_tier")],
            ),
            (
                "Malformed input request: #: extraneous key [cache_control] is not permitted, please reformat",
                vec![field("cache_control")],
            ),
            (
                r#"Invalid JSON payload received. Unknown name "service_tier": Cannot find field."#,
                vec![field("service_tier")],
            ),
            ("Unrecognized request argument supplied: service_tier", vec![field("service_tier")]),
            ("mine: Extra inputs are not permitted", vec![field("mine")]),
            // Not at the top, not in the request, or not a refusal.
            ("tools.0.cache_control: Extra inputs are not permitted", vec![]),
            ("messages.0.content.0.cache_control: Extra inputs are not permitted", vec![]),
            ("#/system/0: extraneous key [cache_control] is not permitted", vec![]),
            (r#"Unknown name "cache_control" at 'messages[0]': Cannot find field."#, vec![]),
            ("context_management.edits: Field required", vec![]),
            ("diagnostics: Extra inputs are not permitted", vec![]),
            ("theirs: Extra inputs are not permitted", vec![]),
            // What is asked is never changed.
            ("safeguards: Extra inputs are not permitted", vec![]),
            ("Unexpected value(s) `safeguards-2026-01-01` for the `anthropic-beta` header.", vec![]),
            ("Unexpected value(s) `oauth-2025-04-20` for the `anthropic-beta` header.", vec![]),
            ("Unexpected value(s) `effort-2025-11-24` for the `anthropic-beta` header.", vec![]),
            ("thinking: Extra inputs are not permitted", vec![]),
            ("output_config: Extra inputs are not permitted", vec![]),
            ("output_config.effort: Extra inputs are not permitted", vec![]),
            ("prompt is too long: 5 > 4", vec![]),
            ("", vec![]),
        ] {
            let message_of_cloud = serde_json::json!({ "message": text }).to_string();
            let envelope = serde_json::json!({"type": "error", "error": {"type": "x", "message": text}}).to_string();
            for error in [text.to_owned(), message_of_cloud, envelope] {
                assert_eq!(refused(&headers, &message, &["mine".to_owned()], error.as_bytes()), expected, "{error}");
            }
        }
    }

    #[test]
    fn a_member_goes_with_its_beta() {
        let (headers, message) = request("context-management-2025-06-27", BODY);
        let error = b"Unexpected value(s) `context-management-2025-06-27` for the `anthropic-beta` header.";
        let expected = [beta("context-management-2025-06-27"), field("context_management")];
        assert_eq!(refused(&headers, &message, &[], error), expected);
    }

    #[test]
    fn what_is_left_out_leaves_everything_else_as_it_was() {
        let body = r#"{ "model":"m", "n":1.0, "anthropic_beta" : ["x", "a"],  "service_tier":"auto", "z":[ ] }"#;
        for (betas, left_out, expected_betas, expected_body) in [
            ("a, b ,c", vec![beta("b")], Some("a,c"), body),
            (
                "a",
                vec![beta("a")],
                None,
                r#"{ "model":"m", "n":1.0, "anthropic_beta" : ["x"],  "service_tier":"auto", "z":[ ] }"#,
            ),
            ("b", vec![beta("a"), beta("x"), field("service_tier")], Some("b"), r#"{ "model":"m", "n":1.0, "z":[ ] }"#),
        ] {
            let (headers, message) = request(betas, body);
            let reduced = without(&headers, &message, &left_out).expect("something is left out");
            assert_eq!(reduced.headers.get(headers::BETA).map(|value| value.to_str().unwrap()), expected_betas);
            assert_eq!(reduced.headers["x-other"], "stays");
            assert_eq!(reduced.message.body(), expected_body);
        }
        let (headers, message) = request("a", body);
        assert!(without(&headers, &message, &[beta("q"), field("diagnostics")]).is_none());
        assert!(without(&headers, &message, &[]).is_none());
    }

    #[test]
    fn the_operator_cannot_name_what_is_asked() {
        for name in KEPT_FIELDS.into_iter().chain(["anthropic_beta", "", "a b", "é"]) {
            assert!(!may_be_left_out(name), "{name}");
        }
        assert!(may_be_left_out("new_field") && FIELDS.iter().all(|name| may_be_left_out(name)));
    }

    proptest::proptest! {
        #[test]
        fn no_error_makes_it_panic(error: String, betas in "[ -~]{0,40}") {
            let (headers, message) = request(&betas, BODY);
            let _ = refused(&headers, &message, &[], error.as_bytes());
        }
    }
}
