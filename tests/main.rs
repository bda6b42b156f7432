//! Everything that judges the component natively: endpoints behind ports made of values, and the rules of the house.

mod audit;
mod endpoints;
mod streams;
mod support;
mod tidy;
