//! TLS on both sides: roots, client certificates and the settings of outbound connections, and the server's key.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result, anyhow};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};

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
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(self.root_store()?);
        Ok(match &self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(certificates(chain)?, private_key(key)?)?,
        })
    }
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().context("not a PEM certificate")?;
    if chain.is_empty() { Err(anyhow!("there is no certificate in it")) } else { Ok(chain) }
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| anyhow!("there is no usable private key in it"))
}

/// TLS settings of outbound HTTP: one for all hosts, and those of hosts that have their own.
pub(crate) struct Outbound {
    special: HashMap<String, Arc<ClientConfig>>,
    default: OnceLock<Arc<ClientConfig>>,
}

impl Outbound {
    /// `special` maps lower-case host names to what is trusted there.
    pub(crate) fn new(special: &HashMap<String, Trust>) -> Result<Self> {
        let special = special
            .iter()
            .map(|(host, trust)| Ok((host.clone(), Arc::new(http_config(trust).with_context(|| host.clone())?))))
            .collect::<Result<_>>()?;
        Ok(Self { special, default: OnceLock::new() })
    }

    /// The settings for `host`.
    pub(crate) fn of(&self, host: &str) -> Result<Arc<ClientConfig>> {
        if let Some(config) = self.special.get(&host.to_ascii_lowercase()) {
            return Ok(Arc::clone(config));
        }
        if let Some(config) = self.default.get() {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(http_config(&Trust::default())?);
        Ok(Arc::clone(self.default.get_or_init(|| config)))
    }
}

fn http_config(trust: &Trust) -> Result<ClientConfig> {
    let mut config = trust.client_config()?;
    config.alpn_protocols = HTTP_PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// The settings with which we terminate TLS ourselves.
pub(crate) fn server(certificate: &Path, key: &Path) -> Result<ServerConfig> {
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
    let trust = Trust { only_these_roots: roots.is_some(), roots, identity: None };
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
