//! Every cloud, as it wants to be spoken to: addresses, headers, bodies and signatures that arrive, to the byte; and what
//! becomes of its answers, its frames and its errors.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::cloud::{
    ACCESS_KEY_ID, EVENTS_HEAD, FRAMES_HEAD, Wanted, assert_signed, chunk, event, frame, rich_events,
};
use crate::support::{
    Answer, Authority, Exchange, Gateway, MODEL, Proxy, Seen, Server, Site, UPSTREAM_KEY, Upstream, discovery,
    eventually, lacks,
};

const SESSION_TOKEN: &str = "session-token-for-tests-only==";

/// What is no member that anybody edits: number forms, escapes, and fields of the future.
const REST: &str =
    r#""new":[1.50, 12345678901234567890],"safeguards":{"x":1},"messages":[{"role":"user","content":"\u00e9\/ é"}]"#;

/// A body with everything in it that some cloud does not take.
fn body(model: &str, stream: bool) -> String {
    format!(
        "{{ \"model\":\"{model}\",\n\t\"max_tokens\": 1.0e1, \"stream\" : {stream}, \"tags\": {{\"team\":\"a\"}},\n \
         \"user_profile_id\":\"profile-1\",{REST} }}\n"
    )
}

/// A body whose tokens are to be counted.
fn counted(model: &str) -> String {
    format!("{{ \"model\":\"{model}\", \"tools\" : [],{REST}}}")
}

/// Sends what a client sends, with headers for the upstream and headers that are nobody's business.
fn ask(site: &Site, gateway: &Gateway, path: &str, body: String) -> Answer {
    gateway
        .post(path)
        .bearer(&site.session("ada"))
        .header("anthropic-version", "2099-01-01")
        .header("anthropic-beta", "one, request-tags-2026-08-21,two")
        .header("accept", "text/event-stream")
        .header("user-agent", "claude-code/9.9.9")
        .header("x-stainless-lang", "js")
        .header("x-api-key", "the client's own")
        .header("x-app", "cli")
        .header("anthropic-workspace-id", "the client's own")
        .header("x-amzn-bedrock-guardrailidentifier", "the client's own")
        .header("cookie", "a=b")
        .header("x-forwarded-for", "203.0.113.9")
        .body(body)
        .send()
}

/// What a JSON answer says; its form is to arrive.
const ANSWER: &str = r#"{ "id": "msg_1", "usage": {"input_tokens": 3, "output_tokens": 4.0},"n":1.0 }"#;

/// Answers in the form that is wanted, with headers that are not for the client.
fn answering() -> Upstream {
    Upstream::start(|mut exchange| {
        let kind = [("content-type", "application/json")];
        let internal = [("retry-after", "9"), ("x-internal", "account 111122223333"), ("set-cookie", "a=1")];
        let is_aws = exchange.seen.path.starts_with("/model/");
        let ids: &[(&str, &str)] = if is_aws {
            &[("x-amzn-requestid", "aws-1")]
        } else {
            &[("request-id", "req_1"), ("apim-request-id", "az-1")]
        };
        let head = |kind: &[(&'static str, &'static str)]| [kind, &internal, ids].concat();
        match Wanted::by(&exchange.seen).expect("a request for a provider") {
            Wanted::Message => exchange.answer_bytes(200, &head(&kind), ANSWER.as_bytes()),
            Wanted::Count => exchange.answer_bytes(200, &head(&kind), b"{\"input_tokens\": 11 }"),
            Wanted::BedrockCount => exchange.answer_bytes(200, &head(&kind), b"{ \"inputTokens\": 11 }"),
            Wanted::Frames => {
                exchange.begin(&head(&FRAMES_HEAD[..1]));
                exchange
                    .piece(&frame(&[(":message-type", "event"), (":event-type", "initial-response")], b"{}"))
                    .expect("a reader");
                for one in rich_events() {
                    exchange.piece(&chunk(&one)).expect("a reader");
                }
                exchange.piece(&chunk(&json!({"type": "ping"}))).expect("a reader");
                exchange.end();
            }
            Wanted::Events => {
                exchange.begin(&head(EVENTS_HEAD));
                exchange.piece(b": hello\r\n\r\nevent: ping\ndata: {\"type\": \"ping\"}\n\n").expect("a reader");
                for one in rich_events() {
                    let text = format!("id: 5\r\nevent:{}\r\ndata:{one}\r\n\r\n", one["type"].as_str().expect("text"));
                    exchange.piece(text.as_bytes()).expect("a reader");
                }
                exchange.piece(b"event: vertex_event\ndata: not even JSON\n\n").expect("a reader");
                exchange.end();
            }
        }
    })
}

fn as_events(events: &[Value]) -> String {
    String::from_utf8(events.iter().flat_map(event).collect()).expect("text")
}

/// The one error that a client hears of a stream that failed.
fn failure(answer: &Answer) -> String {
    format!(
        "event: error\ndata: {{\"type\":\"error\",\"request_id\":\"{}\",\"error\":{{\"type\":\"api_error\",\
         \"message\":\"upstream error\"}}}}\n\n",
        answer.header("x-request-id")
    )
}

/// Panics unless the client sees what it should of an answer, and nothing of the cloud's own headers.
#[track_caller]
fn assert_answered(answer: Answer, content_type: &str, text: &str) {
    let answer = answer.expect(200);
    assert_eq!(answer.text(), text);
    assert_eq!(answer.header("content-type"), content_type);
    assert_eq!(answer.header("request-id"), answer.header("x-request-id"));
    for absent in ["retry-after", "x-internal", "set-cookie", "x-amzn-requestid", "apim-request-id"] {
        assert_eq!(answer.header(absent), "", "{absent}");
    }
}

/// The names of all headers of a request, without those that say nothing about a provider.
fn names(seen: &Seen) -> String {
    let common = [
        "accept",
        "accept-encoding",
        "anthropic-version",
        "content-length",
        "content-type",
        "host",
        "user-agent",
        "x-stainless-lang",
    ];
    for name in &common[..7] {
        assert_ne!(seen.header(name), "", "{name}: {seen:?}");
    }
    assert_eq!(seen.header("anthropic-version"), "2023-06-01");
    assert_eq!((seen.header("accept"), seen.header("content-type")), ("application/json", "application/json"));
    assert!(seen.header("user-agent").starts_with("cc-gateway/"), "{}", seen.header("user-agent"));
    let mut names: Vec<&str> =
        seen.headers.iter().map(|(name, _)| name.as_str()).filter(|name| !common.contains(name)).collect();
    names.sort_unstable();
    names.join(" ")
}

/// A cloud with the Anthropic wire format in its answers.
struct Case {
    /// Its name in the audit trail.
    name: &'static str,
    /// The rest of its entry.
    keys: &'static str,
    /// A model that only it serves here, as the client calls it.
    model: &'static str,
    /// Paths of a message, a stream and a count.
    paths: [&'static str; 3],
    /// The body of a message around `REST`; `STREAM` stands for whether it is one.
    body: (&'static str, &'static str),
    /// The model as the body of a count names it.
    counted: &'static str,
    /// Headers beside those of every cloud, with the values of some.
    headers: &'static str,
    values: &'static [(&'static str, &'static str)],
}

const CASES: [Case; 5] = [
    Case {
        name: "mantle",
        keys: "provider: mantle, region: us-east-1, models: [claude-opus-4-8], headers: { x-team: one }, \
               auth: { aws_bearer_token: \"${UPSTREAM_KEY}\" }",
        model: "CLAUDE-opus-4-8",
        paths: ["/v1/messages", "/v1/messages", "/v1/messages/count_tokens"],
        body: ("{ \"model\":\"anthropic.claude-opus-4-8\",\n\t\"max_tokens\": 1.0e1, \"stream\" : STREAM,", " }\n"),
        counted: "anthropic.claude-opus-4-8",
        headers: "anthropic-beta anthropic-user-profile-id authorization x-team",
        values: &[
            ("anthropic-beta", "one,two"),
            ("x-team", "one"),
            ("authorization", "Bearer upstream-key-for-tests-only"),
        ],
    },
    Case {
        name: "platform",
        keys: "name: platform, provider: anthropicAws, region: us-east-1, workspace_id: ws-1, models: [claude-opus-4-7], \
               auth: { api_key: \"${UPSTREAM_KEY}\" }",
        model: "claude-opus-4-7",
        paths: ["/v1/messages", "/v1/messages", "/v1/messages/count_tokens"],
        body: (
            "{ \"model\":\"claude-opus-4-7\",\n\t\"max_tokens\": 1.0e1, \"stream\" : STREAM, \"tags\": {\"team\":\"a\"},",
            " }\n",
        ),
        counted: "claude-opus-4-7",
        headers: "anthropic-beta anthropic-user-profile-id anthropic-workspace-id x-api-key",
        values: &[
            ("anthropic-beta", "one, request-tags-2026-08-21,two"),
            ("anthropic-workspace-id", "ws-1"),
            ("x-api-key", UPSTREAM_KEY),
        ],
    },
    Case {
        name: "google",
        keys: "name: google, provider: anthropicGoogleCloud, project_id: p-1, workspace_id: ws-1, \
               models: [claude-opus-5], auth: { access_token: \"${UPSTREAM_KEY}\" }",
        model: "claude-opus-5",
        paths: ["/v1/messages", "/v1/messages", "/v1/messages/count_tokens"],
        body: (
            "{ \"model\":\"claude-opus-5\",\n\t\"max_tokens\": 1.0e1, \"stream\" : STREAM, \"tags\": {\"team\":\"a\"},",
            " }\n",
        ),
        counted: "claude-opus-5",
        headers: "anthropic-beta anthropic-user-profile-id authorization",
        values: &[("authorization", "Bearer upstream-key-for-tests-only")],
    },
    Case {
        name: "vertex",
        keys: "provider: vertex, region: us-east5, project_id: p-1, models: [claude-sonnet-4-5], \
               auth: { access_token: \"${UPSTREAM_KEY}\" }",
        model: "claude-sonnet-4-5",
        paths: [
            "/projects/p-1/locations/us-east5/publishers/anthropic/models/claude-sonnet-4-5@20250929:rawPredict",
            "/projects/p-1/locations/us-east5/publishers/anthropic/models/claude-sonnet-4-5@20250929:streamRawPredict",
            "/projects/p-1/locations/us-east5/publishers/anthropic/models/count-tokens:rawPredict",
        ],
        body: ("{ \"max_tokens\": 1.0e1, \"stream\" : STREAM,", ",\"anthropic_version\":\"vertex-2023-10-16\" }\n"),
        counted: "claude-sonnet-4-5@20250929",
        headers: "anthropic-beta anthropic-user-profile-id authorization",
        values: &[("anthropic-beta", "one,two"), ("authorization", "Bearer upstream-key-for-tests-only")],
    },
    Case {
        name: "foundry",
        keys: "provider: foundry, resource: res-1, models: [claude-haiku-4-5], auth: { api_key: \"${UPSTREAM_KEY}\" }",
        model: "claude-haiku-4-5-20251001",
        paths: ["/v1/messages", "/v1/messages", "/v1/messages/count_tokens"],
        body: (
            "{ \"model\":\"claude-haiku-4-5\",\n\t\"max_tokens\": 1.0e1, \"stream\" : STREAM, \"tags\": {\"team\":\"a\"},",
            " }\n",
        ),
        counted: "claude-haiku-4-5",
        headers: "anthropic-beta anthropic-user-profile-id x-api-key",
        values: &[("x-api-key", UPSTREAM_KEY), ("anthropic-user-profile-id", "profile-1")],
    },
];

#[test]
fn clouds_with_the_anthropic_wire_format_get_their_address_their_headers_and_their_body() {
    let provider = discovery();
    let upstreams: Vec<Upstream> = CASES.iter().map(|_| answering()).collect();
    let mut site = Site::without_upstreams(&provider);
    for (case, upstream) in CASES.iter().zip(&upstreams) {
        site.use_entry(upstream, case.keys);
    }
    let gateway = site.start();
    for (case, upstream) in CASES.iter().zip(&upstreams) {
        let messages = "/v1/messages?beta=true";
        let json = "application/json;charset=utf-8";
        assert_answered(ask(&site, &gateway, messages, body(case.model, false)), json, ANSWER);
        let streamed = ask(&site, &gateway, messages, body(case.model, true));
        assert_eq!(streamed.header("cache-control"), "no-cache");
        assert_answered(streamed, "text/event-stream", &as_events(&rich_events()));
        let count = ask(&site, &gateway, "/v1/messages/count_tokens?beta=true", counted(case.model));
        assert_answered(count, json, "{\"input_tokens\": 11 }");

        let seen = upstream.seen();
        let paths: Vec<&str> = seen.iter().map(|seen| seen.path.as_str()).collect();
        assert_eq!(paths, case.paths, "{}: the client's query is not the cloud's", case.name);
        for (seen, stream) in seen[..2].iter().zip(["false", "true"]) {
            assert_eq!(names(seen), case.headers, "{}", case.name);
            for (name, value) in case.values {
                assert_eq!(seen.header(name), *value, "{}: {name}", case.name);
            }
            let (head, tail) = case.body;
            let expected = format!("{}{REST}{tail}", head.replace("STREAM", stream));
            assert_eq!(String::from_utf8_lossy(&seen.body), expected, "{}", case.name);
        }
        assert_eq!(String::from_utf8_lossy(&seen[2].body), counted(case.counted), "{}", case.name);

        let ours = eventually("three lines", || {
            let events = gateway.log.events("inference").into_iter();
            let ours: Vec<Value> = events.filter(|event| event["upstream"] == case.name).collect();
            (ours.len() == 3).then_some(ours)
        });
        for event in ours {
            assert_eq!(
                (&event["model"], &event["status"], &event["upstream_request_id"], &event["upstream_cloud_request_id"]),
                (&json!(case.model), &json!(200), &json!("req_1"), &json!("az-1")),
                "{}",
                case.name
            );
        }
    }
}

/// An upstream `aws` in Frankfurt, where ids have no prefix, with a model behind an application inference profile.
fn bedrock(site: &mut Site, upstream: &Upstream, keys: &str) {
    site.use_entry(upstream, &format!("name: aws, provider: bedrock, region: eu-central-1, {keys}"));
    site.more.push_str(
        "models:\n  - id: profile\n    upstream_model:\n      \
         aws: arn:aws:bedrock:eu-central-1:111122223333:application-inference-profile/ab12\n  - id: inference\n    \
         upstream_model:\n      aws: arn:aws:bedrock:us-east-1:111122223333:inference-profile/us.anthropic.claude-x-v1:0\n",
    );
}

fn keys() -> String {
    format!(
        "auth: {{ aws_access_key_id: {ACCESS_KEY_ID}, aws_secret_access_key: \"${{UPSTREAM_KEY}}\", \
         aws_session_token: \"{SESSION_TOKEN}\" }}"
    )
}

#[test]
fn bedrock_gets_signed_invocations_with_the_model_in_the_path_and_its_frames_become_events() {
    let (provider, upstream) = (discovery(), answering());
    let mut site = Site::without_upstreams(&provider);
    site.transcript.secret(SESSION_TOKEN);
    bedrock(
        &mut site,
        &upstream,
        &format!("headers: {{ x-team: one }}, guardrail: {{ id: g-1, version: \"2\" }}, {}", keys()),
    );
    let gateway = site.start();
    let json = "application/json;charset=utf-8";
    for model in ["claude-sonnet-4-5", "profile"] {
        assert_answered(ask(&site, &gateway, "/v1/messages?beta=true", body(model, false)), json, ANSWER);
        let streamed = ask(&site, &gateway, "/v1/messages", body(model, true));
        assert_answered(streamed, "text/event-stream", &as_events(&rich_events()));
    }
    for model in ["claude-sonnet-4-5", "inference"] {
        let count = ask(&site, &gateway, "/v1/messages/count_tokens", counted(model));
        assert_answered(count, json, "{\"input_tokens\":11}");
    }
    // No foundation model can be read out of an application inference profile: nobody is asked.
    let count = ask(&site, &gateway, "/v1/messages/count_tokens", counted("profile")).expect(501);
    assert_eq!(count.json()["error"]["type"], "not_supported");
    assert_eq!(count.header("x-should-retry"), "false");

    let seen = upstream.seen();
    let paths: Vec<&str> = seen.iter().map(|seen| seen.path.as_str()).collect();
    let profile = "arn:aws:bedrock:eu-central-1:111122223333:application-inference-profile%2Fab12";
    assert_eq!(
        paths,
        [
            "/model/anthropic.claude-sonnet-4-5-20250929-v1:0/invoke",
            "/model/anthropic.claude-sonnet-4-5-20250929-v1:0/invoke-with-response-stream",
            &format!("/model/{profile}/invoke"),
            &format!("/model/{profile}/invoke-with-response-stream"),
            "/model/anthropic.claude-sonnet-4-5-20250929-v1%3A0/count-tokens",
            "/model/anthropic.claude-x-v1%3A0/count-tokens",
        ]
    );
    let credential = "authorization x-amz-content-sha256 x-amz-date x-amz-security-token";
    for seen in &seen[..4] {
        let guardrail = "x-amzn-bedrock-guardrailidentifier x-amzn-bedrock-guardrailversion";
        assert_eq!(names(seen), format!("anthropic-user-profile-id {credential} {guardrail} x-team"));
        assert_eq!(seen.header("x-amzn-bedrock-guardrailidentifier"), "g-1");
        assert_eq!(seen.header("x-amzn-bedrock-guardrailversion"), "2");
        assert_eq!(
            String::from_utf8_lossy(&seen.body),
            format!(
                "{{ \"max_tokens\": 1.0e1,{REST},\"anthropic_version\":\"bedrock-2023-05-31\",\
                 \"anthropic_beta\":[\"one\",\"two\"] }}\n"
            )
        );
    }
    for seen in &seen[4..] {
        assert_eq!(names(seen), credential, "counting knows no guardrails and no configured headers");
        let outer: Value = serde_json::from_slice(&seen.body).expect("JSON");
        let inner = outer["input"]["invokeModel"]["body"].as_str().expect("text");
        assert_eq!(
            String::from_utf8(STANDARD.decode(inner).expect("base64")).expect("text"),
            format!("{{ {REST},\"anthropic_version\":\"bedrock-2023-05-31\",\"max_tokens\":1}}")
        );
    }
    assert_signed(&seen, ACCESS_KEY_ID, UPSTREAM_KEY, "eu-central-1/bedrock");
    for event in gateway.log.events("inference").iter().filter(|event| event["status"] == 200) {
        assert_eq!(
            (&event["upstream"], &event["upstream_request_id"], &event["upstream_cloud_request_id"]),
            (&json!("aws"), &json!("aws-1"), &json!("aws-1"))
        );
    }
}

#[test]
fn a_bedrock_api_key_takes_the_place_of_a_signature() {
    let (provider, upstream) = (discovery(), answering());
    let mut site = Site::without_upstreams(&provider);
    bedrock(&mut site, &upstream, "auth: { aws_bearer_token: \"${UPSTREAM_KEY}\" }");
    let gateway = site.start();

    ask(&site, &gateway, "/v1/messages", body(MODEL, false)).expect(200);

    let seen = upstream.seen().remove(0);
    assert_eq!(names(&seen), "anthropic-user-profile-id authorization");
    assert_eq!(seen.header("authorization"), format!("Bearer {UPSTREAM_KEY}"));
}

#[test]
fn the_other_services_of_aws_are_signed_for_under_their_own_names() {
    for (keys_of, service) in [
        ("provider: mantle, region: us-east-1, models: [claude-opus-4-8]", "us-east-1/bedrock-mantle"),
        ("provider: anthropicAws, region: eu-west-1, workspace_id: ws-1", "eu-west-1/aws-external-anthropic"),
    ] {
        let (provider, upstream) = (discovery(), answering());
        let mut site = Site::without_upstreams(&provider);
        site.transcript.secret(SESSION_TOKEN);
        site.use_entry(&upstream, &format!("{keys_of}, {}", keys()));
        let gateway = site.start();
        for stream in [false, true] {
            ask(&site, &gateway, "/v1/messages", body("claude-opus-4-8", stream)).expect(200);
        }
        ask(&site, &gateway, "/v1/messages/count_tokens", counted("claude-opus-4-8")).expect(200);
        assert_signed(&upstream.seen(), ACCESS_KEY_ID, UPSTREAM_KEY, service);
        assert!(upstream.seen().iter().all(|seen| seen.header("x-api-key").is_empty()));
    }
}

/// Everything that can be wrong with a frame, or be told by one, after a stream has begun.
fn wrong_frames() -> Vec<(&'static str, Vec<u8>)> {
    let exception = |kind: &'static str| {
        let headers =
            [(":message-type", "exception"), (":exception-type", kind), (":content-type", "application/json")];
        (kind, frame(&headers, b"{\"message\":\"account 111122223333\"}"))
    };
    let damaged = |at: usize| {
        let mut frame = chunk(&rich_events()[1]);
        let at = at.min(frame.len() - 1);
        frame[at] ^= 0x20;
        frame
    };
    let event = [(":message-type", "event"), (":event-type", "chunk")];
    let mut wrong: Vec<(&str, Vec<u8>)> = [
        "internalServerException",
        "modelStreamErrorException",
        "modelTimeoutException",
        "serviceUnavailableException",
        "throttlingException",
        "validationException",
        "exceptionOfTheFuture",
    ]
    .map(exception)
    .into();
    wrong.extend([
        ("an error frame", frame(&[(":message-type", "error"), (":error-code", "500"), (":error-message", "x")], b"")),
        ("no type", frame(&[], b"{}")),
        ("broken base64", frame(&event, b"{\"bytes\":\"%%%\"}")),
        ("base64 of no JSON", frame(&event, b"{\"bytes\":\"eA==\"}")),
        ("no bytes", frame(&event, b"{\"p\":\"abc\"}")),
        ("no JSON", frame(&event, b"bytes")),
        ("a damaged length", damaged(2)),
        ("a damaged checksum of the prelude", damaged(9)),
        ("a damaged header", damaged(20)),
        ("a damaged payload", damaged(120)),
        ("a damaged checksum", damaged(usize::MAX)),
        ("an impossible length", vec![0xff; 16]),
        ("an error in Anthropic's form", chunk(&json!({"type": "error", "error": {"type": "overloaded_error"}}))),
        ("half a frame", chunk(&rich_events()[1])[..40].to_vec()),
        ("HTML", b"<html><body>502 Bad Gateway</body></html>".to_vec()),
    ]);
    wrong
}

#[test]
fn whatever_is_wrong_with_a_frame_ends_the_stream_with_one_error_that_says_nothing() {
    let provider = discovery();
    let upstream = Upstream::start(|mut exchange: Exchange| {
        let case = exchange.json()["max_tokens"].as_u64().expect("a number");
        exchange.begin(FRAMES_HEAD);
        // Odd ones begin with it.
        if case.is_multiple_of(2) {
            exchange.piece(&chunk(&rich_events()[0])).expect("a reader");
        }
        let wrong = wrong_frames();
        let (_, bytes) = &wrong[usize::try_from(case / 2).expect("small")];
        let _ = exchange.piece(bytes);
        exchange.try_end();
    });
    let mut site = Site::without_upstreams(&provider);
    bedrock(&mut site, &upstream, "auth: { aws_bearer_token: \"${UPSTREAM_KEY}\" }");
    let gateway = site.start();

    for (index, (what, _)) in wrong_frames().iter().enumerate() {
        for (offset, before) in [as_events(&rich_events()[..1]), String::new()].into_iter().enumerate() {
            let question = json!({"model": MODEL, "stream": true, "max_tokens": 2 * index + offset, "messages": []});
            let answer = ask(&site, &gateway, "/v1/messages", question.to_string()).expect(200);
            assert_eq!(answer.text(), before + &failure(&answer), "{what}");
        }
    }
    gateway.get("/readyz").send().expect(200);
}

#[test]
fn what_a_cloud_refuses_is_told_without_what_is_the_operators_business() {
    let provider = discovery();
    let upstream = Upstream::start(|exchange: Exchange| {
        let asked = exchange.json();
        let status = u16::try_from(asked["max_tokens"].as_u64().expect("a number")).expect("a status");
        let body = asked["system"].as_str().expect("text").to_owned();
        let headers = [("x-amzn-requestid", "aws-9"), ("x-amzn-errortype", "SomeException"), ("retry-after", "9")];
        exchange.answer_bytes(status, &headers, body.as_bytes());
    });
    let mut site = Site::without_upstreams(&provider);
    bedrock(&mut site, &upstream, "auth: { aws_bearer_token: \"${UPSTREAM_KEY}\" }");
    let gateway = site.start();
    let account = r#"{"message":"account 111122223333 may not"}"#;
    let unknown = r#"{"message":"The provided model identifier is invalid."}"#;
    let enveloped = r#"{"type":"error","error":{"type":"invalid_request_error","message":"tools.0: no"}}"#;
    for (status, body, told, kind, message) in [
        (400, account, 400, "invalid_request_error", "upstream rejected the request"),
        (400, enveloped, 400, "invalid_request_error", "tools.0: no"),
        (400, unknown, 400, "invalid_request_error", "model claude-sonnet-4-6 is not available on bedrock"),
        (
            400,
            r#"{"message":"Input is too long for requested model."}"#,
            400,
            "invalid_request_error",
            "capability_rejected: prompt_too_long",
        ),
        (401, account, 401, "authentication_error", "upstream authentication failed — check the gateway operator"),
        (403, account, 403, "permission_error", "upstream denied the request — check the gateway operator"),
        (404, account, 404, "not_found_error", "upstream resource not found"),
        (408, account, 408, "api_error", "upstream error"),
        (413, account, 413, "request_too_large", "request too large for this upstream"),
        (424, account, 424, "api_error", "upstream error"),
        (429, account, 429, "rate_limit_error", "upstream rate limit exceeded"),
        (500, account, 502, "api_error", "all upstreams failed (1 attempted)"),
        (501, account, 501, "not_supported", "upstream does not support this endpoint"),
        (503, "<html>", 502, "api_error", "all upstreams failed (1 attempted)"),
    ] {
        for stream in [false, true] {
            let question =
                json!({"model": MODEL, "stream": stream, "max_tokens": status, "system": body, "messages": []});
            let answer = ask(&site, &gateway, "/v1/messages", question.to_string()).expect(told);
            let id = answer.header("x-request-id").to_owned();
            let envelope = json!({"type": "error", "request_id": id, "error": {"type": kind, "message": message}});
            assert_eq!(answer.json(), envelope, "{status} {body}");
            for absent in ["retry-after", "x-amzn-requestid", "x-amzn-errortype", "request-id"] {
                assert_eq!(answer.header(absent), "", "{status}: {absent}");
            }
            let event = gateway.log.event("inference", |event| event["request_id"] == id.as_str());
            let upstream = if told == 502 { Value::Null } else { json!("aws") };
            assert_eq!(
                (&event["status"], &event["upstream"], &event["upstream_request_id"]),
                (&json!(told), &upstream, &json!("aws-9"))
            );
        }
    }
}

#[test]
fn without_a_base_url_every_provider_is_called_at_its_own_address() {
    if lacks(&["nginx", "openssl"]) {
        return;
    }
    let hosts = [
        "api.anthropic.com",
        "bedrock-runtime.eu-central-1.amazonaws.com",
        "bedrock-mantle.us-east-1.api.aws",
        "aws-external-anthropic.eu-west-1.api.aws",
        "claude.googleapis.com",
        "aiplatform.googleapis.com",
        "aiplatform.eu.rep.googleapis.com",
        "us-east5-aiplatform.googleapis.com",
        "res-1.services.ai.azure.com",
    ];
    let google = "auth: { access_token: \"${UPSTREAM_KEY}\" }";
    let aws = "auth: { aws_bearer_token: \"${UPSTREAM_KEY}\" }";
    let vertex =
        |region: &str| format!("name: {region}, provider: vertex, region: {region}, project_id: p-1, {google}");
    let entries = [
        "provider: anthropic, auth: { oauth_token: \"${UPSTREAM_KEY}\" }".to_owned(),
        format!("provider: bedrock, region: eu-central-1, {aws}"),
        format!("provider: mantle, region: us-east-1, models: [claude-opus-4-8], {aws}"),
        "provider: anthropicAws, region: eu-west-1, workspace_id: ws-1, auth: { api_key: \"${UPSTREAM_KEY}\" }"
            .to_owned(),
        format!("provider: anthropicGoogleCloud, project_id: p-1, workspace_id: ws-1, {google}"),
        vertex("global"),
        vertex("eu"),
        vertex("us-east5"),
        "provider: foundry, resource: res-1, auth: { api_key: \"${UPSTREAM_KEY}\" }".to_owned(),
    ];
    // Each hands the request on to the next; the last has nobody.
    let upstream = Upstream::start(|exchange| exchange.answer(503, &[], &json!({})));
    let (provider, authority) = (discovery(), Authority::new());
    let names = hosts.map(|host| format!("DNS:{host}")).join(",");
    let (certificate, key) = authority.issue("clouds", &names, 2);
    let server = Server::nginx(&format!(
        "server {{ listen 127.0.0.1:PORT ssl; ssl_certificate {}; ssl_certificate_key {}; \
         location / {{ proxy_pass http://{}; proxy_set_header host $host; }} }}",
        certificate.display(),
        key.display(),
        upstream.address
    ));
    let (proxy, asked) = Proxy::tunnel(format!("127.0.0.1:{}", server.port));
    let mut site = Site::without_upstreams(&provider);
    site.entries = entries.into();
    site.environment = vec![
        ("HTTPS_PROXY", format!("http://{}", proxy.address)),
        ("SSL_CERT_FILE", authority.certificate().display().to_string()),
    ];
    let gateway = site.start();

    ask(&site, &gateway, "/v1/messages?beta=true", body("claude-opus-4-8", true)).expect(502);

    let places = "/publishers/anthropic/models/claude-opus-4-8:streamRawPredict";
    let paths = [
        "/v1/messages?beta=true".to_owned(),
        "/model/anthropic.claude-opus-4-8/invoke-with-response-stream".to_owned(),
        "/anthropic/v1/messages".to_owned(),
        "/v1/messages".to_owned(),
        "/v1/projects/p-1/locations/global/workspaces/ws-1/invoke/v1/messages".to_owned(),
        format!("/v1/projects/p-1/locations/global{places}"),
        format!("/v1/projects/p-1/locations/eu{places}"),
        format!("/v1/projects/p-1/locations/us-east5{places}"),
        "/anthropic/v1/messages".to_owned(),
    ];
    let seen = upstream.seen();
    let called: Vec<(&str, &str)> = seen.iter().map(|seen| (seen.header("host"), seen.path.as_str())).collect();
    let expected: Vec<(&str, &str)> = hosts.into_iter().zip(paths.iter().map(String::as_str)).collect();
    assert_eq!(called, expected, "{}", gateway.log.text());
    let tunnels: Vec<String> = asked.try_iter().collect();
    assert_eq!(tunnels, hosts.map(|host| format!("{host}:443")));
    assert_eq!(seen[0].header("anthropic-beta"), "one, request-tags-2026-08-21,two, oauth-2025-04-20");
}
