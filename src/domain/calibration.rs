//! [`Calibration`]: how many tokens a model makes of a byte of input, learned from what its answers were billed.
//!
//! Where an upstream cannot count, this is what an answer to `count_tokens` is reckoned with. It is meant to be a little
//! too high: a client that believes in more room than there is runs into an error.

use serde::{Deserialize, Serialize};

/// The part of a request that becomes tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    /// Bytes of text: instructions, messages, tools, with what surrounds them.
    pub text: u64,
    /// Tokens of images and documents, which do not depend on their bytes in the way in which text does.
    pub media: u64,
}

/// What was seen of one model. The sums fade: a model whose provider changes it is known anew after a while.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calibration {
    bytes: u64,
    tokens: u64,
    /// How many requests it was learned from.
    requests: u64,
}

/// What is believed before anything is seen: four bytes to a token, and not believed for long.
const PRIOR_BYTES: u64 = 400;
const PRIOR_TOKENS: u64 = 100;

/// No single request counts for more bytes than this.
const MOST_BYTES: u64 = 256 * 1024;

/// Beyond this, what was seen counts half.
const FADE_AT: u64 = 4 * 1024 * 1024;

/// Requests beyond which it does not matter how many they were.
const ENOUGH: u64 = 1_000_000;

/// A token has at least one byte, and hardly ever more than this.
const LONGEST_TOKEN: u64 = 16;

/// By how much of a hundred estimates are raised.
const MARGIN: u64 = 10;

impl Calibration {
    /// Learns from a request that was billed for so many tokens of input. One with images or documents teaches nothing
    /// about text.
    pub fn learn(&mut self, weight: Weight, tokens: u64) {
        if weight.text == 0 || weight.media > 0 || tokens == 0 {
            return;
        }
        let tokens = tokens.clamp(weight.text / LONGEST_TOKEN, weight.text);
        let bytes = weight.text.min(MOST_BYTES);
        self.add(Self { bytes, tokens: scaled(tokens, bytes, weight.text), requests: 1 });
    }

    /// Adds what somebody else has seen.
    pub fn add(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.requests = self.requests.saturating_add(other.requests).min(ENOUGH);
        while self.bytes > FADE_AT {
            self.bytes /= 2;
            self.tokens /= 2;
        }
    }

    /// Whether nothing was seen yet.
    pub const fn is_empty(&self) -> bool {
        self.requests == 0
    }

    /// The tokens of a request; nothing before anything was seen.
    pub fn estimate(&self, weight: Weight) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        let (bytes, tokens) = (self.bytes.saturating_add(PRIOR_BYTES), self.tokens.saturating_add(PRIOR_TOKENS));
        let text = scaled(weight.text.saturating_mul(100 + MARGIN), tokens, bytes.saturating_mul(100));
        Some(text.saturating_add(weight.media).max(1))
    }
}

/// `value` times `numerator` by `denominator`, rounded up.
fn scaled(value: u64, numerator: u64, denominator: u64) -> u64 {
    let exact = (u128::from(value) * u128::from(numerator)).div_ceil(u128::from(denominator.max(1)));
    u64::try_from(exact).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn text(bytes: u64) -> Weight {
        Weight { text: bytes, media: 0 }
    }

    fn learned(requests: &[(u64, u64)]) -> Calibration {
        let mut calibration = Calibration::default();
        for (bytes, tokens) in requests {
            calibration.learn(text(*bytes), *tokens);
        }
        calibration
    }

    #[test]
    fn nothing_is_estimated_before_anything_was_seen() {
        assert_eq!(Calibration::default().estimate(text(1000)), None);
        assert_eq!(learned(&[(0, 5), (5, 0)]).estimate(text(1000)), None);
        let mut calibration = Calibration::default();
        calibration.learn(Weight { text: 1000, media: 1600 }, 1850);
        assert_eq!(calibration.estimate(text(1000)), None, "an image teaches nothing about text");
    }

    #[test]
    fn estimates_follow_what_was_billed_and_are_a_little_too_high() {
        for (seen, bytes, expected) in [
            // Two, three and five bytes to a token.
            (vec![(100_000, 50_000)], 100_000, 54_891),
            (vec![(30_000, 10_000); 20], 30_000, 10_999),
            (vec![(50_000, 10_000); 20], 50_000, 11_002),
            // One small request does not say much.
            (vec![(40, 20)], 4_000, 1_200),
        ] {
            assert_eq!(learned(&seen).estimate(text(bytes)), Some(expected), "{seen:?}");
        }
        let with_image = Weight { text: 30_000, media: 1600 };
        assert_eq!(learned(&[(30_000, 10_000); 20]).estimate(with_image), Some(12_599));
    }

    #[test]
    fn what_was_seen_fades_and_no_request_outweighs_all_others() {
        let mut calibration = learned(&vec![(200_000, 50_000); 100]);
        assert!(calibration.bytes <= FADE_AT && calibration.requests == 100);
        // Somebody sends much of what cannot be.
        calibration.learn(text(1 << 40), u64::MAX);
        let most = calibration.estimate(text(100_000)).unwrap();
        assert!(most < 35_000, "{most}");
        for _ in 0..100 {
            calibration.learn(text(200_000), 100_000);
        }
        let now = calibration.estimate(text(100_000)).unwrap();
        assert!((54_000..=56_000).contains(&now), "{now}");
    }

    proptest! {
        #[test]
        fn estimates_stay_within_what_text_can_be(seen: Vec<(u64, u64)>, bytes in 0..1_000_000_000_u64) {
            let calibration = learned(&seen);
            if let Some(tokens) = calibration.estimate(text(bytes)) {
                prop_assert!(tokens >= bytes / LONGEST_TOKEN && tokens <= bytes + bytes / 8 + 1, "{}", tokens);
            }
        }
    }
}
