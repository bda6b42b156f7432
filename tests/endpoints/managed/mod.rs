//! `/managed/…`.

mod settings;
