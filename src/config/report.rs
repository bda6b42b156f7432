//! [`Report`]: what decoding finds out besides the values: faults, warnings, the digest's table, and where things stand.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};

use super::settings::Unknown;
use super::yaml::Place;
use super::{Fault, Sources};
use crate::domain::checksum::hex;
use crate::domain::outbound::Loopback;

/// What decoding finds out besides the values.
pub(super) struct Report<'a> {
    pub(super) sources: &'a Sources<'a>,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Fault>,
    /// How settings documents are judged; `managed.unknown_keys`.
    pub(super) unknown_settings: Unknown,
    /// Path → what the value there means, spelled in one way.
    meaning: BTreeMap<String, String>,
    /// Path → where it is written.
    places: HashMap<String, Place>,
    /// From where on lines may hold a secret.
    secrets: Vec<Place>,
}

impl<'a> Report<'a> {
    pub(super) fn new(sources: &'a Sources<'a>) -> Self {
        Self {
            sources,
            faults: Vec::new(),
            warnings: Vec::new(),
            unknown_settings: Unknown::Refuse,
            meaning: BTreeMap::new(),
            places: HashMap::new(),
            secrets: Vec::new(),
        }
    }

    pub(super) fn fault(&mut self, path: &str, place: Place, message: impl Into<String>) {
        self.faults.push(Fault::new(path, place, message.into()));
    }

    /// A fault of the value at `path`, or of the nearest thing around it that is written.
    pub(super) fn fault_at(&mut self, path: &str, message: impl Into<String>) {
        self.fault(path, self.place_of(path), message);
    }

    /// A warning about the value at `path`, or about the nearest thing around it that is written.
    pub(super) fn warn_at(&mut self, path: &str, message: impl Into<String>) {
        self.warnings.push(Fault::new(path, self.place_of(path), message.into()));
    }

    pub(super) const fn loopback(&self) -> Loopback {
        if self.sources.allow_loopback { Loopback::Allowed } else { Loopback::Refused }
    }

    /// Records where the value at `path` is written.
    pub(super) fn stands_at(&mut self, path: &str, place: Place) {
        self.places.insert(path.to_owned(), place);
    }

    /// From `place` on, the line may hold a secret: nobody is shown it, whatever is said about the line.
    pub(super) fn hide(&mut self, place: Place) {
        self.secrets.push(place);
    }

    /// Faults and warnings, each in the order of the file, and none showing a secret.
    pub(super) fn findings(&mut self) -> (Vec<Fault>, Vec<Fault>) {
        let sorted = |mut found: Vec<Fault>| {
            found.sort_by_key(|fault| (fault.line, fault.column));
            let secrets = &self.secrets;
            let hidden =
                |line: usize| secrets.iter().filter(|place| place.line == line).map(|place| place.column).min();
            for fault in &mut found {
                fault.hidden_from = hidden(fault.line);
            }
            found
        };
        (sorted(std::mem::take(&mut self.faults)), sorted(std::mem::take(&mut self.warnings)))
    }

    fn place_of(&self, path: &str) -> Place {
        let mut path = path;
        loop {
            if let Some(place) = self.places.get(path) {
                return *place;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return self.places.get("").copied().unwrap_or_default(),
            }
        }
    }

    /// Records what the value at `path` means, for the digest.
    pub(super) fn means(&mut self, path: &str, meaning: impl Into<String>) {
        self.meaning.insert(path.to_owned(), meaning.into());
    }

    /// The digest of everything that was understood: lower-case hex SHA-256.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (path, meaning) in &self.meaning {
            // Lengths first, so that no two different tables look alike.
            for text in [path, meaning] {
                hash.update((text.len() as u64).to_be_bytes());
                hash.update(text);
            }
        }
        hex(&hash.finalize())
    }
}

/// The path of `key` in the mapping at `path`.
pub(super) fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The path of an item of the list at `path`.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// `a, b or c`.
pub(super) fn one_of<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<_> = names.collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// `; did you mean …?` if one of `names` is close to `given`, otherwise nothing.
pub(super) fn did_you_mean<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> String {
    nearest(given, names).map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// The one of `names` that is closest to `given`, if it is close.
pub(super) fn nearest<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let simple = |name: &str| name.to_lowercase().replace(['-', ' '], "_");
    let given = simple(given);
    names
        .map(|name| (strsim::osa_distance(&given, &simple(name)), name))
        .min()
        .filter(|(distance, name)| *distance <= name.chars().count().max(3) / 3)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested_only_if_it_is_near() {
        let names = || ["region", "guardrail", "assume_role"].into_iter();
        assert_eq!(did_you_mean("regoin", names()), "; did you mean `region`?");
        assert_eq!(did_you_mean("assume-role", names()), "; did you mean `assume_role`?");
        assert_eq!(did_you_mean("timeout", names()), "");
    }
}
