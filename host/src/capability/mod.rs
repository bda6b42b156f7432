//! What the component imports, one file per capability: the mirror image of the component's `src/spin/`.
//!
//! Clocks, randomness, files and standard error are WASI's; `instance.rs` grants them.

pub(crate) mod coalesced;
mod database;
pub(crate) mod http;
pub(crate) mod key_value;
pub(crate) mod postgres;
pub(crate) mod sqlite;
pub(crate) mod variables;

use wasmtime::component::{HasData, Linker};

use crate::instance::Instance;

/// Host-side traits of the interfaces in `wit/`.
pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "sallyport:host/imports",
        imports: { default: async | store | trappable },
    });
}

/// Stands for all imports that are ours; they need nothing but the instance.
pub(crate) struct Imports;

impl HasData for Imports {
    type Data<'a> = &'a mut Instance;
}

/// Adds all imports that are ours.
pub(crate) fn add_to_linker(linker: &mut Linker<Instance>) -> wasmtime::Result<()> {
    bindings::Imports::add_to_linker::<Instance, Imports>(linker, |instance| instance)
}
