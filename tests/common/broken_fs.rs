//! A small file system by FUSE that lists names and does not find them, as one does that is damaged, or whose server is gone: a
//! directory with `file` and `listed`, whatever errors are asked for.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, Request,
};

/// What each file holds.
pub const CONTENT: &[u8] = b"content";

/// Errors that are given instead of answers; 0: none.
#[derive(Default)]
pub struct Errors {
    /// To whoever looks for `listed`.
    pub listed: AtomicI32,
    /// To whoever looks for any name.
    pub names: AtomicI32,
    /// To whoever looks at the directory itself.
    pub top: AtomicI32,
    /// To whoever opens a file.
    pub open: AtomicI32,
    /// To whoever opens the directory.
    pub opendir: AtomicI32,
    /// By so many bytes a file is shorter than it says.
    pub missing: AtomicI32,
}

struct Server(Arc<Errors>);

const NAMES: [(&str, INodeNo); 2] = [("file", INodeNo(2)), ("listed", INodeNo(3))];
/// Nothing is remembered.
const NEVER: Duration = Duration::ZERO;

fn attributes(ino: INodeNo) -> FileAttr {
    let (kind, perm, size) = match ino {
        INodeNo::ROOT => (FileType::Directory, 0o755, 0),
        _ => (FileType::RegularFile, 0o644, CONTENT.len() as u64),
    };
    FileAttr {
        ino,
        size,
        blocks: size.div_ceil(512),
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn error(of: &AtomicI32) -> Option<Errno> {
    Some(of.load(Ordering::SeqCst)).filter(|errno| *errno != 0).map(Errno::from_i32)
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        let refused = error(&self.0.names).or_else(|| error(&self.0.listed).filter(|_| name == "listed"));
        match (refused, known) {
            (Some(errno), _) => reply.error(errno),
            (None, Some((_, ino))) => reply.entry(&NEVER, &attributes(*ino), Generation(0)),
            (None, None) => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match error(&self.0.top).filter(|_| ino == INodeNo::ROOT) {
            Some(errno) => reply.error(errno),
            None => reply.attr(&NEVER, &attributes(ino)),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        for (index, (name, ino)) in (1..).zip(NAMES).skip(offset as usize) {
            if reply.add(ino, index, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match error(&self.0.opendir) {
            Some(errno) => reply.error(errno),
            None => reply.opened(FileHandle(0), FopenFlags::empty()),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match error(&self.0.open) {
            Some(errno) => reply.error(errno),
            // Nothing is remembered of its content, nor of its end.
            None => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
        }
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
        let end = CONTENT.len() - self.0.missing.load(Ordering::SeqCst) as usize;
        let start = end.min(offset as usize);
        reply.data(&CONTENT[start..end.min(start + size as usize)]);
    }
}

/// One that is mounted, until it is dropped.
pub struct Broken {
    /// Where.
    pub at: PathBuf,
    /// What it says.
    pub errors: Arc<Errors>,
    _served: BackgroundSession,
}

impl Broken {
    /// Whole, for now.
    pub fn mount(at: &Path) -> Self {
        fs::create_dir_all(at).expect("made");
        let errors = Arc::<Errors>::default();
        let served = fuser::spawn_mount(Server(Arc::clone(&errors)), at, &fuser::Config::default());
        Self { at: at.to_owned(), errors, _served: served.expect("these tests need root and /dev/fuse") }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        // Whoever may still hold something of it, a backup that has just ended.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}
