//! Frames of `application/vnd.amazon.eventstream` as an upstream may send them.
//!
//! The first byte says how the rest is cut, which does not matter. Since no fuzzer guesses checksums, the input is also put
//! into frames of the library's making: their messages are found again, whatever follows them.

#![no_main]

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message as Written};
use libfuzzer_sys::fuzz_target;
use sallyport::stream::bedrock::BedrockStream;
use sallyport::stream::{End, Translator};
use sallyport::wire::event_stream::{Decoder, FrameError, Message};

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Message>, Result<bool, FrameError>) {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Err(error)),
            }
        }
    }
    (messages, Ok(decoder.is_empty()))
}

fn translate<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut translator = Box::new(BedrockStream::new("id"));
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

fuzz_target!(|data: &[u8]| {
    let Some((size, input)) = data.split_first() else { return };
    let mut frames = Vec::new();
    for (kind, name) in [("event", ":event-type"), ("exception", ":exception-type")] {
        let message = Written::new(input.to_vec())
            .add_header(Header::new(":message-type", HeaderValue::String(kind.into())))
            .add_header(Header::new(name, HeaderValue::String("chunk".into())));
        write_message_to(&message, &mut frames).expect("a small message");
    }
    let (messages, end) = decode(std::iter::once(&frames[..]));
    assert_eq!(end, Ok(true));
    let found: Vec<_> =
        messages.iter().map(|message| (message.message_type.as_str(), message.kind.as_str(), &message.payload[..])).collect();
    assert_eq!(found, [("event", "chunk", input), ("exception", "chunk", input)]);

    for bytes in [input.to_vec(), [&frames[..], input].concat()] {
        let cut = || bytes.chunks(usize::from(*size).max(1));
        let whole = || std::iter::once(&bytes[..]);
        assert_eq!(decode(cut()), decode(whole()));
        assert_eq!(translate(cut()), translate(whole()));
    }
});
