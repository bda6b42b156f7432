//! SIGTERM: nothing new, and what is there may finish.

use crate::support::{Site, Streaming, Upstream, discovery, eventually};

#[test]
fn a_stream_finishes_after_sigterm_and_nobody_new_is_let_in() {
    let Streaming { site: _site, mut gateway, mut client, mut exchange } = Streaming::asked(|_| ());
    exchange.begin_stream();
    exchange.piece(b"event: ping\ndata: {\"before\": true}\n\n").expect("a reader");
    client.until("before");

    gateway.terminate();
    eventually("the port to close", || gateway.refuses_connections().then_some(()));
    exchange.piece(b"event: ping\ndata: {\"after\": true}\n\n").expect("a reader");
    client.until("after");
    exchange.end();

    client.until("\r\n0\r\n\r\n");
    assert_eq!(gateway.until_exit().code(), Some(0));
    assert_eq!(gateway.log.events("inference").len(), 1);
}

#[test]
fn an_idle_gateway_ends_at_once_on_sigterm() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let mut gateway = site.start();
    // A kept-alive connection is no reason to stay.
    let mut idle = gateway.connect();
    idle.send(format!("GET /healthz HTTP/1.1\r\nhost: {}\r\n\r\n", gateway.address));
    idle.until("ok");

    gateway.terminate();

    assert_eq!(gateway.until_exit().code(), Some(0));
    assert!(idle.until_closed().ends_with("ok"));
}

#[test]
fn a_stream_without_end_is_cut_when_the_drain_time_is_over() {
    let Streaming { site: _site, mut gateway, mut client, exchange: _exchange } = Streaming::begun(|site| {
        site.environment.push(("CLAUDE_GATEWAY_DRAIN_TIMEOUT_MS", "300".to_owned()));
    });

    gateway.terminate();

    assert_eq!(gateway.until_exit().code(), Some(0));
    assert!(!client.until_closed().ends_with("0\r\n\r\n"));
}
