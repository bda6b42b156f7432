//! The form of operational lines: `[gateway] <ISO time> <level> <message>` (auth contract §11), or JSON.

use std::cell::RefCell;
use std::pin::pin;
use std::rc::Rc;

use crate::domain::ids::Timestamp;

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For developers of the gateway.
    Debug,
    /// What happened.
    Info,
    /// Something an operator should look at.
    Warn,
    /// Something that does not work.
    Error,
}

impl Level {
    /// The word in the line, and in `CLAUDE_GATEWAY_LOG_LEVEL`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }

    /// `debug`, `info`, `warn` or `error`; anything else means `info`.
    pub fn parse(name: &str) -> Self {
        match name {
            "debug" => Self::Debug,
            "warn" => Self::Warn,
            "error" => Self::Error,
            _ => Self::Info,
        }
    }
}

/// How operational lines are written. Audit events are JSON in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `[gateway] <ISO time> <level> <message>`.
    #[default]
    Text,
    /// `{"ts":…,"level":…,"request_id":…,"msg":…}`; what tells it from an audit event is `level` instead of `evt`.
    Json,
}

impl Format {
    /// `json`; anything else means text.
    pub fn parse(name: &str) -> Self {
        if name == "json" { Self::Json } else { Self::Text }
    }

    /// One operational line about `request_id`, if about any. Line breaks in `message` become spaces: one event is one
    /// line.
    pub fn line(self, at: Timestamp, level: Level, request_id: Option<&str>, message: &str) -> String {
        let (at, level) = (at.to_rfc3339(), level.name());
        match (self, request_id) {
            (Self::Json, request_id) => {
                let mut line = serde_json::json!({"ts": at, "level": level});
                if let Some(id) = request_id {
                    line["request_id"] = id.into();
                }
                line["msg"] = message.into();
                line.to_string()
            }
            (Self::Text, Some(id)) if !message.contains(id) => {
                format!("[gateway] {at} {level} {} ({id})", one_line(message))
            }
            (Self::Text, _) => format!("[gateway] {at} {level} {}", one_line(message)),
        }
    }
}

/// The request that an instance works on at this moment, so that whatever is said meanwhile, however deep below, names
/// it. What goes on after the response (a stream, a settlement) says itself what it belongs to.
#[derive(Default)]
pub(crate) struct Current(RefCell<Option<Rc<str>>>);

impl Current {
    /// Does `work`, which belongs to `request_id`. Other requests of the instance have their turns in between.
    pub(crate) async fn during<T>(&self, request_id: &str, work: impl Future<Output = T>) -> T {
        let id: Rc<str> = request_id.into();
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            let before = self.0.replace(Some(Rc::clone(&id)));
            let progress = work.as_mut().poll(context);
            self.0.replace(before);
            progress
        })
        .await
    }

    /// Its id, if there is one.
    pub(crate) fn request_id(&self) -> Option<Rc<str>> {
        self.0.borrow().clone()
    }
}

fn one_line(message: &str) -> String {
    message.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_in_either_form_and_names_its_request_once() {
        let at = Timestamp::from_millis(0);
        for (format, id, message, expected) in [
            (Format::Text, None, "a\nb", "[gateway] 1970-01-01T00:00:00.000Z warn a b"),
            (Format::Text, Some("r1"), "a", "[gateway] 1970-01-01T00:00:00.000Z warn a (r1)"),
            (Format::Text, Some("r1"), "a (r1): b", "[gateway] 1970-01-01T00:00:00.000Z warn a (r1): b"),
            (Format::Json, None, "a\n\"b", r#"{"ts":"1970-01-01T00:00:00.000Z","level":"warn","msg":"a\n\"b"}"#),
            (
                Format::Json,
                Some("r1"),
                "a",
                r#"{"ts":"1970-01-01T00:00:00.000Z","level":"warn","request_id":"r1","msg":"a"}"#,
            ),
        ] {
            assert_eq!(format.line(at, Level::Warn, id, message), expected);
        }
        assert_eq!((Format::parse("json"), Format::parse("")), (Format::Json, Format::Text));
    }

    #[test]
    fn requests_that_take_turns_are_not_taken_for_one_another() {
        let (current, seen) = (Current::default(), RefCell::new(Vec::new()));
        let note = || seen.borrow_mut().push(current.request_id().unwrap_or_default().to_string());
        let request = |id: &'static str| {
            current.during(id, async {
                note();
                futures_util::pending!();
                note();
            })
        };
        let waker = std::task::Waker::noop();
        let mut context = std::task::Context::from_waker(waker);
        let (mut first, mut second) = (Box::pin(request("a")), Box::pin(request("b")));
        for _ in 0..2 {
            let _ = first.as_mut().poll(&mut context);
            let _ = second.as_mut().poll(&mut context);
            note();
        }
        assert_eq!(*seen.borrow(), ["a", "b", "", "a", "b", ""]);
    }
}
