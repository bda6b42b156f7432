//! `GET /healthz` and `GET /readyz`: alive, and able to serve (auth contract §4.2).

use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use http::StatusCode;

use crate::error::Failure;
use crate::exchange::{Response, plain};
use crate::gateway::Gateway;

/// How long the store may take to prove that it is there (inference contract §15.5).
const PATIENCE: Duration = Duration::from_secs(5);

/// The process is alive.
pub(crate) fn alive() -> Response {
    plain(StatusCode::OK, "ok")
}

/// The store answers.
pub(crate) async fn ready(gateway: &Rc<Gateway>) -> Result<Response, Failure> {
    let store = gateway.store();
    let check = store.ping().boxed_local();
    let verdict = match select(check, gateway.ports.clock.sleep(PATIENCE)).await {
        Either::Left((verdict, _)) => verdict.map_err(|error| error.to_string()),
        Either::Right(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    };
    match verdict {
        Ok(()) => Ok(plain(StatusCode::OK, "ready")),
        Err(cause) => Err(Failure::plain(StatusCode::SERVICE_UNAVAILABLE, "store unavailable").because(cause)),
    }
}
