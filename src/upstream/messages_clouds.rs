//! Clouds that speak the Anthropic wire format: Mantle, Claude Platform on AWS, Claude on Google Cloud, Foundry
//! (inference contract §10.3). They differ in address, credential and what they do with `tags`.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::{Call, CannotPrepare, Credential, cloud, headers};
use crate::config::Upstream;
use crate::domain::ids::Timestamp;
use crate::wire::json_edit::Edits;

/// One of them.
pub(super) struct MessagesCloud<'a> {
    /// The address below which `/v1/messages` is, unless the configuration says otherwise.
    pub(super) default_base: String,
    /// Whether `tags` would be refused.
    pub(super) refuses_tags: bool,
    /// `anthropic-workspace-id`.
    pub(super) workspace_id: Option<&'a str>,
    /// Region and service of signatures.
    pub(super) aws: Option<(&'a str, &'static str)>,
}

impl MessagesCloud<'_> {
    pub(super) fn prepare(
        &self,
        upstream: &Upstream,
        call: &Call<'_>,
        model: &str,
        credential: &Credential,
        now: Timestamp,
    ) -> Result<http::Request<Bytes>, CannotPrepare> {
        let strip_tags = call.strip_tags || self.refuses_tags;
        let mut edits = Edits::new();
        let mut headers = cloud::headers(call, &mut edits);
        headers::insert_betas(&mut headers, headers::betas(call.headers, strip_tags, None));
        if let Some(workspace) = self.workspace_id {
            let workspace = HeaderValue::try_from(workspace).map_err(|_| CannotPrepare::BadHeader("workspace_id"))?;
            headers.insert(HeaderName::from_static("anthropic-workspace-id"), workspace);
        }
        headers::insert_static(&mut headers, upstream)?;

        if model != call.message.model() {
            edits.set("model", &model);
        }
        if strip_tags {
            edits.remove("tags");
        }
        let base = upstream.base_url.as_ref().unwrap_or(&self.default_base);
        let mut request = super::post(&format!("{base}{}", call.operation.path()), headers, cloud::body(call, &edits))?;
        match self.aws {
            Some((region, service)) => cloud::authorize_aws(&mut request, credential, region, service, now)?,
            None => headers::insert_credential(request.headers_mut(), credential)?,
        }
        Ok(request)
    }
}
