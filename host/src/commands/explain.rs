//! `sallyport explain`: what a configuration means for one person: policy, settings, models, upstreams, caps. What there
//! is to say is found out in `sallyport::explanation`; here it is asked for and printed.

use std::cell::Cell;

use clap::Args;
use sallyport::config::Json;
use sallyport::domain::policy::Policies;
use sallyport::domain::spend::limit::Scope;
use sallyport::explanation::{
    Budget, Cap, Caps, Explanation, GroupsFrom, Person, Question, Spending, Way, look_up, word,
};
use sallyport::store::Store;
use sallyport::upstream::catalog::Catalog;

use super::{Common, Faults, print};
use crate::console;
use crate::own_store::OwnStore;
use crate::settings::Settings;

/// Arguments of `explain`.
#[derive(Args)]
#[command(
    after_help = "The configured store is read for caps and for what the person's last request said, if it is there; \
                  nothing is created or written.\nSecrets that the configuration mentions need not be there.\nA running \
                  gateway answers the same at GET /v1/organizations/explain.\nExit codes: 0 explained, whatever the \
                  answer; 1 the configuration has faults; 2 misused."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// The person's e-mail address, as the identity provider tells it
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// The person's groups, with commas between them; without it, those of their last request
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    groups: Option<Vec<String>>,
    /// The session's `sub`, under which caps of a single person are kept; without it, that of the last request with the
    /// e-mail address
    #[arg(long, value_name = "SUB")]
    user_id: Option<String>,
    /// Also say where a request for this model would go
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Explains.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Faults> {
    let Arguments { common, email, groups, user_id, model, json } = arguments;
    let settings = Settings::read_leniently(&common.config)?;
    let question = Question { email, groups, user_id, model };
    let (person, spending) = match ask_the_store(&settings, &common, &question).await {
        Ok((person, spending)) => (person, spending),
        Err(Faults(reasons)) => (Person::of(&question), Spending::Unknown(reasons.join("; "))),
    };
    let config = &settings.config;
    let (policies, catalog) = (Policies::new(config), Catalog::of(config));
    let explanation = Explanation::of(config, &policies, &catalog, person, question.model.as_deref(), spending);
    if json {
        print(&explanation.to_json().to_string());
    } else {
        print(&text(&explanation));
    }
    Ok(())
}

async fn ask_the_store(
    settings: &Settings,
    common: &Common,
    question: &Question,
) -> Result<(Person, Spending), Faults> {
    let db = OwnStore::of(settings, common)?.open_for_reading().await?;
    // Nothing is migrated here.
    let is_migrated = Cell::new(true);
    let at = console::now();
    let (person, standing) = look_up(Store::new(&db, &is_migrated), question, at).await.map_err(anyhow::Error::from)?;
    Ok((person, Spending::Known { standing, at }))
}

fn text(explanation: &Explanation) -> String {
    let mut lines = vec![about(&explanation.person)];
    if let Some(refusal) = &explanation.refusal {
        lines.push(format!("Sign-in: refused: {refusal}"));
    }
    lines.push("\nPolicies:".to_owned());
    if explanation.policies.is_empty() {
        lines.push("  none are configured: nothing is restricted, no settings are delivered".to_owned());
    }
    for policy in &explanation.policies {
        lines.push(format!("  {}: {}: {}", policy.index, word(policy.outcome), policy.reason));
    }
    if !explanation.policies.is_empty() && explanation.contributors.is_empty() {
        lines.push("  none matches: no model is restricted, no settings are delivered".to_owned());
    }
    if let Some(effective) = &explanation.effective {
        lines.push(format!("\nSettings ({}):", effective.checksum));
        lines.push(pretty(&effective.settings));
        if let Some(desktop) = &effective.desktop {
            lines.push("\nClaude Desktop:".to_owned());
            lines.push(pretty(desktop));
        }
    }
    models(explanation, &mut lines);
    lines.push("\nUpstreams, in the order in which they are tried:".to_owned());
    lines.extend(explanation.upstreams.iter().enumerate().map(|(index, way)| line_of(index, way, explanation)));
    if explanation.upstreams.iter().any(|way| way.weight.is_some()) {
        lines.push("  (neighbours with a weight share conversations in its proportion)".to_owned());
    }
    route(explanation, &mut lines);
    lines.push("\nCaps:".to_owned());
    caps(&explanation.caps, &explanation.person, &mut lines);
    lines.join("\n")
}

fn about(person: &Person) -> String {
    let email = person.email.as_deref().unwrap_or("somebody without an e-mail address");
    let user_id = person.user_id.as_ref().map(|id| format!(" (sub {id})")).unwrap_or_default();
    let source = if person.groups_from == GroupsFrom::LastSeen { ", as of their last request" } else { "" };
    match person.groups.as_slice() {
        [] => format!("{email}{user_id}, in no group{source}"),
        groups => format!("{email}{user_id}, in {}{source}", groups.join(", ")),
    }
}

fn models(explanation: &Explanation, lines: &mut Vec<String>) {
    lines.push("\nModels:".to_owned());
    if explanation.models.is_empty() {
        lines.push("  none".to_owned());
    }
    let width = explanation.models.iter().map(|model| model.id.chars().count()).max().unwrap_or_default();
    lines.extend(explanation.models.iter().map(|model| format!("  {:width$}  {}", model.id, model.source())));
    if explanation.models.iter().any(|model| model.configured.is_none()) {
        lines.push(
            "  (built in: from the gateway's own list; `auto_include_builtin_models: false` leaves it out)".to_owned(),
        );
    }
}

fn line_of(index: usize, way: &Way, explanation: &Explanation) -> String {
    let name = format!("  {}. {} ({}{})", index + 1, way.upstream, way.provider, weight(way.weight));
    match &way.serves {
        Err(reason) => format!("{name}: not for this person: {reason}"),
        Ok(models) if models.is_empty() => format!("{name}: none of these models"),
        Ok(models) if models.len() == explanation.models.len() => format!("{name}: all of these models"),
        Ok(models) => format!("{name}: {}", models.join(", ")),
    }
}

fn weight(weight: Option<u32>) -> String {
    weight.map(|weight| format!(", weight {weight}")).unwrap_or_default()
}

fn route(explanation: &Explanation, lines: &mut Vec<String>) {
    let Some(route) = &explanation.route else { return };
    lines.push(format!("\nA request for {}:", route.model));
    if let Some(denied) = &route.denied {
        lines.push(format!("  refused: {denied}"));
    }
    let mut turn = 0;
    for stop in &route.stops {
        lines.push(match &stop.outcome {
            Ok(model) => {
                turn += 1;
                format!("  {turn}. {} ({}{}) as {model}", stop.upstream, stop.provider, weight(stop.weight))
            }
            Err(reason) => format!("  -  {} ({}): {reason}", stop.upstream, stop.provider),
        });
    }
    if turn == 0 {
        lines.push("  refused: no upstream takes it".to_owned());
    }
}

fn caps(caps: &Caps, person: &Person, lines: &mut Vec<String>) {
    match caps {
        Caps::NotMetered => lines.push("  none: without an `admin` section nothing is metered or limited".to_owned()),
        Caps::Unknown(reason) => lines.push(format!("  unknown: {reason}")),
        Caps::Known { periods, pools, is_blocked } => {
            lines.extend(periods.iter().map(cap));
            lines.extend(pools.iter().map(budget));
            if *is_blocked {
                lines.push("  a request would be refused now".to_owned());
            }
            if person.user_id.is_none() {
                lines.push(
                    "  (without caps of this person alone: nobody was seen with this address; say --user-id)"
                        .to_owned(),
                );
            }
        }
    }
}

fn cap(cap: &Cap) -> String {
    let name = cap.period.name();
    let spent = dollars(cap.spent.whole_cents());
    let Some((scope, id)) = &cap.source else { return format!("  {name}: no cap; {spent} spent") };
    let whose = match scope {
        Scope::Organization => "the organization's".to_owned(),
        Scope::Group(group) => format!("the group {group}'s"),
        Scope::User(_) => "their own".to_owned(),
    };
    match cap.amount {
        None => format!("  {name}: unlimited, {whose} cap {id}; {spent} spent"),
        Some(amount) => format!(
            "  {name}: {} ({whose} cap {id}), {spent} spent, starts again {}",
            dollars(amount),
            cap.resets.to_rfc3339()
        ),
    }
}

fn budget(budget: &Budget) -> String {
    let state = match (budget.is_paused, budget.pays) {
        (true, _) => ", paused",
        (false, true) => ", pays the next request",
        (false, false) => "",
    };
    let (amount, spent) = (dollars(budget.amount), dollars(budget.spent.whole_cents()));
    format!("  shared by the group {}: {amount} a month, {spent} spent{state}", budget.group)
}

/// Cents as dollars.
fn dollars(cents: i64) -> String {
    format!("${}.{:02}", cents / 100, cents % 100)
}

fn pretty(document: &Json) -> String {
    serde_json::to_string_pretty(document).unwrap_or_default()
}
