//! The table: every system call that can change a file, when the filter shows it, and who reads its arguments.
//!
//! One row a call. A new way of changing a file is a new row here and a test named after it; the filter
//! ([`filter`]) and the decoders ([`decode`]) are made from the table, so that a row cannot be in one
//! and not in the other.
//!
//! A decoder is a function of registers, memory and the target's view to what a call may change. It waits for nothing: what
//! is to be settled first, or asked of the calls that are on their way, it says in its result ([`decode::OnDescriptor`]), and
//! the receiver does it.

mod by_kernel;
pub mod coverage;
pub mod decode;
pub mod every;
mod files;
pub mod filter;
mod hazard;
pub mod ioctls;
mod mapped;
mod memory;
mod mounts;
mod names;
pub mod resolve;
mod row;
mod walk;

use row::{bits, by_fd, by_path};

pub use row::{Decode, HOT, Row, Shape, Test, When};

// Numbers that libc does not name yet.
const SYS_QUOTACTL_FD: i64 = 443; // 5.14
const SYS_FCHMODAT2: i64 = 452; // 6.6
const SYS_SETXATTRAT: i64 = 463; // 6.13
const SYS_REMOVEXATTRAT: i64 = 466; // 6.13
const SYS_FILE_SETATTR: i64 = 469; // 6.17

/// The table.
pub static TABLE: &[Row] = &[
    // Content, by descriptor.
    by_fd(libc::SYS_write, "write", files::write).when(When::UnlessEightBytes),
    by_fd(libc::SYS_writev, "writev", files::writev),
    by_fd(libc::SYS_pwrite64, "pwrite64", files::pwrite),
    by_fd(libc::SYS_pwritev, "pwritev", files::pwritev),
    by_fd(libc::SYS_pwritev2, "pwritev2", files::pwritev2),
    by_fd(libc::SYS_ftruncate, "ftruncate", files::ftruncate),
    by_fd(libc::SYS_fallocate, "fallocate", files::fallocate),
    by_fd(libc::SYS_copy_file_range, "copy_file_range", files::copy_file_range),
    by_fd(libc::SYS_sendfile, "sendfile", files::sendfile),
    by_fd(libc::SYS_splice, "splice", files::splice),
    by_path(libc::SYS_ioctl, "ioctl", ioctls::ioctl).when(When::Any(&ioctls::TESTS)),
    // Metadata, by descriptor.
    by_fd(libc::SYS_fchmod, "fchmod", files::metadata),
    by_fd(libc::SYS_fchown, "fchown", files::metadata),
    by_fd(libc::SYS_fsetxattr, "fsetxattr", files::metadata),
    by_fd(libc::SYS_fremovexattr, "fremovexattr", files::metadata),
    // Content, by path. Without O_CREAT or O_TRUNC an open changes nothing; O_TMPFILE makes no entry.
    by_path(libc::SYS_open, "open", names::open).when(When::Opens(1)),
    by_path(libc::SYS_openat, "openat", names::openat).when(When::Opens(2)),
    by_path(libc::SYS_openat2, "openat2", names::openat2),
    by_path(libc::SYS_creat, "creat", names::creat),
    by_path(libc::SYS_truncate, "truncate", names::truncate),
    // Names.
    by_path(libc::SYS_rename, "rename", names::rename),
    by_path(libc::SYS_renameat, "renameat", names::renameat),
    by_path(libc::SYS_renameat2, "renameat2", names::renameat),
    by_path(libc::SYS_link, "link", names::link),
    by_path(libc::SYS_linkat, "linkat", names::linkat),
    by_path(libc::SYS_unlink, "unlink", names::remove),
    by_path(libc::SYS_unlinkat, "unlinkat", names::removeat),
    by_path(libc::SYS_rmdir, "rmdir", names::remove),
    by_path(libc::SYS_mkdir, "mkdir", names::make),
    by_path(libc::SYS_mkdirat, "mkdirat", names::makeat),
    by_path(libc::SYS_mknod, "mknod", names::make),
    by_path(libc::SYS_mknodat, "mknodat", names::makeat),
    by_path(libc::SYS_symlink, "symlink", names::symlink),
    by_path(libc::SYS_symlinkat, "symlinkat", names::symlinkat),
    by_path(libc::SYS_bind, "bind", names::bind),
    // Metadata, by path.
    by_path(libc::SYS_chmod, "chmod", names::metadata),
    by_path(libc::SYS_fchmodat, "fchmodat", names::metadata_at),
    by_path(SYS_FCHMODAT2, "fchmodat2", names::metadata_at),
    by_path(libc::SYS_chown, "chown", names::metadata),
    by_path(libc::SYS_lchown, "lchown", names::metadata),
    by_path(libc::SYS_fchownat, "fchownat", names::metadata_at),
    by_path(libc::SYS_utime, "utime", names::metadata),
    by_path(libc::SYS_utimes, "utimes", names::metadata),
    by_path(libc::SYS_futimesat, "futimesat", names::metadata_at),
    by_path(libc::SYS_utimensat, "utimensat", names::metadata_at),
    by_path(libc::SYS_setxattr, "setxattr", names::metadata),
    by_path(libc::SYS_lsetxattr, "lsetxattr", names::metadata),
    by_path(SYS_SETXATTRAT, "setxattrat", names::metadata_at),
    by_path(libc::SYS_removexattr, "removexattr", names::metadata),
    by_path(libc::SYS_lremovexattr, "lremovexattr", names::metadata),
    by_path(SYS_REMOVEXATTRAT, "removexattrat", names::metadata_at),
    by_path(SYS_FILE_SETATTR, "file_setattr", names::metadata_at),
    // What no notification can follow: the backup fails if it concerns a file of the source.
    by_fd(libc::SYS_mmap, "mmap", hazard::mmap).when(When::All(&[
        bits(2, libc::PROT_WRITE as u32, libc::PROT_WRITE as u32),
        bits(3, (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u32, libc::MAP_SHARED as u32),
    ])),
    by_fd(libc::SYS_mprotect, "mprotect", hazard::mprotect).when(When::Any(&[bits(
        2,
        libc::PROT_WRITE as u32,
        libc::PROT_WRITE as u32,
    )])),
    by_fd(libc::SYS_pkey_mprotect, "pkey_mprotect", hazard::mprotect).when(When::Any(&[bits(
        2,
        libc::PROT_WRITE as u32,
        libc::PROT_WRITE as u32,
    )])),
    by_fd(libc::SYS_io_uring_setup, "io_uring_setup", hazard::io_uring),
    by_fd(libc::SYS_io_submit, "io_submit", hazard::io_submit),
    by_fd(libc::SYS_open_by_handle_at, "open_by_handle_at", hazard::open_by_handle).when(When::Opens(2)),
    by_fd(libc::SYS_madvise, "madvise", mapped::madvise).when(When::Any(&mapped::advice(2))),
    by_fd(libc::SYS_process_madvise, "process_madvise", mapped::process_madvise).when(When::Any(&mapped::advice(3))),
    by_fd(libc::SYS_process_vm_writev, "process_vm_writev", mapped::process_vm_writev),
    by_fd(libc::SYS_ptrace, "ptrace", mapped::ptrace).when(When::Any(&mapped::POKES)),
    by_path(libc::SYS_swapon, "swapon", by_kernel::swapon),
    by_path(libc::SYS_acct, "acct", by_kernel::acct),
    by_path(libc::SYS_quotactl, "quotactl", by_kernel::quotactl).when(When::Any(&by_kernel::quota_on(0))),
    by_path(SYS_QUOTACTL_FD, "quotactl_fd", by_kernel::quotactl).when(When::Any(&by_kernel::quota_on(1))),
    // What changes where paths lead.
    by_path(libc::SYS_mount, "mount", mounts::mount),
    by_path(libc::SYS_umount2, "umount2", mounts::umount),
    by_path(libc::SYS_move_mount, "move_mount", mounts::move_mount),
    by_path(libc::SYS_pivot_root, "pivot_root", mounts::pivot_root),
    by_path(libc::SYS_chroot, "chroot", mounts::stands_elsewhere),
    by_path(libc::SYS_chdir, "chdir", mounts::stands_elsewhere),
    by_path(libc::SYS_fchdir, "fchdir", mounts::stands_elsewhere),
    // What moves a position, or ends a descriptor that has one.
    by_fd(libc::SYS_lseek, "lseek", files::lseek).when(When::ForTheNet),
    by_fd(libc::SYS_close, "close", files::close).when(When::Ends),
    by_fd(libc::SYS_dup2, "dup2", files::dup2).when(When::Ends),
    by_fd(libc::SYS_dup3, "dup3", files::dup2).when(When::Ends),
    by_fd(libc::SYS_close_range, "close_range", files::close_range).when(When::Ends),
    // What else a descriptor table in the target depends on; these change no file.
    by_fd(libc::SYS_fcntl, "fcntl", files::nothing).when(When::ForTheTable(&[bits(1, u32::MAX, libc::F_SETFL as u32)])),
    by_fd(libc::SYS_unshare, "unshare", files::nothing).when(When::ForTheTable(&[bits(
        0,
        libc::CLONE_FILES as u32,
        libc::CLONE_FILES as u32,
    )])),
    by_fd(libc::SYS_clone, "clone", files::nothing).when(When::ForTheTable(&[bits(
        0,
        libc::CLONE_VM as u32,
        libc::CLONE_VM as u32,
    )])),
    by_fd(libc::SYS_clone3, "clone3", files::nothing).when(When::ForTheTable(&[])),
    by_fd(libc::SYS_vfork, "vfork", files::nothing).when(When::ForTheTable(&[])),
];

/// The row of system call `nr`.
pub fn row(nr: i64) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.nr == nr)
}

#[cfg(test)]
mod tests;
