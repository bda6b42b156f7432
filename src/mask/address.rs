//! Private addresses: finding them in text, and the mapping that keeps neighbours neighbours.
//!
//! The mapping is prefix-preserving: two addresses share their first n bits exactly if their tokens do. Each bit is
//! flipped or not, depending on the key and on the bits before it; the bits that make the range stay, so that a private
//! address becomes a private address of the same range. The first free bit is always flipped: no address maps to
//! itself. The host part (last octet of IPv4, a short interface id of IPv6) stays, so that the first, the last and the
//! gateway address of a network remain what they are, and arithmetic inside a network comes out right.
//!
//! Ranges: RFC 1918 §3, RFC 6598 §7 (100.64.0.0/10), RFC 4193 §3.1 (`fc00::/7`).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::token::Key;

/// HMAC purposes of the two families.
const V4: u8 = b'4';
const V6: u8 = b'6';

/// How many leading bits make the range of a private IPv4 address; `None` for any other address.
pub(crate) const fn v4_range_bits(address: Ipv4Addr) -> Option<u32> {
    match address.octets() {
        [10, ..] => Some(8),
        [172, 16..32, ..] => Some(12),
        [192, 168, ..] => Some(16),
        [100, 64..128, ..] => Some(10),
        _ => None,
    }
}

/// Whether `address` is a unique local one. The range is `fc00::/7`; `fd00::/8` is the half in use.
pub(crate) const fn is_unique_local(address: Ipv6Addr) -> bool {
    address.octets()[0] & 0xfe == 0xfc
}

/// The token of a private IPv4 address, as far as its first `network` bits; the bits behind them stay.
pub(crate) fn mask_v4(key: &Key, address: Ipv4Addr, network: u32) -> Ipv4Addr {
    let Some(range) = v4_range_bits(address) else { return address };
    let mut octets = address.octets();
    let original = octets;
    for index in 1..3 {
        let tree = key.bytes(V4, &[&original[..index]]);
        octets[index] = flip(original[index], &tree, index * 8, range, network);
    }
    octets.into()
}

/// The token of a unique local IPv6 address, as far as its first `network` bits.
pub(crate) fn mask_v6(key: &Key, address: Ipv6Addr, network: u32) -> Ipv6Addr {
    let mut octets = address.octets();
    let original = octets;
    // An interface id below 65536 was chosen by a person: ::1 is the first host, not a secret.
    let end = if original[8..14] == [0; 6] { 8 } else { 16 };
    for index in 1..end {
        let tree = key.bytes(V6, &[&original[..index]]);
        octets[index] = flip(original[index], &tree, index * 8, 8, network);
    }
    octets.into()
}

/// Flips the bits of one octet that lie behind `range` and before `network`. `tree` has one bit for each prefix that
/// the octet can have, numbered like a heap.
fn flip(octet: u8, tree: &[u8; 32], first_bit: usize, range: u32, network: u32) -> u8 {
    let mut node = 1_usize;
    let mut flipped = octet;
    for bit in 0..8_u32 {
        let position = u32::try_from(first_bit).unwrap_or(u32::MAX) + bit;
        let mask = 0x80 >> bit;
        let draw = tree[node / 8] >> (node % 8) & 1 == 1;
        if position >= range && position < network && (draw || position == range) {
            flipped ^= mask;
        }
        node = node * 2 + usize::from(octet & mask != 0);
    }
    flipped
}

/// Reads an IPv4 address in the usual notation at the start of `text`; its length too.
pub(crate) fn parse_v4(text: &[u8]) -> Option<(Ipv4Addr, usize)> {
    parse_octets(text, b'.')
}

/// Reads four octets, separated by `separator`: `10-0-1-5` is how names write addresses.
pub(crate) fn parse_octets(text: &[u8], separator: u8) -> Option<(Ipv4Addr, usize)> {
    let mut octets = [0_u8; 4];
    let mut at = 0;
    for (index, octet) in octets.iter_mut().enumerate() {
        if index > 0 {
            if text.get(at) != Some(&separator) {
                return None;
            }
            at += 1;
        }
        let digits = text[at..].iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 || digits > 3 || (digits > 1 && text[at] == b'0') {
            return None;
        }
        *octet = std::str::from_utf8(&text[at..at + digits]).ok()?.parse().ok()?;
        at += digits;
    }
    Some((octets.into(), at))
}

/// Reads a prefix length (`/24`) of at most `max` at the start of `text`; its length too.
pub(crate) fn parse_prefix(text: &[u8], max: u32) -> Option<(u32, usize)> {
    let digits = text.strip_prefix(b"/")?.iter().take(4).take_while(|byte| byte.is_ascii_digit()).count();
    if digits == 0 || digits > 3 {
        return None;
    }
    let bits = std::str::from_utf8(&text[1..=digits]).ok()?.parse().ok().filter(|bits| *bits <= max)?;
    Some((bits, digits + 1))
}

/// Writes an IPv6 address in the manner of `like`: RFC 5952 when `like` is written so, otherwise with all digits, in
/// the case of `like`. Attempts after the first take the next manner, for the case that two spellings meet.
pub(crate) fn write_v6(address: Ipv6Addr, like: &str, original: Ipv6Addr, attempt: u8) -> String {
    let full = |address: Ipv6Addr| address.segments().map(|group| format!("{group:04x}")).join(":");
    let manners =
        [address.to_string(), full(address), address.to_string().to_uppercase(), full(address).to_uppercase()];
    let first = if like == original.to_string() {
        0
    } else if like == full(original) {
        1
    } else if like == original.to_string().to_uppercase() {
        2
    } else {
        3
    };
    manners[(first + usize::from(attempt)) % 4].clone()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::{is_unique_local, mask_v4, mask_v6, parse_prefix, parse_v4, v4_range_bits};
    use crate::mask::token::Key;

    fn private_v4() -> impl Strategy<Value = Ipv4Addr> {
        (
            any::<u32>(),
            prop::sample::select(vec![(0x0a00_0000_u32, 8), (0xac10_0000, 12), (0xc0a8_0000, 16), (0x6440_0000, 10)]),
        )
            .prop_map(|(bits, (range, length))| Ipv4Addr::from(range | bits & (u32::MAX >> length)))
    }

    proptest! {
        #[test]
        fn two_v4_addresses_share_as_many_bits_as_their_tokens(a in private_v4(), b in private_v4(), near in 0..24_u32) {
            let key = Key::new(&[3; 32]);
            for b in [b, Ipv4Addr::from(u32::from(a) ^ 1 << near)] {
                if v4_range_bits(a) == v4_range_bits(b) {
                    let (x, y) = (mask_v4(&key, a, 32), mask_v4(&key, b, 32));
                    prop_assert_eq!((u32::from(a) ^ u32::from(b)).leading_zeros(), (u32::from(x) ^ u32::from(y)).leading_zeros());
                }
            }
        }

        #[test]
        fn a_v4_token_is_another_address_of_the_same_range_with_the_same_host(a in private_v4()) {
            let token = mask_v4(&Key::new(&[3; 32]), a, 32);
            prop_assert_ne!(token, a);
            prop_assert_eq!(v4_range_bits(token), v4_range_bits(a));
            prop_assert_eq!(token.octets()[3], a.octets()[3]);
        }

        #[test]
        fn two_v6_addresses_share_as_many_bits_as_their_tokens(a in any::<u128>(), near in 0..120_u32) {
            let key = Key::new(&[3; 32]);
            let a = a >> 8 | 0xfd << 120;
            let b = a ^ 1 << near;
            let token = |bits: u128| u128::from(mask_v6(&key, Ipv6Addr::from(bits), 128));
            prop_assert!(is_unique_local(token(a).into()));
            prop_assert_ne!(token(a), a);
            prop_assert_eq!((a ^ b).leading_zeros(), (token(a) ^ token(b)).leading_zeros());
        }
    }

    #[test]
    fn the_mapping_of_networks_is_one_to_one() {
        let key = Key::new(&[3; 32]);
        let tokens: HashSet<_> = (0..=u16::MAX)
            .map(|network| {
                let [b, c] = network.to_be_bytes();
                mask_v4(&key, Ipv4Addr::new(10, b, c, 5), 32)
            })
            .collect();
        assert_eq!(tokens.len(), 65_536);
    }

    #[test]
    fn a_network_keeps_the_zeros_behind_its_prefix() {
        let key = Key::new(&[3; 32]);
        assert_eq!(mask_v4(&key, Ipv4Addr::new(10, 0, 0, 0), 8), Ipv4Addr::new(10, 0, 0, 0));
        let vpc = mask_v4(&key, Ipv4Addr::new(10, 20, 0, 0), 16).octets();
        assert_eq!((vpc[0], vpc[2], vpc[3]), (10, 0, 0));
        assert_eq!(vpc[1], mask_v4(&key, Ipv4Addr::new(10, 20, 30, 40), 32).octets()[1]);
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for (text, length) in [
            ("10.0.1.5", Some(8)),
            ("10.0.1.255/24", Some(10)),
            ("10.0.1.256", None),
            ("10.0.1", None),
            ("10.00.1.5", None),
            ("10.0.1.1234", None),
            ("", None),
        ] {
            assert_eq!(parse_v4(text.as_bytes()).map(|(_, length)| length), length, "{text}");
        }
        for (text, read) in
            [("/24", Some((24, 3))), ("/0", Some((0, 2))), ("/33", None), ("/", None), ("24", None), ("/240", None)]
        {
            assert_eq!(parse_prefix(text.as_bytes(), 32), read, "{text}");
        }
    }
}
