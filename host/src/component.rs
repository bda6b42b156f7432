//! The component that this binary carries, compiled ahead of time by the build script.
//!
//! It is run where it lies in the binary, so that only those of its pages are in memory that are used. There is one engine
//! and one component for the life of the process, whatever configurations come and go.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::mm::{MprotectFlags, mprotect};
use wasmtime::component::Component;
use wasmtime::{Config, CustomCodeMemory, Engine, PoolingAllocationConfig, Result};

use crate::engine;

/// Code has to begin where a page does; on the machines that may have them, with pages of 64 KiB.
#[cfg_attr(target_arch = "x86_64", repr(C, align(4096)))]
#[cfg_attr(not(target_arch = "x86_64"), repr(C, align(65536)))]
struct AtPage<T: ?Sized>(T);

static COMPILED: &AtPage<[u8]> = &AtPage(*include_bytes!(concat!(env!("OUT_DIR"), "/sallyport.cwasm")));

/// Instances that one configuration may have at the same time.
pub(crate) const INSTANCES: u32 = 128;
/// The same for the process: those of a configuration that was replaced finish what they have begun.
const ALL_INSTANCES: u32 = 2 * INSTANCES;
/// The most memory that one instance may have. Address space, not memory, is set aside for it: what an instance does
/// not touch costs nothing. An instance reads request bodies of up to 32 MiB into memory, and a growing buffer needs
/// its old and its new place at once.
pub(crate) const INSTANCE_MEMORY: usize = 256 * 1024 * 1024;
/// Core modules per component: the component itself and the adapters around it.
const CORE_INSTANCES: u32 = 16;

/// The engine, and the component that it runs.
pub(crate) fn load() -> Result<(Engine, Component)> {
    static LOADED: Mutex<Option<(Engine, Component)>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((engine, component)) = &*loaded {
        return Ok((engine.clone(), component.clone()));
    }
    let engine = engine()?;
    let component = component(&engine)?;
    Ok(loaded.insert((engine, component)).clone())
}

/// An engine for [`ALL_INSTANCES`] instances.
fn engine() -> Result<Engine> {
    let mut config: Config = engine::config(env!("SALLYPORT_TARGET"))?;
    // Everything is compiled already.
    config.enable_compiler(false);
    config.with_custom_code_memory(Some(Arc::new(InPlace)));
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(ALL_INSTANCES)
        .max_core_instances_per_component(CORE_INSTANCES)
        .total_core_instances(ALL_INSTANCES * CORE_INSTANCES)
        .max_memories_per_component(2)
        .total_memories(ALL_INSTANCES * 2)
        .max_memory_size(INSTANCE_MEMORY)
        .max_tables_per_component(CORE_INSTANCES)
        .total_tables(ALL_INSTANCES * CORE_INSTANCES)
        .total_stacks(ALL_INSTANCES * 4)
        // Memory of an instance that ended goes back to the system at once.
        .linear_memory_keep_resident(0)
        .max_unused_warm_slots(4);
    config.allocation_strategy(pool);
    Engine::new(&config)
}

#[expect(unsafe_code, reason = "wasmtime trusts compiled code; this was compiled by our own build script")]
fn component(engine: &Engine) -> Result<Component> {
    // SAFETY: the bytes are the output of `Engine::precompile_component` in `build.rs`, unchanged; they are there, and the
    // same, for as long as the process.
    unsafe { Component::deserialize_raw(engine, NonNull::from(&COMPILED.0)) }
}

/// Makes the code executable where it lies. It never becomes writable.
struct InPlace;

impl CustomCodeMemory for InPlace {
    fn required_alignment(&self) -> usize {
        align_of::<AtPage<[u8; 0]>>()
    }

    #[expect(unsafe_code, reason = "wasmtime says which pages are code")]
    fn publish_executable(&self, code: *const u8, length: usize) -> Result<()> {
        // SAFETY: these are whole pages of `COMPILED`, which nobody writes to; all that changes is that they may be run.
        unsafe { mprotect(code.cast_mut().cast(), length, MprotectFlags::READ | MprotectFlags::EXEC)? };
        Ok(())
    }

    fn unpublish_executable(&self, _: *const u8, _: usize) -> Result<()> {
        // The one component stays for the life of the process.
        Ok(())
    }
}
