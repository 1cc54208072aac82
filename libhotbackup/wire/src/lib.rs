//! What libHotBackup and its helper tell each other, over a socket that both have from the library.
//!
//! ```text
//!   library                                helper
//!      │  Begin (pairs, what is wanted)  ──>  │
//!      │  <──  Progress, State, Warning       │   any number, at any time
//!      │  <──  Exclude(path)                  │
//!      │  Answer  ──>                         │   one at a time: whoever asks waits
//!      │  <──  Stopping                       │   the first of the two callbacks; T comes after its answer
//!      │  Answer  ──>                         │
//!      │  <──  Stopped                        │   the second, which nobody waits for
//!      │  <──  Completing                     │   the last moment for a Cancel
//!      │  Answer  ──>                         │
//!      │  <──  End(errno, text)               │   0: the backup is there
//! ```
//!
//! Throttle, Keep, Wait and Cancel may come from the library at any time. When the socket closes before End, the other side is gone.
//!
//! A message is its length (4 bytes, little-endian, without themselves), its kind (1 byte), and its fields one after the other:
//! numbers little-endian, text as its length (4 bytes) and its bytes. `Begin` carries [`VERSION`] first, and whoever does not know
//! it says so by `End`. Kinds and fields only ever grow at the end.
#![forbid(unsafe_code)]

mod fields;

use fields::{Reader, Writer};

/// Of all that is said here.
pub const VERSION: u32 = 1;
/// No message is longer: some thousand paths.
pub const LONGEST: usize = 64 << 20;
/// No rate: as fast as it goes.
pub const UNLIMITED: u64 = u64::MAX;

/// What cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// A backup that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Begin {
    /// [`VERSION`] of whoever asks.
    pub version: u32,
    /// Whether [`Tell::Exclude`] is wanted.
    pub excludes: bool,
    /// Whether a manifest is written to each destination.
    pub manifest: bool,
    /// The throttle to begin with.
    pub throttle: u64,
    /// See [`Ask::Keep`].
    pub keep: bool,
    /// See [`Ask::Wait`].
    pub wait: bool,
    /// Absolute paths of source and destination.
    pub pairs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// From the library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A backup; the first message, and the only one of its kind.
    Begin(Begin),
    /// Bytes a second; 0 pauses copying, [`UNLIMITED`] is no limit.
    Throttle(u64),
    /// Go on capturing until this is taken back.
    Keep(bool),
    /// Do not begin to copy until this is taken back.
    Wait(bool),
    /// The answer to what was asked.
    Answer(bool),
    /// Stop.
    Cancel,
}

/// From the helper.
#[derive(Debug, Clone, PartialEq)]
pub enum Tell {
    /// How far it is, from 0 to 1, and in words.
    Progress(f32, String),
    /// Whether changes are captured, and whether all has been copied once.
    State {
        /// From when the process is followed to the point in time.
        capturing: bool,
        /// What follows are changes only.
        copied: bool,
    },
    /// Is this path to be left out? Wants an answer.
    Exclude(Vec<u8>),
    /// The point in time comes next. Wants an answer.
    Stopping,
    /// The point in time has been.
    Stopped,
    /// The backup is complete but for its place. Wants an answer.
    Completing,
    /// It is over: 0, or an errno and why.
    End(i32, String),
}

impl Ask {
    /// The message, with its length.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Begin(begin) => {
                let mut out = Writer::new(1);
                out.number32(begin.version);
                out.flag(begin.excludes);
                out.flag(begin.manifest);
                out.number64(begin.throttle);
                out.flag(begin.keep);
                out.flag(begin.wait);
                out.number32(begin.pairs.len() as u32);
                for (source, dest) in &begin.pairs {
                    out.text(source);
                    out.text(dest);
                }
                out.finish()
            }
            Self::Throttle(rate) => {
                let mut out = Writer::new(2);
                out.number64(*rate);
                out.finish()
            }
            Self::Keep(keep) => Writer::of_flag(3, *keep),
            Self::Wait(wait) => Writer::of_flag(4, *wait),
            Self::Answer(answer) => Writer::of_flag(5, *answer),
            Self::Cancel => Writer::new(6).finish(),
        }
    }

    /// Understands a message, without its length.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let (kind, mut fields) = Reader::new(message)?;
        Ok(match kind {
            1 => {
                let mut begin = Begin {
                    version: fields.number32()?,
                    excludes: fields.flag()?,
                    manifest: fields.flag()?,
                    throttle: fields.number64()?,
                    keep: fields.flag()?,
                    wait: fields.flag()?,
                    pairs: Vec::new(),
                };
                for _ in 0..fields.number32()? {
                    begin.pairs.push((fields.text()?, fields.text()?));
                }
                Self::Begin(begin)
            }
            2 => Self::Throttle(fields.number64()?),
            3 => Self::Keep(fields.flag()?),
            4 => Self::Wait(fields.flag()?),
            5 => Self::Answer(fields.flag()?),
            6 => Self::Cancel,
            _ => return Err(Malformed),
        })
    }
}

impl Tell {
    /// The message, with its length.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Progress(done, text) => {
                let mut out = Writer::new(1);
                out.number32(done.to_bits());
                out.text(text.as_bytes());
                out.finish()
            }
            Self::State { capturing, copied } => {
                let mut out = Writer::new(2);
                out.flag(*capturing);
                out.flag(*copied);
                out.finish()
            }
            Self::Exclude(path) => {
                let mut out = Writer::new(3);
                out.text(path);
                out.finish()
            }
            Self::Stopping => Writer::new(4).finish(),
            Self::Stopped => Writer::new(5).finish(),
            Self::Completing => Writer::new(6).finish(),
            Self::End(errno, text) => {
                let mut out = Writer::new(7);
                out.number32(errno.cast_unsigned());
                out.text(text.as_bytes());
                out.finish()
            }
        }
    }

    /// Understands a message, without its length.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let (kind, mut fields) = Reader::new(message)?;
        Ok(match kind {
            1 => Self::Progress(f32::from_bits(fields.number32()?), fields.words()?),
            2 => Self::State { capturing: fields.flag()?, copied: fields.flag()? },
            3 => Self::Exclude(fields.text()?),
            4 => Self::Stopping,
            5 => Self::Stopped,
            6 => Self::Completing,
            7 => Self::End(fields.number32()?.cast_signed(), fields.words()?),
            _ => return Err(Malformed),
        })
    }
}

/// Puts messages together from what comes in pieces.
#[derive(Debug, Default)]
pub struct Incoming {
    bytes: Vec<u8>,
}

impl Incoming {
    /// What came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, without its length.
    ///
    /// # Errors
    /// What comes cannot be a message.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>, Malformed> {
        let Some(length) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || length > LONGEST {
            return Err(Malformed);
        }
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        let rest = self.bytes.split_off(4 + length);
        let whole = std::mem::replace(&mut self.bytes, rest);
        Ok(Some(whole[4..].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asks() -> Vec<Ask> {
        let pairs = vec![(b"/a".to_vec(), b"/\xff".to_vec()), (Vec::new(), b"/b".to_vec())];
        let begin = Begin { version: 7, excludes: true, throttle: UNLIMITED, wait: true, pairs, ..Begin::default() };
        vec![Ask::Begin(begin), Ask::Throttle(5), Ask::Keep(true), Ask::Wait(false), Ask::Answer(true), Ask::Cancel]
    }

    fn tells() -> Vec<Tell> {
        let progress = Tell::Progress(0.25, "käse".into());
        let state = Tell::State { capturing: true, copied: false };
        let exclude = Tell::Exclude(b"/\xfe".to_vec());
        let end = Tell::End(-1, "why".into());
        vec![progress, state, exclude, Tell::Stopping, Tell::Stopped, Tell::Completing, end]
    }

    #[test]
    fn every_message_comes_out_as_it_went_in_whatever_pieces_it_comes_in() {
        for size in [1, 3, 1000] {
            let mut incoming = Incoming::default();
            let bytes: Vec<u8> =
                asks().iter().flat_map(Ask::encode).chain(tells().iter().flat_map(Tell::encode)).collect();
            let mut whole = Vec::new();
            for piece in bytes.chunks(size) {
                incoming.push(piece);
                while let Some(message) = incoming.take().unwrap() {
                    whole.push(message);
                }
            }
            let (first, second) = whole.split_at(asks().len());
            assert_eq!(first.iter().map(|m| Ask::decode(m).unwrap()).collect::<Vec<_>>(), asks());
            assert_eq!(second.iter().map(|m| Tell::decode(m).unwrap()).collect::<Vec<_>>(), tells());
        }
    }

    #[test]
    fn a_message_that_is_cut_short_is_malformed_and_nothing_worse() {
        for whole in asks().iter().map(Ask::encode) {
            let message = &whole[4..];
            for end in 0..message.len() {
                assert_eq!(Ask::decode(&message[..end]), Err(Malformed));
            }
        }
        for whole in tells().iter().map(Tell::encode) {
            let message = &whole[4..];
            for end in 0..message.len() {
                assert_eq!(Tell::decode(&message[..end]), Err(Malformed));
            }
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_malformed() {
        for length in [0, LONGEST as u32 + 1, u32::MAX] {
            let mut incoming = Incoming::default();
            incoming.push(&length.to_le_bytes());
            assert_eq!(incoming.take(), Err(Malformed));
        }
        // More text than there is.
        assert_eq!(Tell::decode(&[3, 255, 255, 255, 255, 0]), Err(Malformed));
    }
}
