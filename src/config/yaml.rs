//! YAML text → a tree of [`Node`]s that remember where they stand. The YAML 1.2 core schema: `yes` and `on` are text.
//!
//! Numbers keep their text, because money must not pass through floating point. Anchors are resolved here; what a
//! value means is decided in `decode`.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::Fault;

/// Values nested deeper than this are refused: everything that walks the tree recurses.
const MAX_DEPTH: usize = 64;
/// Nodes including those that aliases repeat; keeps a few nested anchors from becoming a billion nodes.
const MAX_NODES: usize = 100_000;

/// A position in the text, both from 1; zeros when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// One value and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// A value of the core schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Switch(bool),
    /// As written.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Mapping(Vec<Entry>),
    /// A fault was already reported for it; readers pass over it silently.
    Faulty,
}

/// One key of a mapping and its value. Keys of one mapping are distinct: a later one replaced an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

/// A document, and the keys that were written twice.
pub(super) struct Document {
    pub(super) root: Node,
    pub(super) repeated: Vec<(String, Place)>,
}

impl Node {
    /// What the value is, for messages.
    pub(super) const fn described(&self) -> &'static str {
        match self.value {
            Value::Null | Value::Faulty => "nothing",
            Value::Switch(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    /// Lets this node and everything below it stand at `place`.
    pub(super) fn move_to(&mut self, place: Place) {
        self.place = place;
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|node| node.move_to(place)),
            Value::Mapping(entries) => {
                for entry in entries {
                    entry.place = place;
                    entry.node.move_to(place);
                }
            }
            _ => {}
        }
    }
}

/// Reads the one document in `text`.
pub(super) fn read(text: &str) -> Result<Document, Fault> {
    // A byte order mark is not content.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let taken =
            event.map_err(|error| syntax_fault(&error, text)).and_then(|(event, span)| builder.take(event, span));
        taken.map_err(|fault| showing_only_the_key(fault, text))?;
    }
    let root = builder.root.ok_or_else(|| fault(Place::default(), "the configuration is empty"))?;
    Ok(Document { root, repeated: builder.repeated })
}

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    /// Containers that are not closed yet, outermost first.
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    repeated: Vec<(String, Place)>,
}

struct Open {
    anchor: usize,
    node: Node,
    /// In a mapping: the key whose value comes next.
    key: Option<(String, Place)>,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let place = Place { line: span.start.line(), column: span.start.col() + 1 };
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                Err(fault(place, "a second document begins here: the configuration is one document"))
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar(&text, style, tag.as_deref()).map_err(|why| fault(place, why))?;
                self.add(anchor, Node { place, value })
            }
            Event::SequenceStart(anchor, _) => self.begin(anchor, Node { place, value: Value::List(Vec::new()) }),
            Event::MappingStart(anchor, _) => self.begin(anchor, Node { place, value: Value::Mapping(Vec::new()) }),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { anchor, node, .. }) => self.add(anchor, node),
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned();
                let node = node.ok_or_else(|| fault(place, "this alias names no anchor that is complete here"))?;
                self.nodes += size(&node);
                self.add(0, node)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, anchor: usize, node: Node) -> Result<(), Fault> {
        let place = node.place;
        self.open.push(Open { anchor, node, key: None });
        if self.open.len() > MAX_DEPTH { Err(fault(place, "nested too deeply")) } else { Ok(()) }
    }

    /// Puts a complete node where it belongs: into the innermost open container, as its next key, or as the root.
    fn add(&mut self, anchor: usize, node: Node) -> Result<(), Fault> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth(&node) + self.open.len() > MAX_DEPTH {
            return Err(fault(node.place, "too large or nested too deeply: aliases repeat too much"));
        }
        if anchor != 0 {
            self.nodes += size(&node);
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Mapping(entries) => match open.key.take() {
                None => open.key = Some((key_text(&node)?, node.place)),
                Some((key, place)) => match entries.iter_mut().find(|entry| entry.key == key) {
                    None => entries.push(Entry { key, place, node }),
                    Some(earlier) => {
                        self.repeated.push((key, place));
                        (earlier.place, earlier.node) = (place, node);
                    }
                },
            },
            _ => {}
        }
        Ok(())
    }
}

fn key_text(node: &Node) -> Result<String, Fault> {
    match &node.value {
        Value::Text(text) | Value::Number(text) => Ok(text.clone()),
        Value::Switch(value) => Ok(value.to_string()),
        Value::Null => Ok("null".to_owned()),
        Value::List(_) | Value::Mapping(_) | Value::Faulty => Err(fault(node.place, "a key must be text")),
    }
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(size).sum(),
        Value::Mapping(entries) => entries.iter().map(|entry| size(&entry.node)).sum(),
        _ => 0,
    }
}

fn depth(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Mapping(entries) => 1 + entries.iter().map(|entry| depth(&entry.node)).max().unwrap_or(0),
        _ => 0,
    }
}

/// YAML 1.2 §10.3: only plain scalars are more than text, unless a tag says otherwise.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() => match (tag.suffix.as_str(), plain(text)) {
            ("str", _) => Ok(Value::Text(text.to_owned())),
            ("null", value @ Value::Null)
            | ("bool", value @ Value::Switch(_))
            | ("int" | "float", value @ Value::Number(_)) => Ok(value),
            (suffix, _) => Err(format!("not a value of the tag !!{suffix}")),
        },
        Some(tag) if !tag.suffix.is_empty() => Err(format!("the tag !{} has no meaning here", tag.suffix)),
        None if style == ScalarStyle::Plain => Ok(plain(text)),
        Some(_) | None => Ok(Value::Text(text.to_owned())),
    }
}

/// YAML 1.2 §10.3.2, the resolution of plain scalars.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Switch(true),
        "false" | "False" | "FALSE" => Value::Switch(false),
        _ if is_number(text) => Value::Number(text.to_owned()),
        _ => Value::Text(text.to_owned()),
    }
}

fn is_number(text: &str) -> bool {
    let digits = |text: &str, radix| !text.is_empty() && text.chars().all(|digit| digit.is_digit(radix));
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, 8);
    }
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        return digits(hexadecimal, 16);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mantissa_is_number = match (whole, fraction) {
        ("", fraction) => digits(fraction, 10) && mantissa.starts_with('.'),
        (whole, "") => digits(whole, 10),
        (whole, fraction) => digits(whole, 10) && digits(fraction, 10),
    };
    mantissa_is_number && exponent.is_none_or(|exponent| digits(exponent, 10))
}

fn syntax_fault(error: &ScanError, text: &str) -> Fault {
    let mut place = Place { line: error.marker().line(), column: error.marker().col() + 1 };
    // The scanner names the value before the tab; what has to be corrected is the indentation of the next line.
    if error.info().ends_with("found a tab") && line_of(text, place.line + 1).starts_with('\t') {
        place = Place { line: place.line + 1, column: 1 };
    }
    let line = line_of(text, place.line);
    // The commonest cause by far: braces and brackets have a meaning of their own in flow style.
    let hint = if line.contains("${") { "; between { } or [ ], put ${…} in quotes" } else { "" };
    fault(place, format!("not YAML: {}{hint}", error.info()))
}

fn fault(place: Place, message: impl Into<String>) -> Fault {
    Fault::new("", place, message.into())
}

/// The line may hold a secret that is not yet known to be one, so it is shown up to the end of its first key.
fn showing_only_the_key(fault: Fault, text: &str) -> Fault {
    let line = line_of(text, fault.line);
    let end_of_key = line.chars().position(|character| character == ':').map_or(1, |position| position + 2);
    fault.hiding_from(end_of_key)
}

fn line_of(text: &str, number: usize) -> &str {
    number.checked_sub(1).and_then(|index| text.lines().nth(index)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Node {
        fn entry(&self, key: &str) -> Option<&Entry> {
            match &self.value {
                Value::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
                _ => None,
            }
        }
    }

    fn value(text: &str) -> Value {
        match read(text) {
            Ok(document) => document.root.value,
            Err(fault) => Value::Text(format!("refused: {fault}")),
        }
    }

    #[test]
    fn plain_scalars_follow_the_core_schema() {
        for text in ["yes", "on", "off", "No", "0x", "0o9", "1_000", "1.2.3", "-", "+", ".", "e3", "12h", "2001-01-01"]
        {
            assert_eq!(plain(text), Value::Text(text.to_owned()), "{text}");
        }
        for text in ["0", "-1", "+12", "0x1F", "0o17", "1.", ".5", "1.50", "6.02e23", "1E-3", ".inf", "-.inf", ".nan"] {
            assert_eq!(plain(text), Value::Number(text.to_owned()), "{text}");
        }
        assert_eq!(
            [plain("~"), plain("True"), plain("false")],
            [Value::Null, Value::Switch(true), Value::Switch(false)]
        );
        assert_eq!(value("'true'"), Value::Text("true".to_owned()));
        assert_eq!(value("!!str 12"), Value::Text("12".to_owned()));
    }

    #[test]
    fn nodes_remember_where_they_stand() {
        let document = read("\u{feff}---\r\na: 1\r\nb:\r\n  - x\r\n  - {c: y}\r\n").map_err(|fault| fault.to_string());
        let root = document.expect("valid").root;
        assert_eq!(root.entry("a").map(|entry| entry.node.place), Some(Place { line: 2, column: 4 }));
        let b = root.entry("b").expect("present");
        assert_eq!(b.place, Place { line: 3, column: 1 });
        let Value::List(items) = &b.node.value else { panic!("a list") };
        assert_eq!(items[0].place, Place { line: 4, column: 5 });
        assert_eq!(items[1].entry("c").expect("present").node.place, Place { line: 5, column: 9 });
    }

    #[test]
    fn anchors_repeat_values_and_a_repeated_key_replaces_the_first() {
        assert_eq!(value("a: &x [1]\nb: *x"), value("a: [1]\nb: [1]").without_places_of(&value("a: &x [1]\nb: *x")));
        let document = read("a: 1\nb: 2\na: 3").map_err(|fault| fault.to_string()).expect("valid");
        assert_eq!(document.root.entry("a").expect("present").node.value, Value::Number("3".to_owned()));
        assert_eq!(document.repeated, [("a".to_owned(), Place { line: 3, column: 1 })]);
    }

    #[test]
    fn what_is_not_one_plain_document_is_refused_with_its_line() {
        for (text, expected) in [
            ("", "empty"),
            ("# nothing", "empty"),
            ("a: 1\n---\nb: 2", "2:1: a second document"),
            ("a:\n\tb: 1", "2:"),
            ("a:\n  b: 1\n\tc: 2", "3:1: not YAML"),
            ("a: [1", "not YAML"),
            ("a: *x", "not YAML"),
            ("a: &x [*x]", "1:8: this alias"),
            ("? [a]\n: 1", "1:3: a key must be text"),
            ("a: !secret x", "1:4: the tag !secret"),
        ] {
            let fault = read(text).map(|_| ()).expect_err(text).to_string();
            assert!(fault.contains(expected), "{text:?}: {fault}");
        }
        let laughs = (1..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x]".to_owned(), |text, level| {
            format!("{text}\na{level}: &a{level} [{}]", vec![format!("*a{}", level - 1); 9].join(","))
        });
        assert!(read(&laughs).is_err());
        assert!(read(&"[".repeat(100_000)).is_err());
    }

    impl Value {
        /// The same value with the places of `other`: equality that ignores where an alias was defined.
        fn without_places_of(self, other: &Self) -> Self {
            match (self, other) {
                (Self::List(items), Self::List(others)) => Self::List(
                    items
                        .into_iter()
                        .zip(others)
                        .map(|(item, other)| Node {
                            place: other.place,
                            value: item.value.without_places_of(&other.value),
                        })
                        .collect(),
                ),
                (Self::Mapping(entries), Self::Mapping(others)) => Self::Mapping(
                    entries
                        .into_iter()
                        .zip(others)
                        .map(|(entry, other)| Entry {
                            key: entry.key,
                            place: other.place,
                            node: Node {
                                place: other.node.place,
                                value: entry.node.value.without_places_of(&other.node.value),
                            },
                        })
                        .collect(),
                ),
                (value, _) => value,
            }
        }
    }
}
