//! After a power failure, everything that was promised still holds.

use crate::support::{Browser, Device, Idp, PATIENCE, Store, Tokens, Upstream, poll, question, sign_in};

#[test]
fn kill_9_during_a_stream_loses_no_sign_in_on_sqlite() {
    kill_9_during_a_stream_loses_no_sign_in(Store::Sqlite);
}

#[test]
fn kill_9_during_a_stream_loses_no_sign_in_on_postgresql() {
    kill_9_during_a_stream_loses_no_sign_in(Store::Postgres);
}

fn kill_9_during_a_stream_loses_no_sign_in(store: Store) {
    let Some((mut site, _database)) = store.site() else { return };
    let Some(_idp) = Idp::start(&mut site) else { return };
    let (upstream, requests) = Upstream::held();
    site.use_upstream(&upstream);
    let gateway = site.start();
    assert_ne!(gateway.log.migrations(), [""; 0], "migrations are reported");
    let tokens = sign_in(&gateway, "grace");
    let waiting = Device::authorize(&gateway);
    let approved = Device::authorize(&gateway);
    Browser::of("ada").sign_in(&gateway, &approved.user_code).expect(200);
    let half_way = Device::authorize(&gateway);
    let browser = Browser::of("ada");
    let back = browser.authenticate(browser.confirm(&gateway, &half_way.user_code));
    let mut client = gateway.connect();
    client.post("/v1/messages", &tokens.access, &question(true));
    let mut exchange = requests.recv_timeout(PATIENCE).expect("a request");
    exchange.begin_stream();
    exchange.piece(b"event: ping\ndata: {}\n\n").expect("a reader");
    client.until("event: ping");

    gateway.kill();
    client.until_closed();
    exchange.until_closed();
    let gateway = site.start();

    assert_eq!(gateway.log.migrations(), [""; 0], "a migration ran again");
    Tokens::of(&gateway, &poll(&gateway, &approved));
    browser.arrive(&gateway, back).expect(200);
    Tokens::of(&gateway, &poll(&gateway, &half_way));
    Browser::of("ada").sign_in(&gateway, &waiting.user_code).expect(200);
    Tokens::of(&gateway, &poll(&gateway, &waiting));
    gateway.get("/v1/models").bearer(&tokens.access).send().expect(200);
}
