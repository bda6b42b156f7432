//! Two gateways on one `PostgreSQL` are one service.

use crate::support::{Browser, Device, Idp, Postgres, Site, Tokens, Upstream, poll, question, refresh};

#[test]
fn two_hosts_share_sign_ins_sessions_and_the_signing_ring() {
    two_hosts_are_one_service(false);
}

#[test]
fn two_hosts_with_one_session_secret_share_sign_ins_and_sessions() {
    two_hosts_are_one_service(true);
}

fn two_hosts_are_one_service(has_session_secret: bool) {
    let Some(database) = Postgres::start() else { return };
    let mut site = Site::new();
    site.has_session_secret = has_session_secret;
    site.use_postgres(&database);
    let Some(_idp) = Idp::start(&mut site) else { return };
    let upstream = Upstream::claude();
    site.use_upstream(&upstream);
    let replica = site.replica();
    // Both at once on an empty database: who comes second waits for the migrations of the first.
    let (first, second) = std::thread::scope(|scope| {
        let second = scope.spawn(|| replica.start());
        (site.start(), second.join().expect("the second gateway"))
    });
    // A migration that ran twice would have failed or left two records.
    let mut reported = [first.log.migrations(), second.log.migrations()].concat();
    reported.sort();
    reported.dedup();
    assert_ne!(reported, [""; 0], "migrations are reported");
    assert_eq!(database.query("select count(*) from schema_migrations"), Some(reported.len().to_string()));

    // Started at one, confirmed at the other, back at the first.
    let device = Device::authorize(&first);
    let browser = Browser::of("ada");
    let back = browser.authenticate(browser.confirm(&second, &device.user_code));
    browser.arrive(&first, back).expect(200);

    // Twenty polls at the same moment, half at each.
    let answers: Vec<_> = std::thread::scope(|scope| {
        let polls: Vec<_> = (0..20)
            .map(|index| if index % 2 == 0 { &first } else { &second })
            .map(|gateway| scope.spawn(|| poll(gateway, &device)))
            .collect();
        polls.into_iter().map(|poll| poll.join().expect("an answer")).collect()
    });
    let redeemed: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(redeemed.len(), 1, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        assert_eq!((answer.status, &answer.json()["error"]), (400, &"expired_token".into()));
    }

    let tokens = Tokens::of(&first, redeemed[0]);
    for gateway in [&first, &second] {
        gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
    }
    let renewed = Tokens::of(&second, &refresh(&second, &tokens.refresh));
    first.post("/v1/messages").bearer(&renewed.access).json(&question(false)).send().expect(200);
}
