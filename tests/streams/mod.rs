//! Golden streams: what each provider sends, what its client gets, what is metered; cut at every byte.
//!
//! `<provider>/<case>/` holds `upstream.sse` or `upstream.bin`, `client.sse` and `usage.json`, written by `make.py`, which
//! shares nothing with the code under test. A provider whose answers are relayed is only metered.

use std::fs;
use std::path::{Path, PathBuf};

use sallyport::stream::bedrock::BedrockStream;
use sallyport::stream::cloud_sse::CloudSse;
use sallyport::stream::meter::{Meter, Metered, Usage};
use sallyport::stream::{End, Translator};
use serde_json::{Value, json};

/// Streams of at most this many bytes are cut at every pair of bytes, too.
const SHORT: usize = 500;

/// One folder.
struct Case {
    name: String,
    provider: String,
    upstream: Vec<u8>,
    client: Vec<u8>,
    usage: Value,
}

fn folders(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).expect("a folder").map(|entry| entry.expect("an entry").path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn cases() -> Vec<Case> {
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streams");
    let mut cases = Vec::new();
    for provider in folders(&root) {
        for folder in folders(&provider) {
            let read = |file: &str| fs::read(folder.join(file));
            cases.push(Case {
                name: format!("{}/{}", name(&provider), name(&folder)),
                provider: name(&provider),
                upstream: read("upstream.sse").or_else(|_| read("upstream.bin")).expect("what the provider sends"),
                client: read("client.sse").expect("what the client gets"),
                usage: serde_json::from_slice(&read("usage.json").expect("what is metered")).expect("JSON"),
            });
        }
    }
    cases
}

impl Case {
    fn translator(&self) -> Option<Box<dyn Translator>> {
        match self.provider.as_str() {
            "anthropic" => None,
            "bedrock" => Some(Box::new(BedrockStream::new("request-1"))),
            "clouds" => Some(Box::new(CloudSse::new("request-1"))),
            other => panic!("{other} is no provider"),
        }
    }

    /// What the client gets of the stream in pieces that end at `cuts`, and what is metered of it.
    fn run(&self, cuts: &[usize]) -> (Vec<u8>, Metered) {
        let (mut translator, mut meter, mut client) = (self.translator(), Meter::sse(), Vec::new());
        let mut from = 0;
        for to in cuts.iter().copied().chain([self.upstream.len()]) {
            let piece = &self.upstream[from..to];
            from = to;
            let (output, is_over) = match &mut translator {
                None => (piece.to_vec(), false),
                Some(translator) => {
                    let translated = translator.push(piece);
                    (translated.output.to_vec(), translated.is_over)
                }
            };
            meter.push(&output);
            client.extend_from_slice(&output);
            if is_over {
                break;
            }
        }
        if let Some(translator) = translator {
            let rest = translator.finish(End::Complete);
            meter.push(&rest);
            client.extend_from_slice(&rest);
        }
        (client, meter.finish())
    }
}

/// As `usage.json` writes it: what is zero is left out.
fn shown(metered: &Metered) -> Value {
    let figures = |usage: &Usage| {
        let mut shown = json!({"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens});
        for (name, figure) in [
            ("cache_read_input_tokens", usage.cache_read_input_tokens),
            ("cache_creation_input_tokens", usage.cache_creation_input_tokens),
            ("cache_creation_1h_input_tokens", usage.cache_creation_1h_input_tokens),
            ("web_search_requests", usage.web_search_requests),
        ] {
            if figure > 0 {
                shown[name] = json!(figure);
            }
        }
        if usage.is_fast {
            shown["is_fast"] = json!(true);
        }
        shown
    };
    match metered {
        Metered::Told(usage) => json!({"told": figures(usage)}),
        Metered::Estimated(usage) => json!({"estimated": figures(usage)}),
        Metered::Nothing => json!("nothing"),
        Metered::InputUnknown { .. } => panic!("streams tell their input, or nothing was sent"),
    }
}

#[test]
fn every_provider_has_every_case() {
    let mut names: Vec<String> = cases().iter().map(|case| case.name.clone()).collect();
    names.sort();
    let cases =
        ["citations", "cut_off", "error", "error_first", "future", "short", "text", "thinking", "tool_use", "unicode"];
    let expected: Vec<String> =
        ["anthropic", "bedrock", "clouds"].iter().flat_map(|of| cases.map(|case| format!("{of}/{case}"))).collect();
    assert_eq!(names, expected);
}

#[test]
fn clients_get_the_same_and_pay_the_same_wherever_a_stream_is_cut() {
    for case in cases() {
        let whole = case.run(&[]);
        assert_eq!(String::from_utf8_lossy(&whole.0), String::from_utf8_lossy(&case.client), "{}", case.name);
        assert_eq!(shown(&whole.1), case.usage, "{}", case.name);

        let length = case.upstream.len();
        for cut in 1..length {
            assert_eq!(case.run(&[cut]), whole, "{} cut at {cut}", case.name);
        }
        let every: Vec<usize> = (1..length).collect();
        assert_eq!(case.run(&every), whole, "{} byte by byte", case.name);
        if length <= SHORT {
            for first in 1..length {
                for second in first + 1..length {
                    assert_eq!(case.run(&[first, second]), whole, "{} cut at {first} and {second}", case.name);
                }
            }
        }
    }
}
