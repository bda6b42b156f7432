//! Finds the literals with which identifiers begin, in one pass over the text.
//!
//! Three bytes make a number, and a bit says whether an anchor begins so. Nearly every place of a text is told by that
//! bit. This is what the whole of masking costs for most of a request, and it is several times as fast as a general
//! automaton, which would have to report overlapping matches.

/// The anchors. ASCII case does not matter.
#[derive(Debug, Clone)]
pub(crate) struct Anchors {
    literals: Vec<Vec<u8>>,
    beginnings: Beginnings,
    /// For each number of a beginning, where its anchors are in `lists`; zero is the empty list.
    heads: Vec<u16>,
    lists: Vec<Vec<u16>>,
}

/// A set of beginnings: three bytes each, without regard to ASCII case. It may say yes to others, seldom.
#[derive(Debug, Clone)]
pub(crate) struct Beginnings(Box<[u32; NUMBERS / 32]>);

const BITS: u32 = 15;
const NUMBERS: usize = 1 << BITS;

impl Anchors {
    /// Anchors of at least two bytes. One of exactly two is followed by a hexadecimal digit wherever it counts.
    pub(crate) fn new(anchors: Vec<Vec<u8>>) -> Self {
        let mut built =
            Self { literals: anchors, beginnings: Beginnings::new(), heads: vec![0; NUMBERS], lists: vec![Vec::new()] };
        for index in 0..built.literals.len() {
            let anchor = &built.literals[index];
            let (first, second) = (anchor[0], anchor[1]);
            let thirds = anchor.get(2).map_or_else(|| b"0123456789abcdef".to_vec(), |third| vec![*third]);
            for third in thirds {
                built.add(number([first, second, third, 0]), index);
            }
        }
        built
    }

    fn add(&mut self, number: usize, index: usize) {
        self.beginnings.insert(number);
        if self.heads[number] == 0 {
            self.heads[number] = u16::try_from(self.lists.len()).expect("there are a few hundred anchors");
            self.lists.push(Vec::new());
        }
        let list = &mut self.lists[usize::from(self.heads[number])];
        let index = u16::try_from(index).expect("there are a few hundred anchors");
        if !list.contains(&index) {
            list.push(index);
        }
    }

    /// Calls `each` for every anchor in `text` with its index and its start. Overlapping ones are all found.
    pub(crate) fn find(&self, text: &[u8], mut each: impl FnMut(usize, usize)) {
        self.beginnings.find(text, |number, start| {
            for index in &self.lists[usize::from(self.heads[number])] {
                let index = usize::from(*index);
                let anchor = &self.literals[index];
                let end = start + anchor.len();
                let is_hex = || anchor.len() > 2 || text.get(end).is_some_and(u8::is_ascii_hexdigit);
                if end <= text.len() && text[start..end].eq_ignore_ascii_case(anchor) && is_hex() {
                    each(index, start);
                }
            }
        });
    }
}

impl Beginnings {
    pub(crate) fn new() -> Self {
        Self(Box::new([0; NUMBERS / 32]))
    }

    /// Adds the first three bytes of `text`, which has as many.
    pub(crate) fn add(&mut self, text: &[u8]) {
        self.insert(number([text[0], text[1], text[2], 0]));
    }

    fn insert(&mut self, number: usize) {
        self.0[number / 32] |= 1 << (number % 32);
    }

    fn has(&self, number: usize) -> bool {
        self.0[number / 32] >> (number % 32) & 1 == 1
    }

    /// Calls `each` for every place where a beginning of the set stands, with its number.
    pub(crate) fn find(&self, text: &[u8], mut each: impl FnMut(usize, usize)) {
        // Nothing is called for a place that is none: this loop is what most of a text meets.
        for (start, bytes) in text.array_windows().enumerate() {
            let number = number(*bytes);
            if self.has(number) {
                each(number, start);
            }
        }
        if let [.., first, second, third] = *text {
            let number = number([first, second, third, 0]);
            if self.has(number) {
                each(number, text.len() - 3);
            }
        }
    }
}

/// The number of the first three of four bytes. The fourth is there because four are read at once.
const fn number(bytes: [u8; 4]) -> usize {
    // Upper and lower case are the same without this bit; other bytes may well become others.
    let folded = u32::from_le_bytes(bytes) & 0x00df_dfdf;
    // Fibonacci hashing: the upper bits of a product depend on all bits of its factor.
    (folded.wrapping_mul(0x9e37_79b1) >> (u32::BITS - BITS)) as usize
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
