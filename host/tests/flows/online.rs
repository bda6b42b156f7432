//! `check --online` says what a first user would run into, and what exactly it tried.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Site, UPSTREAM_KEY, Upstream, binary, discovery, free_port};

/// The exit code and the answer of `check --online --json` at `site`, with this credential for its upstreams.
fn check(site: &Site, upstream_key: &str) -> (Option<i32>, Value) {
    fs::write(site.file("gateway.yaml"), site.yaml()).expect("a file");
    let output = Command::new(binary())
        .args(["check", "--online", "--json"])
        .current_dir(site.file(""))
        .env_clear()
        .env("CLAUDE_GATEWAY_ALLOW_LOOPBACK", "1")
        .env("CLIENT_SECRET", "client-secret-for-tests-only")
        .env("SESSION_SECRET", "session-secret-for-tests-only-0123456789")
        .env("UPSTREAM_KEY", upstream_key)
        .output()
        .expect("a run");
    let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let progress = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(progress.contains("… GET "), "{progress}");
    assert!(!format!("{said}{progress}").contains(upstream_key), "the credential is shown");
    (output.status.code(), said)
}

/// The keys of attempts that failed.
fn failed(said: &Value) -> Vec<&str> {
    let attempts = said["online"].as_array().expect("a list").iter();
    attempts.filter(|attempt| attempt["ok"] == false).filter_map(|attempt| attempt["key"].as_str()).collect()
}

fn keyed_upstream() -> Upstream {
    Upstream::start(|exchange| {
        let status = if exchange.seen.header("x-api-key") == UPSTREAM_KEY { 200 } else { 401 };
        exchange.answer(status, &[], &json!({"data": []}));
    })
}

#[test]
fn everything_that_answers_is_tried_and_nothing_stands_in_the_way() {
    let upstream = keyed_upstream();
    let mut site = Site::for_inference(&discovery(), &upstream);
    let collector = Upstream::start(|exchange| exchange.answer(405, &[], &json!({})));
    site.more = format!("telemetry:\n  forward_to: [{{ url: \"http://{}\" }}]\n", collector.address);

    let (code, said) = check(&site, UPSTREAM_KEY);

    assert_eq!((code, &said["ok"]), (Some(0), &json!(true)), "{said}");
    let keys: Vec<_> = said["online"].as_array().expect("a list").iter().map(|attempt| &attempt["key"]).collect();
    let issuer = "oidc.issuer";
    assert_eq!(keys, [issuer, issuer, issuer, "store", "upstreams[0] (upstream-0)", "telemetry.forward_to[0]"]);
    assert_eq!(upstream.seen().len(), 1, "one cheap request");
    assert!(said["first_user"].to_string().contains("/oauth/callback"), "{said}");
    assert!(!site.state().join("sqlite.db").exists(), "a check writes nothing");
}

#[test]
fn what_answers_at_an_upstreams_address_and_is_none_is_told_apart() {
    for (status, body, works, said_of_it) in [
        (200, "{}", true, "the credential is accepted"),
        (404, "{}", true, "this says nothing about the credential"),
        (200, "<html>Welcome</html>", false, "what comes is not JSON"),
        (302, "", false, "no redirections are followed"),
        (503, "{}", false, "it does not work at the moment"),
    ] {
        let upstream = Upstream::start(move |exchange| exchange.answer_bytes(status, &[], body.as_bytes()));
        let site = Site::for_inference(&discovery(), &upstream);
        let (code, said) = check(&site, UPSTREAM_KEY);
        assert_eq!((code == Some(0), failed(&said).is_empty()), (works, works), "{status} {body}: {said}");
        assert!(said["online"].to_string().contains(said_of_it), "{said}");
    }
}

#[test]
fn a_credential_that_is_refused_and_a_provider_that_is_away_are_named() {
    let mut site = Site::for_inference(&discovery(), &keyed_upstream());
    let (code, said) = check(&site, "another-key-for-tests-only");
    assert_eq!((code, failed(&said)), (Some(1), vec!["upstreams[0] (upstream-0)"]), "{said}");
    assert!(said["online"].to_string().contains("the credential is refused"), "{said}");

    site.issuer = format!("http://127.0.0.1:{}", free_port());
    let (code, said) = check(&site, UPSTREAM_KEY);
    assert_eq!((code, failed(&said)), (Some(1), vec!["oidc.issuer"]), "{said}");
    assert!(said["first_user"].to_string().contains("does not start"), "{said}");
}
