//! A disk made for tests: it remembers every write and every flush, and fails on demand.
//!
//! It is a file of a small FUSE file system, served by a thread of the test, with a loop device on top. What a file
//! system on that device writes arrives here in order, and a flush of the device arrives as an fsync of the file.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use tempfile::TempDir;

pub mod loops;
pub use loops::Loop;

/// What happened to the disk.
#[derive(Debug, Clone)]
pub enum Step {
    /// Bytes were written at an offset. They may be lost until the next flush.
    Write(u64, Vec<u8>),
    /// What was written before is safe.
    Flush,
}

#[derive(Default)]
struct Content {
    bytes: Vec<u8>,
    log: Option<Vec<Step>>,
}

#[derive(Default)]
struct Shared {
    content: Mutex<Content>,
    /// Every write and flush fails from the nth write on.
    broken_from: AtomicU64,
    writes: AtomicU64,
    failed: AtomicBool,
}

impl Shared {
    fn is_broken(&self, writes: u64) -> bool {
        let broken = writes >= self.broken_from.load(Ordering::SeqCst);
        if broken {
            self.failed.store(true, Ordering::SeqCst);
        }
        broken
    }
}

/// The file system with the one file.
struct Server(Arc<Shared>);

const FILE: INodeNo = INodeNo(2);
const FOREVER: Duration = Duration::from_secs(3600);

impl Server {
    fn attributes(&self, ino: INodeNo) -> FileAttr {
        let is_file = ino == FILE;
        let size = if is_file { self.0.content.lock().expect("no panic").bytes.len() as u64 } else { 0 };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: if is_file { FileType::RegularFile } else { FileType::Directory },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "disk" {
            reply.entry(&FOREVER, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let content = self.0.content.lock().expect("no panic");
        let start = content.bytes.len().min(offset as usize);
        let end = content.bytes.len().min(start + size as usize);
        reply.data(&content.bytes[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if self.0.is_broken(self.0.writes.fetch_add(1, Ordering::SeqCst)) {
            return reply.error(Errno::EIO);
        }
        let mut content = self.0.content.lock().expect("no panic");
        let start = offset as usize;
        match content.bytes.get_mut(start..start + data.len()) {
            Some(place) => place.copy_from_slice(data),
            None => return reply.error(Errno::EFBIG),
        }
        if let Some(log) = &mut content.log {
            log.push(Step::Write(offset, data.to_vec()));
        }
        reply.written(data.len() as u32);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        if self.0.is_broken(self.0.writes.load(Ordering::SeqCst)) {
            return reply.error(Errno::EIO);
        }
        if let Some(log) = &mut self.0.content.lock().expect("no panic").log {
            log.push(Step::Flush);
        }
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // A close, which promises nothing.
        reply.ok();
    }
}

/// The disk, until it is dropped.
pub struct Disk {
    // In the order in which they are taken down.
    device: Loop,
    served: Option<BackgroundSession>,
    shared: Arc<Shared>,
    at: TempDir,
}

impl Disk {
    /// An empty disk of so many bytes.
    pub fn new(bytes: usize) -> Self {
        let at = TempDir::with_prefix("hotbackup-disk-").expect("a directory");
        let shared = Arc::new(Shared { broken_from: AtomicU64::new(u64::MAX), ..Shared::default() });
        shared.content.lock().expect("no panic").bytes = vec![0; bytes];
        let served = fuser::spawn_mount(Server(Arc::clone(&shared)), at.path(), &fuser::Config::default());
        let served = Some(served.expect("these tests need root and /dev/fuse"));
        let device = Loop::new(&at.path().join("disk"));
        Self { device, served, shared, at }
    }

    /// The block device.
    pub fn device(&self) -> &Path {
        &self.device.0
    }

    /// What it holds.
    pub fn image(&self) -> Vec<u8> {
        self.shared.content.lock().expect("no panic").bytes.clone()
    }

    /// Begins to remember.
    pub fn record(&self) {
        self.shared.content.lock().expect("no panic").log = Some(Vec::new());
    }

    /// Everything since [`Disk::record`].
    pub fn recorded(&self) -> Vec<Step> {
        self.shared.content.lock().expect("no panic").log.take().expect("it was recorded")
    }

    /// From now on, and after so many more writes, every write and flush fails.
    pub fn break_after(&self, writes: u64) {
        self.shared.broken_from.store(self.shared.writes.load(Ordering::SeqCst) + writes, Ordering::SeqCst);
    }

    /// Everything works again.
    pub fn mend(&self) {
        self.shared.broken_from.store(u64::MAX, Ordering::SeqCst);
    }

    /// Writes so far.
    pub fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::SeqCst)
    }

    /// Whether it has failed a write or a flush.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::SeqCst)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.mend();
        self.device.detach();
        // What was unmounted lazily may use it for a moment longer.
        self.device.wait_until_free();
        if let Some(served) = self.served.take()
            && served.umount_and_join().is_err()
        {
            let _ = Command::new("umount").arg("--lazy").arg(self.at.path()).status();
        }
    }
}

/// A mounted file system, unmounted when dropped.
pub struct Mount(pub PathBuf);

impl Mount {
    /// Mounts a device at a new directory, or one that is there.
    pub fn new(device: &Path, at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).expect("a mount point");
        run("mount", &[device.as_os_str(), at.as_os_str()]);
        Self(at)
    }

    /// Unmounts it; fails while it is in use.
    pub fn unmount(self) {
        run("umount", &[self.0.as_os_str()]);
        std::mem::forget(self);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A file system of its own on a loop device, mounted.
pub struct Volume {
    mount: Option<Mount>,
    device: Loop,
    /// Where it is mounted.
    pub at: PathBuf,
}

impl Volume {
    /// Of so many MiB, in a file beside `at`, which becomes the mount point.
    pub fn new(kind: &str, mib: u64, more: &[&str], at: PathBuf) -> Self {
        let file = at.with_extension("image");
        std::fs::File::create(&file).and_then(|file| file.set_len(mib << 20)).expect("an image");
        let device = Loop::new(&file);
        make_file_system(kind, &device.0, more);
        let mount = Some(Mount::new(&device.0, at.clone()));
        Self { mount, device, at }
    }

    /// Its device.
    pub fn device(&self) -> &Path {
        &self.device.0
    }

    /// Takes it out of the tree while it may be in use.
    pub fn unmount_lazily(&mut self) {
        drop(self.mount.take().expect("mounted"));
    }

    /// Mounts it again.
    pub fn mount(&mut self) {
        assert!(self.mount.is_none(), "it is mounted");
        self.mount = Some(Mount::new(&self.device.0, self.at.clone()));
    }

    /// The names in it, apart from what mkfs puts there.
    pub fn names(&self) -> Vec<String> {
        names(&self.at)
    }
}

/// The names in the root of a mounted file system, apart from what mkfs puts there.
pub fn names(at: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(at).expect("readable");
    let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "lost+found").collect()
}

/// A file system that stands still: every change of it waits until this is dropped.
pub struct Frozen(PathBuf);

impl Frozen {
    /// Freezes what is mounted at `at`.
    pub fn new(at: &Path) -> Self {
        run("fsfreeze", &["--freeze".as_ref(), at.as_os_str()]);
        Self(at.to_owned())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.0).status();
    }
}

/// Makes a file system on a device: `ext4`, `xfs`.
pub fn make_file_system(kind: &str, device: &Path, more: &[&str]) {
    let mut arguments: Vec<&OsStr> = vec![OsStr::new("-q")];
    arguments.extend(more.iter().map(OsStr::new));
    arguments.push(device.as_os_str());
    run(&format!("mkfs.{kind}"), &arguments);
}

/// Runs a program that must succeed.
pub fn run(program: &str, arguments: &[&OsStr]) {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {} {said} (these tests need root)", output.status);
}
