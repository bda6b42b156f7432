//! Mirrors `src/endpoints`: one file per endpoint, through `Gateway::handle`.

mod api;
mod surface;
mod v1;
