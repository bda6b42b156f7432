//! The form of operational lines: `[gateway] <ISO time> <level> <message>` (auth contract §11).

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

/// One operational line. Line breaks in `message` become spaces: one event is one line.
pub fn operational(at: Timestamp, level: Level, message: &str) -> String {
    format!("[gateway] {} {} {}", at.to_rfc3339(), level.name(), message.replace(['\n', '\r'], " "))
}
