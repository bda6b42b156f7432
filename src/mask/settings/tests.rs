//! What is refused at the start, and where.

use super::{CustomPattern, Settings, fits, literal_prefix};

fn custom(pattern: &str) -> Settings {
    let custom = vec![CustomPattern { name: "code".to_owned(), pattern: pattern.to_owned() }];
    Settings { custom, ..Settings::default() }
}

#[test]
fn a_pattern_that_cannot_work_is_refused_with_its_place() {
    for (pattern, complaint) in [
        ("PRJ-(", "does not compile"),
        ("(?=x)abcd", "does not compile"),
        ("[0-9]*", "matches the empty string"),
        (r"\b", "matches the empty string"),
        ("[0-9]{3}", "at least 4"),
        ("(?:[0-9]{1000}){1000}x", "too costly"),
        (r"\w{500}", "too costly"),
    ] {
        let faults = custom(pattern).compile().unwrap_err();
        assert_eq!(faults.len(), 1, "{pattern}");
        assert_eq!(faults[0].0, "custom[0].pattern");
        assert!(faults[0].1.contains(complaint), "{pattern}: {}", faults[0].1);
    }
    assert!(custom("PRJ-[0-9]{6}").compile().is_ok());
}

#[test]
fn every_fault_is_reported() {
    let mut settings = custom("x*");
    settings.custom[0].name = "Not a name".to_owned();
    settings.kinds = vec!["aws".to_owned(), "aws.ec2_instnce".to_owned()];
    settings.allow = vec!["*".to_owned(), String::new(), "10.0.0.0/8".to_owned()];
    settings.max_body_bytes = 0;
    let paths: Vec<_> = settings.compile().unwrap_err().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["kinds[1]", "custom[0].name", "custom[0].pattern", "allow[0]", "allow[1]", "max_body_bytes"]);
}

#[test]
fn upstreams_and_groups_decide_for_whom_requests_are_masked() {
    let settings = Settings {
        upstreams: vec!["anthropic".to_owned()],
        skip_groups: vec!["platform-trusted".to_owned()],
        ..Settings::default()
    };
    let rules = settings.compile().unwrap();
    assert!(rules.apply_to("anthropic", ["developers"].into_iter()));
    assert!(!rules.apply_to("bedrock", ["developers"].into_iter()));
    assert!(!rules.apply_to("anthropic", ["developers", "platform-trusted"].into_iter()));
}

#[test]
fn allowed_values_may_have_wildcards_and_ranges() {
    for (pattern, value, fit) in [
        ("arn:aws:iam::aws:policy/*", "arn:aws:iam::aws:policy/ReadOnlyAccess", true),
        ("arn:aws:iam::aws:policy/*", "arn:aws:iam::123456789012:policy/x", false),
        ("i-00000000000000000", "i-00000000000000000", true),
        ("i-00000000000000000", "i-000000000000000001", false),
        ("*-public-*", "acme-public-assets", true),
        ("a*a", "a", false),
    ] {
        let pieces: Vec<_> = pattern.split('*').map(str::to_owned).collect();
        assert_eq!(fits(&pieces, value.as_bytes()), fit, "{pattern} {value}");
    }
    let rules = Settings { allow: vec!["10.0.0.0/32".to_owned(), "192.168.0.0/16".to_owned()], ..Settings::default() };
    let rules = rules.compile().unwrap();
    let allows = |address: &str, bits| rules.allows_address(address.parse().unwrap(), bits);
    assert!(allows("10.0.0.0", None));
    assert!(!allows("10.0.0.0", Some(16)));
    assert!(!allows("10.0.0.1", None));
    assert!(allows("192.168.3.4", None));
}

#[test]
fn what_all_matches_begin_with_is_known() {
    for (pattern, length) in [
        ("PRJ-[0-9]{6}", 4),
        (r"\bPRJ-[0-9]{6}\b", 4),
        ("(PRJ-)[0-9]{6}", 0),
        ("[A-Z]{3}-x", 0),
        ("(?i)prj-1", 0),
        ("ab\"cd[0-9]", 2),
    ] {
        assert_eq!(literal_prefix(&regex_syntax::parse(pattern).unwrap()), length, "{pattern}");
    }
}
