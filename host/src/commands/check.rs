//! `sallyport check`: every fault of a configuration, each with its line and a caret below the place.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use sallyport::config::{Fault, without_effect_under_spin};
use serde_json::{Value, json};

use super::online::{self, Attempt};
use super::{Common, Faults, print};
use crate::egress::Environment;
use crate::manifest::{Manifest, RuntimeConfig};
use crate::settings::Settings;
use crate::{console, environment, tls};

/// Arguments of `check`.
#[derive(Args)]
#[command(
    after_help = "Exit codes:\n  0  no faults; there may be warnings\n  1  at least one fault, or with --online something that does not answer\n  2  a wrong \
                        command line, or the configuration cannot be read\n\nFaults and warnings go to standard error, \
                        the verdict to standard output; with --json everything goes to standard output."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// Also try discovery, keys, database, upstreams and collectors; no model is asked anything, nothing is migrated
    #[arg(long)]
    online: bool,
    /// Print JSON: {"ok": …, "faults": […], "warnings": […]}
    #[arg(long)]
    json: bool,
}

/// What is wrong, and in which file.
struct Finding {
    file: String,
    fault: Place,
}

enum Place {
    /// In `gateway.yaml`, whose text is at hand.
    Configuration(Fault),
    /// In another file, or nowhere in particular.
    Elsewhere(String),
}

impl Finding {
    fn elsewhere(file: &Path, message: String) -> Self {
        Self { file: file.display().to_string(), fault: Place::Elsewhere(message) }
    }

    fn json(&self) -> Value {
        match &self.fault {
            Place::Configuration(fault) => json!({
                "file": self.file, "path": fault.path, "line": fault.line, "column": fault.column,
                "message": fault.message,
            }),
            Place::Elsewhere(message) => json!({
                "file": self.file, "path": "", "line": 0, "column": 0, "message": message,
            }),
        }
    }

    /// With its line of `text`, in the name of the file that was checked.
    fn render(&self, text: &str) -> String {
        match &self.fault {
            Place::Configuration(fault) => fault.render_in(&self.file, text),
            Place::Elsewhere(message) => message.clone(),
        }
    }
}

/// Checks files; with `--online` also what they name. Nothing is written.
pub(crate) async fn run(arguments: &Arguments) -> Result<ExitCode, Faults> {
    let common = &arguments.common;
    let allow_loopback = environment::switch("CLAUDE_GATEWAY_ALLOW_LOOPBACK");
    let text = match Settings::text(&common.config) {
        Ok(text) => text,
        Err(fault) => return Ok(unreadable(arguments, fault)),
    };
    let file = common.config.display().to_string();
    let place = |fault: Fault| Finding { file: file.clone(), fault: Place::Configuration(fault) };
    let (mut faults, mut warnings, mut notes) = (Vec::new(), Vec::new(), Vec::new());
    let settings = match Settings::parse(text.clone(), &[], allow_loopback) {
        Ok(settings) => {
            warnings.extend(settings.warnings.iter().cloned().map(place));
            let elsewhere = |message| Finding::elsewhere(&common.config, message);
            warnings.extend(Environment::read().warnings(&settings.config).into_iter().map(elsewhere));
            faults.extend(tls::configured(&settings.config).err().unwrap_or_default().into_iter().map(elsewhere));
            faults.extend(tls::terminating(&settings.config).err().map(|error| elsewhere(format!("{error:#}"))));
            notes = without_effect_under_spin(&settings.config);
            Some(settings)
        }
        Err(found) => {
            faults.extend(found.into_iter().map(place));
            None
        }
    };
    if let Some(path) = &common.manifest
        && let Err(found) = Manifest::read(path)
    {
        faults.extend(found.into_iter().map(|fault| Finding::elsewhere(path, fault)));
    }
    if let Some(path) = &common.runtime_config
        && let Err(found) = RuntimeConfig::read(path)
    {
        faults.extend(found.into_iter().map(|fault| Finding::elsewhere(path, fault)));
    }
    // What is at fault on paper is not tried.
    let online = match &settings {
        Some(settings) if arguments.online && faults.is_empty() => Some(online::run(settings, common).await?),
        _ => None,
    };
    let attempts: &[Attempt] = online.as_ref().map(|online| online.attempts.as_slice()).unwrap_or_default();
    let is_ok = faults.is_empty() && attempts.iter().all(|attempt| attempt.outcome.is_ok());
    if arguments.json {
        let list = |findings: &[Finding]| findings.iter().map(Finding::json).collect::<Vec<_>>();
        let mut said = json!({ "ok": is_ok, "faults": list(&faults), "warnings": list(&warnings), "notes": notes });
        if let Some(online) = &online {
            said["online"] = attempts.iter().map(Attempt::json).collect();
            said["first_user"] = json!(online.first_user);
            said["refusals"] = json!(online.refusals);
        }
        print(&said.to_string());
    } else {
        for fault in &faults {
            console::plain(&format!("error: {}\n", fault.render(&text)));
        }
        for warning in &warnings {
            console::plain(&format!("warning: {}\n", warning.render(&text)));
        }
        for note in &notes {
            console::plain(&format!("note: {note}\n"));
        }
        console::flush();
        if let Some(online) = &online {
            for attempt in attempts {
                print(&attempt.line());
            }
            for refusal in &online.refusals {
                print(&format!("note    {}", online::refusal_line(refusal)));
            }
            print("\nA first user:");
            for line in &online.first_user {
                print(&format!("- {line}"));
            }
            print("");
        }
        print(&format!("{file}: {}, {}", counted(faults.len(), "fault"), counted(warnings.len(), "warning")));
    }
    Ok(if is_ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn unreadable(arguments: &Arguments, fault: String) -> ExitCode {
    if arguments.json {
        let faults = [Finding::elsewhere(&arguments.common.config, fault).json()];
        print(&json!({ "ok": false, "faults": faults, "warnings": [], "notes": [] }).to_string());
    } else {
        console::plain(&format!("sallyport: {fault}"));
    }
    ExitCode::from(2)
}

/// `no faults`, `1 fault`, `2 faults`.
fn counted(count: usize, noun: &str) -> String {
    match count {
        0 => format!("no {noun}s"),
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}
