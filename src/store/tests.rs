//! The store's contract: one function per promise, run on SQLite and, where `SALLYPORT_TEST_POSTGRES` holds an address,
//! on PostgreSQL.

use std::cell::Cell;
use std::time::Duration;

use futures_util::FutureExt;

use super::{NewGrant, Store};
use crate::config::RateLimit;
use crate::domain::device_grant::{DeviceCode, GrantId, LIFETIME, Polled, State};
use crate::domain::ids::Timestamp;
use crate::domain::service_identity::Once;
use crate::domain::user_code::UserCode;
use crate::ports::{Db, Value};
use crate::testing::{CountingEntropy, ManualClock, MemoryKeyValue, TestPostgres, TestSqlite};

const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);

/// Runs `contract` on every database that is there. The futures of both never wait.
pub(super) fn on_every_database(contract: impl AsyncFn(&Store<'_>) + Copy) {
    let run = |db: &dyn Db| {
        let is_migrated = Cell::new(false);
        contract(&Store::new(db, &is_migrated)).now_or_never().expect("nothing waits");
    };
    run(&TestSqlite::new());
    if let Some((db, _)) = TestPostgres::fresh() {
        run(&db);
    }
}

/// Runs `race` with two connections to one database, the second one in a thread of its own.
pub(super) fn on_two_connections<T: Send>(race: impl Fn(&Store<'_>) -> T + Sync) -> Vec<(T, T)> {
    fn store_of<T>(db: &dyn Db, race: impl Fn(&Store<'_>) -> T) -> T {
        race(&Store::new(db, &Cell::new(false)))
    }
    let directory =
        std::env::temp_dir().join(format!("sallyport-store-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join("race.db").to_str().expect("text").to_owned();
    let barrier = std::sync::Barrier::new(2);
    let sqlite = || {
        let db = TestSqlite::at(&path);
        barrier.wait();
        store_of(&db, &race)
    };
    let mut outcomes = vec![std::thread::scope(|scope| {
        let other = scope.spawn(sqlite);
        let ours = sqlite();
        (ours, other.join().expect("no panic"))
    })];
    std::fs::remove_dir_all(&directory).expect("it was made above");
    if let Some((_owner, schema)) = TestPostgres::fresh() {
        let postgres = || {
            let db = TestPostgres::open(&schema).expect("it was there a moment ago");
            barrier.wait();
            store_of(&db, &race)
        };
        outcomes.push(std::thread::scope(|scope| {
            let other = scope.spawn(postgres);
            let ours = postgres();
            (ours, other.join().expect("no panic"))
        }));
    }
    outcomes
}

fn code(number: u8) -> UserCode {
    UserCode::from_random([number; 16])
}

async fn begin(store: &Store<'_>, number: u8) -> GrantId {
    let id = DeviceCode::from_random([number; 32]).hash();
    let grant = NewGrant { id: &id, user_code: &code(number), sealed: "asked" };
    assert!(store.begin_grant(grant, NOW).await.expect("it runs"));
    id
}

fn waiting(is_early: bool) -> Polled {
    Polled { state: State::Pending, sealed: "asked".to_owned(), is_early }
}

#[test]
fn a_grant_waits_is_approved_and_redeemed_once() {
    on_every_database(async |store| {
        let id = begin(store, 1).await;
        assert_eq!(store.find_waiting_grant(&code(1), NOW).await.expect("it runs"), Some(id.clone()));
        assert_eq!(store.find_waiting_grant(&code(2), NOW).await.expect("it runs"), None);
        assert!(store.is_waiting(&id, NOW).await.expect("it runs"));
        assert_eq!(store.poll_grant(&id, NOW).await.expect("it runs"), Some(waiting(false)));
        assert!(store.approve_grant(&id, "tokens", NOW).await.expect("it runs"));
        assert!(!store.is_waiting(&id, NOW).await.expect("it runs"));
        assert_eq!(store.find_waiting_grant(&code(1), NOW).await.expect("it runs"), None);
        let redeemed = store.poll_grant(&id, NOW).await.expect("it runs").expect("approved");
        assert_eq!((redeemed.state, redeemed.sealed.as_str()), (State::Approved, "tokens"));
        assert_eq!(store.poll_grant(&id, NOW).await.expect("it runs"), None);
    });
}

#[test]
fn the_first_decision_stands() {
    on_every_database(async |store| {
        let id = begin(store, 1).await;
        assert_eq!(store.deny_grant(&code(1), NOW).await.expect("it runs").as_deref(), Some("asked"));
        assert_eq!(store.deny_grant(&code(1), NOW).await.expect("it runs"), None);
        assert!(!store.approve_grant(&id, "tokens", NOW).await.expect("it runs"));
        assert!(!store.fail_grant(&id, NOW).await.expect("it runs"));
        assert_eq!(store.poll_grant(&id, NOW).await.expect("it runs").expect("denied").state, State::Denied);
        assert_eq!(store.poll_grant(&id, NOW).await.expect("it runs"), None);
        let id = begin(store, 2).await;
        assert!(store.fail_grant(&id, NOW).await.expect("it runs"));
        assert!(!store.approve_grant(&id, "tokens", NOW).await.expect("it runs"));
        assert_eq!(store.deny_grant(&code(2), NOW).await.expect("it runs"), None);
        assert_eq!(store.poll_grant(&id, NOW).await.expect("it runs").expect("failed").state, State::Failed);
    });
}

#[test]
fn a_grant_ends_after_its_life_which_a_decision_restarts() {
    on_every_database(async |store| {
        let id = begin(store, 1).await;
        let last = Timestamp::from_millis(NOW.plus(LIFETIME).as_millis() - 1);
        let end = NOW.plus(LIFETIME);
        assert!(store.is_waiting(&id, last).await.expect("it runs"));
        assert!(!store.is_waiting(&id, end).await.expect("it runs"));
        assert_eq!(store.find_waiting_grant(&code(1), end).await.expect("it runs"), None);
        assert_eq!(store.poll_grant(&id, end).await.expect("it runs"), None);
        assert!(!store.approve_grant(&id, "tokens", end).await.expect("it runs"));
        assert!(store.approve_grant(&id, "tokens", last).await.expect("it runs"));
        let later = Timestamp::from_millis(last.plus(LIFETIME).as_millis() - 1);
        assert_eq!(store.poll_grant(&id, later).await.expect("it runs").expect("approved").state, State::Approved);
    });
}

#[test]
fn a_taken_user_code_is_not_given_out_again() {
    on_every_database(async |store| {
        begin(store, 1).await;
        let other = DeviceCode::from_random([9; 32]).hash();
        let grant = NewGrant { id: &other, user_code: &code(1), sealed: "asked" };
        assert!(!store.begin_grant(grant, NOW).await.expect("it runs"));
    });
}

#[test]
fn polls_have_a_pace_that_refused_polls_do_not_extend() {
    on_every_database(async |store| {
        let id = begin(store, 1).await;
        for (millis, is_early) in [(0, false), (1, true), (3999, true), (4000, false), (4001, true), (8000, false)] {
            let at = NOW.plus(Duration::from_millis(millis));
            assert_eq!(store.poll_grant(&id, at).await.expect("it runs"), Some(waiting(is_early)), "after {millis} ms");
        }
    });
}

#[test]
fn a_window_that_is_given_back_ends_and_nobody_elses_does() {
    on_every_database(async |store| {
        let once = RateLimit { max: 1, window: Duration::from_secs(15) };
        let after = |secs| NOW.plus(Duration::from_secs(secs));
        assert_eq!(store.count("a", once, NOW).await, Ok(None));
        assert_eq!(store.count("a", once, after(1)).await, Ok(Some(Duration::from_secs(14))));
        store.end_window("a", after(15)).await.expect("it runs");
        assert_eq!(store.count("a", once, after(2)).await, Ok(None));
        // Whoever comes back after its own window has ended gives back nothing of what is another's by now.
        store.end_window("a", after(15)).await.expect("it runs");
        assert_eq!(store.count("a", once, after(3)).await, Ok(Some(Duration::from_secs(14))));
    });
}

#[test]
fn a_counter_refuses_what_is_too_much_until_its_window_ends() {
    on_every_database(async |store| {
        let limit = RateLimit { max: 2, window: Duration::from_mins(1) };
        for (name, secs, wait) in [
            ("a", 0, None),
            ("a", 10, None),
            ("a", 20, Some(40)),
            ("b", 20, None),
            ("a", 59, Some(1)),
            ("a", 60, None),
            ("a", 61, None),
            ("a", 62, Some(58)),
            // Another replica's clock is a little behind.
            ("c", 10, None),
            ("c", 9, None),
            ("c", 8, Some(62)),
            // A clock that was far ahead has been set.
            ("d", 1000, None),
            ("d", 1000, None),
            ("d", 0, None),
            ("d", 0, None),
            ("d", 0, Some(60)),
        ] {
            let verdict = store.count(name, limit, NOW.plus(Duration::from_secs(secs))).await.expect("it runs");
            assert_eq!(verdict, wait.map(Duration::from_secs), "{name} after {secs} s");
        }
    });
}

#[test]
fn a_sweep_deletes_what_is_over_and_is_done_by_one() {
    on_every_database(async |store| {
        let limit = RateLimit { max: 1, window: Duration::from_secs(10) };
        begin(store, 1).await;
        assert!(store.use_subject_token(&once(1, Duration::from_secs(5))).await.expect("it runs"));
        assert_eq!(store.count("a", limit, NOW).await.expect("it runs"), None);
        assert!(store.sweep(NOW, NOW, None).await.expect("it runs").is_some());
        assert!(store.sweep(NOW.plus(Duration::from_secs(29)), NOW, None).await.expect("it runs").is_none());
        assert!(store.sweep(NOW.plus(Duration::from_secs(30)), NOW, None).await.expect("it runs").is_some());
        let rows = async |table: &str| {
            store.run(&format!("SELECT COUNT(*) FROM {table}"), &[]).await.expect("it runs")[0][0].clone()
        };
        assert_eq!(rows("counters").await, Value::Integer(0));
        assert_eq!(rows("subject_tokens").await, Value::Integer(0));
        assert_eq!(rows("device_grants").await, Value::Integer(1));
        assert!(store.sweep(NOW.plus(LIFETIME), NOW, None).await.expect("it runs").is_some());
        assert_eq!(rows("device_grants").await, Value::Integer(0));
    });
}

fn once(number: u8, life: Duration) -> Once {
    Once { digest: format!("digest {number}"), until: NOW.plus(life) }
}

#[test]
fn a_subject_token_is_used_once() {
    on_every_database(async |store| {
        let token = once(1, Duration::from_mins(5));
        assert!(store.use_subject_token(&token).await.expect("it runs"));
        assert!(!store.use_subject_token(&token).await.expect("it runs"));
        assert!(!store.use_subject_token(&once(1, Duration::from_mins(9))).await.expect("it runs"));
        assert!(store.use_subject_token(&once(2, Duration::from_mins(5))).await.expect("it runs"));
    });
}

#[test]
fn of_two_exchanges_of_one_subject_token_at_once_one_succeeds() {
    for (ours, theirs) in on_two_connections(|store| {
        let run = async || {
            let mut successes = 0;
            for number in 0..20 {
                successes +=
                    u32::from(store.use_subject_token(&once(number, Duration::from_mins(5))).await.expect("it runs"));
            }
            successes
        };
        run().now_or_never().expect("nothing waits")
    }) {
        assert_eq!(ours + theirs, 20);
    }
}

#[test]
fn a_pointer_is_set_once_and_moved_by_comparison() {
    on_every_database(async |store| {
        assert_eq!(store.pointer("p").await.expect("it runs"), None);
        assert_eq!(store.point_first("p", "a", NOW).await.expect("it runs"), "a");
        assert_eq!(store.point_first("p", "b", NOW).await.expect("it runs"), "a");
        assert!(!store.point("p", "b", "c", NOW).await.expect("it runs"));
        assert!(store.point("p", "a", "c", NOW).await.expect("it runs"));
        assert_eq!(store.pointer("p").await.expect("it runs").as_deref(), Some("c"));
    });
}

#[test]
fn migrations_are_applied_once() {
    on_every_database(async |store| {
        let applied = store.migrate().await.expect("it runs");
        assert_eq!(applied.first().map(String::as_str), Some("0001_device_grants"));
        assert_eq!(store.migrate().await.expect("it runs"), Vec::<String>::new());
        assert_eq!(store.ping().await, Ok(()));
    });
}

#[test]
fn two_instances_that_start_at_once_end_with_one_schema() {
    for (ours, theirs) in on_two_connections(|store| {
        store.migrate().now_or_never().expect("nothing waits").expect("it runs");
        store
            .run("SELECT COUNT(*) FROM schema_migrations", &[])
            .now_or_never()
            .expect("nothing waits")
            .expect("it runs")
    }) {
        assert_eq!(ours, theirs);
        let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).expect("readable").count();
        assert_eq!(ours[0][0], Value::Integer(i64::try_from(files).expect("few")));
    }
}

#[test]
fn of_two_polls_at_once_one_gets_the_tokens() {
    for (ours, theirs) in on_two_connections(|store| {
        let run = async || {
            let mut tokens = 0;
            for number in 0..20 {
                let id = DeviceCode::from_random([number; 32]).hash();
                let grant = NewGrant { id: &id, user_code: &code(number), sealed: "asked" };
                // Whoever comes first begins and decides; both poll.
                store.begin_grant(grant, NOW).await.expect("it runs");
                store.approve_grant(&id, "tokens", NOW).await.expect("it runs");
                tokens += u32::from(store.poll_grant(&id, NOW).await.expect("it runs").is_some());
            }
            tokens
        };
        run().now_or_never().expect("nothing waits")
    }) {
        assert_eq!(ours + theirs, 20);
    }
}

#[test]
fn of_two_decisions_at_once_one_stands() {
    for (ours, theirs) in on_two_connections(|store| {
        let run = async || {
            let mut decisions = 0;
            for number in 0..20 {
                let id = DeviceCode::from_random([number; 32]).hash();
                let grant = NewGrant { id: &id, user_code: &code(number), sealed: "asked" };
                store.begin_grant(grant, NOW).await.expect("it runs");
                decisions += u32::from(store.approve_grant(&id, "tokens", NOW).await.expect("it runs"));
                decisions += u32::from(store.deny_grant(&code(number), NOW).await.expect("it runs").is_some());
            }
            decisions
        };
        run().now_or_never().expect("nothing waits")
    }) {
        assert_eq!(ours + theirs, 20);
    }
}

#[test]
fn counters_lose_no_use_when_two_count_at_once() {
    let limit = RateLimit { max: 30, window: Duration::from_mins(1) };
    for (ours, theirs) in on_two_connections(|store| {
        let run = async || {
            let mut refused = 0;
            for _ in 0..20 {
                refused += u32::from(store.count("a", limit, NOW).await.expect("it runs").is_some());
            }
            refused
        };
        run().now_or_never().expect("nothing waits")
    }) {
        assert_eq!(ours + theirs, 10);
    }
}

mod key_ring {
    use std::rc::Rc;

    use proptest::prelude::*;

    use super::*;
    use crate::ports::{DbError, Dialect, KeyValue, KeyValueError, Row};
    use crate::store::key_ring::{KeyRing, Purpose, RingError};

    struct World {
        key_value: MemoryKeyValue,
        entropy: CountingEntropy,
        clock: ManualClock,
    }

    impl World {
        fn new() -> Self {
            Self {
                key_value: MemoryKeyValue::default(),
                entropy: CountingEntropy::default(),
                clock: ManualClock(Rc::new(Cell::new(NOW))),
            }
        }

        fn keys<'a>(&'a self, store: Store<'a>) -> KeyRing<'a> {
            KeyRing {
                purpose: Purpose::Sessions,
                store,
                key_value: &self.key_value,
                entropy: &self.entropy,
                clock: &self.clock,
                lifetime: LIFETIME,
            }
        }
    }

    #[test]
    fn the_ring_is_made_at_first_use_and_then_read_without_the_database() {
        let world = World::new();
        let db = TestSqlite::new();
        let is_migrated = Cell::new(false);
        let keys = world.keys(Store::new(&db, &is_migrated));
        let run = async || {
            let first = keys.load().await.expect("made");
            db.is_down.set(true);
            let again = keys.load().await.expect("read");
            assert_eq!(format!("{first:?}"), format!("{again:?}"));
        };
        futures_executor::block_on(run());
    }

    #[test]
    fn instances_that_race_end_with_one_ring() {
        let world = World::new();
        let db = TestSqlite::new();
        let is_migrated = Cell::new(false);
        let keys = world.keys(Store::new(&db, &is_migrated));
        let run = async || {
            // Another instance has claimed the pointer and not yet written its ring where everybody looks.
            let theirs = World::new();
            theirs.entropy.skip_ahead();
            let their_keys = KeyRing {
                purpose: Purpose::Sessions,
                store: Store::new(&db, &is_migrated),
                key_value: &world.key_value,
                entropy: &theirs.entropy,
                clock: &world.clock,
                lifetime: LIFETIME,
            };
            let first = their_keys.load().await.expect("made");
            world.key_value.0.borrow_mut().remove("session-keys");
            let second = keys.load().await.expect("found");
            assert_eq!(format!("{first:?}"), format!("{second:?}"));
        };
        futures_executor::block_on(run());
    }

    #[test]
    fn a_ring_that_is_lost_is_replaced() {
        let world = World::new();
        let db = TestSqlite::new();
        let is_migrated = Cell::new(false);
        let keys = world.keys(Store::new(&db, &is_migrated));
        let run = async || {
            let first = keys.load().await.expect("made");
            world.key_value.0.borrow_mut().clear();
            let second = keys.load().await.expect("made again");
            assert_ne!(format!("{first:?}"), format!("{second:?}"));
            assert_eq!(format!("{second:?}"), format!("{:?}", keys.load().await.expect("read")));
        };
        futures_executor::block_on(run());
    }

    #[test]
    fn rotation_puts_a_new_key_in_front_which_signs_when_everybody_knows_it() {
        let world = World::new();
        let db = TestSqlite::new();
        let is_migrated = Cell::new(false);
        let keys = world.keys(Store::new(&db, &is_migrated));
        let run = async || {
            let first = keys.load().await.expect("made").signer().to_owned();
            let later = NOW.plus(Duration::from_mins(1));
            world.clock.0.set(later);
            let after = keys.rotate().await.expect("rotated");
            let turn = later.plus(Duration::from_secs(5));
            let end = turn.plus(LIFETIME + Duration::from_hours(1));
            assert_eq!(after.len(), 2);
            assert_eq!(
                (after[0].created_at, after[0].signs_from, after[0].retired_at, after[0].verifies_until),
                (later, turn, None, None)
            );
            assert_eq!(
                (after[1].created_at, after[1].retired_at, after[1].verifies_until),
                (NOW, Some(turn), Some(end))
            );
            assert_eq!(after[1].kid, first);

            world.clock.0.set(Timestamp::from_millis(turn.as_millis() - 1));
            let before_its_turn = keys.load().await.expect("read");
            assert_eq!(ids(&before_its_turn), [first.clone(), after[0].kid.clone()], "the one that signs is first");
            world.clock.0.set(turn);
            assert_eq!(ids(&keys.load().await.expect("read")), [after[0].kid.clone(), first.clone()]);
            assert_eq!(keys.rotate().await.expect("rotated").len(), 3);
            // Nothing is left behind but the current ring and its own slot.
            assert_eq!(world.key_value.0.borrow().len(), 2);
        };
        futures_executor::block_on(run());
    }

    #[test]
    fn a_retired_key_disappears_when_nothing_it_signed_can_be_valid() {
        let world = World::new();
        let db = TestSqlite::new();
        let is_migrated = Cell::new(false);
        let keys = world.keys(Store::new(&db, &is_migrated));
        let run = async || {
            keys.load().await.expect("made");
            let end = keys.rotate().await.expect("rotated")[1].verifies_until.expect("retired");
            world.clock.0.set(Timestamp::from_millis(end.as_millis() - 1));
            keys.prune().await.expect("it runs");
            assert_eq!(ids(&keys.load().await.expect("read")).len(), 2);

            world.clock.0.set(end);
            // It is gone before anybody has cleaned up, and from the store afterwards.
            assert_eq!(ids(&keys.load().await.expect("read")).len(), 1);
            assert_eq!(keys.list().await.expect("read").len(), 1);
            let stored = |world: &World| {
                let kept = world.key_value.0.borrow();
                serde_json::from_slice::<serde_json::Value>(&kept["session-keys"]).expect("JSON")["keys"]
                    .as_array()
                    .map(Vec::len)
            };
            assert_eq!(stored(&world), Some(2));
            keys.prune().await.expect("it runs");
            assert_eq!(stored(&world), Some(1));
            assert_eq!(world.key_value.0.borrow().len(), 2);
        };
        futures_executor::block_on(run());
    }

    #[test]
    fn rings_of_different_purposes_know_nothing_of_each_other() {
        let world = World::new();
        let db = TestSqlite::new();
        let is_migrated = Cell::new(false);
        let sessions = world.keys(Store::new(&db, &is_migrated));
        let masking = KeyRing { purpose: Purpose::Masking, ..world.keys(Store::new(&db, &is_migrated)) };
        let run = async || {
            let before = ids(&sessions.load().await.expect("made"));
            assert_eq!(masking.rotate().await.expect("rotated").len(), 2);
            assert_eq!(ids(&sessions.load().await.expect("read")), before);
            let secrets = masking.secrets().await.expect("read");
            let listed = masking.list().await.expect("read");
            assert_eq!(secrets.len(), 2);
            assert!(listed.iter().all(|key| !before.contains(&key.kid)));
            assert_eq!(secrets[0].used_from, listed[0].signs_from);
        };
        futures_executor::block_on(run());
    }

    #[test]
    fn a_key_that_is_revoked_is_gone_and_another_one_signs_at_once() {
        let world = World::new();
        let db = TestSqlite::new();
        let is_migrated = Cell::new(false);
        let keys = world.keys(Store::new(&db, &is_migrated));
        let run = async || {
            assert_eq!(keys.revoke("0000").await, Err(RingError::NoSuchKey));
            assert_eq!(world.key_value.0.borrow().len(), 0, "no ring was made");
            let only = keys.load().await.expect("made").signer().to_owned();
            assert_eq!(keys.revoke("0000").await, Err(RingError::NoSuchKey));
            let after = keys.revoke(&only).await.expect("revoked");
            assert_eq!((after.len(), after[0].signs_from), (1, NOW));
            assert_ne!(after[0].kid, only);

            // The one that signs while its successor waits: the successor's turn has come.
            let signing = after[0].kid.clone();
            let waiting = keys.rotate().await.expect("rotated")[0].kid.clone();
            let after = keys.revoke(&signing).await.expect("revoked");
            assert_eq!((after.len(), &after[0].kid, after[0].signs_from), (1, &waiting, NOW));

            // One that was retired.
            world.clock.0.set(NOW.plus(Duration::from_mins(1)));
            let newest = keys.rotate().await.expect("rotated")[0].kid.clone();
            assert_eq!(keys.revoke(&waiting).await.expect("revoked").len(), 1);
            assert_eq!(keys.load().await.expect("read").signer(), newest);

            // The newest, while an older one is there: that one's time is over, it does not sign again.
            keys.rotate().await.expect("rotated");
            let newest = keys.list().await.expect("read")[0].kid.clone();
            let after = keys.revoke(&newest).await.expect("revoked");
            assert_eq!(after.len(), 2);
            assert_eq!((after[0].retired_at, after[0].signs_from), (None, world.clock.0.get()));
            assert!(after[1].retired_at.is_some());
        };
        futures_executor::block_on(run());
    }

    #[test]
    fn a_list_makes_no_key_and_a_ring_does_not_grow_without_bound() {
        let world = World::new();
        let db = TestSqlite::new();
        let is_migrated = Cell::new(false);
        let keys = world.keys(Store::new(&db, &is_migrated));
        let run = async || {
            assert_eq!(keys.list().await.expect("read"), []);
            keys.prune().await.expect("it runs");
            assert_eq!(world.key_value.0.borrow().len(), 0);
            assert!(!is_migrated.get(), "and asks no database");
            for count in 2..=50 {
                assert_eq!(keys.rotate().await.expect("rotated").len(), count);
            }
            assert_eq!(keys.rotate().await, Err(RingError::Full));
            world.clock.0.set(NOW.plus(LIFETIME + Duration::from_hours(2)));
            assert_eq!(keys.rotate().await.expect("there is room again").len(), 2);
        };
        futures_executor::block_on(run());
    }

    #[test]
    fn a_ring_of_an_earlier_release_is_read() {
        let world = World::new();
        let db = TestSqlite::new();
        let is_migrated = Cell::new(false);
        let at = NOW.as_millis();
        let ring = format!(
            r#"{{"id":"r","keys":[{{"secret":"b","created_at":{at},"retired_at":null}},{{"secret":"a","created_at":0,"retired_at":{at}}}]}}"#
        );
        world.key_value.0.borrow_mut().insert("session-keys".to_owned(), ring.into_bytes());
        let keys = world.keys(Store::new(&db, &is_migrated));
        let listed = futures_executor::block_on(keys.list()).expect("read");
        assert_eq!((listed[0].signs_from, listed[0].verifies_until), (NOW, None));
        assert_eq!(listed[1].verifies_until, Some(NOW.plus(LIFETIME + Duration::from_hours(1))));
    }

    #[test]
    fn a_damaged_ring_is_said_to_be_damaged() {
        let world = World::new();
        let db = TestSqlite::new();
        let is_migrated = Cell::new(false);
        world.key_value.0.borrow_mut().insert("session-keys".to_owned(), b"{}".to_vec());
        let keys = world.keys(Store::new(&db, &is_migrated));
        assert_eq!(futures_executor::block_on(keys.load()).err(), Some(RingError::Damaged("session-keys")));
    }
    /// A store or database that lets others go first, as often as its pattern says.
    struct Stuttering<'a, T: ?Sized> {
        inner: &'a T,
        pattern: &'a [u8],
        step: Cell<usize>,
    }

    impl<T: ?Sized> Stuttering<'_, T> {
        async fn stutter(&self) {
            let step = self.step.get();
            self.step.set(step + 1);
            for _ in 0..self.pattern[step % self.pattern.len()] {
                let mut yielded = false;
                std::future::poll_fn(|context| {
                    if std::mem::replace(&mut yielded, true) {
                        return std::task::Poll::Ready(());
                    }
                    context.waker().wake_by_ref();
                    std::task::Poll::Pending
                })
                .await;
            }
        }
    }

    #[async_trait::async_trait(?Send)]
    impl Db for Stuttering<'_, TestSqlite> {
        async fn run(&self, statement: &str, parameters: &[Value]) -> Result<Vec<Row>, DbError> {
            self.stutter().await;
            let outcome = self.inner.run(statement, parameters).await;
            self.stutter().await;
            outcome
        }

        fn dialect(&self) -> Dialect {
            self.inner.dialect()
        }
    }

    #[async_trait::async_trait(?Send)]
    impl KeyValue for Stuttering<'_, MemoryKeyValue> {
        async fn find(&self, key: &str) -> Result<Option<Vec<u8>>, KeyValueError> {
            self.stutter().await;
            let found = self.inner.find(key).await;
            self.stutter().await;
            found
        }

        async fn set(&self, key: &str, value: &[u8]) -> Result<(), KeyValueError> {
            self.stutter().await;
            self.inner.set(key, value).await?;
            self.stutter().await;
            Ok(())
        }

        async fn delete(&self, key: &str) -> Result<(), KeyValueError> {
            self.stutter().await;
            self.inner.delete(key).await
        }
    }

    /// Mostly no pause, now and then one in which others do a lot.
    fn pattern() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![4 => Just(0), 1 => 1_u8..60], 1..40)
    }

    /// The ids of a ring.
    fn ids(keys: &crate::domain::session::Keys) -> Vec<String> {
        keys.ids().map(str::to_owned).collect()
    }

    proptest! {
        #[test]
        fn however_instances_interleave_no_key_is_lost(
            patterns in proptest::collection::vec(pattern(), 3),
        ) {
            let world = World::new();
            let db = TestSqlite::new();
            let is_migrated = Cell::new(false);
            let stores: Vec<_> =
                patterns.iter().map(|pattern| Stuttering { inner: &db, pattern, step: Cell::new(0) }).collect();
            let key_values: Vec<_> = patterns
                .iter()
                .map(|pattern| Stuttering { inner: &world.key_value, pattern, step: Cell::new(1) })
                .collect();
            let instance = |number: usize| KeyRing {
                purpose: Purpose::Sessions,
                store: Store::new(&stores[number], &is_migrated),
                key_value: &key_values[number],
                entropy: &world.entropy,
                clock: &world.clock,
                lifetime: LIFETIME,
            };
            let (one, two, three) = (instance(0), instance(1), instance(2));
            futures_executor::block_on(async {
                // All start at once.
                let (first, second, third) = futures_util::join!(one.load(), two.load(), three.load());
                let first = ids(&first.expect("loaded"));
                prop_assert_eq!(&first, &ids(&second.expect("loaded")));
                prop_assert_eq!(&first, &ids(&third.expect("loaded")));
                // Two rotate while one reads.
                let (second, third, read) = futures_util::join!(one.rotate(), two.rotate(), three.load());
                second.expect("rotated");
                third.expect("rotated");
                prop_assert!(ids(&read.expect("loaded")).contains(&first[0]));
                let last = ids(&three.load().await.expect("loaded"));
                prop_assert_eq!(last.len(), 3);
                prop_assert!(last.contains(&first[0]));
                Ok(())
            })?;
        }
    }
}

#[test]
fn audit_events_are_kept_found_by_time_person_and_name_and_forgotten() {
    use crate::store::{AuditPage, AuditQuery, KeptEvent};

    on_every_database(async |store| {
        let event = |number: i64, evt: &str, sub: &str| KeptEvent {
            at: NOW.plus(Duration::from_secs(number.unsigned_abs())),
            evt: evt.to_owned(),
            sub: sub.to_owned(),
            email: format!("{sub}@example.test"),
            entry: format!(r#"{{"n":{number},"odd":"\u0000 '"}}"#),
        };
        let events: Vec<KeptEvent> = (0..6)
            .map(|n| event(n, if n % 2 == 0 { "inference" } else { "session.mint" }, if n < 3 { "ada" } else { "bob" }))
            .collect();
        store.keep_audit(&events[..4]).await.expect("it runs");
        store.keep_audit(&events[4..]).await.expect("it runs");
        store.keep_audit(&[]).await.expect("it runs");
        let all = AuditQuery {
            from: Timestamp::from_secs(0),
            to: Timestamp::from_millis(i64::MAX),
            users: Vec::new(),
            events: Vec::new(),
            page: AuditPage::After(0),
            most: 100,
        };
        let found = async |query: AuditQuery| -> Vec<i64> {
            let rows = store.audit_events(&query).await.expect("it runs");
            rows.iter()
                .map(|row| {
                    serde_json::from_str::<serde_json::Value>(&row.entry).expect("JSON")["n"].as_i64().expect("n")
                })
                .collect()
        };
        assert_eq!(found(all.clone()).await, [0, 1, 2, 3, 4, 5]);
        let newest = AuditQuery { page: AuditPage::Before(i64::MAX), most: 2, ..all.clone() };
        assert_eq!(found(newest.clone()).await, [5, 4]);
        let last = store.audit_events(&newest).await.expect("it runs")[1].seq;
        assert_eq!(found(AuditQuery { page: AuditPage::Before(last), ..newest }).await, [3, 2]);
        let ada = AuditQuery { users: vec!["ada".to_owned()], ..all.clone() };
        assert_eq!(found(ada.clone()).await, [0, 1, 2]);
        let several = vec!["bob@example.test".to_owned(), "ada".to_owned(), "nobody".to_owned()];
        assert_eq!(found(AuditQuery { users: several, ..all.clone() }).await.len(), 6);
        assert_eq!(found(AuditQuery { events: vec!["session.mint".to_owned()], ..ada }).await, [1]);
        let between =
            AuditQuery { from: NOW.plus(Duration::from_secs(2)), to: NOW.plus(Duration::from_secs(4)), ..all.clone() };
        assert_eq!(found(between).await, [2, 3]);

        assert!(store.sweep(NOW, NOW.plus(Duration::from_secs(3)), None).await.expect("it runs").is_some());
        assert_eq!(found(all.clone()).await, [3, 4, 5]);
        let swept = store.sweep_all(NOW, NOW.plus(Duration::from_hours(1)), None).await.expect("it runs");
        assert!(swept.deleted.contains(&("audit_events", 3)), "{swept:?}");
        assert!(found(all).await.is_empty());
    });
}
