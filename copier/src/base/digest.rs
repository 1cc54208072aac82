//! Hashes of content. A hole costs next to nothing, however long it is.
//!
//! Usually it is BLAKE3. But what BLAKE3 makes of a kibibyte depends on where that stands (its counter goes into each
//! compression), so a run of zeros has to be hashed zero by zero wherever it is met: 64 GiB take 13 s, and 4 EiB some thirty
//! years. No part of a tree of zeros can be had from one that was made before, not even with `blake3::hazmat`, which asks for the
//! offset as well. So a file with large holes is hashed *in pieces*:
//!
//! - a piece is 64 KiB of content at a multiple of 64 KiB; the last one may be shorter. Its hash is BLAKE3 of it, which does
//!   not depend on where it stands;
//! - pieces are joined in a binary tree, the left side of each node as large a power of two of pieces as leaves something
//!   for the right (as in RFC 6962): node = `BLAKE3-derive-key(NODE, left || right)`;
//! - the hash is `BLAKE3-derive-key(CONTENT, size as 8 bytes, lowest first || root of the tree)`; of nothing, without a root.
//!
//! A piece, a node and the whole are hashed in three ways of which none can be mistaken for another, and the size is part of it:
//! two contents with the same hash would be a collision of BLAKE3. It follows from the content alone, not from where the file system
//! has holes, so a copy without any has the same hash. A subtree of zeros has one hash for each power of two of pieces.
use std::sync::OnceLock;

/// Context of a node (see `blake3::derive_key`).
const NODE: &str = "hotbackup 2026-11-29 content in pieces: node";
/// Context of the whole.
const CONTENT: &str = "hotbackup 2026-11-29 content in pieces: content";
/// Bytes of a piece: enough for BLAKE3 to be as fast as it gets, and little beside what a hole must have to be worth it.
const PIECE: u64 = 64 << 10;
/// With holes of so many bytes a file is hashed in pieces: less of zeros is hashed in some 20 ms.
const LARGE: u64 = 64 << 20;

/// How content is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Plain,
    Pieces,
}

impl Way {
    /// The way for a file with so many bytes of holes.
    pub fn of(holes: u64) -> Self {
        if holes >= LARGE { Self::Pieces } else { Self::Plain }
    }
}

/// A hash, and how it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Digest {
    Plain(blake3::Hash),
    Pieces(blake3::Hash),
}

/// Hashes content from its start to its end.
pub(crate) enum Hasher {
    Plain(Box<blake3::Hasher>),
    Pieces(Box<Pieces>),
}

/// A hash in pieces on its way.
#[derive(Default)]
pub(crate) struct Pieces {
    size: u64,
    /// The piece that is not complete, and how much of it there is.
    piece: blake3::Hasher,
    filled: u64,
    /// Complete pieces so far.
    count: u64,
    /// Subtrees of 2^n pieces each, the largest first: one for each bit of `count`.
    stack: Vec<blake3::Hash>,
}

static ZEROS: [u8; PIECE as usize] = [0; PIECE as usize];

impl Hasher {
    pub fn new(way: Way) -> Self {
        match way {
            Way::Plain => Self::Plain(Box::default()),
            Way::Pieces => Self::Pieces(Box::default()),
        }
    }

    pub fn update(&mut self, data: &[u8]) {
        match self {
            Self::Plain(hasher) => drop(hasher.update(data)),
            Self::Pieces(pieces) => pieces.update(data),
        }
    }

    /// The same with so many zeros.
    pub fn zeros(&mut self, mut len: u64) {
        if let Self::Pieces(pieces) = self {
            return pieces.zeros(len);
        }
        while len > 0 {
            let n = len.min(PIECE);
            self.update(&ZEROS[..n as usize]);
            len -= n;
        }
    }

    pub fn finalize(self) -> Digest {
        match self {
            Self::Plain(hasher) => Digest::Plain(hasher.finalize()),
            Self::Pieces(pieces) => Digest::Pieces(pieces.finalize()),
        }
    }
}

fn node(left: &blake3::Hash, right: &blake3::Hash) -> blake3::Hash {
    static BEGUN: OnceLock<blake3::Hasher> = OnceLock::new();
    let mut hasher = BEGUN.get_or_init(|| blake3::Hasher::new_derive_key(NODE)).clone();
    hasher.update(left.as_bytes()).update(right.as_bytes()).finalize()
}

/// The root of 2^level pieces of zeros.
fn zero_tree(level: u32) -> blake3::Hash {
    static LEVELS: OnceLock<Vec<blake3::Hash>> = OnceLock::new();
    let levels = LEVELS.get_or_init(|| {
        let next = |below: &blake3::Hash| Some(node(below, below));
        std::iter::successors(Some(blake3::hash(&ZEROS)), next)
            .take((u64::BITS - PIECE.trailing_zeros()) as usize)
            .collect()
    });
    levels[level as usize]
}

impl Pieces {
    fn update(&mut self, mut data: &[u8]) {
        self.size += data.len() as u64;
        while !data.is_empty() {
            let n = data.len().min((PIECE - self.filled) as usize);
            self.piece.update(&data[..n]);
            self.filled += n as u64;
            data = &data[n..];
            if self.filled == PIECE {
                let hash = self.piece.finalize();
                self.piece.reset();
                self.filled = 0;
                self.push(hash, 0);
            }
        }
    }

    fn zeros(&mut self, mut len: u64) {
        let rest = if self.filled > 0 { len.min(PIECE - self.filled) } else { 0 };
        self.update(&ZEROS[..rest as usize]);
        len -= rest;
        while len >= PIECE {
            // The largest subtree that may begin here and is not too long.
            let level = self.count.trailing_zeros().min((len / PIECE).ilog2());
            self.push(zero_tree(level), level);
            self.size += PIECE << level;
            len -= PIECE << level;
        }
        self.update(&ZEROS[..len as usize]);
    }

    /// One more subtree, of 2^level pieces.
    fn push(&mut self, mut hash: blake3::Hash, level: u32) {
        let mut at = self.count >> level;
        while at & 1 == 1 {
            // There is one for each bit that is set.
            let Some(left) = self.stack.pop() else { break };
            hash = node(&left, &hash);
            at >>= 1;
        }
        self.stack.push(hash);
        self.count += 1 << level;
    }

    fn finalize(mut self) -> blake3::Hash {
        if self.filled > 0 {
            self.stack.push(self.piece.finalize());
        }
        let root = self.stack.iter().rev().copied().reduce(|right, left| node(&left, &right));
        let mut hasher = blake3::Hasher::new_derive_key(CONTENT);
        hasher.update(&self.size.to_le_bytes());
        if let Some(root) = root {
            hasher.update(root.as_bytes());
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As the description above says it, from the whole content.
    fn slowly(content: &[u8]) -> blake3::Hash {
        fn tree(pieces: &[&[u8]]) -> blake3::Hash {
            if let [piece] = pieces {
                return blake3::hash(piece);
            }
            let left = pieces.len().next_power_of_two() / 2;
            let mut hasher = blake3::Hasher::new_derive_key(NODE);
            hasher.update(tree(&pieces[..left]).as_bytes()).update(tree(&pieces[left..]).as_bytes()).finalize()
        }
        let pieces: Vec<&[u8]> = content.chunks(PIECE as usize).collect();
        let mut hasher = blake3::Hasher::new_derive_key(CONTENT);
        hasher.update(&(content.len() as u64).to_le_bytes());
        if !pieces.is_empty() {
            hasher.update(tree(&pieces).as_bytes());
        }
        hasher.finalize()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn it_follows_from_the_content_and_not_from_its_parts(
            parts in prop::collection::vec((any::<bool>(), 0..400_000_usize), 0..8)
        ) {
            let (mut hasher, mut plain, mut content) = (Hasher::new(Way::Pieces), Hasher::new(Way::Plain), Vec::new());
            for (is_data, len) in parts {
                if is_data {
                    let data: Vec<u8> = (0..len).map(|n| (n * 7 + n / 251) as u8).collect();
                    hasher.update(&data);
                    plain.update(&data);
                    content.extend(data);
                } else {
                    hasher.zeros(len as u64);
                    plain.zeros(len as u64);
                    content.resize(content.len() + len, 0);
                }
            }
            prop_assert_eq!(hasher.finalize(), Digest::Pieces(slowly(&content)));
            prop_assert_eq!(plain.finalize(), Digest::Plain(blake3::hash(&content)));
        }
    }

    #[test]
    fn what_differs_has_another_hash() {
        let of = |parts: &[(&[u8], u64)]| {
            let mut hasher = Hasher::new(Way::Pieces);
            for (data, zeros) in parts {
                hasher.update(data);
                hasher.zeros(*zeros);
            }
            hasher.finalize()
        };
        let all = [
            of(&[]),
            of(&[(b"", 1)]),
            of(&[(b"", PIECE)]),
            of(&[(b"", PIECE + 1)]),
            of(&[(b"", 2 * PIECE)]),
            of(&[(b"x", PIECE)]),
            of(&[(b"", PIECE), (b"x", 0)]),
            of(&[(b"", (1 << 62) - 1)]),
            of(&[(b"", 1 << 62)]),
            of(&[(b"", 1 << 61), (b"x", (1 << 61) - 1)]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[..index].contains(one), "{index}");
        }
    }
}
