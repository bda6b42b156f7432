//! What goes on while something else does not.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::support::{
    Browser, Clock, Device, Federation, Idp, Postgres, Proxy, Site, Tokens, Upstream, discovery, eventually, free_port,
    message, person, poll, question, refresh, sign_in, until_ready,
};

#[test]
fn refresh_and_inference_go_on_while_postgresql_is_stopped() {
    let Some(mut database) = Postgres::start() else { return };
    let mut site = Site::new();
    site.use_postgres(&database);
    let Some(_idp) = Idp::start(&mut site) else { return };
    let upstream = Upstream::claude();
    site.use_upstream(&upstream);
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");
    let waiting = Device::authorize(&gateway);

    database.stop();
    assert_eq!(gateway.get("/healthz").send().status_and_text(), "200 ok");
    assert_eq!(gateway.get("/readyz").send().status_and_text(), "503 store unavailable");
    let renewed = Tokens::of(&gateway, &refresh(&gateway, &tokens.refresh));
    assert_ne!(renewed.refresh, tokens.refresh);
    let answer = gateway.post("/v1/messages").bearer(&renewed.access).json(&question(false)).send().expect(200);
    assert_eq!(answer.json(), message());
    gateway.get("/v1/models").bearer(&renewed.access).send().expect(200);
    let failed = gateway.post("/oauth/device_authorization").send().expect(500);
    assert_eq!(failed.json()["error"], json!({"type": "api_error", "message": "internal server error"}));

    database.start_again();
    until_ready(&gateway);
    assert_eq!(poll(&gateway, &waiting).expect(400).json()["error"], "authorization_pending");
    sign_in(&gateway, "grace");
}

#[test]
fn a_valid_session_outlives_its_identity_provider() {
    let Some((site, idp)) = Site::with_idp() else { return };
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");

    drop(idp);

    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
    let answer = refresh(&gateway, &tokens.refresh).expect(503);
    assert_eq!(answer.json()["error"], "temporarily_unavailable");
}

#[test]
fn an_identity_provider_that_hangs_ends_no_session_and_is_asked_again_when_it_is_back() {
    let mut site = Site::new();
    let Some(idp) = Idp::start(&mut site) else { return };
    let upstream = Upstream::claude();
    site.use_upstream(&upstream);
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");
    let device = Device::authorize(&gateway);

    idp.hang(true);
    let answer = refresh(&gateway, &tokens.refresh).expect(503);
    assert_eq!((answer.json()["error"].as_str(), answer.header("retry-after")), (Some("temporarily_unavailable"), "5"));
    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
    gateway.get("/readyz").send().expect(200);

    // This provider rotates refresh tokens, and answers the first question after all: it would take a second one with the
    // same token for theft. Nobody has waited so long, but the answer is there when the client comes back.
    idp.hang(false);
    let late = eventually("the refresh that was under way", || {
        let answer = refresh(&gateway, &tokens.refresh);
        (answer.status == 200).then_some(answer)
    });
    let renewed = Tokens::of(&gateway, &late);
    assert!(late.json()["expires_in"].as_u64() <= Some(3600), "{}", late.text());
    Tokens::of(&gateway, &refresh(&gateway, &renewed.refresh));
    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
    Browser::of("ada").sign_in(&gateway, &device.user_code).expect(200);
    Tokens::of(&gateway, &poll(&gateway, &device));
}

#[test]
fn a_token_service_that_is_away_stops_one_upstream_until_it_is_back() {
    let (provider, federation) = (discovery(), Federation::start());
    let mut site = Site::for_inference(&provider, &federation.upstream);
    federation.configure(&mut site);
    let gateway = site.start();
    let token = site.session("ada");
    let ask = || gateway.post("/v1/messages").bearer(&token).json(&question(false)).send();

    federation.break_down(true);
    ask().expect(502);
    eventually("the reason", || gateway.log.text().contains("the token exchange answered 503").then_some(()));
    federation.break_down(false);
    assert_eq!(ask().expect(200).json(), message());
    federation.break_down(true);
    assert_eq!(ask().expect(200).json(), message());
    assert_eq!(federation.exchanges(), 2);
}

#[test]
fn a_restart_signs_nobody_out() {
    let Some((site, idp)) = Site::with_idp() else { return };
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");
    gateway.kill();

    let gateway = site.start();
    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
    idp.change("ada", &person("ada@example.com", true, &[]));
    Tokens::of(&gateway, &refresh(&gateway, &tokens.refresh));
}

#[test]
fn a_slow_postgresql_delays_inference_but_does_not_stop_it() {
    let Some(database) = Postgres::start() else { return };
    let proxy = Proxy::to(&database.address());
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    site.postgres_url = Some(database.url().replace(&database.address(), &proxy.address));
    site.more = "admin: {}\n".to_owned();
    let gateway = site.start();
    let token = site.session("ada");
    let ask = || gateway.post("/v1/messages").bearer(&token).json(&question(false)).send().expect(200);
    assert_eq!(ask().json(), message());

    proxy.hold(true);
    assert_eq!(ask().json(), message());
    eventually("the warning", || gateway.log.text().contains("spending cannot be looked up").then_some(()));
    assert_eq!(gateway.get("/readyz").send().status_and_text(), "503 store unavailable");

    proxy.hold(false);
    until_ready(&gateway);
    assert_eq!(ask().json(), message());
}

#[test]
fn what_a_stalled_postgresql_reserves_too_late_is_given_back() {
    let Some(database) = Postgres::start() else { return };
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    site.postgres_url = Some(database.url());
    site.more = "admin: {}\nenforcement: { fail_closed_on_error: true }\n".to_owned();
    let gateway = site.start();
    let token = site.session("ada");
    let ask = || gateway.post("/v1/messages").bearer(&token).json(&question(false)).send();
    ask().expect(200);

    std::thread::scope(|scope| {
        let stall = "begin; lock table spend in access exclusive mode; select pg_sleep(4); commit";
        scope.spawn(|| database.query(stall).expect("a lock"));
        eventually("the lock", || (ask().status == 429).then_some(()));
    });
    let held = "select count(*) from spend where kind = 'hold' and state = 'held'";
    eventually("nothing that is reserved", || {
        ask().expect(200);
        (database.query(held)? == "0").then_some(())
    });
}

#[test]
fn without_its_keys_an_identity_provider_still_signs_in_whom_it_is_known_to_verify() {
    let mut site = Site::new();
    site.has_session_secret = true;
    let Some(idp) = Idp::start(&mut site) else { return };
    let is_gone = Arc::new(AtomicBool::new(false));
    let front = jwks_in_front_of(&idp.issuer, &is_gone);
    site.issuer = format!("http://{}", front.address);
    let upstream = Upstream::claude();
    site.use_upstream(&upstream);
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");

    is_gone.store(true, Ordering::Release);
    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
    sign_in(&gateway, "grace");
    Tokens::of(&gateway, &refresh(&gateway, &tokens.refresh));

    // A gateway that has never seen the keys cannot verify anybody, until they are back.
    drop(gateway);
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(with_suffix(&site.state().join("key_value.db"), suffix));
    }
    let gateway = site.start();
    let device = Device::authorize(&gateway);
    let page = Browser::of("ada").sign_in(&gateway, &device.user_code);
    assert_ne!(page.status, 200, "{}", page.status_and_text());
    is_gone.store(false, Ordering::Release);
    sign_in(&gateway, "ada");
}

/// The discovery document of `issuer`, whose keys are here, and can be gone.
fn jwks_in_front_of(issuer: &str, is_gone: &Arc<AtomicBool>) -> Upstream {
    let (issuer, is_gone) = (issuer.to_owned(), Arc::clone(is_gone));
    Upstream::start(move |exchange| {
        let fetch = |path: &str| -> Value {
            let text = reqwest::blocking::get(format!("{issuer}{path}")).and_then(reqwest::blocking::Response::text);
            serde_json::from_str(&text.expect("an answer")).expect("JSON")
        };
        match exchange.seen.path.as_str() {
            "/.well-known/openid-configuration" => {
                let mut document = fetch("/.well-known/openid-configuration");
                let own = document["jwks_uri"].as_str().expect("an address").replace(&issuer, "");
                document["jwks_uri"] = format!("http://{}{own}", exchange.seen.header("host")).into();
                exchange.answer(200, &[], &document);
            }
            // Dropped without an answer: the connection closes.
            _ if is_gone.load(Ordering::Acquire) => {}
            path => {
                let keys = fetch(path);
                exchange.answer(200, &[], &keys);
            }
        }
    })
}

#[test]
fn without_one_upstream_the_next_answers_and_without_any_the_rest_goes_on() {
    let is_gone = Arc::new(AtomicBool::new(false));
    let (seen, second) = (
        Arc::clone(&is_gone),
        Upstream::start({
            let is_gone = Arc::clone(&is_gone);
            move |exchange| {
                if !is_gone.load(Ordering::Acquire) {
                    exchange.answer(200, &[], &message());
                }
            }
        }),
    );
    let mut site = Site::for_inference(&discovery(), &second);
    site.upstreams.insert(0, format!("http://127.0.0.1:{}", free_port()));
    let gateway = site.start();
    let token = site.session("ada");
    let ask = || gateway.post("/v1/messages").bearer(&token).json(&question(false)).send();
    assert_eq!(ask().expect(200).json(), message());

    seen.store(true, Ordering::Release);
    let answer = ask().expect(502);
    assert_eq!(answer.json()["error"]["type"], "api_error", "{}", answer.text());
    gateway.get("/v1/models").bearer(&token).send().expect(200);
    gateway.get("/readyz").send().expect(200);

    seen.store(false, Ordering::Release);
    ask().expect(200);
}

#[test]
fn a_collector_that_is_gone_is_left_alone_and_developers_notice_nothing() {
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    site.more = format!("telemetry:\n  forward_to: [{{ url: \"http://127.0.0.1:{}\" }}]\n", free_port());
    let gateway = site.start();
    let token = site.session("ada");
    for _ in 0..6 {
        gateway.post("/v1/metrics").bearer(&token).body("x").send().expect(200);
    }
    eventually("the breaker", || gateway.log.text().contains("failed five times in a row").then_some(()));
    gateway.post("/v1/metrics").bearer(&token).body("x").send().expect(200);
    gateway.post("/v1/messages").bearer(&token).json(&question(false)).send().expect(200);
}

#[test]
fn on_a_full_disk_inference_and_refresh_go_on_and_signing_in_waits() {
    let Some((mut site, _idp)) = Site::with_idp() else { return };
    site.more = "rate_limits: { device_authorization: { max: 100000 } }\n".to_owned();
    // No file may grow beyond 4 MiB (in units of 512 bytes); a write beyond fails instead of ending the process.
    let script = "trap '' XFSZ; ulimit -f 8192; exec \"$@\"";
    site.launcher = ["sh", "-c", script, "sh"].map(str::to_owned).to_vec();
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");
    // Somebody else fills the file to its limit.
    fill(&site.state().join("sqlite.db"), 4 * 1024 * 1024);
    eventually("a refusal", || (gateway.post("/oauth/device_authorization").send().status == 500).then_some(()));
    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
    gateway.get("/v1/models").bearer(&tokens.access).send().expect(200);
    let renewed = Tokens::of(&gateway, &refresh(&gateway, &tokens.refresh));
    drop(gateway);

    site.launcher.clear();
    let gateway = site.start();
    gateway.post("/v1/messages").bearer(&renewed.access).json(&question(false)).send().expect(200);
    sign_in(&gateway, "grace");
}

/// Makes the database at `path` so large that no page more fits into `limit` bytes, its log included.
fn fill(path: &Path, limit: u64) {
    let database = rusqlite::Connection::open(path).expect("a database");
    database.busy_timeout(crate::support::PATIENCE).expect("a timeout");
    database.execute_batch("CREATE TABLE ballast (bytes BLOB NOT NULL)").expect("a table");
    let size =
        || [path.to_path_buf(), with_suffix(path, "-wal")].map(|file| fs::metadata(file).map_or(0, |meta| meta.len()));
    while size()[1] < limit {
        database.execute("INSERT INTO ballast VALUES (zeroblob(65536))", []).expect("a row");
        database.pragma_update(None, "wal_autocheckpoint", 0).expect("a setting");
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[test]
fn a_clock_that_jumps_ahead_and_back_leaves_nothing_waiting_until_it_has_caught_up() {
    let Some((mut site, _idp)) = Site::with_idp() else { return };
    site.more = "rate_limits: { device_authorization: { max: 2 } }\n".to_owned();
    let Some(clock) = Clock::of(&mut site) else { return };
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");
    let ask = || gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send();
    ask().expect(200);

    // Longer than a session token lives, and shorter than a sign-in does.
    clock.turn("+30d");
    ask().expect(401);
    eventually("the rate limit", || (gateway.post("/oauth/device_authorization").send().status == 429).then_some(()));

    clock.turn("+0");
    ask().expect(200);
    sign_in(&gateway, "grace");
    Tokens::of(&gateway, &refresh(&gateway, &tokens.refresh));
}

#[test]
fn without_its_key_value_store_a_running_gateway_serves_those_who_are_signed_in() {
    let Some((site, _idp)) = Site::with_idp() else { return };
    let gateway = site.start();
    let tokens = sign_in(&gateway, "ada");
    let change = |statement: &str| {
        let database = rusqlite::Connection::open(site.state().join("key_value.db")).expect("a database");
        database.busy_timeout(crate::support::PATIENCE).expect("a timeout");
        database.execute_batch(statement).expect("it runs");
    };

    change("ALTER TABLE spin_key_value RENAME TO away");
    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
    Tokens::of(&gateway, &refresh(&gateway, &tokens.refresh));
    sign_in(&gateway, "grace");
    gateway.get("/readyz").send().expect(200);

    change("ALTER TABLE away RENAME TO spin_key_value");
    drop(gateway);
    let gateway = site.start();
    gateway.post("/v1/messages").bearer(&tokens.access).json(&question(false)).send().expect(200);
}
