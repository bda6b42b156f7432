//! The ways out: corporate proxies, private authorities, client certificates; and what an operator is told when one fails.

use std::path::Path;

use crate::support::{Authority, Gateway, Server, Site, Upstream, discovery, eventually, lacks, question};

const PROXY_PASSWORD: &str = "proxy-password-for-tests-only";
const PASSPHRASE: &str = "key-passphrase-for-tests-only";

/// Asks one question and returns the status of the answer.
fn ask(site: &Site, gateway: &Gateway) -> u16 {
    gateway.post("/v1/messages").bearer(&site.session("ada")).json(&question(false)).send().status
}

fn until_logged(gateway: &Gateway, line: &str) {
    eventually(line, || gateway.log.text().contains(line).then_some(()));
}

#[test]
fn upstreams_are_called_through_the_proxy_of_the_environment_and_the_identity_provider_if_wanted() {
    if lacks(&["tinyproxy"]) {
        return;
    }
    let (provider, upstream, proxy) = (discovery(), Upstream::claude(), Server::tinyproxy());
    let mut site = Site::for_inference(&provider, &upstream);
    let address = format!("http://127.0.0.1:{}", proxy.port);
    let via = |server: &Upstream| server.seen().iter().map(|seen| seen.header("via").to_owned()).collect::<Vec<_>>();

    site.environment = vec![("HTTP_PROXY", address.clone())];
    let gateway = site.start();
    assert_eq!(ask(&site, &gateway), 200);
    assert!(via(&upstream).iter().all(|via| via.contains("between")), "{:?}", via(&upstream));
    assert!(via(&provider).iter().all(String::is_empty), "{:?}", via(&provider));
    until_logged(&gateway, "oidc.use_proxy: a proxy is set, but");
    drop(gateway);

    // A port in NO_PROXY excepts just that server.
    site.environment = vec![("http_proxy", address.clone()), ("NO_PROXY", format!("other.test {}", upstream.address))];
    let gateway = site.start();
    assert_eq!(ask(&site, &gateway), 200);
    assert_eq!(via(&upstream).last().map(String::as_str), Some(""));
    drop(gateway);

    // An upstream may have a way of its own, and the identity provider may be behind the proxy, too.
    site.environment = vec![("HTTP_PROXY", address)];
    site.more_upstream = "    proxy: direct\n".to_owned();
    site.more_oidc = "  use_proxy: true\n".to_owned();
    // Elsewhere, where nothing is known of the identity provider yet.
    let site = site.replica();
    let gateway = site.start();
    assert_eq!(ask(&site, &gateway), 200);
    assert_eq!(via(&upstream).last().map(String::as_str), Some(""));
    assert!(via(&provider).last().is_some_and(|via| via.contains("between")), "{:?}", via(&provider));
}

/// nginx in front of `upstream`, with TLS as these lines say.
fn tls_front(upstream: &Upstream, lines: &str) -> Server {
    Server::nginx(&format!(
        "server {{ listen 127.0.0.1:PORT ssl; ssl_protocols TLSv1.2 TLSv1.3; {lines} location / {{ proxy_pass http://{}; }} }}",
        upstream.address
    ))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_tunnel_through_a_proxy_with_a_password_ends_at_a_server_of_a_private_authority() {
    if lacks(&["squid", "nginx", "openssl"]) {
        return;
    }
    let (provider, upstream, authority) = (discovery(), Upstream::claude(), Authority::new());
    let (certificate, key) = authority.issue("server", "IP:127.0.0.1", 2);
    let server =
        tls_front(&upstream, &format!("ssl_certificate {}; ssl_certificate_key {};", shown(&certificate), shown(&key)));
    let proxy = Server::squid("ada", PROXY_PASSWORD);
    let mut site = Site::for_inference(&provider, &upstream);
    site.transcript.secret(PROXY_PASSWORD);
    site.upstreams = vec![format!("https://127.0.0.1:{}", server.port)];
    site.more_upstream = format!("    tls: {{ ca_file: {} }}\n", shown(&authority.certificate()));

    site.environment = vec![("HTTPS_PROXY", format!("http://ada:{PROXY_PASSWORD}@127.0.0.1:{}", proxy.port))];
    let gateway = site.start();
    assert_eq!(ask(&site, &gateway), 200, "{}\n{}", gateway.log.text(), proxy.said("cache.log"));
    assert_eq!(upstream.seen().len(), 1);
    drop(gateway);

    site.environment = vec![("HTTPS_PROXY", format!("http://127.0.0.1:{}", proxy.port))];
    let gateway = site.start();
    assert!(ask(&site, &gateway) >= 500);
    until_logged(&gateway, "wants a user name and a password");
    drop(gateway);

    // The upstream's own proxy goes before the environment's.
    site.more_upstream.push_str("    proxy: ${THE_PROXY}\n");
    site.environment.push(("THE_PROXY", format!("http://ada:{PROXY_PASSWORD}@127.0.0.1:{}", proxy.port)));
    let gateway = site.start();
    assert_eq!(ask(&site, &gateway), 200, "{}", gateway.log.text());
}

#[test]
fn a_server_that_wants_a_client_certificate_gets_it_also_with_an_encrypted_key() {
    if lacks(&["nginx", "openssl"]) {
        return;
    }
    let (provider, upstream, authority) = (discovery(), Upstream::claude(), Authority::new());
    let (certificate, key) = authority.issue("server", "IP:127.0.0.1", 2);
    let (client, _) = authority.issue("client", "DNS:gateway.example.com", 2);
    let encrypted = authority.encrypted_key("client", PASSPHRASE);
    let server = tls_front(
        &upstream,
        &format!(
            "ssl_certificate {}; ssl_certificate_key {}; ssl_client_certificate {}; ssl_verify_client on;",
            shown(&certificate),
            shown(&key),
            shown(&authority.certificate())
        ),
    );
    let mut site = Site::for_inference(&provider, &upstream);
    site.transcript.secret(PASSPHRASE);
    site.upstreams = vec![format!("https://127.0.0.1:{}", server.port)];
    let ca = shown(&authority.certificate());

    site.environment = vec![("PASSPHRASE", PASSPHRASE.to_owned())];
    site.more_upstream = format!(
        "    tls:\n      ca_file: {ca}\n      client_cert_file: {}\n      client_key_file: {}\n      \
         client_key_passphrase: ${{PASSPHRASE}}\n      min_version: TLSv1.3\n",
        shown(&client),
        shown(&encrypted)
    );
    let gateway = site.start();
    assert_eq!(ask(&site, &gateway), 200, "{}\n{}", gateway.log.text(), server.said("error.log"));
    drop(gateway);

    site.environment = vec![("PASSPHRASE", "another-passphrase-for-tests".to_owned())];
    let said = site.refusal();
    assert!(said.contains("upstreams[0].tls: the private key cannot be decrypted"), "{said}");

    // nginx tells who comes without one in HTTP.
    site.more_upstream = format!("    tls: {{ ca_file: {ca} }}\n");
    let gateway = site.start();
    assert!(ask(&site, &gateway) >= 400);
    assert_eq!(upstream.seen().len(), 1, "nothing reached the upstream without the certificate");
}

#[test]
fn two_upstreams_on_one_host_do_not_share_what_they_show_and_trust() {
    if lacks(&["nginx", "openssl"]) {
        return;
    }
    let (provider, upstream, authority) = (discovery(), Upstream::claude(), Authority::new());
    let (certificate, key) = authority.issue("server", "IP:127.0.0.1", 2);
    let (client, client_key) = authority.issue("client", "DNS:gateway.example.com", 2);
    let ca = shown(&authority.certificate());
    let front = || {
        let (certificate, key) = (shown(&certificate), shown(&key));
        let lines = format!(
            "ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_client_certificate {ca}; ssl_verify_client on;"
        );
        tls_front(&upstream, &lines)
    };
    let (one, other) = (front(), front());
    let with = format!("ca_file: {ca}, client_cert_file: {}, client_key_file: {}", shown(&client), shown(&client_key));
    let without = format!("ca_file: {ca}");
    for (first, second, works) in [(&with, Some(&without), true), (&without, Some(&with), false), (&with, None, true)] {
        let mut site = Site::without_upstreams(&provider);
        let entry = |name: &str, tls: Option<&String>| {
            let tls = tls.map(|tls| format!(", tls: {{ {tls} }}")).unwrap_or_default();
            format!("name: {name}, provider: anthropic, auth: {{ api_key: \"${{UPSTREAM_KEY}}\" }}{tls}")
        };
        site.use_tls_entry(one.port, &entry("one", Some(first)));
        site.use_tls_entry(other.port, &entry("other", second));
        let gateway = site.start();
        // Who comes without a certificate is told so in HTTP, and nobody else is asked.
        assert_eq!(ask(&site, &gateway) == 200, works, "{}", gateway.log.text());
    }
    // What one of them trusts, another does not.
    let mut site = Site::without_upstreams(&provider);
    let plain = "provider: anthropic, auth: { api_key: \"${UPSTREAM_KEY}\" }";
    site.use_tls_entry(other.port, &format!("name: plain, {plain}"));
    site.use_tls_entry(one.port, &format!("name: trusting, {plain}, tls: {{ {with} }}"));
    let gateway = site.start();
    assert_eq!(ask(&site, &gateway), 200, "the second answers");
    until_logged(&gateway, "an authority that is not trusted here");
}

#[test]
fn a_certificate_that_is_refused_is_explained_to_the_operator() {
    if lacks(&["nginx", "openssl"]) {
        return;
    }
    let (provider, upstream, authority) = (discovery(), Upstream::claude(), Authority::new());
    let ca = format!("    tls: {{ ca_file: {} }}\n", shown(&authority.certificate()));
    for (name, subject, days, trust, explained) in [
        ("expired", "IP:127.0.0.1", -1, ca.as_str(), "its certificate has expired"),
        ("mismatched", "DNS:elsewhere.example.com", 2, ca.as_str(), "its certificate is for other names"),
        ("unknown", "IP:127.0.0.1", 2, "", "an authority that is not trusted here"),
        ("the authority's own", "", 0, ca.as_str(), "its certificate is that of an authority"),
    ] {
        let (certificate, key) = if subject.is_empty() {
            (authority.certificate(), authority.certificate().with_file_name("ca.key"))
        } else {
            authority.issue(name, subject, days)
        };
        let lines = format!("ssl_certificate {}; ssl_certificate_key {};", shown(&certificate), shown(&key));
        let server = tls_front(&upstream, &lines);
        let mut site = Site::for_inference(&provider, &upstream);
        site.upstreams = vec![format!("https://127.0.0.1:{}", server.port)];
        site.more_upstream = trust.to_owned();
        let gateway = site.start();
        assert!(ask(&site, &gateway) >= 500, "{name}");
        until_logged(&gateway, explained);
    }
    assert_eq!(upstream.seen().len(), 0);
}
