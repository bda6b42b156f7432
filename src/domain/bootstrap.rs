//! Claude Desktop's bootstrap document, `GET /user/bootstrap` (auth contract §9): which policy opts in, and what it says.

use serde_json::{Value, json};

use crate::config::{Config, Json};
use crate::domain::ids::Timestamp;
use crate::domain::policy::{Caller, Effective, Policies, Selection};
use crate::domain::telemetry_attribute;

/// Who asks, and what only the request knows.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// `sub` of the session.
    pub sub: &'a str,
    /// E-mail address of the session.
    pub email: Option<&'a str>,
    /// Groups of the session.
    pub groups: &'a [String],
    /// When the session ends.
    pub expires_at: Timestamp,
    /// The public origin, as this request sees it.
    pub origin: &'a str,
}

/// A model of the catalog that the caller may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferedModel<'a> {
    /// Id.
    pub name: &'a str,
    /// Whether it has a context window of a million tokens.
    pub supports_1m: bool,
}

/// The answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// 200.
    Serve {
        /// The document.
        document: Json,
        /// Which policies it is from.
        selection: Selection,
    },
    /// 404.
    Denied(Denial),
}

/// Why there is no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// No policy anywhere has a `desktop` block.
    NotConfigured,
    /// No policy holds for the caller.
    NoPolicyMatched,
    /// The caller's policy has no `desktop` block, nor does the catch-all.
    PolicyNotOptedIn,
}

impl Denial {
    /// The audit's `reason`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NotConfigured => "not_configured",
            Self::NoPolicyMatched => "no_policy_matched",
            Self::PolicyNotOptedIn => "policy_not_opted_in",
        }
    }
}

/// Decides what `asker` gets. `models` are the catalog entries that its policy allows.
pub fn answer(config: &Config, policies: &Policies, asker: Asker<'_>, models: &[OfferedModel<'_>]) -> Answer {
    if !policies.has_desktop() {
        return Answer::Denied(Denial::NotConfigured);
    }
    let Some(selection) = policies.select(Caller { groups: asker.groups, email: asker.email }) else {
        return Answer::Denied(Denial::NoPolicyMatched);
    };
    let effective = policies.effective_of(&selection);
    match &effective.desktop {
        None => Answer::Denied(Denial::PolicyNotOptedIn),
        Some(desktop) => {
            let manages_claude_code = policies.is_code() && effective.has_own_settings;
            let document = document(config, &effective, desktop, manages_claude_code, asker, models);
            Answer::Serve { document, selection }
        }
    }
}

/// Whether the caller is an administrator of spend, which a header tells Claude Desktop.
pub fn is_spend_admin(config: &Config, groups: &[String]) -> bool {
    config.admin.as_ref().is_some_and(|admin| admin.admin_groups.iter().any(|group| groups.contains(group)))
}

fn document(
    config: &Config,
    effective: &Effective,
    desktop: &Json,
    manages_claude_code: bool,
    asker: Asker<'_>,
    models: &[OfferedModel<'_>],
) -> Json {
    let mut document = Json::new();
    let mut set = |key: &str, value: Value| document.insert(key.to_owned(), value);
    set("inferenceProvider", json!("gateway"));
    set("inferenceGatewayBaseUrl", json!(asker.origin));
    set("inferenceCredentialKind", json!("interactive"));
    if manages_claude_code {
        set("inferenceGatewayManagedClaudeCode", json!(true));
    }
    if !config.telemetry.forward_to.is_empty() {
        set("otlpEndpoint", json!(asker.origin));
        set("otlpProtocol", json!("http/protobuf"));
        set("otlpResourceAttributes", Value::Object(attributes(&config.telemetry.resource_attributes, asker)));
    }
    let offered = |model: &OfferedModel<'_>| {
        if model.supports_1m {
            json!({ "name": model.name, "supports1m": true })
        } else {
            json!({ "name": model.name })
        }
    };
    set("inferenceModels", models.iter().map(offered).collect());
    let disabled_tools = disabled_tools(&effective.settings, desktop);
    if !disabled_tools.is_empty() {
        set("disabledBuiltinTools", json!(disabled_tools));
    }
    let allowed_domains = || effective.settings.get("sandbox")?.get("network")?.get("allowedDomains");
    if let Some(hosts) = desktop.get("coworkEgressAllowedHosts").or_else(allowed_domains) {
        set("coworkEgressAllowedHosts", hosts.clone());
    }
    for (key, value) in desktop {
        if !matches!(key.as_str(), "disabledBuiltinTools" | "coworkEgressAllowedHosts") {
            set(key, value.clone());
        }
    }
    set("expiresAt", json!(asker.expires_at.as_secs()));
    document
}

/// Configured attributes, then who the person is.
fn attributes(configured: &[(String, String)], asker: Asker<'_>) -> Json {
    let mut attributes: Json = configured.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let mut set = |name: &str, value: &str| attributes.insert(name.to_owned(), json!(value));
    set("enduser.id", asker.email.unwrap_or(asker.sub));
    if let Some(email) = asker.email {
        set("user.email", email);
    }
    // As a whole or not at all: half a list of groups would be a wrong one.
    let groups = asker.groups.join(",");
    if groups.len() <= 255
        && asker.groups.iter().all(|group| telemetry_attribute::is_value(group))
        && !groups.is_empty()
    {
        set("user.groups", &groups);
    }
    set("enduser.sub", asker.sub);
    attributes
}

/// Tools that are denied as a whole, then those that the desktop document disables.
fn disabled_tools(settings: &Json, desktop: &Json) -> Vec<String> {
    let denied = settings.get("permissions").and_then(|permissions| permissions.get("deny"));
    let is_bare = |tool: &&str| !tool.contains(['(', ')']) && !tool.starts_with("mcp__");
    let texts = |list: Option<&Value>| -> Vec<String> {
        list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut tools = Vec::new();
    let denied = texts(denied).into_iter().filter(|tool| is_bare(&tool.as_str()));
    for tool in denied.chain(texts(desktop.get("disabledBuiltinTools"))) {
        if !tools.contains(&tool) {
            tools.push(tool);
        }
    }
    tools
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::config::{self, Sources};

    struct NoFiles;

    impl crate::ports::Files for NoFiles {
        fn read(&self, path: &str) -> Result<Vec<u8>, String> {
            Err(format!("{path} is not there"))
        }
    }

    fn config(sections: &str) -> Config {
        let text = format!(
            "listen: {{ public_url: https://gw.example.com }}\n\
             oidc: {{ issuer: https://idp.example.com, client_id: gateway, client_secret: example }}\n\
             upstreams: [{{ provider: anthropic, auth: {{ api_key: example }} }}]\n{sections}"
        );
        let sources = Sources { variables: HashMap::new(), files: &NoFiles, allow_loopback: false };
        config::parse(&text, &sources).unwrap_or_else(|faults| panic!("{faults:?}")).config
    }

    fn ask(sections: &str, groups: &[&str]) -> Answer {
        let config = config(sections);
        let groups: Vec<_> = groups.iter().map(|group| (*group).to_owned()).collect();
        let asker = Asker {
            sub: "00u1",
            email: Some("ann@example.com"),
            groups: &groups,
            expires_at: Timestamp::from_secs(1_795_193_642),
            origin: "https://gw.example.com",
        };
        let models = [
            OfferedModel { name: "claude-opus-4-8", supports_1m: true },
            OfferedModel { name: "claude-haiku-4-5-20251001", supports_1m: false },
        ];
        answer(&config, &Policies::new(&config), asker, &models)
    }

    fn text(answer: Answer) -> String {
        match answer {
            Answer::Serve { document, .. } => Value::Object(document).to_string(),
            Answer::Denied(denial) => denial.reason().to_owned(),
        }
    }

    #[test]
    fn only_policies_with_a_desktop_block_are_served() {
        let no_desktop = "managed: { policies: [{ code: { model: m } }] }";
        let for_group = "managed: { policies: [{ match: { groups: [a] }, desktop: {} }, { match: { groups: [b] } }] }";
        let inherited = "managed: { policies: [{ match: { groups: [a] } }, { desktop: {} }] }";
        assert_eq!(text(ask("", &[])), "not_configured");
        assert_eq!(text(ask(no_desktop, &[])), "not_configured");
        assert_eq!(text(ask(for_group, &["c"])), "no_policy_matched");
        assert_eq!(text(ask(for_group, &["b"])), "policy_not_opted_in");
        assert!(matches!(ask(for_group, &["a"]), Answer::Serve { .. }));
        assert!(matches!(ask(inherited, &["a"]), Answer::Serve { .. }));
    }

    #[test]
    fn the_document_says_what_desktop_needs_and_nothing_more() {
        assert_eq!(
            text(ask("managed: { policies: [{ desktop: {} }] }", &[])),
            concat!(
                r#"{"inferenceProvider":"gateway","inferenceGatewayBaseUrl":"https://gw.example.com","#,
                r#""inferenceCredentialKind":"interactive","#,
                r#""inferenceModels":[{"name":"claude-opus-4-8","supports1m":true},{"name":"claude-haiku-4-5-20251001"}],"#,
                r#""expiresAt":1795193642}"#
            )
        );
    }

    #[test]
    fn the_document_draws_on_settings_telemetry_and_the_desktop_block() {
        let sections = "
telemetry:
  forward_to: [{ url: https://otel.example.com }]
  resource_attributes: { team: x }
managed:
  policies:
    - code:
        permissions: { deny: [WebFetch, 'Bash(rm *)', mcp__x, WebSearch] }
        sandbox: { network: { allowedDomains: [example.com] } }
      desktop: { banner: { text: hello }, disabledBuiltinTools: [WebSearch, Task] }
";
        assert_eq!(
            text(ask(sections, &["eng", "ops"])),
            concat!(
                r#"{"inferenceProvider":"gateway","inferenceGatewayBaseUrl":"https://gw.example.com","#,
                r#""inferenceCredentialKind":"interactive","inferenceGatewayManagedClaudeCode":true,"#,
                r#""otlpEndpoint":"https://gw.example.com","otlpProtocol":"http/protobuf","#,
                r#""otlpResourceAttributes":{"team":"x","enduser.id":"ann@example.com","user.email":"ann@example.com","#,
                r#""user.groups":"eng,ops","enduser.sub":"00u1"},"#,
                r#""inferenceModels":[{"name":"claude-opus-4-8","supports1m":true},{"name":"claude-haiku-4-5-20251001"}],"#,
                r#""disabledBuiltinTools":["WebFetch","WebSearch","Task"],"coworkEgressAllowedHosts":["example.com"],"#,
                r#""banner":{"text":"hello"},"expiresAt":1795193642}"#
            )
        );
        // Telemetry that the gateway adds does not make an empty document a managed one.
        let empty = "
telemetry: { forward_to: [{ url: https://otel.example.com }] }
managed: { policies: [{ code: {}, desktop: { coworkEgressAllowedHosts: [a] } }] }
";
        let text = text(ask(empty, &["a,b"]));
        assert!(!text.contains("inferenceGatewayManagedClaudeCode") && !text.contains("user.groups"), "{text}");
        assert!(text.contains(r#""coworkEgressAllowedHosts":["a"]"#), "{text}");
    }
}
