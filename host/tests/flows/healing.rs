//! What instances and replicas find out once and know together: credentials, what an upstream refuses, how long texts are.

use std::thread;

use serde_json::{Value, json};

use crate::support::{
    Books, Exchange, Federation, Gateway, MODEL, Postgres, Site, Store, Upstream, discovery, eventually, message,
    question, said,
};

const BETA: &str = "not-yet-known-2026-01-01";

/// Asks each gateway so often, all at the same time; all must answer.
fn ask_at_once(gateways: &[&Gateway], token: &str, times: usize) {
    thread::scope(|scope| {
        for gateway in gateways {
            for _ in 0..times {
                scope.spawn(|| {
                    let answer = gateway.post("/v1/messages").bearer(token).json(&question(false)).send();
                    assert_eq!(answer.expect(200).json(), message());
                });
            }
        }
    });
}

#[test]
fn hundreds_of_requests_at_once_that_find_no_token_are_one_exchange_on_sqlite() {
    one_exchange(Store::Sqlite);
}

#[test]
fn hundreds_of_requests_at_once_at_two_hosts_that_find_no_token_are_one_exchange_on_postgresql() {
    one_exchange(Store::Postgres);
}

fn one_exchange(store: Store) {
    let Some((mut site, _database)) = store.site() else { return };
    let (provider, federation) = (discovery(), Federation::start());
    site.issuer = format!("http://{}", provider.address);
    site.has_session_secret = true;
    federation.configure(&mut site);
    let first = site.start();
    let session = site.session("ada");
    let other_site = site.replica();
    let replica = matches!(store, Store::Postgres).then(|| other_site.start());
    let gateways: Vec<&Gateway> = std::iter::once(&first).chain(&replica).collect();

    ask_at_once(&gateways, &session, 200);
    assert_eq!(federation.exchanges(), 1);

    // Withdrawn, it is exchanged once more for all of them.
    federation.withdraw(1);
    ask_at_once(&gateways, &session, 100);
    assert_eq!(federation.exchanges(), 2);

    // A new process finds it in the store.
    drop(gateways);
    drop(first);
    let again = site.start();
    ask_at_once(&[&again], &session, 50);
    assert_eq!(federation.exchanges(), 2);
}

/// An upstream that is older than its clients.
fn old() -> Upstream {
    Upstream::start(|exchange: Exchange| {
        let body = exchange.json();
        let refused = if exchange.seen.header("anthropic-beta").contains(BETA) {
            Some(format!("Unexpected value(s) `{BETA}` for the `anthropic-beta` header."))
        } else {
            let fields = ["safeguards", "context_management"].into_iter();
            let found = fields.clone().find(|field| body.get(*field).is_some());
            found.map(|field| format!("{field}: Extra inputs are not permitted"))
        };
        match refused {
            Some(message) => {
                let error = json!({"type": "invalid_request_error", "message": message});
                exchange.answer(400, &[], &json!({"type": "error", "error": error}));
            }
            None => exchange.answer(200, &[], &message()),
        }
    })
}

#[test]
fn what_an_upstream_refuses_by_name_is_left_out_by_all_instances_on_sqlite() {
    left_out(Store::Sqlite);
}

#[test]
fn what_an_upstream_refuses_by_name_is_left_out_by_another_host_on_postgresql() {
    left_out(Store::Postgres);
}

fn left_out(store: Store) {
    let Some((mut site, database)) = store.site() else { return };
    let (provider, upstream) = (discovery(), old());
    site.issuer = format!("http://{}", provider.address);
    site.has_session_secret = true;
    site.use_upstream(&upstream);
    "admin: {}\n".clone_into(&mut site.more);
    let first = site.start();
    let session = site.session("ada");
    let ask = |gateway: &Gateway, more: &str| {
        let body = format!("{{ \"model\":\"{MODEL}\",\"max_tokens\": 9.0e0{more},\"messages\":[ ] }}");
        let post = gateway.post("/v1/messages").bearer(&session).header("content-type", "application/json");
        post.header("anthropic-beta", &format!("one, {BETA}")).body(body).send()
    };
    let managed = ", \"context_management\" : {\"edits\":[ ]}";

    assert_eq!(ask(&first, "").expect(200).json(), message());
    assert_eq!(upstream.seen().len(), 2, "refused, and sent once more");
    assert_eq!(ask(&first, managed).expect(200).json(), message());
    let seen = upstream.seen();
    assert_eq!(seen.len(), 4, "the beta is gone from the first, the member from the second");
    assert_eq!(seen[2].header("anthropic-beta"), "one");
    let event = first.log.event("upstream.refusal", |event| event["kind"] == "field");
    assert_eq!((&event["upstream"], &event["name"]), (&json!("upstream-0"), &json!("context_management")));

    // Of every message that was answered there is one bill, however often it was sent.
    let books = Books::of(&site, database.as_ref());
    let bills = |count| {
        let settled = "select coalesce(sum(requests), 0) from spend where kind = 'day'";
        eventually("the bills", || (books.number(settled) == count).then_some(()));
    };
    bills(2);
    let other_site = site.replica();
    let gateway = match store {
        Store::Sqlite => {
            drop(first);
            site.start()
        }
        Store::Postgres => other_site.start(),
    };
    ask(&gateway, managed).expect(200);
    let seen = upstream.seen();
    assert_eq!(seen.len(), 5, "it knew before it asked");
    let body = format!("{{ \"model\":\"{MODEL}\",\"max_tokens\": 9.0e0,\"messages\":[ ] }}");
    assert_eq!((seen[4].header("anthropic-beta"), String::from_utf8_lossy(&seen[4].body)), ("one", body.into()));

    let refused = ask(&gateway, ", \"safeguards\":{}").expect(400);
    assert_eq!(refused.json()["error"]["message"], "safeguards: Extra inputs are not permitted");
    assert_eq!(upstream.seen().len(), 6);

    bills(3);
    let said = site.said("check", &["--online"]);
    for name in [BETA, "context_management"] {
        assert!(said.contains(name) && said.contains("requests go without it until"), "{said}");
    }
}

/// An Anthropic-format upstream that cannot count: two bytes of a request to a token.
fn uncounting() -> Upstream {
    Upstream::start(|exchange: Exchange| {
        if exchange.seen.path.ends_with("/count_tokens") {
            return exchange.answer(404, &[], &json!({"detail": "Not Found"}));
        }
        let mut told = message();
        told["usage"]["input_tokens"] = (exchange.seen.body.len() / 2).into();
        exchange.answer(200, &[], &told);
    })
}

#[test]
fn a_count_that_no_upstream_can_give_is_estimated_once_the_model_is_known_also_by_another_host() {
    let Some(database) = Postgres::start() else { return };
    let mut site = Site::for_inference(&discovery(), &uncounting());
    site.use_postgres(&database);
    let first = site.start();
    let session = site.session("ada");
    let body = |words: usize| {
        let text = "word ".repeat(words);
        json!({"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": text}]})
    };
    let count =
        |gateway: &Gateway| gateway.post("/v1/messages/count_tokens").bearer(&session).json(&body(1_000)).send();

    let untold = count(&first).expect(404);
    assert_eq!(untold.header("x-sallyport-count"), "");
    first.post("/v1/messages").bearer(&session).json(&body(8_000)).send().expect(200);
    let estimate = |gateway: &Gateway| {
        eventually("an estimate", || {
            let answer = count(gateway);
            (answer.status == 200).then_some(answer)
        })
    };
    let other_site = site.replica();
    for gateway in [&first, &other_site.start()] {
        let answer = estimate(gateway);
        assert_eq!(answer.header("x-sallyport-count"), "estimated");
        let tokens = answer.json()["input_tokens"].as_u64().expect("a number");
        assert!((2_500..=2_900).contains(&tokens), "{tokens}");
        let event = gateway.log.event("inference", |event| event["count"] == "estimated");
        assert_eq!((&event["status"], &event["upstream"]), (&json!(200), &Value::Null));
    }
}

#[test]
fn what_is_sent_once_more_is_masked_both_times_and_restored_for_the_client() {
    let (provider, host, words) = (discovery(), "10.12.0.7", "is at fault");
    let upstream = Upstream::start(move |mut exchange: Exchange| {
        let asked = exchange.json();
        let text = asked["messages"][0]["content"].as_str().expect("text").to_owned();
        if exchange.seen.header("anthropic-beta").contains(BETA) {
            let refusal = format!("Unexpected value(s) `{BETA}` for the `anthropic-beta` header. Asked: {text}");
            let error = json!({"type": "invalid_request_error", "message": refusal});
            return exchange.answer(400, &[], &json!({"type": "error", "error": error}));
        }
        if asked["max_tokens"] == 1 {
            let error = json!({"type": "invalid_request_error", "message": text});
            return exchange.answer(400, &[], &json!({"type": "error", "error": error}));
        }
        if asked["stream"] == true {
            exchange.begin_stream();
            let (half, rest) = text.split_at(text.len() / 2);
            for data in [
                json!({"type": "message_start", "message": {"usage": {"input_tokens": 5, "output_tokens": 1}}}),
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": half}}),
                json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": rest}}),
                json!({"type": "message_delta", "delta": {}, "usage": {"output_tokens": 4}}),
                json!({"type": "message_stop"}),
            ] {
                let event = format!("event: {}\ndata: {data}\n\n", data["type"].as_str().expect("a type"));
                exchange.piece(event.as_bytes()).expect("a reader");
            }
            return exchange.end();
        }
        let mut told = message();
        told["content"] = json!([{"type": "text", "text": text}]);
        exchange.answer(200, &[], &told);
    });
    for (most, stream, status) in [(9, false, 200), (9, true, 200), (1, false, 400)] {
        // A new site each time: what was refused once is left out from then on.
        let mut site = Site::for_inference(&provider, &upstream);
        site.more = "masking: {}\n".to_owned();
        let gateway = site.start();
        let before = upstream.seen().len();
        let content = format!("{host} {words}");
        let body = json!({
            "model": MODEL, "max_tokens": most, "stream": stream, "messages": [{"role": "user", "content": content}],
        });
        let post = gateway.post("/v1/messages").bearer(&site.session("ada")).header("anthropic-beta", BETA);
        let answer = post.json(&body).send().expect(status);

        let seen = &upstream.seen()[before..];
        let betas: Vec<&str> = seen.iter().map(|seen| seen.header("anthropic-beta")).collect();
        assert_eq!(betas, [BETA, ""], "refused, and sent once more");
        assert_eq!(seen[0].body, seen[1].body, "masked in the same way");
        let sent = String::from_utf8_lossy(&seen[1].body).into_owned();
        assert!(sent.contains(words) && !sent.contains(host), "{sent}");
        let text = answer.text();
        let text = if stream { said(text).concat() } else { text.to_owned() };
        assert!(text.contains(&content), "{text}");
        assert_eq!(answer.header("x-sallyport-masked"), "1");
        let event = gateway.log.event("inference", |_| true);
        assert_eq!((&event["masking"]["restored"], &event["masking"]["unknown"]), (&json!(1), &json!(0)), "{event}");
    }
}
