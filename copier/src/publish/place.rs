//! Putting a backup into directories that are there: what was staged inside of each is moved up into it.
//!
//! ```text
//!   DEST/.hotbackup-partial-PID/{a, b/}  ──rename, one name after the other──>  DEST/{a, b/}
//! ```
//!
//! It is one step less than the rename of the usual way: whoever looks into a destination meanwhile sees the staging directory
//! beside the first names, and so does, after a power failure, whoever would use half of it. Everything below is durable before,
//! and the names are before success is told. If any of it fails, every destination is empty again.
use super::metadata::{owner, times};
use crate::Error;
use crate::base::sys::{self, Kind, Stat};
use crate::interface::spec::OWN_DIR;
use crate::stage::{Stage, remove_entry};
use hotbackup_event::failpoint;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// Read at once when content is copied from one destination to another.
const CHUNK: usize = 1 << 20;

/// What was done to one destination.
struct Moved<'a> {
    part: &'a Stage,
    /// What it was like.
    was: Stat,
    names: Vec<OsString>,
}

/// Gives every destination its content, durably, where its path leads.
pub(crate) fn publish(stage: &mut Stage) -> Result<(), Error> {
    let mut all = Vec::new();
    let result = stage.parts().try_for_each(|part| move_up(part, &mut all));
    if let Err(error) = result {
        for moved in all.iter().rev() {
            moved.undo();
        }
        return Err(error);
    }
    stage.more.iter_mut().for_each(Stage::settle);
    stage.settle();
    Ok(())
}

fn move_up<'a>(part: &'a Stage, all: &mut Vec<Moved<'a>>) -> Result<(), Error> {
    let failed = |op| move |error: io::Error| Error::at_dest(op, part.dest.clone(), error);
    part.check_parent()?;
    let (dest, staging) = part.place();
    let is_ours = |name: &OsString| name == staging;
    if !sys::names(dest).map_err(failed("read"))?.iter().all(is_ours) {
        return Err(Error::DestNotEmpty { path: part.dest.clone() });
    }
    let was = sys::stat_fd(dest).map_err(failed("look at"))?.stat;
    let root = sys::stat_fd(&part.root).map_err(failed("look at"))?.stat;
    let attributes = sys::xattrs(&part.root).map_err(failed("look at"))?;
    let index = all.len();
    all.push(Moved { part, was, names: Vec::new() });
    // It may be the source's mode not to be written to.
    rustix::fs::fchmod(&part.root, Mode::RWXU).map_err(|errno| failed("set the mode of")(errno.into()))?;
    for name in sys::names(&part.root).map_err(failed("read"))? {
        if part.bare && name == OWN_DIR {
            let gone = rustix::fs::unlinkat(&part.root, &*name, AtFlags::REMOVEDIR);
            gone.map_err(|errno| failed("clear")(errno.into()))?;
            continue;
        }
        move_one(part, &name).map_err(|error| Error::at_dest("put into place", part.dest.join(&name), error))?;
        all[index].names.push(name);
        failpoint::hit("publish.renamed");
    }
    let gone = rustix::fs::unlinkat(dest, staging, AtFlags::REMOVEDIR);
    gone.map_err(|errno| failed("clear")(errno.into()))?;
    make_like(dest, &root, &attributes).map_err(failed("set the mode of"))?;
    part.io.sync(dest.as_fd()).map_err(failed("sync"))?;
    part.check_parent()
}

fn move_one(part: &Stage, name: &OsStr) -> io::Result<()> {
    let (dest, _) = part.place();
    let rename = || match rustix::fs::renameat_with(&part.root, name, dest, name, RenameFlags::NOREPLACE) {
        // The file system knows no such flag. Nobody else's name was there when this began.
        Err(Errno::INVAL) => rustix::fs::renameat(&part.root, name, dest, name),
        other => other,
    };
    let Err(errno) = rename() else { return Ok(()) };
    let found = sys::stat_at(&part.root, name)?.stat;
    if errno != Errno::ACCESS || found.kind() != Kind::Dir {
        return Err(errno.into());
    }
    // A directory that its owner may not write to cannot be given another one above it.
    rustix::fs::chmodat(&part.root, name, Mode::RWXU, AtFlags::empty())?;
    rename()?;
    Ok(rustix::fs::chmodat(dest, name, Mode::from_raw_mode(found.permissions()), AtFlags::empty())?)
}

/// Gives a directory the owner, mode, attributes and times of another one. What may not be set was told of already.
fn make_like(dir: &OwnedFd, stat: &Stat, attributes: &sys::Attributes) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    let _ = rustix::fs::fchown(dir, Some(uid), Some(gid));
    // After the owner, which takes setuid and its kin away.
    match rustix::fs::fchmod(dir, Mode::from_raw_mode(stat.permissions())) {
        // Somebody else's directory that we may write to.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    for (name, value) in attributes {
        let _ = rustix::fs::fsetxattr(dir, name.as_c_str(), value, XattrFlags::empty());
    }
    match rustix::fs::futimens(dir, &times(stat)) {
        Ok(()) | Err(Errno::PERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

impl Moved<'_> {
    /// Empties the destination again. What is left in the staging directory is removed with that.
    fn undo(&self) {
        let (dest, _) = self.part.place();
        for name in &self.names {
            let _ = remove_entry(dest, name);
        }
        let _ = make_like(dest, &self.was, &Vec::new());
        let _ = self.part.io.sync(dest.as_fd());
    }
}

/// Gives a staged file its first name. Where that is in another destination than it was staged in, it may have to be copied.
pub(super) fn take_file(stage: &Stage, number: u64, (out, name): (&OwnedFd, &OsStr)) -> io::Result<()> {
    let data = stage.of(number).data();
    let staged = OsString::from(number.to_string());
    match rustix::fs::renameat(&data, &*staged, out, name) {
        Err(Errno::XDEV) => {
            let open = rustix::fs::openat(&data, &*staged, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            copy(stage, &open, (out, name))?;
            Ok(rustix::fs::unlinkat(&data, &*staged, AtFlags::empty())?)
        }
        other => Ok(other?),
    }
}

/// Puts a copy of a file that has its place in one destination into another one.
pub(super) fn copy_file(stage: &Stage, from: (&OwnedFd, &OsStr), to: (&OwnedFd, &OsStr)) -> io::Result<()> {
    copy(stage, &sys::open_file(from.0, from.1)?, to)
}

fn copy(stage: &Stage, from: &OwnedFd, (out, name): (&OwnedFd, &OsStr)) -> io::Result<()> {
    let io = &*stage.io;
    let to = io.create(out.as_fd(), name)?;
    let size = sys::stat_fd(from)?.stat.size;
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        let data = io.data_after(from.as_fd(), at)?.unwrap_or(size..size);
        at = data.start.min(size);
        while at < data.end.min(size) {
            let n = (data.end.min(size) - at).min(CHUNK as u64) as usize;
            if io.read_at(from.as_fd(), &mut buffer[..n], at)? < n {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            io.write_at(to.as_fd(), &buffer[..n], at)?;
            at += n as u64;
        }
    }
    io.set_len(to.as_fd(), size)?;
    io.sync(to.as_fd())
}
