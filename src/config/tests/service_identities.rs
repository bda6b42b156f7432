//! Programs that sign in: which entries are accepted, and what they make the gateway call.

use super::*;

const ENTRY: &str =
    "name: ci, issuer: 'https://ci.example.com/x', audience: gateway, claims: { repository: 'acme/*', ref: [a, 'b*'] }";

#[test]
fn an_entry_loads_with_the_documented_defaults() {
    let config = load(&format!("service_identities: [{{ {ENTRY} }}]")).config;
    let [identity] = &config.service_identities[..] else { panic!("one") };
    assert_eq!((identity.name.as_str(), identity.issuer.as_str()), ("ci", "https://ci.example.com/x"));
    assert_eq!(identity.audience, "gateway");
    let claim = |name: &str, patterns: &[&str]| {
        (ClaimPath(name.to_owned()), patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(identity.claims, [claim("repository", &["acme/*"]), claim("ref", &["a", "b*"])]);
    assert_eq!((identity.ttl, identity.clock_skew), (Duration::from_hours(1), Duration::ZERO));
    assert!(identity.groups.is_empty() && identity.discovery_url.is_none());
}

#[test]
fn faulty_entries_are_refused_with_what_to_write_instead() {
    let entry = |changed: &str| {
        faults(&format!(
            "service_identities: [{{ name: ci, issuer: 'https://ci.example.com', audience: x, claims: {{ a: b }}, {changed} }}]"
        ))
    };
    for (changed, said) in [
        ("ttl_minutes: 61", "ttl_minutes: must be at most 60"),
        ("ttl_minutes: 0", "ttl_minutes: must be at least 1"),
        ("discovery_url: 'https://ci.example.com/x'", "the path must contain /.well-known/"),
        ("discovery_url: 'http://169.254.169.254/.well-known/x'", "discovery_url: 169.254.169.254"),
        ("clock_skew_seconds: 301", "must be at most 300"),
        ("secret: x", "secret: unknown key"),
        ("groups: ['']", "groups[0]: must not be empty"),
    ] {
        assert!(entry(changed).contains(said), "{changed}: {}", entry(changed));
    }
    let entry = |claims: &str| {
        faults(&format!(
            "service_identities: [{{ name: ci, issuer: 'https://ci.example.com', audience: x, claims: {claims} }}]"
        ))
    };
    for (claims, said) in [
        ("{}", "would accept every token"),
        ("{ sub: '*' }", "would accept every token"),
        ("{ sub: ['**', a] }", "would accept every token"),
        ("{ '': a }", "a claim must have a name"),
        ("{ sub: 5 }", "put it in quotes"),
        ("{ sub: [] }", "must have at least one entry"),
        ("{ sub: '' }", "must not be empty"),
        ("{ sub: '*', ref: main }", "accepted"),
        ("{ /kubernetes.io/namespace: build }", "accepted"),
    ] {
        assert!(entry(claims).contains(said), "{claims}: {}", entry(claims));
    }
    for (name, said) in [("'a b'", "must be 1 to 64 letters"), ("a.b_c-D9", "accepted"), ("''", "must not be empty")] {
        let text = format!(
            "service_identities: [{{ name: {name}, issuer: 'https://ci.example.com', audience: x, claims: {{ a: b }} }}]"
        );
        assert!(faults(&text).contains(said), "{name}: {}", faults(&text));
    }
    assert!(faults("service_identities: [{}]").contains("the key `claims` is missing"));
}

#[test]
fn with_an_issuer_for_everybody_a_condition_must_say_whose_job_it_is() {
    for (issuer, claims, is_accepted) in [
        ("https://token.actions.githubusercontent.com", "{ ref: refs/heads/main }", false),
        ("https://token.actions.githubusercontent.com", "{ repository: '*/app' }", false),
        ("https://token.actions.githubusercontent.com", "{ repository: [acme/app, '*'] }", false),
        ("https://token.actions.githubusercontent.com", "{ repository: 'acme/*' }", true),
        ("https://token.actions.githubusercontent.com", "{ sub: 'repo:acme/*' }", true),
        ("https://gitlab.com", "{ ref: main }", false),
        ("https://gitlab.com", "{ namespace_path: acme }", true),
        ("https://gitlab.example.com", "{ ref: main }", true),
    ] {
        let said =
            faults(&format!("service_identities: [{{ name: ci, issuer: '{issuer}', audience: x, claims: {claims} }}]"));
        assert_eq!(said == "accepted", is_accepted, "{issuer} {claims}: {said}");
    }
}

#[test]
fn an_entry_behind_its_equal_is_never_reached() {
    let said = faults(&format!("service_identities: [{{ {ENTRY} }}, {{ {ENTRY}, groups: [x] }}]"));
    assert!(said.contains("service_identities[1].claims: an earlier entry accepts the same tokens"), "{said}");
}

#[test]
fn issuers_may_be_called_and_nothing_else_may() {
    let text = format!(
        "service_identities: [{{ {ENTRY}, discovery_url: 'https://k8s.example.com:6443/.well-known/openid-configuration' }}]"
    );
    let called = destinations(&load(&text).config).into_iter().collect::<Vec<_>>();
    let expected = [
        "https://api.anthropic.com",
        "https://ci.example.com",
        "https://idp.example.com",
        "https://k8s.example.com:6443",
    ];
    assert_eq!(called, expected);
    let SpinFiles { manifest, .. } = render_spin("gateway.yaml", &completed(&text), &load(&text).config);
    for origin in expected {
        assert!(manifest.contains(&format!("\"{origin}\"")), "{origin} in {manifest}");
    }
}
