//! spin:variables ← the environment, of which only the names that `gateway.yaml` mentions exist.

use std::collections::HashMap;

use wasmtime::component::Accessor;

use super::Imports;
use super::bindings::spin::variables::variables::{Error, Host, HostWithStore};
use crate::instance::Instance;

/// The variables by their lower-case name, which is how Spin spells them.
#[derive(Default)]
pub(crate) struct Variables(HashMap<String, String>);

impl Variables {
    /// From values by the name in `gateway.yaml`. Two names that differ only in case are left to the environment,
    /// which tells them apart.
    pub(crate) fn new(values: &HashMap<String, String>) -> Self {
        let mut variables = HashMap::with_capacity(values.len());
        for (name, value) in values {
            let clash = values.keys().any(|other| other != name && other.eq_ignore_ascii_case(name));
            if !clash {
                variables.insert(name.to_lowercase(), value.clone());
            }
        }
        Self(variables)
    }
}

impl Host for Instance {}

impl<T: Send> HostWithStore<T> for Imports {
    async fn get(accessor: &Accessor<T, Self>, name: String) -> wasmtime::Result<Result<String, Error>> {
        let value = accessor.with(|mut access| access.get().world.variables.0.get(&name).cloned());
        Ok(value.ok_or_else(|| Error::Undefined(format!("no variable `{name}`"))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_only_in_case_are_not_confused() {
        let values = [("API_KEY", "1"), ("Token", "2"), ("TOKEN", "3")];
        let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let variables = Variables::new(&values);
        assert_eq!(variables.0.get("api_key").map(String::as_str), Some("1"));
        assert_eq!(variables.0.get("token"), None);
    }
}
