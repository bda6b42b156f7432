//! Providers as their own documentation describes them: paths, forms of answers, frames. One stand-in speaks them all;
//! which one it is taken for is the path's decision.

use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::gateway::UPSTREAM_KEY;
use super::programs::{lacks, piped};
use super::upstream::{DELTAS, Exchange, MODEL, Seen, Upstream};

/// An access key id that is none.
pub(crate) const ACCESS_KEY_ID: &str = "PLACEHOLDERACCESSKEY";

/// What a provider is: its name, and the keys of an entry in `upstreams` that make the gateway speak it with
/// [`UPSTREAM_KEY`] as its credential.
pub(crate) const PROVIDERS: [(&str, &str); 7] = [
    ("anthropic", "provider: anthropic, auth: { api_key: \"${UPSTREAM_KEY}\" }"),
    (
        "bedrock",
        "provider: bedrock, region: us-east-1, auth: { aws_access_key_id: PLACEHOLDERACCESSKEY, \
         aws_secret_access_key: \"${UPSTREAM_KEY}\" }",
    ),
    (
        "mantle",
        "provider: mantle, region: us-east-1, models: [claude-opus-4-8], auth: { aws_bearer_token: \"${UPSTREAM_KEY}\" }",
    ),
    (
        "anthropicAws",
        "provider: anthropicAws, region: us-east-1, workspace_id: ws-1, auth: { api_key: \"${UPSTREAM_KEY}\" }",
    ),
    (
        "anthropicGoogleCloud",
        "provider: anthropicGoogleCloud, project_id: p-1, workspace_id: ws-1, auth: { access_token: \"${UPSTREAM_KEY}\" }",
    ),
    ("vertex", "provider: vertex, region: us-east5, project_id: p-1, auth: { access_token: \"${UPSTREAM_KEY}\" }"),
    ("foundry", "provider: foundry, resource: res-1, auth: { api_key: \"${UPSTREAM_KEY}\" }"),
];

/// What is asked of a provider, in whatever way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    Message,
    /// As server-sent events.
    Events,
    /// As frames of `application/vnd.amazon.eventstream`.
    Frames,
    /// Tokens, in Anthropic's form.
    Count,
    /// Tokens, in the form of Bedrock.
    BedrockCount,
}

impl Wanted {
    /// What this request is for, if it is for anything that a provider has.
    pub(crate) fn by(seen: &Seen) -> Option<Self> {
        let path = seen.path.split('?').next().unwrap_or_default();
        let wants_stream = || serde_json::from_slice::<Value>(&seen.body).unwrap_or_default()["stream"] == true;
        Some(match path.rsplit(['/', ':']).next()? {
            "messages" if wants_stream() => Self::Events,
            "streamRawPredict" => Self::Events,
            "invoke-with-response-stream" => Self::Frames,
            "rawPredict" if path.ends_with("/count-tokens:rawPredict") => Self::Count,
            "messages" | "invoke" | "rawPredict" => Self::Message,
            "count_tokens" => Self::Count,
            "count-tokens" => Self::BedrockCount,
            _ => return None,
        })
    }
}

/// The headers of a stream of events, and of a stream of frames.
pub(crate) const EVENTS_HEAD: &[(&str, &str)] = &[("content-type", "text/event-stream; charset=utf-8")];
pub(crate) const FRAMES_HEAD: &[(&str, &str)] =
    &[("content-type", "application/vnd.amazon.eventstream"), ("x-amzn-requestid", "aws-request-1")];

/// The events of an answer that thinks, speaks and calls a tool.
pub(crate) fn rich_events() -> Vec<Value> {
    let start =
        |index: u64, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
    let delta = |index: u64, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
    let stop = |index: u64| json!({"type": "content_block_stop", "index": index});
    let mut events = vec![
        json!({
            "type": "message_start",
            "message": {
                "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [],
                "stop_reason": null, "stop_sequence": null, "usage": {"input_tokens": 9, "output_tokens": 1},
            },
        }),
        start(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
        delta(0, json!({"type": "thinking_delta", "thinking": "Let me see."})),
        delta(0, json!({"type": "signature_delta", "signature": "c2lnbmF0dXJl"})),
        stop(0),
        start(1, json!({"type": "text", "text": ""})),
    ];
    events.extend(DELTAS.map(|text| delta(1, json!({"type": "text_delta", "text": text}))));
    events.extend([
        stop(1),
        start(2, json!({"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}})),
        delta(2, json!({"type": "input_json_delta", "partial_json": "{\"city\": \"Kö"})),
        delta(2, json!({"type": "input_json_delta", "partial_json": "ln 🌦\"}"})),
        stop(2),
        json!({
            "type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": null},
            "usage": {"output_tokens": 23},
        }),
        json!({"type": "message_stop"}),
    ]);
    events
}

/// The same answer in one.
pub(crate) fn rich_message() -> Value {
    json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": MODEL,
        "content": [
            {"type": "thinking", "thinking": "Let me see.", "signature": "c2lnbmF0dXJl"},
            {"type": "text", "text": DELTAS.concat()},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Köln 🌦"}},
        ],
        "stop_reason": "tool_use", "stop_sequence": null, "usage": {"input_tokens": 9, "output_tokens": 23},
    })
}

/// An event as the API writes it.
pub(crate) fn event(event: &Value) -> Vec<u8> {
    format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("text")).into_bytes()
}

/// An event as Bedrock writes it.
pub(crate) fn chunk(event: &Value) -> Vec<u8> {
    let payload = json!({"bytes": STANDARD.encode(event.to_string()), "p": "abcdefghij"}).to_string();
    let headers = [(":event-type", "chunk"), (":content-type", "application/json"), (":message-type", "event")];
    frame(&headers, payload.as_bytes())
}

/// A frame of `application/vnd.amazon.eventstream`, written from the description of the format.
pub(crate) fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(u8::try_from(name.len()).expect("a short name"));
        block.extend_from_slice(name.as_bytes());
        // Text.
        block.push(7);
        block.extend_from_slice(&u16::try_from(value.len()).expect("a short value").to_be_bytes());
        block.extend_from_slice(value.as_bytes());
    }
    let length = |size: usize| u32::try_from(size).expect("a small frame").to_be_bytes();
    let mut frame = [length(12 + block.len() + payload.len() + 4), length(block.len())].concat();
    frame.extend_from_slice(&crc32(&frame).to_be_bytes());
    frame.extend_from_slice(&block);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(&crc32(&frame).to_be_bytes());
    frame
}

/// The checksum of zlib.
fn crc32(bytes: &[u8]) -> u32 {
    let next = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    };
    !bytes.iter().fold(!0, next)
}

/// Answers like every provider. `max_tokens` says what: four digits that end in a status are answered with that status,
/// [`BREAKS_OFF`] is a stream that fails after its first words, [`AT_THE_THIRD`] works at the third attempt.
pub(crate) fn providers() -> Upstream {
    let attempts = AtomicU64::new(0);
    Upstream::start(move |exchange| {
        let Some(wanted) = Wanted::by(&exchange.seen) else {
            return exchange.answer(404, &[], &json!({"type": "error"}));
        };
        let asked = exchange.json()["max_tokens"].as_u64().unwrap_or_default();
        let attempt = if asked == AT_THE_THIRD { attempts.fetch_add(1, Ordering::Relaxed) } else { 2 };
        match (asked, attempt % 3) {
            (_, 0) => refuse(exchange, 529),
            (_, 1) => refuse(exchange, 429),
            (1400..=1599, _) => refuse(exchange, u16::try_from(asked - 1000).expect("a status")),
            _ => reply(exchange, wanted, asked == BREAKS_OFF),
        }
    })
}

/// See [`providers`].
pub(crate) const BREAKS_OFF: u64 = 2000;
/// See [`providers`].
pub(crate) const AT_THE_THIRD: u64 = 3000;

fn refuse(exchange: Exchange, status: u16) {
    // Sooner than any client would come back by itself.
    let headers = [("retry-after-ms", "1"), ("request-id", "req_refused")];
    let error = json!({"type": "error", "error": {"type": "api_error", "message": format!("refused with {status}")}});
    exchange.answer(status, &headers, &error);
}

fn reply(mut exchange: Exchange, wanted: Wanted, breaks_off: bool) {
    let head = match wanted {
        Wanted::Message => return exchange.answer(200, &[("request-id", "req_upstream")], &rich_message()),
        Wanted::Count => return exchange.answer(200, &[], &json!({"input_tokens": 11})),
        Wanted::BedrockCount => return exchange.answer(200, &[], &json!({"inputTokens": 11})),
        Wanted::Events => EVENTS_HEAD,
        Wanted::Frames => FRAMES_HEAD,
    };
    let written = |one: &Value| if wanted == Wanted::Frames { chunk(one) } else { event(one) };
    exchange.begin(head);
    let events = rich_events();
    let count = if breaks_off { 7 } else { events.len() };
    for one in &events[..count] {
        exchange.piece(&written(one)).expect("a reader");
    }
    if breaks_off {
        let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "account 111122223333"}});
        let _ = exchange.piece(&written(&error));
    }
    exchange.try_end();
}

/// Panics unless the credential of `provider` ([`PROVIDERS`]) came with this request, and no other did.
#[track_caller]
pub(crate) fn assert_credential(provider: &str, seen: &Seen) {
    let bearer = format!("Bearer {UPSTREAM_KEY}");
    let (key, authorization) = match provider {
        "anthropic" | "anthropicAws" | "foundry" => (UPSTREAM_KEY, ""),
        "bedrock" => ("", "AWS4-HMAC-SHA256 Credential=PLACEHOLDERACCESSKEY/"),
        _ => ("", bearer.as_str()),
    };
    assert_eq!(seen.header("x-api-key"), key, "{provider}");
    let carried = seen.header("authorization");
    let fits = if authorization.is_empty() { carried.is_empty() } else { carried.starts_with(authorization) };
    assert!(fits, "{provider}: {carried}");
}

/// What botocore says of the signatures of these requests, made with `secret`; `None` (and says so) without Python.
pub(crate) fn signatures(requests: &[Seen], secret: &str) -> Option<Vec<Value>> {
    if lacks(&["python3"]) {
        return None;
    }
    let asked: Vec<Value> = requests
        .iter()
        .map(|seen| {
            json!({
                "method": seen.method, "path": seen.path, "headers": seen.headers, "body": STANDARD.encode(&seen.body),
                "secret": secret,
            })
        })
        .collect();
    Some(serde_json::from_str(&piped("clouds.py", "signatures", &json!(asked).to_string())).expect("JSON"))
}

/// Panics unless each of these requests carries the signature that botocore makes of it with `secret`, by the key
/// `access_key_id`, for `scope`, over all that matters.
#[track_caller]
pub(crate) fn assert_signed(requests: &[Seen], access_key_id: &str, secret: &str, scope: &str) {
    assert!(!requests.is_empty());
    let Some(judged) = signatures(requests, secret) else { return };
    for (seen, judged) in requests.iter().zip(judged) {
        assert_eq!(judged["carried"], judged["right"], "{seen:?}\n{judged}");
        assert_eq!(
            (&judged["scheme"], &judged["id"], &judged["scope"], &judged["body"]),
            (&json!("AWS4-HMAC-SHA256"), &json!(access_key_id), &json!(scope), &json!(true)),
            "{seen:?}"
        );
        let signed = judged["signed"].as_array().expect("names");
        let unsigned = ["authorization", "user-agent", "accept-encoding", "content-length", "traceparent"];
        for (name, _) in seen.headers.iter().filter(|(name, _)| !unsigned.contains(&name.as_str())) {
            assert!(signed.contains(&json!(name)), "{name} is not signed: {judged}");
        }
    }
}

/// Header and claims of `token`, which the key of `certificate` (PEM) has signed; `None` (and says so) without Python.
pub(crate) fn assertion(token: &str, certificate: &str) -> Option<Value> {
    (!lacks(&["python3"])).then(|| {
        let asked = json!({"token": token, "certificate": certificate}).to_string();
        serde_json::from_str(&piped("clouds.py", "assertion", &asked)).expect("JSON")
    })
}
