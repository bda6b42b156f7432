//! Sallyport: a gateway for Claude Code.
//!
//! **spin** hands the request to the **gateway**, which finds it among the **routes** and gives it to an **endpoint**;
//! the endpoint asks the **domain**, remembers in the **store**, answers with a **page** or a value, or lets the
//! **relay** send it **upstream** and **stream** the answer back.

mod alerts;
mod audit_copy;
mod compatibility;
pub mod config;
mod counting;
mod credentials;
pub mod domain;
mod endpoints;
mod erasure;
pub mod error;
pub mod exchange;
pub mod explanation;
pub mod gateway;
mod idp;
mod keyring;
pub mod log;
pub mod mask;
mod masking;
pub mod pages;
pub mod ports;
mod relay;
mod resilience;
pub mod routes;
mod sessions;
mod spans;
mod spending;
pub mod store;
pub mod stream;
mod upkeep;
pub mod upstream;
pub mod wire;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod testing_replicas;

#[cfg(target_family = "wasm")]
mod spin;
