//! Credentials that have to be obtained: asked for, kept by the instance, and renewed ahead of their end.
//!
//! What is asked of whom is decided in `upstream/credentials/`; this file only sends and remembers.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;

use crate::exchange::read_body;
use crate::gateway::Gateway;
use crate::log::Level;
use crate::ports::Outbound;
use crate::upstream::credentials::{self, Credential, Freshness, Obtained, Step, World};

/// How long one request to a token service may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The largest answer of a token service that is read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// The most requests that one credential takes; the longest chain has four.
const MAX_STEPS: usize = 8;

impl Gateway {
    /// The credential for an upstream, by its index in the configuration. `Err` says why there is none.
    pub(crate) async fn credential(self: &Rc<Self>, upstream: usize) -> Result<Credential, String> {
        if let Some(credential) = credentials::configured(&self.config.upstreams[upstream].provider) {
            return Ok(credential);
        }
        let known = self.cache.credentials.borrow().get(&upstream).cloned();
        if let Some(obtained) = known {
            match obtained.freshness(self.ports.clock.now()) {
                Freshness::Fresh => return Ok(obtained.credential),
                Freshness::Due => {
                    self.renew_beside(upstream);
                    return Ok(obtained.credential);
                }
                Freshness::Expired => {}
            }
        }
        self.renew(upstream).await
    }

    /// Forgets a credential that an upstream did not take; the next request obtains another.
    pub(crate) fn forget_credential(&self, upstream: usize) {
        self.cache.credentials.borrow_mut().remove(&upstream);
    }

    /// Renews in the background, once for however many requests see that it is due.
    fn renew_beside(self: &Rc<Self>, upstream: usize) {
        if !self.cache.renewing.borrow_mut().insert(upstream) {
            return;
        }
        let gateway = Rc::clone(self);
        let renewal = async move {
            if let Err(reason) = gateway.renew(upstream).await {
                let name = &gateway.config.upstreams[upstream].name;
                gateway.log(Level::Warn, &format!("upstream {name}: its credential cannot be renewed yet: {reason}"));
            }
            gateway.cache.renewing.borrow_mut().remove(&upstream);
        };
        self.ports.tasks.spawn(renewal.boxed_local());
    }

    async fn renew(&self, upstream: usize) -> Result<Credential, String> {
        let obtained = self.obtain(upstream).await?;
        let credential = obtained.credential.clone();
        self.cache.credentials.borrow_mut().insert(upstream, obtained);
        Ok(credential)
    }

    async fn obtain(&self, upstream: usize) -> Result<Obtained, String> {
        let variable = |name: &str| self.ports.environment.get(name).cloned();
        let file = |path: &str| self.ports.files.read(path);
        let world = World { variable: &variable, file: &file, now: self.ports.clock.now() };
        let step = credentials::obtain(&self.config.upstreams[upstream], &world).map_err(|error| error.to_string())?;
        self.follow(step).await
    }

    /// Sends what `step` says, and what its answers lead to, until the credential is there.
    pub(crate) async fn follow(&self, mut step: Step) -> Result<Obtained, String> {
        let variable = |name: &str| self.ports.environment.get(name).cloned();
        let file = |path: &str| self.ports.files.read(path);
        let world = || World { variable: &variable, file: &file, now: self.ports.clock.now() };
        for _ in 0..MAX_STEPS {
            match step {
                Step::Done(obtained) => return Ok(obtained),
                Step::Send(request, pending) => {
                    let answer = self.ask(*request).await?;
                    step = pending.answer(&answer, &world()).map_err(|error| error.to_string())?;
                }
            }
        }
        Err("its credential takes more requests than any known chain".to_owned())
    }

    async fn ask(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, String> {
        let service = request.uri().host().unwrap_or_default().to_owned();
        let outbound = Outbound { request, first_byte_timeout: Some(PATIENCE) };
        let answer = self.ports.http.send(outbound).await.map_err(|error| format!("{service}: {error}"))?;
        let (head, mut body) = answer.into_parts();
        let body = read_body(&mut body, MAX_ANSWER_BYTES).await.map_err(|error| format!("{service}: {error}"))?;
        Ok(http::Response::from_parts(head, body))
    }
}
