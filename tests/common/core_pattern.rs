//! Where core files go. The pattern is the machine's: tests take turns, in whatever program they run, and whoever is
//! killed with it leaves what it was before for the next.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};

/// Where it is set.
pub const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// Another pattern, until this is dropped. A thread has one at a time.
pub struct CorePattern {
    /// Locked. What the pattern was before; empty while it is that.
    before: File,
}

impl CorePattern {
    /// Waits until nobody else has another one.
    pub fn set(pattern: &str) -> Self {
        let path = std::env::temp_dir().join("hotbackup-tests-core-pattern");
        let mut options = File::options();
        let mut before = options.read(true).write(true).create(true).truncate(false).open(path).expect("opened");
        before.lock().expect("locked");
        let mut left = String::new();
        before.read_to_string(&mut left).expect("text");
        if left.is_empty() {
            before.write_all(&fs::read(CORE_PATTERN).expect("readable")).expect("written");
        }
        let this = Self { before };
        fs::write(CORE_PATTERN, pattern).expect("these tests need root");
        this
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        let mut before = Vec::new();
        let read = self.before.rewind().and_then(|()| self.before.read_to_end(&mut before));
        if read.is_ok() && fs::write(CORE_PATTERN, &before).is_ok() {
            let _ = self.before.set_len(0);
        }
        let _ = self.before.unlock();
    }
}
