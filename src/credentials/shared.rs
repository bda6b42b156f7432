//! The copy of a credential that all instances and replicas share: sealed in the key-value store, and a claim in SQL of
//! whoever obtains it, so that however many need one at the same moment, the token service is asked once.
//!
//! The stores only save exchanges. While one of them is away, whoever needs a credential obtains it.

use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use serde::{Deserialize, Serialize};

use super::{AGAIN_AFTER, LONGEST_WAIT, Need, Waiting};
use crate::config::RateLimit;
use crate::domain::checksum::hex;
use crate::domain::ids::Timestamp;
use crate::gateway::Gateway;
use crate::log::Level;
use crate::upstream::credentials::{self, Credential, Obtained, Step};
use crate::wire::seal::NONCE_BYTES;

/// What credentials are sealed for.
const PURPOSE: &str = "credential 1";

/// How long a store may take before one goes on without it.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// How long a claim counts if whoever made it is never heard of again.
const TERM: Duration = LONGEST_WAIT;

impl Gateway {
    pub(super) fn shared_credential(self: &Rc<Self>, upstream: usize) -> Shared {
        let identity = self.with_world(|world| credentials::identity(&self.config.upstreams[upstream], world));
        Shared { gateway: Rc::clone(self), upstream, name: format!("credential/{identity}") }
    }
}

/// The place of one upstream's credential.
pub(super) struct Shared {
    gateway: Rc<Gateway>,
    upstream: usize,
    /// In both stores.
    name: String,
}

/// What is kept there.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    /// See [`Shared::seal`].
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
    /// How the last exchange failed, unless one has succeeded since.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Failure {
    /// Tells it from others.
    id: String,
    at: i64,
    /// For the log; no secret and no answer is quoted in it.
    reason: String,
}

/// A store is away, or too slow.
struct Away;

/// Whose turn it is.
enum Turn {
    Ours(Claim),
    Theirs,
    /// Nobody can say.
    Unknown,
}

impl Shared {
    /// A credential that somebody has obtained, or else whatever `step` leads to.
    pub(super) async fn obtain(&self, step: Step, need: Need) -> Result<Obtained, String> {
        let mut waiting = Waiting::new(&*self.gateway.ports.clock);
        let mut failed_before = None;
        let claim = loop {
            let Ok(kept) = self.read().await else { break None };
            if let Some(obtained) = self.usable(&kept, need).await {
                return Ok(obtained);
            }
            let before = failed_before.get_or_insert_with(|| kept.failure.clone());
            if let Some(failure) = &kept.failure
                && (*before != kept.failure || need == Need::Ahead && self.is_recent(failure))
            {
                return Err(failure.reason.clone());
            }
            match self.claim().await {
                Turn::Ours(claim) => break Some(claim),
                Turn::Unknown => break None,
                Turn::Theirs => {}
            }
            if !waiting.go_on().await {
                break None;
            }
        };
        // Somebody may have been done between the look and the claim.
        if claim.is_some()
            && let Ok(kept) = self.read().await
            && let Some(obtained) = self.usable(&kept, need).await
        {
            give_back(claim).await;
            return Ok(obtained);
        }
        let outcome = self.gateway.exchange(self.upstream, step).await;
        match &outcome {
            Ok(obtained) => self.keep(obtained).await,
            Err(reason) => self.keep_failure(reason).await,
        }
        give_back(claim).await;
        outcome
    }

    /// Removes the credential if it is `refused`.
    pub(super) async fn forget(&self, refused: &Credential) {
        let Ok(kept) = self.read().await else { return };
        let Some(sealed) = &kept.sealed else { return };
        if self.open(sealed).await.is_some_and(|obtained| obtained.credential == *refused) {
            self.write(&Kept { sealed: None, failure: kept.failure }).await;
        }
    }

    /// The credential that is kept, if it meets the need.
    async fn usable(&self, kept: &Kept, need: Need) -> Option<Obtained> {
        let obtained = self.open(kept.sealed.as_deref()?).await?;
        let is_refused = self.gateway.is_refused(self.upstream, &obtained.credential);
        if is_refused || !need.is_met_by(&obtained, self.gateway.ports.clock.now()) {
            return None;
        }
        self.gateway.count_credential(self.upstream, "shared");
        Some(obtained)
    }

    fn is_recent(&self, failure: &Failure) -> bool {
        self.gateway.ports.clock.now().is_within(AGAIN_AFTER, Timestamp::from_millis(failure.at))
    }

    /// Keeps what lasts for a while; what has no end did not come from a token service.
    async fn keep(&self, obtained: &Obtained) {
        if obtained.expires_at.is_none() {
            return;
        }
        if let Some(sealed) = self.seal(obtained).await {
            self.write(&Kept { sealed: Some(sealed), failure: None }).await;
        }
    }

    /// Lets those who wait know, and keeps what is there.
    async fn keep_failure(&self, reason: &str) {
        let Ok(kept) = self.read().await else { return };
        let id = hex(&self.gateway.random::<8>());
        let at = self.gateway.ports.clock.now().as_millis();
        self.write(&Kept { failure: Some(Failure { id, at, reason: reason.to_owned() }), ..kept }).await;
    }

    /// The name goes in as well: a sealed credential that is copied to another place is worth nothing there.
    async fn seal(&self, obtained: &Obtained) -> Option<String> {
        let keys = self.gateway.keys().await.ok()?;
        let mut content = self.name.clone().into_bytes();
        content.extend_from_slice(obtained.to_bytes().reveal());
        Some(keys.seal(PURPOSE, &content, self.gateway.random::<NONCE_BYTES>()))
    }

    async fn open(&self, sealed: &str) -> Option<Obtained> {
        let content = self.gateway.unseal(|keys| keys.open(PURPOSE, sealed)).await.ok()?.ok()?;
        Obtained::from_bytes(content.strip_prefix(self.name.as_bytes())?)
    }

    async fn read(&self) -> Result<Kept, Away> {
        match self.gateway.in_time(STORE_PATIENCE, self.gateway.ports.key_value.find(&self.name)).await {
            Some(Ok(Some(bytes))) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
            Some(Ok(None)) => Ok(Kept::default()),
            Some(Err(_)) | None => Err(Away),
        }
    }

    async fn write(&self, kept: &Kept) {
        let bytes = serde_json::to_vec(kept).expect("strings and numbers");
        let outcome = self.gateway.in_time(STORE_PATIENCE, self.gateway.ports.key_value.set(&self.name, &bytes)).await;
        if !matches!(outcome, Some(Ok(()))) {
            let name = &self.gateway.config.upstreams[self.upstream].name;
            self.gateway
                .log(Level::Debug, &format!("upstream {name}: its credential is not shared: the store is away"));
        }
    }

    /// Claims the exchange for this instance.
    async fn claim(&self) -> Turn {
        let now = self.gateway.ports.clock.now();
        let once = RateLimit { max: 1, window: TERM };
        match self.gateway.in_time(STORE_PATIENCE, self.gateway.store().count(&self.name, once, now)).await {
            Some(Ok(None)) => {
                let until = now.plus(TERM);
                Turn::Ours(Claim { gateway: Rc::clone(&self.gateway), name: self.name.clone(), until, is_over: false })
            }
            Some(Ok(Some(_))) => Turn::Theirs,
            Some(Err(_)) | None => Turn::Unknown,
        }
    }
}

/// The claim of this instance. Whoever drops it early, because its request was given up, gives it back all the same.
struct Claim {
    gateway: Rc<Gateway>,
    name: String,
    until: Timestamp,
    is_over: bool,
}

async fn give_back(claim: Option<Claim>) {
    if let Some(mut claim) = claim {
        claim.is_over = true;
        // What is not given back ends by itself.
        let _ = claim.gateway.store().end_window(&claim.name, claim.until).await;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let (gateway, name, until) = (Rc::clone(&self.gateway), std::mem::take(&mut self.name), self.until);
        let owner = Rc::clone(&gateway);
        let task = async move {
            let _ = owner.store().end_window(&name, until).await;
        };
        gateway.ports.tasks.spawn(task.boxed_local());
    }
}
