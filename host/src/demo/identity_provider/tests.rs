//! The provider as a relying party sees it: whole sign-ins, and each way in which one is refused.

use p256::ecdsa::VerifyingKey;
use p256::ecdsa::signature::Verifier as _;

use super::*;

const ISSUER: &str = "http://127.0.0.1:4000";
const REDIRECT_URI: &str = "http://127.0.0.1:8080/oauth/callback";
const VERIFIER: &str = "a-verifier-that-is-long-enough-for-rfc-7636-section-4-1";
const NOW: SystemTime = SystemTime::UNIX_EPOCH;

type Parameters<'a> = Vec<(&'a str, &'a str)>;

fn provider() -> IdentityProvider {
    let redirect_uri = Url::parse(REDIRECT_URI).unwrap();
    IdentityProvider::new(ISSUER, Client { id: "client".to_owned(), secret: "s3cret".to_owned(), redirect_uri })
}

fn encode(parameters: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

/// `parameters` with the value of `name` replaced, or removed if it is empty.
fn with<'a>(mut parameters: Parameters<'a>, name: &'a str, value: &'a str) -> Parameters<'a> {
    parameters.retain(|(key, _)| *key != name);
    parameters.extend((!value.is_empty()).then_some((name, value)));
    parameters
}

fn body(response: Response<Body>) -> String {
    match response.into_body() {
        Body::Whole(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
        Body::Paced(_) => panic!("the provider does not stream"),
    }
}

fn post(provider: &IdentityProvider, path: &str, parameters: &[(&str, &str)], now: SystemTime) -> Response<Body> {
    let request = Request::post(path).body(Bytes::from(encode(parameters))).unwrap();
    provider.answer(&request, now)
}

fn authorization_request(challenge: &str) -> Parameters<'_> {
    vec![
        ("client_id", "client"),
        ("redirect_uri", REDIRECT_URI),
        ("response_type", "code"),
        ("scope", "openid email offline_access"),
        ("state", "a state"),
        ("nonce", "a nonce"),
        ("code_challenge", challenge),
        ("code_challenge_method", "S256"),
    ]
}

fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER))
}

fn authorize(provider: &IdentityProvider, parameters: &[(&str, &str)]) -> Response<Body> {
    let request = Request::get(format!("/authorize?{}", encode(parameters))).body(Bytes::new()).unwrap();
    provider.answer(&request, NOW)
}

/// The interaction of a sign-in page.
fn open_page(provider: &IdentityProvider) -> String {
    let page = body(authorize(provider, &authorization_request(&challenge())));
    page.split("name=\"interaction\" value=\"").nth(1).unwrap()[..43].to_owned()
}

/// The parameters with which the browser returns to the client.
fn returned(response: &Response<Body>) -> Vec<(String, String)> {
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let location = Url::parse(response.headers()[LOCATION].to_str().unwrap()).unwrap();
    assert!(location.as_str().starts_with(REDIRECT_URI), "{location}");
    location.query_pairs().into_owned().collect()
}

fn value<'a>(parameters: &'a [(String, String)], name: &str) -> &'a str {
    &parameters.iter().find(|(key, _)| key == name).unwrap().1
}

fn code(provider: &IdentityProvider) -> String {
    let interaction = open_page(provider);
    let answer = post(provider, "/sign-in", &[("interaction", &interaction), ("person", "grace")], NOW);
    value(&returned(&answer), "code").to_owned()
}

fn redemption(code: &str) -> Parameters<'_> {
    vec![
        ("grant_type", "authorization_code"),
        ("client_id", "client"),
        ("client_secret", "s3cret"),
        ("code", code),
        ("redirect_uri", REDIRECT_URI),
        ("code_verifier", VERIFIER),
    ]
}

fn refresh(refresh_token: &str) -> Parameters<'_> {
    vec![
        ("grant_type", "refresh_token"),
        ("client_id", "client"),
        ("client_secret", "s3cret"),
        ("refresh_token", refresh_token),
    ]
}

fn tokens(provider: &IdentityProvider, parameters: &[(&str, &str)]) -> Result<Value, String> {
    let response = post(provider, "/token", parameters, NOW);
    let is_success = response.status() == StatusCode::OK;
    let value: Value = serde_json::from_str(&body(response)).unwrap();
    if is_success { Ok(value) } else { Err(value["error"].as_str().unwrap().to_owned()) }
}

/// Claims of an id token, after its signature has been checked with the published key.
fn verified_claims(provider: &IdentityProvider, id_token: &str) -> Value {
    let jwk = &provider.jwks()["keys"][0];
    let coordinate = |name: &str| URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let (signed, signature) = id_token.rsplit_once('.').unwrap();
    let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
    VerifyingKey::from_sec1_bytes(&point).unwrap().verify(signed.as_bytes(), &signature).unwrap();

    let part = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    assert_eq!(part(header)["kid"], jwk["kid"]);
    part(claims)
}

#[test]
fn a_sign_in_ends_with_a_signed_id_token() {
    let provider = provider();
    let tokens = tokens(&provider, &redemption(&code(&provider))).unwrap();

    let expected = json!({
        "sub": "grace",
        "name": "Grace Hopper",
        "email": "grace@example.com",
        "email_verified": true,
        "groups": ["engineering", "platform"],
        "iss": ISSUER,
        "aud": "client",
        "iat": 0,
        "exp": 600,
        "auth_time": 0,
        "nonce": "a nonce",
    });
    assert_eq!(verified_claims(&provider, tokens["id_token"].as_str().unwrap()), expected);
}

#[test]
fn the_browser_returns_with_state_and_issuer() {
    let provider = provider();
    let interaction = open_page(&provider);
    let answer = post(&provider, "/sign-in", &[("interaction", &interaction), ("name", " Alan   Turing ")], NOW);
    let parameters = returned(&answer);
    assert_eq!((value(&parameters, "state"), value(&parameters, "iss")), ("a state", ISSUER));
}

#[test]
fn a_canceled_sign_in_returns_with_access_denied() {
    let provider = provider();
    let interaction = open_page(&provider);
    let answer = post(&provider, "/sign-in", &[("interaction", &interaction), ("cancel", "1")], NOW);
    assert_eq!(value(&returned(&answer), "error"), "access_denied");
}

#[test]
fn a_sign_in_page_can_be_answered_once_and_not_after_ten_minutes() {
    let provider = provider();
    let interaction = open_page(&provider);
    let choice = [("interaction", &*interaction), ("person", "ada")];
    assert_eq!(post(&provider, "/sign-in", &choice, NOW + INTERACTION_TTL).status(), StatusCode::BAD_REQUEST);

    let interaction = open_page(&provider);
    let choice = [("interaction", &*interaction), ("person", "ada")];
    assert_eq!(post(&provider, "/sign-in", &choice, NOW).status(), StatusCode::SEE_OTHER);
    assert_eq!(post(&provider, "/sign-in", &choice, NOW).status(), StatusCode::BAD_REQUEST);
}

#[test]
fn an_authorization_request_that_is_not_the_clients_is_not_redirected() {
    let challenge = challenge();
    for (name, value) in [("client_id", "other"), ("redirect_uri", "https://evil.example/"), ("redirect_uri", "")] {
        let answer = authorize(&provider(), &with(authorization_request(&challenge), name, value));
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{name}={value}");
    }
    let mut twice = authorization_request(&challenge);
    twice.push(("state", "another"));
    assert_eq!(authorize(&provider(), &twice).status(), StatusCode::BAD_REQUEST);
}

#[test]
fn an_authorization_request_with_a_fault_is_answered_by_redirect() {
    let challenge = challenge();
    let table = [
        ("response_type", "token", "unsupported_response_type"),
        ("response_mode", "form_post", "invalid_request"),
        ("scope", "email", "invalid_scope"),
        ("code_challenge", "", "invalid_request"),
        ("code_challenge_method", "plain", "invalid_request"),
        ("prompt", "none", "login_required"),
    ];
    for (name, bad, error) in table {
        let answer = authorize(&provider(), &with(authorization_request(&challenge), name, bad));
        let parameters = returned(&answer);
        assert_eq!((value(&parameters, "error"), value(&parameters, "state")), (error, "a state"), "{name}={bad}");
    }
}

#[test]
fn a_token_request_with_a_fault_is_refused() {
    let table = [
        ("client_secret", "wrong", "invalid_client"),
        ("client_id", "", "invalid_client"),
        ("grant_type", "", "invalid_request"),
        ("grant_type", "password", "unsupported_grant_type"),
        ("code", "", "invalid_request"),
        ("code", "unknown", "invalid_grant"),
        ("code_verifier", "", "invalid_grant"),
        ("code_verifier", "another", "invalid_grant"),
        ("redirect_uri", "http://127.0.0.1:8080/other", "invalid_grant"),
    ];
    for (name, bad, error) in table {
        let provider = provider();
        let code = code(&provider);
        assert_eq!(tokens(&provider, &with(redemption(&code), name, bad)), Err(error.to_owned()), "{name}={bad}");
    }
}

#[test]
fn the_client_may_authenticate_with_http_basic() {
    let provider = provider();
    let code = code(&provider);
    let form = with(with(redemption(&code), "client_id", ""), "client_secret", "");
    let request = |credentials: &str| {
        let credentials = format!("Basic {}", STANDARD.encode(credentials));
        Request::post("/token").header(AUTHORIZATION, credentials).body(Bytes::from(encode(&form))).unwrap()
    };
    assert_eq!(provider.answer(&request("client:wrong"), NOW).status(), StatusCode::UNAUTHORIZED);
    assert_eq!(provider.answer(&request("client:s3cret"), NOW).status(), StatusCode::OK);
}

#[test]
fn a_code_expires_after_a_minute() {
    let provider = provider();
    let code = code(&provider);
    assert_eq!(post(&provider, "/token", &redemption(&code), NOW + CODE_TTL).status(), StatusCode::BAD_REQUEST);
}

#[test]
fn a_second_use_of_a_code_is_refused_and_ends_the_session() {
    let provider = provider();
    let code = code(&provider);
    let first = tokens(&provider, &redemption(&code)).unwrap();
    let refresh_token = first["refresh_token"].as_str().unwrap();

    assert_eq!(tokens(&provider, &redemption(&code)), Err("invalid_grant".to_owned()));
    assert_eq!(tokens(&provider, &refresh(refresh_token)), Err("invalid_grant".to_owned()));
}

#[test]
fn a_refresh_token_rotates_and_its_reuse_ends_the_session() {
    let provider = provider();
    let first = tokens(&provider, &redemption(&code(&provider))).unwrap();
    let first = first["refresh_token"].as_str().unwrap();
    let second = tokens(&provider, &refresh(first)).unwrap();
    assert_eq!(verified_claims(&provider, second["id_token"].as_str().unwrap())["nonce"], Value::Null);
    let second = second["refresh_token"].as_str().unwrap();
    assert_ne!(first, second);

    assert_eq!(tokens(&provider, &refresh(first)), Err("invalid_grant".to_owned()));
    assert_eq!(tokens(&provider, &refresh(second)), Err("invalid_grant".to_owned()));
}

#[test]
fn a_refresh_may_not_widen_its_scope() {
    let provider = provider();
    let first = tokens(&provider, &redemption(&code(&provider))).unwrap();
    let parameters = refresh(first["refresh_token"].as_str().unwrap());
    let wider = with(parameters.clone(), "scope", "openid profile");
    assert_eq!(tokens(&provider, &wider), Err("invalid_scope".to_owned()));
    assert!(tokens(&provider, &with(parameters, "scope", "openid")).is_ok());
}

#[test]
fn a_refresh_token_is_issued_only_for_offline_access() {
    let provider = provider();
    let challenge = challenge();
    let page = body(authorize(&provider, &with(authorization_request(&challenge), "scope", "openid")));
    let interaction = &page.split("name=\"interaction\" value=\"").nth(1).unwrap()[..43];
    let answer = post(&provider, "/sign-in", &[("interaction", interaction), ("person", "ada")], NOW);
    let code = value(&returned(&answer), "code").to_owned();
    assert_eq!(tokens(&provider, &redemption(&code)).unwrap()["refresh_token"], Value::Null);
}

#[test]
fn userinfo_knows_the_person_of_an_access_token() {
    let provider = provider();
    let tokens = tokens(&provider, &redemption(&code(&provider))).unwrap();
    let ask = |token: &str, now| {
        let bearer = format!("Bearer {token}");
        provider.answer(&Request::get("/userinfo").header(AUTHORIZATION, bearer).body(Bytes::new()).unwrap(), now)
    };
    let access_token = tokens["access_token"].as_str().unwrap();
    assert!(body(ask(access_token, NOW)).contains("\"sub\":\"grace\""));
    assert_eq!(ask(access_token, NOW + TOKEN_TTL).status(), StatusCode::UNAUTHORIZED);
    assert_eq!(ask("", NOW).status(), StatusCode::UNAUTHORIZED);
}

#[test]
fn a_typed_name_is_one_person_however_it_is_spaced() {
    assert_eq!(Person::named(" Alan  Turing "), Person::named("Alan Turing"));
    assert_ne!(Person::named("Alan Turing").unwrap().sub, Person::named("alan turing").unwrap().sub);
    for bad in ["", "  ", "a\u{7}b", &"x".repeat(MAX_NAME_CHARS + 1)] {
        assert_eq!(Person::named(bad), None, "{bad:?}");
    }
}

#[test]
fn pages_escape_and_say_where_forms_may_go() {
    let page = provider().page(StatusCode::OK, sign_in_page::problem("<b>", "&"));
    let policy = page.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(policy.contains("form-action 'self' http://127.0.0.1:8080;"), "{policy}");
    assert!(body(page).contains("<h1>&lt;b&gt;</h1>"));
}
