//! The pages of the demo's identity provider: choosing a person, and saying what is wrong with a link.
//!
//! They need no script, load nothing from elsewhere, and follow the browser's light or dark preference.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::identity_provider::Person;

/// The page on which a person is chosen. `interaction` comes back with the choice.
pub(super) fn choose(people: &[Person], interaction: &str) -> String {
    page(
        "Sign in",
        &html! {
            h1 { "Who is signing in?" }
            p.lead {
                "This is Sallyport’s demonstration identity provider. It runs on your machine only, has no passwords, "
                "and forgets everything when the demo ends."
            }
            form method="post" action="/sign-in" {
                input type="hidden" name="interaction" value=(interaction);
                ul {
                    @for person in people {
                        li {
                            button.person name="person" value=(person.sub) {
                                span.initials aria-hidden="true" { (initials(&person.name)) }
                                span.who {
                                    strong { (person.name) }
                                    span.email { (person.email) }
                                    span.groups {
                                        @for group in &person.groups { span.group { (group) } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
            div.or { span { "or" } }
            form.named method="post" action="/sign-in" {
                input type="hidden" name="interaction" value=(interaction);
                label for="name" { "Sign in under another name" }
                div.row {
                    input #name name="name" required maxlength="60" autocomplete="off" placeholder="Your name";
                    button.primary { "Continue" }
                }
            }
            form.cancel method="post" action="/sign-in" {
                input type="hidden" name="interaction" value=(interaction);
                button.quiet name="cancel" value="1" { "Cancel and go back" }
            }
        },
    )
}

/// A page that says what is wrong and what to do.
pub(super) fn problem(what: &str, remedy: &str) -> String {
    page("Sign-in problem", &html! { h1 { (what) } p.lead { (remedy) } })
}

fn page(title: &str, content: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Sallyport demo" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    p.brand { (door()) "Sallyport demo" }
                    (content)
                }
            }
        }
    }
    .into_string()
}

/// The mark: a small door in a wall.
fn door() -> Markup {
    html! {
        svg viewBox="0 0 24 24" width="22" height="22" aria-hidden="true" {
            path fill="currentColor" fill-rule="evenodd"
                d="M2 3h4v3h3V3h6v3h3V3h4v18h-6v-6a4 4 0 0 0-8 0v6H2z" {}
        }
    }
}

fn initials(name: &str) -> String {
    name.split_whitespace().filter_map(|word| word.chars().next()).take(2).collect()
}

const STYLE: &str = "
:root { --page: #f3f4f7; --card: #fff; --ink: #1b1f2a; --soft: #5a6274; --line: #d9dde6; --hover: #f4f6fc;
  --accent: #3451b2; --on-accent: #fff; --tint: #e6ebfb; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12141a; --card: #1b1e27; --ink: #eceef4; --soft: #a3abbd; --line: #343a48; --hover: #242937;
    --accent: #8da6ff; --on-accent: #10142a; --tint: #2a3252; }
}
* { box-sizing: border-box; }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; padding: 1rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
main { width: 100%; max-width: 30rem; background: var(--card); border: 1px solid var(--line); border-radius: 1rem;
  padding: clamp(1.25rem, 5vw, 2.25rem); box-shadow: 0 8px 30px rgb(0 0 0 / .07); }
.brand { display: flex; align-items: center; gap: .5rem; margin: 0 0 1.25rem; color: var(--accent); font-weight: 600; }
h1 { margin: 0; font-size: 1.5rem; line-height: 1.25; }
.lead { margin: .5rem 0 1.5rem; color: var(--soft); }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: .5rem; }
button, input { font: inherit; color: inherit; border-radius: .6rem; }
button { cursor: pointer; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.person { display: flex; align-items: center; gap: .75rem; width: 100%; padding: .65rem .75rem;
  text-align: left; background: none; border: 1px solid var(--line); }
.person:hover { background: var(--hover); border-color: var(--accent); }
.initials { flex: none; display: grid; place-items: center; width: 2.5rem; height: 2.5rem; border-radius: 50%;
  background: var(--tint); color: var(--accent); font-weight: 600; }
.who { flex: 1; display: grid; line-height: 1.3; min-width: 0; overflow-wrap: anywhere; }
.email { color: var(--soft); font-size: .85rem; }
.groups { display: flex; flex-wrap: wrap; gap: .3rem; margin-top: .25rem; }
.group { padding: .1rem .5rem; border-radius: 1rem; background: var(--tint); font-size: .75rem; }
.or { display: flex; align-items: center; gap: .75rem; margin: 1.25rem 0; color: var(--soft); font-size: .875rem; }
.or::before, .or::after { content: ''; flex: 1; border-top: 1px solid var(--line); }
label { display: block; margin-bottom: .35rem; font-weight: 500; }
.row { display: flex; flex-wrap: wrap; gap: .5rem; }
input { flex: 1 1 10rem; min-width: 0; padding: .55rem .75rem; background: var(--card); border: 1px solid var(--soft); }
::placeholder { color: var(--soft); opacity: 1; }
.primary { flex: 0 1 auto; padding: .55rem 1.1rem; border: 1px solid var(--accent); background: var(--accent);
  color: var(--on-accent); font-weight: 600; }
.primary:hover { filter: brightness(1.08); }
.cancel { margin-top: 1.25rem; text-align: center; }
.quiet { padding: .35rem .6rem; background: none; border: 0; color: var(--soft); text-decoration: underline; }
.quiet:hover { color: var(--ink); }
@media (max-width: 26rem) { .primary { flex: 1 1 100%; } }
";
