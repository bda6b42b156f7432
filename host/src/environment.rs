//! The process environment: the one place that reads it, and what of it the component gets to see.

use std::collections::HashMap;

/// What the identity of the machine or of the workload is told with, for credential chains of the cloud providers.
/// The component gets those that are set, and no others besides the ones that `gateway.yaml` mentions.
pub(crate) const CREDENTIALS: [&str; 26] = [
    // AWS: environment, web identity, container, instance.
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_BEARER_TOKEN_BEDROCK",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_EC2_METADATA_DISABLED",
    // Google: service account file, metadata server.
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_CLOUD_PROJECT",
    "GCE_METADATA_HOST",
    // Azure: client secret, workload identity, managed identity.
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_AUTHORITY_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "MSI_ENDPOINT",
    "MSI_SECRET",
];

/// Those of [`CREDENTIALS`] that name a file.
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
