//! Section `pricing` (auth contract §3.7, inference contract §13.3 and §20). Amounts stay decimal text.

use super::decode::{Keys, section};
use super::kind::{Kind, decimal, list, non_empty};
use super::{PriceOverride, Pricing};

pub(super) fn pricing(keys: &mut Keys<'_, '_>) -> Option<Pricing> {
    let multiplier = keys.optional(
        "multiplier",
        amount().check(|multiplier| match multiplier.parse::<f64>() {
            Ok(number) if number <= 10.0 => Ok(multiplier),
            _ => Err("must be at most 10".to_owned()),
        }),
        "Factor on every price, greater than 0 and at most 10; 0.9 is a discount of ten percent.",
    );
    let overrides = keys.or(
        "overrides",
        list(section(price_override)),
        "[]",
        "Prices that differ from the list, in US dollars per million tokens.",
    );
    Some(Pricing { multiplier, overrides: overrides? })
}

fn price_override(keys: &mut Keys<'_, '_>) -> Option<PriceOverride> {
    let upstream = keys.required("upstream", non_empty(), "Name of the upstream to which the price applies.");
    let model = keys.required("model", non_empty(), "Model, as the client asks for it or as the upstream receives it.");
    let input = keys.required("input", amount(), "Input tokens.");
    let output = keys.required("output", amount(), "Output tokens.");
    let cache_read = keys.required("cache_read", amount(), "Tokens read from a prompt cache.");
    let cache_write = keys.required("cache_write", amount(), "Tokens written to a prompt cache, for any life time.");
    Some(PriceOverride {
        upstream: upstream?,
        model: model?,
        input: input?,
        output: output?,
        cache_read: cache_read?,
        cache_write: cache_write?,
    })
}

/// Decimal text that is greater than zero.
fn amount() -> Kind<String> {
    decimal().such_that(|amount| amount != "0", "must be greater than 0")
}
