//! `/managed/settings`, every method: the caller's managed settings (auth contract §8.1). What is answered is decided in
//! `domain::policy`; here it becomes HTTP.

use std::rc::Rc;

use crate::domain::audit::{AuditEvent, SettingsServed};
use crate::domain::policy::{Answer, Caller, etag};
use crate::error::Failure;
use crate::exchange::{Body, Request, Response, plain};
use crate::gateway::{Context, Gateway};
use crate::log::Level;
use http::{HeaderValue, StatusCode, header};

/// Answers `/managed/settings`.
pub(crate) async fn get(gateway: &Rc<Gateway>, context: &Context, request: Request) -> Result<Response, Failure> {
    let session = gateway.session(context, &request).await?;
    let caller = Caller { groups: session.groups(), email: session.email() };
    let user_agent = request.header(header::USER_AGENT);
    let answer = gateway.policies.answer(caller, user_agent, request.header(header::IF_NONE_MATCH));
    let sub = session.subject().unwrap_or_default();
    let outcome = respond(answer, sub, session.email(), env!("CARGO_PKG_VERSION"));
    if let Some(served) = outcome.audit {
        gateway.audit(context, &AuditEvent::ManagedServe(served));
    }
    if let Some(warning) = outcome.warning {
        gateway.log(Level::Warn, &warning);
    }
    Ok(outcome.response)
}

/// An answer, and what is written down about it.
pub(crate) struct Outcome {
    /// The answer.
    pub response: Response,
    /// The audit event; a 304 or 404 has none.
    pub audit: Option<SettingsServed>,
    /// A line for the operator.
    pub warning: Option<String>,
}

/// Renders `answer` for the session of `sub`; `version` is what clients are told the gateway's is.
pub(crate) fn respond(answer: Answer, sub: &str, email: Option<&str>, version: &str) -> Outcome {
    let mut audit = None;
    let mut warning = None;
    let mut response = match answer {
        Answer::Serve { effective, selection } => {
            audit = Some(SettingsServed {
                sub: sub.to_owned(),
                email: email.map(str::to_owned),
                policy_index: selection.index,
                policy_indexes: selection.policy_indexes().map(<[usize]>::to_vec),
                checksum: effective.checksum.clone(),
            });
            let mut response = Response::new(Body::Full(effective.body.clone()));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json;charset=utf-8"));
            headers.insert(header::ETAG, value(&etag(&effective.checksum)));
            response
        }
        Answer::NotModified => not_modified(),
        Answer::NotModifiedExists => never_stored(not_modified()),
        Answer::NotConfigured => not_found("not configured"),
        Answer::NoPolicyMatched => {
            warning =
                Some(format!("managed settings: no policy matches {sub}; add a catch-all policy, or ignore this"));
            not_found("no policy matched")
        }
        Answer::NotServedToDesktop => not_found("not served to Claude Desktop sessions"),
    };
    let headers = response.headers_mut();
    headers.insert("x-cc-gateway-version", value(version));
    headers.insert(header::VARY, HeaderValue::from_static("User-Agent"));
    Outcome { response, audit, warning }
}

fn not_modified() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    response
}

fn not_found(text: &'static str) -> Response {
    never_stored(plain(StatusCode::NOT_FOUND, text))
}

fn never_stored(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Checksums and versions are visible ASCII.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;
    use std::rc::Rc;

    use super::*;
    use crate::domain::policy::{Effective, Selection};

    fn shown(answer: Answer) -> (String, Outcome) {
        let outcome = respond(answer, "00u1", None, "1.2.3");
        let mut text = outcome.response.status().as_str().to_owned();
        for (name, value) in outcome.response.headers() {
            write!(text, "\n{name}: {}", value.to_str().expect("ASCII")).expect("memory");
        }
        if let Body::Full(body) = outcome.response.body() {
            write!(text, "\n\n{}", String::from_utf8_lossy(body)).expect("memory");
        }
        (text, outcome)
    }

    #[test]
    fn a_document_is_served_with_its_checksum_as_etag_and_audited() {
        let effective = Effective {
            settings: serde_json::Map::new(),
            checksum: "sha256:00".to_owned(),
            body: "{}".into(),
            has_own_settings: false,
            desktop: None,
        };
        let selection = Selection { index: 0, contributors: vec![0, 1, 2], is_layered: true };
        let (text, outcome) = shown(Answer::Serve { effective: Rc::new(effective), selection });
        assert_eq!(
            text,
            "200\ncontent-type: application/json;charset=utf-8\netag: \"sha256:00\"\nx-cc-gateway-version: 1.2.3\n\
             vary: User-Agent\n\n{}"
        );
        assert_eq!(
            serde_json::to_string(&outcome.audit).expect("plain data"),
            r#"{"sub":"00u1","policy_index":0,"policy_indexes":[0,1,2],"checksum":"sha256:00"}"#
        );
    }

    #[test]
    fn everything_else_is_a_bare_304_or_a_404_that_is_not_stored() {
        let common = "x-cc-gateway-version: 1.2.3\nvary: User-Agent\n\n";
        let (text, outcome) = shown(Answer::NotModified);
        assert_eq!(text, format!("304\n{common}"));
        assert_eq!(outcome.audit, None);
        assert_eq!(shown(Answer::NotModifiedExists).0, format!("304\ncache-control: no-store\n{common}"));
        for (answer, body) in [
            (Answer::NotConfigured, "not configured"),
            (Answer::NoPolicyMatched, "no policy matched"),
            (Answer::NotServedToDesktop, "not served to Claude Desktop sessions"),
        ] {
            let (text, outcome) = shown(answer);
            let plain = "404\ncontent-type: text/plain;charset=utf-8\ncache-control: no-store\n";
            assert_eq!(text, format!("{plain}{common}{body}"));
            assert_eq!(outcome.audit, None);
            assert_eq!(outcome.warning.is_some(), body == "no policy matched");
        }
    }
}
