//! Who a client is, and where the gateway may go.

use serde_json::json;

use crate::support::{Site, Upstream, discovery, question};

#[test]
fn a_forwarded_address_counts_only_from_a_trusted_proxy() {
    for (listen, client) in [("", "127.0.0.1"), ("  trusted_proxies: [127.0.0.1]\n", "203.0.113.4")] {
        let mut site = Site::for_inference(&discovery(), &Upstream::claude());
        site.more_listen = listen.to_owned();
        let gateway = site.start();

        gateway.get("/v1/models").header("x-forwarded-for", "198.51.100.7, 203.0.113.4").send().expect(401);

        assert_eq!(gateway.log.event("auth.denied", |_| true)["client_ip"], client);
    }
}

#[test]
fn headers_with_which_the_host_speaks_to_the_component_are_the_hosts_alone() {
    let (provider, upstream) = (discovery(), Upstream::claude());
    let site = Site::for_inference(&provider, &upstream);
    let gateway = site.start();

    gateway
        .get("/v1/models")
        .header("spin-client-addr", "203.0.113.4:1")
        .header("Spin-Client-Addr", "203.0.113.5:1")
        .send()
        .expect(401);
    assert_eq!(gateway.log.event("auth.denied", |_| true)["client_ip"], "127.0.0.1");

    for token in ["", "guessed"] {
        let answer = gateway.post("/.sallyport/start").header("sallyport-control", token).send();
        assert_eq!(answer.status, 401, "{}", answer.status_and_text());
    }
    let answer =
        gateway.post("/.sallyport/start").header("sallyport-control", "guessed").bearer(&site.session("ada")).send();
    assert_eq!(answer.status_and_text(), "404 not found");

    gateway
        .post("/v1/messages")
        .bearer(&site.session("ada"))
        .header("spin-something", "x")
        .header("sallyport-control", "guessed")
        .json(&question(false))
        .send()
        .expect(200);
    let seen = upstream.seen().remove(0);
    assert!(
        !seen.headers.iter().any(|(name, _)| name.starts_with("spin-") || name.starts_with("sallyport")),
        "{seen:?}"
    );
}

#[test]
fn a_denied_address_is_refused() {
    let mut site = Site::for_inference(&discovery(), &Upstream::claude());
    site.more_listen = "  trusted_proxies: [127.0.0.1]\n".to_owned();
    site.more = "access_control:\n  deny_cidrs: [203.0.113.0/24]\n".to_owned();
    let gateway = site.start();

    let answer = gateway.get("/").header("x-forwarded-for", "203.0.113.4").send();

    assert_eq!(answer.status_and_text(), "403 forbidden");
    assert_eq!(gateway.log.event("access.denied", |_| true)["reason"], json!("ip_denylist"));
}

#[test]
fn the_metadata_address_is_refused_in_the_configuration() {
    for target in ["http://169.254.169.254", "http://[::ffff:169.254.169.254]", "http://metadata.google.internal"] {
        let mut site = Site::for_inference(&discovery(), &Upstream::claude());
        site.upstreams.push(target.to_owned());
        let said = site.refusal();
        assert!(said.contains("base_url"), "{target}: {said}");
    }
}

#[test]
fn a_name_that_leads_to_a_forbidden_address_is_not_followed() {
    let provider = discovery();
    let mut site = Site::for_inference(&provider, &Upstream::claude());
    // A public address as upstream, so that only the name of the identity provider is in question.
    site.upstreams = vec!["https://upstream.example.com".to_owned()];
    site.environment.push(("CLAUDE_GATEWAY_ALLOW_LOOPBACK", String::new()));
    let port = provider.address.rsplit_once(':').expect("a port").1;
    site.issuer = format!("http://localhost:{port}");

    let said = site.refusal();

    assert!(said.contains("localhost"), "{said}");
    assert_eq!(provider.seen().len(), 0, "not even a connection was used");
}
