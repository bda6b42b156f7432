//! How wasmtime is set up: the part on which compiled code depends.
//!
//! The build script includes this file too, so that what it compiles is what the host accepts.

use wasmtime::Config;

/// What every 64-bit x86 processor since 2009 can do (x86-64-v2), as Cranelift names it. Without it, some operations on
/// vectors become calls into the host.
const X86_FEATURES: [&str; 5] = ["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"];

/// Settings for `target`, with no processor features beyond those that all its machines have: a binary that was built on
/// one machine must run on another.
pub(crate) fn config(target: &str) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config.target(target)?;
    config.wasm_component_model_async(true);
    // In a log, the names of functions are enough; the map of instructions would be a tenth of what is carried along.
    config.generate_address_map(false);
    if target.starts_with("x86_64-") {
        for feature in X86_FEATURES {
            enable(&mut config, feature);
        }
    }
    Ok(config)
}

#[expect(unsafe_code, reason = "any setting of Cranelift may be named that way, also one that breaks it")]
fn enable(config: &mut Config, feature: &str) {
    // SAFETY: only features of processors are named here, and wasmtime refuses code whose features a machine lacks.
    unsafe { config.cranelift_flag_enable(feature) };
}
