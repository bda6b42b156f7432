//! Section `branding`: what the pages for people look like, and where they send people for help.

use url::Url;

use super::decode::Keys;
use super::kind::{Kind, formed, text_between};
use super::{Branding, Color};

/// What accents stand on: cards of the two color schemes, from `pages/style.css`.
const LIGHT_CARD: Color = Color { red: 0xff, green: 0xfd, blue: 0xf9 };
const DARK_CARD: Color = Color { red: 0x1c, green: 0x1a, blue: 0x17 };

/// The least contrast of text (WCAG 2.2, success criterion 1.4.3).
const LEAST_CONTRAST: f64 = 4.5;

pub(super) fn branding(keys: &mut Keys<'_, '_>) -> Option<Branding> {
    let name = keys.or("name", text_between(1, 60), "Sallyport", "What the pages call the gateway.");
    let support_url = keys.optional(
        "support_url",
        support_url(),
        "Where people find help, linked from every page: a page (`https://…`) or an address (`mailto:…`).",
    );
    let accent_color = keys.optional(
        "accent_color",
        color(LIGHT_CARD),
        "Color of buttons and links, as `#1d5c49`. It must be dark enough to be read on a light page.",
    );
    let accent_color_dark = keys.optional(
        "accent_color_dark",
        color(DARK_CARD),
        "The same where the person's device is set to dark. It must be light enough to be read on a dark page.",
    );
    if keys.has("accent_color") != keys.has("accent_color_dark") {
        keys.warn(
            "",
            "`accent_color` and `accent_color_dark` belong together: with one of them the pages have two colors",
        );
    }
    Some(Branding { name: name?, support_url, accent_color, accent_color_dark })
}

fn support_url() -> Kind<String> {
    formed("a URL that begins with https:// or mailto:").check(|text| {
        let url = Url::parse(&text).map_err(|why| format!("is not a URL: {why}"))?;
        match url.scheme() {
            "https" | "http" | "mailto" => Ok(url.into()),
            other => Err(format!("must begin with https:// or mailto:, not {other}:")),
        }
    })
}

fn color(ground: Color) -> Kind<Color> {
    formed("a color such as #1d5c49").check(move |text| {
        let color = Color::parse(&text).ok_or("must be # and six hexadecimal digits, such as #1d5c49")?;
        let contrast = color.contrast(ground);
        if contrast < LEAST_CONTRAST {
            return Err(format!(
                "cannot be read: its contrast to the page is {contrast:.1}, and must be at least {LEAST_CONTRAST}"
            ));
        }
        Ok(color)
    })
}

impl Color {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('#').filter(|digits| digits.len() == 6 && digits.is_ascii())?;
        let part = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).ok();
        // `from_str_radix` takes a sign.
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        is_hex.then_some(Self { red: part(0)?, green: part(2)?, blue: part(4)? })
    }

    /// Between 1 and 21 (WCAG 2.2, contrast ratio).
    pub fn contrast(self, other: Self) -> f64 {
        let (one, two) = (self.luminance(), other.luminance());
        (one.max(two) + 0.05) / (one.min(two) + 0.05)
    }

    /// WCAG 2.2, relative luminance.
    fn luminance(self) -> f64 {
        let linear = |part: u8| {
            let part = f64::from(part) / 255.0;
            if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * linear(self.red) + 0.7152 * linear(self.green) + 0.0722 * linear(self.blue)
    }
}

impl std::fmt::Display for Color {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "#{:02x}{:02x}{:02x}", self.red, self.green, self.blue)
    }
}
