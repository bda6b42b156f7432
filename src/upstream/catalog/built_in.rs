//! The built-in models: one line each. Adding a model is adding a line.
//!
//! Source: the ids under which the providers serve each model (inference contract §7.1, reference 2.1.329). What the
//! lines mean to a request is decided in [`catalog`](super).

/// A model that needs no configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// The id that `/v1/models` shows; what Anthropic and Claude Platform on AWS call it.
    pub id: &'static str,
    /// Without its date; what Foundry calls it.
    pub short: &'static str,
    /// What Bedrock calls it, without an inference profile's region.
    pub bedrock: &'static str,
    /// What Mantle calls it.
    pub mantle: Option<&'static str>,
    /// What Vertex calls it.
    pub vertex: &'static str,
    /// Whether Claude on Google Cloud has it, under `id`.
    pub on_google_cloud: bool,
    /// The context window in tokens, if it is fixed.
    pub max_input_tokens: Option<u64>,
    /// Whether `/v1/models` shows it.
    pub is_listed: bool,
}

/// Not there.
const NO: Option<&str> = None;
/// Context windows.
const OPEN: Option<u64> = None;
const K200: Option<u64> = Some(200_000);
const M1: Option<u64> = Some(1_000_000);
/// Whether Claude on Google Cloud has it.
const GC: bool = true;
/// Whether it is listed.
const HIDDEN: bool = false;

/// In the order of `/v1/models`.
#[rustfmt::skip] // A table: one model, one line.
pub const BUILT_IN: &[BuiltIn] = &[
    //  id                            short                Bedrock                                      Mantle                               Vertex                           Google  window  listed
    row("claude-opus-4-6",            "claude-opus-4-6",   "anthropic.claude-opus-4-6-v1",              NO,                                  "claude-opus-4-6",               GC,     OPEN,   true),
    row("claude-sonnet-4-5-20250929", "claude-sonnet-4-5", "anthropic.claude-sonnet-4-5-20250929-v1:0", NO,                                  "claude-sonnet-4-5@20250929",    GC,     OPEN,   true),
    row("claude-haiku-4-5-20251001",  "claude-haiku-4-5",  "anthropic.claude-haiku-4-5-20251001-v1:0",  Some("anthropic.claude-haiku-4-5"),  "claude-haiku-4-5@20251001",     GC,     K200,   true),
    row("claude-fable-5-2",           "claude-fable-5-2",  "anthropic.claude-fable-5-2",                Some("anthropic.claude-fable-5-2"),  "claude-fable-5-2",              GC,     M1,     true),
    row("claude-fable-5-1",           "claude-fable-5-1",  "anthropic.claude-fable-5-1",                Some("anthropic.claude-fable-5-1"),  "claude-fable-5-1",              GC,     M1,     true),
    row("claude-fable-5",             "claude-fable-5",    "anthropic.claude-fable-5",                  Some("anthropic.claude-fable-5"),    "claude-fable-5",                GC,     M1,     true),
    row("claude-opus-5-5",            "claude-opus-5-5",   "anthropic.claude-opus-5-5",                 Some("anthropic.claude-opus-5-5"),   "claude-opus-5-5",               GC,     M1,     true),
    row("claude-opus-5",              "claude-opus-5",     "anthropic.claude-opus-5",                   Some("anthropic.claude-opus-5"),     "claude-opus-5",                 GC,     M1,     true),
    row("claude-opus-4-8",            "claude-opus-4-8",   "anthropic.claude-opus-4-8",                 Some("anthropic.claude-opus-4-8"),   "claude-opus-4-8",               GC,     M1,     true),
    row("claude-opus-4-7",            "claude-opus-4-7",   "anthropic.claude-opus-4-7",                 Some("anthropic.claude-opus-4-7"),   "claude-opus-4-7",               GC,     M1,     true),
    row("claude-opus-4-1-20250805",   "claude-opus-4-1",   "anthropic.claude-opus-4-1-20250805-v1:0",   NO,                                  "claude-opus-4-1@20250805",      !GC,    K200,   true),
    row("claude-sonnet-5-5",          "claude-sonnet-5-5", "anthropic.claude-sonnet-5-5",               Some("anthropic.claude-sonnet-5-5"), "claude-sonnet-5-5",             GC,     M1,     true),
    row("claude-sonnet-5",            "claude-sonnet-5",   "anthropic.claude-sonnet-5",                 Some("anthropic.claude-sonnet-5"),   "claude-sonnet-5",               GC,     M1,     true),
    row("claude-sonnet-4-6",          "claude-sonnet-4-6", "anthropic.claude-sonnet-4-6",               NO,                                  "claude-sonnet-4-6",             GC,     OPEN,   true),
    row("claude-haiku-5-5",           "claude-haiku-5-5",  "anthropic.claude-haiku-5-5",                Some("anthropic.claude-haiku-5-5"),  "claude-haiku-5-5",              GC,     M1,     true),
    row("claude-opus-4-5-20251101",   "claude-opus-4-5",   "anthropic.claude-opus-4-5-20251101-v1:0",   NO,                                  "claude-opus-4-5@20251101",      GC,     OPEN,   HIDDEN),
    row("claude-opus-4-20250514",     "claude-opus-4",     "anthropic.claude-opus-4-20250514-v1:0",     NO,                                  "claude-opus-4@20250514",        !GC,    OPEN,   HIDDEN),
    row("claude-sonnet-4-20250514",   "claude-sonnet-4",   "anthropic.claude-sonnet-4-20250514-v1:0",   NO,                                  "claude-sonnet-4@20250514",      !GC,    OPEN,   HIDDEN),
    row("claude-3-7-sonnet-20250219", "claude-3-7-sonnet", "anthropic.claude-3-7-sonnet-20250219-v1:0", NO,                                  "claude-3-7-sonnet@20250219",    !GC,    OPEN,   HIDDEN),
    row("claude-3-5-sonnet-20241022", "claude-3-5-sonnet", "anthropic.claude-3-5-sonnet-20241022-v2:0", NO,                                  "claude-3-5-sonnet-v2@20241022", !GC,    OPEN,   HIDDEN),
    row("claude-3-5-haiku-20241022",  "claude-3-5-haiku",  "anthropic.claude-3-5-haiku-20241022-v1:0",  NO,                                  "claude-3-5-haiku@20241022",     !GC,    OPEN,   HIDDEN),
];

#[expect(clippy::too_many_arguments, reason = "the columns of a table")]
const fn row(
    id: &'static str,
    short: &'static str,
    bedrock: &'static str,
    mantle: Option<&'static str>,
    vertex: &'static str,
    on_google_cloud: bool,
    max_input_tokens: Option<u64>,
    is_listed: bool,
) -> BuiltIn {
    BuiltIn { id, short, bedrock, mantle, vertex, on_google_cloud, max_input_tokens, is_listed }
}

/// The inference profile of the United States, whose ids clients may also send.
pub(super) const US_PROFILE: &str = "us.";

/// The built-in model that `name` is a spelling of, in any case (inference contract §7.2).
pub fn find(name: &str) -> Option<&'static BuiltIn> {
    BUILT_IN.iter().find(|model| model.is_named(name))
}

impl BuiltIn {
    fn is_named(&self, name: &str) -> bool {
        let same = |id: &str| id.eq_ignore_ascii_case(name);
        let in_us_profile = name
            .get(..US_PROFILE.len())
            .filter(|prefix| prefix.eq_ignore_ascii_case(US_PROFILE))
            .is_some_and(|prefix| self.bedrock.eq_ignore_ascii_case(&name[prefix.len()..]));
        same(self.id) || same(self.short) || same(self.vertex) || self.mantle.is_some_and(same) || in_us_profile
    }

    /// `opus`, `sonnet`, …: the word of its name that is no number.
    pub fn family(&self) -> &'static str {
        self.id
            .split('-')
            .skip(1)
            .find(|word| word.starts_with(|first: char| first.is_ascii_alphabetic()))
            .unwrap_or("")
    }
}
