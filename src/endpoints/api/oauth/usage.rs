//! `GET /api/oauth/usage`: what the caller has spent of their caps (inference contract §19).

use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};

use crate::domain::spend::usage;
use crate::error::Failure;
use crate::exchange::{Request, Response, json};
use crate::gateway::{Context, Gateway};
use crate::spending::Unknown;

/// Clients ask often: an answer is good for so long.
const FRESH: Duration = Duration::from_secs(2);
/// How many answers an instance keeps.
const MAX_KEPT: usize = 10_000;

/// Answers `GET /api/oauth/usage`.
pub(crate) async fn get(gateway: &Rc<Gateway>, context: &Context, request: Request) -> Result<Response, Failure> {
    let session = gateway.session(context, &request).await?;
    let Some(admin) = &gateway.config.admin else {
        return Err(Failure::plain(StatusCode::NOT_FOUND, "not configured"));
    };
    let now = gateway.ports.clock.now();
    let key = serde_json::json!([session.subject(), session.groups()]).to_string();
    let kept = gateway.cache.usage.borrow().get(&key).filter(|(_, at)| now.since(*at) < FRESH).cloned();
    let report = if let Some((report, _)) = kept {
        report
    } else {
        let standing = gateway.standing(&session).await.map_err(|Unknown(reason)| {
            Failure::plain(StatusCode::SERVICE_UNAVAILABLE, "spend limit unavailable").because(reason)
        })?;
        let report = usage::report(&standing, admin.group_limit_mode, now);
        let mut kept = gateway.cache.usage.borrow_mut();
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(key, (report.clone(), now));
        report
    };
    let mut response = json(StatusCode::OK, &report);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
