//! From an identity provider's claims to an [`Identity`]: who this is, and whether this person may enter
//! (auth contract §5.6).
//!
//! That the claims are genuine is decided before, in `id_token.rs`.

use serde_json::Value;

use crate::config::{ClaimPath, Json, Oidc};

/// A person, as the identity provider describes them and as the configuration admits them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The claim that `oidc.user_id_claim` names. Never empty.
    pub subject: String,
    /// As the identity provider spells it.
    pub email: Option<String>,
    /// Never empty.
    pub name: Option<String>,
    /// In the identity provider's order, duplicates kept.
    pub groups: Vec<String>,
}

/// What is known of a person: the id token, and userinfo where it was asked.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// From the id token; empty when a refresh brought none.
    id_token: Json,
    /// From userinfo.
    userinfo: Json,
    /// From a directory, in place of what the claims say.
    directory_groups: Option<Vec<String>>,
}

/// The longest subject, and the longest name of a group, in characters. Nobody's is longer (a subject has at most 255,
/// OpenID Connect Core §2), and no index of PostgreSQL keeps much more.
pub const MOST_CHARACTERS: usize = 512;

/// Why these claims let nobody in. The text is for the audit trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The claim that becomes the subject is missing, empty or no string.
    #[error("IdP claims missing required `{0}`")]
    MissingUserId(String),
    /// What would be the subject, or the name of a group, cannot be kept.
    #[error("IdP claims hold a value of more than {MOST_CHARACTERS} characters in `{0}`")]
    TooLong(String),
    /// Userinfo speaks of somebody else (OpenID Connect Core §5.3.2).
    #[error("userinfo `sub` does not match the id_token")]
    UserinfoSubject,
    /// The identity provider says that the address is not verified.
    #[error("id_token email is not verified")]
    EmailNotVerified,
    /// Domains are restricted, and there is no address to judge.
    #[error("IdP claims missing an email (oidc.email_claim: {0})")]
    MissingEmail(String),
    /// The address is of another domain.
    #[error("email domain not allowed")]
    EmailDomain,
    /// Another provider signs in addresses of this domain.
    #[error("the email domain is that of another identity provider")]
    ForeignDomain,
    /// The subject looks like that of another provider, or of a program.
    #[error("the subject begins like those of another identity provider")]
    ForeignSubject,
    /// The person is in none of the allowed groups.
    #[error("user is not a member of an allowed group")]
    Group,
}

impl Claims {
    /// Claims of a verified id token.
    pub fn of_id_token(claims: Json) -> Self {
        Self { id_token: claims, ..Self::default() }
    }

    /// Claims of a refresh that brought no id token: userinfo is all there is (auth contract §6).
    pub fn of_userinfo(claims: Json) -> Self {
        Self { userinfo: claims, ..Self::default() }
    }

    /// Whether userinfo could fill a gap: e-mail or groups are missing (not: empty).
    pub fn have_gaps(&self, oidc: &Oidc) -> bool {
        email(&self.id_token, &oidc.email_claim).is_none() || present(&self.id_token, &oidc.groups_claim).is_none()
    }

    /// Adds what userinfo says; it fills gaps only, and must speak of the same person.
    pub fn fill(self, userinfo: Json) -> Result<Self, Refusal> {
        match (self.id_token.get("sub"), userinfo.get("sub")) {
            (Some(ours), Some(theirs)) if ours == theirs => Ok(Self { userinfo, ..self }),
            _ => Err(Refusal::UserinfoSubject),
        }
    }

    /// Replaces the groups of the claims by those of a directory.
    #[must_use]
    pub fn with_directory_groups(self, groups: Vec<String>) -> Self {
        Self { directory_groups: Some(groups), ..self }
    }

    /// The e-mail address that a directory may be asked for: one that was not called unverified.
    pub fn email(&self, oidc: &Oidc) -> Option<&str> {
        if [&self.id_token, &self.userinfo].into_iter().any(email_is_unverified) {
            return None;
        }
        email(&self.id_token, &oidc.email_claim).or_else(|| email(&self.userinfo, &oidc.email_claim))
    }

    /// The names of the id token's claims, sorted; for the debug log.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.id_token.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The person, if the configuration lets them in.
    pub fn identity(&self, oidc: &Oidc) -> Result<Identity, Refusal> {
        // Never filled from userinfo, unless userinfo is all there is.
        let primary = if self.id_token.is_empty() { &self.userinfo } else { &self.id_token };
        let subject = match find(primary, &oidc.user_id_claim) {
            Some(Value::String(subject)) if !subject.is_empty() => subject.clone(),
            _ => return Err(Refusal::MissingUserId(oidc.user_id_claim.0.clone())),
        };
        if is_too_long(&subject) {
            return Err(Refusal::TooLong(oidc.user_id_claim.0.clone()));
        }
        if [&self.id_token, &self.userinfo].into_iter().any(email_is_unverified) {
            return Err(Refusal::EmailNotVerified);
        }
        let email = email(&self.id_token, &oidc.email_claim).or_else(|| email(&self.userinfo, &oidc.email_claim));
        admit_domain(email, oidc)?;
        let groups = match &self.directory_groups {
            Some(groups) => groups.clone(),
            None => present(&self.id_token, &oidc.groups_claim)
                .or_else(|| present(&self.userinfo, &oidc.groups_claim))
                .map(group_names)
                .unwrap_or_default(),
        };
        if groups.iter().any(|group| is_too_long(group)) {
            return Err(Refusal::TooLong(oidc.groups_claim.0.clone()));
        }
        if !oidc.allowed_groups.is_empty() && !groups.iter().any(|group| oidc.allowed_groups.contains(group)) {
            return Err(Refusal::Group);
        }
        let name = [&self.id_token, &self.userinfo]
            .into_iter()
            .find_map(|claims| claims.get("name")?.as_str().filter(|name| !name.is_empty()));
        Ok(Identity { subject, email: email.map(str::to_owned), name: name.map(str::to_owned), groups })
    }
}

fn is_too_long(name: &str) -> bool {
    name.chars().nth(MOST_CHARACTERS).is_some()
}

/// The value of a claim: a flat key, or an RFC 6901 pointer when it starts with `/`.
pub fn find<'a>(claims: &'a Json, path: &ClaimPath) -> Option<&'a Value> {
    let Some(pointer) = path.0.strip_prefix('/') else { return claims.get(&path.0) };
    let mut tokens = pointer.split('/').map(|token| token.replace("~1", "/").replace("~0", "~"));
    let first = claims.get(&tokens.next()?)?;
    tokens.try_fold(first, |value, token| match value {
        Value::Object(map) => map.get(&token),
        // RFC 6901 §4: no leading zeros.
        Value::Array(_) if token.len() > 1 && token.starts_with('0') => None,
        Value::Array(list) if token.bytes().all(|digit| digit.is_ascii_digit()) => {
            list.get(token.parse::<usize>().ok()?)
        }
        _ => None,
    })
}

/// As [`find`]; `null` counts as missing.
fn present<'a>(claims: &'a Json, path: &ClaimPath) -> Option<&'a Value> {
    find(claims, path).filter(|value| !value.is_null())
}

/// The first e-mail claim that is present, whatever it holds; anything but a string then counts as missing.
fn email<'a>(claims: &'a Json, paths: &[ClaimPath]) -> Option<&'a str> {
    paths.iter().find_map(|path| find(claims, path))?.as_str()
}

fn email_is_unverified(claims: &Json) -> bool {
    match claims.get("email_verified") {
        Some(Value::Bool(verified)) => !verified,
        Some(Value::String(verified)) => verified == "false",
        _ => false,
    }
}

fn admit_domain(email: Option<&str>, oidc: &Oidc) -> Result<(), Refusal> {
    if oidc.allowed_email_domains.is_empty() {
        return Ok(());
    }
    let Some((_, domain)) = email.and_then(|email| email.rsplit_once('@')) else {
        let names: Vec<&str> = oidc.email_claim.iter().map(|path| path.0.as_str()).collect();
        return Err(Refusal::MissingEmail(names.join(", ")));
    };
    let domain = domain.to_lowercase();
    if oidc.allowed_email_domains.contains(&domain) { Ok(()) } else { Err(Refusal::EmailDomain) }
}

fn group_names(value: &Value) -> Vec<String> {
    let names = match value {
        Value::Array(names) => names.as_slice(),
        name => std::slice::from_ref(name),
    };
    names.iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing;

    fn object(value: Value) -> Json {
        match value {
            Value::Object(map) => map,
            other => panic!("not an object: {other}"),
        }
    }

    fn claims(value: Value) -> Claims {
        Claims::of_id_token(object(value))
    }

    #[test]
    fn claims_are_found_by_key_and_by_pointer() {
        let document = object(json!({
            "https://x.example/groups": 1, "a": {"b": [10, {"c": 11}], "/": 12, "~": 13, "": 14}, "/": 15, "n": null,
        }));
        for (path, value) in [
            ("https://x.example/groups", Some(json!(1))),
            ("/a/b/0", Some(json!(10))),
            ("/a/b/1/c", Some(json!(11))),
            ("/a/~1", Some(json!(12))),
            ("/a/~0", Some(json!(13))),
            ("/a/", Some(json!(14))),
            ("/~1", Some(json!(15))),
            ("/a/b/01", None),
            ("/a/b/2", None),
            ("/a/b/-", None),
            ("/a/b/+1", None),
            ("/a/b/", None),
            ("/", None),
            ("a/b", None),
            ("/n", Some(json!(null))),
            ("/n/x", None),
        ] {
            assert_eq!(find(&document, &ClaimPath(path.to_owned())).cloned(), value, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_pointer_finds_what_serde_json_finds(
            keys in proptest::collection::vec("[a~/0-2]{0,3}", 1..4), pointer in "(/[a~/0-2]{0,3}){1,4}",
        ) {
            let document = keys.iter().rev().fold(json!([1, 2]), |inner, key| json!({key: [inner, {"a": 3}]}));
            let found = find(&object(document.clone()), &ClaimPath(pointer.clone())).cloned();
            prop_assert_eq!(found, document.pointer(&pointer).cloned());
        }
    }

    #[test]
    fn identities_are_read_as_the_contract_says() {
        let oidc = testing::oidc();
        for (given, email, name, groups) in [
            (json!({"sub": "a"}), None, None, vec![]),
            (json!({"sub": "a", "email": " A@B ", "name": "N"}), Some(" A@B "), Some("N"), vec![]),
            (json!({"sub": "a", "email": 5, "name": ""}), None, None, vec![]),
            (json!({"sub": "a", "email": "", "name": 7}), Some(""), None, vec![]),
            (json!({"sub": "a", "groups": ["x", "", 5, "y", "x"]}), None, None, vec!["x", "y", "x"]),
            (json!({"sub": "a", "groups": "x y,z"}), None, None, vec!["x y,z"]),
            (json!({"sub": "a", "groups": {"x": 1}}), None, None, vec![]),
            (json!({"sub": "a", "email_verified": null}), None, None, vec![]),
            (json!({"sub": "a", "email_verified": "true"}), None, None, vec![]),
        ] {
            let identity = claims(given.clone()).identity(&oidc).expect("admitted");
            assert_eq!(identity.email.as_deref(), email, "{given}");
            assert_eq!(identity.name.as_deref(), name, "{given}");
            assert_eq!(identity.groups, groups, "{given}");
        }
    }

    #[test]
    fn refusals_follow_the_table() {
        let restricted = || Oidc {
            allowed_email_domains: vec!["example.com".to_owned()],
            allowed_groups: vec!["eng".to_owned()],
            ..testing::oidc()
        };
        let missing_email = Refusal::MissingEmail("email".to_owned());
        for (given, oidc, verdict) in [
            (json!({"sub": ""}), testing::oidc(), Some(Refusal::MissingUserId("sub".to_owned()))),
            (json!({"sub": 7}), testing::oidc(), Some(Refusal::MissingUserId("sub".to_owned()))),
            (json!({"email": "a@b"}), testing::oidc(), Some(Refusal::MissingUserId("sub".to_owned()))),
            (json!({"sub": "é".repeat(513)}), testing::oidc(), Some(Refusal::TooLong("sub".to_owned()))),
            (json!({"sub": "é".repeat(512), "groups": ["g".repeat(512)]}), testing::oidc(), None),
            (
                json!({"sub": "a", "groups": ["x", "g".repeat(513)]}),
                testing::oidc(),
                Some(Refusal::TooLong("groups".to_owned())),
            ),
            (json!({"sub": "a", "email_verified": false}), testing::oidc(), Some(Refusal::EmailNotVerified)),
            (json!({"sub": "a", "email_verified": "false"}), testing::oidc(), Some(Refusal::EmailNotVerified)),
            (json!({"sub": "a"}), restricted(), Some(missing_email.clone())),
            (json!({"sub": "a", "email": "example.com"}), restricted(), Some(missing_email)),
            (json!({"sub": "a", "email": "a@example.com@evil.test"}), restricted(), Some(Refusal::EmailDomain)),
            (json!({"sub": "a", "email": "a@sub.example.com"}), restricted(), Some(Refusal::EmailDomain)),
            (json!({"sub": "a", "email": "a@example.com"}), restricted(), Some(Refusal::Group)),
            (json!({"sub": "a", "email": "a@EXAMPLE.com", "groups": ["ENG"]}), restricted(), Some(Refusal::Group)),
            (json!({"sub": "a", "email": "x@y@EXAMPLE.com", "groups": ["ops", "eng"]}), restricted(), None),
        ] {
            assert_eq!(claims(given.clone()).identity(&oidc).err(), verdict, "{given}");
        }
    }

    #[test]
    fn the_first_email_claim_that_is_present_wins_even_if_it_is_useless() {
        let oidc =
            Oidc { email_claim: vec![ClaimPath("mail".to_owned()), ClaimPath("/upn".to_owned())], ..testing::oidc() };
        for (given, email) in [
            (json!({"sub": "a", "upn": "u"}), Some("u")),
            (json!({"sub": "a", "mail": "m", "upn": "u"}), Some("m")),
            (json!({"sub": "a", "mail": "", "upn": "u"}), Some("")),
            (json!({"sub": "a", "mail": 5, "upn": "u"}), None),
        ] {
            assert_eq!(claims(given.clone()).identity(&oidc).expect("admitted").email.as_deref(), email, "{given}");
        }
    }

    #[test]
    fn userinfo_is_asked_only_for_a_missing_email_or_missing_groups() {
        for (given, gaps) in [
            (json!({"sub": "a", "email": "e", "groups": ["g"]}), false),
            (json!({"sub": "a", "email": "", "groups": []}), false),
            (json!({"sub": "a", "groups": ["g"]}), true),
            (json!({"sub": "a", "email": 5, "groups": ["g"]}), true),
            (json!({"sub": "a", "email": "e"}), true),
            (json!({"sub": "a", "email": "e", "groups": null}), true),
        ] {
            assert_eq!(claims(given.clone()).have_gaps(&testing::oidc()), gaps, "{given}");
        }
    }

    #[test]
    fn userinfo_fills_gaps_and_nothing_else() {
        let oidc = Oidc { user_id_claim: ClaimPath("oid".to_owned()), ..testing::oidc() };
        let thin = claims(json!({"sub": "a", "oid": "O", "email": "token@x"}));
        let userinfo = json!({"sub": "a", "oid": "other", "email": "info@x", "groups": ["g"], "name": "N"});
        let identity = thin.clone().fill(object(userinfo)).expect("same person").identity(&oidc).expect("admitted");
        assert_eq!(identity.subject, "O");
        assert_eq!(identity.email.as_deref(), Some("token@x"));
        assert_eq!(identity.groups, ["g"]);
        assert_eq!(identity.name.as_deref(), Some("N"));
        for stranger in [json!({"sub": "b"}), json!({})] {
            assert_eq!(thin.clone().fill(object(stranger)).err(), Some(Refusal::UserinfoSubject));
        }
        let unverified = json!({"sub": "a", "email_verified": false});
        let filled = thin.fill(object(unverified)).expect("same person");
        assert_eq!(filled.identity(&oidc), Err(Refusal::EmailNotVerified));
        // The user id is never filled in.
        let anonymous = claims(json!({"sub": "a"})).fill(object(json!({"sub": "a", "oid": "O"}))).expect("same person");
        assert_eq!(anonymous.identity(&oidc), Err(Refusal::MissingUserId("oid".to_owned())));
    }

    /// What providers really send, shortened, and what the configuration for each of them makes of it.
    #[test]
    fn every_kind_of_provider_is_understood() {
        let path = |text: &str| ClaimPath(text.to_owned());
        let okta = || Oidc { userinfo_fallback: true, ..testing::oidc() };
        let entra = || Oidc {
            user_id_claim: path("oid"),
            email_claim: vec![path("email"), path("preferred_username"), path("upn")],
            groups_claim: path("roles"),
            ..testing::oidc()
        };
        let keycloak = || Oidc { groups_claim: path("/resource_access/gateway/roles"), ..testing::oidc() };
        let auth0 = || Oidc { groups_claim: path("https://example.com/groups"), ..testing::oidc() };
        let adfs = || Oidc { email_claim: vec![path("upn")], groups_claim: path("group"), ..testing::oidc() };
        for (name, oidc, given, subject, email, groups) in [
            (
                "Okta's org server: nothing but the subject",
                okta(),
                json!({"sub": "00u1", "ver": 1, "amr": ["pwd"], "idp": "00o1", "at_hash": "x"}),
                "00u1",
                None,
                &[][..],
            ),
            (
                "Entra: no email, app roles",
                entra(),
                json!({"sub": "pairwise", "oid": "a-b-c", "tid": "t", "ver": "2.0", "preferred_username": "ada@example.com",
                    "roles": ["Gateway.User"], "xms_edov": true}),
                "a-b-c",
                Some("ada@example.com"),
                &["Gateway.User"],
            ),
            (
                "Entra: too many groups to list",
                Oidc { groups_claim: path("groups"), ..entra() },
                json!({"sub": "s", "oid": "a-b-c", "email": "ada@example.com", "_claim_names": {"groups": "src1"},
                    "_claim_sources": {"src1": {"endpoint": "https://graph.example.com"}}}),
                "a-b-c",
                Some("ada@example.com"),
                &[],
            ),
            (
                "Google: verified, hosted domain, no groups",
                testing::oidc(),
                json!({"sub": "1034", "email": "ada@example.com", "email_verified": true, "hd": "example.com", "azp": "gateway"}),
                "1034",
                Some("ada@example.com"),
                &[],
            ),
            (
                "Keycloak: roles of the client",
                keycloak(),
                json!({"sub": "f:1", "email": "ada@example.com", "email_verified": true, "typ": "ID", "azp": "gateway",
                    "realm_access": {"roles": ["offline_access"]}, "resource_access": {"gateway": {"roles": ["eng", "ops"]}}}),
                "f:1",
                Some("ada@example.com"),
                &["eng", "ops"],
            ),
            (
                "ADFS: one group is text",
                adfs(),
                json!({"sub": "s", "upn": "ada@example.com", "unique_name": "EXAMPLE\\ada", "group": "Domain Users"}),
                "s",
                Some("ada@example.com"),
                &["Domain Users"],
            ),
            (
                "Dex: groups of a connector, a subject that is not for reading",
                testing::oidc(),
                json!({"sub": "CgNhZGESBGxkYXA", "email": "ada@example.com", "email_verified": true, "groups": ["acme:eng"],
                    "federated_claims": {"connector_id": "ldap", "user_id": "ada"}, "name": "Ada"}),
                "CgNhZGESBGxkYXA",
                Some("ada@example.com"),
                &["acme:eng"],
            ),
            (
                "Auth0: claims in a namespace",
                auth0(),
                json!({"sub": "auth0|1", "email": "ada@example.com", "email_verified": true, "nickname": "ada",
                    "https://example.com/groups": ["eng"]}),
                "auth0|1",
                Some("ada@example.com"),
                &["eng"],
            ),
        ] {
            let identity = claims(given).identity(&oidc).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
            assert_eq!((identity.subject.as_str(), identity.email.as_deref()), (subject, email), "{name}");
            assert_eq!(identity.groups, groups, "{name}");
        }
        // Okta's thin token is filled by userinfo.
        let thin = claims(json!({"sub": "00u1"}));
        assert!(thin.have_gaps(&okta()));
        let userinfo =
            json!({"sub": "00u1", "email": "ada@example.com", "email_verified": true, "groups": ["Everyone"]});
        let filled = thin.fill(object(userinfo)).expect("the same person").identity(&okta()).expect("admitted");
        assert_eq!(
            (filled.email.as_deref(), &filled.groups[..]),
            (Some("ada@example.com"), &["Everyone".to_owned()][..])
        );
    }
}
