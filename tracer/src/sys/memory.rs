//! Memory shared between processes: a memfd that is mapped as one value, of a type for which any bits are valid.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use zerocopy::FromBytes;

/// A `T` in shared memory, mapped. Others may change it at any instant, so it can only be one of atomics.
pub struct Region<T> {
    pointer: NonNull<c_void>,
    fd: OwnedFd,
    content: PhantomData<T>,
}

// SAFETY: the mapping is plain memory that is only reached as a shared `T`.
unsafe impl<T: Sync> Send for Region<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Region<T> {}

impl<T: FromBytes + Sync> Region<T> {
    const LENGTH: NonZeroUsize = {
        assert!(align_of::<T>() <= 4096, "a mapping is aligned to pages");
        NonZeroUsize::new(size_of::<T>()).unwrap()
    };

    /// Makes new, zeroed memory for this process and those that it forks.
    ///
    /// # Errors
    /// The kernel's (`EMFILE`, `ENOMEM`).
    pub fn create(name: &str) -> Result<Self, Errno> {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC)?;
        nix::unistd::ftruncate(&fd, Self::LENGTH.get() as i64)?;
        Self::open(fd)
    }

    /// Maps memory that another process made.
    ///
    /// # Errors
    /// `EINVAL` when it is too short, else the kernel's.
    pub fn open(fd: OwnedFd) -> Result<Self, Errno> {
        Self::open_at(fd, 0)
    }

    /// The same of what lies `offset` bytes, whole pages, behind its beginning; pages come when they are used.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_at(fd: OwnedFd, offset: u64) -> Result<Self, Errno> {
        if nix::sys::stat::fstat(&fd)?.st_size < (Self::LENGTH.get() as u64 + offset) as i64 {
            return Err(Errno::EINVAL);
        }
        let (prot, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice; the file is at least as long as a `T` behind the offset.
        let pointer = unsafe { mmap(None, Self::LENGTH, prot, flags, fd.as_fd(), offset as i64) }?;
        Ok(Self { pointer, fd, content: PhantomData })
    }
}

impl<T> Region<T> {
    /// The memfd, to be passed on.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }
}

impl<T: FromBytes + Sync> std::ops::Deref for Region<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mapping is as long as a `T`, page-aligned, and lives as long as `self`; any bits are a valid `T`
        // (`FromBytes`), and only a type that may change while it is shared (`Sync`) can be changed through it.
        unsafe { self.pointer.cast::<T>().as_ref() }
    }
}

impl<T> Drop for Region<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `open` with this length, and nothing borrowed from it outlives `self`.
        let _ = unsafe { munmap(self.pointer, size_of::<T>()) };
    }
}
