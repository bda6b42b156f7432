//! Google Vertex AI: the model is in the path (inference contract §10.4).

use bytes::Bytes;

use super::{Call, CannotPrepare, Credential, Operation, cloud, headers};
use crate::config::Upstream;
use crate::wire::json_edit::Edits;

const ANTHROPIC_VERSION: &str = "vertex-2023-10-16";

pub(super) fn prepare(
    upstream: &Upstream,
    region: &str,
    project_id: &str,
    call: &Call<'_>,
    model: &str,
    credential: &Credential,
) -> Result<http::Request<Bytes>, CannotPrepare> {
    let mut edits = Edits::new();
    let mut headers = cloud::headers(call, &mut edits);
    headers::insert_betas(&mut headers, headers::betas(call.headers, true, None));
    headers::insert_static(&mut headers, upstream)?;
    headers::insert_credential(&mut headers, credential)?;

    edits.remove("tags");
    let action = match call.operation {
        Operation::Messages => {
            edits.remove("model");
            if call.message.object().find(call.message.body(), "anthropic_version").is_none() {
                edits.set("anthropic_version", &ANTHROPIC_VERSION);
            }
            let action = if call.message.is_stream() { "streamRawPredict" } else { "rawPredict" };
            format!("{}:{action}", cloud::segment(model))
        }
        Operation::CountTokens => {
            if model != call.message.model() {
                edits.set("model", &model);
            }
            "count-tokens:rawPredict".to_owned()
        }
    };
    let base = upstream.base_url.clone().unwrap_or_else(|| default_base(region));
    let address = format!("{base}/projects/{project_id}/locations/{region}/publishers/anthropic/models/{action}");
    super::post(&address, headers, cloud::body(call, &edits))
}

fn default_base(region: &str) -> String {
    match region {
        "global" => "https://aiplatform.googleapis.com/v1".to_owned(),
        "us" | "eu" => format!("https://aiplatform.{region}.rep.googleapis.com/v1"),
        _ => format!("https://{region}-aiplatform.googleapis.com/v1"),
    }
}
