//! `spin.toml` and `runtime-config.toml`: the parts that this host honours. What it does not know it refuses by name.
//!
//! Honoured are labels and paths of stores and databases, `allowed_outbound_hosts` and `client_tls`. The rest of
//! `spin.toml` says how Spin runs the component; it must be well-formed, and is otherwise Spin's concern.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Table;

use crate::hosts::Pattern;
use crate::tls::Trust;

/// The component's name in the manifest.
const COMPONENT: &str = "sallyport";

/// `spin.toml`, as far as it matters here.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// Labels of key-value stores.
    pub(crate) key_value_stores: Vec<String>,
    /// Names of SQLite databases.
    pub(crate) sqlite_databases: Vec<String>,
    /// Hosts that the component may call.
    pub(crate) allowed_outbound_hosts: Vec<Pattern>,
}

/// `runtime-config.toml`, as far as it matters here.
#[derive(Debug, Default)]
pub(crate) struct RuntimeConfig {
    /// Files of key-value stores, by label.
    pub(crate) key_value_stores: HashMap<String, PathBuf>,
    /// Files of SQLite databases, by name.
    pub(crate) sqlite_databases: HashMap<String, PathBuf>,
    /// TLS settings by host name.
    pub(crate) client_tls: HashMap<String, Trust>,
    /// Networks that may not be called, besides those that never may.
    pub(crate) block_networks: Vec<ipnet::IpNet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    spin_manifest_version: u32,
    #[serde(rename = "application")]
    _application: Table,
    #[serde(default, rename = "variables")]
    _variables: Table,
    #[serde(default, rename = "trigger")]
    _trigger: Table,
    component: BTreeMap<String, RawComponent>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawComponent {
    #[serde(rename = "source")]
    _source: toml::Value,
    #[serde(default, rename = "description")]
    _description: String,
    #[serde(default, rename = "files")]
    _files: Vec<toml::Value>,
    #[serde(default, rename = "variables")]
    _variables: Table,
    #[serde(default, rename = "environment")]
    _environment: Table,
    #[serde(default, rename = "build")]
    _build: Table,
    #[serde(default)]
    allowed_outbound_hosts: Vec<String>,
    #[serde(default)]
    key_value_stores: Vec<String>,
    #[serde(default)]
    sqlite_databases: Vec<String>,
}

impl Manifest {
    /// Reads the manifest at `path`.
    pub(crate) fn read(path: &Path) -> Result<Self, Vec<String>> {
        Self::parse(&read(path)?).map_err(|faults| located(path, faults))
    }

    fn parse(text: &str) -> Result<Self, Vec<String>> {
        let raw: RawManifest = toml::from_str(text).map_err(|error| vec![one_line(&error)])?;
        let mut faults = Vec::new();
        if raw.spin_manifest_version != 2 {
            faults.push(format!("spin_manifest_version: {} is not known; write 2", raw.spin_manifest_version));
        }
        let mut components = raw.component;
        let component = components.remove(COMPONENT);
        faults
            .extend(components.into_keys().map(|other| format!("component.{other}: this host runs {COMPONENT} only")));
        let Some(component) = component else {
            faults.push(format!("component.{COMPONENT}: missing"));
            return Err(faults);
        };
        let mut allowed_outbound_hosts = Vec::new();
        for (index, host) in component.allowed_outbound_hosts.iter().enumerate() {
            match host.parse() {
                Ok(pattern) => allowed_outbound_hosts.push(pattern),
                Err(error) => faults.push(format!("component.{COMPONENT}.allowed_outbound_hosts[{index}]: {error}")),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let Component { key_value_stores, sqlite_databases } = component.into();
        Ok(Self { key_value_stores, sqlite_databases, allowed_outbound_hosts })
    }
}

struct Component {
    key_value_stores: Vec<String>,
    sqlite_databases: Vec<String>,
}

impl From<RawComponent> for Component {
    fn from(raw: RawComponent) -> Self {
        Self { key_value_stores: raw.key_value_stores, sqlite_databases: raw.sqlite_databases }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawRuntimeConfig {
    #[serde(default)]
    key_value_store: BTreeMap<String, RawStore>,
    #[serde(default)]
    sqlite_database: BTreeMap<String, RawStore>,
    #[serde(default)]
    client_tls: Vec<RawClientTls>,
    #[serde(default)]
    outbound_networking: RawOutboundNetworking,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawOutboundNetworking {
    #[serde(default)]
    block_networks: Vec<ipnet::IpNet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStore {
    r#type: String,
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClientTls {
    component_ids: Vec<String>,
    hosts: Vec<String>,
    ca_use_platform_roots: Option<bool>,
    ca_use_webpki_roots: Option<bool>,
    ca_roots_file: Option<PathBuf>,
    client_cert_file: Option<PathBuf>,
    client_private_key_file: Option<PathBuf>,
}

impl RuntimeConfig {
    /// Reads the runtime configuration at `path`; paths in it are relative to its directory.
    pub(crate) fn read(path: &Path) -> Result<Self, Vec<String>> {
        let directory = path.parent().unwrap_or(Path::new("")).to_path_buf();
        Self::parse(&read(path)?, &directory).map_err(|faults| located(path, faults))
    }

    fn parse(text: &str, directory: &Path) -> Result<Self, Vec<String>> {
        let raw: RawRuntimeConfig = toml::from_str(text).map_err(|error| vec![one_line(&error)])?;
        let mut faults = Vec::new();
        let key_value_stores = stores("key_value_store", raw.key_value_store, directory, &mut faults);
        let sqlite_databases = stores("sqlite_database", raw.sqlite_database, directory, &mut faults);
        let mut client_tls = HashMap::new();
        for (index, tls) in raw.client_tls.into_iter().enumerate() {
            if !tls.component_ids.iter().any(|id| id == COMPONENT) {
                continue;
            }
            match trust(&tls, directory) {
                Ok(trust) => {
                    for host in &tls.hosts {
                        client_tls.insert(host.to_ascii_lowercase(), trust.clone());
                    }
                }
                Err(fault) => faults.push(format!("client_tls[{index}].{fault}")),
            }
        }
        let block_networks = raw.outbound_networking.block_networks;
        if faults.is_empty() {
            Ok(Self { key_value_stores, sqlite_databases, client_tls, block_networks })
        } else {
            Err(faults)
        }
    }
}

fn stores(
    kind: &str,
    raw: BTreeMap<String, RawStore>,
    directory: &Path,
    faults: &mut Vec<String>,
) -> HashMap<String, PathBuf> {
    let mut stores = HashMap::new();
    for (label, store) in raw {
        match (store.r#type.as_str(), store.path) {
            ("spin", Some(path)) => drop(stores.insert(label, directory.join(path))),
            ("spin", None) => faults.push(format!("{kind}.{label}.path: missing")),
            (other, _) => {
                faults.push(format!("{kind}.{label}.type: `{other}` is not supported by this host; write \"spin\""));
            }
        }
    }
    stores
}

fn trust(raw: &RawClientTls, directory: &Path) -> Result<Trust, String> {
    let read = |name: &str, path: &PathBuf| {
        let path = directory.join(path);
        std::fs::read_to_string(&path).map_err(|error| format!("{name}: {}: {error}", path.display()))
    };
    let roots = raw.ca_roots_file.as_ref().map(|path| read("ca_roots_file", path)).transpose()?;
    let identity = match (&raw.client_cert_file, &raw.client_private_key_file) {
        (None, None) => None,
        (Some(chain), Some(key)) => Some((read("client_cert_file", chain)?, read("client_private_key_file", key)?)),
        (Some(_), None) => return Err("client_private_key_file: missing; client_cert_file is there".to_owned()),
        (None, Some(_)) => return Err("client_cert_file: missing; client_private_key_file is there".to_owned()),
    };
    // As in Spin: own roots replace the common ones unless those are asked for. Ours are the system's, or, on a machine
    // that has none, webpki's; so either word asks for them.
    let asked = match (raw.ca_use_platform_roots, raw.ca_use_webpki_roots) {
        (None, None) => None,
        (platform, webpki) => Some(platform == Some(true) || webpki == Some(true)),
    };
    let only_these_roots = !asked.unwrap_or(roots.is_none());
    Ok(Trust { roots, only_these_roots, identity, ..Trust::default() })
}

fn read(path: &Path) -> Result<String, Vec<String>> {
    std::fs::read_to_string(path).map_err(|error| vec![format!("{}: {error}", path.display())])
}

fn located(path: &Path, faults: Vec<String>) -> Vec<String> {
    faults.into_iter().map(|fault| format!("{}: {fault}", path.display())).collect()
}

/// The parser's message without the excerpt it draws.
fn one_line(error: &toml::de::Error) -> String {
    error.message().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
        spin_manifest_version = 2
        [application]
        name = "sallyport"
        [component.sallyport]
        source = "sallyport.wasm"
        allowed_outbound_hosts = ["https://api.example.com", "*://*.internal:*"]
        key_value_stores = ["default"]
        sqlite_databases = ["default"]
    "#;

    #[test]
    fn a_manifest_yields_what_the_host_honours() {
        let manifest = Manifest::parse(MANIFEST).expect("a manifest");
        assert_eq!(manifest.key_value_stores, ["default"]);
        assert_eq!(manifest.sqlite_databases, ["default"]);
        assert!(manifest.allowed_outbound_hosts[1].matches("http", "a.internal", 1));
    }

    #[test]
    fn the_committed_files_are_understood() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        Manifest::read(&root.join("spin.toml")).expect("spin.toml");
        RuntimeConfig::read(&root.join("runtime-config.toml")).expect("runtime-config.toml");
    }

    #[test]
    fn what_the_manifest_should_not_have_is_named() {
        for (from, to, named) in [
            ("[application]", "[applications]\n[application]", "applications"),
            ("key_value_stores", "key_value_store", "key_value_store"),
            ("spin_manifest_version = 2", "spin_manifest_version = 1", "spin_manifest_version"),
            ("component.sallyport", "component.other", "component.other"),
            ("https://api.example.com", "api.example.com", "allowed_outbound_hosts[0]"),
        ] {
            let faults = Manifest::parse(&MANIFEST.replace(from, to)).expect_err(to).join("; ");
            assert!(faults.contains(named), "{faults}");
        }
    }

    #[test]
    fn what_the_runtime_configuration_should_not_have_is_named() {
        for (text, named) in [
            ("[llm_compute]\ntype = \"spin\"", "llm_compute"),
            ("[key_value_store.default]\ntype = \"redis\"\npath = \"x\"", "key_value_store.default.type"),
            ("[sqlite_database.default]\ntype = \"spin\"", "sqlite_database.default.path"),
            ("[sqlite_database.default]\ntype = \"spin\"\npath = \"x\"\nurl = \"y\"", "url"),
            (
                "[[client_tls]]\ncomponent_ids = [\"sallyport\"]\nhosts = [\"a\"]\nclient_cert_file = \"c\"",
                "client_private_key_file",
            ),
        ] {
            let faults = RuntimeConfig::parse(text, Path::new("/")).expect_err(text).join("; ");
            assert!(faults.contains(named), "{faults}");
        }
    }

    #[test]
    fn paths_are_relative_to_the_file_that_names_them() {
        let text = "[key_value_store.default]\ntype = \"spin\"\npath = \"kv.db\"";
        let config = RuntimeConfig::parse(text, Path::new("/etc/sallyport")).expect("a configuration");
        assert_eq!(config.key_value_stores["default"], Path::new("/etc/sallyport/kv.db"));
    }
}
