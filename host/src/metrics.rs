//! Counters for Prometheus. Instances come and go and are many, so they count nothing: what they write anyway (the audit
//! trail) and a figure per attempt, answer and export reach this process, which adds up. What the process sees itself
//! (requests, bodies, databases, instances) it counts itself.
//!
//! Labels come from bounded sets: routes, configured upstreams, their models, destinations, names of events. No figure
//! names a person, and a request of a client cannot make a label.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use sallyport::domain::figure::Figure;
use serde::Deserialize;
use tokio::time::Instant;

/// Pairs of event and outcome that are told apart; those beyond count as `other`. There are far fewer.
const MOST_OUTCOMES: usize = 256;
const OTHER: &str = "other";

/// Seconds: answers of a model take from a tenth of a second to minutes.
const ANSWERS: &[f64] = &[0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
/// Seconds: databases take from a fraction of a millisecond to seconds.
const QUERIES: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0];

static WANTED: AtomicBool = AtomicBool::new(false);
static METRICS: OnceLock<Metrics> = OnceLock::new();

/// From now on they are.
pub(crate) fn want() {
    WANTED.store(true, Ordering::Relaxed);
    let _ = metrics();
}

/// All of them, if they are wanted.
pub(crate) fn wanted() -> Option<&'static Metrics> {
    WANTED.load(Ordering::Relaxed).then(metrics)
}

fn metrics() -> &'static Metrics {
    METRICS.get_or_init(Metrics::new)
}

/// Everything that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    outcomes: Mutex<HashSet<String>>,
    requests: IntCounterVec,
    duration: HistogramVec,
    first_byte: HistogramVec,
    in_flight: IntGauge,
    streams: IntGauge,
    events: IntCounterVec,
    answers: IntCounterVec,
    attempts: IntCounterVec,
    attempt_seconds: HistogramVec,
    failovers: IntCounterVec,
    left_out: IntCounterVec,
    breakers: IntGaugeVec,
    tokens: IntCounterVec,
    spend: IntCounterVec,
    settlements: IntCounterVec,
    reservations: IntCounterVec,
    masked: IntCounterVec,
    masking_tokens: IntCounterVec,
    masking_refusals: IntCounterVec,
    exports: IntCounterVec,
    export_retries: IntCounterVec,
    credentials: IntCounterVec,
    refusals: IntCounterVec,
    estimated_counts: IntCounterVec,
    swept: IntCounterVec,
    instances: IntGauge,
    instances_started: IntCounter,
    instance_requests: IntCounterVec,
    store_seconds: HistogramVec,
    store_errors: IntCounterVec,
    pool_wait: HistogramVec,
    pool: IntGaugeVec,
    lost_lines: IntCounter,
}

/// An audit event, as far as it is counted.
#[derive(Deserialize)]
struct Event<'a> {
    evt: &'a str,
    #[serde(default, borrow)]
    result: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    reason: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    cause: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    upstream: Option<Cow<'a, str>>,
    #[serde(default)]
    status: Option<u16>,
    #[serde(default, borrow)]
    masking: Option<Masking<'a>>,
}

/// What masking did to a request, as far as it is counted.
#[derive(Deserialize)]
struct Masking<'a> {
    #[serde(borrow)]
    mode: Cow<'a, str>,
    masked: BTreeMap<String, u64>,
    restored: u64,
    unknown: u64,
    #[serde(default, borrow)]
    refused: Option<Cow<'a, str>>,
}

impl Metrics {
    #[expect(clippy::too_many_lines, reason = "a table of families, one after the other")]
    fn new() -> Self {
        let registry = Registry::new();
        let answers = |name: &str, help: &str, labels: &[&str]| histogram(&registry, name, help, labels, ANSWERS);
        let queries = |name: &str, help: &str, labels: &[&str]| histogram(&registry, name, help, labels, QUERIES);
        let counter = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));
        let one = |name: &str, help: &str| register(&registry, IntCounter::new(name, help));
        let build = register(
            &registry,
            IntGaugeVec::new(Opts::new("sallyport_build_info", "Always 1; the labels say what runs."), &["version"]),
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let started = gauge("sallyport_start_time_seconds", "When the process began, seconds since 1970.");
        started.set(crate::console::now().as_secs());
        let metrics = Self {
            requests: counter("sallyport_requests_total", "Requests answered.", &["route", "status"]),
            duration: answers(
                "sallyport_request_duration_seconds",
                "From a request to the end of its answer's body.",
                &["route"],
            ),
            first_byte: answers(
                "sallyport_first_byte_seconds",
                "From a request to the head of its answer.",
                &["route"],
            ),
            in_flight: gauge("sallyport_requests_in_flight", "Requests whose answer is not complete."),
            streams: gauge("sallyport_active_streams", "Answers of /v1/messages whose body is under way."),
            events: counter("sallyport_audit_events_total", "Audit events by name and result.", &["event", "outcome"]),
            answers: counter(
                "sallyport_inference_total",
                "Inference requests by the upstream whose answer was returned (none: the gateway's own).",
                &["upstream", "status"],
            ),
            attempts: counter(
                "sallyport_upstream_attempts_total",
                "Attempts at upstreams: ok, a status, no_answer or unreadable.",
                &["upstream", "outcome"],
            ),
            attempt_seconds: answers(
                "sallyport_upstream_first_byte_seconds",
                "From an attempt to the head of the upstream's answer.",
                &["upstream"],
            ),
            failovers: counter(
                "sallyport_failovers_total",
                "Attempts after which the next upstream was tried, by the one that failed.",
                &["upstream"],
            ),
            left_out: counter(
                "sallyport_upstreams_left_out_total",
                "Requests that an upstream was left out of: by its breaker, or for want of budget for further attempts.",
                &["upstream", "reason"],
            ),
            breakers: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new(
                        "sallyport_breaker_open",
                        "1 while an upstream is left alone, by its id of the model (*: all of them).",
                    ),
                    &["upstream", "model"],
                ),
            ),
            tokens: counter("sallyport_tokens_total", "Tokens that answers used.", &["upstream", "model", "kind"]),
            spend: counter(
                "sallyport_spend_nanodollars_total",
                "What answers cost, in nano-dollars.",
                &["upstream", "model"],
            ),
            settlements: counter("sallyport_settlements_total", "Bills: recorded, or lost.", &["outcome"]),
            reservations: counter(
                "sallyport_reservations_total",
                "Reservations: held; then settled, released or expired; or refused, because others hold what is left.",
                &["outcome"],
            ),
            masked: counter(
                "sallyport_masked_total",
                "Identifiers masked (in shadow mode: that would have been), by kind.",
                &["mode", "kind"],
            ),
            masking_tokens: counter(
                "sallyport_masking_tokens_total",
                "Tokens in answers: restored, or unknown (not the request's own).",
                &["fate"],
            ),
            masking_refusals: counter(
                "sallyport_masking_refusals_total",
                "Requests that were refused because they could not be masked.",
                &["reason"],
            ),
            exports: counter(
                "sallyport_telemetry_exports_total",
                "Telemetry exports: sent, refused, failed, paused (breaker) or full (no room); the last three are drops.",
                &["destination", "signal", "outcome"],
            ),
            export_retries: counter(
                "sallyport_telemetry_retries_total",
                "Further attempts at telemetry exports.",
                &["destination"],
            ),
            credentials: counter(
                "sallyport_upstream_credentials_total",
                "Credentials that were needed anew: obtained, failed, or shared (somebody else had obtained it).",
                &["upstream", "outcome"],
            ),
            refusals: counter(
                "sallyport_upstream_refusals_total",
                "Betas and members of bodies that an upstream was found to refuse; requests go there without them.",
                &["upstream", "kind"],
            ),
            estimated_counts: counter(
                "sallyport_estimated_counts_total",
                "Answers to count_tokens that were estimated, by the upstream that the estimate is about.",
                &["upstream"],
            ),
            swept: counter("sallyport_swept_rows_total", "Rows that upkeep deleted.", &["table"]),
            instances: gauge("sallyport_instances", "Instances of the component."),
            instances_started: one("sallyport_instances_started_total", "Instances of the component that were made."),
            instance_requests: counter(
                "sallyport_instance_requests_total",
                "Requests given to an instance that was fresh, or reused.",
                &["state"],
            ),
            store_seconds: queries("sallyport_store_seconds", "Time of one statement or look-up.", &["store"]),
            store_errors: counter("sallyport_store_errors_total", "Statements and look-ups that failed.", &["store"]),
            pool_wait: queries(
                "sallyport_pool_wait_seconds",
                "Wait for a connection to PostgreSQL, a new one included.",
                &["store"],
            ),
            pool: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("sallyport_pool_connections", "Connections to PostgreSQL: open and idle."),
                    &["state"],
                ),
            ),
            lost_lines: one("sallyport_log_lines_dropped_total", "Lines that standard error was too slow for."),
            outcomes: Mutex::default(),
            registry,
        };
        metrics.begin_with_zero();
        metrics
    }

    /// Families whose labels are known beforehand have all their series from the start: a rate needs a first value, and
    /// what is not there cannot be told from what never happened.
    fn begin_with_zero(&self) {
        let families: [(&IntCounterVec, &[&str]); 5] = [
            (&self.settlements, &["recorded", "lost"]),
            (&self.reservations, &["held", "refused", "settled", "released", "expired"]),
            (&self.masking_tokens, &["restored", "unknown"]),
            (&self.masking_refusals, &["unreadable", "too_long", "too_many", "secret", "key_unavailable"]),
            (&self.instance_requests, &["fresh", "reused"]),
        ];
        for (family, labels) in families {
            for label in labels {
                add(family, &[label], 0);
            }
        }
    }

    /// The text form, version 0.0.4.
    pub(crate) fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Families and labels are ours and valid; writing to memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }

    /// A line on the component's standard error; only audit events count.
    pub(crate) fn line(&self, line: &[u8]) {
        if !line.starts_with(b"{\"ts\":") {
            return;
        }
        let Ok(event) = serde_json::from_slice::<Event<'_>>(line) else { return };
        let outcome =
            event.result.as_deref().or(event.reason.as_deref()).or(event.cause.as_deref()).unwrap_or_default();
        add(&self.events, &[event.evt, self.bounded(event.evt, outcome)], 1);
        if event.evt == "inference" {
            let status = event.status.map(|status| status.to_string()).unwrap_or_default();
            add(&self.answers, &[event.upstream.as_deref().unwrap_or("none"), &status], 1);
        }
        let Some(masking) = event.masking else { return };
        for (kind, count) in &masking.masked {
            add(&self.masked, &[&masking.mode, kind], *count);
        }
        for (fate, count) in [("restored", masking.restored), ("unknown", masking.unknown)] {
            add(&self.masking_tokens, &[fate], count);
        }
        if let Some(reason) = masking.refused {
            add(&self.masking_refusals, &[&reason], 1);
        }
    }

    /// `outcome`, unless events say too many different things.
    fn bounded<'a>(&self, event: &str, outcome: &'a str) -> &'a str {
        let mut seen = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let pair = format!("{event} {outcome}");
        if seen.contains(&pair) || seen.len() < MOST_OUTCOMES && seen.insert(pair) { outcome } else { OTHER }
    }

    /// A line on the component's standard output.
    pub(crate) fn figure(&self, line: &[u8]) {
        match serde_json::from_slice::<Figure<'_>>(line) {
            Ok(Figure::Attempt { upstream, outcome, ms, failover }) => {
                add(&self.attempts, &[upstream, outcome], 1);
                self.attempt_seconds.with_label_values(&[upstream]).observe(seconds(Duration::from_millis(ms)));
                add(&self.failovers, &[upstream], failover.into());
            }
            Ok(Figure::Usage {
                upstream,
                model,
                input_tokens,
                output_tokens,
                cache_read_input_tokens,
                cache_creation_input_tokens,
                nanos,
                settled,
            }) => {
                for (kind, count) in [
                    ("input", input_tokens),
                    ("output", output_tokens),
                    ("cache_read", cache_read_input_tokens),
                    ("cache_creation", cache_creation_input_tokens),
                ] {
                    add(&self.tokens, &[upstream, model, kind], count);
                }
                add(&self.spend, &[upstream, model], nanos);
                if let Some(settled) = settled {
                    add(&self.settlements, &[if settled { "recorded" } else { "lost" }], 1);
                }
            }
            Ok(Figure::Reservation { outcome, count }) => add(&self.reservations, &[outcome], count),
            Ok(Figure::Export { destination, signal, outcome, retries }) => {
                add(&self.exports, &[destination, signal, outcome], 1);
                add(&self.export_retries, &[destination], retries.into());
            }
            Ok(Figure::LeftOut { upstream, reason }) => add(&self.left_out, &[upstream, reason], 1),
            Ok(Figure::Breaker { upstream, model, is_open }) => {
                self.breakers.with_label_values(&[upstream, model]).set(is_open.into());
            }
            Ok(Figure::Credential { upstream, outcome }) => add(&self.credentials, &[upstream, outcome], 1),
            Ok(Figure::Refusal { upstream, kind }) => add(&self.refusals, &[upstream, kind], 1),
            Ok(Figure::EstimatedCount { upstream }) => add(&self.estimated_counts, &[upstream], 1),
            Ok(Figure::Swept { table, rows }) => add(&self.swept, &[table], rows),
            // A component that is newer than its host may count what the host does not know.
            Err(_) => {}
        }
    }

    /// A request has come.
    pub(crate) fn begin(&'static self, route: &'static str) -> Measured {
        self.in_flight.inc();
        Measured { metrics: self, route, since: Instant::now(), is_stream: false }
    }

    /// Series of the configured upstream `name` that begin with nothing.
    pub(crate) fn know_upstream(&self, name: &str) {
        add(&self.failovers, &[name], 0);
        for reason in ["breaker", "budget"] {
            add(&self.left_out, &[name, reason], 0);
        }
        for outcome in ["obtained", "failed", "shared"] {
            add(&self.credentials, &[name, outcome], 0);
        }
        for kind in ["beta", "field"] {
            add(&self.refusals, &[name, kind], 0);
        }
        add(&self.estimated_counts, &[name], 0);
        self.breakers.with_label_values(&[name, "*"]).set(0);
    }

    /// What came could not be read as a request, and was answered `status`.
    pub(crate) fn unreadable(&self, status: &str) {
        add(&self.requests, &["unknown", status], 1);
    }

    /// An instance was made.
    pub(crate) fn instance_started(&self) {
        self.instances.inc();
        self.instances_started.inc();
    }

    /// An instance is gone.
    pub(crate) fn instance_ended(&self) {
        self.instances.dec();
    }

    /// A request was given to an instance.
    pub(crate) fn dispatched(&self, is_fresh: bool) {
        add(&self.instance_requests, &[if is_fresh { "fresh" } else { "reused" }], 1);
    }

    /// A store has answered.
    pub(crate) fn store(&self, store: &str, since: Instant, is_ok: bool) {
        self.store_seconds.with_label_values(&[store]).observe(seconds(since.elapsed()));
        add(&self.store_errors, &[store], u64::from(!is_ok));
    }

    /// A connection to PostgreSQL was waited for; these are there now.
    pub(crate) fn pool(&self, since: Instant, open: usize, idle: usize) {
        self.pool_wait.with_label_values(&["postgres"]).observe(seconds(since.elapsed()));
        for (state, count) in [("open", open), ("idle", idle)] {
            self.pool.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// There is another configuration: what was known of the upstreams of the one before is void.
    pub(crate) fn reconfigured(&self) {
        self.breakers.reset();
    }

    /// Lines were lost.
    pub(crate) fn lost(&self, lines: u64) {
        self.lost_lines.inc_by(lines);
    }
}

/// One request, until its answer is complete.
pub(crate) struct Measured {
    metrics: &'static Metrics,
    route: &'static str,
    since: Instant,
    is_stream: bool,
}

impl Measured {
    /// The head of the answer is there.
    pub(crate) fn answered(&mut self, status: http::StatusCode) {
        add(&self.metrics.requests, &[self.route, status.as_str()], 1);
        self.metrics.first_byte.with_label_values(&[self.route]).observe(seconds(self.since.elapsed()));
        if self.route == "/v1/messages" && status.is_success() {
            self.is_stream = true;
            self.metrics.streams.inc();
        }
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        self.metrics.duration.with_label_values(&[self.route]).observe(seconds(self.since.elapsed()));
        if self.is_stream {
            self.metrics.streams.dec();
        }
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn register<T: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<T>) -> T {
    let made = made.expect("names and labels are valid");
    registry.register(Box::new(made.clone())).expect("every family is registered once");
    made
}

fn histogram(registry: &Registry, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    register(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
}

/// Also of nothing: a series that begins with zero shows its first increase.
fn add(family: &IntCounterVec, labels: &[&str], count: u64) {
    family.with_label_values(labels).inc_by(count);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.text()).expect("UTF-8")
    }

    #[test]
    fn audit_events_and_figures_become_series_and_anything_else_does_not() {
        let metrics = Metrics::new();
        metrics.line(br#"{"ts":"2031-02-03T04:05:06.789Z","evt":"session.mint","request_id":"r","result":"success","sub":"ada","email":"ada@example.test"}"#);
        metrics.line(br#"{"ts":"2031-02-03T04:05:06.789Z","evt":"inference","sub":"ada","model":"whatever a client says","upstream":"a","status":200,"ms":1,"masking":{"mode":"enforce","masked":{"aws.arn":2},"restored":1,"unknown":0}}"#);
        metrics.line(br#"{"ts":"2031-02-03T04:05:06.789Z","evt":"auth.denied","reason":"missing_token"}"#);
        metrics.line(br#"{"ts":"2031-02-03T04:05:06.789Z","level":"warn","msg":"x"}"#);
        metrics.line(b"[gateway] x");
        metrics.figure(br#"{"figure":"attempt","upstream":"a","outcome":"429","ms":30,"failover":true}"#);
        metrics.figure(br#"{"figure":"usage","upstream":"a","model":"m","input_tokens":3,"output_tokens":4,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"nanos":1500,"settled":true}"#);
        metrics.figure(br#"{"figure":"left_out","upstream":"a","reason":"breaker"}"#);
        metrics.figure(br#"{"figure":"breaker","upstream":"a","model":"*","is_open":true}"#);
        metrics.figure(br#"{"figure":"breaker","upstream":"b","model":"m","is_open":true}"#);
        metrics.figure(br#"{"figure":"breaker","upstream":"b","model":"m","is_open":false}"#);
        metrics.figure(br#"{"figure":"usage","upstream":"b","model":"m","input_tokens":7,"output_tokens":0,"cache_read_input_tokens":0,"cache_creation_input_tokens":0,"nanos":0,"settled":null}"#);
        metrics.figure(br#"{"figure":"reservation","outcome":"expired","count":2}"#);
        metrics.figure(br#"{"figure":"credential","upstream":"a","outcome":"shared"}"#);
        metrics.figure(br#"{"figure":"refusal","upstream":"a","kind":"beta"}"#);
        metrics.figure(br#"{"figure":"estimated_count","upstream":"a"}"#);
        metrics.figure(br#"{"figure":"unheard_of"}"#);
        metrics.figure(b"not JSON");
        let text = text(&metrics);
        for line in [
            r#"sallyport_audit_events_total{event="session.mint",outcome="success"} 1"#,
            r#"sallyport_audit_events_total{event="auth.denied",outcome="missing_token"} 1"#,
            r#"sallyport_inference_total{status="200",upstream="a"} 1"#,
            r#"sallyport_masked_total{kind="aws.arn",mode="enforce"} 2"#,
            r#"sallyport_masking_tokens_total{fate="restored"} 1"#,
            r#"sallyport_upstream_attempts_total{outcome="429",upstream="a"} 1"#,
            r#"sallyport_failovers_total{upstream="a"} 1"#,
            r#"sallyport_upstreams_left_out_total{reason="breaker",upstream="a"} 1"#,
            r#"sallyport_breaker_open{model="*",upstream="a"} 1"#,
            r#"sallyport_breaker_open{model="m",upstream="b"} 0"#,
            r#"sallyport_tokens_total{kind="input",model="m",upstream="a"} 3"#,
            r#"sallyport_spend_nanodollars_total{model="m",upstream="a"} 1500"#,
            r#"sallyport_tokens_total{kind="input",model="m",upstream="b"} 7"#,
            r#"sallyport_settlements_total{outcome="recorded"} 1"#,
            r#"sallyport_settlements_total{outcome="lost"} 0"#,
            r#"sallyport_reservations_total{outcome="expired"} 2"#,
            r#"sallyport_reservations_total{outcome="held"} 0"#,
            r#"sallyport_upstream_credentials_total{outcome="shared",upstream="a"} 1"#,
            r#"sallyport_upstream_refusals_total{kind="beta",upstream="a"} 1"#,
            r#"sallyport_estimated_counts_total{upstream="a"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
        }
        assert!(!text.contains("\"ada") && !text.contains("whatever"), "{text}");
    }

    #[test]
    fn outcomes_are_bounded_whatever_events_say() {
        let metrics = Metrics::new();
        for number in 0..MOST_OUTCOMES + 50 {
            let line = format!(r#"{{"ts":"","evt":"x","result":"free text {number}"}}"#);
            metrics.line(line.as_bytes());
        }
        let text = text(&metrics);
        assert_eq!(text.matches("sallyport_audit_events_total{").count(), MOST_OUTCOMES + 1);
        assert!(text.contains(r#"sallyport_audit_events_total{event="x",outcome="other"} 50"#), "{text}");
    }

    #[test]
    fn a_request_is_counted_from_its_beginning_to_the_end_of_its_answer() {
        static METRICS: OnceLock<Metrics> = OnceLock::new();
        let metrics = METRICS.get_or_init(Metrics::new);
        let mut measured = metrics.begin("/v1/messages");
        assert!(text(metrics).contains("sallyport_requests_in_flight 1"));
        measured.answered(http::StatusCode::OK);
        assert!(text(metrics).contains("sallyport_active_streams 1"));
        drop(measured);
        let text = text(metrics);
        assert!(text.contains("sallyport_requests_in_flight 0") && text.contains("sallyport_active_streams 0"));
        assert!(text.contains(r#"sallyport_requests_total{route="/v1/messages",status="200"} 1"#));
        assert!(text.contains(r#"sallyport_request_duration_seconds_count{route="/v1/messages"} 1"#));
    }
}
