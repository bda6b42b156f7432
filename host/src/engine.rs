//! How wasmtime is set up: the part on which compiled code depends.
//!
//! The build script includes this file too, so that what it compiles is what the host accepts.

use wasmtime::Config;

/// Settings for `target`, with no processor features beyond its baseline: a binary that was built on one machine must
/// run on another.
pub(crate) fn config(target: &str) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config.target(target)?;
    config.wasm_component_model_async(true);
    Ok(config)
}
