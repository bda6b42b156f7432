//! W3C Trace Context (<https://www.w3.org/TR/trace-context/>) as the gateway takes part in it, and its own spans in the
//! JSON form of OTLP. Identities are random; nothing in a span says who asked or what was said.

use serde_json::{Value, json};

use crate::domain::checksum::hex;
use crate::domain::ids::Timestamp;

/// The longest `tracestate` that is passed on (W3C Trace Context §3.3.1.5 asks for at least 512 characters).
const LONGEST_STATE: usize = 512;

/// A request's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    id: [u8; 16],
    /// Our span.
    span: [u8; 8],
    /// The caller's span, if there is one.
    parent: Option<[u8; 8]>,
    is_sampled: bool,
    state: Option<String>,
}

impl Trace {
    /// The trace that `traceparent` continues, with a span of our own. `None` if it is not valid, which starts none.
    pub fn continued(traceparent: &str, tracestate: Option<&str>, span: [u8; 8]) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let version = bytes::<1>(parts.next()?)?[0];
        let (id, parent, flags) = (bytes::<16>(parts.next()?)?, bytes::<8>(parts.next()?)?, bytes::<1>(parts.next()?)?);
        // Later versions may append; this one has exactly four fields (§3.2.2, §3.2.4).
        let is_complete = if version == 0 { parts.next().is_none() } else { version != 0xff };
        if !is_complete || id == [0; 16] || parent == [0; 8] {
            return None;
        }
        let is_plain = |state: &&str| {
            !state.is_empty() && state.len() <= LONGEST_STATE && state.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        };
        let state = tracestate.filter(is_plain).map(str::to_owned);
        Some(Self { id, span, parent: Some(parent), is_sampled: flags[0] & 1 == 1, state })
    }

    /// A trace that begins here.
    pub const fn begun(id: [u8; 16], span: [u8; 8], is_sampled: bool) -> Self {
        Self { id, span, parent: None, is_sampled, state: None }
    }

    /// Whether its spans are recorded.
    pub const fn is_sampled(&self) -> bool {
        self.is_sampled
    }

    /// `traceparent` for a request that is made on behalf of this one, under the span `span`.
    pub fn traceparent(&self, span: [u8; 8]) -> String {
        format!("00-{}-{}-{:02x}", hex(&self.id), hex(&span), u8::from(self.is_sampled))
    }

    /// `tracestate`, as it came.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The span of the request itself.
    pub const fn own_span(&self) -> [u8; 8] {
        self.span
    }
}

/// Exactly `N` bytes in lower-case hexadecimal digits (§3.2.2.2).
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let text = text.as_bytes();
    if text.len() != N * 2 {
        return None;
    }
    let mut found = [0; N];
    for (byte, pair) in found.iter_mut().zip(text.chunks(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(found)
}

/// What a span is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// The request itself: its route, method, status and id.
    Request {
        /// Name of the route.
        route: String,
        /// Method.
        method: String,
        /// `x-request-id`.
        request_id: String,
    },
    /// One attempt at an upstream.
    Attempt {
        /// The upstream's configured name.
        upstream: String,
        /// Its span.
        span: [u8; 8],
    },
}

/// Work that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where it belongs.
    pub trace: Trace,
    /// What it was.
    pub work: Work,
    /// When it began.
    pub from: Timestamp,
    /// When its response headers were there.
    pub to: Timestamp,
    /// The status; `None` when there was no answer.
    pub status: Option<u16>,
}

impl Span {
    /// A span of OTLP (`opentelemetry/proto/trace/v1`), JSON: ids are hexadecimal, 64-bit numbers are text.
    fn to_json(&self) -> Value {
        const SERVER: u8 = 2;
        const CLIENT: u8 = 3;
        const ERROR: u8 = 2;

        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        let (name, kind, span, parent, mut attributes) = match &self.work {
            Work::Request { route, method, request_id } => (
                format!("{method} {route}"),
                SERVER,
                self.trace.span,
                self.trace.parent,
                vec![
                    text("http.request.method", method),
                    text("http.route", route),
                    text("sallyport.request_id", request_id),
                ],
            ),
            Work::Attempt { upstream, span } => (
                format!("upstream {upstream}"),
                CLIENT,
                *span,
                Some(self.trace.span),
                vec![text("sallyport.upstream", upstream)],
            ),
        };
        if let Some(status) = self.status {
            attributes.push(json!({"key": "http.response.status_code", "value": {"intValue": status.to_string()}}));
        }
        // Semantic conventions for HTTP: a server's span fails with 5xx, a client's also with 4xx.
        let least = if kind == SERVER { 500 } else { 400 };
        let is_error = self.status.is_none_or(|status| status >= least);
        let nanos = |at: Timestamp| format!("{}", i128::from(at.as_millis()) * 1_000_000);
        let mut span = json!({
            "traceId": hex(&self.trace.id),
            "spanId": hex(&span),
            "name": name,
            "kind": kind,
            "startTimeUnixNano": nanos(self.from),
            "endTimeUnixNano": nanos(self.to),
            "attributes": attributes,
            "status": if is_error { json!({"code": ERROR}) } else { json!({}) },
        });
        if let Some(parent) = parent {
            span["parentSpanId"] = hex(&parent).into();
        }
        if let Some(state) = &self.trace.state {
            span["traceState"] = state.as_str().into();
        }
        span
    }
}

/// An `ExportTraceServiceRequest` with these spans.
pub fn export(spans: &[Span]) -> Value {
    let spans: Vec<Value> = spans.iter().map(Span::to_json).collect();
    let version = env!("CARGO_PKG_VERSION");
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    json!({"resourceSpans": [{
        "resource": {"attributes": [text("service.name", "sallyport"), text("service.version", version)]},
        "scopeSpans": [{"scope": {"name": "sallyport", "version": version}, "spans": spans}],
    }]})
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_valid_traceparent_is_continued_under_a_span_of_our_own() {
        let trace = Trace::continued(PARENT, Some("vendor=a"), [9; 8]).expect("valid");
        assert!(trace.is_sampled());
        assert_eq!(trace.traceparent([1; 8]), "00-4bf92f3577b34da6a3ce929d0e0e4736-0101010101010101-01");
        assert_eq!((trace.tracestate(), trace.own_span()), (Some("vendor=a"), [9; 8]));
        let unsampled = Trace::continued(&PARENT.replace("-01", "-00"), Some("\u{e9}"), [9; 8]).expect("valid");
        assert_eq!((unsampled.is_sampled(), unsampled.tracestate()), (false, None));
        // A version to come may say more.
        assert!(Trace::continued(&format!("{}-more", PARENT.replacen("00-", "01-", 1)), None, [9; 8]).is_some());
    }

    #[test]
    fn what_is_no_traceparent_starts_no_trace() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-\u{e9}",
        ] {
            assert_eq!(Trace::continued(text, None, [9; 8]), None, "{text}");
        }
    }

    #[test]
    fn spans_are_written_in_the_json_form_of_otlp() {
        let trace = Trace::continued(PARENT, None, [9; 8]).expect("valid");
        let at = Timestamp::from_millis;
        let work = Work::Attempt { upstream: "a".to_owned(), span: [7; 8] };
        let span = Span { trace, work, from: at(1), to: at(3), status: Some(429) };
        let exported = export(&[span]);
        let span = &exported["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(
            *span,
            json!({
                "traceId": "4bf92f3577b34da6a3ce929d0e0e4736", "spanId": "0707070707070707", "name": "upstream a",
                "kind": 3, "startTimeUnixNano": "1000000", "endTimeUnixNano": "3000000",
                "attributes": [
                    {"key": "sallyport.upstream", "value": {"stringValue": "a"}},
                    {"key": "http.response.status_code", "value": {"intValue": "429"}},
                ],
                "status": {"code": 2}, "parentSpanId": "0909090909090909",
            })
        );
    }
}
