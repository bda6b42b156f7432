//! Counting the input of an answer that told no usage (inference contract §13.4): what to ask, and what to assume when
//! nobody answers. When that is done is the relay's decision.

use bytes::Bytes;
use memchr::memmem;
use serde_json::Value;

use super::Message;
use crate::domain::calibration::Weight;

/// Characters for which a token is reckoned where nobody counted.
const CHARACTERS_PER_TOKEN: u64 = 4;
/// The part of a request that is input, in this order.
const INPUT: [&str; 3] = ["system", "messages", "tools"];

impl Message {
    /// The request whose tokens are counted: the input of this one and its model, nothing else.
    #[must_use]
    pub fn for_counting(&self) -> Self {
        self.only_input(None)
    }

    /// The cheapest request that makes an upstream tell how long the input of this one is: one token of output. For
    /// Bedrock where counting is paused.
    #[must_use]
    pub fn for_probing(&self) -> Self {
        self.only_input(Some(1))
    }

    /// What is assumed of the input when it cannot be counted, in tokens.
    pub fn estimated_input(&self) -> u64 {
        let mut text = vec![b'{'];
        self.write_input(&mut text);
        text.push(b'}');
        // As JSON is written without blanks and needless escapes, however the client wrote it.
        let compact = serde_json::from_slice::<Value>(&text).map(|input| input.to_string());
        let text = compact.unwrap_or_else(|_| String::from_utf8_lossy(&text).into_owned());
        (text.encode_utf16().count() as u64).div_ceil(CHARACTERS_PER_TOKEN)
    }

    /// What is to become tokens.
    pub fn weight(&self) -> Weight {
        let mut weight = Weight::default();
        for name in INPUT {
            let Some(value) = self.object().value(self.body(), name) else { continue };
            let mut text = value.len() as u64;
            for data in Base64Data(value) {
                text -= data.len() as u64;
                weight.media = weight.media.saturating_add(media_tokens(data));
            }
            weight.text += text;
        }
        weight
    }

    fn only_input(&self, max_tokens: Option<u64>) -> Self {
        let mut body = vec![b'{'];
        self.write_input(&mut body);
        if body.len() > 1 {
            body.push(b',');
        }
        body.extend_from_slice(b"\"model\":");
        body.extend_from_slice(self.object().value(self.body(), "model").unwrap_or(b"\"\""));
        if let Some(max_tokens) = max_tokens {
            body.extend_from_slice(format!(",\"max_tokens\":{max_tokens}").as_bytes());
        }
        body.push(b'}');
        Self::parse(Bytes::from(body)).expect("made of members of a message, its model among them")
    }

    /// The members that are input, as they were written.
    fn write_input(&self, text: &mut Vec<u8>) {
        let start = text.len();
        for name in INPUT {
            if let Some(value) = self.object().value(self.body(), name) {
                if text.len() > start {
                    text.push(b',');
                }
                text.extend_from_slice(format!("\"{name}\":").as_bytes());
                text.extend_from_slice(value);
            }
        }
    }
}

/// Tokens of an image; larger ones are made smaller before they are read.
const IMAGE_TOKENS: u64 = 1_600;
/// Characters of base64 for which a document has a token: a page of text is about 60 kB and 2,500 tokens.
const CHARACTERS_PER_DOCUMENT_TOKEN: u64 = 25;
/// How a PDF begins in base64.
const PDF: &[u8] = b"JVBERi";
/// Shorter strings are no images.
const SHORTEST_DATA: usize = 512;

fn media_tokens(data: &[u8]) -> u64 {
    if data.starts_with(PDF) {
        IMAGE_TOKENS.max(data.len() as u64 / CHARACTERS_PER_DOCUMENT_TOKEN)
    } else {
        IMAGE_TOKENS
    }
}

/// The contents of members `data` that are long and base64, in JSON.
struct Base64Data<'t>(&'t [u8]);

impl<'t> Iterator for Base64Data<'t> {
    type Item = &'t [u8];

    fn next(&mut self) -> Option<&'t [u8]> {
        const KEY: &[u8] = b"\"data\"";
        let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=-_\\".contains(byte);
        loop {
            let at = memmem::find(self.0, KEY)?;
            self.0 = &self.0[at + KEY.len()..];
            let value = self.0.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start);
            let Some(text) = value.and_then(|value| value.strip_prefix(b"\"")) else { continue };
            let end = memchr::memchr(b'"', text)?;
            let (data, rest) = text.split_at(end);
            self.0 = rest;
            if data.len() >= SHORTEST_DATA && data.iter().all(is_base64) {
                return Some(data);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_weighs_its_bytes_and_media_what_they_are() {
        let image = "iVBOR".repeat(200);
        let pdf = format!("JVBERi{}", "A".repeat(99_994));
        for (body, text, media) in [
            (r#"{"model":"m","max_tokens":1}"#.to_owned(), 0, 0),
            (r#"{"model":"m","messages":[ 1 ],"system":"é","tools":[]}"#.to_owned(), 5 + 4 + 2, 0),
            (format!(r#"{{"model":"m","messages":[{{"data" : "{image}"}}]}}"#), 15, 1_600),
            (format!(r#"{{"model":"m","messages":["{{\"data\":\"{image}\"}}"]}}"#), 1_000 + 19, 0),
            (format!(r#"{{"model":"m","messages":[{{"data":"{pdf}"}},{{"data":"{image}"}}]}}"#), 25, 4_000 + 1_600),
            (format!(r#"{{"model":"m","messages":[{{"data":"{image} "}}]}}"#), 14 + 1_000, 0),
            (r#"{"model":"m","messages":[{"data":5},{"data":"short"}]}"#.to_owned(), 29, 0),
        ] {
            let message = Message::parse(Bytes::from(body.clone())).unwrap();
            assert_eq!(message.weight(), Weight { text, media }, "{}", &body[..body.len().min(80)]);
        }
    }

    #[test]
    fn only_the_input_and_the_model_are_counted() {
        let message = |body: &'static str| Message::parse(Bytes::from_static(body.as_bytes())).unwrap();
        for (body, counted, probed, tokens) in [
            (
                r#"{"stream":true,"model":"m","messages":[ 1 ],"system":"é","max_tokens":9}"#,
                r#"{"system":"é","messages":[ 1 ],"model":"m"}"#,
                r#"{"system":"é","messages":[ 1 ],"model":"m","max_tokens":1}"#,
                8,
            ),
            (r#"{"model":"m"}"#, r#"{"model":"m"}"#, r#"{"model":"m","max_tokens":1}"#, 1),
            (
                r#"{"model":"m","system" : "\u0041\u0041\u0041\u0041"}"#,
                r#"{"system":"\u0041\u0041\u0041\u0041","model":"m"}"#,
                r#"{"system":"\u0041\u0041\u0041\u0041","model":"m","max_tokens":1}"#,
                5,
            ),
        ] {
            let message = message(body);
            assert_eq!(message.for_counting().body(), counted);
            assert_eq!(message.for_probing().body(), probed);
            assert_eq!(message.estimated_input(), tokens);
            assert!(!message.for_counting().is_stream());
        }
    }
}
