//! Pages: typed, self-contained, without script, escaped by the templates themselves.
//!
//! A page knows what to say, never why a request came here; statuses and headers are set in `endpoints/`.

mod brand;
mod device;
mod done;
mod landing;
mod problem;

use maud::{DOCTYPE, Markup, PreEscaped, html};

pub use brand::Brand;
pub use device::{Choose, Complaint, Confirm, EnterCode, Ways};
pub use done::Done;
pub use landing::Landing;
pub use problem::{Problem, Reference, Trouble};

/// A small arched door in a wall.
const MARK: &str = r#"<svg class="mark" viewBox="0 0 32 32" aria-hidden="true" focusable="false"><path d="M2 30V12l4-4V3h5v4h10V3h5v5l4 4v18H21V19a5 5 0 0 0-10 0v11z"/></svg>"#;

/// Something a browser shows.
pub trait Page {
    /// The window's title and the page's heading.
    fn title(&self) -> String;

    /// What stands below the heading.
    fn content(&self) -> Markup;

    /// One of its kind, with awkward text in every field, for tests.
    fn sample() -> Self
    where
        Self: Sized;

    /// The whole document.
    fn render(&self, brand: &Brand) -> String {
        let title = self.title();
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="robots" content="noindex";
                    title { (title) " · " (brand.name) }
                    style { (PreEscaped(&brand.style)) }
                }
                body {
                    main {
                        p.brand { (PreEscaped(MARK)) (brand.name) }
                        h1 { (title) }
                        (self.content())
                        @if let Some(url) = &brand.support_url {
                            p.foot { "Questions? " a href=(url) rel="noreferrer" { "Get help" } }
                        }
                    }
                }
            }
        }
        .into_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Branding;
    use crate::testing;

    /// A look with awkward text in every field.
    fn brand() -> Brand {
        Brand::of(&Branding {
            name: "Tools <b>\"><b>".to_owned(),
            support_url: Some("https://help.example.test/?a=\"><b>".to_owned()),
            ..testing::branding()
        })
    }

    fn samples() -> Vec<(&'static str, String)> {
        vec![
            ("enter code", EnterCode::sample().render(&brand())),
            ("confirm", Confirm { ways: None, ..Confirm::sample() }.render(&brand())),
            ("confirm among several", Confirm::sample().render(&brand())),
            ("choose", Choose::sample().render(&brand())),
            ("done", Done::sample().render(&brand())),
            ("stopped", Done::Stopped.render(&brand())),
            ("landing", Landing::sample().render(&brand())),
            ("problem", Problem::sample().render(&brand())),
        ]
    }

    #[test]
    fn every_page_is_self_contained() {
        for (name, page) in samples() {
            assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">"), "{name}");
            for foreign in [
                "<script",
                "<img",
                "<link",
                "<iframe",
                "src=",
                "url(",
                "@import",
                "style=\"",
                " onclick",
                "javascript:",
            ] {
                assert!(!page.contains(foreign), "{name} contains {foreign}");
            }
            for link in page.split("href=\"").skip(1) {
                let is_help = link.starts_with("https://help.example.test/");
                assert!(link.starts_with('/') || is_help, "{name} links to {link:.20}");
            }
        }
    }

    #[test]
    fn every_page_has_one_heading_and_a_label_for_every_field() {
        for (name, page) in samples() {
            assert_eq!(page.matches("<h1>").count(), 1, "{name}");
            for input in page.split("<input ").skip(1).filter(|input| !input.starts_with("type=\"hidden\"")) {
                let id = input.split("id=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id");
                assert!(page.contains(&format!("<label for=\"{id}\">")), "{name}: {id}");
            }
        }
    }

    #[test]
    fn nothing_is_shown_unescaped() {
        for (name, page) in samples() {
            assert!(!page.contains("<b>"), "{name}");
            assert!(!page.contains("\"><b>"), "{name}: an attribute was left");
        }
    }

    #[test]
    fn every_page_carries_the_name_and_the_way_to_help() {
        for (name, page) in samples() {
            assert!(page.contains("· Tools &lt;b&gt;"), "{name}");
            assert!(page.contains("href=\"https://help.example.test/"), "{name}");
        }
        let plain = Done::Stopped.render(&Brand::of(&testing::branding()));
        assert!(plain.contains("Sallyport") && !plain.contains("Get help"));
    }

    #[test]
    fn every_problem_says_what_to_do() {
        for trouble in Trouble::ALL {
            let page =
                Problem { trouble, reference: Reference::of("0a1b2c3d-0000-4000-8000-000000000000"), detail: None };
            let page = page.render(&brand());
            assert!(page.contains("0a1b2c3d") && !page.contains("0a1b2c3d-"), "{trouble:?}");
            assert!(page.contains("class=\"next\""), "{trouble:?}");
        }
    }

    /// Writes all samples to `SALLYPORT_PAGES_DIR`, where somebody wants to look at them.
    #[test]
    fn samples_can_be_looked_at() {
        #[expect(clippy::disallowed_methods, reason = "whoever runs the tests says where pages go")]
        let Ok(directory) = std::env::var("SALLYPORT_PAGES_DIR") else { return };
        for (name, page) in samples() {
            std::fs::write(format!("{directory}/{}.html", name.replace(' ', "-")), page).expect("it is written");
        }
    }
}
