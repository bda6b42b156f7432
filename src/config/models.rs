//! `models` (auth contract §3.6, inference contract §7.4).

use super::Model;
use super::decode::Keys;
use super::kind::{any_name, map, non_empty, text};

pub(super) fn model(keys: &mut Keys<'_, '_>) -> Option<Model> {
    let id = keys.required(
        "id",
        non_empty(),
        "What clients ask for; compared without regard to case. For a built-in model, in any of its spellings, this \
         overrides what is sent upstream.",
    );
    let label = keys.optional("label", text(), "Name shown in model lists.");
    let description = keys.optional("description", text(), "Description shown in model lists.");
    let upstream_model = keys.required(
        "upstream_model",
        map(any_name, non_empty()).such_that(|map| !map.is_empty(), "must name at least one upstream"),
        "Upstream name to the model id that it receives, verbatim.",
    );
    Some(Model { id: id?, label, description, upstream_model: upstream_model?.into_iter().collect() })
}
