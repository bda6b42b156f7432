//! `/.well-known/…`.

pub(crate) mod oauth_authorization_server;
