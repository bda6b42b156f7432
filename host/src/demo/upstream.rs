//! An upstream for demonstration that speaks the Messages API: it answers every question with what it is and what was
//! asked, as JSON or as a stream at a human pace. No model is involved.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use super::grants::token;
use super::http::{Body, Piece, Service, json as json_response, response};

/// The wait before the first event of a stream.
const FIRST_PAUSE: Duration = Duration::from_millis(350);
/// The wait before each piece of text.
const PIECE_PAUSE: Duration = Duration::from_millis(30);
/// How much of a question is repeated.
const MAX_GIST_CHARS: usize = 120;

/// The upstream.
pub(super) struct Upstream {
    /// The key that callers must send as `x-api-key`.
    pub(super) api_key: String,
}

impl Service for Upstream {
    fn answer(&self, request: &Request<Bytes>, _: SystemTime) -> Response<Body> {
        let id = format!("req_demo_{}", &token()[..22]);
        let mut answer = match self.decide(request) {
            Ok(answer) => answer,
            Err(error) => error.response(&id),
        };
        if let Ok(id) = HeaderValue::try_from(id) {
            answer.headers_mut().insert(HeaderName::from_static("request-id"), id);
        }
        answer
    }
}

impl Upstream {
    fn decide(&self, request: &Request<Bytes>) -> Result<Response<Body>, ApiError> {
        let header = |name: &str| request.headers().get(name).map(HeaderValue::as_bytes);
        if header("x-api-key") != Some(self.api_key.as_bytes()) {
            return Err(ApiError::Authentication);
        }
        let is_count = match (request.method(), request.uri().path()) {
            (&Method::POST, "/v1/messages") => false,
            (&Method::POST, "/v1/messages/count_tokens") => true,
            _ => return Err(ApiError::NotFound),
        };
        if header("anthropic-version").is_none() {
            return Err(ApiError::Invalid("anthropic-version: header is required"));
        }
        let body: Value = serde_json::from_slice(request.body())
            .map_err(|_| ApiError::Invalid("The request body is not valid JSON."))?;
        let question = Question::parse(&body)?;
        if is_count {
            return Ok(json_response(StatusCode::OK, &json!({"input_tokens": question.input_tokens})));
        }
        let max_tokens = body["max_tokens"].as_u64().filter(|&max| max > 0);
        let max_tokens = max_tokens.ok_or(ApiError::Invalid("max_tokens: a positive whole number is required"))?;

        let answer = Answer::to(&question, usize::try_from(max_tokens).unwrap_or(usize::MAX));
        if body["stream"] == true {
            let mut stream = response(StatusCode::OK, "text/event-stream; charset=utf-8", "");
            *stream.body_mut() = Body::Paced(answer.events());
            Ok(stream)
        } else {
            Ok(json_response(StatusCode::OK, &answer.message()))
        }
    }
}

/// What is read of a request.
struct Question {
    model: String,
    /// The last words of the person, shortened; empty when there are none.
    gist: String,
    input_tokens: usize,
}

impl Question {
    fn parse(body: &Value) -> Result<Self, ApiError> {
        let model = body["model"].as_str().filter(|model| !model.is_empty());
        let model = model.ok_or(ApiError::Invalid("model: Field required"))?;
        let messages = body["messages"].as_array().filter(|messages| !messages.is_empty());
        let messages = messages.ok_or(ApiError::Invalid("messages: at least one message is required"))?;

        let asked = messages.iter().rfind(|message| message["role"] == "user");
        let asked = asked.and_then(|message| last_words(&message["content"])).unwrap_or_default();
        let input = [&body["system"], &body["tools"], &body["messages"]];
        let input_tokens = input.iter().map(|part| text_chars(part)).sum::<usize>().div_ceil(4);
        Ok(Self { model: model.to_owned(), gist: shorten(asked), input_tokens })
    }
}

/// An answer, cut into the pieces that are its tokens.
struct Answer {
    id: String,
    model: String,
    pieces: Vec<String>,
    input_tokens: usize,
    stop_reason: &'static str,
}

impl Answer {
    fn to(question: &Question, max_tokens: usize) -> Self {
        let mut pieces: Vec<_> = answer_text(&question.gist).split_inclusive(' ').map(str::to_owned).collect();
        let stop_reason = if pieces.len() > max_tokens { "max_tokens" } else { "end_turn" };
        pieces.truncate(max_tokens);
        Self {
            id: format!("msg_demo_{}", &token()[..22]),
            model: question.model.clone(),
            pieces,
            input_tokens: question.input_tokens,
            stop_reason,
        }
    }

    fn message(&self) -> Value {
        let mut message = self.opening();
        message["content"] = json!([{"type": "text", "text": self.pieces.concat()}]);
        message["stop_reason"] = self.stop_reason.into();
        message["usage"]["output_tokens"] = self.pieces.len().into();
        message
    }

    /// The stream of server-sent events.
    fn events(&self) -> Vec<Piece> {
        let mut events = vec![
            event(FIRST_PAUSE, &json!({"type": "message_start", "message": self.opening()})),
            event(
                Duration::ZERO,
                &json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            ),
            event(Duration::ZERO, &json!({"type": "ping"})),
        ];
        events.extend(self.pieces.iter().map(|text| {
            let delta = json!({"type": "text_delta", "text": text});
            event(PIECE_PAUSE, &json!({"type": "content_block_delta", "index": 0, "delta": delta}))
        }));
        events.push(event(Duration::ZERO, &json!({"type": "content_block_stop", "index": 0})));
        events.push(event(
            Duration::ZERO,
            &json!({
                "type": "message_delta",
                "delta": {"stop_reason": self.stop_reason, "stop_sequence": null},
                "usage": {"output_tokens": self.pieces.len()},
            }),
        ));
        events.push(event(Duration::ZERO, &json!({"type": "message_stop"})));
        events
    }

    /// The message before anything has been said; one output token is already counted, as the API does.
    fn opening(&self) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": null,
            "stop_sequence": null,
            "usage": {
                "input_tokens": self.input_tokens,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 1,
            },
        })
    }
}

/// Why a request is refused.
#[derive(Debug, PartialEq, Eq)]
enum ApiError {
    Authentication,
    NotFound,
    Invalid(&'static str),
}

impl ApiError {
    fn response(&self, request_id: &str) -> Response<Body> {
        let (status, kind, message) = match self {
            Self::Authentication => (StatusCode::UNAUTHORIZED, "authentication_error", "invalid x-api-key"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found_error", "Not found"),
            Self::Invalid(message) => (StatusCode::BAD_REQUEST, "invalid_request_error", *message),
        };
        let error = json!({"type": kind, "message": message});
        json_response(status, &json!({"type": "error", "error": error, "request_id": request_id}))
    }
}

fn answer_text(gist: &str) -> String {
    let opening = if gist.is_empty() {
        "Hello! You sent no text that I could repeat.".to_owned()
    } else {
        format!("Hello! You asked: “{gist}”.")
    };
    format!(
        "{opening}\n\nI am Sallyport’s demonstration upstream, not a model, so I cannot know the answer. But your \
         question has made the whole journey: the gateway checked your session, swapped it for its own credential, \
         sent the request on as you wrote it, and is streaming these words back to you as I say them. Every request \
         also left one line in the gateway’s audit log.\n\nFor real answers, start the demo again with \
         ANTHROPIC_API_KEY set."
    )
}

/// The last text a person wrote in a message's content. Reminders that a client adds are not theirs.
fn last_words(content: &Value) -> Option<&str> {
    match content {
        Value::String(text) => Some(text),
        Value::Array(blocks) => {
            let mut texts = blocks.iter().filter_map(|block| block["text"].as_str());
            texts.rfind(|text| !text.trim_start().starts_with("<system-reminder>"))
        }
        _ => None,
    }
}

/// One line of at most [`MAX_GIST_CHARS`] characters, cut between words where possible.
fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some((end, _)) = line.char_indices().nth(MAX_GIST_CHARS) else { return line };
    let cut = line[..end].rfind(' ').unwrap_or(end);
    format!("{}…", &line[..cut])
}

/// Characters in all strings of `value`: a good enough measure of a demonstration's input.
fn text_chars(value: &Value) -> usize {
    match value {
        Value::String(text) => text.chars().count(),
        Value::Array(items) => items.iter().map(text_chars).sum(),
        Value::Object(members) => members.values().map(text_chars).sum(),
        _ => 0,
    }
}

fn event(pause: Duration, data: &Value) -> Piece {
    let name = data["type"].as_str().unwrap_or_default();
    Piece { pause, bytes: format!("event: {name}\ndata: {data}\n\n").into() }
}

#[cfg(test)]
mod tests;
