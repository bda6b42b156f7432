//! Prints a conversation of one megabyte, for `benches/masking.py`. `conversation N` has about N identifiers.

#[expect(dead_code, reason = "here nobody asks what was written")]
#[path = "../tests/masking/conversation.rs"]
mod conversation;
#[path = "../tests/masking/megabyte.rs"]
mod megabyte;

use std::io::Write as _;

fn main() -> std::io::Result<()> {
    let identifiers = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1500);
    std::io::stdout().write_all(&megabyte::megabyte(identifiers))
}
