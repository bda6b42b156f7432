//! [`verdict`]: whether a caller may spend more, as one look at caps and sums says (inference contract §15 and §16).

use super::calendar::Period;
use super::limit::{Limit, effective};
use crate::config::GroupLimitMode;
use crate::domain::ids::Timestamp;
use crate::domain::money::Money;

/// All that is known about a caller's spending: what the look-up before a request returns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// The caps of the caller, of the caller's groups, and of the organization.
    pub limits: Vec<Limit>,
    /// What the caller has spent this day, week and month.
    pub spent: [Money; 3],
    /// What the pools of the caller's groups have spent this month, by group.
    pub pools: Vec<(String, Money)>,
}

/// A cap and what was spent under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gauge {
    /// Over what.
    pub period: Period,
    /// Cents.
    pub cap: i64,
    /// Spent.
    pub spent: Money,
    /// When it starts again.
    pub resets: Timestamp,
    /// Type of the scope of the cap, or `group_pool`.
    pub source: &'static str,
}

impl Gauge {
    /// Whether nothing is left. A cap of 0 always is exhausted.
    pub fn is_exhausted(&self) -> bool {
        i128::from(self.spent.as_nanos()) >= Money::nanos_of_cents(self.cap)
    }

    /// Whether more than `percent` of it is spent, exactly.
    pub fn is_above(&self, percent: i128) -> bool {
        i128::from(self.spent.as_nanos()) * 100 > Money::nanos_of_cents(self.cap) * percent
    }

    /// `parts` times the spent share, rounded half up; all of it for a cap of 0.
    pub fn share(&self, parts: i128) -> i128 {
        match Money::nanos_of_cents(self.cap) {
            0 => parts,
            cap => crate::domain::money::divided(i128::from(self.spent.as_nanos()) * parts, cap),
        }
    }

    fn is_fuller_than(&self, other: &Self) -> bool {
        let cross = |one: &Self, other: &Self| i128::from(one.spent.as_nanos()) * i128::from(other.cap);
        let (ours, theirs) = (cross(self, other), cross(other, self));
        (ours, self.resets, self.period) > (theirs, other.resets, other.period)
    }
}

/// What a caller may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on.
    Allowed {
        /// The fullest cap, if there is one.
        gauge: Option<Gauge>,
        /// The group whose pool pays, if one does.
        pool: Option<String>,
    },
    /// Stop.
    Blocked {
        /// The cap that resets last, or the pool that would be charged first.
        gauge: Gauge,
        /// The exhausted pools in charging order, when pools are the reason.
        groups: Vec<String>,
    },
}

impl Standing {
    /// The caps that count, with what was spent under each, in the order of [`Period::ALL`].
    pub fn gauges(&self, mode: GroupLimitMode, now: Timestamp) -> Vec<Gauge> {
        let gauge = |(period, spent): (Period, Money)| {
            let limit = effective(&self.limits, period, mode)?;
            let cap = limit.amount?;
            Some(Gauge { period, cap, spent, resets: period.end(now), source: limit.scope.kind() })
        };
        Period::ALL.into_iter().zip(self.spent).filter_map(gauge).collect()
    }

    /// The pools that count, in charging order: the largest first, of equals the first name.
    fn pools(&self, now: Timestamp) -> Vec<(&str, Gauge)> {
        let period = Period::Monthly;
        let counting = self.limits.iter().filter(|limit| limit.may_have_pool() && !limit.pool.is_paused);
        let mut pools: Vec<(&str, Gauge)> = counting
            .filter_map(|limit| {
                let cap = limit.pool.amount?;
                let group = limit.scope.id();
                let spent = self.pools.iter().find(|(name, _)| name == group).map_or(Money::ZERO, |(_, spent)| *spent);
                Some((group, Gauge { period, cap, spent, resets: period.end(now), source: "group_pool" }))
            })
            .collect();
        pools.sort_by(|(one, a), (other, b)| b.cap.cmp(&a.cap).then_with(|| one.cmp(other)));
        pools
    }
}

/// The gauge that is told to a caller: the fullest, or once one is exhausted the one of those that resets last.
pub fn described(gauges: &[Gauge]) -> Option<&Gauge> {
    let exhausted = gauges.iter().filter(|gauge| gauge.is_exhausted());
    exhausted
        .max_by_key(|gauge| (gauge.resets, gauge.period))
        .or_else(|| gauges.iter().reduce(|fullest, gauge| if gauge.is_fuller_than(fullest) { gauge } else { fullest }))
}

/// Whether a caller in this standing may go on.
pub fn verdict(standing: &Standing, mode: GroupLimitMode, now: Timestamp) -> Verdict {
    let gauges = standing.gauges(mode, now);
    let told = described(&gauges);
    if let Some(gauge) = told.filter(|gauge| gauge.is_exhausted()) {
        return Verdict::Blocked { gauge: gauge.clone(), groups: Vec::new() };
    }
    let pools = standing.pools(now);
    let pays = pools.iter().find(|(_, gauge)| !gauge.is_exhausted());
    match (pools.first(), pays) {
        (Some((_, gauge)), None) => Verdict::Blocked {
            gauge: gauge.clone(),
            groups: pools.iter().map(|(group, _)| (*group).to_owned()).collect(),
        },
        _ => Verdict::Allowed { gauge: told.cloned(), pool: pays.map(|(group, _)| (*group).to_owned()) },
    }
}

#[cfg(test)]
mod tests {
    use super::super::limit::tests::{group, limit};
    use super::super::limit::{Pool, Scope};
    use super::*;

    /// A Monday: the day ends first, then the week, then the month.
    const NOW: Timestamp = Timestamp::from_secs(1_927_857_906);

    fn cents(cents: i64) -> Money {
        Money::from_nanos(cents * 10_000_000)
    }

    fn standing(limits: Vec<Limit>, spent: [i64; 3]) -> Standing {
        Standing { limits, spent: spent.map(cents), pools: Vec::new() }
    }

    fn user(period: Period, amount: i64) -> Limit {
        limit(Scope::User("u".to_owned()), period, Some(amount))
    }

    fn pool(name: &str, amount: i64, is_paused: bool) -> Limit {
        Limit { pool: Pool { amount: Some(amount), is_paused }, ..group(name, Some(1_000_000)) }
    }

    fn judge(standing: &Standing) -> Verdict {
        verdict(standing, GroupLimitMode::Min, NOW)
    }

    #[test]
    fn a_caller_is_blocked_from_the_moment_a_cap_is_reached() {
        for (limits, spent, blocked_by) in [
            (vec![], [1, 1, 1], None),
            (vec![user(Period::Daily, 10)], [9, 9, 9], None),
            (vec![user(Period::Daily, 10)], [10, 10, 10], Some(Period::Daily)),
            (vec![user(Period::Daily, 0)], [0, 0, 0], Some(Period::Daily)),
            (vec![user(Period::Daily, 1), user(Period::Weekly, 1)], [5, 5, 5], Some(Period::Weekly)),
            (vec![user(Period::Monthly, 1), user(Period::Daily, 1)], [5, 5, 5], Some(Period::Monthly)),
            (vec![user(Period::Monthly, 9), user(Period::Daily, 1)], [5, 5, 5], Some(Period::Daily)),
        ] {
            let period = match judge(&standing(limits.clone(), spent)) {
                Verdict::Blocked { gauge, .. } => Some(gauge.period),
                Verdict::Allowed { .. } => None,
            };
            assert_eq!(period, blocked_by, "{limits:?} {spent:?}");
        }
    }

    #[test]
    fn the_fullest_cap_is_described_and_of_equals_the_one_that_resets_later() {
        let both = vec![user(Period::Daily, 10), user(Period::Weekly, 20)];
        for (spent, period) in
            [([6, 6, 6], Period::Daily), ([5, 11, 11], Period::Weekly), ([5, 10, 10], Period::Weekly)]
        {
            let Verdict::Allowed { gauge: Some(gauge), .. } = judge(&standing(both.clone(), spent)) else { panic!() };
            assert_eq!(gauge.period, period, "{spent:?}");
        }
    }

    #[test]
    fn pools_are_charged_largest_first_and_block_when_all_are_empty() {
        let limits = vec![pool("a", 100, false), pool("b", 200, false), pool("c", 200, false), pool("z", 900, true)];
        for (a, b, c, pays) in [
            (0, 0, 0, Some("b")),
            (0, 200, 0, Some("c")),
            (0, 200, 300, Some("a")),
            (99, 200, 200, Some("a")),
            (100, 200, 200, None),
        ] {
            let pools = [("a", a), ("b", b), ("c", c)].map(|(name, spent)| (name.to_owned(), cents(spent)));
            let standing = Standing { pools: pools.to_vec(), ..standing(limits.clone(), [1, 1, 1]) };
            match judge(&standing) {
                Verdict::Allowed { pool, .. } => assert_eq!(pool.as_deref(), pays),
                Verdict::Blocked { gauge, groups } => {
                    assert_eq!((pays, gauge.cap, gauge.source), (None, 200, "group_pool"));
                    assert_eq!(groups, ["b", "c", "a"]);
                }
            }
        }
    }

    #[test]
    fn a_pool_binds_whom_their_own_cap_does_not_and_is_told_after_it() {
        let exhausted =
            |limits: Vec<Limit>| Standing { pools: vec![("a".to_owned(), cents(5))], ..standing(limits, [3, 3, 3]) };
        let unlimited = limit(Scope::User("u".to_owned()), Period::Monthly, None);
        let Verdict::Blocked { groups, .. } = judge(&exhausted(vec![pool("a", 5, false), unlimited])) else { panic!() };
        assert_eq!(groups, ["a"]);
        let own = exhausted(vec![pool("a", 5, false), user(Period::Monthly, 3)]);
        let Verdict::Blocked { gauge, groups } = judge(&own) else { panic!() };
        assert_eq!((gauge.source, groups.len()), ("user", 0));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let standing = Standing {
            limits: vec![user(Period::Daily, i64::MAX), user(Period::Weekly, i64::MAX - 1)],
            spent: [Money::from_nanos(i64::MAX); 3],
            pools: Vec::new(),
        };
        let Verdict::Allowed { gauge: Some(gauge), .. } = judge(&standing) else { panic!() };
        assert_eq!((gauge.period, gauge.share(100)), (Period::Weekly, 0));
    }
}
