//! `POST /v1/organizations/signing_keys/rotate`: a new key signs, the old ones go on verifying for their time.

use std::rc::Rc;

use serde_json::{Value, json};

use super::super::{Administrator, Refusal};
use crate::domain::audit::{AuditEvent, KeyChanged};
use crate::gateway::{Context, Gateway};
use crate::store::key_ring::{KeyInfo, RingError};

/// Makes a new key. The body is not looked at.
pub(in super::super) async fn post(
    gateway: &Rc<Gateway>,
    context: &Context,
    administrator: &Administrator,
) -> Result<Value, Refusal> {
    administrator.require_write("signing_keys")?;
    let Some(ring) = gateway.signing_keys() else {
        let message = "session.jwt_secret names the keys: put a new one in front of the list in the configuration";
        return Err(Refusal::invalid(message));
    };
    let keys = match ring.rotate().await {
        Ok(keys) => keys,
        Err(error @ (RingError::Full | RingError::Contended)) => return Err(Refusal::invalid(error.to_string())),
        Err(error) => return Err(Refusal::Broken(crate::error::Failure::internal(error.to_string()))),
    };
    if let Some(newest) = keys.first() {
        let event = KeyChanged { kid: &newest.kid, ring: None, actor: &administrator.actor, sessions: None };
        gateway.audit(context, &AuditEvent::KeyRotate(event));
    }
    Ok(json!({"data": keys.iter().map(shown).collect::<Vec<_>>()}))
}

fn shown(key: &KeyInfo) -> Value {
    json!({
        "type": "signing_key", "id": key.kid, "created_at": key.created_at, "signs_from": key.signs_from,
        "retired_at": key.retired_at, "verifies_until": key.verifies_until,
    })
}
