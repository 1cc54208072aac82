//! Answering: what is recorded, and what the keeper receives itself.

use std::sync::atomic::Ordering;

use hotbackup_event::failpoint;
use nix::errno::Errno;

use super::run::Keeper;
use crate::shared::control::Control;
use crate::sys::notify::{self, Slot};

impl Keeper {
    /// Answers what the supervisor before this one had in its hands when it died, if nobody has yet. There is another only after its
    /// end, and this one receives nothing before it is told that it is watched: until then whatever is recorded is the dead one's. So an id that is
    /// read *before* the look whether it was told, and it was not, is none of this one's, whoever else acts meanwhile. A twin that comes
    /// back here late, beside one that does receive, finds that it was told.
    pub(super) fn settle_before(&self, control: Control) {
        for (slot, stopped) in self.memory.recorded() {
            let is_told = self.memory.watched.load(Ordering::SeqCst) == control.generation;
            if is_told || self.listener.is_none() {
                return;
            }
            self.let_go(stopped.id);
            if slot.id() == stopped.id {
                slot.clear();
            }
        }
    }

    /// Answers every recorded call.
    pub(super) fn answer_slots(&self) {
        self.answer_each(self.memory.recorded().map(|(slot, _)| slot));
    }

    pub(super) fn answer_each<'a>(&self, slots: impl Iterator<Item = &'a Slot>) {
        for slot in slots.filter(|slot| slot.id() != 0 && self.listener.is_some()) {
            self.let_go(slot.id());
            failpoint::hit("keeper.slot-answered");
            slot.clear();
        }
    }

    pub(super) fn receive_and_answer(&self) {
        let slot = self.memory.slot(self.own_slot);
        match notify::receive(self.listener(), slot) {
            Ok(()) => {
                failpoint::hit("keeper.received");
                self.let_go(slot.id());
                failpoint::hit("keeper.answered");
                slot.clear();
            }
            // Not zeroed, by whomever: it is ours.
            Err(Errno::EINVAL) if slot.id() == 0 => slot.clear(),
            Err(_) => {}
        }
    }

    pub(super) fn let_go(&self, id: u64) {
        while notify::let_go(self.listener(), id) == Err(Errno::EINTR) {}
        self.memory.answered.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::control::Role;
    use crate::shared::memory::{MEMORY_NAME, Memory, Target};
    use crate::shared::roles::Part;
    use crate::target::process::Process;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    /// A supervisor died with calls in its hands, and the next one came before any keeper had looked at what is recorded: that window is
    /// some microseconds wide.
    #[test]
    fn what_a_dead_supervisor_held_is_settled_before_the_next_is_told_that_it_is_watched_and_nothing_after_that() {
        let fd = memfd_create(MEMORY_NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let memory = Memory::begin(fd, Target { start: 1, inner: 2 }, false).unwrap();
        let part = memory.take(Part::Keeper).unwrap();
        let (wake, end) = nix::unistd::pipe().unwrap();
        let mut keeper = Keeper::new(Process::open(std::process::id() as i32).unwrap(), memory, wake, part);
        // No listener, which answers nothing: only what is recorded is looked at here.
        keeper.listener = Some(end);
        let next = Control { role: Role::Supervised, generation: 8 };
        let record = |keeper: &Keeper| {
            for slot in [0, 40, 4000] {
                let at = 4096 + slot * size_of::<Slot>() as i64;
                nix::sys::uio::pwrite(keeper.memory.fd(), &(slot as u64 + 7).to_le_bytes(), at).unwrap();
            }
        };
        let recorded = |keeper: &Keeper| keeper.memory.recorded().count();
        record(&keeper);
        keeper.memory.watched.store(7, Ordering::SeqCst);
        keeper.settle_before(next);
        assert_eq!((recorded(&keeper), keeper.memory.answered.load(Ordering::SeqCst)), (0, 3));
        record(&keeper);
        keeper.memory.watched.store(8, Ordering::SeqCst);
        keeper.settle_before(next);
        assert_eq!((recorded(&keeper), keeper.memory.answered.load(Ordering::SeqCst)), (3, 3));
    }
}
