//! Identifiers never leave, and come back whole: through the compiled component, with upstreams that echo.

#[path = "../../../tests/masking/conversation.rs"]
mod conversation;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::{
    Answer, Exchange, Gateway, MODEL, Postgres, Server, Site, Upstream, discovery, lacks, plain_client, said,
};

use self::conversation::{Conversation, Dice, generate};

const MASKING: &str = "masking:\n  secrets: mask\n";

/// The generated conversation for a model that the gateway knows.
fn asked(conversation: &Conversation, stream: bool) -> String {
    let body = std::str::from_utf8(&conversation.body).expect("text");
    let body = body.replacen("\"model\":\"claude-opus-4\"", &format!("\"model\":\"{MODEL}\""), 1);
    body.replacen("\"stream\":true", &format!("\"stream\":{stream}"), 1)
}

/// A request as Claude Code sends it.
fn ask(gateway: &Gateway, token: &str, body: &str) -> Answer {
    gateway
        .post("/v1/messages?beta=true")
        .bearer(token)
        .header("accept", "application/json")
        .header("accept-encoding", "gzip, deflate, br, zstd")
        .header("content-type", "application/json")
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-beta", "claude-code-20250219,interleaved-thinking-2025-05-14")
        .header("user-agent", "claude-cli/2.1.329 (external, cli)")
        .header("x-app", "cli")
        .header("x-stainless-lang", "js")
        .body(body)
        .send()
}

/// Everything that was said in `request`, as blocks of an answer.
fn blocks(request: &Value) -> Vec<Value> {
    let mut blocks = Vec::new();
    let mut say = |text: &Value| blocks.push(json!({"type": "text", "text": text}));
    request["system"].as_array().into_iter().flatten().for_each(|block| say(&block["text"]));
    for message in request["messages"].as_array().into_iter().flatten() {
        for block in message["content"].as_array().into_iter().flatten() {
            match block["type"].as_str().unwrap_or_default() {
                "thinking" | "tool_use" => blocks.push(block.clone()),
                "text" => blocks.push(json!({"type": "text", "text": block["text"]})),
                _ => {
                    let content = &block["content"];
                    let text = content.as_str().or_else(|| content[0]["text"].as_str());
                    blocks.push(json!({"type": "text", "text": text}));
                }
            }
        }
    }
    blocks
}

/// How an echo cuts what it says.
#[derive(Clone, Copy)]
enum Cut {
    /// One delta for each block, bytes cut anywhere.
    Bytes,
    /// Deltas cut anywhere, and bytes too.
    Text,
}

/// Says everything back that it hears.
fn echo(cut: Cut) -> Upstream {
    Upstream::start(move |mut exchange| {
        let request = exchange.json();
        let blocks = blocks(&request);
        if exchange.seen.path.starts_with("/v1/messages/count_tokens") {
            return exchange.answer(200, &[], &json!({"input_tokens": 11}));
        }
        if request["max_tokens"] == 1 {
            let error = json!({"type": "invalid_request_error", "message": blocks[0]["text"]});
            return exchange.answer(400, &[], &json!({"type": "error", "error": error}));
        }
        if request["stream"] == false {
            let usage = json!({"input_tokens": 9, "output_tokens": 7});
            let answer =
                json!({"id": "msg_1", "type": "message", "role": "assistant", "content": blocks, "usage": usage});
            return exchange.answer(200, &[], &answer);
        }
        let mut dice = Dice::new(4);
        let bytes = streamed(&blocks, cut, &mut dice).into_bytes();
        exchange.begin_stream();
        send_in_pieces(&mut exchange, &bytes, &mut dice);
        exchange.end();
    })
}

fn send_in_pieces(exchange: &mut Exchange, mut bytes: &[u8], dice: &mut Dice) {
    while !bytes.is_empty() {
        let length = (1 + dice.roll(4000)).min(bytes.len());
        exchange.piece(&bytes[..length]).expect("a reader");
        bytes = &bytes[length..];
    }
}

/// The events of an answer that consists of `blocks`, with some that nobody knows yet.
fn streamed(blocks: &[Value], cut: Cut, dice: &mut Dice) -> String {
    let mut out = String::new();
    let mut event = |data: &Value| {
        write!(out, "event: {}\ndata: {data}\n\n", data["type"].as_str().expect("a type")).expect("memory");
    };
    event(
        &json!({"type": "message_start", "message": {"id": "msg_1", "content": [], "usage": {"input_tokens": 9, "output_tokens": 1}}}),
    );
    for (index, block) in blocks.iter().enumerate() {
        let (empty, kind, member, text) = match block["type"].as_str().expect("a type") {
            "thinking" => (
                json!({"type": "thinking", "thinking": ""}),
                "thinking_delta",
                "thinking",
                block["thinking"].as_str().expect("text").to_owned(),
            ),
            "tool_use" => (
                json!({"type": "tool_use", "id": block["id"], "name": block["name"], "input": {}}),
                "input_json_delta",
                "partial_json",
                block["input"].to_string(),
            ),
            _ => (
                json!({"type": "text", "text": ""}),
                "text_delta",
                "text",
                block["text"].as_str().expect("text").to_owned(),
            ),
        };
        event(&json!({"type": "content_block_start", "index": index, "content_block": empty}));
        for piece in pieces(&text, cut, dice) {
            event(&json!({"type": "content_block_delta", "index": index, "delta": {"type": kind, member: piece}}));
            if dice.roll(7) == 0 && matches!(cut, Cut::Text) {
                event(&json!({"type": "ping"}));
            }
        }
        event(&json!({"type": "content_block_stop", "index": index}));
    }
    event(&json!({"type": "something_new", "data": [1.0]}));
    event(&json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}}));
    event(&json!({"type": "message_stop"}));
    out
}

fn pieces(text: &str, cut: Cut, dice: &mut Dice) -> Vec<String> {
    match cut {
        Cut::Bytes => vec![text.to_owned()],
        Cut::Text => {
            let characters: Vec<char> = text.chars().collect();
            let mut rest = &characters[..];
            let mut pieces = Vec::new();
            while !rest.is_empty() {
                let length = (1 + dice.roll(12)).min(rest.len());
                pieces.push(rest[..length].iter().collect());
                rest = &rest[length..];
            }
            pieces
        }
    }
}

/// The events of a stream that carry no text of the model.
fn frames(stream: &str) -> Vec<&str> {
    stream.split("\n\n").filter(|event| !event.contains("content_block_delta") && !event.contains("ping")).collect()
}

/// Panics if anything that was `written` is in what an upstream has seen.
#[track_caller]
fn assert_nothing_left(upstream: &Upstream, written: &[conversation::Written]) {
    for seen in upstream.seen() {
        let heads: Vec<_> = seen.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let heads = heads.join("\n");
        let sent = format!("{} {}\n{heads}\n{}", seen.method, seen.path, String::from_utf8_lossy(&seen.body));
        let left: Vec<_> = written.iter().filter(|(_, value)| sent.contains(value.as_str())).collect();
        assert!(left.is_empty(), "{} of {} left: {left:?}", left.len(), written.len());
    }
}

#[test]
fn nothing_of_two_thousand_identifiers_leaves_and_the_client_sees_all_of_them() {
    for cut in [Cut::Bytes, Cut::Text] {
        let (provider, masked, open) = (discovery(), echo(cut), echo(cut));
        let mut site = Site::for_inference(&provider, &masked);
        site.more = MASKING.to_owned();
        let other = Site::for_inference(&provider, &open);
        let (gateway, without) = (site.start(), other.start());
        let (token, other_token) = (site.session("ada"), other.session("ada"));
        let conversation = generate(21, 2000);
        let values: BTreeSet<_> = conversation.written.iter().map(|(_, value)| value).collect();
        assert!(values.len() >= 2000, "{}", values.len());

        for stream in [true, false] {
            let body = asked(&conversation, stream);
            let answer = ask(&gateway, &token, &body).expect(200);
            let expected = ask(&without, &other_token, &body).expect(200);
            match cut {
                Cut::Text if stream => {
                    let (got, expected) = (answer.text(), expected.text());
                    assert!(said(got) == said(expected), "what the client reads differs");
                    assert_eq!(frames(got), frames(expected));
                }
                _ => assert!(answer.body == expected.body, "the answer differs"),
            }
            let count: usize = answer.header("x-sallyport-masked").parse().expect("a number");
            assert_eq!(count, conversation.written.len());
            assert_eq!(expected.header("x-sallyport-masked"), "");
        }
        // An error that quotes the request, and a count.
        let error = asked(&conversation, false).replacen("\"max_tokens\":32000", "\"max_tokens\":1", 1);
        let answer = ask(&gateway, &token, &error).expect(400);
        assert!(answer.body == ask(&without, &other_token, &error).expect(400).body, "the error differs");
        let count = asked(&conversation, false);
        gateway.post("/v1/messages/count_tokens").bearer(&token).body(count).send().expect(200);

        assert_eq!(masked.seen().len(), 4);
        assert_nothing_left(&masked, &conversation.written);
        let mut kinds = BTreeMap::<&str, u64>::new();
        conversation.written.iter().for_each(|(kind, _)| *kinds.entry(kind).or_default() += 1);
        let event = gateway.log.event("inference", |event| event["masking"]["restored"].as_u64() > Some(1900));
        assert_eq!((&event["masking"]["masked"], &event["masking"]["unknown"]), (&json!(kinds), &json!(0)));
        let log = gateway.log.text();
        assert!(!conversation.written.iter().any(|(_, value)| log.contains(value.as_str())), "the log has identifiers");
    }
}

#[test]
fn two_turns_share_their_masked_prefix_across_restarts_and_replicas() {
    let Some(database) = Postgres::start() else { return };
    let (provider, upstream) = (discovery(), echo(Cut::Bytes));
    let mut site = Site::for_inference(&provider, &upstream);
    site.use_postgres(&database);
    site.more = MASKING.to_owned();
    let (gateway, replica) = (site.start(), site.replica());
    let token = site.session("ada");
    let conversation = generate(5, 400);
    let whole = asked(&conversation, true);
    let mut earlier: Value = serde_json::from_str(&whole).expect("JSON");
    earlier["messages"].as_array_mut().expect("messages").truncate(6);

    ask(&gateway, &token, &earlier.to_string()).expect(200);
    ask(&gateway, &token, &whole).expect(200);
    drop(gateway);
    ask(&site.start(), &token, &whole).expect(200);
    ask(&replica.start(), &token, &whole).expect(200);

    let bodies: Vec<_> = upstream.seen().into_iter().map(|seen| String::from_utf8(seen.body).expect("text")).collect();
    let [first, second, restarted, replicated] = &bodies[..] else { panic!("{} requests", bodies.len()) };
    let prefix = &first[..first.find("],\"tools\":").expect("the end of the messages")];
    assert!(prefix.len() > 1000, "{} bytes", prefix.len());
    let same = prefix.bytes().zip(second.bytes()).take_while(|(one, other)| one == other).count();
    assert_eq!(same, prefix.len(), "{:?}", prefix.get(same.saturating_sub(100)..same + 20));
    assert!(restarted == second && replicated == second, "another token for the same value");
    assert_nothing_left(&upstream, &conversation.written);
}

#[test]
fn a_proxy_with_a_path_of_its_own_may_stand_before_the_provider() {
    let (provider, upstream) = (discovery(), echo(Cut::Text));
    if lacks(&["nginx"]) {
        return;
    }
    // As a company puts it in front of a model provider: with a path of its own, and compressing what it passes on.
    let nginx = Server::nginx(&format!(
        "client_max_body_size 64m; gzip on; gzip_min_length 1; gzip_types text/event-stream application/json;
         server {{
             listen 127.0.0.1:PORT;
             location /claude-proxy/ {{
                 proxy_pass http://{}/; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off;
             }}
             location / {{ return 404; }}
         }}",
        upstream.address
    ));
    let base_url = format!("http://127.0.0.1:{}/claude-proxy", nginx.port);
    let mut site = Site::for_inference(&provider, &upstream);
    site.upstreams = vec![base_url.clone()];
    site.more = MASKING.to_owned();
    let gateway = site.start();
    let token = site.session("ada");
    let conversation = generate(8, 500);
    let question = json!({"stream": true, "messages": [{"content": [{"type": "text", "text": "hello"}]}]});
    let direct = gateway.call(plain_client().post(format!("{base_url}/v1/messages?beta=true")));
    let direct = direct.header("accept-encoding", "gzip, deflate, br").json(&question).send().expect(200);
    assert_eq!(direct.header("content-encoding"), "gzip", "nginx compresses what it passes on");

    for stream in [true, false] {
        let body = asked(&conversation, stream);
        let answer = ask(&gateway, &token, &body).expect(200);
        assert_eq!(answer.header("content-encoding"), "");
        let expected = blocks(&serde_json::from_str(&body).expect("JSON"));
        if stream {
            assert!(
                said(answer.text()) == said(&streamed(&expected, Cut::Bytes, &mut Dice::new(0))),
                "the stream differs"
            );
        } else {
            assert!(answer.json()["content"] == json!(expected), "the answer differs");
        }
    }
    for seen in upstream.seen() {
        assert_eq!(seen.path, "/v1/messages?beta=true", "nginx takes its own prefix off");
        assert_eq!(seen.header("accept-encoding"), "gzip, deflate, br", "what can be restored");
    }
    assert_nothing_left(&upstream, &conversation.written);
}

#[test]
fn a_key_is_rotated_from_the_command_line() {
    let (provider, upstream) = (discovery(), echo(Cut::Bytes));
    let mut site = Site::for_inference(&provider, &upstream);
    site.more = MASKING.to_owned();
    let gateway = site.start();
    let question = |text: &str| json!({"model": MODEL, "max_tokens": 5, "stream": false, "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]});
    let text = "i-0a1b2c3d4e5f60718 does not start";
    let answer = ask(&gateway, &site.session("ada"), &question(text).to_string()).expect(200);
    assert_eq!(answer.json()["content"][0]["text"], text);
    drop(gateway);

    let before = site.keys(&["list", "--masking"]);
    assert_eq!(before["keys"].as_array().map(Vec::len), Some(1));
    let after = site.keys(&["rotate", "--masking"]);
    assert_eq!(after["keys"].as_array().map(Vec::len), Some(2));
    assert_eq!(after["keys"][1]["kid"], before["keys"][0]["kid"]);

    // The old key, for two minutes: whoever has an answer open goes on.
    ask(&site.start(), &site.session("ada"), &question(text).to_string()).expect(200);
    let seen = upstream.seen();
    assert_eq!(seen[0].body, seen[1].body);
}

#[test]
fn a_configuration_that_cannot_mask_is_refused_with_its_place() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let mut site = Site::for_inference(&provider, &upstream);
    site.more = "masking:\n  custom:\n    - { name: code, pattern: '[A-Z]*' }\n".to_owned();
    let said = site.refusal();
    assert!(said.contains("masking.custom[0].pattern: matches the empty string"), "{said}");
}
