//! Speaking HTTP to a gateway: ordinary requests, and bytes on a socket where a client library would be in the way.
//! Whatever comes back is added to the site's transcript.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use reqwest::blocking::{Client, RequestBuilder};
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use serde_json::Value;

use super::PATIENCE;
use super::transcript::Transcript;

/// A client that follows nothing and keeps nothing.
pub(crate) fn plain_client() -> Client {
    Client::builder().redirect(Policy::none()).timeout(PATIENCE).build().expect("a client")
}

/// A request on its way to be sent.
pub(crate) struct Call {
    pub(crate) builder: RequestBuilder,
    pub(crate) transcript: Transcript,
}

impl Call {
    pub(crate) fn bearer(self, token: &str) -> Self {
        Self { builder: self.builder.bearer_auth(token), ..self }
    }

    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        Self { builder: self.builder.header(name, value), ..self }
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        Self { builder: self.builder.json(body), ..self }
    }

    pub(crate) fn form(self, fields: &[(&str, &str)]) -> Self {
        Self { builder: self.builder.form(fields), ..self }
    }

    pub(crate) fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { builder: self.builder.body(body.into()), ..self }
    }

    /// Sends and reads the whole answer.
    pub(crate) fn send(self) -> Answer {
        self.try_send().expect("an answer")
    }

    /// Sends and reads the whole answer, which may not come.
    pub(crate) fn try_send(self) -> Result<Answer, reqwest::Error> {
        let response = self.builder.send()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let answer = Answer { status, headers, body: response.bytes()?.to_vec() };
        self.transcript.answered(format!("{status} {:?}\n", answer.headers).as_bytes());
        self.transcript.answered(&answer.body);
        Ok(answer)
    }
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The value of a header that is there at most once; empty if it is not.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.status_and_text()))
    }

    /// Both, for comparing and for messages.
    pub(crate) fn status_and_text(&self) -> String {
        format!("{} {}", self.status, String::from_utf8_lossy(&self.body))
    }

    /// Panics with the answer unless it has this status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.status_and_text());
        self
    }
}

/// A connection as a client sees it: bytes out, bytes in.
pub(crate) struct Raw {
    stream: TcpStream,
    received: Vec<u8>,
    transcript: Transcript,
}

impl Raw {
    pub(crate) fn new(stream: TcpStream, transcript: Transcript) -> Self {
        stream.set_nodelay(true).expect("a socket option");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket option");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket option");
        Self { stream, received: Vec::new(), transcript }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("a connection that takes bytes");
    }

    /// Sends `POST path` with `body`, whole.
    pub(crate) fn post(&mut self, path: &str, token: &str, body: &Value) {
        let body = body.to_string();
        self.send(format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            self.stream.peer_addr().expect("a peer"),
            body.len(),
        ));
    }

    /// Reads until `needle` has arrived and returns everything so far.
    #[track_caller]
    pub(crate) fn until(&mut self, needle: &str) -> String {
        while !contains(&self.received, needle.as_bytes()) {
            assert!(self.read(), "the connection ended before {needle:?}: {:?}", self.so_far());
        }
        self.so_far()
    }

    /// Reads until the gateway ends the connection and returns everything.
    pub(crate) fn until_closed(&mut self) -> String {
        while self.read() {}
        self.so_far()
    }

    /// Reads and forgets until the end of a chunked body; returns how many bytes came after what was read before.
    pub(crate) fn drain(&mut self) -> usize {
        let mut count = 0;
        while !self.received.ends_with(b"\r\n0\r\n\r\n") {
            let kept = self.received.len().saturating_sub(16);
            self.received.drain(..kept);
            let before = self.received.len();
            assert!(self.read(), "the connection ended inside the body after {count} bytes");
            count += self.received.len() - before;
        }
        count
    }

    /// Reads until the head of an answer has arrived and returns everything so far; nothing if the connection ends before.
    pub(crate) fn head(&mut self) -> Option<String> {
        while !contains(&self.received, b"\r\n\r\n") {
            if !self.read() {
                return None;
            }
        }
        Some(self.so_far())
    }

    /// Reads and forgets a chunked body; its last few hundred bytes, or nothing if the connection ends inside it.
    pub(crate) fn end_of_chunks(&mut self) -> Option<String> {
        while !self.received.ends_with(b"\r\n0\r\n\r\n") {
            let kept = self.received.len().saturating_sub(512);
            self.received.drain(..kept);
            if !self.read() {
                return None;
            }
        }
        Some(self.so_far())
    }

    /// Tells the gateway, unless it has hung up already, that nothing more will come.
    pub(crate) fn finish_sending(&self) {
        match self.stream.shutdown(Shutdown::Write) {
            Err(error) if error.kind() != ErrorKind::NotConnected => panic!("{error}"),
            _ => {}
        }
    }

    fn read(&mut self) -> bool {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                self.transcript.answered(&buffer[..count.min(1024)]);
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => false,
            Err(error) => panic!("{error}; so far: {:?}", self.so_far()),
        }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }
}

/// Whether `needle` is part of `haystack`.
fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
