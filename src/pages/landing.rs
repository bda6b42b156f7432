//! What a person sees who opens the gateway's address (auth contract §4.1).

use maud::{Markup, html};

use crate::pages::Page;

/// The landing page.
#[derive(Debug, Clone)]
pub struct Landing {
    /// The public address.
    pub origin: String,
    /// Host name of the identity provider.
    pub identity_provider: String,
    /// Version of the gateway.
    pub version: &'static str,
}

impl Page for Landing {
    fn title(&self) -> String {
        "Claude Code gateway".to_owned()
    }

    fn content(&self) -> Markup {
        html! {
            p { "Claude Code reaches its models through this gateway. Nothing needs to be done in the browser." }
            p.next { "In Claude Code, run " code { "/login" } " and give this address:" }
            p.code.long { (self.origin) }
            p.hint { "A code appears in your terminal. " a href="/device" { "Enter it here" } " if no browser opens." }
            dl {
                dt { "Sign-in" } dd { (self.identity_provider) }
                dt { "For clients" } dd { a href="/.well-known/oauth-authorization-server" { "discovery document" } }
                dt { "Version" } dd { (self.version) }
            }
        }
    }

    fn sample() -> Self {
        Self {
            origin: "https://gw.example.test <b>\"><b>".to_owned(),
            identity_provider: "idp.example.test <b>".to_owned(),
            version: "0.0.0",
        }
    }
}
