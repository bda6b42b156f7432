//! Key and certificate of `private_key_jwt`, judged at the start: whether the one belongs to the other, and how long the
//! certificate still holds (auth contract §3.2).
//!
//! A certificate (RFC 5280 §4.1) is looked at, not parsed: it has its validity as two times in a row, and the modulus of
//! its key as the key itself has it.

use std::time::Duration;

use time::{Date, Month, OffsetDateTime};

use crate::config::ClientAssertion;
use crate::domain::ids::Timestamp;
use crate::domain::oidc::certificate_der;
use crate::wire::jwt;

/// From when on an operator is told that a certificate ends.
const SOON: Duration = Duration::from_hours(30 * 24);

/// What the operator should know about `assertion`; an error is why it cannot work.
pub fn judge(assertion: &ClientAssertion, now: Timestamp) -> Result<Option<String>, String> {
    let at = "oidc.client_assertion";
    let modulus = jwt::rsa_modulus(assertion.private_key_pem.reveal())
        .map_err(|error| format!("{at}.private_key_pem: {error}"))?;
    let certificate = certificate_der(&assertion.certificate_pem)
        .ok_or_else(|| format!("{at}.certificate_pem: is not a PEM certificate"))?;
    if !certificate.windows(modulus.len()).any(|window| window == modulus) {
        return Err(format!("{at}.certificate_pem: belongs to another key than private_key_pem"));
    }
    let Some(end) = not_after(&certificate) else { return Ok(None) };
    if end <= now {
        return Ok(Some(format!("{at}.certificate_pem: has expired at {}; providers refuse it", end.to_rfc3339())));
    }
    let is_soon = end.since(now) < SOON;
    Ok(is_soon.then(|| format!("{at}.certificate_pem: expires at {}; replace it before", end.to_rfc3339())))
}

/// The second of the first two times in a row: `notAfter`.
fn not_after(der: &[u8]) -> Option<Timestamp> {
    (0..der.len()).find_map(|start| {
        let (_, length) = moment(&der[start..])?;
        moment(&der[start + length..]).map(|(end, _)| end)
    })
}

/// A `UTCTime` or `GeneralizedTime` at the beginning of `der`, and how long it is.
fn moment(der: &[u8]) -> Option<(Timestamp, usize)> {
    let (text, century) = match der {
        [0x17, 13, rest @ ..] => (rest.get(..13)?, false),
        [0x18, 15, rest @ ..] => (rest.get(..15)?, true),
        _ => return None,
    };
    let (digits, zone) = text.split_at(text.len() - 1);
    if zone != b"Z" || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number =
        |range: std::ops::Range<usize>| -> Option<i32> { std::str::from_utf8(digits.get(range)?).ok()?.parse().ok() };
    let (year, rest) = if century {
        (number(0..4)?, 4)
    } else {
        // RFC 5280 §4.1.2.5.1: two digits are of 1950 to 2049.
        let year = number(0..2)?;
        (if year < 50 { 2000 + year } else { 1900 + year }, 2)
    };
    let part = |index: usize| u8::try_from(number(rest + 2 * index..rest + 2 * index + 2)?).ok();
    let date = Date::from_calendar_date(year, Month::try_from(part(0)?).ok()?, part(1)?).ok()?;
    let at: OffsetDateTime = date.with_hms(part(2)?, part(3)?, part(4)?).ok()?.assume_utc();
    Some((Timestamp::from_secs(at.unix_timestamp()), text.len() + 2))
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::config::Secret;
    use crate::testing;

    /// 2031-02-03T04:05:06Z.
    const NOW: Timestamp = Timestamp::from_secs(1_927_857_906);

    fn assertion(key: &str, der: &[u8]) -> ClientAssertion {
        let body = STANDARD.encode(der);
        ClientAssertion {
            private_key_pem: Secret::new(key.to_owned()),
            certificate_pem: format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"),
        }
    }

    /// What of a certificate is looked at.
    fn der(not_after: &[u8], modulus: &[u8]) -> Vec<u8> {
        [b"\x30\x82\x17\x0d\x17\x0d300101000000Z".as_slice(), not_after, b"\x30\x82", modulus, b"\x02\x03"].concat()
    }

    #[test]
    fn a_certificate_belongs_to_its_key_and_is_warned_about_a_month_before_its_end() {
        let (key, _) = testing::client_certificate();
        let modulus = jwt::rsa_modulus(&key).expect("a key");
        let at = "oidc.client_assertion.certificate_pem";
        for (not_after, said) in [
            (b"\x17\x0d310601000000Z".as_slice(), None),
            (b"\x18\x0f20510601000000Z", None),
            (b"\x17\x0d310301000000Z", Some("expires at 2031-03-01T00:00:00.000Z; replace it before")),
            (b"\x17\x0d310101000000Z", Some("has expired at 2031-01-01T00:00:00.000Z; providers refuse it")),
            (b"\x17\x0d991301000000Z", None),
        ] {
            let expected = said.map(|said| format!("{at}: {said}"));
            assert_eq!(judge(&assertion(&key, &der(not_after, &modulus)), NOW), Ok(expected));
        }
        let other = vec![7; modulus.len()];
        let refused = judge(&assertion(&key, &der(b"\x17\x0d310601000000Z", &other)), NOW);
        assert_eq!(refused, Err(format!("{at}: belongs to another key than private_key_pem")));
        let refused = judge(&assertion("no key", &[]), NOW).expect_err("no key");
        assert!(refused.starts_with("oidc.client_assertion.private_key_pem: "), "{refused}");
        let no_certificate = ClientAssertion { certificate_pem: "no".to_owned(), ..assertion(&key, &[]) };
        assert_eq!(judge(&no_certificate, NOW), Err(format!("{at}: is not a PEM certificate")));
    }
}
