//! What an operator chooses: kinds, exceptions and patterns of their own.

use sallyport::mask::{CustomPattern, Settings};

use crate::{mask, masker, restore};

const TEXT: &str = "i-0a1b2c3d4e5f60718 vol-0a1b2c3d4e5f60718 at 10.20.30.40 is arn:aws:iam::123456789012:role/deployer, \
                    see s3://acme-payments and PRJ-123456";

fn masked(settings: &Settings) -> String {
    let (masked, shown) = mask(&masker(settings), TEXT);
    assert_eq!(restore(&masked, &shown), TEXT);
    shown
}

/// Which of the identifiers in [`TEXT`] are still in `shown`.
fn kept(shown: &str) -> Vec<&'static str> {
    let all = [
        "i-0a1b2c3d4e5f60718",
        "vol-0a1b2c3d4e5f60718",
        "10.20.30.40",
        "123456789012",
        "deployer",
        "acme-payments",
        "PRJ-123456",
    ];
    all.into_iter().filter(|value| shown.contains(value)).collect()
}

#[test]
fn families_single_kinds_and_nothing_may_be_chosen() {
    for (kinds, left) in [
        (&["aws", "private_ip", "secrets"][..], &["PRJ-123456"][..]),
        (&["aws"], &["10.20.30.40", "PRJ-123456"]),
        (
            &["private_ip"],
            &[
                "i-0a1b2c3d4e5f60718",
                "vol-0a1b2c3d4e5f60718",
                "123456789012",
                "deployer",
                "acme-payments",
                "PRJ-123456",
            ],
        ),
        (
            &["aws.ec2_instance", "aws.account_id"],
            &["vol-0a1b2c3d4e5f60718", "10.20.30.40", "deployer", "acme-payments", "PRJ-123456"],
        ),
    ] {
        let settings = Settings { kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(), ..Settings::default() };
        assert_eq!(kept(&masked(&settings)), left, "{kinds:?}");
    }
}

#[test]
fn what_is_allowed_stays_as_a_value_a_range_or_a_part_of_an_allowed_name() {
    for (allow, left) in [
        ("i-0a1b2c3d4e5f60718", "i-0a1b2c3d4e5f60718"),
        ("vol-*", "vol-0a1b2c3d4e5f60718"),
        ("10.20.0.0/16", "10.20.30.40"),
        ("10.20.30.40", "10.20.30.40"),
        ("123456789012", "123456789012"),
        ("acme-*", "acme-payments"),
        ("deployer", "deployer"),
        ("PRJ-123456", "PRJ-123456"),
    ] {
        let custom = vec![CustomPattern { name: "project".to_owned(), pattern: "PRJ-[0-9]{6}".to_owned() }];
        let settings = Settings { allow: vec![allow.to_owned()], custom, ..Settings::default() };
        assert_eq!(kept(&masked(&settings)), [left], "{allow}");
    }
    let settings = Settings { allow: vec!["arn:aws:iam::*:role/deployer".to_owned()], ..Settings::default() };
    assert_eq!(kept(&masked(&settings)), ["123456789012", "deployer", "PRJ-123456"], "all of the name");
    let settings = Settings { allow: vec!["10.21.0.0/16".to_owned()], ..Settings::default() };
    assert_eq!(kept(&masked(&settings)), ["PRJ-123456"]);
}

#[test]
fn patterns_of_the_operators_own_are_masked_whatever_the_kinds_and_restored() {
    let custom = vec![CustomPattern { name: "project".to_owned(), pattern: "PRJ-[0-9]{6}".to_owned() }];
    let settings = Settings { kinds: Vec::new(), custom, ..Settings::default() };
    let (masked, shown) = mask(&masker(&settings), "PRJ-123456, PRJ-123457 and PRJ-12345");
    assert!(
        shown.ends_with(" and PRJ-12345") && !shown.contains("PRJ-12345,") && !shown.contains("PRJ-123456"),
        "{shown}"
    );
    assert_eq!(masked.receipt.masked.get("custom.project"), Some(&2));
    assert!(regex::Regex::new("^PRJ-[0-9]{6}, PRJ-[0-9]{6} and").unwrap().is_match(&shown), "the same shape: {shown}");
    assert_eq!(restore(&masked, &shown), "PRJ-123456, PRJ-123457 and PRJ-12345");
}
