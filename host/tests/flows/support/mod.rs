//! What the stories are told with: a gateway, the world around it, and people who use it.
//!
//! Nothing here knows how the gateway works inside: it is a program with a file, a port and a standard error.
//! Nothing waits for a fixed time: every wait is for a condition, bounded by [`PATIENCE`].

mod administrator;
mod authlib;
mod books;
mod clock;
pub(crate) mod cloud;
mod federation;
mod gateway;
mod http;
mod idp;
mod issuer;
mod otlp;
mod people;
mod postgres;
mod programs;
mod proxy;
mod sdk;
mod server;
mod streaming;
mod tokens;
mod transcript;
mod upstream;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use administrator::{ADMIN_KEY, LIMITS, admin};
pub(crate) use authlib::Authlib;
pub(crate) use books::Books;
pub(crate) use clock::Clock;
pub(crate) use federation::Federation;
pub(crate) use gateway::{Gateway, SESSION_SECRET, Site, Store, UPSTREAM_KEY, binary};
pub(crate) use http::{Answer, plain_client};
pub(crate) use idp::{Idp, person};
pub(crate) use issuer::Issuer;
pub(crate) use otlp::{Form, decoded, export};
pub(crate) use people::{Browser, Device, Tokens, poll, refresh, sign_in, until_ready};
pub(crate) use postgres::{PASSWORD, Postgres};
pub(crate) use programs::{command, lacks, node, search_path, source};
pub(crate) use proxy::Proxy;
pub(crate) use sdk::{python_sdk, python_sdk_in_full, typescript_sdk, typescript_sdk_in_full};
pub(crate) use server::{Authority, Server};
pub(crate) use streaming::Streaming;
pub(crate) use tokens::{forge, header, session, session_with, unix_now};
pub(crate) use upstream::{
    DELTAS, Exchange, MODEL, Seen, Upstream, discovery, discovery_when, message, question, question_of, said,
};

/// How long a story waits for anything. Generous: a healthy run never comes near, and a slow machine is no fault.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Asks `probe` until it has an answer.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A loopback port that nobody listens on and that no other story of this run was given.
///
/// Below the range from which systems take the ports of outgoing connections, so that none of those takes it away.
pub(crate) fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let start = 20_000 + u16::try_from(std::process::id() % 10_000).expect("below 10000");
    let port = (start..32_000)
        .chain(10_000..start)
        .find(|port| !given.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port");
    given.insert(port);
    port
}
