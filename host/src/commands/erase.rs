//! `sallyport erase`: a person goes away, their money stays under a pseudonym.

use clap::Args;
use serde_json::{Value, json};

use super::serve::Host;
use super::{Common, Faults, print};
use crate::own_store::OwnStore;

/// Arguments of `erase`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Whom: the id that sessions and reports show as `user_id`
    #[arg(long, value_name = "ID")]
    user: String,
    /// Say what there is to erase, and erase nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks the component, which knows what is a person's.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Faults> {
    OwnStore::must_exist(&arguments.common)?;
    let host = Host::prepare(&arguments.common.into()).await?;
    let input = json!({ "user": arguments.user, "dry_run": arguments.dry_run });
    let answer = host.control().call("erase", &input).await;
    host.end().await;
    let answer = answer.map_err(anyhow::Error::from)?;
    if arguments.json {
        print(&answer.to_string());
    } else {
        for line in &described(&answer) {
            print(line);
        }
    }
    Ok(())
}

/// One line for each kind of rows, and what they come to.
fn described(answer: &Value) -> Vec<String> {
    let is_dry_run = answer["dry_run"] == true;
    let mut lines = Vec::new();
    let mut rows = 0;
    for (part, done, would) in
        [("deleted", "deleted", "would be deleted"), ("pseudonymized", "pseudonymized", "would be pseudonymized")]
    {
        for (table, count) in answer[part].as_object().into_iter().flatten() {
            let count = count.as_u64().unwrap_or(0);
            rows += count;
            if count > 0 {
                lines.push(format!("{table}: {count} {}", if is_dry_run { would } else { done }));
            }
        }
    }
    if rows == 0 {
        lines.push("there is nothing of this person".to_owned());
    }
    if let Some(pseudonym) = answer["pseudonym"].as_str() {
        lines.push(format!("what was kept goes by {pseudonym}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_is_told_table_by_table() {
        let counts = |dry_run: bool| {
            json!({
                "dry_run": dry_run, "pseudonym": if dry_run { None } else { Some("erased-1") },
                "deleted": {"principals": 1, "alerts": 0}, "pseudonymized": {"spend": 12},
            })
        };
        let kept = "what was kept goes by erased-1";
        assert_eq!(described(&counts(false)), ["principals: 1 deleted", "spend: 12 pseudonymized", kept]);
        assert_eq!(described(&counts(true)), ["principals: 1 would be deleted", "spend: 12 would be pseudonymized"]);
        let nothing = json!({"dry_run": false, "pseudonym": null, "deleted": {"alerts": 0}, "pseudonymized": {}});
        assert_eq!(described(&nothing), ["there is nothing of this person"]);
    }
}
