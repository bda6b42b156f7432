//! Formats, ignorant of this gateway: each could be published alone.

pub mod content_encoding;
pub mod csv;
pub mod event_stream;
pub mod form;
pub mod json_edit;
pub mod json_object;
pub mod jwks;
pub mod jwt;
pub mod seal;
pub mod sigv4;
pub mod sse;
