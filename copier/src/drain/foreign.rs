//! The net: did anything change that no call of the target explains?
//!
//! While a file's or directory's dirty flag is clear, no call that may change its status was seen since it was last looked
//! at after a grace. So its change time must be the recorded one. This is asked once everything is saved and before the
//! gate opens, that is, while calls still set the flag: a call sets it before it runs, so whoever first sees a new change
//! time and then looks at the flag finds it set.
//!
//! What this cannot see: a change to a file that is, or has been, mapped for writing, which changes without a call; a
//! foreign change to a file that the target changes as well; and one within the same tick of the file system's clock as
//! the look before it.
use crate::Error;
use crate::base::sys::{self, Stat};
use crate::context::Context;
use crate::marks::node::{Dir, File};
use crate::tree::{Entry, Tree};
use hotbackup_event::look::is_gone;
use std::sync::atomic::Ordering;

/// Fails if anything was changed by somebody else.
pub(crate) fn check<P: Send + 'static>(context: &Context<'_, P>, tree: &Tree) -> Result<(), Error> {
    for node in tree.dirs() {
        check_dir(&node.dir, context.pid)?;
        for entry in node.entries.values() {
            if let Entry::File(file) = entry
                && !context.ledger.is_mapped(&file.id)
            {
                check_file(file, context.pid)?;
            }
        }
        context.check()?;
    }
    Ok(())
}

fn check_dir(dir: &Dir, pid: i32) -> Result<(), Error> {
    if dir.flags.dirty.load(Ordering::SeqCst) {
        return Ok(());
    }
    let found = sys::stat_fd(&dir.fd).map_err(|error| Error::unreadable(dir.path(), error))?;
    let known = dir.state().stat;
    if found.stat.ctime != known.ctime && !dir.flags.dirty.load(Ordering::SeqCst) {
        return Err(Error::ForeignChange { path: dir.path(), pid });
    }
    Ok(())
}

fn check_file(file: &File, pid: i32) -> Result<(), Error> {
    if file.is_touched() {
        return Ok(());
    }
    let unreadable = |error| Error::unreadable(file.path(), error);
    let found = file.look().map_err(unreadable)?;
    let known = file.state().stat;
    // On overlayfs one of several names may come to lead to another file, by a copy to the upper layer that nobody shows.
    let links = file.state().links.clone();
    for link in links.iter().filter(|_| links.len() > 1) {
        if !sys::is_on_overlayfs(&link.dir.fd).map_err(unreadable)? {
            continue;
        }
        let leads_elsewhere = match link.stat() {
            Ok(found) => found.id != file.id,
            Err(error) if is_gone(&error) => true,
            Err(error) => return Err(unreadable(error)),
        };
        if leads_elsewhere && !link.dir.flags.dirty.load(Ordering::SeqCst) {
            return Err(Error::ForeignChange { path: link.path(), pid });
        }
    }
    let same = found.is_some_and(|found| found.stat.ctime == known.ctime || only_links(&found.stat, &known));
    if !same && !file.is_touched() {
        return Err(Error::ForeignChange { path: file.path(), pid });
    }
    Ok(())
}

/// Only the number of names changed: one outside of the sources was added or removed.
fn only_links(found: &Stat, known: &Stat) -> bool {
    found.nlink != known.nlink && (found.size, found.mtime, found.mode) == (known.size, known.mtime, known.mode)
}
