//! [`Explanation`]: what the configuration means for one person, computed in one place for `sallyport explain` and for
//! `GET /v1/organizations/explain`: which policies count and why, the merged settings, the models, where requests for
//! them go, and the caps.
//!
//! Nothing is decided here. It asks those who decide about requests: `domain::policy`, `upstream::catalog`,
//! `domain::spend`, `domain::identity`.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::config::{Admin, Config, Json, Oidc, Upstream};
use crate::domain::identity::Claims;
use crate::domain::ids::Timestamp;
use crate::domain::money::Money;
use crate::domain::policy::{self, Effective, Outcome, Policies};
use crate::domain::providers::{self, Choice};
use crate::domain::spend::calendar::Period;
use crate::domain::spend::limit::{Scope, cents, effective};
use crate::domain::spend::verdict::{Standing, Verdict, verdict};
use crate::store::{Caller, Store, StoreError};
use crate::upstream::catalog::{self, Catalog};

/// Whom and what to explain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// E-mail address, as the identity provider tells it.
    pub email: Option<String>,
    /// Groups; `None` takes those of the person's last request.
    pub groups: Option<Vec<String>>,
    /// The session's `sub`; `None` takes that of the last request with this address.
    pub user_id: Option<String>,
    /// A model that somebody asks for.
    pub model: Option<String>,
}

/// Who it is, after a look into the store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Person {
    /// E-mail address.
    pub email: Option<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Where the groups are from.
    pub groups_from: GroupsFrom,
    /// The session's `sub`, if it is known: caps of a single person are kept under it.
    pub user_id: Option<String>,
}

/// Where the groups of a [`Person`] are from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GroupsFrom {
    /// The question.
    Question,
    /// The person's last request.
    LastSeen,
    /// Nobody said any.
    #[default]
    Nowhere,
}

impl GroupsFrom {
    /// As JSON has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Question => "question",
            Self::LastSeen => "last_seen",
            Self::Nowhere => "nowhere",
        }
    }
}

/// What is known about somebody's spending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spending {
    /// The store was asked.
    Known {
        /// Caps and sums.
        standing: Standing,
        /// When.
        at: Timestamp,
    },
    /// The store was not asked, and why.
    Unknown(String),
}

/// What the store knows of the person in question.
pub async fn look_up(store: Store<'_>, question: &Question, at: Timestamp) -> Result<(Person, Standing), StoreError> {
    let mut person = Person::of(question);
    let seen = match (&question.user_id, &question.email) {
        (Some(user_id), _) => store.last_seen_as(user_id).await?,
        (None, Some(email)) => store.last_seen_with(email).await?,
        (None, None) => None,
    };
    if let Some(seen) = seen {
        if person.groups_from == GroupsFrom::Nowhere {
            person.groups = seen.groups;
            person.groups_from = GroupsFrom::LastSeen;
        }
        let known = |text: String| if text.is_empty() { None } else { Some(text) };
        person.email = person.email.or_else(|| known(seen.email));
        person.user_id = Some(seen.principal);
    }
    let caller = Caller { subject: person.user_id.as_deref().unwrap_or_default(), groups: &person.groups };
    let standing = store.standing(caller, at).await?;
    Ok((person, standing))
}

impl Person {
    /// As far as the question itself says.
    pub fn of(question: &Question) -> Self {
        Self {
            email: question.email.clone(),
            groups: question.groups.clone().unwrap_or_default(),
            groups_from: if question.groups.is_some() { GroupsFrom::Question } else { GroupsFrom::Nowhere },
            user_id: question.user_id.clone(),
        }
    }
}

/// Everything there is to say about one person.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// Whom it is about.
    pub person: Person,
    /// Why they cannot sign in; `None` also when that cannot be told from here.
    pub refusal: Option<String>,
    /// All policies, in list order.
    pub policies: Vec<policy::Explanation>,
    /// Policies that are merged, in list order.
    pub contributors: Vec<usize>,
    /// What they merge to; `None` if none holds.
    pub effective: Option<Rc<Effective>>,
    /// The models that `/v1/models` lists for them.
    pub models: Vec<Offer>,
    /// The upstreams, in the order in which they are tried.
    pub upstreams: Vec<Way>,
    /// What becomes of a request for the model in question.
    pub route: Option<Route>,
    /// What they may spend.
    pub caps: Caps,
}

/// One model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// What clients ask for.
    pub id: String,
    /// Its place in `models`; `None` for one of the built-in catalog.
    pub configured: Option<usize>,
}

/// One upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Name.
    pub upstream: String,
    /// Provider.
    pub provider: &'static str,
    /// Its share among neighbours that have a weight as well.
    pub weight: Option<u32>,
    /// Which of the person's models it serves, or why it is not there for them.
    pub serves: Result<Vec<String>, String>,
}

/// Where a request for a model would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What was asked for.
    pub model: String,
    /// Why the policy does not let it through.
    pub denied: Option<String>,
    /// The upstreams, in the order in which they are tried.
    pub stops: Vec<Stop>,
}

/// One upstream on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stop {
    /// Name.
    pub upstream: String,
    /// Provider.
    pub provider: &'static str,
    /// Its share among neighbours that have a weight as well.
    pub weight: Option<u32>,
    /// What the upstream gets as the model, or why it is not tried.
    pub outcome: Result<String, String>,
}

/// What somebody may spend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caps {
    /// There is no section `admin`: nothing is metered or limited.
    NotMetered,
    /// The store did not say.
    Unknown(String),
    /// What it said.
    Known {
        /// One for each period, in the order of [`Period::ALL`].
        periods: Vec<Cap>,
        /// The shared budgets of the person's groups.
        pools: Vec<Budget>,
        /// Whether a request would be refused now.
        is_blocked: bool,
    },
}

/// What counts over one period.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cap {
    /// Which.
    pub period: Period,
    /// Whose cap counts, and its id; `None` if there is none.
    pub source: Option<(Scope, String)>,
    /// Cents; `None` is unlimited.
    pub amount: Option<i64>,
    /// Spent.
    pub spent: Money,
    /// When it starts again.
    pub resets: Timestamp,
}

/// A budget that the members of a group share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// The group.
    pub group: String,
    /// Cents a month.
    pub amount: i64,
    /// Whether it neither blocks nor counts.
    pub is_paused: bool,
    /// Spent by all members together.
    pub spent: Money,
    /// Whether the next request is charged to it.
    pub pays: bool,
}

impl Explanation {
    /// Explains `config`, from which `policies` and `catalog` are made.
    pub fn of(
        config: &Config,
        policies: &Policies,
        catalog: &Catalog,
        person: Person,
        model: Option<&str>,
        spending: Spending,
    ) -> Self {
        let caller = policy::Caller { groups: &person.groups, email: person.email.as_deref() };
        let selection = policies.select(caller);
        let effective = selection.as_ref().map(|selection| policies.effective_of(selection));
        let denied = |model: &str| denied(effective.as_deref(), model);
        let listed = catalog.list(&config.upstreams, &person.groups, |model| denied(model).is_none());
        let place = |id: &str| config.models.iter().position(|model| model.id == id);
        let models: Vec<Offer> =
            listed.data.into_iter().map(|model| Offer { configured: place(&model.id), id: model.id }).collect();
        let ways = config.upstreams.iter().map(|upstream| way(upstream, catalog, &person.groups, &models)).collect();
        let route = model.map(|model| Route {
            model: model.to_owned(),
            denied: denied(model),
            stops: config.upstreams.iter().map(|upstream| stop(upstream, catalog, &person.groups, model)).collect(),
        });
        Self {
            refusal: refusal(config, &person),
            policies: policies.explain(caller),
            contributors: selection.map(|selection| selection.contributors).unwrap_or_default(),
            effective,
            models,
            upstreams: ways,
            route,
            caps: config.admin.as_ref().map_or(Caps::NotMetered, |admin| caps(admin, spending)),
            person,
        }
    }

    /// As the endpoint and `--json` say it. Amounts are cents, as elsewhere in the admin API.
    pub fn to_json(&self) -> Value {
        let policies: Vec<_> = self
            .policies
            .iter()
            .map(|policy| json!({ "index": policy.index, "outcome": word(policy.outcome), "reason": policy.reason }))
            .collect();
        let effective = self.effective.as_ref();
        json!({
            "email": self.person.email,
            "groups": self.person.groups,
            "groups_from": self.person.groups_from.name(),
            "user_id": self.person.user_id,
            "sign_in_refused": self.refusal,
            "policies": policies,
            "merged": self.contributors,
            "settings": effective.map(|effective| &effective.settings),
            "checksum": effective.map(|effective| &effective.checksum),
            "desktop": effective.and_then(|effective| effective.desktop.as_ref()),
            "models": self.models.iter().map(Offer::to_json).collect::<Vec<_>>(),
            "upstreams": self.upstreams.iter().map(Way::to_json).collect::<Vec<_>>(),
            "model": self.route.as_ref().map(Route::to_json),
            "caps": self.caps.to_json(),
        })
    }
}

impl Offer {
    /// Where it is configured.
    pub fn source(&self) -> String {
        self.configured.map_or_else(|| "built in".to_owned(), |index| format!("models[{index}]"))
    }

    fn to_json(&self) -> Value {
        json!({ "id": self.id, "source": self.source() })
    }
}

impl Way {
    fn to_json(&self) -> Value {
        json!({
            "upstream": self.upstream, "provider": self.provider, "weight": self.weight,
            "models": self.serves.as_ref().map_or(&[][..], Vec::as_slice), "reason": self.serves.as_ref().err(),
        })
    }
}

impl Route {
    fn to_json(&self) -> Value {
        let stop = |stop: &Stop| {
            json!({
                "upstream": stop.upstream, "provider": stop.provider, "weight": stop.weight,
                "model": stop.outcome.as_ref().ok(), "reason": stop.outcome.as_ref().err(),
            })
        };
        json!({
            "requested": self.model, "denied": self.denied,
            "upstreams": self.stops.iter().map(stop).collect::<Vec<_>>(),
        })
    }
}

impl Caps {
    fn to_json(&self) -> Value {
        match self {
            Self::NotMetered => json!({ "status": "not_metered" }),
            Self::Unknown(reason) => json!({ "status": "unknown", "reason": reason }),
            Self::Known { periods, pools, is_blocked } => json!({
                "status": "known",
                "is_blocked": is_blocked,
                "periods": periods.iter().map(Cap::to_json).collect::<Vec<_>>(),
                "pools": pools.iter().map(Budget::to_json).collect::<Vec<_>>(),
            }),
        }
    }
}

impl Cap {
    fn to_json(&self) -> Value {
        let (scope, id) = self.source.as_ref().map(|(scope, id)| (scope.to_json(), id)).unzip();
        json!({
            "period": self.period.name(), "amount": cents(self.amount), "currency": "USD", "source": scope,
            "spend_limit_id": id, "period_to_date_spend": self.spent.cents(), "resets_at": self.resets,
        })
    }
}

impl Budget {
    fn to_json(&self) -> Value {
        json!({
            "rbac_group_id": self.group, "amount": self.amount.to_string(), "currency": "USD",
            "paused": self.is_paused, "period_to_date_spend": self.spent.cents(), "pays": self.pays,
        })
    }
}

/// What becomes of a policy, in one or two words.
pub const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Selected => "matches",
        Outcome::Contributes => "merged below",
        Outcome::Shadowed => "shadowed",
        Outcome::DoesNotMatch => "does not match",
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

fn only_for(upstream: &Upstream) -> String {
    format!("only for the groups {}", upstream.groups.as_deref().unwrap_or_default().join(", "))
}

fn way(upstream: &Upstream, catalog: &Catalog, groups: &[String], models: &[Offer]) -> Way {
    let serves = if catalog::may_use(upstream, groups) {
        let served = models.iter().filter(|model| catalog.resolve(&model.id, upstream).is_ok());
        Ok(served.map(|model| model.id.clone()).collect())
    } else {
        Err(only_for(upstream))
    };
    Way { upstream: upstream.name.clone(), provider: upstream.provider.name(), weight: upstream.weight, serves }
}

fn stop(upstream: &Upstream, catalog: &Catalog, groups: &[String], model: &str) -> Stop {
    let outcome = if catalog::may_use(upstream, groups) {
        catalog.resolve(model, upstream).map_err(|reason| reason.to_string())
    } else {
        Err(only_for(upstream))
    };
    Stop { upstream: upstream.name.clone(), provider: upstream.provider.name(), weight: upstream.weight, outcome }
}

fn caps(admin: &Admin, spending: Spending) -> Caps {
    let (standing, at) = match spending {
        Spending::Known { standing, at } => (standing, at),
        Spending::Unknown(reason) => return Caps::Unknown(reason),
    };
    let cap = |(period, spent): (Period, Money)| {
        let limit = effective(&standing.limits, period, admin.group_limit_mode);
        Cap {
            period,
            source: limit.map(|limit| (limit.scope.clone(), limit.id.clone())),
            amount: limit.and_then(|limit| limit.amount),
            spent,
            resets: period.end(at),
        }
    };
    let (is_blocked, payer) = match verdict(&standing, admin.group_limit_mode, at) {
        Verdict::Allowed { pool, .. } => (false, pool),
        Verdict::Blocked { .. } => (true, None),
    };
    let spent_by = |group: &str| standing.pools.iter().find(|(name, _)| name == group).map(|(_, spent)| *spent);
    let budget = |limit: &crate::domain::spend::limit::Limit| {
        let amount = limit.pool.amount.filter(|_| limit.may_have_pool())?;
        let group = limit.scope.id().to_owned();
        let spent = spent_by(&group).unwrap_or(Money::ZERO);
        Some(Budget { amount, is_paused: limit.pool.is_paused, spent, pays: payer.as_ref() == Some(&group), group })
    };
    Caps::Known {
        periods: Period::ALL.into_iter().zip(standing.spent).map(cap).collect(),
        pools: standing.limits.iter().filter_map(budget).collect(),
        is_blocked,
    }
}

/// Whether the identity provider's word would let the person sign in, told with the claims that the configuration reads.
/// Claims below other claims cannot be made up here.
fn refusal(config: &Config, person: &Person) -> Option<String> {
    let email = person.email.as_ref()?;
    if let Choice::Made(oidc) = providers::choose(&config.oidc, None, Some(email)) {
        return refusal_of(config, oidc, email, person);
    }
    // Nobody has this domain for their own: any of those that are offered by name may let the person in.
    let refusals = providers::offered(&config.oidc).map(|provider| refusal_of(config, provider, email, person));
    let refusals: Option<Vec<_>> = refusals.collect();
    let none = || "no identity provider signs in this domain".to_owned();
    refusals.map(|refusals| refusals.into_iter().next().unwrap_or_else(none))
}

/// The same, of one provider.
fn refusal_of(config: &Config, oidc: &Oidc, email: &str, person: &Person) -> Option<String> {
    let names = [&oidc.email_claim.first()?.0, &oidc.groups_claim.0, &oidc.user_id_claim.0];
    if names.iter().any(|name| name.starts_with('/')) {
        return None;
    }
    let mut claims = Json::new();
    claims.insert("sub".to_owned(), json!("explained"));
    claims.insert(names[2].clone(), json!("explained"));
    claims.insert(names[1].clone(), json!(person.groups));
    claims.insert(names[0].clone(), json!(email));
    claims.insert("email_verified".to_owned(), json!(true));
    let identity = Claims::of_id_token(claims).identity(oidc);
    let identity = identity.and_then(|identity| providers::keep_apart(&config.oidc, oidc, identity));
    identity.err().map(|refusal| refusal.to_string())
}
