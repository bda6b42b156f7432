//! Reads usage as an answer passes, and changes nothing (inference contract §13.1 and §13.4). Prices are in `domain`.

use memchr::memchr2;
use serde::Deserialize;
use serde_json::Value;

use crate::wire::sse;

/// Tokens of one answer, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Input that no cache had.
    pub input_tokens: u64,
    /// Output.
    pub output_tokens: u64,
    /// Input that was read from a cache.
    pub cache_read_input_tokens: u64,
    /// Input that was written to a cache, for five minutes or one hour; at least `cache_creation_1h_input_tokens`.
    pub cache_creation_input_tokens: u64,
    /// The part of it that was written for one hour.
    pub cache_creation_1h_input_tokens: u64,
    /// Web searches.
    pub web_search_requests: u64,
    /// Whether the answer was served at fast speed.
    pub is_fast: bool,
}

/// What is known about the cost of an answer when it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Metered {
    /// The upstream told.
    Told(Usage),
    /// A stream ended before the upstream told: input from its start, output estimated from what was relayed.
    Estimated(Usage),
    /// A JSON answer without usage. The output is estimated; the input is to be counted.
    InputUnknown {
        /// Characters of the answer, divided by four, rounded up.
        output_tokens: u64,
    },
    /// Nothing was relayed and nothing was told: nothing is recorded.
    Nothing,
}

/// Reads one answer. Feed it what the upstream sent, after translation, in pieces of any size.
#[derive(Debug)]
pub struct Meter {
    form: Form,
    estimates: bool,
}

#[derive(Debug)]
enum Form {
    Sse(Box<SseMeter>),
    Json(JsonMeter),
}

impl Meter {
    /// For an answer with this `content-type`: events, or else one JSON document.
    pub fn of(content_type: &[u8]) -> Self {
        if content_type.to_ascii_lowercase().starts_with(b"text/event-stream") { Self::sse() } else { Self::json() }
    }

    /// For server-sent events.
    pub fn sse() -> Self {
        Self { form: Form::Sse(Box::default()), estimates: true }
    }

    /// For a JSON document.
    pub fn json() -> Self {
        Self { form: Form::Json(JsonMeter::default()), estimates: true }
    }

    /// The same, but what the upstream does not tell counts for nothing.
    #[must_use]
    pub fn without_estimates(self) -> Self {
        Self { estimates: false, ..self }
    }

    /// Whether more of the answer would not make its input any better known: of a stream the first figures are enough,
    /// of a document they come last.
    pub fn knows_input(&self) -> bool {
        match &self.form {
            Form::Sse(meter) => meter.is_lost || meter.seen.has_begun,
            Form::Json(_) => false,
        }
    }

    /// Reads the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        match &mut self.form {
            Form::Sse(meter) => meter.push(piece),
            Form::Json(meter) => meter.push(piece),
        }
    }

    /// The answer ended, in whatever way.
    pub fn finish(self) -> Metered {
        let metered = match self.form {
            Form::Sse(meter) => meter.finish(),
            Form::Json(meter) => meter.finish(),
        };
        match metered {
            Metered::Estimated(_) | Metered::InputUnknown { .. } if !self.estimates => Metered::Nothing,
            metered => metered,
        }
    }
}

/// `usage` as the Messages API writes it; absent and null are the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Written {
    input: Option<u64>,
    output: Option<u64>,
    cache_read: Option<u64>,
    cache_creation: Option<u64>,
    ephemeral_5m: Option<u64>,
    ephemeral_1h: Option<u64>,
    web_searches: Option<u64>,
    is_fast: bool,
}

impl Written {
    /// Nothing when it is missing, null, or has something else where a number belongs.
    fn parse(usage: Option<&Value>) -> Option<Self> {
        let usage = usage?.as_object()?;
        let creation = usage.get("cache_creation").and_then(Value::as_object);
        let tools = usage.get("server_tool_use").and_then(Value::as_object);
        let nested = |object: Option<&serde_json::Map<String, Value>>, name: &str| {
            object.map_or(Some(None), |object| number(object.get(name)))
        };
        Some(Self {
            input: number(usage.get("input_tokens"))?,
            output: number(usage.get("output_tokens"))?,
            cache_read: number(usage.get("cache_read_input_tokens"))?,
            cache_creation: number(usage.get("cache_creation_input_tokens"))?,
            ephemeral_5m: nested(creation, "ephemeral_5m_input_tokens")?,
            ephemeral_1h: nested(creation, "ephemeral_1h_input_tokens")?,
            web_searches: nested(tools, "web_search_requests")?,
            is_fast: usage.get("speed").and_then(Value::as_str) == Some("fast"),
        })
    }

    /// What is priced: the breakdown of cache writes counts even when the total forgets it.
    fn usage(&self) -> Usage {
        let one_hour = self.ephemeral_1h.unwrap_or(0);
        let parts = one_hour.saturating_add(self.ephemeral_5m.unwrap_or(0));
        let total = self.cache_creation.filter(|total| *total > 0).unwrap_or(parts);
        Usage {
            input_tokens: self.input.unwrap_or(0),
            output_tokens: self.output.unwrap_or(0),
            cache_read_input_tokens: self.cache_read.unwrap_or(0),
            cache_creation_input_tokens: total,
            cache_creation_1h_input_tokens: one_hour.min(total),
            web_search_requests: self.web_searches.unwrap_or(0),
            is_fast: self.is_fast,
        }
    }
}

/// The count in a member: `Some(None)` if there is none, nothing if it is something else.
#[expect(clippy::option_option, reason = "absent and wrong are different answers")]
fn number(value: Option<&Value>) -> Option<Option<u64>> {
    match value {
        None | Some(Value::Null) => Some(None),
        Some(Value::Number(number)) => number.as_u64().or_else(|| whole(number.as_f64()?)).map(Some),
        Some(_) => None,
    }
}

/// Counts may be written as `5.0`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "negative and fractional counts are none")]
fn whole(number: f64) -> Option<u64> {
    (number >= 0.0 && number.fract() == 0.0 && number < 9e15).then_some(number as u64)
}

#[derive(Debug, Default)]
struct SseMeter {
    decoder: sse::Decoder,
    seen: Seen,
    /// After an event that is too long nothing more is read.
    is_lost: bool,
}

/// What a stream has told so far.
#[derive(Debug, Default)]
struct Seen {
    start: Option<Written>,
    delta: Option<Written>,
    /// Whether any event was relayed that costs.
    has_begun: bool,
    /// Characters of the deltas since output was last told, as [`delta_characters`] counts them.
    characters: u64,
    /// Whether the upstream has said that this was all.
    is_over: bool,
}

impl SseMeter {
    fn push(&mut self, piece: &[u8]) {
        if self.is_lost {
            return;
        }
        self.is_lost = self.decoder.push(piece).is_err();
        self.read();
    }

    fn read(&mut self) {
        while let Some(event) = self.decoder.next_fields() {
            self.seen.event(&event);
        }
    }

    fn finish(mut self) -> Metered {
        if !self.is_lost {
            self.decoder.end();
            self.read();
        }
        self.seen.finish()
    }
}

impl Seen {
    fn event(&mut self, event: &sse::Fields<'_>) {
        let written;
        let kind = if event.name.is_empty() {
            written = serde_json::from_slice::<Kind>(&event.data).map(|kind| kind.kind).unwrap_or_default();
            written.as_bytes()
        } else {
            event.name
        };
        match kind {
            b"content_block_delta" => {
                self.has_begun = true;
                self.characters += delta_characters(&event.data);
            }
            b"message_start" => {
                self.has_begun = true;
                let value: Value = serde_json::from_slice(&event.data).unwrap_or_default();
                self.start =
                    Written::parse(value.get("message").and_then(|message| message.get("usage"))).or(self.start);
            }
            b"message_delta" => {
                let value: Value = serde_json::from_slice(&event.data).unwrap_or_default();
                if let Some(told) = Written::parse(value.get("usage")) {
                    if told.output.is_some() {
                        self.characters = 0;
                    }
                    self.delta = Some(merged(self.delta.unwrap_or_default(), told));
                }
            }
            b"message_stop" => self.is_over = true,
            _ => {}
        }
    }

    fn finish(self) -> Metered {
        let start = self.start.unwrap_or_default();
        match self.delta {
            Some(delta) => {
                let all = merged(start, delta);
                // What was relayed after the last report is not in it, unless the upstream said that it was the last.
                let since = if self.is_over { 0 } else { self.characters.div_ceil(CHARACTERS_PER_TOKEN) };
                let output = Some(delta.output.unwrap_or(0).saturating_add(since));
                Metered::Told(Written { output, is_fast: start.is_fast, ..all }.usage())
            }
            None if self.has_begun => {
                let output = self.characters.div_ceil(CHARACTERS_PER_TOKEN);
                Metered::Estimated(Written { output: Some(output), ..start }.usage())
            }
            None => Metered::Nothing,
        }
    }
}

/// Input is the larger of two reports, because both count from the start; of the rest the later report is right.
fn merged(earlier: Written, later: Written) -> Written {
    Written {
        input: earlier.input.max(later.input),
        output: later.output.or(earlier.output),
        cache_read: earlier.cache_read.max(later.cache_read),
        cache_creation: earlier.cache_creation.max(later.cache_creation),
        ephemeral_5m: earlier.ephemeral_5m.max(later.ephemeral_5m),
        ephemeral_1h: earlier.ephemeral_1h.max(later.ephemeral_1h),
        web_searches: later.web_searches.or(earlier.web_searches),
        is_fast: earlier.is_fast,
    }
}

#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type")]
    kind: String,
}

/// Characters for which a token is reckoned where nobody counted.
const CHARACTERS_PER_TOKEN: u64 = 4;
/// What a delta of text is wrapped in.
const TEXT_DELTA_FRAME: u64 =
    r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":""}}"#.len() as u64;

/// Characters of a delta beyond the frame of an empty one, in UTF-16 as the reference counts them; blanks between
/// members do not count, escapes count as written.
fn delta_characters(json: &[u8]) -> u64 {
    let mut characters = 0u64;
    let mut rest = json;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if byte.is_ascii_whitespace() {
            continue;
        }
        characters += 1;
        if *byte != b'"' {
            continue;
        }
        // A string, to its closing quote; an escape is two characters at least.
        while let Some(at) = memchr2(b'"', b'\\', rest) {
            let length = if rest[at] == b'"' { at + 1 } else { (at + 2).min(rest.len()) };
            characters += characters_of(&rest[..length]);
            let is_end = rest[at] == b'"';
            rest = &rest[length..];
            if is_end {
                break;
            }
        }
    }
    characters.saturating_sub(TEXT_DELTA_FRAME)
}

/// UTF-16 units of a text.
fn characters_of(text: &[u8]) -> u64 {
    text.iter().map(|byte| utf16_units(*byte)).sum()
}

/// The UTF-16 units that begin with this byte of UTF-8.
const fn utf16_units(byte: u8) -> u64 {
    match byte {
        0x80..0xc0 => 0,
        0xf0.. => 2,
        _ => 1,
    }
}

/// The longest `usage` that is read; many times what anybody writes.
const MAX_USAGE: usize = 64 * 1024;

/// Finds the member `usage` of a document that comes in pieces of any size, and keeps nothing else of it: an answer may
/// be large, and its figures come last. Of several the last one counts. That the rest is JSON is not checked.
#[derive(Debug, Default)]
struct JsonMeter {
    characters: u64,
    /// How many objects and arrays are open.
    depth: usize,
    /// Whether the next byte belongs to a string.
    in_string: bool,
    /// Whether it is escaped there.
    is_escaped: bool,
    /// Whether the next string at the top is the name of a member.
    is_name: bool,
    /// The beginning of the last such name, without quotes.
    name: Vec<u8>,
    /// The value that is being read, of a member `usage`.
    value: Option<Vec<u8>>,
    /// The last such value that was complete.
    usage: Option<Vec<u8>>,
}

impl JsonMeter {
    const NAME: &'static [u8] = b"usage";

    fn push(&mut self, piece: &[u8]) {
        self.characters += characters_of(piece);
        let mut rest = piece;
        while let Some((byte, after)) = rest.split_first() {
            // Most of an answer is text that says nothing about it.
            if self.in_string && !self.is_escaped && self.value.is_none() && !(self.depth == 1 && self.is_name) {
                match memchr2(b'"', b'\\', rest) {
                    None => return,
                    Some(at) if at > 0 => {
                        rest = &rest[at..];
                        continue;
                    }
                    Some(_) => {}
                }
            }
            rest = after;
            if self.in_string {
                self.text(*byte);
            } else {
                self.structure(*byte);
            }
        }
    }

    /// A byte of a string, the quote that ends it included.
    fn text(&mut self, byte: u8) {
        self.keep(byte);
        match byte {
            _ if self.is_escaped => self.is_escaped = false,
            b'\\' => self.is_escaped = true,
            b'"' => {
                self.in_string = false;
                return;
            }
            _ => {}
        }
        if self.depth == 1 && self.is_name && self.name.len() <= Self::NAME.len() {
            self.name.push(byte);
        }
    }

    /// A byte outside of strings.
    fn structure(&mut self, byte: u8) {
        match byte {
            b',' | b'}' if self.depth == 1 => self.usage = self.value.take().or(self.usage.take()),
            _ => self.keep(byte),
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 && self.is_name {
                    self.name.clear();
                }
            }
            b'{' | b'[' => {
                self.depth += 1;
                self.is_name = self.is_name || (self.depth == 1 && byte == b'{');
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b',' if self.depth == 1 => self.is_name = true,
            b':' if self.depth == 1 && self.is_name => {
                self.is_name = false;
                self.value = (self.name == Self::NAME).then(Vec::new);
            }
            _ => {}
        }
    }

    fn keep(&mut self, byte: u8) {
        if let Some(value) = self.value.as_mut().filter(|value| value.len() < MAX_USAGE) {
            value.push(byte);
        }
    }

    fn finish(self) -> Metered {
        if self.characters == 0 {
            return Metered::Nothing;
        }
        let usage: Option<Value> = self.usage.and_then(|usage| serde_json::from_slice(&usage).ok());
        match Written::parse(usage.as_ref()) {
            Some(written) if written.input.is_some() || written.output.is_some() => Metered::Told(written.usage()),
            _ => Metered::InputUnknown { output_tokens: self.characters.div_ceil(CHARACTERS_PER_TOKEN) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metered(mut meter: Meter, text: &str) -> Metered {
        for piece in text.as_bytes().chunks(7) {
            meter.push(piece);
        }
        meter.finish()
    }

    fn stream(events: &[&str]) -> Metered {
        let mut named = String::new();
        let mut unnamed = String::new();
        for data in events {
            let kind: Kind = serde_json::from_str(data).unwrap();
            named += &["event: ", &kind.kind, "\ndata: ", data, "\n\n"].concat();
            unnamed += &["data: ", data, "\r\n\r\n"].concat();
        }
        let metered_named = metered(Meter::sse(), &named);
        assert_eq!(metered(Meter::of(b"text/event-stream; charset=utf-8"), &unnamed), metered_named);
        metered_named
    }

    const START: &str = r#"{"type":"message_start","message":{"usage":{"input_tokens":10,"output_tokens":99,
        "cache_read_input_tokens":5,"cache_creation_input_tokens":8,"speed":"fast",
        "cache_creation":{"ephemeral_5m_input_tokens":2,"ephemeral_1h_input_tokens":6}}}}"#;

    fn text_delta(text: &str) -> String {
        format!(r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{text}"}}}}"#)
    }

    #[test]
    fn a_stream_is_metered_by_its_last_report_and_its_largest_input() {
        let start = START.replace('\n', "");
        let told = stream(&[
            &start,
            &text_delta("hello"),
            r#"{"type":"message_delta","usage":{"output_tokens":7,"input_tokens":4,"server_tool_use":{"web_search_requests":1}}}"#,
            r#"{"type":"message_delta","usage":{"output_tokens":12,"input_tokens":11,"cache_read_input_tokens":null}}"#,
        ]);
        let expected = Usage {
            input_tokens: 11,
            output_tokens: 12,
            cache_read_input_tokens: 5,
            cache_creation_input_tokens: 8,
            cache_creation_1h_input_tokens: 6,
            web_search_requests: 1,
            is_fast: true,
        };
        assert_eq!(told, Metered::Told(expected));
    }

    #[test]
    fn what_follows_the_last_report_is_estimated_unless_the_stream_is_over() {
        let start = START.replace('\n', "");
        let report = r#"{"type":"message_delta","usage":{"output_tokens":7}}"#;
        let hundred = text_delta(&"x".repeat(100));
        let output = |events: &[&str]| match stream(events) {
            Metered::Told(usage) => usage.output_tokens,
            other => panic!("{other:?}"),
        };
        assert_eq!(output(&[&start, &hundred, report]), 7);
        assert_eq!(output(&[&start, &hundred, report, &hundred, &hundred]), 7 + 50);
        assert_eq!(output(&[&start, report, &hundred, r#"{"type":"message_stop"}"#]), 7);
        assert_eq!(
            output(&[&start, report, &hundred, r#"{"type":"message_delta","usage":{"input_tokens":1}}"#]),
            7 + 25
        );
    }

    #[test]
    fn a_stream_that_was_cut_off_is_metered_by_what_was_relayed() {
        let start = START.replace('\n', "");
        let hundred = text_delta(&"x".repeat(100));
        let Metered::Estimated(usage) = stream(&[&start, &hundred, &hundred, &hundred, &hundred]) else { panic!() };
        assert_eq!((usage.input_tokens, usage.output_tokens, usage.is_fast), (10, 100, true));
        for (delta, tokens) in [
            (text_delta("").replace("text", "thinking"), 2),
            (text_delta("\\n\\n"), 1),
            (text_delta("éé€€"), 1),
            (text_delta("😀😀"), 1),
            (text_delta("a b ").replace(':', " : "), 1),
            (text_delta("").replace("text_delta", "input_json_delta").replace("\"text\"", "\"partial_json\""), 4),
        ] {
            let Metered::Estimated(usage) = stream(&[&delta]) else { panic!() };
            assert_eq!((usage.input_tokens, usage.output_tokens), (0, tokens), "{delta}");
        }
        assert_eq!(stream(&[r#"{"type":"ping"}"#, r#"{"type":"error","error":{}}"#]), Metered::Nothing);
    }

    #[test]
    fn a_json_answer_is_metered_by_its_usage() {
        for (body, input, output, written, one_hour) in [
            (r#"{"usage":{"input_tokens":3,"output_tokens":4}}"#, 3, 4, 0, 0),
            (r#"{"usage":{"output_tokens":4.0}}"#, 0, 4, 0, 0),
            (r#"{"usage":{"input_tokens":1,"cache_creation":{"ephemeral_1h_input_tokens":5}}}"#, 1, 0, 5, 5),
            (
                r#"{"usage":{"input_tokens":1,"cache_creation_input_tokens":3,"cache_creation":{"ephemeral_1h_input_tokens":5}}}"#,
                1,
                0,
                3,
                3,
            ),
        ] {
            let Metered::Told(usage) = metered(Meter::json(), body) else { panic!("{body}") };
            assert_eq!(
                (
                    usage.input_tokens,
                    usage.output_tokens,
                    usage.cache_creation_input_tokens,
                    usage.cache_creation_1h_input_tokens
                ),
                (input, output, written, one_hour),
                "{body}"
            );
        }
        for body in [
            r#"{"usage":null, "x":"é" }"#,
            r#"{"usage":{"input_tokens":"3"}}"#,
            r#"{"usage":{"input_tokens":-3}}"#,
            r#"{"usage":{}}"#,
            r#"{"a":{"usage":{"input_tokens":3}}}"#,
            r#"{"usages":{"input_tokens":3},"usag":{"input_tokens":3}}"#,
            r#"{"x":"usage","y":["usage",{"usage":{"input_tokens":3}}]}"#,
            r#"[{"usage":{"input_tokens":3}}]"#,
            r#"["usage",{"input_tokens":3}]"#,
            r#"{"usage":{"input_tokens":3}"#,
            "not json",
        ] {
            let output_tokens = u64::try_from(body.chars().count()).unwrap().div_ceil(4);
            assert_eq!(
                metered(Meter::of(b"application/json"), body),
                Metered::InputUnknown { output_tokens },
                "{body}"
            );
        }
        assert_eq!(metered(Meter::json(), ""), Metered::Nothing);
    }

    #[test]
    fn the_figures_of_a_document_are_found_wherever_it_is_cut_and_nothing_else_is_kept() {
        let usage = r#"{ "input_tokens" : 3,"x":"}\",\"usage\":{","output_tokens":4 }"#;
        for body in [
            format!(r#"{{"content":[{{"usage":{{"input_tokens":9}},"text":"\"usage\":{{\\"}}], "usage" :{usage}}}"#),
            format!(r#" {{"usage":{{"input_tokens":8}},"usage":{usage},"model":"usage"}}"#),
            format!(r#"{{"usage":{usage} , "a":[[1,2],{{"b":3}}]}}"#),
        ] {
            for cut in 0..body.len() {
                let mut meter = Meter::json();
                meter.push(&body.as_bytes()[..cut]);
                meter.push(&body.as_bytes()[cut..]);
                let Metered::Told(told) = meter.finish() else { panic!("{body} cut at {cut}") };
                assert_eq!((told.input_tokens, told.output_tokens), (3, 4), "{body} cut at {cut}");
            }
        }

        let mut meter = JsonMeter::default();
        meter.push(br#"{"content":""#);
        let text = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            meter.push(&text);
        }
        meter.push(br#"","usage":{"input_tokens":1,"output_tokens":2}}"#);
        assert!(meter.name.capacity() + meter.usage.as_ref().map_or(0, Vec::capacity) < 256);
        assert!(matches!(meter.finish(), Metered::Told(Usage { input_tokens: 1, output_tokens: 2, .. })));
    }
}
