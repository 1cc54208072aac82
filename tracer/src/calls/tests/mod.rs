//! What each call is decoded to. That the effects are those that the kernel has, `tests/rows` shows with real calls.

mod arbitrary;
mod content;
mod every;
mod hazards;
mod ioctls;
mod mounts;
mod names;
mod order;

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use hotbackup_event::{Effect, FileId};
use nix::fcntl::AT_FDCWD;

use super::{TABLE, row};
use crate::flight::trial::{Decoded, Trial};
use crate::sys::stat;

const SIZE: u64 = 100_000;

/// A directory with a file, a directory and symbolic links, and calls on them.
struct Bench {
    dir: tempfile::TempDir,
    trial: Trial,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        File::create(dir.path().join("file")).unwrap().set_len(SIZE).unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        for (target, link) in [("file", "link"), ("nowhere", "dangling")] {
            std::os::unix::fs::symlink(target, dir.path().join(link)).unwrap();
        }
        Self { dir, trial: Trial::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// As the target has it in memory.
    fn text(&self, name: &str) -> CString {
        CString::new(self.path(name).as_os_str().as_bytes()).unwrap()
    }

    fn id(&self, name: &str) -> FileId {
        stat::identity(AT_FDCWD, &self.text(name), false).unwrap().id
    }

    fn open(&self, name: &str, options: &mut std::fs::OpenOptions) -> File {
        options.open(self.path(name)).unwrap()
    }

    /// A call that can be followed.
    fn decode(&mut self, nr: i64, args: &[u64]) -> Decoded {
        let decoded = self.decode_any(nr, args);
        assert_eq!(decoded.blind, None);
        decoded
    }

    fn decode_any(&mut self, nr: i64, args: &[u64]) -> Decoded {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        self.trial.decode(row(nr).unwrap(), all, false)
    }

    fn effects(&mut self, nr: i64, args: &[u64]) -> Vec<Effect> {
        self.decode(nr, args).effects
    }

    /// The name of something that is in the directory.
    fn entry(&self, name: &str) -> Effect {
        self.entry_in("", name)
    }

    fn entry_in(&self, dir: &str, name: &str) -> Effect {
        let dir = stat::identity(AT_FDCWD, &self.text(dir), true).unwrap().id;
        Effect::Entry { dir, name: OsStr::new(name).to_owned() }
    }

    fn metadata(&self, name: &str) -> Effect {
        Effect::Metadata { file: self.id(name) }
    }

    fn content(&self, start: u64, end: u64) -> Effect {
        Effect::Content { file: self.id("file"), start, end }
    }

    fn whole(&self) -> Effect {
        self.content(0, u64::MAX)
    }

    fn append(&self) -> Effect {
        Effect::Append { file: self.id("file"), size: SIZE }
    }

    fn resize(&self, len: u64) -> Effect {
        Effect::Resize { file: self.id("file"), len }
    }
}

/// As an argument.
fn number(file: &File) -> u64 {
    file.as_raw_fd() as u64
}

fn address<T>(of: &T) -> u64 {
    std::ptr::from_ref(of) as u64
}

fn at(text: &CString) -> u64 {
    text.as_ptr() as u64
}

#[test]
fn no_call_has_two_rows() {
    let mut numbers: Vec<i64> = TABLE.iter().map(|row| row.nr).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), TABLE.len());
}
