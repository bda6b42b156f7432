//! Money around a request: leave to spend before it ([`Clearance`]), and its bill after it ([`Bill`]).
//!
//! What is decided lives in `domain::spend` and `domain::price`; this file asks the store and waits.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{FutureExt, LocalBoxFuture};
use futures_util::{pin_mut, select_biased};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::alerts;
use crate::config::{Admin, Provider};
use crate::domain::audit::AuditEvent;
use crate::domain::checksum::hex;
use crate::domain::figure::Figure;
use crate::domain::money::Money;
use crate::domain::price::Served;
use crate::domain::session::Session;
use crate::domain::spend::notice::{self, Header, Refusal};
use crate::domain::spend::verdict::{Gauge, Standing, Verdict, described, verdict};
use crate::exchange::{self, Response, read_body};
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use crate::relay::{Inference, Relay};
use crate::store::{Caller, Identity, Settlement, StoreError, Sum, Wanted};
use crate::stream::meter::{Meter, Metered, Usage};
use crate::upkeep;
use crate::upstream::catalog::{Candidate, Plan};
use crate::upstream::{self, Call, CountPause, Message, Operation};

/// How long a look at a caller's spending may take (inference contract §15.1).
const PATIENCE: Duration = Duration::from_millis(2500);

/// How long counting the input of an answer may take that told no usage (inference contract §13.4).
const COUNT_PATIENCE: Duration = Duration::from_secs(10);

/// The most of a count's answer that is read.
const MAX_COUNT_BYTES: u64 = 1024 * 1024;

/// For how long an identity that was kept is not written again, and how many of them an instance remembers.
const IDENTITY_FRESH: Duration = Duration::from_mins(10);
const MAX_REMEMBERED: usize = 10_000;

/// How long is waited before a settlement that failed is tried again.
const AGAIN_AFTER: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(15)];

/// Leave to spend.
pub(crate) struct Clearance {
    /// What the caller is told about their cap.
    headers: Vec<Header>,
    /// What is reserved until the request is billed; nothing for a caller without a subject.
    hold: RefCell<Option<Hold>>,
}

impl Clearance {
    /// Adds what the caller is told.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        tell(&self.headers, headers);
    }
}

/// A reservation, which may have failed. It is settled by its bill, or given back when it is dropped.
struct Hold {
    gateway: Rc<Gateway>,
    request_id: String,
    /// Empty once it is settled.
    id: String,
    /// Whether the store has said that it exists; otherwise it may or may not.
    is_known: bool,
}

impl Hold {
    /// Takes the id for a settlement: nothing is given back any more.
    fn settle(mut self) -> (String, bool) {
        (std::mem::take(&mut self.id), self.is_known)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.id.is_empty() {
            return;
        }
        let (gateway, id, is_known) = (Rc::clone(&self.gateway), std::mem::take(&mut self.id), self.is_known);
        let request_id = std::mem::take(&mut self.request_id);
        let owner = Rc::clone(&gateway);
        let give_back = async move {
            let mut pauses = AGAIN_AFTER.iter();
            loop {
                match owner.store().release(&id, owner.ports.clock.now()).await {
                    Ok(true) => {
                        owner.count(&Figure::Reservation { outcome: "released", count: 1 });
                        break;
                    }
                    Ok(false) if is_known => break,
                    // A store that did not say in time may still be about to reserve.
                    Ok(false) => {}
                    Err(error) => {
                        let message = format!("reservation {id} could not be given back: {error}");
                        owner.say(Level::Debug, Some(&request_id), &message);
                    }
                }
                // What cannot be given back expires.
                let Some(pause) = pauses.next() else { break };
                owner.ports.clock.sleep(*pause).await;
            }
            upkeep::after_response(&owner);
        };
        gateway.ports.tasks.spawn(give_back.boxed_local());
    }
}

fn tell(told: &[Header], headers: &mut HeaderMap) {
    for (name, value) in told {
        if let Ok(value) = HeaderValue::try_from(value.as_str()) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// The store did not say in time.
pub(crate) struct Unknown(pub(crate) String);

/// What came of asking for leave.
enum Cleared {
    Leave(Clearance),
    /// The cap that is used up, or the pools.
    Blocked(Gauge, Vec<String>),
    /// Something is left, and other requests have reserved all of it.
    Reserved,
}

/// What is known without a reservation.
enum Judged {
    /// What the caller is told.
    Allowed(Vec<Header>),
    Blocked(Gauge, Vec<String>),
}

/// The store did not say, perhaps after it had reserved.
struct Failed {
    reason: String,
    hold: Option<Hold>,
}

impl Gateway {
    /// Leave for `session` to spend what `asked` may cost, or the refusal. Where nothing is asked nothing is reserved: the
    /// request is going to be refused for something else, unless its caller may not spend. `None` without the section
    /// `admin`: nothing is metered.
    pub(crate) async fn clear(
        self: &Rc<Self>,
        context: &Context,
        session: &Session,
        asked: Option<&(Message, Plan)>,
    ) -> Result<Option<Clearance>, Response> {
        let Some(admin) = &self.config.admin else { return Ok(None) };
        let subject = session.subject().filter(|subject| !subject.is_empty());
        let outcome = match (subject, asked) {
            (Some(_), Some((message, plan))) => {
                self.reserve(context, session, admin, self.most_cost(message, plan)).await
            }
            _ => self.judge(session, admin).await.map(|judged| match judged {
                Judged::Allowed(headers) => Cleared::Leave(Clearance { headers, hold: RefCell::new(None) }),
                Judged::Blocked(gauge, groups) => Cleared::Blocked(gauge, groups),
            }),
        };
        let addition = admin.blocked_message.as_deref();
        let now = self.ports.clock.now();
        let sub = session.subject();
        let blocked =
            |cause| AuditEvent::SpendBlocked { sub, cause, cap_cents: None, source: None, period: None, groups: &[] };
        match outcome {
            Ok(Cleared::Leave(clearance)) => Ok(Some(clearance)),
            Ok(Cleared::Blocked(gauge, groups)) => {
                let event = AuditEvent::SpendBlocked {
                    sub,
                    cause: "over_limit",
                    cap_cents: Some(gauge.cap.to_string()),
                    source: Some(gauge.source),
                    period: Some(gauge.period.name()),
                    groups: &groups,
                };
                self.audit(context, &event);
                Err(refused(&notice::blocked(&gauge, addition, now)))
            }
            Ok(Cleared::Reserved) => {
                self.count(&Figure::Reservation { outcome: "refused", count: 1 });
                self.audit(context, &blocked("reserved"));
                Err(refused(&notice::reserved(addition)))
            }
            Err(Failed { reason, hold }) => {
                let message = format!("spending cannot be looked up ({}): {reason}", context.request_id);
                self.log_of(context, Level::Warn, &message);
                if !self.config.enforcement.fail_closed_on_error {
                    return Ok(Some(Clearance { headers: Vec::new(), hold: RefCell::new(hold) }));
                }
                self.audit(context, &blocked("store_error"));
                Err(refused(&notice::unknown(addition)))
            }
        }
    }

    /// Reserves `amount`, within the time that a caller can wait.
    async fn reserve(
        self: &Rc<Self>,
        context: &Context,
        session: &Session,
        admin: &Admin,
        amount: Money,
    ) -> Result<Cleared, Failed> {
        let id = hex(&self.random::<16>());
        let request_id = context.request_id.clone();
        let mut hold = Hold { gateway: Rc::clone(self), request_id, id: id.clone(), is_known: false };
        let attempt = async {
            let mut has_cleaned_up = false;
            loop {
                let at = self.ports.clock.now();
                let wanted = Wanted {
                    id: &id,
                    caller: Caller { subject: session.subject().unwrap_or_default(), groups: session.groups() },
                    amount,
                    mode: admin.group_limit_mode,
                    at,
                    until: at.plus(self.config.enforcement.reservation_ttl),
                };
                if let Some(granted) = self.store().reserve(wanted).await? {
                    return Ok::<_, StoreError>(Ok(granted));
                }
                let standing = self.store().standing(wanted.caller, at).await?;
                if let Verdict::Blocked { gauge, groups } = verdict(&standing, admin.group_limit_mode, at) {
                    return Ok(Err(Cleared::Blocked(gauge, groups)));
                }
                // What is in the way is reserved: perhaps by requests that died.
                let expired = if has_cleaned_up { 0 } else { self.store().expire_holds(at).await? };
                if expired == 0 {
                    return Ok(Err(Cleared::Reserved));
                }
                self.count(&Figure::Reservation { outcome: "expired", count: expired as u64 });
                has_cleaned_up = true;
            }
        };
        match self.patiently(attempt).await {
            Ok(Ok(granted)) => {
                hold.is_known = true;
                self.count(&Figure::Reservation { outcome: "held", count: 1 });
                let headers = described(&granted.gauges).map(notice::allowed).unwrap_or_default();
                Ok(Cleared::Leave(Clearance { headers, hold: RefCell::new(Some(hold)) }))
            }
            Ok(Err(refusal)) => {
                hold.settle();
                Ok(refusal)
            }
            Err(Unknown(reason)) => Err(Failed { reason, hold: Some(hold) }),
        }
    }

    /// Whether `session` may spend at all.
    async fn judge(&self, session: &Session, admin: &Admin) -> Result<Judged, Failed> {
        let standing = self.standing(session).await.map_err(|Unknown(reason)| Failed { reason, hold: None })?;
        Ok(match verdict(&standing, admin.group_limit_mode, self.ports.clock.now()) {
            Verdict::Allowed { gauge, .. } => Judged::Allowed(gauge.as_ref().map(notice::allowed).unwrap_or_default()),
            Verdict::Blocked { gauge, groups } => Judged::Blocked(gauge, groups),
        })
    }

    /// What is known about the spending of `session`, within the time that a caller can wait.
    pub(crate) async fn standing(&self, session: &Session) -> Result<Standing, Unknown> {
        let store = self.store();
        let caller = Caller { subject: session.subject().unwrap_or_default(), groups: session.groups() };
        self.patiently(store.standing(caller, self.ports.clock.now())).await
    }

    /// What the store says, if it says it in time.
    async fn patiently<T>(&self, answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, Unknown> {
        self.stored_in_time(PATIENCE, answer).await.map_err(Unknown)
    }

    /// The most that a request is reckoned to cost at the candidates of its plan.
    fn most_cost(&self, message: &Message, plan: &Plan) -> Money {
        let served = plan.candidates.iter().map(|candidate| Served {
            upstream: &self.config.upstreams[candidate.upstream].name,
            model: &candidate.model,
            requested: message.model(),
        });
        self.prices.most(served, &message.asked())
    }

    async fn note_identity(self: &Rc<Self>, context: &Context, session: &Session, subject: &str) {
        let identity = Identity { subject, email: session.email(), name: session.name(), groups: session.groups() };
        let digest: [u8; 32] = Sha256::digest(format!("{identity:?}")).into();
        let now = self.ports.clock.now();
        let today = now.as_secs().div_euclid(24 * 60 * 60);
        let is_fresh = self.cache.identities.borrow().get(subject).is_some_and(|(known, at)| {
            *known == digest && now.since(*at) < IDENTITY_FRESH && at.as_secs().div_euclid(24 * 60 * 60) == today
        });
        if is_fresh {
            return;
        }
        // Whoever was signed out while the request went on may have been erased.
        if let Some(id) = session.id().filter(|id| !id.is_empty())
            && self.has_ended(id).await
        {
            return;
        }
        match self.store().note_identity(identity, now).await {
            Ok(()) => {
                let mut remembered = self.cache.identities.borrow_mut();
                if remembered.len() >= MAX_REMEMBERED {
                    remembered.clear();
                }
                remembered.insert(subject.to_owned(), (digest, now));
            }
            Err(error) => self.log_of(context, Level::Warn, &format!("an identity could not be kept: {error}")),
        }
    }

    /// Tells the operator once of a model that has no price of its own.
    fn warn_of_unknown_price(&self, context: &Context, served: Served<'_>) {
        if !self.prices.is_unknown(served) {
            return;
        }
        let mut warned = self.cache.unknown_prices.borrow_mut();
        if warned.len() < MAX_REMEMBERED && warned.insert(served.model.to_owned()) {
            let Served { upstream, model, .. } = served;
            let message = format!(
                "no price is known for {model} of upstream {upstream}; it is billed as an unknown model \
                 (set pricing.overrides to change that)"
            );
            self.log_of(context, Level::Warn, &message);
        }
    }
}

fn refused(refusal: &Refusal) -> Response {
    let body = json!({"type": "error", "error": {"type": "billing_error", "message": refusal.message}});
    let mut response = exchange::json(StatusCode::TOO_MANY_REQUESTS, &body);
    tell(&refusal.headers, response.headers_mut());
    response
}

/// The bill of one answer. It reads the answer as it passes, and is settled exactly once: when it is dropped, which
/// happens however the answer ends. Settling goes on in the background.
///
/// Without `admin` there are no books, and a bill is only opened where a host counts what answers use: it makes no
/// request and holds up nothing.
pub(crate) struct Bill(Option<Open>);

struct Open {
    gateway: Rc<Gateway>,
    context: Context,
    inference: Rc<Inference>,
    candidate: Candidate,
    meter: Meter,
    hold: Option<Hold>,
}

impl Bill {
    /// Opens the bill of the answer that `candidate` gives; `None` where nothing is metered, nor learned about the model.
    pub(crate) fn open(relay: &Relay<'_>, candidate: &Candidate, meter: Meter) -> Option<Self> {
        let clearance = relay.inference.clearance.as_ref();
        let is_counted = relay.gateway.ports.figures.is_some() && relay.inference.operation == Operation::Messages;
        let is_read = relay.inference.operation == Operation::Messages && relay.gateway.wants_to_learn(candidate);
        if clearance.is_none() && !is_counted && !is_read {
            return None;
        }
        Some(Self(Some(Open {
            hold: clearance.and_then(|clearance| clearance.hold.take()),
            gateway: Rc::clone(relay.gateway),
            context: relay.context.clone(),
            inference: Rc::clone(relay.inference),
            candidate: candidate.clone(),
            meter,
        })))
    }

    /// Reads the next piece of the answer, as the client gets it.
    pub(crate) fn read(&mut self, piece: &[u8]) {
        if let Some(open) = &mut self.0 {
            open.meter.push(piece);
        }
    }
}

/// How long an upstream may take to tell what a request cost whose client has left.
const LINGER: Duration = Duration::from_secs(10);

/// Reads on where the client has left before the upstream told what the request was: its input is billed all the same.
/// Of a stream that is its first event; of a document all of it, since the work is done when it begins.
pub(crate) async fn linger<T>(
    gateway: &Gateway,
    bill: Option<&mut Bill>,
    source: &mut T,
    mut next: impl AsyncFnMut(&mut T) -> Option<Bytes>,
) {
    let Some(bill) = bill.filter(|bill| bill.0.as_ref().is_some_and(Open::is_in_the_books)) else { return };
    let timeout = gateway.ports.clock.sleep(LINGER).fuse();
    pin_mut!(timeout);
    while bill.0.as_ref().is_some_and(|open| !open.meter.knows_input()) {
        let piece = next(source).fuse();
        pin_mut!(piece);
        select_biased! {
            piece = piece => match piece {
                Some(piece) => bill.read(&piece),
                None => return,
            },
            () = timeout => return,
        }
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        if let Some(open) = self.0.take() {
            let gateway = Rc::clone(&open.gateway);
            gateway.ports.tasks.spawn(open.settle());
        }
    }
}

impl Open {
    /// Whether somebody pays.
    fn is_in_the_books(&self) -> bool {
        self.inference.clearance.is_some()
    }

    fn settle(self) -> LocalBoxFuture<'static, ()> {
        async move {
            let is_in_the_books = self.is_in_the_books();
            let Self { gateway, context, inference, candidate, meter, hold } = self;
            let relay = Relay { gateway: &gateway, context: &context, inference: &inference };
            let metered = meter.finish();
            if let Metered::Told(usage) = &metered {
                relay.learn(&candidate, usage).await;
            }
            let usage = match metered {
                Metered::Nothing => return,
                Metered::Told(usage) | Metered::Estimated(usage) => usage,
                Metered::InputUnknown { output_tokens } if !is_in_the_books => {
                    Usage { output_tokens, ..Usage::default() }
                }
                Metered::InputUnknown { output_tokens } => {
                    Usage { input_tokens: count_input(&relay, &candidate).await, output_tokens, ..Usage::default() }
                }
            };
            record(&gateway, &context, &inference, &candidate, &usage, hold).await;
        }
        .boxed_local()
    }
}

/// Prices `usage`, settles the reservation with it, and keeps who it was.
async fn record(
    gateway: &Rc<Gateway>,
    context: &Context,
    inference: &Inference,
    candidate: &Candidate,
    usage: &Usage,
    hold: Option<Hold>,
) {
    let served = Served {
        upstream: &gateway.config.upstreams[candidate.upstream].name,
        model: &candidate.model,
        requested: inference.message.model(),
    };
    let cost = gateway.prices.cost(served, usage);
    let figure = |settled| Figure::Usage {
        upstream: served.upstream,
        model: served.model,
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cache_read_input_tokens: usage.cache_read_input_tokens,
        cache_creation_input_tokens: usage.cache_creation_input_tokens,
        nanos: u64::try_from(cost.as_nanos()).unwrap_or(0),
        settled,
    };
    let Some(admin) = &gateway.config.admin else {
        gateway.count(&figure(None));
        return;
    };
    gateway.warn_of_unknown_price(context, served);
    let session = &inference.session;
    if admin.billing_group_tag.is_some() {
        let event = AuditEvent::SpendMetered {
            sub: session.subject(),
            billing: inference.billing(),
            model: inference.message.model(),
            input_tokens: usage.input_tokens,
            output_tokens: usage.output_tokens,
            cache_read_input_tokens: usage.cache_read_input_tokens,
            cache_creation_input_tokens: usage.cache_creation_input_tokens,
            cents: cost.cents_number(),
        };
        gateway.audit(context, &event);
    }
    let Some((id, is_known)) = hold.map(Hold::settle) else {
        gateway.count(&figure(Some(false)));
        return;
    };
    let subject = session.subject().unwrap_or_default();
    // A reservation knows its pool.
    let pool = if is_known { None } else { paying_pool(gateway, session, admin).await };
    let settlement = Settlement {
        id: &id,
        subject,
        pool: pool.as_deref(),
        cost,
        usage,
        model: &candidate.model,
        upstream: served.upstream,
        session: session.id().unwrap_or_default(),
        at: gateway.ports.clock.now(),
    };
    let sums = settled(gateway, context, settlement).await;
    gateway.count(&figure(Some(sums.is_some())));
    let Some(sums) = sums else { return };
    if is_known {
        gateway.count(&Figure::Reservation { outcome: "settled", count: 1 });
    }
    gateway.note_identity(context, session, subject).await;
    alerts::after_settlement(gateway, &sums).await;
    upkeep::after_response(gateway);
}

/// Settles, several times if it has to be: an id counts once.
async fn settled(gateway: &Gateway, context: &Context, settlement: Settlement<'_>) -> Option<Vec<Sum>> {
    let mut pauses = AGAIN_AFTER.iter();
    loop {
        let error = match gateway.store().settle(settlement).await {
            Ok(sums) => return Some(sums),
            Err(error) => error,
        };
        let cents = settlement.cost.cents_to_six_decimals();
        let Some(pause) = pauses.next() else {
            let message = format!("{cents} cents of {} could not be recorded: {error}", context.request_id);
            gateway.log_of(context, Level::Error, &message);
            return None;
        };
        let message = format!("{cents} cents of {} are not recorded yet: {error}", context.request_id);
        gateway.log_of(context, Level::Warn, &message);
        gateway.ports.clock.sleep(*pause).await;
    }
}

/// Whose pool pays, when nobody could say before the request.
async fn paying_pool(gateway: &Gateway, session: &Session, admin: &Admin) -> Option<String> {
    let standing = gateway.standing(session).await.ok()?;
    match verdict(&standing, admin.group_limit_mode, gateway.ports.clock.now()) {
        Verdict::Allowed { pool, .. } => pool,
        Verdict::Blocked { groups, .. } => groups.into_iter().next(),
    }
}

/// The tokens of a request whose answer told none: counted by the upstream that answered, or estimated.
async fn count_input(relay: &Relay<'_>, candidate: &Candidate) -> u64 {
    // What the upstream has read, masked if it was.
    let message = relay.sent(candidate.upstream);
    let counted = async {
        let counting = message.for_counting();
        if let Some(tokens) = ask_for_tokens(relay, candidate, Operation::CountTokens, &counting).await {
            return Some(tokens);
        }
        let provider = &relay.gateway.config.upstreams[candidate.upstream].provider;
        if !matches!(provider, Provider::Bedrock { .. }) {
            return None;
        }
        ask_for_tokens(relay, candidate, Operation::Messages, &message.for_probing()).await
    }
    .fuse();
    let timeout = relay.gateway.ports.clock.sleep(COUNT_PATIENCE).fuse();
    pin_mut!(counted, timeout);
    let counted = select_biased! {
        counted = counted => counted,
        () = timeout => None,
    };
    counted.unwrap_or_else(|| message.estimated_input())
}

async fn ask_for_tokens(
    relay: &Relay<'_>,
    candidate: &Candidate,
    operation: Operation,
    message: &Message,
) -> Option<u64> {
    let headers = HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (HeaderName::from_static("anthropic-version"), HeaderValue::from_static("2023-06-01")),
    ]);
    let caller = upstream::Caller {
        sub: relay.inference.session.subject().unwrap_or_default(),
        email: relay.inference.session.email(),
    };
    let call = Call { operation, query: None, headers: &headers, message, caller, strip_tags: false };
    let gateway = relay.gateway;
    let (head, mut body) = relay.ask(candidate, &call).await.ok()?.into_parts();
    // What cannot be read is as good as empty.
    let body = read_body(&mut body, MAX_COUNT_BYTES).await.unwrap_or_default();
    if !head.status.is_success() {
        let refused = |pause: &mut CountPause, now| pause.failed(head.status, &head.headers, &body, now);
        gateway.count_came_to(candidate, operation, refused).await;
        return None;
    }
    let Ok(json) = upstream::json_answer(&gateway.config.upstreams[candidate.upstream], operation, body) else {
        gateway.count_came_to(candidate, operation, CountPause::failed_without_answer).await;
        return None;
    };
    gateway.count_came_to(candidate, operation, |pause, _| pause.succeeded()).await;
    let answer: serde_json::Value = serde_json::from_slice(&json).ok()?;
    let counted = match operation {
        Operation::CountTokens => answer.get("input_tokens"),
        Operation::Messages => answer.get("usage").and_then(|usage| usage.get("input_tokens")),
    };
    counted?.as_u64()
}
