//! Putting a backup into directories that are there: what was staged inside of each is moved up into it.
//!
//! ```text
//!   DEST/.hotbackup-partial-PID/{a, b/}  ──rename, one name after the other──>  DEST/{a, b/}
//! ```
//!
//! It is one step less than the rename of the usual way: whoever looks into a destination meanwhile sees the staging directory
//! beside the first names, and so does, after a power failure, whoever would use half of it. Everything below is durable before,
//! and the names are before success is told. If any of it fails, every destination is empty again.
use super::metadata::{Spot, owner};
use crate::Error;
use crate::base::sys::{self, Attributes, Kind, Stat};
use crate::interface::spec::OWN_DIR;
use crate::stage::{ACCESS_LISTS, Stage, remove_entry};
use hotbackup_event::failpoint;
use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;

/// What was done to one destination.
struct Moved<'a> {
    part: &'a Stage,
    /// What it was like.
    was: (Stat, Attributes),
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
    let was = (was, sys::xattrs(dest).map_err(failed("look at"))?);
    let root = sys::stat_fd(&part.root).map_err(failed("look at"))?.stat;
    let attributes = sys::xattrs(&part.root).map_err(failed("look at"))?;
    let index = all.len();
    all.push(Moved { part, was, names: Vec::new() });
    // It may be the source's mode not to be written to.
    rustix::fs::fchmod(&part.root, Mode::RWXU).map_err(|errno| failed("set the mode of")(errno.into()))?;
    let mut names = sys::names(&part.root).map_err(failed("read"))?;
    // The mark of a staging directory goes last: until then, the next backup knows what this one left.
    names.sort_by_key(|name| name == OWN_DIR);
    for name in names {
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
    part.sync_dir(dest).map_err(failed("sync"))?;
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

/// Gives a directory the owner, mode, attributes and times of another one. What may not be set was told of already, by the trial of
/// the destination's own ([`Capabilities::top`](crate::trial::Capabilities::top)). Its own access
/// lists go: they would give rights that the other does not.
fn make_like(dir: &OwnedFd, stat: &Stat, attributes: &Attributes) -> io::Result<()> {
    let spot = Spot::Dir(dir);
    for list in ACCESS_LISTS {
        if !attributes.iter().any(|(name, _)| name.to_bytes() == list.as_bytes()) {
            // There is none, mostly.
            let _ = rustix::fs::fremovexattr(dir, list);
        }
    }
    let (uid, gid) = owner(stat);
    let _ = spot.chown(Some(uid), Some(gid));
    // After the owner, which takes setuid and its kin away.
    match spot.chmod(stat.permissions()) {
        // Somebody else's directory that we may write to.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    for (name, value) in attributes {
        let _ = spot.set_attribute(name, value);
    }
    match spot.set_times(stat) {
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
        let _ = make_like(dest, &self.was.0, &self.was.1);
        let _ = self.part.sync_dir(dest);
    }
}
