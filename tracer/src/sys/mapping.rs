//! Memory shared between supervisor and keeper: a memfd with a fixed layout.
//!
//! All of it is atomics or is written by the kernel, so that two processes may look at it at any instant, also
//! when one of them died in the middle of something.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::notify::{CallData, Notification};

/// Slots for received, not yet answered calls: one a thread at most, so this bounds the threads held at once.
/// When all are taken the rest waits in the kernel, unreceived, which is safe but open to `EINTR`.
pub const SLOTS: usize = 4096;
/// Those that supervisors use; the rest are the keepers' own.
pub const SUPERVISOR_SLOTS: usize = SLOTS - 2;
/// Name of the memory: what /proc shows for its descriptor, between `/memfd:` and ` (deleted)`.
pub const MEMORY_NAME: &str = "hotbackup-session";
/// Names this layout; another version's keeper is not taken over.
pub const MAGIC: u64 = 0x686f_7462_6b70_0004;

/// One received call: the kernel's `struct seccomp_notif`, on cache lines of its own.
#[repr(C, align(128))]
struct Slot {
    words: [AtomicU64; 10],
}

/// The layout of the shared memory.
#[repr(C)]
pub struct Shared {
    /// [`MAGIC`].
    pub magic: AtomicU64,
    /// Who answers: see [`crate::keeper::state`].
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
    /// Whether a filter may exist: see [`crate::keeper::state::ARMED`].
    pub armed: AtomicU32,
    /// The generation whose supervisor the keeper watches.
    pub watched: AtomicU32,
    /// The generation after which the keeper last began to answer.
    pub kept: AtomicU32,
    /// Counts up while the supervisor's receiver makes progress.
    pub beat: AtomicU64,
    /// 1 when calls may wait that somebody received whose record is lost: see [`crate::rescue`].
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

/// A pointer to a slot for the kernel to write a notification to.
#[derive(Clone, Copy)]
pub struct SlotPtr<'a> {
    pointer: *mut c_void,
    mapping: PhantomData<&'a Mapping>,
}

impl SlotPtr<'_> {
    pub(super) fn as_ptr(self) -> *mut c_void {
        self.pointer
    }
}

/// The shared memory, mapped.
pub struct Mapping {
    pointer: NonNull<c_void>,
    fd: OwnedFd,
}

// SAFETY: the mapping is plain memory that is only reached through atomics and the kernel.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    const LENGTH: NonZeroUsize = NonZeroUsize::new(size_of::<Shared>()).unwrap();

    /// Makes new, zeroed shared memory.
    ///
    /// # Errors
    /// The kernel's (`EMFILE`, `ENOMEM`).
    pub fn create() -> Result<Self, Errno> {
        let fd = memfd_create(MEMORY_NAME, MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&fd, Self::LENGTH.get() as i64)?;
        let mapping = Self::open(fd)?;
        mapping.magic.store(MAGIC, Ordering::SeqCst);
        Ok(mapping)
    }

    /// Maps shared memory that another process made.
    ///
    /// # Errors
    /// `EINVAL` when it is too short, else the kernel's.
    pub fn open(fd: OwnedFd) -> Result<Self, Errno> {
        if nix::sys::stat::fstat(&fd)?.st_size < Self::LENGTH.get() as i64 {
            return Err(Errno::EINVAL);
        }
        let (prot, flags) =
            (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE);
        // SAFETY: a new mapping at an address of the kernel's choice; the file is at least as long as the layout.
        let pointer = unsafe { mmap(None, Self::LENGTH, prot, flags, fd.as_fd(), 0) }?;
        Ok(Self { pointer, fd })
    }

    /// The memfd, to be passed on.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Where the kernel may write slot `index`.
    pub fn slot_ptr(&self, index: usize) -> SlotPtr<'_> {
        let pointer = self.slots[index].words.as_ptr().cast_mut().cast();
        SlotPtr { pointer, mapping: PhantomData }
    }

    /// The id that slot `index` holds; 0 when it is free.
    pub fn slot_id(&self, index: usize) -> u64 {
        self.slots[index].words[0].load(Ordering::Acquire)
    }

    /// The notification in slot `index`.
    pub fn slot(&self, index: usize) -> Notification {
        let word = |i: usize| self.slots[index].words[i].load(Ordering::Acquire);
        let (pid_flags, nr_arch) = (word(1), word(2));
        Notification {
            id: word(0),
            pid: pid_flags as u32,
            flags: (pid_flags >> 32) as u32,
            data: CallData {
                nr: nr_arch as i32,
                arch: (nr_arch >> 32) as u32,
                ip: word(3),
                args: std::array::from_fn(|i| word(4 + i)),
            },
        }
    }

    /// Frees slot `index`: only after its call was answered. The id goes last, so that a death in between leaves
    /// a slot that is answered once more, which is harmless.
    pub fn clear_slot(&self, index: usize) {
        for word in self.slots[index].words.iter().rev() {
            word.store(0, Ordering::Release);
        }
    }
}

impl std::ops::Deref for Mapping {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        // SAFETY: the mapping is as long as the layout, page-aligned, lives as long as `self`, and any bit
        // pattern is a valid `Shared` (atomics of integers only).
        unsafe { self.pointer.cast::<Shared>().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `open` with this length, and nothing borrowed from it outlives `self`.
        let _ = unsafe { munmap(self.pointer, Self::LENGTH.get()) };
    }
}
