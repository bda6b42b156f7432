//! [`Kind`]: how one kind of value is described and read, and the kinds that sections are made of.

use std::rc::Rc;

use super::report::{Report, below, did_you_mean, item, one_of};
use super::shape::Shape;
use super::yaml::{Entry, Node, Value};
use super::{Json, Secret};
use crate::domain::checksum::canonical;

/// A value and the way to it.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) path: &'a str,
    pub(super) node: &'a Node,
}

impl At<'_> {
    pub(super) fn fault(self, report: &mut Report<'_>, message: impl Into<String>) {
        report.fault(self.path, self.node.place, message);
    }

    /// Reports that this is not what `expected` says; silent if something was said about the value before.
    pub(super) fn mismatch(self, report: &mut Report<'_>, expected: &str) {
        match &self.node.value {
            Value::Faulty => {}
            // What was meant may stand there, as a comment.
            Value::Null if expected.contains('#') => {
                let message =
                    format!("is empty: expected {expected} in quotes (# begins a comment), or remove the key");
                self.fault(report, message);
            }
            Value::Null => self.fault(report, format!("is empty: expected {expected}, or remove the key")),
            _ => self.fault(report, format!("expected {expected}, found {}", self.node.described())),
        }
    }
}

type Describe = Rc<dyn Fn() -> Shape>;
type Read<T> = Rc<dyn Fn(At<'_>, &mut Report<'_>) -> Option<T>>;

/// How one kind of value is described and read. Reading returns nothing only if a fault was reported.
pub(super) struct Kind<T> {
    describe: Describe,
    read: Read<T>,
}

impl<T: 'static> Kind<T> {
    pub(super) fn new(
        describe: impl Fn() -> Shape + 'static,
        read: impl Fn(At<'_>, &mut Report<'_>) -> Option<T> + 'static,
    ) -> Self {
        Self { describe: Rc::new(describe), read: Rc::new(read) }
    }

    /// The same kind, turned into something else.
    pub(super) fn map<U: 'static>(self, turn: impl Fn(T) -> U + 'static) -> Kind<U> {
        self.check(move |value| Ok(turn(value)))
    }

    /// The same kind, if `check` agrees; otherwise its message becomes the fault.
    pub(super) fn check<U: 'static>(self, check: impl Fn(T) -> Result<U, String> + 'static) -> Kind<U> {
        self.check_with(move |value, _| check(value))
    }

    /// The same kind, if `holds`; otherwise `message` is the fault.
    pub(super) fn such_that(self, holds: impl Fn(&T) -> bool + 'static, message: &'static str) -> Self {
        self.check(move |value| if holds(&value) { Ok(value) } else { Err(message.to_owned()) })
    }

    /// The same kind, if `check`, which may look at the report's sources, agrees.
    pub(super) fn check_with<U: 'static>(
        self,
        check: impl Fn(T, &Report<'_>) -> Result<U, String> + 'static,
    ) -> Kind<U> {
        let Self { describe, read } = self;
        let read = move |at: At<'_>, report: &mut Report<'_>| {
            let value = read(at, report)?;
            check(value, report).map_err(|message| at.fault(report, message)).ok()
        };
        Kind { describe, read: Rc::new(read) }
    }

    /// What it says about itself.
    pub(super) fn shape(&self) -> Shape {
        (self.describe)()
    }

    /// Reads `node`, which is at `path`.
    pub(super) fn read(&self, path: &str, node: &Node, report: &mut Report<'_>) -> Option<T> {
        report.stands_at(path, node.place);
        (self.read)(At { path, node }, report)
    }
}

/// Text; `form` says what it must look like (`""`: anything).
fn text_of(min: usize, max: Option<usize>, form: &'static str) -> Kind<String> {
    let expected = if form.is_empty() { "text" } else { form };
    let read = move |at: At<'_>, report: &mut Report<'_>| match &at.node.value {
        Value::Text(text) => {
            let length = text.chars().count();
            if length < min && min == 1 {
                at.fault(report, "must not be empty");
            } else if length < min {
                at.fault(report, format!("must have at least {min} characters, has {length}"));
            } else if let Some(max) = max.filter(|max| length > *max) {
                at.fault(report, format!("must have at most {max} characters, has {length}"));
            } else {
                report.means(at.path, text.as_str());
                return Some(text.clone());
            }
            None
        }
        Value::Number(_) | Value::Switch(_) => {
            at.fault(report, format!("expected {expected}, found {}: put it in quotes", at.node.described()));
            None
        }
        _ => {
            at.mismatch(report, expected);
            None
        }
    };
    Kind::new(move || Shape::Text { min, max, form }, read)
}

/// Any text.
pub(super) fn text() -> Kind<String> {
    text_of(0, None, "")
}

/// Text that is not empty.
pub(super) fn non_empty() -> Kind<String> {
    text_of(1, None, "")
}

/// Text of `min` to `max` characters.
pub(super) fn text_between(min: usize, max: usize) -> Kind<String> {
    text_of(min, Some(max), "")
}

/// Text that `form` describes; the caller checks it.
pub(super) fn formed(form: &'static str) -> Kind<String> {
    text_of(1, None, form)
}

/// A secret of at least `min` characters. Its faults never show the source line's value.
pub(super) fn secret(min: usize) -> Kind<Secret<String>> {
    let kind = text_of(min, None, "");
    let read = move |at: At<'_>, report: &mut Report<'_>| {
        report.hide(at.node.place);
        (kind.read)(at, report).map(Secret::new)
    };
    Kind::new(|| Shape::Secret, read)
}

/// `true` or `false`. Text is refused, so a switch cannot come from a variable (auth contract §2).
pub(super) fn switch() -> Kind<bool> {
    let read = |at: At<'_>, report: &mut Report<'_>| {
        let Value::Switch(value) = at.node.value else {
            at.mismatch(report, "true or false without quotes");
            return None;
        };
        report.means(at.path, value.to_string());
        Some(value)
    };
    Kind::new(|| Shape::Switch, read)
}

/// A whole number from `min` to `max`, also as text, so that `${PORT}` works.
pub(super) fn whole<T: TryFrom<i64> + 'static>(min: i64, max: i64) -> Kind<T> {
    let read = move |at: At<'_>, report: &mut Report<'_>| {
        let number = match &at.node.value {
            Value::Number(text) | Value::Text(text) => whole_number(text.trim()),
            _ => {
                at.mismatch(report, "a whole number");
                return None;
            }
        };
        let Some(number) = number else {
            at.fault(report, "expected a whole number");
            return None;
        };
        let value = T::try_from(number).ok().filter(|_| (min..=max).contains(&number));
        match value {
            Some(_) => report.means(at.path, number.to_string()),
            None if number < min => at.fault(report, format!("must be at least {min}")),
            None if number > max => at.fault(report, format!("must be at most {max}")),
            None => at.fault(report, "is too large"),
        }
        value
    };
    Kind::new(move || Shape::Whole { min, max }, read)
}

/// A whole number greater than zero.
pub(super) fn positive<T: TryFrom<i64> + 'static>() -> Kind<T> {
    // JavaScript's largest exact integer: what the reference can count to, and more than any duration can hold.
    whole(1, 9_007_199_254_740_991)
}

fn whole_number(text: &str) -> Option<i64> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return i64::from_str_radix(digits, 16).ok();
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return i64::from_str_radix(digits, 8).ok();
    }
    // `8080.0` and `1e3` are whole numbers too.
    let number: f64 = text.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "the value is whole and small")]
    (number.fract() == 0.0 && number.abs() < 9.0e15).then_some(number as i64)
}

/// A number that is not negative, as plain decimal text: money is never floating point.
pub(super) fn decimal() -> Kind<String> {
    let read = |at: At<'_>, report: &mut Report<'_>| match &at.node.value {
        Value::Number(text) | Value::Text(text) => {
            let plain = plain_decimal(text.trim());
            match &plain {
                Some(plain) => report.means(at.path, plain.as_str()),
                None => at.fault(report, "expected a number such as 12.50"),
            }
            plain
        }
        _ => {
            at.mismatch(report, "a number");
            None
        }
    };
    Kind::new(|| Shape::Decimal, read)
}

/// `text` without sign, exponent, and zeros that say nothing.
fn plain_decimal(text: &str) -> Option<String> {
    let is_plain = |text: &str| {
        text.chars().all(|digit| digit.is_ascii_digit() || digit == '.')
            && text.chars().any(|digit| digit.is_ascii_digit())
            && text.matches('.').count() <= 1
    };
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    let plain = if is_plain(unsigned) {
        unsigned.to_owned()
    } else {
        let number: f64 = unsigned.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)?;
        format!("{number}")
    };
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let whole = if whole.is_empty() { "0" } else { whole };
    Some(if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") })
}

/// One of a few words.
pub(super) fn choice<T: Copy + 'static>(words: &'static [(&'static str, T)]) -> Kind<T> {
    let names = || words.iter().map(|(name, _)| *name);
    let read = move |at: At<'_>, report: &mut Report<'_>| {
        let Value::Text(given) = &at.node.value else {
            at.mismatch(report, &one_of(names()));
            return None;
        };
        let found = words.iter().find(|(name, _)| name == given);
        match found {
            Some((name, _)) => report.means(at.path, *name),
            None => at.fault(report, format!("expected {}{}", one_of(names()), did_you_mean(given, names()))),
        }
        found.map(|(_, value)| *value)
    };
    Kind::new(move || Shape::Choice(names().collect()), read)
}

/// A list.
pub(super) fn list<T: 'static>(kind: Kind<T>) -> Kind<Vec<T>> {
    list_of(0, kind)
}

/// A list with at least one item.
pub(super) fn non_empty_list<T: 'static>(kind: Kind<T>) -> Kind<Vec<T>> {
    list_of(1, kind)
}

fn list_of<T: 'static>(min: usize, kind: Kind<T>) -> Kind<Vec<T>> {
    let describe = Rc::clone(&kind.describe);
    let read = move |at: At<'_>, report: &mut Report<'_>| {
        let Value::List(items) = &at.node.value else {
            at.mismatch(report, "a list");
            return None;
        };
        if items.len() < min {
            at.fault(report, "must have at least one entry");
            return None;
        }
        report.means(at.path, items.len().to_string());
        // Every item is read, also after one that is faulty.
        let values: Vec<_> =
            items.iter().enumerate().map(|(index, node)| kind.read(&item(at.path, index), node, report)).collect();
        values.into_iter().collect()
    };
    Kind::new(move || Shape::List { item: Box::new(describe()), min }, read)
}

/// One value, or a list with at least one of them.
pub(super) fn one_or_many<T: 'static>(kind: Kind<T>) -> Kind<Vec<T>> {
    let describe = Rc::clone(&kind.describe);
    let many = non_empty_list(kind);
    let read = move |at: At<'_>, report: &mut Report<'_>| {
        if let Value::List(_) = at.node.value {
            return (many.read)(at, report);
        }
        // The same meaning as the list of one, and the same digest; but faults name the path that is written.
        let list = Node { place: at.node.place, value: Value::List(vec![at.node.clone()]) };
        let before = report.faults.len();
        let values = (many.read)(At { node: &list, ..at }, report);
        for fault in &mut report.faults[before..] {
            if fault.path == item(at.path, 0) {
                at.path.clone_into(&mut fault.path);
            }
        }
        values
    };
    Kind::new(move || Shape::OneOrMany(Box::new(describe())), read)
}

/// One value, or a list with at least one of them; says which it was. The one keeps its path.
pub(super) fn one_or_list<T: 'static>(kind: Kind<T>) -> Kind<OneOrList<T>> {
    let Kind { describe, read: one } = &kind;
    let (describe, one) = (Rc::clone(describe), Rc::clone(one));
    let list = non_empty_list(kind);
    let read = move |at: At<'_>, report: &mut Report<'_>| match at.node.value {
        Value::List(_) => (list.read)(at, report).map(OneOrList::List),
        _ => one(at, report).map(OneOrList::One),
    };
    Kind::new(move || Shape::OneOrMany(Box::new(describe())), read)
}

/// What [`one_or_list`] reads.
pub(super) enum OneOrList<T> {
    One(T),
    List(Vec<T>),
}

/// A mapping whose keys the operator chooses, in file order; `name` judges each of them.
pub(super) fn map<T: 'static>(name: fn(&str) -> Result<(), String>, kind: Kind<T>) -> Kind<Vec<(String, T)>> {
    let describe = Rc::clone(&kind.describe);
    let read = move |at: At<'_>, report: &mut Report<'_>| {
        let Value::Mapping(entries) = &at.node.value else {
            at.mismatch(report, "a mapping");
            return None;
        };
        report.means(at.path, "");
        let values: Vec<_> = entries
            .iter()
            .map(|Entry { key, place, node }| {
                let path = below(at.path, key);
                let value = kind.read(&path, node, report);
                match name(key) {
                    Ok(()) => Some((key.clone(), value?)),
                    Err(message) => {
                        report.fault(&path, *place, message);
                        None
                    }
                }
            })
            .collect();
        values.into_iter().collect()
    };
    Kind::new(move || Shape::Map(Box::new(describe())), read)
}

/// Any key will do.
#[expect(clippy::unnecessary_wraps, reason = "it is one of several judges")]
pub(super) const fn any_name(_name: &str) -> Result<(), String> {
    Ok(())
}

/// A document whose keys are not ours: JSON with its keys in the order in which they were written.
pub(super) fn document() -> Kind<Json> {
    let read = |at: At<'_>, report: &mut Report<'_>| {
        let Value::Mapping(_) = at.node.value else {
            at.mismatch(report, "a mapping");
            return None;
        };
        match json(at, report)? {
            serde_json::Value::Object(object) => {
                report.means(at.path, canonical(&object));
                Some(object)
            }
            _ => None,
        }
    };
    Kind::new(|| Shape::Document, read)
}

/// The JSON that a node stands for. JSON knows no infinity.
pub(super) fn json(at: At<'_>, report: &mut Report<'_>) -> Option<serde_json::Value> {
    report.stands_at(at.path, at.node.place);
    Some(match &at.node.value {
        Value::Null => serde_json::Value::Null,
        Value::Switch(value) => serde_json::Value::Bool(*value),
        Value::Text(text) => serde_json::Value::String(text.clone()),
        Value::Number(text) => {
            let Some(number) = json_number(text) else {
                at.fault(report, "is not a number that JSON can hold");
                return None;
            };
            serde_json::Value::Number(number)
        }
        Value::List(items) => {
            let items: Vec<_> = items
                .iter()
                .enumerate()
                .map(|(index, node)| json(At { path: &item(at.path, index), node }, report))
                .collect();
            serde_json::Value::Array(items.into_iter().collect::<Option<_>>()?)
        }
        Value::Mapping(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|Entry { key, node, .. }| {
                    Some((key.clone(), json(At { path: &below(at.path, key), node }, report)?))
                })
                .collect();
            serde_json::Value::Object(entries.into_iter().collect::<Option<_>>()?)
        }
        Value::Faulty => return None,
    })
}

fn json_number(text: &str) -> Option<serde_json::Number> {
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if let Ok(number) = unsigned.parse::<u64>() {
        return Some(number.into());
    }
    match whole_number(unsigned) {
        Some(number) => Some(number.into()),
        None => serde_json::Number::from_f64(unsigned.parse().ok()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_become_plain_text() {
        for (text, expected) in [
            ("12.50", Some("12.5")),
            ("0.125", Some("0.125")),
            (".5", Some("0.5")),
            ("007", Some("7")),
            ("0.0", Some("0")),
            ("1e-3", Some("0.001")),
            ("2.5e1", Some("25")),
            ("-1", None),
            (".", None),
            ("1.2.3", None),
            ("ten", None),
            (".inf", None),
        ] {
            assert_eq!(plain_decimal(text).as_deref(), expected, "{text}");
        }
    }
}
