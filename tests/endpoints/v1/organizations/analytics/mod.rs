//! `/v1/organizations/analytics/…`.

mod cost;
