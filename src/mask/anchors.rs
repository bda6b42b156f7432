//! Finds the literals with which identifiers begin, in one pass over the text.
//!
//! Three bytes, each reduced to one of 32 classes, make a number; a bit says whether an anchor begins so. Nearly every
//! place of a text is told by that bit. This is what the whole of masking costs for most of a request, and it is three
//! times as fast as a general automaton, which would have to report overlapping matches.

/// The anchors. ASCII case does not matter.
#[derive(Debug, Clone)]
pub(crate) struct Anchors {
    literals: Vec<Vec<u8>>,
    trigrams: Trigrams,
    /// For each number of three classes, where its anchors are in `lists`; zero is the empty list.
    heads: Vec<u16>,
    lists: Vec<Vec<u16>>,
}

/// A set of numbers of three classes.
#[derive(Debug, Clone)]
pub(crate) struct Trigrams(Box<[u64; NUMBERS / 64]>);

const CLASSES: usize = 32;
const NUMBERS: usize = CLASSES * CLASSES * CLASSES;

/// Letters have a class each, digits share one.
const CLASS: [u8; 256] = {
    let mut class = [0_u8; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "the loop ends at 256")]
        let folded = (byte as u8).to_ascii_lowercase();
        class[byte] = match folded {
            b'a'..=b'z' => folded - b'a' + 1,
            b'0'..=b'9' => 27,
            b'-' => 28,
            b'.' => 29,
            b':' | b'/' => 30,
            b'_' => 31,
            _ => 0,
        };
        byte += 1;
    }
    class
};

impl Anchors {
    /// Anchors of at least two bytes. One of exactly two is followed by a hexadecimal digit wherever it counts.
    pub(crate) fn new(anchors: Vec<Vec<u8>>) -> Self {
        let mut built =
            Self { literals: anchors, trigrams: Trigrams::new(), heads: vec![0; NUMBERS], lists: vec![Vec::new()] };
        for index in 0..built.literals.len() {
            let anchor = &built.literals[index];
            let class = |place: usize| usize::from(CLASS[usize::from(anchor[place])]);
            let (first, second) = (class(0), class(1));
            let thirds = if anchor.len() > 2 {
                vec![class(2)]
            } else {
                b"0abcdef".iter().map(|byte| usize::from(CLASS[usize::from(*byte)])).collect()
            };
            for third in thirds {
                built.add((first * CLASSES + second) * CLASSES + third, index);
            }
        }
        built
    }

    fn add(&mut self, number: usize, index: usize) {
        self.trigrams.insert(number);
        if self.heads[number] == 0 {
            self.heads[number] = u16::try_from(self.lists.len()).expect("there are a few hundred anchors");
            self.lists.push(Vec::new());
        }
        self.lists[usize::from(self.heads[number])]
            .push(u16::try_from(index).expect("there are a few hundred anchors"));
    }

    /// Calls `each` for every anchor in `text` with its index and its start. Overlapping ones are all found.
    pub(crate) fn find(&self, text: &[u8], mut each: impl FnMut(usize, usize)) {
        self.trigrams.find(text, |number, start| {
            for index in &self.lists[usize::from(self.heads[number])] {
                let index = usize::from(*index);
                let anchor = &self.literals[index];
                let end = start + anchor.len();
                if end <= text.len() && text[start..end].eq_ignore_ascii_case(anchor) {
                    each(index, start);
                }
            }
        });
    }
}

impl Trigrams {
    pub(crate) fn new() -> Self {
        Self(Box::new([0; NUMBERS / 64]))
    }

    /// Adds the number of the first three bytes of `text`, which has as many.
    pub(crate) fn add(&mut self, text: &[u8]) {
        self.insert(text[..3].iter().fold(0, |number, byte| next(number, *byte)));
    }

    fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    /// Calls `each` for every place where a number of the set begins, with that number.
    pub(crate) fn find(&self, text: &[u8], mut each: impl FnMut(usize, usize)) {
        let [first, second, ..] = text else { return };
        let mut number = next(next(0, *first), *second);
        for (start, byte) in text[2..].iter().enumerate() {
            number = next(number, *byte);
            if self.0[number / 64] >> (number % 64) & 1 == 1 {
                each(number, start);
            }
        }
    }
}

/// The number of three bytes: `number` is that of the three before it.
fn next(number: usize, byte: u8) -> usize {
    (number * CLASSES + usize::from(CLASS[usize::from(byte)])) % NUMBERS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Anchors;

    proptest! {
        #[test]
        fn every_anchor_is_found_where_it_stands(text in "[iI0-9.\\-arnARNws:]{0,40}") {
            let anchors = ["i-", "10.", "arn:aws", "ami-", "192.168."];
            let mut found = Vec::new();
            Anchors::new(anchors.iter().map(|anchor| anchor.as_bytes().to_vec()).collect())
                .find(text.as_bytes(), |index, start| found.push((start, anchors[index])));
            found.sort_unstable();
            let lower = text.to_ascii_lowercase();
            let mut expected = Vec::new();
            for anchor in anchors {
                for at in (0..lower.len()).filter(|at| lower[*at..].starts_with(anchor)) {
                    // Two bytes count only before a hexadecimal digit.
                    if anchor != "i-" || lower.as_bytes().get(at + 2).is_some_and(u8::is_ascii_hexdigit) {
                        expected.push((at, anchor));
                    }
                }
            }
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
