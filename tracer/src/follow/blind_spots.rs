//! What was there before the filter, or was made while the keeper answered, and no call will show.

use hotbackup_event::Effect;

use super::outsiders;
use crate::receive::sink::{Event, Sink};
use crate::target::kernel_writers::written_by_kernel;
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
    tell(sink, others(process));
    find_own(process, sink);
}

/// What others can write to: processes that are not followed, and the kernel for somebody.
pub(super) fn others(process: &Process) -> Vec<Effect> {
    let elsewhere = outsiders::written_elsewhere(process).into_iter().map(|file| (file, outsiders::OPEN_ELSEWHERE));
    let all = elsewhere.chain(written_by_kernel(process));
    all.map(|(file, cause)| Effect::Untraceable { file, cause }).collect()
}

/// The same without what others can write to.
pub(super) fn find_own(process: &Process, sink: &dyn Sink) {
    look_at(process, process.pid(), sink);
    for pid in outsiders::followed_children(process) {
        look_at(process, pid, sink);
    }
}

fn look_at(process: &Process, pid: i32, sink: &dyn Sink) {
    for cause in rings(process, pid) {
        sink.blind(cause.into());
    }
    if process.descriptors_of(pid).iter().any(|(_, link)| link == USERFAULTFD) {
        let cause = "a userfaultfd, by which its missing pages are filled in";
        let mapped = shared_mappings(process, pid, |_| true).unwrap_or_default();
        tell(sink, mapped.into_iter().map(|file| Effect::Untraceable { file, cause }).collect());
    }
    match mapped_for_writing(process, pid) {
        Ok(mapped) => tell(sink, mapped.into_iter().map(|file| Effect::Mapped { file }).collect()),
        // A child may have ended.
        Err(_) if pid != process.pid() && process.has_ended(pid) => {}
        Err(cause) => sink.blind(cause),
    }
}

/// The rings of a process, through which files change without a call that shows it.
pub(super) fn rings(process: &Process, pid: i32) -> Vec<&'static str> {
    let maps = read_maps(process, pid).map(|(_, maps)| maps).unwrap_or_default();
    let has_ring = process.descriptors_of(pid).iter().any(|(_, link)| link == IO_URING);
    let mut found = Vec::new();
    if has_ring || maps.lines().any(|line| line.ends_with(IO_URING)) {
        found.push("the target has an io_uring, whose writes are no system calls");
    }
    if maps.lines().any(|line| line.ends_with(AIO)) {
        found.push("the target uses io_submit, which returns before its writes are done");
    }
    found
}

fn tell(sink: &dyn Sink, effects: Vec<Effect>) {
    if !effects.is_empty() {
        sink.found(Event { tid: 0, call: "mmap", effects, blind: None });
    }
}
