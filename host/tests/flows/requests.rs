//! Bad requests: refused with a clear answer, before they cost anything.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{MODEL, Site, Upstream, discovery, eventually, question};

#[test]
fn a_body_that_is_no_request_is_refused_with_an_envelope() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();
    let token = site.session("ada");
    let cases: [(&[u8], &str); 9] = [
        (b"", "invalid JSON"),
        (b"not json", "invalid JSON"),
        (b"{\"model\": \"claude-sonnet-4-6\"", "invalid JSON"),
        (b"\xef\xbb\xbf{\"model\": \"claude-sonnet-4-6\"}", "invalid JSON"),
        (b"[]", "request body must be a JSON object"),
        (b"{}", "model is required"),
        (b"{\"model\": \"\"}", "model is required"),
        (b"{\"model\": 5}", "model must be a string"),
        (b"{\"model\": null}", "model must be a string"),
    ];

    for (body, message) in cases {
        let answer = gateway.post("/v1/messages").bearer(&token).body(body).send();
        let shown = String::from_utf8_lossy(body);
        assert_eq!(answer.status, 400, "{shown}: {}", answer.status_and_text());
        let envelope = json!({
            "type": "error", "request_id": answer.header("x-request-id"),
            "error": {"type": "invalid_request_error", "message": message},
        });
        assert_eq!(answer.json(), envelope, "{shown}");
    }
    let unknown = gateway.post("/v1/messages").bearer(&token).json(&json!({"model": "claude-none"})).send().expect(400);
    assert!(unknown.text().contains("claude-none"), "{}", unknown.text());
    assert_eq!(upstream.seen().len(), 0);
}

#[test]
fn an_oversized_body_is_refused_before_it_is_sent() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();
    let head = |length: u64| {
        format!(
            "POST /v1/messages HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: {length}\r\n\r\n",
            gateway.address,
            site.session("ada")
        )
    };

    let mut client = gateway.connect();
    client.send(head((32 << 20) + 1));
    let answer = client.until("payload too large");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    // As large as allowed.
    let mut body = format!("{{\"model\": \"{MODEL}\", \"padding\": \"").into_bytes();
    body.resize((32 << 20) - 2, b'x');
    body.extend_from_slice(b"\"}");
    let answer = gateway.post("/v1/messages").bearer(&site.session("ada")).body(body).send();
    assert_eq!(answer.status, 200, "{}", answer.status_and_text());
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(upstream.seen()[0].body.len(), 32 << 20);
}

#[test]
fn a_body_that_ends_too_early_reaches_no_upstream() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();
    let mut client = gateway.connect();
    client.send(format!(
        "POST /v1/messages HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-length: 1000\r\n\r\n{{\"model\": ",
        gateway.address,
        site.session("ada")
    ));

    client.finish_sending();

    let answer = client.until_closed();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    gateway.get("/readyz").send().expect(200);
    assert_eq!(upstream.seen().len(), 0);
}

#[test]
fn bodies_that_never_come_hold_nobody_up() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();

    // Strangers who announce more than a gigabyte together, and send nothing.
    let strangers: Vec<_> = (0..40)
        .map(|_| {
            let mut stranger = gateway.connect();
            stranger.send(format!(
                "POST /oauth/token HTTP/1.1\r\nhost: {}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
                 content-length: {}\r\n\r\n",
                gateway.address,
                32 << 20
            ));
            stranger
        })
        .collect();

    // More than once: the strangers are not served before they are accepted.
    for _ in 0..20 {
        gateway.get("/healthz").send().expect(200);
        gateway.post("/v1/messages").bearer(&site.session("ada")).json(&question(false)).send().expect(200);
    }
    drop(strangers);
}

#[test]
fn a_chunked_body_is_refused() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();
    let mut client = gateway.connect();

    client.send(format!(
        "POST /v1/messages HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n",
        gateway.address
    ));

    let answer = client.until("length required");
    assert!(answer.starts_with("HTTP/1.1 411 "), "{answer}");
}

#[test]
fn what_is_no_request_is_answered_with_an_id_of_its_own() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let mut site = Site::for_inference(&provider, &upstream);
    site.environment.push(("CLAUDE_GATEWAY_LOG_LEVEL", "debug".to_owned()));
    let gateway = site.start();
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(512 * 1024));
    let cases: [(&str, &str); 8] = [
        ("GET\r\n\r\n", "400"),
        ("GET / HTTP/9.9\r\nhost: a\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: twelve\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "411"),
        (&long, "431"),
        // After a request that was answered, on its connection.
        ("GET /healthz HTTP/1.1\r\nhost: a\r\n\r\nGET\r\n\r\n", "400"),
    ];
    let mut ids = BTreeSet::new();
    for (bytes, status) in cases {
        let mut client = gateway.connect();
        client.send(bytes);
        let said = client.until_closed().to_lowercase();
        let shown = bytes.get(..80).unwrap_or(bytes);
        let last = said.split("http/1.1 ").last().expect("text");
        assert!(last.starts_with(status) && last.contains("x-content-type-options: nosniff\r\n"), "{shown:?}: {said}");
        let id = last.split("x-request-id: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap_or_default();
        assert_eq!(id.len(), 36, "{shown:?}: {said}");
        assert!(ids.insert(id.to_owned()), "{shown:?}: {id} was given before");
    }
    eventually("a line with an id", || {
        let text = gateway.log.text();
        let told = text.lines().find(|line| line.contains("no request that can be read"))?;
        ids.iter().any(|id| told.contains(id.as_str())).then_some(())
    });
}

#[test]
fn garbage_instead_of_http_harms_nobody() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();
    let garbage: [&[u8]; 6] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: twelve\r\n\r\n",
        b"POST /v1/messages HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
    ];

    for bytes in garbage {
        let mut client = gateway.connect();
        client.send(bytes);
        client.finish_sending();
        let answer = client.until_closed();
        let fine = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(fine, "{:?}: {answer}", String::from_utf8_lossy(bytes));
    }
    eventually("the next client", || (gateway.get("/healthz").send().status == 200).then_some(()));
}
