//! The upstream as a client of the Messages API sees it.

use super::*;

fn ask(path: &str, headers: &[(&str, &str)], body: &str) -> Response<Body> {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Bytes::from(body.to_owned())).unwrap();
    Upstream { api_key: "key".to_owned() }.answer(&request, SystemTime::UNIX_EPOCH)
}

const HEADERS: [(&str, &str); 2] = [("x-api-key", "key"), ("anthropic-version", "2023-06-01")];

fn bytes(response: Response<Body>) -> String {
    let pieces = match response.into_body() {
        Body::Whole(bytes) => vec![bytes],
        Body::Paced(pieces) => pieces.into_iter().map(|piece| piece.bytes).collect(),
    };
    String::from_utf8(pieces.concat()).unwrap()
}

fn question(extra: &str) -> String {
    format!(
        r#"{{"model":"m","max_tokens":500,"messages":[{{"role":"user","content":"Why is the sky blue?"}}]{extra}}}"#
    )
}

fn json_answer(body: &str) -> Value {
    let response = ask("/v1/messages", &HEADERS, body);
    assert_eq!(response.status(), StatusCode::OK);
    serde_json::from_str(&bytes(response)).unwrap()
}

/// The events of a stream; each `event:` line must agree with its data.
fn events(body: &str) -> Vec<Value> {
    let stream = bytes(ask("/v1/messages", &HEADERS, body));
    let parse = |event: &str| {
        let (name, data) = event.split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
        data
    };
    stream.trim_end().split("\n\n").map(parse).collect()
}

#[test]
fn an_answer_repeats_the_question() {
    let answer = json_answer(&question(""));
    assert!(answer["content"][0]["text"].as_str().unwrap().contains("“Why is the sky blue?”"));
    assert_eq!((&answer["model"], &answer["stop_reason"]), (&json!("m"), &json!("end_turn")));
}

#[test]
fn a_stream_says_the_same_as_a_json_answer() {
    let whole = json_answer(&question(""));
    let events = events(&question(r#","stream":true"#));
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    let last = &events[events.len() - 2];
    assert_eq!(whole["content"][0]["text"], text);
    assert_eq!(whole["usage"]["output_tokens"], last["usage"]["output_tokens"]);
    assert_eq!(whole["usage"]["input_tokens"], events[0]["message"]["usage"]["input_tokens"]);
    assert_eq!(events.last().unwrap()["type"], "message_stop");
}

#[test]
fn max_tokens_is_honored_and_counted() {
    let body = question("").replace("500", "3");
    let answer = json_answer(&body);
    assert_eq!((&answer["usage"]["output_tokens"], &answer["stop_reason"]), (&json!(3), &json!("max_tokens")));
    assert_eq!(answer["content"][0]["text"], "Hello! You asked: ");
}

#[test]
fn counting_agrees_with_answering() {
    let counted = bytes(ask("/v1/messages/count_tokens", &HEADERS, &question("")));
    assert_eq!(
        serde_json::from_str::<Value>(&counted).unwrap()["input_tokens"],
        json_answer(&question(""))["usage"]["input_tokens"]
    );
}

#[test]
fn requests_with_a_fault_are_refused_in_the_apis_own_words() {
    let ok = question("");
    let table = [
        ("/v1/messages", &HEADERS[1..], &*ok, 401, "authentication_error"),
        ("/v1/messages", &[("x-api-key", "other")][..], &ok, 401, "authentication_error"),
        ("/v1/other", &HEADERS, &ok, 404, "not_found_error"),
        ("/v1/messages", &HEADERS[..1], &ok, 400, "invalid_request_error"),
        ("/v1/messages", &HEADERS, "{", 400, "invalid_request_error"),
        ("/v1/messages", &HEADERS, "[]", 400, "invalid_request_error"),
        ("/v1/messages", &HEADERS, r#"{"model":"m","max_tokens":1,"messages":[]}"#, 400, "invalid_request_error"),
        ("/v1/messages", &HEADERS, r#"{"model":"m","messages":[{}]}"#, 400, "invalid_request_error"),
        ("/v1/messages", &HEADERS, r#"{"max_tokens":1,"messages":[{}]}"#, 400, "invalid_request_error"),
    ];
    for (path, headers, body, status, kind) in table {
        let response = ask(path, headers, body);
        assert_eq!(response.status(), status, "{path} {body}");
        let id = response.headers()["request-id"].clone();
        let error: Value = serde_json::from_str(&bytes(response)).unwrap();
        assert_eq!((&error["error"]["type"], &error["request_id"]), (&json!(kind), &json!(id.to_str().unwrap())));
    }
}

#[test]
fn the_question_is_what_the_person_wrote_last() {
    let table = [
        (json!("plain"), Some("plain")),
        (json!([{"type": "text", "text": "first"}, {"type": "text", "text": "second"}]), Some("second")),
        (json!([{"type": "text", "text": "asked"}, {"type": "text", "text": "<system-reminder>x"}]), Some("asked")),
        (json!([{"type": "image"}]), None),
        (Value::Null, None),
    ];
    for (content, expected) in table {
        assert_eq!(last_words(&content), expected, "{content}");
    }
}

#[test]
fn a_long_question_is_cut_between_words_and_never_inside_a_character() {
    assert_eq!(shorten("a\n b\t c"), "a b c");
    assert_eq!(shorten(&"word ".repeat(100)), format!("{}…", "word ".repeat(24).trim_end()));
    assert_eq!(shorten(&"ü".repeat(200)), format!("{}…", "ü".repeat(MAX_GIST_CHARS)));
}
