//! `sallyport upkeep`: deletes everything that is over, at once, and ends. A gateway in use does the same by itself, in
//! pieces; this is for one that nobody uses, and for cron.

use clap::Args;
use serde_json::json;

use super::serve::Host;
use super::{Common, Faults, print};

/// Arguments of `upkeep`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Deletes what is over and says how much it was.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Faults> {
    let host = Host::prepare(&arguments.common.into()).await?;
    let answer = host.control().call("upkeep", &json!({})).await.map_err(anyhow::Error::from)?;
    host.end().await;
    if arguments.json {
        print(&answer.to_string());
        return Ok(());
    }
    for (table, rows) in answer["deleted"].as_object().into_iter().flatten() {
        print(&format!("{table}: {rows} rows deleted"));
    }
    print(&format!("reservations: {} expired", answer["expired_reservations"]));
    Ok(())
}
