//! `caps.yaml`: spend limits as a team keeps them in version control. What it may say is what the admin API's bulk
//! request may say; here it only becomes JSON. A number is its text, so that neither amounts nor ids need quotes.

use serde_json::Value as Json;

use super::Fault;
use super::report::{below, item};
use super::yaml::{self, Node, Value};

/// The document as JSON. A key that is written twice is a fault: it is never meant.
pub fn caps(text: &str) -> Result<Json, Vec<Fault>> {
    let document = yaml::read(text).map_err(|fault| vec![fault])?;
    let repeated: Vec<Fault> = document
        .repeated
        .into_iter()
        .map(|(key, place)| Fault::new("", place, format!("the key `{key}` is written twice in one mapping")))
        .collect();
    if repeated.is_empty() { json(&document.root, "") } else { Err(repeated) }
}

fn json(node: &Node, path: &str) -> Result<Json, Vec<Fault>> {
    Ok(match &node.value {
        Value::Null => Json::Null,
        Value::Switch(switch) => Json::Bool(*switch),
        Value::Text(text) | Value::Number(text) => Json::String(text.clone()),
        Value::List(items) => {
            let items = items.iter().enumerate().map(|(index, node)| json(node, &item(path, index)));
            Json::Array(items.collect::<Result<_, _>>()?)
        }
        Value::Mapping(entries) => {
            let entries =
                entries.iter().map(|entry| Ok((entry.key.clone(), json(&entry.node, &below(path, &entry.key))?)));
            Json::Object(entries.collect::<Result<_, Vec<Fault>>>()?)
        }
        Value::Faulty => return Err(vec![Fault::new(path, node.place, "is not a value".to_owned())]),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_text_and_repeated_keys_are_faults() {
        let text = "prune: true\nlimits:\n  - {scope: {type: user, user_id: 007}, amount: 2500}\n  - {amount: null}\n";
        let expected = json!({
            "prune": true,
            "limits": [{"scope": {"type": "user", "user_id": "007"}, "amount": "2500"}, {"amount": null}],
        });
        assert_eq!(caps(text), Ok(expected));
        let faults = caps("limits: []\nlimits: []").unwrap_err();
        assert!(faults[0].to_string().contains("written twice"), "{}", faults[0]);
        assert!(caps("").is_err());
        assert!(caps("a: [").is_err());
    }
}
