//! Who is asking, by address: `X-Forwarded-For` is believed only as far as trusted proxies vouch for it
//! (auth contract §4.7), and access control decides on the result (§4.8).

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::config::AccessControl;

/// The client's address: read right to left, the first element that is not a trusted proxy.
///
/// `forwarded` are the values of all `X-Forwarded-For` lines, in order; they count as one list.
pub fn resolve<'a>(peer: IpAddr, forwarded: impl DoubleEndedIterator<Item = &'a str>, trusted: &[IpNet]) -> IpAddr {
    let peer = peer.to_canonical();
    if !contains(trusted, peer) {
        return peer;
    }
    for element in forwarded.rev().flat_map(|line| line.rsplit(',')) {
        let element = element.trim();
        if element.is_empty() {
            continue;
        }
        match parse(element) {
            Some(address) if contains(trusted, address) => {}
            Some(address) => return address,
            None => return peer,
        }
    }
    peer
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:5555`, `2001:db8::1`, `[2001:db8::1]:443`.
fn parse(element: &str) -> Option<IpAddr> {
    let bare = element.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(element);
    bare.parse()
        .or_else(|_| element.parse::<SocketAddr>().map(|socket| socket.ip()))
        .ok()
        .map(|address: IpAddr| address.to_canonical())
}

fn contains(ranges: &[IpNet], address: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&address))
}

/// Why an address may not enter: the reason in the audit trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It is in `deny_cidrs`.
    IpDenylist,
    /// It is not in `allow_cidrs`.
    IpNotAllowlisted,
}

impl Refusal {
    /// As the audit trail spells it.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::IpDenylist => "ip_denylist",
            Self::IpNotAllowlisted => "ip_not_allowlisted",
        }
    }
}

/// Whether `address` may enter. Probes pass the allow-list, but not the deny-list.
pub fn admit(address: IpAddr, rules: &AccessControl, is_probe: bool) -> Result<(), Refusal> {
    if contains(&rules.deny_cidrs, address) {
        return Err(Refusal::IpDenylist);
    }
    if !is_probe && !rules.allow_cidrs.is_empty() && !contains(&rules.allow_cidrs, address) {
        return Err(Refusal::IpNotAllowlisted);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ranges(ranges: &[&str]) -> Vec<IpNet> {
        ranges
            .iter()
            .map(|range| range.parse().or_else(|_| range.parse::<IpAddr>().map(IpNet::from)).expect("a range"))
            .collect()
    }

    #[test]
    fn forwarded_addresses_are_read_right_to_left_through_trusted_proxies() {
        let trusted = ranges(&["127.0.0.1", "10.0.0.0/8"]);
        for (lines, client) in [
            (vec!["203.0.113.4"], "203.0.113.4"),
            (vec!["203.0.113.4, 198.51.100.7"], "198.51.100.7"),
            (vec!["203.0.113.4, 10.1.1.1"], "203.0.113.4"),
            (vec!["10.1.1.1, 10.2.2.2"], "127.0.0.1"),
            (vec!["junk, 203.0.113.4"], "203.0.113.4"),
            (vec!["203.0.113.4, junk"], "127.0.0.1"),
            (vec!["203.0.113.4,,10.1.1.1"], "203.0.113.4"),
            (vec!["203.0.113.1", "10.2.2.2"], "203.0.113.1"),
            (vec!["203.0.113.1:5555"], "203.0.113.1"),
            (vec!["[2001:DB8:0:0::1]:443"], "2001:db8::1"),
            (vec!["[2001:db8::1]"], "2001:db8::1"),
            (vec!["::ffff:203.0.113.4"], "203.0.113.4"),
            (vec!["203.0.113.4:99999"], "127.0.0.1"),
            (vec![""], "127.0.0.1"),
            (vec![], "127.0.0.1"),
        ] {
            let resolved = resolve("127.0.0.1".parse().expect("an address"), lines.iter().copied(), &trusted);
            assert_eq!(resolved.to_string(), client, "{lines:?}");
        }
    }

    #[test]
    fn a_peer_that_is_not_trusted_speaks_for_itself_only() {
        let peer = "198.51.100.1".parse().expect("an address");
        assert_eq!(resolve(peer, ["203.0.113.4"].into_iter(), &ranges(&["10.0.0.0/8"])), peer);
        assert_eq!(resolve(peer, ["203.0.113.4"].into_iter(), &[]), peer);
    }

    #[test]
    fn the_deny_list_comes_first_and_probes_pass_the_allow_list() {
        let rules = AccessControl { allow_cidrs: ranges(&["10.0.0.0/8"]), deny_cidrs: ranges(&["10.9.0.0/16"]) };
        for (address, is_probe, decision) in [
            ("10.1.1.1", false, Ok(())),
            ("10.9.1.1", false, Err(Refusal::IpDenylist)),
            ("10.9.1.1", true, Err(Refusal::IpDenylist)),
            ("192.0.2.1", false, Err(Refusal::IpNotAllowlisted)),
            ("192.0.2.1", true, Ok(())),
        ] {
            assert_eq!(admit(address.parse().expect("an address"), &rules, is_probe), decision, "{address} {is_probe}");
        }
    }

    /// An element of the header: an address of ours, one of the world, or something else.
    fn element() -> impl Strategy<Value = String> {
        prop_oneof![
            "10\\.[0-9]{1,2}\\.0\\.[1-9]",
            "203\\.0\\.113\\.[1-9]{1,2}",
            "203\\.0\\.113\\.[1-9]:[1-9][0-9]{0,3}",
            "\\[2001:db8::[1-9]\\]:443",
            "2001:db8::[1-9a-f]{1,3}",
            "::ffff:203\\.0\\.113\\.[1-9]",
            " {0,2}",
            "[a-z0-9.:_-]{0,8}",
        ]
    }

    fn elements() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec(element(), 0..6)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    proptest! {
        #[test]
        fn whatever_the_header_says_an_untrusted_peer_is_the_client(elements in elements()) {
            let line = elements.join(",");
            let peer = address("198.51.100.7");
            prop_assert_eq!(resolve(peer, [line.as_str()].into_iter(), &ranges(&["10.0.0.0/8"])), peer);
        }

        #[test]
        fn the_client_is_the_peer_or_an_address_that_nobody_trusts(elements in elements()) {
            let trusted = ranges(&["10.0.0.0/8"]);
            let line = elements.join(",");
            let peer = address("10.0.0.1");
            let client = resolve(peer, [line.as_str()].into_iter(), &trusted);
            prop_assert!(client == peer || !contains(&trusted, client));
            prop_assert!(client == peer || elements.iter().any(|element| parse(element.trim()) == Some(client)));
        }

        #[test]
        fn what_a_client_writes_before_the_proxy_does_is_not_believed(forged in elements(), appends: bool) {
            let honest = "198.51.100.7, 10.1.2.3";
            // A proxy appends to the line that came, or adds one.
            let forged = forged.join(",");
            let lines = if appends { vec![format!("{forged}, {honest}")] } else { vec![forged, honest.to_owned()] };
            let client = resolve(address("10.0.0.1"), lines.iter().map(String::as_str), &ranges(&["10.0.0.0/8"]));
            prop_assert_eq!(client, address("198.51.100.7"));
        }

        #[test]
        fn several_lines_count_as_one_list(elements in elements(), cut in 0..6_usize) {
            let trusted = ranges(&["10.0.0.0/8"]);
            let (one, two) = elements.split_at(cut.min(elements.len()));
            let (one, two, whole) = (one.join(","), two.join(","), elements.join(","));
            let peer = address("10.0.0.1");
            prop_assert_eq!(
                resolve(peer, [one.as_str(), two.as_str()].into_iter(), &trusted),
                resolve(peer, [whole.as_str()].into_iter(), &trusted)
            );
        }
    }
}
