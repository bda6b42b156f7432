//! Which strings of a message hold text: the places of a request or an answer where identifiers are looked for, and
//! those that are never touched.
//!
//! What is not known is treated as text: a new member of the protocol may not become a hole. The exceptions are named
//! here, each because a change would break it: signed and encrypted values, base64 data, ids, names and protocol words.
//! How JSON is read lives in `json_text`.

/// A place in a document; it decides what the values below it are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    /// Never touched, however deep.
    Skip,
    /// The body of `POST /v1/messages` and of `count_tokens`.
    Request,
    /// An element of `messages`.
    Message,
    /// A content block, a list of them, or a string in their place.
    Block,
    /// `source` of an image or a document: `data` is text unless `type` says that it is base64.
    Source,
    /// An element of `tools`.
    Tool,
    /// Data whose form is the client's own (a tool's input, a schema): every string, member names included.
    Free,
    /// An answer: a message, or an error.
    Answer,
    /// The data of one server-sent event.
    Event,
}

impl Zone {
    /// The zone of the member `name` of an object in this zone.
    pub(crate) fn member(self, name: &[u8]) -> Self {
        match self {
            Self::Skip => Self::Skip,
            Self::Free => Self::Free,
            Self::Request => match name {
                b"messages" => Self::Message,
                b"tools" => Self::Tool,
                b"metadata" | b"stop_sequences" | b"output_config" | b"output_format" => Self::Free,
                // Protocol words, and values on which the provider itself acts.
                b"model"
                | b"thinking"
                | b"tool_choice"
                | b"container"
                | b"mcp_servers"
                | b"betas"
                | b"service_tier"
                | b"anthropic_version"
                | b"anthropic_beta"
                | b"cache_control"
                | b"context_management"
                | b"speed"
                | b"inference_geo" => Self::Skip,
                _ => Self::Block,
            },
            Self::Message => match name {
                b"role" | b"id" => Self::Skip,
                _ => Self::Block,
            },
            Self::Tool => match name {
                b"name" | b"type" | b"cache_control" => Self::Skip,
                _ => Self::Free,
            },
            Self::Block => match name {
                b"input" => Self::Free,
                b"source" => Self::Source,
                // `thinking` and `data` (of redacted_thinking) are signed: they stay as they are in both directions.
                b"type" | b"id" | b"tool_use_id" | b"name" | b"tool_name" | b"cache_control" | b"thinking"
                | b"signature" | b"data" | b"encrypted_content" | b"encrypted_index" | b"encrypted_stdout"
                | b"file_id" | b"media_type" => Self::Skip,
                _ => Self::Block,
            },
            Self::Source => match name {
                b"type" | b"media_type" | b"file_id" | b"data" => Self::Skip,
                _ => Self::Block,
            },
            Self::Answer => match name {
                b"id" | b"type" | b"role" | b"model" | b"usage" | b"stop_reason" | b"container" | b"request_id" => {
                    Self::Skip
                }
                _ => Self::Block,
            },
            Self::Event => match name {
                b"message" => Self::Answer,
                b"type" | b"index" | b"usage" | b"request_id" => Self::Skip,
                _ => Self::Block,
            },
        }
    }

    /// Whether the strings directly in this zone hold text.
    pub(crate) const fn holds_text(self) -> bool {
        matches!(self, Self::Block | Self::Free | Self::Message)
    }

    /// Whether the names of members are text too.
    pub(crate) const fn names_are_text(self) -> bool {
        matches!(self, Self::Free)
    }
}

#[cfg(test)]
mod tests {
    use super::Zone;

    fn at(path: &[&str]) -> Zone {
        path.iter().fold(Zone::Request, |zone, name| zone.member(name.as_bytes()))
    }

    #[test]
    fn text_is_found_wherever_a_request_carries_it_and_protocol_values_are_left() {
        for path in [
            &["system"][..],
            &["system", "text"],
            &["messages", "content"],
            &["messages", "content", "text"],
            &["messages", "content", "content", "text"],
            &["messages", "content", "input", "id"],
            &["messages", "content", "input", "signature"],
            &["messages", "content", "title"],
            &["messages", "content", "citations", "cited_text"],
            &["tools", "description"],
            &["tools", "input_schema", "properties", "name", "description"],
            &["metadata", "user_id"],
            &["a_member_of_next_year"],
        ] {
            assert!(at(path).holds_text(), "{path:?}");
        }
        for path in [
            &["model"][..],
            &["thinking", "type"],
            &["messages", "role"],
            &["messages", "content", "thinking"],
            &["messages", "content", "signature"],
            &["messages", "content", "data"],
            &["messages", "content", "id"],
            &["messages", "content", "tool_use_id"],
            &["messages", "content", "content", "encrypted_content"],
            &["messages", "content", "cache_control", "type"],
            &["messages", "content", "source", "data"],
            &["tools", "name"],
        ] {
            assert!(!at(path).holds_text(), "{path:?}");
        }
    }
}
