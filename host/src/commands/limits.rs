//! `sallyport limits`: spend caps that a team keeps in a file.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::serve::Host;
use super::{Common, Faults, print};

/// Arguments of `limits`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make the caps what a file says they are
    Apply(Apply),
}

#[derive(Args)]
struct Apply {
    #[command(flatten)]
    common: Common,
    /// The caps: a list `limits` of what the admin API takes, and `prune`
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Say what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Asks the component, which owns the caps and their audit list.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Faults> {
    let Action::Apply(apply) = arguments.action;
    let text = std::fs::read_to_string(&apply.file)
        .map_err(|error| Faults(vec![format!("{} cannot be read: {error}", apply.file.display())]))?;
    let host = Host::prepare(&apply.common.into()).await?;
    let input = json!({ "text": text, "dry_run": apply.dry_run });
    let answer = host.control().call("limits", &input).await;
    host.end().await;
    let answer = answer.map_err(|error| Faults(vec![format!("{}: {error}", apply.file.display())]))?;
    if apply.json {
        print(&answer.to_string());
    } else {
        for line in &described(&answer) {
            print(line);
        }
    }
    Ok(())
}

/// One line for each change, as a diff has them, and what they come to.
fn described(answer: &Value) -> Vec<String> {
    let changes: Vec<&Value> = answer["changes"].as_array().into_iter().flatten().collect();
    let mut lines: Vec<String> = changes.iter().map(|change| line(change)).collect();
    let changed = match changes.len() {
        1 => "1 change".to_owned(),
        count => format!("{count} changes"),
    };
    let dry_run = if answer["dry_run"] == true { ", nothing was written" } else { "" };
    lines.push(format!("{changed}, {} unchanged{dry_run}", answer["unchanged"]));
    lines
}

fn line(change: &Value) -> String {
    let scope = &change["scope"];
    let id = scope["user_id"].as_str().or_else(|| scope["rbac_group_id"].as_str()).map(|id| format!(" {id:?}"));
    let kind = scope["type"].as_str().unwrap_or_default();
    let cap = format!("{kind}{} {}", id.unwrap_or_default(), change["period"].as_str().unwrap_or_default());
    let (before, after) = (amounts(&change["before"]), amounts(&change["after"]));
    match (before, after) {
        (None, after) => format!("+ {cap}: {}", after.unwrap_or_default()),
        (Some(before), None) => format!("- {cap}: {before}"),
        (Some(before), Some(after)) => format!("~ {cap}: {before} -> {after}"),
    }
}

/// A cap in words; nothing for none.
fn amounts(image: &Value) -> Option<String> {
    let cents =
        |amount: &Value| amount.as_str().map_or_else(|| "unlimited".to_owned(), |cents| format!("{cents} cents"));
    let pool = &image["pooled_budget"];
    let own = cents(image.get("amount")?);
    if pool.is_null() {
        return Some(own);
    }
    let paused = if pool["paused"] == true { ", paused" } else { "" };
    Some(format!("{own} (pool {}{paused})", cents(&pool["amount"])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_as_a_diff() {
        let user = json!({"type": "user", "user_id": "ada\n"});
        let answer = json!({"dry_run": true, "unchanged": 4, "changes": [
            {"scope": user, "period": "daily", "before": null, "after": {"amount": "5"}},
            {"scope": {"type": "organization"}, "period": "weekly", "before": {"amount": null}, "after": {"amount": "7"}},
            {
                "scope": {"type": "rbac_group", "rbac_group_id": "eng"}, "period": "monthly",
                "before": {"amount": "1", "pooled_budget": {"amount": "9", "paused": true}}, "after": null,
            },
        ]});
        assert_eq!(
            described(&answer),
            [
                r#"+ user "ada\n" daily: 5 cents"#,
                "~ organization weekly: unlimited -> 7 cents",
                r#"- rbac_group "eng" monthly: 1 cents (pool 9 cents, paused)"#,
                "3 changes, 4 unchanged, nothing was written",
            ]
        );
    }
}
