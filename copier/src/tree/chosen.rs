//! The answers of somebody who is asked what is left out, and the numbers that say which destination a file is staged for.
use crate::base::util::lock;
use crate::interface::placing::Choose;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Bits of a file's number that count files; those above say which source it was found in.
pub(super) const SERIAL_BITS: u32 = 48;

/// The source that a staged file was found in first, where each has a destination of its own; else 0.
pub(crate) fn part_of(number: u64) -> usize {
    (number >> SERIAL_BITS) as usize
}

/// The answers so far, so that nothing is asked twice.
#[derive(Default)]
pub(super) struct Chosen {
    chooser: Option<Arc<dyn Choose>>,
    answers: Mutex<HashMap<PathBuf, bool>>,
}

impl Chosen {
    pub fn by(chooser: Option<Arc<dyn Choose>>) -> Self {
        Self { chooser, answers: Mutex::default() }
    }

    pub fn is_any(&self) -> bool {
        self.chooser.is_some()
    }

    pub fn known(&self, path: &Path) -> Option<bool> {
        lock(&self.answers).get(path).copied()
    }

    pub fn ask(&self, path: PathBuf) -> bool {
        if let Some(known) = self.known(&path) {
            return known;
        }
        let answer = self.chooser.as_ref().is_some_and(|chooser| chooser.leaves_out(&path));
        lock(&self.answers).insert(path, answer);
        answer
    }
}

impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chosen").field("is_any", &self.is_any()).finish_non_exhaustive()
    }
}
