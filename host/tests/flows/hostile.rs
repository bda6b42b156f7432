//! Upstreams that break off, stall, lie, flood, or speak no HTTP at all: the client learns what happened, the books are
//! right, memory stays bounded, and the next request is served.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::cloud::{EVENTS_HEAD, FRAMES_HEAD, Wanted, chunk, event};
use crate::support::{Exchange, Gateway, PATIENCE, Site, Upstream, discovery, eventually};

const ADMIN_KEY: &str = "admin-key-for-tests-only-0123456789abcdef";

/// The entries that a case is tried with: each serves the case in a wire format of its own.
const KINDS: [(&str, &str); 3] = [
    ("anthropic", "provider: anthropic, auth: { api_key: \"${UPSTREAM_KEY}\" }"),
    ("bedrock", "provider: bedrock, region: us-east-1, auth: { aws_bearer_token: \"${UPSTREAM_KEY}\" }"),
    ("foundry", "provider: foundry, resource: res-1, auth: { api_key: \"${UPSTREAM_KEY}\" }"),
];

/// What a client sees in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sees {
    /// A whole answer.
    Whole,
    /// The gateway's own 502.
    Nothing,
    /// A whole refusal.
    Refusal(u16),
    /// An answer that breaks off.
    Broken,
    /// A stream with one error event at its end.
    Failure,
}
use Sees::{Broken, Failure, Nothing, Refusal, Whole};

/// One way to misbehave.
struct Case {
    name: &'static str,
    /// Whether the client asks for a stream.
    streams: bool,
    /// What is done with a request, by its number of the case.
    act: fn(&mut Exchange, Wanted),
    /// What the client sees from an upstream whose answers are relayed, and from clouds with frames and with events.
    sees: [Sees; 3],
    /// What is billed in those cases, in cents.
    cents: [&'static str; 3],
}

/// A thousand tokens of input are half a cent.
fn start() -> Value {
    json!({"type": "message_start", "message": {"usage": {"input_tokens": 1000, "output_tokens": 1}}})
}

/// A hundred tokens of output, reckoned by their characters: a quarter of a cent.
fn delta() -> Value {
    let text = "x".repeat(400);
    json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})
}

/// Four hundred tokens of output: a cent.
fn report() -> Value {
    json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 400}})
}

/// An event in the form that is wanted.
fn written(wanted: Wanted, one: &Value) -> Vec<u8> {
    if wanted == Wanted::Frames { chunk(one) } else { event(one) }
}

/// The head of the stream that is wanted, and these events.
fn begin(exchange: &mut Exchange, wanted: Wanted, events: &[Value]) {
    exchange.begin(if wanted == Wanted::Frames { FRAMES_HEAD } else { EVENTS_HEAD });
    for one in events {
        exchange.piece(&written(wanted, one)).expect("a reader");
    }
}

/// Writes what a reader may not want to the end.
fn offer(exchange: &mut Exchange, bytes: &[u8]) -> bool {
    exchange.raw(bytes).is_ok()
}

const MEGABYTE: usize = 1 << 20;
/// What a flood is.
const FLOOD: usize = 100;
/// The head of a document that is a flood, and its end.
const FLOOD_START: &str = "{\"content\":[{\"type\":\"text\",\"text\":\"";
const FLOOD_END: &str = "\"}],\"usage\":{\"input_tokens\":1000,\"output_tokens\":400}}";

/// A flood of JSON whose length is told or not.
fn flood(exchange: &mut Exchange, is_told: bool) {
    let length = FLOOD_START.len() + FLOOD * MEGABYTE + FLOOD_END.len();
    let framing = if is_told { format!("content-length: {length}") } else { "transfer-encoding: chunked".to_owned() };
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{framing}\r\n\r\n");
    let piece = |bytes: &[u8]| {
        if is_told { bytes.to_vec() } else { [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat() }
    };
    let text = piece(&vec![b'x'; MEGABYTE]);
    let mut goes_on = offer(exchange, head.as_bytes()) && offer(exchange, &piece(FLOOD_START.as_bytes()));
    for _ in 0..FLOOD {
        goes_on = goes_on && offer(exchange, &text);
    }
    if goes_on && offer(exchange, &piece(FLOOD_END.as_bytes())) && !is_told {
        offer(exchange, b"0\r\n\r\n");
    }
}

const CASES: &[Case] = &[
    Case { name: "closes before it answers", streams: true, act: |_, _| {}, sees: [Nothing; 3], cents: ["0"; 3] },
    Case {
        name: "closes after its headers",
        streams: true,
        act: |exchange, wanted| begin(exchange, wanted, &[]),
        sees: [Broken, Failure, Failure],
        cents: ["0"; 3],
    },
    Case {
        name: "closes after its first event",
        streams: true,
        act: |exchange, wanted| begin(exchange, wanted, &[start()]),
        sees: [Broken, Failure, Failure],
        cents: ["0.5"; 3],
    },
    Case {
        name: "closes in the middle of an event",
        streams: true,
        act: |exchange, wanted| {
            begin(exchange, wanted, &[start(), delta()]);
            exchange.piece(&written(wanted, &delta())[..100]).expect("a reader");
        },
        sees: [Broken, Failure, Failure],
        cents: ["0.75"; 3],
    },
    Case {
        name: "closes after it has told what it costs",
        streams: true,
        act: |exchange, wanted| begin(exchange, wanted, &[start(), delta(), report()]),
        sees: [Broken, Failure, Failure],
        cents: ["1.5"; 3],
    },
    Case {
        name: "ends its half of the connection in the middle",
        streams: true,
        act: |exchange, wanted| {
            begin(exchange, wanted, &[start(), delta()]);
            exchange.half_close();
            exchange.until_gone();
        },
        sees: [Broken, Failure, Failure],
        cents: ["0.75"; 3],
    },
    Case {
        name: "ends without a word",
        streams: true,
        act: |exchange, wanted| {
            begin(exchange, wanted, &[start(), delta()]);
            offer(exchange, b"0\r\n\r\n");
        },
        sees: [Whole; 3],
        cents: ["0.75"; 3],
    },
    Case {
        name: "says it is chunked and is not",
        streams: true,
        act: |exchange, wanted| {
            begin(exchange, wanted, &[start()]);
            offer(exchange, b"this is no chunk\r\n");
        },
        sees: [Broken, Failure, Failure],
        cents: ["0.5"; 3],
    },
    Case {
        name: "sends garbage in place of events",
        streams: true,
        act: |exchange, wanted| {
            begin(exchange, wanted, &[]);
            exchange
                .piece(&[b"\xff\x00\xfe garbage \n\n\r\r".repeat(50), b"data: {\n\n".to_vec()].concat())
                .expect("a reader");
            offer(exchange, b"0\r\n\r\n");
        },
        sees: [Whole, Failure, Failure],
        cents: ["0"; 3],
    },
    Case {
        name: "sends garbage in place of HTTP",
        streams: true,
        act: |exchange, _| {
            offer(exchange, &b"\x16\x03\x01\x02\x00garbage\r\n\r\n".repeat(20));
        },
        sees: [Nothing; 3],
        cents: ["0"; 3],
    },
    Case {
        name: "sends headers without end",
        streams: true,
        act: |exchange, _| {
            let line = format!("x-filler: {}\r\n", "y".repeat(1000));
            if offer(exchange, b"HTTP/1.1 200 OK\r\n") {
                let _ = (0..4000).all(|_| offer(exchange, line.as_bytes()));
            }
        },
        sees: [Nothing; 3],
        cents: ["0"; 3],
    },
    Case {
        name: "breaks off in the middle of a document",
        streams: false,
        act: |exchange, _| {
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n";
            offer(exchange, format!("{head}{{\"content\": \"{}", "x".repeat(386)).as_bytes());
        },
        // A hundred tokens of output, and input that was counted: eleven tokens.
        sees: [Broken, Nothing, Nothing],
        cents: ["0.256", "0", "0"],
    },
    Case {
        name: "sends HTML in place of a document",
        streams: false,
        act: |exchange, _| {
            offer(
                exchange,
                b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: 6\r\n\r\n<html>",
            );
        },
        // Two tokens, and eleven.
        sees: [Whole, Nothing, Nothing],
        cents: ["0.011", "0", "0"],
    },
    Case {
        name: "refuses and does not say why",
        streams: false,
        act: |exchange, _| {
            offer(exchange, b"HTTP/1.1 429 No\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{");
            exchange.until_gone();
        },
        sees: [Refusal(429); 3],
        cents: ["0"; 3],
    },
    Case {
        name: "floods with one event",
        streams: true,
        act: |exchange, wanted| {
            begin(exchange, wanted, &[start()]);
            // For frames: the largest length there may be, and no checksum that fits.
            let first: &[u8] = if wanted == Wanted::Frames { &[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] } else { b"data: " };
            if exchange.piece(first).is_ok() {
                let text = vec![b'x'; MEGABYTE];
                let _ = (0..FLOOD).all(|_| exchange.piece(&text).is_ok()) && offer(exchange, b"0\r\n\r\n");
            }
        },
        sees: [Whole, Failure, Failure],
        cents: ["0.5"; 3],
    },
    Case {
        name: "floods with events",
        streams: true,
        act: |exchange, wanted| {
            begin(exchange, wanted, &[start()]);
            let some = written(wanted, &delta()).repeat(2000);
            for _ in 0..FLOOD * MEGABYTE / some.len() {
                exchange.piece(&some).expect("a reader");
            }
            exchange.piece(&written(wanted, &report())).expect("a reader");
            exchange.piece(&written(wanted, &json!({"type": "message_stop"}))).expect("a reader");
            offer(exchange, b"0\r\n\r\n");
        },
        sees: [Whole; 3],
        cents: ["1.5"; 3],
    },
    Case {
        name: "floods with a document of known length",
        streams: false,
        act: |exchange, _| flood(exchange, true),
        sees: [Whole, Nothing, Nothing],
        cents: ["1.5", "0", "0"],
    },
    Case {
        name: "floods with a document of unknown length",
        streams: false,
        act: |exchange, _| flood(exchange, false),
        sees: [Whole, Nothing, Nothing],
        cents: ["1.5", "0", "0"],
    },
];

/// Misbehaves as the case with the number in `max_tokens` does; counts tokens as anybody would.
fn hostile() -> Upstream {
    Upstream::start(|mut exchange| match Wanted::by(&exchange.seen) {
        Some(Wanted::Count) => exchange.answer(200, &[], &json!({"input_tokens": 11})),
        Some(Wanted::BedrockCount) => exchange.answer(200, &[], &json!({"inputTokens": 11})),
        Some(wanted) => {
            let case = exchange.json()["max_tokens"].as_u64().expect("a number");
            (CASES[usize::try_from(case).expect("small")].act)(&mut exchange, wanted);
        }
        None => panic!("{:?}", exchange.seen),
    })
}

/// What the client of this case sees at the entry with this number.
fn ask(site: &Site, gateway: &Gateway, number: usize, kind: usize) -> Sees {
    let case = &CASES[number];
    let question = json!({
        "model": format!("case-{number}-{kind}"), "max_tokens": number, "stream": case.streams, "messages": [],
    });
    let mut client = gateway.connect();
    client.post("/v1/messages", &site.session(&format!("u-{number}-{kind}")), &question);
    let Some(head) = client.head() else { return Broken };
    let head = head.to_lowercase();
    let status = head[9..12].parse::<u16>().expect("a status");
    if head.contains("content-length:") {
        return if status == 502 {
            Nothing
        } else if status < 400 {
            Whole
        } else {
            Refusal(status)
        };
    }
    match client.end_of_chunks() {
        None => Broken,
        Some(end) if end.contains("event: error\ndata: {\"type\":\"error\",") => Failure,
        Some(_) if status < 400 => Whole,
        Some(_) => Refusal(status),
    }
}

/// What is spent, in cents, by who spent it.
fn spent(gateway: &Gateway) -> BTreeMap<String, String> {
    let path = "/v1/organizations/spend_limits/effective?period[]=daily&limit=1000";
    let listed = gateway.get(path).header("x-api-key", ADMIN_KEY).send().expect(200).json();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let rows = listed["data"].as_array().expect("a list").iter();
    rows.map(|row| (text(&row["actor"]["user_id"]), text(&row["period_to_date_spend"]))).collect()
}

/// How many requests still hold money.
fn held(gateway: &Gateway) -> usize {
    let path = "/v1/organizations/spend_reservations?state=held&limit=1000";
    let listed = gateway.get(path).header("x-api-key", ADMIN_KEY).send().expect(200).json();
    listed["data"].as_array().expect("a list").len()
}

#[test]
fn whatever_an_upstream_does_the_client_is_told_the_books_are_right_and_memory_is_bounded() {
    // Three floods at once, each of a hundred megabytes, each perhaps in an instance of its own: of a document at most 32 MiB
    // are read, and the buffer that grows to them takes as much again while it moves.
    const BOUND: u64 = 300 << 20;
    let (provider, upstream) = (discovery(), hostile());
    let mut site = Site::without_upstreams(&provider);
    site.more = format!("admin:\n  write_keys:\n    - {{id: ci, key: {ADMIN_KEY}}}\nmodels:\n");
    for number in 0..CASES.len() {
        for (kind, (name, keys)) in KINDS.iter().enumerate() {
            let id = format!("case-{number}-{kind}");
            let model = if *name == "bedrock" { "us.anthropic.claude-opus-5" } else { "claude-opus-5" };
            // An upstream for each: what one does is nobody else's fault.
            site.use_entry(&upstream, &format!("name: {id}, {keys}"));
            let _ = writeln!(site.more, "  - {{ id: {id}, upstream_model: {{ {id}: {model} }} }}");
        }
    }
    let gateway = site.start();
    let before = gateway.peak();

    let mut expected = BTreeMap::new();
    for (number, case) in CASES.iter().enumerate() {
        let peak = gateway.peak();
        let seen: Vec<Sees> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..KINDS.len())
                .map(|kind| {
                    let (site, gateway) = (&site, &gateway);
                    scope.spawn(move || ask(site, gateway, number, kind))
                })
                .collect();
            asked.into_iter().map(|asked| asked.join().expect("an end")).collect()
        });
        assert_eq!(seen, case.sees, "{}", case.name);
        let grown = (gateway.peak() - peak) >> 20;
        println!("{}: {grown} MiB more at the peak", case.name);
        gateway.get("/healthz").send().expect(200);
        for (kind, cents) in case.cents.iter().enumerate().filter(|(_, cents)| **cents != "0") {
            expected.insert(format!("u-{number}-{kind}"), (*cents).to_owned());
        }
    }

    eventually("all reservations to end", || (held(&gateway) == 0).then_some(()));
    let spent: BTreeMap<String, String> = spent(&gateway).into_iter().filter(|(_, cents)| cents != "0").collect();
    let named = |spent: &BTreeMap<String, String>| -> Vec<String> {
        let case = |who: &str| {
            let mut parts = who.split('-').skip(1).map(|part| part.parse::<usize>().expect("a number"));
            let (number, kind) = (parts.next().expect("one"), parts.next().expect("another"));
            format!("{} ({})", CASES[number].name, KINDS[kind].0)
        };
        spent.iter().map(|(who, cents)| format!("{}: {cents}", case(who))).collect()
    };
    assert_eq!(named(&spent), named(&expected));
    assert_eq!(gateway.log.events("inference").len(), CASES.len() * KINDS.len(), "one line for each request");
    let grown = gateway.peak() - before;
    println!("{} MiB more at the peak of all", grown >> 20);
    assert!(grown < BOUND, "memory grew by {grown} bytes");
    gateway.get("/readyz").send().expect(200);
}

#[test]
fn an_upstream_that_stalls_is_given_up_or_left_with_its_client() {
    for (kind, (name, keys)) in KINDS.iter().enumerate() {
        let (provider, (upstream, requests)) = (discovery(), Upstream::held());
        let mut site = Site::without_upstreams(&provider);
        site.use_entry(&upstream, &format!("name: stalling, {keys}"));
        site.more =
            format!("timeouts:\n  upstream_ttfb_ms: 700\nadmin:\n  write_keys:\n    - {{id: ci, key: {ADMIN_KEY}}}\n");
        let gateway = site.start();
        let question = json!({"model": "claude-opus-5", "max_tokens": 9, "stream": true, "messages": []});

        // Before its headers: it is given up.
        let answer = gateway.post("/v1/messages").bearer(&site.session("waits")).json(&question).send().expect(502);
        assert_eq!(answer.json()["error"]["message"], "all upstreams failed (1 attempted)", "{name}");
        let first = requests.recv_timeout(PATIENCE).expect("a request");

        // After its first words: there is no limit, and a client that leaves ends it.
        let mut client = gateway.connect();
        client.post("/v1/messages", &site.session("leaves"), &question);
        let mut exchange = requests.recv_timeout(PATIENCE).expect("a request");
        let wanted = if kind == 1 { Wanted::Frames } else { Wanted::Events };
        begin(&mut exchange, wanted, &[start(), delta()]);
        client.until(&"x".repeat(400));
        drop(client);
        exchange.until_closed();

        eventually("the bill", || (spent(&gateway).get("leaves").map(String::as_str) == Some("0.75")).then_some(()));
        assert_eq!(held(&gateway), 0, "{name}");
        assert!(spent(&gateway).get("waits").is_none_or(|cents| cents == "0"), "{name}");
        drop(first);
        gateway.get("/readyz").send().expect(200);
    }
}
