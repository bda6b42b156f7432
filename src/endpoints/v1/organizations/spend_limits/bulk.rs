//! `PUT /v1/organizations/spend_limits/bulk`: makes the caps what a list says they are. The reference has no such
//! request. Each change is written with its audit row, as a single one is; caps that already are as they should be are
//! left alone and leave no trace.

use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::super::{Administrator, Refusal};
use super::{body, upsert};
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::{Limit, Scope, Wish};
use crate::gateway::Gateway;
use crate::store::{Edge, Page};

/// The most caps of one request.
const MOST: usize = 1000;

/// Carries out the order that `body` is.
pub(in super::super) async fn put(
    gateway: &Rc<Gateway>,
    administrator: &Administrator,
    body: &[u8],
) -> Result<Value, Refusal> {
    let body: Value = serde_json::from_slice(body).map_err(|_| Refusal::invalid("invalid JSON body"))?;
    let order = Order::parse(&body, false).map_err(Refusal::invalid)?;
    apply(gateway, &administrator.actor, order).await
}

/// What is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    wishes: Vec<Wish>,
    /// Whether caps that are not in the list go away.
    prune: bool,
    /// Whether nothing is written.
    dry_run: bool,
}

impl Order {
    /// Reads a body; `dry_run` of the caller's own wins.
    pub(crate) fn parse(body: &Value, dry_run: bool) -> Result<Self, String> {
        let Value::Object(body) = body else {
            return Err(format!("Expected object, received {}", body::type_of(body)));
        };
        if let Some(name) = body.keys().find(|name| !["limits", "prune", "dry_run"].contains(&name.as_str())) {
            return Err(format!("{name}: unknown key; known are limits, prune, dry_run"));
        }
        let limits = match body.get("limits") {
            None => return Err("limits: Required".to_owned()),
            Some(Value::Array(limits)) => limits,
            Some(other) => return Err(format!("limits: Expected array, received {}", body::type_of(other))),
        };
        if limits.len() > MOST {
            return Err(format!("limits: at most {MOST} entries per request"));
        }
        let mut wishes: Vec<Wish> = Vec::with_capacity(limits.len());
        for (index, limit) in limits.iter().enumerate() {
            let wish = body::wish(limit).map_err(|fault| located(index, &fault))?;
            if let Some(earlier) = wishes.iter().position(|other| is_same(other, &wish.scope, wish.period)) {
                return Err(format!("limits[{index}]: is the same limit as limits[{earlier}]"));
            }
            wishes.push(wish);
        }
        Ok(Self { wishes, prune: switch(body, "prune")?, dry_run: dry_run || switch(body, "dry_run")? })
    }
}

/// `amount: Required` becomes `limits[3].amount: Required`.
fn located(index: usize, fault: &str) -> String {
    let is_about_a_key = fault.starts_with(|first: char| first.is_ascii_lowercase());
    let separator = if is_about_a_key { "." } else { ": " };
    format!("limits[{index}]{separator}{fault}")
}

fn switch(body: &Map<String, Value>, name: &str) -> Result<bool, String> {
    match body.get(name) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(other) => Err(format!("{name}: Expected boolean, received {}", body::type_of(other))),
    }
}

fn is_same(wish: &Wish, scope: &Scope, period: Period) -> bool {
    wish.scope == *scope && wish.period == period
}

/// Carries it out, or says what it would do. Nothing is written unless every wish can be granted.
pub(crate) async fn apply(gateway: &Rc<Gateway>, actor: &str, order: Order) -> Result<Value, Refusal> {
    let mut planned = Vec::new();
    for (index, wish) in order.wishes.iter().enumerate() {
        let plan = upsert::plan(gateway, wish).await.map_err(|refusal| match refusal {
            Refusal::Told { status, kind, message } => {
                Refusal::Told { status, kind, message: located(index, &message) }
            }
            broken @ Refusal::Broken(_) => broken,
        })?;
        planned.push(plan);
    }
    let mut changes = Vec::new();
    let mut unchanged = 0;
    for (wish, plan) in order.wishes.iter().zip(planned) {
        if plan.is_settled() {
            unchanged += 1;
            continue;
        }
        let done = if order.dry_run { plan } else { upsert::write(gateway, actor, wish.clone()).await? };
        changes.push(change(done.before.as_ref(), Some(&done.after), order.dry_run));
    }
    if order.prune {
        for limit in others(gateway, &order).await? {
            if !order.dry_run {
                super::remove(gateway, actor, &limit.id).await?;
            }
            changes.push(change(Some(&limit), None, order.dry_run));
        }
    }
    Ok(json!({
        "type": "spend_limit_bulk", "dry_run": order.dry_run, "changes": changes, "unchanged": unchanged,
    }))
}

/// Caps that the list does not have.
async fn others(gateway: &Rc<Gateway>, order: &Order) -> Result<Vec<Limit>, Refusal> {
    let month = Period::Monthly.key(gateway.ports.clock.now());
    let page = Page { edge: Edge::First, most: i64::from(i32::MAX), scope_type: None, month: &month };
    let all = gateway.store().limits(page).await?.unwrap_or_default();
    let is_wanted = |limit: &Limit| order.wishes.iter().any(|wish| is_same(wish, &limit.scope, limit.period));
    Ok(all.into_iter().map(|stored| stored.limit).filter(|limit| !is_wanted(limit)).collect())
}

fn change(before: Option<&Limit>, after: Option<&Limit>, dry_run: bool) -> Value {
    let action = match (before, after) {
        (None, _) => "create",
        (_, None) => "delete",
        _ => "update",
    };
    let image = |limit: Option<&Limit>| limit.map_or(Value::Null, Limit::to_image);
    let mut after_image = image(after);
    if dry_run && before.is_none() {
        // It has no id until it exists.
        after_image["id"] = Value::Null;
    }
    let limit = after.or(before);
    json!({
        "action": action,
        "scope": limit.map(|limit| limit.scope.to_json()),
        "period": limit.map(|limit| limit.period.name()),
        "before": image(before),
        "after": after_image,
    })
}
