//! `/v1/organizations/analytics/…`.

pub(crate) mod cost;
