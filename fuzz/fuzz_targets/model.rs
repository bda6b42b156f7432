//! Names of models as a client may send them, lines of `availableModels` as an operator may write them.
//!
//! A name means the same in any case. What an upstream is sent is what is configured, or an id of the provider's for the
//! same model: asked for again, it leads to the same place or to none. The input may also be a `models:` section.

#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use sallyport::config::{self, Config, Sources};
use sallyport::ports::Files;
use sallyport::upstream::Catalog;
use sallyport::upstream::catalog::{allows, built_in};

const CONFIG: &str = "
listen: {host: 127.0.0.1, public_url: 'https://gateway.example.test'}
oidc: {issuer: 'https://login.example.test', client_id: sallyport, client_secret: placeholder}
upstreams:
  - {name: a, provider: anthropic, auth: {api_key: placeholder}}
  - {name: b, provider: bedrock, region: us-east-1, auth: {aws_bearer_token: placeholder}}
  - {name: c, provider: mantle, region: us-east-1, models: [claude-opus-5], auth: {aws_bearer_token: placeholder}}
  - {name: d, provider: vertex, region: global, project_id: p, auth: {access_token: placeholder}}
  - {name: e, provider: foundry, resource: res, auth: {api_key: placeholder}}
";

struct NoFiles;

impl Files for NoFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        Err(format!("{path}: no such file"))
    }
}

fn parse(text: &str) -> Option<Config> {
    let sources = Sources { variables: HashMap::new(), files: &NoFiles, allow_loopback: false };
    config::parse(text, &sources).ok().map(|loaded| loaded.config)
}

fuzz_target!(|data: &[u8]| {
    let Ok(name) = std::str::from_utf8(data) else { return };
    let plain = parse(CONFIG).expect("a good configuration");
    let models = format!("{CONFIG}models:\n  - {{id: mine, upstream_model: {{a: {name:?}}}}}\n");
    for config in [Some(plain), parse(&models), parse(&format!("{CONFIG}models: {name}\n"))].into_iter().flatten() {
        let catalog = Catalog::of(&config);
        for upstream in &config.upstreams {
            let resolved = catalog.resolve(name, upstream);
            for spelling in [name.to_ascii_uppercase(), name.to_ascii_lowercase()] {
                assert_eq!(catalog.resolve(&spelling, upstream).ok(), resolved.clone().ok(), "{name:?}");
            }
            let Some(model) = built_in::find(name) else { continue };
            if let (Ok(id), true) = (&resolved, config.models.is_empty()) {
                assert!(built_in::find(id).is_none_or(|found| found == model), "{name:?} is {id:?}");
            }
        }
        let list = catalog.list(&config.upstreams, &[], |_| true);
        for listed in &list.data {
            assert!(catalog.plan(&config.upstreams, &[], &listed.id).is_ok(), "{:?} is listed", listed.id);
        }
        let _ = catalog.plan(&config.upstreams, &[], name);
    }
    for model in built_in::BUILT_IN {
        // An operator's line is a word, a prefix at a dash, or the name itself.
        if allows(&[name], model.id) && !name.eq_ignore_ascii_case(model.id) {
            let line = name.to_ascii_lowercase();
            let line = line.strip_suffix("[1m]").unwrap_or(&line);
            assert!(model.id.contains(line) || model.short.contains(line), "{name:?} allows {}", model.id);
        }
    }
});
