//! Section `service_identities`: programs that sign in with the token of an issuer they already have (RFC 8693).

use super::address::outbound_url;
use super::decode::Keys;
use super::kind::{Kind, formed, list, map, non_empty, one_or_many, whole};
use super::report::Report;
use super::{ClaimPath, ServiceIdentity};

use std::time::Duration;

/// Issuers whose tokens everybody in the world can get, and the claims of which one must say whose job it is.
const SHARED_ISSUERS: [(&str, &[&str]); 2] = [
    (
        "token.actions.githubusercontent.com",
        &["repository", "repository_id", "repository_owner", "repository_owner_id", "job_workflow_ref", "sub"],
    ),
    ("gitlab.com", &["project_path", "project_id", "namespace_path", "namespace_id", "ci_config_ref_uri", "sub"]),
];

pub(super) fn service_identity(keys: &mut Keys<'_, '_>) -> Option<ServiceIdentity> {
    let name = keys.required(
        "name",
        name(),
        "Who the program is from then on: its sessions have the subject `service:<name>`, for spend limits and the audit \
         trail. Letters, digits, `.`, `_` and `-`.",
    );
    let issuer = keys.required(
        "issuer",
        outbound_url(),
        "Issuer of the tokens that are accepted, exactly as their claim `iss` has it, for example \
         `https://token.actions.githubusercontent.com`. Its discovery document is looked up below it.",
    );
    let discovery_url = keys.optional(
        "discovery_url",
        outbound_url().such_that(|url| url.path().contains("/.well-known/"), "the path must contain /.well-known/"),
        "Where the discovery document is, if not at `<issuer>/.well-known/openid-configuration`.",
    );
    let audience = keys.required(
        "audience",
        non_empty(),
        "Value that the claim `aud` must have or contain. Jobs ask their issuer for a token with this audience; the \
         gateway's public URL is a good choice.",
    );
    let claims = keys.required(
        "claims",
        map(claim_name, one_or_many(non_empty())).check(conditions),
        "Conditions on the token's claims, all of which must hold, for example `repository: acme/*` and `ref: \
         refs/heads/main`. In a value, `*` stands for any characters, also none; of a list of values, one must fit. A \
         claim is a key, or a JSON pointer (RFC 6901) when it begins with `/`. At least one condition must be more than \
         `*`.",
    );
    let groups =
        keys.or("groups", list(non_empty()), "[]", "Groups of the program, for policies, upstreams and spend limits.");
    let ttl = keys.or(
        "ttl_minutes",
        whole(1, 60).map(|minutes: u64| Duration::from_mins(minutes)),
        "60",
        "Life of the session tokens it gets, at most an hour; never longer than `session.ttl_hours`. There is no refresh.",
    );
    let clock_skew = keys.or(
        "clock_skew_seconds",
        whole(0, 300).map(Duration::from_secs),
        "0",
        "Tolerance on `exp` and `nbf` of its tokens, in seconds.",
    );
    if let (Some(issuer), Some(claims)) = (&issuer, &claims)
        && let Some((_, owners)) =
            SHARED_ISSUERS.iter().find(|(host, _)| issuer.host_str().is_some_and(|issuer| issuer == *host))
        && !claims.iter().any(|(ClaimPath(claim), patterns)| {
            owners.contains(&claim.as_str()) && patterns.iter().all(|pattern| !pattern.starts_with('*'))
        })
    {
        keys.fault(
            "claims",
            format!(
                "everybody can get a token of this issuer: one of {} must say whose it is, not beginning with `*`",
                owners.join(", ")
            ),
        );
    }
    Some(ServiceIdentity {
        name: name?,
        issuer: issuer?,
        discovery_url,
        audience: audience?,
        claims: claims?,
        groups: groups?,
        ttl: ttl?,
        clock_skew: clock_skew?,
    })
}

/// Entries that share a name would share spend limits and look alike in the audit trail, which is allowed: one program
/// may come from two issuers. But a later entry that can never be reached is a mistake.
pub(super) fn reachable(identities: &[ServiceIdentity], report: &mut Report<'_>) {
    for (index, identity) in identities.iter().enumerate() {
        let is_same = |earlier: &ServiceIdentity| {
            earlier.issuer == identity.issuer
                && earlier.audience == identity.audience
                && earlier.claims == identity.claims
        };
        if identities[..index].iter().any(is_same) {
            let message = "an earlier entry accepts the same tokens, and the first that fits counts";
            report.fault_at(&format!("service_identities[{index}].claims"), message);
        }
    }
}

fn name() -> Kind<String> {
    formed("a name").such_that(
        |name| name.len() <= 64 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)),
        "must be 1 to 64 letters, digits, dots, underscores and hyphens",
    )
}

fn claim_name(name: &str) -> Result<(), String> {
    if name.is_empty() { Err("a claim must have a name".to_owned()) } else { Ok(()) }
}

fn conditions(given: Vec<(String, Vec<String>)>) -> Result<Vec<(ClaimPath, Vec<String>)>, String> {
    let says_something = |pattern: &String| pattern.bytes().any(|byte| byte != b'*');
    if !given.iter().any(|(_, patterns)| patterns.iter().all(says_something)) {
        return Err("would accept every token of the issuer: at least one condition must be more than `*`".to_owned());
    }
    Ok(given.into_iter().map(|(claim, patterns)| (ClaimPath(claim), patterns)).collect())
}
