//! `GET /healthz` and `GET /readyz`: alive, and able to serve (auth contract §4.2); and the reasons, for operators.

use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use http::StatusCode;
use serde_json::{Value, json};

use crate::error::Failure;
use crate::exchange::{Response, plain};
use crate::gateway::Gateway;

/// How long the store may take to prove that it is there (inference contract §15.5).
const PATIENCE: Duration = Duration::from_secs(5);

/// The process is alive.
pub(crate) fn alive() -> Response {
    plain(StatusCode::OK, "ok")
}

/// The store answers, and there are keys to verify sessions with. What is wrong is told in few words: anybody may ask.
pub(crate) async fn ready(gateway: &Rc<Gateway>) -> Result<Response, Failure> {
    let unavailable = |text| Failure::plain(StatusCode::SERVICE_UNAVAILABLE, text);
    store(gateway).await.map_err(|cause| unavailable("store unavailable").because(cause))?;
    keys(gateway).await.map_err(|cause| unavailable("session keys unavailable").because(cause))?;
    Ok(plain(StatusCode::OK, "ready"))
}

async fn store(gateway: &Gateway) -> Result<(), String> {
    let store = gateway.store();
    let check = store.ping().boxed_local();
    match select(check, gateway.ports.clock.sleep(PATIENCE)).await {
        Either::Left((verdict, _)) => verdict.map_err(|error| error.to_string()),
        Either::Right(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

async fn keys(gateway: &Gateway) -> Result<(), String> {
    let cause = |failure: Failure| failure.cause().unwrap_or("they cannot be read").to_owned();
    match select(gateway.keys().boxed_local(), gateway.ports.clock.sleep(PATIENCE)).await {
        Either::Left((verdict, _)) => verdict.map(drop).map_err(cause),
        Either::Right(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// The state of everything that the gateway stands on, for the operators' own listener. An identity provider that is
/// away is told, but does not make the gateway unready: sessions outlive it.
pub(crate) async fn report(gateway: &Rc<Gateway>) -> Value {
    let verdict = |outcome: &Result<(), String>| match outcome {
        Ok(()) => json!({"ok": true}),
        Err(reason) => json!({"ok": false, "reason": reason}),
    };
    let (store, keys) = (store(gateway).await, keys(gateway).await);
    let now = gateway.ports.clock.now();
    let documents = gateway.cache.documents.borrow();
    let oldest = documents.values().map(|document| document.fetched_at).min();
    json!({
        "ready": store.is_ok() && keys.is_ok(),
        "store": verdict(&store),
        "keys": verdict(&keys),
        "configuration": {"ok": true, "sha256": gateway.config.sha256},
        "identity_provider": {
            "ok": !documents.values().any(|document| document.next_try > now),
            "oldest_document_seconds": oldest.map(|at| now.since(at).as_secs()),
        },
    })
}
