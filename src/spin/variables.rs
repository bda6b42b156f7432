//! Variables ← spin:variables, then the environment.

use async_trait::async_trait;

use crate::log::{Format, Level};
use crate::ports::Variables;

/// Spin's variables, whose names are lower-case, and behind them the environment.
pub(super) struct SpinVariables;

#[async_trait(?Send)]
impl Variables for SpinVariables {
    async fn find(&self, name: &str) -> Option<String> {
        match spin_sdk::variables::get(name.to_lowercase()).await {
            Ok(value) => Some(value),
            Err(_) => environment(name),
        }
    }
}

/// Whether the environment switches `name` on: `1`, `true` or `yes` (auth contract §1.4).
pub(super) fn switch(name: &str) -> bool {
    matches!(environment(name).as_deref(), Some("1" | "true" | "yes"))
}

/// `CLAUDE_GATEWAY_LOG_LEVEL` (auth contract §1.4).
pub(super) fn log_level() -> Level {
    Level::parse(environment("CLAUDE_GATEWAY_LOG_LEVEL").as_deref().unwrap_or_default())
}

/// `SALLYPORT_LOG_FORMAT`: `json` or text.
pub(super) fn log_format() -> Format {
    Format::parse(environment("SALLYPORT_LOG_FORMAT").as_deref().unwrap_or_default())
}

/// Whether our own host wants figures on standard output.
pub(super) fn counts_figures() -> bool {
    switch("SALLYPORT_FIGURES")
}

/// What our own host says with the requests that it makes itself; absent elsewhere, which closes the control channel.
pub(super) fn control_token() -> Option<String> {
    environment("SALLYPORT_CONTROL").filter(|token| token.len() >= 32)
}

#[expect(clippy::disallowed_methods, reason = "this is ports.variables")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
