//! A megabyte as Claude Code sends it: mostly source code, with identifiers here and there.

use std::fmt::Write;

use bytes::Bytes;
use serde_json::json;

use crate::conversation::generate;

/// A conversation of one megabyte with so many identifiers.
pub(crate) fn megabyte(identifiers: usize) -> Bytes {
    let source = include_str!("conversation.rs");
    let conversation: serde_json::Value = serde_json::from_slice(&generate(1, identifiers).body).expect("JSON");
    let mut messages = conversation["messages"].as_array().expect("messages").clone();
    let mut length: usize = messages.iter().map(|message| message.to_string().len()).sum();
    let mut number = 0;
    while length < 1_000_000 {
        let mut text = String::new();
        for (line, code) in source.lines().enumerate().filter(|(line, _)| line % 7 != number % 7) {
            // The generator's own tables are full of anchors; real code is not.
            if !code.contains("aws") {
                writeln!(text, "{line:>6}\t{code}").expect("memory");
            }
        }
        length += text.len();
        number += 1;
        messages.push(
            json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": text}]}),
        );
    }
    json!({"model": "claude-haiku-4-5-20251001", "max_tokens": 64, "stream": true, "messages": messages})
        .to_string()
        .into()
}
