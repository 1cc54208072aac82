//! The memory that supervisor, keepers and target share: a memfd with a fixed layout.
//!
//! All of it is atomics or is written by the kernel, so that two processes may look at it at any instant, also
//! when one of them died in the middle of something.

use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::unistd::{Whence, lseek};
use zerocopy::FromBytes;

use super::board::{Board, Mode, ModeWord, stamp};
use super::control::{Control, Role};
use super::roles::{self, Held, Part};
use crate::sys::memory::Region;
use crate::sys::notify::{Notification, Slot};
use crate::sys::procfs;

/// Slots for received, not yet answered calls: one a thread at most, so this bounds the threads held at once.
/// When all are taken the rest waits in the kernel, unreceived, which is safe but open to `EINTR`.
pub const SLOTS: usize = 4096;
/// Those that supervisors use; the rest are the keepers' own.
pub const SUPERVISOR_SLOTS: usize = SLOTS - 2;
/// Name of the memory: what /proc shows for its descriptor, between `/memfd:` and ` (deleted)`.
pub const MEMORY_NAME: &str = "hotbackup-session";
/// Names this layout; another version's keeper is not taken over.
pub const MAGIC: u64 = 0x686f_7462_6b70_0005;
/// The same with a [`Board`] behind the slots, by which calls may go past the filter: a release that does not know of it would miss
/// them.
pub const MAGIC_WITH_BOARD: u64 = 0x686f_7462_6b70_0007;
/// Where that begins.
pub const BOARD_AT: u64 = size_of::<Layout>() as u64;

/// What the memory is sealed with: nobody can make it shorter or longer, or undo that.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// A process, by what is the same in every namespace. (A child has another start, or is the first of a namespace of its own.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// When it started, in clock ticks since boot.
    pub start: u64,
    /// Its process id in its own namespace.
    pub inner: i32,
}

/// Why a memory is none to work with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotOurs {
    /// It could be made shorter while it is mapped.
    Unsealed,
    /// Who made it has not come to use it.
    Unused,
    /// It is laid out in another way.
    AnotherVersion,
    /// It cannot be looked at.
    Os(Errno),
}

impl std::fmt::Display for NotOurs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unsealed => write!(f, "it is not sealed"),
            Self::Unused => write!(f, "it was never used"),
            Self::AnotherVersion => write!(f, "it is another version's"),
            Self::Os(errno) => write!(f, "{errno}"),
        }
    }
}

/// The namespace in which this process counts processes; 0 when it cannot be told.
fn namespace() -> u64 {
    procfs::stat("self/ns/pid").map_or(0, |stat| stat.st_ino)
}

/// The number of the namespace in which this process counts processes, cut to a word and never 0.
pub fn here() -> u32 {
    (namespace() as u32).max(1)
}

/// How long a supervisor may make no progress until the keeper takes over, unless said otherwise.
pub const LEASE: Duration = Duration::from_secs(1);
/// The same while a hold is on, in milliseconds.
const HOLD_LEASE_MS: u32 = 50;

/// There is no filter, and none is on its way.
pub const UNARMED: u32 = 0;
/// The injection may have begun: a filter may exist, or come at any time.
pub const ARMED: u32 = 1;
/// The keeper ended before the injection began: it must not begin.
pub const CLOSED: u32 = 2;

/// The layout of the shared memory. `docs/protocol.md` says what of it is frozen.
#[repr(C)]
#[derive(FromBytes)]
pub struct Layout {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// Who answers: see `control.rs`.
    pub control: AtomicU64,
    /// When the target started, in clock ticks since boot: with the number below, its name in
    /// whatever namespace.
    pub target_start: AtomicU64,
    /// The target's process id in its own namespace.
    pub target_inner: AtomicI32,
    /// The listener's number among the target's file descriptors, -1 while unknown.
    pub target_listener: AtomicI32,
    /// The number there of the eventfd that wakes the keeper.
    pub target_wake: AtomicI32,
    /// The listener's number among the keeper's file descriptors, -1 while unknown.
    pub keeper_listener: AtomicI32,
    /// Process id of the keeper that acts, in its own namespace; its twin has another.
    pub keeper: AtomicI32,
    /// The listener's number among the supervisor's file descriptors, -1 while it has none.
    pub supervisor_listener: AtomicI32,
    /// Process id of the supervisor of the current generation, in its own namespace.
    pub supervisor: AtomicI32,
    /// How long the supervisor may make no progress, in milliseconds, and while a hold is on.
    pub lease_ms: AtomicU32,
    /// See [`Self::lease_ms`].
    pub hold_lease_ms: AtomicU32,
    /// 1 while a hold is on: then the supervisor is given up sooner.
    pub holding: AtomicU32,
    /// Which process ids the supervisor counts in: the inode of its namespace.
    pub supervisor_namespace: AtomicU64,
    /// Whether a filter may exist: see [`ARMED`].
    pub armed: AtomicU32,
    /// The generation whose supervisor the keeper watches.
    pub watched: AtomicU32,
    /// The generation after which the keeper last began to answer.
    pub kept: AtomicU32,
    /// 1 when the filter does not show writes of 8 bytes.
    pub eight_bytes_unseen: AtomicU32,
    /// Counts up while the supervisor's receiver makes progress.
    pub beat: AtomicU64,
    /// Counts up while the keeper that acts makes progress, and while its twin does.
    pub keeper_beat: AtomicU64,
    /// See [`Self::keeper_beat`].
    pub twin_beat: AtomicU64,
    /// Calls that the keeper answered.
    pub answered: AtomicU64,
    /// The eventfd's own number in the kernel (`eventfd-id` in proc_pid_fdinfo(5)): at its number may stand another by now.
    pub wake_id: AtomicU64,
    /// Process id of the keeper's twin, in its own namespace.
    pub twin: AtomicI32,
    /// The number there of the socket by which the target hands the listener to keepers that were born from it; 0: there is
    /// none.
    pub target_socket: AtomicI32,
    /// The socket's inode: at its number may stand another by now.
    pub socket_id: AtomicU64,
    /// Keepers of the layouts before may be there, too, to be seen in the namespace of processes with this number ([`here`]); 0:
    /// there are none.
    pub before: AtomicU32,
    /// What the filter was made of: see `calls/coverage.rs`. 0: nobody has told.
    pub filter: AtomicU64,
    /// Where in the target the region of code is from which the filter lets calls pass; 0: there is none.
    pub region: AtomicU64,
    /// Where the target has mapped the board.
    pub board: AtomicU64,
    /// Where the word is that a forked child finds zero.
    pub own: AtomicU64,
    reserved: [AtomicU64; RESERVED],
    slots: [Slot; SLOTS],
}

/// Words are added in the place of reserved ones, which are zero.
const RESERVED: usize = 489;
/// Where the slots begin.
const SLOTS_AT: usize = 4096;
const _: () = assert!(std::mem::offset_of!(Layout, slots) == SLOTS_AT, "the slots stand where they always do");

/// The shared memory, mapped.
pub struct Memory {
    layout: Region<Layout>,
    mode: Option<Region<ModeWord>>,
}

impl Memory {
    /// How long it is.
    const LENGTH: u64 = size_of::<Layout>() as u64;

    /// Makes the empty memfd that the target has just made the session memory of the process that `target` names.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn begin(fd: OwnedFd, target: Target, with_board: bool) -> Result<Self, NotOurs> {
        let (magic, length) = match with_board {
            true => (MAGIC_WITH_BOARD, Self::LENGTH + size_of::<Board>() as u64),
            false => (MAGIC, Self::LENGTH),
        };
        nix::unistd::ftruncate(&fd, length as i64).map_err(NotOurs::Os)?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS)).map_err(NotOurs::Os)?;
        let mut memory = Self::map(fd)?;
        memory.target_start.store(target.start, Ordering::SeqCst);
        memory.target_inner.store(target.inner, Ordering::SeqCst);
        // What keepers answer by is there from now on, and the first of a supervisor's, however little memory there may be later: the
        // kernel receives nothing into a page that cannot be had. The rest as it is used.
        memory.slots.iter().take(1).chain(&memory.slots[SUPERVISOR_SLOTS..]).for_each(Slot::clear);
        memory.begin_anew();
        memory.magic.store(magic, Ordering::SeqCst);
        memory.map_mode()?;
        Ok(memory)
    }

    /// Maps the memory of a session.
    ///
    /// # Errors
    /// Why it is none of ours.
    pub fn open(fd: OwnedFd) -> Result<Self, NotOurs> {
        let mut memory = Self::map(fd)?;
        memory.map_mode()?;
        match memory.magic.load(Ordering::SeqCst) {
            MAGIC | MAGIC_WITH_BOARD => Ok(memory),
            0 => Err(NotOurs::Unused),
            _ => Err(NotOurs::AnotherVersion),
        }
    }

    fn map(fd: OwnedFd) -> Result<Self, NotOurs> {
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(NotOurs::Os)?;
        if !SealFlag::from_bits_truncate(seals).contains(SEALS) {
            return Err(NotOurs::Unsealed);
        }
        Ok(Self { layout: Region::open(fd).map_err(NotOurs::Os)?, mode: None })
    }

    fn map_mode(&mut self) -> Result<(), NotOurs> {
        if self.magic.load(Ordering::SeqCst) == MAGIC_WITH_BOARD {
            let fd = self.fd().try_clone().map_err(|_| NotOurs::Os(Errno::EMFILE))?;
            self.mode = Some(Region::open_at(fd, BOARD_AT).map_err(NotOurs::Os)?);
        }
        Ok(())
    }

    /// The whole board, if there is one that the target has mapped.
    ///
    /// # Errors
    /// The kernel's.
    pub fn board(&self) -> Result<Option<Region<Board>>, Errno> {
        if self.mode.is_none() || self.region.load(Ordering::SeqCst) == 0 {
            return Ok(None);
        }
        let fd = self.fd().try_clone().map_err(|_| Errno::EMFILE)?;
        Region::open_at(fd, BOARD_AT).map(Some)
    }

    /// Where calls from patched sites go, as long as nobody later says otherwise. Whether it is so.
    pub fn set_mode(&self, control: Control, mode: Mode) -> bool {
        self.mode.as_ref().is_none_or(|word| word.set_mode(stamp(control), mode))
    }

    /// As it is before an attach.
    pub fn begin_anew(&self) {
        for number in [&self.target_listener, &self.keeper_listener, &self.supervisor_listener] {
            number.store(-1, Ordering::SeqCst);
        }
        self.set_lease(LEASE);
        let _ = self.armed.compare_exchange(CLOSED, UNARMED, Ordering::SeqCst, Ordering::SeqCst);
        let generation = Control::load(&self.control).generation.wrapping_add(1);
        Control { role: Role::Attaching, generation }.store(&self.control);
    }

    /// This process is the supervisor of the generation that comes.
    pub fn set_supervisor(&self) {
        self.supervisor.store(std::process::id() as i32, Ordering::SeqCst);
        self.supervisor_namespace.store(namespace(), Ordering::SeqCst);
    }

    /// The supervisor's process id, if that means the same to this process.
    pub fn supervisor_here(&self) -> Option<i32> {
        let (theirs, ours) = (self.supervisor_namespace.load(Ordering::SeqCst), namespace());
        (ours != 0 && theirs == ours).then(|| self.supervisor.load(Ordering::SeqCst))
    }

    /// Which process it belongs to.
    pub fn target(&self) -> Target {
        Target { start: self.target_start.load(Ordering::SeqCst), inner: self.target_inner.load(Ordering::SeqCst) }
    }

    /// Takes a part; `EAGAIN` when somebody has it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&self, part: Part) -> Result<Held, Errno> {
        roles::take(self.fd().as_fd(), part)
    }

    /// Whether anybody has a part.
    pub fn lives(&self, part: Part) -> bool {
        roles::is_held(self.fd().as_fd(), part)
    }

    /// The calls that were received and are not answered, with their slots. What of the memory was never used is not looked at: it would
    /// be there from then on, and count as this process's own.
    pub fn recorded(&self) -> impl Iterator<Item = (&Slot, Notification)> {
        used(self.fd())
            .into_iter()
            .flat_map(|slots| self.slots[slots].iter())
            .filter(|slot| slot.id() != 0)
            .map(|slot| (slot, slot.notification()))
    }

    /// The memfd, to be passed on.
    pub fn fd(&self) -> &OwnedFd {
        self.layout.fd()
    }
}

impl std::ops::Deref for Memory {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.layout
    }
}

impl Layout {
    /// Slot `index`.
    pub fn slot(&self, index: usize) -> &Slot {
        &self.slots[index]
    }

    /// How long the supervisor may make no progress until the keeper takes over; in a hold it is less.
    pub fn set_lease(&self, lease: Duration) {
        let lease = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
        self.lease_ms.store(lease, Ordering::SeqCst);
        self.hold_lease_ms.store(HOLD_LEASE_MS.min(lease), Ordering::SeqCst);
    }
}

/// The slots that lie where the memory was ever used; all of them where that cannot be told. Nobody minds where the file is read: it is
/// mapped by all.
fn used(memory: &OwnedFd) -> Vec<Range<usize>> {
    const SLOT: usize = size_of::<Slot>();
    let end = SLOTS_AT + SLOTS * SLOT;
    let all = || std::iter::once(0..SLOTS).collect();
    let seek = |at: usize, whence| lseek(memory, at as i64, whence).map(|found| (found as usize).min(end));
    let (mut at, mut found) = (SLOTS_AT, Vec::new());
    loop {
        match seek(at, Whence::SeekData) {
            Ok(data) if data < end => {
                let Ok(hole) = seek(data, Whence::SeekHole) else { return all() };
                found.push((data - SLOTS_AT) / SLOT..(hole - SLOTS_AT).div_ceil(SLOT));
                at = hole.max(data + 1);
            }
            Ok(_) | Err(Errno::ENXIO) => break,
            Err(_) => return all(),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    /// A later release's memory: longer, with words where there are none yet, and in the slots what is always there.
    #[test]
    fn a_memory_that_has_grown_at_its_end_is_used_by_the_words_that_are_frozen() {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let fd = memfd_create(MEMORY_NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let put = |at: i64, word: u64| nix::sys::uio::pwrite(&fd, &word.to_le_bytes(), at).unwrap();
        for at in (184..SLOTS_AT as i64).step_by(8) {
            put(at, u64::MAX);
        }
        for (at, word) in [(0, MAGIC), (8, 7 << 32 | 2), (16, 1234), (24, 77), (4096 + 3 * 128, 42)] {
            put(at, word);
        }
        nix::unistd::ftruncate(&fd, Memory::LENGTH as i64 + 65536).unwrap();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
        let later = Memory::open(fd).unwrap();
        assert_eq!(Control::load(&later.control), Control { role: Role::Kept, generation: 7 });
        assert_eq!(later.target(), Target { start: 1234, inner: 77 });
        assert_eq!(later.recorded().map(|(slot, _)| slot.id()).collect::<Vec<_>>(), [42]);
        later.begin_anew();
        assert!(later.reserved.iter().all(|word| word.load(Ordering::SeqCst) == u64::MAX), "none of ours");
    }

    #[test]
    fn what_is_recorded_is_found_wherever_it_stands_and_nothing_else_is_used() {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let fd = memfd_create(MEMORY_NAME, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        let memory = Memory::begin(fd, Target { start: 1, inner: 2 }, false).unwrap();
        let found = || memory.recorded().map(|(_, call)| call.id).collect::<Vec<_>>();
        let pages = || nix::sys::stat::fstat(memory.fd()).unwrap().st_blocks / 8;
        assert_eq!(found(), [0; 0]);
        assert_eq!(pages(), 3, "the slots were used by a look");
        for slot in [0, 31, 32, 1000, SLOTS - 1] {
            let at = SLOTS_AT + slot * size_of::<Slot>();
            nix::sys::uio::pwrite(memory.fd(), &(slot as u64 + 7).to_le_bytes(), at as i64).unwrap();
        }
        assert_eq!(found(), [7, 38, 39, 1007, SLOTS as u64 + 6]);
        assert_eq!(pages(), 5);
    }

    /// `docs/protocol.md` has them: another version's keepers and supervisors rely on it.
    #[test]
    fn what_is_frozen_stands_where_it_always_stood() {
        let offsets = [
            offset_of!(Layout, magic),
            offset_of!(Layout, control),
            offset_of!(Layout, target_start),
            offset_of!(Layout, target_inner),
            offset_of!(Layout, target_listener),
            offset_of!(Layout, target_wake),
            offset_of!(Layout, keeper_listener),
            offset_of!(Layout, keeper),
            offset_of!(Layout, supervisor_listener),
            offset_of!(Layout, supervisor),
            offset_of!(Layout, lease_ms),
            offset_of!(Layout, hold_lease_ms),
            offset_of!(Layout, holding),
            offset_of!(Layout, supervisor_namespace),
            offset_of!(Layout, armed),
            offset_of!(Layout, watched),
            offset_of!(Layout, kept),
            offset_of!(Layout, eight_bytes_unseen),
            offset_of!(Layout, beat),
            offset_of!(Layout, keeper_beat),
            offset_of!(Layout, twin_beat),
            offset_of!(Layout, answered),
            offset_of!(Layout, wake_id),
            offset_of!(Layout, twin),
            offset_of!(Layout, target_socket),
            offset_of!(Layout, socket_id),
            offset_of!(Layout, before),
            offset_of!(Layout, filter),
            offset_of!(Layout, region),
            offset_of!(Layout, board),
            offset_of!(Layout, own),
            offset_of!(Layout, slots),
        ];
        let page = include_str!("../../../docs/protocol.md");
        let table = page.split("| offset | bytes | what |").nth(1).expect("the table").lines().skip(2);
        let told = table.take_while(|line| line.starts_with('|')).filter(|line| !line.contains("zero; new words"));
        let told: Vec<usize> =
            told.map(|line| line.split('|').nth(1).expect("a column").trim().parse().expect("a number")).collect();
        assert_eq!(offsets[..], told[..]);
        assert_eq!((size_of::<Slot>(), Memory::LENGTH), (128, 528_384));
        assert!(page.contains("0x686f_7462_6b70_0005"));
        assert_eq!(MAGIC, 0x686f_7462_6b70_0005);
    }
}
