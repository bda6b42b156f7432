//! The component that this binary carries, compiled ahead of time by the build script.

use wasmtime::component::Component;
use wasmtime::{Config, Engine, PoolingAllocationConfig, Result};

use crate::engine;

static COMPILED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sallyport.cwasm"));

/// Instances that may exist at the same time.
pub(crate) const INSTANCES: u32 = 128;
/// The most memory that one instance may have. Address space, not memory, is set aside for it: what an instance does
/// not touch costs nothing. An instance reads request bodies of up to 32 MiB into memory, and a growing buffer needs
/// its old and its new place at once.
pub(crate) const INSTANCE_MEMORY: usize = 256 * 1024 * 1024;
/// Core modules per component: the component itself and the adapters around it.
const CORE_INSTANCES: u32 = 16;

/// An engine for [`INSTANCES`] instances.
pub(crate) fn engine() -> Result<Engine> {
    let mut config: Config = engine::config(env!("SALLYPORT_TARGET"))?;
    // Everything is compiled already.
    config.enable_compiler(false);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES)
        .max_core_instances_per_component(CORE_INSTANCES)
        .total_core_instances(INSTANCES * CORE_INSTANCES)
        .max_memories_per_component(2)
        .total_memories(INSTANCES * 2)
        .max_memory_size(INSTANCE_MEMORY)
        .max_tables_per_component(CORE_INSTANCES)
        .total_tables(INSTANCES * CORE_INSTANCES)
        .total_stacks(INSTANCES * 4)
        // Memory of an instance that ended goes back to the system at once.
        .linear_memory_keep_resident(0)
        .max_unused_warm_slots(4);
    config.allocation_strategy(pool);
    Engine::new(&config)
}

/// Loads the component.
#[expect(unsafe_code, reason = "wasmtime trusts compiled code; this was compiled by our own build script")]
pub(crate) fn load(engine: &Engine) -> Result<Component> {
    // SAFETY: the bytes are the output of `Engine::precompile_component` in `build.rs`, unchanged.
    unsafe { Component::deserialize(engine, COMPILED) }
}
