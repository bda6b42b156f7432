//! `/v1/organizations/signing_keys/…`.

pub(crate) mod rotate;
