//! `sallyport import`: takes over what a reference gateway has kept in its database: caps, spend counters, identities and
//! audit rows. The other database is read in one transaction and never changed.

mod reference;

use std::cell::Cell;
use std::time::Duration;

use clap::Args;
use sallyport::domain::ids::Timestamp;
use sallyport::store::Store;
use sallyport::store::import::{Mode, Tally};
use serde_json::{Value, json};

use self::reference::{Part, Reference};
use super::{Common, Faults, print};
use crate::capability::postgres::{Address, Limits};
use crate::own_store::{Open, OwnStore};
use crate::settings::Settings;
use crate::{console, environment};

/// Rows that are compared and written with one statement each.
const BATCH: i32 = 200;
/// How often progress is told.
const PROGRESS: i64 = 1000;
/// How long one attempt to connect to the other database may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Arguments of `import`.
#[derive(Args)]
#[command(
    after_help = "Reads a database of the reference gateway of schema 8 and writes into the store that the configuration \
                  names.\nRepeating it is safe: only what has come since is added, and what was changed here later \
                  stays.\nA password that should not stand on the command line can be in PGPASSWORD.\nExit codes: 0 \
                  imported (or, with --dry-run, compared); 1 not; 2 misused."
)]
pub(crate) struct Arguments {
    /// The reference gateway's database
    #[arg(long, value_name = "postgres://…")]
    from: String,
    #[command(flatten)]
    common: Common,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What became of one part.
#[derive(Default)]
struct Outcome {
    tally: Tally,
    /// Rows that mean nothing here, by reason.
    skipped: Vec<(String, u64)>,
}

/// Imports.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Faults> {
    let Arguments { from, common, dry_run, json } = arguments;
    let settings = Settings::read_leniently(&common.config)?;
    let own = OwnStore::of(&settings, &common)?;
    let address = Address::parse(&from).map_err(|error| vec![format!("--from: {error}")])?;
    let address = address.or_password(environment::find("PGPASSWORD"));
    let place = address.hosts().iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>().join(", ");
    let limits = Limits { connections: 1, connect_timeout: PATIENCE };
    console::plain(&format!("… reading {place}"));
    let client = address.client(limits).await;
    let mut client = client.map_err(|why| vec![format!("--from: cannot connect to {place}: {why}")])?;
    let reference = Reference::open(&mut client, &place).await?;

    // A database that is not there yet has nothing; a dry run does not make it.
    let db = match dry_run {
        true if own.is_absent() => None,
        true => Some(own.open_for_reading().await?),
        false => Some(own.open().await?),
    };
    let is_migrated = Cell::new(dry_run);
    let mut store = db.as_ref().map(|db: &Open| Store::new(db, &is_migrated));
    if let Some(known) = store {
        if dry_run {
            store = if known.is_current().await.map_err(failed)? { store } else { None };
        } else {
            for migration in known.migrate().await.map_err(failed)? {
                console::plain(&format!("… migration {migration} applied"));
            }
        }
    }
    let mode = if dry_run { Mode::Look } else { Mode::Write };
    let mut outcomes = Vec::new();
    for part in Part::ALL {
        outcomes.push((part, import(&reference, store, part, mode).await?));
    }
    let is_metered = settings.config.admin.is_some();
    if json {
        print(&report(&place, dry_run, is_metered, &outcomes).to_string());
        return Ok(());
    }
    for (part, outcome) in &outcomes {
        for line in lines(*part, outcome) {
            print(&line);
        }
    }
    print(if dry_run { "Nothing was written: this was a dry run." } else { "Done. It may be repeated." });
    if !is_metered {
        console::plain("warning: without an `admin` section in the configuration, none of this is used");
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failed(error: sallyport::store::StoreError) -> Faults {
    Faults(vec![format!("store: {error}")])
}

/// Imports one part, batch by batch.
async fn import(
    reference: &Reference<'_>,
    store: Option<Store<'_>>,
    part: Part,
    mode: Mode,
) -> Result<Outcome, Faults> {
    let (mut outcome, mut done) = (Outcome::default(), 0);
    let total = reference.count(part).await?;
    let mut told = console::now();
    let rows = reference.rows(part).await?;
    loop {
        let batch = reference.next(&rows, BATCH).await?;
        if batch.is_empty() {
            return Ok(outcome);
        }
        done += batch.len();
        let batch = part.parse(&batch, &mut |reason| skip(&mut outcome.skipped, reason))?;
        let tally = match store {
            Some(store) => batch.import(store, mode).await.map_err(failed)?,
            None => Tally { added: batch.len(), ..Tally::default() },
        };
        outcome.tally = outcome.tally.plus(tally);
        if is_due(told, console::now()) {
            told = console::now();
            console::plain(&format!("… {}: {done} of {total}", part.name()));
        }
    }
}

const fn is_due(told: Timestamp, now: Timestamp) -> bool {
    now.as_millis() - told.as_millis() >= PROGRESS
}

fn skip(skipped: &mut Vec<(String, u64)>, reason: String) {
    match skipped.iter_mut().find(|(known, _)| *known == reason) {
        Some((_, count)) => *count += 1,
        None => skipped.push((reason, 1)),
    }
}

fn lines(part: Part, outcome: &Outcome) -> Vec<String> {
    let Tally { added, changed, same, kept } = outcome.tally;
    let kept = if kept > 0 { format!(", {kept} newer here and kept") } else { String::new() };
    let text = format!("{}: {added} new, {changed} changed, {same} the same{kept}", part.name());
    let skipped = outcome.skipped.iter().map(|(reason, count)| format!("  left out: {count} with {reason}"));
    std::iter::once(text).chain(skipped).collect()
}

fn report(place: &str, dry_run: bool, is_metered: bool, outcomes: &[(Part, Outcome)]) -> Value {
    let part = |(part, outcome): &(Part, Outcome)| {
        let Tally { added, changed, same, kept } = outcome.tally;
        let skipped: Vec<_> =
            outcome.skipped.iter().map(|(reason, count)| json!({ "reason": reason, "rows": count })).collect();
        json!({
            "name": part.name(), "new": added, "changed": changed, "same": same, "kept": kept, "left_out": skipped,
        })
    };
    json!({
        "from": place, "schema": reference::SCHEMA, "dry_run": dry_run, "is_metered": is_metered,
        "parts": outcomes.iter().map(part).collect::<Vec<_>>(),
    })
}
