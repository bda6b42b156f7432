//! Why a request got no answer: as the component is told, and as an operator can do something about it.

use std::error::Error as StdError;
use std::io;

use http::Uri;
use hyper_util::client::legacy;
use rustls::{AlertDescription, CertificateError};
use wasmtime_wasi_http::Error;

use crate::connect::{ProxyFault, TlsFault};
use crate::guard::Prohibited;

/// What ended an answer too early.
pub(crate) fn broken(error: &hyper::Error) -> Error {
    if error.is_incomplete_message() {
        Error::HttpResponseIncomplete
    } else if error.is_parse() {
        Error::HttpProtocolError
    } else {
        Error::ConnectionTerminated
    }
}

/// What went wrong, from the outermost error to the one that started it.
pub(crate) fn fault(error: &legacy::Error) -> Error {
    let connecting = error.is_connect();
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    let mut resolving = false;
    let mut text = error.to_string();
    while let Some(found) = cause {
        if found.is::<Prohibited>() {
            return Error::DestinationIpProhibited;
        }
        if found.is::<TlsFault>() {
            return Error::TlsProtocolError;
        }
        if let Some(tls) = found.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    Error::TlsCertificateError
                }
                _ => Error::TlsProtocolError,
            };
        }
        // An `io::Error` shows its custom error as its own text and hides it from `source`.
        if let Some(inner) = found.downcast_ref::<io::Error>().and_then(io::Error::get_ref)
            && let Some(tls) = inner.downcast_ref::<rustls::Error>()
        {
            return match tls {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    Error::TlsCertificateError
                }
                _ => Error::TlsProtocolError,
            };
        }
        text = found.to_string();
        resolving = resolving || text.starts_with("dns error");
        if connecting
            && !resolving
            && let Some(io) = found.downcast_ref::<io::Error>()
        {
            return match io.kind() {
                io::ErrorKind::ConnectionRefused => Error::ConnectionRefused,
                io::ErrorKind::TimedOut => Error::ConnectionTimeout,
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => Error::DestinationIpUnroutable,
                _ => Error::DestinationUnavailable,
            };
        }
        if let Some(hyper) = found.downcast_ref::<hyper::Error>()
            && !connecting
        {
            return broken(hyper);
        }
        cause = found.source();
    }
    if resolving {
        Error::DnsError { rcode: Some(text), info_code: None }
    } else if connecting {
        Error::DestinationUnavailable
    } else {
        Error::ConnectionTerminated
    }
}

/// Every error behind `error`, also those that an `io::Error` hides.
fn causes(error: &legacy::Error) -> Vec<&(dyn StdError + 'static)> {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause);
        let hidden = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = hidden.map(|hidden| hidden as &(dyn StdError + 'static)).or_else(|| cause.source());
    }
    causes
}

/// What an operator can do about it: faults of certificates and of proxies, which no other part of the gateway can name.
/// One line, without what is secret in an address.
pub(crate) fn remedy(uri: &Uri, error: &legacy::Error) -> Option<String> {
    let host = uri.host().unwrap_or_default();
    let causes = causes(error);
    let proxy = causes.iter().find_map(|cause| cause.downcast_ref::<ProxyFault>());
    if let Some(ProxyFault { proxy, .. }) = proxy {
        // The library's error has no public type; it says this much.
        let said = causes.iter().map(ToString::to_string).find(|text| text.starts_with("tunnel error: "));
        let said = said.as_deref().unwrap_or_default();
        return Some(if said.contains("proxy authorization required") {
            format!(
                "the proxy {proxy} wants a user name and a password: write them into its address, as in \
                 http://user:password@{proxy}"
            )
        } else if said.contains("unsuccessful") {
            format!(
                "the proxy {proxy} refuses a tunnel to {host}: allow that host there, or name it in NO_PROXY if it can \
                 be reached directly"
            )
        } else {
            format!(
                "the proxy {proxy}, on the way to {host}, does not answer as a proxy ({}): check HTTPS_PROXY, \
                 HTTP_PROXY or `proxy`",
                causes.last()?
            )
        });
    }
    if let Some(fault) = causes.iter().find_map(|cause| cause.downcast_ref::<TlsFault>()) {
        return Some(format!("{host}: {fault}"));
    }
    let tls = causes.iter().find_map(|cause| cause.downcast_ref::<rustls::Error>())?;
    let advice = match tls {
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "its certificate has expired: it must be renewed there, or the clock here is wrong"
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => "its certificate is not valid yet: the clock here or there is wrong",
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "its certificate is for other names: call it by one of them, or have the certificate issued for this one",
        rustls::Error::InvalidCertificate(error @ CertificateError::Other(_))
            if error.to_string().contains("CaUsedAsEndEntity") =>
        {
            "its certificate is that of an authority (CA:TRUE), which no server may show: issue one for the server with it"
        }
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "its certificate comes from an authority that is not trusted here: name the authority's file in `tls.ca_file` \
             (an inspecting proxy has one, too), or add it to the machine's"
        }
        rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired
            | AlertDescription::BadCertificate
            | AlertDescription::UnknownCA
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied,
        ) => "it wants a client certificate that it trusts: set `tls.client_cert_file` and `tls.client_key_file`",
        rustls::Error::PeerIncompatible(_) | rustls::Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "it does not speak a version of TLS that is allowed here: see `tls.min_version`"
        }
        _ => "TLS with it failed",
    };
    Some(format!("{host}: {advice} ({tls})"))
}
