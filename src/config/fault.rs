//! [`Fault`]: one thing that is wrong (or risky) in the configuration, and how it is shown to a person.

use std::fmt;

use serde::Serialize;

use super::yaml::Place;

/// Something wrong with the configuration, or (in [`super::Loaded::warnings`]) something risky.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where, as keys and indices: `upstreams[1].region`. Empty for the document as a whole.
    pub path: String,
    /// Line of the value, or of the mapping that lacks it; from 1. Zero when there is no place.
    pub line: usize,
    /// Column, from 1. Zero when there is no place.
    pub column: usize,
    /// What is wrong and what is allowed. Never quotes a secret.
    pub message: String,
    /// From this column on, the source line may hold a secret and is not shown.
    #[serde(skip)]
    pub(super) hidden_from: Option<usize>,
}

impl Fault {
    pub(super) fn new(path: &str, place: Place, message: String) -> Self {
        Self { path: path.to_owned(), line: place.line, column: place.column, message, hidden_from: None }
    }

    /// The same fault, whose source line is shown only up to `column`.
    #[must_use]
    pub(super) const fn hiding_from(mut self, column: usize) -> Self {
        self.hidden_from = Some(column);
        self
    }

    /// The fault in one line, with its place in `file`.
    pub fn located(&self, file: &str) -> String {
        let place = if self.line > 0 { format!("{file}:{}:{}: ", self.line, self.column) } else { String::new() };
        let path = if self.path.is_empty() { String::new() } else { format!("{}: ", self.path) };
        format!("{place}{path}{}", self.message)
    }

    /// The same as [`Self::render_in`], in `gateway.yaml`.
    pub fn render(&self, text: &str) -> String {
        self.render_in("gateway.yaml", text)
    }

    /// The fault in `file` with its line of `text` and a caret below the place; several lines, without a final line break.
    ///
    /// ```text
    /// gateway.yaml:3:5: upstreams[0].regoin: unknown key; did you mean `region`?
    ///   3 |     regoin: eu-west-1
    ///     |     ^
    /// ```
    ///
    /// Where the line may hold a secret, it ends before it; a reference such as `${NAME}` is none.
    pub fn render_in(&self, file: &str, text: &str) -> String {
        let located = self.located(file);
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let Some(line) = self.line.checked_sub(1).and_then(|index| text.lines().nth(index)) else {
            return located;
        };
        let shown = match self.hidden_from {
            Some(column) if column <= line.chars().count() => {
                let start = line.char_indices().nth(column.saturating_sub(1)).map_or(line.len(), |(start, _)| start);
                let (shown, hidden) = line.split_at(start);
                if is_harmless(hidden) { line.to_owned() } else { format!("{shown}…") }
            }
            _ => line.to_owned(),
        };
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs stay tabs, so that the caret stands where the eye expects it.
        let indent: String = line
            .chars()
            .chain(std::iter::repeat(' '))
            .take(self.column.saturating_sub(1))
            .map(|character| if character == '\t' { '\t' } else { ' ' })
            .collect();
        format!("{located}\n  {number} | {shown}\n  {margin} | {indent}^")
    }
}

/// Whether what is left of a line is nothing, or a reference and nothing else.
fn is_harmless(rest: &str) -> bool {
    let value = rest.trim_start_matches([':', ' ', '\t']).trim_end();
    let unquoted = ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    let inner = unquoted.unwrap_or(value).strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    value.is_empty() || inner.is_some_and(|inner| !inner.contains(['{', '}', '$']))
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.located("gateway.yaml"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_shown_with_its_line_and_a_caret() {
        let fault = Fault::new("b.c", Place { line: 2, column: 3 }, "is wrong".to_owned());
        assert_eq!(fault.render("b:\n  c: x\n"), "gateway.yaml:2:3: b.c: is wrong\n  2 |   c: x\n    |   ^");
        assert_eq!(fault.located("other.yaml"), "other.yaml:2:3: b.c: is wrong");
        let hiding = fault.clone().hiding_from(4);
        let shown = |line: &str| format!("gateway.yaml:2:3: b.c: is wrong\n  2 | {line}\n    |   ^");
        for (line, expected) in [
            ("  c: x", "  c…"),
            ("  c:", "  c:"),
            ("  c: ${X}", "  c: ${X}"),
            ("  c: \"${file:/x}\"", "  c: \"${file:/x}\""),
            ("  c: ${X}x", "  c…"),
            ("  c: x${X}", "  c…"),
            ("  c: ${X} ${Y}", "  c…"),
            ("  c: '${X}", "  c…"),
        ] {
            assert_eq!(hiding.render(&format!("b:\n{line}\n")), shown(expected));
        }
        let elsewhere = Fault::new("", Place { line: 9, column: 1 }, "ends early".to_owned());
        assert_eq!(elsewhere.render("b:"), "gateway.yaml:9:1: ends early");
    }

    #[test]
    fn machines_get_path_line_column_and_message() {
        let fault = Fault::new("a", Place { line: 1, column: 4 }, "is wrong".to_owned());
        let json = serde_json::to_string(&fault).expect("plain data");
        assert_eq!(json, r#"{"path":"a","line":1,"column":4,"message":"is wrong"}"#);
    }
}
