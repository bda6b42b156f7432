//! Sharing requests by weight: rendezvous hashing. Everybody who knows the conversation and the names puts them in the
//! same order, nothing has to be remembered, and an upstream that comes or goes moves only the conversations it gets or had.

use sha2::{Digest, Sha256};

/// Puts `equals`, with their names and weights, into the order in which `conversation` tries them: the first is each with
/// the probability of its share, and so is the next of those that remain. A weight of 0 comes last, in the given order.
pub fn order<T>(mut equals: Vec<(T, &str, u32)>, conversation: &str) -> Vec<T> {
    equals.sort_by(|(_, one, weight), (_, other, other_weight)| {
        distance(conversation, one, *weight).total_cmp(&distance(conversation, other, *other_weight))
    });
    equals.into_iter().map(|(equal, ..)| equal).collect()
}

/// How far an upstream is from a conversation: exponentially distributed, with its weight as the rate.
fn distance(conversation: &str, name: &str, weight: u32) -> f64 {
    let digest = Sha256::new().chain_update((name.len() as u64).to_be_bytes()).chain_update(name);
    let digest = digest.chain_update(conversation).finalize();
    let [a, b, c, d, ..] = digest[..] else { return f64::INFINITY };
    // In (0, 1): neither end is reached.
    let uniform = (f64::from(u32::from_be_bytes([a, b, c, d])) + 0.5) / 4_294_967_296.0;
    if weight == 0 { f64::INFINITY } else { -uniform.ln() / f64::from(weight) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn first<'n>(equals: &[(&'n str, u32)], conversation: &str) -> &'n str {
        order(equals.iter().map(|(name, weight)| (*name, *name, *weight)).collect(), conversation)[0]
    }

    #[test]
    fn conversations_are_shared_by_weight() {
        let equals = [("a", 6), ("b", 3), ("c", 1), ("drained", 0)];
        let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
        for number in 0..10_000 {
            *counts.entry(first(&equals, &format!("conversation {number}"))).or_default() += 1;
        }
        // Four standard deviations are at most 200.
        for (name, weight) in equals {
            let found = counts.get(name).copied().unwrap_or_default();
            assert!(found.abs_diff(weight * 1000) < 200, "{name}: {found}");
        }
        assert_eq!(counts.get("drained"), None);
    }

    #[test]
    fn a_conversation_stays_where_it_is_when_others_come_and_go() {
        let (all, fewer) = ([("a", 2), ("b", 2), ("c", 1)], [("a", 2), ("c", 1)]);
        let mut moved = 0;
        for number in 0..1000 {
            let conversation = format!("conversation {number}");
            let before = first(&all, &conversation);
            assert_eq!(first(&all, &conversation), before, "the same each time");
            assert_eq!(
                first(&[("c", 1), ("b", 2), ("a", 2)], &conversation),
                before,
                "in whatever order they are listed"
            );
            let after = first(&fewer, &conversation);
            assert!(before == after || before == "b", "{conversation}: {before} to {after}");
            moved += u32::from(before != after);
        }
        assert!(moved > 300, "{moved}");
    }

    #[test]
    fn without_any_weight_the_order_stays() {
        let equals = vec![(1, "x", 0), (2, "a", 0), (3, "m", 0)];
        assert_eq!(order(equals, "conversation"), [1, 2, 3]);
    }
}
