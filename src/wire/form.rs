//! The body of a form: `application/x-www-form-urlencoded` and `multipart/form-data` (RFC 7578), read into pairs.
//!
//! It does not know which parameters exist. File parts are skipped: no form of the gateway has one.

/// The most parameters that are kept; a form of the gateway has four.
const MAX_PARAMETERS: usize = 64;

/// The parameters of a form, in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Form(Vec<(String, String)>);

/// The body is not a form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// There is no content type, or it is not one of the two.
    #[error("the content type is not that of a form")]
    NotAForm,
    /// A multipart body without a usable boundary, or without parts.
    #[error("the multipart body is malformed")]
    Malformed,
}

impl Form {
    /// Reads `body` as what `content_type` says it is. The type is compared without regard to case, its parameters
    /// are ignored except for the boundary. Bytes that are not UTF-8 become U+FFFD.
    pub fn parse(content_type: Option<&str>, body: &[u8]) -> Result<Self, FormError> {
        let content_type = content_type.ok_or(FormError::NotAForm)?;
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        if essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            Ok(Self::urlencoded(body))
        } else if essence.eq_ignore_ascii_case("multipart/form-data") {
            Self::multipart(&boundary(content_type).ok_or(FormError::Malformed)?, body)
        } else {
            Err(FormError::NotAForm)
        }
    }

    /// Reads a query string or an urlencoded body (WHATWG URL §5.1): it cannot be malformed.
    pub fn urlencoded(text: &[u8]) -> Self {
        Self(
            url::form_urlencoded::parse(text)
                .take(MAX_PARAMETERS)
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
        )
    }

    /// The first value of `name`; the others do not count (auth contract §5.7).
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The first value of `name`, unless it is empty.
    pub fn non_empty(&self, name: &str) -> Option<&str> {
        self.first(name).filter(|value| !value.is_empty())
    }

    fn multipart(boundary: &str, body: &[u8]) -> Result<Self, FormError> {
        let delimiter = format!("--{boundary}");
        let delimiter = delimiter.as_bytes();
        let mut rest = match find(body, delimiter) {
            // RFC 2046 §5.1.1: the delimiter begins a line; what stands before the first one is a preamble.
            Some(at) if at == 0 || body[..at].ends_with(b"\n") => &body[at + delimiter.len()..],
            _ => return Err(FormError::Malformed),
        };
        let line_delimiter = [b"\r\n", delimiter].concat();
        let mut parameters = Vec::new();
        while !rest.starts_with(b"--") && parameters.len() < MAX_PARAMETERS {
            let part = rest.strip_prefix(b"\r\n").ok_or(FormError::Malformed)?;
            // An empty header block leaves only its blank line, which `part` then starts with.
            let end = find(part, &line_delimiter).ok_or(FormError::Malformed)?;
            let (content, after) = (&part[..end], &part[end + line_delimiter.len()..]);
            let head = find(content, b"\r\n\r\n").ok_or(FormError::Malformed)?;
            if let Some(name) = field_name(&String::from_utf8_lossy(&content[..head])) {
                parameters.push((name, String::from_utf8_lossy(&content[head + 4..]).into_owned()));
            }
            rest = after;
        }
        Ok(Self(parameters))
    }
}

/// The boundary, between 1 and 70 characters (RFC 2046 §5.1.1).
fn boundary(content_type: &str) -> Option<String> {
    parameter(content_type, "boundary").filter(|boundary| (1..=70).contains(&boundary.len()))
}

/// The name of a field; `None` for a file.
fn field_name(head: &str) -> Option<String> {
    let disposition = head
        .split("\r\n")
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("content-disposition"))?
        .1;
    if parameter(disposition, "filename").is_some() || parameter(disposition, "filename*").is_some() {
        return None;
    }
    parameter(disposition, "name")
}

/// The parameter `wanted` of a header value, quoted or not.
fn parameter(value: &str, wanted: &str) -> Option<String> {
    value.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim();
        let value = value.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(value);
        name.trim().eq_ignore_ascii_case(wanted).then(|| value.to_owned())
    })
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const URLENCODED: Option<&str> = Some("application/x-www-form-urlencoded");

    #[test]
    fn the_content_type_decides() {
        for (content_type, form) in [
            (URLENCODED, true),
            (Some("application/x-www-form-urlencoded; charset=latin-1; x=y"), true),
            (Some("Application/X-WWW-Form-URLencoded"), true),
            (Some("multipart/form-data; boundary=b"), true),
            (Some("application/json"), false),
            (Some("text/plain"), false),
            (Some(""), false),
            (None, false),
        ] {
            let body = b"--b\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n--b--";
            assert_eq!(Form::parse(content_type, body).is_ok(), form, "{content_type:?}");
        }
    }

    #[test]
    fn the_first_of_a_repeated_parameter_counts() {
        let form = Form::parse(URLENCODED, b"a=1&a=2&b=x+y%2Bz&c&=d").expect("a form");
        assert_eq!(form.first("a"), Some("1"));
        assert_eq!(form.first("b"), Some("x y+z"));
        assert_eq!(form.first("c"), Some(""));
        assert_eq!(form.non_empty("c"), None);
        assert_eq!(form.first("d"), None);
    }

    #[test]
    fn multipart_fields_are_read_and_files_are_not() {
        let body = b"preamble\r\n--zz\r\nContent-Disposition: form-data; name=\"user_code\"\r\n\r\nBBBB-CCCC\r\n\
            --zz\r\ncontent-type: text/plain\r\ncontent-disposition: form-data; name=\"f\"; filename=\"x\"\r\n\r\nfile\r\n\
            --zz\r\ncontent-disposition: form-data; name=b\r\n\r\nline\r\n--z\r\n\r\n--zz--\r\nepilogue";
        let form = Form::parse(Some("multipart/form-data; boundary=\"zz\""), body).expect("a form");
        assert_eq!(form.first("user_code"), Some("BBBB-CCCC"));
        assert_eq!(form.first("f"), None);
        assert_eq!(form.first("b"), Some("line\r\n--z\r\n"));
    }

    #[test]
    fn malformed_multipart_is_refused() {
        for (content_type, body) in [
            ("multipart/form-data", "--b--"),
            ("multipart/form-data; boundary=", "--b--"),
            ("multipart/form-data; boundary=b", ""),
            ("multipart/form-data; boundary=b", "nothing"),
            ("multipart/form-data; boundary=b", "--b"),
            ("multipart/form-data; boundary=b", "--b\r\nno end"),
            ("multipart/form-data; boundary=b", "--b\r\nno blank line\r\n--b--"),
        ] {
            assert_eq!(Form::parse(Some(content_type), body.as_bytes()), Err(FormError::Malformed), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>, boundary in "[a-z]{0,3}") {
            let _ = Form::parse(Some(&format!("multipart/form-data; boundary={boundary}")), &body);
            let _ = Form::parse(URLENCODED, &body);
        }

        #[test]
        fn what_is_encoded_comes_back(pairs in proptest::collection::vec((".{0,8}", ".{0,8}"), 0..5)) {
            let text = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
            prop_assert_eq!(Form::urlencoded(text.as_bytes()).0, pairs);
        }
    }
}
