//! The unit the demo's writer writes: 4096 bytes that say who wrote them, where and when, and prove it.
use super::writer::THREADS;

/// Size of a record in bytes; every file of the writer is a whole number of them.
pub(super) const RECORD: usize = 4096;
const HEAD: usize = (3 + THREADS) * 8;

/// What one record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Record {
    /// The thread that wrote it.
    pub(super) thread: u64,
    /// The record's slot in its file, from 0.
    pub(super) slot: u64,
    /// The writing thread's step; 0 is the content laid down before the first.
    pub(super) step: u64,
    /// Steps that each thread had completed when this one was about to begin: whoever holds this record also holds all
    /// those.
    pub(super) clock: [u64; THREADS],
}

impl Record {
    /// The record's bytes: what it says, and what follows from that, so that no part of it can be of another.
    pub(super) fn encode(&self) -> [u8; RECORD] {
        let mut out = [0; RECORD];
        let words = [self.thread, self.slot, self.step].into_iter().chain(self.clock);
        out[..HEAD].iter_mut().zip(words.flat_map(u64::to_le_bytes)).for_each(|(place, byte)| *place = byte);
        let (head, rest) = out.split_at_mut(HEAD);
        blake3::Hasher::new().update(head).finalize_xof().fill(rest);
        out
    }

    /// Reads a record back; `None` for what is none, or a torn one.
    pub(super) fn decode(bytes: &[u8; RECORD]) -> Option<Self> {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at * 8 + i]));
        let record =
            Self { thread: word(0), slot: word(1), step: word(2), clock: std::array::from_fn(|i| word(3 + i)) };
        (record.encode() == *bytes).then_some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Record = Record { thread: 3, slot: 99, step: 12_345, clock: [5, 6, 7, 8] };

    #[test]
    fn a_record_reads_back_as_written() {
        assert_eq!(Record::decode(&SAMPLE.encode()), Some(SAMPLE));
    }

    #[test]
    fn every_flipped_byte_is_noticed_and_so_are_zeros() {
        for at in 0..RECORD {
            let mut bad = SAMPLE.encode();
            bad[at] ^= 0x40;
            assert_eq!(Record::decode(&bad), None, "byte {at}");
        }
        assert_eq!(Record::decode(&[0; RECORD]), None);
    }

    #[test]
    fn a_part_of_one_record_and_a_part_of_the_next_is_none() {
        let next = Record { step: 12_346, ..SAMPLE }.encode();
        for at in [17, 100, 512, 2048, 4095] {
            let mut torn = SAMPLE.encode();
            torn[at..].copy_from_slice(&next[at..]);
            assert_eq!(Record::decode(&torn), None, "torn at {at}");
        }
    }
}
