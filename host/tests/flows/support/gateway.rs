//! The gateway as its operator has it: a configuration, a state directory, a process, its standard error.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use reqwest::Method;
use reqwest::blocking::{Client, RequestBuilder};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::http::{Call, Raw, plain_client};
use super::postgres::PASSWORD;
use super::transcript::Transcript;
use super::upstream::{DELTAS, PROMPT};
use super::{
    ADMIN_KEY, Idp, PATIENCE, Postgres, Upstream, admin, discovery, eventually, free_port, session, session_with,
};

/// The credential for the upstream.
pub(crate) const UPSTREAM_KEY: &str = "upstream-key-for-tests-only";
/// The credential for the identity provider.
pub(crate) const CLIENT_SECRET: &str = "client-secret-for-tests-only";
/// What signs session tokens where a story makes its own.
pub(crate) const SESSION_SECRET: &str = "session-secret-for-tests-only-0123456789";

/// Where a story keeps its state.
#[derive(Clone, Copy)]
pub(crate) enum Store {
    Sqlite,
    Postgres,
}

impl Store {
    /// A site on this store, and what it needs to live; `None` (and says so) when that is not on the machine.
    pub(crate) fn site(self) -> Option<(Site, Option<Postgres>)> {
        let mut site = Site::new();
        let database = match self {
            Self::Sqlite => None,
            Self::Postgres => Some(Postgres::start()?),
        };
        if let Some(database) = &database {
            site.use_postgres(database);
        }
        Some((site, database))
    }
}

/// Where a gateway is installed: everything that outlives its process. At the end of the story, everything that its
/// gateways said is searched for secrets.
pub(crate) struct Site {
    pub(crate) port: u16,
    pub(crate) public_url: String,
    pub(crate) issuer: String,
    pub(crate) id_token_alg: &'static str,
    /// Several identity providers in place of the one: name, issuer, and further keys of the entry.
    pub(crate) providers: Vec<(&'static str, String, &'static str)>,
    /// Base URLs, in the order in which they are tried.
    pub(crate) upstreams: Vec<String>,
    pub(crate) postgres_url: Option<String>,
    /// Whether sessions are signed with [`SESSION_SECRET`] rather than with keys of the gateway's own making.
    pub(crate) has_session_secret: bool,
    /// More lines for `gateway.yaml`, top-level keys that are not there otherwise.
    pub(crate) more: String,
    /// More lines for the section `listen`.
    pub(crate) more_listen: String,
    /// More lines for the section `oidc`.
    pub(crate) more_oidc: String,
    /// The credential of each upstream: what stands in its section `auth`.
    pub(crate) upstream_auth: String,
    /// More lines for each upstream.
    pub(crate) more_upstream: String,
    /// More upstreams, after the others: each all keys of an entry but its braces.
    pub(crate) entries: Vec<String>,
    pub(crate) environment: Vec<(&'static str, String)>,
    /// More arguments of `serve`.
    pub(crate) arguments: Vec<String>,
    /// A program, with arguments, that starts the gateway's.
    pub(crate) launcher: Vec<String>,
    pub(crate) transcript: Transcript,
    directory: TempDir,
}

impl Site {
    /// A site without identity provider and upstreams, on `SQLite`.
    pub(crate) fn new() -> Self {
        let port = free_port();
        let transcript = Transcript::default();
        for secret in [UPSTREAM_KEY, CLIENT_SECRET, SESSION_SECRET, PASSWORD] {
            transcript.secret(secret);
        }
        transcript.unlogged(PROMPT);
        // What the model said, too: the pieces of its answer in one.
        transcript.unlogged(&DELTAS.concat());
        Self {
            port,
            public_url: format!("http://127.0.0.1:{port}"),
            issuer: String::new(),
            id_token_alg: "RS256",
            providers: Vec::new(),
            upstreams: Vec::new(),
            postgres_url: None,
            has_session_secret: false,
            more: String::new(),
            more_listen: String::new(),
            more_oidc: String::new(),
            upstream_auth: "api_key: ${UPSTREAM_KEY}".to_owned(),
            more_upstream: String::new(),
            entries: Vec::new(),
            environment: Vec::new(),
            arguments: Vec::new(),
            launcher: Vec::new(),
            transcript,
            directory: TempDir::with_prefix("sallyport-").expect("a directory"),
        }
    }

    /// A site for inference alone: sessions are made by the story, and nobody can sign in.
    pub(crate) fn for_inference(provider: &Upstream, upstream: &Upstream) -> Self {
        let mut site = Self::without_upstreams(provider);
        site.use_upstream(upstream);
        site
    }

    /// The same with no upstream yet.
    pub(crate) fn without_upstreams(provider: &Upstream) -> Self {
        let mut site = Self::new();
        site.issuer = format!("http://{}", provider.address);
        site.has_session_secret = true;
        site
    }

    /// Adds `upstream` as the next to be tried, as an entry with these keys beside its address.
    pub(crate) fn use_entry(&mut self, upstream: &Upstream, keys: &str) {
        self.transcript.internal(&upstream.address);
        self.entries.push(format!("base_url: \"http://{}\", {keys}", upstream.address));
    }

    /// The same for whatever answers at `https://127.0.0.1:{port}`.
    pub(crate) fn use_tls_entry(&mut self, port: u16, keys: &str) {
        self.entries.push(format!("base_url: \"https://127.0.0.1:{port}\", {keys}"));
    }

    /// The same with metering, on `store`; `None` (and says so) when that is not on the machine.
    pub(crate) fn metered(store: Store, upstream: &Upstream) -> Option<(Self, Option<Postgres>)> {
        let (mut site, database) = store.site()?;
        site.issuer = format!("http://{}", discovery().address);
        site.has_session_secret = true;
        site.use_upstream(upstream);
        site.more = admin();
        site.transcript.secret(ADMIN_KEY);
        Some((site, database))
    }

    /// A site where people sign in and a model answers, on `SQLite`; `None` (and says so) without Node.js.
    pub(crate) fn with_idp() -> Option<(Self, Idp)> {
        let mut site = Self::new();
        let idp = Idp::start(&mut site)?;
        site.use_upstream(&Upstream::claude());
        Some((site, idp))
    }

    /// Adds `upstream` as the next to be tried.
    pub(crate) fn use_upstream(&mut self, upstream: &Upstream) {
        self.transcript.internal(&upstream.address);
        self.upstreams.push(format!("http://{}", upstream.address));
    }

    /// Keeps state in `postgres`.
    pub(crate) fn use_postgres(&mut self, postgres: &Postgres) {
        self.transcript.internal(&postgres.address());
        self.postgres_url = Some(postgres.url());
    }

    /// Another gateway of the same service, behind the same public URL, with a state directory of its own.
    pub(crate) fn replica(&self) -> Self {
        Self {
            port: free_port(),
            public_url: self.public_url.clone(),
            issuer: self.issuer.clone(),
            id_token_alg: self.id_token_alg,
            providers: self.providers.clone(),
            upstreams: self.upstreams.clone(),
            postgres_url: self.postgres_url.clone(),
            has_session_secret: self.has_session_secret,
            more: self.more.clone(),
            more_listen: self.more_listen.clone(),
            more_oidc: self.more_oidc.clone(),
            upstream_auth: self.upstream_auth.clone(),
            more_upstream: self.more_upstream.clone(),
            entries: self.entries.clone(),
            environment: self.environment.clone(),
            arguments: self.arguments.clone(),
            launcher: self.launcher.clone(),
            transcript: self.transcript.clone(),
            directory: TempDir::with_prefix("sallyport-").expect("a directory"),
        }
    }

    /// A session that this site accepts; only with [`Self::has_session_secret`].
    pub(crate) fn session(&self, sub: &str) -> String {
        assert!(self.has_session_secret, "this site signs with keys of its own");
        let token = session(&self.public_url, sub);
        self.transcript.unlogged(&token);
        token
    }

    /// The same with claims of the story's own.
    pub(crate) fn session_with(&self, claims: &Value) -> String {
        assert!(self.has_session_secret, "this site signs with keys of its own");
        session_with(&self.public_url, claims)
    }

    /// Starts a gateway and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(&self) -> Gateway {
        self.start_when(|gateway| {
            let answer = gateway.get("/readyz").try_send().ok()?;
            (answer.status == 200).then_some(())
        })
    }

    /// Starts a gateway and waits until it is ready by this measure.
    #[track_caller]
    pub(crate) fn start_when(&self, is_ready: impl Fn(&Gateway) -> Option<()>) -> Gateway {
        let mut gateway = self.spawn(&self.yaml());
        eventually("readiness", || {
            if let Some(status) = gateway.process.try_wait().expect("a status") {
                panic!("the gateway ended with {status}:\n{}", gateway.log.text());
            }
            is_ready(&gateway)
        });
        gateway
    }

    /// Starts a gateway that must refuse to start; returns what it said.
    #[track_caller]
    pub(crate) fn refusal(&self) -> String {
        self.refusal_of(&self.yaml())
    }

    /// Starts a gateway with `yaml` as its configuration, which it must refuse; returns what it said.
    #[track_caller]
    pub(crate) fn refusal_of(&self, yaml: &str) -> String {
        let mut gateway = self.spawn(yaml);
        let status = gateway.until_exit();
        assert!(!status.success(), "the gateway ended with {status}:\n{}", gateway.log.text());
        assert_ne!(status.code(), None, "killed by a signal:\n{}", gateway.log.text());
        gateway.log.text()
    }

    /// The configuration.
    pub(crate) fn yaml(&self) -> String {
        let mut yaml = format!(
            "listen:\n  host: 127.0.0.1\n  port: {}\n  public_url: {}\n{}oidc:\n",
            self.port, self.public_url, self.more_listen
        );
        if self.providers.is_empty() {
            let _ = write!(
                yaml,
                "  issuer: {}\n  client_id: sallyport\n  client_secret: ${{CLIENT_SECRET}}\n  \
                 allowed_email_domains: [example.com]\n  id_token_signed_response_alg: {}\n{}",
                self.issuer, self.id_token_alg, self.more_oidc
            );
        }
        for (name, issuer, more) in &self.providers {
            let _ = writeln!(
                yaml,
                "  - {{ name: {name}, issuer: \"{issuer}\", client_id: sallyport, client_secret: \"${{CLIENT_SECRET}}\", {more} }}"
            );
        }
        if self.has_session_secret {
            yaml.push_str("session:\n  jwt_secret: ${SESSION_SECRET}\n");
        }
        if self.postgres_url.is_some() {
            yaml.push_str("store:\n  postgres_url: ${POSTGRES_URL}\n");
        }
        yaml.push_str("upstreams:\n");
        for (index, base_url) in self.upstreams.iter().enumerate() {
            let _ = write!(
                yaml,
                "  - name: upstream-{index}\n    provider: anthropic\n    base_url: {base_url}\n    \
                 auth:\n      {}\n{}",
                self.upstream_auth, self.more_upstream
            );
        }
        for entry in &self.entries {
            let _ = writeln!(yaml, "  - {{ {entry} }}");
        }
        yaml.push_str(&self.more);
        yaml
    }

    /// Runs `sallyport keys` with these arguments and returns its JSON.
    pub(crate) fn keys(&self, arguments: &[&str]) -> Value {
        let config = self.file("gateway.yaml");
        fs::write(&config, self.yaml()).expect("a file");
        let mut command = self.command("keys", arguments);
        let output = command.arg("--json").arg("--config").arg(config).output().expect("a run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Runs another command of the program at this site; returns what it said on standard output.
    #[track_caller]
    pub(crate) fn said(&self, subcommand: &str, arguments: &[&str]) -> String {
        let output = self.run(subcommand, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {}\n{said}", output.status);
        self.transcript.logged(&said);
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The same for one that must fail; returns what it said on standard error.
    #[track_caller]
    pub(crate) fn complaint(&self, subcommand: &str, arguments: &[&str]) -> String {
        let output = self.run(subcommand, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn run(&self, subcommand: &str, arguments: &[&str]) -> Output {
        let config = self.file("gateway.yaml");
        // A gateway that runs here looks after its file: it is not touched.
        if !config.exists() {
            fs::write(&config, self.yaml()).expect("a file");
        }
        self.command(subcommand, arguments).arg("--config").arg(config).output().expect("a run")
    }

    /// The program with `subcommand`, its state directory and its environment.
    fn command(&self, subcommand: &str, arguments: &[&str]) -> Command {
        let program = binary().display().to_string();
        let words: Vec<&String> = self.launcher.iter().chain([&program]).collect();
        let mut command = Command::new(words[0]);
        command
            .args(&words[1..])
            .arg(subcommand)
            .args(arguments)
            .arg("--state-dir")
            .arg(self.state())
            .current_dir(self.directory.path())
            .env_clear()
            .env("CLAUDE_GATEWAY_ALLOW_LOOPBACK", "1")
            .env("CLIENT_SECRET", CLIENT_SECRET)
            .env("SESSION_SECRET", SESSION_SECRET)
            .env("UPSTREAM_KEY", UPSTREAM_KEY)
            .env("POSTGRES_URL", self.postgres_url.as_deref().unwrap_or_default())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// A place for files beside the configuration.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn spawn(&self, yaml: &str) -> Gateway {
        let config = self.file("gateway.yaml");
        fs::write(&config, yaml).expect("a file");
        let mut process = self
            .command("serve", &["--listen", &format!("127.0.0.1:{}", self.port)])
            .args(&self.arguments)
            .arg("--config")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", binary().display()));
        let log = Log::default();
        let stderr = BufReader::new(process.stderr.take().expect("a pipe"));
        let (lines, transcript) = (log.clone(), self.transcript.clone());
        std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                transcript.logged(&line);
                lines.push(Some(line));
            }
            lines.push(None);
        });
        Gateway {
            address: format!("127.0.0.1:{}", self.port),
            process,
            log,
            client: plain_client(),
            transcript: self.transcript.clone(),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.transcript.assert_discreet();
        }
    }
}

/// A gateway process; killed on drop.
pub(crate) struct Gateway {
    pub(crate) address: String,
    pub(crate) log: Log,
    pub(crate) transcript: Transcript,
    process: Child,
    client: Client,
}

impl Gateway {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn get(&self, path: &str) -> Call {
        self.call(self.client.get(self.url(path)))
    }

    pub(crate) fn post(&self, path: &str) -> Call {
        self.call(self.client.post(self.url(path)))
    }

    pub(crate) fn delete(&self, path: &str) -> Call {
        self.call(self.client.delete(self.url(path)))
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> Call {
        self.call(self.client.request(method, self.url(path)))
    }

    /// A request of any client, whose answer is to be recorded.
    pub(crate) fn call(&self, builder: RequestBuilder) -> Call {
        Call { builder, transcript: self.transcript.clone() }
    }

    /// A connection of its own.
    pub(crate) fn connect(&self) -> Raw {
        Raw::new(TcpStream::connect(&self.address).expect("a connection"), self.transcript.clone())
    }

    /// Whether nobody listens.
    pub(crate) fn refuses_connections(&self) -> bool {
        TcpStream::connect(&self.address).is_err()
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).expect("a signal");
    }

    /// Asks it to read its configuration again.
    pub(crate) fn hang_up(&self) {
        kill_process(Pid::from_child(&self.process), Signal::HUP).expect("a signal");
    }

    /// Ends it as a power failure would.
    pub(crate) fn kill(mut self) {
        self.process.kill().expect("a signal");
        self.process.wait().expect("an end");
    }

    /// Waits for its end.
    pub(crate) fn until_exit(&mut self) -> ExitStatus {
        let process = &mut self.process;
        let status = eventually("the gateway to end", || process.try_wait().expect("a status"));
        self.log.until_closed();
        status
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most resident memory that it ever had, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, figure: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix(figure)).expect("a figure");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            println!("standard error of the gateway at {}:\n{}", self.address, self.log.text());
        } else {
            // What it said last counts too.
            self.log.until_closed();
        }
    }
}

/// The lines of a standard error, as they come.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    is_closed: bool,
}

impl Log {
    /// Waits for the first audit event that `matches`.
    #[track_caller]
    pub(crate) fn event(&self, name: &str, matches: impl Fn(&Value) -> bool) -> Value {
        self.wait(&format!("an audit event {name}"), |lines| {
            audit_events(&lines.lines).find(|event| event["evt"] == name && matches(event))
        })
    }

    /// The audit events of this name so far.
    pub(crate) fn events(&self, name: &str) -> Vec<Value> {
        let lines = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        audit_events(&lines.lines).filter(|event| event["evt"] == name).collect()
    }

    /// The migrations that were reported as applied so far, as `migration N applied`.
    pub(crate) fn migrations(&self) -> Vec<String> {
        let text = self.text();
        let lines = text.lines().filter(|line| line.starts_with("[gateway] ") && line.ends_with(" applied"));
        lines.filter_map(|line| Some(line[line.find("migration ")?..].to_owned())).collect()
    }

    /// All lines so far.
    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).lines.join("\n")
    }

    fn until_closed(&self) {
        self.wait("the end of standard error", |lines| lines.is_closed.then_some(()));
    }

    /// `None` is the end.
    fn push(&self, line: Option<String>) {
        let mut lines = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        match line {
            Some(line) => lines.lines.push(line),
            None => lines.is_closed = true,
        }
        self.0.1.notify_all();
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, find: impl Fn(&Lines) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = find(&lines) {
                return found;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what} in:\n{}", lines.lines.join("\n"));
            lines = self.0.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn audit_events(lines: &[String]) -> impl Iterator<Item = Value> {
    lines
        .iter()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("an audit event is JSON"))
}

/// The program under test: the one that cargo built, unless `SALLYPORT_BIN` names another.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("SALLYPORT_BIN").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_sallyport")), PathBuf::from)
}
