//! What is taken over from another gateway, on every database: once, completely, and as often as one likes.

use super::import::{Membership, Mode, Somebody, Sum, Tally};
use super::tests::on_every_database;
use super::{Caller, Change, CostQuery, Recorded, Settlement, Store};
use crate::domain::ids::Timestamp;
use crate::domain::money::Money;
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::{Limit, Pool, Scope};
use crate::stream::meter::Usage;

/// 2031-02-03, a Monday.
const NOW: Timestamp = Timestamp::from_secs(1_927_857_906);
const LATER: Timestamp = Timestamp::from_secs(1_927_857_907);

const fn tally(added: u64, changed: u64, same: u64, kept: u64) -> Tally {
    Tally { added, changed, same, kept }
}

fn sum(kind: &'static str, principal: &str, period: &str, spent: i64) -> Sum {
    Sum { kind, principal: principal.to_owned(), period: period.to_owned(), spent: Money::from_nanos(spent), at: NOW }
}

fn limit(scope: Scope, amount: Option<i64>, at: Timestamp) -> Limit {
    Limit {
        id: "spl_theirs".to_owned(),
        scope,
        period: Period::Monthly,
        amount,
        pool: Pool::default(),
        created_at: NOW,
        updated_at: at,
    }
}

async fn spent(store: &Store<'_>, subject: &str) -> [i64; 3] {
    let standing = store.standing(Caller { subject, groups: &[] }, NOW).await.expect("it runs");
    standing.spent.map(Money::as_nanos)
}

#[test]
fn sums_are_added_to_what_was_spent_here_and_a_repetition_adds_only_the_difference() {
    on_every_database(async |store| {
        let theirs = |day: i64| {
            [
                sum("day", "ada", "2031-02-03", day),
                sum("week", "ada", "2031-W06", 50),
                sum("month", "ada", "2031-02", 70),
                sum("pool", "eng", "2031-02", 9),
                sum("day", "o'hara\0", "2031-02-03", 1),
            ]
        };
        let looked = store.import_sums(&theirs(10), Mode::Look).await.expect("it runs");
        assert_eq!((looked, spent(store, "ada").await), (tally(5, 0, 0, 0), [0, 0, 0]));

        assert_eq!(store.import_sums(&theirs(10), Mode::Write).await.expect("it runs"), tally(5, 0, 0, 0));
        assert_eq!(spent(store, "ada").await, [10, 50, 70]);
        let own = Settlement {
            id: "own",
            subject: "ada",
            pool: None,
            cost: Money::from_nanos(1),
            usage: &Usage::default(),
            model: "m",
            upstream: "a",
            session: "",
            at: NOW,
        };
        store.settle(own).await.expect("it runs");
        for _ in 0..2 {
            assert_eq!(store.import_sums(&theirs(10), Mode::Write).await.expect("it runs"), tally(0, 0, 5, 0));
        }
        assert_eq!(spent(store, "ada").await, [11, 51, 71]);
        assert_eq!(store.import_sums(&theirs(13), Mode::Write).await.expect("it runs"), tally(0, 1, 4, 0));
        assert_eq!(store.import_sums(&theirs(12), Mode::Write).await.expect("it runs"), tally(0, 1, 4, 0));
        assert_eq!(spent(store, "ada").await, [13, 51, 71]);

        // What is remembered about the import is nobody's spending.
        let query = CostQuery { from: "2031-02-01".into(), to: "2031-03-01".into(), most: 10, ..CostQuery::default() };
        let costs = store.costs(&query).await.expect("it runs");
        assert_eq!(costs[0].cost, Money::from_nanos(14));
        assert_eq!(store.import_sums(&[], Mode::Write).await.expect("it runs"), Tally::default());
    });
}

#[test]
fn of_two_caps_the_one_that_was_set_later_counts() {
    on_every_database(async |store| {
        let ours = Limit { id: "spl_ours".to_owned(), ..limit(Scope::Group("eng".to_owned()), Some(5), NOW) };
        let change = |is_deletion, from_version, at| Change {
            limit: &ours,
            is_deletion,
            from_version,
            actor: "admin-key:x",
            action: "spend_limit.upsert",
            before: "",
            after: "{}",
            at,
        };
        assert!(store.change_limit(change(false, 0, LATER)).await.expect("it runs"));
        let pool = Pool { amount: Some(900), is_paused: true };
        let organization = Limit { pool, ..limit(Scope::Organization, None, NOW) };
        let theirs = |at: Timestamp| [organization.clone(), limit(Scope::Group("eng".to_owned()), Some(7), at)];

        for mode in [Mode::Look, Mode::Write] {
            assert_eq!(store.import_limits(&theirs(NOW), mode).await.expect("it runs"), tally(1, 0, 0, 1));
        }
        let group = Scope::Group("eng".to_owned());
        let find =
            async |scope: &Scope| store.find_limit(scope, Period::Monthly).await.expect("it runs").expect("a cap");
        assert_eq!(find(&group).await.limit.amount, Some(5));
        assert_eq!(find(&Scope::Organization).await.limit, organization);

        // Set there after it was set here: the amount is theirs, the id stays.
        let newer = Timestamp::from_secs(LATER.as_secs() + 1);
        assert_eq!(store.import_limits(&theirs(newer), Mode::Write).await.expect("it runs"), tally(0, 1, 1, 0));
        let stored = find(&group).await;
        assert_eq!((stored.limit.amount, stored.limit.id.as_str(), stored.version), (Some(7), "spl_ours", 2));
        assert_eq!(store.import_limits(&theirs(newer), Mode::Write).await.expect("it runs"), tally(0, 0, 2, 0));

        // Deleted here since: it stays away, until it is set there again.
        let deleted_at = Timestamp::from_secs(newer.as_secs() + 1);
        assert!(store.change_limit(change(true, 2, deleted_at)).await.expect("it runs"));
        assert_eq!(store.import_limits(&theirs(newer), Mode::Write).await.expect("it runs"), tally(0, 0, 1, 1));
        assert!(find(&group).await.is_deleted);
        let again = Timestamp::from_secs(deleted_at.as_secs() + 1);
        assert_eq!(store.import_limits(&theirs(again), Mode::Write).await.expect("it runs"), tally(0, 1, 1, 0));
        let stored = find(&group).await;
        assert!(!stored.is_deleted && stored.limit.id == "spl_theirs");
        // Who changes it now, knows what they change.
        assert!(!store.change_limit(change(false, 2, again)).await.expect("it runs"));
        assert!(store.change_limit(change(false, stored.version, again)).await.expect("it runs"));
    });
}

#[test]
fn people_memberships_and_changes_arrive_once() {
    on_every_database(async |store| {
        let ada = |name: &str, at| Somebody {
            principal: "ada".to_owned(),
            email: "Ada@example.com".to_owned(),
            name: name.to_owned(),
            groups: vec!["eng".to_owned(), "ops".to_owned()],
            at,
        };
        for (somebody, expected) in [
            (ada("Ada", NOW), tally(1, 0, 0, 0)),
            (ada("Ada", NOW), tally(0, 0, 1, 0)),
            (ada("Ada L.", LATER), tally(0, 1, 0, 0)),
            (ada("Ada", NOW), tally(0, 0, 0, 1)),
        ] {
            for mode in [Mode::Look, Mode::Write] {
                assert_eq!(
                    store.import_people(std::slice::from_ref(&somebody), mode).await.expect("it runs"),
                    expected
                );
            }
        }
        let seen = store.last_seen_with("ada@EXAMPLE.com").await.expect("it runs").expect("seen");
        assert_eq!((seen.principal.as_str(), seen.groups.len()), ("ada", 2));
        assert_eq!(store.last_seen_as("ada").await.expect("it runs"), Some(seen));
        assert_eq!(store.last_seen_as("bob").await.expect("it runs"), None);

        let membership = |group: &str| Membership {
            day: "2031-02-03".to_owned(),
            principal: "ada".to_owned(),
            group: group.to_owned(),
        };
        let days = [membership("eng"), membership("o'ps")];
        assert_eq!(store.import_memberships(&days[..1], Mode::Write).await.expect("it runs"), tally(1, 0, 0, 0));
        for (mode, expected) in
            [(Mode::Look, tally(1, 0, 1, 0)), (Mode::Write, tally(1, 0, 1, 0)), (Mode::Write, tally(0, 0, 2, 0))]
        {
            assert_eq!(store.import_memberships(&days, mode).await.expect("it runs"), expected);
        }

        let change = |id, after: &str| Recorded {
            id,
            at: NOW,
            actor: "admin-key:theirs".to_owned(),
            action: "spend_limit.upsert".to_owned(),
            target: "spl_theirs".to_owned(),
            before: String::new(),
            after: after.to_owned(),
        };
        let changes = [change(7, "{\"first\":1}"), change(9, "{\"second\":2}")];
        for (mode, expected) in
            [(Mode::Look, tally(2, 0, 0, 0)), (Mode::Write, tally(2, 0, 0, 0)), (Mode::Write, tally(0, 0, 2, 0))]
        {
            assert_eq!(store.import_changes(&changes, mode).await.expect("it runs"), expected);
        }
        let listed = store.limit_changes(i64::MAX, 10).await.expect("it runs");
        let listed: Vec<_> = listed.iter().map(|one| (one.actor.as_str(), one.after.as_str(), one.at)).collect();
        let theirs = "admin-key:theirs";
        assert_eq!(listed, [(theirs, "{\"second\":2}", NOW), (theirs, "{\"first\":1}", NOW)]);
    });
}
