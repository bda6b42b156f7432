//! Where the gateway may never connect to, whatever its configuration says (auth contract §4.8).
//!
//! Link-local and metadata addresses hand out the machine's credentials. Loopback is refused unless the operator allows
//! it. Private ranges are allowed: identity providers and collectors live there. This judges literal addresses and
//! well-known names; whoever resolves names judges the result with [`check_address`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Whether loopback targets are allowed (`CLAUDE_GATEWAY_ALLOW_LOOPBACK`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loopback {
    /// For development and sidecars.
    Allowed,
    /// The default.
    Refused,
}

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// Link-local, a metadata service, or no address at all.
    #[error("is a link-local or metadata address, which the gateway never connects to")]
    Metadata,
    /// Loopback.
    #[error("is a loopback address; set CLAUDE_GATEWAY_ALLOW_LOOPBACK=1 to allow it")]
    Loopback,
}

/// Names of metadata services.
const METADATA_NAMES: [&str; 6] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "instance-data",
    "instance-data.ec2.internal",
];

/// Metadata and platform addresses outside the link-local ranges: Alibaba, Azure, Oracle.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];

/// The same for IPv6: AWS, Google Cloud.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// Judges the host of `url` as it is written. The parser has already turned decimal, octal, hexadecimal and short
/// forms of IPv4 addresses into addresses.
pub fn check_url(url: &Url, loopback: Loopback) -> Result<(), Blocked> {
    match url.host() {
        Some(Host::Ipv4(address)) => check_address(address.into(), loopback),
        Some(Host::Ipv6(address)) => check_address(address.into(), loopback),
        Some(Host::Domain(name)) => check_name(name),
        None => Ok(()),
    }
}

/// Judges a name. `localhost` passes: what it resolves to is judged when it is connected to.
pub fn check_name(name: &str) -> Result<(), Blocked> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if METADATA_NAMES.iter().any(|known| known.eq_ignore_ascii_case(name)) { Err(Blocked::Metadata) } else { Ok(()) }
}

/// Judges an address.
pub fn check_address(address: IpAddr, loopback: Loopback) -> Result<(), Blocked> {
    let (metadata, is_loopback) = match address {
        IpAddr::V4(address) => {
            let is_nowhere = address.octets()[0] == 0;
            (is_nowhere || address.is_link_local() || METADATA_V4.contains(&address), address.is_loopback())
        }
        IpAddr::V6(address) => {
            if let Some(embedded) = embedded_v4(address) {
                return check_address(embedded.into(), loopback);
            }
            let is_link_local = address.segments()[0] & 0xffc0 == 0xfe80;
            (address.is_unspecified() || is_link_local || METADATA_V6.contains(&address), address.is_loopback())
        }
    };
    match (metadata, is_loopback) {
        (true, _) => Err(Blocked::Metadata),
        (false, true) if loopback == Loopback::Refused => Err(Blocked::Loopback),
        _ => Ok(()),
    }
}

/// The IPv4 address that packets to `address` would reach: IPv4-mapped (RFC 4291 §2.5.5.2) and NAT64 (RFC 6052 §2.1).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            let [.., a, b, c, d] = address.octets();
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, loopback: Loopback) -> Result<(), Blocked> {
        check_url(&Url::parse(url).expect(url), loopback)
    }

    #[test]
    fn metadata_and_link_local_targets_are_always_refused() {
        for host in [
            "169.254.169.254",
            "169.254.0.1",
            "0.0.0.0",
            "[::]",
            "[fe80::1]",
            "[febf::1]",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "[fd00:ec2::254]",
            "[fd20:ce::254]",
            "metadata",
            "Metadata.Google.Internal",
            "metadata.google.internal.",
            "metadata.goog",
            "metadata.azure.internal",
            "instance-data",
            "instance-data.ec2.internal",
            "[::ffff:169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "0xa9fea9fe",
            "2852039166",
        ] {
            for loopback in [Loopback::Allowed, Loopback::Refused] {
                assert_eq!(check(&format!("http://{host}/"), loopback), Err(Blocked::Metadata), "{host}");
            }
        }
    }

    #[test]
    fn loopback_is_refused_unless_it_is_allowed() {
        for host in
            ["127.0.0.1", "127.9.9.9", "[::1]", "2130706433", "0x7f.1", "017700000001", "127.1", "[::ffff:7f00:1]"]
        {
            let url = format!("http://{host}:8080/x");
            assert_eq!(check(&url, Loopback::Refused), Err(Blocked::Loopback), "{host}");
            assert_eq!(check(&url, Loopback::Allowed), Ok(()), "{host}");
        }
    }

    #[test]
    fn private_and_public_targets_pass() {
        for host in
            ["10.0.0.1", "192.168.1.1", "100.64.0.1", "[fd12::1]", "[2001:db8::1]", "localhost", "metadata.example.com"]
        {
            assert_eq!(check(&format!("https://{host}/"), Loopback::Refused), Ok(()), "{host}");
        }
    }
}
