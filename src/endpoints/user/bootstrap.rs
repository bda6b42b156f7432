//! `GET /user/bootstrap`: the caller's Claude Desktop configuration (auth contract §9). What is answered is decided in
//! `domain::bootstrap`; here it becomes HTTP.

use std::rc::Rc;

use http::{HeaderName, HeaderValue, StatusCode, header};

use crate::domain::audit::{AuditEvent, BootstrapDecided};
use crate::domain::bootstrap::{self, Answer, Asker, Denial, OfferedModel};
use crate::error::Failure;
use crate::exchange::{self, Request, Response};
use crate::gateway::{Context, Gateway};
use crate::upstream::catalog::built_in;

/// Answers `GET /user/bootstrap`.
pub(crate) async fn get(gateway: &Rc<Gateway>, context: &Context, request: Request) -> Result<Response, Failure> {
    let session = gateway.session(context, &request).await?;
    let sub = session.subject().unwrap_or_default();
    let upstreams = &gateway.config.upstreams;
    let list = gateway.catalog.list(upstreams, session.groups(), |model| gateway.may_use(&session, model));
    let models: Vec<OfferedModel<'_>> =
        list.data.iter().map(|model| OfferedModel { name: &model.id, supports_1m: supports_1m(&model.id) }).collect();
    let asker = Asker {
        sub,
        email: session.email(),
        groups: session.groups(),
        expires_at: session.expires_at(),
        origin: &context.origin,
    };
    let answer = bootstrap::answer(&gateway.config, &gateway.policies, asker, &models);
    let is_spend_admin = bootstrap::is_spend_admin(&gateway.config, session.groups());
    let (response, decided) = respond(answer, sub, session.email(), is_spend_admin);
    gateway.audit(context, &AuditEvent::DesktopBootstrap(decided));
    response
}

/// A window of a million tokens, always or with a beta; models with a fixed smaller one have none.
fn supports_1m(id: &str) -> bool {
    built_in::find(id).is_some_and(|model| model.max_input_tokens.is_none_or(|window| window >= 1_000_000))
}

/// Renders `answer` for the session of `sub`.
pub(crate) fn respond(
    answer: Answer,
    sub: &str,
    email: Option<&str>,
    is_spend_admin: bool,
) -> (Result<Response, Failure>, BootstrapDecided) {
    let (sub, email) = (sub.to_owned(), email.map(str::to_owned));
    match answer {
        Answer::Serve { document, selection } => {
            let mut response = exchange::json(StatusCode::OK, &document);
            let headers = response.headers_mut();
            headers.extend(never_stored());
            let is_spend_admin = HeaderValue::from_static(if is_spend_admin { "true" } else { "false" });
            headers.insert("x-gateway-spend-admin", is_spend_admin);
            let audit = BootstrapDecided {
                event: "desktop_bootstrap.serve",
                reason: None,
                sub,
                email,
                policy_index: Some(selection.index),
                policy_indexes: selection.policy_indexes().map(<[usize]>::to_vec),
            };
            (Ok(response), audit)
        }
        Answer::Denied(denial) => {
            let message = match denial {
                Denial::NotConfigured => "Claude Desktop is not configured on this gateway",
                Denial::NoPolicyMatched => "no policy matches this account",
                Denial::PolicyNotOptedIn => "this account's policy does not include Claude Desktop",
            };
            let failure = Failure::messages(StatusCode::NOT_FOUND, "not_found_error", message);
            let failure =
                never_stored().into_iter().fold(failure, |failure, (name, value)| failure.with_header(name, value));
            let reason = Some(denial.reason());
            let event = "desktop_bootstrap.denied";
            (Err(failure), BootstrapDecided { event, reason, sub, email, policy_index: None, policy_indexes: None })
        }
    }
}

fn never_stored() -> [(HeaderName, HeaderValue); 2] {
    [
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::PRAGMA, HeaderValue::from_static("no-cache")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::Selection;
    use crate::exchange::Body;

    fn shown(response: &Response) -> String {
        let headers: Vec<_> = response.headers().iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
        let Body::Full(body) = response.body() else { panic!("a full body") };
        format!("{} {} {}", response.status().as_u16(), headers.join(" "), String::from_utf8_lossy(body))
    }

    #[test]
    fn a_document_is_never_stored_and_says_whether_the_caller_is_an_administrator() {
        let document = serde_json::Map::from_iter([("a".to_owned(), 1.into())]);
        let selection = Selection { index: 2, contributors: vec![2], is_layered: false };
        let (response, audit) = respond(Answer::Serve { document, selection }, "00u1", Some("a@example.com"), true);
        assert_eq!(
            shown(&response.expect("served")),
            "200 content-type: \"application/json;charset=utf-8\" cache-control: \"no-store\" pragma: \"no-cache\" \
             x-gateway-spend-admin: \"true\" {\"a\":1}"
        );
        assert_eq!(audit.event, "desktop_bootstrap.serve");
        let fields = serde_json::to_string(&audit).expect("plain data");
        assert_eq!(fields, r#"{"sub":"00u1","email":"a@example.com","policy_index":2}"#);
    }

    #[test]
    fn a_denial_is_a_404_in_the_envelope_with_its_reason_in_the_audit() {
        let (response, audit) = respond(Answer::Denied(Denial::PolicyNotOptedIn), "00u1", None, false);
        assert_eq!(
            shown(&response.err().expect("denied").render("id")),
            "404 content-type: \"application/json;charset=utf-8\" cache-control: \"no-store\" pragma: \"no-cache\" \
             {\"type\":\"error\",\"request_id\":\"id\",\"error\":{\"type\":\"not_found_error\",\
             \"message\":\"this account's policy does not include Claude Desktop\"}}"
        );
        assert_eq!(audit.event, "desktop_bootstrap.denied");
        let fields = serde_json::to_string(&audit).expect("plain data");
        assert_eq!(fields, r#"{"reason":"policy_not_opted_in","sub":"00u1"}"#);
    }
}
