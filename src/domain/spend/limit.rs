//! [`Limit`]: a cap and its pool, how they change, and which of several caps counts (inference contract §14, §16, §18.3).

use serde_json::{Map, Value, json};

use super::calendar::Period;
use crate::config::GroupLimitMode;
use crate::domain::ids::Timestamp;

/// For whom a cap is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Each person who has no closer cap.
    Organization,
    /// Each member of a group.
    Group(String),
    /// One person.
    User(String),
}

impl Scope {
    /// The scope of this type; `id` is empty for the organization.
    pub fn new(kind: &str, id: String) -> Option<Self> {
        match kind {
            "organization" => Some(Self::Organization),
            "rbac_group" => Some(Self::Group(id)),
            "user" => Some(Self::User(id)),
            _ => None,
        }
    }

    /// Its type on the wire.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Group(_) => "rbac_group",
            Self::User(_) => "user",
        }
    }

    /// Whose it is; empty for the organization.
    pub fn id(&self) -> &str {
        match self {
            Self::Organization => "",
            Self::Group(id) | Self::User(id) => id,
        }
    }

    /// As the admin API writes it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Organization => json!({"type": "organization"}),
            Self::Group(id) => json!({"type": "rbac_group", "rbac_group_id": id}),
            Self::User(id) => json!({"type": "user", "user_id": id}),
        }
    }
}

/// A budget that the members of a group share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pool {
    /// Cents; `None` is no pool.
    pub amount: Option<i64>,
    /// Whether it neither blocks nor counts.
    pub is_paused: bool,
}

/// A cap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// `spl_` and 32 hex digits.
    pub id: String,
    /// For whom.
    pub scope: Scope,
    /// Over what.
    pub period: Period,
    /// Cents; `None` is unlimited.
    pub amount: Option<i64>,
    /// Only of a monthly cap of a group.
    pub pool: Pool,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When it was last set.
    pub updated_at: Timestamp,
}

impl Limit {
    /// Whether it can have a pool.
    pub fn may_have_pool(&self) -> bool {
        self.period == Period::Monthly && matches!(self.scope, Scope::Group(_))
    }

    /// As the admin API writes it; `pool_spent` is what the pool has spent this month, in cents.
    pub fn to_json(&self, pool_spent: &str) -> Value {
        let mut object = json!({
            "type": "spend_limit", "id": self.id, "created_at": self.created_at, "updated_at": self.updated_at,
            "scope": self.scope.to_json(), "amount": cents(self.amount), "currency": "USD",
            "period": self.period.name(),
        });
        if self.may_have_pool() {
            object["pooled_budget"] = self.pool.amount.map_or(Value::Null, |amount| {
                json!({
                    "amount": amount.to_string(), "paused": self.pool.is_paused, "currency": "USD",
                    "period_to_date_spend": pool_spent,
                })
            });
        }
        object
    }

    /// As the audit list keeps it.
    pub fn to_image(&self) -> Value {
        let mut image = Map::new();
        image.insert("id".to_owned(), self.id.clone().into());
        image.insert("scope".to_owned(), self.scope.to_json());
        image.insert("amount".to_owned(), cents(self.amount));
        image.insert("period".to_owned(), self.period.name().into());
        image.insert("currency".to_owned(), "USD".into());
        image.insert("created_at".to_owned(), self.created_at.to_rfc3339().into());
        image.insert("updated_at".to_owned(), self.updated_at.to_rfc3339().into());
        if self.may_have_pool() {
            let pool = self
                .pool
                .amount
                .map_or(Value::Null, |amount| json!({"amount": amount.to_string(), "paused": self.pool.is_paused}));
            image.insert("pooled_budget".to_owned(), pool);
        }
        Value::Object(image)
    }
}

/// Cents as the admin API writes them.
pub fn cents(amount: Option<i64>) -> Value {
    amount.map_or(Value::Null, |amount| amount.to_string().into())
}

/// What somebody wants a cap to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// For whom.
    pub scope: Scope,
    /// Over what.
    pub period: Period,
    /// Cents; `None` is unlimited.
    pub amount: Option<i64>,
    /// What becomes of the pool; `None` leaves it as it is.
    pub pool: Option<PoolWish>,
}

/// What becomes of a pool; what is absent stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolWish {
    /// Its amount in cents; `Some(None)` takes it away.
    pub amount: Option<Option<i64>>,
    /// Whether it is paused.
    pub is_paused: Option<bool>,
}

/// Why a wish is not granted; the text is public.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Only groups share a budget.
    #[error("pooled_budget: only a cap of scope rbac_group can have one")]
    PoolWithoutGroup,
    /// Only monthly.
    #[error("pooled_budget: only a monthly cap can have one")]
    PoolNotMonthly,
    /// A pool that counts needs something to count against.
    #[error("pooled_budget.amount: Required unless pooled_budget.paused is true")]
    PoolWithoutAmount,
    /// A pool that counts needs a cap for each member.
    #[error("amount: must not be null while pooled_budget is not paused")]
    PoolWithoutMemberAmount,
}

impl Wish {
    /// The cap as it will be; `existing` is what it is now, `new_id` the id of a new one.
    pub fn grant(self, existing: Option<&Limit>, new_id: &str, now: Timestamp) -> Result<Limit, Refused> {
        let mut limit = Limit {
            id: existing.map_or(new_id, |limit| &limit.id).to_owned(),
            created_at: existing.map_or(now, |limit| limit.created_at),
            pool: existing.map(|limit| limit.pool).unwrap_or_default(),
            scope: self.scope,
            period: self.period,
            amount: self.amount,
            updated_at: now,
        };
        if let Some(wish) = self.pool {
            if !matches!(limit.scope, Scope::Group(_)) {
                return Err(Refused::PoolWithoutGroup);
            }
            if limit.period != Period::Monthly {
                return Err(Refused::PoolNotMonthly);
            }
            limit.pool.amount = wish.amount.unwrap_or(limit.pool.amount);
            limit.pool.is_paused = wish.is_paused.unwrap_or(limit.pool.is_paused);
            if wish != PoolWish::default() && !limit.pool.is_paused && limit.pool.amount.is_none() {
                return Err(Refused::PoolWithoutAmount);
            }
        }
        if limit.pool.amount.is_some() && !limit.pool.is_paused && limit.amount.is_none() {
            return Err(Refused::PoolWithoutMemberAmount);
        }
        Ok(limit)
    }
}

/// The cap that counts for a person over `period`, out of those of the person, of their groups, and of the
/// organization. An amount of `None` ends the search as unlimited.
pub fn effective<'a>(
    limits: impl IntoIterator<Item = &'a Limit>,
    period: Period,
    mode: GroupLimitMode,
) -> Option<&'a Limit> {
    let (mut user, mut group, mut organization) = (None, None::<&Limit>, None);
    for limit in limits.into_iter().filter(|limit| limit.period == period) {
        match limit.scope {
            Scope::User(_) => user = Some(limit),
            Scope::Organization => organization = Some(limit),
            Scope::Group(_) => {
                // An unlimited cap is larger than every number; of equals the first name counts.
                let rank = |limit: &Limit| limit.amount.unwrap_or(i64::MAX);
                let is_better = group.is_none_or(|best| match (mode, best.amount.is_none(), limit.amount.is_none()) {
                    (GroupLimitMode::Min, true, false) | (GroupLimitMode::Max, false, true) => true,
                    (GroupLimitMode::Min, false, true) | (GroupLimitMode::Max, true, false) => false,
                    _ if rank(limit) == rank(best) => limit.scope < best.scope,
                    (GroupLimitMode::Min, ..) => rank(limit) < rank(best),
                    (GroupLimitMode::Max, ..) => rank(limit) > rank(best),
                });
                if is_better {
                    group = Some(limit);
                }
            }
        }
    }
    user.or(group).or(organization)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::domain::spend) fn limit(scope: Scope, period: Period, amount: Option<i64>) -> Limit {
        Limit {
            id: format!("spl_{}{}{}", scope.kind(), scope.id(), period.name()),
            scope,
            period,
            amount,
            pool: Pool::default(),
            created_at: Timestamp::from_secs(1),
            updated_at: Timestamp::from_secs(1),
        }
    }

    pub(in crate::domain::spend) fn group(name: &str, amount: Option<i64>) -> Limit {
        limit(Scope::Group(name.to_owned()), Period::Monthly, amount)
    }

    #[test]
    fn the_closest_cap_counts() {
        let user = |amount| limit(Scope::User("u".to_owned()), Period::Monthly, amount);
        let organization = |amount| limit(Scope::Organization, Period::Monthly, amount);
        let daily = limit(Scope::User("u".to_owned()), Period::Daily, Some(1));
        for (limits, min, max) in [
            (vec![], None, None),
            (vec![daily], None, None),
            (vec![organization(Some(5))], Some(Some(5)), Some(Some(5))),
            (vec![organization(Some(5)), group("a", Some(9))], Some(Some(9)), Some(Some(9))),
            (vec![organization(Some(5)), group("a", None)], Some(None), Some(None)),
            (vec![organization(Some(5)), user(None)], Some(None), Some(None)),
            (vec![group("a", Some(1)), user(Some(7)), organization(None)], Some(Some(7)), Some(Some(7))),
            (vec![group("a", Some(3)), group("b", Some(8))], Some(Some(3)), Some(Some(8))),
            (vec![group("a", None), group("b", Some(8))], Some(Some(8)), Some(None)),
            (vec![group("b", Some(0)), group("a", None)], Some(Some(0)), Some(None)),
        ] {
            let amount = |mode| effective(&limits, Period::Monthly, mode).map(|limit| limit.amount);
            assert_eq!(amount(GroupLimitMode::Min), min, "{limits:?}");
            assert_eq!(amount(GroupLimitMode::Max), max, "{limits:?}");
        }
    }

    proptest! {
        #[test]
        fn one_more_group_cap_never_raises_the_smallest_nor_lowers_the_largest(
            amounts in proptest::collection::vec(proptest::option::of(0..100_i64), 1..6),
            more in proptest::option::of(0..100_i64),
        ) {
            let mut limits: Vec<Limit> =
                (0..).zip(&amounts).map(|(index, amount)| group(&format!("g{index}"), *amount)).collect();
            let height = |limits: &[Limit], mode| {
                effective(limits, Period::Monthly, mode).expect("there are some").amount.unwrap_or(i64::MAX)
            };
            let before = [GroupLimitMode::Min, GroupLimitMode::Max].map(|mode| height(&limits, mode));
            limits.push(group("new", more));
            prop_assert!(height(&limits, GroupLimitMode::Min) <= before[0]);
            prop_assert!(height(&limits, GroupLimitMode::Max) >= before[1]);
        }
    }

    #[test]
    fn pools_follow_their_rules() {
        let wish = |amount, pool| Wish {
            scope: Scope::Group("g".to_owned()),
            period: Period::Monthly,
            amount,
            pool: Some(pool),
        };
        let pool = |amount, is_paused| PoolWish { amount, is_paused };
        let stored = |amount, is_paused| {
            let mut limit = group("g", Some(1));
            limit.pool = Pool { amount, is_paused };
            limit
        };
        for (existing, wish, expected) in [
            (None, wish(Some(1), pool(Some(Some(5)), None)), Ok((Some(5), false))),
            (None, wish(Some(1), pool(None, None)), Ok((None, false))),
            (None, wish(Some(1), pool(None, Some(true))), Ok((None, true))),
            (None, wish(Some(1), pool(None, Some(false))), Err(Refused::PoolWithoutAmount)),
            (None, wish(None, pool(Some(Some(5)), None)), Err(Refused::PoolWithoutMemberAmount)),
            (None, wish(None, pool(Some(Some(5)), Some(true))), Ok((Some(5), true))),
            (Some(stored(Some(5), true)), wish(Some(1), pool(None, Some(false))), Ok((Some(5), false))),
            (Some(stored(Some(5), false)), wish(Some(1), pool(Some(None), None)), Err(Refused::PoolWithoutAmount)),
            (Some(stored(Some(5), true)), wish(Some(1), pool(Some(None), None)), Ok((None, true))),
            (Some(stored(Some(5), false)), wish(Some(1), pool(None, None)), Ok((Some(5), false))),
            (
                Some(stored(Some(5), false)),
                Wish { pool: None, ..wish(None, PoolWish::default()) },
                Err(Refused::PoolWithoutMemberAmount),
            ),
            (
                None,
                Wish { scope: Scope::Organization, ..wish(Some(1), PoolWish::default()) },
                Err(Refused::PoolWithoutGroup),
            ),
            (None, Wish { period: Period::Daily, ..wish(Some(1), PoolWish::default()) }, Err(Refused::PoolNotMonthly)),
        ] {
            let granted = wish.clone().grant(existing.as_ref(), "spl_new", Timestamp::from_secs(9));
            let granted = granted.map(|limit| (limit.pool.amount, limit.pool.is_paused));
            assert_eq!(granted, expected, "{existing:?} {wish:?}");
        }
    }
}
