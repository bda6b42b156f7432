//! The Messages API, and what belongs to it.

pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod organizations;
pub(crate) mod telemetry;
