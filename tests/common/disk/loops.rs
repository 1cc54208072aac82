//! Loop devices. They are the machine's: the one that is free may be another's by the time it is opened, or may just be on
//! its way from another, and then cannot be opened at all (ENXIO). So tests take turns, in whatever program they run, by
//! a lock on the device that gives out numbers; and as others may know nothing of that, and a file system that was
//! unmounted lazily gives its device back whenever it likes, they try again.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;

/// Somebody who is quicker every time for so long is a fault.
const LIMIT: Duration = Duration::from_secs(30);

/// While it is there, no other test takes a loop device.
pub struct Turn(File);

impl Turn {
    /// Waits for it.
    pub fn take() -> Self {
        let control = File::open("/dev/loop-control").expect("these tests need loop devices");
        control.lock().expect("locked");
        Self(control)
    }

    /// Tries to attach something to the device that is free until nobody else was quicker.
    pub fn attach<T>(&self, mut attach: impl FnMut() -> Result<T, Errno>) -> T {
        let began = Instant::now();
        loop {
            match attach() {
                Err(Errno::EBUSY | Errno::ENXIO) if began.elapsed() < LIMIT => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                done => return done.unwrap_or_else(|errno| panic!("a loop device: {errno} (these tests need root)")),
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // A child that is about to execute another program may have it open, too.
        let _ = self.0.unlock();
    }
}

/// A loop device, detached when dropped.
pub struct Loop(pub PathBuf, bool);

impl Loop {
    /// Attaches a file.
    pub fn new(file: &Path) -> Self {
        Self::attach(file, &[])
    }

    /// Attaches a file that can only be read through the device.
    pub fn reading(file: &Path) -> Self {
        Self::attach(file, &["--read-only"])
    }

    fn attach(file: &Path, more: &[&str]) -> Self {
        let device = Turn::take().attach(|| {
            let mut losetup = Command::new("losetup");
            losetup.env("LC_ALL", "C").args(["--find", "--show"]).args(more).arg(file);
            let output = losetup.output().expect("losetup starts");
            let (found, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            match () {
                () if output.status.success() => Ok(PathBuf::from(found.trim())),
                () if said.contains(Errno::ENXIO.desc()) => Err(Errno::ENXIO),
                () if said.contains(Errno::EBUSY.desc()) => Err(Errno::EBUSY),
                () => panic!("losetup: {said}"),
            }
        });
        Self(device, true)
    }

    /// Detaches it, or has it detached when what is mounted from it is gone.
    pub fn detach(&mut self) {
        if std::mem::take(&mut self.1) {
            let _turn = Turn::take();
            let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
        }
    }

    /// Waits until nothing is attached to it any more; says whether it came to that.
    pub fn wait_until_free(&self) -> bool {
        wait_until_free(&self.0)
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.detach();
    }
}

/// Waits until nothing is attached to a device any more; says whether it came to that.
pub fn wait_until_free(device: &Path) -> bool {
    let backing = Path::new("/sys/block").join(device.file_name().unwrap_or_default()).join("loop/backing_file");
    let began = Instant::now();
    while backing.exists() {
        if began.elapsed() > Duration::from_secs(10) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
