//! Claims on what is due, which is what lets several threads save one file: due becomes claimed, and claimed becomes saved,
//! under the file's lock; reading happens in between, outside of it. Who must wait for whom is told in `gate::needs`.
use crate::base::sys::Attributes;
use crate::base::util;
use crate::marks::ledger::Ledger;
use crate::marks::node::{File, FileState, Xattrs};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a wait is at most before the one who waits looks whether the backup has failed.
pub(crate) const GLANCE: Duration = Duration::from_millis(5);

impl File {
    /// Claims the first due blocks of a range, at most `max`.
    pub fn claim(&self, within: Range<u64>, max: u64) -> Option<Range<u64>> {
        let mut state = self.state();
        let run = state.map.due_run(within, max)?;
        state.map.claim(run.clone());
        let late = if state.late.is_empty() { run.clone() } else { state.late.clone() };
        state.late = late.start.min(run.start)..late.end.max(run.end);
        Some(run)
    }

    /// Claimed blocks have been read, or taken ones copied.
    pub fn done(&self, ledger: &Ledger, run: Range<u64>) {
        let mut state = self.state();
        let saved = state.map.done(run);
        state.settle();
        self.saved.notify_all();
        drop(state);
        ledger.add_lacking(-(saved as i64));
    }

    /// Claims the extended attributes, if nobody has.
    pub fn claim_xattrs(&self) -> bool {
        let mut state = self.state();
        let due = matches!(state.xattrs, Xattrs::Due);
        if due {
            state.xattrs = Xattrs::Claimed;
        }
        due
    }

    /// The extended attributes have been read.
    pub fn done_xattrs(&self, all: Attributes) {
        let mut state = self.state();
        state.xattrs = Xattrs::known(all);
        state.settle();
        self.saved.notify_all();
    }

    /// Waits until `ready`, or the backup has failed. Returns whether it is ready.
    pub fn wait_until(&self, ledger: &Ledger, ready: impl Fn(&FileState) -> bool) -> bool {
        let mut state = self.state();
        while !ready(&state) {
            if ledger.has_failed() {
                return false;
            }
            state = util::wait(&self.saved, state, GLANCE);
        }
        true
    }

    /// Whether a call named the file since its status was last looked at.
    pub fn is_touched(&self) -> bool {
        self.flags.dirty.load(Ordering::SeqCst)
    }
}

impl FileState {
    /// What is wholly saved need not stay open.
    fn settle(&mut self) {
        if !self.is_open() {
            self.open = None;
        }
    }
}
