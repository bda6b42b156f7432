//! The document as a whole: its sections, and the rules that cross them.

use super::decode::{Keys, describe, section};
use super::kind::{list, non_empty_list, one_or_list, switch, text_between};
use super::report::Report;
use super::shape::Shape;
use super::yaml::Node;
use super::{Config, Model, Oidc, Policy, PriceOverride, Pricing, Upstream};
use super::{
    admin, audit, branding, catalog, cri, egress, http, listen, managed, masking, models, observability, oidc, pricing,
    resilience, self_healing, service_identities, session, store, telemetry, upstreams,
};

/// Decodes the whole document. Its `sha256` is not filled in.
pub(super) fn gateway(root: &Node, report: &mut Report<'_>) -> Option<Config> {
    section(sections).read("", root, report)
}

#[expect(clippy::too_many_lines, reason = "a table of sections, one after the other")]
pub(super) fn sections(keys: &mut Keys<'_, '_>) -> Option<Config> {
    let listen = keys.required(
        "listen",
        section(listen::listen),
        "Where clients reach the gateway, and who stands in front of it.",
    );
    let oidc = keys.required(
        "oidc",
        one_or_list(section(oidc::oidc)),
        "The identity provider with which people sign in; or a list of several, each with a `name`. With several, the \
         sign-in page asks for the work e-mail address or offers them by name, and subjects begin with the provider's name \
         and a colon.",
    );
    let oidc = oidc.map(|given| oidc::together(given, keys.report));
    let service_identities = keys.or(
        "service_identities",
        list(section(service_identities::service_identity)),
        "[]",
        "Programs that sign in without a person, such as jobs of GitHub Actions, GitLab or Kubernetes: each exchanges the \
         token that its own issuer gives it for a session token (RFC 8693 at `/oauth/token`), so that no secret is stored \
         anywhere. The first entry that fits a token counts.",
    );
    let session = keys.or("session", section(session::session), "{}", "Session tokens.");
    let store = keys.or("store", section(store::store), "{}", "The SQL database.");
    let upstreams = keys.required(
        "upstreams",
        non_empty_list(section(upstreams::upstream)),
        "Model providers, in the order in which they are tried.",
    );
    let models = keys.or(
        "models",
        list(section(models::model)),
        "[]",
        "Models of your own, and what built-in models are called upstream.",
    );
    let auto_include_builtin_models = keys.or(
        "auto_include_builtin_models",
        switch(),
        "true",
        "Whether the built-in models are served besides `models`.",
    );
    let admin = keys.optional(
        "admin",
        section(admin::admin),
        "Spend limits and the admin API. Without this section nothing is metered or limited; `admin: {}` switches \
         metering on.",
    );
    let audit = keys.or("audit", section(audit::audit), "{}", "The copy of the audit trail in the database.");
    let self_healing = keys.or(
        "self_healing",
        section(self_healing::self_healing),
        "{}",
        "What happens when an upstream refuses a request for a beta or a member of the body that it can do without.",
    );
    let enforcement =
        keys.or("enforcement", section(admin::enforcement), "{}", "What happens when spend cannot be checked.");
    let pricing = keys.optional(
        "pricing",
        section(pricing::pricing),
        "Prices that differ from the list. Used for metering, and pushed to clients with managed settings.",
    );
    let managed = keys.optional(
        "managed",
        section(managed::managed),
        "Settings delivered to clients, by group or e-mail domain.",
    );
    let masking = keys.optional(
        "masking",
        section(masking::masking),
        "Masking of identifiers and secrets on the way to models. Without this section nothing is masked.",
    );
    let telemetry = keys.or("telemetry", section(telemetry::telemetry), "{}", "Relay of the clients' telemetry.");
    let observability = keys.or(
        "observability",
        section(observability::observability),
        "{}",
        "What the gateway tells about itself: metrics and traces.",
    );
    let access_control =
        keys.or("access_control", section(http::access_control), "{}", "Which client addresses are answered.");
    let limits = keys.or("limits", section(http::limits), "{}", "Sizes of requests.");
    let timeouts = keys.or("timeouts", section(http::timeouts), "{}", "Waiting times.");
    let resilience = keys.or(
        "resilience",
        section(resilience::resilience),
        "{}",
        "What happens when upstreams fail, beyond trying the next one.",
    );
    let rate_limits = keys.or("rate_limits", section(http::rate_limits), "{}", "Sign-in attempts per client address.");
    let branding = keys.or(
        "branding",
        section(branding::branding),
        "{}",
        "What the pages for people look like, and where they find help.",
    );
    let login_notice = keys.optional(
        "login_notice",
        text_between(1, 500).map(|notice| notice.lines().collect::<Vec<_>>().join(" ")),
        "Shown on the sign-in page and by clients, 1 to 500 characters.",
    );
    let _ = keys.optional(
        "cri",
        section(cri::cri),
        "Customer-routed inference; not supported. A block that is not enabled is ignored.",
    );
    keys.retired(
        "dev",
        "was removed: there is no development mode with a store in memory; leave `store` out to use SQLite, or set \
         `store.postgres_url` to use PostgreSQL",
    );

    // Rules between sections (auth contract §3.5 to §3.9, inference contract §20), as far as the sections could be read.
    if let (Some(oidc), Some(upstreams)) = (&oidc, &upstreams) {
        egress::agree(oidc, upstreams, keys.report);
    }
    if let Some(upstreams) = &upstreams {
        distinct_names(upstreams, keys.report);
        upstreams::judge_guardrails(upstreams, keys.report);
        resilience::advise(upstreams, keys);
        if let Some(models) = &models {
            known_upstreams(models, upstreams, keys.report);
        }
        if let Some(pricing) = &pricing {
            price_rows(pricing, upstreams, keys.report);
        }
        if let Some(masking) = &masking {
            masked_upstreams(masking.upstreams(), upstreams, keys.report);
        }
    }
    if let Some(identities) = &service_identities {
        service_identities::reachable(identities, keys.report);
    }
    if enforcement.as_ref().is_some_and(|enforcement| enforcement.fail_closed_on_error) && !keys.has("admin") {
        let message = "needs an `admin` section: without one nothing is limited";
        keys.report.fault_at("enforcement.fail_closed_on_error", message);
    }
    if audit.as_ref().is_some_and(|audit| audit.store) && !keys.has("admin") {
        keys.report
            .warn_at("audit.store", "the copy can only be read with SQL: the admin API needs an `admin` section");
    }
    if let (Some(listen), Some(Some(metrics))) = (&listen, observability.as_ref().map(|section| &section.metrics))
        && listen.port != 0
        && metrics.listen.port() == listen.port
    {
        let message = "is the port of the gateway itself; metrics need another one";
        keys.report.fault_at("observability.metrics.listen", message);
    }
    let policies = managed.as_ref().and_then(|managed| managed.policies.as_deref());
    // A faulty `managed` section is given the benefit of the doubt.
    let has_policies =
        policies.is_some_and(|policies| !policies.is_empty()) || managed.is_none() && keys.has("managed");
    if keys.has("pricing") && !keys.has("admin") && !has_policies {
        keys.fault("pricing", "needs an `admin` section or a managed policy: without them it has no effect");
    }
    if let (Some(oidc), Some(policies)) = (&oidc, policies) {
        reachable_domains(policies, oidc, keys.report);
    }
    if let (Some(listen), Some(telemetry)) = (&listen, &telemetry)
        && listen.public_url.is_none()
        && !telemetry.forward_to.is_empty()
    {
        let message = "without `listen.public_url` clients are not told to export; what they send anyway is relayed";
        keys.report.warn_at("telemetry.forward_to", message);
    }

    let config = Config {
        listen: listen?,
        oidc: oidc?,
        service_identities: service_identities?,
        session: session?,
        store: store?,
        upstreams: upstreams?,
        models: models?,
        auto_include_builtin_models: auto_include_builtin_models?,
        admin,
        audit: audit?,
        self_healing: self_healing?,
        enforcement: enforcement?,
        pricing,
        managed,
        masking,
        telemetry: telemetry?,
        observability: observability?,
        access_control: access_control?,
        limits: limits?,
        timeouts: timeouts?,
        resilience: resilience?,
        rate_limits: rate_limits?,
        branding: branding?,
        login_notice,
        sha256: String::new(),
    };
    catalog::advise(&config, keys.report);
    Some(config)
}

/// The names of all sections.
pub(super) fn section_names() -> Vec<&'static str> {
    match describe(sections) {
        Shape::Section(fields) => fields.into_iter().map(|field| field.name).collect(),
        _ => Vec::new(),
    }
}

fn distinct_names(upstreams: &[Upstream], report: &mut Report<'_>) {
    for (index, Upstream { name, .. }) in upstreams.iter().enumerate() {
        if upstreams[..index].iter().any(|earlier| earlier.name == *name) {
            let message = format!("another upstream has the name `{name}` too; give each a `name` of its own");
            report.fault_at(&format!("upstreams[{index}].name"), message);
        }
    }
}

fn known_upstreams(models: &[Model], upstreams: &[Upstream], report: &mut Report<'_>) {
    for (index, model) in models.iter().enumerate() {
        for name in model.upstream_model.keys() {
            if !upstreams.iter().any(|upstream| upstream.name == *name) {
                let path = format!("models[{index}].upstream_model.{name}");
                report.fault_at(&path, not_an_upstream(name, upstreams));
            }
        }
    }
}

fn price_rows(pricing: &Pricing, upstreams: &[Upstream], report: &mut Report<'_>) {
    for (index, row) in pricing.overrides.iter().enumerate() {
        if !upstreams.iter().any(|upstream| upstream.name == row.upstream) {
            let path = format!("pricing.overrides[{index}].upstream");
            report.fault_at(&path, not_an_upstream(&row.upstream, upstreams));
        }
        let is_same =
            |earlier: &PriceOverride| earlier.upstream == row.upstream && catalog::is_same(&earlier.model, &row.model);
        if pricing.overrides[..index].iter().any(is_same) {
            let message = "an earlier row has a price for the same model on the same upstream";
            report.fault_at(&format!("pricing.overrides[{index}].model"), message);
        }
    }
}

fn masked_upstreams(masked: &[String], upstreams: &[Upstream], report: &mut Report<'_>) {
    let open = upstreams.iter().filter(|upstream| !masked.is_empty() && !masked.contains(&upstream.name));
    let open: Vec<_> = open.map(|upstream| format!("`{}`", upstream.name)).collect();
    if !open.is_empty() {
        let message = format!(
            "requests to {} are not masked, also when they go there because another upstream failed or is left alone",
            open.join(", ")
        );
        report.warn_at("masking.upstreams", message);
    }
    for (index, name) in masked.iter().enumerate() {
        if !upstreams.iter().any(|upstream| upstream.name == *name) {
            report.fault_at(&format!("masking.upstreams[{index}]"), not_an_upstream(name, upstreams));
        }
    }
}

/// Policies for domains whose people cannot sign in.
fn reachable_domains(policies: &[Policy], providers: &[Oidc], report: &mut Report<'_>) {
    if providers.iter().any(|provider| provider.allowed_email_domains.is_empty()) {
        return;
    }
    let allowed: Vec<_> = providers.iter().flat_map(|provider| &provider.allowed_email_domains).collect();
    for (index, policy) in policies.iter().enumerate() {
        if let Some(domain) = &policy.email_domain
            && !allowed.contains(&domain)
        {
            let path = format!("managed.policies[{index}].match.email_domain");
            report
                .warn_at(&path, format!("matches nobody: `oidc.allowed_email_domains` does not let {domain} sign in"));
        }
    }
}

fn not_an_upstream(name: &str, upstreams: &[Upstream]) -> String {
    let names = || upstreams.iter().map(|upstream| upstream.name.as_str());
    let hint = super::report::did_you_mean(name, names());
    format!("`{name}` is not the name of an upstream; there is {}{hint}", names().collect::<Vec<_>>().join(", "))
}
