//! The store's contract about money, on every database.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;

use super::tests::{on_every_database, on_two_connections};
use super::{Caller, Change, CostQuery, Edge, Identity, Page, PrincipalsQuery, Retention, Settlement, Store};
use crate::domain::ids::Timestamp;
use crate::domain::money::Money;
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::{Limit, Pool, Scope};
use crate::stream::meter::Usage;

/// 2031-02-03, a Monday.
pub(super) const NOW: Timestamp = Timestamp::from_secs(1_927_857_906);
const DAY: i64 = 24 * 60 * 60 * 1000;

pub(super) fn days_later(days: i64) -> Timestamp {
    Timestamp::from_millis(NOW.as_millis() + days * DAY)
}

pub(super) fn nanos(nanos: i64) -> Money {
    Money::from_nanos(nanos)
}

pub(super) fn group(name: &str) -> Scope {
    Scope::Group(name.to_owned())
}

pub(super) fn limit(scope: Scope, period: Period, amount: Option<i64>, id: &str) -> Limit {
    Limit { id: id.to_owned(), scope, period, amount, pool: Pool::default(), created_at: NOW, updated_at: NOW }
}

fn change(limit: &Limit, from_version: i64) -> Change<'_> {
    Change {
        limit,
        is_deletion: false,
        from_version,
        actor: "admin-key:x",
        action: "spend_limit.upsert",
        before: "",
        after: "{}",
        at: NOW,
    }
}

pub(super) async fn set(store: &Store<'_>, limit: &Limit) {
    let version = store.find_limit(&limit.scope, limit.period).await.expect("it runs").map_or(0, |one| one.version);
    assert!(store.change_limit(change(limit, version)).await.expect("it runs"));
}

async fn spend(store: &Store<'_>, subject: &str, pool: Option<&str>, cost: i64, at: Timestamp) {
    static SETTLED: AtomicUsize = AtomicUsize::new(0);
    let id = SETTLED.fetch_add(1, Ordering::Relaxed).to_string();
    let usage = Usage::default();
    let model = "m";
    let settlement =
        Settlement { id: &id, subject, pool, cost: nanos(cost), usage: &usage, model, upstream: "a", session: "", at };
    assert!(!store.settle(settlement).await.expect("it runs").is_empty());
}

#[test]
fn one_statement_tells_everything_about_a_caller_and_nothing_about_others() {
    on_every_database(async |store| {
        let pool = Pool { amount: Some(5), is_paused: false };
        for limit in [
            limit(Scope::Organization, Period::Daily, Some(1), "spl_1"),
            limit(Scope::User("ada".to_owned()), Period::Weekly, None, "spl_2"),
            limit(Scope::User("bob".to_owned()), Period::Weekly, Some(9), "spl_3"),
            Limit { pool, ..limit(group("eng"), Period::Monthly, Some(3), "spl_4") },
            limit(group("ops"), Period::Monthly, Some(4), "spl_5"),
            limit(group("o'ps\"; DROP TABLE spend"), Period::Monthly, Some(i64::MAX), "spl_6"),
        ] {
            set(store, &limit).await;
        }
        spend(store, "ada", Some("eng"), 7, NOW).await;
        spend(store, "ada", None, 5, days_later(1)).await;
        spend(store, "bob", Some("eng"), 100, NOW).await;
        let groups = ["eng".to_owned(), "x".to_owned(), "o'ps\"; DROP TABLE spend".to_owned()];
        let caller = Caller { subject: "ada", groups: &groups };
        let standing = store.standing(caller, days_later(1)).await.expect("it runs");
        assert_eq!(standing.spent, [5, 12, 12].map(nanos));
        assert_eq!(standing.pools, [("eng".to_owned(), nanos(107))]);
        let mut ids: Vec<&str> = standing.limits.iter().map(|limit| limit.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["spl_1", "spl_2", "spl_4", "spl_6"]);
        let nobody = store.standing(Caller { subject: "", groups: &[] }, NOW).await.expect("it runs");
        assert_eq!((nobody.spent, nobody.limits.len()), ([Money::ZERO; 3], 1));
        let strange = Caller { subject: "a\0", groups: &["\0".to_owned()] };
        assert_eq!(store.standing(strange, NOW).await.expect("it runs").limits.len(), 1);
    });
}

#[test]
fn a_request_that_costs_nothing_leaves_rows() {
    on_every_database(async |store| {
        spend(store, "ada", None, 0, NOW).await;
        let keys = Period::ALL.map(|period| period.key(NOW));
        let query = PrincipalsQuery { keys: &keys, search: "", by_spend: Some(Period::Daily), after: None, most: 10 };
        assert_eq!(store.principals(query).await.expect("it runs").len(), 1);
    });
}

#[test]
fn a_cap_changes_with_its_record_or_not_at_all() {
    on_every_database(async |store| {
        let first = limit(Scope::Organization, Period::Daily, Some(1), "spl_1");
        assert!(store.change_limit(change(&first, 0)).await.expect("it runs"));
        let other = Limit { amount: Some(9), ..first.clone() };
        assert!(!store.change_limit(change(&other, 0)).await.expect("it runs"), "it has a version by now");
        assert_eq!(store.limit_changes(i64::MAX, 10).await.expect("it runs").len(), 1);
        assert!(store.change_limit(change(&Limit { amount: None, ..first.clone() }, 1)).await.expect("it runs"));
        let stored = store.find_limit(&first.scope, first.period).await.expect("it runs").expect("it is there");
        assert_eq!((stored.limit.amount, stored.version, stored.is_deleted), (None, 2, false));
        let deletion = Change { is_deletion: true, action: "spend_limit.delete", ..change(&first, 2) };
        assert!(store.change_limit(deletion).await.expect("it runs"));
        assert_eq!(store.limit_by_id("spl_1", "2031-02").await.expect("it runs"), None);
        let again = Limit { id: "spl_2".to_owned(), ..first.clone() };
        assert!(store.change_limit(change(&again, 3)).await.expect("it runs"));
        let found = store.limit_by_id("spl_2", "2031-02").await.expect("it runs").expect("it is there");
        assert_eq!(found.limit, again);
        let changes = store.limit_changes(i64::MAX, 10).await.expect("it runs");
        let actions: Vec<&str> = changes.iter().map(|change| change.action.as_str()).collect();
        assert_eq!(actions, ["spend_limit.upsert", "spend_limit.delete", "spend_limit.upsert", "spend_limit.upsert"]);
        let older = store.limit_changes(changes[1].id, 1).await.expect("it runs");
        assert_eq!(older, changes[2..3]);
    });
}

#[test]
fn of_many_changes_at_once_each_is_recorded_once() {
    const EACH: i64 = 20;
    let race = |store: &Store<'_>| {
        let mut done = 0;
        while done < EACH {
            let scope = Scope::Organization;
            let version = store.find_limit(&scope, Period::Daily).now_or_never().expect("nothing waits");
            let version = version.expect("it runs").map_or(0, |stored| stored.version);
            let wanted = limit(scope, Period::Daily, Some(version), "spl_1");
            let written = store.change_limit(change(&wanted, version)).now_or_never().expect("nothing waits");
            done += i64::from(written.expect("it runs"));
        }
        let changes = store.limit_changes(i64::MAX, 1000).now_or_never().expect("nothing waits").expect("it runs");
        let stored = store.find_limit(&Scope::Organization, Period::Daily).now_or_never().expect("nothing waits");
        (changes.len(), stored.expect("it runs").expect("it is there").version)
    };
    for (ours, theirs) in on_two_connections(race) {
        let last = ours.max(theirs);
        assert_eq!(last, (usize::try_from(2 * EACH).expect("a small number"), 2 * EACH));
    }
}

#[test]
fn sums_that_two_replicas_add_to_at_once_are_complete() {
    let race = |store: &Store<'_>| {
        for _ in 0..50 {
            spend(store, "ada", Some("eng"), 3, NOW).now_or_never().expect("nothing waits");
        }
        let caller = Caller { subject: "ada", groups: &[] };
        store.standing(caller, NOW).now_or_never().expect("nothing waits").expect("it runs").spent
    };
    for (ours, theirs) in on_two_connections(race) {
        assert_eq!(ours.max(theirs), [nanos(300); 3]);
    }
}

#[test]
fn pages_of_caps_follow_their_creation_in_both_directions() {
    on_every_database(async |store| {
        for index in 0..5 {
            let scope = Scope::User(format!("u{}", 9 - index));
            set(store, &limit(scope, Period::Daily, Some(index), &format!("spl_{index}"))).await;
        }
        set(store, &limit(group("g"), Period::Monthly, Some(1), "spl_g")).await;
        let ids = async |edge, most, scope_type| {
            let page = Page { edge, most, scope_type, month: "2031-02" };
            let limits = store.limits(page).await.expect("it runs");
            limits.map(|limits| limits.into_iter().map(|stored| stored.limit.id).collect::<Vec<_>>())
        };
        assert_eq!(ids(Edge::First, 2, None).await, Some(vec!["spl_0".into(), "spl_1".into()]));
        assert_eq!(ids(Edge::After("spl_1"), 2, None).await, Some(vec!["spl_2".into(), "spl_3".into()]));
        assert_eq!(ids(Edge::Before("spl_4"), 2, None).await, Some(vec!["spl_2".into(), "spl_3".into()]));
        assert_eq!(ids(Edge::First, 9, Some("rbac_group")).await, Some(vec!["spl_g".into()]));
        assert_eq!(ids(Edge::After("spl_x"), 2, None).await, None);
    });
}

async fn three_people(store: &Store<'_>) {
    let eng = ["eng".to_owned(), "all".to_owned()];
    let ops = ["all".to_owned()];
    for (subject, email, name, groups) in
        [("ada", Some("Ada@example.test"), None, &eng[..]), ("bob", None, Some("Bob 100%"), &ops[..])]
    {
        let identity = Identity { subject, email, name, groups };
        store.note_identity(identity, NOW).await.expect("it runs");
        store.note_identity(identity, NOW).await.expect("it runs");
    }
    spend(store, "ada", Some("eng"), 10, NOW).await;
    spend(store, "bob", None, 30, NOW).await;
    spend(store, "cyd", None, 20, days_later(1)).await;
    spend(store, "ada", None, 1, days_later(1)).await;
}

#[test]
fn people_are_listed_by_name_or_by_what_they_spent() {
    on_every_database(async |store| {
        three_people(store).await;
        let keys = Period::ALL.map(|period| period.key(NOW));
        let list = async |search, by_spend, after, most| {
            let query = PrincipalsQuery { keys: &keys, search, by_spend, after, most };
            let rows = store.principals(query).await.expect("it runs");
            rows.into_iter().map(|row| row.principal).collect::<Vec<_>>()
        };
        assert_eq!(list("", None, None, 10).await, ["ada", "bob", "cyd"]);
        assert_eq!(list("", None, Some(("ada", i64::MAX)), 1).await, ["bob"]);
        assert_eq!(list("", Some(Period::Daily), None, 10).await, ["bob", "ada"]);
        assert_eq!(list("", Some(Period::Weekly), None, 2).await, ["bob", "cyd"]);
        assert_eq!(list("", Some(Period::Weekly), Some(("cyd", 20)), 2).await, ["ada"]);
        assert_eq!(list("EXAMPLE", None, None, 10).await, ["ada"]);
        assert_eq!(list("0%", None, None, 10).await, ["bob"]);
        assert_eq!(list("%", None, None, 10).await, ["bob"]);
        assert_eq!(list("_", None, None, 10).await, [""; 0]);
        assert_eq!(list("\\", None, None, 10).await, [""; 0]);
        let named = ["new".to_owned(), "ada".to_owned(), "ada".to_owned()];
        let named = store.named_principals(&keys, &named).await.expect("it runs");
        assert_eq!(named.len(), 2);
        assert_eq!((named[0].spent, named[0].email.as_str()), ([10, 11, 11].map(nanos), "Ada@example.test"));
        assert_eq!(named[0].groups, ["eng", "all"]);
        assert_eq!((named[1].principal.as_str(), named[1].spent), ("new", [Money::ZERO; 3]));
    });
}

#[test]
fn costs_are_summed_by_day_person_and_the_groups_of_the_day() {
    on_every_database(async |store| {
        three_people(store).await;
        let base = CostQuery { from: "2031-02-03".into(), to: "2031-02-05".into(), most: 10, ..CostQuery::default() };
        let costs = async |query: CostQuery| {
            let rows = store.costs(&query).await.expect("it runs");
            rows.into_iter()
                .map(|row| format!("{}|{}|{}|{}", row.day, row.actor, row.group, row.cost.as_nanos()))
                .collect::<Vec<_>>()
        };
        assert_eq!(costs(base.clone()).await, ["|||61"]);
        assert_eq!(costs(CostQuery { to: "2031-02-04".into(), ..base.clone() }).await, ["|||40"]);
        let outside = CostQuery { from: "2031-03-01".into(), to: "2031-03-09".into(), ..base.clone() };
        assert_eq!(costs(outside).await, [""; 0]);
        let days = CostQuery { by_day: true, order_by_time: true, ascending: true, ..base.clone() };
        assert_eq!(costs(days).await, ["2031-02-03|||40", "2031-02-04|||21"]);
        let actors = CostQuery { by_actor: true, ..base.clone() };
        assert_eq!(costs(actors.clone()).await, ["|bob||30", "|cyd||20", "|ada||11"]);
        assert_eq!(costs(CostQuery { skip: 1, most: 1, ..actors }).await, ["|cyd||20"]);
        let groups = CostQuery { by_group: true, ascending: true, ..base.clone() };
        assert_eq!(costs(groups.clone()).await, ["||eng|10", "|||21", "||all|40"]);
        assert_eq!(costs(CostQuery { groups: vec!["eng".into()], ..groups }).await, ["||eng|10"]);
        let members = CostQuery { groups: vec!["eng".into(), "all".into()], by_actor: true, ..base.clone() };
        assert_eq!(costs(members).await, ["|bob||30", "|ada||10"]);
        assert_eq!(costs(CostQuery { actors: vec!["cyd".into(), "ada".into()], ..base }).await, ["|||31"]);
    });
}

#[test]
fn what_is_older_than_its_retention_goes_away() {
    on_every_database(async |store| {
        three_people(store).await;
        let cap = limit(Scope::Organization, Period::Daily, Some(1), "spl_1");
        set(store, &cap).await;
        let keys = Period::ALL.map(|period| period.key(NOW));
        let query = PrincipalsQuery { keys: &keys, search: "", by_spend: Some(Period::Daily), after: None, most: 9 };
        let all = Retention { spend: NOW, audit: NOW, identity: NOW };
        assert!(store.sweep(NOW, NOW, Some(all)).await.expect("it runs").is_some());
        assert_eq!(store.principals(query.clone()).await.expect("it runs").len(), 2);
        let later = days_later(1);
        assert!(
            store
                .sweep(later, later, Some(Retention { spend: later, audit: later, identity: later }))
                .await
                .expect("ok")
                .is_some()
        );
        assert_eq!(store.principals(query.clone()).await.expect("it runs"), []);
        assert_eq!(store.limit_changes(i64::MAX, 9).await.expect("it runs"), []);
        let people = store.named_principals(&keys, &["ada".to_owned()]).await.expect("it runs");
        assert_eq!((people[0].email.as_str(), people[0].spent), ("", [0, 11, 11].map(nanos)));
        assert!(store.find_limit(&cap.scope, cap.period).await.expect("it runs").is_some());
    });
}
