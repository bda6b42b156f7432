//! Masking one request body: what was found becomes tokens, in place, and the map back is made.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bytes::Bytes;

use super::anchors::Beginnings;
use super::find::{Found, Match, Shape, resolve};
use super::json_text::{Edit, JsonError, Moves, Texts};
use super::kinds::{ACCOUNT, AKIA, ASIA, Family, KINDS, KindId, RESOURCE, SECRET, id};
use super::lexicon::{Edge, Lexicon};
use super::restore::Restorer;
use super::settings::{Mode, Rules, Secrets};
use super::token::{Form, Key, alike};
use super::zone::Zone;
use super::{Receipt, address, boundary};

/// More distinct identifiers than this in one request are not masked but refused; 32 MB of nothing but identifiers.
const MAX_IDENTIFIERS: usize = 500_000;
/// How often another token is tried when one is taken.
const MAX_ATTEMPTS: u8 = 64;

/// Masks request bodies. One serves all requests of an instance.
#[derive(Clone)]
pub struct Masker {
    rules: Arc<Rules>,
    key: Key,
}

/// A request body that may leave, and what is needed to read its answer.
#[derive(Debug)]
pub struct Masked {
    /// The body; the very bytes that came in if there was nothing to mask.
    pub body: Bytes,
    /// Puts the identifiers back into the answer.
    pub restorer: Restorer,
    /// What was masked.
    pub receipt: Receipt,
    moves: Moves,
}

impl Masked {
    /// Where in the body the byte is that was at `offset`, outside of all identifiers.
    pub fn place(&self, offset: usize) -> usize {
        self.moves.place(offset)
    }
}

/// Why a request cannot be masked; in `enforce` mode it must not leave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The body is not JSON, or nested too deeply.
    #[error("masking: the request body cannot be read: {0}")]
    Unreadable(String),
    /// The body is longer than `max_body_bytes`.
    #[error("masking: the request body is longer than {0} bytes")]
    TooLong(usize),
    /// There are more identifiers than can be told apart.
    #[error("masking: too many identifiers in one request")]
    TooMany,
    /// The configuration forbids secrets, and here is one of this kind.
    #[error("masking: the request contains a secret ({0}); remove it and try again")]
    Secret(String),
}

impl Refused {
    /// The reason in one word, for the audit trail.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "unreadable",
            Self::TooLong(_) => "too_long",
            Self::TooMany => "too_many",
            Self::Secret(_) => "secret",
        }
    }
}

impl Masker {
    /// A masker for the organisation whose secret `key` is: 32 random bytes.
    pub fn new(rules: impl Into<Arc<Rules>>, key: [u8; 32]) -> Self {
        Self { rules: rules.into(), key: Key::new(&key) }
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Masks the body of `POST /v1/messages` or `count_tokens`.
    ///
    /// In shadow mode the body stays as it is, the receipt says what would have been masked, and nothing is refused.
    pub fn mask_request(&self, body: &Bytes) -> Result<Masked, Refused> {
        match self.rules.mode {
            Mode::Off => Ok(self.unchanged(body, Receipt::default())),
            Mode::Enforce => self.mask(body),
            Mode::Shadow => {
                let receipt = self.mask(body).map(|masked| masked.receipt).unwrap_or_default();
                Ok(self.unchanged(body, receipt))
            }
        }
    }

    fn unchanged(&self, body: &Bytes, receipt: Receipt) -> Masked {
        let restorer = Restorer::new(Lexicon::default().seal(), self.key.clone(), receipt.clone());
        Masked { body: body.clone(), restorer, receipt, moves: Moves::default() }
    }

    fn mask(&self, body: &Bytes) -> Result<Masked, Refused> {
        if body.len() > self.rules.max_body_bytes {
            return Err(Refused::TooLong(self.rules.max_body_bytes));
        }
        let texts =
            Texts::read(body, Zone::Request).map_err(|error: JsonError| Refused::Unreadable(error.to_string()))?;
        let Found { mut matches, wholes } = self.rules.finder.find(&texts.text, &texts.strings);
        let mut allowed: Vec<_> =
            wholes.into_iter().filter(|(start, end)| self.rules.allows(&texts.text[*start..*end])).collect();
        allowed.sort_unstable();
        allowed.dedup();
        matches.retain(|found| {
            let before = allowed.partition_point(|(start, _)| *start <= found.start);
            let is_inside = allowed[..before].iter().rev().take(4).any(|(_, end)| found.end <= *end);
            !is_inside && !self.is_allowed(&texts.text, found)
        });
        resolve(&mut matches);
        let learned = learn(&texts.text, &matches);
        if !learned.is_empty() {
            find_learned(&texts.text, &learned, &mut matches);
            resolve(&mut matches);
        }

        let mut tokens = Tokens::new(&self.key, self.rules.secrets);
        let mut edits = Vec::with_capacity(matches.len());
        let mut counts = BTreeMap::<KindId, u64>::new();
        for found in &matches {
            let value = &texts.text[found.start..found.end];
            let name = self.rules.finder.kind_name(found.kind);
            if self.rules.secrets == Secrets::Block && self.rules.mode == Mode::Enforce && is_secret(found.kind) {
                return Err(Refused::Secret(name.to_owned()));
            }
            if let Some(token) = tokens.token(found, name, value)? {
                edits.push((found.start, found.end, token));
                *counts.entry(found.kind).or_default() += 1;
            }
        }
        if edits.is_empty() {
            return Ok(self.unchanged(body, Receipt::default()));
        }
        let masked =
            counts.into_iter().map(|(kind, count)| (self.rules.finder.kind_name(kind).to_owned(), count)).collect();
        let receipt = Receipt { masked, ..Receipt::default() };
        let edits: Vec<_> = edits
            .iter()
            .map(|(start, end, token)| Edit { start: *start, end: *end, with: &tokens.made[*token] })
            .collect();
        let (body, moves) = texts.apply(body, &edits);
        let body = body.into();
        let restorer = Restorer::new(tokens.lexicon.seal(), self.key.clone(), receipt.clone());
        Ok(Masked { body, restorer, receipt, moves })
    }

    fn is_allowed(&self, text: &[u8], found: &Match) -> bool {
        match found.shape {
            Shape::V4(address, bits) => self.rules.allows_address(IpAddr::V4(address), bits),
            Shape::DnsName(address) => self.rules.allows_address(IpAddr::V4(address), None),
            Shape::V6(address, bits) => self.rules.allows_address(IpAddr::V6(address), bits),
            _ => self.rules.allows(&text[found.start..found.end]),
        }
    }
}

fn is_secret(kind: KindId) -> bool {
    KINDS.get(kind).is_some_and(|kind| kind.family == Family::Secrets)
}

/// Values that are recognised by their context once, and everywhere else from then on.
fn learn(text: &[u8], matches: &[Match]) -> Vec<Match> {
    let mut known = HashMap::new();
    for found in matches {
        let value = &text[found.start..found.end];
        let is_learned = match found.shape {
            Shape::Form(ACCOUNT) => true,
            Shape::Form(_) => found.kind == id("aws.s3_bucket") && is_distinctive(value),
            Shape::Secret => value.len() >= 16,
            _ => false,
        };
        if is_learned {
            known.entry(value).or_insert(*found);
        }
    }
    known.into_values().collect()
}

/// Whether a bucket's name is not simply a word: a bucket `logs` must not mask every mention of logs. Hardly any word
/// has 16 letters.
fn is_distinctive(name: &[u8]) -> bool {
    name.len() >= 16 || name.len() >= 6 && name.iter().any(|byte| !byte.is_ascii_lowercase())
}

fn find_learned(text: &[u8], learned: &[Match], matches: &mut Vec<Match>) {
    let values: HashMap<_, _> = learned.iter().map(|found| (&text[found.start..found.end], found)).collect();
    let mut lengths = vec![Vec::new(); 256];
    let mut beginnings = Beginnings::new();
    for value in values.keys() {
        beginnings.add(value);
        let lengths: &mut Vec<usize> = &mut lengths[usize::from(value[0])];
        if !lengths.contains(&value.len()) {
            lengths.push(value.len());
        }
    }
    beginnings.find(text, |_, start| {
        if !boundary::begins(text, start) {
            return;
        }
        let lengths = &lengths[usize::from(text[start])];
        for end in lengths.iter().map(|length| start + length).filter(|end| boundary::ends(text, *end)) {
            if let Some(found) = text.get(start..end).and_then(|value| values.get(value)) {
                matches.push(Match { start, end, ..**found });
            }
        }
    });
}

/// The tokens of one request as they are made.
struct Tokens<'a> {
    key: &'a Key,
    secrets: Secrets,
    lexicon: Lexicon,
    made: Vec<Vec<u8>>,
    /// By domain and value, so that each is made once; `None` for values that need no token.
    known: HashMap<(KindId, &'a [u8]), Option<usize>>,
    /// By network, since many addresses share one.
    networks: HashMap<Ipv4Addr, Ipv4Addr>,
}

impl<'a> Tokens<'a> {
    fn new(key: &'a Key, secrets: Secrets) -> Self {
        let (lexicon, made) = (Lexicon::default(), Vec::new());
        Self { key, secrets, lexicon, made, known: HashMap::new(), networks: HashMap::new() }
    }

    /// The number of the token for `value`; `None` if it stays as it is.
    fn token(&mut self, found: &Match, name: &str, value: &'a [u8]) -> Result<Option<usize>, Refused> {
        // The name of a resource is the same in an ARN and in a URL.
        let domain = if found.shape == Shape::Form(RESOURCE) { id("aws.arn") } else { found.kind };
        let known = (domain, value);
        if let Some(token) = self.known.get(&known) {
            return Ok(*token);
        }
        if self.made.len() == MAX_IDENTIFIERS {
            return Err(Refused::TooMany);
        }
        let name = if domain == found.kind { name } else { KINDS[domain].name };
        let token = self.make(found, name, value)?;
        let number = (token != value).then(|| {
            self.made.push(token);
            self.made.len() - 1
        });
        self.known.insert(known, number);
        Ok(number)
    }

    fn make(&mut self, found: &Match, name: &str, value: &[u8]) -> Result<Vec<u8>, Refused> {
        let key = self.key;
        match found.shape {
            Shape::V4(address, Some(bits)) => {
                let token = format!("{}/{bits}", address::mask_v4(key, address, bits)).into_bytes();
                if token != value {
                    self.lexicon.add(token.clone(), value.to_vec(), Edge::Address);
                }
                Ok(token)
            }
            Shape::V4(address, None) => Ok(self.v4(address).to_string().into_bytes()),
            Shape::DnsName(address) => {
                Ok(self.v4(address).octets().map(|octet| octet.to_string()).join("-").into_bytes())
            }
            Shape::V6(address, bits) => {
                let masked = address::mask_v6(key, address, bits.unwrap_or(128));
                if masked == address {
                    return Ok(value.to_vec());
                }
                let like = String::from_utf8_lossy(value);
                let like = like.split('/').next().unwrap_or_default();
                self.first_free(value, Edge::Word, |attempt| {
                    let written = address::write_v6(masked, like, address, attempt);
                    bits.map_or(written.clone(), |bits| format!("{written}/{bits}")).into_bytes()
                })
            }
            Shape::Secret if self.secrets == Secrets::Redact => {
                let kind = name.rsplit('.').next().unwrap_or(name);
                Ok(format!("[redacted:{kind}]").into_bytes())
            }
            Shape::Secret => {
                let form = Form { length: value.len().clamp(20, 128), ..SECRET };
                self.first_free(value, Edge::Any, |attempt| form.token(key, name, value, attempt))
            }
            Shape::AccessKey => {
                let form = if value.starts_with(b"ASIA") { ASIA } else { AKIA };
                self.first_free(value, Edge::Any, |attempt| form.token(key, name, value, attempt))
            }
            Shape::Dashed => {
                let plain: Vec<_> = value.iter().copied().filter(u8::is_ascii_digit).collect();
                self.first_free(value, Edge::Word, |attempt| {
                    let token = ACCOUNT.token(key, name, &plain, attempt);
                    [&token[..4], &token[4..8], &token[8..]].join(&b'-')
                })
            }
            Shape::Form(form) => {
                // Short tokens could be found in other words by chance.
                let edge = if form.length < 10 || form == ACCOUNT { Edge::Word } else { Edge::Any };
                self.first_free(value, edge, |attempt| form.token(key, name, value, attempt))
            }
            Shape::Alike(keep) => {
                let keep = if keep < value.len() { keep } else { 0 };
                self.first_free(value, Edge::Any, |attempt| alike(key, name, value, keep, attempt))
            }
            Shape::Accounts | Shape::Path => unreachable!("told apart when they were found"),
        }
    }

    /// The masked address. Its network goes into the map back, so that other hosts of the network are restored too.
    fn v4(&mut self, address: Ipv4Addr) -> Ipv4Addr {
        let [.., host] = address.octets();
        let network = Ipv4Addr::from(u32::from(address) & 0xffff_ff00);
        let (key, lexicon) = (self.key, &mut self.lexicon);
        let masked = *self.networks.entry(network).or_insert_with(|| {
            let masked = address::mask_v4(key, network, 32);
            for separator in [".", "-"] {
                // `10.0.1.` in addresses, `-10-0-1-` in names.
                let part = |network: Ipv4Addr| {
                    let octets =
                        network.octets()[..3].iter().map(|octet| octet.to_string() + separator).collect::<String>();
                    if separator == "-" { format!("-{octets}") } else { octets }.into_bytes()
                };
                let edge = if separator == "-" { Edge::Any } else { Edge::Address };
                lexicon.add(part(masked), part(network), edge);
            }
            masked
        });
        Ipv4Addr::from(u32::from(masked) & 0xffff_ff00 | u32::from(host))
    }

    /// The first token that no other value has. Which value comes first depends on the request's text alone, and a
    /// conversation grows at its end, so that it stays the same from turn to turn.
    fn first_free(&mut self, value: &[u8], edge: Edge, make: impl Fn(u8) -> Vec<u8>) -> Result<Vec<u8>, Refused> {
        for attempt in 0..MAX_ATTEMPTS {
            let token = make(attempt);
            if token != value && !self.lexicon.contains(&token) {
                self.lexicon.add(token.clone(), value.to_vec(), edge);
                return Ok(token);
            }
        }
        Err(Refused::TooMany)
    }
}
