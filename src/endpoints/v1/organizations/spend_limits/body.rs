//! The body of `POST /v1/organizations/spend_limits`, and what is wrong with it, in the contract's words (§18.4).

use serde_json::{Map, Value};

use crate::domain::identity::MOST_CHARACTERS;
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::{PoolWish, Scope, Wish};

/// The wish that `body` is; the error is the public message.
pub(super) fn parse(body: &[u8]) -> Result<Wish, String> {
    let body: Value = serde_json::from_slice(body).map_err(|_| "invalid JSON body".to_owned())?;
    wish(&body)
}

/// The same of a body that is JSON.
pub(super) fn wish(body: &Value) -> Result<Wish, String> {
    let Value::Object(body) = body else { return Err(format!("Expected object, received {}", type_of(body))) };
    let scope = scope(body)?;
    let amount = match body.get("amount") {
        None => return Err("amount: Required".to_owned()),
        Some(amount) => cents("amount", amount)?,
    };
    let period = period(body.get("period"))?;
    currency("currency", body.get("currency"))?;
    Ok(Wish { scope, period, amount, pool: pool(body.get("pooled_budget"))? })
}

fn scope(body: &Map<String, Value>) -> Result<Scope, String> {
    let scope = match body.get("scope") {
        None => return Err("scope: Required".to_owned()),
        Some(Value::Object(scope)) => scope,
        Some(other) => return Err(format!("scope: Expected object, received {}", type_of(other))),
    };
    let kind = scope.get("type").and_then(Value::as_str).unwrap_or_default();
    let name = match kind {
        "organization" => return Ok(Scope::Organization),
        "user" => "user_id",
        "rbac_group" => "rbac_group_id",
        _ => {
            let known = "'user' | 'rbac_group' | 'organization'";
            return Err(format!("scope.type: Invalid discriminator value. Expected {known}"));
        }
    };
    let id = match scope.get(name) {
        None => return Err(format!("scope.{name}: Required")),
        Some(Value::String(id)) if id.is_empty() => {
            return Err(format!("scope.{name}: String must contain at least 1 character(s)"));
        }
        Some(Value::String(id)) if id.chars().count() > MOST_CHARACTERS => {
            return Err(format!("scope.{name}: String must contain at most {MOST_CHARACTERS} character(s)"));
        }
        // PostgreSQL cannot keep it, and no identity provider sends it.
        Some(Value::String(id)) if id.contains('\0') => return Err(format!("scope.{name}: Invalid")),
        Some(Value::String(id)) => id.clone(),
        Some(other) => return Err(format!("scope.{name}: Expected string, received {}", type_of(other))),
    };
    Ok(if kind == "user" { Scope::User(id) } else { Scope::Group(id) })
}

fn cents(name: &str, amount: &Value) -> Result<Option<i64>, String> {
    let text = match amount {
        Value::Null => return Ok(None),
        Value::String(text) => text,
        other => return Err(format!("{name}: Expected string, received {}", type_of(other))),
    };
    let is_plain = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
    let cents = text.parse().ok().filter(|_| is_plain);
    cents.map(Some).ok_or_else(|| format!("{name}: must be a whole-number decimal string of cents"))
}

fn period(period: Option<&Value>) -> Result<Period, String> {
    let known = "'daily' | 'weekly' | 'monthly'";
    match period {
        None => Ok(Period::Monthly),
        Some(Value::String(name)) => Period::parse(name)
            .ok_or_else(|| format!("period: Invalid enum value. Expected {known}, received '{name}'")),
        Some(other) => Err(format!("period: Expected {known}, received {}", type_of(other))),
    }
}

fn currency(name: &str, currency: Option<&Value>) -> Result<(), String> {
    match currency {
        None => Ok(()),
        Some(Value::String(code)) if code == "USD" => Ok(()),
        Some(_) => Err(format!("{name}: Invalid literal value, expected \"USD\"")),
    }
}

fn pool(pool: Option<&Value>) -> Result<Option<PoolWish>, String> {
    let pool = match pool {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(pool)) => pool,
        Some(other) => return Err(format!("pooled_budget: Expected object, received {}", type_of(other))),
    };
    let amount = pool.get("amount").map(|amount| cents("pooled_budget.amount", amount)).transpose()?;
    let is_paused = match pool.get("paused") {
        None | Some(Value::Null) => None,
        Some(Value::Bool(paused)) => Some(*paused),
        Some(other) => return Err(format!("pooled_budget.paused: Expected boolean, received {}", type_of(other))),
    };
    currency("pooled_budget.currency", pool.get("currency"))?;
    Ok(Some(PoolWish { amount, is_paused }))
}

/// The type of a value, as messages name it.
pub(super) const fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_told_in_the_contracts_words() {
        let organization = json!({"type": "organization"});
        let whole = "must be a whole-number decimal string of cents";
        let periods = "'daily' | 'weekly' | 'monthly'";
        for (body, message) in [
            (json!([]), "Expected object, received array".to_owned()),
            (json!({}), "scope: Required".to_owned()),
            (json!({"scope": "x"}), "scope: Expected object, received string".to_owned()),
            (
                json!({"scope": {"type": "team"}}),
                "scope.type: Invalid discriminator value. Expected 'user' | 'rbac_group' | 'organization'".to_owned(),
            ),
            (json!({"scope": {"type": "user"}}), "scope.user_id: Required".to_owned()),
            (json!({"scope": {"type": "rbac_group"}}), "scope.rbac_group_id: Required".to_owned()),
            (
                json!({"scope": {"type": "user", "user_id": ""}}),
                "scope.user_id: String must contain at least 1 character(s)".to_owned(),
            ),
            (
                json!({"scope": {"type": "user", "user_id": 1}}),
                "scope.user_id: Expected string, received number".to_owned(),
            ),
            (
                json!({"scope": {"type": "user", "user_id": "\u{1f600}".repeat(513)}}),
                "scope.user_id: String must contain at most 512 character(s)".to_owned(),
            ),
            (json!({"scope": organization}), "amount: Required".to_owned()),
            (json!({"scope": organization, "amount": 1}), "amount: Expected string, received number".to_owned()),
            (json!({"scope": organization, "amount": ""}), format!("amount: {whole}")),
            (json!({"scope": organization, "amount": "-1"}), format!("amount: {whole}")),
            (json!({"scope": organization, "amount": "1.5"}), format!("amount: {whole}")),
            (json!({"scope": organization, "amount": "+7"}), format!("amount: {whole}")),
            (json!({"scope": organization, "amount": " 7"}), format!("amount: {whole}")),
            (json!({"scope": organization, "amount": "1e3"}), format!("amount: {whole}")),
            (json!({"scope": organization, "amount": "12345678901234567890"}), format!("amount: {whole}")),
            (
                json!({"scope": organization, "amount": "1", "period": "yearly"}),
                format!("period: Invalid enum value. Expected {periods}, received 'yearly'"),
            ),
            (
                json!({"scope": organization, "amount": "1", "period": null}),
                format!("period: Expected {periods}, received null"),
            ),
            (
                json!({"scope": organization, "amount": "1", "currency": "usd"}),
                "currency: Invalid literal value, expected \"USD\"".to_owned(),
            ),
            (
                json!({"scope": organization, "amount": "1", "currency": null}),
                "currency: Invalid literal value, expected \"USD\"".to_owned(),
            ),
            (
                json!({"scope": organization, "amount": "1", "pooled_budget": "x"}),
                "pooled_budget: Expected object, received string".to_owned(),
            ),
            (
                json!({"scope": organization, "amount": "1", "pooled_budget": {"amount": 1}}),
                "pooled_budget.amount: Expected string, received number".to_owned(),
            ),
            (
                json!({"scope": organization, "amount": "1", "pooled_budget": {"paused": "x"}}),
                "pooled_budget.paused: Expected boolean, received string".to_owned(),
            ),
        ] {
            assert_eq!(parse(body.to_string().as_bytes()), Err(message), "{body}");
        }
        assert_eq!(parse(b""), Err("invalid JSON body".to_owned()));
    }

    #[test]
    fn what_is_right_is_kept_exactly() {
        for (amount, cents) in
            [(json!("007"), Some(7)), (json!(null), None), (json!("1234567890123456"), Some(1_234_567_890_123_456))]
        {
            let body = json!({"scope": {"type": "organization"}, "amount": amount, "x": 1});
            let wish = parse(body.to_string().as_bytes()).expect("right");
            assert_eq!((wish.amount, wish.period, wish.pool), (cents, Period::Monthly, None));
        }
        let body = json!({"scope": {"type": "rbac_group", "rbac_group_id": "g"}, "amount": "1",
            "pooled_budget": {"amount": null, "paused": null, "x": 1}});
        let wish = parse(body.to_string().as_bytes()).expect("right");
        assert_eq!(wish.pool, Some(PoolWish { amount: Some(None), is_paused: None }));
    }
}
