//! What a backup tells while it runs, and what it asks of the tracer.
use hotbackup_event::{Effect, FileId};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Waits for the target's calls.
pub trait Quiesce: Sync {
    /// Waits until every call whose permit was dropped before this was called has finished, and likewise every call
    /// that had been received by then and that the gate did not park. An error says why that cannot be known; the
    /// backup fails with it.
    fn grace(&self) -> Result<(), String>;

    /// What has been marked elsewhere since this, or [`Self::unseen`], was asked last: for counting, as no grace is over.
    fn marked(&self) -> Vec<Effect> {
        Vec::new()
    }

    /// What may have been changed by calls that are not delivered, since this was last asked: each is marked after a
    /// grace. With `after_hold`, only what delivered calls do not explain.
    fn unseen(&self, after_hold: bool) -> Vec<Effect> {
        let _ = after_hold;
        Vec::new()
    }

    /// Before calls are held for [`Self::while_frozen`]: makes sure that nobody but the target has a file that was mapped for
    /// writing mapped so. An error says who; this may be different the next time.
    /// `mapped` tells which files; it is asked once, when every call that was delivered until now has finished.
    fn prepare_to_freeze(&self, mapped: &dyn Fn() -> Vec<FileId>) -> Result<(), String> {
        let _ = mapped;
        Ok(())
    }

    /// Has every thread of the target stand still, for at most `limit`, while `work` runs, with the files that it has
    /// mapped for writing now; `mapped` are those that are known to have been. After an error, `work` has not run, or what
    /// it saw may have changed meanwhile.
    fn while_frozen(&self, limit: Duration, mapped: &[FileId], work: &mut dyn FnMut(&[FileId])) -> Result<(), String> {
        let _ = (limit, mapped, work);
        Err("it cannot be stopped".into())
    }

    /// Whether every call until now has been delivered: nobody else took the target over. Once this says no it never says
    /// yes again.
    fn is_in_charge(&self) -> bool {
        true
    }
}

/// Follows a backup. All methods do nothing unless implemented. They are called from the thread that runs the backup,
/// and it waits for them: they should be quick.
pub trait Monitor: Sync {
    /// A phase begins.
    fn phase(&self, phase: Phase) {
        let _ = phase;
    }
    /// A few times a second, and at the end of each phase.
    fn progress(&self, progress: &Progress) {
        let _ = progress;
    }
    /// The longest that a call of the target has waited for its answer so far, before each [`Self::progress`] and
    /// [`Self::phase`]. Told by the session, not by the copier.
    fn waited(&self, longest: Duration) {
        let _ = longest;
    }
    /// All that was there has been copied once; what follows are changes. Told once.
    fn copied(&self) {}
    /// Whether the point in time may be fixed now. Asked over and over, from when all is ready for it, until it may: the target is
    /// followed meanwhile, and nothing of it is held.
    fn may_hold(&self) -> bool {
        true
    }
    /// The backup is complete but for its name. A cancel that is given in here still counts, and none after it.
    fn completing(&self) {}
    /// Everything of the point in time is saved, and the target is free: what it does from here on does not matter.
    fn released(&self) {}
    /// Something worth knowing that does not make the backup fail.
    fn warning(&self, text: &str) {
        let _ = text;
    }
}

/// Where a backup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The tracer attaches (reported by the session, not by the copier).
    #[default]
    Attach,
    /// Changes are tracked, and due blocks are copied in passes.
    Track,
    /// No notified call is answered; the point in time is fixed.
    Hold,
    /// What still belongs to the point in time is copied, or saved before a write would change it.
    Drain,
    /// Everything is put in place and synced, and the backup gets its name. The target is free.
    Publish,
    /// The backup is complete.
    Done,
}

/// How far a backup has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The phase it is in.
    pub phase: Phase,
    /// Bytes written to the destination so far, blocks copied twice counted twice. Holes are not written.
    pub bytes_copied: u64,
    /// Bytes still to be copied, as far as known; rises when the target writes.
    pub bytes_due: u64,
    /// Size of all known files together.
    pub bytes_total: u64,
    /// Files copied at least once.
    pub files_copied: u64,
    /// Files known.
    pub files_total: u64,
    /// Directory entries known, files included.
    pub entries_total: u64,
    /// The current pass, from 1; 0 before the first.
    pub pass: u32,
    /// Before-images saved so far, in blocks.
    pub before_images: u64,
}
