//! Precision and recall for each kind, from a run that everybody can repeat. `docs/masking.md` shows what it prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use sallyport::mask::{KINDS, Masker, Secrets, Settings};

use crate::conversation::{Dice, generate};
use crate::{mask, masker};

const FALSE_POSITIVES: &str = include_str!("false_positives.txt");

/// Text without a single identifier: written by hand, generated, and the sources of this project.
fn innocent() -> Vec<String> {
    let mut texts: Vec<String> = FALSE_POSITIVES.lines().map(str::to_owned).collect();
    texts.push(FALSE_POSITIVES.to_owned());
    let mut dice = Dice::new(99);
    for _ in 0..2000 {
        let uuid = [8, 4, 4, 4, 12].map(|length| dice.hex(length)).join("-");
        let mac = (0..6).map(|_| dice.hex(2)).collect::<Vec<_>>().join(":");
        let (year, month, day) = (1970 + dice.roll(80), 1 + dice.roll(12), 1 + dice.roll(28));
        texts.push(format!(
            "{} {uuid} key-{uuid} {mac} {year}-{month:02}-{day:02} vol-{year}{month:02}{day:02} {}.{}.{} v{}.{}.{}.{} sha1:{} {}==",
            dice.hex(40),
            dice.roll(200),
            dice.roll(40),
            dice.roll(40),
            dice.roll(20),
            dice.roll(20),
            dice.roll(9000),
            dice.roll(99),
            dice.hex(40),
            dice.string(86, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"),
        ));
    }
    texts.push(include_str!("../../Cargo.lock").to_owned());
    for source in [
        include_str!("../../src/mask/json_text.rs"),
        include_str!("../../src/mask/restore.rs"),
        include_str!("../../src/mask/sse.rs"),
        include_str!("../../src/mask/lexicon.rs"),
        include_str!("../../src/mask/zone.rs"),
    ] {
        // Tests may well use private addresses.
        texts.push(source.split("#[cfg(test)]").next().unwrap_or_default().to_owned());
    }
    texts
}

/// For each kind: identifiers written, those that still left, and what was masked without being one.
fn measure(masker: &Masker) -> BTreeMap<String, [u64; 3]> {
    let mut kinds = BTreeMap::<String, [u64; 3]>::new();
    for seed in 100..105 {
        let conversation = generate(seed, 2000);
        let masked = masker.mask_request(&conversation.body).unwrap();
        let sent = std::str::from_utf8(&masked.body).unwrap();
        let mut written = BTreeMap::<String, u64>::new();
        for (kind, value) in &conversation.written {
            let row = kinds.entry((*kind).to_owned()).or_default();
            row[0] += 1;
            row[1] += u64::from(sent.contains(value.as_str()));
            *written.entry((*kind).to_owned()).or_default() += 1;
        }
        for (kind, count) in &masked.receipt.masked {
            let surplus = count.saturating_sub(written.get(kind).copied().unwrap_or_default());
            kinds.entry(kind.clone()).or_default()[2] += surplus;
        }
    }
    for text in innocent() {
        for (kind, count) in mask(masker, &text).0.receipt.masked {
            kinds.entry(kind).or_default()[2] += count;
        }
    }
    kinds
}

#[test]
#[expect(clippy::disallowed_macros, reason = "the table is what the run is for")]
fn the_table_in_the_documentation_is_what_a_run_gives() {
    let masker = masker(&Settings { secrets: Secrets::Mask, ..Settings::default() });
    let mut table = "| kind | written | recall | precision |\n|---|---|---|---|\n".to_owned();
    for (kind, [written, left, surplus]) in measure(&masker) {
        let found = written - left;
        let percent = |part: u64, whole: u64| format!("{}.{:02} %", part * 100 / whole, part * 10_000 / whole % 100);
        writeln!(table, "| `{kind}` | {written} | {} | {} |", percent(found, written), percent(found, found + surplus))
            .unwrap();
    }
    println!("{table}");
    assert!(include_str!("../../docs/masking.md").contains(&table), "docs/masking.md should have this table:\n{table}");
}

#[test]
fn nothing_in_innocent_text_is_masked() {
    let masker = masker(&Settings::default());
    let mut wrong = BTreeSet::new();
    for text in innocent() {
        let (masked, shown) = mask(&masker, &text);
        if shown != text {
            let lines = text.lines().zip(shown.lines()).filter(|(before, after)| before != after);
            wrong.extend(lines.map(|(before, _)| format!("{:?}: {before}", masked.receipt.masked)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_documentation_names_every_kind_and_its_source() {
    let rows: Vec<_> = KINDS.iter().map(|kind| format!("| `{}` | {} |\n", kind.name, kind.source)).collect();
    let rows = rows.concat();
    let table = format!("| kind | documented in |\n|---|---|\n{rows}");
    assert!(include_str!("../../docs/masking.md").contains(&table), "docs/masking.md should have this table:\n{table}");
}
