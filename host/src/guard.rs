//! Where the gateway must never connect to: metadata services, link-local addresses, and loopback unless allowed.
//!
//! Names are resolved here, every address is judged, and the connection is made to exactly the addresses that were
//! judged, so an answer that changes between two look-ups changes nothing. Contract: auth contract §4.8.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use sallyport::domain::outbound::{Loopback, check_address, check_name};
use tower_service::Service;

use crate::console;

/// What may be connected to.
#[derive(Debug, Clone, Default)]
pub(crate) struct Guard {
    /// Whether loopback addresses are allowed.
    pub(crate) allow_loopback: bool,
    /// Hosts that a configured credential chain needs although they are metadata services; lower case.
    pub(crate) metadata_hosts: Vec<String>,
    /// Networks that the runtime configuration closes as well (`outbound_networking.block_networks`).
    pub(crate) block_networks: Vec<ipnet::IpNet>,
}

/// An address that must not be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prohibited {
    host: String,
    address: Option<IpAddr>,
}

impl fmt::Display for Prohibited {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ECONNREFUSED_SSRF: {} ", self.host)?;
        match self.address {
            Some(address) => write!(formatter, "is at {address}, which the gateway must not connect to"),
            None => formatter.write_str("is a metadata service"),
        }
    }
}

impl std::error::Error for Prohibited {}

impl Guard {
    /// Judges a host as it is written: names of metadata services, and literal addresses.
    pub(crate) fn check_host(&self, host: &str) -> Result<(), Prohibited> {
        let name = normal(host);
        if self.metadata_hosts.contains(&name) {
            return Ok(());
        }
        if check_name(&name).is_err() {
            return Err(Prohibited { host: name, address: None });
        }
        match name.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(address) => self.check_address(&name, address),
            Err(_) => Ok(()),
        }
    }

    fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Prohibited> {
        let loopback = if self.allow_loopback { Loopback::Allowed } else { Loopback::Refused };
        let refused = check_address(address, loopback).is_err()
            || self.block_networks.iter().any(|network| network.contains(&address.to_canonical()));
        if refused && !self.metadata_hosts.iter().any(|allowed| allowed == host) {
            return Err(Prohibited { host: host.to_owned(), address: Some(address) });
        }
        Ok(())
    }
}

/// Lower case, without the dot that ends an absolute name.
fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// The system's resolver behind a [`Guard`].
#[derive(Clone)]
pub(crate) struct Resolver(pub(crate) Arc<Guard>);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let guard = Arc::clone(&self.0);
        Box::pin(async move {
            let host = normal(name.as_str());
            // The connector puts in the port.
            let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            for address in &addresses {
                if let Err(prohibited) = guard.check_address(&host, address.ip()) {
                    console::warn(&prohibited.to_string());
                    return Err(prohibited.into());
                }
            }
            Ok(addresses.into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROHIBITED: [&str; 19] = [
        "169.254.169.254",
        "169.254.0.1",
        "fe80::1",
        "[fe80::1]",
        "0.0.0.0",
        "::",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "64:ff9b::a9fe:a9fe",
        "metadata.google.internal",
        "METADATA.google.internal.",
        "metadata",
        "metadata.goog",
        "instance-data",
    ];
    const LOOPBACK: [&str; 5] = ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "::ffff:127.0.0.1"];

    #[test]
    fn metadata_and_link_local_addresses_are_prohibited() {
        let guard = Guard { allow_loopback: true, ..Guard::default() };
        for host in PROHIBITED {
            assert!(guard.check_host(host).is_err(), "{host}");
        }
    }

    #[test]
    fn loopback_is_prohibited_unless_it_is_allowed() {
        for host in LOOPBACK {
            assert!(Guard::default().check_host(host).is_err(), "{host}");
            assert!(Guard { allow_loopback: true, ..Guard::default() }.check_host(host).is_ok(), "{host}");
        }
    }

    #[test]
    fn private_and_public_addresses_and_names_pass() {
        for host in ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "fd12::1", "203.0.113.9", "idp.example"] {
            assert!(Guard::default().check_host(host).is_ok(), "{host}");
        }
    }

    #[test]
    fn a_metadata_service_that_a_credential_needs_is_let_through_by_name_only() {
        let guard = Guard { metadata_hosts: vec!["169.254.169.254".to_owned()], ..Guard::default() };
        assert!(guard.check_host("169.254.169.254").is_ok());
        assert!(guard.check_host("169.254.169.253").is_err());
        let address = "169.254.169.254".parse().expect("an address");
        assert!(guard.check_address("innocent.example", address).is_err());
    }
}
