//! `sallyport demo`: the whole thing on one machine, without an account.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::serve::{self, Options};
use super::{Common, Faults, print};
use crate::demo::{self, Upstream};
use crate::environment;

/// Arguments of `demo`.
#[derive(Args, Debug, Clone)]
pub(crate) struct Arguments {
    /// Where the gateway listens; a fixed port, because it is printed before anybody calls
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where the demo keeps its configuration and databases
    #[arg(long, value_name = "DIR", default_value = ".sallyport/demo")]
    state_dir: PathBuf,
}

/// Starts the stand-ins, then serves as `serve` does.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Faults> {
    let Arguments { listen, state_dir } = arguments;
    let has_key = environment::find("ANTHROPIC_API_KEY").is_some_and(|key| !key.is_empty());
    let upstream = if has_key { Upstream::Anthropic } else { Upstream::Demonstration };
    let demo = demo::run(&demo::Options { listen, state_dir: state_dir.clone(), upstream }).await?;
    let common = Common { config: demo.config.clone(), state_dir, manifest: None, runtime_config: None };
    let options = Options { allow_loopback: true, listen: Some(listen.to_string()), ..Options::from(common) };
    let instructions = demo.instructions.to_string();
    // The stand-ins live as long as `demo` does.
    let outcome = serve::serve(&options, |_, _| print(&instructions)).await;
    drop(demo);
    outcome
}
