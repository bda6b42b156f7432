//! `docs/configuration.md`: every key with its type, default and meaning, rendered from what the decoders say about
//! themselves.

use std::fmt::Write;

use super::decode::describe;
use super::gateway::sections;
use super::shape::{Field, Need, Shape};

const INTRODUCTION: &str = "\
# gateway.yaml

<!-- Rendered from the source of the gateway; a test compares. Change the documentation beside the keys in src/config. -->

One YAML file configures the gateway. A `gateway.yaml` of the Claude apps gateway works unchanged; what differs is in
[differences.md](differences.md). `sallyport check` judges a file and names every fault with its line; `sallyport schema`
prints the [JSON Schema](gateway.schema.json) that editors use:

```yaml
# yaml-language-server: $schema=gateway.schema.json
```

## Rules

- `${NAME}` in a text value is replaced by the variable `NAME`: a Spin variable of that name in lower case, or else the
  environment. It may stand inside a longer text. A variable that is not defined is a fault.
- `${file:/absolute/path}` as a whole value is replaced by the trimmed content of the file.
- What was put in is not expanded again. Nothing else has a meaning after a dollar sign, and there is no escape.
- Keys that are not listed here are refused, at every level.
- Numbers may be written as text, so that `port: ${PORT}` works. Switches must be `true` or `false`: YAML 1.2, in which
  `yes` and `on` are text. Text that looks like a number needs quotes.
- A section may be left out, or be empty (`{}`), but not blank.
- Between braces and brackets, put `${…}` in quotes.
";

/// The document, with a final line break.
pub fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    let Shape::Section(fields) = describe(sections) else { return text };
    let (plain, with_keys): (Vec<_>, Vec<_>) = fields.iter().partition(|field| inner(&field.shape).is_none());
    for field in with_keys {
        write!(text, "\n## `{}`\n\n{}{}\n", field.name, field.doc, need_sentence(field.need)).expect("memory");
        let path = if matches!(field.shape, Shape::List { .. }) { "[]." } else { "" };
        match inner(&field.shape) {
            Some(Shape::Tagged { tag, variants, common }) => {
                table(&mut text, path, common);
                for variant in variants {
                    write!(text, "\n### `{tag}: {}`\n\n{}\n", variant.name, variant.doc).expect("memory");
                    table(&mut text, path, &variant.fields);
                }
            }
            Some(Shape::Section(fields)) => table(&mut text, path, fields),
            _ => {}
        }
    }
    text.push_str("\n## Single keys\n");
    table(&mut text, "", plain);
    text
}

fn table<'f>(text: &mut String, path: &str, fields: impl IntoIterator<Item = &'f Field>) {
    text.push_str("\n| Key | Type | Default | Meaning |\n|---|---|---|---|\n");
    for field in fields {
        row(text, path, field);
    }
}

/// The row of a key, and those of the keys below it.
fn row(text: &mut String, path: &str, field: &Field) {
    let need = match field.need {
        Need::Required => "required".to_owned(),
        Need::Optional => String::new(),
        Need::Default("{}") if inner(&field.shape).is_some() => String::new(),
        Need::Default(default) => format!("`{default}`"),
    };
    let (name, doc) = (field.name, field.doc.replace('|', "\\|"));
    writeln!(text, "| `{path}{name}` | {} | {need} | {doc} |", type_name(&field.shape)).expect("memory");
    let list = if matches!(field.shape, Shape::List { .. }) { "[]" } else { "" };
    if let Some(Shape::Section(fields)) = inner(&field.shape) {
        for field in fields {
            row(text, &format!("{path}{name}{list}."), field);
        }
    }
}

/// The section that a shape is, or is a list of.
fn inner(shape: &Shape) -> Option<&Shape> {
    match shape {
        Shape::Section(_) | Shape::Tagged { .. } => Some(shape),
        Shape::List { item, .. } | Shape::OneOrMany(item) => inner(item),
        _ => None,
    }
}

fn need_sentence(need: Need) -> &'static str {
    if need == Need::Required { " Required." } else { "" }
}

fn type_name(shape: &Shape) -> String {
    match shape {
        Shape::Text { max: Some(max), min, .. } => format!("text of {min} to {max} characters"),
        Shape::Text { form: "" | "text", .. } => "text".to_owned(),
        Shape::Text { form, .. } => (*form).to_owned(),
        Shape::Secret => "secret".to_owned(),
        Shape::Whole { min, max } if *max >= 1_000_000_000 => format!("whole number from {min}"),
        Shape::Whole { min, max } => format!("whole number, {min} to {max}"),
        Shape::Decimal => "number".to_owned(),
        Shape::Switch => "`true` or `false`".to_owned(),
        Shape::Choice(words) => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Shape::List { item, .. } if inner(item).is_some() => "list of mappings".to_owned(),
        Shape::List { item, .. } => format!("list: {}", type_name(item)),
        Shape::OneOrMany(item) => format!("{}, or a list of them", type_name(item)),
        Shape::Map(item) => format!("mapping of names to {}", type_name(item)),
        Shape::Section(_) | Shape::Tagged { .. } => "mapping".to_owned(),
        Shape::Document => "settings document".to_owned(),
    }
}
