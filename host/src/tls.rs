//! TLS on both sides: roots, client certificates and the settings of outbound connections, and the server's key.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, anyhow};
use pkcs8::der::pem::PemLabel;
use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use sallyport::config::{ClientTls, Config, MinTls, Secret, upstream_origin};
use url::Url;

/// Protocols of HTTP over TLS, the better one first (RFC 7301).
const HTTP_PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// The machine's roots, or Mozilla's where the machine has none. Read once, when first needed.
fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Arc::new(roots)
    }))
}

/// What a certificate of a peer must lead to, and what we show the peer.
#[derive(Debug, Default, Clone)]
pub(crate) struct Trust {
    /// PEM text of additional roots.
    pub(crate) roots: Option<String>,
    /// Whether the machine's roots are left out.
    pub(crate) only_these_roots: bool,
    /// PEM texts of our certificate chain and its key.
    pub(crate) identity: Option<(String, String)>,
    /// Passphrase of the key.
    pub(crate) passphrase: Option<Secret<String>>,
    /// Whether anything older than TLS 1.3 is refused.
    pub(crate) only_tls13: bool,
}

impl Trust {
    fn root_store(&self) -> Result<Arc<RootCertStore>> {
        let Some(pem) = &self.roots else { return Ok(system_roots()) };
        let mut roots = RootCertStore::empty();
        let mut found = false;
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots
                .add(certificate.context("a root certificate is not PEM")?)
                .context("a root certificate is unusable")?;
            found = true;
        }
        if !found {
            return Err(anyhow!("there is no certificate in the PEM text of the root certificates"));
        }
        if !self.only_these_roots {
            roots.extend(system_roots().roots.iter().cloned());
        }
        Ok(Arc::new(roots))
    }

    fn client_config(&self) -> Result<ClientConfig> {
        let versions = if self.only_tls13 { &[&rustls::version::TLS13][..] } else { rustls::DEFAULT_VERSIONS };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)?
            .with_root_certificates(self.root_store()?);
        let Some((chain, key)) = &self.identity else { return Ok(builder.with_no_client_auth()) };
        let key = match &self.passphrase {
            Some(passphrase) => decrypted_key(key, passphrase)?,
            None if key.contains(ENCRYPTED) => {
                return Err(anyhow!("the private key is encrypted; set `client_key_passphrase`"));
            }
            None => private_key(key)?,
        };
        let chain = certificates(chain)?;
        builder.with_client_auth_cert(chain, key).context("the client certificate and its private key do not fit")
    }

    /// What `tls` of an upstream or of the identity provider says. Errors name the key.
    fn of(tls: &ClientTls) -> Result<Self> {
        let read = |key: &str, path: &String| {
            std::fs::read_to_string(path).with_context(|| format!("{key}: cannot read {path}"))
        };
        let identity = tls
            .identity
            .as_ref()
            .map(|(chain, key)| anyhow::Ok((read("client_cert_file", chain)?, read("client_key_file", key)?)));
        Ok(Self {
            roots: tls.ca_file.as_ref().map(|path| read("ca_file", path)).transpose()?,
            only_these_roots: !tls.system_roots,
            identity: identity.transpose()?,
            passphrase: tls.client_key_passphrase.clone(),
            only_tls13: tls.min_version == MinTls::Tls13,
        })
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().context("not a PEM certificate")?;
    if chain.is_empty() { Err(anyhow!("there is no certificate in it")) } else { Ok(chain) }
}

/// The label of an encrypted PKCS #8 key (RFC 7468 §11).
const ENCRYPTED: &str = "BEGIN ENCRYPTED PRIVATE KEY";

fn decrypted_key(pem: &str, passphrase: &Secret<String>) -> Result<PrivateKeyDer<'static>> {
    let Ok((label, der)) = SecretDocument::from_pem(pem) else {
        return Err(anyhow!("there is no usable private key in it"));
    };
    if label != EncryptedPrivateKeyInfoRef::PEM_LABEL {
        return Err(anyhow!("a passphrase is set, but the private key is not encrypted with one (PKCS #8)"));
    }
    let encrypted = EncryptedPrivateKeyInfoRef::try_from(der.as_bytes());
    let encrypted = encrypted.map_err(|_| anyhow!("there is no usable private key in it"))?;
    let key = encrypted.decrypt(passphrase.reveal()).map_err(|error| {
        anyhow!(
            "the private key cannot be decrypted: the passphrase is wrong, or its encryption is not known ({error})"
        )
    })?;
    Ok(PrivatePkcs8KeyDer::from(key.as_bytes().to_vec()).into())
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| anyhow!("there is no usable private key in it"))
}

/// What `config` says about TLS with those that it names: by `host:port`, and by host where every port is meant. Names are
/// in lower case. Every fault is one line.
///
/// The endpoints of an identity provider may be at other ports of its host; an upstream is at one origin, and shares its
/// settings with nobody else on that host.
pub(crate) fn configured(config: &Config) -> Result<HashMap<String, Trust>, Vec<String>> {
    let mut by_host = HashMap::new();
    let mut faults = Vec::new();
    for provider in &config.oidc {
        let trust = match (&provider.tls, &provider.ca_cert_pem) {
            (Some(tls), _) => usable(Trust::of(tls), "oidc.tls", &mut faults),
            (None, Some(roots)) => {
                let trust = Trust { roots: Some(roots.clone()), ..Trust::default() };
                usable(Ok(trust), "oidc.ca_cert_pem", &mut faults)
            }
            (None, None) => None,
        };
        let Some(trust) = trust else { continue };
        for url in [Some(&provider.issuer), provider.discovery_url.as_ref()].into_iter().flatten() {
            let Some((host, origin)) = names(url) else { continue };
            by_host.extend([host, origin].map(|name| (name, trust.clone())));
        }
    }
    for (index, upstream) in config.upstreams.iter().enumerate() {
        let Some((host, origin)) = Url::parse(&upstream_origin(upstream)).ok().as_ref().and_then(names) else {
            continue;
        };
        if let Some(tls) = &upstream.tls {
            let trust = usable(Trust::of(tls), &format!("upstreams[{index}].tls"), &mut faults);
            by_host.extend(trust.map(|trust| (origin, trust)));
        } else if by_host.contains_key(&host) {
            by_host.entry(origin).or_default();
        }
    }
    if faults.is_empty() { Ok(by_host) } else { Err(faults) }
}

/// The host of `url`, and the same with its port.
fn names(url: &Url) -> Option<(String, String)> {
    let host = url.host_str()?.to_ascii_lowercase();
    let origin = at_port(&host, url.port_or_known_default()?);
    Some((host, origin))
}

fn at_port(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

fn usable(trust: Result<Trust>, path: &str, faults: &mut Vec<String>) -> Option<Trust> {
    let trust = trust.and_then(|trust| trust.client_config().map(|_| trust));
    trust.map_err(|error| faults.push(format!("{path}: {error:#}"))).ok()
}

/// TLS settings of outbound HTTP: one for all, and those of hosts and origins that have their own.
pub(crate) struct Outbound {
    special: HashMap<String, Arc<ClientConfig>>,
    default: OnceLock<Arc<ClientConfig>>,
}

impl Outbound {
    /// `special` maps lower-case host names, with a port or for all of them, to what is trusted there.
    pub(crate) fn new(special: &HashMap<String, Trust>) -> Result<Self> {
        let special = special
            .iter()
            .map(|(host, trust)| Ok((host.clone(), Arc::new(http_config(trust).with_context(|| host.clone())?))))
            .collect::<Result<_>>()?;
        Ok(Self { special, default: OnceLock::new() })
    }

    /// The settings for a proxy at `host` and `port`.
    pub(crate) fn to_proxy(&self, host: &str, port: u16) -> Result<Arc<ClientConfig>> {
        Ok(Arc::new(proxy_config(&*self.of(host, port)?)))
    }

    /// The settings for `host` at `port`.
    pub(crate) fn of(&self, host: &str, port: u16) -> Result<Arc<ClientConfig>> {
        let host = host.to_ascii_lowercase();
        if let Some(config) = self.special.get(&at_port(&host, port)).or_else(|| self.special.get(&host)) {
            return Ok(Arc::clone(config));
        }
        if let Some(config) = self.default.get() {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(http_config(&Trust::default())?);
        Ok(Arc::clone(self.default.get_or_init(|| config)))
    }
}

/// A proxy is spoken to in HTTP/1.1; trusted is what the machine trusts, unless the proxy's host has settings of its own.
fn proxy_config(config: &ClientConfig) -> ClientConfig {
    let mut config = config.clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn http_config(trust: &Trust) -> Result<ClientConfig> {
    let mut config = trust.client_config()?;
    config.alpn_protocols = HTTP_PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// `listen.tls`: the settings with which we terminate TLS ourselves.
pub(crate) fn terminating(config: &Config) -> Result<Option<ServerConfig>> {
    let Some(tls) = &config.listen.tls else { return Ok(None) };
    server(Path::new(&tls.cert), Path::new(&tls.key)).map(Some).context("listen.tls")
}

fn server(certificate: &Path, key: &Path) -> Result<ServerConfig> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let chain = certificates(&read(certificate)?).with_context(|| certificate.display().to_string())?;
    let key_der = private_key(&read(key)?).with_context(|| key.display().to_string())?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key_der)
        .map_err(|error| anyhow!("{} and {} do not fit: {error}", certificate.display(), key.display()))?;
    config.alpn_protocols = HTTP_PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// How sure a PostgreSQL client wants to be of its server: libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the server has it, whoever it is.
    Prefer,
    /// TLS, whoever the server is.
    Require,
    /// TLS, and the certificate leads to a known root.
    VerifyCa,
    /// TLS, and the certificate leads to a known root and names the host.
    VerifyFull,
}

/// TLS settings for a PostgreSQL server; `roots` is the PEM text of `sslrootcert`.
pub(crate) fn postgres(mode: SslMode, roots: Option<String>) -> Result<ClientConfig> {
    // As with libpq, a root certificate makes `require` verify.
    let mode = if mode == SslMode::Require && roots.is_some() { SslMode::VerifyCa } else { mode };
    let trust = Trust { only_these_roots: roots.is_some(), roots, ..Trust::default() };
    let mut config = trust.client_config()?;
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let verifier = match mode {
        SslMode::VerifyFull => return Ok(config),
        SslMode::VerifyCa => {
            Some(WebPkiServerVerifier::builder_with_provider(trust.root_store()?, provider()).build()?)
        }
        SslMode::Disable | SslMode::Prefer | SslMode::Require => None,
    };
    config.dangerous().set_certificate_verifier(Arc::new(Lenient(verifier)));
    Ok(config)
}

/// Accepts a certificate whatever name it bears; with a verifier, it must at least lead to a known root.
#[derive(Debug)]
struct Lenient(Option<Arc<WebPkiServerVerifier>>);

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::{CertificateError, Error};

        let Some(verifier) = &self.0 else { return Ok(ServerCertVerified::assertion()) };
        match verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is judged last, so everything else is in order.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_one_port_are_not_those_of_another() {
        let (one, every) = (Trust { only_tls13: true, ..Trust::default() }, Trust::default());
        let special = HashMap::from([
            ("a.example:8443".to_owned(), one.clone()),
            ("b.example".to_owned(), one),
            ("b.example:9443".to_owned(), every),
        ]);
        let settings = Outbound::new(&special).expect("usable");
        let default = settings.of("elsewhere.example", 443).expect("usable");
        for (host, port, is_special) in [
            ("a.example", 8443, true),
            ("A.Example", 8443, true),
            ("a.example", 443, false),
            ("b.example", 443, true),
            ("b.example", 1, true),
        ] {
            let of = settings.of(host, port).expect("usable");
            assert_eq!(!Arc::ptr_eq(&of, &default), is_special, "{host}:{port}");
        }
        let (own, all) =
            (settings.of("b.example", 9443).expect("usable"), settings.of("b.example", 1).expect("usable"));
        assert!(!Arc::ptr_eq(&own, &all));
    }
}
