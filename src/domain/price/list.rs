//! The list prices: one line each. Source: the providers' public price list (inference contract §13.2).
//!
//! Numbers are nano-dollars per token, which is a thousandth of the printed dollars per million tokens. What the lines
//! mean to an answer is decided in [`price`](super).

/// What the tokens of one model cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// What the name of a model contains, in lower case, with dashes.
    pub(super) name: &'static str,
    pub(super) input: i64,
    pub(super) output: i64,
    pub(super) cache_read: i64,
    pub(super) cache_write_5m: i64,
    pub(super) cache_write_1h: i64,
    /// The factor of fast speed; 1 where there is none.
    pub(super) fast: i64,
    /// The same for long prompts, and beyond how many tokens of input a prompt is long.
    pub(super) long: Option<(u64, &'static Line)>,
}

/// One web search, on every model.
pub(super) const WEB_SEARCH: i64 = 10_000_000;

/// A model that nobody knows.
pub(super) const UNKNOWN: Line = line("", 5_000, 25_000, 500, 6_250, 10_000, 1);

const LONG_HAIKU_5_5: Line = line("claude-haiku-5-5", 500, 2_500, 50, 625, 1_000, 1);

#[rustfmt::skip] // A table: one model, one line.
pub(super) const LIST: &[Line] = &[
    //   name                  input   output  read   5 m     1 h     fast
    line("claude-fable-5-2",    8_000, 40_000,   200, 10_000, 16_000, 2),
    line("claude-fable-5-1",   10_000, 50_000,   250, 12_500, 20_000, 1),
    line("claude-fable-5",     10_000, 50_000, 1_000, 12_500, 20_000, 1),
    line("claude-opus-5-5",     4_000, 20_000,   200,  5_000,  8_000, 2),
    line("claude-opus-5",       5_000, 25_000,   500,  6_250, 10_000, 2),
    line("claude-opus-4-8",     5_000, 25_000,   500,  6_250, 10_000, 2),
    line("claude-opus-4-7",     5_000, 25_000,   500,  6_250, 10_000, 6),
    line("claude-opus-4-6",     5_000, 25_000,   500,  6_250, 10_000, 6),
    line("claude-opus-4-5",     5_000, 25_000,   500,  6_250, 10_000, 1),
    line("claude-opus-4-1",    15_000, 75_000, 1_500, 18_750, 30_000, 1),
    line("claude-opus-4",      15_000, 75_000, 1_500, 18_750, 30_000, 1),
    line("claude-sonnet-5-5",   2_000, 10_000,   100,  2_500,  4_000, 1),
    line("claude-sonnet-5",     2_000, 10_000,   200,  2_500,  4_000, 1),
    line("claude-sonnet-4-6",   3_000, 15_000,   300,  3_750,  6_000, 1),
    line("claude-sonnet-4-5",   3_000, 15_000,   300,  3_750,  6_000, 1),
    line("claude-sonnet-4",     3_000, 15_000,   300,  3_750,  6_000, 1),
    line("claude-3-7-sonnet",   3_000, 15_000,   300,  3_750,  6_000, 1),
    line("claude-3-5-sonnet",   3_000, 15_000,   300,  3_750,  6_000, 1),
    Line { long: Some((100_000, &LONG_HAIKU_5_5)), ..line("claude-haiku-5-5", 100, 500, 10, 125, 200, 1) },
    line("claude-haiku-4-5",    1_000,  5_000,   100,  1_250,  2_000, 1),
    line("claude-3-5-haiku",      800,  4_000,    80,  1_000,  1_600, 1),
];

const fn line(
    name: &'static str,
    input: i64,
    output: i64,
    cache_read: i64,
    cache_write_5m: i64,
    cache_write_1h: i64,
    fast: i64,
) -> Line {
    Line { name, input, output, cache_read, cache_write_5m, cache_write_1h, fast, long: None }
}
