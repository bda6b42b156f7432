//! The process environment: the one place that reads it, and what of it the component gets to see.

use std::collections::HashMap;

/// Those of the variables in which platforms describe their identities that name a file.
pub(crate) const CREDENTIAL_FILES: [&str; 4] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "AZURE_FEDERATED_TOKEN_FILE",
];

/// The variable `name`; `None` when it is not defined or not Unicode.
#[expect(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub(crate) fn find(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Whether `name` is switched on: `1`, `true` or `yes` (auth contract §1.4).
pub(crate) fn switch(name: &str) -> bool {
    matches!(find(name).as_deref(), Some("1" | "true" | "yes"))
}

/// The values of the variables that a configuration mentions: `SPIN_VARIABLE_<NAME>` as under Spin, then `NAME`.
pub(crate) fn mentioned(names: &[String]) -> HashMap<String, String> {
    names.iter().filter_map(|name| Some((name.clone(), find_mentioned(name)?))).collect()
}

fn find_mentioned(name: &str) -> Option<String> {
    find(&format!("SPIN_VARIABLE_{}", name.to_uppercase())).or_else(|| find(name))
}
