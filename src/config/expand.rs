//! `${NAME}` and `${file:/path}` in text values (auth contract §2). Keys, comments and numbers are never expanded, and
//! what was put in is not looked at again, so a value cannot inject YAML or further references.

use super::report::{Report, below, item};
use super::yaml::{Node, Value};

/// Replaces every reference in `node` and below. A value that cannot be completed becomes [`Value::Faulty`].
pub(super) fn expand(node: &mut Node, path: &str, report: &mut Report<'_>) {
    match &mut node.value {
        Value::Text(text) => match expanded(text, report) {
            Ok(None) => {}
            Ok(Some(value)) => *text = value,
            Err(messages) => {
                for message in messages {
                    report.fault(path, node.place, message);
                }
                node.value = Value::Faulty;
            }
        },
        Value::List(items) => {
            for (index, node) in items.iter_mut().enumerate() {
                expand(node, &item(path, index), report);
            }
        }
        Value::Mapping(entries) => {
            for entry in entries {
                expand(&mut entry.node, &below(path, &entry.key), report);
            }
        }
        Value::Null | Value::Switch(_) | Value::Number(_) | Value::Faulty => {}
    }
}

/// The names that `${NAME}` mentions in `node` and below, each once, in order.
pub(super) fn names(node: &Node, found: &mut Vec<String>) {
    match &node.value {
        Value::Text(text) => {
            for piece in pieces(text) {
                if let Piece::Variable(name) = piece
                    && !found.iter().any(|known| known == name)
                {
                    found.push(name.to_owned());
                }
            }
        }
        Value::List(items) => items.iter().for_each(|node| names(node, found)),
        Value::Mapping(entries) => entries.iter().for_each(|entry| names(&entry.node, found)),
        Value::Null | Value::Switch(_) | Value::Number(_) | Value::Faulty => {}
    }
}

fn expanded(text: &str, report: &Report<'_>) -> Result<Option<String>, Vec<String>> {
    let path = text.trim().strip_prefix("${file:").and_then(|rest| rest.strip_suffix('}'));
    if let Some(path) = path.filter(|path| !path.contains('}')) {
        return file(path, report).map(Some).map_err(|why| vec![why]);
    }
    if has_reference_in_path(text.trim()) {
        return Err(vec!["the path of a file must be written out: a variable in it is not replaced".to_owned()]);
    }
    if !text.contains("${") {
        return Ok(None);
    }
    let mut whole = String::new();
    let mut faults = Vec::new();
    for piece in pieces(text) {
        match piece {
            Piece::Literal(text) => whole.push_str(text),
            Piece::Variable(name) => match report.sources.variables.get(name) {
                Some(value) => whole.push_str(value),
                None => faults.push(format!("the variable {name} is not defined")),
            },
        }
    }
    if faults.is_empty() { Ok(Some(whole)) } else { Err(faults) }
}

/// Whether `text` begins with a reference to a file in whose path another reference begins.
fn has_reference_in_path(text: &str) -> bool {
    let path = text.strip_prefix("${file:").and_then(|rest| rest.split('}').next());
    path.is_some_and(|path| path.contains("${"))
}

fn file(path: &str, report: &Report<'_>) -> Result<String, String> {
    if !path.starts_with('/') {
        return Err(format!("${{file:{path}}}: the path must be absolute"));
    }
    let content = report.sources.files.read(path).map_err(|why| format!("cannot read {path}: {why}"))?;
    let text = String::from_utf8(content).map_err(|_| format!("{path} is not UTF-8 text"))?;
    Ok(text.trim().to_owned())
}

enum Piece<'a> {
    Literal(&'a str),
    Variable(&'a str),
}

/// Cuts `text` at its `${NAME}` references. Anything else that has a dollar sign is literal: there is no escape.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut literal, mut from) = (0, 0);
    while let Some(found) = text[from..].find("${") {
        let start = from + found;
        let name_start = start + 2;
        let name_length =
            text[name_start..].find(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        let name_end = name_length.map_or(text.len(), |length| name_start + length);
        let name = &text[name_start..name_end];
        let is_name = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
        if is_name && text[name_end..].starts_with('}') {
            pieces.push(Piece::Literal(&text[literal..start]));
            pieces.push(Piece::Variable(name));
            literal = name_end + 1;
            from = literal;
        } else {
            from = name_start;
        }
    }
    pieces.push(Piece::Literal(&text[literal..]));
    pieces
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::super::Sources;
    use super::*;
    use crate::ports::Files;

    struct OneFile;

    impl Files for OneFile {
        fn read(&self, path: &str) -> Result<Vec<u8>, String> {
            if path == "/run/secret" { Ok(b" from ${A} file\n".to_vec()) } else { Err("no such file".to_owned()) }
        }
    }

    fn expand_text(text: &str) -> Result<String, Vec<String>> {
        let variables = HashMap::from([("A".to_owned(), "one".to_owned()), ("B_2".to_owned(), "${A}".to_owned())]);
        let sources = Sources { variables, files: &OneFile, allow_loopback: false };
        expanded(text, &Report::new(&sources)).map(|value| value.unwrap_or_else(|| text.to_owned()))
    }

    #[test]
    fn references_are_replaced_once_and_everything_else_is_literal() {
        for (text, expected) in [
            ("x${A}y${A}", "xoneyone"),
            ("${B_2}", "${A}"),
            ("$${A}", "$one"),
            ("${${A}}", "${one}"),
            ("${file:/run/secret}", "from ${A} file"),
            ("  ${file:/run/secret} ", "from ${A} file"),
            ("x${file:/run/secret}", "x${file:/run/secret}"),
            ("${file:/run/secret}${A}", "${file:/run/secret}one"),
            ("${A:-b} ${A-B} ${ A } $A ${1A} ${} ${", "${A:-b} ${A-B} ${ A } $A ${1A} ${} ${"),
            ("ä${A}ö", "äoneö"),
        ] {
            assert_eq!(expand_text(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_replaced_is_named() {
        assert_eq!(
            expand_text("${MISSING} ${A} ${OTHER}"),
            Err(vec!["the variable MISSING is not defined".to_owned(), "the variable OTHER is not defined".to_owned()])
        );
        assert_eq!(expand_text("${file:secret}"), Err(vec!["${file:secret}: the path must be absolute".to_owned()]));
        for text in ["${file:/run/${A}.txt}", " ${file:${A}}", "${file:/run/${MISSING}}"] {
            let fault = "the path of a file must be written out: a variable in it is not replaced".to_owned();
            assert_eq!(expand_text(text), Err(vec![fault]), "{text}");
        }
        assert_eq!(expand_text("${file:/none}"), Err(vec!["cannot read /none: no such file".to_owned()]));
    }
}
