//! `Content-Encoding` (RFC 9110 §8.4.1): compressed bytes in, plain bytes out, in pieces.

use std::io::Write;

use brotli_decompressor::DecompressorWriter;
use flate2::write::{MultiGzDecoder, ZlibDecoder};

/// The most that one piece may grow to. A piece is at most 64 KiB, and honest data does not shrink to a 256th.
const MAX_EXPANSION: usize = 16 * 1024 * 1024;

/// The encodings that [`Decoder::of`] knows, as an `Accept-Encoding` lists them.
pub const KNOWN: [&str; 3] = ["gzip", "deflate", "br"];

/// Decodes one body.
pub struct Decoder(Kind);

enum Kind {
    Gzip(Box<MultiGzDecoder<Bounded>>),
    Deflate(Box<ZlibDecoder<Bounded>>),
    Brotli(Box<DecompressorWriter<Bounded>>),
}

/// Why a body cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the compressed body is damaged: {0}")]
pub struct Damaged(String);

impl Decoder {
    /// A decoder for the value of `Content-Encoding`; `None` when there is nothing to decode or no way to.
    pub fn of(encoding: &str) -> Option<Self> {
        Some(Self(match encoding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Kind::Gzip(Box::new(MultiGzDecoder::new(Bounded::default()))),
            "deflate" => Kind::Deflate(Box::new(ZlibDecoder::new(Bounded::default()))),
            "br" => Kind::Brotli(Box::new(DecompressorWriter::new(Bounded::default(), 4096))),
            _ => return None,
        }))
    }

    /// Takes compressed bytes, gives what they decode to so far.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Damaged> {
        let plain = match &mut self.0 {
            Kind::Gzip(decoder) => feed(decoder, bytes).map(|()| decoder.get_mut().take()),
            Kind::Deflate(decoder) => feed(decoder, bytes).map(|()| decoder.get_mut().take()),
            Kind::Brotli(decoder) => feed(decoder, bytes).map(|()| decoder.get_mut().take()),
        };
        plain.map_err(|error| Damaged(error.to_string()))
    }
}

fn feed(decoder: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    decoder.write_all(bytes)?;
    decoder.flush()
}

/// Where decoders write: a buffer that refuses to grow without end.
#[derive(Default)]
struct Bounded(Vec<u8>);

impl Bounded {
    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_EXPANSION {
            return Err(std::io::Error::other("it expands beyond all measure"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};

    use super::*;

    const TEXT: &[u8] = b"event: ping\ndata: {\"type\": \"ping\"}\n\n";

    fn gzip() -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(TEXT).expect("memory");
        encoder.finish().expect("memory")
    }

    fn zlib() -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(TEXT).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn a_compressed_body_may_be_cut_anywhere() {
        for (encoding, compressed) in [("gzip", gzip()), ("deflate", zlib())] {
            for cut in 0..=compressed.len() {
                let mut decoder = Decoder::of(encoding).expect("a known encoding");
                let mut plain = decoder.push(&compressed[..cut]).expect("sound data");
                plain.extend(decoder.push(&compressed[cut..]).expect("sound data"));
                assert_eq!(plain, TEXT, "{encoding} cut at {cut}");
            }
        }
    }

    #[test]
    fn what_was_flushed_arrives_before_the_end() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(TEXT).expect("memory");
        encoder.flush().expect("memory");
        let mut decoder = Decoder::of("gzip").expect("a known encoding");
        assert_eq!(decoder.push(encoder.get_ref()).expect("sound data"), TEXT);
    }

    #[test]
    fn damaged_and_exploding_bodies_are_refused() {
        assert!(Decoder::of("gzip").expect("a known encoding").push(b"not gzip at all").is_err());
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![0; MAX_EXPANSION + 1]).expect("memory");
        let bomb = encoder.finish().expect("memory");
        assert!(Decoder::of("gzip").expect("a known encoding").push(&bomb).is_err());
    }

    #[test]
    fn unknown_encodings_are_left_alone() {
        for encoding in ["identity", "zstd", "", "gzip, br"] {
            assert!(Decoder::of(encoding).is_none(), "{encoding}");
        }
    }
}
