//! What all cloud providers have in common: fixed headers, answers without the upstream's headers, and the body's
//! `user_profile_id` as a header (inference contract §10).

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{Call, CannotPrepare, Credential, headers};
use crate::domain::ids::Timestamp;
use crate::wire::json_edit::Edits;
use crate::wire::sigv4::Signer;

/// The only version that clouds are spoken to in, whatever the client says.
const ANTHROPIC_VERSION: HeaderValue = HeaderValue::from_static("2023-06-01");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A member that becomes a header.
const USER_PROFILE: &str = "user_profile_id";

/// The headers that every cloud gets, without betas and credential. The profile leaves the body through `edits`.
pub(super) fn headers(call: &Call<'_>, edits: &mut Edits<'_>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(20);
    headers.insert(header::CONTENT_TYPE, JSON);
    headers.insert(header::ACCEPT, JSON);
    // Nothing here decompresses: an answer that is to be translated has to come plain.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(headers::USER_AGENT));
    headers.insert("anthropic-version", ANTHROPIC_VERSION);
    // What is not text cannot be signed for AWS, and no SDK sends it.
    headers::copy_stainless(call.headers, &mut headers, |value| value.to_str().is_ok());
    let (body, object) = (call.message.body(), call.message.object());
    if object.find(body, USER_PROFILE).is_some() {
        edits.remove(USER_PROFILE);
        if let Some(profile) = object.read::<String>(body, USER_PROFILE)
            && let Ok(profile) = HeaderValue::from_str(&profile)
        {
            headers.insert(HeaderName::from_static("anthropic-user-profile-id"), profile);
        }
    }
    headers
}

/// The body with `edits`.
pub(super) fn body(call: &Call<'_>, edits: &Edits<'_>) -> bytes::Bytes {
    edits.apply(call.message.body(), call.message.object())
}

/// A model id as one segment of a path: `/` escaped, `:` and `@` not, as the providers' own clients do.
pub(super) fn segment(id: &str) -> String {
    let mut segment = String::with_capacity(id.len() + 8);
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'():@".contains(&byte) {
            segment.push(char::from(byte));
        } else {
            write!(segment, "%{byte:02X}").expect("strings grow");
        }
    }
    segment
}

/// Adds the credential of an AWS service: a header, or a signature over all that is there.
pub(super) fn authorize_aws(
    request: &mut http::Request<bytes::Bytes>,
    credential: &Credential,
    region: &str,
    service: &str,
    now: Timestamp,
) -> Result<(), CannotPrepare> {
    let Credential::AwsKeys(keys) = credential else {
        return headers::insert_credential(request.headers_mut(), credential);
    };
    let signer = Signer {
        access_key_id: &keys.access_key_id,
        secret_access_key: keys.secret_access_key.reveal(),
        session_token: keys.session_token.as_ref().map(|token| token.reveal().as_str()),
        region,
        service,
    };
    signer.sign(request, now.as_secs()).map_err(|_| CannotPrepare::CannotSign)
}
