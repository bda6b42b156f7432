//! Decisions. Pure and synchronous: no clock, no SQL, no HTTP.

pub mod assertion_certificate;
pub mod audit;
pub mod bootstrap;
pub mod breaker;
pub mod checksum;
pub mod client_address;
pub mod device_grant;
pub mod google_groups;
pub mod id_token;
pub mod identity;
pub mod ids;
pub mod money;
pub mod oidc;
pub mod outbound;
pub mod policy;
pub mod price;
pub mod providers;
pub mod refresh_token;
pub mod rotation;
pub mod service_identity;
pub mod session;
pub mod sign_in;
pub mod spend;
pub mod telemetry_attribute;
pub mod user_code;
