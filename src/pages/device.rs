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
            (complaint(self.complaint.as_ref()))
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

/// What a person is asked where several providers sign people in.
#[derive(Debug, Clone)]
pub struct Ways {
    /// Whether an address decides; what was given, if it did not.
    pub email: Option<String>,
    /// Providers to choose from: the name that the form sends, and what people call it.
    pub offered: Vec<(String, String)>,
}

impl Ways {
    /// The fields and buttons of a form. `go` is what the button says that goes on.
    fn fields(&self, go: &str) -> Markup {
        html! {
            @if let Some(email) = &self.email {
                label for="email" { "Your work e-mail address" }
                input type="email" id="email" name="email" value=(email) required autocomplete="email" spellcheck="false"
                    aria-describedby="email-hint";
                p.hint id="email-hint" { "It decides which sign-in page comes next. No mail is sent." }
                button type="submit" { (go) }
            }
            @for (index, (name, label)) in self.offered.iter().enumerate() {
                // An address that was begun must not keep anybody from choosing.
                button.quiet[self.email.is_some() || index > 0] type="submit" name="provider" value=(name) formnovalidate {
                    (go) " with " (label)
                }
            }
        }
    }

    fn sample() -> Self {
        Self {
            email: Some("alice@example.com\"><b>".to_owned()),
            offered: vec![("partners".to_owned(), "Partners <b>\"><b>".to_owned())],
        }
    }
}

/// The question who signs the person in, after they typed a code.
#[derive(Debug, Clone)]
pub struct Choose {
    /// The code that was typed.
    pub user_code: String,
    /// Who can.
    pub ways: Ways,
    /// Why the last answer did not lead anywhere.
    pub complaint: Option<Complaint>,
    /// Host name of the gateway.
    pub host: String,
}

impl Page for Choose {
    fn title(&self) -> String {
        "How do you sign in?".to_owned()
    }

    fn content(&self) -> Markup {
        html! {
            (complaint(self.complaint.as_ref()))
            p { "Your code is " code { (self.user_code) } ". Now say who you are, so that the right sign-in page opens." }
            form method="post" action="/device" {
                input type="hidden" name="user_code" value=(self.user_code);
                (self.ways.fields("Continue"))
                button.quiet type="submit" formaction="/device/deny" formnovalidate { "Stop" }
            }
            (host(&self.host))
        }
    }

    fn sample() -> Self {
        Self {
            user_code: "WXQR-DKTZ".to_owned(),
            ways: Ways::sample(),
            complaint: EnterCode::sample().complaint,
            host: "gw.example.test".to_owned(),
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
    /// Who signs people in, if there is a choice.
    pub ways: Option<Ways>,
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
                @match &self.ways {
                    Some(ways) => (ways.fields("Yes, sign in")),
                    None => button type="submit" { "Yes, sign in" },
                }
                button.quiet type="submit" formaction="/device/deny" formnovalidate { "No, stop" }
            }
            (host(&self.host))
        }
    }

    fn sample() -> Self {
        Self {
            user_code: "WXQR-<b>\"><b>".to_owned(),
            host: "gw.example.test".to_owned(),
            login_notice: Some("Staff only <b>\"><b>".to_owned()),
            ways: Some(Ways::sample()),
        }
    }
}

fn complaint(complaint: Option<&Complaint>) -> Markup {
    html! {
        @if let Some(complaint) = complaint {
            div.complaint role="alert" {
                p { (complaint.text) }
                (complaint.reference.line())
            }
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
