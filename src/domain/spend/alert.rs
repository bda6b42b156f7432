//! [`reached`]: which thresholds of which receivers a settlement has reached, and what is told about them.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::calendar::Period;
use crate::config::{Alert, AlertScope};
use crate::domain::checksum::hex;
use crate::domain::ids::Timestamp;
use crate::domain::money::Money;

/// A sum and the cap it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled<'a> {
    /// The person, or the group of a pool.
    pub principal: &'a str,
    /// What it is counted over.
    pub period: Period,
    /// The name of that period.
    pub key: &'a str,
    /// What was spent.
    pub spent: Money,
    /// Of how much.
    pub cap: Money,
    /// Type of the scope of the cap, or `group_pool`.
    pub source: &'a str,
    /// When it starts again.
    pub resets: Timestamp,
}

/// Something to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The same for the same receiver, threshold, sum and period; different for all else.
    pub id: String,
    /// Index into `admin.alerts`.
    pub receiver: usize,
    /// JSON.
    pub body: String,
}

impl AlertScope {
    /// Whether it is about caps of this source.
    fn covers(self, source: &str) -> bool {
        match self {
            Self::Organization => source == "organization",
            Self::Group => source == "rbac_group" || source == "group_pool",
            Self::User => source == "user",
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Group => "group",
            Self::User => "user",
        }
    }
}

/// What is to be told about a sum. It is told again and again; that a threshold is told once is the store's affair.
pub fn reached(alerts: &[Alert], filled: &Filled<'_>, now: Timestamp) -> Vec<Message> {
    let mut messages = Vec::new();
    if filled.cap <= Money::ZERO {
        return messages;
    }
    for (receiver, alert) in alerts.iter().enumerate().filter(|(_, alert)| alert.scope.covers(filled.source)) {
        for threshold in &alert.at {
            let share = i128::from(filled.spent.as_nanos()) * 100;
            if share < i128::from(filled.cap.as_nanos()) * i128::from(*threshold) {
                continue;
            }
            let what =
                json!([alert.webhook, alert.scope.name(), threshold, filled.source, filled.principal, filled.key,]);
            let id = hex(&Sha256::digest(what.to_string())[..16]);
            let body = body(&id, *threshold, filled, now).to_string();
            messages.push(Message { id, receiver, body });
        }
    }
    messages
}

fn body(id: &str, threshold: u32, filled: &Filled<'_>, now: Timestamp) -> Value {
    let of = if filled.source == "group_pool" { "rbac_group_id" } else { "user_id" };
    json!({
        "type": "spend_alert", "id": id, "created_at": now, "threshold_percent": threshold,
        "source": filled.source, of: filled.principal, "period": filled.period.name(), "period_key": filled.key,
        "resets_at": filled.resets, "currency": "USD", "amount": filled.cap.cents(),
        "period_to_date_spend": filled.spent.cents(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const NOW: Timestamp = Timestamp::from_secs(1_927_857_906);

    fn filled(spent: i64, cap: i64, source: &'static str) -> Filled<'static> {
        Filled {
            principal: "ada",
            period: Period::Daily,
            key: "2031-02-03",
            spent: Money::from_nanos(spent),
            cap: Money::from_nanos(cap),
            source,
            resets: Period::Daily.end(NOW),
        }
    }

    fn alert(scope: AlertScope) -> Alert {
        let webhook = "https://hooks.example.test/x".to_owned();
        Alert { at: vec![50, 80, 100], webhook, secret: Secret::new("k".to_owned()), scope }
    }

    #[test]
    fn thresholds_are_reached_exactly() {
        let alerts = [alert(AlertScope::User)];
        for (spent, cap, told) in [
            (0, 10, 0),
            (499, 1000, 0),
            (500, 1000, 1),
            (799, 1000, 1),
            (800, 1000, 2),
            (1000, 1000, 3),
            (5000, 1000, 3),
            (5, 0, 0),
            (i64::MAX, i64::MAX, 3),
        ] {
            assert_eq!(reached(&alerts, &filled(spent, cap, "user"), NOW).len(), told, "{spent} of {cap}");
        }
    }

    #[test]
    fn receivers_hear_of_their_scope_only() {
        let alerts = [AlertScope::Organization, AlertScope::Group, AlertScope::User].map(alert);
        for (source, receiver) in [("organization", 0), ("rbac_group", 1), ("group_pool", 1), ("user", 2)] {
            let messages = reached(&alerts, &filled(500, 1000, source), NOW);
            assert_eq!(messages.iter().map(|message| message.receiver).collect::<Vec<_>>(), [receiver], "{source}");
        }
    }

    #[test]
    fn an_id_is_that_of_the_receiver_threshold_sum_and_period() {
        let alerts = [alert(AlertScope::User)];
        let id = |filled: Filled<'_>, at| reached(&alerts, &filled, at)[0].id.clone();
        let first = id(filled(500, 1000, "user"), NOW);
        assert_eq!(id(filled(600, 1000, "user"), Timestamp::from_secs(1)), first, "told once though it grows");
        assert_eq!(id(filled(600, 1100, "user"), NOW), first);
        assert_ne!(id(Filled { key: "2031-02-04", ..filled(500, 1000, "user") }, NOW), first);
        assert_ne!(id(Filled { principal: "bob", ..filled(500, 1000, "user") }, NOW), first);
        let messages = reached(&alerts, &filled(800, 1000, "user"), NOW);
        assert_ne!(messages[0].id, messages[1].id);
        let body: Value = serde_json::from_str(&messages[1].body).expect("JSON");
        assert_eq!(
            (&body["threshold_percent"], &body["user_id"], &body["period"]),
            (&json!(80), &json!("ada"), &json!("daily"))
        );
    }
}
