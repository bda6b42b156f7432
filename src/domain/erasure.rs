//! Erasing a person: the name that stands in for theirs, and what an audit event says without them.
//!
//! Which rows there are is the store's knowledge (`store/erasure.rs`).

use serde_json::{Map, Value};

use crate::domain::checksum::hex;

/// How the names of the erased begin.
const PREFIX: &str = "erased-";

/// How many hexadecimal digits follow.
const DIGITS: usize = 32;

/// The same for `LIKE`, in which `_` is any character.
pub const PATTERN: &str = "erased-________________________________";

/// Fields of audit events that say something of a person besides who it is.
const PERSONAL: [&str; 4] = ["email", "client_ip", "user_agent", "requested_from"];

/// A name that nobody can trace back: it is random, and nothing keeps whose it is.
pub fn pseudonym(random: [u8; 16]) -> String {
    format!("{PREFIX}{}", hex(&random))
}

/// Whether `id` is such a name.
pub fn is_pseudonym(id: &str) -> bool {
    let digits = id.strip_prefix(PREFIX).unwrap_or_default();
    digits.len() == DIGITS && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

/// Somebody who is to be erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure<'a> {
    /// Subject; never empty.
    pub subject: &'a str,
    /// What is kept of their money goes by this name.
    pub pseudonym: &'a str,
}

impl Erasure<'_> {
    /// Who they are as an administrator.
    pub fn actor(&self) -> String {
        format!("oidc:{}", self.subject)
    }

    /// The same, afterwards.
    pub fn actor_afterwards(&self) -> String {
        format!("oidc:{}", self.pseudonym)
    }

    /// An audit event, one JSON object, as it is kept: their subject and their e-mail addresses become the pseudonym,
    /// and where they acted themselves, their address and program go away. `None` if it says nothing of them.
    pub fn without_person(&self, entry: &str, emails: &[String]) -> Option<Map<String, Value>> {
        let before: Map<String, Value> = serde_json::from_str(entry).ok()?;
        let mut fields = before.clone();
        let (actor, actor_afterwards) = (self.actor(), self.actor_afterwards());
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let is_theirs =
            text("sub") == Some(self.subject) || text("email").is_some_and(|email| is_one_of(email, emails));
        // Somebody else who acts on them keeps their own address.
        let acted = match text("actor") {
            None | Some("client") => is_theirs,
            Some(who) => who == actor,
        };
        let goes = |name: &str| (acted && PERSONAL.contains(&name)) || (is_theirs && name == "email");
        fields.retain(|name, _| !goes(name));
        for value in fields.values_mut() {
            let Value::String(text) = value else { continue };
            if text == self.subject {
                self.pseudonym.clone_into(text);
            } else if *text == actor {
                text.clone_from(&actor_afterwards);
            }
            for email in emails {
                if text.contains(email.as_str()) {
                    *text = text.replace(email.as_str(), self.pseudonym);
                }
            }
        }
        (fields != before).then_some(fields)
    }
}

fn is_one_of(email: &str, emails: &[String]) -> bool {
    emails.iter().any(|known| known.eq_ignore_ascii_case(email))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudonym_is_told_from_a_subject() {
        let name = pseudonym([7; 16]);
        assert_eq!(name, "erased-07070707070707070707070707070707");
        assert!(is_pseudonym(&name));
        for other in ["", "ada", "erased-", "erased-07", "erased-0707070707070707070707070707070X", "xerased-07"] {
            assert!(!is_pseudonym(other), "{other}");
        }
    }

    #[test]
    fn an_event_keeps_what_happened_and_not_to_whom() {
        let erasure = Erasure { subject: "ada", pseudonym: "p" };
        let emails = ["ada@example.test".to_owned()];
        for (entry, expected) in [
            (
                r#"{"ts":"t","evt":"session.create","sid":"s","sub":"ada","email":"ada@example.test","client_ip":"::1","user_agent":"u"}"#,
                r#"{"ts":"t","evt":"session.create","sid":"s","sub":"p"}"#,
            ),
            (
                r#"{"evt":"session.revoke","sid":"s","sub":"ada","actor":"admin-key:ci","client_ip":"::1"}"#,
                r#"{"evt":"session.revoke","sid":"s","sub":"p","actor":"admin-key:ci","client_ip":"::1"}"#,
            ),
            (
                r#"{"evt":"session.revoke","sid":"s","sub":"bob","actor":"oidc:ada","client_ip":"::1"}"#,
                r#"{"evt":"session.revoke","sid":"s","sub":"bob","actor":"oidc:p"}"#,
            ),
            (
                r#"{"evt":"session.revoke","sid":"s","sub":"ada","actor":"client","client_ip":"::1"}"#,
                r#"{"evt":"session.revoke","sid":"s","sub":"p","actor":"client"}"#,
            ),
            (
                r#"{"evt":"admin.limit.upsert","actor":"oidc:bob","scope_type":"user","scope_id":"ada","amount":null}"#,
                r#"{"evt":"admin.limit.upsert","actor":"oidc:bob","scope_type":"user","scope_id":"p","amount":null}"#,
            ),
            (
                r#"{"evt":"session.mint","result":"fail","err":"ada@example.test is not verified","client_ip":"::1"}"#,
                r#"{"evt":"session.mint","result":"fail","err":"p is not verified","client_ip":"::1"}"#,
            ),
            (r#"{"evt":"inference","email":"ADA@example.test","ms":1}"#, r#"{"evt":"inference","ms":1}"#),
        ] {
            let kept = erasure.without_person(entry, &emails).map(|fields| Value::Object(fields).to_string());
            assert_eq!(kept.as_deref(), Some(expected));
        }
        for other in [r#"{"evt":"inference","sub":"adam","model":"ada lovelace"}"#, "", "[]"] {
            assert_eq!(erasure.without_person(other, &emails), None);
        }
    }
}
