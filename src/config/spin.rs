//! `spin.toml` and `runtime-config.toml` for a `gateway.yaml`: the variables that it mentions, exactly the hosts that it
//! makes the gateway call, the files that it names, and where state is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use url::Url;

use super::destinations::{destinations, is_metadata, upstream_origin};
use super::yaml::{self, Node, Value};
use super::{AnthropicAuth, ClientTls, Config, GoogleAuth, MinTls, Provider, Upstream, variables};

/// Name of the component and of the application.
const NAME: &str = "sallyport";

/// Networks that nothing may be called in (auth contract §4.8), beside link-local ones.
const METADATA_NETWORKS: [&str; 5] =
    ["100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128", "fd20:ce::254/128"];

/// For hosts that gateway.yaml does not name as upstream or identity provider, such as collectors.
const CLIENT_TLS_HINT: &str = r#"
# Client certificates and extra roots, per host:
# [[client_tls]]
# component_ids = ["sallyport"]
# hosts = ["gateway.internal.example.com"]
# ca_roots_file = "/etc/ssl/internal-ca.pem"
# client_cert_file = "/etc/sallyport/client.pem"
# client_private_key_file = "/etc/sallyport/client.key"
"#;

/// What Spin needs to run a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpinFiles {
    /// `spin.toml`.
    pub manifest: String,
    /// `runtime-config.toml`.
    pub runtime_config: String,
}

/// Renders both files for `config`, which was parsed from the `text` of `file`.
pub fn render_spin(file: &str, text: &str, config: &Config) -> SpinFiles {
    let allowed = destinations(config);
    SpinFiles {
        manifest: manifest(file, text, config, &allowed),
        runtime_config: runtime_config(file, text, config, &allowed),
    }
}

/// What `config` says that has no effect under Spin, and what has it instead.
pub fn without_effect_under_spin(config: &Config) -> Vec<&'static str> {
    let mut notes = Vec::new();
    if config.listen.tls.is_some() {
        notes.push("listen.tls has no effect under Spin: say `spin up --tls-cert … --tls-key …`, or end TLS in front");
    }
    if config.oidc.iter().any(|provider| provider.use_proxy.is_some()) {
        notes.push("oidc.use_proxy has no effect under Spin, which calls without a proxy");
    }
    if config.upstreams.iter().any(|upstream| upstream.proxy.is_some()) {
        notes.push("upstreams[].proxy has no effect under Spin, which calls without a proxy");
    }
    if config.observability.metrics.is_some() {
        notes.push("observability.metrics has no effect under Spin: figures are in the audit trail");
    }
    let upstreams = config.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref());
    let providers = config.oidc.iter().filter_map(|provider| provider.tls.as_ref());
    let tls: Vec<_> = upstreams.chain(providers).collect();
    if tls.iter().any(|tls| tls.client_key_passphrase.is_some()) {
        notes.push("client_key_passphrase has no effect under Spin, which reads plain private keys only");
    }
    if tls.iter().any(|tls| tls.min_version != MinTls::Tls12) {
        notes.push("min_version has no effect under Spin, which speaks TLS 1.2 and 1.3");
    }
    if shares_a_host(config) {
        notes.push(
            "upstreams[].tls is by origin; Spin's is by host name, so that all upstreams on one host share the settings of \
             the first there",
        );
    }
    notes
}

/// Whether two upstreams on one host differ in their TLS settings.
fn shares_a_host(config: &Config) -> bool {
    let upstreams = &config.upstreams;
    let differ = |one: &Upstream, other: &Upstream| one.tls != other.tls && host(one) == host(other);
    upstreams.iter().enumerate().any(|(place, one)| upstreams[..place].iter().any(|other| differ(one, other)))
}

/// The host that `upstream` is at.
fn host(upstream: &Upstream) -> Option<String> {
    Some(Url::parse(&upstream_origin(upstream)).ok()?.host_str()?.to_owned())
}

/// The first line of both files.
fn written_for(file: &str) -> String {
    format!("# Written by `sallyport render spin` for {file}. Render it again when {file} changes.\n")
}

fn manifest(file: &str, text: &str, config: &Config, allowed: &BTreeSet<String>) -> String {
    let (declared, undeclarable) = spin_variables(text);
    let mut out = format!(
        "{}\
         # The component for Spin 4.1 or newer: `spin build`, then `spin up --runtime-config-file runtime-config.toml`.\n\
         # Our own host honours the stores, the databases and the allowed hosts (`sallyport serve --manifest spin.toml`).\n\
         spin_manifest_version = 2\n\n\
         [application]\nname = \"{NAME}\"\nversion = \"{version}\"\n\
         description = \"A gateway for Claude Code\"\n",
        written_for(file),
        version = env!("CARGO_PKG_VERSION"),
    );
    if !declared.is_empty() {
        line(&mut out, &format!("\n# ${{NAME}} in {file} is the variable of that name in lower case.\n[variables]"));
        for name in declared.keys() {
            line(&mut out, &format!("{name} = {{ required = true, secret = true }}"));
        }
    }
    for name in &undeclarable {
        line(&mut out, &format!("# {name} cannot be the name of a Spin variable: rename it in {file}."));
    }
    line(&mut out, &format!("\n[[trigger.http]]\nroute = \"/...\"\ncomponent = \"{NAME}\"\n\n[component.{NAME}]"));
    line(&mut out, "source = \"target/wasm32-wasip2/release/sallyport.wasm\"");
    line(&mut out, "key_value_stores = [\"default\"]");
    if config.store.postgres_url.is_none() {
        line(&mut out, "sqlite_databases = [\"default\"]");
    }
    line(&mut out, &format!("files = [\n  {{ source = {}, destination = \"/gateway.yaml\" }},", quoted(file)));
    for path in files(text, config) {
        line(&mut out, &format!("  {{ source = {0}, destination = {0} }},", quoted(&path)));
    }
    line(
        &mut out,
        &format!("]\n# Exactly what {file} names. Should the identity provider's discovery document name endpoints on"),
    );
    out.push_str("# other hosts, add them.\nallowed_outbound_hosts = [\n");
    for origin in allowed {
        line(&mut out, &format!("  {},", quoted(origin)));
    }
    out.push_str("]\n");
    if !declared.is_empty() {
        line(&mut out, &format!("\n[component.{NAME}.variables]"));
        for name in declared.keys() {
            line(&mut out, &format!("{name} = \"{{{{ {name} }}}}\""));
        }
    }
    line(&mut out, &format!("\n[component.{NAME}.build]"));
    line(&mut out, "command = \"cargo build --release --package sallyport --lib --target wasm32-wasip2\"");
    line(&mut out, "watch = [\"src/**/*.rs\", \"migrations/*.sql\", \"Cargo.toml\"]");
    out
}

fn runtime_config(file: &str, text: &str, config: &Config, allowed: &BTreeSet<String>) -> String {
    let mut out = written_for(file);
    out.push_str(
        "# Where the component's stores live. Run from this directory: Spin takes the path of a SQLite database\n\
         # from the current one. The files are those of `sallyport serve`.\n\
         [key_value_store.default]\ntype = \"spin\"\npath = \".sallyport/key_value.db\"\n",
    );
    if config.store.postgres_url.is_none() {
        out.push_str("\n[sqlite_database.default]\ntype = \"spin\"\npath = \".sallyport/sqlite.db\"\n");
    }
    // Metadata services are only reachable if a configured credential comes from one.
    let link_local =
        ["169.254.0.0/16", "fe80::/10"].into_iter().filter(|_| !allowed.iter().any(|origin| is_metadata(origin)));
    let blocked: Vec<_> = link_local.chain(METADATA_NETWORKS).map(quoted).collect();
    line(&mut out, &format!("\n[outbound_networking]\nblock_networks = [{}]", blocked.join(", ")));
    client_tls(text, config, &mut out);
    out.push_str(CLIENT_TLS_HINT);
    out
}

/// TLS towards hosts that have settings of their own.
fn client_tls(text: &str, config: &Config, out: &mut String) {
    for (index, provider) in config.oidc.iter().enumerate() {
        let urls = [Some(&provider.issuer), provider.discovery_url.as_ref()];
        let hosts: BTreeSet<_> =
            urls.into_iter().flatten().filter_map(|url| url.host_str()).map(str::to_owned).collect();
        if let Some(tls) = &provider.tls {
            client_tls_entry(&hosts, tls, out);
        } else if provider.ca_cert_pem.is_some() {
            client_tls_head(&hosts, true, out);
            let file = ca_file(text, index).unwrap_or_else(|| {
                line(out, "# Save the text of oidc.ca_cert_pem as this file.");
                format!("oidc-ca{}.pem", provider.name.as_ref().map_or_else(String::new, |name| format!("-{name}")))
            });
            line(out, &format!("ca_roots_file = {}", quoted(&file)));
        }
    }
    let mut seen = BTreeSet::new();
    for upstream in &config.upstreams {
        let hosts: BTreeSet<_> = host(upstream).into_iter().collect();
        if let Some(tls) = &upstream.tls
            && seen.insert(hosts.clone())
        {
            client_tls_entry(&hosts, tls, out);
        }
    }
}

fn client_tls_head(hosts: &BTreeSet<String>, system_roots: bool, out: &mut String) {
    line(out, &format!("\n[[client_tls]]\ncomponent_ids = [\"{NAME}\"]"));
    line(out, &format!("hosts = [{}]", hosts.iter().map(|host| quoted(host)).collect::<Vec<_>>().join(", ")));
    line(out, &format!("ca_use_platform_roots = {system_roots}"));
}

fn client_tls_entry(hosts: &BTreeSet<String>, tls: &ClientTls, out: &mut String) {
    client_tls_head(hosts, tls.system_roots, out);
    if let Some(path) = &tls.ca_file {
        line(out, &format!("ca_roots_file = {}", quoted(path)));
    }
    if let Some((certificate, key)) = &tls.identity {
        line(out, &format!("client_cert_file = {}", quoted(certificate)));
        if tls.client_key_passphrase.is_some() {
            out.push_str("# Spin reads plain keys only: decrypt this one.\n");
        }
        line(out, &format!("client_private_key_file = {}", quoted(key)));
    }
}

/// The variables that gateway.yaml mentions: by their Spin name, and those that have none. A Spin name begins with a
/// letter, is lower case, and has no two underscores in a row and none at the end.
fn spin_variables(text: &str) -> (BTreeMap<String, String>, Vec<String>) {
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_lowercase()) && !name.contains("__") && !name.ends_with('_')
    };
    let mut declared = BTreeMap::new();
    let mut undeclarable = Vec::new();
    for name in variables(text) {
        let lower = name.to_lowercase();
        if is_name(&lower) {
            declared.insert(lower, name);
        } else {
            undeclarable.push(name);
        }
    }
    (declared, undeclarable)
}

/// Every file that the gateway reads at run time, as far as the component reads it itself.
fn files(text: &str, config: &Config) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if let Ok(document) = yaml::read(text) {
        file_references(&document.root, &mut found);
    }
    let google = |auth: &GoogleAuth| match auth {
        GoogleAuth::ServiceAccountFile(path) => Some(path.clone()),
        GoogleAuth::DefaultChain | GoogleAuth::AccessToken(_) => None,
    };
    for upstream in &config.upstreams {
        match &upstream.provider {
            Provider::Anthropic { auth: AnthropicAuth::WorkloadIdentity { identity_token_file, .. }, .. } => {
                found.insert(identity_token_file.clone());
            }
            Provider::Vertex { auth, .. } | Provider::AnthropicGoogleCloud { auth, .. } => found.extend(google(auth)),
            _ => {}
        }
    }
    found.extend(config.telemetry.forward_to.iter().filter_map(|collector| google(collector.google.as_ref()?)));
    let google_groups = config.oidc.iter().filter_map(|provider| provider.google_groups.as_ref());
    found.extend(google_groups.map(|groups| groups.service_account_json_path.clone()));
    found.extend(settings_file(text));
    found
}

fn file_references(node: &Node, found: &mut BTreeSet<String>) {
    match &node.value {
        Value::Text(text) => found.extend(file_reference(text)),
        Value::List(items) => items.iter().for_each(|node| file_references(node, found)),
        Value::Mapping(entries) => entries.iter().for_each(|entry| file_references(&entry.node, found)),
        _ => {}
    }
}

/// The path in `${file:…}`.
fn file_reference(text: &str) -> Option<String> {
    let path = text.trim().strip_prefix("${file:")?.strip_suffix('}')?;
    path.starts_with('/').then(|| path.to_owned())
}

/// Where the provider's `ca_cert_pem` is read from.
fn ca_file(text: &str, provider: usize) -> Option<String> {
    file_reference(&written(text, &["oidc", &provider.to_string(), "ca_cert_pem"])?)
}

/// `managed.settings`, where it is not a reference itself.
fn settings_file(text: &str) -> Option<String> {
    written(text, &["managed", "settings"]).filter(|path| !path.contains("${"))
}

/// The text that is written under `keys`. A key that is a number chooses from a list; what is no list is one's first.
fn written(text: &str, keys: &[&str]) -> Option<String> {
    let mut node = yaml::read(text).ok()?.root;
    for key in keys {
        node = match (node.value, key.parse::<usize>()) {
            (Value::List(items), Ok(index)) => items.into_iter().nth(index)?,
            (value, Ok(0)) => Node { value, ..node },
            (Value::Mapping(entries), Err(_)) => entries.into_iter().find(|entry| entry.key == *key)?.node,
            _ => return None,
        };
    }
    match node.value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

/// A TOML basic string: JSON's escapes are among TOML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("memory");
}
