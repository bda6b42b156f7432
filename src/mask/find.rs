//! Finds identifiers in text. One pass looks for the literals with which they begin (`anchors`); only there, the
//! exact format is checked, by a few comparisons or by a regular expression. Time is linear in the text.
//!
//! What a finding becomes is decided in `request`; what exists is listed in `kinds` and `formats`.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use regex::bytes::Regex;

use super::anchors::Anchors;
use super::exact::{accounts, dns_name, private_key, resource_id, v4, v6};
use super::formats::{Begin, FORMATS, expand, part};
use super::json_text::Piece;
use super::kinds::{KINDS, KindId, RESOURCE, id};
use super::token::Form;
use super::{arn, boundary};

/// An identifier in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Match {
    /// Its first byte.
    pub(crate) start: usize,
    /// Behind its last byte.
    pub(crate) end: usize,
    /// A row of [`KINDS`]; custom kinds follow the built-in ones.
    pub(crate) kind: KindId,
    /// How its token is made.
    pub(crate) shape: Shape,
}

/// How a token is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// In this form.
    Form(Form),
    /// Account ids, one or several, also in the form `1234-5678-9012`; exists only until they are told apart.
    Accounts,
    /// An account id in the form `1234-5678-9012`.
    Dashed,
    /// Names between slashes; exists only until they are told apart.
    Path,
    /// An access key id; its first four characters say of which sort.
    AccessKey,
    /// A secret.
    Secret,
    /// An IPv4 address; with a prefix length when it is a network, all of whose host bits are zero.
    V4(Ipv4Addr, Option<u32>),
    /// An address in a name: `ip-10-0-1-5`.
    DnsName(Ipv4Addr),
    /// The same for IPv6.
    V6(Ipv6Addr, Option<u32>),
    /// Like the value, whose first so many bytes stay.
    Alike(usize),
}

/// A pattern of the operator's own.
#[derive(Debug, Clone)]
pub(crate) struct Custom {
    /// `custom.` and the configured name.
    pub(crate) name: String,
    /// What it matches; never the empty string.
    pub(crate) regex: Regex,
    /// How many bytes of every match are the same.
    pub(crate) keep: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Identifiers.
    pub(crate) matches: Vec<Match>,
    /// Where the ARNs and host names lie to which some of them belong: the allow list speaks of these as a whole.
    pub(crate) wholes: Vec<(usize, usize)>,
}

/// Everything that is looked for.
#[derive(Debug, Clone)]
pub(crate) struct Finder {
    anchors: Anchors,
    /// For each anchor, what may begin there.
    probes: Vec<Vec<Probe>>,
    formats: Vec<Compiled>,
    /// For each built-in kind, whether it is wanted.
    enabled: Vec<bool>,
    custom: Vec<Custom>,
}

#[derive(Debug, Clone)]
struct Compiled {
    regex: Regex,
    begin: Begin,
    /// Number, kind and shape of each group.
    groups: Vec<(usize, KindId, Shape)>,
}

#[derive(Debug, Clone, Copy)]
enum Probe {
    Id(KindId, usize),
    Arn,
    V4,
    V6,
    DnsName,
    PrivateKey,
    Format(usize),
}

impl Finder {
    /// A finder for the kinds that are `enabled` and for `custom` ones.
    pub(crate) fn new(enabled: Vec<bool>, custom: Vec<Custom>) -> Self {
        let mut anchors: Vec<String> = Vec::new();
        let mut probes: Vec<Vec<Probe>> = Vec::new();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut add = |anchor: &str, probe: Probe| {
            let number = *numbers.entry(anchor.to_ascii_lowercase()).or_insert_with(|| {
                anchors.push(anchor.to_owned());
                probes.push(Vec::new());
                anchors.len() - 1
            });
            probes[number].push(probe);
        };
        for (kind, row) in KINDS.iter().enumerate().filter(|(kind, _)| enabled[*kind]) {
            for (index, form) in row.ids.iter().enumerate() {
                add(form.prefix, Probe::Id(kind, index));
            }
        }
        if enabled[id("aws.arn")] || enabled[id("aws.account_id")] || enabled[id("aws.s3_bucket")] {
            add("arn:aws", Probe::Arn);
        }
        if enabled[id("private_ip.v4")] {
            for anchor in ["10.", "172.", "192.168.", "100."] {
                add(anchor, Probe::V4);
            }
        }
        if enabled[id("private_ip.v6")] {
            for anchor in ["fc", "fd"] {
                add(anchor, Probe::V6);
            }
        }
        if enabled[id("private_ip.dns_name")] {
            for anchor in ["ip-10-", "ip-172-", "ip-192-168-", "ip-100-"] {
                add(anchor, Probe::DnsName);
            }
        }
        if enabled[id("secrets.private_key")] {
            add("-----BEGIN ", Probe::PrivateKey);
        }
        let mut formats = Vec::new();
        for format in FORMATS {
            let regex = Regex::new(&expand(format.pattern)).expect("the built-in formats are tested");
            let groups: Vec<_> = (regex.capture_names().enumerate())
                .filter_map(|(number, name)| name.and_then(part).map(|(kind, shape)| (number, kind, shape)))
                .collect();
            if groups.iter().any(|(_, kind, _)| enabled[*kind]) {
                format.anchors.iter().for_each(|anchor| add(anchor, Probe::Format(formats.len())));
                formats.push(Compiled { regex, begin: format.begin, groups });
            }
        }
        let anchors = Anchors::new(anchors.into_iter().map(String::into_bytes).collect());
        Self { anchors, probes, formats, enabled, custom }
    }

    /// The name of a kind, built-in or custom.
    pub(crate) fn kind_name(&self, kind: KindId) -> &str {
        KINDS.get(kind).map_or_else(|| self.custom[kind - KINDS.len()].name.as_str(), |row| row.name)
    }

    /// All identifiers in `text`, whose strings are `strings`; unsorted, and they may overlap: see [`resolve`].
    pub(crate) fn find(&self, text: &[u8], strings: &[Piece]) -> Found {
        let mut found = Found::default();
        // Where the latest long match of each format ends. Anchors inside of it are not tried again: what may be long
        // is read once, whatever it contains. The last element is that of ARNs.
        let mut behind = vec![0; self.formats.len() + 1];
        self.anchors.find(text, |anchor, start| {
            for probe in &self.probes[anchor] {
                self.probe(*probe, text, start, &mut found, &mut behind);
            }
        });
        let Found { mut matches, wholes } = found;
        for (number, custom) in self.custom.iter().enumerate() {
            for piece in strings {
                let found = custom.regex.find_iter(&text[piece.start..piece.end]).filter(|found| !found.is_empty());
                matches.extend(found.map(|found| Match {
                    start: piece.start + found.start(),
                    end: piece.start + found.end(),
                    kind: KINDS.len() + number,
                    shape: Shape::Alike(custom.keep),
                }));
            }
        }
        matches.retain(|found| found.kind >= KINDS.len() || self.enabled[found.kind]);
        Found { matches, wholes }
    }

    fn probe(&self, probe: Probe, text: &[u8], start: usize, found: &mut Found, behind: &mut [usize]) {
        let single = match probe {
            Probe::Id(kind, form) => resource_id(text, start, kind, form),
            Probe::V4 => v4(text, start),
            Probe::V6 => v6(text, start),
            Probe::DnsName => dns_name(text, start),
            Probe::PrivateKey => private_key(text, start),
            Probe::Arn => {
                if start >= behind[self.formats.len()]
                    && boundary::begins(text, start)
                    && let Some(end) = arn::find(text, start, &mut found.matches)
                {
                    behind[self.formats.len()] = end;
                    found.wholes.push((start, end));
                }
                None
            }
            Probe::Format(number) => {
                if start >= behind[number] {
                    behind[number] = Self::format(&self.formats[number], text, start, found);
                }
                None
            }
        };
        found.matches.extend(single);
    }

    /// Tries a format at an anchor; where the last of what it found ends, or zero.
    fn format(format: &Compiled, text: &[u8], anchor: usize, found: &mut Found) -> usize {
        let start = match format.begin {
            Begin::Anchor => anchor,
            Begin::Word if boundary::begins(text, anchor) => anchor,
            Begin::Word => return 0,
            Begin::Host => boundary::host_start(text, 0, anchor),
        };
        // No format reaches further than a session token.
        let window = &text[start..text.len().min(start + 8192)];
        let Some(captures) = format.regex.captures(window) else { return 0 };
        let mut behind = 0;
        if format.begin == Begin::Host {
            let is_host = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
            found.wholes.push((start, start + window.iter().take_while(is_host).count()));
        }
        let matches = &mut found.matches;
        for (group, kind, shape) in &format.groups {
            let Some(group) = captures.get(*group) else { continue };
            let (from, to) = (start + group.start(), start + group.end());
            behind = to;
            let is_whole = match shape {
                Shape::Secret => text
                    .get(to)
                    .is_none_or(|byte| !matches!(byte, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'+')),
                _ => boundary::ends(text, to),
            };
            match shape {
                _ if !is_whole || !boundary::begins(text, from) => {}
                Shape::Accounts => accounts(text, from, to, matches),
                Shape::Path => {
                    let mut at = from;
                    for name in text[from..to].split(|byte| *byte == b'/') {
                        matches.push(Match {
                            start: at,
                            end: at + name.len(),
                            kind: *kind,
                            shape: Shape::Form(RESOURCE),
                        });
                        at += name.len() + 1;
                    }
                }
                _ => matches.push(Match { start: from, end: to, kind: *kind, shape: *shape }),
            }
        }
        behind
    }
}

/// Keeps the longest of those that overlap, and brings them into order.
pub(crate) fn resolve(matches: &mut Vec<Match>) {
    matches.sort_unstable_by_key(|found| (found.start, std::cmp::Reverse(found.end), found.kind));
    let mut kept: usize = 0;
    for index in 0..matches.len() {
        let found = matches[index];
        match matches[..kept].last() {
            Some(last) if found.start < last.end => {
                if found.end - found.start > last.end - last.start {
                    matches[kept - 1] = found;
                }
            }
            _ => {
                matches[kept] = found;
                kept += 1;
            }
        }
    }
    matches.truncate(kept);
}
