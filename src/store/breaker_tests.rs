//! What replicas agree on about upstreams that are left alone, on every database.

use std::time::Duration;

use futures_util::FutureExt;

use super::OpenBreaker;
use super::tests::{on_every_database, on_two_connections};
use crate::domain::circuit::Opening;
use crate::domain::ids::Timestamp;

const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);

fn opening(round: u32, secs: u64) -> Opening {
    Opening { round, since: NOW, until: NOW.plus(Duration::from_secs(secs)) }
}

#[test]
fn a_breaker_is_opened_once_moved_by_those_who_know_it_and_closed_once() {
    on_every_database(async |store| {
        assert_eq!(store.open_breakers().await.expect("it runs"), []);
        assert!(store.open_breaker("a", "", opening(1, 10)).await.expect("it runs"));
        assert!(!store.open_breaker("a", "", opening(1, 99)).await.expect("it runs"));
        assert!(store.open_breaker("a", "m", opening(1, 20)).await.expect("it runs"));
        assert!(!store.move_breaker("a", "", NOW, opening(2, 30)).await.expect("it runs"), "the end is another one");
        assert!(!store.move_breaker("b", "", NOW, opening(2, 30)).await.expect("it runs"), "it is not open");
        let seen = opening(1, 10).until;
        assert!(store.move_breaker("a", "", seen, opening(2, 30)).await.expect("it runs"));
        let mut open = store.open_breakers().await.expect("it runs");
        open.sort_by(|one, other| one.model.cmp(&other.model));
        let breaker = |model: &str, opening| OpenBreaker { upstream: "a".to_owned(), model: model.to_owned(), opening };
        assert_eq!(open, [breaker("", opening(2, 30)), breaker("m", opening(1, 20))]);
        assert!(store.close_breaker("a", "").await.expect("it runs"));
        assert!(!store.close_breaker("a", "").await.expect("it runs"));
        assert_eq!(store.open_breakers().await.expect("it runs"), [breaker("m", opening(1, 20))]);
    });
}

#[test]
fn of_two_that_open_or_claim_at_once_one_is_first() {
    let outcomes = on_two_connections(|store| {
        let opened = store.open_breaker("a", "m", opening(1, 10)).now_or_never().expect("nothing waits");
        let claimed = store.move_breaker("a", "m", opening(1, 10).until, opening(1, 20));
        let claimed = claimed.now_or_never().expect("nothing waits");
        (opened.expect("it runs"), claimed.expect("it runs"))
    });
    for ((opened, claimed), (also_opened, also_claimed)) in outcomes {
        assert!(opened != also_opened, "both or neither opened it");
        assert!(claimed != also_claimed, "both or neither claimed the turn");
    }
}
