//! `sallyport keys`: the rings of keys that sign sessions and that mask.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::serve::Host;
use super::{Common, Faults, print};

/// Arguments of `keys`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List the keys: ids and dates, never the keys themselves
    List(Options),
    /// Add a new key that signs from now on; the others go on verifying. A masking key takes over after two minutes
    Rotate(Options),
}

#[derive(Args)]
struct Options {
    #[command(flatten)]
    common: Common,
    /// The keys that make the tokens of masked identifiers, instead of those that sign sessions
    #[arg(long)]
    masking: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks the component, which owns the ring.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Faults> {
    let (action, options) = match arguments.action {
        Action::List(options) => ("list", options),
        Action::Rotate(options) => ("rotate", options),
    };
    let ring = if options.masking { "masking" } else { "sessions" };
    let host = Host::prepare(&options.common.into()).await?;
    let answer =
        host.control().call("keys", &json!({ "action": action, "ring": ring })).await.map_err(anyhow::Error::from)?;
    host.end().await;
    if options.json {
        print(&answer.to_string());
        return Ok(());
    }
    for line in answer["lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        print(line);
    }
    for key in answer["keys"].as_array().into_iter().flatten() {
        print(&described(key));
    }
    Ok(())
}

/// One key in one line: the values of its fields, in the component's order.
fn described(key: &Value) -> String {
    let Some(fields) = key.as_object() else { return key.to_string() };
    let field = |(name, value): (&String, &Value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    fields.iter().map(field).collect::<Vec<_>>().join("  ")
}
