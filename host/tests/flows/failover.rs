//! Upstreams that fail: what clients and the audit trail see of each failure, and when an upstream is left alone.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::support::{
    Exchange, Gateway, MODEL, PATIENCE, Postgres, Site, Upstream, discovery, eventually, free_port, plain_client,
    question,
};

/// How an attempt fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Status(u16),
    /// Nobody listens.
    Refused,
    /// The connection ends before there is an answer.
    Reset,
    /// The connection ends inside of the answer.
    ResetInside,
    /// No answer until `upstream_ttfb_ms`.
    Silence,
}

/// What a client and the audit trail see: the status, the upstream that it is from (`None`: the gateway's own), whether
/// the answer is whole, and how many upstreams were asked.
type Seen = (u16, Option<&'static str>, bool, usize);

/// Of a fault of the first of two upstreams, whose second one works; and of the last of two, whose first one answers 500.
const MATRIX: &[(Fault, Seen, Seen)] = {
    use Fault::{Refused, Reset, ResetInside, Silence, Status};
    const FIRST: Option<&str> = Some("upstream-0");
    const LAST: Option<&str> = Some("upstream-1");
    const NEXT: Seen = (200, LAST, true, 2);
    const NOBODY: Seen = (502, None, true, 2);
    &[
        // It failed, and another upstream may do better.
        (Status(401), NEXT, (401, LAST, true, 2)),
        (Status(403), NEXT, (403, LAST, true, 2)),
        (Status(404), NEXT, (404, LAST, true, 2)),
        (Status(429), NEXT, (429, LAST, true, 2)),
        (Status(501), NEXT, (501, LAST, true, 2)),
        (Status(500), NEXT, NOBODY),
        (Status(502), NEXT, NOBODY),
        (Status(503), NEXT, NOBODY),
        (Status(504), NEXT, NOBODY),
        (Status(529), NEXT, NOBODY),
        (Refused, NEXT, NOBODY),
        (Reset, NEXT, NOBODY),
        (Silence, NEXT, NOBODY),
        // It failed, and would elsewhere, too.
        (Status(302), (302, FIRST, true, 1), (302, LAST, true, 2)),
        (Status(400), (400, FIRST, true, 1), (400, LAST, true, 2)),
        (Status(402), (402, FIRST, true, 1), (402, LAST, true, 2)),
        (Status(408), (408, FIRST, true, 1), (408, LAST, true, 2)),
        (Status(409), (409, FIRST, true, 1), (409, LAST, true, 2)),
        (Status(413), (413, FIRST, true, 1), (413, LAST, true, 2)),
        (Status(422), (422, FIRST, true, 1), (422, LAST, true, 2)),
        // An answer that has begun is the answer.
        (ResetInside, (200, FIRST, false, 1), (200, LAST, false, 2)),
    ]
};

/// An upstream that fails as the request says; those that are to have no answer are handed on.
fn faulty() -> (Upstream, Receiver<Exchange>) {
    let (sender, receiver) = channel();
    let upstream = Upstream::start(move |mut exchange| {
        let fault = exchange.json()["fault"].clone();
        match fault.as_str() {
            Some("Reset") => drop(exchange),
            Some("ResetInside") => {
                exchange.begin_stream();
                exchange.piece(b"event: ping\ndata: {}\n\n").expect("a reader");
            }
            // Held until the story is over.
            Some("Silence") => drop(sender.send(exchange)),
            _ => {
                let status = fault.as_u64().and_then(|status| u16::try_from(status).ok()).expect("a status");
                exchange.answer(status, &[], &json!({"type": "error", "error": {"type": "told", "message": status}}));
            }
        }
    });
    (upstream, receiver)
}

fn seen_of(gateway: &Gateway, token: &str, fault: Fault) -> (u16, bool) {
    let mut body = question(false);
    body["fault"] = match fault {
        Fault::Status(status) => status.into(),
        other => format!("{other:?}").into(),
    };
    let mut client = gateway.connect();
    client.post("/v1/messages", token, &body);
    let head = client.until("\r\n\r\n");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    if fault == Fault::ResetInside {
        let rest = client.until_closed();
        return (status, rest.ends_with("0\r\n\r\n"));
    }
    // What is whole says how long it is; a client that reads it knows.
    (status, true)
}

#[test]
fn each_fault_in_each_position_is_seen_as_the_table_says() {
    let claude = Upstream::claude();
    let broken = Upstream::start(|exchange| exchange.answer(500, &[], &json!({})));
    for position in ["first", "last"] {
        for refused in [false, true] {
            let (faulty, _silent) = faulty();
            let nowhere = format!("127.0.0.1:{}", free_port());
            let mut site = Site::for_inference(&discovery(), &claude);
            let faulty_url = format!("http://{}", if refused { &nowhere } else { &faulty.address });
            site.transcript.internal(&nowhere);
            site.transcript.internal(&faulty.address);
            let healthy = if position == "first" { &claude } else { &broken };
            let healthy_url = format!("http://{}", healthy.address);
            site.upstreams =
                if position == "first" { vec![faulty_url, healthy_url] } else { vec![healthy_url, faulty_url] };
            // Each fault is looked at for itself.
            site.more = "timeouts: { upstream_ttfb_ms: 3000 }\nresilience: { breaker: { enabled: false }, \
                         retry_budget: { enabled: false } }\n"
                .to_owned();
            let gateway = site.start();
            let token = site.session("ada");
            let rows = MATRIX.iter().filter(|(fault, ..)| (*fault == Fault::Refused) == refused);
            for (number, (fault, first, last)) in rows.enumerate() {
                let (expected_status, upstream, is_whole, asked) = if position == "first" { *first } else { *last };
                let before = faulty.seen().len() + healthy.seen().len();
                let label = format!("{fault:?} {position}");
                assert_eq!(seen_of(&gateway, &token, *fault), (expected_status, is_whole), "{label}");
                let events = eventually("the audit trail", || {
                    let events = gateway.log.events("inference");
                    (events.len() > number).then_some(events)
                });
                assert_eq!(events.len(), number + 1, "one event for each request: {label}");
                assert_eq!(
                    (&events[number]["status"], &events[number]["upstream"]),
                    (&json!(expected_status), &json!(upstream)),
                    "{label}"
                );
                // One that refuses connections cannot count them.
                let counted = faulty.seen().len() + healthy.seen().len() - before + usize::from(refused);
                assert_eq!(counted, asked, "{label}");
            }
        }
    }
}

#[test]
fn a_status_that_the_operator_names_fails_over() {
    let is_paid = Arc::new(AtomicBool::new(false));
    let empty = |name: &'static str, is_paid: Option<Arc<AtomicBool>>| {
        Upstream::start(move |exchange| {
            if is_paid.as_ref().is_some_and(|paid| paid.load(Ordering::Acquire)) {
                return exchange.answer(200, &[], &json!({"from": name}));
            }
            exchange.answer(402, &[], &json!({"type": "error", "error": {"type": "billing_error", "message": name}}));
        })
    };
    let (first, second) = (empty("first", None), empty("second", Some(Arc::clone(&is_paid))));
    let mut site = Site::for_inference(&discovery(), &first);
    site.use_upstream(&second);
    site.more_upstream = "    failover_on: [402]\n".to_owned();
    let gateway = site.start();
    let ask = || gateway.post("/v1/messages").bearer(&site.session("ada")).json(&question(false)).send();

    let answer = ask().expect(402);
    assert_eq!(answer.json()["error"], json!({"type": "billing_error", "message": "second"}));
    is_paid.store(true, Ordering::Release);
    assert_eq!(ask().expect(200).json()["from"], "second");
    assert_eq!((first.seen().len(), second.seen().len()), (2, 2));
}

/// An upstream that does as it is told, and says that an answer is its own.
struct Moody {
    upstream: Upstream,
    mood: Arc<AtomicU16>,
    held: Receiver<Exchange>,
}

/// What [`Moody`] does instead of answering with a status.
const HOLD: u16 = 0;

impl Moody {
    fn new(retry_after: &'static str) -> Self {
        let mood = Arc::new(AtomicU16::new(200));
        let (sender, held) = channel();
        let told = Arc::clone(&mood);
        let upstream = Upstream::start(move |exchange| match told.load(Ordering::Acquire) {
            HOLD => drop(sender.send(exchange)),
            200 => exchange.answer(200, &[], &own()),
            status => exchange.answer(status, &[("retry-after", retry_after)], &json!({"type": "error"})),
        });
        Self { upstream, mood, held }
    }

    fn turn(&self, mood: u16) {
        self.mood.store(mood, Ordering::Release);
    }

    fn count(&self) -> usize {
        self.upstream.seen().len()
    }
}

/// The answer of [`Moody`].
fn own() -> Value {
    json!({"id": "msg_moody", "type": "message", "content": [], "usage": {"input_tokens": 1, "output_tokens": 1}})
}

fn site_of(moody: &Moody, resilience: &str) -> Site {
    let claude = Upstream::claude();
    let mut site = Site::for_inference(&discovery(), &moody.upstream);
    site.use_upstream(&claude);
    let _ = writeln!(site.more, "resilience: {{ breaker: {{ failures: 3, {resilience} }} }}");
    site
}

/// Somebody with a connection of their own, which is served by one instance.
struct Developer<'a> {
    gateway: &'a Gateway,
    client: reqwest::blocking::Client,
    token: &'a str,
}

impl<'a> Developer<'a> {
    fn of(gateway: &'a Gateway, token: &'a str) -> Self {
        Self { gateway, client: plain_client(), token }
    }

    /// Asks, and says whether the first upstream answered; whoever it was, somebody did.
    fn is_answered_by_the_first(&self) -> bool {
        let call = self.gateway.call(self.client.post(self.gateway.url("/v1/messages")));
        call.bearer(self.token).json(&question(false)).send().expect(200).json()["id"] == "msg_moody"
    }

    /// Asks until the first upstream is left alone: it has not been asked by several requests in a row.
    fn until_left_alone(&self, moody: &Moody) {
        eventually("the upstream to be left alone", || {
            let before = moody.count();
            for _ in 0..4 {
                self.is_answered_by_the_first();
            }
            (moody.count() == before).then_some(())
        });
    }

    /// Asks until the gateway has said that an upstream is left alone, in an event that `matches`.
    fn until_opened(&self, matches: impl Fn(&Value) -> bool) -> Value {
        eventually("the breaker", || {
            self.is_answered_by_the_first();
            self.gateway.log.events("breaker.open").into_iter().find(|event| matches(event))
        })
    }
}

#[test]
fn one_host_finds_out_both_leave_it_alone_and_one_request_finds_out_that_it_is_back() {
    let Some(database) = Postgres::start() else { return };
    let moody = Moody::new("1");
    let mut site = site_of(&moody, "cooldown_seconds: 3, max_cooldown_seconds: 3");
    site.use_postgres(&database);
    let replica = site.replica();
    let (first, second) = (site.start(), replica.start());
    let token = site.session("ada");
    let [ada, grace, alan, edsger] = [&first, &second, &first, &second].map(|gateway| Developer::of(gateway, &token));
    for developer in [&ada, &grace, &alan, &edsger] {
        assert!(developer.is_answered_by_the_first());
    }

    moody.turn(500);
    let opened = ada.until_opened(|_| true);
    assert_eq!(
        [&opened["upstream"], &opened["model"], &opened["reason"], &opened["round"], &opened["shared"]],
        [&json!("upstream-0"), &json!(MODEL), &json!("server_error"), &json!(1), &json!(true)]
    );
    // Whoever they are connected to knows.
    for developer in [&ada, &grace, &alan, &edsger] {
        developer.until_left_alone(&moody);
    }
    assert_eq!(second.log.events("breaker.open").iter().filter(|event| event["round"] == 1).count(), 0);

    // Requests go on at both. One of them is let through and has to wait; none of the others is.
    moody.turn(HOLD);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for developer in [&ada, &grace] {
            let is_over = &is_over;
            scope.spawn(move || {
                eventually("the end", || {
                    developer.is_answered_by_the_first();
                    is_over.load(Ordering::Acquire).then_some(())
                });
            });
        }
        let probe = moody.held.recv_timeout(PATIENCE).expect("a request that finds out");
        for _ in 0..20 {
            assert!(!alan.is_answered_by_the_first() && !edsger.is_answered_by_the_first());
        }
        assert!(moody.held.try_recv().is_err(), "another request was let through");
        moody.turn(200);
        probe.answer(200, &[], &own());
        is_over.store(true, Ordering::Release);
    });
    for developer in [&ada, &grace, &alan, &edsger] {
        eventually("the first upstream", || developer.is_answered_by_the_first().then_some(()));
    }
    let closed = eventually("the audit trail", || {
        let closed = [&first, &second].map(|gateway| gateway.log.events("breaker.close").len());
        (closed != [0, 0]).then_some(closed)
    });
    assert_eq!(closed.iter().sum::<usize>(), 1, "{closed:?}");
    assert_eq!(database.query("select count(*) from breakers").as_deref(), Some("0"));
}

#[test]
fn without_its_database_a_gateway_leaves_an_upstream_alone_by_itself() {
    let Some(mut database) = Postgres::start() else { return };
    let moody = Moody::new("1");
    let mut site = site_of(&moody, "cooldown_seconds: 2, max_cooldown_seconds: 2");
    site.use_postgres(&database);
    let gateway = site.start();
    let token = site.session("ada");
    let ada = Developer::of(&gateway, &token);
    assert!(ada.is_answered_by_the_first());

    database.stop();
    moody.turn(503);
    let opened = ada.until_opened(|_| true);
    assert_eq!((&opened["reason"], &opened["shared"]), (&json!("server_error"), &json!(false)));
    ada.until_left_alone(&moody);
    // It comes back while the database is still away.
    moody.turn(200);
    eventually("the first upstream", || ada.is_answered_by_the_first().then_some(()));

    database.start_again();
    moody.turn(503);
    ada.until_opened(|event| event["shared"] == true);
    assert_eq!(database.query("select upstream from breakers").as_deref(), Some("upstream-0"));
}

#[test]
fn retry_after_says_how_long_an_upstream_is_left_alone_within_bounds() {
    for (asks_for, least, most) in [("3600", 3_600_000, 4_320_000), ("999999", 7_200_000, 8_640_000)] {
        let moody = Moody::new(asks_for);
        let site = site_of(&moody, "cooldown_seconds: 1, max_cooldown_seconds: 7200");
        let gateway = site.start();
        let token = site.session("ada");
        let ada = Developer::of(&gateway, &token);
        moody.turn(429);
        let opened = ada.until_opened(|_| true);
        assert_eq!(opened["reason"], "rate_limited");
        let kept = rusqlite::Connection::open(site.state().join("sqlite.db")).expect("a database");
        kept.busy_timeout(PATIENCE).expect("a timeout");
        let pause: i64 =
            kept.query_row("SELECT open_until - opened_at FROM breakers", [], |row| row.get(0)).expect("a row");
        assert!((least..=most).contains(&pause), "{asks_for}: {pause}");
        moody.turn(200);
        ada.until_left_alone(&moody);
    }
}

#[test]
fn equals_share_conversations_and_each_keeps_its_prompt_cache() {
    let (one, other) = (Moody::new("1"), Moody::new("1"));
    let mut site = Site::for_inference(&discovery(), &one.upstream);
    site.use_upstream(&other.upstream);
    site.more_upstream = "    weight: 1\n".to_owned();
    let replica = site.replica();
    let gateways = [site.start(), replica.start()];
    let token = site.session("ada");
    let mut places: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for conversation in 0..24 {
        for gateway in &gateways {
            for _ in 0..2 {
                let before = one.count();
                let id = format!("conversation-{conversation}");
                let call = gateway.post("/v1/messages").bearer(&token).header("x-claude-code-session-id", &id);
                call.json(&question(false)).send().expect(200);
                places.entry(conversation).or_default().push(one.count() - before);
            }
        }
    }
    assert!(places.values().all(|places| places.iter().all(|place| *place == places[0])), "{places:?}");
    // Fewer than three of twenty-four at one of two happens once in fifty thousand; and these are always the same.
    let at_one = places.values().filter(|places| places[0] == 1).count();
    assert!((3..=21).contains(&at_one), "{at_one} of 24");
    assert_eq!(one.count() + other.count(), 96);

    // Those of one that fails are answered by the other, and come back.
    let conversation = *places.iter().find(|(_, places)| places[0] == 1).expect("one of them").0;
    for (mood, expected) in [(500, (1, 1)), (200, (1, 0))] {
        one.turn(mood);
        let before = (one.count(), other.count());
        let id = format!("conversation-{conversation}");
        let call = gateways[0].post("/v1/messages").bearer(&token).header("x-claude-code-session-id", &id);
        call.json(&question(false)).send().expect(200);
        assert_eq!((one.count() - before.0, other.count() - before.1), expected, "{mood}");
    }
}
