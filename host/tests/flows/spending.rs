//! Money: caps hold against many requests at once on several hosts, and the books balance whatever dies.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Exchange, Gateway, PATIENCE, Postgres, Site, Store, Upstream, discovery, eventually, question};

const ADMIN_KEY: &str = "admin-key-for-tests-only-0123456789abcdef";

/// The section that turns metering on.
fn admin() -> String {
    format!("admin:\n  write_keys:\n    - {{id: ci, key: {ADMIN_KEY}}}\n")
}

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

fn set_cap(gateway: &Gateway, cap: &Value) {
    gateway.post("/v1/organizations/spend_limits").header("x-api-key", ADMIN_KEY).json(cap).send().expect(200);
}

fn admin_get(gateway: &Gateway, path: &str) -> Value {
    gateway.get(path).header("x-api-key", ADMIN_KEY).send().expect(200).json()
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
    set_cap(&gateways[0], &json!({"scope": {"type": "user", "user_id": "ada"}, "amount": "20", "period": "daily"}));
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
fn the_books_balance_when_hosts_are_killed_at_any_moment_on_postgresql() {
    the_books_balance_when_hosts_are_killed(Store::Postgres);
}

fn the_books_balance_when_hosts_are_killed(store: Store) {
    const ROUNDS: u64 = 6;
    const EACH: u64 = 25;
    let Some((mut site, database)) = store.site() else { return };
    let database = database.expect("a database to look into");
    let (provider, upstream) = (discovery(), numbered());
    site.issuer = format!("http://{}", provider.address);
    site.has_session_secret = true;
    site.use_upstream(&upstream);
    site.more = admin() + "enforcement: {reservation_ttl_seconds: 1}\n";
    let mut numbers = 0..;
    for round in 0..ROUNDS {
        let gateway = site.start();
        let asked: Vec<u64> = numbers.by_ref().take(usize::try_from(EACH).expect("few")).collect();
        std::thread::scope(|scope| {
            for number in asked {
                // Each request is somebody else's, so that each can be found in the books.
                let token = site.session(&format!("u{number}"));
                let ask = gateway.post("/v1/messages").bearer(&token).json(&numbered_question(number));
                scope.spawn(move || drop(ask.try_send()));
            }
            // Somewhere between the first reservation and the last settlement.
            std::thread::sleep(Duration::from_millis(20 + 37 * round));
            gateway.kill();
        });
    }
    let gateway = site.start();
    let number = |sql: &str| database.query(sql).expect("an answer").parse::<u64>().expect("a number");
    let ahead = "select count(*) from spend where kind = 'hold' and state = 'held' \
         and expires_at > extract(epoch from now()) * 1000";
    eventually("the time of the dead to be over", || (number(ahead) == 0).then_some(()));
    database.query("update pointers set changed_at = 0 where name = 'sweep'");
    // Somebody's request finds that a sweep is due; expired reservations are taken back by it.
    eventually("reservations of the dead to expire", || {
        let token = site.session("somebody");
        gateway.post("/v1/messages").bearer(&token).json(&numbered_question(0)).send().expect(200);
        database.query("update pointers set changed_at = 0 where name = 'sweep'");
        (number("select count(*) from spend where kind = 'hold' and state = 'held'") == 0).then_some(())
    });
    assert_eq!(number("select count(*) from spend where kind in ('day', 'week', 'month') and held <> 0"), 0);
    let rows = database
        .query(
            "select d.principal || ' ' || d.nanos || ' ' || d.requests || ' ' || h.state from spend d \
             join spend h on h.kind = 'hold' and h.owner = d.principal \
             where d.kind = 'day' and d.principal like 'u%'",
        )
        .expect("rows");
    let (mut settled, mut expired) = (0, 0);
    for row in rows.lines() {
        let [principal, nanos, requests, state] = row.split(' ').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let number: u64 = principal[1..].parse().expect("a number");
        match state {
            "settled" => {
                // A stream that was cut off by the kill is not settled: nobody was left to do it.
                assert_eq!((nanos, requests), (cost_of(number).to_string().as_str(), "1"), "{row}");
                settled += cost_of(number);
            }
            "expired" => {
                assert_eq!((nanos, requests), ("0", "0"), "{row}");
                expired += 1;
            }
            other => panic!("{other}: {row}"),
        }
    }
    let sums = "select coalesce(sum(nanos), 0)::bigint from spend where principal like 'u%' and kind = ";
    for kind in ["day", "week", "month", "usage"] {
        assert_eq!(number(&format!("{sums}'{kind}'")), settled, "{kind}");
    }
    let listed = admin_get(&gateway, "/v1/organizations/spend_reservations?state=expired&limit=1000");
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(expired));
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

#[test]
fn a_client_that_leaves_before_the_first_byte_pays_for_its_input() {
    let (provider, (upstream, requests)) = (discovery(), Upstream::held());
    let mut site = Site::for_inference(&provider, &upstream);
    site.more = admin();
    let gateway = site.start();
    let token = site.session("ada");
    let mut client = gateway.connect();
    client.post("/v1/messages", &token, &numbered_question(0));
    let mut exchange = requests.recv_timeout(PATIENCE).expect("a request");
    exchange.begin_stream();
    client.until("200 OK");
    drop(client);
    let start = json!({"type": "message_start", "message": {"usage": {"input_tokens": 1000, "output_tokens": 1}}});
    exchange.piece(format!("event: message_start\ndata: {start}\n\n").as_bytes()).expect("a reader");
    eventually("the input to be billed", || {
        let listed = admin_get(&gateway, "/v1/organizations/spend_limits/effective?user_ids[]=ada&period[]=daily");
        // Three dollars per million tokens.
        (listed["data"][0]["period_to_date_spend"] == "0.3").then_some(())
    });
    exchange.until_closed();
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
