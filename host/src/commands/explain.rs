//! `sallyport explain`: what a configuration means for one person: policy, settings, models, upstreams.

use std::path::PathBuf;

use clap::Args;
use sallyport::config::{Config, Json, Oidc};
use sallyport::domain::identity::Claims;
use sallyport::domain::policy::{Caller, Effective, Explanation, Outcome, Policies};
use sallyport::domain::providers::{self, Choice};
use sallyport::upstream::catalog::{self, Catalog};
use serde_json::{Value, json};

use super::{Faults, print};
use crate::settings::Settings;

/// Arguments of `explain`.
#[derive(Args)]
#[command(after_help = "Nothing is connected to, and secrets that the configuration mentions need not be there.\n\
                        Exit codes: 0 explained, whatever the answer; 1 the configuration has faults; 2 misused.")]
pub(crate) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "FILE", default_value = "gateway.yaml")]
    config: PathBuf,
    /// The person's e-mail address, as the identity provider tells it
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// The person's groups, with commas between them
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    groups: Vec<String>,
    /// Also say where a request for this model would go
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Explains.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Faults> {
    let config = Settings::read_leniently(&arguments.config)?.config;
    let answer = Answer::of(&config, arguments);
    if arguments.json {
        print(&answer.json().to_string());
    } else {
        print(answer.text().trim_end());
    }
    Ok(())
}

/// Everything there is to say about one person.
struct Answer<'a> {
    arguments: &'a Arguments,
    /// Why they cannot sign in; `None` also when that cannot be told from here.
    refusal: Option<String>,
    policies: Vec<Explanation>,
    effective: Option<std::rc::Rc<Effective>>,
    /// Policies that are merged, in list order.
    contributors: Vec<usize>,
    models: Vec<String>,
    route: Option<Route>,
}

/// Where a request for a model would go.
struct Route {
    model: String,
    /// Why the policy does not let it through.
    denied: Option<String>,
    upstreams: Vec<Stop>,
}

struct Stop {
    upstream: String,
    provider: &'static str,
    /// What the upstream gets as the model, or why it is not tried.
    outcome: Result<String, String>,
}

impl<'a> Answer<'a> {
    fn of(config: &Config, arguments: &'a Arguments) -> Self {
        let caller = Caller { groups: &arguments.groups, email: arguments.email.as_deref() };
        let policies = Policies::new(config);
        let catalog = Catalog::of(config);
        let selection = policies.select(caller);
        let effective = selection.as_ref().map(|selection| policies.effective_of(selection));
        let denied = |model: &str| denied(effective.as_deref(), model);
        let list = catalog.list(&config.upstreams, &arguments.groups, |model| denied(model).is_none());
        let route = arguments.model.as_ref().map(|model| Route {
            model: model.clone(),
            denied: denied(model),
            upstreams: stops(config, &catalog, &arguments.groups, model),
        });
        Self {
            arguments,
            refusal: refusal(config, arguments),
            policies: policies.explain(caller),
            contributors: selection.map(|selection| selection.contributors).unwrap_or_default(),
            effective,
            models: list.data.into_iter().map(|model| model.id).collect(),
            route,
        }
    }

    fn settings(&self) -> Json {
        self.effective.as_ref().map(|effective| effective.settings.clone()).unwrap_or_default()
    }

    fn json(&self) -> Value {
        let policies: Vec<_> = self
            .policies
            .iter()
            .map(|policy| json!({ "index": policy.index, "outcome": word(policy.outcome), "reason": policy.reason }))
            .collect();
        let stop = |stop: &Stop| {
            let (model, reason) = match &stop.outcome {
                Ok(model) => (Some(model), None),
                Err(reason) => (None, Some(reason)),
            };
            json!({ "upstream": stop.upstream, "provider": stop.provider, "model": model, "reason": reason })
        };
        json!({
            "email": self.arguments.email,
            "groups": self.arguments.groups,
            "sign_in_refused": self.refusal,
            "policies": policies,
            "merged": self.contributors,
            "settings": self.effective.as_ref().map(|effective| &effective.settings),
            "checksum": self.effective.as_ref().map(|effective| &effective.checksum),
            "desktop": self.effective.as_ref().and_then(|effective| effective.desktop.as_ref()),
            "models": self.models,
            "model": self.route.as_ref().map(|route| json!({
                "requested": route.model,
                "denied": route.denied,
                "upstreams": route.upstreams.iter().map(stop).collect::<Vec<_>>(),
            })),
        })
    }

    fn text(&self) -> String {
        let mut lines = Vec::new();
        let email = self.arguments.email.as_deref().unwrap_or("without an e-mail address");
        lines.push(match self.arguments.groups.as_slice() {
            [] => format!("{email}, in no group"),
            groups => format!("{email}, in {}", groups.join(", ")),
        });
        if let Some(refusal) = &self.refusal {
            lines.push(format!("Sign-in: refused: {refusal}"));
        }
        lines.push("\nPolicies:".to_owned());
        if self.policies.is_empty() {
            lines.push("  none are configured: nothing is restricted, no settings are delivered".to_owned());
        }
        for policy in &self.policies {
            lines.push(format!("  {}: {}: {}", policy.index, word(policy.outcome), policy.reason));
        }
        if !self.policies.is_empty() && self.contributors.is_empty() {
            lines.push("  none matches: no model is restricted, no settings are delivered".to_owned());
        }
        if let Some(effective) = &self.effective {
            lines.push(format!("\nSettings ({}):", effective.checksum));
            lines.push(pretty(&self.settings()));
            if let Some(desktop) = &effective.desktop {
                lines.push("\nClaude Desktop:".to_owned());
                lines.push(pretty(desktop));
            }
        }
        lines.push("\nModels:".to_owned());
        match self.models.as_slice() {
            [] => lines.push("  none".to_owned()),
            models => lines.extend(models.iter().map(|model| format!("  {model}"))),
        }
        if let Some(route) = &self.route {
            lines.push(format!("\nA request for {}:", route.model));
            if let Some(denied) = &route.denied {
                lines.push(format!("  refused: {denied}"));
            }
            let mut turn = 0;
            for stop in &route.upstreams {
                lines.push(match &stop.outcome {
                    Ok(model) => {
                        turn += 1;
                        format!("  {turn}. {} ({}) as {model}", stop.upstream, stop.provider)
                    }
                    Err(reason) => format!("  -  {} ({}): {reason}", stop.upstream, stop.provider),
                });
            }
            if turn == 0 {
                lines.push("  refused: no upstream takes it".to_owned());
            }
        }
        lines.join("\n")
    }
}

/// Why the policy does not let `model` through, as `/v1/messages` decides it.
fn denied(effective: Option<&Effective>, model: &str) -> Option<String> {
    let effective = effective?;
    if effective.available_models().is_some_and(|models| !catalog::allows(&models, model)) {
        return Some("it is not in the policy's `availableModels`".to_owned());
    }
    catalog::allows(&effective.denied_models(), model).then(|| "it is in the policy's `deniedModels`".to_owned())
}

fn stops(config: &Config, catalog: &Catalog, groups: &[String], model: &str) -> Vec<Stop> {
    let stop = |upstream: &sallyport::config::Upstream| {
        let outcome = if catalog::may_use(upstream, groups) {
            catalog.resolve(model, upstream).map_err(|reason| reason.to_string())
        } else {
            let required = upstream.groups.as_deref().unwrap_or_default().join(", ");
            Err(format!("only for the groups {required}"))
        };
        Stop { upstream: upstream.name.clone(), provider: upstream.provider.name(), outcome }
    };
    config.upstreams.iter().map(stop).collect()
}

/// Whether the identity provider's word would let the person sign in, told with the claims that the configuration reads.
/// Claims below other claims cannot be made up here.
fn refusal(config: &Config, arguments: &Arguments) -> Option<String> {
    let email = arguments.email.as_ref()?;
    let Choice::Made(oidc) = providers::choose(&config.oidc, None, Some(email)) else {
        // Nobody has this domain for their own: any of those that are offered by name may let the person in.
        let refusals: Vec<_> =
            providers::offered(&config.oidc).map(|provider| refusal_of(config, provider, email, arguments)).collect();
        return match refusals.iter().all(Option::is_some) {
            true => Some(
                refusals.into_iter().flatten().next().unwrap_or("no identity provider signs in this domain".to_owned()),
            ),
            false => None,
        };
    };
    refusal_of(config, oidc, email, arguments)
}

/// The same, of one provider.
fn refusal_of(config: &Config, oidc: &Oidc, email: &str, arguments: &Arguments) -> Option<String> {
    let names = [&oidc.email_claim.first()?.0, &oidc.groups_claim.0, &oidc.user_id_claim.0];
    if names.iter().any(|name| name.starts_with('/')) {
        return None;
    }
    let mut claims = Json::new();
    claims.insert("sub".to_owned(), json!("explained"));
    claims.insert(names[2].clone(), json!("explained"));
    claims.insert(names[1].clone(), json!(arguments.groups));
    claims.insert(names[0].clone(), json!(email));
    claims.insert("email_verified".to_owned(), json!(true));
    let identity = Claims::of_id_token(claims).identity(oidc);
    let identity = identity.and_then(|identity| providers::keep_apart(&config.oidc, oidc, identity));
    identity.err().map(|refusal| refusal.to_string())
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Selected => "matches",
        Outcome::Contributes => "merged below",
        Outcome::Shadowed => "shadowed",
        Outcome::DoesNotMatch => "does not match",
    }
}

fn pretty(document: &Json) -> String {
    serde_json::to_string_pretty(document).unwrap_or_default()
}
