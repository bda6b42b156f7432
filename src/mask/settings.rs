//! What an operator may choose about masking, and the check of it: [`Settings`] become [`Rules`], or a list of faults.
//!
//! How the section is written in `gateway.yaml` is the business of `config`.

use std::net::IpAddr;

use ipnet::IpNet;
use regex::bytes::RegexBuilder;
use regex_syntax::hir::{Hir, HirKind};

use super::find::{Custom, Finder};
use super::kinds::{Family, KINDS};

/// The section `masking`.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whether requests are changed.
    pub mode: Mode,
    /// Families (`aws`) and single kinds (`aws.ec2_instance`) that are masked.
    pub kinds: Vec<String>,
    /// What happens to secrets.
    pub secrets: Secrets,
    /// Patterns of the organisation's own. They are masked whatever `kinds` says.
    pub custom: Vec<CustomPattern>,
    /// Values that are never masked: exact ones, CIDR ranges, and patterns with `*`.
    pub allow: Vec<String>,
    /// Names of the upstreams for which requests are masked; empty means all.
    pub upstreams: Vec<String>,
    /// Groups whose members' requests are not masked.
    pub skip_groups: Vec<String>,
    /// The longest body that is masked, in bytes; longer ones are refused.
    pub max_body_bytes: usize,
}

/// `masking.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Identifiers are replaced; what cannot be masked is refused.
    #[default]
    Enforce,
    /// Identifiers are counted and nothing is changed.
    Shadow,
    /// Nothing happens.
    Off,
}

impl Mode {
    /// Its name in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
            Self::Off => "off",
        }
    }
}

/// `masking.secrets`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Secrets {
    /// A secret is replaced by a note, for good.
    #[default]
    Redact,
    /// A secret is replaced by a token and restored in the answer.
    Mask,
    /// A request with a secret is refused.
    Block,
}

/// An element of `masking.custom`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomPattern {
    /// What the pattern is called in receipts and metrics, behind `custom.`.
    pub name: String,
    /// A regular expression in the syntax of the crate `regex`.
    pub pattern: String,
}

/// Bodies up to this size are masked unless configured otherwise: the Messages API accepts no more (32 MB).
pub const DEFAULT_MAX_BODY_BYTES: usize = 32 * 1024 * 1024;

/// A compiled pattern may take this much memory.
const MAX_PATTERN_BYTES: usize = 256 * 1024;
/// A pattern may be written with so many characters.
const MAX_PATTERN_LENGTH: usize = 1000;
/// There may be so many patterns; each is a pass over the text.
const MAX_PATTERNS: usize = 32;
/// Shorter values could not be told apart once they are masked.
const MIN_MATCH: usize = 4;

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::default(),
            kinds: Family::ALL.map(|family| family.name().to_owned()).to_vec(),
            secrets: Secrets::default(),
            custom: Vec::new(),
            allow: Vec::new(),
            upstreams: Vec::new(),
            skip_groups: Vec::new(),
            max_body_bytes: DEFAULT_MAX_BODY_BYTES,
        }
    }
}

/// What may stand in [`Settings::kinds`]: families, then kinds.
pub fn kind_names() -> impl Iterator<Item = &'static str> {
    Family::ALL.into_iter().map(Family::name).chain(KINDS.iter().map(|kind| kind.name))
}

/// Settings without faults, ready to use.
#[derive(Clone)]
pub struct Rules {
    pub(crate) mode: Mode,
    pub(crate) secrets: Secrets,
    pub(crate) finder: Finder,
    pub(crate) allow: Vec<Allowed>,
    pub(crate) max_body_bytes: usize,
    upstreams: Vec<String>,
    skip_groups: Vec<String>,
}

/// An element of `masking.allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Allowed {
    Range(IpNet),
    /// The pieces around each `*`; one piece is an exact value.
    Text(Vec<String>),
}

impl Settings {
    /// Checks everything and prepares it. Each fault is the path below `masking` and what is wrong there.
    pub fn compile(&self) -> Result<Rules, Vec<(String, String)>> {
        let mut faults = Vec::new();
        let enabled = self.enabled(&mut faults);
        let custom = self.compile_custom(&mut faults);
        let allow = self.compile_allow(&mut faults);
        if self.max_body_bytes == 0 {
            faults.push(("max_body_bytes".to_owned(), "must be at least 1".to_owned()));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Rules {
            mode: self.mode,
            secrets: self.secrets,
            finder: Finder::new(enabled, custom),
            allow,
            max_body_bytes: self.max_body_bytes,
            upstreams: self.upstreams.clone(),
            skip_groups: self.skip_groups.clone(),
        })
    }

    fn enabled(&self, faults: &mut Vec<(String, String)>) -> Vec<bool> {
        for (index, name) in self.kinds.iter().enumerate() {
            if !kind_names().any(|known| known == name) {
                let families = Family::ALL.map(Family::name).join(", ");
                let message =
                    format!("no such kind: {name:?}; use a family ({families}) or a kind such as \"aws.ec2_instance\"");
                faults.push((format!("kinds[{index}]"), message));
            }
        }
        let wanted = |name: &str| self.kinds.iter().any(|kind| kind == name);
        KINDS.iter().map(|kind| wanted(kind.name) || wanted(kind.family.name())).collect()
    }

    fn compile_custom(&self, faults: &mut Vec<(String, String)>) -> Vec<Custom> {
        let mut compiled: Vec<Custom> = Vec::new();
        if self.custom.len() > MAX_PATTERNS {
            faults.push(("custom".to_owned(), format!("at most {MAX_PATTERNS} patterns")));
            return compiled;
        }
        for (index, CustomPattern { name, pattern }) in self.custom.iter().enumerate() {
            let full = format!("custom.{name}");
            let is_name = !name.is_empty()
                && name.len() <= 64
                && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
            if !is_name {
                faults.push((format!("custom[{index}].name"), "must be 1 to 64 of a-z, 0-9 and _".to_owned()));
            } else if self.custom[..index].iter().any(|earlier| earlier.name == *name) {
                faults.push((format!("custom[{index}].name"), format!("{name:?} is used twice")));
            }
            match compile_pattern(pattern) {
                Ok((regex, keep)) => compiled.push(Custom { name: full, regex, keep }),
                Err(message) => faults.push((format!("custom[{index}].pattern"), message)),
            }
        }
        compiled
    }

    fn compile_allow(&self, faults: &mut Vec<(String, String)>) -> Vec<Allowed> {
        let mut compiled = Vec::new();
        for (index, entry) in self.allow.iter().enumerate() {
            let address = entry.parse::<IpAddr>().map(IpNet::from);
            if let Ok(range) = entry.parse::<IpNet>().or(address) {
                compiled.push(Allowed::Range(range));
            } else if entry.bytes().all(|byte| byte == b'*') {
                let message = "would allow everything; use \"mode: off\" if that is meant";
                faults.push((format!("allow[{index}]"), message.to_owned()));
            } else {
                compiled.push(Allowed::Text(entry.split('*').map(str::to_owned).collect()));
            }
        }
        compiled
    }
}

/// The pattern, and how many bytes all its matches begin with.
fn compile_pattern(pattern: &str) -> Result<(regex::bytes::Regex, usize), String> {
    if pattern.len() > MAX_PATTERN_LENGTH {
        return Err(format!("longer than {MAX_PATTERN_LENGTH} characters"));
    }
    let hir =
        regex_syntax::parse(pattern).map_err(|error| format!("does not compile: {}", last_line(&error.to_string())))?;
    match hir.properties().minimum_len() {
        Some(0) | None => return Err("matches the empty string".to_owned()),
        Some(length) if length < MIN_MATCH => {
            return Err(format!(
                "matches as few as {length} bytes; at least {MIN_MATCH} are needed to tell tokens apart"
            ));
        }
        Some(_) => {}
    }
    let regex = RegexBuilder::new(pattern).size_limit(MAX_PATTERN_BYTES).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            "too costly: it compiles to more than 256 KiB; use smaller repetitions".to_owned()
        }
        other => format!("does not compile: {}", last_line(&other.to_string())),
    })?;
    Ok((regex, literal_prefix(&hir)))
}

/// The parser's messages draw the pattern; the last line says what is wrong.
fn last_line(message: &str) -> &str {
    message.lines().last().unwrap_or_default().trim_start_matches("error: ")
}

/// How many bytes all matches begin with, as far as they need no escape in JSON: a token keeps them.
fn literal_prefix(hir: &Hir) -> usize {
    let plain = |literal: &[u8]| {
        literal.iter().take_while(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')).count()
    };
    match hir.kind() {
        HirKind::Literal(literal) => plain(&literal.0),
        HirKind::Concat(parts) => {
            let assertions = parts.iter().take_while(|part| matches!(part.kind(), HirKind::Look(_))).count();
            match parts[assertions..].first().map(Hir::kind) {
                Some(HirKind::Literal(literal)) => plain(&literal.0),
                _ => 0,
            }
        }
        HirKind::Capture(capture) => literal_prefix(&capture.sub),
        _ => 0,
    }
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Rules")
            .field("mode", &self.mode)
            .field("secrets", &self.secrets)
            .finish_non_exhaustive()
    }
}

impl Rules {
    /// Whether requests to the upstream `upstream` by a member of `groups` are masked (or, in shadow mode, counted).
    pub fn apply_to<'a>(&self, upstream: &str, mut groups: impl Iterator<Item = &'a str>) -> bool {
        self.mode != Mode::Off
            && (self.upstreams.is_empty() || self.upstreams.iter().any(|name| name == upstream))
            && !groups.any(|group| self.skip_groups.iter().any(|skipped| skipped == group))
    }

    /// The upstreams for which requests are masked; empty means all.
    pub fn upstreams(&self) -> &[String] {
        &self.upstreams
    }

    /// The mode.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the address, or with `bits` the network, is on the allow list.
    pub(crate) fn allows_address(&self, address: IpAddr, bits: Option<u32>) -> bool {
        self.allow.iter().any(|allowed| match allowed {
            Allowed::Range(range) => {
                range.contains(&address) && bits.is_none_or(|bits| u32::from(range.prefix_len()) <= bits)
            }
            Allowed::Text(_) => false,
        })
    }

    /// Whether the value is on the allow list.
    pub(crate) fn allows(&self, value: &[u8]) -> bool {
        self.allow.iter().any(|allowed| match allowed {
            Allowed::Range(_) => false,
            Allowed::Text(pieces) => fits(pieces, value),
        })
    }
}

/// Whether `value` consists of `pieces` with anything in between. Taking the first place for each piece finds a way if
/// there is one.
fn fits(pieces: &[String], value: &[u8]) -> bool {
    let [first, middle @ .., last] = pieces else {
        return pieces.first().is_some_and(|only| only.as_bytes() == value);
    };
    let Some(mut rest) = value.strip_prefix(first.as_bytes()).and_then(|rest| rest.strip_suffix(last.as_bytes()))
    else {
        return false;
    };
    for piece in middle {
        let Some(at) = memchr::memmem::find(rest, piece.as_bytes()) else { return false };
        rest = &rest[at + piece.len()..];
    }
    true
}

#[cfg(test)]
#[path = "settings/tests.rs"]
mod tests;
