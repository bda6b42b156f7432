//! The page where a person types a code, and the one where they confirm it (auth contract §5.2).

use maud::{Markup, html};

use crate::pages::{Page, Reference};

/// The form for a code.
#[derive(Debug, Clone)]
pub struct EnterCode {
    /// Host name of the gateway.
    pub host: String,
    /// `login_notice`.
    pub login_notice: Option<String>,
    /// Why the form is shown again, if it is.
    pub complaint: Option<Complaint>,
}

/// Why a posted code did not lead anywhere.
#[derive(Debug, Clone)]
pub struct Complaint {
    /// What happened, and what to do.
    pub text: String,
    /// For whoever is asked for help.
    pub reference: Reference,
}

impl Page for EnterCode {
    fn title(&self) -> String {
        "Sign in to Claude Code".to_owned()
    }

    fn content(&self) -> Markup {
        html! {
            (notice(self.login_notice.as_deref()))
            @if let Some(complaint) = &self.complaint {
                div.complaint role="alert" {
                    p { (complaint.text) }
                    (complaint.reference.line())
                }
            }
            form method="post" action="/device" {
                label for="user_code" { "Code shown in your terminal" }
                input type="text" id="user_code" name="user_code" required autofocus autocomplete="off"
                    autocapitalize="characters" spellcheck="false" aria-describedby="hint";
                p.hint id="hint" { "Eight letters. Upper or lower case, with or without the hyphen." }
                button type="submit" { "Continue" }
            }
            (host(&self.host))
        }
    }

    fn sample() -> Self {
        Self {
            host: "gw.example.test".to_owned(),
            login_notice: Some("Staff only <b>\"><b>".to_owned()),
            complaint: Some(Complaint {
                text: "This code is not known, or it has expired. <b>".to_owned(),
                reference: Reference::of("0a1b2c3d-0000"),
            }),
        }
    }
}

/// The question whether the code is the person's own.
#[derive(Debug, Clone)]
pub struct Confirm {
    /// The code as it was given: neither checked nor normalised.
    pub user_code: String,
    /// Host name of the gateway.
    pub host: String,
    /// `login_notice`.
    pub login_notice: Option<String>,
}

/// A code with its hyphen; anything longer was made up by somebody and needs a smaller letter.
const USUAL_LENGTH: usize = 12;

impl Page for Confirm {
    fn title(&self) -> String {
        "Is this your code?".to_owned()
    }

    fn content(&self) -> Markup {
        let is_long = self.user_code.chars().count() > USUAL_LENGTH;
        html! {
            (notice(self.login_notice.as_deref()))
            p { "Your terminal shows a code. Compare it with this one:" }
            p.code.long[is_long] { (self.user_code) }
            p.hint {
                "If your terminal shows another code, or somebody sent you this link, stop: "
                "they could work in your name."
            }
            form method="post" action="/device" {
                input type="hidden" name="user_code" value=(self.user_code);
                button type="submit" { "Yes, sign in" }
                button.quiet type="submit" formaction="/device/deny" { "No, stop" }
            }
            (host(&self.host))
        }
    }

    fn sample() -> Self {
        Self {
            user_code: "WXQR-<b>\"><b>".to_owned(),
            host: "gw.example.test".to_owned(),
            login_notice: Some("Staff only <b>\"><b>".to_owned()),
        }
    }
}

fn notice(text: Option<&str>) -> Markup {
    html! {
        @if let Some(text) = text {
            p.notice { (text) }
        }
    }
}

fn host(host: &str) -> Markup {
    html! { p.foot { "You are signing in at " strong { (host) } } }
}
