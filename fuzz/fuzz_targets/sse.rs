//! Server-sent events as an upstream may send them.
//!
//! The first byte says how the rest is cut. How it is cut does not matter: not to the decoder, which loses no byte, not to
//! the translator of the clouds' streams, and not to the meter. What is written is read again.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use sallyport::stream::cloud_sse::CloudSse;
use sallyport::stream::meter::Meter;
use sallyport::stream::{End, Translator};
use sallyport::wire::sse::{self, Decoder, Event};

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Event>, Vec<u8>) {
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    for piece in pieces {
        decoder.push(piece).expect("inputs are small");
        events.extend(std::iter::from_fn(|| decoder.next_event()));
    }
    (events, decoder.rest().to_vec())
}

fn translate<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut translator = Box::new(CloudSse::new("id"));
    let mut output = Vec::new();
    for piece in pieces {
        let translated = translator.push(piece);
        output.extend_from_slice(&translated.output);
        if translated.is_over {
            break;
        }
    }
    output.extend_from_slice(&translator.finish(End::Complete));
    output
}

fn meter<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let mut meter = Meter::sse();
    pieces.for_each(|piece| meter.push(piece));
    format!("{:?}", meter.finish())
}

fuzz_target!(|data: &[u8]| {
    let Some((size, input)) = data.split_first() else { return };
    let cut = || input.chunks(usize::from(*size).max(1));
    let whole = || std::iter::once(input);

    let (events, rest) = decode(whole());
    assert_eq!(decode(cut()), (events.clone(), rest.clone()));
    let raw: Vec<u8> = events.iter().flat_map(|event| event.raw.to_vec()).chain(rest).collect();
    assert_eq!(raw, input);
    for Event { name, data, .. } in &events {
        let mut written = BytesMut::new();
        sse::write(name, data, &mut written);
        let (again, rest) = decode(std::iter::once(&written[..]));
        assert!(again.len() == 1 && rest.is_empty());
        assert_eq!((&again[0].name, &again[0].data), (name, data));
    }

    let translated = translate(whole());
    assert_eq!(translate(cut()), translated);
    // What comes out is what would come out of it again.
    if !translated.windows(12).any(|window| window == b"event: error") {
        assert_eq!(translate(std::iter::once(&translated[..])), translated);
    }
    assert_eq!(meter(cut()), meter(whole()));
});
