//! `sallyport migrate`: brings the database up to date and ends.

use clap::Args;
use serde_json::{Value, json};

use super::serve::Host;
use super::{Common, Faults, print};

/// Arguments of `migrate`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Applies what is missing.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Faults> {
    let host = Host::prepare(&arguments.common.into()).await?;
    let answer = host.control().call("migrate", &json!({})).await.map_err(anyhow::Error::from)?;
    host.end().await;
    if arguments.json {
        print(&answer.to_string());
        return Ok(());
    }
    let lines = answer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut none = true;
    for line in lines {
        none = false;
        print(line);
    }
    if none {
        print("The database is up to date.");
    }
    Ok(())
}
