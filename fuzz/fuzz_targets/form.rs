//! Forms as anybody may post them.
//!
//! The first line is the content type, the rest the body. A parameter that is found is also found when it must not be
//! empty, unless it is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sallyport::wire::form::Form;

fuzz_target!(|data: &[u8]| {
    let (content_type, body) =
        data.iter().position(|byte| *byte == b'\n').map_or((data, &[][..]), |at| data.split_at(at));
    let content_type = String::from_utf8_lossy(content_type);
    for content_type in [&*content_type, "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"] {
        let Ok(form) = Form::parse(Some(content_type), body) else { continue };
        for name in ["grant_type", "user_code", ""] {
            assert_eq!(form.first(name).filter(|value| !value.is_empty()), form.non_empty(name));
        }
    }
});
