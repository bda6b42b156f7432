//! Every key there is, from what the decoders say about themselves: an example has it, and a value of the wrong
//! kind is refused in its place, with the message that `refusals.txt` keeps.

use serde_json::{Map, Value, json};

use super::*;

/// One step into the document.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Key(&'static str),
    /// Into the first item of a list.
    Item,
    /// Into a mapping whose keys are the operator's, under one of them.
    Named,
}

/// A key, the way to it, and the tags that it depends on.
struct Place {
    steps: Vec<Step>,
    tags: Vec<(Vec<Step>, &'static str, &'static str)>,
    shape: shape::Shape,
}

/// All keys below `shape`.
fn places(shape: &shape::Shape, at: &Place, found: &mut Vec<Place>) {
    let fields = |fields: &[shape::Field], tag: Option<(&'static str, &'static str)>, found: &mut Vec<Place>| {
        for field in fields {
            let mut place = Place { steps: at.steps.clone(), tags: at.tags.clone(), shape: field.shape.clone() };
            place.tags.extend(tag.map(|(tag, name)| (at.steps.clone(), tag, name)));
            place.steps.push(Step::Key(field.name));
            places(&field.shape, &place, found);
            found.push(place);
        }
    };
    match shape {
        shape::Shape::Section(own) => fields(own, None, found),
        shape::Shape::Tagged { tag, variants, common } => {
            fields(common, variants.first().map(|variant| (*tag, variant.name)), found);
            for variant in variants {
                fields(&variant.fields, Some((tag, variant.name)), found);
            }
        }
        shape::Shape::List { item, .. } => {
            let mut inner = Place { steps: at.steps.clone(), tags: at.tags.clone(), shape: (**item).clone() };
            inner.steps.push(Step::Item);
            places(item, &inner, found);
        }
        // One of them stands where the list could.
        shape::Shape::OneOrMany(item) => places(item, at, found),
        shape::Shape::Map(item) => {
            let mut inner = Place { steps: at.steps.clone(), tags: at.tags.clone(), shape: (**item).clone() };
            inner.steps.push(Step::Named);
            places(item, &inner, found);
        }
        _ => {}
    }
}

fn every_key() -> Vec<Place> {
    let shape = decode::describe(gateway::sections);
    let mut found = Vec::new();
    let root = Place { steps: Vec::new(), tags: Vec::new(), shape: shape.clone() };
    places(&shape, &root, &mut found);
    found
}

/// A value that this key does not take.
fn wrong(shape: &shape::Shape) -> Value {
    use shape::Shape;
    match shape {
        Shape::Text { .. } | Shape::Secret => json!(12345),
        Shape::Whole { .. } => json!("many"),
        Shape::Decimal => json!("much"),
        Shape::Switch => json!("yes"),
        Shape::Choice(_) => json!("something-else"),
        Shape::OneOrMany(item) if !matches!(**item, Shape::Section(_)) => json!({ "a": 1 }),
        Shape::OneOrMany(_)
        | Shape::List { .. }
        | Shape::Map(_)
        | Shape::Section(_)
        | Shape::Tagged { .. }
        | Shape::Document => {
            json!("text")
        }
    }
}

/// Where `steps` lead in `document`; what is not there is made.
fn reach<'v>(document: &'v mut Value, steps: &[Step]) -> &'v mut Value {
    steps.iter().fold(document, |value, step| match step {
        Step::Item => {
            if !value.is_array() {
                *value = json!([{}]);
            }
            &mut value[0]
        }
        Step::Key(name) => entry(value, name),
        Step::Named => entry(value, "name"),
    })
}

fn entry<'v>(value: &'v mut Value, name: &str) -> &'v mut Value {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    &mut value[name]
}

/// As faults write it.
fn path(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::Key(name) => report::below(&path, name),
        Step::Item => report::item(&path, 0),
        Step::Named => report::below(&path, "name"),
    })
}

/// Every key with a value of the wrong kind, and what is said about it.
pub(super) fn refusals() -> String {
    let mut text = "# Every key, a value of the wrong kind, and what is said about it. Written by a test.\n".to_owned();
    for place in every_key() {
        let mut document = json!({
            "listen": { "host": "localhost" },
            "oidc": { "issuer": "https://idp.example.com", "client_id": "gateway", "client_secret": "example" },
            "upstreams": [{ "provider": "anthropic", "auth": { "api_key": "example" } }],
        });
        for (steps, tag, name) in &place.tags {
            let tagged = reach(&mut document, steps);
            *tagged = json!({ (*tag): name });
        }
        let value = wrong(&place.shape);
        *reach(&mut document, &place.steps) = value.clone();
        let at = path(&place.steps);
        let faults = parse(&document.to_string(), &sources(false)).err().unwrap_or_default();
        let said: Vec<_> = faults.iter().filter(|fault| fault.path == at).map(|fault| fault.message.as_str()).collect();
        assert!(!said.is_empty(), "{at}: {value} is accepted, or refused elsewhere: {}", shown(&faults));
        let tags: Vec<_> = place.tags.iter().map(|(_, tag, name)| format!(" ({tag}: {name})")).collect();
        writeln!(text, "{at}{}: {value}: {}", tags.concat(), said.join("; ")).expect("memory");
    }
    text
}

/// Whether `node` has a value where `steps` lead, in whatever item and under whatever name.
fn has(node: &yaml::Node, steps: &[Step]) -> bool {
    let Some((step, rest)) = steps.split_first() else { return true };
    match (&node.value, step) {
        (yaml::Value::List(items), Step::Item) => items.iter().any(|item| has(item, rest)),
        (yaml::Value::List(items), Step::Key(_)) => items.iter().any(|item| has(item, steps)),
        (yaml::Value::Mapping(entries), Step::Named) => entries.iter().any(|entry| has(&entry.node, rest)),
        (yaml::Value::Mapping(entries), Step::Key(name)) => {
            entries.iter().any(|entry| entry.key == *name && has(&entry.node, rest))
        }
        _ => false,
    }
}

#[test]
fn the_examples_have_every_key() {
    let read = |text: &str| yaml::read(text).map_err(|fault| fault.to_string()).expect("YAML").root;
    let examples = [read(include_str!("complete.yaml")), read(include_str!("alternatives.yaml"))];
    let is_missing = |place: &&Place| !examples.iter().any(|example| has(example, &place.steps));
    let missing: Vec<_> = every_key().iter().filter(is_missing).map(|place| path(&place.steps)).collect();
    assert_eq!(missing, Vec::<String>::new(), "and the tests that load the examples would not see them");
}

#[test]
fn the_alternatives_load() {
    let Loaded { config, warnings } = load(include_str!("alternatives.yaml"));
    assert_eq!(warnings.len(), 1, "{}", shown(&warnings));
    assert!(config.oidc[0].client_secret.is_none() && config.oidc[0].client_assertion.is_some());
    let policies = config.managed.and_then(|managed| managed.policies).expect("given");
    assert!(policies.len() == 1 && policies[0].is_code);
}
