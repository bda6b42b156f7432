//! Section `masking`: which identifiers never leave, and for whom. What the patterns may be is decided in `mask`.

use std::sync::Arc;

use super::decode::{Keys, section};
use super::kind::{choice, list, non_empty, non_empty_list};
use super::report::did_you_mean;
use crate::mask::{CustomPattern, DEFAULT_MAX_BODY_BYTES, Mode, Rules, Secrets, Settings, kind_names};

pub(super) fn masking(keys: &mut Keys<'_, '_>) -> Option<Arc<Rules>> {
    let mode = keys.or(
        "mode",
        choice(&[("enforce", Mode::Enforce), ("shadow", Mode::Shadow), ("off", Mode::Off)]),
        "enforce",
        "`enforce` masks, and refuses what cannot be masked; `shadow` counts and changes nothing; `off` does nothing.",
    );
    let kinds = keys.or(
        "kinds",
        list(non_empty()),
        "[aws, private_ip, secrets]",
        "What is masked: families, or single kinds such as `aws.ec2_instance`; `docs/masking.md` lists them. An empty \
         list leaves `custom` alone.",
    );
    let secrets = keys.or(
        "secrets",
        choice(&[("redact", Secrets::Redact), ("mask", Secrets::Mask), ("block", Secrets::Block)]),
        "redact",
        "What happens to secrets: replaced for good (`redact`), replaced and restored like everything else (`mask`), or \
         the request is refused with 400 (`block`).",
    );
    let custom =
        keys.or("custom", list(section(pattern)), "[]", "Patterns of your own. They apply whatever `kinds` says.");
    let allow = keys.or(
        "allow",
        list(non_empty()),
        "[]",
        "What is never masked: values, addresses, networks in CIDR notation, and patterns with `*`.",
    );
    let upstreams = keys.optional(
        "upstreams",
        non_empty_list(non_empty()),
        "Names of the upstreams for which requests are masked. Default: all.",
    );
    let groups = keys.or("groups", section(groups), "{}", "Whose requests are masked.");
    if keys.describes() {
        return None;
    }

    let settings = Settings {
        mode: mode?,
        kinds: kinds?,
        secrets: secrets?,
        custom: custom?,
        allow: allow?,
        upstreams: upstreams.unwrap_or_default(),
        skip_groups: groups?,
        max_body_bytes: DEFAULT_MAX_BODY_BYTES,
    };
    match settings.compile() {
        Ok(rules) => Some(Arc::new(rules)),
        Err(faults) => {
            for (path, message) in faults {
                let index = path.strip_prefix("kinds[").and_then(|rest| rest.strip_suffix(']')?.parse::<usize>().ok());
                let hint = index.and_then(|index| settings.kinds.get(index));
                let hint = hint.map(|given| did_you_mean(given, kind_names())).unwrap_or_default();
                let path = keys.path_of(&path);
                keys.report.fault_at(&path, message + &hint);
            }
            None
        }
    }
}

fn pattern(keys: &mut Keys<'_, '_>) -> Option<CustomPattern> {
    let name = keys.required(
        "name",
        non_empty(),
        "Name in receipts and metrics, behind `custom.`: 1 to 64 of a-z, 0-9 and `_`.",
    );
    let pattern = keys.required(
        "pattern",
        non_empty(),
        "Regular expression in the syntax of the Rust crate `regex`, for example `PRJ-[0-9]{6}`. Every match has at \
         least four bytes; what all matches begin with stays.",
    );
    Some(CustomPattern { name: name?, pattern: pattern? })
}

fn groups(keys: &mut Keys<'_, '_>) -> Option<Vec<String>> {
    keys.or("skip", list(non_empty()), "[]", "Members of these groups are not masked.")
}
