//! Prices: every model, every kind of usage, every rule of resolution.

use proptest::prelude::*;

use super::*;

fn prices(multiplier: Option<&str>, overrides: &[(&str, &str, [&str; 4])]) -> Prices {
    let overrides = overrides.iter().map(|(upstream, model, [input, output, cache_read, cache_write])| {
        let row = PriceOverride {
            upstream: (*upstream).to_owned(),
            model: (*model).to_owned(),
            input: (*input).to_owned(),
            output: (*output).to_owned(),
            cache_read: (*cache_read).to_owned(),
            cache_write: (*cache_write).to_owned(),
        };
        let rates = Rates::of_override(&row);
        (row, rates)
    });
    Prices { overrides: overrides.collect(), multiplier: multiplier.map_or(ONE, decimal) }
}

fn served<'a>(model: &'a str, requested: &'a str) -> Served<'a> {
    Served { upstream: "a", model, requested }
}

fn cost(model: &str, usage: &Usage) -> i64 {
    prices(None, &[]).cost(served(model, model), usage).as_nanos()
}

/// One kind of usage, a thousand of it.
fn kinds() -> [Usage; 5] {
    [
        Usage { input_tokens: 1000, ..Usage::default() },
        Usage { output_tokens: 1000, ..Usage::default() },
        Usage { cache_read_input_tokens: 1000, ..Usage::default() },
        Usage { cache_creation_input_tokens: 1000, ..Usage::default() },
        Usage { cache_creation_input_tokens: 1000, cache_creation_1h_input_tokens: 1000, ..Usage::default() },
    ]
}

#[test]
fn every_model_costs_its_list_price_for_every_kind_of_tokens() {
    // Micro-dollars for a thousand tokens: the printed price, times a thousand.
    for (model, expected, fast) in [
        ("claude-fable-5-2", [8_000, 40_000, 200, 10_000, 16_000], 2),
        ("claude-fable-5-1", [10_000, 50_000, 250, 12_500, 20_000], 1),
        ("claude-fable-5", [10_000, 50_000, 1_000, 12_500, 20_000], 1),
        ("claude-opus-5-5", [4_000, 20_000, 200, 5_000, 8_000], 2),
        ("claude-opus-5", [5_000, 25_000, 500, 6_250, 10_000], 2),
        ("claude-opus-4-8", [5_000, 25_000, 500, 6_250, 10_000], 2),
        ("claude-opus-4-7", [5_000, 25_000, 500, 6_250, 10_000], 6),
        ("claude-opus-4-6", [5_000, 25_000, 500, 6_250, 10_000], 6),
        ("claude-opus-4-5-20251101", [5_000, 25_000, 500, 6_250, 10_000], 1),
        ("claude-opus-4-1-20250805", [15_000, 75_000, 1_500, 18_750, 30_000], 1),
        ("claude-opus-4-20250514", [15_000, 75_000, 1_500, 18_750, 30_000], 1),
        ("claude-sonnet-5-5", [2_000, 10_000, 100, 2_500, 4_000], 1),
        ("claude-sonnet-5", [2_000, 10_000, 200, 2_500, 4_000], 1),
        ("claude-sonnet-4-6", [3_000, 15_000, 300, 3_750, 6_000], 1),
        ("claude-sonnet-4-5@20250929", [3_000, 15_000, 300, 3_750, 6_000], 1),
        ("claude-sonnet-4", [3_000, 15_000, 300, 3_750, 6_000], 1),
        ("claude-3-7-sonnet", [3_000, 15_000, 300, 3_750, 6_000], 1),
        ("claude-3-5-sonnet-v2@20241022", [3_000, 15_000, 300, 3_750, 6_000], 1),
        ("claude-haiku-5-5", [100, 500, 10, 125, 200], 1),
        ("claude-haiku-4-5", [1_000, 5_000, 100, 1_250, 2_000], 1),
        ("claude-3-5-haiku", [800, 4_000, 80, 1_000, 1_600], 1),
        ("my-Claude-Haiku-4.5-dep", [1_000, 5_000, 100, 1_250, 2_000], 1),
        ("anthropic/claude-opus-4.8[1m]", [5_000, 25_000, 500, 6_250, 10_000], 2),
        ("claude-opus-9", [5_000, 25_000, 500, 6_250, 10_000], 1),
        ("claude-haiku-5", [5_000, 25_000, 500, 6_250, 10_000], 1),
        ("gpt-oss", [5_000, 25_000, 500, 6_250, 10_000], 1),
    ] {
        for (usage, micros) in kinds().iter().zip(expected) {
            assert_eq!(cost(model, usage), micros * 1000, "{model} {usage:?}");
            let quick = Usage { is_fast: true, ..usage.clone() };
            assert_eq!(cost(model, &quick), micros * 1000 * fast, "{model} {quick:?}");
        }
    }
    assert!(prices(None, &[]).is_unknown(served("claude-opus-9", "arn")));
    assert!(!prices(None, &[]).is_unknown(served("arn", "claude-sonnet-5")));
}

#[test]
fn the_list_names_every_built_in_model() {
    assert!(LIST.iter().all(|line| line.name.starts_with(FAMILY)));
    for model in built_in::BUILT_IN {
        for name in [model.id, model.short, model.bedrock, model.vertex] {
            assert!(listed(name).is_some_and(|line| model.short.contains(line.name)), "{name}");
        }
    }
}

#[test]
fn a_long_prompt_switches_all_rates_of_one_model_only() {
    let with = |input_tokens, cache_read_input_tokens, cache_creation_input_tokens| Usage {
        input_tokens,
        cache_read_input_tokens,
        cache_creation_input_tokens,
        output_tokens: 10,
        ..Usage::default()
    };
    assert_eq!(cost("claude-haiku-5-5", &with(99_000, 500, 500)), 99_000 * 100 + 500 * 10 + 500 * 125 + 10 * 500);
    assert_eq!(cost("claude-haiku-5-5", &with(99_001, 500, 500)), 99_001 * 500 + 500 * 50 + 500 * 625 + 10 * 2_500);
    assert_eq!(cost("claude-haiku-4-5", &with(200_000, 0, 0)), 200_000 * 1_000 + 10 * 5_000);
}

#[test]
fn web_search_costs_a_cent_whatever_the_speed() {
    let usage = Usage { web_search_requests: 3, is_fast: true, ..Usage::default() };
    assert_eq!(cost("claude-opus-4-8", &usage), 30_000_000);
    assert_eq!(prices(Some("0.5"), &[]).cost(served("x", "x"), &usage).as_nanos(), 15_000_000);
}

#[test]
fn the_most_exact_override_of_the_serving_upstream_counts() {
    let rows = [
        ("b", "arn", ["100", "100", "100", "100"]),
        ("a", "us.anthropic.claude-opus-4-8", ["3", "3", "3", "3"]),
        ("a", "CLAUDE-OPUS-4-8", ["2", "2", "2", "2"]),
        ("a", "arn", ["1", "1", "1", "0.0000000004"]),
    ];
    let thousand = Usage { input_tokens: 1000, is_fast: true, ..Usage::default() };
    for (rows, expected) in [(&rows[..], 1), (&rows[..3], 2), (&rows[..2], 3)] {
        let nanos = prices(None, rows).cost(served("arn", "claude-opus-4-8"), &thousand).as_nanos();
        assert_eq!(nanos, expected * 1_000_000);
    }
    let nanos = prices(None, &rows[..1]).cost(served("arn", "claude-opus-4-8"), &thousand).as_nanos();
    assert_eq!(nanos, 10_000_000, "the list, at fast speed");
    // What an alias leads to is the built-in model, too.
    let rows = [("a", "claude-haiku-4-5", ["4", "4", "4", "4"])];
    for (model, requested) in [
        ("claude-haiku-4-5-20251001", "mine"),
        ("us.anthropic.claude-haiku-4-5-20251001-v1:0", "mine"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5-20251001"),
    ] {
        let nanos = prices(None, &rows).cost(served(model, requested), &thousand).as_nanos();
        assert_eq!(nanos, 4_000_000, "{model}");
    }
    let rows = [("a", "arn", ["1", "1", "1", "0.0000000004"])];
    let search = Usage { web_search_requests: 1, cache_creation_input_tokens: 1, ..Usage::default() };
    assert_eq!(prices(None, &rows).cost(served("arn", "x"), &search).as_nanos(), 10_000_000);
}

#[test]
fn fractions_of_configured_prices_are_rounded_once() {
    let usage = Usage { input_tokens: 3, ..Usage::default() };
    for (multiplier, price, nanos) in [
        ("1", "0.0005", 2),          // 1.5
        ("1", "0.0001", 0),          // 0.3
        ("0.333333333", "1", 1_000), // 999.999999
        ("10", "0.125", 3_750),
    ] {
        let prices = prices(Some(multiplier), &[("a", "m", [price, "1", "1", "1"])]);
        assert_eq!(prices.cost(served("m", "m"), &usage).as_nanos(), nanos, "{multiplier} × {price}");
    }
    for (text, billionths) in [("12.5", 12_500_000_000), ("0.0000000005", 1), ("0.1", 100_000_000), ("7", 7 * ONE)] {
        assert_eq!(decimal(text), billionths, "{text}");
    }
}

proptest! {
    #[test]
    fn no_usage_overflows_and_more_tokens_never_cost_less(
        input in any::<u64>(), output in any::<u64>(), read in any::<u64>(), write in any::<u64>(), hour in any::<u64>(),
        more in 0..1_000_000_u64,
    ) {
        let prices = prices(Some("10"), &[("a", "m", ["999999999999", "75", "1", "1"])]);
        let usage = Usage {
            input_tokens: input, output_tokens: output, cache_read_input_tokens: read,
            cache_creation_input_tokens: write, cache_creation_1h_input_tokens: hour, ..Usage::default()
        };
        let larger = Usage { output_tokens: output.saturating_add(more), ..usage.clone() };
        let (less, more) = (prices.cost(served("m", "m"), &usage), prices.cost(served("m", "m"), &larger));
        prop_assert!(less <= more && more <= Money::MOST);
    }
}
