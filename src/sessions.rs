//! Sessions: begun when tokens are fetched, asked after when a token is presented, ended by whoever may.
//!
//! Whether a session has ended is asked of the store, and the answer is used for less than five seconds: that is how long
//! a session can go on after it was ended, on any replica. While the store is away, what is not known counts as going on:
//! inference works without a database (auth contract §12).
//!
//! Rows are in `store/sessions.rs`, generations of refresh tokens in `domain/rotation.rs`.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use http::header;

use crate::domain::audit::{AuditEvent, SessionBegun, SessionEnded};
use crate::domain::checksum::hex;
use crate::domain::identity::Identity;
use crate::domain::ids::Timestamp;
use crate::domain::rotation;
use crate::domain::session::{Keys, Terms};
use crate::error::Failure;
use crate::exchange::Request;
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use crate::store::{EndedSession, NewSession, StoreError};

/// For this long what was heard of a session is simply used.
const FRESH: Duration = Duration::from_secs(2);

/// After this time it is not used any more. Between the two it is used once more and asked for in the background, so
/// that no request waits for it while a session is busy.
const STALE: Duration = Duration::from_secs(4);

/// How long a request waits for the store before the session counts as going on.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long the store is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(2);

/// Sessions that an instance remembers.
const MAX_REMEMBERED: usize = 10_000;

/// Characters of a user agent that are kept.
const MAX_CLIENT: usize = 200;

/// What an instance knows of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// It has ended, for good.
    Ended,
    /// It went on when it was last asked for, which may be going on again.
    GoingOn { asked_at: Timestamp, is_asked_again: bool },
}

/// Who fetches tokens: what is noted of a session's beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    /// Address.
    pub(crate) ip: IpAddr,
    /// `User-Agent`, shortened; empty if there was none.
    pub(crate) user_agent: String,
}

impl Client {
    /// The client of a request.
    pub(crate) fn of(context: &Context, request: &Request) -> Self {
        let user_agent = request.header(header::USER_AGENT).unwrap_or_default();
        Self { ip: context.client_ip, user_agent: user_agent.chars().take(MAX_CLIENT).collect() }
    }
}

/// A session that begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beginning<'a> {
    /// Its id.
    pub(crate) id: &'a str,
    /// How it began: `device` or `token_exchange`.
    pub(crate) means: &'static str,
    /// Whose.
    pub(crate) subject: &'a str,
    /// E-mail address.
    pub(crate) email: Option<&'a str>,
    /// Name.
    pub(crate) name: Option<&'a str>,
    /// The key that signed its token.
    pub(crate) key_id: &'a str,
    /// Generation of its refresh token.
    pub(crate) generation: u64,
    /// Whether there is a refresh token.
    pub(crate) is_refreshable: bool,
    /// How long its token is good.
    pub(crate) ttl: Duration,
}

/// A session that was opened in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opened {
    /// Its id.
    pub(crate) session_id: String,
    /// Its token.
    pub(crate) access_token: String,
}

impl Gateway {
    /// A session token for `identity` under the configured terms, good for `ttl`.
    pub(crate) fn mint(
        &self,
        context: &Context,
        keys: &Keys,
        identity: &Identity,
        session_id: &str,
        ttl: Duration,
    ) -> String {
        let terms = Terms {
            session_id,
            origin: &context.origin,
            billing_group_tag: self.config.admin.as_ref().and_then(|admin| admin.billing_group_tag.as_deref()),
            ttl,
        };
        keys.mint(identity, terms, self.ports.clock.now())
    }

    /// Opens a session of `identity` that is not refreshed: one token, good for `ttl`. `means` says how it came about.
    pub(crate) async fn open_session(
        &self,
        context: &Context,
        client: &Client,
        identity: &Identity,
        means: &'static str,
        ttl: Duration,
    ) -> Result<Opened, Failure> {
        let keys = self.keys().await?;
        let session_id = self.new_session_id();
        let beginning = Beginning {
            id: &session_id,
            means,
            subject: &identity.subject,
            email: identity.email.as_deref(),
            name: identity.name.as_deref(),
            key_id: keys.signer(),
            generation: 0,
            is_refreshable: false,
            ttl,
        };
        self.begin_session(context, client, beginning).await?;
        let access_token = self.mint(context, &keys, identity, &session_id, ttl);
        Ok(Opened { session_id, access_token })
    }

    /// An id that nobody can guess.
    pub(crate) fn new_session_id(&self) -> String {
        hex(&self.random::<16>())
    }

    /// Notes that a session begins.
    pub(crate) async fn begin_session(
        &self,
        context: &Context,
        client: &Client,
        beginning: Beginning<'_>,
    ) -> Result<(), StoreError> {
        let now = self.ports.clock.now();
        let from = client.ip.to_string();
        let session = NewSession {
            id: beginning.id,
            subject: beginning.subject,
            email: beginning.email,
            name: beginning.name,
            means: beginning.means,
            from: &from,
            client: &client.user_agent,
            key_id: beginning.key_id,
            generation: beginning.generation,
            expires_at: rotation::end_of(now, beginning.ttl, beginning.is_refreshable),
        };
        if self.store().begin_session(session, now).await? {
            let begun = SessionBegun {
                sid: beginning.id,
                sub: beginning.subject,
                email: beginning.email,
                means: beginning.means,
                client_ip: client.ip,
                user_agent: &client.user_agent,
            };
            self.audit(context, &AuditEvent::SessionCreate(begun));
        }
        Ok(())
    }

    /// Whether the session `id` was ended, as far as is known.
    pub(crate) async fn has_ended(self: &Rc<Self>, id: &str) -> bool {
        let now = self.ports.clock.now();
        let known = self.cache.sessions.borrow().get(id).copied();
        match known {
            Some(Known::Ended) => true,
            Some(Known::GoingOn { asked_at, is_asked_again }) if now.is_within(STALE, asked_at) => {
                if now.since(asked_at) >= FRESH && !is_asked_again {
                    self.remember(id, Known::GoingOn { asked_at, is_asked_again: true });
                    let (gateway, id) = (Rc::clone(self), id.to_owned());
                    let asking = async move {
                        gateway.ask_after(&id).await;
                    };
                    self.ports.tasks.spawn(asking.boxed_local());
                }
                false
            }
            _ => self.ask_after(id).await,
        }
    }

    /// Asks the store, unless it has failed a moment ago.
    async fn ask_after(&self, id: &str) -> bool {
        let now = self.ports.clock.now();
        if self.cache.store_failed_at.get().is_some_and(|at| now.is_within(PAUSE, at)) {
            return false;
        }
        let trouble = match self.stored_in_time(PATIENCE, self.store().has_session_ended(id)).await {
            Ok(true) => {
                self.remember(id, Known::Ended);
                return true;
            }
            Ok(false) => {
                self.remember(id, Known::GoingOn { asked_at: now, is_asked_again: false });
                return false;
            }
            Err(trouble) => trouble,
        };
        self.cache.store_failed_at.set(Some(self.ports.clock.now()));
        self.log(Level::Warn, &format!("sessions that were ended cannot be told from others: {trouble}"));
        false
    }

    /// This instance needs not ask any more.
    pub(crate) fn remember_ended(&self, id: &str) {
        self.remember(id, Known::Ended);
    }

    fn remember(&self, id: &str, known: Known) {
        let mut sessions = self.cache.sessions.borrow_mut();
        // What is known to have ended stays so, whatever an answer says that was on its way.
        if sessions.get(id) == Some(&Known::Ended) {
            return;
        }
        if sessions.len() >= MAX_REMEMBERED && !sessions.contains_key(id) {
            sessions.clear();
        }
        sessions.insert(id.to_owned(), known);
    }

    /// Tells this instance and the audit trail of sessions that `actor` has ended.
    pub(crate) fn note_ended(&self, context: &Context, actor: &str, sessions: &[EndedSession]) {
        for session in sessions {
            self.remember(&session.id, Known::Ended);
            let ended = SessionEnded {
                sid: &session.id,
                sub: Some(session.subject.as_str()).filter(|subject| !subject.is_empty()),
                actor: Some(actor),
                client_ip: context.client_ip,
            };
            self.audit(context, &AuditEvent::SessionRevoke(ended));
        }
    }
}
