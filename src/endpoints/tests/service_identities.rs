//! Programs at `POST /oauth/token`: RFC 8693 and RFC 7523.

use super::*;
use crate::config::{ClaimPath, ServiceIdentity};
use crate::testing::CI_ISSUER;

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

fn entry(name: &str, claim: &str, pattern: &str) -> ServiceIdentity {
    ServiceIdentity {
        name: name.to_owned(),
        issuer: CI_ISSUER.parse().expect("a URL"),
        claims: vec![(ClaimPath(claim.to_owned()), vec![pattern.to_owned()])],
        groups: vec![format!("group-of-{name}")],
        ..testing::service_identity()
    }
}

fn world() -> World {
    World::with(|config| {
        config.service_identities = vec![entry("release", "ref", "refs/tags/*"), entry("app", "repository", "acme/*")];
    })
}

fn post(world: &World, parameters: &[(&str, &str)]) -> Answer {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    world.send(Method::POST, "/oauth/token", &[FORM], &body)
}

fn exchange(world: &World, token: &str) -> Answer {
    post(world, &[("grant_type", EXCHANGE), ("subject_token", token), ("subject_token_type", JWT)])
}

fn bearer(world: &World, token: &str) -> Answer {
    post(world, &[("grant_type", BEARER), ("assertion", token)])
}

#[test]
fn a_job_exchanges_its_token_for_a_session() {
    let world = world();
    let answer = exchange(&world, &world.idp.job_token(json!({"jti": "j-1"})));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
    let tokens = answer.json();
    let keys: Vec<&String> = tokens.as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["access_token", "issued_token_type", "token_type", "expires_in"]);
    assert_eq!(tokens["issued_token_type"], "urn:ietf:params:oauth:token-type:access_token");
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(3600)));
    let event = world.audited("service.mint").pop().expect("audited");
    assert_eq!(
        event,
        json!({
            "ts": event["ts"], "evt": "service.mint", "request_id": REQUEST_ID, "result": "success", "sub": "service:app",
            "issuer": CI_ISSUER, "subject": "repo:acme/app", "client_ip": "192.0.2.1", "ttl_hours": 1,
        })
    );
    let session = world.session(&tokens["access_token"]);
    assert_eq!((session.subject(), session.name(), session.email()), (Some("service:app"), Some("app"), None));
    assert_eq!(session.groups(), ["group-of-app"]);
    assert_eq!(session.id().map(str::len), Some(32));
}

#[test]
fn the_jwt_bearer_grant_is_another_name_for_it() {
    let world = world();
    let answer = bearer(&world, &world.idp.job_token(json!({"ref": "refs/tags/v1"})));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let keys: Vec<String> = answer.json().as_object().expect("an object").keys().cloned().collect();
    assert_eq!(keys, ["access_token", "token_type", "expires_in"]);
    // The first entry that fits counts.
    assert_eq!(world.session(&answer.json()["access_token"]).subject(), Some("service:release"));
}

#[test]
fn a_session_of_a_program_is_never_longer_than_that_of_a_person() {
    let minutes = |session: u64, own: u64| {
        let world = World::with(|config| {
            config.session.ttl = Duration::from_mins(session);
            let entry = entry("app", "repository", "acme/*");
            config.service_identities = vec![ServiceIdentity { ttl: Duration::from_mins(own), ..entry }];
        });
        exchange(&world, &world.idp.job_token(json!({}))).json()["expires_in"].as_u64().expect("a number") / 60
    };
    assert_eq!((minutes(600, 60), minutes(60, 15), minutes(10, 60)), (60, 15, 10));
}

#[test]
fn a_token_with_a_jti_works_once_whatever_the_grant() {
    let world = world();
    let token = world.idp.job_token(json!({"jti": "j-1"}));
    assert_eq!(exchange(&world, &token).status, 200);
    assert_eq!(exchange(&world, &token).error(), (400, "invalid_request".to_owned()));
    let event = world.audited("service.mint").pop().expect("audited");
    assert_eq!((&event["result"], &event["err"]), (&json!("fail"), &json!("the token was exchanged before")));
    assert_eq!(bearer(&world, &token).error(), (400, "invalid_grant".to_owned()));
    // Another signature over the same identity is the same token.
    let again = world.idp.job_token(json!({"jti": "j-1", "x": 1}));
    assert_eq!(exchange(&world, &again).status, 400);
    assert_eq!(exchange(&world, &world.idp.job_token(json!({"jti": "j-2"}))).status, 200);
    // Nothing can be remembered of one without.
    let nameless = world.idp.job_token(json!({}));
    assert_eq!((exchange(&world, &nameless).status, exchange(&world, &nameless).status), (200, 200));
}

#[test]
fn a_refused_token_is_not_used_up() {
    let world = world();
    let token = |repository: &str| world.idp.job_token(json!({"jti": "j-1", "repository": repository}));
    assert_eq!(exchange(&world, &token("other/app")).status, 400);
    assert_eq!(exchange(&world, &token("acme/app")).status, 200);
}

#[test]
fn a_token_that_proves_nothing_is_refused_and_only_the_operator_learns_why() {
    for (claims, sub, err) in [
        (json!({"aud": "other"}), Some("service:app"), "the audience does not match"),
        (json!({"aud": null}), Some("service:app"), "the token misses the claim `aud`"),
        (json!({"exp": 1_900_000_000}), Some("service:app"), "the token has expired"),
        (json!({"exp": 1_900_099_999}), Some("service:app"), "the token is good for more than a day"),
        (json!({"exp": null}), Some("service:app"), "the token misses the claim `exp`"),
        (json!({"nbf": 1_900_000_001}), Some("service:app"), "the token is not yet valid"),
        (json!({"repository": "evil/acme/app"}), Some("service:app"), "the claim `repository` does not fit"),
        (json!({"repository": null}), Some("service:app"), "the claim `repository` does not fit"),
        (json!({"iss": "https://other.test"}), None, "no service identity has the issuer https://other.test"),
        (json!({"iss": null}), None, "the token misses the claim `iss`"),
    ] {
        let world = world();
        let token = world.idp.job_token(claims);
        let answer = exchange(&world, &token);
        assert_eq!(answer.error(), (400, "invalid_request".to_owned()), "{err}");
        let description = answer.json()["error_description"].as_str().expect("a description").to_owned();
        assert!(description.contains(REQUEST_ID) && !description.contains(err), "{description}");
        let event = world.audited("service.mint").pop().expect("audited");
        assert_eq!((&event["result"], &event["err"]), (&json!("fail"), &json!(err)));
        assert_eq!(event.get("sub").and_then(Value::as_str), sub, "{err}");
        assert_eq!(event["answer"], "invalid_request");
        assert_eq!(bearer(&world, &token).error(), (400, "invalid_grant".to_owned()), "{err}");
    }
    let world = world();
    let token = world.idp.job_token(json!({}));
    let (head, signature) = token.rsplit_once('.').expect("a signature");
    let unsigned =
        crate::wire::jwt::compact(br#"{"alg":"none"}"#, format!(r#"{{"iss":"{CI_ISSUER}"}}"#).as_bytes(), |_| vec![]);
    let symmetric =
        crate::wire::jwt::compact(br#"{"alg":"HS256"}"#, format!(r#"{{"iss":"{CI_ISSUER}"}}"#).as_bytes(), |_| vec![1]);
    for (token, err) in [
        (format!("{head}.AAAA{}", &signature[4..]), "the signature is invalid"),
        (unsigned, "the algorithm none is not accepted"),
        (symmetric, "the algorithm HS256 is not accepted"),
        ("x".to_owned(), "the token is malformed"),
        ("\0".to_owned(), "the token is malformed"),
        ("x".repeat(200_000), "the token is malformed"),
    ] {
        assert_eq!(exchange(&world, &token).status, 400, "{err}");
        assert_eq!(world.audited("service.mint").pop().expect("audited")["err"], err);
    }
}

#[test]
fn what_is_no_exchange_is_refused_with_what_to_send() {
    let world = world();
    let token = world.idp.job_token(json!({}));
    let good = [("grant_type", EXCHANGE), ("subject_token", token.as_str()), ("subject_token_type", JWT)];
    for (more, error) in [
        (&[][..], None),
        (&[("requested_token_type", "urn:ietf:params:oauth:token-type:access_token")], None),
        (&[("audience", ORIGIN), ("resource", "https://gw.example.test/"), ("scope", "x"), ("unknown", "y")], None),
        (&[("actor_token", "")], None),
        (&[("subject_token", "second"), ("subject_token_type", "second")], None),
        (&[("requested_token_type", "urn:ietf:params:oauth:token-type:saml2")], Some("invalid_request")),
        (&[("actor_token", "x")], Some("invalid_request")),
        (&[("audience", "https://other.test")], Some("invalid_target")),
        (&[("resource", "https://other.test")], Some("invalid_target")),
    ] {
        let answer = post(&world, &[&good[..], more].concat());
        match error {
            None => assert_eq!(answer.status, 200, "{more:?}: {}", answer.body),
            Some(error) => assert_eq!(answer.error(), (400, error.to_owned()), "{more:?}"),
        }
    }
    for (left_out, said) in [(1, "subject_token is missing"), (2, "subject_token_type is missing")] {
        let mut parameters = good.to_vec();
        parameters.remove(left_out);
        let answer = post(&world, &parameters);
        assert_eq!(answer.error(), (400, "invalid_request".to_owned()));
        assert!(answer.body.contains(said), "{}", answer.body);
    }
    let saml = [good[0], good[1], ("subject_token_type", "urn:ietf:params:oauth:token-type:saml2")];
    assert_eq!(post(&world, &saml).error().1, "invalid_request");
    assert_eq!(post(&world, &[("grant_type", BEARER)]).error().1, "invalid_request");
    assert_eq!(post(&world, &[("grant_type", BEARER), ("subject_token", &token)]).error().1, "invalid_request");
}

#[test]
fn without_service_identities_the_grants_do_not_exist() {
    let world = World::new();
    let token = world.idp.job_token(json!({}));
    for answer in [exchange(&world, &token), bearer(&world, &token)] {
        assert_eq!(answer.error(), (400, "unsupported_grant_type".to_owned()));
    }
    assert_eq!(world.idp.requests.borrow().len(), 0);
}

#[test]
fn while_the_issuer_or_the_database_is_away_programs_are_asked_to_come_back() {
    for mood in [Mood::Down, Mood::Slow, Mood::Broken] {
        let world = world();
        let token = world.idp.job_token(json!({"jti": "j-1"}));
        world.idp.mood.set(mood);
        let answer = exchange(&world, &token);
        assert_eq!(answer.error(), (503, "temporarily_unavailable".to_owned()), "{mood:?}");
        assert_eq!(answer.header(header::RETRY_AFTER), "5");
        assert_eq!(world.audited("service.mint").pop().expect("audited")["result"], "fail");
        world.idp.mood.set(Mood::Well);
        assert_eq!(exchange(&world, &token).status, 200, "{mood:?}");
    }
    let world = world();
    world.db_is_down.set(true);
    let token = world.idp.job_token(json!({"jti": "j-1"}));
    assert_eq!(exchange(&world, &token).error(), (503, "temporarily_unavailable".to_owned()));
    let nameless = exchange(&world, &world.idp.job_token(json!({})));
    assert_eq!(nameless.error(), (503, "temporarily_unavailable".to_owned()), "a session is a row");
    world.db_is_down.set(false);
    assert_eq!(exchange(&world, &token).status, 200);
}

#[test]
fn keys_of_an_issuer_are_fetched_again_for_a_new_key_but_not_more_often_than_once_a_minute() {
    let world = world();
    assert_eq!(exchange(&world, &world.idp.job_token(json!({}))).status, 200);
    assert_eq!(world.idp.count("/ci/jwks"), 1);
    world.idp.key.set(2);
    world.wait(Duration::from_secs(10));
    for _ in 0..3 {
        let answer = exchange(&world, &world.idp.job_token(json!({})));
        assert_eq!(answer.error(), (503, "temporarily_unavailable".to_owned()));
    }
    assert_eq!(world.idp.count("/ci/jwks"), 1);
    world.wait(Duration::from_mins(1));
    assert_eq!(exchange(&world, &world.idp.job_token(json!({}))).status, 200);
    assert_eq!(world.idp.count("/ci/jwks"), 2);
}

#[test]
fn what_was_used_is_swept_away_when_nobody_would_accept_it_any_more() {
    let world = world();
    for number in 0..3 {
        assert_eq!(exchange(&world, &world.idp.job_token(json!({"jti": number.to_string()}))).status, 200);
    }
    let rows = || {
        let rows = block_on(world.gateway.ports.db.run("SELECT COUNT(*) FROM subject_tokens", &[])).expect("it runs");
        rows[0][0].clone()
    };
    assert_eq!(rows(), crate::ports::Value::Integer(3));
    world.wait(Duration::from_mins(6));
    exchange(&world, &world.idp.job_token(json!({})));
    for task in world.tasks.0.take() {
        block_on(task);
    }
    assert_eq!(rows(), crate::ports::Value::Integer(0));
}

#[test]
fn nobody_signs_in_as_a_service_identity() {
    let world = world();
    world.idp.claims.borrow_mut()["sub"] = json!("service:release");
    let (device_code, user_code) = world.device();
    assert_eq!(world.approve(&user_code).status, 403);
    assert_eq!(world.poll(&device_code).error().1, "access_denied");
    assert_eq!(
        world.audited("session.mint")[0]["err"],
        "subjects that begin with service: are those of service identities"
    );
}
