//! What the decoders say about themselves: the keys of a section with type, default and documentation.
//!
//! Decoding and describing run the same code (see `decode`), so the JSON Schema and `docs/configuration.md`, which are
//! rendered from this, cannot disagree with what is accepted.

/// One key of a mapping.
#[derive(Debug, Clone)]
pub(super) struct Field {
    pub(super) name: &'static str,
    /// Markdown, whole sentences.
    pub(super) doc: &'static str,
    pub(super) shape: Shape,
    pub(super) need: Need,
}

/// Whether a key must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Required,
    Optional,
    /// The default, as it would be written in YAML.
    Default(&'static str),
}

/// What a value may be.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// Text of so many characters.
    Text {
        min: usize,
        max: Option<usize>,
        form: &'static str,
    },
    /// A secret: text that editors and documents should suggest to take from a variable.
    Secret,
    Whole {
        min: i64,
        max: i64,
    },
    Decimal,
    Switch,
    Choice(Vec<&'static str>),
    List {
        item: Box<Shape>,
        min: usize,
    },
    /// One value or a list of them.
    OneOrMany(Box<Shape>),
    /// Keys chosen by the operator.
    Map(Box<Shape>),
    /// Exactly these keys.
    Section(Vec<Field>),
    /// Exactly these keys, and others depending on the value of `tag`.
    Tagged {
        tag: &'static str,
        variants: Vec<Variant>,
        common: Vec<Field>,
    },
    /// A document whose keys are not ours.
    Document,
}

/// What one value of a tag adds.
#[derive(Debug, Clone)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    pub(super) fields: Vec<Field>,
}
