//! `/api/…`: what clients ask besides inference.

pub(crate) mod oauth;
