//! Everything that is decided before the start: `gateway.yaml` with its variables and files, and what follows from it.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sallyport::config::{self, AnthropicAuth, Config, Fault, GoogleAuth, Provider, Sources};
use sallyport::ports::Files;
use sallyport::upstream::credentials;

use crate::private;
use crate::{console, environment};

/// Stands in for a secret that is not there: long enough for any.
const STAND_IN: &str = "not-defined-here-not-defined-here-not-defined-here-not-defined-here";

/// Faults or warnings about the configuration at `path`, each with its place there.
pub(crate) fn lines(path: &Path, faults: &[Fault]) -> Vec<String> {
    let file = path.display().to_string();
    faults.iter().map(|fault| fault.located(&file)).collect()
}

/// A configuration and what it was made of.
pub(crate) struct Settings {
    /// Its text, which the component parses again.
    pub(crate) text: String,
    /// What it means.
    pub(crate) config: Config,
    /// Risky but legal choices.
    pub(crate) warnings: Vec<Fault>,
    /// Values of the variables that it mentions.
    pub(crate) variables: HashMap<String, String>,
    /// Files that were read to understand it: `${file:…}` and `managed.settings`.
    pub(crate) sources: BTreeSet<PathBuf>,
    /// Files that the component must be able to read: paths as the configuration has them.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Whether loopback targets are allowed.
    pub(crate) allow_loopback: bool,
}

impl Settings {
    /// Reads and parses the file at `path`. Every fault is one line.
    pub(crate) fn read(
        path: &Path,
        extra_variables: &[(String, String)],
        allow_loopback: bool,
    ) -> Result<Self, Vec<String>> {
        let text = Self::text(path).map_err(|fault| vec![fault])?;
        Self::parse(text, extra_variables, allow_loopback).map_err(|faults| lines(path, &faults))
    }

    /// The text at `path`.
    pub(crate) fn text(path: &Path) -> Result<String, String> {
        std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read the configuration {}: {error}", path.display()))
    }

    /// Parses `text`. Variables are those of the environment, and `extra_variables`.
    pub(crate) fn parse(
        text: String,
        extra_variables: &[(String, String)],
        allow_loopback: bool,
    ) -> Result<Self, Vec<Fault>> {
        let mut variables = environment::mentioned(&config::variables(&text));
        variables.extend(extra_variables.iter().cloned());
        let files = RecordedFiles::default();
        let sources = Sources { variables: variables.clone(), files: &files, allow_loopback };
        let loaded = config::parse(&text, &sources)?;
        let sources = files.0.into_inner().unwrap_or_default();
        let mut files = sources.clone();
        files.extend(credential_files(&loaded.config));
        Ok(Self { text, config: loaded.config, warnings: loaded.warnings, variables, sources, files, allow_loopback })
    }

    /// Reads the file at `path` for a look at what it means, where its secrets do not matter: variables and files that
    /// are not there get a stand-in. Where that does not do, what is not there is a fault.
    pub(crate) fn read_leniently(path: &Path) -> Result<Self, Vec<String>> {
        let text = Self::text(path).map_err(|fault| vec![fault])?;
        let missing = |name: &String| (name.clone(), STAND_IN.to_owned());
        let mut variables: HashMap<_, _> = config::variables(&text).iter().map(missing).collect();
        variables.extend(environment::mentioned(&config::variables(&text)));
        let sources = Sources { variables: variables.clone(), files: &LenientFiles, allow_loopback: true };
        match config::parse(&text, &sources) {
            Ok(loaded) => Ok(Self {
                text,
                config: loaded.config,
                warnings: loaded.warnings,
                variables,
                sources: BTreeSet::new(),
                files: BTreeSet::new(),
                allow_loopback: true,
            }),
            Err(faults) => {
                // Of what is not there, only what a stand-in does not do for.
                let strict = Self::parse(text, &[], true).err().unwrap_or_default();
                let is_needed = |missing: &&Fault| faults.iter().any(|fault| fault.path == missing.path);
                let needed: Vec<Fault> = strict.iter().filter(is_needed).cloned().collect();
                Err(lines(path, if needed.is_empty() { &faults } else { &needed }))
            }
        }
    }

    /// The address of PostgreSQL, if the store is there. After [`Self::read_leniently`] it may lack a part.
    pub(crate) fn postgres_url(&self) -> Result<Option<&str>, String> {
        match self.config.store.postgres_url.as_ref().map(|address| address.reveal().as_str()) {
            Some(address) if address.contains(STAND_IN) => {
                Err("store.postgres_url mentions a variable or file that is not there".to_owned())
            }
            address => Ok(address),
        }
    }

    /// Writes the part of the file system that the component sees, below `state`, and says what is to be mounted where.
    pub(crate) fn mount(&self, state: &Path) -> std::io::Result<Mounts> {
        let snapshot = Snapshot::create(state)?;
        std::fs::write(snapshot.0.join("gateway.yaml"), &self.text)?;
        let mut directories = vec![(snapshot.0.clone(), "/".to_owned())];
        let mut parents = BTreeSet::new();
        for file in &self.files {
            if file.is_absolute() {
                parents.extend(file.parent().map(Path::to_path_buf));
            } else if let Some(parent) = file.parent() {
                // The component's working directory is its root.
                std::fs::create_dir_all(snapshot.0.join(parent))?;
                std::fs::copy(file, snapshot.0.join(file))?;
            }
        }
        for parent in parents {
            // A token that does not exist yet cannot be read yet; its directory must be there.
            if parent.is_dir() && parent != Path::new("/") {
                let path = parent.display().to_string();
                directories.push((parent, path));
            }
        }
        Ok(Mounts { directories, _snapshot: snapshot })
    }

    /// The environment of the component.
    pub(crate) fn environment(&self, control: &str) -> Vec<(String, String)> {
        let mut environment: HashMap<String, String> = credentials::VARIABLES
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), environment::find(name)?)))
            .collect();
        environment.extend(self.variables.clone());
        if let Some(level) = environment::find("CLAUDE_GATEWAY_LOG_LEVEL") {
            environment.insert("CLAUDE_GATEWAY_LOG_LEVEL".to_owned(), level);
        }
        let allow_loopback = if self.allow_loopback { "1" } else { "0" };
        environment.insert("CLAUDE_GATEWAY_ALLOW_LOOPBACK".to_owned(), allow_loopback.to_owned());
        environment.insert("SALLYPORT_CONTROL".to_owned(), control.to_owned());
        if console::format() == sallyport::log::Format::Json {
            environment.insert("SALLYPORT_LOG_FORMAT".to_owned(), "json".to_owned());
        }
        if self.config.observability.metrics.is_some() {
            environment.insert("SALLYPORT_FIGURES".to_owned(), "1".to_owned());
        }
        environment.into_iter().collect()
    }
}

/// What the component sees of the file system.
pub(crate) struct Mounts {
    /// Directories and their paths in the component.
    pub(crate) directories: Vec<(PathBuf, String)>,
    _snapshot: Snapshot,
}

/// A private directory that lasts as long as the configuration is in use.
struct Snapshot(PathBuf);

impl Snapshot {
    fn create(state: &Path) -> std::io::Result<Self> {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let all = state.join("snapshots");
        private::create_directory(&all)?;
        remove_abandoned(&all);
        // One for each configuration that this process has had.
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let own = all.join(format!("{}-{number}", std::process::id()));
        // Left by an earlier process with our number.
        if own.exists() {
            std::fs::remove_dir_all(&own)?;
        }
        private::create_directory(&own)?;
        Ok(Self(own.canonicalize()?))
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next start.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Removes what processes that were killed left behind. Where there is no `/proc`, nothing is known to be abandoned.
fn remove_abandoned(all: &Path) {
    let Ok(entries) = std::fs::read_dir(all) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let process = Path::new("/proc").join(name.split('-').next().unwrap_or_default());
        if Path::new("/proc/self").exists() && !process.exists() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The file system, remembering which files were asked for.
#[derive(Default)]
struct RecordedFiles(Mutex<BTreeSet<PathBuf>>);

impl Files for RecordedFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        if let Ok(mut asked) = self.0.lock() {
            asked.insert(PathBuf::from(path));
        }
        std::fs::read(path).map_err(|error| error.to_string())
    }
}

/// The file system, as if every file were there.
struct LenientFiles;

impl Files for LenientFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        Ok(std::fs::read(path).unwrap_or_else(|_| STAND_IN.into()))
    }
}

/// Files that the component reads when it needs a credential: tokens rotate on disk.
fn credential_files(config: &Config) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for upstream in &config.upstreams {
        match &upstream.provider {
            Provider::Anthropic { auth: AnthropicAuth::WorkloadIdentity { identity_token_file, .. }, .. } => {
                files.push(identity_token_file.into());
            }
            Provider::Vertex { auth: GoogleAuth::ServiceAccountFile(path), .. }
            | Provider::AnthropicGoogleCloud { auth: GoogleAuth::ServiceAccountFile(path), .. } => {
                files.push(path.into());
            }
            _ => {}
        }
    }
    for collector in &config.telemetry.forward_to {
        if let Some(GoogleAuth::ServiceAccountFile(path)) = &collector.google {
            files.push(path.into());
        }
    }
    for google in config.oidc.iter().filter_map(|provider| provider.google_groups.as_ref()) {
        files.push(google.service_account_json_path.clone().into());
    }
    files.extend(environment::CREDENTIAL_FILES.into_iter().filter_map(environment::find).map(PathBuf::from));
    files
}
