//! Secrets that cannot be printed by accident.

use std::fmt;

/// A value that must never be shown. It has no `Display` and no `Serialize`, and its `Debug` says nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Seals `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value. Call it only in the expression that uses it.
    pub const fn reveal(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}
