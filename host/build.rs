//! Builds the component, compiles it ahead of time with the wasmtime that will run it, and leaves both for the host to
//! embed.

#![expect(clippy::disallowed_macros, clippy::disallowed_methods, reason = "a build script talks to cargo this way")]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use wasmtime::Engine;

#[path = "src/engine.rs"]
mod engine;

const TARGET: &str = "wasm32-wasip2";

/// The profile of the workspace that the component is built with.
const PROFILE: &str = "component";

fn main() {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").expect("cargo says where the package is")).join("..");
    for source in ["src", "Cargo.toml", "Cargo.lock", ".cargo/config.toml", "migrations"] {
        let path = root.join(source);
        // A path that is missing would make cargo run this script every time.
        if path.exists() {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-env=SALLYPORT_TARGET={}", env::var("TARGET").expect("cargo names the target"));
    println!("cargo::rerun-if-changed=src/engine.rs");
    if let Err(why) = build(&root) {
        eprintln!("{why}");
        std::process::exit(1);
    }
}

fn build(root: &Path) -> Result<(), String> {
    install_target()?;
    let wasm = build_component(root)?;
    let bytes = std::fs::read(&wasm).map_err(|error| format!("cannot read {}: {error}", wasm.display()))?;
    let target = env::var("TARGET").expect("cargo names the target");
    let engine = engine::config(&target).and_then(|config| Engine::new(&config));
    let engine = engine.map_err(|error| format!("cannot prepare wasmtime: {error:#}"))?;
    let compiled =
        engine.precompile_component(&bytes).map_err(|error| format!("cannot compile the component: {error:#}"))?;
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo gives a directory")).join("sallyport.cwasm");
    std::fs::write(&out, compiled).map_err(|error| format!("cannot write {}: {error}", out.display()))
}

/// Installs the standard library of the component's target when it is missing.
fn install_target() -> Result<(), String> {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let printed = Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET]).output();
    let libdir = printed.ok().filter(|printed| printed.status.success()).map(|printed| printed.stdout);
    let libdir = libdir.map(|path| PathBuf::from(String::from_utf8_lossy(&path).trim()));
    if libdir.is_some_and(|path| path.is_dir()) {
        return Ok(());
    }
    let added = Command::new("rustup").args(["target", "add", TARGET]).status();
    match added {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(format!("`rustup target add {TARGET}` failed; the component cannot be built without that target")),
        Err(error) => Err(format!("the target {TARGET} is not installed, and rustup could not be started: {error}")),
    }
}

/// Builds the component in a target directory of its own, so that the two cargos do not wait for each other's lock.
fn build_component(root: &Path) -> Result<PathBuf, String> {
    let directory = target_directory()?.join("component");
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--profile", PROFILE, "--package", "sallyport", "--lib", "--target", TARGET, "--target-dir"])
        .arg(&directory)
        .current_dir(root);
    // Flags and wrappers of the outer build are meant for the machine, not for WebAssembly: its own flags are in
    // `.cargo/config.toml`.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "RUSTFLAGS", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET"] {
        command.env_remove(name);
    }
    let built = command.output().map_err(|error| format!("cannot start cargo: {error}"))?;
    if !built.status.success() {
        return Err(format!("the component does not build:\n{}", String::from_utf8_lossy(&built.stderr)));
    }
    Ok(directory.join(TARGET).join(PROFILE).join("sallyport.wasm"))
}

/// `OUT_DIR` is `<target>/[<triple>/]<profile>/build/<package>-<hash>/out`.
fn target_directory() -> Result<PathBuf, String> {
    if let Some(directory) = env::var_os("CARGO_TARGET_DIR") {
        let directory = PathBuf::from(directory);
        if directory.is_absolute() {
            return Ok(directory);
        }
    }
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo gives a directory"));
    let marked = out.ancestors().find(|path| path.join("CACHEDIR.TAG").is_file());
    marked.map(Path::to_path_buf).ok_or_else(|| format!("no target directory above {}", out.display()))
}
