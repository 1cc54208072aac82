//! The memory that supervisor, keepers and target share: a memfd with a fixed layout.
//!
//! All of it is atomics or is written by the kernel, so that two processes may look at it at any instant, also
//! when one of them died in the middle of something.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use zerocopy::FromBytes;

use super::control::{Control, Role};
use crate::sys::memory::Region;
use crate::sys::notify::{Notification, Slot};

/// Slots for received, not yet answered calls: one a thread at most, so this bounds the threads held at once.
/// When all are taken the rest waits in the kernel, unreceived, which is safe but open to `EINTR`.
pub const SLOTS: usize = 4096;
/// Those that supervisors use; the rest are the keepers' own.
pub const SUPERVISOR_SLOTS: usize = SLOTS - 2;
/// Name of the memory: what /proc shows for its descriptor, between `/memfd:` and ` (deleted)`.
pub const MEMORY_NAME: &str = "hotbackup-session";
/// Names this layout; another version's keeper is not taken over.
pub const MAGIC: u64 = 0x686f_7462_6b70_0004;

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

/// The layout of the shared memory.
#[repr(C)]
#[derive(FromBytes)]
pub struct Layout {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// Who answers: see [`super::control`].
    pub control: AtomicU64,
    /// Process id of the target.
    pub target: AtomicI32,
    /// Process id of the supervisor of the current generation.
    pub supervisor: AtomicI32,
    /// The listener's number among the target's file descriptors, -1 while unknown.
    pub target_listener: AtomicI32,
    /// The listener's number among the keeper's file descriptors, -1 while unknown.
    pub keeper_listener: AtomicI32,
    /// Process id of the keeper that acts; its twin has another.
    pub keeper: AtomicI32,
    /// The listener's number among the supervisor's file descriptors, -1 while it has none.
    pub supervisor_listener: AtomicI32,
    /// Process id of the ptracer.
    pub ptracer: AtomicI32,
    /// How long the supervisor may make no progress, in milliseconds, and while a hold is on.
    pub lease_ms: AtomicU32,
    /// See [`Self::lease_ms`].
    pub hold_lease_ms: AtomicU32,
    /// 1 while a hold is on: then the supervisor is given up sooner.
    pub holding: AtomicU32,
    /// 1 once the target holds a copy of this memory's descriptor.
    pub kept_by_target: AtomicU32,
    /// Whether a filter may exist: see [`ARMED`].
    pub armed: AtomicU32,
    /// The generation whose supervisor the keeper watches.
    pub watched: AtomicU32,
    /// The generation after which the keeper last began to answer.
    pub kept: AtomicU32,
    /// Counts up while the supervisor's receiver makes progress.
    pub beat: AtomicU64,
    /// 1 when calls may wait that somebody received whose record is lost: see `follow/rescue.rs`.
    pub sweep: AtomicU32,
    /// Counts up while the keeper that acts makes progress, and while its twin does.
    pub keeper_beat: AtomicU64,
    /// See [`Self::keeper_beat`].
    pub twin_beat: AtomicU64,
    /// Odd while the ptracer may hold a thread; counts up while it makes progress.
    pub traced: AtomicU64,
    /// Calls that the keeper answered.
    pub answered: AtomicU64,
    /// 1 when the filter does not show writes of 8 bytes.
    pub eight_bytes_unseen: AtomicU32,
    slots: [Slot; SLOTS],
}

/// The shared memory, mapped.
pub struct Memory(Region<Layout>);

impl Memory {
    /// New memory for target `pid`, as it is before attach.
    ///
    /// # Errors
    /// The kernel's (`EMFILE`, `ENOMEM`).
    pub fn create(pid: i32) -> Result<Self, Errno> {
        let memory = Self(Region::create(MEMORY_NAME)?);
        memory.magic.store(MAGIC, Ordering::SeqCst);
        memory.target.store(pid, Ordering::SeqCst);
        for number in [&memory.target_listener, &memory.keeper_listener, &memory.supervisor_listener] {
            number.store(-1, Ordering::SeqCst);
        }
        memory.set_lease(LEASE);
        Control { role: Role::Attaching, generation: 1 }.store(&memory.control);
        Ok(memory)
    }

    /// Maps memory that another process made.
    ///
    /// # Errors
    /// `EINVAL` when it is of another version, else the kernel's.
    pub fn open(fd: OwnedFd) -> Result<Self, Errno> {
        let memory = Self(Region::open(fd)?);
        if memory.magic.load(Ordering::SeqCst) == MAGIC { Ok(memory) } else { Err(Errno::EINVAL) }
    }

    /// The memfd, to be passed on.
    pub fn fd(&self) -> &OwnedFd {
        self.0.fd()
    }
}

impl std::ops::Deref for Memory {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        &self.0
    }
}

impl Layout {
    /// Slot `index`.
    pub fn slot(&self, index: usize) -> &Slot {
        &self.slots[index]
    }

    /// The calls that were received and are not answered, with their slots.
    pub fn recorded(&self) -> impl Iterator<Item = (&Slot, Notification)> {
        self.slots.iter().filter(|slot| slot.id() != 0).map(|slot| (slot, slot.notification()))
    }

    /// How long the supervisor may make no progress until the keeper takes over; in a hold it is less.
    pub fn set_lease(&self, lease: Duration) {
        let lease = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
        self.lease_ms.store(lease, Ordering::SeqCst);
        self.hold_lease_ms.store(HOLD_LEASE_MS.min(lease), Ordering::SeqCst);
    }

    /// The ptracer's count, if it says that a thread of the target may be held.
    pub fn held_by_ptracer(&self) -> Option<u64> {
        let traced = self.traced.load(Ordering::SeqCst);
        (traced % 2 == 1).then_some(traced)
    }

    /// The ptracer whose count was `traced` is no more, and holds nothing.
    pub fn ptracer_holds_nothing(&self, traced: u64) {
        // If it let go in this very moment, the count is another.
        let _ = self.traced.compare_exchange(traced, traced + 1, Ordering::SeqCst, Ordering::SeqCst);
    }
}
