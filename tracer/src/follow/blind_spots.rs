//! What was there before the filter, or was made while the keeper answered, and no call will show.

use hotbackup_event::Effect;

use super::outsiders;
use crate::receive::sink::{Event, Sink};
use crate::target::maps::{mapped_for_writing, read_maps, shared_mappings};
use crate::target::process::Process;

/// What /proc shows for an io_uring.
const IO_URING: &str = "anon_inode:[io_uring]";
/// What it shows for a userfaultfd, by which missing pages of a file in memory are filled in, whatever the mapping allows.
const USERFAULTFD: &str = "anon_inode:[userfaultfd]";
/// What it shows for the ring of io_setup(2).
const AIO: &str = "/[aio] (deleted)";

/// Looks for all of it: in the target, in those of its children that carry the filter, and what others can write to.
pub(super) fn find(process: &Process, sink: &dyn Sink) {
    let effects = |file| Effect::Untraceable { file, cause: outsiders::OPEN_ELSEWHERE };
    tell(sink, outsiders::written_elsewhere(process).into_iter().map(effects).collect());
    find_own(process, sink);
}

/// The same without what others can write to.
pub(super) fn find_own(process: &Process, sink: &dyn Sink) {
    look_at(process, process.pid(), sink);
    for pid in outsiders::followed_children(process) {
        look_at(process, pid, sink);
    }
}

fn look_at(process: &Process, pid: i32, sink: &dyn Sink) {
    let maps = read_maps(process, pid).map(|(_, maps)| maps).unwrap_or_default();
    let descriptors = process.descriptors_of(pid);
    let has_ring = descriptors.iter().any(|(_, link)| link == IO_URING);
    if descriptors.iter().any(|(_, link)| link == USERFAULTFD) {
        let cause = "a userfaultfd, by which its missing pages are filled in";
        let mapped = shared_mappings(process, pid, |_| true).unwrap_or_default();
        tell(sink, mapped.into_iter().map(|file| Effect::Untraceable { file, cause }).collect());
    }
    if has_ring || maps.lines().any(|line| line.ends_with(IO_URING)) {
        sink.blind("the target has an io_uring, whose writes are no system calls".into());
    }
    if maps.lines().any(|line| line.ends_with(AIO)) {
        sink.blind("the target uses io_submit, which returns before its writes are done".into());
    }
    match mapped_for_writing(process, pid) {
        Ok(mapped) => tell(sink, mapped.into_iter().map(|file| Effect::Mapped { file }).collect()),
        // A child may have ended.
        Err(_) if pid != process.pid() && process.has_ended(pid) => {}
        Err(cause) => sink.blind(cause),
    }
}

fn tell(sink: &dyn Sink, effects: Vec<Effect>) {
    if !effects.is_empty() {
        sink.found(Event { tid: 0, call: "mmap", effects, blind: None });
    }
}
