//! What pages look like: only what can be read is accepted.

use super::*;

#[test]
fn a_look_loads_and_nothing_has_to_be_said() {
    let plain = load("").config.branding;
    assert_eq!((plain.name.as_str(), plain.support_url, plain.accent_color), ("Sallyport", None, None));
    let own = load(
        "branding: { name: Tools, support_url: 'mailto:help@example.com', accent_color: '#003366', accent_color_dark: '#99CCFF' }",
    );
    assert_eq!(own.warnings, []);
    assert_eq!(own.config.branding.support_url.as_deref(), Some("mailto:help@example.com"));
    assert_eq!(own.config.branding.accent_color_dark.map(|color| color.to_string()).as_deref(), Some("#99ccff"));
    assert_eq!(load("branding: { accent_color: '#003366' }").warnings.len(), 1);
}

#[test]
fn what_cannot_be_read_or_followed_is_refused() {
    for (key, said) in [
        ("name: ''", "must not be empty"),
        ("support_url: help", "is not a URL"),
        ("support_url: 'javascript:alert(1)'", "must begin with https:// or mailto:, not javascript:"),
        ("support_url: 'data:text/html,x'", "not data:"),
        ("accent_color: red", "must be # and six hexadecimal digits"),
        ("accent_color: '#12345'", "must be # and six hexadecimal digits"),
        ("accent_color: '#+1+2+3'", "must be # and six hexadecimal digits"),
        ("accent_color: '#é1234'", "must be # and six hexadecimal digits"),
        ("accent_color: '#ffcc00'", "cannot be read: its contrast to the page is 1.5"),
        ("accent_color_dark: '#003366'", "cannot be read"),
        ("logo: x", "logo: unknown key"),
        ("accent_color: ", "accent_color: is empty: expected a color such as #1d5c49 in quotes (# begins a comment)"),
    ] {
        let found = faults(&format!("branding: {{ {key} }}"));
        assert!(found.contains(said), "{key}: {found}");
    }
    let unquoted = faults("branding:\n  accent_color: #1d5c49");
    assert!(unquoted.contains("in quotes (# begins a comment)"), "{unquoted}");
}
