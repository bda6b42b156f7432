//! `Content-Encoding` (RFC 9110 §8.4.1): compressed bytes in, plain bytes out, in pieces.

use std::io::Write;

use brotli_decompressor::DecompressorWriter;
use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::{HeaderMap, HeaderValue, header};

/// The most that one piece may grow to. A piece is at most 64 KiB, and honest data does not shrink to a 256th.
const MAX_EXPANSION: usize = 16 * 1024 * 1024;

/// The encodings that [`Decoder::of`] knows.
const KNOWN: [&str; 4] = ["gzip", "x-gzip", "deflate", "br"];

/// Whether [`Decoder::of`] knows the encoding.
pub fn is_known(encoding: &str) -> bool {
    KNOWN.iter().any(|known| known.eq_ignore_ascii_case(encoding.trim()))
}

/// Decodes one body.
pub struct Decoder {
    kind: Kind,
    has_begun: bool,
}

enum Kind {
    Gzip(Box<MultiGzDecoder<Bounded>>),
    Deflate(Box<Deflate>),
    Brotli(Box<DecompressorWriter<Bounded>>),
}

/// Why a body cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the compressed body is damaged: {0}")]
pub struct Damaged(String);

impl Decoder {
    /// A decoder for the value of `Content-Encoding`; `None` when there is nothing to decode or no way to.
    pub fn of(encoding: &str) -> Option<Self> {
        let kind = match encoding.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Kind::Gzip(Box::new(MultiGzDecoder::new(Bounded::default()))),
            "deflate" => Kind::Deflate(Box::default()),
            "br" => Kind::Brotli(Box::new(DecompressorWriter::new(Bounded::default(), 4096))),
            _ => return None,
        };
        Some(Self { kind, has_begun: false })
    }

    /// Takes compressed bytes, gives what they decode to so far.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<u8>, Damaged> {
        self.has_begun |= !bytes.is_empty();
        let plain = match &mut self.kind {
            Kind::Gzip(decoder) => feed(decoder, bytes).map(|()| decoder.get_mut().take()),
            Kind::Deflate(decoder) => decoder.push(bytes),
            Kind::Brotli(decoder) => feed(decoder, bytes).map(|()| decoder.get_mut().take()),
        };
        plain.map_err(|error| Damaged(error.to_string()))
    }

    /// There is no more. An error says that there should have been; without a first byte there was nothing to decode.
    pub fn finish(self) -> Result<(), Damaged> {
        if !self.has_begun {
            return Ok(());
        }
        let end = match self.kind {
            Kind::Gzip(mut decoder) => decoder.try_finish(),
            Kind::Deflate(decoder) if decoder.is_over => Ok(()),
            Kind::Deflate(_) => Err(cut_off()),
            Kind::Brotli(mut decoder) => decoder.close(),
        };
        end.map_err(|error| Damaged(error.to_string()))
    }
}

/// The content coding of an answer with these headers, if it is one that cannot be taken off.
pub fn undecodable(headers: &HeaderMap) -> Option<&HeaderValue> {
    let coding = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity" && !coding.is_empty())?;
    (!coding.to_str().is_ok_and(is_known)).then_some(coding)
}

fn cut_off() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "it is cut off")
}

/// `deflate` as RFC 9110 §8.4.1.2 means it, in a zlib wrapper; or as many servers understand it, without.
#[derive(Default)]
struct Deflate {
    /// The first bytes, until they tell which of the two it is.
    head: Vec<u8>,
    decompress: Option<Decompress>,
    is_over: bool,
}

impl Deflate {
    fn push(&mut self, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
        let Some(decompress) = &mut self.decompress else {
            self.head.extend_from_slice(bytes);
            let Some(first) = self.head.first_chunk::<2>() else { return Ok(Vec::new()) };
            // RFC 1950 §2.2: the method is 8, and both bytes together are a multiple of 31.
            let is_zlib = first[0] & 0x0f == 8 && u16::from_be_bytes(*first).is_multiple_of(31);
            self.decompress = Some(Decompress::new(is_zlib));
            let head = std::mem::take(&mut self.head);
            return self.push(&head);
        };
        let mut plain = Vec::new();
        let mut rest = bytes;
        while !self.is_over {
            if plain.len() > MAX_EXPANSION {
                return Err(std::io::Error::other(TOO_LARGE));
            }
            plain.reserve(PIECE);
            let (read, written) = (decompress.total_in(), decompress.total_out());
            let status = decompress.decompress_vec(rest, &mut plain, FlushDecompress::None)?;
            rest = &rest[usize::try_from(decompress.total_in() - read).unwrap_or(rest.len())..];
            self.is_over = status == Status::StreamEnd;
            if rest.is_empty() && decompress.total_out() == written {
                break;
            }
        }
        Ok(plain)
    }
}

/// What a decompressor may write at once.
const PIECE: usize = 32 * 1024;

const TOO_LARGE: &str = "it expands beyond all measure";

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
            return Err(std::io::Error::other(TOO_LARGE));
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
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    const TEXT: &[u8] = b"event: ping\ndata: {\"type\": \"ping\"}\n\n";

    fn gzip() -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(TEXT).expect("memory");
        encoder.finish().expect("memory")
    }

    fn raw() -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(TEXT).expect("memory");
        encoder.finish().expect("memory")
    }

    /// The text as brotli writes it, uncompressed: RFC 7932 §9.2.
    fn brotli() -> Vec<u8> {
        // A window of 16 bits, a piece of so many bytes that is not compressed, and an empty last one.
        let length = u32::try_from(TEXT.len() - 1).expect("short");
        let head = (length << 4) | (1 << 20);
        let mut compressed = head.to_le_bytes()[..3].to_vec();
        compressed.extend_from_slice(TEXT);
        compressed.push(3);
        compressed
    }

    fn zlib() -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(TEXT).expect("memory");
        encoder.finish().expect("memory")
    }

    #[test]
    fn a_compressed_body_may_be_cut_anywhere() {
        let twice = [gzip(), gzip()].concat();
        for (encoding, compressed, times) in [
            ("gzip", gzip(), 1),
            ("gzip", twice, 2),
            ("deflate", zlib(), 1),
            ("deflate", raw(), 1),
            ("br", brotli(), 1),
        ] {
            for cut in 0..=compressed.len() {
                let mut decoder = Decoder::of(encoding).expect("a known encoding");
                let mut plain = decoder.push(&compressed[..cut]).expect("sound data");
                plain.extend(decoder.push(&compressed[cut..]).expect("sound data"));
                assert_eq!(plain, TEXT.repeat(times), "{encoding} cut at {cut}");
                decoder.finish().expect("all of it");
            }
        }
    }

    #[test]
    fn a_body_that_is_cut_off_is_noticed_at_its_end() {
        for (encoding, compressed) in [("gzip", gzip()), ("deflate", zlib()), ("deflate", raw()), ("br", brotli())] {
            for cut in 1..compressed.len() {
                let mut decoder = Decoder::of(encoding).expect("a known encoding");
                decoder.push(&compressed[..cut]).expect("sound data");
                assert!(decoder.finish().is_err(), "{encoding} cut off at {cut}");
            }
            Decoder::of(encoding).expect("a known encoding").finish().expect("nothing was sent");
        }
        let mut decoder = Decoder::of("gzip").expect("a known encoding");
        let noticed = decoder.push(b"notgzip").is_err() || decoder.finish().is_err();
        assert!(noticed);
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
            assert!(!is_known(encoding), "{encoding}");
        }
        for encoding in ["gzip", " X-GZIP", "deflate", "Br "] {
            assert!(Decoder::of(encoding).is_some() && is_known(encoding), "{encoding}");
        }
    }
}
