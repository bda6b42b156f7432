//! [`Message`]: the few fields of an inference request that the gateway acts on; the rest stays the bytes that came in.
//!
//! Validation is the reference's, in its order (inference contract §4, steps 4 to 7). Whether the model exists and may be
//! used is decided in [`catalog`](super::catalog).

use bytes::Bytes;
use memchr::memmem;

use crate::domain::spend::estimate::{Asked, CacheWrites};
use crate::wire::json_object::{NotObject, Object};

/// The body of `POST /v1/messages` or of `/count_tokens`. Its `model` is a non-empty string.
#[derive(Debug, Clone)]
pub struct Message {
    body: Bytes,
    object: Object,
    model: String,
    is_stream: bool,
}

/// A body without which nothing can be done; its text is the public message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Also a body with a byte order mark, or a compressed one.
    #[error("invalid JSON")]
    InvalidJson,
    /// JSON, but an array or a scalar.
    #[error("request body must be a JSON object")]
    NotAnObject,
    /// No `model`, or an empty one.
    #[error("model is required")]
    ModelRequired,
    /// A `model` of another type; `null` is one.
    #[error("model must be a string")]
    ModelNotAString,
}

impl Message {
    /// Reads `body`.
    pub fn parse(body: Bytes) -> Result<Self, Malformed> {
        let object = Object::scan(&body).map_err(|error| match error {
            NotObject::Invalid => Malformed::InvalidJson,
            NotObject::OtherType => Malformed::NotAnObject,
        })?;
        let model = match object.value(&body, "model") {
            None | Some(b"\"\"") => return Err(Malformed::ModelRequired),
            Some(value @ [b'"', ..]) => text(value),
            Some(_) => return Err(Malformed::ModelNotAString),
        };
        let is_stream = object.value(&body, "stream") == Some(b"true");
        Ok(Self { body, object, model, is_stream })
    }

    /// The same message with edits inside of strings, none of which the gateway acts on; `place` says where what was at
    /// an offset of the body is now.
    #[must_use]
    pub fn edited(&self, body: Bytes, place: impl Fn(usize) -> usize) -> Self {
        Self { object: self.object.moved(place), body, model: self.model.clone(), is_stream: self.is_stream }
    }

    /// The body as it came.
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Where its members are.
    pub const fn object(&self) -> &Object {
        &self.object
    }

    /// The model as the client named it; of duplicates the last.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether an event stream is asked for.
    pub const fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// What the request says about its user (`metadata.user_id`). Claude Code puts its conversation in there.
    pub fn user_id(&self) -> Option<String> {
        let metadata = self.object.value(&self.body, "metadata")?;
        Object::scan(metadata).ok()?.read(metadata, "user_id").filter(|user_id: &String| !user_id.is_empty())
    }

    /// What the request says about its own size. Words in its text may look like instructions to a cache; that only
    /// makes the estimate higher.
    pub fn asked(&self) -> Asked {
        let mentions = |word: &str| memmem::find(&self.body, word.as_bytes()).is_some();
        let cache_writes = match (mentions("\"cache_control\""), mentions("\"1h\"")) {
            (false, _) => CacheWrites::None,
            (true, false) => CacheWrites::FiveMinutes,
            (true, true) => CacheWrites::OneHour,
        };
        Asked {
            bytes: self.body.len() as u64,
            max_tokens: self.object.read(&self.body, "max_tokens"),
            cache_writes,
            is_fast: self.object.value(&self.body, "speed") == Some(b"\"fast\""),
            // Only a tool that is offered can be used; what was said of one costs nothing.
            may_search: self
                .object
                .value(&self.body, "tools")
                .is_some_and(|tools| memmem::find(tools, b"\"web_search").is_some()),
        }
    }

    /// What the request says about billing groups when `tag` is configured (inference contract §17).
    pub fn billing_group(&self, tag: &str, groups: &[String]) -> BillingGroup {
        let Some(tags) = self.object.value(&self.body, "tags") else { return BillingGroup::Absent };
        let Ok(object) = Object::scan(tags) else { return BillingGroup::Absent };
        if object.find(tags, tag).is_none() {
            return BillingGroup::Absent;
        }
        match object.read::<String>(tags, tag) {
            Some(group) if groups.contains(&group) => BillingGroup::Group(group),
            _ => BillingGroup::Ignored,
        }
    }
}

/// What `tags` says about who pays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BillingGroup {
    /// Nothing.
    Absent,
    /// This group, of which the caller is a member.
    Group(String),
    /// Something that is no group of the caller.
    Ignored,
}

/// The string that the JSON `literal` stands for. What is not Unicode becomes U+FFFD: such a string names nothing.
fn text(literal: &[u8]) -> String {
    serde_json::from_slice(literal).unwrap_or_else(|_| {
        let bare = &literal[1..literal.len() - 1];
        String::from_utf8_lossy(bare).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Message, Malformed> {
        Message::parse(Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn the_user_is_read_where_one_is_named() {
        for (metadata, expected) in [
            (r#"{"user_id":"user_1_session_2"}"#, Some("user_1_session_2")),
            (r#"{"user_id":"{\"session_id\":\"s\"}"}"#, Some(r#"{"session_id":"s"}"#)),
            (r#"{"user_id":""}"#, None),
            (r#"{"user_id":7}"#, None),
            ("{}", None),
            ("[]", None),
            ("null", None),
        ] {
            let message = parse(&format!(r#"{{"model":"m","metadata":{metadata}}}"#)).expect("a message");
            assert_eq!(message.user_id().as_deref(), expected, "{metadata}");
        }
        assert_eq!(parse(r#"{"model":"m"}"#).expect("a message").user_id(), None);
    }

    #[test]
    fn a_body_is_refused_in_the_contracts_order() {
        for (body, expected) in [
            ("", Malformed::InvalidJson),
            ("\u{feff}{\"model\":\"m\"}", Malformed::InvalidJson),
            ("{\"model\":\"m\"", Malformed::InvalidJson),
            ("[]", Malformed::NotAnObject),
            ("null", Malformed::NotAnObject),
            ("{}", Malformed::ModelRequired),
            (r#"{"model":""}"#, Malformed::ModelRequired),
            (r#"{"model":null}"#, Malformed::ModelNotAString),
            (r#"{"model":5}"#, Malformed::ModelNotAString),
            (r#"{"model":["m"]}"#, Malformed::ModelNotAString),
        ] {
            assert_eq!(parse(body).unwrap_err(), expected, "{body}");
        }
    }

    #[test]
    fn the_model_is_read_as_the_client_meant_it() {
        for (body, model, is_stream) in [
            (r#"{"model":"m"}"#, "m", false),
            (r#"{"model":" ","stream":true}"#, " ", true),
            (r#"{"model":"a","model":"b","stream":"true"}"#, "b", false),
            (r#"{"mo\u0064el":"\u006d", "stream": true }"#, "m", true),
        ] {
            let message = parse(body).unwrap();
            assert_eq!((message.model(), message.is_stream()), (model, is_stream), "{body}");
        }
    }

    #[test]
    fn a_request_says_how_large_it_is() {
        let plain = parse(r#"{"model":"m","max_tokens":7}"#).unwrap().asked();
        assert_eq!((plain.bytes, plain.max_tokens, plain.cache_writes), (28, Some(7), CacheWrites::None));
        assert!(!plain.is_fast && !plain.may_search);
        let said =
            r#"{"model":"m","tools":[{"name":"read"}],"messages":[{"content":[{"type":"web_search_tool_result"}]}]}"#;
        assert!(!parse(said).unwrap().asked().may_search);
        let body = r#"{"model":"m","max_tokens":"7","speed":"fast","tools":[{"type":"web_search_20250305"}],
            "system":[{"cache_control":{"type":"ephemeral"}}]}"#;
        let rich = parse(body).unwrap().asked();
        assert_eq!((rich.max_tokens, rich.cache_writes), (None, CacheWrites::FiveMinutes));
        assert!(rich.is_fast && rich.may_search);
        let longer = parse(&body.replace("ephemeral\"", "ephemeral\",\"ttl\":\"1h\"")).unwrap().asked();
        assert_eq!(longer.cache_writes, CacheWrites::OneHour);
        for odd in ["-1", "1.5", "null", "1e400", "[]"] {
            let asked = parse(&format!(r#"{{"model":"m","max_tokens":{odd}}}"#)).unwrap().asked();
            assert_eq!(asked.max_tokens, None, "{odd}");
        }
    }

    #[test]
    fn a_billing_group_counts_only_for_its_members() {
        let groups = ["payments".to_owned()];
        for (tags, expected) in [
            (r#"{"team":"payments"}"#, BillingGroup::Group("payments".into())),
            (r#"{"team":"research"}"#, BillingGroup::Ignored),
            (r#"{"team":["payments"]}"#, BillingGroup::Ignored),
            (r#"{"other":"payments"}"#, BillingGroup::Absent),
            ("null", BillingGroup::Absent),
            (r#""payments""#, BillingGroup::Absent),
        ] {
            let message = parse(&format!(r#"{{"model":"m","tags":{tags}}}"#)).unwrap();
            assert_eq!(message.billing_group("team", &groups), expected, "{tags}");
        }
        assert_eq!(parse(r#"{"model":"m"}"#).unwrap().billing_group("team", &groups), BillingGroup::Absent);
    }
}
