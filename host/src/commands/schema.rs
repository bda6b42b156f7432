//! `sallyport schema`: the JSON Schema of `gateway.yaml`, for editors.

use clap::Args;

use super::print;

/// Arguments of `schema`.
#[derive(Args)]
#[command(
    after_help = "For an editor that speaks the YAML language server's protocol, save it and begin gateway.yaml \
                        with:\n  # yaml-language-server: $schema=gateway.schema.json"
)]
pub(crate) struct Arguments {}

/// Prints it.
pub(crate) fn run(_: &Arguments) {
    print(sallyport::config::json_schema().trim_end());
}
