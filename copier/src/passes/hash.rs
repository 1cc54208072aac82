//! Hashing what is copied, on a thread of its own, while the next piece is read and written.
//!
//! A file that is copied from its start to its end is hashed on its way. The hash is stored only if the staged file has not
//! changed since; other files are read again when they are published.
use crate::base::digest::{self, Digest, Way};
use crate::marks::node::{File, FileState, StagedHash};
use crate::passes::source::Segment;
use crossbeam::channel::{Receiver, Sender, unbounded};
use std::sync::Arc;

/// Buffers on their way: one being filled, one being hashed, one in between.
const BUFFERS: usize = 3;
/// A file up to this size is hashed at once: waking another thread takes longer.
const SMALL: u64 = 128 << 10;

/// What is to be hashed, in order.
enum Work {
    /// A piece of a file; the buffer holds it from `start` on. At 0 a new file begins.
    Piece { start: u64, segments: Vec<Segment>, buffer: Vec<u8>, way: Way },
    /// All pieces of a file have been sent.
    Finish { file: Arc<File>, size: u64, version: u32 },
}

/// The way to the thread that hashes. If that thread is gone, which is a failure of its own, nothing is hashed any more.
pub(crate) struct Lane {
    work: Sender<Work>,
    free: Receiver<Vec<u8>>,
    /// The hash of a small file, hashed here.
    small: Option<Digest>,
}

/// The other end of a lane.
pub(crate) struct Hasher {
    work: Receiver<Work>,
    free: Sender<Vec<u8>>,
}

/// A lane and its other end.
pub(crate) fn lane() -> (Lane, Hasher) {
    let ((work, todo), (give, free)) = (unbounded(), unbounded());
    for _ in 1..BUFFERS {
        let _ = give.send(Vec::new());
    }
    (Lane { work, free, small: None }, Hasher { work: todo, free: give })
}

impl Lane {
    /// Hashes the next piece of a file of `size` bytes. The buffer may be exchanged for another.
    pub fn hash(&mut self, buffer: &mut Vec<u8>, start: u64, segments: Vec<Segment>, (size, way): (u64, Way)) {
        let end = segments.last().map_or(start, |(part, _)| part.end);
        if start == 0 && end == size && size <= SMALL {
            let mut hasher = digest::Hasher::new(way);
            hash_piece(&mut hasher, buffer, start, &segments);
            self.small = Some(hasher.finalize());
            return;
        }
        self.small = None;
        let empty = self.free.recv().unwrap_or_default();
        let buffer = std::mem::replace(buffer, empty);
        let _ = self.work.send(Work::Piece { start, segments, buffer, way });
    }

    /// All of a file was hashed. Its state says which version of the staged file that was.
    pub fn finish(&mut self, file: &Arc<File>, state: &mut FileState, size: u64) {
        match self.small.take() {
            Some(hash) => state.hash = Some(Box::new(StagedHash { hash, size })),
            None => {
                let _ = self.work.send(Work::Finish { file: Arc::clone(file), size, version: state.version });
            }
        }
    }
}

impl Hasher {
    /// Hashes until the lane is gone.
    pub fn run(self) {
        let mut hasher = digest::Hasher::new(Way::Plain);
        for work in self.work {
            match work {
                Work::Piece { start, segments, buffer, way } => {
                    if start == 0 {
                        hasher = digest::Hasher::new(way);
                    }
                    hash_piece(&mut hasher, &buffer, start, &segments);
                    // The lane may be gone already.
                    let _ = self.free.send(buffer);
                }
                Work::Finish { file, size, version } => {
                    let hash = std::mem::replace(&mut hasher, digest::Hasher::new(Way::Plain)).finalize();
                    let mut state = file.state();
                    if state.version == version {
                        state.hash = Some(Box::new(StagedHash { hash, size }));
                    }
                }
            }
        }
    }
}

fn hash_piece(hasher: &mut digest::Hasher, buffer: &[u8], start: u64, segments: &[Segment]) {
    for (part, is_data) in segments {
        if *is_data {
            hasher.update(&buffer[(part.start - start) as usize..(part.end - start) as usize]);
        } else {
            hasher.zeros(part.end - part.start);
        }
    }
}
