//! The program that keeper and ptracer are: small, static, and started from memory, so that it needs no file of
//! wherever it runs, and keeps none busy.

use std::fs::File;
use std::io::{Error, Result, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// What /proc/PID/exe names it, between `/memfd:` and ` (deleted)`.
pub(crate) const NAME: &str = "hotbackup-keeper";

/// A program as the bytes of its executable file.
#[derive(Clone, Copy)]
pub struct Program(&'static [u8]);

impl Program {
    /// `executable` calls [`crate::helper_main`], and is best linked statically.
    pub const fn new(executable: &'static [u8]) -> Self {
        Self(executable)
    }

    /// The program in memory that nobody changes any more.
    pub(super) fn open(self) -> Result<Opened> {
        // Since 6.3 it must be said that it is to be executed; before that the kernel knows no such word.
        let exec = MFdFlags::from_bits_retain(libc::MFD_EXEC);
        let usual = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(NAME, usual | exec).or_else(|errno| match errno {
            Errno::EINVAL => memfd_create(NAME, usual),
            errno => Err(errno),
        });
        let file = File::from(fd.map_err(explain)?);
        self.write_to(&file)?;
        Ok(Opened(file.into()))
    }

    /// Writes it to an empty memfd, which nobody changes any more.
    pub(crate) fn write_to(self, mut file: &File) -> Result<()> {
        file.write_all(self.0)?;
        let all = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
        fcntl(file, FcntlArg::F_ADD_SEALS(all))?;
        Ok(())
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Program({} bytes)", self.0.len())
    }
}

/// A program in memory, to be executed while this is there.
pub(super) struct Opened(OwnedFd);

impl Opened {
    /// Where a child of this process finds it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

fn explain(errno: Errno) -> Error {
    match errno {
        Errno::EACCES => {
            Error::other("this machine executes nothing from memory: set the sysctl vm.memfd_noexec to 1 or 0")
        }
        errno => errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_opened_runs_and_cannot_be_changed() {
        let program = Program::new(std::fs::read("/bin/true").expect("it is there").leak());
        let opened = program.open().expect("there is memory");
        assert!(std::process::Command::new(opened.path()).status().expect("it starts").success());
        let mut file = File::from(opened.0);
        assert_eq!(file.write(b"x").map_err(|error| error.raw_os_error()), Err(Some(libc::EPERM)));
        assert_eq!(file.set_len(1).map_err(|error| error.raw_os_error()), Err(Some(libc::EPERM)));
    }
}
