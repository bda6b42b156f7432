//! A gateway that cannot work does not start, and says why.

use std::fs;
use std::process::Command;

use crate::support::{Site, Upstream, discovery, free_port};

#[test]
fn every_fault_of_a_configuration_is_listed_with_its_place() {
    let site = Site::new();
    let yaml = "listen:\n  host: 127.0.0.1\n  prot: 8080\n  public_url: not a url\noidc:\n  issuer: https://login.example.com\n  \
                client_id: 12345\n  client_secret: x\n  scopes: [email]\nupstreams:\n  - provider: anthropic\n    \
                auth:\n      api_key: x\n  - provider: nobody\nlimits:\n  max_request_bytes: many\nunheard_of: true\n";

    let said = site.refusal_of(yaml);

    for (line, path) in [
        (3, "prot"),
        (4, "listen.public_url"),
        (7, "oidc.client_id"),
        (9, "oidc.scopes"),
        (14, "upstreams[1]"),
        (16, "limits.max_request_bytes"),
        (17, "unheard_of"),
    ] {
        let place = format!("gateway.yaml:{line}:");
        let found = said.lines().any(|said| said.contains(&place) && said.contains(path));
        assert!(found, "line {line} ({path}) is not reported:\n{said}");
    }
}

#[test]
fn malformed_yaml_is_reported_with_its_line() {
    let site = Site::new();
    for (yaml, line) in [
        ("listen:\n  host: [127.0.0.1\noidc: {}\n", "gateway.yaml:"),
        ("listen:\n  host: 127.0.0.1\n  }: 1\n", "gateway.yaml:3:"),
        ("listen:\n  host: 127.0.0.1\n\tport: 1\n", "gateway.yaml:"),
        ("listen: {}\n---\nlisten: {}\n", "gateway.yaml"),
        ("", "empty"),
    ] {
        let said = site.refusal_of(yaml);
        assert!(said.contains(line), "{yaml:?}: {said}");
        assert!(!said.contains("panicked"), "{yaml:?}: {said}");
    }
}

#[test]
fn an_undefined_variable_is_named() {
    let site = Site::for_inference(&discovery(), &Upstream::claude());

    let said = site.refusal_of(&site.yaml().replace("${CLIENT_SECRET}", "${NO_SUCH_VARIABLE}"));

    assert!(said.contains("NO_SUCH_VARIABLE"), "{said}");
}

#[test]
fn check_reports_what_serve_would() {
    let site = Site::for_inference(&discovery(), &Upstream::claude());
    let check = |yaml: &str| {
        fs::write(site.file("checked.yaml"), yaml).expect("a file");
        let mut command = Command::new(crate::support::binary());
        command.args(["check", "--config"]).arg(site.file("checked.yaml")).current_dir(site.file(""));
        for name in ["CLIENT_SECRET", "SESSION_SECRET", "UPSTREAM_KEY"] {
            command.env(name, "a placeholder that is long enough to pass");
        }
        let output = command.env("CLAUDE_GATEWAY_ALLOW_LOOPBACK", "1").output().expect("a run");
        (output.status.success(), format!("{output:?}"))
    };

    let (passes, said) = check(&site.yaml());
    assert!(passes, "{said}");
    let (passes, said) = check(&format!("{}unheard_of: 1\nlimits: 5\n", site.yaml()));
    assert!(!passes, "{said}");
    assert!(said.contains("unheard_of") && said.contains("limits"), "{said}");
}

#[test]
fn an_identity_provider_that_cannot_be_reached_stops_the_start() {
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    site.issuer = format!("http://127.0.0.1:{}", free_port());

    let said = site.refusal();

    assert_one_clear_line(&said, &site.issuer);
}

#[test]
fn a_database_that_cannot_be_reached_stops_the_start() {
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    let address = format!("127.0.0.1:{}", free_port());
    site.postgres_url = Some(format!("postgres://sallyport:{}@{address}/postgres", crate::support::PASSWORD));

    let said = site.refusal();

    assert_one_clear_line(&said, &address);
}

#[test]
fn a_port_in_use_stops_the_start() {
    let site = Site::for_inference(&discovery(), &Upstream::claude());
    let _gateway = site.start();
    let mut second = site.replica();
    second.port = site.port;

    let said = second.refusal();

    assert_one_clear_line(&said, &site.port.to_string());
}

/// Panics unless exactly one line that is neither an audit event nor a log line tells what is wrong, naming `what`.
#[track_caller]
fn assert_one_clear_line(said: &str, what: &str) {
    let is_ours = |line: &&str| !line.starts_with('{') && !line.starts_with("[gateway] ");
    let lines: Vec<_> = said.lines().filter(is_ours).collect();
    assert_eq!(lines.len(), 1, "one line about {what}:\n{said}");
    assert!(lines[0].contains(what), "{what} is not named:\n{said}");
    assert!(!said.contains("panicked") && !said.contains("backtrace"), "{said}");
}

#[test]
fn what_the_gateway_keeps_is_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;

    let site = Site::for_inference(&discovery(), &Upstream::claude());
    let gateway = site.start();
    gateway.get("/healthz").send().expect(200);
    let mode = |path: &std::path::Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&site.state()), 0o700);
    let mut files = 0;
    for entry in fs::read_dir(site.state()).expect("a directory").flatten() {
        let path = entry.path();
        files += usize::from(path.is_file());
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
    assert!(files >= 2, "the databases are there");
}
