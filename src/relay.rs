//! The one loop of inference: try the upstreams in order, and stream the winner's answer back.
//!
//! What a request becomes and what an answer means is decided in `upstream/`; this file only waits, sends and pumps.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::FutureExt;
use futures_util::{pin_mut, select_biased};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};

use crate::domain::audit::{AuditEvent, Billing, MaskingReceipt};
use crate::domain::figure::Figure;
use crate::domain::ids::Timestamp;
use crate::domain::session::Session;
use crate::domain::trace::Work;
use crate::error::Failure;
use crate::exchange::{Body, CutOff, Response, read_body};
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use crate::masking::{MaskedMessage, Restoring, Unmaskable};
use crate::ports::{BodySink, BoxStream, Outbound, StreamError};
use crate::resilience::Route;
use crate::spending::{self, Bill, Clearance};
use crate::stream::meter::Meter;
use crate::stream::{End, PING, Translator};
use crate::upstream::catalog::{Candidate, Plan};
use crate::upstream::credentials::{self, Credential};
use crate::upstream::{
    self, BillingGroup, Call, Caller, CountPause, Failures, Form, Message, Operation, RequestIds, Verdict,
};
use crate::wire::content_encoding::{Decoder, undecodable};

/// The most of an upstream's error that is read; more than any of them sends.
pub(crate) const MAX_ERROR_BYTES: u64 = 1024 * 1024;

/// How long the rest of an upstream's error is waited for; others may be able to answer.
pub(crate) const ERROR_PATIENCE: Duration = Duration::from_secs(10);

/// The most of a JSON answer that is read where an answer has to be read whole; far more than a model can write.
const MAX_JSON_BYTES: u64 = 32 * 1024 * 1024;

/// How long a translated stream may be silent, and how often that is looked at (inference contract §10).
const SILENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_secs(5);

/// What a stream of the Messages API is.
const EVENT_STREAM_TYPE: &[u8] = b"text/event-stream";

/// One inference request that may be sent: the session is verified, the policy agreed, and there is a plan.
pub(crate) struct Inference {
    /// What is asked for.
    pub(crate) operation: Operation,
    /// The query as it came.
    pub(crate) query: Option<String>,
    /// The client's headers.
    pub(crate) headers: HeaderMap,
    /// The body as the client sent it.
    pub(crate) message: Message,
    /// The body as upstreams get it for which requests are masked; made for the first of them.
    pub(crate) masked: OnceCell<MaskedMessage>,
    /// Who asks.
    pub(crate) session: Session,
    /// Where it may go.
    pub(crate) plan: Plan,
    /// Whether another upstream would be asked if the present one fails.
    pub(crate) has_next: Cell<bool>,
    /// When it came.
    pub(crate) received: Timestamp,
    /// Leave to spend; `None` where nothing is metered.
    pub(crate) clearance: Option<Clearance>,
    /// What it says about who pays.
    pub(crate) billing_group: BillingGroup,
    /// Whether its tokens were not counted but estimated.
    pub(crate) count_is_estimated: Cell<bool>,
}

impl Inference {
    /// The same for the audit trail.
    pub(crate) fn billing(&self) -> Billing<'_> {
        match &self.billing_group {
            BillingGroup::Absent => Billing::default(),
            BillingGroup::Group(group) => Billing { billing_group: Some(group), billing_group_ignored: false },
            BillingGroup::Ignored => Billing { billing_group: None, billing_group_ignored: true },
        }
    }
}

/// Sends the request to the candidates of its plan, on the [`Route`] that leads through them, until one answers it.
pub(crate) async fn send(gateway: &Rc<Gateway>, context: &Context, inference: Inference) -> Result<Response, Failure> {
    let inference = &Rc::new(inference);
    let relay = Relay { gateway, context, inference };
    let mut failures = Failures::new();
    let mut last_ids = RequestIds::default();
    let mut route = Route::of(gateway, inference);
    while let Some(step) = route.next() {
        let candidate = step.candidate;
        inference.has_next.set(route.has_next());
        match relay.attempt(candidate, &failures).await {
            Outcome::Answer(response) => return Ok(response),
            Outcome::Failed { ids, answer } => {
                if ids != RequestIds::default() {
                    last_ids = ids.clone();
                }
                if let Some((answer, masking)) = answer {
                    failures.add(answer.status(), (candidate.upstream, ids, answer, masking));
                }
            }
        }
    }
    let masking = inference.masked.get().map(|masked| &masked.receipt);
    if let Some((upstream, ids, answer, told)) = failures.into_answer() {
        if let Some(estimate) = relay.estimated_count(answer.status()).await {
            return Ok(relay.finish(None, &ids, estimate, masking));
        }
        return Ok(relay.finish(Some(upstream), &ids, answer.map(Body::Full), told.as_ref()));
    }
    let answer = upstream::all_failed(inference.plan.permitted, &context.request_id);
    Ok(relay.finish(None, &last_ids, answer.map(Body::Full), masking))
}

/// What became of one attempt.
enum Outcome {
    /// The client's answer.
    Answer(Response),
    /// The next candidate is tried; `answer` is what could be told if none is left.
    Failed { ids: RequestIds, answer: Option<Told> },
}

/// An answer that could be told, and what masking did to it.
type Told = (http::Response<Bytes>, Option<MaskingReceipt>);

/// One request on its way.
pub(crate) struct Relay<'a> {
    pub(crate) gateway: &'a Rc<Gateway>,
    pub(crate) context: &'a Context,
    pub(crate) inference: &'a Rc<Inference>,
}

impl<'a> Relay<'a> {
    async fn attempt<A>(&self, candidate: &Candidate, failures: &Failures<A>) -> Outcome {
        let index = candidate.upstream;
        let upstream = &self.gateway.config.upstreams[index];
        let masked = match self.masked(index).await {
            Ok(masked) => masked,
            Err(Unmaskable { failure, receipt }) => {
                let refusal = self.gateway.rescue(self.context, failure);
                return Outcome::Answer(self.finish(None, &RequestIds::default(), refusal, Some(&receipt)));
            }
        };
        let call = self.call(masked.map_or(&self.inference.message, |masked| &masked.message));
        let request_id = &self.context.request_id;
        let receipt = || masked.map(|masked| masked.receipt.clone());
        let without_answer = |ids| {
            let answer = upstream::without_answer(upstream, call.operation, request_id);
            Outcome::Failed { ids, answer: answer.map(|answer| (answer, receipt())) }
        };
        let begun = self.gateway.ports.clock.now();
        let answer = match Box::pin(self.ask_compatibly(candidate, &call)).await {
            Ok(answer) => answer,
            Err(reason) => {
                self.failed(candidate, begun, "no_answer", &reason);
                return without_answer(RequestIds::default());
            }
        };
        let (head, body) = answer.into_parts();
        let ids = upstream::request_ids(&head.headers);
        let verdict = upstream::verdict(upstream, call.operation, head.status);
        if verdict != Verdict::Take {
            let (answer, masking) = self.error_answer((candidate, begun), (&call, masked), verdict, &head, body).await;
            if verdict == Verdict::GiveUp {
                if let Some(estimate) = self.estimated_count(head.status).await {
                    return Outcome::Answer(self.finish(None, &ids, estimate, receipt().as_ref()));
                }
                return Outcome::Answer(self.finish(Some(index), &ids, answer.map(Body::Full), masking.as_ref()));
            }
            return Outcome::Failed { ids, answer: failures.wants(answer.status()).then_some((answer, masking)) };
        }
        let restorer = masked.and_then(|masked| masked.restorer.as_ref());
        let undecodable = undecodable(&head.headers);
        if let (Some(_), Some(coding)) = (restorer, undecodable) {
            let coding = String::from_utf8_lossy(coding.as_bytes());
            self.warn(index, &format!("answered in the coding {coding}, in which nothing can be restored"));
            return without_answer(ids);
        }
        let form = upstream::form(upstream, &call, &head, request_id);
        let bill = |meter: Meter| {
            // What cannot be read is estimated by its length.
            let meter = if undecodable.is_some() { Meter::json() } else { meter };
            // A redirection is no work of a model; only what it tells is billed (inference contract §13.1 and §13.4).
            Bill::open(self, candidate, if head.status.is_success() { meter } else { meter.without_estimates() })
        };
        let restoring = |status| {
            restorer.map(|restorer| Restoring::new(restorer, self.record(Some(index), &ids, status, receipt())))
        };
        let content_type = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        let mut masking = receipt();
        let headers = upstream::head(upstream, &form, &head);
        let (status, body) = match form {
            Form::Relay if restorer.is_none() || content_type.starts_with(EVENT_STREAM_TYPE) => {
                let (bill, restoring) = (bill(Meter::of(content_type)), restoring(head.status));
                (head.status, self.relayed(index, &head, body, bill, restoring))
            }
            Form::Stream(translator) => {
                let (bill, restoring) = (bill(Meter::sse()), restoring(StatusCode::OK));
                (StatusCode::OK, self.translated(index, &head, body, translator, bill, restoring))
            }
            // Identifiers are restored in the whole of it.
            Form::Relay | Form::Json => {
                let status = if matches!(form, Form::Json) { StatusCode::OK } else { head.status };
                let meter = if matches!(form, Form::Json) { Meter::json() } else { Meter::of(content_type) };
                match self.whole(index, (&head, body), masked, || bill(meter)).await {
                    Ok((answer, receipt)) => {
                        masking = receipt;
                        (status, Body::Full(answer))
                    }
                    Err(reason) => {
                        self.failed(candidate, begun, "unreadable", &reason);
                        self.gateway.count_came_to(candidate, call.operation, CountPause::failed_without_answer).await;
                        return without_answer(ids);
                    }
                }
            }
        };
        let outcome = if head.status.is_success() { "ok" } else { head.status.as_str() };
        self.attempted(candidate, begun, outcome, Verdict::Take);
        self.gateway.count_came_to(candidate, call.operation, |pause, _| pause.succeeded()).await;
        let response = self.response(status, headers, body, masked);
        if restorer.is_some() && matches!(response.body(), Body::Streamed(_)) {
            // What was restored is known when it has ended: then the audit line is written.
            return Outcome::Answer(response);
        }
        Outcome::Answer(self.finish(Some(index), &ids, response, masking.as_ref()))
    }

    /// An answer that is taken, with what the gateway itself says in its head.
    fn response(
        &self,
        status: StatusCode,
        mut headers: HeaderMap,
        body: Body,
        masked: Option<&MaskedMessage>,
    ) -> Response {
        if let Some(masked) = masked {
            masked.tell(&mut headers);
        }
        if status.is_success() {
            if let Some(clearance) = &self.inference.clearance {
                clearance.tell(&mut headers);
            }
            // Relayed successes carry the id under the upstream's name for it, too (inference contract §2.2).
            if let Ok(id) = HeaderValue::try_from(self.context.request_id.as_str()) {
                headers.insert(HeaderName::from_static("request-id"), id);
            }
        }
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// An attempt came to nothing, for this reason; the next candidate is tried.
    fn failed(&self, candidate: &Candidate, begun: Timestamp, outcome: &str, reason: &str) {
        self.warn(candidate.upstream, reason);
        self.attempted(candidate, begun, outcome, Verdict::TryNext);
    }

    /// Counts an attempt that is decided.
    fn attempted(&self, candidate: &Candidate, begun: Timestamp, outcome: &str, verdict: Verdict) {
        self.gateway.count(&Figure::Attempt {
            upstream: &self.gateway.config.upstreams[candidate.upstream].name,
            outcome,
            ms: self.gateway.ports.clock.now().millis_since(begun),
            failover: verdict == Verdict::TryNext && self.inference.has_next.get(),
        });
    }

    /// The client's form of an answer that is not taken, and what masking did to it.
    async fn error_answer(
        &self,
        (candidate, begun): (&Candidate, Timestamp),
        (call, masked): (&Call<'_>, Option<&MaskedMessage>),
        verdict: Verdict,
        head: &response::Parts,
        mut body: BoxStream,
    ) -> Told {
        self.attempted(candidate, begun, head.status.as_str(), verdict);
        if verdict == Verdict::TryNext {
            let hint =
                if head.status == StatusCode::UNAUTHORIZED { ": it refuses the gateway's credential" } else { "" };
            self.warn(candidate.upstream, &format!("answered {}{hint}", head.status.as_u16()));
        }
        let body = self.decoded(head, &mut body).await;
        let refused = |pause: &mut CountPause, now| pause.failed(head.status, &head.headers, &body, now);
        self.gateway.count_came_to(candidate, call.operation, refused).await;
        let upstream = &self.gateway.config.upstreams[candidate.upstream];
        let mut answer = upstream::error_answer(upstream, call, head, body, &self.context.request_id);
        let Some(masked) = masked else { return (answer, None) };
        masked.tell(answer.headers_mut());
        let (body, receipt) = masked.restore(std::mem::take(answer.body_mut()));
        *answer.body_mut() = body;
        (answer, Some(receipt))
    }

    /// All of an upstream's error, decompressed; what cannot be read, or does not come, is as good as empty.
    async fn decoded(&self, head: &response::Parts, body: &mut BoxStream) -> Bytes {
        let whole = read_body(body, MAX_ERROR_BYTES).fuse();
        let timeout = self.gateway.ports.clock.sleep(ERROR_PATIENCE).fuse();
        pin_mut!(whole, timeout);
        select_biased! {
            whole = whole => whole.ok().and_then(|whole| decode(head, whole).ok()).unwrap_or_default(),
            () = timeout => Bytes::new(),
        }
    }

    /// An answer that is read whole, in the client's form; and what masking did to it.
    async fn whole(
        &self,
        index: usize,
        (head, mut body): (&response::Parts, BoxStream),
        masked: Option<&MaskedMessage>,
        bill: impl FnOnce() -> Option<Bill>,
    ) -> Result<(Bytes, Option<MaskingReceipt>), String> {
        let answer = read_body(&mut body, MAX_JSON_BYTES).await.map_err(|error| error.to_string())?;
        let upstream = &self.gateway.config.upstreams[index];
        let answer = upstream::json_answer(upstream, self.inference.operation, decode(head, answer)?)
            .map_err(|error| error.to_string())?;
        // The bill is settled when it is dropped.
        if let Some(mut bill) = bill() {
            bill.read(&answer);
        }
        Ok(match masked {
            Some(masked) => {
                let (answer, receipt) = masked.restore(answer);
                (answer, Some(receipt))
            }
            None => (answer, None),
        })
    }

    /// The message as the upstream may get it; `None` if its requests are not masked.
    async fn masked(&self, upstream: usize) -> Result<Option<&'a MaskedMessage>, Unmaskable> {
        let inference: &'a Inference = self.inference;
        let Some(rules) = self.gateway.masks(upstream, inference.session.groups()) else { return Ok(None) };
        if let Some(masked) = inference.masked.get() {
            return Ok(Some(masked));
        }
        let masked = self.gateway.mask(rules, &inference.message).await?;
        Ok(Some(inference.masked.get_or_init(|| masked)))
    }

    /// The message as the upstream got it: masked if its requests are.
    pub(crate) fn sent(&self, upstream: usize) -> &'a Message {
        let inference: &'a Inference = self.inference;
        let is_masked = self.gateway.masks(upstream, inference.session.groups()).is_some();
        inference.masked.get().filter(|_| is_masked).map_or(&inference.message, |masked| &masked.message)
    }

    fn call<'c>(&'c self, message: &'c Message) -> Call<'c> {
        let inference = self.inference;
        let admin = self.gateway.config.admin.as_ref();
        Call {
            operation: inference.operation,
            query: inference.query.as_deref(),
            headers: &inference.headers,
            message,
            caller: Caller { sub: inference.session.subject().unwrap_or_default(), email: inference.session.email() },
            strip_tags: admin.is_some_and(|admin| admin.billing_group_tag.is_some()),
        }
    }

    /// Asks one upstream; `Err` when there is no answer at all.
    pub(crate) async fn ask(
        &self,
        candidate: &Candidate,
        call: &Call<'_>,
    ) -> Result<http::Response<BoxStream>, String> {
        let gateway = self.gateway;
        let upstream = &gateway.config.upstreams[candidate.upstream];
        if !gateway.may_count(candidate, call.operation).await {
            return Err("counting tokens failed a short while ago".to_owned());
        }
        let credential = gateway.credential(candidate.upstream).await?;
        let answer = self.ask_with(candidate, call, &credential).await;
        if !answer.as_ref().is_ok_and(|answer| credentials::is_withdrawn(upstream, answer.status())) {
            return answer;
        }
        // A federated token may be withdrawn before its end: one more try with a new one (inference contract §9.5).
        gateway.forget_credential(candidate.upstream, &credential).await;
        let credential = gateway.credential(candidate.upstream).await?;
        self.ask_with(candidate, call, &credential).await
    }

    /// Asks it once, with this credential.
    async fn ask_with(
        &self,
        candidate: &Candidate,
        call: &Call<'_>,
        credential: &Credential,
    ) -> Result<http::Response<BoxStream>, String> {
        let gateway = self.gateway;
        let upstream = &gateway.config.upstreams[candidate.upstream];
        let begun = gateway.ports.clock.now();
        let mut request = upstream::prepare(upstream, call, &candidate.model, credential, begun)
            .map_err(|error| error.to_string())?;
        let span = gateway.random();
        self.continue_trace(request.headers_mut(), span);
        let outbound = Outbound { request, first_byte_timeout: Some(gateway.config.timeouts.upstream_ttfb) };
        let answer = gateway.ports.http.send(outbound).await;
        gateway.observe(candidate, call.operation, begun, &answer);
        let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        gateway.trace_work(self.context, begun, status, || Work::Attempt { upstream: upstream.name.clone(), span });
        if answer.is_err() {
            gateway.count_came_to(candidate, call.operation, CountPause::failed_without_answer).await;
        }
        answer.map_err(|error| error.to_string())
    }

    /// The upstream's place in the trace (W3C Trace Context §2.1). It is not part of a signature: these headers may be
    /// changed on the way.
    fn continue_trace(&self, headers: &mut HeaderMap, span: [u8; 8]) {
        let Some(trace) = &self.context.trace else { return };
        if let Ok(parent) = HeaderValue::try_from(trace.traceparent(span)) {
            headers.insert(HeaderName::from_static("traceparent"), parent);
        }
        if let Some(Ok(state)) = trace.tracestate().map(HeaderValue::try_from) {
            headers.insert(HeaderName::from_static("tracestate"), state);
        }
    }

    /// The body as it comes, decompressed.
    fn relayed(
        &self,
        index: usize,
        head: &response::Parts,
        body: BoxStream,
        bill: Option<Bill>,
        restoring: Option<Restoring>,
    ) -> Body {
        let decoder = content_decoder(&head.headers);
        if decoder.is_none() && bill.is_none() && restoring.is_none() {
            return Body::Relayed(body);
        }
        let gateway = Rc::clone(self.gateway);
        let (label, request_id) = (self.label(index), self.context.request_id.clone());
        Body::Streamed(Box::new(move |sink| {
            async move {
                match pump(&gateway, (body, decoder), sink, bill, restoring).await {
                    Err(Broken::Upstream(reason)) => {
                        gateway.say(Level::Warn, Some(&request_id), &format!("{label} broke off: {reason}"));
                        Err(CutOff)
                    }
                    Ok(()) | Err(Broken::Client) => Ok(()),
                }
            }
            .boxed_local()
        }))
    }

    /// The body in the client's form, with a ping wherever it is silent for long.
    fn translated(
        &self,
        index: usize,
        head: &response::Parts,
        body: BoxStream,
        translator: Box<dyn Translator>,
        bill: Option<Bill>,
        restoring: Option<Restoring>,
    ) -> Body {
        let gateway = Rc::clone(self.gateway);
        let (label, request_id) = (self.label(index), self.context.request_id.clone());
        let decoder = content_decoder(&head.headers);
        Body::Streamed(Box::new(move |sink| {
            async move {
                let body = (body, decoder);
                if let Some(reason) = translate(&gateway, body, translator, sink, bill, restoring).await {
                    gateway.say(Level::Warn, Some(&request_id), &format!("{label} broke off: {reason}"));
                }
                Ok(())
            }
            .boxed_local()
        }))
    }

    fn label(&self, index: usize) -> String {
        format!("upstream {} ({})", self.gateway.config.upstreams[index].name, self.context.request_id)
    }

    fn warn(&self, index: usize, reason: &str) {
        self.gateway.log_of(self.context, Level::Warn, &format!("{}: {reason}", self.label(index)));
    }

    /// Writes the audit line and lets the response go.
    fn finish(
        &self,
        upstream: Option<usize>,
        ids: &RequestIds,
        response: Response,
        masking: Option<&MaskingReceipt>,
    ) -> Response {
        self.write(upstream, ids, response.status(), self.elapsed_ms(), masking);
        response
    }

    /// The audit line of an answer that begins now and is accounted for when it has ended.
    fn record(
        &self,
        upstream: Option<usize>,
        ids: &RequestIds,
        status: StatusCode,
        masking: Option<MaskingReceipt>,
    ) -> Record {
        Record {
            gateway: Rc::clone(self.gateway),
            context: self.context.clone(),
            inference: Rc::clone(self.inference),
            upstream,
            ids: ids.clone(),
            status,
            ms: self.elapsed_ms(),
            masking,
        }
    }

    fn elapsed_ms(&self) -> u64 {
        self.gateway.ports.clock.now().millis_since(self.inference.received)
    }

    fn write(
        &self,
        upstream: Option<usize>,
        ids: &RequestIds,
        status: StatusCode,
        ms: u64,
        masking: Option<&MaskingReceipt>,
    ) {
        let inference = self.inference;
        let event = AuditEvent::Inference {
            sub: inference.session.subject(),
            email: inference.session.email(),
            path: inference.operation.path(),
            model: Some(inference.message.model()),
            upstream: upstream.map(|index| self.gateway.config.upstreams[index].name.as_str()),
            upstream_request_id: ids.upstream.as_deref(),
            upstream_cloud_request_id: ids.cloud.as_deref(),
            billing: inference.billing(),
            status: status.as_u16(),
            ms,
            count: inference.count_is_estimated.get().then_some("estimated"),
            masking,
        };
        self.gateway.audit(self.context, &event);
        if let Some(masking) = masking {
            self.gateway.count_masking(masking);
        }
    }
}

/// The audit line of an answer that is still on its way; written when this is dropped, however the answer ends.
pub(crate) struct Record {
    gateway: Rc<Gateway>,
    context: Context,
    inference: Rc<Inference>,
    upstream: Option<usize>,
    ids: RequestIds,
    status: StatusCode,
    ms: u64,
    masking: Option<MaskingReceipt>,
}

impl Record {
    /// Notes what was restored, and how many tokens were not the request's own.
    pub(crate) fn restored(&mut self, restored: u64, unknown: u64) {
        if let Some(masking) = &mut self.masking {
            (masking.restored, masking.unknown) = (restored, unknown);
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let relay = Relay { gateway: &self.gateway, context: &self.context, inference: &self.inference };
        relay.write(self.upstream, &self.ids, self.status, self.ms, self.masking.as_ref());
    }
}

/// How a pump ended early.
enum Broken {
    /// The client left; the upstream's connection is closed with its stream.
    Client,
    /// The upstream broke off, for this reason.
    Upstream(String),
}

/// Moves the body to the client, one piece at a time, until either side stops.
/// However it ends, the bill is settled and the audit line written when they are dropped here.
async fn pump(
    gateway: &Gateway,
    (mut body, mut decoder): (BoxStream, Option<Decoder>),
    mut sink: Box<dyn BodySink>,
    mut bill: Option<Bill>,
    mut restoring: Option<Restoring>,
) -> Result<(), Broken> {
    let mut left = None;
    let end = loop {
        let mut next = body.next().fuse();
        // Watching the client costs a little; it is only worth it while there is something to wait for.
        let piece = match futures_util::poll!(&mut next) {
            Poll::Ready(piece) => Some(piece),
            Poll::Pending => select_biased! {
                piece = next => Some(piece),
                () = left.get_or_insert_with(|| sink.left().fuse()) => None,
            },
        };
        drop(next);
        let Some(piece) = piece else {
            read_on(gateway, &mut body, &mut decoder, bill.as_mut()).await;
            return Err(Broken::Client);
        };
        let piece = match piece.map(|piece| plain(&mut decoder, piece)) {
            None => break finished(decoder.take()).map_err(Broken::Upstream),
            Some(Err(reason)) => break Err(Broken::Upstream(reason)),
            Some(Ok(piece)) => piece,
        };
        let piece = taken(&mut bill, &mut restoring, piece);
        if !piece.is_empty() && sink.send(piece).await.is_err() {
            read_on(gateway, &mut body, &mut decoder, bill.as_mut()).await;
            return Err(Broken::Client);
        }
    };
    let rest = restoring.as_mut().map(Restoring::finish).unwrap_or_default();
    if !rest.is_empty() && sink.send(rest).await.is_err() {
        return Err(Broken::Client);
    }
    end
}

/// A piece as the client gets it, after the bill has read it.
fn taken(bill: &mut Option<Bill>, restoring: &mut Option<Restoring>, piece: Bytes) -> Bytes {
    if let Some(bill) = bill {
        bill.read(&piece);
    }
    match restoring {
        Some(restoring) => restoring.push(&piece),
        None => piece,
    }
}

/// Reads what the bill of a client that has left still needs.
async fn read_on(gateway: &Gateway, body: &mut BoxStream, decoder: &mut Option<Decoder>, bill: Option<&mut Bill>) {
    let mut source = (body, decoder);
    spending::linger(gateway, bill, &mut source, async |(body, decoder)| {
        let piece = body.next().await?;
        plain(decoder, piece).ok()
    })
    .await;
}

/// Moves the body through `translator` to the client; returns why the upstream broke off, if it did.
async fn translate(
    gateway: &Gateway,
    (mut body, mut decoder): (BoxStream, Option<Decoder>),
    mut translator: Box<dyn Translator>,
    mut sink: Box<dyn BodySink>,
    mut bill: Option<Bill>,
    mut restoring: Option<Restoring>,
) -> Option<String> {
    let clock = &gateway.ports.clock;
    let left = sink.left().fuse();
    pin_mut!(left);
    let mut last_output = clock.now();
    let (rest, reason) = 'pieces: loop {
        let piece = {
            let next = body.next().fuse();
            pin_mut!(next);
            loop {
                let look = clock.sleep(LOOK).fuse();
                pin_mut!(look);
                select_biased! {
                    piece = next => break Some(piece),
                    () = left => break None,
                    () = look => {
                        if clock.now().since(last_output) >= SILENCE {
                            if sink.send(PING).await.is_err() {
                                break None;
                            }
                            last_output = clock.now();
                        }
                    }
                }
            }
        };
        let Some(piece) = piece else {
            read_on_translated(gateway, (&mut body, &mut decoder), &mut translator, bill.as_mut()).await;
            return None;
        };
        let end = match piece.map(|piece| plain(&mut decoder, piece)) {
            None => Some(match finished(decoder.take()) {
                Ok(()) => (End::Complete, None),
                Err(reason) => (End::BrokeOff, Some(reason)),
            }),
            Some(Err(reason)) => Some((End::BrokeOff, Some(reason))),
            Some(Ok(piece)) => {
                let translated = translator.push(&piece);
                let output = taken(&mut bill, &mut restoring, translated.output);
                if translated.is_over {
                    break 'pieces (output, None);
                }
                if !output.is_empty() {
                    if sink.send(output).await.is_err() {
                        read_on_translated(gateway, (&mut body, &mut decoder), &mut translator, bill.as_mut()).await;
                        return None;
                    }
                    last_output = clock.now();
                }
                None
            }
        };
        if let Some((end, reason)) = end {
            break (taken(&mut bill, &mut restoring, translator.finish(end)), reason);
        }
    };
    let held = restoring.as_mut().map(Restoring::finish).unwrap_or_default();
    for piece in [rest, held].into_iter().filter(|piece| !piece.is_empty()) {
        sink.send(piece).await.ok()?;
    }
    reason
}

/// The same as [`read_on`] for an answer that is translated.
async fn read_on_translated(
    gateway: &Gateway,
    (body, decoder): (&mut BoxStream, &mut Option<Decoder>),
    translator: &mut Box<dyn Translator>,
    bill: Option<&mut Bill>,
) {
    let mut source = (body, decoder, translator);
    spending::linger(gateway, bill, &mut source, async |(body, decoder, translator)| {
        let piece = body.next().await?;
        Some(translator.push(&plain(decoder, piece).ok()?).output)
    })
    .await;
}

fn plain(decoder: &mut Option<Decoder>, piece: Result<Bytes, StreamError>) -> Result<Bytes, String> {
    let piece = piece.map_err(|StreamError(reason)| reason)?;
    match decoder {
        None => Ok(piece),
        Some(decoder) => decoder.push(&piece).map(Into::into).map_err(|damaged| damaged.to_string()),
    }
}

fn content_decoder(headers: &HeaderMap) -> Option<Decoder> {
    Decoder::of(headers.get(header::CONTENT_ENCODING)?.to_str().ok()?)
}

pub(crate) fn decode(head: &response::Parts, whole: Bytes) -> Result<Bytes, String> {
    let mut decoder = content_decoder(&head.headers);
    let plain = plain(&mut decoder, Ok(whole))?;
    finished(decoder)?;
    Ok(plain)
}

/// The body has ended: whether the upstream meant it to.
fn finished(decoder: Option<Decoder>) -> Result<(), String> {
    decoder.map_or(Ok(()), Decoder::finish).map_err(|damaged| damaged.to_string())
}
