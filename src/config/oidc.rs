//! Section `oidc` (auth contract §3.2).

use std::time::Duration;

use url::Url;

use super::address::outbound_url;
use super::decode::{Keys, section};
use super::kind::{
    Kind, OneOrList, choice, formed, list, map, non_empty, one_or_many, secret, switch, text, text_between, whole,
};
use super::report::Report;
use super::{ClaimPath, ClientAssertion, GoogleGroups, Oidc, SigningAlg, TokenEndpointAuthMethod};

/// Parameters of the authorization request that the gateway sets itself.
const OWN_AUTH_PARAMS: [&str; 9] = [
    "state",
    "nonce",
    "redirect_uri",
    "code_challenge",
    "code_challenge_method",
    "scope",
    "response_type",
    "response_mode",
    "client_id",
];

#[expect(clippy::too_many_lines, reason = "a table of keys, one after the other")]
pub(super) fn oidc(keys: &mut Keys<'_, '_>) -> Option<Oidc> {
    let name = keys.optional(
        "name",
        provider_name(),
        "Name of the provider in a list of several: what its subjects begin with. Lower-case letters, digits and hyphens; \
         it must not change.",
    );
    let label = keys.optional(
        "label",
        text_between(1, 60),
        "What the sign-in page calls the provider among several. Without it, `name`.",
    );
    let matches = keys.optional(
        "match",
        section(provider_match),
        "Whom the provider signs in, among several. Providers without it are offered by name.",
    );
    let keep_subjects = keys.or(
        "keep_subjects",
        switch(),
        "false",
        "Among several providers, leaves this one's subjects without its name, as they were when it was the only one: spend \
         limits and reports go on. At most one may have it.",
    );
    let groups_prefix = keys.or(
        "groups_prefix",
        text(),
        "\"\"",
        "Put before every group of this provider's people, for example `partners/`, so that groups of the same name at two \
         providers do not mean the same in policies. `allowed_groups` has them without.",
    );
    let issuer = keys.required(
        "issuer",
        outbound_url(),
        "The identity provider's issuer URL. Its discovery document is looked up below it.",
    );
    let client_id = keys.required("client_id", non_empty(), "Client id of the gateway's registration.");
    let client_secret = keys.optional(
        "client_secret",
        secret(1),
        "Client secret. Required, except with `token_endpoint_auth_method: private_key_jwt`, where it must be absent.",
    );
    let token_endpoint_auth_method = keys.optional(
        "token_endpoint_auth_method",
        choice(&[
            ("client_secret_basic", TokenEndpointAuthMethod::ClientSecretBasic),
            ("client_secret_post", TokenEndpointAuthMethod::ClientSecretPost),
            ("private_key_jwt", TokenEndpointAuthMethod::PrivateKeyJwt),
        ]),
        "How the gateway authenticates at the token endpoint. Without it: `client_secret_basic`, or \
         `client_secret_post` if the discovery document lists nothing else.",
    );
    let client_assertion = keys.optional(
        "client_assertion",
        section(client_assertion),
        "Key and certificate for `private_key_jwt` (RFC 7523). Required with it, and only allowed with it.",
    );
    let allowed_email_domains = keys.or(
        "allowed_email_domains",
        list(text()).check(|given| email_domains(&given)),
        "[]",
        "Only people whose e-mail address is in one of these domains may sign in. Empty: no restriction.",
    );
    let allowed_groups = keys.or(
        "allowed_groups",
        list(text()).check(|given| groups(&given)),
        "[]",
        "Only members of at least one of these groups may sign in; compared exactly. Empty: no restriction.",
    );
    let groups_claim = keys.or(
        "groups_claim",
        claim(),
        "groups",
        "Claim that carries the groups: a key, or a JSON pointer (RFC 6901) when it begins with `/`.",
    );
    let email_claim = keys.or(
        "email_claim",
        one_or_many(claim()),
        "email",
        "Claim that carries the e-mail address, written like `groups_claim`. Of several, the first that is present wins.",
    );
    let user_id_claim = keys.or(
        "user_id_claim",
        claim(),
        "sub",
        "Claim of the id token that identifies a person for ever (for Microsoft Entra, `oid`).",
    );
    let scope_on_refresh = keys.or(
        "scope_on_refresh",
        switch(),
        "false",
        "Whether refresh requests repeat `scope`; some providers insist.",
    );
    let scopes = keys.or(
        "scopes",
        list(scope()).such_that(|scopes| scopes.iter().any(|scope| scope == "openid"), "must contain `openid`"),
        "[openid, profile, email, offline_access]",
        "Scopes to request; must contain `openid`.",
    );
    let extra_auth_params = keys.or(
        "extra_auth_params",
        map(auth_param, text()),
        "{}",
        "More parameters for the authorization request, for example `prompt: login`. Parameters that the gateway sets \
         itself are refused.",
    );
    let userinfo_fallback = keys.or(
        "userinfo_fallback",
        switch(),
        "false",
        "Whether the userinfo endpoint is asked for an e-mail address or groups that the id token lacks.",
    );
    let use_pkce = keys.or("use_pkce", switch(), "true", "Whether PKCE (RFC 7636, S256) is used. Leave it on.");
    let clock_skew = keys.or(
        "clock_skew_seconds",
        whole(0, 86_400).map(Duration::from_secs),
        "0",
        "Tolerance on `exp` and `nbf` of id tokens, in seconds.",
    );
    let id_token_signed_response_alg = keys.or(
        "id_token_signed_response_alg",
        choice(&[
            ("RS256", SigningAlg::Rs256),
            ("RS384", SigningAlg::Rs384),
            ("RS512", SigningAlg::Rs512),
            ("PS256", SigningAlg::Ps256),
            ("PS384", SigningAlg::Ps384),
            ("PS512", SigningAlg::Ps512),
            ("ES256", SigningAlg::Es256),
            ("ES384", SigningAlg::Es384),
            ("ES512", SigningAlg::Es512),
            ("EdDSA", SigningAlg::EdDsa),
        ]),
        "RS256",
        "The one algorithm with which id tokens must be signed.",
    );
    let additional_authorized_parties = keys.or(
        "additional_authorized_parties",
        list(text()),
        "[]",
        "Values of `azp` that are accepted besides `client_id`.",
    );
    let discovery_url = keys.optional(
        "discovery_url",
        outbound_url().such_that(|url| url.path().contains("/.well-known/"), "the path must contain /.well-known/"),
        "Where the discovery document is, if not at `<issuer>/.well-known/openid-configuration`.",
    );
    let form_action_origins = keys.or(
        "form_action_origins",
        list(form_action_origin()),
        "[]",
        "Origins that the sign-in form may lead to besides the authorization endpoint's (CSP `form-action`), for \
         providers that redirect elsewhere.",
    );
    let ca_cert_pem = keys.optional(
        "ca_cert_pem",
        text().such_that(
            |pem| pem.contains("-----BEGIN CERTIFICATE-----"),
            "is not a PEM certificate: give its text, for example with ${file:/path/ca.pem}",
        ),
        "PEM text of certificate authorities to trust for requests to the identity provider. Only `sallyport serve` \
         uses it; for Spin, `sallyport render spin` puts it into the runtime configuration.",
    );
    let google_groups = keys.optional(
        "google_groups",
        section(google_groups),
        "Looks the person's groups up in the Google Workspace directory; group addresses become the groups.",
    );
    let use_proxy = keys.optional(
        "use_proxy",
        switch(),
        "Whether requests to the identity provider go through the proxy that `HTTPS_PROXY` and `NO_PROXY` name. Only \
         `sallyport serve` uses one.",
    );
    let tls = keys.optional(
        "tls",
        section(super::egress::client_tls),
        "TLS towards the identity provider. Only `sallyport serve` uses it; for Spin, `sallyport render spin` puts it \
         into the runtime configuration.",
    );
    if keys.has("tls") && keys.has("ca_cert_pem") {
        keys.fault("ca_cert_pem", "cannot be used together with `tls`; name a `tls.ca_file` instead");
    }

    let is_private_key_jwt = token_endpoint_auth_method == Some(TokenEndpointAuthMethod::PrivateKeyJwt);
    match (is_private_key_jwt, keys.has("client_secret"), keys.has("client_assertion")) {
        (true, true, _) => {
            keys.fault("client_secret", "must be absent with `token_endpoint_auth_method: private_key_jwt`");
        }
        (true, false, false) => {
            keys.lacks(
                "client_assertion",
                "`client_assertion` is required with `token_endpoint_auth_method: private_key_jwt`",
            );
        }
        (false, has_secret, has_assertion) => {
            if has_assertion {
                keys.fault("client_assertion", "is only allowed with `token_endpoint_auth_method: private_key_jwt`");
            }
            if !has_secret {
                keys.lacks("client_secret", "the key `client_secret` is missing");
            }
        }
        (true, false, true) => {}
    }
    if use_pkce == Some(false) {
        keys.warn("use_pkce", "without PKCE a stolen authorization code can be redeemed by others");
    }

    Some(Oidc {
        name,
        label,
        email_domains: matches.unwrap_or_default(),
        keep_subjects: keep_subjects?,
        groups_prefix: groups_prefix?,
        issuer: issuer?,
        client_id: client_id?,
        client_secret,
        token_endpoint_auth_method,
        client_assertion,
        allowed_email_domains: allowed_email_domains?,
        allowed_groups: allowed_groups?,
        groups_claim: groups_claim?,
        email_claim: email_claim?,
        user_id_claim: user_id_claim?,
        scope_on_refresh: scope_on_refresh?,
        scopes: scopes?,
        extra_auth_params: extra_auth_params?,
        userinfo_fallback: userinfo_fallback?,
        use_pkce: use_pkce?,
        clock_skew: clock_skew?,
        id_token_signed_response_alg: id_token_signed_response_alg?,
        additional_authorized_parties: additional_authorized_parties?,
        discovery_url,
        form_action_origins: form_action_origins?,
        ca_cert_pem,
        google_groups,
        use_proxy,
        tls,
    })
}

/// All providers, and the rules between them.
pub(super) fn together(given: OneOrList<Oidc>, report: &mut Report<'_>) -> Vec<Oidc> {
    let providers = match given {
        OneOrList::One(provider) => {
            let keys = [
                ("match", !provider.email_domains.is_empty()),
                ("label", provider.label.is_some()),
                ("keep_subjects", provider.keep_subjects),
            ];
            for (key, _) in keys.into_iter().filter(|(_, is_written)| *is_written) {
                report.warn_at(&format!("oidc.{key}"), "has no effect with one provider");
            }
            return vec![provider];
        }
        OneOrList::List(providers) => providers,
    };
    for (index, provider) in providers.iter().enumerate() {
        let earlier = || providers[..index].iter();
        match &provider.name {
            None => report
                .fault_at(&format!("oidc[{index}]"), "the key `name` is missing; every provider of a list needs one"),
            Some(name) if earlier().any(|earlier| earlier.name.as_ref() == Some(name)) => {
                report.fault_at(&format!("oidc[{index}].name"), format!("another provider has the name `{name}` too"));
            }
            Some(_) => {}
        }
        for domain in &provider.email_domains {
            if earlier().any(|earlier| earlier.email_domains.contains(domain)) {
                let message = format!("another provider signs in {domain} too");
                report.fault_at(&format!("oidc[{index}].match.email_domain"), message);
            }
        }
        if provider.keep_subjects && earlier().any(|earlier| earlier.keep_subjects) {
            let message = "another provider keeps its subjects too; two of them could collide";
            report.fault_at(&format!("oidc[{index}].keep_subjects"), message);
        }
    }
    providers
}

fn provider_match(keys: &mut Keys<'_, '_>) -> Option<Vec<String>> {
    keys.required(
        "email_domain",
        one_or_many(formed("an e-mail domain")).check(|given| match_domains(&given)),
        "Domain of the e-mail addresses that the provider signs in, or a list. Nobody else's address may be in it: a person \
         whom another provider describes with such an address is refused.",
    )
}

fn match_domains(given: &[String]) -> Result<Vec<String>, String> {
    let domains = email_domains(given)?;
    match domains.iter().find(|domain| domain.contains('@') || domain.contains(|c: char| c.is_whitespace() || c == ','))
    {
        Some(domain) => Err(format!("{domain} is not an e-mail domain such as example.com")),
        None => Ok(domains),
    }
}

fn provider_name() -> Kind<String> {
    let is_name = |name: &String| {
        name.len() <= 32 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    formed("a name")
        .such_that(is_name, "must be 1 to 32 lower-case letters, digits and hyphens")
        .such_that(|name| name != "service", "`service` is what subjects of service identities begin with")
}

fn client_assertion(keys: &mut Keys<'_, '_>) -> Option<ClientAssertion> {
    let private_key_pem = keys.required("private_key_pem", secret(1), "RSA private key, PEM text.");
    let certificate_pem = keys.required("certificate_pem", non_empty(), "The key's certificate, PEM text.");
    Some(ClientAssertion { private_key_pem: private_key_pem?, certificate_pem: certificate_pem? })
}

fn google_groups(keys: &mut Keys<'_, '_>) -> Option<GoogleGroups> {
    let service_account_json_path =
        keys.required("service_account_json_path", non_empty(), "Path of the service account's key file.");
    let admin_email = keys.required(
        "admin_email",
        formed("an e-mail address").such_that(|email| looks_like_email(email), "is not an e-mail address"),
        "Administrator on whose behalf the directory is read.",
    );
    Some(GoogleGroups { service_account_json_path: service_account_json_path?, admin_email: admin_email? })
}

fn looks_like_email(text: &str) -> bool {
    let parts = text.split_once('@');
    parts.is_some_and(|(local, domain)| !local.is_empty() && domain.contains('.'))
        && !text.contains(char::is_whitespace)
}

fn claim() -> Kind<ClaimPath> {
    non_empty().map(ClaimPath)
}

fn scope() -> Kind<String> {
    formed("one scope")
        .such_that(|scope| !scope.contains(char::is_whitespace), "is more than one scope: make it several entries")
}

fn auth_param(name: &str) -> Result<(), String> {
    match name {
        "" => Err("a parameter must have a name".to_owned()),
        name if OWN_AUTH_PARAMS.contains(&name) => Err("is set by the gateway itself".to_owned()),
        _ => Ok(()),
    }
}

/// Lower-case domains without `@`. A list of nothing but blanks would lift the restriction that it was meant to be.
fn email_domains(given: &[String]) -> Result<Vec<String>, String> {
    let domain = |text: &String| {
        let text = text.trim().to_lowercase();
        text.strip_prefix('@').unwrap_or(&text).to_owned()
    };
    not_only_blanks(given, given.iter().map(domain).filter(|domain| !domain.is_empty()).collect())
}

fn groups(given: &[String]) -> Result<Vec<String>, String> {
    let groups = given.iter().map(|group| group.trim().to_owned()).filter(|group| !group.is_empty()).collect();
    not_only_blanks(given, groups)
}

fn not_only_blanks(given: &[String], kept: Vec<String>) -> Result<Vec<String>, String> {
    if kept.is_empty() && !given.is_empty() {
        return Err(
            "has only blank entries, which would not restrict anything; remove the key if that is meant".to_owned()
        );
    }
    Ok(kept)
}

/// The origin of an http(s) URL, without anything that could end a CSP directive.
fn form_action_origin() -> Kind<String> {
    formed("a URL such as https://login.example.com").check(|text| {
        if text.contains(|character: char| character.is_whitespace() || matches!(character, ';' | ',' | '\'' | '"')) {
            return Err("must not contain spaces, quotes, commas or semicolons".to_owned());
        }
        let url = Url::parse(&text).map_err(|why| format!("is not a URL: {why}"))?;
        match url.scheme() {
            "http" | "https" => Ok(url.origin().ascii_serialization()),
            _ => Err("must begin with https:// or http://".to_owned()),
        }
    })
}
