//! What masking costs. It asserts nothing; run it with
//! `cargo test --release -p sallyport --test masking -- --ignored --nocapture timing`.

use sallyport::mask::{Masker, Settings};
use serde_json::json;

use crate::megabyte::megabyte;

#[test]
#[ignore = "prints figures; nothing to assert"]
#[expect(clippy::disallowed_methods, clippy::disallowed_macros, reason = "it measures time and prints it")]
fn timing() {
    let now = std::time::Instant::now;
    let start = now();
    let rules = Settings::default().compile().unwrap();
    println!("compile the rules: {:?}", start.elapsed());
    let masker = Masker::new(rules, [1; 32]);
    let first = now();
    masker.mask_request(&megabyte(10)).unwrap();
    println!("first request, with its generation: {:?}", first.elapsed());
    for identifiers in [100, 1500] {
        let body = megabyte(identifiers);
        let mut times: Vec<_> = (0..40)
            .map(|_| {
                let start = now();
                std::hint::black_box(masker.mask_request(&body).unwrap());
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        let total = masker.mask_request(&body).unwrap().receipt.total();
        println!("mask {} bytes with {total} identifiers: median {:?}, best {:?}", body.len(), times[20], times[0]);
    }
    let masked = masker.mask_request(&megabyte(1500)).unwrap();

    let sent: serde_json::Value = serde_json::from_slice(&masked.body).unwrap();
    let text = sent["messages"].to_string();
    let events: Vec<String> = text.as_bytes()[..100_000]
        .chunks(20)
        .map(|piece| {
            let data = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": String::from_utf8_lossy(piece)}});
            format!("event: content_block_delta\ndata: {data}\n\n")
        })
        .collect();
    let start = now();
    let mut restorer = masked.restorer.sse();
    let first = restorer.push(events[0].as_bytes());
    println!("first event of the answer ({} bytes): {:?}", first.len(), start.elapsed());
    let start = now();
    for event in &events {
        std::hint::black_box(restorer.push(event.as_bytes()));
    }
    println!("restore {} events: {:?}", events.len(), start.elapsed());
}
