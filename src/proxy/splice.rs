//! Puts a credential into a body that streams: bytes at known places are replaced, all others pass as they are.
//!
//! Pure. Owns: one attempt's place in its body. Invariants: how the body is cut into chunks does not matter; nothing is
//! copied but the references of `Bytes`; a place that the body does not reach is left out.
//! Units: bytes, counted from the beginning of the body as the caller sent it.

use std::{collections::VecDeque, ops::Range};

use bytes::{Buf as _, Bytes};

/// Bytes of the body and what stands in their place.
pub type Replacement = (Range<usize>, Bytes);

pub struct Splice {
    position: usize,
    /// In ascending order, not overlapping; `None`: its text has been given out, and the rest of its bytes is skipped.
    edits: VecDeque<(Range<usize>, Option<Bytes>)>,
    out: VecDeque<Bytes>,
}

impl Splice {
    /// The replacements have to be in ascending order and must not overlap.
    pub fn new(replacements: Vec<Replacement>) -> Self {
        Self {
            position: 0,
            edits: replacements.into_iter().map(|(at, with)| (at, Some(with))).collect(),
            out: VecDeque::new(),
        }
    }

    /// How long a body of `length` bytes becomes.
    pub fn length(&self, length: u64) -> u64 {
        self.edits.iter().fold(length, |length, (at, with)| {
            let added = with.as_ref().map_or(0, Bytes::len) as u64;
            (length + added).saturating_sub(at.len() as u64)
        })
    }

    /// The next chunk of the body.
    pub fn feed(&mut self, mut chunk: Bytes) {
        while let Some((at, with)) = self.edits.front_mut() {
            let ahead = at.start.saturating_sub(self.position);
            if ahead > chunk.len() {
                break;
            }
            self.position += ahead;
            let before = chunk.split_to(ahead);
            push(&mut self.out, before);
            push(&mut self.out, with.take().unwrap_or_default());
            let gone = (at.end - self.position).min(chunk.len());
            chunk.advance(gone);
            self.position += gone;
            if self.position < at.end {
                break;
            }
            self.edits.pop_front();
        }
        self.position += chunk.len();
        push(&mut self.out, chunk);
    }

    /// What goes out next.
    pub fn pop(&mut self) -> Option<Bytes> {
        self.out.pop_front()
    }
}

fn push(out: &mut VecDeque<Bytes>, piece: Bytes) {
    if !piece.is_empty() {
        out.push_back(piece);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spliced(chunks: &[&[u8]], edits: &[(Range<usize>, &str)]) -> String {
        let edits = edits
            .iter()
            .map(|(at, with)| (at.clone(), Bytes::copy_from_slice(with.as_bytes())));
        let mut splice = Splice::new(edits.collect());
        let whole: usize = chunks.iter().map(|chunk| chunk.len()).sum();
        let foretold = splice.length(whole as u64);
        let mut out = Vec::new();
        for chunk in chunks {
            splice.feed(Bytes::copy_from_slice(chunk));
            while let Some(piece) = splice.pop() {
                out.extend_from_slice(&piece);
            }
        }
        assert_eq!(out.len() as u64, foretold);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_places_are_replaced() {
        assert_eq!(spliced(&[b"abcdef"], &[(2..4, "XYZ")]), "abXYZef");
        assert_eq!(spliced(&[b"abcdef"], &[(0..0, "X"), (6..6, "Y")]), "XabcdefY");
        assert_eq!(spliced(&[b"abcdef"], &[(1..2, ""), (2..3, "-"), (5..6, "")]), "a-de");
        assert_eq!(spliced(&[b"ab", b"cd", b"ef"], &[(1..5, "-")]), "a-f");
        assert_eq!(spliced(&[b"ab", b"", b"cd"], &[(2..2, "-")]), "ab-cd");
        assert_eq!(spliced(&[b"abc"], &[]), "abc");
    }

    proptest! {
        /// Against a plain replacement from the back, however the body is cut.
        #[test]
        fn cuts_do_not_matter(
            body in "[a-z]{0,60}",
            cuts in prop::collection::vec(0usize..60, 0..8),
            places in prop::collection::vec((0usize..60, 0usize..10, "[A-Z]{0,5}"), 0..4),
        ) {
            let mut edits: Vec<(Range<usize>, &str)> = Vec::new();
            let mut sorted = places.clone();
            sorted.sort();
            for (start, length, with) in &sorted {
                let start = (*start).min(body.len());
                let end = (start + length).min(body.len());
                // Two edits at one place would have no order.
                if edits.last().is_none_or(|(last, _)| last.end < start) {
                    edits.push((start..end, with));
                }
            }
            let mut expected = body.clone();
            for (at, with) in edits.iter().rev() {
                expected.replace_range(at.clone(), with);
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| (*cut).min(body.len())).collect();
            cuts.extend([0, body.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|cut| &body.as_bytes()[cut[0]..cut[1]]).collect();
            prop_assert_eq!(spliced(&chunks, &edits), expected);
        }
    }
}
