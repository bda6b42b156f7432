//! `sallyport render`: what a deployment needs besides `gateway.yaml`, written from it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use sallyport::config::{self, Config, MinTls, SpinFiles};

use super::{Faults, print};
use crate::console;
use crate::settings::Settings;

/// Arguments of `render`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    target: Target,
}

#[derive(Subcommand)]
enum Target {
    /// spin.toml and runtime-config.toml: variables, stores, exactly the hosts that may be called, client TLS
    Spin(Spin),
}

#[derive(Args)]
#[command(after_help = "Variables and files that the configuration mentions need not be there: their values are not \
                        rendered. A variable that decides which hosts are called must be.")]
struct Spin {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "gateway.yaml")]
    config: PathBuf,
    /// Write spin.toml and runtime-config.toml into this directory instead of printing them
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Renders for one target.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Faults> {
    let Target::Spin(Spin { config, out }) = &arguments.target;
    let settings = Settings::read_leniently(config)?;
    let SpinFiles { manifest, runtime_config } = config::render_spin(&settings.text, &settings.config);
    for note in notes(&settings.config) {
        console::plain(&format!("note: {note}"));
    }
    match out {
        Some(directory) => {
            std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
            write(&directory.join("spin.toml"), &manifest)?;
            write(&directory.join("runtime-config.toml"), &runtime_config)?;
        }
        None => print(format!("# === spin.toml\n{manifest}\n# === runtime-config.toml\n{runtime_config}").trim_end()),
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    print(&format!("{} written", path.display()));
    Ok(())
}

/// Keys that are accepted and have no effect under Spin, and what has it instead.
fn notes(config: &Config) -> Vec<&'static str> {
    let mut notes = vec!["listen.host and listen.port have no effect under Spin: say `spin up --listen`"];
    if config.listen.tls.is_some() {
        notes.push("listen.tls has no effect under Spin: say `spin up --tls-cert … --tls-key …`, or end TLS in front");
    }
    if config.oidc.iter().any(|provider| provider.use_proxy.is_some()) {
        notes.push("oidc.use_proxy has no effect under Spin, which calls without a proxy");
    }
    if config.upstreams.iter().any(|upstream| upstream.proxy.is_some()) {
        notes.push("upstreams[].proxy has no effect under Spin, which calls without a proxy");
    }
    let tls = config
        .upstreams
        .iter()
        .filter_map(|upstream| upstream.tls.as_ref())
        .chain(config.oidc.iter().filter_map(|provider| provider.tls.as_ref()));
    for tls in tls {
        if tls.client_key_passphrase.is_some() {
            notes.push("client_key_passphrase has no effect under Spin, which reads plain private keys only");
        }
        if tls.min_version != MinTls::Tls12 {
            notes.push("min_version has no effect under Spin, which speaks TLS 1.2 and 1.3");
        }
    }
    notes.dedup();
    notes
}
