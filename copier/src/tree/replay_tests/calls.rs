//! Calls on a real directory: what each is decoded to, in the same way as in the tracer, and the call itself.
use crate::base::sys::{self, Found, Kind};
use crate::marks::blockmap::BLOCK;
use hotbackup_event::Effect;
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// One call; many of them fail.
#[derive(Debug, Clone)]
pub enum Op {
    Create(Name),
    Unlink(Name),
    Mkdir(Name),
    Rmdir(Name),
    Rename(Name, Name),
    Exchange(Name, Name),
    Link(Name, Name),
    Symlink(&'static str, Name),
    Fifo(Name),
    Chmod(Name, u16),
    /// These three are by descriptor.
    Write(Name, u64, u8),
    Append(Name, u8),
    Cut(Name, u64),
}

/// A relative path of few names, so that calls meet.
pub type Name = PathBuf;

fn name() -> impl Strategy<Value = Name> {
    let names = prop::sample::select(&["a", "b", "c"][..]);
    prop_oneof![
        3 => names.clone().prop_map(PathBuf::from),
        3 => (names.clone(), names.clone()).prop_map(|(a, b)| Path::new(a).join(b)),
        1 => (names.clone(), names.clone(), names).prop_map(|(a, b, c)| Path::new(a).join(b).join(c)),
    ]
}

pub fn op() -> impl Strategy<Value = Op> {
    let texts = prop::sample::select(&["a", "b/c", "./b", "../a", "nowhere"][..]);
    let size = 0..3 * BLOCK;
    prop_oneof![
        6 => name().prop_map(Op::Create),
        3 => name().prop_map(Op::Unlink),
        4 => name().prop_map(Op::Mkdir),
        2 => name().prop_map(Op::Rmdir),
        6 => (name(), name()).prop_map(|(from, to)| Op::Rename(from, to)),
        3 => (name(), name()).prop_map(|(from, to)| Op::Exchange(from, to)),
        3 => (name(), name()).prop_map(|(from, to)| Op::Link(from, to)),
        2 => (texts, name()).prop_map(|(text, at)| Op::Symlink(text, at)),
        1 => name().prop_map(Op::Fifo),
        2 => (name(), 0..0o1000u16).prop_map(|(at, mode)| Op::Chmod(at, mode)),
        3 => (name(), size.clone(), any::<u8>()).prop_map(|(at, offset, byte)| Op::Write(at, offset, byte)),
        2 => (name(), any::<u8>()).prop_map(|(at, byte)| Op::Append(at, byte)),
        2 => (name(), size).prop_map(|(at, length)| Op::Cut(at, length)),
    ]
}

impl Op {
    pub fn is_by_path(&self) -> bool {
        !matches!(self, Self::Write(..) | Self::Append(..) | Self::Cut(..))
    }
}

/// A call that was received, with what it was decoded to.
pub struct Call {
    pub op: Op,
    pub number: usize,
    pub effects: Vec<Effect>,
    /// Later calls by path are decoded once it has run.
    pub moves_names: bool,
    /// It is let go once all earlier calls by path have run.
    pub redirects: bool,
    fd: Option<File>,
}

const LENGTH: usize = 5000;

impl Call {
    /// As `calls/names.rs` and `calls/files.rs` of the tracer decode it.
    pub fn received(op: Op, top: &Path, number: usize) -> Self {
        let mut call =
            Self { op: op.clone(), number, effects: Vec::new(), moves_names: true, redirects: false, fd: None };
        match &op {
            Op::Create(at) => {
                call.changes(&top.join(at));
                call.moves_names = false;
            }
            Op::Unlink(at) | Op::Rmdir(at) => {
                let there = call.changes(&top.join(at));
                call.touches(there);
                call.moves_names = there.is_some_and(|there| there.stat.kind() != Kind::File);
            }
            Op::Mkdir(at) | Op::Fifo(at) | Op::Symlink(_, at) => {
                call.changes(&top.join(at));
                call.redirects = true;
            }
            Op::Rename(from, to) | Op::Exchange(from, to) => {
                for path in [from, to] {
                    let there = call.changes(&top.join(path));
                    call.touches(there);
                    call.redirects |= there.is_some_and(|there| there.stat.kind() != Kind::File);
                }
            }
            Op::Link(from, to) => {
                let there = look(&top.join(from));
                call.touches(there);
                call.redirects = there.is_some_and(|there| there.stat.kind() != Kind::File);
                call.changes(&top.join(to));
            }
            Op::Chmod(at, _) => {
                let path = top.join(at);
                call.touches(look(&path));
                call.touches(std::fs::canonicalize(&path).ok().and_then(|path| look(&path)));
                call.moves_names = false;
            }
            Op::Write(at, ..) | Op::Append(at, _) | Op::Cut(at, _) => {
                call.moves_names = false;
                call.changes_content(&top.join(at));
            }
        }
        call
    }

    fn changes_content(&mut self, path: &Path) {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK;
        let Ok(fd) = rustix::fs::openat(CWD, path, flags, Mode::empty()) else { return };
        let Found { id: file, stat, .. } = sys::stat_fd(&fd).expect("it is open");
        if stat.kind() != Kind::File {
            return;
        }
        self.effects = match self.op {
            Op::Write(_, start, _) => vec![
                Effect::Content { file, start, end: start + LENGTH as u64 },
                Effect::Append { file, size: stat.size },
            ],
            Op::Append(..) => vec![Effect::Append { file, size: stat.size }],
            Op::Cut(_, len) => vec![Effect::Resize { file, len }],
            _ => Vec::new(),
        };
        self.fd = Some(fd.into());
    }

    /// The entry is marked as changing; gives what is there.
    fn changes(&mut self, path: &Path) -> Option<Found> {
        let parent = rustix::fs::openat(CWD, path.parent()?, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).ok()?;
        let dir = sys::stat_fd(&parent).ok()?.id;
        self.effects.push(Effect::Entry { dir, name: path.file_name()?.to_owned() });
        look(path)
    }

    fn touches(&mut self, there: Option<Found>) {
        self.effects.extend(there.map(|there| Effect::Metadata { file: there.id }));
    }

    /// The call itself. Whether it succeeds is its own business.
    pub fn run(self, top: &Path) {
        let at = |name: &Name| top.join(name);
        let _ = match &self.op {
            Op::Create(name) => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
                rustix::fs::openat(CWD, at(name), flags, Mode::from_raw_mode(0o644)).map(drop)
            }
            Op::Unlink(name) => rustix::fs::unlinkat(CWD, at(name), AtFlags::empty()),
            Op::Mkdir(name) => rustix::fs::mkdirat(CWD, at(name), Mode::RWXU),
            Op::Rmdir(name) => rustix::fs::unlinkat(CWD, at(name), AtFlags::REMOVEDIR),
            Op::Rename(from, to) => rustix::fs::renameat(CWD, at(from), CWD, at(to)),
            Op::Exchange(from, to) => rustix::fs::renameat_with(CWD, at(from), CWD, at(to), RenameFlags::EXCHANGE),
            Op::Link(from, to) => rustix::fs::linkat(CWD, at(from), CWD, at(to), AtFlags::empty()),
            Op::Symlink(text, name) => rustix::fs::symlinkat(*text, CWD, at(name)),
            Op::Fifo(name) => rustix::fs::mknodat(CWD, at(name), FileType::Fifo, Mode::RWXU, 0),
            Op::Chmod(name, mode) => {
                let mode = Mode::from_raw_mode(u32::from(*mode) | 0o700);
                rustix::fs::chmodat(CWD, at(name), mode, AtFlags::empty())
            }
            Op::Write(..) | Op::Append(..) | Op::Cut(..) => return self.change_content(),
        };
    }

    fn change_content(self) {
        let Some(fd) = self.fd else { return };
        let size = || fd.metadata().expect("it is open").len();
        match self.op {
            Op::Write(_, offset, byte) => fd.write_all_at(&[byte; LENGTH], offset),
            Op::Append(_, byte) => fd.write_all_at(&[byte; LENGTH], size()),
            Op::Cut(_, length) => fd.set_len(length),
            _ => Ok(()),
        }
        .expect("the disk is not full");
    }
}

fn look(path: &Path) -> Option<Found> {
    sys::stat_at(CWD, path.as_os_str()).ok()
}
