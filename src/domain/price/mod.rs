//! [`Prices`]: what an answer costs (inference contract §13.2 and §13.3). The list is in `list.rs`; reading usage is the
//! meter's.

mod list;

use memchr::memmem;

use crate::config::{Config, PriceOverride};
use crate::domain::money::{Money, divided};
use crate::domain::spend::estimate::Asked;
use crate::stream::meter::Usage;
use crate::upstream::catalog::built_in;

use list::{LIST, Line, UNKNOWN, WEB_SEARCH};

/// Configured decimals count to nine places; what lies behind is rounded half up.
const PLACES: usize = 9;
/// One, in configured decimals.
const ONE: i128 = 1_000_000_000;
/// A rate of one nano-dollar per token; rates are finer, because a configured price may be.
const NANO: i128 = 1_000_000;
/// No configured decimal is believed to be larger than a million.
const MOST: i128 = 1_000_000 * ONE;
/// What the names of all models begin with.
const FAMILY: &str = "claude-";
/// No answer is believed to have more of one kind of tokens.
const MOST_TOKENS: u64 = 10_000_000_000;

/// The prices of one configuration.
#[derive(Debug, Clone)]
pub struct Prices {
    overrides: Vec<(PriceOverride, Rates)>,
    /// In billionths.
    multiplier: i128,
}

/// Prices per token in 10⁻¹⁵ dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rates {
    input: i128,
    output: i128,
    cache_read: i128,
    cache_write_5m: i128,
    cache_write_1h: i128,
}

/// What was asked for, and who served it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served<'a> {
    /// The upstream's name.
    pub upstream: &'a str,
    /// What it calls the model.
    pub model: &'a str,
    /// What the client calls it.
    pub requested: &'a str,
}

impl Prices {
    /// The prices under `config`.
    pub fn of(config: &Config) -> Self {
        let pricing = config.pricing.as_ref();
        let rows = pricing.map_or(&[][..], |pricing| &pricing.overrides);
        Self {
            overrides: rows.iter().map(|row| (row.clone(), Rates::of_override(row))).collect(),
            multiplier: pricing.and_then(|pricing| pricing.multiplier.as_deref()).map_or(ONE, decimal),
        }
    }

    /// What an answer with this usage costs.
    pub fn cost(&self, served: Served<'_>, usage: &Usage) -> Money {
        let rates = self.override_for(served).unwrap_or_else(|| {
            let line = listed(served.model).or_else(|| listed(served.requested)).unwrap_or(&UNKNOWN);
            Rates::of_line(line, usage)
        });
        let one_hour = usage.cache_creation_1h_input_tokens.min(usage.cache_creation_input_tokens);
        let five_minutes = usage.cache_creation_input_tokens - one_hour;
        let list = tokens(usage.input_tokens) * rates.input
            + tokens(usage.output_tokens) * rates.output
            + tokens(usage.cache_read_input_tokens) * rates.cache_read
            + tokens(five_minutes) * rates.cache_write_5m
            + tokens(one_hour) * rates.cache_write_1h
            + tokens(usage.web_search_requests) * i128::from(WEB_SEARCH) * NANO;
        let nanos = divided(list.saturating_mul(self.multiplier), ONE * NANO);
        i64::try_from(nanos).map_or(Money::MOST, |nanos| Money::from_nanos(nanos).min(Money::MOST))
    }

    /// The most that a request is reckoned to cost, whichever of `served` answers it.
    pub fn most<'a>(&self, served: impl IntoIterator<Item = Served<'a>>, asked: &Asked) -> Money {
        let usages = asked.most();
        let costs = served.into_iter().flat_map(|served| usages.iter().map(move |usage| self.cost(served, usage)));
        costs.max().unwrap_or(Money::ZERO)
    }

    /// Whether what was served costs what unknown models cost: the operator should know.
    pub fn is_unknown(&self, served: Served<'_>) -> bool {
        self.override_for(served).is_none() && listed(served.model).is_none() && listed(served.requested).is_none()
    }

    /// The row that names the upstream's model exactly, else the client's, else a spelling of the same built-in model: the
    /// one that was asked for, or that the upstream was sent for an alias.
    fn override_for(&self, served: Served<'_>) -> Option<Rates> {
        let built_in = built_in::find(served.requested).or_else(|| built_in::find(served.model));
        let find = |is_meant: &dyn Fn(&str) -> bool| {
            let mut rows = self.overrides.iter().filter(|(row, _)| row.upstream == served.upstream);
            rows.find(|(row, _)| is_meant(&row.model)).map(|(_, rates)| *rates)
        };
        find(&|model| model == served.model)
            .or_else(|| find(&|model| model.eq_ignore_ascii_case(served.requested)))
            .or_else(|| find(&|model| built_in.is_some() && built_in::find(model) == built_in))
    }
}

impl Rates {
    fn of_line(line: &Line, usage: &Usage) -> Self {
        let prompt = usage
            .input_tokens
            .saturating_add(usage.cache_read_input_tokens)
            .saturating_add(usage.cache_creation_input_tokens);
        let line = line.long.filter(|(most, _)| prompt > *most).map_or(line, |(_, long)| long);
        let factor = if usage.is_fast { line.fast } else { 1 };
        let rate = |nanos: i64| i128::from(nanos * factor) * NANO;
        Self {
            input: rate(line.input),
            output: rate(line.output),
            cache_read: rate(line.cache_read),
            cache_write_5m: rate(line.cache_write_5m),
            cache_write_1h: rate(line.cache_write_1h),
        }
    }

    /// A dollar per million tokens is 10⁻⁶ dollars per token: a billionth of it is 10⁻¹⁵, the unit of rates.
    fn of_override(row: &PriceOverride) -> Self {
        let cache_write = decimal(&row.cache_write);
        Self {
            input: decimal(&row.input),
            output: decimal(&row.output),
            cache_read: decimal(&row.cache_read),
            cache_write_5m: cache_write,
            cache_write_1h: cache_write,
        }
    }
}

/// The line of the longest known name in `model`, in any case, dots read as dashes.
fn listed(model: &str) -> Option<&'static Line> {
    let model: Vec<u8> =
        model.bytes().map(|byte| if byte == b'.' { b'-' } else { byte.to_ascii_lowercase() }).collect();
    // Looking for what all names begin with is much quicker than looking for each of them.
    let begun = memmem::find_iter(&model, FAMILY).map(|at| &model[at..]);
    let lines = begun.flat_map(|rest| LIST.iter().filter(move |line| rest.starts_with(line.name.as_bytes())));
    lines.max_by_key(|line| line.name.len())
}

fn tokens(count: u64) -> i128 {
    i128::from(count.min(MOST_TOKENS))
}

/// Billionths of plain decimal text such as `12.5`, which the configuration has checked.
fn decimal(text: &str) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digit = |byte: u8| i128::from(byte.saturating_sub(b'0').min(9));
    let mut value = whole.bytes().fold(0_i128, |value, byte| value.saturating_mul(10).saturating_add(digit(byte)));
    let places = fraction.bytes().chain(std::iter::repeat(b'0'));
    value = places.take(PLACES).fold(value, |value, byte| value.saturating_mul(10).saturating_add(digit(byte)));
    let is_half = fraction.as_bytes().get(PLACES).is_some_and(|next| *next >= b'5');
    value.saturating_add(i128::from(is_half)).min(MOST)
}

#[cfg(test)]
mod tests;
