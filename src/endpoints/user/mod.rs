//! `/user/…`

pub(crate) mod bootstrap;
