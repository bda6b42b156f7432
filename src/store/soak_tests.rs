//! A year of use, day by day, with the upkeep that a request of each day leaves behind: no table grows beyond what
//! `docs/operations.md` says.

use std::collections::BTreeMap;
use std::time::Duration;

use super::tests::on_every_database;
use super::{Change, Identity, KeptEvent, NewGrant, NewSession, Retention, Settlement, Store};
use crate::config::RateLimit;
use crate::domain::circuit::Opening;
use crate::domain::device_grant::DeviceCode;
use crate::domain::ids::Timestamp;
use crate::domain::money::Money;
use crate::domain::service_identity::Once;
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::{Limit, Pool, Scope};
use crate::domain::user_code::UserCode;
use crate::ports::Value;
use crate::stream::meter::Usage;

const START: Timestamp = Timestamp::from_secs(1_900_000_000);
const DAYS: u64 = 365;
const DAY: Duration = Duration::from_hours(24);

/// What happens every day: so many sign-ins, addresses, people with a request, and audit events.
const SIGN_INS: u64 = 8;
const ADDRESSES: u64 = 20;
const PEOPLE: u64 = 8;
const EVENTS: u64 = 32;

/// Days for which things are kept; a session lives for one.
const SPEND: u64 = 62;
const CHANGES: u64 = 40;
const IDENTITY: u64 = 30;
const AUDIT: u64 = 45;

/// The most rows that each table may have, the day of a sweep included.
fn sizes() -> BTreeMap<&'static str, u64> {
    // Every day one person leaves and another one comes.
    let people_of = |days: u64| PEOPLE + days;
    BTreeMap::from([
        // Only where receivers of alerts are configured: one per cap and threshold.
        ("alerts", 0),
        // One upstream a day fails and is never asked again.
        ("breakers", 2),
        ("device_grants", 2 * SIGN_INS),
        ("counters", 2 * ADDRESSES),
        ("pointers", 9),
        // Per person and day one row, and one of its tokens; the requests of two days; per person, the weeks and months
        // in between; a month of the one pool.
        (
            "spend",
            3 * (SPEND + 1) * PEOPLE
                + 2 * PEOPLE
                + people_of(SPEND + 8) * (SPEND / 7 + 3)
                + people_of(SPEND + 31) * 4
                + 4,
        ),
        ("spend_limits", 1 + CHANGES + 1),
        ("principals", people_of(IDENTITY + 1)),
        ("principal_groups", (IDENTITY + 2) * PEOPLE * 2),
        ("sessions", 3 * SIGN_INS),
        ("subject_tokens", 2 * SIGN_INS),
        ("audit_events", (AUDIT + 1) * EVENTS),
    ])
}

#[test]
fn the_sizes_are_stated_for_every_table() {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).expect("readable");
    let mut tables: Vec<String> = files
        .flat_map(|file| {
            let text = std::fs::read_to_string(file.expect("a file").path()).expect("readable");
            let tables = text.split("CREATE TABLE IF NOT EXISTS ").skip(1);
            tables.filter_map(|rest| rest.split(' ').next().map(str::to_owned)).collect::<Vec<_>>()
        })
        .collect();
    tables.sort();
    assert_eq!(tables, sizes().into_keys().collect::<Vec<_>>());
    let document = include_str!("../../docs/operations.md");
    for table in tables {
        assert!(document.contains(&format!("| `{table}` |")), "docs/operations.md does not state the size of {table}");
    }
}

#[test]
fn a_year_of_use_keeps_every_table_within_its_size() {
    on_every_database(async |store| {
        let mut largest: BTreeMap<&str, u64> = BTreeMap::new();
        for day in 0..DAYS {
            let now = START.plus(DAY * u32::try_from(day).expect("few"));
            use_for_a_day(store, day, now).await;
            let ago = |days: u64| {
                let millis = i64::try_from(DAY.as_millis()).expect("short") * i64::try_from(days).expect("few");
                Timestamp::from_millis(now.as_millis() - millis)
            };
            let retention = Retention { spend: ago(SPEND), audit: ago(CHANGES), identity: ago(IDENTITY) };
            assert!(store.sweep(now, ago(AUDIT), Some(retention)).await.expect("it runs").is_some());
            for table in sizes().into_keys() {
                let rows = store.run(&format!("SELECT COUNT(*) FROM {table}"), &[]).await.expect("it runs");
                let Value::Integer(count) = rows[0][0] else { panic!("a count is a number") };
                let most = largest.entry(table).or_default();
                *most = (*most).max(count.unsigned_abs());
            }
        }
        for (table, most) in sizes() {
            let found = largest[table];
            assert!((1.min(most)..=most).contains(&found), "{table}: {found} rows, of {most} that are stated");
        }
    });
}

async fn use_for_a_day(store: &Store<'_>, day: u64, now: Timestamp) {
    for number in 0..SIGN_INS {
        let unique = day * SIGN_INS + number;
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&unique.to_be_bytes());
        let id = DeviceCode::from_random(seed).hash();
        let user_code = UserCode::from_random(seed[..16].try_into().expect("sixteen bytes"));
        let grant = NewGrant { id: &id, user_code: &user_code, sealed: "asked" };
        store.begin_grant(grant, now).await.expect("it runs");
        let id = format!("session-{unique}");
        let session = NewSession {
            id: &id,
            subject: "ada",
            email: None,
            name: None,
            means: "device",
            from: "192.0.2.1",
            client: "claude-code/2",
            key_id: "k",
            generation: 0,
            expires_at: now.plus(DAY),
        };
        assert!(store.begin_session(session, now).await.expect("it runs"));
        let once = Once { digest: format!("digest {unique}"), until: now.plus(Duration::from_hours(1)) };
        assert!(store.use_subject_token(&once).await.expect("it runs"));
    }
    let limit = RateLimit { max: 5, window: Duration::from_mins(10) };
    for number in 0..ADDRESSES {
        let name = format!("device_authorization/198.51.{}.{number}", day % 256);
        store.count(&name, limit, now).await.expect("it runs");
    }
    for number in 0..PEOPLE {
        let subject = format!("person-{}", day + number);
        let id = format!("request-{day}-{number}");
        let settlement = Settlement {
            id: &id,
            subject: &subject,
            pool: Some("eng"),
            cost: Money::from_nanos(1),
            usage: &Usage::default(),
            model: "m",
            upstream: "a",
            session: "",
            at: now,
        };
        store.settle(settlement).await.expect("it runs");
        let groups = ["eng".to_owned(), "everyone".to_owned()];
        let identity = Identity { subject: &subject, email: None, name: None, groups: &groups };
        store.note_identity(identity, now).await.expect("it runs");
    }
    let (scope, period) = (Scope::Organization, Period::Daily);
    let version = store.find_limit(&scope, period).await.expect("it runs").map_or(0, |stored| stored.version);
    let limit = Limit {
        id: "spl_1".to_owned(),
        scope,
        period,
        amount: Some(1),
        pool: Pool::default(),
        created_at: START,
        updated_at: now,
    };
    let change = Change {
        limit: &limit,
        is_deletion: false,
        from_version: version,
        actor: "admin-key:x",
        action: "spend_limit.upsert",
        before: "",
        after: "{}",
        at: now,
    };
    assert!(store.change_limit(change).await.expect("it runs"));
    let opening = Opening { round: 1, since: now, until: now.plus(Duration::from_secs(10)) };
    assert!(store.open_breaker(&format!("upstream-{day}"), "m", opening).await.expect("it runs"));
    let event = KeptEvent {
        at: now,
        evt: "inference".to_owned(),
        sub: "ada".to_owned(),
        email: String::new(),
        entry: "{}".to_owned(),
    };
    let events = vec![event; usize::try_from(EVENTS).expect("few")];
    store.keep_audit(&events).await.expect("it runs");
}
