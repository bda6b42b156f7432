//! `/user/…`.

mod bootstrap;
