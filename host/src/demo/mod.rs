//! `sallyport demo`: a gateway with everything around it, on one machine and without an account.
//!
//! This starts an identity provider and an upstream, writes the configuration that ties the gateway to them, and knows
//! what to tell the person at the terminal. Serving the gateway is the same as for `sallyport serve` and lives there;
//! nothing in this module is reachable from it.

mod grants;
mod http;
mod identity_provider;
mod sign_in_page;
mod upstream;

use std::fmt;
use std::io::{ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use url::Url;

use crate::{listen, private};
use identity_provider::{Client, IdentityProvider};

/// The first line of a configuration that this module may overwrite.
const HEADER: &str = "# Written by `sallyport demo` at each start; changes are lost.";

/// The gateway at the identity provider.
const CLIENT_ID: &str = "sallyport-demo";

/// How to run the demo.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Where the gateway will listen.
    pub(crate) listen: SocketAddr,
    /// Where the configuration is written. Created if missing.
    pub(crate) state_dir: PathBuf,
    /// Who answers questions.
    pub(crate) upstream: Upstream,
}

/// Who answers questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upstream {
    /// The demonstration upstream of this module.
    Demonstration,
    /// The Anthropic API, with the key in `ANTHROPIC_API_KEY`.
    Anthropic,
}

/// A running demo, up to the gateway itself. Its stand-ins stop when it is dropped.
pub(crate) struct Demo {
    /// The configuration to serve. Loopback targets must be allowed, as by `CLAUDE_GATEWAY_ALLOW_LOOPBACK=1`.
    pub(crate) config: PathBuf,
    /// What to print on stdout once the gateway listens.
    pub(crate) instructions: Instructions,
    _stand_ins: JoinSet<()>,
}

/// Starts the stand-ins and writes the configuration.
pub(crate) async fn run(options: &Options) -> anyhow::Result<Demo> {
    if options.listen.port() == 0 {
        bail!("the demo needs a port that it can announce: --listen 127.0.0.1:8080");
    }
    let gateway = gateway_url(options.listen);
    let mut stand_ins = JoinSet::new();

    let (listener, provider) = StandIn::open().await?;
    let client = Client {
        id: CLIENT_ID.to_owned(),
        secret: provider.secret.clone(),
        redirect_uri: Url::parse(&format!("{gateway}/oauth/callback"))?,
    };
    stand_ins.spawn(http::serve(listener, Arc::new(IdentityProvider::new(&provider.url, client))));

    let upstream = match options.upstream {
        Upstream::Anthropic => None,
        Upstream::Demonstration => {
            let (listener, stand_in) = StandIn::open().await?;
            let api_key = stand_in.secret.clone();
            stand_ins.spawn(http::serve(listener, Arc::new(upstream::Upstream { api_key })));
            Some(stand_in)
        }
    };

    // Another demonstration may be running there with the configuration that would be written over.
    drop(listen::bind(&options.listen.to_string()).await?);
    let config = options.state_dir.join("gateway.yaml");
    let text = configuration(options.listen, &gateway, &provider, upstream.as_ref());
    write_config(&config, &text)?;
    Ok(Demo { config, instructions: Instructions { gateway, upstream: options.upstream }, _stand_ins: stand_ins })
}

/// Something on this machine that the gateway calls.
struct StandIn {
    url: String,
    /// What the gateway has to show there: the client secret, or the API key.
    secret: String,
}

impl StandIn {
    /// Listens on a free port of this machine.
    async fn open() -> anyhow::Result<(TcpListener, Self)> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("cannot listen on 127.0.0.1")?;
        let url = format!("http://{}", listener.local_addr()?);
        Ok((listener, Self { url, secret: grants::token() }))
    }
}

/// A gateway on the embedded database, between the identity provider and the upstream, or the Anthropic API.
fn configuration(listen: SocketAddr, gateway: &str, provider: &StandIn, upstream: Option<&StandIn>) -> String {
    let (host, port) = (listen.ip(), listen.port());
    let StandIn { url: issuer, secret: client_secret } = provider;
    let upstream = match upstream {
        Some(StandIn { url, secret }) => format!("base_url: {url}\n    auth:\n      api_key: \"{secret}\""),
        None => "auth:\n      api_key: ${ANTHROPIC_API_KEY}".to_owned(),
    };
    format!(
        r#"{HEADER}
listen:
  host: "{host}"
  port: {port}
  public_url: {gateway}
oidc:
  issuer: {issuer}
  client_id: {CLIENT_ID}
  client_secret: "{client_secret}"
  id_token_signed_response_alg: ES256
session:
  ttl_hours: 1
store: {{}}
upstreams:
  - provider: anthropic
    {upstream}
"#
    )
}

/// What a person needs to sign in and ask. The commands can be pasted one by one into any POSIX shell.
#[derive(Debug, Clone)]
pub(crate) struct Instructions {
    gateway: String,
    upstream: Upstream,
}

impl fmt::Display for Instructions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gateway, .. } = self;
        let answers = match self.upstream {
            Upstream::Demonstration => "a demonstration upstream; set ANTHROPIC_API_KEY for real answers",
            Upstream::Anthropic => "the Anthropic API, with your ANTHROPIC_API_KEY",
        };
        write!(
            formatter,
            r#"
Sallyport is running at {gateway}
Answers come from {answers}.
Stop it with Ctrl-C. In another terminal, paste these three commands one by one:

1. Start a sign-in. It prints an address: open it in your browser. The page asks "Is this your code?". Compare it with
   the code at the end of the address, press "Yes, sign in", and pick a person.

SIGN_IN=$(curl -sS -X POST {gateway}/oauth/device_authorization); printf '%s\n' "$SIGN_IN" | sed -n 's/.*"verification_uri_complete": *"\([^"]*\)".*/Open \1/p'

2. Wait for the sign-in and keep its token.

while ANSWER=$(curl -sS {gateway}/oauth/token -d grant_type=urn:ietf:params:oauth:grant-type:device_code -d "device_code=$(printf '%s\n' "$SIGN_IN" | sed -n 's/.*"device_code": *"\([^"]*\)".*/\1/p')"); do case "$ANSWER" in *authorization_pending*|*slow_down*) sleep 5;; *) break;; esac; done; TOKEN=$(printf '%s\n' "$ANSWER" | sed -n 's/.*"access_token": *"\([^"]*\)".*/\1/p'); if [ -n "$TOKEN" ]; then echo 'You are signed in.'; else printf '%s\n' "$ANSWER"; fi

3. Ask, and see the answer stream.

curl -sS -N {gateway}/v1/messages -H "authorization: Bearer $TOKEN" -H 'anthropic-version: 2023-06-01' -H 'content-type: application/json' -d '{{"model":"claude-haiku-4-5","max_tokens":500,"stream":true,"messages":[{{"role":"user","content":"What is a sallyport?"}}]}}'

Claude Code uses the same token, for as long as it lasts (an hour):

ANTHROPIC_BASE_URL={gateway} ANTHROPIC_AUTH_TOKEN="$TOKEN" claude

"#
        )
    }
}

/// Where a browser on this machine reaches the gateway.
fn gateway_url(listen: SocketAddr) -> String {
    let reachable = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    format!("http://{}", SocketAddr::new(reachable, listen.port()))
}

/// Writes the configuration for its owner alone, and never over somebody else's file.
fn write_config(path: &Path, text: &str) -> anyhow::Result<()> {
    let directory = path.parent().context("the configuration needs a directory")?;
    private::create_directory(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    match std::fs::read_to_string(path) {
        Ok(existing) if !existing.starts_with(HEADER) => {
            bail!("{} was not written by `sallyport demo`; choose another --state-dir", path.display())
        }
        Ok(_) => std::fs::remove_file(path).with_context(|| format!("cannot replace {}", path.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests;
