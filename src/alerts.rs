//! Alerts about spend: after a settlement, thresholds that were reached are kept in the store, once each, and sent to
//! their receivers. Nothing here is on the path of a request; what fails is tried again by whoever sweeps next.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderName, HeaderValue, Method, header};
use sha2::Sha256;

use crate::config::{Admin, Alert};
use crate::domain::checksum::hex;
use crate::domain::ids::Timestamp;
use crate::domain::money::Money;
use crate::domain::spend::alert::{Filled, reached};
use crate::gateway::Gateway;
use crate::log::Level;
use crate::ports::Outbound;
use crate::store::{DueAlert, NewAlert, StoreError, Sum};

/// How long a receiver may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many alerts an instance remembers to have kept.
const MAX_REMEMBERED: usize = 10_000;

/// Keeps and sends what `sums` have reached.
pub(crate) async fn after_settlement(gateway: &Rc<Gateway>, sums: &[Sum]) {
    let Some(admin) = gateway.config.admin.as_ref().filter(|admin| !admin.alerts.is_empty()) else { return };
    let now = gateway.ports.clock.now();
    let mut is_new = false;
    for sum in sums {
        let Some(cap) = sum.cap.filter(|cap| *cap > Money::ZERO) else { continue };
        let filled = Filled {
            principal: &sum.principal,
            period: sum.period,
            key: &sum.key,
            spent: sum.spent,
            cap,
            source: sum.source,
            resets: sum.period.end(now),
        };
        for message in reached(&admin.alerts, &filled, now) {
            if gateway.cache.alerts.borrow().contains(&message.id) {
                continue;
            }
            let receiver = &admin.alerts[message.receiver];
            let alert = NewAlert {
                id: &message.id,
                webhook: &receiver.webhook,
                scope: receiver.scope.name(),
                body: &message.body,
                at: now,
            };
            match gateway.store().add_alert(alert).await {
                Ok(added) => {
                    is_new |= added;
                    let mut known = gateway.cache.alerts.borrow_mut();
                    if known.len() >= MAX_REMEMBERED {
                        known.clear();
                    }
                    known.insert(message.id);
                }
                Err(error) => gateway.log(Level::Warn, &format!("an alert about spend could not be kept: {error}")),
            }
        }
    }
    if is_new {
        send_due(gateway).await;
    }
}

/// Sends what is due; whoever claims an alert is the only one who sends it now.
pub(crate) async fn send_due(gateway: &Rc<Gateway>) {
    let Some(admin) = gateway.config.admin.as_ref().filter(|admin| !admin.alerts.is_empty()) else { return };
    if let Err(error) = try_send_due(gateway, admin).await {
        gateway.log(Level::Warn, &format!("alerts about spend could not be sent: {error}"));
    }
}

async fn try_send_due(gateway: &Rc<Gateway>, admin: &Admin) -> Result<(), StoreError> {
    let store = gateway.store();
    for id in store.due_alerts(gateway.ports.clock.now()).await? {
        let Some(due) = store.claim_alert(&id, gateway.ports.clock.now()).await? else { continue };
        let receiver = admin.alerts.iter().find(|one| one.webhook == due.webhook && one.scope.name() == due.scope);
        let Some(receiver) = receiver else {
            // The configuration does not name it any more.
            store.alert_sent(&due.id).await?;
            continue;
        };
        match send(gateway, receiver, &due).await {
            Ok(()) => store.alert_sent(&due.id).await?,
            Err(reason) => {
                let is_over = store.alert_failed(&due).await?;
                let (level, what) =
                    if is_over { (Level::Error, "given up") } else { (Level::Warn, "tried again later") };
                gateway.log(level, &format!("alert {} ({}): {reason}; {what}", due.id, due.scope));
            }
        }
    }
    Ok(())
}

async fn send(gateway: &Gateway, receiver: &Alert, due: &DueAlert) -> Result<(), String> {
    let body = Bytes::from(due.body.clone());
    let signature = signature(receiver.secret.reveal(), gateway.ports.clock.now(), &body);
    let mut request = http::Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = receiver.webhook.parse().map_err(|_| "its address is not valid".to_owned())?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in [("x-sallyport-signature", signature), ("x-sallyport-delivery", due.id.clone())] {
        let value = HeaderValue::try_from(value).map_err(|_| format!("{name} cannot be sent"))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    let outbound = Outbound { request, first_byte_timeout: Some(PATIENCE) };
    let answer = gateway.ports.http.send(outbound).await.map_err(|error| error.to_string())?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(format!("it answered {}", status.as_u16())) }
}

/// `t=<Unix seconds>,v1=<hex HMAC-SHA-256 of "<t>.<body>">`: the time is signed too, so that a receiver can refuse what
/// is replayed (RFC 2104).
fn signature(secret: &str, at: Timestamp, body: &[u8]) -> String {
    let seconds = at.as_secs().to_string();
    // HMAC takes keys of every length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(seconds.as_bytes());
    mac.update(b".");
    mac.update(body);
    format!("t={seconds},v1={}", hex(&mac.finalize().into_bytes()))
}
