//! Spending: periods, caps, the verdict before a request, and what callers are told about it. What an answer costs is
//! `price`'s; remembering is the store's.

pub mod alert;
pub mod calendar;
pub mod estimate;
pub mod limit;
pub mod notice;
pub mod usage;
pub mod verdict;
