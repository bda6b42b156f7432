//! `/managed/…`

pub(crate) mod settings;
