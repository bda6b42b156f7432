//! The native host of Sallyport.
//!
//! **main** parses the command line and runs one of the **commands**; `serve` reads the **settings**, opens the
//! **capability** files' stores, has **instance** load the **component**, and lets **listen** hand every request to the
//! **pool** of instances of the current **generation**, which **reload** replaces when the configuration changes. `src/spin/` of the component and `capability/` here are mirror images.

mod capability;
mod commands;
mod component;
mod connect;
mod console;
mod control;
mod demo;
mod egress;
mod engine;
mod environment;
mod fault;
mod generation;
mod guard;
mod hosts;
mod identified;
mod instance;
mod lane;
mod listen;
mod manifest;
mod metrics;
mod operator;
mod own_store;
mod pool;
mod presence;
mod private;
mod reload;
mod settings;
mod tls;

pub use commands::main;
