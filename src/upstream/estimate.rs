//! Counting the input of an answer that told no usage (inference contract §13.4): what to ask, and what to assume when
//! nobody answers. When that is done is the relay's decision.

use bytes::Bytes;

use super::Message;

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
        let mut text = Vec::new();
        self.write_input(&mut text);
        let braces = 2;
        let characters = String::from_utf8_lossy(&text).encode_utf16().count() as u64;
        (characters + braces).div_ceil(CHARACTERS_PER_TOKEN)
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

#[cfg(test)]
mod tests {
    use super::*;

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
        ] {
            let message = message(body);
            assert_eq!(message.for_counting().body(), counted);
            assert_eq!(message.for_probing().body(), probed);
            assert_eq!(message.estimated_input(), tokens);
            assert!(!message.for_counting().is_stream());
        }
    }
}
