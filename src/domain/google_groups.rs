//! A Google Workspace user's groups, looked up in the directory with a service account that acts for an administrator
//! (`oidc.google_groups`): Google's id tokens carry no groups.
//!
//! Requests to send and answers to read; sending is `idp.rs`.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use url::Url;
use url::form_urlencoded::Serializer;

use crate::config::Secret;
use crate::domain::ids::Timestamp;
use crate::wire::jwt;

/// Reads group memberships, nothing else.
const SCOPE: &str = "https://www.googleapis.com/auth/admin.directory.group.readonly";

/// Lists the groups of a user (Admin SDK, `groups.list`).
const GROUPS: &str = "https://admin.googleapis.com/admin/directory/v1/groups";

/// The most pages of 200 groups that are read for one person.
pub const MAX_PAGES: u32 = 20;

/// Why the groups are not known. The text is for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DirectoryError {
    /// The key file cannot be used.
    #[error("oidc.google_groups: {0}")]
    UnusableKey(String),
    /// Google refused.
    #[error("the Google {0} answered {1}")]
    Refused(&'static str, u16),
    /// Google answered something else.
    #[error("the Google {0} answered unreadable content")]
    Unreadable(&'static str),
}

/// A service account key file.
#[derive(Deserialize)]
pub struct ServiceAccount {
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
    #[serde(default = "default_token_uri")]
    token_uri: Url,
}

fn default_token_uri() -> Url {
    Url::parse("https://oauth2.googleapis.com/token").expect("a constant")
}

/// An access token and how long it is good.
pub struct AccessToken {
    /// The token.
    pub token: Secret<String>,
    /// Its life.
    pub lifetime: Duration,
}

impl ServiceAccount {
    /// Reads the key file.
    pub fn parse(file: &[u8]) -> Result<Self, DirectoryError> {
        serde_json::from_slice(file)
            .map_err(|_| DirectoryError::UnusableKey("the file is not a service account key".to_owned()))
    }

    /// Where a token is asked for.
    pub const fn token_uri(&self) -> &Url {
        &self.token_uri
    }

    /// The form that asks for a token in the name of `admin_email` (RFC 7523 §2.1).
    pub fn token_request(&self, admin_email: &str, now: Timestamp) -> Result<String, DirectoryError> {
        let mut header = json!({ "alg": "RS256", "typ": "JWT" });
        if let Some(kid) = &self.private_key_id {
            header["kid"] = kid.as_str().into();
        }
        let now = now.as_secs();
        let claims = json!({
            "iss": self.client_email, "sub": admin_email, "scope": SCOPE, "aud": self.token_uri.as_str(),
            "iat": now, "exp": now + 3600,
        });
        let assertion = jwt::sign_rs256(&self.private_key, &header.to_string(), &claims.to_string())
            .map_err(|error| DirectoryError::UnusableKey(error.to_string()))?;
        Ok(Serializer::new(String::new())
            .append_pair("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")
            .append_pair("assertion", &assertion)
            .finish())
    }
}

impl AccessToken {
    /// Reads the answer to a token request.
    pub fn parse(status: StatusCode, body: &[u8]) -> Result<Self, DirectoryError> {
        #[derive(Deserialize)]
        struct Answer {
            access_token: String,
            expires_in: u64,
        }
        if !status.is_success() {
            return Err(DirectoryError::Refused("token endpoint", status.as_u16()));
        }
        let answer: Answer = serde_json::from_slice(body).map_err(|_| DirectoryError::Unreadable("token endpoint"))?;
        Ok(Self { token: Secret::new(answer.access_token), lifetime: Duration::from_secs(answer.expires_in) })
    }
}

/// One page of groups.
#[derive(Debug, PartialEq, Eq)]
pub struct Page {
    /// The groups' addresses.
    pub groups: Vec<String>,
    /// Names the next page, if there is one.
    pub next: Option<String>,
}

impl Page {
    /// Where a page of the groups of `email` is.
    pub fn url(email: &str, page: Option<&str>) -> Url {
        let mut url = Url::parse(GROUPS).expect("a constant");
        url.query_pairs_mut().append_pair("userKey", email).append_pair("maxResults", "200");
        if let Some(page) = page {
            url.query_pairs_mut().append_pair("pageToken", page);
        }
        url
    }

    /// Reads a page. Somebody whom the directory does not know has no groups.
    pub fn parse(status: StatusCode, body: &[u8]) -> Result<Self, DirectoryError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            groups: Vec<Group>,
            #[serde(rename = "nextPageToken")]
            next: Option<String>,
        }
        #[derive(Deserialize)]
        struct Group {
            email: String,
        }
        if status == StatusCode::NOT_FOUND {
            return Ok(Self { groups: Vec::new(), next: None });
        }
        if !status.is_success() {
            return Err(DirectoryError::Refused("directory", status.as_u16()));
        }
        let answer: Answer = serde_json::from_slice(body).map_err(|_| DirectoryError::Unreadable("directory"))?;
        let next = answer.next.filter(|next| !next.is_empty());
        Ok(Self { groups: answer.groups.into_iter().map(|group| group.email).collect(), next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;
    use crate::wire::form::Form;
    use crate::wire::jwt::Jws;

    #[test]
    fn the_service_account_asks_in_the_name_of_the_administrator() {
        let (private_key, _) = testing::client_certificate();
        let file =
            json!({"client_email": "robot@x.test", "private_key": private_key, "private_key_id": "k", "type": "y"});
        let account = ServiceAccount::parse(file.to_string().as_bytes()).expect("a key file");
        assert_eq!(account.token_uri().as_str(), "https://oauth2.googleapis.com/token");
        let form = account.token_request("admin@x.test", Timestamp::from_secs(1000)).expect("a request");
        let form = Form::urlencoded(form.as_bytes());
        assert_eq!(form.first("grant_type"), Some("urn:ietf:params:oauth:grant-type:jwt-bearer"));
        let jws = Jws::parse(form.first("assertion").expect("an assertion")).expect("a token");
        assert_eq!(jws.header.kid.as_deref(), Some("k"));
        let claims: serde_json::Value = serde_json::from_slice(&jws.payload).expect("claims");
        assert_eq!(
            claims,
            json!({
                "iss": "robot@x.test", "sub": "admin@x.test", "scope": SCOPE,
                "aud": "https://oauth2.googleapis.com/token", "iat": 1000, "exp": 4600,
            })
        );
        for file in ["", "{}", r#"{"client_email":"x"}"#] {
            assert!(ServiceAccount::parse(file.as_bytes()).is_err(), "{file}");
        }
    }

    #[test]
    fn pages_are_read_one_after_another() {
        assert_eq!(
            Page::url("a+b@x.test", Some("p&q")).as_str(),
            "https://admin.googleapis.com/admin/directory/v1/groups?userKey=a%2Bb%40x.test&maxResults=200&pageToken=p%26q"
        );
        for (status, body, page) in [
            (
                200,
                r#"{"groups":[{"email":"eng@x.test","name":"E"}],"nextPageToken":"n"}"#,
                Ok((vec!["eng@x.test"], Some("n"))),
            ),
            (200, r#"{"kind":"admin#directory#groups"}"#, Ok((vec![], None))),
            (404, "", Ok((vec![], None))),
            (403, r#"{"groups":[]}"#, Err(DirectoryError::Refused("directory", 403))),
            (200, "<html>", Err(DirectoryError::Unreadable("directory"))),
        ] {
            let page = page.map(|(groups, next)| Page {
                groups: groups.into_iter().map(str::to_owned).collect(),
                next: next.map(str::to_owned),
            });
            assert_eq!(Page::parse(StatusCode::from_u16(status).expect("a status"), body.as_bytes()), page, "{body}");
        }
    }
}
