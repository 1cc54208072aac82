//! The unit the demo writer writes: 512 bytes that say who wrote them, where and when, and prove it.

/// Size of a record in bytes; every file of the writer is a whole number of them.
pub const RECORD: usize = 512;
/// How many threads a record's clock covers; further ones are not in it.
pub const CLOCKED: usize = 32;

const MAGIC: [u8; 8] = *b"HBrecrd\x01";
const CLOCK_AT: usize = 48;
const FILLER_AT: usize = CLOCK_AT + CLOCKED * 8;
const SUM_AT: usize = RECORD - 32;

/// What one record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The run it belongs to.
    pub seed: u64,
    /// The thread that wrote it.
    pub thread: u32,
    /// Its place in the call that wrote it (a vectored write holds several).
    pub part: u32,
    /// The record's slot in its file, from 0.
    pub slot: u64,
    /// The writing thread's step number; 0 is the content laid down before the run.
    pub step: u64,
    /// Steps that each thread had completed when this one was about to begin: whoever holds this record also
    /// holds all those.
    pub clock: [u64; CLOCKED],
}

/// Why 512 bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRecord {
    /// It does not begin like one.
    #[error("not a record")]
    Foreign,
    /// It begins like one, and its checksum differs.
    #[error("a torn record")]
    Torn,
}

impl Record {
    /// The record's bytes.
    pub fn encode(&self) -> [u8; RECORD] {
        let mut out = [0_u8; RECORD];
        out[..8].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&self.seed.to_le_bytes());
        out[16..20].copy_from_slice(&self.thread.to_le_bytes());
        out[20..24].copy_from_slice(&self.part.to_le_bytes());
        out[24..32].copy_from_slice(&self.slot.to_le_bytes());
        out[32..40].copy_from_slice(&self.step.to_le_bytes());
        for (place, value) in out[CLOCK_AT..FILLER_AT].chunks_exact_mut(8).zip(self.clock) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        let filler = mix(self.seed ^ self.step.rotate_left(17) ^ self.slot).to_le_bytes();
        for place in out[FILLER_AT..SUM_AT].chunks_exact_mut(8) {
            place.copy_from_slice(&filler);
        }
        let sum = blake3::hash(&out[..SUM_AT]);
        out[SUM_AT..].copy_from_slice(sum.as_bytes());
        out
    }

    /// Reads a record back; `None` for a slot of zeros, which nothing was written to.
    pub fn decode(bytes: &[u8; RECORD]) -> Result<Option<Self>, NoRecord> {
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if bytes[..8] != MAGIC {
            return Err(NoRecord::Foreign);
        }
        if blake3::hash(&bytes[..SUM_AT]).as_bytes()[..] != bytes[SUM_AT..] {
            return Err(NoRecord::Torn);
        }
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Ok(Some(Self {
            seed: word(8),
            thread: half(16),
            part: half(20),
            slot: word(24),
            step: word(32),
            clock: std::array::from_fn(|i| word(CLOCK_AT + i * 8)),
        }))
    }
}

/// One step of splitmix64: spreads any number over all 64 bits.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Record {
        Record { seed: 7, thread: 3, part: 1, slot: 99, step: 12_345, clock: std::array::from_fn(|i| i as u64 * 11) }
    }

    #[test]
    fn a_record_reads_back_as_written() {
        assert_eq!(Record::decode(&sample().encode()), Ok(Some(sample())));
    }

    #[test]
    fn zeros_are_no_record_and_no_fault() {
        assert_eq!(Record::decode(&[0; RECORD]), Ok(None));
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let good = sample().encode();
        for at in 0..RECORD {
            let mut bad = good;
            bad[at] ^= 0x40;
            assert!(Record::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn half_of_one_record_and_half_of_the_next_is_torn() {
        let mut torn = sample().encode();
        let next = Record { step: 12_346, ..sample() }.encode();
        torn[256..].copy_from_slice(&next[256..]);
        assert_eq!(Record::decode(&torn), Err(NoRecord::Torn));
    }
}
