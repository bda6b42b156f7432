//! Section `managed` (auth contract §3.8). What a policy means is in `domain::policy`; here it is read and judged.

use super::decode::{Keys, section};
use super::kind::{Kind, choice, document, formed, list, non_empty, non_empty_list, switch};
use super::settings::{self, Unknown};
use super::{Json, Managed, Policy, PolicyMode, gateway};

pub(super) fn managed(keys: &mut Keys<'_, '_>) -> Option<Managed> {
    // First, because it decides how the policies are judged.
    let unknown = keys.or(
        "unknown_keys",
        choice(&[("refuse", Unknown::Refuse), ("warn", Unknown::Warn)]),
        "refuse",
        "What happens to settings that this gateway does not know: `refuse` them, because a misspelt restriction \
         restricts nothing; or `warn` and deliver them, for settings newer than the gateway.",
    );
    keys.report.unknown_settings = unknown.unwrap_or(Unknown::Refuse);
    let policies = keys.optional(
        "policies",
        list(section(policy)),
        "Policies in order. The first whose `match` holds is merged onto the catch-all (a policy without `match`).",
    );
    let policy_mode = keys.or(
        "policy_mode",
        choice(&[("first_match", PolicyMode::FirstMatch), ("layered", PolicyMode::Layered)]),
        "first_match",
        "`first_match`: the first match counts. `layered`: all matches up to the first catch-all count, earlier ones \
         more than later ones.",
    );
    let file = keys.optional(
        "settings",
        non_empty(),
        "Path of a JSON settings document that everyone gets. Ignored when `policies` is present.",
    );

    let policies = match (policies, file) {
        (Some(policies), _) => {
            warn_about(&policies, policy_mode?, keys);
            Some(policies)
        }
        (None, Some(path)) if !keys.has("policies") => Some(vec![from_file(&path, keys)?]),
        (None, _) => None,
    };
    if keys.has("policies") && keys.has("settings") {
        keys.warn("settings", "is ignored, because `policies` is there");
    }
    Some(Managed { policies, policy_mode: policy_mode? })
}

/// The catch-all that `managed.settings` stands for. Unlike the reference, a file that does not exist is a fault: a
/// policy that silently restricts nothing is worse than a gateway that does not start.
fn from_file(path: &str, keys: &mut Keys<'_, '_>) -> Option<Policy> {
    let content = keys.report.sources.files.read(path).map_err(|why| format!("cannot read {path}: {why}"));
    let document = content.and_then(|content| {
        let content = content.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&content);
        serde_json::from_slice::<Json>(content).map_err(|why| format!("{path} is not a JSON object: {why}"))
    });
    match document {
        Ok(document) => {
            let at = keys.path_of("settings");
            settings::check(&document, &at, keys.report.unknown_settings, keys.report);
            keys.report.means(&at, crate::domain::checksum::canonical(&document));
            Some(Policy {
                groups: None,
                email_domain: None,
                settings: Some(document),
                is_code: false,
                desktop: None,
                serve_to_desktop: false,
            })
        }
        Err(message) => {
            keys.fault("settings", message);
            None
        }
    }
}

fn policy(keys: &mut Keys<'_, '_>) -> Option<Policy> {
    let condition = keys.or(
        "match",
        section(condition),
        "{}",
        "Whom the policy is for. Without it, or empty: everyone (a catch-all), which is also the base of the others.",
    );
    let code = keys.optional(
        "code",
        document(),
        "Claude Code settings, also for Claude Code inside Claude Desktop. Either all policies have `code`, or none.",
    );
    let cli = keys.optional("cli", document(), "Claude Code settings for the command line.");
    let alias = keys.optional("settings", document(), "Older name of `cli`; when both are there, `cli` counts.");
    let desktop = keys.optional("desktop", document(), "Claude Desktop settings; switches `/user/bootstrap` on.");
    let serve_to_desktop = keys.or(
        "serve_to_desktop",
        switch(),
        "false",
        "Whether `cli` is also served to Claude Code inside Claude Desktop. `code` always is.",
    );

    let unknown = keys.report.unknown_settings;
    for (name, document) in [("code", &code), ("cli", &cli), ("settings", &alias)] {
        if let Some(document) = document {
            let at = keys.path_of(name);
            settings::check(document, &at, unknown, keys.report);
        }
    }
    if let Some(desktop) = &desktop {
        let at = keys.path_of("desktop");
        settings::check_desktop(desktop, &at, &gateway::section_names(), keys.report);
    }
    let (is_code, is_cli) = (keys.has("code"), keys.has("cli") || keys.has("settings"));
    if is_code && is_cli {
        keys.fault("code", "a policy has `code` or `cli`, not both");
    }
    if is_code && keys.has("serve_to_desktop") && serve_to_desktop == Some(false) {
        keys.warn("serve_to_desktop", "has no effect: `code` is always served to Claude Desktop sessions");
    }
    let (groups, email_domain) = condition?;
    Some(Policy {
        groups,
        email_domain,
        settings: code.or(cli).or(alias),
        is_code,
        desktop,
        serve_to_desktop: serve_to_desktop?,
    })
}

/// Groups and e-mail domain of one `match`.
type Condition = (Option<Vec<String>>, Option<String>);

#[expect(clippy::unnecessary_wraps, reason = "it is one of several sections")]
fn condition(keys: &mut Keys<'_, '_>) -> Option<Condition> {
    let groups =
        keys.optional("groups", non_empty_list(non_empty()), "At least one of these groups; compared exactly.");
    let email_domain = keys.optional("email_domain", email_domain(), "Domain of the e-mail address.");
    Some((groups, email_domain))
}

fn email_domain() -> Kind<String> {
    formed("a domain such as example.com").check(|text| {
        let domain = text.strip_prefix('@').unwrap_or(&text);
        let is_forbidden = |character: char| character.is_whitespace() || matches!(character, '@' | ',');
        if domain.is_empty() || domain.contains(is_forbidden) {
            return Err("expected one domain such as example.com".to_owned());
        }
        Ok(domain.to_lowercase())
    })
}

/// Faults and warnings about policies as a list.
fn warn_about(policies: &[Policy], mode: PolicyMode, keys: &mut Keys<'_, '_>) {
    let at = |index: usize, keys: &Keys<'_, '_>| format!("{}[{index}]", keys.path_of("policies"));
    let has_cli = |policy: &Policy| policy.settings.is_some() && !policy.is_code;
    if policies.iter().any(|policy| policy.is_code)
        && let Some(index) = policies.iter().position(has_cli)
    {
        let path = at(index, keys);
        keys.report
            .fault_at(&path, "has `cli`, but another policy has `code`: either all policies have `code`, or none");
    }
    for (index, policy) in policies.iter().enumerate() {
        let shadows = |earlier: &Policy| match mode {
            PolicyMode::FirstMatch => covers(earlier, policy),
            PolicyMode::Layered => is_catch_all(earlier),
        };
        if let Some(earlier) = policies[..index].iter().position(shadows) {
            let path = at(index, keys);
            keys.report
                .warn_at(&path, format!("never counts: policy {earlier} above already matches everyone it matches"));
        }
    }
}

fn is_catch_all(policy: &Policy) -> bool {
    policy.groups.is_none() && policy.email_domain.is_none()
}

/// Whether everyone whom `later` matches is matched by `earlier`.
fn covers(earlier: &Policy, later: &Policy) -> bool {
    let groups = match (&earlier.groups, &later.groups) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(later)) => later.iter().all(|group| earlier.contains(group)),
    };
    groups && (earlier.email_domain.is_none() || earlier.email_domain == later.email_domain)
}
