//! The page that says what went wrong and what to do next. Why it went wrong is in the audit trail, under the same
//! reference.

use maud::{Markup, html};

use crate::pages::Page;

/// A short number that ties a page to the audit trail: the first eight characters of the request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference(String);

impl Reference {
    /// The reference of a request.
    pub fn of(request_id: &str) -> Self {
        Self(request_id.chars().take(8).collect())
    }

    /// As a line of a page.
    pub(super) fn line(&self) -> Markup {
        html! { p.reference { "Reference " code { (self.0) } } }
    }
}

/// What went wrong, as far as the person at the browser can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The identity provider refused, and said so.
    ProviderRefused,
    /// The link back is damaged or too old.
    LinkExpired,
    /// Another browser, or another tab, began the sign-in.
    OtherBrowser,
    /// The code was used, denied, or is over.
    AlreadyDecided,
    /// The identity provider or the configuration does not let this person in.
    Refused,
    /// The identity provider cannot be reached.
    ProviderAway,
    /// There is no code to stop.
    NothingWaits,
    /// Something of our own is broken.
    Ours,
}

impl Trouble {
    /// Every one of them.
    pub const ALL: [Self; 8] = [
        Self::ProviderRefused,
        Self::LinkExpired,
        Self::OtherBrowser,
        Self::AlreadyDecided,
        Self::Refused,
        Self::ProviderAway,
        Self::NothingWaits,
        Self::Ours,
    ];

    /// Heading, explanation, advice.
    const fn text(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::ProviderRefused => (
                "Your identity provider said no",
                "It sent you back without signing you in.",
                "Go back to your terminal and start the sign-in again. If it happens again, give your administrator \
                 the reference below.",
            ),
            Self::LinkExpired => (
                "This link has expired",
                "It works once, for ten minutes.",
                "Go back to your terminal and start the sign-in again.",
            ),
            Self::OtherBrowser => (
                "This sign-in began in another browser",
                "To protect you, it must end in the browser where it began, and only the newest of several sign-ins \
                 counts.",
                "Return to that browser, or enter the code from your terminal here once more.",
            ),
            Self::AlreadyDecided => (
                "This code was already used",
                "Or it was stopped, or it has expired. A code works once, for ten minutes.",
                "Look at your terminal: if it is not signed in, start the sign-in again.",
            ),
            Self::Refused => (
                "You could not be signed in",
                "The sign-in could not be completed with this account.",
                "If you have several accounts, start again from your terminal and choose the other one. Otherwise \
                 give your administrator the reference below: it tells them why.",
            ),
            Self::ProviderAway => (
                "Sign-in is not available right now",
                "The gateway cannot reach your identity provider.",
                "Wait a minute, then start the sign-in again from your terminal. If it goes on, give your \
                 administrator the reference below.",
            ),
            Self::NothingWaits => (
                "Nothing is waiting",
                "There is no sign-in to stop: the code is not known, has expired, or was already used.",
                "You can close this tab. If a sign-in in your name went through that you did not start, tell your \
                 security team at once.",
            ),
            Self::Ours => (
                "Something went wrong here",
                "The gateway could not do its part. Nothing is wrong with your account or your code.",
                "Wait a minute and load this page again. If it goes on, give your administrator the reference below.",
            ),
        }
    }

    /// Whether typing the code once more can help.
    const fn may_enter_code(self) -> bool {
        matches!(self, Self::OtherBrowser | Self::NothingWaits)
    }
}

/// The page.
#[derive(Debug, Clone)]
pub struct Problem {
    /// What went wrong.
    pub trouble: Trouble,
    /// For whoever is asked for help.
    pub reference: Reference,
    /// What somebody else said about it, shown as a quotation.
    pub detail: Option<String>,
}

/// The most that is shown of what somebody else said.
const MAX_DETAIL: usize = 300;

impl Page for Problem {
    fn title(&self) -> String {
        self.trouble.text().0.to_owned()
    }

    fn content(&self) -> Markup {
        let (_, explanation, advice) = self.trouble.text();
        html! {
            p { (explanation) }
            @if let Some(detail) = &self.detail {
                blockquote { (detail.chars().take(MAX_DETAIL).collect::<String>()) }
            }
            h2 { "What to do" }
            p.next { (advice) }
            @if self.trouble.may_enter_code() {
                p { a.button href="/device" { "Enter a code" } }
            }
            (self.reference.line())
        }
    }

    fn sample() -> Self {
        Self {
            trouble: Trouble::ProviderRefused,
            reference: Reference::of("0a1b2c3d-0000-4000-8000-000000000000"),
            detail: Some("access_denied: <b>\"><b> no".to_owned()),
        }
    }
}
