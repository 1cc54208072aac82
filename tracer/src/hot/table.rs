//! The descriptor table: what a number means to a trampoline. A wrong entry is a wrong backup.
//!
//! # Why an entry is right
//!
//! *It is emptied in time.* What changes the meaning of a number is close, dup2, dup3, close_range, and F_SETFL, which may make
//! a descriptor append wherever it is told to write. All are shown, except a close from a patched site of a number that is unknown. (After
//! exec there is no region, and no site jumps to it.)
//! The receiver empties the entry before it lets the call go. (A thread that has looked a number up and is then
//! overtaken by another's close and open would write to another file than it means to: that is the program's own fault with or
//! without us, and what it then writes may go unseen, as it may between a notification and its call. So may what one writes that sleeps
//! in a call on a pipe while another puts a file in the pipe's place by dup2, and whose call is begun again after a signal.)
//!
//! *It is filled in two steps.* A close from a patched site reads "unknown" and then closes the number, unseen. So an entry is first
//! made *pending*, by a value that is never used twice. From then on every close of the number is shown. After a grace among the
//! trampolines no such close is under way any more; nor, by a look, one that was shown before. Only then is the descriptor looked at,
//! and what it is takes the place of the pending value, in one step that fails if somebody has emptied it meanwhile.
//!
//! *It is this process's.* A thread with a table of its own, or a process that shares the memory and not the descriptors, must not use
//! it. There is none when the mode is first set to mark; each way to make one is shown, and the mode is *notify* before it is let go
//! ([`Source::notice`]). A forked child has no word of its own and always notifies.

use std::sync::atomic::Ordering;

use hotbackup_event::FileId;
use hotbackup_event::failpoint::is_skipped;

use super::outside::is_over;
use super::source::{Closer, Source, State, Task};
use crate::shared::board::{BLOCK, DESCRIPTORS, MAPS, WORDS, entry};
use crate::sys::notify::CallData;
use crate::target::process::{Process, read_below};

const APPEND: u64 = libc::O_APPEND as u64;
/// What a map has at least, beside twice the file's size: room to grow without another.
const ROOM: u64 = 256 << 20;

impl Source {
    /// Nothing is known of these numbers any more.
    pub(super) fn empty(&self, first: u32, last: u32) {
        let all = first as usize..(last as usize).saturating_add(1).min(DESCRIPTORS);
        for entry in self.board.descriptors.get(all).unwrap_or_default() {
            if entry.load(Ordering::SeqCst) != entry::UNKNOWN {
                entry.store(entry::UNKNOWN, Ordering::SeqCst);
            }
        }
    }

    /// A call on a descriptor came by a notification, though its site is patched. `end` is how far it writes, if at an offset.
    pub(super) fn offer(&self, state: &mut State, tid: i32, fd: u32, end: Option<u64>) -> Option<Task> {
        let slot = self.board.descriptors.get(fd as usize)?;
        match slot.load(Ordering::SeqCst) {
            entry::UNKNOWN => {
                state.serial = (state.serial + 1) % entry::PENDING;
                let token = entry::PENDING | state.serial;
                let is_now = slot.compare_exchange(entry::UNKNOWN, token, Ordering::SeqCst, Ordering::SeqCst).is_ok();
                is_now.then_some(Task::Fill { fd, tid, was: token, end: end.unwrap_or(0) })
            }
            was if was >= entry::FIRST_MAP && was < entry::FIRST_MAP + MAPS as u32 => {
                let map = &self.board.maps[(was - entry::FIRST_MAP) as usize];
                let covered = map.blocks.load(Ordering::SeqCst).saturating_mul(BLOCK);
                end.filter(|end| *end > covered).map(|end| Task::Fill { fd, tid, was, end })
            }
            _ => None,
        }
    }

    /// A number that was about to be known is not.
    pub(super) fn withdraw(&self, fd: u32, was: u32) {
        if was >= entry::PENDING {
            let slot = &self.board.descriptors[fd as usize];
            let _ = slot.compare_exchange(was, entry::UNKNOWN, Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// After a grace: what a descriptor is takes the place of what stood there.
    pub(super) fn fill(&self, process: &Process, fd: u32, tid: i32, was: u32, end: u64) {
        let closing = |closer: &Closer| (closer.first..=closer.last).contains(&fd);
        let closers: Vec<(i32, Closer)> =
            self.state().closers.iter().filter(|(_, closer)| closing(closer)).map(|(tid, it)| (*tid, *it)).collect();
        let is_closing = closers.iter().any(|(tid, closer)| !is_over(process, *tid, &closer.call));
        let now = if is_closing { None } else { self.look(process, fd, tid, end) };
        // A map that is outgrown stays what it was.
        let now = now.unwrap_or(if was >= entry::PENDING { entry::UNKNOWN } else { was });
        let slot = &self.board.descriptors[fd as usize];
        let _ = slot.compare_exchange(was, now, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn look(&self, process: &Process, fd: u32, tid: i32, end: u64) -> Option<u32> {
        let found = process.descriptor_identity(tid, fd as i32).ok()?;
        if !found.is_file() {
            return Some(entry::NO_FILE);
        }
        let info = read_below(process.proc(), &format!("{tid}/fdinfo/{fd}")).ok()?;
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
        let flags = i32::from_str_radix(flags.trim(), 8).ok()?;
        if flags & libc::O_APPEND != 0 {
            return Some(entry::ALWAYS_SHOWN);
        }
        Some(self.map(found.id, found.size.max(end)).unwrap_or(entry::ALWAYS_SHOWN))
    }

    /// The map of a file, made or made anew where it is too short; `None` when there is no room for one.
    fn map(&self, file: FileId, size: u64) -> Option<u32> {
        let mut maps = self.maps();
        let needed = size / BLOCK + 1;
        if let Some(&index) = maps.by_file.get(&file).and_then(|all| all.last())
            && self.board.maps[index as usize].blocks.load(Ordering::SeqCst) > needed
        {
            return Some(entry::FIRST_MAP + index);
        }
        let blocks = (size.saturating_mul(2).saturating_add(ROOM) / BLOCK).next_multiple_of(64);
        let index = maps.files.len();
        let words = (blocks / 64) as usize;
        // One more, before them.
        if index >= MAPS || maps.words + 1 + words > WORDS {
            return None;
        }
        let (before, first) = (maps.words, maps.words + 1);
        let map = &self.board.maps[index];
        self.board.bits[before].store(u64::from(maps.sealed), Ordering::SeqCst);
        map.bits.store(8 * first as u64, Ordering::SeqCst);
        map.blocks.store(blocks, Ordering::SeqCst);
        maps.files.push((file, first..first + words));
        maps.words = first + words;
        maps.by_file.entry(file).or_default().push(index as u32);
        Some(entry::FIRST_MAP + index as u32)
    }

    /// Calls that close descriptors, or change what they mean.
    pub(super) fn closes(data: &CallData) -> Option<Closer> {
        let one = |fd: u64| (fd as u32, fd as u32);
        let (name, numbers) = match i64::from(data.nr) {
            libc::SYS_close => ("close", one(data.args[0])),
            libc::SYS_dup2 => ("dup2", one(data.args[1])),
            libc::SYS_dup3 => ("dup3", one(data.args[1])),
            libc::SYS_close_range => ("close_range", (data.args[0] as u32, data.args[1] as u32)),
            // Of all that share the open file, whatever their numbers are.
            libc::SYS_fcntl if data.args[1] as i32 == libc::F_SETFL && data.args[2] & APPEND != 0 => {
                ("fcntl", (0, u32::MAX))
            }
            _ => return None,
        };
        let (first, last) = numbers;
        // Left out, it is a fault that the tests must find.
        (!is_skipped(name)).then_some(Closer { call: *data, first, last })
    }
}
