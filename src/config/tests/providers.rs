//! One identity provider, or a list of several.

use super::*;

fn listed(entries: &str) -> String {
    format!("oidc: [{entries}]")
}

const CORP: &str = "{ name: corp, issuer: https://a.example.com, client_id: a, client_secret: a";
const OTHER: &str = "{ name: other, issuer: https://b.example.com, client_id: b, client_secret: b";

#[test]
fn a_list_of_providers_loads() {
    let config = load(&listed(&format!(
        "{CORP}, match: {{ email_domain: '@Corp.example' }}, keep_subjects: true }}, {OTHER}, label: Partners, groups_prefix: 'p/' }}"
    )))
    .config;
    let [corp, other] = &config.oidc[..] else { panic!("two") };
    assert_eq!((corp.name.as_deref(), &corp.email_domains[..]), (Some("corp"), &["corp.example".to_owned()][..]));
    assert!(corp.keep_subjects && !other.keep_subjects);
    assert_eq!((other.label.as_deref(), other.groups_prefix.as_str()), (Some("Partners"), "p/"));
    let called = destinations(&config);
    assert!(called.contains("https://a.example.com") && called.contains("https://b.example.com"));
}

#[test]
fn what_would_mix_people_up_is_refused() {
    for (entries, said) in [
        (String::new(), "1:7: oidc: must have at least one entry"),
        (
            "{ issuer: https://a.example.com, client_id: a, client_secret: a }".to_owned(),
            "1:8: oidc[0]: the key `name` is missing; every provider of a list needs one",
        ),
        (format!("{CORP} }}, {CORP} }}"), "oidc[1].name: another provider has the name `corp` too"),
        (format!("{CORP}, colour: red }}"), "oidc[0].colour: unknown key"),
        (format!("{CORP}, name: Corp }}"), "oidc[0].name: must be 1 to 32 lower-case letters"),
        (format!("{CORP}, name: 'a:b' }}"), "oidc[0].name: must be 1 to 32 lower-case letters"),
        (format!("{CORP}, name: service }}"), "oidc[0].name: `service` is what"),
        (
            format!(
                "{CORP}, match: {{ email_domain: [x.example] }} }}, {OTHER}, match: {{ email_domain: x.example }} }}"
            ),
            "oidc[1].match.email_domain: another provider signs in x.example too",
        ),
        (format!("{CORP}, match: {{ email_domain: 'a@b@c' }} }}"), "is not an e-mail domain such as example.com"),
        (format!("{CORP}, match: {{ email_domain: ' ' }} }}"), "has only blank entries"),
        (format!("{CORP}, match: {{}} }}"), "the key `email_domain` is missing"),
        (
            format!("{CORP}, keep_subjects: true }}, {OTHER}, keep_subjects: true }}"),
            "oidc[1].keep_subjects: another provider keeps its subjects too",
        ),
        (format!("{CORP} }}, {{ name: x }}"), "oidc[1]: the key `issuer` is missing"),
    ] {
        let found = faults(&listed(&entries));
        assert!(found.contains(said), "{entries}: {found}");
    }
}

#[test]
fn what_only_several_need_is_a_warning_with_one() {
    let text = "oidc: { issuer: https://a.example.com, client_id: a, client_secret: a, label: A, match: { email_domain: a.example } }";
    let warnings: Vec<_> = load(text).warnings.iter().map(|warning| warning.path.clone()).collect();
    assert_eq!(warnings, ["oidc.label", "oidc.match"]);
}

#[test]
fn policies_are_reachable_through_any_provider() {
    let policy = "managed: { policies: [{ match: { email_domain: b.example }, cli: {} }] }";
    let allowed = |a: &str, b: &str| {
        let text =
            listed(&format!("{CORP}, allowed_email_domains: [{a}] }}, {OTHER}, allowed_email_domains: [{b}] }}"));
        load(&format!("{text}\n{policy}")).warnings.len()
    };
    assert_eq!(
        (allowed("a.example", "b.example"), allowed("a.example", "c.example"), allowed("a.example", "")),
        (0, 1, 0)
    );
}

#[test]
fn authorities_of_several_providers_become_files_of_their_own() {
    let text = completed(&listed(&format!(
        "{CORP}, ca_cert_pem: '${{file:/etc/ca.pem}}' }}, {OTHER}, ca_cert_pem: \"-----BEGIN CERTIFICATE-----\" }}"
    )));
    let config = parse(&text, &sources(false)).expect("valid").config;
    let SpinFiles { runtime_config, .. } = render_spin("gateway.yaml", &text, &config);
    for line in [
        "hosts = [\"a.example.com\"]",
        "ca_roots_file = \"/etc/ca.pem\"",
        "hosts = [\"b.example.com\"]",
        "ca_roots_file = \"oidc-ca-other.pem\"",
    ] {
        assert!(runtime_config.lines().any(|found| found == line), "{line} in {runtime_config}");
    }
}
