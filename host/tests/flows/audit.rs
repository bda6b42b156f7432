//! The audit trail: its copy in the database, its export, and what becomes of it.

use std::process::Command;

use serde_json::Value;

use crate::support::{Site, Store, Upstream, binary, command, discovery, eventually, question};

const KEY: &str = "admin-key-for-tests-only-0123456789-abc";
const EVENTS: &str = "/v1/organizations/audit_events";

fn with_copy(site: &mut Site) -> Upstream {
    let (provider, upstream) = (discovery(), Upstream::claude());
    site.issuer = format!("http://{}", provider.address);
    site.has_session_secret = true;
    site.use_upstream(&upstream);
    site.transcript.secret(KEY);
    site.more =
        format!("admin:\n  read_keys: [{{ id: siem, key: {KEY} }}]\naudit: {{ store: true, retention_days: 30 }}\n");
    upstream
}

#[test]
fn the_copy_in_sqlite_is_the_trail_and_can_be_exported() {
    the_copy_is_the_trail(Store::Sqlite);
}

#[test]
fn the_copy_in_postgresql_is_the_trail_and_can_be_exported() {
    the_copy_is_the_trail(Store::Postgres);
}

fn the_copy_is_the_trail(store: Store) {
    let Some((mut site, _database)) = store.site() else { return };
    with_copy(&mut site);
    let gateway = site.start();
    let token = site.session("ada");
    for stream in [false, true] {
        gateway.post("/v1/messages").bearer(&token).json(&question(stream)).send().expect(200);
    }
    gateway.get("/v1/models").send().expect(401);

    let export = |query: &str| {
        let path = format!("{EVENTS}/export{query}");
        let answer = gateway.get(&path).header("x-api-key", KEY).send().expect(200);
        gateway.transcript.reported(&answer.body);
        answer.text().to_owned()
    };
    // Written behind the answers.
    let lines = eventually("the copy", || {
        let lines: Vec<Value> = export("").lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
        (lines.iter().filter(|event| event["evt"] == "inference").count() == 2
            && lines.iter().any(|event| event["evt"] == "auth.denied"))
        .then_some(lines)
    });
    assert_eq!(lines[0]["evt"], "config.load");
    // Lines, too, are written behind the answers.
    let logged = eventually("both lines", || Some(gateway.log.events("inference")).filter(|events| events.len() == 2));
    assert_eq!(logged, lines.iter().filter(|event| event["evt"] == "inference").cloned().collect::<Vec<_>>());
    let mine = gateway.get(&format!("{EVENTS}?user_ids[]=ada")).header("x-api-key", KEY).send().expect(200).json();
    assert_eq!(mine["data"].as_array().map(Vec::len), Some(2), "{mine}");
    let csv = export("?format=csv&events[]=auth.denied");
    assert_eq!(csv.lines().count(), 2, "{csv}");
}

#[test]
fn upkeep_runs_at_once_from_the_command_line() {
    let mut site = Site::new();
    with_copy(&mut site);
    let gateway = site.start();
    gateway.get("/v1/models").send().expect(401);
    drop(gateway);
    let output = command(
        Command::new(binary())
            .args(["upkeep", "--json", "--config"])
            .arg(site.file("gateway.yaml"))
            .arg("--state-dir")
            .arg(site.state())
            .env("CLAUDE_GATEWAY_ALLOW_LOOPBACK", "1")
            .env("CLIENT_SECRET", "x")
            .env("SESSION_SECRET", crate::support::SESSION_SECRET)
            .env("UPSTREAM_KEY", "x"),
    );
    let deleted: Value = serde_json::from_str(&output).expect("JSON");
    for table in
        ["device_grants", "counters", "spend", "spend_limits", "principals", "principal_groups", "audit_events"]
    {
        assert!(deleted["deleted"][table].is_u64(), "{table}: {deleted}");
    }
}

#[test]
fn a_reload_is_audited_whether_it_succeeds_or_not() {
    let site = Site::for_inference(&discovery(), &Upstream::claude());
    let gateway = site.start();
    let before = gateway.log.event("config.load", |_| true);
    std::fs::write(site.file("gateway.yaml"), format!("{}unheard_of: 1\n", site.yaml())).expect("a file");
    let refused = gateway.log.event("config.reload", |event| event["result"] == "fail");
    assert_eq!(refused["sha256"], before["sha256"]);
    assert!(refused["err"].as_str().is_some_and(|err| err.contains("unheard_of")), "{refused}");
    std::fs::write(site.file("gateway.yaml"), format!("{}login_notice: new\n", site.yaml())).expect("a file");
    let taken = gateway.log.event("config.reload", |event| event["result"] == "success");
    assert_ne!(taken["sha256"], before["sha256"]);
    assert_eq!(taken.get("err"), None);
}
