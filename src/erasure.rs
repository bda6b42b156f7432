//! Erasing a person, for administrators and operators: sessions end, then every table forgets who it was
//! (`store/erasure.rs`), and the audit trail says that it was done, not to whom.

use serde_json::{Value, json};

use crate::domain::audit::{AuditEvent, UserErased};
use crate::domain::erasure::{Erasure, is_pseudonym, pseudonym};
use crate::gateway::{Context, Gateway};
use crate::store::{Act, Order, StoreError};

/// Why nobody is erased.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotErased {
    /// It would erase nobody.
    #[error("user_id: must name a person, as their sessions and reports do")]
    Nobody,
    /// It is nobody's name any more.
    #[error("user_id: is the pseudonym of somebody who was erased")]
    Pseudonym,
    /// Their own act would tell who they were.
    #[error("user_id: is your own; use an admin key, or ask another administrator")]
    Oneself,
    /// Something may be erased already; the rest is when it is asked for again.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Gateway {
    /// Erases `subject`, or with [`Act::Look`] says what there is of them. Asked for again, it does what is left.
    pub(crate) async fn erase(
        &self,
        context: Option<&Context>,
        subject: &str,
        actor: &str,
        act: Act,
    ) -> Result<Value, NotErased> {
        if subject.is_empty() {
            return Err(NotErased::Nobody);
        }
        if is_pseudonym(subject) {
            return Err(NotErased::Pseudonym);
        }
        let pseudonym = pseudonym(self.random::<16>());
        let erasure = Erasure { subject, pseudonym: &pseudonym };
        if erasure.actor() == actor {
            return Err(NotErased::Oneself);
        }
        let at = self.ports.clock.now();
        let store = self.store();
        let mut ended = 0;
        if act == Act::Write {
            let sessions = store.end_sessions_of(subject, at).await?;
            for session in &sessions {
                self.remember_ended(&session.id);
            }
            ended = sessions.len();
        }
        let outcome = store.erase(Order { erasure: &erasure, actor, act, at }).await;
        if act == Act::Write {
            self.cache.identities.borrow_mut().remove(subject);
            let named = outcome.as_ref().map_or(true, crate::store::Erased::needs_name);
            let event = UserErased {
                result: if outcome.is_ok() { "success" } else { "fail" },
                actor,
                pseudonym: named.then_some(pseudonym.as_str()),
                sessions: ended,
            };
            self.record(&AuditEvent::UserErase(event), context.map(|context| context.request_id.as_str()));
        }
        let erased = outcome?;
        Ok(json!({
            "type": "user_erased",
            "user_id": subject,
            "dry_run": act == Act::Look,
            // A dry run gives nobody a name.
            "pseudonym": (act == Act::Write && erased.needs_name()).then_some(&pseudonym),
            "deleted": erased.deleted,
            "pseudonymized": erased.pseudonymized,
        }))
    }
}
