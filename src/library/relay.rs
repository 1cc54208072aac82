//! What a backup tells, taken to the program; and what it asks.
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hotbackup_copier::{Choose, Monitor, Phase, Progress};
use hotbackup_wire::Tell;

use super::line::Line;
use crate::cli::size::human;

/// Shares of the whole: what is copied while the program is followed, until the point in time, and until all of it is saved.
const FOLLOWED: f32 = 0.90;
const FIXED: f32 = 0.92;
const SAVED: f32 = 0.95;

/// A monitor at the end of a line.
pub(super) struct Relay {
    line: Arc<Line>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    done: f32,
    capturing: bool,
    copied: bool,
    /// The question whether the point in time may come.
    stopping: Option<usize>,
}

impl Relay {
    pub fn new(line: Arc<Line>) -> Self {
        Self { line, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_state(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        let before = (state.capturing, state.copied);
        change(&mut state);
        let (capturing, copied) = (state.capturing, state.copied);
        if before != (capturing, copied) {
            self.line.tell(&Tell::State { capturing, copied });
        }
    }

    fn reach(&self, done: f32, text: String) {
        let done = {
            let mut state = self.lock();
            state.done = state.done.max(done.clamp(0.0, 1.0));
            state.done
        };
        self.line.tell(&Tell::Progress(done, text));
    }
}

impl Monitor for Relay {
    fn phase(&self, phase: Phase) {
        match phase {
            Phase::Attach => self.reach(0.0, "attaching to the process".into()),
            Phase::Track => self.tell_state(|state| state.capturing = true),
            Phase::Hold => self.reach(FOLLOWED, "fixing the point in time".into()),
            Phase::Drain => {
                self.tell_state(|state| state.capturing = false);
                self.line.tell(&Tell::Stopped);
                self.reach(FIXED, "copying what is left of the point in time".into());
            }
            Phase::Publish => self.reach(SAVED, "putting the backup into place".into()),
            Phase::Done => {}
        }
    }

    fn progress(&self, progress: &Progress) {
        if progress.phase != Phase::Track || progress.bytes_total == 0 {
            return;
        }
        let done = progress.bytes_total.saturating_sub(progress.bytes_due);
        let (here, whole) = (human(done), human(progress.bytes_total));
        let share = done as f32 / progress.bytes_total as f32;
        self.reach(share * FOLLOWED, format!("{here} of {whole} in place, {} files", progress.files_total));
    }

    fn copied(&self) {
        self.tell_state(|state| state.copied = true);
    }

    fn may_hold(&self) -> bool {
        let mut state = self.lock();
        let question = *state.stopping.get_or_insert_with(|| self.line.ask(&Tell::Stopping));
        self.line.answer(question).is_some()
    }

    fn completing(&self) {
        self.reach(1.0, "complete".into());
        let question = self.line.ask(&Tell::Completing);
        self.line.wait_beyond_cancel(question);
    }

    fn warning(&self, text: &str) {
        tracing::warn!("{text}");
    }
}

impl Choose for Relay {
    fn leaves_out(&self, path: &Path) -> bool {
        let question = self.line.ask(&Tell::Exclude(path.as_os_str().as_bytes().to_vec()));
        self.line.wait(question).unwrap_or(false)
    }
}
