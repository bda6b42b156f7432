//! `GET /v1/organizations/audit_events`: the copy of the audit trail (`audit.store`) by time, person and event, newest
//! first, in pages; and `…/export`: all of it, oldest first, as NDJSON or CSV.

use std::rc::Rc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Method, header};
use serde_json::{Value, json};

use super::{Query, Refusal, instant};
use crate::domain::ids::Timestamp;
use crate::exchange::{Body, CutOff, Response};
use crate::gateway::Gateway;
use crate::log::Level;
use crate::store::{AuditPage, AuditQuery, AuditRow};

/// Events that an export reads at once.
const PIECE: i64 = 500;

/// The columns of the CSV form; `entry` is the whole event, JSON.
const COLUMNS: [&str; 10] = ["id", "ts", "evt", "request_id", "sub", "email", "client_ip", "result", "reason", "entry"];

/// A page of events.
pub(super) async fn get(gateway: &Rc<Gateway>, query: &Query) -> Result<Value, Refusal> {
    let mut wanted = wanted(gateway, query, &["after_id", "limit"])?;
    let limit = query.limit(100)?;
    if let Some(id) = query.first("after_id") {
        let is_number = !id.is_empty() && id.bytes().all(|digit| digit.is_ascii_digit());
        let id = id.parse().ok().filter(|_| is_number);
        wanted.page = AuditPage::Before(id.ok_or_else(|| Refusal::invalid("after_id: must be an audit event id"))?);
    }
    wanted.most = limit + 1;
    let mut rows = gateway.store().audit_events(&wanted).await?;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > most;
    rows.truncate(most);
    let id = |row: Option<&AuditRow>| row.map(|row| row.seq.to_string());
    let (first_id, last_id) = (id(rows.first()), id(rows.last()));
    let data: Vec<Value> = rows.iter().map(shown).collect();
    Ok(json!({"data": data, "has_more": has_more, "first_id": first_id, "last_id": last_id}))
}

fn shown(row: &AuditRow) -> Value {
    json!({"type": "audit_event", "id": row.seq.to_string(), "entry": entry(row)})
}

fn entry(row: &AuditRow) -> Value {
    serde_json::from_str(&row.entry).unwrap_or_default()
}

/// All events that are wanted, piece by piece. A database that goes away in between cuts the connection: half an export
/// must not look like a whole one.
pub(super) fn export(gateway: &Rc<Gateway>, query: &Query) -> Result<Response, Refusal> {
    let mut wanted = wanted(gateway, query, &["format"])?;
    wanted.most = PIECE;
    let form = match query.first("format") {
        None | Some("ndjson") => Form::Ndjson,
        Some("csv") => Form::Csv,
        Some(_) => return Err(Refusal::invalid("format: must be ndjson or csv")),
    };
    let (owner, request_id) = (Rc::clone(gateway), gateway.cache.current.request_id());
    let produce = move |mut sink: Box<dyn crate::ports::BodySink>| {
        async move {
            if form == Form::Csv && sink.send(Bytes::from(format!("{}\r\n", COLUMNS.join(",")))).await.is_err() {
                return Ok(());
            }
            let mut last = 0;
            loop {
                wanted.page = AuditPage::After(last);
                let rows = owner.store().audit_events(&wanted).await.map_err(|error| {
                    let message = format!("an export of the audit trail broke off: {error}");
                    owner.say(Level::Error, request_id.as_deref(), &message);
                    CutOff
                })?;
                let Some(newest) = rows.last() else { return Ok(()) };
                last = newest.seq;
                let piece: String = rows.iter().map(|row| form.line(row)).collect();
                if sink.send(piece.into()).await.is_err() {
                    return Ok(());
                }
            }
        }
        .boxed_local()
    };
    let mut response = Response::new(Body::Streamed(Box::new(produce)));
    let headers = response.headers_mut();
    let (content_type, disposition) = form.headers();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static(disposition));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// What `query` asks for; parameters that are neither common nor in `more` are refused, as a filter that is misspelt
/// would show more than was asked for.
fn wanted(gateway: &Gateway, query: &Query, more: &[&str]) -> Result<AuditQuery, Refusal> {
    if !gateway.config.audit.store {
        return Err(Refusal::not_found("audit events are not kept: set audit.store to true"));
    }
    let common = ["starting_at", "ending_at", "user_ids[]", "events[]"];
    query.accept_only(&[&common[..], more].concat())?;
    let at = |name: &str, default: i64| match query.first(name) {
        None => Ok(default),
        Some(text) => instant(name, text).map(|at| i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or(0)),
    };
    let (from, to) = (at("starting_at", 0)?, at("ending_at", i64::MAX)?);
    if to <= from {
        return Err(Refusal::invalid("starting_at: must be before ending_at"));
    }
    Ok(AuditQuery {
        from: Timestamp::from_millis(from),
        to: Timestamp::from_millis(to),
        users: query.all("user_ids[]")?,
        events: query.all("events[]")?,
        page: AuditPage::Before(i64::MAX),
        most: 0,
    })
}

/// Whether `path` belongs to this file, and whether it is the export.
pub(super) fn asks_for(method: &Method, path: &str) -> Option<bool> {
    match path.strip_prefix("/v1/organizations/audit_events") {
        Some("") if method == Method::GET => Some(false),
        Some("/export") if method == Method::GET => Some(true),
        _ => None,
    }
}

/// How an export is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One event per line, as on standard error.
    Ndjson,
    /// RFC 4180.
    Csv,
}

impl Form {
    const fn headers(self) -> (&'static str, &'static str) {
        match self {
            Self::Ndjson => ("application/x-ndjson", "attachment; filename=\"audit.ndjson\""),
            Self::Csv => ("text/csv; charset=utf-8; header=present", "attachment; filename=\"audit.csv\""),
        }
    }

    fn line(self, row: &AuditRow) -> String {
        if self == Self::Ndjson {
            return format!("{}\n", row.entry);
        }
        let fields = entry(row);
        let cells = COLUMNS.map(|column| match column {
            "id" => row.seq.to_string(),
            "entry" => cell(&row.entry),
            name => cell(fields[name].as_str().unwrap_or_default()),
        });
        format!("{}\r\n", cells.join(","))
    }
}

/// One cell. What a spreadsheet would take for a formula is made text with an apostrophe.
fn cell(text: &str) -> String {
    let guard = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    if guard.is_empty() && !text.contains([',', '"', '\r', '\n']) {
        return text.to_owned();
    }
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_needed_and_never_formulas() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("a\nb", "\"a\nb\""),
            ("=HYPERLINK(1)", "\"'=HYPERLINK(1)\""),
            ("@x", "\"'@x\""),
        ] {
            assert_eq!(cell(text), expected);
        }
    }
}
