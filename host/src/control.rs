//! What the host asks of the component: `POST /.sallyport/<operation>` with a token that only this process knows.
//!
//! These requests are made in the process; they never pass a socket, and a client's own are stripped of the token.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::listen::CONTROL;
use crate::pool::{NoAnswer, Pool};

/// The longest answer that is read.
const LONGEST_ANSWER: usize = 16 * 1024 * 1024;

/// The control channel into a pool's instances.
#[derive(Clone)]
pub(crate) struct Control {
    pool: Arc<Pool>,
    token: String,
}

/// The component's answer to `start`.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Started {
    /// Why it must not start.
    #[serde(default)]
    pub(crate) faults: Vec<String>,
    /// What an operator should know.
    #[serde(default)]
    pub(crate) warnings: Vec<String>,
    /// Hosts that it learnt it needs, such as those of the identity provider's endpoints.
    #[serde(default)]
    pub(crate) outbound_hosts: Vec<String>,
    /// What it did.
    #[serde(default)]
    pub(crate) lines: Vec<String>,
}

/// Why an operation has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The component does not know the operation.
    #[error("the component does not know the operation `{0}`")]
    Unknown(String),
    /// It broke down.
    #[error("the component broke down; see the line above")]
    BrokeDown,
    /// It answered with an error.
    #[error("{0}")]
    Failed(String),
}

impl Control {
    /// A channel that shows `token`.
    pub(crate) fn new(pool: Arc<Pool>, token: String) -> Self {
        Self { pool, token }
    }

    /// A token that nobody else can know.
    pub(crate) fn token() -> String {
        let halves = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
        halves.iter().map(|half| half.simple().to_string()).collect()
    }

    /// Has the component migrate, prepare its keys and discover its identity provider.
    pub(crate) async fn start(&self, config: &Path) -> Result<Started, ControlError> {
        match self.call("start", &json!({ "config_path": config.display().to_string() })).await {
            // A component without a control channel has nothing to prepare.
            Err(ControlError::Unknown(_)) => Ok(Started::default()),
            answer => serde_json::from_value(answer?)
                .map_err(|error| ControlError::Failed(format!("unexpected answer to `start`: {error}"))),
        }
    }

    /// Asks for `operation` with `input`.
    pub(crate) async fn call(&self, operation: &str, input: &Value) -> Result<Value, ControlError> {
        let body = Bytes::from(input.to_string());
        let request = Request::post(format!("http://sallyport.internal/.sallyport/{operation}"))
            .header(HOST, "sallyport.internal")
            .header(CONTENT_TYPE, "application/json")
            .header(CONTENT_LENGTH, body.len())
            .header(CONTROL, self.token.as_str())
            .body(Full::new(body.clone()).map_err(|never| match never {}).boxed_unsync())
            .map_err(|error| ControlError::Failed(error.to_string()))?;
        let exchange = self.pool.admit(body.len() as u64).await;
        let response = self.pool.answer(exchange, request).await.map_err(|no_answer| match no_answer {
            NoAnswer::Refused(code) => ControlError::Failed(format!("the component refused `{operation}`: {code:?}")),
            NoAnswer::BrokeDown | NoAnswer::Unavailable => ControlError::BrokeDown,
        })?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
        let answer =
            answer.map_err(|error| ControlError::Failed(format!("`{operation}` broke off: {error}")))?.to_bytes();
        match status {
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED => Err(ControlError::Unknown(operation.to_owned())),
            status if status.is_success() => serde_json::from_slice(&answer)
                .map_err(|error| ControlError::Failed(format!("unexpected answer to `{operation}`: {error}"))),
            _ => Err(ControlError::Failed(
                explanation(&answer).unwrap_or_else(|| format!("`{operation}` failed: {status}")),
            )),
        }
    }
}

/// The message in an error answer.
fn explanation(answer: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let error = &answer["error"];
    let message = error["message"].as_str().or_else(|| answer["error_description"].as_str()).or_else(|| error.as_str());
    message.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_64_hexadecimal_digits_and_never_the_same() {
        let token = Control::token();
        assert!(token.len() == 64 && token.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(token, Control::token());
    }
}
