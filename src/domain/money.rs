//! [`Money`]: US dollars as a whole number of nano-dollars. Never floating point.
//!
//! The unit is the largest in which every list price of one token is whole: $0.01 per million tokens is 10 nano-dollars
//! per token (inference contract §13.2). Storage keeps it as `BIGINT`, which reaches nine billion dollars. Sums are
//! exact; a price that configuration makes fractional is rounded half up, once for each request. The admin wire speaks
//! cents: rounded half up where it shows decimals (§18.7), down where it shows whole credits (§19).

use std::fmt::Write;

/// An amount, not negative in practice; nano-dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(i64);

/// Nano-dollars in a cent.
const CENT: i64 = 10_000_000;

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The most that one request is believed to cost, a million dollars: no upstream's answer can make sums overflow.
    pub const MOST: Self = Self(1_000_000_000_000_000);

    /// From nano-dollars.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// In nano-dollars.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Nano-dollars of `cents`, wide enough for every cap.
    pub const fn nanos_of_cents(cents: i64) -> i128 {
        cents as i128 * CENT as i128
    }

    /// Whole cents, rounded down.
    pub const fn whole_cents(self) -> i64 {
        self.0.div_euclid(CENT)
    }

    /// Cents with at most three decimals and no zeros that say nothing: `0`, `0.182`, `100`.
    pub fn cents(self) -> String {
        let text = decimal(i128::from(self.0), CENT / 1000, 3);
        shortest(&text).to_owned()
    }

    /// Cents with exactly six decimals: `31.500000`.
    pub fn cents_to_six_decimals(self) -> String {
        decimal(i128::from(self.0), CENT / 1_000_000, 6)
    }

    /// Cents rounded to six decimals, as a JSON number. Only for logs: JSON numbers are floating point.
    pub fn cents_number(self) -> serde_json::Number {
        let text = self.cents_to_six_decimals();
        let text = shortest(&text);
        let whole = text.parse::<i64>().ok().map(Into::into);
        let fraction = || serde_json::Number::from_f64(text.parse().unwrap_or(0.0));
        whole.or_else(fraction).unwrap_or_else(|| 0.into())
    }

    /// Both together, or the largest amount there is.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// `nanos` in units of `unit`, rounded half up, as text with `decimals` decimals.
fn decimal(nanos: i128, unit: i64, decimals: u32) -> String {
    let units = divided(nanos, i128::from(unit));
    let whole = 10_i128.pow(decimals);
    let mut text = format!("{}", units.div_euclid(whole));
    // Writing to a string cannot fail.
    let _ = write!(text, ".{:0width$}", units.rem_euclid(whole), width = decimals as usize);
    text
}

/// `dividend / divisor`, rounded half up.
pub(super) const fn divided(dividend: i128, divisor: i128) -> i128 {
    dividend.saturating_add(divisor / 2).div_euclid(divisor)
}

/// A decimal without the zeros that say nothing.
pub(super) fn shortest(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cents_are_rounded_as_the_admin_wire_wants_them() {
        for (nanos, short, long, whole) in [
            (0, "0", "0.000000", 0),
            (1_822_500, "0.182", "0.182250", 0),
            (1_825_000, "0.183", "0.182500", 0),
            (1_000_000_000, "100", "100.000000", 100),
            (315_000_000, "31.5", "31.500000", 31),
            (9_999_999_999, "1000", "1000.000000", 999),
            (4, "0", "0.000000", 0),
            (5, "0", "0.000001", 0),
            (i64::MAX, "922337203685.478", "922337203685.477581", 922_337_203_685),
        ] {
            let money = Money::from_nanos(nanos);
            assert_eq!((&*money.cents(), &*money.cents_to_six_decimals(), money.whole_cents()), (short, long, whole));
        }
    }
}
