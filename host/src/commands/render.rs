//! `sallyport render`: what a deployment needs besides `gateway.yaml`, written from it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use sallyport::config::{self, SpinFiles};

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
    let SpinFiles { manifest, runtime_config } =
        config::render_spin(&config.display().to_string(), &settings.text, &settings.config);
    console::plain("note: listen.host and listen.port have no effect under Spin: say `spin up --listen`");
    for note in config::without_effect_under_spin(&settings.config) {
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
