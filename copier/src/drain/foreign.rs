//! The net: did anything change that no call of the target explains?
//!
//! While a file's or directory's dirty flag is clear, no call that may change its status was seen since it was last looked
//! at after a grace. So its change time must be the recorded one. This is asked once everything is saved and before the
//! gate opens, that is, while calls still set the flag: a call sets it before it runs, so whoever first sees a new change
//! time and then looks at the flag finds it set.
//!
//! A directory that calls have named has a change time that proves nothing; there the names themselves are compared, and what
//! they lead to: a kind of file, and which one. So a core file is found that the kernel has put there, or in another's place.
//!
//! What this cannot see: a change to a file that is, or has been, mapped for writing, which changes without a call; a
//! foreign change to a file that the target changes as well; and one within the same tick of the file system's clock as
//! the look before it.
use crate::Error;
use crate::base::sys::{self, Stat};
use crate::context::Context;
use crate::marks::node::{Dir, File};
use crate::tree::{DirNode, Entry, Tree, may_be_same};
use hotbackup_event::look::is_gone;
use std::ffi::OsStr;
use std::sync::atomic::Ordering;

/// Fails if anything was changed by somebody else.
pub(crate) fn check<P: Send + 'static>(context: &Context<'_, P>, tree: &Tree) -> Result<(), Error> {
    for node in tree.dirs() {
        check_dir(&node.dir, context.pid)?;
        check_names(node, context, tree)?;
        for (name, entry) in &node.entries {
            if let Entry::File(file) = entry
                && !context.ledger.is_mapped(&file.id)
                // Once, whatever names it has.
                && file.state().links.first().is_none_or(|link| link.is(&node.dir, name))
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

/// In a directory that calls have named, its change time proves nothing: its entries must be those of the point in time,
/// and each the same thing, apart from what calls have named since. They do so before they run, so what is there is looked at
/// first.
fn check_names<P: Send + 'static>(node: &DirNode, context: &Context<'_, P>, tree: &Tree) -> Result<(), Error> {
    let dir = &node.dir;
    if !dir.flags.named.load(Ordering::SeqCst) {
        return Ok(());
    }
    let unreadable = |error| Error::unreadable(dir.path(), error);
    let names = sys::names(&dir.fd).map_err(unreadable)?;
    let foreign = |name: &OsStr| Error::ForeignChange { path: dir.path().join(name), pid: context.pid };
    // Where upper and lower case are the same, a name may be listed in another way than it was used.
    let is_named = |name: &OsStr| {
        context.ledger.is_marked_later(dir.id, name)
            || (tree.may_fold(&dir.id, name)
                && context.ledger.is_any_marked_later(dir.id, |said| may_be_same(said, name)))
    };
    for name in names.iter().filter(|name| !node.entries.contains_key(&***name)) {
        if is_placeholder(name) || tree.is_excluded(&dir.id, name) || is_named(name) {
            continue;
        }
        if !tree.is_known_left_out(&dir.id, name) {
            return Err(foreign(name));
        }
    }
    for (count, (name, entry)) in node.entries.iter().enumerate() {
        if count % 1024 == 1023 {
            context.check()?;
        }
        if !tree.is_still(node, name, entry).map_err(unreadable)? && !is_named(name) {
            return Err(foreign(name));
        }
    }
    Ok(())
}

/// What NFS and FUSE make of a file that is removed while it is open.
fn is_placeholder(name: &OsStr) -> bool {
    [".nfs", ".fuse_hidden"].iter().any(|begin| name.as_encoded_bytes().starts_with(begin.as_bytes()))
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
