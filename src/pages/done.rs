//! The page that says that nothing is left to do here.

use maud::{Markup, html};

use crate::pages::Page;

/// A sign-in that came to its end.
#[derive(Debug, Clone)]
pub enum Done {
    /// With success, as this person if the identity provider gave an address.
    SignedIn {
        /// The address.
        email: Option<String>,
    },
    /// The person stopped it.
    Stopped,
}

impl Page for Done {
    fn title(&self) -> String {
        match self {
            Self::SignedIn { .. } => "You are signed in".to_owned(),
            Self::Stopped => "Sign-in stopped".to_owned(),
        }
    }

    fn content(&self) -> Markup {
        match self {
            Self::SignedIn { email } => html! {
                @if let Some(email) = email.as_deref().filter(|email| !email.is_empty()) {
                    p { "as " strong { (email) } }
                }
                p.next { "Go back to your terminal; it continues by itself. You can close this tab." }
            },
            Self::Stopped => html! {
                p { "The code does not work any more, and nobody was signed in with it." }
                p.next {
                    "You can close this tab. If you did not ask for this sign-in, tell your security team that "
                    "somebody sent you a sign-in link."
                }
            },
        }
    }

    fn sample() -> Self {
        Self::SignedIn { email: Some("alice@example.com <b>\"><b>".to_owned()) }
    }
}
