//! `sallyport report`: what was asked of which model, by whom, and what it cost.

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::serve::Host;
use super::{Common, Faults, print};
use crate::own_store::OwnStore;

/// Arguments of `report`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// First day, UTC
    #[arg(long, value_name = "YYYY-MM-DD")]
    from: String,
    /// The day after the last one; without it, tomorrow
    #[arg(long, value_name = "YYYY-MM-DD")]
    to: Option<String>,
    /// One row for each of these
    #[arg(long, value_name = "DIMENSIONS", value_delimiter = ',')]
    by: Vec<By>,
    /// How it is printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum By {
    Day,
    User,
    Group,
    Model,
    Upstream,
    Session,
}

impl By {
    /// Its name, and where a row has it.
    const fn column(self) -> (&'static str, &'static str) {
        match self {
            Self::Day => ("day", "/day"),
            Self::User => ("user", "/actor/user_id"),
            Self::Group => ("group", "/rbac_group_id"),
            Self::Model => ("model", "/model"),
            Self::Upstream => ("upstream", "/upstream"),
            Self::Session => ("session", "/session_id"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// Asks the component, which owns the books, page by page.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Faults> {
    OwnStore::must_exist(&arguments.common)?;
    let host = Host::prepare(&arguments.common.clone().into()).await?;
    let mut rows = Vec::new();
    let mut page: Option<String> = None;
    loop {
        let query = query(&arguments, page.as_deref());
        let answer = host.control().call("report", &json!({ "query": query })).await.map_err(anyhow::Error::from)?;
        match answer["csv"].as_str() {
            Some(text) => rows.push(Value::from(text)),
            None => rows.extend(answer["data"].as_array().into_iter().flatten().cloned()),
        }
        page = answer["next_page"].as_str().map(str::to_owned);
        if page.is_none() {
            break;
        }
    }
    host.end().await;
    match arguments.format {
        Format::Csv => rows.iter().filter_map(Value::as_str).for_each(|text| print(text.trim_end())),
        Format::Json => print(&Value::from(rows).to_string()),
        Format::Table => table(&arguments.by, &rows).iter().for_each(|line| print(line)),
    }
    Ok(())
}

fn query(arguments: &Arguments, page: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("starting_at", &arguments.from).append_pair("limit", "1000");
    if let Some(to) = &arguments.to {
        query.append_pair("ending_at", to);
    }
    for by in &arguments.by {
        query.append_pair("group_by[]", by.column().0);
    }
    if arguments.format == Format::Csv {
        query.append_pair("format", "csv");
    }
    if let Some(page) = page {
        query.append_pair("page", page);
    }
    query.finish()
}

/// Lines with columns below one another: texts to the left, numbers to the right.
fn table(by: &[By], rows: &[Value]) -> Vec<String> {
    let texts: Vec<(&str, &str)> = by.iter().map(|by| by.column()).collect();
    let numbers = [
        ("requests", "/requests"),
        ("input", "/tokens/input_tokens"),
        ("output", "/tokens/output_tokens"),
        ("cache read", "/tokens/cache_read_input_tokens"),
        ("cache write", "/tokens/cache_creation_input_tokens"),
        ("searches", "/web_search_requests"),
        ("cents", "/cost/amount"),
    ];
    let columns: Vec<(&str, &str)> = texts.iter().copied().chain(numbers).collect();
    let cell = |row: &Value, pointer: &str| match row.pointer(pointer) {
        None | Some(Value::Null) => "-".to_owned(),
        // A name is somebody else's text: nothing in it may move the cursor.
        Some(Value::String(text)) => text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect(),
        Some(other) => other.to_string(),
    };
    let head = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let body = rows.iter().map(|row| columns.iter().map(|(_, pointer)| cell(row, pointer)).collect());
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column < texts.len() { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_texts_to_the_left_and_numbers_to_the_right() {
        let row = |model: &str, requests: u64, cost: &str| {
            json!({
                "day": null, "model": model, "requests": requests, "web_search_requests": 0,
                "tokens": {"input_tokens": 10, "output_tokens": 2, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0},
                "cost": {"amount": cost},
            })
        };
        let rows = [row("claude-opus-4-8", 3, "1.500000"), row("m\u{1b}[2J", 12, "20.000000")];
        assert_eq!(
            table(&[By::Model, By::User], &rows),
            [
                "model            user  requests  input  output  cache read  cache write  searches      cents",
                "claude-opus-4-8  -            3     10       2           0            0         0   1.500000",
                "m\u{fffd}[2J            -           12     10       2           0            0         0  20.000000",
            ]
        );
    }
}
