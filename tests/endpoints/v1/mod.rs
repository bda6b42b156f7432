//! The Messages API.

mod messages;
mod messages_alerts;
mod messages_clouds;
mod messages_failover;
mod messages_figures;
mod messages_masking;
mod messages_spending;
mod models;
pub(crate) mod organizations;
mod telemetry;
