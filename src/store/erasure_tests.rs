//! The store's contract about erasing a person, on every database.

use std::fmt::Write;
use std::time::Duration;

use futures_util::FutureExt;

use super::spend_tests::{NOW, days_later, limit, nanos, set};
use super::tests::{on_every_database, on_two_connections};
use super::{
    Act, Caller, Change, CostQuery, Dimension, Erased, Identity, KeptEvent, NewAlert, NewSession, Order, Settlement,
    Store, UsageQuery, Wanted,
};
use crate::config::GroupLimitMode;
use crate::domain::erasure::Erasure;
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::Scope;
use crate::ports::Value;
use crate::stream::meter::Usage;

const PSEUDONYM: &str = "erased-00112233445566778899aabbccddeeff";

/// Subjects that are hard to tell from SQL, JSON, patterns, and from one another.
const SUBJECTS: [&str; 6] = ["ada", "a'd\"a\\", "ad%_", "1' OR '1'='1", "\u{1f600} ada:daily#1", "service:ada"];

fn order<'a>(erasure: &'a Erasure<'a>, act: Act) -> Order<'a> {
    Order { erasure, actor: "admin-key:ci", act, at: days_later(1) }
}

async fn settle(store: &Store<'_>, id: &str, subject: &str, session: &str) {
    let usage = Usage { input_tokens: 3, ..Usage::default() };
    let (model, upstream) = ("m", "a");
    let settlement =
        Settlement { id, subject, pool: None, cost: nanos(100), usage: &usage, model, upstream, session, at: NOW };
    store.settle(settlement).await.expect("it runs");
}

/// Something of `subject` in every table; `tag` makes ids their own.
async fn live(store: &Store<'_>, subject: &str, tag: &str) {
    let email = format!("{tag}@example.test");
    let groups = ["eng".to_owned(), "ops".to_owned()];
    let identity = Identity { subject, email: Some(&email), name: Some("N"), groups: &groups };
    store.note_identity(identity, NOW).await.expect("it runs");
    for session in ["s1", "s2"] {
        let id = format!("{tag}-{session}");
        let new = NewSession {
            id: &id,
            subject,
            email: Some(&email),
            name: Some("N"),
            means: "device",
            from: "192.0.2.9",
            client: "claude-code/2.1",
            key_id: "k",
            generation: 0,
            expires_at: NOW.plus(Duration::from_hours(100)),
        };
        assert!(store.begin_session(new, NOW).await.expect("it runs"));
        settle(store, &format!("{tag}-{session}-1"), subject, &id).await;
    }
    settle(store, &format!("{tag}-3"), subject, "").await;
    let cap = limit(Scope::User(subject.to_owned()), Period::Daily, Some(100), &format!("spl_{tag}"));
    let image = cap.to_image().to_string();
    let version = store.find_limit(&cap.scope, cap.period).await.expect("it runs").map_or(0, |one| one.version);
    let change = Change {
        limit: &cap,
        is_deletion: false,
        from_version: version,
        actor: "admin-key:x",
        action: "spend_limit.upsert",
        before: "",
        after: &image,
        at: NOW,
    };
    assert!(store.change_limit(change).await.expect("it runs"));
    let body = serde_json::json!({"type": "spend_alert", "user_id": subject, "period": "daily"}).to_string();
    let alert = NewAlert { id: tag, webhook: "https://h.test", scope: "user", body: &body, at: NOW };
    assert!(store.add_alert(alert).await.expect("it runs"));
    let line = |evt: &str, rest: serde_json::Value| {
        let mut line = serde_json::json!({"ts": "t", "evt": evt});
        line.as_object_mut().expect("an object").extend(rest.as_object().cloned().expect("an object"));
        let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        KeptEvent { at: NOW, evt: evt.to_owned(), sub: field("sub"), email: field("email"), entry: line.to_string() }
    };
    let events = [
        line("inference", serde_json::json!({"sub": subject, "email": email, "model": "m"})),
        line("session.create", serde_json::json!({"sub": subject, "client_ip": "192.0.2.9", "user_agent": "u"})),
        line("admin.limit.upsert", serde_json::json!({"actor": format!("oidc:{subject}"), "scope_id": ""})),
        line("admin.limit.upsert", serde_json::json!({"actor": "admin-key:x", "scope_id": subject})),
        line("session.mint", serde_json::json!({"result": "fail", "err": format!("{email} is not verified")})),
    ];
    store.keep_audit(&events).await.expect("it runs");
}

/// Everything in every table, as text.
async fn everything(store: &Store<'_>) -> String {
    let mut all = String::new();
    for (table, columns) in [
        ("principals", "principal, email, name, member_of"),
        ("principal_groups", "day, principal, member_of"),
        ("sessions", "id, subject, email, name, created_from, refreshed_from, client, answer"),
        ("spend", "kind, principal, period, model, upstream, session, state, owner, pool"),
        ("spend_limits", "entry, kind, id, scope_id, actor, before_image, after_image"),
        ("alerts", "id, body"),
        ("audit_events", "sub, email, entry"),
    ] {
        for row in store.run(&format!("SELECT {columns} FROM {table}"), &[]).await.expect("it runs") {
            // Writing to a string cannot fail.
            let _ = writeln!(all, "{table} {row:?}");
        }
    }
    all
}

async fn totals(store: &Store<'_>) -> Vec<String> {
    let usage = |by: &[Dimension]| UsageQuery {
        from: "2031-01-01".into(),
        to: "2031-12-31".into(),
        by: by.to_vec(),
        most: 100,
        ..UsageQuery::default()
    };
    let mut totals = Vec::new();
    for by in [&[][..], &[Dimension::Day], &[Dimension::Model, Dimension::Upstream]] {
        let rows = store.usage(&usage(by)).await.expect("it runs");
        totals.extend(
            rows.iter().map(|row| format!("{:?} {} {:?} {:?}", row.values, row.requests, row.tokens, row.cost)),
        );
    }
    let costs = CostQuery { from: "2031-01-01".into(), to: "2031-12-31".into(), most: 100, ..CostQuery::default() };
    totals.extend(store.costs(&costs).await.expect("it runs").iter().map(|row| format!("{:?}", row.cost)));
    totals
}

#[test]
fn nothing_that_names_a_person_is_left_of_them_and_everything_of_the_others_and_of_the_money() {
    for subject in SUBJECTS {
        on_every_database(async |store| {
            for (number, other) in SUBJECTS.into_iter().filter(|other| *other != subject).enumerate() {
                live(store, other, &format!("p{}", number + 1)).await;
            }
            let others = everything(store).await;
            live(store, subject, "p0").await;
            let (before, sums) = (everything(store).await, totals(store).await);
            let erasure = Erasure { subject, pseudonym: PSEUDONYM };
            let looked = store.erase(order(&erasure, Act::Look)).await.expect("it runs");
            assert_eq!(everything(store).await, before, "a look changes nothing");
            let erased = store.erase(order(&erasure, Act::Write)).await.expect("it runs");
            assert_eq!(looked, erased, "{subject}");
            let Erased { deleted, pseudonymized } = erased;
            let gone = [deleted.principals, deleted.principal_groups, deleted.spend_limits, deleted.alerts];
            assert_eq!(gone, [1, 2, 1, 1]);
            // A day, a week, a month, three rows of the report, three settled requests.
            assert_eq!((pseudonymized.sessions, pseudonymized.spend), (2, 9));
            assert_eq!((pseudonymized.spend_limit_changes, pseudonymized.audit_events), (2, 5));

            let after = everything(store).await;
            let (kept, theirs): (Vec<&str>, Vec<&str>) = after.lines().partition(|line| others.contains(line));
            assert_eq!(kept.len(), others.lines().count(), "everything of the others is as it was:\n{after}");
            let name = format!("{:?}", Value::Text(subject.to_owned()));
            let field = serde_json::Value::from(subject).to_string().replace('\\', "\\\\").replace('"', "\\\"");
            for line in theirs {
                let words = [name.as_str(), field.as_str(), "p0@example.test", "192.0.2.9", "Text(\"N\")"];
                assert!(!words.iter().any(|word| line.contains(word)), "{line}");
                assert!(!line.starts_with("spend ") || !line.contains("Text(\"p0-s1\")"), "{line}");
            }
            assert_eq!(totals(store).await, sums, "money stays");

            let nothing = store.erase(order(&erasure, Act::Write)).await.expect("it runs");
            assert!(nothing.is_nothing(), "{nothing:?}");
            assert_eq!(everything(store).await, after);
            // Whoever comes back is somebody new.
            live(store, subject, "back").await;
        });
    }
}

#[test]
fn what_was_reserved_is_settled_under_the_pseudonym() {
    on_every_database(async |store| {
        set(store, &limit(Scope::User("ada".to_owned()), Period::Daily, Some(100), "spl_1")).await;
        let wanted = |id: &'static str| Wanted {
            id,
            caller: Caller { subject: "ada", groups: &[] },
            amount: nanos(1000),
            mode: GroupLimitMode::Min,
            at: NOW,
            until: NOW.plus(Duration::from_mins(15)),
        };
        for id in ["settled", "released", "expired"] {
            assert!(store.reserve(wanted(id)).await.expect("it runs").is_some());
        }
        let erasure = Erasure { subject: "ada", pseudonym: PSEUDONYM };
        store.erase(order(&erasure, Act::Write)).await.expect("it runs");
        settle(store, "settled", "ada", "s").await;
        store.release("released", NOW).await.expect("it runs");
        assert_eq!(store.expire_holds(NOW.plus(Duration::from_mins(16))).await, Ok(1));
        let rows = store.run("SELECT kind, principal, nanos, held FROM spend WHERE kind = 'day'", &[]).await;
        let day = [Value::Text("day".into()), Value::Text(PSEUDONYM.into()), Value::Integer(100), Value::Integer(0)];
        assert_eq!(rows, Ok(vec![day.to_vec()]));
        let owners = store.run("SELECT DISTINCT owner FROM spend WHERE kind = 'hold'", &[]).await;
        assert_eq!(owners, Ok(vec![vec![Value::Text(PSEUDONYM.into())]]));
    });
}

#[test]
fn a_settlement_and_an_erasure_at_once_lose_no_money_and_no_reservation() {
    const ROUNDS: usize = 40;
    let race = |store: &Store<'_>| {
        let is_eraser =
            store.claim("race", days_later(-1), NOW).now_or_never().expect("nothing waits").expect("it runs");
        for number in 0..ROUNDS {
            let (subject, id) = (format!("u{number}"), format!("r{number}"));
            let wanted = Wanted {
                id: &id,
                caller: Caller { subject: &subject, groups: &[] },
                amount: nanos(1000),
                mode: GroupLimitMode::Min,
                at: NOW,
                until: NOW.plus(Duration::from_mins(15)),
            };
            // Whoever is second finds it reserved.
            let _ = store.reserve(wanted).now_or_never().expect("nothing waits");
            if is_eraser {
                let pseudonym = format!("erased-{number:032x}");
                let erasure = Erasure { subject: &subject, pseudonym: &pseudonym };
                let erased = store.erase(order(&erasure, Act::Write)).now_or_never().expect("nothing waits");
                erased.expect("it runs");
            } else {
                settle(store, &id, &subject, "s").now_or_never().expect("nothing waits");
            }
        }
    };
    let books = |store: &Store<'_>| {
        let sums = "SELECT CAST(SUM(nanos) AS BIGINT), CAST(SUM(CASE WHEN held <> 0 AND kind = 'day' THEN 1 ELSE 0 END) AS BIGINT) \
             FROM spend WHERE kind = 'day'";
        store.run(sums, &[]).now_or_never().expect("nothing waits").expect("it runs")[0].clone()
    };
    for (ours, theirs) in on_two_connections(|store| {
        race(store);
        books(store)
    }) {
        let settled = i64::try_from(ROUNDS).expect("few") * 100;
        let complete = vec![Value::Integer(settled), Value::Integer(0)];
        assert!([&ours, &theirs].contains(&&complete), "{ours:?} {theirs:?}");
    }
}
