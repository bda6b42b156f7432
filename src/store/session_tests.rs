//! The store's contract about sessions, on every database that is there.

use std::time::Duration;

use futures_util::FutureExt;

use super::tests::{on_every_database, on_two_connections};
use super::{Edge, EndedSession, NewSession, Refreshed, SessionsQuery, Store};
use crate::domain::ids::Timestamp;
use crate::domain::rotation::Verdict;
use crate::ports::Value;

const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);
const END: Timestamp = Timestamp::from_secs(1_900_010_000);

fn new<'a>(id: &'a str, subject: &'a str) -> NewSession<'a> {
    NewSession {
        id,
        subject,
        email: Some("alice@example.com"),
        name: None,
        means: "device",
        from: "192.0.2.1",
        client: "claude-code/2",
        key_id: "k1",
        generation: 0,
        expires_at: END,
    }
}

async fn begin(store: &Store<'_>, id: &str, subject: &str, after_secs: u64) {
    let at = NOW.plus(Duration::from_secs(after_secs));
    assert!(store.begin_session(new(id, subject), at).await.expect("it runs"));
}

fn refreshed<'a>(id: &'a str, from_generation: u64, answer: &'a str) -> Refreshed<'a> {
    Refreshed {
        id,
        from_generation,
        subject: "alice",
        email: None,
        name: Some("Alice A"),
        from: "192.0.2.2",
        key_id: "k2",
        answer,
        is_awaited: true,
        expires_at: END.plus(Duration::from_secs(1)),
    }
}

fn after(secs: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(secs))
}

async fn claim(store: &Store<'_>, generation: u64, at: Timestamp) -> Option<Verdict> {
    store.claim_refresh("s", generation, at.plus(Duration::from_secs(15)), at).await.expect("it runs")
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a claim is compared with")]
fn again(answer: &str, age_secs: u64) -> Option<Verdict> {
    Some(Verdict::Again { answer: answer.to_owned(), age: Duration::from_secs(age_secs) })
}

fn all() -> SessionsQuery<'static> {
    SessionsQuery { edge: Edge::First, most: 10, subject: None }
}

async fn ids(store: &Store<'_>, query: SessionsQuery<'_>, now: Timestamp) -> Option<Vec<String>> {
    let found = store.sessions(query, now).await.expect("it runs")?;
    Some(found.into_iter().map(|session| session.id).collect())
}

#[test]
fn a_session_begins_once_and_is_listed_as_it_was_noted() {
    on_every_database(async |store| {
        begin(store, "s", "alice", 0).await;
        assert!(!store.begin_session(new("s", "mallory"), NOW).await.expect("it runs"));
        let listed = store.sessions(all(), NOW).await.expect("it runs").expect("a page");
        let [session] = &listed[..] else { panic!("{listed:?}") };
        assert_eq!((&*session.subject, &*session.email, &*session.name), ("alice", "alice@example.com", ""));
        assert_eq!(
            (&*session.means, &*session.created_from, &*session.client),
            ("device", "192.0.2.1", "claude-code/2")
        );
        assert_eq!((session.created_at, session.refreshed_at, session.expires_at), (NOW, NOW, END));

        assert_eq!(claim(store, 0, after(60)).await, Some(Verdict::Newest));
        assert!(store.note_refresh(refreshed("s", 0, "sealed"), after(60)).await.expect("it runs"));
        let listed = store.sessions(all(), after(60)).await.expect("it runs").expect("a page");
        let session = &listed[0];
        assert_eq!((&*session.email, &*session.name), ("", "Alice A"));
        assert_eq!((session.created_at, session.refreshed_at), (NOW, after(60)));
        assert_eq!((&*session.created_from, &*session.refreshed_from), ("192.0.2.1", "192.0.2.2"));
        assert_eq!(session.expires_at, END.plus(Duration::from_secs(1)));
    });
}

#[test]
fn generations_follow_one_another() {
    on_every_database(async |store| {
        assert_eq!(claim(store, 0, NOW).await, None);
        begin(store, "s", "alice", 0).await;
        assert_eq!(claim(store, 0, NOW).await, Some(Verdict::Newest));
        assert_eq!(claim(store, 0, after(14)).await, Some(Verdict::UnderWay));
        // Whoever claimed it died; another one may try.
        assert_eq!(claim(store, 0, after(15)).await, Some(Verdict::Newest));
        // A claim that lapsed releases nothing; one's own does.
        store.release_refresh("s", after(15)).await.expect("it runs");
        assert_eq!(claim(store, 0, after(16)).await, Some(Verdict::UnderWay));
        store.release_refresh("s", after(30)).await.expect("it runs");
        assert_eq!(claim(store, 0, after(17)).await, Some(Verdict::Newest));
        assert!(store.note_refresh(refreshed("s", 0, "first"), after(18)).await.expect("it runs"));
        // A second answer to the same question is not noted.
        assert!(!store.note_refresh(refreshed("s", 0, "late"), after(19)).await.expect("it runs"));
        assert_eq!(claim(store, 0, after(47)).await, again("first", 29));
        assert_eq!(claim(store, 0, after(48)).await, Some(Verdict::Reused));
        // Made while the store was away.
        assert_eq!(claim(store, 5, after(48)).await, Some(Verdict::Newest));
        assert!(store.note_refresh(refreshed("s", 5, "second"), after(48)).await.expect("it runs"));
        assert_eq!(claim(store, 5, after(49)).await, again("second", 1));
        assert_eq!(claim(store, 1, after(49)).await, Some(Verdict::Reused));
        // It lives as long as was noted.
        assert_eq!(claim(store, 6, Timestamp::from_secs(1_900_010_001)).await, Some(Verdict::Over));
    });
}

#[test]
fn an_answer_that_nobody_waited_for_is_kept_for_a_day() {
    const DAY: u64 = 24 * 60 * 60;
    on_every_database(async |store| {
        begin(store, "s", "alice", 0).await;
        let unfetched = Refreshed { is_awaited: false, expires_at: after(9 * DAY), ..refreshed("s", 0, "kept") };
        assert_eq!(claim(store, 0, NOW).await, Some(Verdict::Newest));
        assert!(store.note_refresh(unfetched, NOW).await.expect("it runs"));
        assert!(store.sweep(after(DAY - 1), NOW, None).await.expect("it runs").is_some());
        assert_eq!(claim(store, 0, after(DAY - 1)).await, again("kept", DAY - 1));
        assert_eq!(claim(store, 0, after(DAY)).await, Some(Verdict::Reused));
        assert!(store.sweep(after(DAY + 60), NOW, None).await.expect("it runs").is_some());
        assert_eq!(claim(store, 0, after(5)).await, Some(Verdict::Reused), "it is gone");
        // Whoever has the newest token does not wait for anything.
        assert_eq!(claim(store, 1, after(DAY)).await, Some(Verdict::Newest));
    });
}

#[test]
fn what_has_ended_stays_so() {
    on_every_database(async |store| {
        begin(store, "s", "alice", 0).await;
        assert!(!store.has_session_ended("s").await.expect("it runs"));
        assert!(!store.has_session_ended("unknown").await.expect("it runs"));
        assert_eq!(claim(store, 0, NOW).await, Some(Verdict::Newest));
        let ended = EndedSession { id: "s".to_owned(), subject: "alice".to_owned() };
        assert_eq!(store.end_session("s", after(1)).await.expect("it runs"), Some(ended));
        assert_eq!(store.end_session("s", after(1)).await.expect("it runs"), None);
        assert_eq!(store.end_session("unknown", after(1)).await.expect("it runs"), None);
        assert!(store.has_session_ended("s").await.expect("it runs"));
        // The refresh that was under way comes too late.
        assert!(!store.note_refresh(refreshed("s", 0, "x"), after(2)).await.expect("it runs"));
        assert_eq!(claim(store, 0, after(60)).await, Some(Verdict::Over));
        assert_eq!(ids(store, all(), after(2)).await, Some(vec![]));
        assert!(!store.begin_session(new("s", "alice"), after(3)).await.expect("it runs"));
    });
}

#[test]
fn sessions_are_ended_by_person_and_by_key() {
    on_every_database(async |store| {
        for (id, subject) in [("a", "alice"), ("b", "bob"), ("c", "alice"), ("d", "Alice")] {
            begin(store, id, subject, 0).await;
        }
        assert_eq!(store.end_session("c", NOW).await.expect("it runs").map(|ended| ended.id).as_deref(), Some("c"));
        let ended = store.end_sessions_of("alice", NOW).await.expect("it runs");
        assert_eq!(ended, [EndedSession { id: "a".to_owned(), subject: "alice".to_owned() }]);
        assert_eq!(store.end_sessions_of("alice", NOW).await.expect("it runs"), []);
        assert_eq!(store.end_sessions_of("x\0y", NOW).await.expect("it runs"), []);
        assert_eq!(ids(store, all(), NOW).await, Some(vec!["b".to_owned(), "d".to_owned()]));

        assert_eq!(store.claim_refresh("d", 0, after(1), NOW).await.expect("it runs"), Some(Verdict::Newest));
        assert!(!store.note_refresh(refreshed("d", 0, "x"), NOW).await.expect("it runs"), "it is another person's");
        let own = Refreshed { subject: "Alice", ..refreshed("d", 0, "x") };
        assert!(store.note_refresh(own, NOW).await.expect("it runs"));
        assert_eq!(store.end_sessions_signed_by("k1", NOW).await.expect("it runs"), 1);
        assert_eq!(ids(store, all(), NOW).await, Some(vec!["d".to_owned()]));
        assert_eq!(store.end_sessions_signed_by("k2", NOW).await.expect("it runs"), 1);
        assert_eq!(ids(store, all(), NOW).await, Some(vec![]));
    });
}

#[test]
fn pages_go_forwards_and_backwards_in_the_order_of_beginning() {
    on_every_database(async |store| {
        // Two at the same moment; the order of ids is that of their bytes.
        for (id, subject, secs) in [("b", "alice", 1), ("B", "bob", 1), ("a", "alice", 2), ("c", "alice", 3)] {
            begin(store, id, subject, secs).await;
        }
        let page = async |edge, subject| {
            let query = SessionsQuery { edge, most: 2, subject };
            ids(store, query, NOW).await.map(|ids| ids.join(" "))
        };
        assert_eq!(page(Edge::First, None).await.as_deref(), Some("B b"));
        assert_eq!(page(Edge::After("b"), None).await.as_deref(), Some("a c"));
        assert_eq!(page(Edge::Before("c"), None).await.as_deref(), Some("b a"));
        assert_eq!(page(Edge::After("c"), None).await.as_deref(), Some(""));
        assert_eq!(page(Edge::First, Some("alice")).await.as_deref(), Some("b a"));
        assert_eq!(page(Edge::After("a"), Some("alice")).await.as_deref(), Some("c"));
        assert_eq!(page(Edge::First, Some("nobody")).await.as_deref(), Some(""));
        assert_eq!(page(Edge::After("unknown"), None).await, None);
        // A page goes on where it was although its last session has ended.
        store.end_session("b", NOW).await.expect("it runs");
        assert_eq!(page(Edge::After("b"), None).await.as_deref(), Some("a c"));
        assert_eq!(ids(store, all(), END).await, Some(vec![]));
    });
}

#[test]
fn sweeps_forget_answers_and_sessions_that_are_over_piece_by_piece() {
    on_every_database(async |store| {
        for number in 0..510 {
            let id = format!("old-{number}");
            let session = NewSession { expires_at: after(100), ..new(&id, "alice") };
            assert!(store.begin_session(session, NOW).await.expect("it runs"));
        }
        begin(store, "s", "alice", 0).await;
        store.end_session("old-0", NOW).await.expect("it runs");
        assert_eq!(claim(store, 0, NOW).await, Some(Verdict::Newest));
        assert!(store.note_refresh(refreshed("s", 0, "sealed"), NOW).await.expect("it runs"));
        let count = async |condition: &str| {
            let statement = format!("SELECT COUNT(*) FROM sessions WHERE {condition}");
            store.run(&statement, &[]).await.expect("it runs")[0][0].clone()
        };
        assert!(store.sweep(after(29), NOW, None).await.expect("it runs").is_some());
        assert_eq!(count("answer <> ''").await, Value::Integer(1));
        assert_eq!(count("ended_at IS NOT NULL").await, Value::Integer(1), "its tokens must not pass");
        assert!(store.sweep(after(99), NOW, None).await.expect("it runs").is_some());
        assert_eq!(count("answer <> ''").await, Value::Integer(0));
        assert_eq!(count("1 = 1").await, Value::Integer(511));
        assert!(store.sweep(after(130), NOW, None).await.expect("it runs").is_some());
        assert_eq!(count("1 = 1").await, Value::Integer(1), "two pieces");
        assert!(store.sweep(after(160), NOW, None).await.expect("it runs").is_some());
        assert_eq!(count("1 = 1").await, Value::Integer(1));
    });
}

#[test]
fn of_two_refreshes_at_once_one_is_the_refresh() {
    for (ours, theirs) in on_two_connections(|store| {
        let run = async || {
            let mut claims = 0;
            for number in 0..20 {
                let id = number.to_string();
                store.begin_session(new(&id, "alice"), NOW).await.expect("it runs");
                let verdict = store.claim_refresh(&id, 0, after(15), NOW).await.expect("it runs");
                claims += u32::from(verdict == Some(Verdict::Newest));
            }
            claims
        };
        run().now_or_never().expect("nothing waits")
    }) {
        assert_eq!(ours + theirs, 20);
    }
}

#[test]
fn of_two_answers_at_once_one_is_noted() {
    for (ours, theirs) in on_two_connections(|store| {
        let run = async || {
            let mut noted = 0;
            for number in 0..20 {
                let id = number.to_string();
                store.begin_session(new(&id, "alice"), NOW).await.expect("it runs");
                noted += u32::from(store.note_refresh(refreshed(&id, 0, "x"), NOW).await.expect("it runs"));
            }
            noted
        };
        run().now_or_never().expect("nothing waits")
    }) {
        assert_eq!(ours + theirs, 20);
    }
}
