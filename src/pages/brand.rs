//! [`Brand`]: what all pages of one gateway have in common: the name at the top, the colors, the way to help.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::config::{Branding, Color};

/// The only style sheet, inline on every page.
const STYLE: &str = include_str!("style.css");

/// The look of one gateway's pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brand {
    /// What the gateway is called.
    pub(super) name: String,
    /// Where people find help.
    pub(super) support_url: Option<String>,
    /// The style sheet with the configured colors.
    pub(super) style: String,
}

impl Brand {
    /// The look that is configured.
    pub fn of(configured: &Branding) -> Self {
        let mut style = STYLE.to_owned();
        if let Some(accent) = configured.accent_color {
            writeln!(style, ":root {{ {} }}", accents(accent)).expect("memory");
        }
        // Behind the light one, which it would otherwise lose against.
        if let Some(accent) = configured.accent_color_dark {
            let accents = accents(accent);
            writeln!(style, "@media (prefers-color-scheme: dark) {{ :root {{ {accents} }} }}").expect("memory");
        } else if configured.accent_color.is_some() {
            style.push_str(DARK_ACCENTS);
        }
        Self { name: configured.name.clone(), support_url: configured.support_url.clone(), style }
    }

    /// The source expression that lets the style sheet through a Content-Security-Policy (CSP 3 §2.3.1), and no other.
    pub fn style_source(&self) -> String {
        format!("'sha256-{}'", STANDARD.encode(Sha256::digest(self.style.as_bytes())))
    }
}

/// The built-in dark accents, once more.
const DARK_ACCENTS: &str =
    "@media (prefers-color-scheme: dark) { :root { --accent: #85cdb0; --accent-ink: #0c2219; } }\n";

/// The accent, and what is readable on it.
fn accents(accent: Color) -> String {
    let white = Color { red: 255, green: 255, blue: 255 };
    let black = Color { red: 0, green: 0, blue: 0 };
    let ink = if accent.contrast(white) >= accent.contrast(black) { white } else { black };
    format!("--accent: {accent}; --accent-ink: {ink};")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_configured_colors_come_last_and_change_the_hash() {
        let plain = Brand::of(&testing::branding());
        assert_eq!(plain.style, STYLE);
        let color = |red, green, blue| Some(Color { red, green, blue });
        let both = Branding {
            accent_color: color(0, 0, 0x80),
            accent_color_dark: color(0xff, 0xcc, 0),
            ..testing::branding()
        };
        let brand = Brand::of(&both);
        let added = brand.style.strip_prefix(STYLE).expect("the sheet, and more");
        assert_eq!(
            added,
            ":root { --accent: #000080; --accent-ink: #ffffff; }\n\
             @media (prefers-color-scheme: dark) { :root { --accent: #ffcc00; --accent-ink: #000000; } }\n"
        );
        assert_ne!(brand.style_source(), plain.style_source());
        let light = Branding { accent_color_dark: None, ..both };
        assert!(Brand::of(&light).style.ends_with(DARK_ACCENTS));
        assert!(STYLE.contains("--accent: #85cdb0; --accent-ink: #0c2219;"), "the built-in dark accents have changed");
    }
}
