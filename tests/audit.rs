//! `docs/audit.md` is rendered from the one list of events, the enum in `src/domain/audit.rs`, read as source: its
//! variants, their fields, and the comments on both.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use syn::{Attribute, Expr, Fields, GenericArgument, Item, ItemEnum, ItemStruct, Lit, Meta, PathArguments, Type};

/// An event as the document shows it.
struct Event {
    names: Vec<String>,
    about: String,
    fields: Vec<Field>,
    has_request_id: bool,
}

struct Field {
    name: String,
    about: String,
    is_always_there: bool,
}

struct Source {
    events: ItemEnum,
    structs: Vec<ItemStruct>,
    /// The text of `name()`.
    names: String,
    /// The text of `has_request_id()`.
    without_request_id: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn source() -> Source {
    let text = fs::read_to_string(root().join("src/domain/audit.rs")).expect("src/domain/audit.rs");
    let body = |name: &str| {
        let from = text.find(&format!("fn {name}(")).unwrap_or_else(|| panic!("no fn {name}"));
        text[from..].split("\n    }\n").next().expect("a body").to_owned()
    };
    let (names, without_request_id) = (body("name"), body("has_request_id"));
    let file = syn::parse_file(&text).expect("Rust");
    let mut structs = Vec::new();
    let mut events = None;
    for item in file.items {
        match item {
            Item::Struct(item) => structs.push(item),
            Item::Enum(item) if item.ident == "AuditEvent" => events = Some(item),
            _ => {}
        }
    }
    Source { events: events.expect("enum AuditEvent"), structs, names, without_request_id }
}

/// The documentation comment, as one paragraph.
fn doc(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ")
}

/// What the `serde` attributes of a field say, as text.
fn serde(attributes: &[Attribute]) -> String {
    let lists = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("serde") => Some(list.tokens.to_string()),
        _ => None,
    });
    lists.collect::<Vec<_>>().join(", ")
}

impl Source {
    fn events(&self) -> Vec<Event> {
        self.events
            .variants
            .iter()
            .map(|variant| {
                let about = doc(&variant.attrs);
                let (head, about) = about.split_once(": ").unwrap_or_else(|| panic!("{}: no text", variant.ident));
                let names = head.split('`').skip(1).step_by(2).map(str::to_owned).collect();
                let has_request_id = !self.without_request_id.contains(&format!("Self::{}", variant.ident));
                Event { names, about: about.to_owned(), fields: self.fields(&variant.fields), has_request_id }
            })
            .collect()
    }

    fn fields(&self, fields: &Fields) -> Vec<Field> {
        let mut found = Vec::new();
        for field in fields {
            let serde = serde(&field.attrs);
            if serde.split(", ").any(|word| word == "skip") {
                continue;
            }
            match &field.ident {
                Some(name) if !serde.contains("flatten") => {
                    found.push(Field {
                        name: name.to_string(),
                        about: doc(&field.attrs),
                        is_always_there: !serde.contains("skip_serializing_if"),
                    });
                    // An object in the event: its members follow.
                    let members = self.object(&field.ty).map(|object| self.fields(&object.fields)).unwrap_or_default();
                    found.extend(
                        members.into_iter().map(|member| Field { name: format!("{name}.{}", member.name), ..member }),
                    );
                }
                // A struct of its own, whose fields are the event's.
                _ => found.extend(self.fields(&self.named(&field.ty).fields)),
            }
        }
        found
    }

    /// The struct behind `Option<&…>`, if it is one of this file.
    fn object(&self, kind: &Type) -> Option<&ItemStruct> {
        match kind {
            Type::Reference(reference) => self.object(&reference.elem),
            Type::Path(path) => {
                let last = path.path.segments.last()?;
                let found = self.structs.iter().find(|item| item.ident == last.ident);
                found.or_else(|| match &last.arguments {
                    PathArguments::AngleBracketed(arguments) if last.ident == "Option" => {
                        arguments.args.iter().find_map(|argument| match argument {
                            GenericArgument::Type(inner) => self.object(inner),
                            _ => None,
                        })
                    }
                    _ => None,
                })
            }
            _ => None,
        }
    }

    fn named(&self, kind: &Type) -> &ItemStruct {
        let Type::Path(path) = kind else { panic!("a field that is flattened is a struct") };
        let name = &path.path.segments.last().expect("a name").ident;
        let found = self.structs.iter().find(|item| item.ident == *name);
        found.unwrap_or_else(|| panic!("struct {name} is in src/domain/audit.rs"))
    }
}

fn render(events: &[Event]) -> String {
    let mut text = "# Audit events\n\n\
        <!-- Rendered from src/domain/audit.rs: cargo test -p sallyport --test main rewrite_the_audit -- --ignored -->\n\n\
        Every event is one line of JSON on standard error: `ts` (RFC 3339, milliseconds, UTC), `evt`, `request_id` where the \
        event belongs to a request (the `x-request-id` of its answer), then the fields below. Fields marked *optional* are \
        left out when there is nothing to say. No field ever holds prompts, answers, tokens or secrets.\n\n\
        Lines that are no audit events begin with `[gateway]`, or with `--log-format json` have a `level` and no `evt`.\n\n\
        ## A copy in the database\n\n\
        With `audit.store: true` every event is also kept in the table `audit_events` for `audit.retention_days` (365), \
        written in batches behind the responses. The copy follows standard error within moments; while the database is \
        away, up to 4096 events per instance wait for it, and what is lost beyond is said in the log. Standard error stays \
        the trail itself.\n\n\
        | | |\n|---|---|\n\
        | `GET /v1/organizations/audit_events` | a page, newest first: `{\"data\":[{\"type\":\"audit_event\",\"id\",\"entry\"}],\"has_more\",\"first_id\",\"last_id\"}` |\n\
        | `GET /v1/organizations/audit_events/export` | everything, oldest first: `format=ndjson` (default) or `format=csv` |\n\n\
        Both take an admin key (`x-api-key`, reading is enough) or the session of an administrator, and these parameters: \
        `starting_at` and `ending_at` (RFC 3339; the end is exclusive), `user_ids[]` (subject or e-mail address, at most \
        100), `events[]` (names as below, at most 100); pages also `limit` (1 to 1000, default 100) and `after_id` (the \
        `last_id` of the page before). Other parameters are refused. In the CSV form a cell that a spreadsheet would take \
        for a formula begins with an apostrophe. An export that breaks off cuts the connection.\n\n\
        ## Events\n"
        .to_owned();
    for event in events {
        let names: Vec<String> = event.names.iter().map(|name| format!("`{name}`")).collect();
        let mut about = event.about.clone();
        if let Some(first) = about.get(..1) {
            about = first.to_uppercase() + &about[1..];
        }
        let _ = write!(text, "\n### {}\n\n{about}\n\n| Field | |\n|---|---|\n", names.join(", "));
        if event.has_request_id {
            text.push_str("| `request_id` | Id of the request. |\n");
        }
        for field in &event.fields {
            let optional = if field.is_always_there { "" } else { "*Optional.* " };
            let about = field.about.replace('|', "\\|");
            let _ = writeln!(text, "| `{}` | {optional}{about} |", field.name);
        }
    }
    text
}

const DOCUMENT: &str = "docs/audit.md";

#[test]
fn the_document_lists_every_event_with_its_fields() {
    let committed = fs::read_to_string(root().join(DOCUMENT)).unwrap_or_default();
    let command = "cargo test -p sallyport --test main rewrite_the_audit -- --ignored";
    assert!(committed == render(&source().events()), "{DOCUMENT} is out of date; {command}");
}

#[test]
#[ignore = "writes the committed document instead of comparing it"]
fn rewrite_the_audit_document() {
    fs::write(root().join(DOCUMENT), render(&source().events())).expect("docs/ can be written");
}

#[test]
fn every_event_and_field_is_described() {
    let source = source();
    for event in source.events() {
        assert!(!event.names.is_empty() && event.about.ends_with('.'), "{:?}: {}", event.names, event.about);
        for name in &event.names {
            let is_literal = source.names.contains(&format!("\"{name}\""));
            assert!(is_literal || event.names.len() > 1, "{name} is not what name() says");
        }
        for field in &event.fields {
            assert!(field.about.ends_with('.'), "{:?}.{}: {:?}", event.names, field.name, field.about);
        }
    }
}

/// The contracts' tables (auth contract §11, inference contract §12): what must be there, and whether always.
const CONTRACT: &[(&str, bool, &str)] = &[
    ("config.load", false, "path sha256"),
    ("device.authorize", true, "result client_ip"),
    ("device.verify", true, "result client_ip"),
    ("device.deny", true, "result client_ip requested_from requested_at"),
    ("device.callback", true, "result client_ip"),
    ("session.mint", true, "result sub email client_ip ttl_hours err"),
    ("session.refresh", true, "result sub email client_ip ttl_hours step answer err"),
    ("auth.denied", true, "reason path client_ip"),
    ("access.denied", true, "reason client_ip"),
    ("managed.serve", true, "sub email policy_index policy_indexes checksum"),
    ("desktop_bootstrap.serve", true, "sub email policy_index policy_indexes"),
    ("desktop_bootstrap.denied", true, "reason sub email"),
    (
        "inference",
        true,
        "sub email path model upstream upstream_request_id upstream_cloud_request_id billing_group \
         billing_group_ignored status ms",
    ),
    (
        "spend.metered",
        true,
        "sub billing_group billing_group_ignored model input_tokens output_tokens cache_read_input_tokens \
         cache_creation_input_tokens cents",
    ),
    ("spend.blocked", true, "sub cause cap_cents source period groups"),
    ("admin.denied", false, "reason method path client_ip"),
    ("admin.limit.upsert", false, "actor target scope_type scope_id period amount"),
    ("admin.limit.delete", false, "actor target scope_type scope_id period"),
];

/// Fields beyond the contract, each of them optional.
const MORE: &[(&str, &str)] = &[
    ("device.verify", "err"),
    ("device.callback", "err"),
    ("inference", "masking"),
    ("inference", "count"),
    // Fields of a refresh, in the struct that both share; a sign-in never has them.
    ("session.mint", "step"),
    ("session.mint", "answer"),
];

#[test]
fn events_of_the_contract_have_exactly_its_fields() {
    let events = source().events();
    for (name, has_request_id, expected) in CONTRACT {
        let event = events.iter().find(|event| event.names.iter().any(|known| known == name));
        let event = event.unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(event.has_request_id, *has_request_id, "{name}");
        let fields = event.fields.iter().map(|field| field.name.as_str());
        let mut found: Vec<&str> = fields.filter(|name| !name.contains('.')).collect();
        for (_, more) in MORE.iter().filter(|(of, _)| of == name) {
            let field = event.fields.iter().find(|field| field.name == *more);
            assert!(field.is_some_and(|field| !field.is_always_there), "{name}.{more}");
            found.retain(|field| field != more);
        }
        let mut expected: Vec<&str> = expected.split_whitespace().collect();
        if event.names.len() > 1 {
            // One struct serves both events; what only the other one has is left out.
            expected.retain(|field| found.contains(field));
            found.retain(|field| expected.contains(field));
        }
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{name}");
    }
}
