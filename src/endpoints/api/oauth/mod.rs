//! `/api/oauth/…`.

pub(crate) mod usage;
