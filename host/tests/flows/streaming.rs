//! An answer in flight is never held: not for a client that waits, and not in memory for one that does not read.

use std::io::Cursor;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reqwest::blocking::{Body, Client};

use crate::support::{Exchange, PATIENCE, Site, Streaming, Upstream, discovery, eventually, question};

#[test]
fn each_piece_arrives_before_the_upstream_sends_the_next() {
    let Streaming { site: _site, gateway, mut client, mut exchange } = Streaming::asked(|_| ());

    exchange.begin_stream();
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/event-stream"), "{head}");
    for index in 0..50 {
        let piece = format!("event: ping\ndata: {{\"type\": \"ping\", \"index\": {index}}}\n\n");
        exchange.piece(piece.as_bytes()).expect("a reader");
        client.until(&piece);
    }
    // A part of an event is as good as a whole one.
    exchange.piece(b"event: pi").expect("a reader");
    client.until("event: pi\r\n");
    exchange.piece(b"ng\ndata: {}\n\n").expect("a reader");
    exchange.end();
    client.until("\r\n0\r\n\r\n");
    assert_eq!(gateway.log.event("inference", |_| true)["status"], 200);
}

#[test]
fn a_client_that_leaves_takes_the_upstream_request_with_it() {
    let Streaming { site: _site, gateway, client, exchange } = Streaming::begun(|_| ());

    drop(client);

    // Nothing more is sent, so only the client's leaving can end this.
    exchange.until_closed();
    let event = gateway.log.event("inference", |event| event["sub"] == "ada");
    assert_eq!((event["status"].as_u64(), event["upstream"].as_str()), (Some(200), Some("upstream-0")), "{event}");
}

#[test]
fn a_client_that_leaves_before_the_answer_is_in_the_audit_trail() {
    let Streaming { site: _site, gateway, client, mut exchange } = Streaming::asked(|_| ());

    drop(client);

    // The upstream may be asked to stop or not; what it does is accounted for.
    let _ = exchange.try_begin_stream();
    exchange.until_closed();
    gateway.log.event("inference", |event| event["sub"] == "ada");
}

#[test]
fn a_client_that_leaves_over_http_2_takes_the_upstream_request_with_it() {
    let body = question(true).to_string();
    leaves_over_http_2(|| body.clone().into(), Exchange::until_closed);
}

#[test]
fn that_a_client_without_a_declared_length_left_is_noticed_at_the_next_piece() {
    let body = question(true).to_string();

    leaves_over_http_2(
        || Body::new(Cursor::new(body.clone())),
        |mut exchange| {
            // Only a body of known length can tell that its sender left.
            eventually("the upstream request to end", || exchange.piece(b": more\n\n").is_err().then_some(()));
        },
    );
}

/// Streams the first piece of an answer to a client that then resets the stream; the connection stays. `then` is what
/// the upstream sees.
fn leaves_over_http_2(body: impl Fn() -> Body + Sync, then: impl FnOnce(Exchange)) {
    let (provider, (upstream, requests)) = (discovery(), Upstream::held());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();
    let client = Client::builder().http2_prior_knowledge().timeout(PATIENCE).build().expect("a client");
    let (response, exchange) = std::thread::scope(|scope| {
        let ask = scope.spawn(|| {
            let call = client.post(gateway.url("/v1/messages")).bearer_auth(site.session("ada"));
            call.body(body()).send().expect("an answer")
        });
        let mut exchange = requests.recv_timeout(PATIENCE).expect("a request");
        exchange.begin_stream();
        exchange.piece(b"event: ping\ndata: {}\n\n").expect("a reader");
        (ask.join().expect("an answer"), exchange)
    });
    assert_eq!(response.status().as_u16(), 200);
    drop(response);

    then(exchange);
    gateway.log.event("inference", |event| event["sub"] == "ada");
}

#[test]
fn an_upstream_that_breaks_off_breaks_the_answer_off() {
    let Streaming { site: _site, gateway, mut client, exchange } = Streaming::begun(|_| ());

    drop(exchange);

    let received = client.until_closed();
    assert!(!received.ends_with("0\r\n\r\n"), "a broken answer must not look whole: {received:?}");
    gateway.log.event("inference", |event| event["sub"] == "ada");
    gateway.get("/readyz").send().expect(200);
}

#[test]
fn a_reader_that_does_not_read_holds_the_upstream_back() {
    const OFFERED: u64 = 200 << 20;
    const PIECE: usize = 64 << 10;
    const BOUND: u64 = 48 << 20;
    let (provider, (upstream, requests)) = (discovery(), Upstream::held());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();
    // Once, so that what every first request needs is there.
    let mut warm = gateway.connect();
    warm.post("/v1/messages", &site.session("ada"), &question(true));
    let mut exchange = requests.recv_timeout(PATIENCE).expect("a request");
    exchange.begin_stream();
    exchange.piece(b"event: ping\ndata: {}\n\n").expect("a reader");
    warm.until("event: ping");
    exchange.end();
    warm.until("\r\n0\r\n\r\n");
    let before = gateway.resident();

    let mut client = gateway.connect();
    client.post("/v1/messages", &site.session("ada"), &question(true));
    let mut exchange = requests.recv_timeout(PATIENCE).expect("a request");
    exchange.begin_stream();
    exchange.piece(b"event: ping\ndata: {}\n\n").expect("a reader");
    client.until("event: ping");
    let sent = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let piece = vec![b'x'; PIECE];
            while sent.load(Ordering::Relaxed) < OFFERED {
                exchange.piece(&piece).expect("a reader");
                sent.fetch_add(PIECE as u64, Ordering::Relaxed);
            }
            exchange.end();
        });
        let mut last = (Instant::now(), 0);
        eventually("the upstream to be held back", || {
            let now = sent.load(Ordering::Relaxed);
            if now != last.1 {
                last = (Instant::now(), now);
            }
            (now > 0 && last.0.elapsed() > Duration::from_secs(1)).then_some(())
        });
        let held = sent.load(Ordering::Relaxed);
        let grown = gateway.resident().saturating_sub(before);
        println!("held back after {} KiB; {} KiB more resident memory", held >> 10, grown >> 10);
        assert!(held < BOUND, "{held} bytes were taken from the upstream for a reader that reads nothing");
        assert!(grown < BOUND, "memory grew by {grown} bytes");

        // Once it reads, everything comes.
        let received = client.drain() as u64;
        assert!(received >= OFFERED, "{received} of {OFFERED} bytes arrived");
    });
    let grown = gateway.resident().saturating_sub(before);
    println!("{} KiB more resident memory after {} MiB", grown >> 10, OFFERED >> 20);
    assert!(grown < BOUND, "memory grew by {grown} bytes");
}
