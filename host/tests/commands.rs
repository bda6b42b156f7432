//! The commands that look at a configuration, as an operator calls them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A configuration with two upstreams and three policies.
const GATEWAY: &str = "\
listen: { host: 127.0.0.1 }
oidc:
  issuer: https://login.example.com
  client_id: sallyport
  client_secret: ${OIDC_CLIENT_SECRET}
  allowed_email_domains: [example.com]
upstreams:
  - name: first
    provider: anthropic
    auth: { api_key: \"${ANTHROPIC_API_KEY}\" }
    groups: [research]
  - name: second
    provider: bedrock
    region: eu-west-1
    auth: { aws_bearer_token: example }
managed:
  policies:
    - match: { groups: [contractors] }
      cli: { availableModels: [haiku], model: haiku }
    - match: { groups: [engineering] }
      cli: { availableModels: [opus], permissions: { deny: [WebFetch] } }
    - cli: { permissions: { deny: [Bash] } }
";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs the command line in `directory`, with nothing in the environment.
fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sallyport"))
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .output()
        .expect("a run")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn directory_with(yaml: &str) -> TempDir {
    let directory = TempDir::with_prefix("sallyport-").expect("a directory");
    std::fs::write(directory.path().join("gateway.yaml"), yaml).expect("a file");
    directory
}

#[test]
fn check_shows_each_fault_with_its_line_and_a_caret() {
    let directory = directory_with("listen: { host: localhost }\nlimits: 5\n");
    let output = run(directory.path(), &["check"]);

    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("error: gateway.yaml:2:9: limits: "), "{said}");
    assert!(said.contains("\n  2 | limits: 5\n    |         ^\n"), "{said}");
    assert_eq!(stdout(&output), "gateway.yaml: 3 faults, no warnings\n");
}

#[test]
fn faults_name_the_file_that_was_given_whatever_command_reads_it() {
    let directory = directory_with("");
    let yaml = GATEWAY.replace("${OIDC_CLIENT_SECRET}", "x").replace("${ANTHROPIC_API_KEY}", "x");
    std::fs::write(directory.path().join("other.yaml"), format!("{yaml}limits: 5\n")).expect("a file");
    let at = format!("other.yaml:{}:9: limits: ", yaml.lines().count() + 1);
    for command in [
        &["check"][..],
        &["serve"],
        &["migrate"],
        &["upkeep"],
        &["keys", "list"],
        &["render", "spin"],
        &["explain", "--email", "ada@example.com"],
        &["report", "--from", "2031-01-01"],
        &["import", "--from", "postgres://somebody@127.0.0.1:9/none"],
    ] {
        let output = run(directory.path(), &[command, &["--config", "other.yaml"]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains(&at) && !said.contains("gateway.yaml"),
            "{command:?}: {said}"
        );
    }
}

#[test]
fn check_tells_scripts_by_its_exit_code_and_machines_in_json() {
    let good = GATEWAY.replace("${OIDC_CLIENT_SECRET}", "example").replace("${ANTHROPIC_API_KEY}", "example");
    let with_a_warning = format!("{good}    - match: {{ groups: [late] }}\n      cli: {{}}\n");
    for (yaml, arguments, code, ok, faults, warnings) in [
        (good.as_str(), &["check", "--json"][..], 0, true, 0, 0),
        (with_a_warning.as_str(), &["check", "--json"], 0, true, 0, 1),
        (GATEWAY, &["check", "--json"], 1, false, 2, 0),
        ("", &["check", "--json", "--config", "no-such.yaml"], 2, false, 1, 0),
    ] {
        let directory = directory_with(yaml);
        let output = run(directory.path(), arguments);
        let said = json(&output);
        let count = |list: &str| said[list].as_array().map(Vec::len);
        let outcome = (output.status.code(), said["ok"].as_bool(), count("faults"), count("warnings"));
        assert_eq!(outcome, (Some(code), Some(ok), Some(faults), Some(warnings)), "{said}");
    }
    let output = run(&root(), &["check", "--no-such-argument"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn schema_prints_the_committed_schema() {
    let committed = std::fs::read_to_string(root().join("docs/gateway.schema.json")).expect("a file");
    assert_eq!(stdout(&run(&root(), &["schema"])).trim_end(), committed.trim_end());
}

#[test]
fn render_spin_writes_the_committed_files_without_any_secret() {
    let out = TempDir::with_prefix("sallyport-").expect("a directory");
    let output = run(&root(), &["render", "spin", "--out", &out.path().display().to_string()]);
    assert!(output.status.success(), "{output:?}");

    let printed = stdout(&run(&root(), &["render", "spin"]));
    for file in ["spin.toml", "runtime-config.toml"] {
        let committed = std::fs::read_to_string(root().join(file)).expect("a file");
        assert_eq!(std::fs::read_to_string(out.path().join(file)).expect("a file"), committed, "{file}");
        assert!(printed.contains(committed.trim_end()), "{file}");
    }
}

#[test]
fn render_says_which_variable_it_cannot_do_without() {
    let directory = directory_with(&GATEWAY.replace("https://login.example.com", "${ISSUER}"));
    let output = run(directory.path(), &["render", "spin"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("ISSUER") && !said.contains("ANTHROPIC_API_KEY"), "{said}");
}

#[test]
fn explain_says_which_policy_counts_what_it_merges_to_and_where_a_model_goes() {
    let directory = directory_with(GATEWAY);
    let arguments =
        ["explain", "--email", "ada@example.com", "--groups", "engineering,staff", "--model", "claude-opus-4-8"];
    let said = json(&run(directory.path(), &[&arguments[..], &["--json"]].concat()));

    let outcomes: Vec<_> = said["policies"].as_array().expect("a list").iter().map(|it| &it["outcome"]).collect();
    assert_eq!(outcomes, ["does not match", "matches", "merged below"]);
    assert_eq!(said["policies"][0]["reason"], "not in any of the groups contractors");
    assert_eq!(said["settings"]["permissions"]["deny"], serde_json::json!(["Bash", "WebFetch"]));
    assert_eq!(said["sign_in_refused"], Value::Null);
    let upstreams = &said["model"]["upstreams"];
    assert_eq!(upstreams[0]["reason"], "only for the groups research");
    assert_eq!(upstreams[1]["model"], "anthropic.claude-opus-4-8", "{upstreams}");
    assert_eq!(said["model"]["denied"], Value::Null);
    let models = said["models"].as_array().expect("a list");
    let is_opus = |model: &Value| model["id"].as_str().is_some_and(|id| id.contains("opus"));
    assert!(!models.is_empty() && models.iter().all(|model| is_opus(model) && model["source"] == "built in"));
    assert_eq!(said["upstreams"][0]["reason"], "only for the groups research");
    assert_eq!(said["upstreams"][1]["models"].as_array().map(Vec::len), Some(models.len()));
    assert_eq!(said["caps"], serde_json::json!({ "status": "not_metered" }));

    let text = stdout(&run(directory.path(), &arguments));
    for line in [
        "  0: does not match: not in any of the groups contractors",
        "  1: matches: in the group engineering",
        "  claude-opus-4-8           built in",
        "  1. first (anthropic): not for this person: only for the groups research",
        "  2. second (bedrock): all of these models",
        "  1. second (bedrock) as anthropic.claude-opus-4-8",
        "  none: without an `admin` section nothing is metered or limited",
    ] {
        assert!(text.lines().any(|found| found == line), "{line:?} is not in:\n{text}");
    }
}

#[test]
fn explain_says_when_there_is_no_store_to_read_caps_from_and_makes_none() {
    let directory = directory_with(&format!("{GATEWAY}admin: {{}}\n"));
    let output = run(directory.path(), &["explain", "--email", "ada@example.com"]);
    assert!(output.status.success(), "{output:?}");
    let text = stdout(&output);
    assert!(text.contains("Caps:\n  unknown: .sallyport/sqlite.db is not there"), "{text}");
    assert!(!directory.path().join(".sallyport").exists());

    let elsewhere = "admin: {}\nstore: { postgres_url: 'postgres://${DATABASE_USER}@127.0.0.1:9/none' }\n";
    let directory = directory_with(&format!("{GATEWAY}{elsewhere}"));
    let text = stdout(&run(directory.path(), &["explain", "--groups", "engineering"]));
    assert!(text.contains("unknown: store.postgres_url mentions a variable"), "{text}");
}

#[test]
fn import_says_what_is_wrong_with_the_other_database_before_it_touches_its_own() {
    let directory = directory_with(GATEWAY);
    for (from, expected) in [
        ("mysql://db.example.com/x", "--from: the PostgreSQL address"),
        ("postgres://somebody:hunter2@127.0.0.1:9/none", "--from: cannot connect to 127.0.0.1:9"),
    ] {
        let output = run(directory.path(), &["import", "--from", from]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(expected) && !said.contains("hunter2"), "{said}");
    }
    assert!(!directory.path().join(".sallyport").exists());
}

#[test]
fn explain_says_why_somebody_cannot_do_something() {
    let directory = directory_with(GATEWAY);
    let arguments = ["explain", "--email", "eve@example.net", "--groups", "contractors", "--model", "claude-opus-4-8"];
    let said = json(&run(directory.path(), &[&arguments[..], &["--json"]].concat()));
    assert!(said["sign_in_refused"].is_string(), "{said}");
    assert_eq!(said["model"]["denied"], "it is not in the policy's `availableModels`");
}

#[test]
fn check_says_what_has_no_effect_under_spin_and_which_files_cannot_be_used() {
    let yaml = GATEWAY
        .replace("{ host: 127.0.0.1 }", "{ host: 127.0.0.1, tls: { cert: missing.pem, key: missing.key } }")
        .replace("    groups: [research]", "    proxy: direct\n    tls: { ca_file: nowhere.pem }")
        .replace("${OIDC_CLIENT_SECRET}", "example")
        .replace("${ANTHROPIC_API_KEY}", "example");
    let directory = directory_with(&yaml);
    let output = run(directory.path(), &["check", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = json(&output);
    let faults: Vec<_> = said["faults"].as_array().expect("a list").iter().map(|fault| &fault["message"]).collect();
    assert!(faults.len() == 2, "{said}");
    assert!(
        faults[0].as_str().is_some_and(|fault| fault.contains("upstreams[0].tls: ca_file: cannot read nowhere.pem"))
    );
    assert!(faults[1].as_str().is_some_and(|fault| fault.contains("listen.tls: missing.pem")), "{said}");
    let notes = said["notes"].to_string();
    for key in ["listen.tls", "upstreams[].proxy"] {
        assert!(notes.contains(&format!("{key} has no effect under Spin")), "{notes}");
    }
    let plain = run(directory.path(), &["check"]);
    assert!(String::from_utf8_lossy(&plain.stderr).contains("note: listen.tls has no effect under Spin"), "{plain:?}");
}
