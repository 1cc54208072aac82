//! The source itself: what the receiver tells it, what the threads of a supervisor have it do.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use hotbackup_event::failpoint::hit;
use hotbackup_event::{Effect, FileId};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::cancel::Cancellation;
use super::outside::is_over;
use super::site::{self, Places};
use crate::calls::HOT;
use crate::ptracer::client::Ptracer;
use crate::shared::board::{Board, Mode, REGION_BYTES, stamp};
use crate::shared::control::Control;
use crate::shared::memory::{BOARD_AT, Memory};
use crate::sys::memory::Region;
use crate::sys::notify::{CallData, Notification};
use crate::target::process::Process;

/// How long a thread may stay on a processor when a backup begins: it may be in a call from before, of which nothing is known.
const PATIENCE_AT_FIRST: Duration = Duration::from_millis(250);
/// Sites that are remembered.
const MOST_SITES: usize = 4096;
/// From so many calls that close something on, those that are over are looked for.
const MANY_CLOSERS: usize = 64;

/// What is to be done in a thread that may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Task {
    /// A call came from behind this address: look whether its site can be patched.
    Patch { tid: i32, ip: u64, nr: i64 },
    /// Find out what a descriptor is, which now is known as `was`; some call writes up to `end`.
    Fill { fd: u32, tid: i32, was: u32, end: u64 },
}

/// A call that closes numbers, or changes what they mean.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closer {
    pub call: CallData,
    pub first: u32,
    pub last: u32,
}

/// What the copier is at, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// A mark is enough: calls are captured at their sites.
    Track,
    /// Calls must wait: all are notified.
    Hold,
    /// Calls that change what is not saved must wait; those that change what is saved do not matter.
    Drain,
}

/// What becomes of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Site {
    /// It was told to whoever patches; or it cannot be patched.
    Told,
    Patched,
}

pub(super) struct State {
    /// What the trampolines were told last.
    pub mode: Mode,
    /// Threads are looked at because a counter stays.
    pub stuck: bool,
    pub serial: u32,
    /// Each thread's last call that closes something, until its next call.
    pub closers: HashMap<i32, Closer>,
    /// Calls that make a task which shares the memory and not the descriptors, until it executes a program.
    spawning: HashMap<i32, CallData>,
    sites: HashMap<u64, Site>,
    /// What the copier is at.
    pub(super) stage: Stage,
    /// Every thread has been seen outside once.
    begun: bool,
    /// There are tasks that share the memory and not the descriptors, or that cannot be told.
    apart: bool,
}

/// The files that have maps, by their number, with the words that are theirs.
#[derive(Default)]
pub(super) struct Maps {
    pub files: Vec<(FileId, Range<usize>)>,
    /// A file that has outgrown one has several.
    pub by_file: HashMap<FileId, Vec<u32>>,
    pub words: usize,
    /// In the drain: bits say what is saved.
    pub sealed: bool,
    /// The bits that we set then, by map.
    pub settled: HashMap<u32, Vec<u64>>,
    /// Bits that there were at its beginning.
    pub late: Vec<Effect>,
}

/// Calls captured at their sites in one target.
pub(crate) struct Source {
    pub(super) board: Region<Board>,
    pub(super) region: Range<u64>,
    places: Places,
    /// Closes are what the net under writes of 8 bytes depends on: all of them are shown.
    has_net: bool,
    pub(super) control: Control,
    pub(super) state: Mutex<State>,
    pub(super) gracing: Mutex<()>,
    maps: Mutex<Maps>,
    tasks: (Sender<Task>, Receiver<Task>),
    patched: AtomicU64,
    cancellation: Cancellation,
    /// Nothing is patched any more.
    over: AtomicBool,
}

impl Source {
    /// Begins with everything notified; `None` where there is no region of code in the target. Not `wanted`: all stays notified.
    ///
    /// # Errors
    /// The board could not be mapped: then calls may go unseen.
    pub fn new(process: &Process, memory: &Memory, control: Control, wanted: bool) -> Result<Option<Self>, Errno> {
        let Some(board) = memory.board()? else { return Ok(None) };
        let word = |word: &AtomicU64| word.load(Ordering::SeqCst);
        let start = word(&memory.region);
        let region = start..start.saturating_add(REGION_BYTES);
        let places = Places { region: start, board: word(&memory.board), own: word(&memory.own) };
        board.word.set_mode(stamp(control), Mode::Notify);
        board.descriptors.iter().for_each(|entry| entry.store(0, Ordering::SeqCst));
        board.maps.iter().for_each(|map| map.blocks.store(0, Ordering::SeqCst));
        // What a supervisor before us has not taken is of no use to anybody.
        let bits = BOARD_AT + std::mem::offset_of!(Board, bits) as u64;
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        if fallocate(memory.fd(), punch, bits as i64, size_of_val(&board.bits) as i64).is_err() {
            board.bits.iter().for_each(|word| word.store(0, Ordering::SeqCst));
        }
        let has_net = memory.eight_bytes_unseen.load(Ordering::SeqCst) != 0;
        let patched = site::patched(process, &places);
        let count = AtomicU64::new(patched.len() as u64);
        let state = State {
            mode: Mode::Notify,
            stuck: false,
            serial: 0,
            closers: HashMap::new(),
            spawning: HashMap::new(),
            sites: patched.into_iter().map(|ip| (ip, Site::Patched)).collect(),
            stage: Stage::Track,
            begun: false,
            apart: !wanted,
        };
        let (state, gracing, maps) = (Mutex::new(state), Mutex::default(), Mutex::default());
        Ok(Some(Self {
            board,
            region,
            places,
            has_net,
            control,
            state,
            gracing,
            maps,
            tasks: unbounded(),
            patched: count,
            cancellation: Cancellation::default(),
            over: AtomicBool::new(false),
        }))
    }

    /// The receiver tells of a call before it is let go. Quick, and waits for nobody but a mode that is being set.
    pub fn notice(&self, process: &Process, tid: i32, stopped: &Notification) {
        let data = &stopped.data;
        let nr = i64::from(data.nr);
        // Before the lock: the target's memory may keep us waiting.
        let task = new_task(process, tid, data);
        let mut state = self.state();
        // A thread does one call at a time: its last is over.
        state.closers.remove(&tid);
        if state.spawning.remove(&tid).is_some() {
            self.settle(&mut state);
        }
        if let Some(closer) = Self::closes(data) {
            self.empty(closer.first, closer.last);
            state.closers.insert(tid, closer);
        }
        match task {
            NewTask::SharesWhatMatters => {}
            NewTask::ForAMoment => {
                state.spawning.insert(tid, *data);
                self.settle(&mut state);
            }
            NewTask::Apart => {
                state.apart = true;
                self.settle(&mut state);
            }
        }
        if !HOT.contains(&nr) || nr == libc::SYS_close && self.has_net {
            return;
        }
        match state.sites.get(&data.ip) {
            None if !state.apart && state.stage == Stage::Track && state.sites.len() < MOST_SITES => {
                state.sites.insert(data.ip, Site::Told);
                let _ = self.tasks.0.send(Task::Patch { tid, ip: data.ip, nr });
            }
            Some(Site::Patched) if nr != libc::SYS_close && state.begun && !state.apart => {
                let end = (nr == libc::SYS_pwrite64).then(|| data.args[3].saturating_add(data.args[2]));
                let task = self.offer(&mut state, tid, data.args[0] as u32, end);
                let _ = task.map(|task| self.tasks.0.send(task));
            }
            _ => {}
        }
    }

    /// What is to be done, as it comes.
    pub fn tasks(&self) -> Receiver<Task> {
        self.tasks.1.clone()
    }

    /// Does what has come up.
    pub fn work(&self, process: &Process, ptracer: &Mutex<Ptracer>, tasks: &[Task]) {
        let mut filling = Vec::new();
        for task in tasks {
            // In the hold and the drain others need the ptracer more, and in the hold nothing may take long; the next such call asks again.
            let stage = self.state().stage;
            match *task {
                Task::Patch { ip, .. } if stage != Stage::Track => drop(self.state().sites.remove(&ip)),
                Task::Fill { fd, was, .. } if stage == Stage::Hold => self.withdraw(fd, was),
                // A child may run another program.
                Task::Patch { tid, ip, nr } if process.has_thread(tid) => self.patch(process, ptracer, ip, nr),
                Task::Patch { .. } => {}
                // Others' numbers are others' descriptors.
                Task::Fill { fd, tid, was, end } => {
                    let is_its_own = process.has_thread(tid) && process.shares_descriptors(tid);
                    filling.push((fd, tid, was, if is_its_own { Some(end) } else { None }));
                }
            }
        }
        if filling.is_empty() {
            return;
        }
        // Nobody is stopped for it: what is not settled soon is tried again with the next call.
        let quiet = self.counters_settle();
        for (fd, tid, was, end) in filling {
            match end.filter(|_| quiet) {
                Some(end) => self.fill(process, fd, tid, was, end),
                None => self.withdraw(fd, was),
            }
        }
    }

    /// Tasks that were made with memory of ours may have become programs of their own.
    pub fn look_at_spawned(&self, process: &Process) {
        let closers = Vec::from_iter(self.state().closers.iter().map(|(tid, closer)| (*tid, closer.call)));
        if closers.len() > MANY_CLOSERS {
            for (tid, call) in closers.into_iter().filter(|(tid, call)| is_over(process, *tid, call)) {
                let mut state = self.state();
                if state.closers.get(&tid).is_some_and(|closer| closer.call == call) {
                    state.closers.remove(&tid);
                }
            }
        }
        let waiting: Vec<(i32, CallData)> = self.state().spawning.iter().map(|(tid, call)| (*tid, *call)).collect();
        let over: Vec<i32> =
            waiting.into_iter().filter(|(tid, call)| is_over(process, *tid, call)).map(|(tid, _)| tid).collect();
        if !over.is_empty() {
            self.change(|state| state.spawning.retain(|tid, _| !over.contains(tid)));
        }
    }

    fn patch(&self, process: &Process, ptracer: &Mutex<Ptracer>, ip: u64, nr: i64) {
        let patched = match self.cancellation.may_come(process) {
            Some(why) => Err(why),
            // That look may have taken long.
            None if self.is_ended() => Err("the backup is over"),
            None => site::patch(process, ptracer, &self.places, ip, nr),
        };
        match patched {
            Ok(()) => {
                self.patched.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(call = nr, "a call site is captured in the target");
                self.state().sites.insert(ip, Site::Patched);
            }
            Err(why) => tracing::debug!(call = nr, why, "a call site stays notified"),
        }
    }

    /// Nothing is patched from now on, but what has been begun.
    pub fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    pub fn is_ended(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// How many sites are patched.
    pub fn patched(&self) -> u64 {
        self.patched.load(Ordering::Relaxed)
    }

    /// Every thread, of the target and those that carry its code, is seen outside; then marking may begin. Later it is a grace
    /// like others. `apart`: others share the target's memory.
    ///
    /// # Errors
    /// As [`Self::grace`].
    pub fn begin_or_wait(
        &self,
        process: &Process,
        ptracer: &Mutex<Ptracer>,
        limit: Duration,
        children: impl FnOnce() -> (Vec<i32>, bool),
    ) -> Result<(), String> {
        let one_at_a_time = self.gracing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.state().begun {
            drop(one_at_a_time);
            return self.grace(process, ptracer, limit);
        }
        let (mut tids, apart) = children();
        let threads = process.threads();
        let have_their_own = threads.iter().any(|tid| !process.shares_descriptors(*tid));
        tids.extend(threads);
        if !self.all_outside(process, ptracer, tids, (PATIENCE_AT_FIRST, limit))? {
            self.board.reset_counters();
        }
        self.change(|state| {
            state.begun = true;
            state.apart |= apart || have_their_own;
        });
        Ok(())
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        self.settle(&mut state);
    }

    /// The mode follows from the rest.
    fn settle(&self, state: &mut State) {
        let may =
            state.stage != Stage::Hold && state.begun && !state.apart && !state.stuck && state.spawning.is_empty();
        let is_marking = matches!(state.mode, Mode::Mark0 | Mode::Mark1);
        if may != is_marking {
            self.set(state, if may { Mode::Mark0 } else { Mode::Notify });
            if may {
                hit(if state.stage == Stage::Track { "site.marking" } else { "site.draining" });
            }
        }
    }

    pub(super) fn set(&self, state: &mut State, mode: Mode) {
        // If somebody else has the last word we are revoked, which is found out elsewhere.
        self.board.word.set_mode(stamp(self.control), mode);
        state.mode = mode;
    }

    pub(super) fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call does to who shares what with the target.
enum NewTask {
    SharesWhatMatters,
    /// A task shares the memory and not the descriptors until it executes a program; the call lasts as long.
    ForAMoment,
    /// The same for good, or it cannot be told.
    Apart,
}

fn new_task(process: &Process, tid: i32, data: &CallData) -> NewTask {
    const VM: u64 = libc::CLONE_VM as u64;
    const THREAD: u64 = (libc::CLONE_FILES | libc::CLONE_THREAD) as u64;
    const VFORK: u64 = libc::CLONE_VFORK as u64;
    const UNSHARE: u64 = 2; // CLOSE_RANGE_UNSHARE
    let flags = match i64::from(data.nr) {
        libc::SYS_vfork => return NewTask::ForAMoment,
        libc::SYS_unshare if data.args[0] & libc::CLONE_FILES as u64 != 0 => return NewTask::Apart,
        libc::SYS_close_range if data.args[2] & UNSHARE != 0 => return NewTask::Apart,
        libc::SYS_clone => Some(data.args[0]),
        // The first word of struct clone_args.
        libc::SYS_clone3 => process.word(tid, data.args[0]),
        _ => return NewTask::SharesWhatMatters,
    };
    match flags {
        // A thread, or one with a memory of its own.
        Some(flags) if flags & VM == 0 || flags & THREAD == THREAD => NewTask::SharesWhatMatters,
        Some(flags) if flags & VFORK != 0 => NewTask::ForAMoment,
        _ => NewTask::Apart,
    }
}
