//! The decoder: a section is a function that asks [`Keys`] for each of its keys by name, [`Kind`] and documentation.
//!
//! ```text
//! fn timeouts(keys: &mut Keys) -> Option<Timeouts> {
//!     let ttfb = keys.or("upstream_ttfb_ms", millis(), "120000", "How long to wait for … .");
//!     Some(Timeouts { upstream_ttfb: ttfb? })
//! }
//! ```
//!
//! The same function does five things, so that nothing is written twice. Over a mapping it (1) decodes, (2) reports
//! every fault with its place, (3) finds keys that nobody asked for, and (4) records the meaning of each value for the
//! digest of the effective configuration. Over nothing it (5) describes itself, which is where the JSON Schema and
//! `docs/configuration.md` come from. It must therefore ask for all keys before it gives up on one of them.

use std::collections::HashMap;

use super::kind::{At, Kind, formed, json};
use super::report::{Report, below, did_you_mean, nearest, one_of};
use super::shape::{Field, Need, Shape, Variant};
use super::yaml::{self, Entry, Place, Value};
use super::{Fault, Sources};

/// A mapping with exactly the keys that `section` asks for.
pub(super) fn section<T: 'static>(section: fn(&mut Keys<'_, '_>) -> Option<T>) -> Kind<T> {
    let read = move |at: At<'_>, report: &mut Report<'_>| {
        let Value::Mapping(entries) = &at.node.value else {
            at.mismatch(report, "a mapping");
            return None;
        };
        report.means(at.path, "");
        let before = report.faults.len();
        let mut keys = Keys {
            written: Some((at, entries)),
            report,
            fields: Vec::new(),
            known: Vec::new(),
            retired: Vec::new(),
            lacking: Vec::new(),
            tagged: None,
        };
        let value = section(&mut keys);
        keys.refuse_unknown(|| describe(section));
        value.filter(|_| keys.report.faults.len() == before)
    };
    Kind::new(move || describe(section), read)
}

/// What `section` asks for.
pub(super) fn describe<T>(section: fn(&mut Keys<'_, '_>) -> Option<T>) -> Shape {
    let sources = Sources { variables: HashMap::new(), files: &NoFiles, allow_loopback: false };
    let mut report = Report::new(&sources);
    let mut keys = Keys {
        written: None,
        report: &mut report,
        fields: Vec::new(),
        known: Vec::new(),
        retired: Vec::new(),
        lacking: Vec::new(),
        tagged: None,
    };
    // What it returns, and what it says about keys that are missing, is of no interest.
    let _ = section(&mut keys);
    let Keys { fields, tagged, .. } = keys;
    match tagged {
        Some((tag, variants)) => Shape::Tagged { tag, variants, common: fields },
        None => Shape::Section(fields),
    }
}

/// A default, as it stands in the source, as JSON.
pub(super) fn default_json(default: &str) -> serde_json::Value {
    let sources = Sources { variables: HashMap::new(), files: &NoFiles, allow_loopback: false };
    let node = yaml::read(default).expect("defaults are YAML; a test describes every section").root;
    json(At { path: "", node: &node }, &mut Report::new(&sources)).unwrap_or_default()
}

struct NoFiles;

impl crate::ports::Files for NoFiles {
    fn read(&self, _path: &str) -> Result<Vec<u8>, String> {
        Err("nothing is read while describing".to_owned())
    }
}

/// One value of a tag: its name, what it is, and the section with the keys that it adds.
pub(super) type Tagged<T> = (&'static str, &'static str, fn(&mut Keys<'_, '_>) -> Option<T>);

/// The keys of one mapping, asked for one by one.
pub(super) struct Keys<'a, 'r> {
    /// The mapping; nothing while describing.
    written: Option<(At<'a>, &'a [Entry])>,
    pub(super) report: &'a mut Report<'r>,
    fields: Vec<Field>,
    known: Vec<&'static str>,
    retired: Vec<&'static str>,
    /// Keys that must be there and are not, with what is said about it.
    lacking: Vec<(&'static str, Fault)>,
    tagged: Option<(&'static str, Vec<Variant>)>,
}

#[expect(clippy::needless_pass_by_value, reason = "a table of keys reads better without ampersands")]
impl Keys<'_, '_> {
    /// A key that must be there.
    pub(super) fn required<T: 'static>(&mut self, name: &'static str, kind: Kind<T>, doc: &'static str) -> Option<T> {
        self.describe(name, doc, Need::Required, &kind);
        if self.has(name) {
            return self.read(name, &kind);
        }
        self.lacks(name, format!("the key `{name}` is missing"));
        None
    }

    /// A key that may be absent.
    pub(super) fn optional<T: 'static>(&mut self, name: &'static str, kind: Kind<T>, doc: &'static str) -> Option<T> {
        self.describe(name, doc, Need::Optional, &kind);
        self.read(name, &kind)
    }

    /// A key with a default, which is written as the operator would write it. Nothing only if the value is faulty.
    pub(super) fn or<T: 'static>(
        &mut self,
        name: &'static str,
        kind: Kind<T>,
        default: &'static str,
        doc: &'static str,
    ) -> Option<T> {
        self.describe(name, doc, Need::Default(default), &kind);
        if self.has(name) {
            return self.read(name, &kind);
        }
        let mut node = yaml::read(default).expect("defaults are YAML; a test describes every section").root;
        node.move_to(self.place());
        kind.read(&self.path_of(name), &node, self.report)
    }

    /// The keys that depend on the value of the key `tag`.
    pub(super) fn tagged<T: 'static>(
        &mut self,
        tag: &'static str,
        doc: &'static str,
        variants: &'static [Tagged<T>],
    ) -> Option<T> {
        let described =
            || variants.iter().map(|(name, doc, section)| Variant { name, doc, fields: own_fields(*section) });
        let names = variants.iter().map(|(name, ..)| *name);
        if self.written.is_none() {
            let shape = Shape::Choice(names.collect());
            self.fields.push(Field { name: tag, doc, shape, need: Need::Required });
            self.tagged = Some((tag, described().collect()));
            return None;
        }
        let given = self.required(tag, formed("the name of one of the kinds"), doc);
        let found = given.as_ref().and_then(|given| variants.iter().find(|(name, ..)| name == given));
        if let Some((.., section)) = found {
            return section(self);
        }
        if let Some(given) = given {
            self.fault(tag, format!("expected {}{}", one_of(names.clone()), did_you_mean(&given, names)));
        }
        // Without a kind, nobody can say which of the other keys are wrong.
        self.known.extend(described().flat_map(|variant| variant.fields).map(|field| field.name));
        None
    }

    /// A key that existed once: refused with a sentence of its own.
    pub(super) fn retired(&mut self, name: &'static str, message: &str) {
        self.retired.push(name);
        if self.has(name) {
            self.fault(name, message);
        }
    }

    /// Whether nothing is read: the section only says which keys it has.
    pub(super) const fn describes(&self) -> bool {
        self.written.is_none()
    }

    /// Whether `name` is written.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// Reports a fault of `name` (or, if it is not written or empty, of the whole mapping).
    pub(super) fn fault(&mut self, name: &str, message: impl Into<String>) {
        if self.written.is_some() {
            let (path, place) = self.spot(name);
            self.report.fault(&path, place, message);
        }
    }

    /// Reports that `name` is not there, unless it turns out to be there under a misspelt name: one fault is enough.
    pub(super) fn lacks(&mut self, name: &'static str, message: impl Into<String>) {
        if self.written.is_some() {
            let (path, place) = self.spot("");
            self.lacking.push((name, Fault::new(&path, place, message.into())));
        }
    }

    /// Reports a warning about `name` (or, if it is not written or empty, about the whole mapping).
    pub(super) fn warn(&mut self, name: &str, message: impl Into<String>) {
        if self.written.is_some() {
            let (path, place) = self.spot(name);
            self.report.warnings.push(Fault::new(&path, place, message.into()));
        }
    }

    /// The path of `name` in this mapping.
    pub(super) fn path_of(&self, name: &str) -> String {
        below(self.written.map_or("", |(at, _)| at.path), name)
    }

    fn spot(&self, name: &str) -> (String, Place) {
        match (name, self.entry(name)) {
            ("", _) => (self.written.map(|(at, _)| at.path.to_owned()).unwrap_or_default(), self.place()),
            (name, Some(entry)) => (self.path_of(name), entry.node.place),
            (name, None) => (self.path_of(name), self.place()),
        }
    }

    fn place(&self) -> Place {
        self.written.map(|(at, _)| at.node.place).unwrap_or_default()
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.written?.1.iter().find(|entry| entry.key == name)
    }

    fn read<T: 'static>(&mut self, name: &str, kind: &Kind<T>) -> Option<T> {
        let (at, entries) = self.written?;
        let entry = entries.iter().find(|entry| entry.key == name)?;
        kind.read(&below(at.path, name), &entry.node, self.report)
    }

    fn describe<T: 'static>(&mut self, name: &'static str, doc: &'static str, need: Need, kind: &Kind<T>) {
        self.known.push(name);
        if self.written.is_none() {
            self.fields.push(Field { name, doc, shape: kind.shape(), need });
        }
    }

    /// Reports keys that nobody asked for, and keys that are lacking and were not merely misspelt. `shape` describes the
    /// section.
    fn refuse_unknown(&mut self, shape: impl FnOnce() -> Shape) {
        let Some((at, entries)) = self.written else { return };
        let is_known = |key: &String| self.known.iter().chain(&self.retired).any(|known| known == key);
        let unknown: Vec<_> = entries.iter().filter(|entry| !is_known(&entry.key)).collect();
        let fields = if unknown.is_empty() { Vec::new() } else { fields_of(shape()) };
        for Entry { key, place, node } in unknown {
            let nearest = nearest(key, self.known.iter().copied());
            let hint = match nearest {
                Some(name) => format!("; did you mean `{name}`?"),
                None => format!("; known here: {}", self.known.join(", ")),
            };
            self.lacking.retain(|(name, _)| nearest != Some(*name));
            self.report.fault(&below(at.path, key), *place, format!("unknown key{hint}"));
            // What a key that is not known holds may be a secret, unless it is meant to be something else.
            let is_scalar = !matches!(node.value, Value::Mapping(_) | Value::List(_));
            let meant = fields.iter().find(|field| Some(field.name) == nearest);
            if !is_scalar || meant.is_none_or(|field| holds_secrets(&field.shape)) {
                self.report.hide(Place { column: place.column + key.chars().count(), ..*place });
            }
        }
        self.report.faults.extend(self.lacking.drain(..).map(|(_, fault)| fault));
    }
}

/// All fields of a section, whatever its tag says.
fn fields_of(shape: Shape) -> Vec<Field> {
    match shape {
        Shape::Section(fields) => fields,
        Shape::Tagged { variants, common, .. } => {
            common.into_iter().chain(variants.into_iter().flat_map(|variant| variant.fields)).collect()
        }
        _ => Vec::new(),
    }
}

fn holds_secrets(shape: &Shape) -> bool {
    match shape {
        Shape::Secret | Shape::Document => true,
        Shape::List { item, .. } | Shape::OneOrMany(item) | Shape::Map(item) => holds_secrets(item),
        Shape::Section(_) | Shape::Tagged { .. } => {
            fields_of(shape.clone()).iter().any(|field| holds_secrets(&field.shape))
        }
        Shape::Text { .. } | Shape::Whole { .. } | Shape::Decimal | Shape::Switch | Shape::Choice(_) => false,
    }
}

fn own_fields<T>(section: fn(&mut Keys<'_, '_>) -> Option<T>) -> Vec<Field> {
    match describe(section) {
        Shape::Section(fields) => fields,
        _ => Vec::new(),
    }
}
