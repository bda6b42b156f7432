//! How the gateway gets out: `proxy` and `tls` of an upstream, `tls` of the identity provider. The native host does what
//! they say; `sallyport render spin` hands Spin as much of it as Spin has a word for.

use url::Url;

use super::decode::Keys;
use super::kind::{choice, non_empty, secret, switch};
use super::report::Report;
use super::{ClientTls, MinTls, Oidc, Proxy, Secret, Upstream};

/// `proxy` of an upstream. Its address may contain a password, so it is a secret from the beginning.
pub(super) fn proxy(keys: &mut Keys<'_, '_>) -> Option<Proxy> {
    let text = keys.optional(
        "proxy",
        secret(1),
        "Proxy for requests to this upstream: `direct`, or a URL such as `http://user:password@proxy.example.com:3128`. \
         Default: what `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say. Only `sallyport serve` uses a proxy.",
    )?;
    judged(text.reveal()).map_err(|message| keys.fault("proxy", message)).ok()
}

fn judged(text: &str) -> Result<Proxy, String> {
    const EXPECTED: &str = "expected `direct`, or a proxy such as http://proxy.example.com:3128";

    if text == "direct" {
        return Ok(Proxy::Direct);
    }
    let url = Url::parse(text).map_err(|_| EXPECTED.to_owned())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{EXPECTED}; a proxy of the kind {}: is not supported", url.scheme()));
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("{EXPECTED}, without a path"));
    }
    Ok(Proxy::Via(Secret::new(url.to_string())))
}

/// `tls` of an upstream and of `oidc`.
pub(super) fn client_tls(keys: &mut Keys<'_, '_>) -> Option<ClientTls> {
    let ca_file = keys.optional("ca_file", non_empty(), "Path of a PEM file with certificate authorities to trust.");
    let system_roots = keys.or(
        "system_roots",
        switch(),
        "true",
        "Whether the machine's own certificate authorities are trusted as well. `false` needs `ca_file`.",
    );
    let client_cert_file = keys.optional(
        "client_cert_file",
        non_empty(),
        "Path of a PEM file with the client certificate (mutual TLS) and its chain.",
    );
    let client_key_file = keys.optional(
        "client_key_file",
        non_empty(),
        "Path of a PEM file with the client certificate's private key; PKCS #8 keys may be encrypted.",
    );
    let client_key_passphrase = keys.optional(
        "client_key_passphrase",
        secret(1),
        "Passphrase of an encrypted private key. Only `sallyport serve` decrypts; Spin needs a plain key.",
    );
    let min_version = keys.or(
        "min_version",
        choice(&[("TLSv1.2", MinTls::Tls12), ("TLSv1.3", MinTls::Tls13)]),
        "TLSv1.2",
        "The oldest version of TLS that is spoken. Only `sallyport serve` enforces it.",
    );

    let system_roots = system_roots?;
    if !system_roots && !keys.has("ca_file") {
        keys.fault("system_roots", "`false` needs a `ca_file`: nothing would be trusted");
    }
    if keys.has("client_cert_file") != keys.has("client_key_file") {
        keys.fault("", "`client_cert_file` and `client_key_file` belong together");
    }
    if keys.has("client_key_passphrase") && !keys.has("client_key_file") {
        keys.fault("client_key_passphrase", "needs a `client_key_file`");
    }
    let identity = client_cert_file.zip(client_key_file);
    Some(ClientTls { ca_file, system_roots, identity, client_key_passphrase, min_version: min_version? })
}

/// Connections are shared by everyone who calls a host, so whoever calls the same one must want the same.
pub(super) fn agree(oidc: &[Oidc], upstreams: &[Upstream], report: &mut Report<'_>) {
    for (index, upstream) in upstreams.iter().enumerate() {
        let origin = super::upstream_origin(upstream);
        for earlier in upstreams[..index].iter().filter(|earlier| super::upstream_origin(earlier) == origin) {
            let mut differs = |key: &str| {
                let message = format!("differs from that of upstream `{}`, which is at {origin} too", earlier.name);
                report.fault_at(&format!("upstreams[{index}].{key}"), message);
            };
            if earlier.proxy != upstream.proxy {
                differs("proxy");
            }
            if earlier.tls != upstream.tls {
                differs("tls");
            }
        }
        for provider in oidc.iter().filter(|provider| provider.issuer.origin().ascii_serialization() == origin) {
            if upstream.tls.is_some() && upstream.tls != provider.tls {
                let message = format!("differs from `oidc.tls`, and the identity provider is at {origin} too");
                report.fault_at(&format!("upstreams[{index}].tls"), message);
            }
        }
    }
}
