//! Programs that stories need and that a machine may not have; and packages of npm and `PyPI`, installed once.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Whether one of `programs` is missing. Says so; with `SALLYPORT_TEST_REQUIRE` set, fails instead.
pub(crate) fn lacks(programs: &[&str]) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| !is_installed(program)).collect();
    if missing.is_empty() {
        return false;
    }
    skipped(&missing.join(", "));
    true
}

/// Says that the story is left out for want of `what`.
pub(crate) fn skipped(what: &str) {
    assert!(std::env::var_os("SALLYPORT_TEST_REQUIRE").is_none(), "needs {what}");
    println!("skipped: needs {what}");
}

/// Runs `command` to its end and returns its standard output; panics with what it said if it fails.
pub(crate) fn command(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

/// The directory with the npm packages of the stories and with the scripts that use them.
pub(crate) fn node() -> &'static Path {
    static READY: OnceLock<PathBuf> = OnceLock::new();
    READY.get_or_init(|| {
        let directory = beside_tests("flows-node");
        let source = source("node");
        install(&directory, &source.join("package-lock.json"), || {
            for file in ["package.json", "package-lock.json"] {
                fs::copy(source.join(file), directory.join(file)).expect("a copy");
            }
            command(
                Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&directory),
            );
        });
        // Node looks for packages from where the script is.
        for script in ["browser.mjs", "oidc-provider.mjs", "sdk.mjs", "sdk_in_full.mjs"] {
            fs::copy(source.join(script), directory.join(script)).expect("a copy");
        }
        directory
    })
}

/// The interpreter of a virtual environment that has the `PyPI` packages of the stories.
pub(crate) fn python() -> PathBuf {
    static READY: OnceLock<PathBuf> = OnceLock::new();
    let directory = READY.get_or_init(|| {
        let directory = beside_tests("flows-python");
        let requirements = source("python").join("requirements.txt");
        install(&directory, &requirements, || {
            command(Command::new("python3").args(["-m", "venv"]).arg(&directory));
            command(Command::new(directory.join("bin/pip")).args(["install", "--quiet", "-r"]).arg(&requirements));
        });
        directory
    });
    directory.join("bin/python")
}

/// Runs a script of the stories with `mode` as its argument and `input` as its standard input, both in the way of the
/// script; returns what it printed.
pub(crate) fn piped(script: &str, mode: &str, input: &str) -> String {
    let mut program = Command::new(python())
        .arg(source("python").join(script))
        .arg(mode)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    // The pipe closes with the handle.
    program.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("a reader");
    let output = program.wait_with_output().expect("an end");
    assert!(output.status.success(), "{script} {mode} cannot judge {input}");
    String::from_utf8(output.stdout).expect("text")
}

/// A file of the support directory `kind`.
pub(crate) fn source(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/flows/support").join(kind)
}

/// Runs `act` unless it ran before with this content of `manifest`.
fn install(directory: &Path, manifest: &Path, act: impl FnOnce()) {
    let marker = directory.join(".installed");
    let wanted = fs::read(manifest).expect("the manifest");
    if fs::read(&marker).is_ok_and(|found| found == wanted) {
        return;
    }
    fs::create_dir_all(directory).expect("a directory");
    act();
    fs::write(marker, wanted).expect("the marker");
}

/// `target/NAME`.
fn beside_tests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(name)
}

fn is_installed(program: &str) -> bool {
    find(program).is_some()
}

/// Where `program` is.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    search_path().map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// The directories of `PATH`, and where Debian keeps servers, which is not on everybody's.
pub(crate) fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = std::env::split_paths::<OsStr>(path.as_ref()).collect();
    directories.into_iter().chain([PathBuf::from("/usr/sbin")])
}
