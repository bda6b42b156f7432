//! Comma-separated values (RFC 4180), safe to open in a spreadsheet.

/// One record with its line break. A field that a spreadsheet would take for a formula gets an apostrophe before it.
pub fn record<'a>(fields: impl IntoIterator<Item = &'a str>) -> String {
    let mut record = String::new();
    for (index, field) in fields.into_iter().enumerate() {
        if index > 0 {
            record.push(',');
        }
        let guard = if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
        if guard.is_empty() && !field.contains([',', '"', '\n', '\r']) {
            record.push_str(field);
        } else {
            record.push('"');
            record.push_str(guard);
            record.push_str(&field.replace('"', "\"\""));
            record.push('"');
        }
    }
    record.push_str("\r\n");
    record
}

#[cfg(test)]
mod tests {
    use super::record;

    #[test]
    fn fields_are_quoted_where_they_must_be_and_formulas_are_none() {
        for (fields, expected) in [
            (vec!["a", "b c", ""], "a,b c,\r\n"),
            (vec!["a,b", "say \"hi\"", "two\nlines"], "\"a,b\",\"say \"\"hi\"\"\",\"two\nlines\"\r\n"),
            (vec!["=1+1", "-1", "+1", "@x", "\tx", "x=1"], "\"'=1+1\",\"'-1\",\"'+1\",\"'@x\",\"'\tx\",x=1\r\n"),
        ] {
            assert_eq!(record(fields), expected);
        }
    }
}
