//! `sallyport keys`: the rings of keys that sign sessions and that mask.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::serve::{Host, Options, Ring};
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
    List(Output),
    /// Add a new key that signs within seconds; the others go on verifying until nothing they signed can be valid. A
    /// masking key takes over after two minutes
    Rotate(Output),
    /// Remove a key at once: every session that it signed ends
    Revoke {
        /// Its id, as `keys list` shows it
        kid: String,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Args)]
struct Output {
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
    let (action, kid, output) = match arguments.action {
        Action::List(output) => ("list", None, output),
        Action::Rotate(output) => ("rotate", None, output),
        Action::Revoke { kid, output } => ("revoke", Some(kid), output),
    };
    let ring = if output.masking { "masking" } else { "sessions" };
    let input = json!({ "action": action, "ring": ring, "kid": kid.unwrap_or_default() });
    let mut options = Options::from(output.common);
    let mut scratch = None;
    if action != "rotate" {
        match Ring::of(&options)? {
            Ring::Here => {}
            Ring::Elsewhere => options.common.state_dir.clone_from(&scratch.insert(Scratch::create()?).0),
            Ring::Nowhere if action == "list" => {
                print(if output.json { r#"{"keys":[]}"# } else { "no keys yet: the first start makes one" });
                return Ok(());
            }
            Ring::Nowhere => return Err(anyhow::anyhow!("there are no keys yet: the first start makes one").into()),
        }
    }
    let host = Host::prepare(&options).await?;
    let answer = host.control().call("keys", &input).await.map_err(anyhow::Error::from)?;
    host.end().await;
    if output.json {
        print(&answer.to_string());
        return Ok(());
    }
    for key in answer["keys"].as_array().into_iter().flatten() {
        print(&described(key));
    }
    Ok(())
}

/// A state directory for a command that must not leave one behind.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn create() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("sallyport-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The system empties the place where it is, should this fail.
        let _ = std::fs::remove_dir_all(&self.0);
    }
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
