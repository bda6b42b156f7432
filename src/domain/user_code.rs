//! [`UserCode`]: what a person reads in the terminal and types into the page (RFC 8628 §6.1).

/// Consonants that are not mistaken for digits or for each other, so that no word appears by chance.
const ALPHABET: &[u8; 20] = b"BCDFGHJKMNPQRSTVWXYZ";

/// Letters in a code: 20⁸ are 34 bits, guessed at under a rate limit within ten minutes.
const LENGTH: usize = 8;

/// A code, without its hyphen and in upper case. It may not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserCode(String);

impl UserCode {
    /// The code that follows from random bytes. 128 bits make its bias immeasurable.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        let mut number = u128::from_le_bytes(bytes);
        let letters = ALPHABET.len() as u128;
        Self(
            (0..LENGTH)
                .map(|_| {
                    let letter = usize::try_from(number % letters).expect("less than the number of letters");
                    number /= letters;
                    char::from(ALPHABET[letter])
                })
                .collect(),
        )
    }

    /// Reads what a person typed: upper-case, then everything dropped that is not A–Z or 0–9 (auth contract §5.3).
    /// `None` if no code can look like this.
    pub fn parse(text: &str) -> Option<Self> {
        let code: String =
            text.chars().map(|letter| letter.to_ascii_uppercase()).filter(char::is_ascii_alphanumeric).collect();
        (code.len() == LENGTH && code.bytes().all(|letter| ALPHABET.contains(&letter))).then_some(Self(code))
    }

    /// As it is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it is shown: `WXQR-DKTZ`.
    pub fn shown(&self) -> String {
        format!("{}-{}", &self.0[..LENGTH / 2], &self.0[LENGTH / 2..])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_type_is_understood() {
        for (typed, code) in [
            ("WXQR-DKTZ", Some("WXQRDKTZ")),
            ("wxqr dktz", Some("WXQRDKTZ")),
            ("W-X-Q-R-D-K-T-Z", Some("WXQRDKTZ")),
            ("WXQR_DKTZ", Some("WXQRDKTZ")),
            ("WXQR–DKTZ", Some("WXQRDKTZ")),
            ("éWXQR-DKTZ\0\n", Some("WXQRDKTZ")),
            ("WXQR-DKTZB", None),
            ("WXQR-DKT", None),
            ("1WXQR-DKTZ", None),
            ("AXQR-DKTZ", None),
            ("", None),
        ] {
            assert_eq!(UserCode::parse(typed).as_ref().map(UserCode::as_str), code, "{typed:?}");
        }
    }

    proptest! {
        #[test]
        fn a_code_is_recognised_however_it_is_broken_up(bytes: [u8; 16], noise in "[ _.–é-]{0,4}") {
            let code = UserCode::from_random(bytes);
            let letters: Vec<String> = code.shown().to_lowercase().chars().map(String::from).collect();
            let typed = letters.join(&noise);
            prop_assert_eq!(UserCode::parse(&typed), Some(code));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = UserCode::parse(&text);
        }
    }
}
