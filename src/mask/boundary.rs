//! Where a word begins and ends. Text that a coding assistant sees is often written in another notation (JSON inside a
//! string, percent-encoding, terminal colours), and there a letter may be the end of an escape: in `\ni-0…` the `n` does
//! not belong to the identifier.

/// How far back [`begins`] looks; a stream has to remember as many bytes.
pub(crate) const LOOK_BEHIND: usize = 24;

/// Whether a word may begin at `at`.
pub(crate) fn begins(text: &[u8], at: usize) -> bool {
    let Some(last) = at.checked_sub(1).map(|before| text[before]) else { return true };
    !is_word(last) || ends_escape(&text[at.saturating_sub(LOOK_BEHIND)..at])
}

/// Whether a word may end before `at`.
pub(crate) fn ends(text: &[u8], at: usize) -> bool {
    text.get(at).is_none_or(|next| !is_word(*next))
}

/// Whether what begins at `at` goes on a number with dots, such as a version or an OID. A token in front of the dot is
/// longer than any of their parts, so that masking never changes the answer.
pub(crate) fn continues_number(text: &[u8], at: usize) -> bool {
    let Some(before) = text[..at].strip_suffix(b".") else { return false };
    let digits = before.iter().rev().take(5).take_while(|byte| byte.is_ascii_digit()).count();
    (1..5).contains(&digits) && before[..before.len() - digits].last().is_none_or(|byte| !is_word(*byte))
}

/// Letters and digits of identifiers; bytes of other scripts are not part of any.
const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// Whether `before` ends with an escape of some notation, although its last byte is a letter or a digit.
fn ends_escape(before: &[u8]) -> bool {
    match before {
        // `\n` in JSON, C, and everything that quotes like them.
        [.., b'\\', b'n' | b'r' | b't' | b'b' | b'f'] => return true,
        // `%2F`
        [.., b'%', high, low] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => return true,
        // `\u003c`
        [.., b'\\', b'u', a, b, c, d] if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) => return true,
        _ => {}
    }
    // ECMA-48 §8.3.117: a colour is ESC `[` parameters `m`; ESC itself may be written in several ways.
    let Some(colour) = before.strip_suffix(b"m") else { return false };
    let parameters = colour.iter().rev().take_while(|byte| byte.is_ascii_digit() || **byte == b';').count();
    let escape = &colour[..colour.len() - parameters];
    [&b"\x1b["[..], b"u001b[", b"u001B[", b"x1b[", b"x1B[", b"033[", b"\\e["].iter().any(|form| escape.ends_with(form))
}

/// The start of the host name that goes on to `at`; at most 253 characters before it (RFC 1035 §2.3.4).
pub(crate) fn host_start(text: &[u8], floor: usize, at: usize) -> usize {
    let floor = floor.max(at.saturating_sub(253));
    let is_host = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let mut start = at - text[floor..at].iter().rev().take_while(|byte| is_host(byte)).count();
    // The end of an escape looks like the beginning of a host.
    for skipped in 1..=12 {
        let begin = start + skipped;
        if begin >= at {
            break;
        }
        if ends_escape(&text[begin.saturating_sub(LOOK_BEHIND).max(floor.saturating_sub(8))..begin]) {
            start = begin;
            break;
        }
    }
    while start < at && matches!(text[start], b'.' | b'-') {
        start += 1;
    }
    start
}

#[cfg(test)]
mod tests {
    use super::{begins, ends, host_start};

    #[test]
    fn a_word_begins_after_anything_but_a_word() {
        for (before, may) in [
            ("", true),
            (" ", true),
            ("\"", true),
            ("/", true),
            ("-", true),
            ("_", true),
            ("é", true),
            ("a", false),
            ("9", false),
            ("\\n", true),
            ("\\\\t", true),
            ("%2F", true),
            ("%zF", false),
            ("\\u003c", true),
            ("u003c", false),
            ("\u{1b}[1;32m", true),
            ("\\u001b[0m", true),
            ("\\e[m", true),
            ("32m", false),
            ("vm", false),
        ] {
            assert_eq!(begins(format!("{before}i-0").as_bytes(), before.len()), may, "{before:?}");
        }
    }

    #[test]
    fn a_word_ends_before_anything_but_a_word() {
        for (after, may) in [("", true), (".", true), ("\\n", true), ("\u{1b}[0m", true), ("a", false), ("0", false)] {
            assert_eq!(ends(format!("x{after}").as_bytes(), 1), may, "{after:?}");
        }
    }

    #[test]
    fn a_host_begins_behind_scheme_user_and_escapes() {
        for (text, host) in [
            ("https://db.x", "db.x"),
            ("me@db.x", "db.x"),
            ("\\ndb.x", "db.x"),
            ("https%3A%2F%2Fdb.x", "db.x"),
            ("\u{1b}[32mdb.x", "db.x"),
            ("\"db.x", "db.x"),
            ("*.db.x", "db.x"),
        ] {
            let start = host_start(text.as_bytes(), 0, text.len());
            assert_eq!(&text[start..], host, "{text:?}");
        }
    }
}
