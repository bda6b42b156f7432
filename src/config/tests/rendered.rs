//! What is rendered from a configuration (Spin's files) and from the decoders themselves (schema and reference).

use super::*;

#[test]
fn only_what_a_configuration_names_may_be_called() {
    let called = |text: &str| destinations(&load(text).config).into_iter().collect::<Vec<_>>().join(" ");
    let upstream = |entry: &str| called(&format!("upstreams: [{{ {entry} }}]"));
    assert_eq!(called(""), "https://api.anthropic.com https://idp.example.com");
    for (entry, expected) in [
        (
            "provider: anthropic, auth: { api_key: x }, base_url: 'https://proxy.example.com:8443/x'",
            "https://idp.example.com https://proxy.example.com:8443",
        ),
        (
            "provider: bedrock, region: eu-west-1",
            "http://169.254.169.254 http://169.254.170.2 http://169.254.170.23 https://bedrock-runtime.eu-west-1.amazonaws.com https://idp.example.com https://sts.eu-west-1.amazonaws.com",
        ),
        (
            "provider: bedrock, region: eu-west-1, auth: { aws_bearer_token: x }",
            "https://bedrock-runtime.eu-west-1.amazonaws.com https://idp.example.com",
        ),
        (
            "provider: mantle, region: eu-west-1, models: [m], auth: { aws_bearer_token: x }, assume_role: { role_arn: 'arn:aws:iam::123456789012:role/x' }",
            "https://bedrock-mantle.eu-west-1.api.aws https://idp.example.com https://sts.eu-west-1.amazonaws.com",
        ),
        (
            "provider: anthropicAws, region: us-east-1, workspace_id: w, auth: { api_key: x }",
            "https://aws-external-anthropic.us-east-1.api.aws https://idp.example.com",
        ),
        (
            "provider: anthropicGoogleCloud, project_id: p, workspace_id: w, auth: { access_token: x }",
            "https://claude.googleapis.com https://idp.example.com",
        ),
        (
            "provider: vertex, region: eu, project_id: p, auth: { service_account_json: /x }",
            "https://aiplatform.eu.rep.googleapis.com https://iamcredentials.googleapis.com https://idp.example.com https://oauth2.googleapis.com https://sts.googleapis.com",
        ),
        (
            "provider: vertex, region: global, project_id: p",
            "http://metadata.google.internal https://aiplatform.googleapis.com https://iamcredentials.googleapis.com https://idp.example.com https://oauth2.googleapis.com https://sts.googleapis.com",
        ),
        (
            "provider: foundry, resource: res, auth: { use_azure_ad: true }",
            "http://169.254.169.254 https://idp.example.com https://login.microsoftonline.com https://res.services.ai.azure.com",
        ),
    ] {
        assert_eq!(upstream(entry), expected, "{entry}");
    }
    assert_eq!(
        called(
            "store: { postgres_url: 'postgres://me@db.example.com/x' }\ntelemetry: { forward_to: [{ url: 'https://otel.example.com/v' }] }"
        ),
        "https://api.anthropic.com https://idp.example.com https://otel.example.com postgres://db.example.com:5432"
    );
    assert_eq!(
        called("store: { postgres_url: 'postgres://me@a:6000,[::1],b/x' }"),
        "https://api.anthropic.com https://idp.example.com postgres://[::1]:5432 postgres://a:6000 postgres://b:5432"
    );
    let socket = called("store: { postgres_url: 'postgres:///x?host=/run/sql' }");
    assert_eq!(socket, "https://api.anthropic.com https://idp.example.com");
    for (issuer, expected) in [
        ("https://accounts.google.com", "https://openidconnect.googleapis.com"),
        ("https://cognito-idp.eu-west-1.amazonaws.com/pool", "https://*.auth.eu-west-1.amazoncognito.com"),
    ] {
        let text = format!("oidc: {{ issuer: '{issuer}', client_id: x, client_secret: x }}");
        assert!(called(&text).contains(expected), "{issuer}");
    }
}

#[test]
fn spin_gets_the_variables_hosts_files_and_stores_that_the_configuration_needs() {
    let text = completed(
        "oidc: { issuer: https://idp.example.com, client_id: x, client_secret: '${OIDC_SECRET}', ca_cert_pem: '${file:/etc/ca.pem}' }\n\
         session: { jwt_secret: '${file:/secret}' }",
    );
    let config = parse(&text, &sources(false)).expect("valid").config;
    let SpinFiles { manifest, runtime_config } = render_spin("gateway.yaml", &text, &config);
    let expected = format!(
        r#"# Written by `sallyport render spin` for gateway.yaml. Render it again when gateway.yaml changes.
# The component for Spin 4.1 or newer: `spin build`, then `spin up --runtime-config-file runtime-config.toml`.
# Our own host honours the stores, the databases and the allowed hosts (`sallyport serve --manifest spin.toml`).
spin_manifest_version = 2

[application]
name = "sallyport"
version = "{version}"
description = "A gateway for Claude Code"

# ${{NAME}} in gateway.yaml is the variable of that name in lower case.
[variables]
oidc_secret = {{ required = true, secret = true }}

[[trigger.http]]
route = "/..."
component = "sallyport"

[component.sallyport]
source = "target/wasm32-wasip2/release/sallyport.wasm"
key_value_stores = ["default"]
sqlite_databases = ["default"]
files = [
  {{ source = "gateway.yaml", destination = "/gateway.yaml" }},
  {{ source = "/etc/ca.pem", destination = "/etc/ca.pem" }},
  {{ source = "/secret", destination = "/secret" }},
]
# Exactly what gateway.yaml names. Should the identity provider's discovery document name endpoints on
# other hosts, add them.
allowed_outbound_hosts = [
  "https://api.anthropic.com",
  "https://idp.example.com",
]

[component.sallyport.variables]
oidc_secret = "{{{{ oidc_secret }}}}"

[component.sallyport.build]
command = "cargo build --release --package sallyport --lib --target wasm32-wasip2"
watch = ["src/**/*.rs", "migrations/*.sql", "Cargo.toml"]
"#,
        version = env!("CARGO_PKG_VERSION"),
    );
    assert_eq!(manifest, expected);
    assert_eq!(
        runtime_config,
        r#"# Written by `sallyport render spin` for gateway.yaml. Render it again when gateway.yaml changes.
# Where the component's stores live. Run from this directory: Spin takes the path of a SQLite database
# from the current one. The files are those of `sallyport serve`.
[key_value_store.default]
type = "spin"
path = ".sallyport/key_value.db"

[sqlite_database.default]
type = "spin"
path = ".sallyport/sqlite.db"

[outbound_networking]
block_networks = ["169.254.0.0/16", "fe80::/10", "100.100.100.200/32", "168.63.129.16/32", "192.0.0.192/32", "fd00:ec2::254/128", "fd20:ce::254/128"]

[[client_tls]]
component_ids = ["sallyport"]
hosts = ["idp.example.com"]
ca_use_platform_roots = true
ca_roots_file = "/etc/ca.pem"

# Client certificates and extra roots, per host:
# [[client_tls]]
# component_ids = ["sallyport"]
# hosts = ["gateway.internal.example.com"]
# ca_roots_file = "/etc/ssl/internal-ca.pem"
# client_cert_file = "/etc/sallyport/client.pem"
# client_private_key_file = "/etc/sallyport/client.key"
"#
    );

    let text = include_str!("complete.yaml");
    let SpinFiles { manifest, runtime_config } = render_spin("deploy/other.yaml", text, &load(text).config);
    assert!(manifest.contains("{ source = \"deploy/other.yaml\", destination = \"/gateway.yaml\" },\n"), "{manifest}");
    assert!(manifest.starts_with("# Written by `sallyport render spin` for deploy/other.yaml."), "{manifest}");
    assert!(!manifest.contains("sqlite") && !runtime_config.contains("sqlite"), "PostgreSQL replaces SQLite");
    assert!(manifest.contains("\"postgres://db.example.com:5432\""));
    // A credential of this configuration comes from a metadata service.
    assert!(!runtime_config.contains("169.254.0.0/16") && runtime_config.contains("100.100.100.200/32"));
    for path in ["/token", "/sa.json", "/etc/ca.pem"] {
        assert!(manifest.contains(&format!("source = \"{path}\"")), "{path}");
    }
    let client_tls = "hosts = [\"proxy.example.com\"]\nca_use_platform_roots = false\nca_roots_file = \"/etc/ca.pem\"\n\
                      client_cert_file = \"/etc/client.pem\"\n# Spin reads plain keys only: decrypt this one.\n\
                      client_private_key_file = \"/etc/client.key\"\n";
    assert!(runtime_config.contains(client_tls), "{runtime_config}");
    assert!(!manifest.contains("0123456789abcdef") && !runtime_config.contains("0123456789abcdef"));
}

/// The documents that are rendered from the decoders and from the committed configuration, and where they are committed.
fn rendered() -> [(&'static str, String); 5] {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/gateway.yaml"));
    let variables = variables(text).into_iter().map(|name| (name, "example".to_owned())).collect();
    let loaded = parse(text, &Sources { variables, files: &TestFiles, allow_loopback: false });
    let config = loaded.map_err(|faults| shown(&faults)).expect("gateway.yaml has no faults").config;
    let SpinFiles { manifest, runtime_config } = render_spin("gateway.yaml", text, &config);
    [
        (concat!(env!("CARGO_MANIFEST_DIR"), "/spin.toml"), manifest),
        (concat!(env!("CARGO_MANIFEST_DIR"), "/runtime-config.toml"), runtime_config),
        (concat!(env!("CARGO_MANIFEST_DIR"), "/docs/gateway.schema.json"), json_schema()),
        (concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md"), reference()),
        (concat!(env!("CARGO_MANIFEST_DIR"), "/src/config/tests/refusals.txt"), every_key::refusals()),
    ]
}

#[test]
fn the_committed_schema_reference_spin_files_and_refusals_are_what_is_rendered() {
    for (path, text) in rendered() {
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == text, "{path} is out of date; cargo test -p sallyport rewrite_the_rendered -- --ignored");
    }
}

#[test]
#[ignore = "writes the committed documents instead of comparing them"]
fn rewrite_the_rendered_documents() {
    for (path, text) in rendered() {
        std::fs::write(path, text).expect("docs/ can be written");
    }
}

#[test]
fn every_key_is_documented_in_sentences() {
    fn walk(path: &str, shape: &shape::Shape) {
        let fields: Vec<&shape::Field> = match shape {
            shape::Shape::Section(fields) => fields.iter().collect(),
            shape::Shape::Tagged { variants, common, .. } => {
                common.iter().chain(variants.iter().flat_map(|variant| &variant.fields)).collect()
            }
            shape::Shape::List { item, .. } | shape::Shape::OneOrMany(item) | shape::Shape::Map(item) => {
                return walk(path, item);
            }
            _ => return,
        };
        assert!(!fields.is_empty(), "{path}");
        for field in fields {
            let path = format!("{path}.{}", field.name);
            assert!(field.doc.ends_with('.') && field.doc.len() > 5, "{path}: {}", field.doc);
            walk(&path, &field.shape);
        }
    }
    walk("", &decode::describe(gateway::sections));
}

#[test]
fn the_complete_example_satisfies_the_schema() {
    let schema: serde_json::Value = serde_json::from_str(&json_schema()).expect("JSON");
    let root = yaml::read(include_str!("complete.yaml")).map_err(|fault| fault.to_string()).expect("YAML").root;
    assert_eq!(violations(&root, &schema, "").join("\n"), "");
    let wrong = yaml::read("listen: { prot: 1 }\noidc: {}\nupstreams: [{ provider: bedrock }]")
        .map_err(|fault| fault.to_string());
    let wrong = wrong.expect("YAML").root;
    assert_eq!(violations(&wrong, &schema, "").len(), 3);
}

/// The few words of JSON Schema that the schema uses.
fn violations(node: &yaml::Node, schema: &serde_json::Value, path: &str) -> Vec<String> {
    use yaml::Value;
    let mut found = Vec::new();
    let mut say = |what: &str| found.push(format!("{path}: {what}"));
    let type_name = match &node.value {
        Value::Mapping(_) => "object",
        Value::List(_) => "array",
        Value::Text(_) => "string",
        Value::Switch(_) => "boolean",
        Value::Number(text) if text.parse::<i64>().is_ok() => "integer",
        Value::Number(_) => "number",
        Value::Null | Value::Faulty => "null",
    };
    let allows = |allowed: &str| allowed == type_name || (allowed, type_name) == ("number", "integer");
    let type_fits = match &schema["type"] {
        serde_json::Value::String(one) => allows(one),
        serde_json::Value::Array(several) => several.iter().filter_map(serde_json::Value::as_str).any(allows),
        _ => true,
    };
    if !type_fits {
        say("wrong type");
    }
    if let (Some(words), Value::Text(text)) = (schema["enum"].as_array(), &node.value)
        && !words.iter().any(|word| word == text)
    {
        say("not one of the words");
    }
    if let (Some(constant), Value::Text(text)) = (schema["const"].as_str(), &node.value)
        && constant != text
    {
        say("not the constant");
    }
    if schema.get("pattern").is_some() && !matches!(&node.value, Value::Text(text) if text.contains("${")) {
        say("not a reference");
    }
    let fits = |schema: &&serde_json::Value| violations(node, schema, path).is_empty();
    if let Some(choices) = schema["anyOf"].as_array()
        && !choices.iter().any(|schema| fits(&schema))
    {
        say("none of anyOf");
    }
    if let Some(choices) = schema["oneOf"].as_array()
        && choices.iter().filter(fits).count() != 1
    {
        say("not one of oneOf");
    }
    if let Value::Mapping(entries) = &node.value {
        for required in schema["required"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str) {
            if !entries.iter().any(|entry| entry.key == required) {
                say(&format!("lacks {required}"));
            }
        }
    }
    let mut below = Vec::new();
    match &node.value {
        Value::Mapping(entries) => {
            for yaml::Entry { key, node, .. } in entries {
                let path = format!("{path}.{key}");
                match schema["properties"].get(key).unwrap_or(&schema["additionalProperties"]) {
                    serde_json::Value::Bool(false) => below.push(format!("{path}: unknown")),
                    schema => below.extend(violations(node, schema, &path)),
                }
            }
        }
        Value::List(items) => {
            for node in items {
                below.extend(violations(node, &schema["items"], path));
            }
        }
        _ => {}
    }
    // A wrong mapping is one violation per problem, deepest last.
    found.extend(below);
    found
}
