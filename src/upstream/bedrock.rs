//! Amazon Bedrock, `InvokeModel` and `CountTokens`: the model is in the path, the betas are in the body, streams are
//! `application/vnd.amazon.eventstream` (inference contract §10.2 and §10.5). When counting is given up for a while is
//! decided in [`count_pause`](super::count_pause).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::json;

use super::{Call, CannotPrepare, Credential, Operation, Unreadable, cloud, headers};
use crate::config::{Guardrail, Upstream};
use crate::domain::ids::Timestamp;
use crate::wire::json_edit::Edits;

const SERVICE: &str = "bedrock";
const ANTHROPIC_VERSION: &str = "bedrock-2023-05-31";
/// The betas that `CountTokens` accepts.
const COUNT_BETAS: [&str; 3] = ["claude-code-20250219", "context-management-2025-06-27", "oauth-2025-04-20"];

/// What only Bedrock has.
pub(super) struct Bedrock<'a> {
    pub(super) region: &'a str,
    pub(super) guardrail: Option<&'a Guardrail>,
}

impl Bedrock<'_> {
    pub(super) fn prepare(
        &self,
        upstream: &Upstream,
        call: &Call<'_>,
        model: &str,
        credential: &Credential,
        now: Timestamp,
    ) -> Result<http::Request<Bytes>, CannotPrepare> {
        let base = upstream
            .base_url
            .clone()
            .unwrap_or_else(|| format!("https://bedrock-runtime.{}.amazonaws.com", self.region));
        let mut request = match call.operation {
            Operation::Messages => self.invoke(&base, upstream, call, model)?,
            Operation::CountTokens => count(&base, call, model)?,
        };
        cloud::authorize_aws(&mut request, credential, self.region, SERVICE, now)?;
        Ok(request)
    }

    fn invoke(
        &self,
        base: &str,
        upstream: &Upstream,
        call: &Call<'_>,
        model: &str,
    ) -> Result<http::Request<Bytes>, CannotPrepare> {
        let mut edits = Edits::new();
        let mut headers = cloud::headers(call, &mut edits);
        if let Some(guardrail) = self.guardrail {
            for (name, value) in [
                ("x-amzn-bedrock-guardrailidentifier", &guardrail.id),
                ("x-amzn-bedrock-guardrailversion", &guardrail.version),
            ] {
                let value = HeaderValue::try_from(value).map_err(|_| CannotPrepare::BadHeader("guardrail"))?;
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        headers::insert_static(&mut headers, upstream)?;
        edit(call, &mut edits, |_| true);
        let action = if call.message.is_stream() { "invoke-with-response-stream" } else { "invoke" };
        let address = format!("{base}/model/{}/{action}", cloud::segment(model));
        super::post(&address, headers, cloud::body(call, &edits))
    }
}

/// The body that `InvokeModel` wants.
fn edit(call: &Call<'_>, edits: &mut Edits<'_>, keep_beta: impl Fn(&str) -> bool) {
    let (body, object) = (call.message.body(), call.message.object());
    edits.remove("model").remove("stream").remove("tags");
    if object.find(body, "anthropic_version").is_none() {
        edits.set("anthropic_version", &ANTHROPIC_VERSION);
    }
    let mut betas: Vec<String> = Vec::new();
    let in_body = object.read::<Vec<serde_json::Value>>(body, "anthropic_beta").unwrap_or_default();
    let in_body = in_body.iter().filter_map(|beta| Some(beta.as_str()?.trim().to_owned()));
    for beta in in_body.chain(headers::beta_names(call.headers)) {
        if !beta.is_empty() && beta != headers::TAGS_BETA && keep_beta(&beta) && !betas.contains(&beta) {
            betas.push(beta);
        }
    }
    if betas.is_empty() {
        edits.remove("anthropic_beta");
    } else {
        edits.set("anthropic_beta", &betas);
    }
}

/// `CountTokens` takes the body of an `InvokeModel`, in base64.
fn count(base: &str, call: &Call<'_>, model: &str) -> Result<http::Request<Bytes>, CannotPrepare> {
    let model = foundation_model(model).ok_or(CannotPrepare::CannotCount)?;
    let mut edits = Edits::new();
    let headers = cloud::headers(call, &mut edits);
    edit(call, &mut edits, |beta| COUNT_BETAS.contains(&beta));
    let (body, object) = (call.message.body(), call.message.object());
    if object.find(body, "max_tokens").is_none() {
        let thinking = object.read::<Thinking>(body, "thinking").unwrap_or_default();
        // AWS checks the body like one to be run, where thinking must leave room for an answer.
        edits.set("max_tokens", &thinking.budget_tokens.map_or(1, |budget| budget.saturating_add(1)));
    }
    if object.read::<Vec<serde::de::IgnoredAny>>(body, "tools").is_some_and(|tools| tools.is_empty()) {
        edits.remove("tools");
    }
    let inner = STANDARD.encode(cloud::body(call, &edits));
    let outer = json!({"input": {"invokeModel": {"body": inner}}});
    let address = format!("{base}/model/{}/count-tokens", cloud::segment(model).replace(':', "%3A"));
    super::post(&address, headers, Bytes::from(outer.to_string()))
}

#[derive(Default, Deserialize)]
struct Thinking {
    budget_tokens: Option<u64>,
}

/// The foundation model behind an id: without the region of an inference profile, or out of the ARN of either. Nothing
/// for ids that do not name one, such as application inference profiles and provisioned models.
fn foundation_model(id: &str) -> Option<&str> {
    let id = if id.starts_with("arn:") {
        // arn:partition:service:region:account:resource, whose name may contain colons.
        let (kind, name) = id.splitn(6, ':').nth(5)?.split_once('/')?;
        if !matches!(kind, "foundation-model" | "inference-profile") {
            return None;
        }
        name
    } else {
        id
    };
    if id.starts_with("anthropic.") {
        return Some(id);
    }
    let (region, model) = id.split_once('.')?;
    let is_region = region.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    (is_region && model.starts_with("anthropic.")).then_some(model)
}

/// The client's form of a `CountTokens` answer.
pub(super) fn counted(body: &[u8]) -> Result<Bytes, Unreadable> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Counted {
        input_tokens: u64,
    }
    let counted: Counted = serde_json::from_slice(body).map_err(|_| Unreadable)?;
    Ok(Bytes::from(json!({"input_tokens": counted.input_tokens}).to_string()))
}
