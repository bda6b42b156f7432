//! The command line of Sallyport.

use std::process::ExitCode;

/// Many small bodies live and die on two threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sallyport_host::main()
}
