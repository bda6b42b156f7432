//! The store's contract about reservations, on every database.

use std::time::Duration;

use futures_util::FutureExt;

use super::spend_tests::{NOW, days_later, group, limit, nanos, set};
use super::tests::{on_every_database, on_two_connections};
use super::{Caller, Change, Granted, Hold, Settlement, Store, Wanted};
use crate::config::GroupLimitMode;
use crate::domain::ids::Timestamp;
use crate::domain::money::Money;
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::{Limit, Pool, Scope};
use crate::ports::Value;
use crate::stream::meter::Usage;

const CENT: i64 = 10_000_000;
const TTL: Duration = Duration::from_mins(15);

fn wanted<'a>(id: &'a str, groups: &'a [String], amount: i64, at: Timestamp) -> Wanted<'a> {
    let caller = Caller { subject: "ada", groups };
    Wanted { id, caller, amount: nanos(amount), mode: GroupLimitMode::Min, at, until: at.plus(TTL) }
}

async fn reserve(store: &Store<'_>, id: &str, amount: i64) -> Option<Granted> {
    store.reserve(wanted(id, &[], amount, NOW)).await.expect("it runs")
}

async fn settle(store: &Store<'_>, id: &str, cost: i64, at: Timestamp) -> usize {
    let usage = Usage { input_tokens: 3, output_tokens: 4, ..Usage::default() };
    let settlement = Settlement {
        id,
        subject: "ada",
        pool: None,
        cost: nanos(cost),
        usage: &usage,
        model: "claude-opus-4-8",
        upstream: "a",
        session: "",
        at,
    };
    store.settle(settlement).await.expect("it runs").len()
}

/// Settled and reserved sums of Ada on the day, and what the pool has of both.
async fn books(store: &Store<'_>) -> [i64; 4] {
    let sum = async |kind: &str, column: &str| {
        let statement = format!("SELECT CAST(COALESCE(SUM({column}), 0) AS BIGINT) FROM spend WHERE kind = $1");
        match store.run(&statement, &[Value::Text(kind.to_owned())]).await.expect("it runs")[0][0] {
            Value::Integer(sum) => sum,
            ref other => panic!("{other:?}"),
        }
    };
    [sum("day", "nanos").await, sum("day", "held").await, sum("pool", "nanos").await, sum("pool", "held").await]
}

#[test]
fn requests_are_let_in_until_what_is_settled_and_reserved_reaches_a_cap() {
    on_every_database(async |store| {
        set(store, &limit(Scope::User("ada".to_owned()), Period::Daily, Some(10), "spl_1")).await;
        let granted = reserve(store, "r1", 6 * CENT).await.expect("nothing is used");
        let gauge = &granted.gauges[0];
        assert_eq!((granted.gauges.len(), gauge.cap, gauge.spent, gauge.source), (1, 10, Money::ZERO, "user"));
        assert!(reserve(store, "r2", 6 * CENT).await.is_some(), "4 cents are left");
        assert_eq!(reserve(store, "r3", 1).await, None, "12 cents are reserved");
        assert_eq!(books(store).await, [0, 12 * CENT, 0, 0]);
        assert_eq!(settle(store, "r1", 2 * CENT, NOW).await, 3);
        store.release("r2", NOW).await.expect("it runs");
        assert_eq!(books(store).await, [2 * CENT, 0, 0, 0]);
        let granted = reserve(store, "r4", CENT).await.expect("8 cents are left");
        assert_eq!(granted.gauges[0].spent, nanos(2 * CENT), "what was reserved is not told as spent");
        settle(store, "r4", 8 * CENT, NOW).await;
        assert_eq!(reserve(store, "r5", 0).await, None);
        assert!(store.reserve(wanted("r6", &[], 1, days_later(1))).await.expect("it runs").is_some());
    });
}

#[test]
fn a_cap_of_nothing_lets_nobody_in_and_no_cap_everybody() {
    on_every_database(async |store| {
        for number in 0..3 {
            let granted = reserve(store, &format!("r{number}"), i64::from(i32::MAX) * CENT).await.expect("no cap");
            assert_eq!(granted, Granted { gauges: Vec::new(), pool: None });
        }
        set(store, &limit(Scope::Organization, Period::Weekly, Some(i64::MAX), "spl_1")).await;
        assert!(reserve(store, "large", CENT).await.is_some());
        set(store, &limit(Scope::Organization, Period::Weekly, Some(0), "spl_1")).await;
        assert_eq!(reserve(store, "none", CENT).await, None);
    });
}

#[test]
fn a_request_is_settled_once_where_it_was_reserved() {
    on_every_database(async |store| {
        reserve(store, "r1", 5 * CENT).await.expect("no cap");
        assert_eq!(settle(store, "r1", CENT, days_later(1)).await, 3);
        assert_eq!(settle(store, "r1", CENT, days_later(1)).await, 0);
        store.release("r1", NOW).await.expect("it runs");
        assert_eq!(books(store).await, [CENT, 0, 0, 0]);
        let keys = Period::ALL.map(|period| period.key(NOW));
        let people = store.named_principals(&keys, &["ada".to_owned()]).await.expect("it runs");
        assert_eq!(people[0].spent, [nanos(CENT); 3], "it belongs to the day on which it was let in");
        // A request whose reservation could not be made counts where it ends, once as well.
        assert_eq!(settle(store, "unknown", 2 * CENT, NOW).await, 3);
        assert_eq!(settle(store, "unknown", 2 * CENT, NOW).await, 0);
        assert_eq!(reserve_refused(store, "unknown").await, "guard");
        assert_eq!(books(store).await, [3 * CENT, 0, 0, 0]);
        // A request that cost nothing is known all the same; one that was given back never was.
        reserve(store, "r2", CENT).await.expect("no cap");
        store.release("r2", NOW).await.expect("it runs");
        assert_eq!(settle(store, "r2", CENT, NOW).await, 0);
        assert_eq!(books(store).await, [3 * CENT, 0, 0, 0]);
    });
}

/// A reservation that arrives after its own settlement changes nothing.
async fn reserve_refused(store: &Store<'_>, id: &str) -> &'static str {
    if reserve(store, id, CENT).await.is_none() { "guard" } else { "granted" }
}

#[test]
fn reservations_of_the_dead_expire_are_listed_and_may_still_be_settled() {
    on_every_database(async |store| {
        let groups = ["eng".to_owned()];
        let pool = Pool { amount: Some(100), is_paused: false };
        set(store, &Limit { pool, ..limit(group("eng"), Period::Monthly, Some(50), "spl_1") }).await;
        for id in ["r1", "r2"] {
            let granted = store.reserve(wanted(id, &groups, 20 * CENT, NOW)).await.expect("it runs").expect("room");
            assert_eq!(granted.pool.as_deref(), Some("eng"));
        }
        assert_eq!(books(store).await, [0, 40 * CENT, 0, 40 * CENT]);
        let last = Timestamp::from_millis(NOW.plus(TTL).as_millis() - 1);
        assert_eq!(store.expire_holds(last).await.expect("it runs"), 0);
        let end = NOW.plus(TTL);
        assert_eq!(store.expire_holds(end).await.expect("it runs"), 2);
        assert_eq!(store.expire_holds(end).await.expect("it runs"), 0);
        assert_eq!(books(store).await, [0; 4]);
        let listed = store.holds("expired", "", 10).await.expect("it runs");
        let hold = Hold {
            id: "r1".to_owned(),
            state: "expired".to_owned(),
            owner: "ada".to_owned(),
            pool: "eng".to_owned(),
            amount: nanos(20 * CENT),
            day: "2031-02-03".to_owned(),
            expires_at: end,
        };
        assert_eq!(listed[0], hold);
        assert_eq!(store.holds("expired", "r1", 10).await.expect("it runs").len(), 1);
        assert_eq!(store.holds("held", "", 10).await.expect("it runs"), []);
        // Its instance lives after all.
        assert_eq!(settle(store, "r1", 7 * CENT, end).await, 4);
        assert_eq!(settle(store, "r1", 7 * CENT, end).await, 0);
        assert_eq!(books(store).await, [7 * CENT, 0, 7 * CENT, 0]);
        assert_eq!(store.holds("expired", "", 10).await.expect("it runs").len(), 1);
    });
}

#[test]
fn pools_are_reserved_largest_first_and_paused_ones_never() {
    on_every_database(async |store| {
        let groups = ["a", "b", "c", "o'z\""].map(str::to_owned);
        for (name, amount, is_paused) in [("a", 10, false), ("b", 20, false), ("c", 20, false), ("o'z\"", 90, true)] {
            let pool = Pool { amount: Some(amount), is_paused };
            set(store, &Limit { pool, ..limit(group(name), Period::Monthly, Some(1000), &format!("spl_{name}")) })
                .await;
        }
        for (id, pays) in [("1", Some("b")), ("2", Some("c")), ("3", Some("a")), ("4", None)] {
            let granted = store.reserve(wanted(id, &groups, 20 * CENT, NOW)).await.expect("it runs");
            assert_eq!(granted.and_then(|granted| granted.pool).as_deref(), pays, "{id}");
        }
        assert_eq!(books(store).await, [0, 60 * CENT, 0, 60 * CENT]);
        // Somebody else of the same group is in the same pool.
        let other = Wanted { caller: Caller { subject: "bob", groups: &groups[..1] }, ..wanted("5", &[], 1, NOW) };
        assert_eq!(store.reserve(other).await.expect("it runs"), None);
        let outside = Wanted { caller: Caller { subject: "bob", groups: &[] }, ..wanted("6", &[], 1, NOW) };
        assert!(store.reserve(outside).await.expect("it runs").is_some());
    });
}

/// A small generator of numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn the_database_finds_the_same_caps_as_the_rule() {
    on_every_database(async |store| {
        let mut dice = Dice(7);
        let groups = ["eng".to_owned(), "ops".to_owned(), "x".to_owned()];
        for round in 0..60 {
            for (scope, name) in [
                (Scope::User("ada".to_owned()), "u"),
                (Scope::Organization, "o"),
                (group("eng"), "e"),
                (group("ops"), "p"),
                (group("not ada's"), "n"),
            ] {
                for period in Period::ALL {
                    let id = format!("spl_{name}{}", period.name());
                    let amount = (dice.roll(4) > 0).then(|| i64::try_from(1000 + dice.roll(3)).expect("small"));
                    let cap = limit(scope.clone(), period, amount, &id);
                    let stored = store.find_limit(&scope, period).await.expect("it runs");
                    let change = Change {
                        limit: &cap,
                        is_deletion: dice.roll(3) == 0,
                        from_version: stored.map_or(0, |stored| stored.version),
                        actor: "a",
                        action: "b",
                        before: "",
                        after: "",
                        at: NOW,
                    };
                    assert!(store.change_limit(change).await.expect("it runs"));
                }
            }
            for mode in [GroupLimitMode::Min, GroupLimitMode::Max] {
                let id = format!("{round}{mode:?}");
                let wanted = Wanted { mode, ..wanted(&id, &groups, 1, NOW) };
                let granted = store.reserve(wanted).await.expect("it runs").expect("there is room");
                let standing = store.standing(wanted.caller, NOW).await.expect("it runs");
                assert_eq!(granted.gauges, standing.gauges(mode, NOW), "round {round}, {mode:?}");
            }
        }
    });
}

#[test]
fn of_many_requests_at_once_no_two_get_the_last_of_a_cap() {
    const EACH: usize = 100;
    let race = |store: &Store<'_>| {
        let cap = limit(Scope::Organization, Period::Daily, Some(10), "spl_1");
        let version = store.find_limit(&cap.scope, cap.period).now_or_never().expect("nothing waits").expect("it runs");
        let change = Change {
            limit: &cap,
            is_deletion: false,
            from_version: version.map_or(0, |stored| stored.version),
            actor: "a",
            action: "b",
            before: "",
            after: "",
            at: NOW,
        };
        let _ = store.change_limit(change).now_or_never().expect("nothing waits");
        let mut granted = Vec::new();
        for number in 0..EACH {
            let id = format!("{:?} {number}", std::thread::current().id());
            let wanted = wanted(&id, &[], CENT, NOW);
            if store.reserve(wanted).now_or_never().expect("nothing waits").expect("it runs").is_some() {
                granted.push(id);
            }
        }
        granted
    };
    for (ours, theirs) in on_two_connections(race) {
        assert_eq!(ours.len() + theirs.len(), 10, "ten cents are ten requests of a cent");
    }
}

#[test]
fn a_settlement_and_an_expiry_at_once_are_one_of_them_and_then_the_other() {
    const HOLDS: usize = 60;
    let race = |store: &Store<'_>| {
        for number in 0..HOLDS {
            let id = format!("r{number}");
            // Whoever is second finds it reserved, or settled already.
            let _ = store.reserve(wanted(&id, &[], 5 * CENT, NOW)).now_or_never().expect("nothing waits");
            settle(store, &id, CENT, NOW.plus(TTL)).now_or_never().expect("nothing waits");
            store.expire_holds(NOW.plus(TTL)).now_or_never().expect("nothing waits").expect("it runs");
        }
        books(store).now_or_never().expect("nothing waits")
    };
    for (ours, theirs) in on_two_connections(race) {
        let all = i64::try_from(HOLDS).expect("few") * CENT;
        // The one who ended last saw everything.
        assert!([ours, theirs].contains(&[all, 0, 0, 0]), "{ours:?} {theirs:?}");
    }
}
