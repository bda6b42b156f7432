//! An Anthropic API with workload identity federation: it exchanges identity tokens for access tokens, and counts.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::upstream::message;
use super::{Site, Upstream};

/// The credential that is exchanged.
const IDENTITY: &str = "identity-token-for-tests-only";

/// How long an exchange takes: long enough for everybody else to arrive meanwhile.
const EXCHANGE: Duration = Duration::from_millis(500);

/// The API. Its tokens are numbered.
pub(crate) struct Federation {
    pub(crate) upstream: Upstream,
    exchanges: Arc<AtomicUsize>,
    withdrawn: Arc<AtomicUsize>,
    is_down: Arc<AtomicBool>,
}

impl Federation {
    pub(crate) fn start() -> Self {
        let (exchanges, withdrawn, is_down) = (Arc::default(), Arc::default(), Arc::default());
        Self { upstream: serve(&exchanges, &withdrawn, &is_down), exchanges, withdrawn, is_down }
    }

    /// How often a token was asked for.
    pub(crate) fn exchanges(&self) -> usize {
        self.exchanges.load(Ordering::SeqCst)
    }

    /// From now on the first so many tokens count for nothing.
    pub(crate) fn withdraw(&self, tokens: usize) {
        self.withdrawn.store(tokens, Ordering::SeqCst);
    }

    /// Whether the token endpoint is out of order.
    pub(crate) fn break_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::SeqCst);
    }

    /// Makes it the one upstream of `site`, with the identity token in a file.
    pub(crate) fn configure(&self, site: &mut Site) {
        let identity = site.file("identity-token");
        fs::write(&identity, IDENTITY).expect("a file");
        site.transcript.secret(IDENTITY);
        for number in 1..10 {
            site.transcript.secret(&token(number));
        }
        site.upstreams.clear();
        site.use_upstream(&self.upstream);
        site.upstream_auth = format!(
            "federation_rule_id: rule\n      organization_id: org\n      identity_token_file: {}",
            identity.display()
        );
    }
}

fn token(number: usize) -> String {
    format!("access-token-for-tests-only-{number}")
}

fn serve(exchanges: &Arc<AtomicUsize>, withdrawn: &Arc<AtomicUsize>, is_down: &Arc<AtomicBool>) -> Upstream {
    let (exchanges, withdrawn, is_down) = (Arc::clone(exchanges), Arc::clone(withdrawn), Arc::clone(is_down));
    Upstream::start(move |exchange| {
        if exchange.seen.path == "/v1/oauth/token" {
            let number = exchanges.fetch_add(1, Ordering::SeqCst) + 1;
            thread::sleep(EXCHANGE);
            if is_down.load(Ordering::SeqCst) || exchange.json()["assertion"] != IDENTITY {
                return exchange.answer(503, &[], &json!({"error": "temporarily_unavailable"}));
            }
            let token = json!({"access_token": token(number), "expires_in": 3600, "token_type": "Bearer"});
            return exchange.answer(200, &[], &token);
        }
        let number =
            exchange.seen.header("authorization").rsplit('-').next().and_then(|text| text.parse::<usize>().ok());
        match number {
            Some(number) if number > withdrawn.load(Ordering::SeqCst) => exchange.answer(200, &[], &message()),
            _ => exchange.answer(401, &[], &json!({"type": "error"})),
        }
    })
}
