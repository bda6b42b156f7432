//! The one loop of inference: try the upstreams in order, and stream the winner's answer back.
//!
//! What a request becomes and what an answer means is decided in `upstream/`; this file only waits, sends and pumps.

use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::FutureExt;
use futures_util::{pin_mut, select_biased};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};

use crate::domain::audit::{AuditEvent, Billing};
use crate::domain::ids::Timestamp;
use crate::domain::session::Session;
use crate::error::Failure;
use crate::exchange::{Body, CutOff, Response, read_body};
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use crate::ports::{BodySink, BoxStream, Outbound, StreamError};
use crate::spending::{Bill, Clearance};
use crate::stream::meter::Meter;
use crate::stream::{End, PING, Translator};
use crate::upstream::catalog::{Candidate, Plan};
use crate::upstream::credentials;
use crate::upstream::{self, BillingGroup, Call, Caller, Failures, Form, Message, Operation, RequestIds, Verdict};
use crate::wire::content_encoding::Decoder;

/// The most of an upstream's error that is read; more than any of them sends.
const MAX_ERROR_BYTES: u64 = 1024 * 1024;

/// The most of a JSON answer that is read where an answer has to be read whole; far more than a model can write.
const MAX_JSON_BYTES: u64 = 32 * 1024 * 1024;

/// How long a translated stream may be silent, and how often that is looked at (inference contract §10).
const SILENCE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_secs(5);

/// One inference request that may be sent: the session is verified, the policy agreed, and there is a plan.
pub(crate) struct Inference {
    /// What is asked for.
    pub(crate) operation: Operation,
    /// The query as it came.
    pub(crate) query: Option<String>,
    /// The client's headers.
    pub(crate) headers: HeaderMap,
    /// The body.
    pub(crate) message: Message,
    /// Who asks.
    pub(crate) session: Session,
    /// Where it may go.
    pub(crate) plan: Plan,
    /// When it came.
    pub(crate) received: Timestamp,
    /// Leave to spend; `None` where nothing is metered.
    pub(crate) clearance: Option<Clearance>,
    /// What it says about who pays.
    pub(crate) billing_group: BillingGroup,
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

/// Sends the request to the candidates of its plan, in order, until one answers it.
pub(crate) async fn send(gateway: &Rc<Gateway>, context: &Context, inference: Inference) -> Result<Response, Failure> {
    let inference = &Rc::new(inference);
    let relay = Relay { gateway, context, inference };
    let mut failures = Failures::new();
    let mut last_ids = RequestIds::default();
    for candidate in &inference.plan.candidates {
        match relay.attempt(candidate, &failures).await {
            Outcome::Answer(response) => return Ok(response),
            Outcome::Failed { ids, answer } => {
                if ids != RequestIds::default() {
                    last_ids = ids.clone();
                }
                if let Some(answer) = answer {
                    failures.add(answer.status(), (candidate.upstream, ids, answer));
                }
            }
        }
    }
    if let Some((upstream, ids, answer)) = failures.into_answer() {
        return Ok(relay.finish(Some(upstream), &ids, answer.map(Body::Full)));
    }
    let answer = upstream::all_failed(inference.plan.permitted, &context.request_id);
    Ok(relay.finish(None, &last_ids, answer.map(Body::Full)))
}

/// What became of one attempt.
enum Outcome {
    /// The client's answer.
    Answer(Response),
    /// The next candidate is tried; `answer` is what could be told if none is left.
    Failed { ids: RequestIds, answer: Option<http::Response<Bytes>> },
}

/// One request on its way.
pub(crate) struct Relay<'a> {
    pub(crate) gateway: &'a Rc<Gateway>,
    pub(crate) context: &'a Context,
    pub(crate) inference: &'a Rc<Inference>,
}

impl Relay<'_> {
    async fn attempt<A>(&self, candidate: &Candidate, failures: &Failures<A>) -> Outcome {
        let index = candidate.upstream;
        let upstream = &self.gateway.config.upstreams[index];
        let call = self.call();
        let request_id = &self.context.request_id;
        let mut answer = self.ask(candidate, &call).await;
        if answer.as_ref().is_ok_and(|answer| credentials::is_withdrawn(upstream, answer.status())) {
            // A federated token may be withdrawn before its end: one more try with a new one (inference contract §9.5).
            self.gateway.forget_credential(index);
            answer = self.ask(candidate, &call).await;
        }
        let answer = match answer {
            Ok(answer) => answer,
            Err(reason) => {
                self.warn(index, &reason);
                let answer = upstream::without_answer(upstream, call.operation, request_id);
                return Outcome::Failed { ids: RequestIds::default(), answer };
            }
        };
        let (head, mut body) = answer.into_parts();
        let ids = upstream::request_ids(&head.headers);
        let verdict = upstream::verdict(upstream, call.operation, head.status);
        if verdict != Verdict::Take {
            if verdict == Verdict::TryNext {
                self.warn(index, &format!("answered {}", head.status.as_u16()));
            }
            let body = decoded(&head, &mut body).await;
            self.count_failed(candidate, &head, &body);
            let answer = upstream::error_answer(upstream, &call, &head, body, request_id);
            if verdict == Verdict::GiveUp {
                return Outcome::Answer(self.finish(Some(index), &ids, answer.map(Body::Full)));
            }
            return Outcome::Failed { ids, answer: failures.wants(answer.status()).then_some(answer) };
        }
        let form = upstream::form(upstream, &call, &head, request_id);
        let mut headers = upstream::head(upstream, &form, &head);
        let bill = |meter| Bill::open(self, candidate, meter);
        let (status, body) = match form {
            Form::Relay => {
                let content_type = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
                (head.status, self.relayed(index, &head, body, bill(Meter::of(content_type))))
            }
            Form::Stream(translator) => {
                (StatusCode::OK, self.translated(index, &head, body, translator, bill(Meter::sse())))
            }
            Form::Json => {
                let answer = read_body(&mut body, MAX_JSON_BYTES).await.map_err(|error| error.to_string());
                let plain = answer.and_then(|whole| decode(&head, whole));
                let json = plain.and_then(|whole| {
                    upstream::json_answer(upstream, call.operation, whole).map_err(|error| error.to_string())
                });
                match json {
                    Ok(json) => {
                        // The bill is settled when it is dropped.
                        if let Some(mut bill) = bill(Meter::json()) {
                            bill.read(&json);
                        }
                        (StatusCode::OK, Body::Full(json))
                    }
                    Err(reason) => {
                        self.warn(index, &reason);
                        let answer = upstream::without_answer(upstream, call.operation, request_id);
                        return Outcome::Failed { ids, answer };
                    }
                }
            }
        };
        if upstream::may_pause(upstream, call.operation) {
            self.gateway
                .cache
                .count_pauses
                .borrow_mut()
                .entry((index, candidate.model.clone()))
                .or_default()
                .succeeded();
        }
        if let Some(clearance) = &self.inference.clearance {
            clearance.tell(&mut headers);
        }
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        let undecodable =
            head.headers.get(header::CONTENT_ENCODING).filter(|_| content_decoder(&head.headers).is_none());
        if let (Body::Relayed(_), Some(encoding)) = (response.body(), undecodable) {
            // An encoding that we cannot take off is the client's affair: it asked for it.
            response.headers_mut().insert(header::CONTENT_ENCODING, encoding.clone());
        }
        if let (true, Ok(id)) = (status.is_success(), HeaderValue::try_from(request_id.as_str())) {
            // Relayed successes carry the id under the upstream's name for it, too (inference contract §2.2).
            response.headers_mut().insert(HeaderName::from_static("request-id"), id);
        }
        Outcome::Answer(self.finish(Some(index), &ids, response))
    }

    fn call(&self) -> Call<'_> {
        let inference = self.inference;
        let admin = self.gateway.config.admin.as_ref();
        Call {
            operation: inference.operation,
            query: inference.query.as_deref(),
            headers: &inference.headers,
            message: &inference.message,
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
        if upstream::may_pause(upstream, call.operation) {
            let pauses = gateway.cache.count_pauses.borrow();
            let pause = pauses.get(&(candidate.upstream, candidate.model.clone()));
            if pause.is_some_and(|pause| !pause.may_ask(gateway.ports.clock.now())) {
                return Err("counting tokens failed a short while ago".to_owned());
            }
        }
        let credential = gateway.credential(candidate.upstream).await?;
        let request = upstream::prepare(upstream, call, &candidate.model, &credential, gateway.ports.clock.now())
            .map_err(|error| error.to_string())?;
        let outbound = Outbound { request, first_byte_timeout: Some(gateway.config.timeouts.upstream_ttfb) };
        gateway.ports.http.send(outbound).await.map_err(|error| {
            let mut pauses = gateway.cache.count_pauses.borrow_mut();
            if upstream::may_pause(upstream, call.operation) {
                pauses
                    .entry((candidate.upstream, candidate.model.clone()))
                    .or_default()
                    .failed_without_answer(gateway.ports.clock.now());
            }
            error.to_string()
        })
    }

    /// Remembers a refused count: Bedrock is not asked again for a while (inference contract §10.5).
    fn count_failed(&self, candidate: &Candidate, head: &response::Parts, body: &[u8]) {
        if upstream::may_pause(&self.gateway.config.upstreams[candidate.upstream], self.inference.operation) {
            let now = self.gateway.ports.clock.now();
            let mut pauses = self.gateway.cache.count_pauses.borrow_mut();
            let pause = pauses.entry((candidate.upstream, candidate.model.clone())).or_default();
            pause.failed(head.status, &head.headers, body, now);
        }
    }

    /// The body as it comes, decompressed.
    fn relayed(&self, index: usize, head: &response::Parts, body: BoxStream, bill: Option<Bill>) -> Body {
        let decoder = content_decoder(&head.headers);
        if decoder.is_none() && bill.is_none() {
            return Body::Relayed(body);
        }
        let gateway = Rc::clone(self.gateway);
        let label = self.label(index);
        Body::Streamed(Box::new(move |sink| {
            async move {
                match pump(body, decoder, sink, bill).await {
                    Err(Broken::Upstream(reason)) => {
                        gateway.log(Level::Warn, &format!("{label} broke off: {reason}"));
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
    ) -> Body {
        let gateway = Rc::clone(self.gateway);
        let label = self.label(index);
        let decoder = content_decoder(&head.headers);
        Body::Streamed(Box::new(move |sink| {
            async move {
                if let Some(reason) = translate(&gateway, body, decoder, translator, sink, bill).await {
                    gateway.log(Level::Warn, &format!("{label} broke off: {reason}"));
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
        self.gateway.log(Level::Warn, &format!("{}: {reason}", self.label(index)));
    }

    /// Writes the audit line and lets the response go.
    fn finish(&self, upstream: Option<usize>, ids: &RequestIds, response: Response) -> Response {
        let inference = self.inference;
        let elapsed = self.gateway.ports.clock.now().since(inference.received);
        let event = AuditEvent::Inference {
            sub: inference.session.subject(),
            email: inference.session.email(),
            path: inference.operation.path(),
            model: Some(inference.message.model()),
            upstream: upstream.map(|index| self.gateway.config.upstreams[index].name.as_str()),
            upstream_request_id: ids.upstream.as_deref(),
            upstream_cloud_request_id: ids.cloud.as_deref(),
            billing: inference.billing(),
            status: response.status().as_u16(),
            ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        };
        self.gateway.audit(self.context, &event);
        response
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
/// However it ends, the bill is settled when it is dropped here.
async fn pump(
    mut body: BoxStream,
    mut decoder: Option<Decoder>,
    mut sink: Box<dyn BodySink>,
    mut bill: Option<Bill>,
) -> Result<(), Broken> {
    let mut left = None;
    loop {
        let mut next = body.next().fuse();
        // Watching the client costs a little; it is only worth it while there is something to wait for.
        let piece = match futures_util::poll!(&mut next) {
            Poll::Ready(piece) => piece,
            Poll::Pending => select_biased! {
                piece = next => piece,
                () = left.get_or_insert_with(|| sink.left().fuse()) => return Err(Broken::Client),
            },
        };
        let Some(piece) = piece else { return Ok(()) };
        let piece = plain(&mut decoder, piece).map_err(Broken::Upstream)?;
        if piece.is_empty() {
            continue;
        }
        if let Some(bill) = &mut bill {
            bill.read(&piece);
        }
        if sink.send(piece).await.is_err() {
            return Err(Broken::Client);
        }
    }
}

/// Moves the body through `translator` to the client; returns why the upstream broke off, if it did.
async fn translate(
    gateway: &Gateway,
    mut body: BoxStream,
    mut decoder: Option<Decoder>,
    mut translator: Box<dyn Translator>,
    mut sink: Box<dyn BodySink>,
    mut bill: Option<Bill>,
) -> Option<String> {
    let clock = &gateway.ports.clock;
    let left = sink.left().fuse();
    pin_mut!(left);
    let mut last_output = clock.now();
    let (end, reason) = 'pieces: loop {
        let next = body.next().fuse();
        pin_mut!(next);
        let piece = loop {
            let look = clock.sleep(LOOK).fuse();
            pin_mut!(look);
            select_biased! {
                piece = next => break piece,
                () = left => return None,
                () = look => {
                    if clock.now().since(last_output) >= SILENCE {
                        sink.send(PING).await.ok()?;
                        last_output = clock.now();
                    }
                }
            }
        };
        let piece = match piece.map(|piece| plain(&mut decoder, piece)) {
            None => break 'pieces (End::Complete, None),
            Some(Err(reason)) => break 'pieces (End::BrokeOff, Some(reason)),
            Some(Ok(piece)) => piece,
        };
        let translated = translator.push(&piece);
        if !translated.output.is_empty() {
            if let Some(bill) = &mut bill {
                bill.read(&translated.output);
            }
            sink.send(translated.output).await.ok()?;
            last_output = clock.now();
        }
        if translated.is_over {
            return None;
        }
    };
    let rest = translator.finish(end);
    if !rest.is_empty() {
        if let Some(bill) = &mut bill {
            bill.read(&rest);
        }
        sink.send(rest).await.ok()?;
    }
    reason
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

fn decode(head: &response::Parts, whole: Bytes) -> Result<Bytes, String> {
    plain(&mut content_decoder(&head.headers), Ok(whole))
}

/// All of an upstream's error, decompressed; what cannot be read is as good as empty.
async fn decoded(head: &response::Parts, body: &mut BoxStream) -> Bytes {
    match read_body(body, MAX_ERROR_BYTES).await {
        Ok(whole) => decode(head, whole).unwrap_or_default(),
        Err(_) => Bytes::new(),
    }
}
