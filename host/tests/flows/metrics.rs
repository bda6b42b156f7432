//! The operators' listener: metrics as Prometheus reads them, and readiness with reasons.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{
    Answer, Gateway, Idp, MODEL, Postgres, Site, Upstream, command, discovery, discovery_when, eventually, free_port,
    lacks, question, refresh, sign_in,
};

const TOKEN: &str = "scrape-token-for-tests-only";

/// A site with the operators' listener on the port that is returned, and with books.
fn with_metrics(site: &mut Site) -> u16 {
    site.more.push_str("admin: {}\n");
    without_books(site)
}

/// The same without books.
fn without_books(site: &mut Site) -> u16 {
    let port = free_port();
    site.transcript.secret(TOKEN);
    let _ = writeln!(site.more, "observability:\n  metrics: {{ listen: \"127.0.0.1:{port}\", token: {TOKEN} }}");
    port
}

/// A question that names an instance of AWS, which is masked.
fn telling_question(site: &Site) -> Value {
    let instance = "i-0abc1234def567890";
    site.transcript.unlogged(instance);
    let mut question = question(true);
    question["messages"][0]["content"] = json!(format!("restart {instance}"));
    question
}

fn ask(gateway: &Gateway, port: u16, path: &str) -> Answer {
    let client = reqwest::blocking::Client::new();
    let answer = gateway.call(client.get(format!("http://127.0.0.1:{port}{path}"))).bearer(TOKEN).send();
    gateway.transcript.reported(&answer.body);
    answer
}

/// `deploy/` of the project.
fn deploy(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file)
}

#[test]
fn every_kind_of_figure_is_counted_and_none_names_a_person() {
    let limited = Upstream::start(|exchange| exchange.answer(429, &[], &json!({"type": "error"})));
    let (claude, collector) = (Upstream::claude(), Upstream::start(|exchange| exchange.answer(400, &[], &json!({}))));
    let mut site = Site::new();
    let Some(_idp) = Idp::start(&mut site) else { return };
    site.use_upstream(&limited);
    site.use_upstream(&claude);
    site.more = format!("masking: {{}}\ntelemetry:\n  forward_to: [{{ url: \"http://{}\" }}]\n", collector.address);
    let port = with_metrics(&mut site);
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");
    refresh(&gateway, &tokens.refresh).expect(200);
    for asked in [question(false), telling_question(&site)] {
        gateway.post("/v1/messages").bearer(&tokens.access).json(&asked).send().expect(200);
    }
    gateway.post("/v1/metrics").bearer(&tokens.access).body("x").send().expect(200);
    gateway.get("/v1/models").send().expect(401);
    gateway.get("/anything/at/all?of=a-client").bearer(&tokens.access).send().expect(404);

    let expected = [
        r#"sallyport_requests_total{route="/v1/messages",status="200"} 2"#,
        r#"sallyport_requests_total{route="unknown",status="404"} 1"#,
        r#"sallyport_request_duration_seconds_count{route="/v1/messages"} 2"#,
        r#"sallyport_first_byte_seconds_count{route="/v1/messages"} 2"#,
        r#"sallyport_inference_total{status="200",upstream="upstream-1"} 2"#,
        r#"sallyport_upstream_attempts_total{outcome="429",upstream="upstream-0"} 2"#,
        r#"sallyport_upstream_attempts_total{outcome="ok",upstream="upstream-1"} 2"#,
        r#"sallyport_failovers_total{upstream="upstream-0"} 2"#,
        r#"sallyport_tokens_total{kind="input",model="claude-sonnet-4-6",upstream="upstream-1"} 18"#,
        r#"sallyport_tokens_total{kind="output",model="claude-sonnet-4-6",upstream="upstream-1"} 14"#,
        r#"sallyport_settlements_total{outcome="recorded"} 2"#,
        r#"sallyport_settlements_total{outcome="lost"} 0"#,
        r#"sallyport_reservations_total{outcome="held"} 2"#,
        r#"sallyport_reservations_total{outcome="settled"} 2"#,
        r#"sallyport_reservations_total{outcome="expired"} 0"#,
        r#"sallyport_masked_total{kind="aws.ec2_instance",mode="enforce"} 1"#,
        r#"sallyport_masking_tokens_total{fate="unknown"} 0"#,
        r#"sallyport_upstream_first_byte_seconds_count{upstream="upstream-1"} 2"#,
        r#"sallyport_audit_events_total{event="device.authorize",outcome="success"} 1"#,
        r#"sallyport_audit_events_total{event="session.mint",outcome="success"} 1"#,
        r#"sallyport_audit_events_total{event="session.refresh",outcome="success"} 1"#,
        r#"sallyport_audit_events_total{event="auth.denied",outcome="missing_token"} 1"#,
        r#"sallyport_telemetry_exports_total{destination="127.0.0.1",outcome="refused",signal="metrics"} 1"#,
        "sallyport_active_streams 0",
    ];
    let text = eventually("the figures", || {
        let text = ask(&gateway, port, "/metrics").expect(200).text().to_owned();
        expected.iter().all(|line| text.lines().any(|found| found == *line)).then_some(text)
    });
    for begin in [
        "sallyport_spend_nanodollars_total{",
        "sallyport_store_seconds_count{store=\"sqlite\"}",
        "sallyport_instance_requests_total{state=\"reused\"}",
        "sallyport_instances_started_total ",
        "sallyport_build_info{version=\"",
    ] {
        assert!(text.lines().any(|line| line.starts_with(begin)), "{begin} is missing in:\n{text}");
    }
    for personal in ["\"ada", "ada@", "example.com", "a-client", "anything"] {
        assert!(!text.contains(personal), "{personal} is in:\n{text}");
    }
}

#[test]
fn without_books_tokens_and_spend_are_counted_all_the_same() {
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    let port = without_books(&mut site);
    let gateway = site.start();
    let token = site.session("ada");
    for stream in [false, true] {
        gateway.post("/v1/messages").bearer(&token).json(&question(stream)).send().expect(200);
    }
    let labels = format!(r#"model="{MODEL}",upstream="upstream-0""#);
    // Nine tokens of input at $3 and seven of output at $15 a million, twice.
    let expected = [
        format!(r#"sallyport_tokens_total{{kind="input",{labels}}} 18"#),
        format!(r#"sallyport_tokens_total{{kind="output",{labels}}} 14"#),
        format!("sallyport_spend_nanodollars_total{{{labels}}} 264000"),
        r#"sallyport_settlements_total{outcome="recorded"} 0"#.to_owned(),
    ];
    eventually("the figures", || {
        let text = ask(&gateway, port, "/metrics").expect(200).text().to_owned();
        expected.iter().all(|line| text.lines().any(|found| found == *line)).then_some(())
    });
}

#[test]
fn metrics_are_for_those_who_show_the_token_and_never_on_the_gateways_own_port() {
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    let port = with_metrics(&mut site);
    let gateway = site.start();
    assert_eq!(ask(&gateway, port, "/metrics").header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let client = reqwest::blocking::Client::new();
    let without = |path: &str| gateway.call(client.get(format!("http://127.0.0.1:{port}{path}"))).send().status;
    assert_eq!([without("/metrics"), without("/readyz"), without("/"), without("/healthz")], [401, 401, 401, 200]);
    let wrong = gateway.call(client.get(format!("http://127.0.0.1:{port}/metrics"))).bearer("another").send();
    assert_eq!((wrong.status, wrong.header("www-authenticate")), (401, "Bearer"));
    gateway.get("/metrics").send().expect(401);
    gateway.get("/metrics").bearer(&site.session("ada")).send().expect(404);
    gateway.get("/metrics").bearer(TOKEN).send().expect(401);
}

#[test]
fn readiness_has_its_reasons_for_operators_and_a_word_for_everybody() {
    let Some(mut database) = Postgres::start() else { return };
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    site.use_postgres(&database);
    let port = with_metrics(&mut site);
    site.environment.push(("CLAUDE_GATEWAY_DRAIN_DELAY_MS", "60000".to_owned()));
    let mut gateway = site.start();
    let report = ask(&gateway, port, "/readyz").expect(200).json();
    for part in ["store", "keys", "configuration", "identity_provider"] {
        assert_eq!(report[part]["ok"], true, "{report}");
    }
    assert_eq!((&report["phase"], &report["ready"]), (&json!("serving"), &json!(true)));
    assert!(report["identity_provider"]["oldest_document_seconds"].is_u64(), "{report}");

    database.stop();
    let report = ask(&gateway, port, "/readyz").expect(503).json();
    assert_eq!((&report["store"]["ok"], &report["keys"]["ok"]), (&json!(false), &json!(true)), "{report}");
    assert!(report["store"]["reason"].is_string(), "{report}");
    assert_eq!(gateway.get("/readyz").send().status_and_text(), "503 store unavailable");

    gateway.terminate();
    eventually("draining", || (gateway.get("/readyz").send().status_and_text() == "503 draining").then_some(()));
    assert_eq!(ask(&gateway, port, "/readyz").expect(503).json()["phase"], "draining");
    gateway.get("/v1/models").bearer(&site.session("ada")).send().expect(200);
    gateway.terminate();
    assert!(gateway.until_exit().success());
}

#[test]
fn a_start_that_takes_long_is_told_from_one_that_hangs() {
    let may_start = Arc::new(AtomicBool::new(false));
    let mut site = Site::for_inference(&discovery_when(&may_start), &Upstream::claude());
    let port = with_metrics(&mut site);
    let listens = |_: &Gateway| std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop);
    let gateway = site.start_when(listens);
    assert_eq!(ask(&gateway, port, "/healthz").status_and_text(), "200 ok");
    let report = ask(&gateway, port, "/readyz").expect(503).json();
    assert_eq!((&report["phase"], &report["ready"]), (&json!("starting"), &json!(false)), "{report}");
    assert!(gateway.refuses_connections(), "nobody is served yet");

    may_start.store(true, Ordering::Release);
    eventually("readiness", || (gateway.get("/readyz").try_send().ok()?.status == 200).then_some(()));
    assert_eq!(ask(&gateway, port, "/readyz").expect(200).json()["phase"], "serving");
}

/// A running Prometheus; ends on drop.
struct Prometheus {
    process: Child,
    address: String,
    _directory: TempDir,
}

impl Prometheus {
    /// Scrapes `port` every second, with the rules of `deploy/`.
    fn start(port: u16) -> Self {
        let directory = TempDir::with_prefix("sallyport-prometheus-").expect("a directory");
        let config = directory.path().join("prometheus.yml");
        let rules = deploy("prometheus/alerts.yml").canonicalize().expect("rules");
        fs::write(
            &config,
            format!(
                "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [\"{}\"]\nscrape_configs:\n  \
                 - job_name: sallyport\n    authorization: {{ credentials: {TOKEN} }}\n    \
                 static_configs: [{{ targets: [\"127.0.0.1:{port}\"] }}]\n",
                rules.display()
            ),
        )
        .expect("a file");
        let address = format!("127.0.0.1:{}", free_port());
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus");
        Self { process, address, _directory: directory }
    }

    /// An answer of its API; `None` while it starts.
    fn api(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let url = reqwest::Url::parse_with_params(&format!("http://{}/api/v1/{path}", self.address), query);
        let answer = reqwest::blocking::get(url.expect("a URL")).ok()?;
        serde_json::from_str(&answer.text().ok()?).ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_the_gateway_and_understands_rules_and_dashboard() {
    if lacks(&["prometheus", "promtool"]) {
        return;
    }
    command(Command::new("promtool").args(["check", "config"]).arg(deploy("prometheus/prometheus.yml")));
    command(Command::new("promtool").args(["check", "rules"]).arg(deploy("prometheus/alerts.yml")));
    // A gateway with everything that is counted: PostgreSQL, books, masking and a collector.
    let Some(database) = Postgres::start() else { return };
    let collector = Upstream::start(|exchange| exchange.answer(200, &[], &json!({})));
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    site.use_postgres(&database);
    site.more = format!("masking: {{}}\ntelemetry:\n  forward_to: [{{ url: \"http://{}\" }}]\n", collector.address);
    let port = with_metrics(&mut site);
    let gateway = site.start();
    let token = site.session("ada");
    gateway.post("/v1/messages").bearer(&token).json(&telling_question(&site)).send().expect(200);
    gateway.post("/v1/metrics").bearer(&token).body("x").send().expect(200);
    let families = families_in(include_str!("../../src/metrics.rs"));
    let text = eventually("every family in a scrape", || {
        let text = ask(&gateway, port, "/metrics").expect(200).text().to_owned();
        let found = families_in(&text);
        families.iter().all(|name| found.contains(name)).then_some(text)
    });
    for line in
        [r#"sallyport_pool_connections{state="open"}"#, r#"sallyport_pool_wait_seconds_count{store="postgres"}"#]
    {
        assert!(text.lines().any(|found| found.starts_with(line)), "{line} is missing in:\n{text}");
    }
    let mut lint = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    std::io::Write::write_all(&mut lint.stdin.take().expect("a pipe"), text.as_bytes()).expect("a reader");
    let lint = lint.wait_with_output().expect("an end");
    assert!(lint.status.success(), "{}", String::from_utf8_lossy(&lint.stderr));

    let prometheus = Prometheus::start(port);
    let value = |query: &str| {
        let answer = prometheus.api("query", &[("query", query)])?;
        Some(answer["data"]["result"].as_array()?.first()?["value"][1].as_str()?.to_owned())
    };
    eventually("a scrape", || (value("up{job=\"sallyport\"}")? == "1").then_some(()));
    eventually("the request", || {
        (value("sum(sallyport_requests_total{route=\"/v1/messages\"})")? == "1").then_some(())
    });

    // The rules are loaded and evaluated without an error.
    let rules = eventually("the rules", || {
        let rules = prometheus.api("rules", &[])?["data"]["groups"].as_array()?.first()?["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] == "ok").then_some(rules)
    });
    assert!(rules.len() >= 10, "{rules:?}");

    // Every query of the dashboard is one.
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(deploy("grafana/sallyport.json")).expect("a file")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut queries: Vec<String> = Vec::new();
    for target in panels.iter().flat_map(|panel| panel["targets"].as_array().expect("targets")) {
        let query = target["expr"].as_str().expect("text");
        queries.push(query.replace("$__rate_interval", "1m").replace("$instance", ".*"));
    }
    assert!(queries.len() >= 18, "{queries:?}");
    for query in &queries {
        let answer = prometheus.api("query", &[("query", query)]).expect("an answer");
        assert_eq!(answer["status"], "success", "{query}: {answer}");
    }

    // And names what there is: the dashboard, the rules and the operators' document.
    let names = prometheus.api("label/__name__/values", &[]).expect("an answer")["data"].to_string();
    let scraped = families_in(&names);
    let rules = fs::read_to_string(deploy("prometheus/alerts.yml")).expect("a file");
    let document = include_str!("../../../docs/operations.md");
    for text in queries.iter().map(String::as_str).chain([rules.as_str(), document]) {
        for name in families_in(text) {
            assert!(scraped.contains(&name), "{name} is not scraped");
        }
    }
    for name in scraped {
        assert!(document.contains(&name), "docs/operations.md does not mention {name}");
    }
}

/// The names of metrics in `text`.
fn families_in(text: &str) -> BTreeSet<String> {
    let is_part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let words = text.split(|character| !is_part(character)).filter(|word| word.starts_with("sallyport_"));
    words
        .map(|word| {
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| word.strip_suffix(suffix));
            base.unwrap_or(word).to_owned()
        })
        .filter(|word| word != "sallyport_host")
        .collect()
}
