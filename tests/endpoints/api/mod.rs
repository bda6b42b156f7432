//! What clients ask besides inference.

mod oauth;
