//! Bytes of one direction of a relay, cut into messages. Most pass by without being kept: only their beginning is looked at.
use crate::wire::{HEADER, Header, Malformed};

/// What is read at a time, and about what is kept that the other side has not taken yet.
pub(super) const CHUNK: usize = 16 << 10;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Read and not judged yet.
    input: Vec<u8>,
    /// Of a message that was judged: bytes still to come, and what becomes of them.
    rest: usize,
    drops: bool,
    collects: bool,
    /// To be written.
    pub output: Vec<u8>,
}

/// What is to become of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// More of it must be seen.
    Unknown,
    /// It passes unchanged.
    Pass,
    /// It is dropped.
    Drop,
    /// It is wanted as a whole.
    Collect,
}

/// Says what is to become of a message, by its header and what is there of it.
pub(super) type Judge<'a> = dyn FnMut(Header, &[u8]) -> Result<Fate, Malformed> + 'a;

/// What came of a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// More bytes are needed.
    Hungry,
    /// Some went on their way.
    Moved,
    /// A message that was wanted as a whole.
    Message(Vec<u8>),
}

impl Frames {
    /// Takes what was read.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Whether there is so much to be written that no more should be read.
    pub fn is_full(&self) -> bool {
        self.output.len() >= 4 * CHUNK
    }

    /// Moves what there is by one step. `judge` sees a message's header and what is there of it.
    pub fn step(&mut self, judge: &mut Judge<'_>) -> Result<Step, Malformed> {
        if self.rest == 0 {
            let Some(head) = self.input.first_chunk::<HEADER>() else { return Ok(Step::Hungry) };
            let header = Header::read(*head)?;
            let there = self.input.len().min(header.length);
            let fate = judge(header, &self.input[..there])?;
            if fate == Fate::Unknown {
                return Ok(Step::Hungry);
            }
            self.rest = header.length;
            (self.drops, self.collects) = (fate == Fate::Drop, fate == Fate::Collect);
        }
        if self.collects {
            if self.input.len() < self.rest {
                return Ok(Step::Hungry);
            }
            let message = self.input.drain(..self.rest).collect();
            self.rest = 0;
            return Ok(Step::Message(message));
        }
        let count = self.rest.min(self.input.len());
        if count == 0 {
            return Ok(Step::Hungry);
        }
        if self.drops {
            self.input.drain(..count);
        } else {
            self.output.extend(self.input.drain(..count));
        }
        self.rest -= count;
        Ok(Step::Moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode;
    use bson::doc;
    use proptest::prelude::*;

    proptest! {
        /// However the bytes arrive, what passes is what was sent, and what is collected or dropped is whole.
        #[test]
        fn messages_are_cut_where_they_end(
            fates in proptest::collection::vec(0_usize..3, 1..6),
            sizes in proptest::collection::vec(1_usize..200, 1..40),
        ) {
            let messages: Vec<Vec<u8>> =
                fates.iter().enumerate().map(|(i, _)| encode(i as i32, 0, false, &doc! {"x": "y".repeat(i * 37)}).unwrap()).collect();
            let all = messages.concat();
            let (mut frames, mut collected, mut at) = (Frames::default(), Vec::new(), 0);
            for size in sizes.iter().cycle() {
                if at == all.len() {
                    break;
                }
                let end = (at + size).min(all.len());
                frames.feed(&all[at..end]);
                at = end;
                loop {
                    let step = frames.step(&mut |header, bytes| {
                        if bytes.len() < 20 { return Ok(Fate::Unknown) }
                        Ok([Fate::Pass, Fate::Drop, Fate::Collect][fates[header.id as usize]])
                    });
                    match step.unwrap() {
                        Step::Hungry => break,
                        Step::Moved => {}
                        Step::Message(message) => collected.push(message),
                    }
                }
            }
            let of = |fate: usize| messages.iter().zip(&fates).filter(|(_, f)| **f == fate).map(|(m, _)| m.clone()).collect::<Vec<_>>();
            prop_assert_eq!(&frames.output, &of(0).concat());
            prop_assert_eq!(collected, of(2));
            prop_assert!(frames.input.is_empty() && frames.rest == 0);
        }
    }
}
