//! Sessions as things: they begin, are refreshed by rotation, and end on every instance within seconds.

use super::*;
use crate::ports::Value as Sql;
use crate::sessions::Client;

impl World {
    fn revoke(&self, body: &str) -> Answer {
        self.send(Method::POST, "/oauth/revoke", &[FORM], body)
    }

    fn is_in(&self, token: &Value) -> bool {
        let bearer = format!("Bearer {}", token.as_str().expect("a token"));
        let answer = self.send(Method::GET, "/v1/models", &[("authorization", &bearer)], "");
        if answer.status == 401 {
            assert_eq!(answer.header("x-should-retry"), "false");
            assert_eq!(answer.json()["error"]["message"], "invalid token");
        }
        answer.status == 200
    }

    fn rows(&self, statement: &str) -> Vec<Vec<Sql>> {
        block_on(self.gateway.ports.db.run(statement, &[])).expect("it runs")
    }

    /// Runs what was left for after responses.
    fn finish(&self) {
        for task in self.tasks.0.take() {
            block_on(task);
        }
    }

    fn end(&self, session_id: &str) {
        let statement = format!("UPDATE sessions SET ended_at = 1 WHERE id = '{session_id}'");
        self.rows(&statement);
    }

    fn session_id(&self) -> String {
        match &self.rows("SELECT id FROM sessions ORDER BY created_at DESC LIMIT 1")[0][0] {
            Sql::Text(id) => id.clone(),
            other => panic!("{other:?}"),
        }
    }
}

fn refresh_token(tokens: &Value) -> &str {
    tokens["refresh_token"].as_str().expect("a refresh token")
}

#[test]
fn a_session_begins_when_its_tokens_are_fetched() {
    let world = World::new();
    let (device_code, user_code) = world.device();
    world.approve(&user_code);
    assert_eq!(world.rows("SELECT COUNT(*) FROM sessions")[0][0], Sql::Integer(0));
    world.wait(Duration::from_secs(7));
    let grant = "grant_type=urn:ietf:params:oauth:grant-type:device_code";
    let agent = format!("claude-code/2.1 {}", "x".repeat(500));
    let headers = [FORM, ("user-agent", agent.as_str())];
    let body = format!("{grant}&device_code={device_code}");
    let tokens = world.send_from([192, 0, 2, 77], Method::POST, "/oauth/token", &headers, &body).json();

    let id = world.session(&tokens["access_token"]).id().expect("a session").to_owned();
    let event = world.audited("session.create").pop().expect("audited");
    assert_eq!(
        (&event["sid"], &event["sub"], &event["email"]),
        (&json!(id), &json!("alice"), &json!("alice@example.com"))
    );
    assert_eq!((&event["means"], &event["client_ip"]), (&json!("device"), &json!("192.0.2.77")));
    let kept = event["user_agent"].as_str().expect("text");
    assert!(kept.starts_with("claude-code/2.1 x") && kept.len() == 200);

    let row =
        world.rows("SELECT id, subject, name, created_from, created_at, expires_at, generation, key_id FROM sessions");
    let now = 1_900_000_007_000;
    assert_eq!(
        row,
        [[
            Sql::Text(id),
            Sql::Text("alice".to_owned()),
            Sql::Text("Alice A".to_owned()),
            Sql::Text("192.0.2.77".to_owned()),
            Sql::Integer(now),
            Sql::Integer(now + 90 * 24 * 3_600_000),
            Sql::Integer(0),
            Sql::Text("7692c3ad3540bb80".to_owned()),
        ]]
    );
}

#[test]
fn a_session_without_a_refresh_token_lasts_as_long_as_its_token() {
    let world = World::new();
    world.idp.refreshes.set(false);
    world.sign_in();
    assert_eq!(world.rows("SELECT expires_at - created_at FROM sessions")[0][0], Sql::Integer(3_600_000));
}

#[test]
fn a_session_can_be_opened_for_an_identity_in_one_go() {
    let world = World::new();
    let context = Context {
        request_id: REQUEST_ID.to_owned(),
        client_ip: [192, 0, 2, 1].into(),
        origin: ORIGIN.to_owned(),
        trace: None,
    };
    let client = Client { ip: context.client_ip, user_agent: "ci".to_owned() };
    let identity = crate::domain::identity::Identity {
        subject: "ci:acme/app".to_owned(),
        email: None,
        name: None,
        groups: vec!["ci".to_owned()],
    };
    let opening = world.gateway.open_session(&context, &client, &identity, "token_exchange", Duration::from_mins(5));
    let opened = block_on(opening).expect("opened");
    let session = world.session(&json!(opened.access_token));
    assert_eq!((session.subject(), session.id()), (Some("ci:acme/app"), Some(opened.session_id.as_str())));
    assert_eq!(session.expires_at(), world.clock.get().plus(Duration::from_mins(5)));
    assert_eq!(world.audited("session.create")[0]["means"], "token_exchange");
    world.db_is_down.set(true);
    let opening = world.gateway.open_session(&context, &client, &identity, "token_exchange", Duration::from_mins(5));
    assert!(block_on(opening).is_err(), "nobody could end it");
}

#[test]
fn tokens_are_handed_over_although_the_store_fails_and_the_next_refresh_makes_up_for_it() {
    let world = World::new();
    world.rows("SELECT 1");
    let (device_code, user_code) = world.device();
    world.approve(&user_code);
    // The statement that begins a session fails, the others run.
    world.rows("ALTER TABLE sessions RENAME TO elsewhere");
    let tokens = world.poll(&device_code).json();
    world.rows("ALTER TABLE elsewhere RENAME TO sessions");
    assert!(refresh_token(&tokens).starts_with("spr1."));
    assert!(world.is_in(&tokens["access_token"]));

    let answer = world.refresh(refresh_token(&tokens));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(refresh_token(&answer.json()).starts_with("spr2."));
    assert_eq!(world.audited("session.create")[0]["means"], "refresh");
    let rows = world.rows("SELECT subject, email, generation FROM sessions");
    assert_eq!(rows, [[Sql::Text("alice".to_owned()), Sql::Text("alice@example.com".to_owned()), Sql::Integer(1)]]);
    // From now on it rotates like any other.
    world.wait(Duration::from_secs(30));
    assert_eq!(world.refresh(refresh_token(&tokens)).error().1, "invalid_grant");
    assert_eq!(world.audited("session.reuse").len(), 1);
}

mod rotation {
    use super::*;

    #[test]
    fn a_retry_within_half_a_minute_gets_the_same_answer_and_the_provider_is_not_asked() {
        let world = World::new();
        let tokens = world.sign_in();
        let first = world.refresh(refresh_token(&tokens));
        let calls = world.idp.count("/token");
        world.wait(Duration::from_millis(29_999));
        let second = world.refresh(refresh_token(&tokens));
        assert_eq!((second.status, &second.body), (200, &first.body));
        assert_eq!(second.header(header::CACHE_CONTROL), "no-store");
        assert_eq!(world.idp.count("/token"), calls);
        assert!(world.audited("session.reuse").is_empty());
        assert!(world.is_in(&tokens["access_token"]));
        assert_eq!(world.refresh(refresh_token(&second.json())).status, 200);
    }

    #[test]
    fn a_token_that_was_exchanged_before_ends_the_session_for_everybody() {
        for (wait, rotations) in [(Duration::from_secs(30), 1), (Duration::ZERO, 2)] {
            let world = World::new();
            let tokens = world.sign_in();
            let mut newest = tokens.clone();
            for _ in 0..rotations {
                newest = world.refresh(refresh_token(&newest)).json();
            }
            world.wait(wait);
            let calls = world.idp.count("/token");
            assert_eq!(world.refresh(refresh_token(&tokens)).error(), (401, "invalid_grant".to_owned()));
            let lines = world.log.0.borrow().clone();
            assert!(lines.iter().any(|line| line.contains("session.refresh") && line.contains("was used before")));
            let event = world.audited("session.reuse").pop().expect("audited");
            assert_eq!((&event["sid"], &event["sub"]), (&json!(world.session_id()), &json!("alice")));
            assert_eq!(event["client_ip"], "192.0.2.1");
            assert_eq!(world.refresh(refresh_token(&newest)).error(), (401, "invalid_grant".to_owned()));
            assert!(!world.is_in(&newest["access_token"]));
            assert_eq!(world.idp.count("/token"), calls, "the provider is not asked");
            assert!(world.audited("session.reuse").is_empty(), "told once");
        }
    }

    #[test]
    fn a_session_goes_on_only_as_the_person_who_began_it() {
        let world = World::new();
        let tokens = world.sign_in();
        world.idp.claims.borrow_mut()["sub"] = json!("bob");
        assert_eq!(world.refresh(refresh_token(&tokens)).error(), (401, "invalid_grant".to_owned()));
        let lines = world.log.0.borrow().clone();
        assert!(lines.iter().any(|line| line.contains("the identity provider names another person")));
    }

    #[test]
    fn a_refresh_that_failed_may_be_tried_again_whenever_the_provider_is_back() {
        let world = World::new();
        let tokens = world.sign_in();
        world.idp.mood.set(Mood::Down);
        assert_eq!(world.refresh(refresh_token(&tokens)).status, 503);
        world.wait(Duration::from_hours(1));
        world.idp.mood.set(Mood::Well);
        assert_eq!(world.refresh(refresh_token(&tokens)).status, 200);
    }

    #[test]
    fn the_providers_no_ends_the_session_at_once() {
        let world = World::new();
        let tokens = world.sign_in();
        world.idp.refusal.replace(Some((400, r#"{"error":"invalid_grant"}"#.to_owned())));
        assert_eq!(world.refresh(refresh_token(&tokens)).status, 401);
        assert!(!world.is_in(&tokens["access_token"]));
        world.idp.refusal.replace(None);
        assert_eq!(world.refresh(refresh_token(&tokens)).status, 401);
    }

    #[test]
    fn while_another_refresh_is_under_way_one_waits_for_its_answer() {
        let world = World::new();
        let tokens = world.sign_in();
        // Another instance has claimed the refresh and died.
        let until = world.clock.get().plus(Duration::from_secs(4)).as_millis();
        world.rows(&format!("UPDATE sessions SET claimed_until = {until}"));
        let calls = world.idp.count("/token");
        let began = world.clock.get();
        assert_eq!(world.refresh(refresh_token(&tokens)).status, 200);
        assert_eq!((world.clock.get().since(began), world.idp.count("/token")), (Duration::from_secs(4), calls + 1));

        // One that takes too long is a reason to come back, not to sign in again.
        world.wait(Duration::from_mins(1));
        let tokens = world.sign_in();
        let until = world.clock.get().plus(Duration::from_secs(15)).as_millis();
        world.rows(&format!("UPDATE sessions SET claimed_until = {until}"));
        let answer = world.refresh(refresh_token(&tokens));
        assert_eq!(answer.error(), (503, "temporarily_unavailable".to_owned()));
        assert_eq!(answer.header(header::RETRY_AFTER), "5");
    }

    #[test]
    fn what_was_made_while_the_store_was_down_is_the_newest_when_it_is_back() {
        let world = World::new();
        let tokens = world.sign_in();
        world.db_is_down.set(true);
        let second = world.refresh(refresh_token(&tokens)).json();
        let third = world.refresh(refresh_token(&second)).json();
        assert!(refresh_token(&third).starts_with("spr2."));
        world.db_is_down.set(false);
        let fourth = world.refresh(refresh_token(&third));
        assert_eq!(fourth.status, 200);
        assert_eq!(world.rows("SELECT generation FROM sessions")[0][0], Sql::Integer(3));
        assert_eq!(world.refresh(refresh_token(&second)).status, 401);
        assert_eq!(world.refresh(refresh_token(&fourth.json())).status, 401);
    }

    #[test]
    fn a_session_that_the_store_has_forgotten_is_over() {
        let world = World::new();
        let tokens = world.sign_in();
        world.rows("DELETE FROM sessions");
        assert_eq!(world.refresh(refresh_token(&tokens)).status, 401);
        assert_eq!(world.rows("SELECT COUNT(*) FROM sessions")[0][0], Sql::Integer(0));
    }

    #[test]
    fn a_session_that_nobody_refreshes_for_ninety_days_is_over() {
        let world = World::new();
        let tokens = world.sign_in();
        world.wait(Duration::from_hours(90 * 24) - Duration::from_millis(1));
        let tokens = world.refresh(refresh_token(&tokens)).json();
        world.wait(Duration::from_hours(90 * 24));
        assert_eq!(world.refresh(refresh_token(&tokens)).status, 401);
        assert!(world.audited("session.reuse").is_empty());
    }

    #[test]
    fn the_answer_that_is_kept_cannot_be_read_and_does_not_stay() {
        let world = World::new();
        let tokens = world.sign_in();
        world.refresh(refresh_token(&tokens));
        let kept = format!("{:?}", world.rows("SELECT * FROM sessions"));
        for secret in ["spr", "eyJ", "idp-refresh"] {
            assert!(!kept.contains(secret), "{secret} in {kept}");
        }
        world.wait(Duration::from_secs(30));
        world.device();
        world.finish();
        assert_eq!(world.rows("SELECT answer FROM sessions")[0][0], Sql::Text(String::new()));
    }
}

mod revocation {
    use super::*;

    #[test]
    fn either_token_ends_the_session() {
        for (kind, hint) in [
            ("access_token", ""),
            ("refresh_token", "&token_type_hint=refresh_token"),
            ("access_token", "&token_type_hint=refresh_token"),
            ("refresh_token", "&token_type_hint=nonsense"),
        ] {
            let world = World::new();
            let tokens = world.sign_in();
            let other = world.sign_in();
            assert!(world.is_in(&tokens["access_token"]));
            let token = tokens[kind].as_str().expect("a token");
            let answer = world.revoke(&format!("token={token}{hint}"));
            assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{kind}{hint}");
            assert_eq!(answer.header(header::CACHE_CONTROL), "no-store");
            let event = world.audited("session.revoke").pop().expect("audited");
            assert_eq!(
                (&event["sub"], &event["actor"], &event["client_ip"]),
                (&json!("alice"), &json!("client"), &json!("192.0.2.1"))
            );
            assert!(!world.is_in(&tokens["access_token"]), "{kind}{hint}");
            assert_eq!(world.audited("auth.denied")[0]["reason"], "session_ended");
            assert_eq!(world.refresh(refresh_token(&tokens)).error().1, "invalid_grant");
            // Signing out sends the other one, too.
            assert_eq!(world.revoke(&format!("token={}", refresh_token(&tokens))).status, 200);
            assert!(world.audited("session.revoke").is_empty());
            assert!(world.is_in(&other["access_token"]), "another session of the same person goes on");
        }
    }

    #[test]
    fn what_is_no_token_of_ours_is_answered_alike_and_what_is_no_request_is_refused() {
        let world = World::new();
        let tokens = world.sign_in();
        let token = tokens["access_token"].as_str().expect("a token");
        let foreign = World::with(|config| config.session.jwt_secrets = vec![Secret::new("foreign".to_owned())]);
        let foreign_tokens = foreign.sign_in();
        for token in [
            "x",
            "spr2.",
            "spr1.AAAA.BBBB",
            "a.b.c",
            "%00%FF",
            "<script>alert(1)</script>",
            &"x".repeat(200_000),
            &format!("{token}x"),
            foreign_tokens["access_token"].as_str().expect("a token"),
            refresh_token(&foreign_tokens),
        ] {
            let answer = world.revoke(&format!("token={token}"));
            assert_eq!((answer.status, answer.body.as_str()), (200, ""), "{token:.50}");
        }
        for (content_type, body) in [
            (FORM.1, String::new()),
            (FORM.1, "token=".to_owned()),
            (FORM.1, "Token=x&token_type_hint=access_token".to_owned()),
            // The first one counts.
            (FORM.1, format!("token=&token={token}")),
            ("application/json", format!(r#"{{"token":"{token}"}}"#)),
            ("text/plain", format!("token={token}")),
            ("", format!("token={token}")),
            ("multipart/form-data", format!("token={token}")),
        ] {
            let answer = world.send(Method::POST, "/oauth/revoke", &[("content-type", content_type)], &body);
            assert_eq!(answer.error(), (400, "invalid_request".to_owned()), "{content_type} {body}");
            assert!(!answer.json()["error_description"].as_str().expect("a description").is_empty());
        }
        assert_eq!(world.revoke(&format!("token={}", "x".repeat(256 * 1024))).status, 413);
        for method in [Method::GET, Method::PUT, Method::DELETE, Method::OPTIONS, Method::HEAD] {
            let answer = world.send(method.clone(), &format!("/oauth/revoke?token={token}"), &[FORM], "");
            assert_eq!(answer.status, 401, "{method}");
        }
        assert!(world.is_in(&tokens["access_token"]));
        assert!(world.audited("session.revoke").is_empty());
        let body = format!("--zz\r\ncontent-disposition: form-data; name=\"token\"\r\n\r\n{token}\r\n--zz--\r\n");
        let headers = [("content-type", "multipart/form-data; boundary=zz")];
        assert_eq!(world.send(Method::POST, "/oauth/revoke", &headers, &body).status, 200);
        assert!(!world.is_in(&tokens["access_token"]));
    }

    #[test]
    fn a_token_that_is_over_ends_nothing() {
        let world = World::new();
        let tokens = world.sign_in();
        world.wait(Duration::from_hours(1));
        assert_eq!(world.revoke(&format!("token={}", tokens["access_token"].as_str().expect("a token"))).status, 200);
        assert_eq!(world.refresh(refresh_token(&tokens)).status, 200);
    }

    #[test]
    fn a_session_that_the_store_does_not_know_can_be_ended_all_the_same() {
        let world = World::new();
        let tokens = world.sign_in();
        world.rows("DELETE FROM sessions");
        assert_eq!(world.revoke(&format!("token={}", tokens["access_token"].as_str().expect("a token"))).status, 200);
        assert_eq!(world.audited("session.revoke")[0]["sub"], "alice");
        assert!(!world.is_in(&tokens["access_token"]));
        assert_eq!(world.rows("SELECT COUNT(*) FROM sessions WHERE ended_at IS NOT NULL")[0][0], Sql::Integer(1));
    }

    #[test]
    fn while_the_store_is_away_a_client_is_told_to_try_again() {
        let world = World::new();
        let tokens = world.sign_in();
        world.db_is_down.set(true);
        let answer = world.revoke(&format!("token={}", refresh_token(&tokens)));
        assert_eq!(answer.error(), (503, "temporarily_unavailable".to_owned()));
        assert_eq!(answer.header(header::RETRY_AFTER), "5");
        assert_eq!(world.revoke("token=unknown").status, 200);
        world.db_is_down.set(false);
        assert!(world.is_in(&tokens["access_token"]));
        assert_eq!(world.revoke(&format!("token={}", refresh_token(&tokens))).status, 200);
        assert!(!world.is_in(&tokens["access_token"]));
    }

    #[test]
    fn another_instances_word_is_heard_within_five_seconds_and_no_request_asks_twice() {
        let world = World::new();
        let tokens = world.sign_in();
        let token = &tokens["access_token"];
        assert!(world.is_in(token));
        // Another instance ends it. What is known is used for a while without asking.
        let id = world.session_id();
        world.end(&id);
        world.wait(Duration::from_millis(1999));
        assert!(world.is_in(token));
        assert_eq!(world.tasks.0.borrow().len(), 1, "only the sweep");
        world.tasks.0.borrow_mut().clear();
        // Then it is used while somebody asks in the background, once.
        world.wait(Duration::from_millis(1));
        assert!(world.is_in(token) && world.is_in(token));
        assert_eq!(world.tasks.0.borrow().len(), 1);
        world.finish();
        assert!(!world.is_in(token));
        assert_eq!(world.rows("SELECT COUNT(*) FROM sessions")[0][0], Sql::Integer(1));

        // When nobody could ask in the background, the request itself does, in time.
        let tokens = world.sign_in();
        assert!(world.is_in(&tokens["access_token"]));
        world.end(world.session(&tokens["access_token"]).id().expect("an id"));
        world.wait(Duration::from_secs(4));
        assert!(!world.is_in(&tokens["access_token"]));
    }

    #[test]
    fn while_the_store_is_away_sessions_go_on_and_what_is_known_to_have_ended_does_not() {
        let world = World::new();
        let (ended, known, unknown) = (world.sign_in(), world.sign_in(), world.sign_in());
        assert!(world.is_in(&known["access_token"]));
        world.revoke(&format!("token={}", refresh_token(&ended)));
        world.db_is_down.set(true);
        for _ in 0..3 {
            assert!(world.is_in(&known["access_token"]) && world.is_in(&unknown["access_token"]));
            assert!(!world.is_in(&ended["access_token"]));
            world.wait(Duration::from_mins(1));
        }
        let warnings = |world: &World| {
            let lines = world.log.0.borrow().clone();
            lines.iter().filter(|line| line.contains("cannot be told from others")).count()
        };
        let before = warnings(&world);
        // A store that failed is left alone for a moment.
        assert!(world.is_in(&unknown["access_token"]) && world.is_in(&unknown["access_token"]));
        assert_eq!(warnings(&world), before + 1);
        world.db_is_down.set(false);
        world.end(world.session(&unknown["access_token"]).id().expect("an id"));
        world.wait(Duration::from_secs(4));
        assert!(!world.is_in(&unknown["access_token"]));
    }
}
