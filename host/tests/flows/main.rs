//! The stories: the compiled component in the host, as a program, among real clients, databases and identity providers.
//!
//! One module per part of the gateway's life; each story stands alone and starts all that it needs. A story that needs
//! a program which is not on the machine says `skipped: needs …` and ends; with `SALLYPORT_TEST_REQUIRE` set it fails.
//! `SALLYPORT_BIN` names another binary to be judged than the one that cargo built.
#![expect(clippy::disallowed_methods, reason = "stories live in real time, and the environment says what is installed")]
#![expect(clippy::disallowed_macros, reason = "a story that is left out says so")]

mod support;

mod addresses;
mod administering;
mod alerts;
mod audit;
mod authlib;
mod boot;
mod chromium;
mod clouds;
mod crashes;
mod credentials;
mod egress;
mod erasing;
mod failover;
mod healing;
mod hostile;
mod import;
mod inference;
mod logs;
mod masking;
mod metrics;
mod online;
mod outages;
mod periods;
mod prices;
mod providers;
mod reload;
mod rendered;
mod replicas;
mod requests;
mod sdks;
mod service_identities;
mod sessions;
mod shutdown;
mod sign_in;
mod spending;
mod streaming;
mod telemetry;
mod tokens;
mod transport;
