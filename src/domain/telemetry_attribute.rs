//! What can stand in `OTEL_RESOURCE_ATTRIBUTES` (auth contract §3.9), where nothing is escaped.

/// Longest name or value.
pub const MAX_LENGTH: usize = 255;

/// Whether `name` can name an attribute.
pub fn is_name(name: &str) -> bool {
    let is_allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    !name.is_empty() && name.len() <= MAX_LENGTH && name.chars().all(is_allowed)
}

/// Whether `value` can be written as it is. What a client would percent-encode counts as three characters.
pub fn is_value(value: &str) -> bool {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "-_.!~*'()".contains(character);
    let length: usize = value.chars().map(|character| if is_plain(character) { 1 } else { 3 }).sum();
    let is_allowed = |character: char| character.is_ascii_graphic() && !",;=\\\"%".contains(character);
    !value.is_empty() && length <= MAX_LENGTH && value.chars().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_printable_ascii_without_what_separates_attributes() {
        for value in ["research", "a/b:c@d", "!#$&'()*+-./", &"x".repeat(255), &"/".repeat(85)] {
            assert!(is_value(value), "{value}");
        }
        for value in
            ["", "a b", "a,b", "a;b", "a=b", "a\\b", "a\"b", "100%", "ä", "a\n", &"x".repeat(256), &"/".repeat(86)]
        {
            assert!(!is_value(value), "{value}");
        }
    }
}
