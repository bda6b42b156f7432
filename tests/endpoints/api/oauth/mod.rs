//! `/api/oauth/…`.

mod usage;
