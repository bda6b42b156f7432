//! [`Edits`]: changes top-level members of a JSON object in place.
//!
//! Every byte that is not part of an edited member stays: key order, blanks, the spelling of numbers and escapes. Prompt
//! caches depend on it. A member that is edited and occurs several times is left with one occurrence, the last, which is
//! the one that counted.

use bytes::{Bytes, BytesMut};

use super::json_object::Object;

/// Changes to one object, applied together by [`Edits::apply`].
#[derive(Debug, Default)]
pub struct Edits<'n> {
    changes: Vec<Change<'n>>,
}

#[derive(Debug)]
enum Change<'n> {
    /// Replaces the value where it stands, or adds the member at the end.
    Set(&'n str, Vec<u8>),
    Remove(&'n str),
}

impl Change<'_> {
    const fn name(&self) -> &str {
        match self {
            Self::Set(name, _) | Self::Remove(name) => name,
        }
    }
}

impl<'n> Edits<'n> {
    /// No change.
    pub const fn new() -> Self {
        Self { changes: Vec::new() }
    }

    /// Gives member `name` this value: in its place if it is there, else as the last member. `name` needs no escapes.
    /// A later change of the same member wins.
    pub fn set(&mut self, name: &'n str, value: &impl serde::Serialize) -> &mut Self {
        let value = serde_json::to_vec(value).expect("values are made of strings, numbers and maps with string keys");
        self.change(Change::Set(name, value))
    }

    /// Removes member `name`, wherever and however often it occurs.
    pub fn remove(&mut self, name: &'n str) -> &mut Self {
        self.change(Change::Remove(name))
    }

    /// Whether nothing is to be changed.
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn change(&mut self, change: Change<'n>) -> &mut Self {
        self.changes.retain(|earlier| earlier.name() != change.name());
        self.changes.push(change);
        self
    }

    /// The text of `object` with the changes made. Without a change it is the same memory.
    pub fn apply(&self, text: &Bytes, object: &Object) -> Bytes {
        if self.changes.is_empty() {
            return text.clone();
        }
        let members = object.members();
        // What becomes of each member: kept, removed, or another value.
        let mut fates: Vec<Fate<'_>> = members.iter().map(|_| Fate::Keep).collect();
        let mut additions: Vec<(&str, &[u8])> = Vec::new();
        for change in &self.changes {
            let mut found = false;
            for (member, fate) in members.iter().zip(&mut fates).rev() {
                if !member.is_named(text, change.name()) {
                    continue;
                }
                *fate = match change {
                    Change::Set(_, value) if !found => Fate::Replace(value),
                    _ => Fate::Remove,
                };
                found = true;
            }
            if let Change::Set(name, value) = change
                && !found
            {
                additions.push((name, value));
            }
        }

        if additions.is_empty() && fates.iter().all(|fate| matches!(fate, Fate::Keep)) {
            return text.clone();
        }

        let added: usize = self
            .changes
            .iter()
            .map(|change| match change {
                Change::Set(name, value) => name.len() + value.len() + 4,
                Change::Remove(_) => 0,
            })
            .sum();
        let mut edited = BytesMut::with_capacity(text.len() + added);
        let mut copied = 0;
        let mut kept_one = false;
        for (index, (member, fate)) in members.iter().zip(&fates).enumerate() {
            match fate {
                Fate::Keep => kept_one = true,
                Fate::Replace(value) => {
                    edited.extend_from_slice(&text[copied..member.value.start]);
                    edited.extend_from_slice(value);
                    copied = member.value.end;
                    kept_one = true;
                }
                Fate::Remove if kept_one => {
                    // From the end of the member before it, so that its comma goes too.
                    edited.extend_from_slice(&text[copied..copied.max(members[index - 1].value.end)]);
                    copied = member.value.end;
                }
                Fate::Remove => {
                    // The first that is left takes the place of the first that was.
                    edited.extend_from_slice(&text[copied..member.key.start.max(copied)]);
                    copied = members.get(index + 1).map_or(member.value.end, |next| next.key.start);
                }
            }
        }
        if let (false, Some(last)) = (additions.is_empty(), members.last()) {
            edited.extend_from_slice(&text[copied..last.value.end.max(copied)]);
            copied = copied.max(last.value.end);
        } else if !additions.is_empty() {
            edited.extend_from_slice(&text[..object.inside()]);
            copied = object.inside();
        }
        for (name, value) in additions {
            if kept_one {
                edited.extend_from_slice(b",");
            }
            edited.extend_from_slice(b"\"");
            edited.extend_from_slice(name.as_bytes());
            edited.extend_from_slice(b"\":");
            edited.extend_from_slice(value);
            kept_one = true;
        }
        edited.extend_from_slice(&text[copied..]);
        edited.freeze()
    }
}

enum Fate<'v> {
    Keep,
    Replace(&'v [u8]),
    Remove,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;

    fn edit(text: &str, edits: &Edits<'_>) -> String {
        let text = Bytes::copy_from_slice(text.as_bytes());
        let object = Object::scan(&text).unwrap();
        String::from_utf8(edits.apply(&text, &object).to_vec()).unwrap()
    }

    #[test]
    fn only_the_edited_member_changes() {
        let mut set = Edits::new();
        set.set("model", &"n");
        let mut remove = Edits::new();
        remove.remove("tags");
        let mut both = Edits::new();
        both.set("model", &"n").remove("tags").set("added", &json!([1]));
        for (text, edits, expected) in [
            (r#"{ "a" : 1.0,  "model" : "m" , "z":[ ] }"#, &set, r#"{ "a" : 1.0,  "model" : "n" , "z":[ ] }"#),
            (r#"{"model":"a","x":1,"model":"b"}"#, &set, r#"{"x":1,"model":"n"}"#),
            (r#"{"mod\u0065l":"a"}"#, &set, r#"{"mod\u0065l":"n"}"#),
            ("{}", &set, r#"{"model":"n"}"#),
            ("{ }", &set, r#"{"model":"n" }"#),
            (r#"{"tags":{},"a":1}"#, &remove, r#"{"a":1}"#),
            (r#"{"a":1, "tags":{}}"#, &remove, r#"{"a":1}"#),
            (r#"{"a":1 , "tags":{} , "b":2}"#, &remove, r#"{"a":1 , "b":2}"#),
            (r#"{ "tags":{} }"#, &remove, "{  }"),
            (r#"{"tags":1,"tags":2,"a":1,"tags":3}"#, &remove, r#"{"a":1}"#),
            (r#"{"tags":1,"model":"m"}"#, &both, r#"{"model":"n","added":[1]}"#),
            (r#"{"tags":1}"#, &both, r#"{"model":"n","added":[1]}"#),
            (r#"{"a":1,"tags":1}"#, &both, r#"{"a":1,"model":"n","added":[1]}"#),
            (r#"{"big":12345678901234567890123, "e":1E5}"#, &remove, r#"{"big":12345678901234567890123, "e":1E5}"#),
        ] {
            assert_eq!(edit(text, edits), expected, "{text}");
        }
    }

    #[test]
    fn nothing_to_change_costs_nothing() {
        let text = Bytes::from_static(b"{ }");
        let object = Object::scan(&text).unwrap();
        assert_eq!(Edits::new().apply(&text, &object).as_ptr(), text.as_ptr());
        assert_eq!(Edits::new().remove("tags").apply(&text, &object).as_ptr(), text.as_ptr());
    }

    fn blank() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["", " ", "\n\t"])
    }

    proptest! {
        #[test]
        fn an_edit_means_what_it_means_on_the_parsed_object(
            members in prop::collection::vec((prop::sample::select(vec!["a", "b", "c"]), blank(), -9..9), 0..6),
            changes in prop::collection::vec((prop::sample::select(vec!["a", "b", "d"]), prop::option::of(10..20)), 0..4),
        ) {
            let text = members
                .iter()
                .map(|(name, blank, value)| format!("{blank}\"{name}\"{blank}:{blank}{value}{blank}"))
                .collect::<Vec<_>>()
                .join(",");
            let text = format!("{{{text}}}");
            let mut expected: Map<String, Value> = serde_json::from_str(&text).unwrap();
            let mut edits = Edits::new();
            for (name, value) in &changes {
                if let Some(value) = value {
                    edits.set(name, value);
                    expected.insert((*name).to_owned(), json!(value));
                } else {
                    edits.remove(name);
                    expected.remove(*name);
                }
            }
            let edited: Map<String, Value> = serde_json::from_str(&edit(&text, &edits)).unwrap();
            // `PartialEq` of maps does not look at the order, which duplicates may change.
            prop_assert_eq!(edited, expected);
        }
    }
}
