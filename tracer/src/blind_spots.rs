//! What was there before the filter, or was made while the keeper answered, and no call will show.

use std::sync::atomic::Ordering;

use hotbackup_event::Effect;

use crate::calls::resolve::{read_maps, shared_mappings};
use crate::listener::Event;
use crate::mapped::mapped_for_writing;
use crate::outsiders;
use crate::session::Tracer;

/// What /proc shows for an io_uring.
const IO_URING: &str = "anon_inode:[io_uring]";
/// What it shows for a userfaultfd, by which missing pages of a file in memory are filled in, whatever the mapping allows.
const USERFAULTFD: &str = "anon_inode:[userfaultfd]";
/// What it shows for the ring of io_setup(2).
const AIO: &str = "/[aio] (deleted)";

impl Tracer {
    /// Looks for all of it, in the target and in those of its children that carry the filter.
    pub(crate) fn find_blind_spots(&self) {
        let effects = |file| Effect::Untraceable { file, cause: outsiders::OPEN_ELSEWHERE };
        self.found(outsiders::written_elsewhere(self.process()).into_iter().map(effects).collect());
        self.find_own_blind_spots();
    }

    /// Once more after the first grace: a call may have been on its way, unseen, when we attached.
    pub(crate) fn find_blind_spots_again(&self) {
        if !self.looked_again.swap(true, Ordering::SeqCst) {
            self.find_own_blind_spots();
        }
    }

    fn find_own_blind_spots(&self) {
        let process = self.process();
        self.look_at(process.pid());
        for pid in outsiders::followed_children(process) {
            self.look_at(pid);
        }
    }

    fn look_at(&self, pid: i32) {
        let process = self.process();
        let maps = read_maps(process, pid).map(|(_, maps)| maps).unwrap_or_default();
        let descriptors = process.descriptors_of(pid);
        let has_ring = descriptors.iter().any(|(_, link)| link == IO_URING);
        if descriptors.iter().any(|(_, link)| link == USERFAULTFD) {
            let cause = "a userfaultfd, by which its missing pages are filled in";
            let mapped = shared_mappings(process, pid, |_| true).unwrap_or_default();
            self.found(mapped.into_iter().map(|file| Effect::Untraceable { file, cause }).collect());
        }
        if has_ring || maps.lines().any(|line| line.ends_with(IO_URING)) {
            self.sink.blind("the target has an io_uring, whose writes are no system calls".into());
        }
        if maps.lines().any(|line| line.ends_with(AIO)) {
            self.sink.blind("the target uses io_submit, which returns before its writes are done".into());
        }
        match mapped_for_writing(process, pid) {
            Ok(mapped) => self.found(mapped.into_iter().map(|file| Effect::Mapped { file }).collect()),
            // A child may have ended.
            Err(_) if pid != process.pid() && process.has_ended(pid) => {}
            Err(cause) => self.sink.blind(cause),
        }
    }

    fn found(&self, effects: Vec<Effect>) {
        if !effects.is_empty() {
            self.sink.found(Event { tid: 0, call: "mmap", effects, blind: None });
        }
    }
}
