//! The store's contract about the usage report and about alerts, on every database.

use std::time::Duration;

use futures_util::FutureExt;

use super::spend_tests::{NOW, days_later, nanos};
use super::tests::{on_every_database, on_two_connections};
use super::{Dimension, Identity, NewAlert, Settlement, Store, UsageQuery};
use crate::domain::ids::Timestamp;
use crate::stream::meter::Usage;

async fn settle(store: &Store<'_>, id: &str, subject: &str, of: [&str; 3], at: Timestamp) {
    let usage = Usage {
        input_tokens: 10,
        output_tokens: 2,
        cache_read_input_tokens: 3,
        cache_creation_input_tokens: 4,
        web_search_requests: 1,
        ..Usage::default()
    };
    let [model, upstream, session] = of;
    let settlement =
        Settlement { id, subject, pool: None, cost: nanos(100), usage: &usage, model, upstream, session, at };
    store.settle(settlement).await.expect("it runs");
}

async fn books(store: &Store<'_>) {
    let groups = ["eng".to_owned(), "o'ps".to_owned()];
    let identity = Identity { subject: "ada", email: Some("ada@example.test"), name: None, groups: &groups };
    store.note_identity(identity, NOW).await.expect("it runs");
    settle(store, "1", "ada", ["opus", "a", "s1"], NOW).await;
    settle(store, "2", "ada", ["opus", "a", "s1"], NOW).await;
    settle(store, "3", "ada", ["haiku", "b", "s2"], NOW).await;
    settle(store, "4", "bob", ["opus", "a", ""], days_later(1)).await;
    settle(store, "5", "b'ob\"; --\0", ["%", "_", "\u{1f600}"], days_later(1)).await;
}

#[test]
fn usage_is_summed_by_what_is_asked_for_and_paged() {
    on_every_database(async |store| {
        books(store).await;
        let base = UsageQuery { from: "2031-02-03".into(), to: "2031-02-05".into(), most: 10, ..UsageQuery::default() };
        let usage = async |query: UsageQuery| {
            let rows = store.usage(&query).await.expect("it runs");
            let row = |row: super::UsageRow| format!("{} {} {:?}", row.values.join("|"), row.requests, row.tokens);
            rows.into_iter().map(row).collect::<Vec<_>>()
        };
        let one = "1 [10, 2, 3, 4]";
        assert_eq!(usage(base.clone()).await, ["||||| 5 [50, 10, 15, 20]"]);
        let by = |by: &[Dimension]| UsageQuery { by: by.to_vec(), ..base.clone() };
        assert_eq!(
            usage(by(&[Dimension::Model, Dimension::Upstream])).await,
            [format!("|||%|_| {one}"), format!("|||haiku|b| {one}"), "|||opus|a| 3 [30, 6, 9, 12]".to_owned()]
        );
        let groups = usage(by(&[Dimension::Group])).await;
        assert_eq!(groups, ["||||| 2 [20, 4, 6, 8]", "||eng||| 3 [30, 6, 9, 12]", "||o'ps||| 3 [30, 6, 9, 12]"]);
        let of_group = UsageQuery { groups: vec!["o'ps".into()], ..base.clone() };
        assert_eq!(usage(of_group).await, ["||||| 3 [30, 6, 9, 12]"]);
        let strange = UsageQuery { users: vec!["b'ob\"; --\0".into(), "x".into()], ..by(&[Dimension::Session]) };
        assert_eq!(usage(strange).await, [format!("|||||\u{1f600} {one}")]);
        let named = UsageQuery { models: vec!["opus".into()], upstreams: vec!["a".into()], ..by(&[Dimension::Day]) };
        assert_eq!(
            usage(named).await,
            ["2031-02-03||||| 2 [20, 4, 6, 8]".to_owned(), format!("2031-02-04||||| {one}")]
        );
        let all = by(&[Dimension::Day, Dimension::User, Dimension::Model]);
        let whole = usage(all.clone()).await;
        assert_eq!(whole.len(), 4);
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = UsageQuery { most: 1, after: after.clone(), ..all.clone() };
            let rows = store.usage(&page).await.expect("it runs");
            let Some(last) = rows.last() else { break };
            after = Some(last.values.clone());
            paged.extend(usage(page).await);
        }
        assert_eq!(paged, whole);
        let people = store.usage(&by(&[Dimension::User])).await.expect("it runs");
        assert_eq!(
            (people[0].identity.0.as_str(), people[0].web_searches, people[0].cost),
            ("ada@example.test", 3, nanos(300))
        );
    });
}

fn alert(id: &str) -> NewAlert<'_> {
    NewAlert { id, webhook: "https://hooks.example.test", scope: "user", body: "{}", at: NOW }
}

#[test]
fn an_alert_is_kept_once_claimed_by_one_and_tried_until_it_arrives_or_is_given_up() {
    on_every_database(async |store| {
        assert!(store.add_alert(alert("a")).await.expect("it runs"));
        assert!(!store.add_alert(alert("a")).await.expect("it runs"));
        assert_eq!(store.due_alerts(NOW).await.expect("it runs"), ["a"]);
        let mut now = NOW;
        for attempt in 1..=12 {
            let due = store.claim_alert("a", now).await.expect("it runs").expect("it is due");
            assert_eq!((due.attempt, due.body.as_str()), (attempt, "{}"));
            assert_eq!(store.claim_alert("a", now).await.expect("it runs"), None, "somebody has it");
            let pause = Duration::from_secs(30 * (1 << (attempt - 1)));
            let early = Timestamp::from_millis(now.plus(pause).as_millis() - 1);
            assert_eq!(store.due_alerts(early).await.expect("it runs"), [""; 0]);
            now = now.plus(pause);
            assert_eq!(store.alert_failed(&due).await.expect("it runs"), attempt == 12);
        }
        assert_eq!(store.due_alerts(days_later(60)).await.expect("it runs"), [""; 0], "given up");
        store.add_alert(alert("b")).await.expect("it runs");
        store.claim_alert("b", NOW).await.expect("it runs").expect("it is due");
        store.alert_sent("b").await.expect("it runs");
        assert_eq!(store.due_alerts(days_later(60)).await.expect("it runs"), [""; 0]);
    });
}

#[test]
fn of_two_replicas_one_keeps_an_alert_and_one_sends_it() {
    let race = |store: &Store<'_>| {
        let mut done = [0, 0];
        for number in 0..30 {
            let id = format!("a{number}");
            let added = store.add_alert(alert(&id)).now_or_never().expect("nothing waits").expect("it runs");
            let claimed = store.claim_alert(&id, NOW).now_or_never().expect("nothing waits").expect("it runs");
            done[0] += i32::from(added);
            done[1] += i32::from(claimed.is_some());
        }
        done
    };
    for (ours, theirs) in on_two_connections(race) {
        assert_eq!([ours[0] + theirs[0], ours[1] + theirs[1]], [30, 30]);
    }
}
