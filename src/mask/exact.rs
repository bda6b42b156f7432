//! Formats that a few comparisons tell: resource ids, addresses, private keys. Each function looks at one place.

use std::net::Ipv6Addr;

use super::find::{Match, Shape};
use super::kinds::{ACCOUNT, KINDS, KindId, id};
use super::{address, boundary};

pub(crate) fn resource_id(text: &[u8], start: usize, kind: KindId, form: usize) -> Option<Match> {
    let form = &KINDS[kind].ids[form];
    let end = start + form.prefix.len();
    let rest = &text[end..];
    let digits = rest.iter().take(18).take_while(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')).count();
    let to = end + digits;
    if !boundary::ends(text, to) || &text[start..end] != form.prefix.as_bytes() || !boundary::begins(text, start) {
        return None;
    }
    let shape = match digits {
        17 => form.long,
        // Eight digits are little evidence: not in the middle of a name, not a UUID's beginning, not a date.
        8 if kind != id("aws.other_ec2")
            && !matches!(text[..start].last(), Some(b'-' | b'_' | b'.'))
            && !continues_uuid(&text[to..])
            && !is_date(&rest[..8]) =>
        {
            form.short
        }
        _ => return None,
    };
    Some(Match { start, end: to, kind, shape: Shape::Form(shape) })
}

/// RFC 9562 §4: behind the first eight digits, `-` and four more, `-`.
fn continues_uuid(rest: &[u8]) -> bool {
    rest.len() >= 6 && rest[0] == b'-' && rest[5] == b'-' && rest[1..5].iter().all(u8::is_ascii_hexdigit)
}

/// `20260131`
fn is_date(digits: &[u8]) -> bool {
    let number = |range: std::ops::Range<usize>| {
        digits[range].iter().try_fold(0_u32, |sum, byte| Some(sum * 10 + char::from(*byte).to_digit(10)?))
    };
    matches!((number(0..4), number(4..6), number(6..8)), (Some(1970..2100), Some(1..13), Some(1..32)))
}

pub(crate) fn v4(text: &[u8], start: usize) -> Option<Match> {
    if !boundary::begins(text, start) || boundary::continues_number(text, start) {
        return None;
    }
    let (address, length) = address::parse_v4(&text[start..])?;
    let end = start + length;
    address::v4_range_bits(address)?;
    let after = &text[end..];
    if !boundary::ends(text, end) || matches!(after, [b'.', b'0'..=b'9', ..]) || is_version(&text[..start], after) {
        return None;
    }
    // Behind a network's prefix, the zeros are part of its notation.
    let network = address::parse_prefix(after, 23)
        .filter(|(bits, length)| u32::from(address) << bits == 0 && boundary::ends(after, *length));
    let kind = id("private_ip.v4");
    Some(match network {
        Some((bits, length)) => Match { start, end: end + length, kind, shape: Shape::V4(address, Some(bits)) },
        None => Match { start, end, kind, shape: Shape::V4(address, None) },
    })
}

/// Whether four numbers are a version: after the word, or in the name of a package.
fn is_version(before: &[u8], after: &[u8]) -> bool {
    let end = before
        .iter()
        .rposition(|byte| !matches!(byte, b' ' | b'"' | b'\'' | b':' | b'=' | b'\\'))
        .map_or(0, |last| last + 1);
    let said = before[..end].len() >= 7 && before[end - 7..end].eq_ignore_ascii_case(b"version");
    let named = matches!(before, [.., b'a'..=b'z' | b'A'..=b'Z', b'-' | b'_']);
    let files: [&[u8]; 9] = [b".tar", b".tgz", b".jar", b".zip", b".whl", b".deb", b".rpm", b".gem", b".nupkg"];
    said || named && files.iter().any(|file| after.starts_with(file))
}

pub(crate) fn dns_name(text: &[u8], start: usize) -> Option<Match> {
    if !boundary::begins(text, start) {
        return None;
    }
    let (address, length) = address::parse_octets(&text[start + 3..], b'-')?;
    address::v4_range_bits(address)?;
    let end = start + 3 + length;
    if !boundary::ends(text, end) || matches!(text[end..], [b'-', b'0'..=b'9', ..]) {
        return None;
    }
    // Only the dashed numbers change; `ip` may be written in any case.
    Some(Match { start: start + 3, end, kind: id("private_ip.dns_name"), shape: Shape::DnsName(address) })
}

pub(crate) fn v6(text: &[u8], start: usize) -> Option<Match> {
    // Most occurrences of the two letters end here.
    if text.get(start + 4).is_none_or(|byte| *byte != b':') || !boundary::begins(text, start) {
        return None;
    }
    if matches!(text[..start].last(), Some(b':')) {
        return None;
    }
    let length = text[start..].iter().take(46).take_while(|byte| byte.is_ascii_hexdigit() || **byte == b':').count();
    let mut written = &text[start..start + length];
    if written.ends_with(b":") && !written.ends_with(b"::") {
        written = &written[..length - 1];
    }
    let end = start + written.len();
    let address: Ipv6Addr = std::str::from_utf8(written).ok()?.parse().ok()?;
    // `fdef::dead` could be a path of a programming language; addresses have a digit.
    if !address::is_unique_local(address) || !boundary::ends(text, end) || !written.iter().any(u8::is_ascii_digit) {
        return None;
    }
    let after = &text[end..];
    let network = address::parse_prefix(after, 63)
        .filter(|(bits, length)| u128::from(address) << bits == 0 && boundary::ends(after, *length));
    let (end, bits) = network.map_or((end, None), |(bits, length)| (end + length, Some(bits)));
    Some(Match { start, end, kind: id("private_ip.v6"), shape: Shape::V6(address, bits) })
}

/// The content of a PEM private key (RFC 7468 §10), between its two lines.
pub(crate) fn private_key(text: &[u8], start: usize) -> Option<Match> {
    let label_end = start + memchr::memmem::find(&text[start..text.len().min(start + 64)], b"PRIVATE KEY-----")? + 16;
    let end = label_end + memchr::memmem::find(&text[label_end..text.len().min(label_end + 16_384)], b"-----")?;
    if !text[end..].starts_with(b"-----END") {
        return None;
    }
    // The line breaks around it stay, also when they are written as escapes.
    let mut body = label_end..end;
    while body.start < body.end && matches!(text[body.start], b'\n' | b'\r' | b' ') {
        body.start += 1;
    }
    while text[body.clone()].starts_with(b"\\n") || text[body.clone()].starts_with(b"\\r") {
        body.start += 2;
    }
    while body.start < body.end && matches!(text[body.end - 1], b'\n' | b'\r' | b' ') {
        body.end -= 1;
    }
    while text[body.clone()].ends_with(b"\\n") || text[body.clone()].ends_with(b"\\r") {
        body.end -= 2;
    }
    let is_key = body.len() >= 32 && !text[body.clone()].contains(&0);
    is_key.then_some(Match { start: body.start, end: body.end, kind: id("secrets.private_key"), shape: Shape::Secret })
}

pub(crate) fn accounts(text: &[u8], start: usize, end: usize, matches: &mut Vec<Match>) {
    let kind = id("aws.account_id");
    if text[start..end].get(4) == Some(&b'-') {
        return matches.push(Match { start, end, kind, shape: Shape::Dashed });
    }
    let mut at = start;
    for word in text[start..end].split(|byte| !byte.is_ascii_digit()) {
        if word.len() == 12 {
            matches.push(Match { start: at, end: at + 12, kind, shape: Shape::Form(ACCOUNT) });
        }
        at += word.len() + 1;
    }
}
