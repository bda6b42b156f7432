//! Money: caps hold against many requests at once on several hosts, and the books balance whatever dies.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Books, Clock, Exchange, Gateway, Postgres, Site, Store, Streaming, Upstream, admin, discovery, eventually, question,
};

/// The usage that the upstream tells for the request with this number: each costs something else.
fn usage_of(number: u64) -> Value {
    json!({"input_tokens": 1000 + number, "output_tokens": 300 + number % 7})
}

/// What that is, in nano-dollars: 3 and 15 dollars per million tokens.
fn cost_of(number: u64) -> u64 {
    (1000 + number) * 3_000 + (300 + number % 7) * 15_000
}

/// An upstream that answers the request with the number `n` in its metadata with [`usage_of`] it, in a stream.
fn numbered() -> Upstream {
    Upstream::start(|mut exchange: Exchange| {
        let number = exchange.json()["metadata"]["number"].as_u64().unwrap_or_default();
        let usage = usage_of(number);
        let event = |kind: &str, event: &Value| format!("event: {kind}\ndata: {event}\n\n");
        let start = json!({"type": "message_start", "message": {"usage": {"input_tokens": usage["input_tokens"], "output_tokens": 1}}});
        let delta = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}});
        let report = json!({"type": "message_delta", "delta": {}, "usage": {"output_tokens": usage["output_tokens"]}});
        let pieces = [
            event("message_start", &start),
            event("content_block_delta", &delta),
            event("message_delta", &report),
            event("message_stop", &json!({"type": "message_stop"})),
        ];
        // A reader that dies ends the answer.
        if exchange.try_begin_stream().is_err() {
            return;
        }
        for piece in pieces {
            std::thread::sleep(Duration::from_millis(2));
            if exchange.piece(piece.as_bytes()).is_err() {
                return;
            }
        }
        exchange.try_end();
    })
}

fn numbered_question(number: u64) -> Value {
    let mut question = question(true);
    question["metadata"] = json!({"number": number});
    question
}

#[test]
fn a_thousand_requests_at_once_overshoot_a_cap_by_less_than_one() {
    let Some(database) = Postgres::start() else { return };
    let (provider, upstream) = (discovery(), numbered());
    let mut site = Site::for_inference(&provider, &upstream);
    site.use_postgres(&database);
    site.more = admin() + "enforcement: {fail_closed_on_error: true}\n";
    let replica = site.replica();
    let gateways = [site.start(), replica.start()];
    gateways[0].set_cap(&json!({"scope": {"type": "user", "user_id": "ada"}, "amount": "20", "period": "daily"}));
    let token = site.session("ada");
    let (answered, dearest) = (AtomicUsize::new(0), cost_of(999));
    std::thread::scope(|scope| {
        for number in 0..1000 {
            let (gateway, token, answered) = (&gateways[number % 2], &token, &answered);
            let number = u64::try_from(number).expect("few");
            scope.spawn(move || {
                let ask = gateway.post("/v1/messages").bearer(token).json(&numbered_question(number));
                let answer = ask.send();
                match answer.status {
                    200 => drop(answered.fetch_add(1, Ordering::Relaxed)),
                    429 => assert_eq!(answer.json()["error"]["type"], "billing_error"),
                    _ => panic!("{}", answer.status_and_text()),
                }
            });
        }
    });
    let number = |sql: &str| database.query(sql).expect("an answer").parse::<u64>().expect("a number");
    eventually("all reservations to end", || {
        (number("select coalesce(sum(held), 0)::bigint from spend where kind = 'day'") == 0).then_some(())
    });
    let spent = number("select nanos from spend where kind = 'day' and principal = 'ada'");
    let answered = u64::try_from(answered.into_inner()).expect("few");
    assert!(answered > 0);
    assert_eq!(number("select requests from spend where kind = 'day' and principal = 'ada'"), answered);
    // Twenty cents.
    assert!(spent < 200_000_000 + dearest, "{spent} nano-dollars for {answered} requests");
    // One after the other, the rest of the cap is used as well: nothing is lost to reservations.
    for number in 1000..1100 {
        gateways[1].post("/v1/messages").bearer(&token).json(&numbered_question(number)).send();
    }
    eventually("the cap to be reached", || {
        (number("select nanos from spend where kind = 'day' and principal = 'ada'") >= 200_000_000).then_some(())
    });
    let refused = gateways[0].post("/v1/messages").bearer(&token).json(&numbered_question(0)).send().expect(429);
    assert_eq!(refused.header("x-should-retry"), "false");
}

#[test]
fn the_books_balance_when_hosts_are_killed_at_any_moment_on_sqlite() {
    the_books_balance_when_hosts_are_killed(Store::Sqlite);
}

#[test]
fn the_books_balance_when_hosts_are_killed_at_any_moment_on_postgresql() {
    the_books_balance_when_hosts_are_killed(Store::Postgres);
}

fn the_books_balance_when_hosts_are_killed(store: Store) {
    const ROUNDS: u64 = 6;
    const EACH: u64 = 25;
    let upstream = numbered();
    let Some((mut site, database)) = Site::metered(store, &upstream) else { return };
    let Some(clock) = Clock::of(&mut site) else { return };
    // Longer than any request takes here, and over long before what was settled is forgotten.
    site.more += "enforcement: {reservation_ttl_seconds: 60, fail_closed_on_error: true}\n";
    let books = Books::of(&site, database.as_ref());
    let mut numbers = 0..;
    for round in 0..ROUNDS {
        let gateway = site.start();
        let (begun, finished) = (upstream.seen().len(), AtomicUsize::new(0));
        let asked: Vec<u64> = numbers.by_ref().take(usize::try_from(EACH).expect("few")).collect();
        std::thread::scope(|scope| {
            for number in asked {
                // Each request is somebody else's, so that each can be found in the books.
                let token = site.session(&format!("u{number}"));
                let ask = gateway.post("/v1/messages").bearer(&token).json(&numbered_question(number));
                let finished = &finished;
                scope.spawn(move || {
                    if ask.try_send().is_ok() {
                        finished.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            // Somewhere between the first reservation and the last settlement: another moment in every round.
            eventually("the moment", || {
                let answered = u64::try_from(finished.load(Ordering::Relaxed)).expect("few");
                (upstream.seen().len() > begun && answered >= 4 * round).then_some(())
            });
            gateway.kill();
        });
    }
    // When the time of the dead is over, somebody's request finds that a sweep is due, and it takes back what they held.
    clock.turn("+2m");
    let gateway = site.start();
    let token = site.session("somebody");
    gateway.post("/v1/messages").bearer(&token).json(&numbered_question(0)).send().expect(200);
    eventually("reservations of the dead to expire", || {
        (books.number("select count(*) from spend where kind = 'hold' and state = 'held'") == 0).then_some(())
    });
    assert_eq!(books.number("select count(*) from spend where kind in ('day', 'week', 'month') and held <> 0"), 0);
    let rows = books.query(
        "select d.principal, d.nanos, d.requests, h.state from spend d \
         join spend h on h.kind = 'hold' and h.owner = d.principal where d.kind = 'day' and d.principal like 'u%'",
    );
    let asked = upstream.seen().into_iter().filter(|seen| seen.path == "/v1/messages").count();
    let (mut settled, mut requests, mut expired) = (0, 0, 0);
    for row in rows.lines() {
        let [principal, nanos, count, state] = row.split('|').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let number: u64 = principal[1..].parse().expect("a number");
        match state {
            "settled" => {
                // A stream that was cut off by the kill is not settled: nobody was left to do it.
                assert_eq!((nanos, count), (cost_of(number).to_string().as_str(), "1"), "{row}");
                settled += cost_of(number);
                requests += 1;
            }
            "expired" => {
                assert_eq!((nanos, count), ("0", "0"), "{row}");
                expired += 1;
            }
            other => panic!("{other}: {row}"),
        }
    }
    // The upstream was asked for somebody, too; what it was asked for and is nowhere in the books was never let in.
    assert!(
        requests + expired + 1 >= asked,
        "{asked} requests reached the upstream, {requests} and {expired} are known"
    );
    for kind in ["day", "week", "month", "usage"] {
        let sum = format!("select coalesce(sum(nanos), 0) from spend where principal like 'u%' and kind = '{kind}'");
        assert_eq!(books.number(&sum), settled, "{kind}");
    }
    let listed = gateway.read("/v1/organizations/spend_reservations?state=expired&limit=1000");
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(expired));
    println!("{requests} requests settled, {expired} reservations expired, of {asked} that the upstream was asked");
    assert!(settled > 0 && expired > 0, "{settled} nano-dollars settled, {expired} reservations expired");
}

#[test]
fn a_database_that_is_away_or_slow_costs_nobody_their_answer_and_no_money_is_lost() {
    let Some(mut database) = Postgres::start() else { return };
    let (provider, upstream) = (discovery(), numbered());
    let mut site = Site::for_inference(&provider, &upstream);
    site.use_postgres(&database);
    site.more = admin();
    let gateway = site.start();
    let token = site.session("ada");
    let ask = |number| gateway.post("/v1/messages").bearer(&token).json(&numbered_question(number)).send().expect(200);
    ask(1);
    let spent =
        |database: &Postgres| database.query("select nanos from spend where kind = 'day' and principal = 'ada'");
    let until = |database: &Postgres, expected: u64| {
        eventually("the books to be complete", || (spent(database)? == expected.to_string()).then_some(()));
    };
    until(&database, cost_of(1));

    database.stop();
    let answer = ask(2);
    assert_eq!(answer.header("anthropic-ratelimit-unified-status"), "");
    database.start_again();
    until(&database, cost_of(1) + cost_of(2));

    let lock = Lock::on(&database, "spend");
    ask(3);
    drop(lock);
    until(&database, cost_of(1) + cost_of(2) + cost_of(3));
    let requests = database.query("select requests from spend where kind = 'day' and principal = 'ada'");
    assert_eq!(requests.as_deref(), Some("3"));
    eventually("no reservation to remain", || {
        let held = database.query("select held from spend where kind = 'day' and principal = 'ada'");
        (held.as_deref() == Some("0")).then_some(())
    });
}

#[test]
fn a_database_that_is_away_or_slow_closes_the_door_where_that_is_configured() {
    let Some(mut database) = Postgres::start() else { return };
    let (provider, upstream) = (discovery(), numbered());
    let mut site = Site::for_inference(&provider, &upstream);
    site.use_postgres(&database);
    site.more = admin() + "enforcement: {fail_closed_on_error: true}\n";
    let gateway = site.start();
    let token = site.session("ada");
    let ask = || gateway.post("/v1/messages").bearer(&token).json(&numbered_question(1)).send();
    ask().expect(200);
    let is_closed = || {
        let refused = ask().expect(429);
        assert_eq!(refused.json()["error"], json!({"type": "billing_error", "message": "spend limit unavailable"}));
        assert_eq!(refused.header("anthropic-ratelimit-unified-overage-disabled-reason"), "fetch_error");
    };
    let lock = Lock::on(&database, "spend_limits");
    is_closed();
    drop(lock);
    eventually("an open door", || (ask().status == 200).then_some(()));
    database.stop();
    is_closed();
    database.start_again();
    eventually("an open door", || (ask().status == 200).then_some(()));
    assert_eq!(upstream.seen().iter().filter(|seen| seen.path != "/v1/messages").count(), 0);
}

/// What Ada has spent, in cents, once it is `expected`.
fn until_spent(gateway: &Gateway, expected: &str) {
    eventually("the books to be complete", || {
        let listed = gateway.read("/v1/organizations/spend_limits/effective?user_ids[]=ada&period[]=daily");
        (listed["data"][0]["period_to_date_spend"] == expected).then_some(())
    });
}

fn event(data: &Value) -> Vec<u8> {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().expect("a name")).into_bytes()
}

fn start_of_1000() -> Value {
    json!({"type": "message_start", "message": {"usage": {"input_tokens": 1000, "output_tokens": 1}}})
}

fn text(text: &str) -> Value {
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
}

#[test]
fn a_client_that_leaves_before_the_first_byte_pays_for_its_input() {
    let mut streaming = Streaming::asked(|site| site.more = admin());
    streaming.exchange.begin_stream();
    streaming.client.until("200 OK");
    drop(streaming.client);
    streaming.exchange.piece(&event(&start_of_1000())).expect("a reader");
    // Three dollars per million tokens.
    until_spent(&streaming.gateway, "0.3");
    streaming.exchange.until_closed();
}

#[test]
fn an_answer_that_breaks_off_is_billed_by_the_last_figure_and_an_estimate_of_what_followed() {
    let mut streaming = Streaming::asked(|site| site.more = admin());
    let exchange = &mut streaming.exchange;
    exchange.begin_stream();
    exchange.piece(&event(&start_of_1000())).expect("a reader");
    // Told: 100 tokens of output. What it was told for counts no more than that.
    exchange.piece(&event(&text(&"x".repeat(4000)))).expect("a reader");
    let told = json!({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 100}});
    exchange.piece(&event(&told)).expect("a reader");
    // Not told: 400 characters, a hundred tokens.
    exchange.piece(&event(&text(&"y".repeat(400)))).expect("a reader");
    streaming.client.until(&"y".repeat(400));
    drop(streaming.client);
    // 1000 tokens of input and 200 of output: 0.3 cents and 0.3 cents.
    until_spent(&streaming.gateway, "0.6");
    streaming.exchange.until_closed();
}

/// Keeps a table to itself, so that statements about it wait, until it is released or dropped.
struct Lock<'a>(&'a Postgres, Child);

impl<'a> Lock<'a> {
    fn on(database: &'a Postgres, table: &str) -> Self {
        let address = database.address();
        let (host, port) = address.rsplit_once(':').expect("both");
        let sql = format!("begin; lock table {table} in access exclusive mode; select pg_sleep(600)");
        let child = Command::new(database.psql())
            .args(["-X", "-q", "-h", host, "-p", port, "-U", "sallyport", "-d", "postgres", "-c", &sql])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("psql");
        eventually("a lock", || database.query(&format!("select count(*) {LOCKS}")).filter(|found| found != "0"));
        Self(database, child)
    }
}

/// The sessions that have a table to themselves.
const LOCKS: &str = "from pg_locks where mode = 'AccessExclusiveLock' and granted and locktype = 'relation' \
     and pid <> pg_backend_pid()";

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        self.0.query(&format!("select pg_terminate_backend(pid) {LOCKS}"));
        let _ = self.1.wait();
    }
}
