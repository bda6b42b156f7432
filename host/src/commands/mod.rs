//! The command line: one file per subcommand.

mod check;
mod demo;
mod erase;
mod explain;
mod import;
mod keys;
mod limits;
mod migrate;
mod online;
mod render;
mod report;
mod schema;
pub(crate) mod serve;
mod upkeep;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::console;

/// A gateway for Claude Code: sign-in, policy, failover, metering and audit.
#[derive(Parser)]
#[command(name = "sallyport", version, arg_required_else_help = true)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve(serve::Arguments),
    /// Run the gateway, spelt as the reference spells it
    #[command(hide = true)]
    Gateway(serve::Arguments),
    /// Try everything on this machine, without an account
    Demo(demo::Arguments),
    /// Check a configuration and list every fault
    Check(check::Arguments),
    /// Say what the configuration means for one person: policy, settings, models, upstreams, caps
    Explain(explain::Arguments),
    /// Print the JSON Schema of gateway.yaml, for editors
    Schema(schema::Arguments),
    /// Write what a deployment needs besides gateway.yaml
    Render(render::Arguments),
    /// Take over caps, spend, identities and audit rows from a reference gateway's database
    Import(import::Arguments),
    /// Bring the database up to date
    Migrate(migrate::Arguments),
    /// Delete everything that is over: expired rows, and what retention windows have passed
    Upkeep(upkeep::Arguments),
    /// Look at and rotate the keys that sign sessions
    Keys(keys::Arguments),
    /// Say who used which model, and what it cost
    Report(report::Arguments),
    /// Make the spend caps what a file says they are
    Limits(limits::Arguments),
    /// Erase a person; what their money came to stays, under a pseudonym
    Erase(erase::Arguments),
}

/// What every command that starts the component needs to know.
#[derive(Args, Debug, Clone)]
pub(crate) struct Common {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "gateway.yaml")]
    pub(crate) config: PathBuf,
    /// Where embedded databases live
    #[arg(long, value_name = "DIR", default_value = ".sallyport")]
    pub(crate) state_dir: PathBuf,
    /// Honour this spin.toml: allowed hosts, stores, databases
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
    /// Honour this runtime-config.toml: paths of stores and databases, client TLS
    #[arg(long, value_name = "FILE")]
    pub(crate) runtime_config: Option<PathBuf>,
}

/// Why a command did not do its work: lines for a person at a terminal.
#[derive(Debug)]
pub(crate) struct Faults(pub(crate) Vec<String>);

impl From<anyhow::Error> for Faults {
    fn from(error: anyhow::Error) -> Self {
        Self(vec![format!("{error:#}")])
    }
}

impl From<Vec<String>> for Faults {
    fn from(faults: Vec<String>) -> Self {
        Self(faults)
    }
}

/// Runs the command line. Exit codes: 0 done, 1 not done, 2 misused.
pub fn main() -> ExitCode {
    let line = Line::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            console::plain(&format!("sallyport: no runtime: {error}"));
            console::flush();
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        match line.command {
            Command::Serve(arguments) | Command::Gateway(arguments) => serve::run(arguments).await.map(done),
            Command::Demo(arguments) => demo::run(arguments).await.map(done),
            Command::Check(arguments) => check::run(&arguments).await,
            Command::Explain(arguments) => explain::run(arguments).await.map(done),
            Command::Import(arguments) => import::run(arguments).await.map(done),
            Command::Schema(arguments) => {
                schema::run(&arguments);
                Ok(ExitCode::SUCCESS)
            }
            Command::Render(arguments) => render::run(&arguments).map(done),
            Command::Migrate(arguments) => migrate::run(arguments).await.map(done),
            Command::Upkeep(arguments) => upkeep::run(arguments).await.map(done),
            Command::Keys(arguments) => keys::run(arguments).await.map(done),
            Command::Report(arguments) => report::run(arguments).await.map(done),
            Command::Limits(arguments) => limits::run(arguments).await.map(done),
            Command::Erase(arguments) => erase::run(arguments).await.map(done),
        }
    });
    // Whatever still runs has had its time.
    runtime.shutdown_background();
    let code = match outcome {
        Ok(code) => code,
        Err(Faults(faults)) => {
            for fault in faults {
                console::plain(&format!("sallyport: {}", fault.replace(['\n', '\r'], " ")));
            }
            ExitCode::FAILURE
        }
    };
    console::flush();
    code
}

fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Writes a result to standard output.
#[expect(clippy::disallowed_macros, reason = "standard output is where a command's result belongs")]
pub(crate) fn print(text: &str) {
    println!("{text}");
}
