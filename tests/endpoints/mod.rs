//! Mirrors `src/endpoints`: one file per endpoint, through `Gateway::handle`.

mod api;
mod managed;
mod surface;
mod user;
mod v1;
