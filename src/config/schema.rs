//! The JSON Schema of `gateway.yaml`, so that editors complete and explain every key. Rendered from what the decoders
//! say about themselves; committed as `docs/gateway.schema.json`.
//!
//! A schema cannot say everything: rules between keys are left to `sallyport check`. It never refuses what the gateway
//! accepts.

use serde_json::{Value, json};

use super::Json;
use super::decode::{default_json, describe};
use super::gateway::sections;
use super::shape::{Field, Need, Shape, Variant};

/// The schema, JSON Schema draft 7 (what editors' YAML servers know), pretty-printed, with a final line break.
pub fn json_schema() -> String {
    let mut schema = Json::new();
    schema.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
    schema.insert("title".to_owned(), json!("gateway.yaml: configuration of Sallyport"));
    schema.extend(of(&describe(sections)));
    let mut text = serde_json::to_string_pretty(&schema).expect("a schema is plain data");
    text.push('\n');
    text
}

fn of(shape: &Shape) -> Json {
    let schema = match shape {
        // Lengths are judged after expansion, so a reference may be shorter or longer than what it stands for.
        Shape::Text { min: 0, .. } | Shape::Secret => json!({ "type": "string" }),
        Shape::Text { .. } => json!({ "type": "string", "minLength": 1 }),
        Shape::Whole { min, max } => json!({ "type": ["integer", "string"], "minimum": min, "maximum": max }),
        Shape::Decimal => json!({ "type": ["number", "string"], "minimum": 0 }),
        Shape::Switch => json!({ "type": "boolean" }),
        Shape::Choice(words) => json!({ "anyOf": [{ "enum": words }, reference()] }),
        Shape::List { item, min: 0 } => json!({ "type": "array", "items": of(item) }),
        Shape::List { item, min } => json!({ "type": "array", "items": of(item), "minItems": min }),
        Shape::OneOrMany(item) => {
            json!({ "anyOf": [of(item), { "type": "array", "items": of(item), "minItems": 1 }] })
        }
        Shape::Map(item) => json!({ "type": "object", "additionalProperties": of(item) }),
        Shape::Section(fields) => return section(fields.iter()),
        Shape::Tagged { tag, variants, common } => {
            let variants: Vec<_> = variants.iter().map(|variant| Value::Object(tagged(tag, variant, common))).collect();
            json!({ "type": "object", "oneOf": variants })
        }
        Shape::Document => json!({ "type": "object" }),
    };
    match schema {
        Value::Object(schema) => schema,
        _ => Json::new(),
    }
}

/// Text that a variable or file completes.
fn reference() -> Value {
    json!({ "type": "string", "pattern": "\\$\\{" })
}

fn section<'f>(fields: impl Iterator<Item = &'f Field> + Clone) -> Json {
    let required: Vec<_> =
        fields.clone().filter(|field| field.need == Need::Required).map(|field| field.name).collect();
    let properties: Json = fields.map(|field| (field.name.to_owned(), Value::Object(property(field)))).collect();
    let mut schema = Json::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("additionalProperties".to_owned(), json!(false));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema.insert("properties".to_owned(), Value::Object(properties));
    schema
}

fn property(field: &Field) -> Json {
    let mut schema = of(&field.shape);
    schema.insert("description".to_owned(), json!(field.doc));
    // The default of a section follows from the defaults of its keys.
    if let Need::Default(default) = field.need
        && default != "{}"
    {
        schema.insert("default".to_owned(), default_json(default));
    }
    schema
}

/// A section whose `tag` has the variant's name.
fn tagged(tag: &str, variant: &Variant, common: &[Field]) -> Json {
    let is_tag = |field: &&Field| field.name == tag;
    let fields =
        common.iter().filter(is_tag).chain(&variant.fields).chain(common.iter().filter(|field| !is_tag(field)));
    let mut schema = section(fields);
    let constant = json!({ "const": variant.name, "description": variant.doc });
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.insert(tag.to_owned(), constant);
    }
    schema.insert("title".to_owned(), json!(variant.name));
    schema
}
