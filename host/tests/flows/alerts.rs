//! Receivers of alerts about spend: told once for each threshold, by whichever host, again if they fail, and waited for
//! by nobody.

use std::fmt::Write;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{
    Books, Clock, Exchange, Gateway, MODEL, PATIENCE, Site, Store, Upstream, eventually, question_of,
};

const SECRET: &str = "secret-of-the-receiver-for-tests-only";

/// When the story begins, and that in seconds since 1970.
const START: (&str, u64) = ("2030-06-03 10:00:00", 1_906_711_200);

/// What an alert says, after its signature was found right, and made at this second.
fn verified(exchange: &Exchange, at: u64) -> Value {
    let seen = &exchange.seen;
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/spend"));
    let signature = seen.header("x-sallyport-signature");
    let (time, given) = signature.split_once(",v1=").expect("a time and a digest");
    let time = time.strip_prefix("t=").expect("a time");
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length");
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(&seen.body);
    let digest = mac.finalize().into_bytes();
    let expected = digest.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    assert_eq!(given, expected);
    assert_eq!(time.parse::<u64>().expect("seconds"), at);
    let body = exchange.json();
    assert_eq!(seen.header("x-sallyport-delivery"), body["id"].as_str().expect("an id"));
    body
}

/// Has Ada ask for so many answers of ten cents at once, at each gateway.
fn spend(gateways: &[Gateway], token: &str, each: usize) {
    let ten = json!({"input_tokens": 0, "output_tokens": 0, "server_tool_use": {"web_search_requests": 10}});
    std::thread::scope(|scope| {
        for number in 0..each * gateways.len() {
            let (gateway, ten) = (&gateways[number % gateways.len()], &ten);
            scope.spawn(move || {
                let ask = gateway.post("/v1/messages").bearer(token).json(&question_of(MODEL, ten, number % 2 == 0));
                ask.send().expect(200);
            });
        }
    });
}

fn story(store: Store, hosts: usize) {
    let (receiver, deliveries) = Upstream::held();
    let Some((mut site, database)) = Site::metered(store, &Upstream::told()) else { return };
    let Some(clock) = Clock::of(&mut site) else { return };
    clock.stop_at(START.0);
    site.transcript.secret(SECRET);
    writeln!(
        site.more,
        "  alerts:\n    - {{ at: [25, 45], webhook: \"http://{}/spend\", scope: user, secret: {SECRET} }}",
        receiver.address
    )
    .expect("a string takes everything");
    let sites: Vec<Site> = (1..hosts).map(|_| site.replica()).collect();
    let gateways: Vec<Gateway> = std::iter::once(&site).chain(&sites).map(Site::start).collect();
    let books = Books::of(&site, database.as_ref());
    gateways[0].set_cap(&json!({"scope": {"type": "user", "user_id": "ada"}, "amount": "2000", "period": "daily"}));
    let token = site.session_with(&json!({"sub": "ada", "iat": START.1, "exp": START.1 + 86_400}));
    let settled = |count: u64| {
        let requests = "select coalesce(sum(requests), 0) from spend where kind = 'day' and principal = 'ada'";
        eventually("the books to be complete", || (books.number(requests) == count).then_some(()));
    };
    let receive = || deliveries.recv_timeout(PATIENCE).expect("a delivery");

    // Six dollars from all hosts at once, while the receiver does not answer: everybody gets an answer all the same.
    spend(&gateways, &token, 60 / hosts);
    settled(60);
    let first = receive();
    let told = verified(&first, START.1);
    let about =
        ["type", "threshold_percent", "source", "user_id", "period", "amount", "currency"].map(|name| &told[name]);
    assert_eq!(json!(about), json!(["spend_alert", 25, "user", "ada", "daily", "2000", "USD"]));
    let cents: u64 = told["period_to_date_spend"].as_str().expect("an amount").parse().expect("whole cents");
    assert!((500..=600).contains(&cents), "{told}");
    first.answer(500, &[], &json!({}));
    eventually("the failure to be told", || {
        gateways.iter().any(|gateway| gateway.log.text().contains("it answered 500; tried again later")).then_some(())
    });
    let state = || books.query("select attempts, state from alerts order by created_at, id");
    assert_eq!(state(), "1|due");

    // Not before its time; then the next request of anybody has it sent again, the same.
    clock.stop_at("2030-06-03 10:00:40");
    spend(&gateways, &token, 1);
    let second = receive();
    assert_eq!(verified(&second, START.1 + 40), told);
    second.answer(204, &[], &Value::Null);
    eventually("the delivery to be noted", || (state() == "2|sent").then_some(()));
    settled(60 + hosts as u64);

    // The next threshold, from all hosts at once; and nothing more of either.
    spend(&gateways, &token, 36 / hosts);
    let third = receive();
    assert_eq!(verified(&third, START.1 + 40)["threshold_percent"], 45);
    third.answer(200, &[], &json!({}));
    eventually("the delivery to be noted", || (state() == "2|sent\n1|sent").then_some(()));
    settled((60 + hosts + 36 / hosts * hosts) as u64);
    clock.stop_at("2030-06-03 12:00:00");
    spend(&gateways, &token, 1);
    settled((60 + 2 * hosts + 36 / hosts * hosts) as u64);
    assert!(deliveries.try_recv().is_err(), "nobody is told twice");
    assert_eq!(books.number("select count(*) from alerts"), 2);
}

#[test]
fn two_hosts_tell_a_threshold_once_on_postgresql() {
    story(Store::Postgres, 2);
}

#[test]
fn a_receiver_that_fails_is_told_again_and_delays_nobody_on_sqlite() {
    story(Store::Sqlite, 1);
}
