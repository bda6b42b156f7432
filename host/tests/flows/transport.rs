//! Plain HTTP/1.1 and HTTP/2, and TLS with both.

use std::io::Cursor;
use std::process::Command;

use reqwest::blocking::{Body, Client};
use serde_json::json;

use crate::support::{DELTAS, MODEL, PATIENCE, Site, Upstream, command, discovery, eventually, lacks, question};

#[test]
fn http_2_works_without_an_upgrade() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();
    let client = Client::builder().http2_prior_knowledge().timeout(PATIENCE).build().expect("a client");

    let health = client.get(gateway.url("/healthz")).send().expect("an answer");
    assert_eq!((health.version(), health.status().as_u16()), (reqwest::Version::HTTP_2, 200));
    let call = client.post(gateway.url("/v1/messages")).bearer_auth(site.session("ada")).json(&question(true));
    let streamed = gateway.call(call).send().expect(200);
    assert!(DELTAS.iter().all(|delta| streamed.text().contains(delta)), "{}", streamed.text());
}

#[test]
fn a_length_need_not_be_declared_over_http_2_but_counts() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let mut site = Site::for_inference(&provider, &upstream);
    site.more = "limits:\n  max_request_bytes: 100000\n".to_owned();
    let gateway = site.start();
    let client = Client::builder().http2_prior_knowledge().timeout(PATIENCE).build().expect("a client");
    let call = |size: usize| {
        let body = format!("{{\"model\": \"{MODEL}\", \"padding\": \"{}\"}}", "x".repeat(size));
        let call = client.post(gateway.url("/v1/messages")).bearer_auth(site.session("ada"));
        gateway.call(call.body(Body::new(Cursor::new(body)))).try_send()
    };

    assert_eq!(call(1000).expect("an answer").status, 200);
    match call(200_000) {
        Ok(answer) => assert_eq!(answer.status_and_text(), "413 payload too large"),
        // The client may stumble over being told before it has sent everything.
        Err(error) => assert!(error.is_body(), "{error:?}"),
    }
    assert_eq!(call(1000).expect("an answer").status, 200);

    assert_eq!(upstream.seen().len(), 2);
}

#[test]
fn many_streams_of_one_http_2_connection_do_not_wait_for_each_other() {
    let (provider, (upstream, requests)) = (discovery(), Upstream::held());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();
    let client = Client::builder().http2_prior_knowledge().timeout(PATIENCE).build().expect("a client");

    std::thread::scope(|scope| {
        let answers: Vec<_> = (0..40)
            .map(|index| {
                let call =
                    client.post(gateway.url("/v1/messages")).bearer_auth(site.session(&format!("person-{index}")));
                let call = gateway.call(call.json(&json!({"model": MODEL, "index": index})));
                scope.spawn(move || call.send().expect(200))
            })
            .collect();
        // All are open before the first is answered, and each gets what is its own.
        let open: Vec<_> = answers.iter().map(|_| requests.recv_timeout(PATIENCE).expect("a request")).collect();
        for exchange in open.into_iter().rev() {
            let answer = json!({"index": exchange.json()["index"]});
            exchange.answer(200, &[], &answer);
        }
        for (index, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.join().expect("an answer").json(), json!({"index": index}));
        }
    });
    for index in 0..40 {
        gateway.log.event("inference", |event| event["sub"] == format!("person-{index}"));
    }
}

#[test]
fn tls_ends_at_the_gateway_with_both_versions_of_http() {
    if lacks(&["openssl", "curl"]) {
        return;
    }
    let (provider, upstream) = (discovery(), Upstream::claude());
    let mut site = Site::for_inference(&provider, &upstream);
    let (cert, key) = (site.file("cert.pem"), site.file("key.pem"));
    command(
        Command::new("openssl")
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1"])
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&cert),
    );
    site.more_listen = format!("  tls:\n    cert: {}\n    key: {}\n", cert.display(), key.display());
    site.public_url = site.public_url.replace("http:", "https:");
    let curl = |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command.args(["-sS", "--noproxy", "*", "--max-time", "60", "--cacert"]).arg(&cert).args(arguments);
        command
    };
    let url = |path: &str| format!("{}{path}", site.public_url);
    let gateway = site.start_when(|_| {
        let ready = curl(&["-f", &url("/readyz")]).output().expect("curl");
        ready.status.success().then_some(())
    });

    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let said = command(&mut curl(&[option, "-i", "-w", "\n%{http_version}", &url("/healthz")]));
        assert!(said.ends_with(&format!("\n{version}")), "{said}");
        assert!(said.to_lowercase().contains("strict-transport-security: max-age="), "{said}");
        let bearer = format!("authorization: Bearer {}", site.session("ada"));
        let body = question(true).to_string();
        let said = command(&mut curl(&[option, "-N", "-H", &bearer, "-d", &body, &url("/v1/messages")]));
        assert!(DELTAS.iter().all(|delta| said.contains(delta)), "{said}");
        gateway.transcript.answered(said.as_bytes());
    }
    // Without TLS there is nothing to talk about.
    let plain = format!("http://{}/healthz", gateway.address);
    eventually("a refusal", || (!curl(&["-f", &plain]).output().expect("curl").status.success()).then_some(()));
}
