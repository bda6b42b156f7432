//! The browser's part of a sign-in: what sends it to the identity provider, what it brings back, and how both ends are
//! tied to one browser and one grant (auth contract §5.3, §5.6).
//!
//! Nothing is stored for it: `state` carries everything, sealed. Tokens are exchanged by `idp.rs`.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use url::Url;
use url::form_urlencoded::byte_serialize;

use crate::config::Oidc;
use crate::domain::device_grant::GrantId;
use crate::domain::ids::Timestamp;
use crate::domain::session::{Keys, Unsealable};
use crate::wire::form::Form;
use crate::wire::seal::NONCE_BYTES;

/// How long a person may take at the identity provider.
pub const LIFETIME: Duration = Duration::from_mins(10);

const PURPOSE: &str = "sign-in state 1";

/// One trip of a browser to the identity provider and back.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrowserLeg {
    /// The grant that it decides.
    pub grant: GrantId,
    /// The provider that it goes to, by its name among several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Ties the id token to this trip.
    pub nonce: String,
    /// PKCE (RFC 7636); absent when it is switched off.
    pub code_verifier: Option<String>,
    /// What the browser's cookie must hold.
    cookie: String,
    /// End of the trip, milliseconds.
    exp: i64,
}

impl BrowserLeg {
    /// A trip that starts now; the random bytes become the nonce, the verifier and the cookie.
    pub fn start(grant: GrantId, provider: &Oidc, random: &[[u8; 32]; 3], now: Timestamp) -> Self {
        let [nonce, verifier, cookie] = random.map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        let code_verifier = provider.use_pkce.then_some(verifier);
        let provider = provider.name.clone();
        Self { grant, provider, nonce, code_verifier, cookie, exp: now.plus(LIFETIME).as_millis() }
    }

    /// The `state` parameter.
    pub fn seal(&self, keys: &Keys, nonce: [u8; NONCE_BYTES]) -> String {
        keys.seal(PURPOSE, &serde_json::to_vec(self).expect("strings and a number"), nonce)
    }

    /// Reads a `state` parameter; `Ok(None)` when it is too old.
    pub fn open(state: &str, keys: &Keys, now: Timestamp) -> Result<Option<Self>, Unsealable> {
        let content = keys.open(PURPOSE, state)?;
        let leg: Self = serde_json::from_slice(&content).map_err(|_| Unsealable::Foreign)?;
        Ok((leg.exp > now.as_millis()).then_some(leg))
    }

    /// Whether the browser that came back is the one that left.
    pub fn is_of_browser(&self, cookie: Option<&str>) -> bool {
        cookie.is_some_and(|cookie| cookie.as_bytes().ct_eq(self.cookie.as_bytes()).into())
    }

    /// The `Set-Cookie` header that marks the browser.
    pub fn set_cookie(&self, origin: &str) -> String {
        set_cookie(origin, &self.cookie, LIFETIME)
    }
}

impl std::fmt::Debug for BrowserLeg {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BrowserLeg").field("grant", &self.grant).finish_non_exhaustive()
    }
}

/// The `Set-Cookie` header that takes the mark off again.
pub fn clear_cookie(origin: &str) -> String {
    set_cookie(origin, "", Duration::ZERO)
}

fn set_cookie(origin: &str, value: &str, max_age: Duration) -> String {
    let secure = if is_https(origin) { "; Secure" } else { "" };
    format!("{}={value}; Max-Age={}; HttpOnly; SameSite=Lax; Path=/{secure}", cookie_name(origin), max_age.as_secs())
}

/// The mark's name; behind https no other host can set it (RFC 6265bis, the `__Host-` prefix).
fn cookie_name(origin: &str) -> &'static str {
    if is_https(origin) { "__Host-gw_dev" } else { "gw_dev" }
}

fn is_https(origin: &str) -> bool {
    origin.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
}

/// The mark in a `Cookie` header (RFC 6265 §5.4).
pub fn cookie<'a>(header: &'a str, origin: &str) -> Option<&'a str> {
    let name = cookie_name(origin);
    header
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value)
}

/// Where the identity provider sends the browser back to.
pub fn redirect_uri(origin: &str) -> String {
    format!("{origin}/oauth/callback")
}

/// Where the browser is sent: the parameters of auth contract §5.3 in its order, behind those that the endpoint's own
/// address has and the gateway does not set.
///
/// An address that the person gave goes along as `login_hint`, so that nobody has to type it twice.
pub fn authorization_url(
    endpoint: &Url,
    oidc: &Oidc,
    origin: &str,
    leg: &BrowserLeg,
    state: &str,
    login_hint: Option<&str>,
) -> String {
    let mut ours: Vec<(&str, String)> = vec![
        ("client_id", oidc.client_id.clone()),
        ("scope", oidc.scopes.join(" ")),
        ("response_type", "code".to_owned()),
        ("redirect_uri", redirect_uri(origin)),
    ];
    ours.extend(oidc.extra_auth_params.iter().map(|(name, value)| (name.as_str(), value.clone())));
    if let Some(hint) = login_hint
        && ours.iter().all(|(name, _)| *name != "login_hint")
    {
        ours.push(("login_hint", hint.to_owned()));
    }
    ours.push(("state", state.to_owned()));
    ours.push(("nonce", leg.nonce.clone()));
    if let Some(verifier) = &leg.code_verifier {
        ours.push(("code_challenge", URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()))));
        ours.push(("code_challenge_method", "S256".to_owned()));
    }
    ours.push(("response_mode", "query".to_owned()));
    let mut pairs: Vec<String> = endpoint
        .query_pairs()
        .filter(|(name, _)| ours.iter().all(|(our, _)| our != name))
        .map(|(name, value)| pair(&name, &value))
        .collect();
    pairs.extend(ours.iter().map(|(name, value)| pair(name, value)));
    let mut url = endpoint.clone();
    url.set_query(Some(&pairs.join("&")));
    url.set_fragment(None);
    url.into()
}

/// `name=value`, with `%20` for spaces: some identity providers do not understand `+`.
fn pair(name: &str, value: &str) -> String {
    let encode = |text: &str| byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20");
    format!("{}={}", encode(name), encode(value))
}

/// Whether a post comes from our own page (auth contract §5.3). `Sec-Fetch-Site` decides alone where a browser sends
/// it, and without it `Origin` must be the public origin.
pub fn is_same_origin(sec_fetch_site: Option<&str>, origin: Option<&str>, public_origin: &str) -> bool {
    match sec_fetch_site {
        Some(site) => matches!(site, "same-origin" | "none"),
        None => origin == Some(public_origin),
    }
}

/// What the browser brings back.
#[derive(Debug, PartialEq, Eq)]
pub enum Returned {
    /// The identity provider refused.
    Refused {
        /// `error`.
        error: String,
        /// `error_description`.
        description: Option<String>,
    },
    /// A code to exchange.
    Code {
        /// `code`.
        code: String,
        /// `state`, still sealed.
        state: String,
        /// `iss` (RFC 9207).
        issuer: Option<String>,
    },
    /// Neither.
    Incomplete,
}

impl Returned {
    /// Reads the callback's query string.
    pub fn parse(query: &str) -> Self {
        let query = Form::urlencoded(query.as_bytes());
        let owned = |name| query.non_empty(name).map(str::to_owned);
        match (owned("error"), owned("code"), owned("state")) {
            (Some(error), ..) => Self::Refused { error, description: owned("error_description") },
            (None, Some(code), Some(state)) => Self::Code { code, state, issuer: owned("iss") },
            _ => Self::Incomplete,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use crate::domain::device_grant::DeviceCode;
    use crate::testing;

    const NOW: Timestamp = Timestamp::from_secs(1_900_000_000);

    fn leg() -> BrowserLeg {
        BrowserLeg::start(DeviceCode::presented("d").hash(), &testing::oidc(), &[[1; 32], [2; 32], [3; 32]], NOW)
    }

    fn keys() -> Keys {
        Keys::new([Secret::new("one".to_owned())]).expect("not empty")
    }

    #[test]
    fn state_is_sealed_and_ends_after_ten_minutes() {
        let state = leg().seal(&keys(), [4; NONCE_BYTES]);
        assert_eq!(BrowserLeg::open(&state, &keys(), NOW), Ok(Some(leg())));
        assert_eq!(BrowserLeg::open(&state, &keys(), NOW.plus(LIFETIME)), Ok(None));
        let changed = format!("{}AAAA", &state[..state.len() - 4]);
        assert_eq!(BrowserLeg::open(&changed, &keys(), NOW), Err(Unsealable::Foreign));
        assert_eq!(BrowserLeg::open("", &keys(), NOW), Err(Unsealable::Foreign));
    }

    #[test]
    fn the_cookie_is_bound_to_the_host_behind_https() {
        let value = "AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM";
        assert_eq!(
            leg().set_cookie("https://gw.example.test"),
            format!("__Host-gw_dev={value}; Max-Age=600; HttpOnly; SameSite=Lax; Path=/; Secure")
        );
        assert_eq!(
            leg().set_cookie("http://localhost:8080"),
            format!("gw_dev={value}; Max-Age=600; HttpOnly; SameSite=Lax; Path=/")
        );
        assert_eq!(clear_cookie("http://localhost"), "gw_dev=; Max-Age=0; HttpOnly; SameSite=Lax; Path=/");
        assert!(leg().is_of_browser(cookie(&format!("a=b; gw_dev={value}; c=d"), "http://localhost")));
        for header in
            [format!("gw_dev={value}"), "__Host-gw_dev=".to_owned(), String::new(), format!("x__Host-gw_dev={value}")]
        {
            assert!(!leg().is_of_browser(cookie(&header, "https://gw.example.test")), "{header}");
        }
        assert!(!leg().is_of_browser(None));
    }

    #[test]
    fn the_authorization_request_has_its_parameters_in_the_contracts_order() {
        let oidc = Oidc { extra_auth_params: vec![("prompt".to_owned(), "a b+c".to_owned())], ..testing::oidc() };
        let endpoint = Url::parse("https://idp.example.test/authorize?tenant=1&scope=zzz").expect("a URL");
        let url = authorization_url(&endpoint, &oidc, "https://gw.example.test", &leg(), "s", None);
        assert_eq!(
            url,
            "https://idp.example.test/authorize?tenant=1&client_id=gateway&scope=openid%20profile%20email%20offline_access\
             &response_type=code&redirect_uri=https%3A%2F%2Fgw.example.test%2Foauth%2Fcallback&prompt=a%20b%2Bc&state=s\
             &nonce=AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE\
             &code_challenge=bB1ju9q0N8VDaMu9iIaohqea2XcpfiZe6_H19fAVM7k&code_challenge_method=S256&response_mode=query"
        );
        let unprotected = Oidc { use_pkce: false, ..testing::oidc() };
        let plain = BrowserLeg::start(DeviceCode::presented("d").hash(), &unprotected, &[[1; 32]; 3], NOW);
        let url = authorization_url(&endpoint, &oidc, "https://gw.example.test", &plain, "s", Some("a&b@c"));
        assert!(!url.contains("challenge") && url.contains("&login_hint=a%26b%40c&state=s"), "{url}");
        let oidc = Oidc { extra_auth_params: vec![("login_hint".to_owned(), "x".to_owned())], ..oidc };
        let url = authorization_url(&endpoint, &oidc, "https://gw.example.test", &plain, "s", Some("a@c"));
        assert_eq!(url.matches("login_hint").count(), 1, "{url}");
    }

    #[test]
    fn posts_from_elsewhere_are_recognised() {
        let ours = "https://gw.example.test";
        for (site, origin, same) in [
            (Some("same-origin"), None, true),
            (Some("none"), None, true),
            (Some("same-origin"), Some("http://evil.test"), true),
            (Some("same-site"), Some(ours), false),
            (Some("cross-site"), Some(ours), false),
            (Some(""), Some(ours), false),
            (None, Some(ours), true),
            (None, Some("https://gw.example.test/"), false),
            (None, Some("https://GW.example.test"), false),
            (None, Some("null"), false),
            (None, None, false),
        ] {
            assert_eq!(is_same_origin(site, origin, ours), same, "{site:?} {origin:?}");
        }
    }

    #[test]
    fn what_the_browser_brings_back_is_read_from_the_query() {
        let text = str::to_owned;
        for (query, returned) in [
            ("code=c&state=s", Returned::Code { code: text("c"), state: text("s"), issuer: None }),
            ("code=c&state=s&iss=i", Returned::Code { code: text("c"), state: text("s"), issuer: Some(text("i")) }),
            ("error=&code=c&state=s", Returned::Code { code: text("c"), state: text("s"), issuer: None }),
            ("error=e&code=c&state=s", Returned::Refused { error: text("e"), description: None }),
            ("error=e&error_description=a+b", Returned::Refused { error: text("e"), description: Some(text("a b")) }),
            ("code=c", Returned::Incomplete),
            ("state=s&code=", Returned::Incomplete),
            ("", Returned::Incomplete),
        ] {
            assert_eq!(Returned::parse(query), returned, "{query}");
        }
    }
}
