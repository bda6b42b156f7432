//! [`Asked`]: the most that a request is reckoned to use, before it is sent: what is reserved for it.
//!
//! The estimate is meant to be too high rather than too low, because what requests of one moment may spend beyond a cap
//! is what they were underestimated by. It is bounded all the same: nothing that a client writes reserves more than a
//! model can use.

use crate::stream::meter::Usage;

/// Bytes of a request for which a token is reckoned. Prose has four, code three, and numbers two.
const BYTES_PER_TOKEN: u64 = 2;
/// Tokens that are reckoned however small the request is: upstreams add instructions for tools, and images by address.
const LEAST_INPUT: u64 = 2_000;
/// No model reads more.
const MOST_INPUT: u64 = 1_000_000;
/// Tokens that are reckoned however few are asked for.
const LEAST_OUTPUT: u64 = 1_000;
/// No model writes more; reckoned where a request does not say.
const MOST_OUTPUT: u64 = 128_000;
/// Web searches that are reckoned where a request allows them.
const SEARCHES: u64 = 10;

/// Where the input of a request may be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheWrites {
    /// To no cache.
    None,
    /// To one of five minutes.
    FiveMinutes,
    /// To one of an hour.
    OneHour,
}

/// What a request says about its own size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Bytes of the body.
    pub bytes: u64,
    /// `max_tokens`, where it is a number.
    pub max_tokens: Option<u64>,
    /// What `cache_control` asks for.
    pub cache_writes: CacheWrites,
    /// Whether `speed` is `fast`.
    pub is_fast: bool,
    /// Whether there is a tool that searches the web.
    pub may_search: bool,
}

impl Asked {
    /// Usages none of which the request is reckoned to exceed: all input read afresh, and all written to a cache. Which
    /// of them costs more depends on the price.
    pub fn most(&self) -> [Usage; 2] {
        let input = (self.bytes / BYTES_PER_TOKEN).clamp(LEAST_INPUT, MOST_INPUT);
        let afresh = Usage {
            input_tokens: input,
            output_tokens: self.max_tokens.unwrap_or(MOST_OUTPUT).clamp(LEAST_OUTPUT, MOST_OUTPUT),
            web_search_requests: if self.may_search { SEARCHES } else { 0 },
            is_fast: self.is_fast,
            ..Usage::default()
        };
        let cached = match self.cache_writes {
            CacheWrites::None => afresh.clone(),
            CacheWrites::FiveMinutes => Usage { input_tokens: 0, cache_creation_input_tokens: input, ..afresh.clone() },
            CacheWrites::OneHour => Usage {
                input_tokens: 0,
                cache_creation_input_tokens: input,
                cache_creation_1h_input_tokens: input,
                ..afresh.clone()
            },
        };
        [afresh, cached]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: Asked = Asked {
        bytes: 100_000,
        max_tokens: Some(8000),
        cache_writes: CacheWrites::None,
        is_fast: false,
        may_search: false,
    };

    #[test]
    fn the_estimate_follows_the_request_and_is_bounded() {
        for (bytes, max_tokens, input, output) in [
            (100_000, Some(8000), 50_000, 8000),
            (0, Some(0), 2000, 1000),
            (40, Some(1), 2000, 1000),
            (u64::MAX, Some(u64::MAX), 1_000_000, 128_000),
            (100_000, None, 50_000, 128_000),
        ] {
            let [afresh, cached] = Asked { bytes, max_tokens, ..ASKED }.most();
            assert_eq!((afresh.input_tokens, afresh.output_tokens), (input, output), "{bytes} {max_tokens:?}");
            assert_eq!(afresh, cached);
        }
    }

    #[test]
    fn caches_searches_and_speed_are_reckoned_where_they_are_asked_for() {
        let [afresh, cached] =
            Asked { cache_writes: CacheWrites::OneHour, may_search: true, is_fast: true, ..ASKED }.most();
        assert_eq!((afresh.web_search_requests, afresh.is_fast), (10, true));
        assert_eq!((cached.input_tokens, cached.cache_creation_1h_input_tokens), (0, 50_000));
        let [_, cached] = Asked { cache_writes: CacheWrites::FiveMinutes, ..ASKED }.most();
        assert_eq!((cached.cache_creation_input_tokens, cached.cache_creation_1h_input_tokens), (50_000, 0));
    }
}
