//! Calls that change names, and those that change files by path.
//!
//! They are decoded one after the other, by one thread, in an order that `flight/order.rs` keeps.

use hotbackup_event::Effect;
use nix::fcntl::ResolveFlag;

use crate::sys::stat::Identity;

use super::decode::Decoder;
use super::resolve::{Entry, says_nothing};
use super::walk::Walker;

const PATH_MAX: usize = 4096;
/// The kernel follows as many links in the last place (MAXSYMLINKS).
const LINKS: usize = 40;
/// Path resolution that is as ever.
const PLAIN: ResolveFlag = ResolveFlag::empty();
/// Flags of openat2(2) by which a path may lead elsewhere, or nowhere. The others only make the call fail.
const SCOPED: ResolveFlag = ResolveFlag::RESOLVE_IN_ROOT.union(ResolveFlag::RESOLVE_BENEATH);

impl Decoder<'_> {
    /// The path at `address`; `None` when it is not readable, and the call will fail.
    pub(super) fn path(&mut self, address: u64) -> Option<Vec<u8>> {
        const PAGE: u64 = 4096;
        let mut path = Vec::new();
        while path.len() < PATH_MAX {
            let at = address + path.len() as u64;
            let part = self.memory(at, (PAGE - at % PAGE) as usize).ok()?;
            match part.iter().position(|&byte| byte == 0) {
                Some(end) => {
                    path.extend(&part[..end]);
                    return Some(path);
                }
                None => path.extend(part),
            }
        }
        None // ENAMETOOLONG
    }

    /// The entry that a path names, marked as changing.
    fn changes(&mut self, dirfd: i32, address: u64) -> Option<Entry> {
        let path = self.path(address)?;
        self.changes_path(dirfd, &path)
    }

    fn changes_path(&mut self, dirfd: i32, path: &[u8]) -> Option<Entry> {
        let entry = self.find(dirfd, path, PLAIN)?;
        self.effects.push(Effect::Entry { dir: entry.dir, name: entry.name.clone() });
        Some(entry)
    }

    pub(super) fn find(&mut self, dirfd: i32, path: &[u8], resolve: ResolveFlag) -> Option<Entry> {
        let (process, tid) = (self.process, self.tid);
        let resolver = self.resolver.as_mut()?;
        if let Err(errno) = resolver.enter(process, tid) {
            self.blind = Some(format!(
                "the root directory of thread {tid} could not be entered ({errno}): run as root, or give hotbackup CAP_SYS_CHROOT"
            ));
            return None;
        }
        match resolver.entry(Walker { process, tid }, dirfd, path, resolve) {
            Ok(entry) => Some(entry),
            Err(errno) if says_nothing(errno) => {
                self.blind = Some(format!("a path of the target could not be followed: {errno}"));
                None
            }
            Err(_) => {
                self.awaited = true;
                None
            }
        }
    }

    /// The file that an entry is, or leads to, changes in its links, owner, mode or times.
    fn touches(&mut self, entry: &Entry, follow: bool) -> Option<Identity> {
        let there = self.identify(entry, follow);
        self.effects.extend(there.map(|there| Effect::Metadata { file: there.id }));
        there
    }

    /// Who an entry is, or who it leads to if `follow`.
    pub(super) fn identify(&mut self, entry: &Entry, follow: bool) -> Option<Identity> {
        let there = if follow { entry.followed(self.walker()) } else { entry.identity() };
        let there = there.unwrap_or_else(|errno| {
            self.blind = Some(format!("what a path of the target leads to could not be looked at: {errno}"));
            None
        });
        self.awaited |= there.is_none();
        there
    }

    fn walker(&self) -> Walker<'_> {
        Walker { process: self.process, tid: self.tid }
    }

    fn opens(&mut self, dirfd: i32, path: Vec<u8>, flags: u64, resolve: ResolveFlag) {
        if has(flags, libc::O_TMPFILE & !libc::O_DIRECTORY) {
            return self.opens_for_writing(None); // no entry; linkat may give it one later
        }
        if has(flags, libc::O_PATH) {
            return;
        }
        let follow = !(has(flags, libc::O_NOFOLLOW) || has(flags, libc::O_CREAT) && has(flags, libc::O_EXCL));
        if resolve.intersects(SCOPED) {
            return self.opens_scoped(dirfd, path, flags, (follow, resolve & SCOPED));
        }
        let (mut dirfd, mut path) = (Some(dirfd), path);
        let mut last: Option<Entry> = None;
        // One more than links: the last one's name is looked at as well.
        for _ in 0..=LINKS {
            let found = match (dirfd, &last) {
                (Some(dirfd), _) => self.find(dirfd, &path, PLAIN),
                (None, Some(link)) => self.find_from(link, &path),
                (None, None) => None,
            };
            let Some(entry) = found else { return };
            if has(flags, libc::O_CREAT) {
                self.effects.push(Effect::Entry { dir: entry.dir, name: entry.name.clone() });
            }
            let there = self.identify(&entry, follow);
            self.opened(there, flags);
            if there.is_some() {
                return;
            }
            // A link that leads nowhere: O_CREAT makes what it names.
            match entry.link() {
                Some(target) if follow => (dirfd, path, last) = (None, target, Some(entry)),
                _ => return,
            }
        }
    }

    /// An open that does not leave the directory `dirfd`, of which absolute links and `..` know nothing beyond. The kernel
    /// keeps such a scope only for a path that begins at its root; so a link's target is put in the link's place, and all
    /// of it followed again.
    fn opens_scoped(&mut self, dirfd: i32, mut path: Vec<u8>, flags: u64, (follow, resolve): (bool, ResolveFlag)) {
        for _ in 0..=LINKS {
            if path.len() >= PATH_MAX {
                self.blind = Some("a path of the target (openat2) is too long to be followed, with its links".into());
                return;
            }
            let Some(entry) = self.find(dirfd, &path, resolve) else { return };
            if has(flags, libc::O_CREAT) {
                self.effects.push(Effect::Entry { dir: entry.dir, name: entry.name.clone() });
            }
            let there = self.identify(&entry, false);
            let target = entry.link().filter(|_| follow);
            let Some(target) = target else { return self.opened(there, flags) };
            path = if target.starts_with(b"/") { target } else { [before_name(&path), &target].concat() };
        }
    }

    /// What an open does to the file that it finds, or makes.
    fn opened(&mut self, there: Option<Identity>, flags: u64) {
        if flags & libc::O_ACCMODE as u64 != libc::O_RDONLY as u64 {
            self.opens_for_writing(there);
        }
        if let Some(file) = there
            && has(flags, libc::O_TRUNC)
            && file.is_file()
        {
            self.effects.push(Effect::Resize { file: file.id, len: 0 });
        }
    }

    /// A path that starts at the directory of a link.
    fn find_from(&mut self, link: &Entry, path: &[u8]) -> Option<Entry> {
        self.resolver.as_ref()?.entry_from(self.walker(), link, path).ok()
    }
}

fn has(flags: u64, flag: i32) -> bool {
    flags & flag as u64 != 0
}

/// A path without its last name, which is a symbolic link's.
fn before_name(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let slash = path[..end].iter().rposition(|&byte| byte == b'/');
    slash.map_or(b"", |slash| &path[..=slash])
}

pub(super) fn open(call: &mut Decoder<'_>) {
    if let Some(path) = call.path(call.arg(0)) {
        call.opens(libc::AT_FDCWD, path, call.arg(1), PLAIN);
    }
}

pub(super) fn creat(call: &mut Decoder<'_>) {
    if let Some(path) = call.path(call.arg(0)) {
        call.opens(libc::AT_FDCWD, path, (libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY) as u64, PLAIN);
    }
}

pub(super) fn openat(call: &mut Decoder<'_>) {
    if let Some(path) = call.path(call.arg(1)) {
        call.opens(call.fd(0), path, call.arg(2), PLAIN);
    }
}

pub(super) fn openat2(call: &mut Decoder<'_>) {
    let how = call.memory(call.arg(2), 24).unwrap_or_default();
    let word = |index: usize| {
        how.get(8 * index..8 * index + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes)
    };
    let (Some(flags), Some(resolve)) = (word(0), word(2)) else { return };
    if let Some(path) = call.path(call.arg(1)) {
        call.opens(call.fd(0), path, flags, ResolveFlag::from_bits_truncate(resolve));
    }
}

pub(super) fn truncate(call: &mut Decoder<'_>) {
    let Some(path) = call.path(call.arg(0)) else { return };
    let Some(entry) = call.find(libc::AT_FDCWD, &path, PLAIN) else { return };
    let Some(file) = call.identify(&entry, true) else { return };
    if file.is_file() {
        call.effects.push(Effect::Resize { file: file.id, len: call.arg(1) });
    }
}

pub(super) fn rename(call: &mut Decoder<'_>) {
    renames(call, (libc::AT_FDCWD, 0), (libc::AT_FDCWD, 1));
}

pub(super) fn renameat(call: &mut Decoder<'_>) {
    renames(call, (call.fd(0), 1), (call.fd(2), 3));
}

fn renames(call: &mut Decoder<'_>, from: (i32, usize), to: (i32, usize)) {
    call.moves_names = true;
    for (dirfd, argument) in [from, to] {
        if let Some(entry) = call.changes(dirfd, call.arg(argument)) {
            let there = call.touches(&entry, false);
            call.redirects |= there.is_some_and(|there| !there.is_file());
        }
    }
}

pub(super) fn link(call: &mut Decoder<'_>) {
    links(call, (libc::AT_FDCWD, 0), (libc::AT_FDCWD, 1), false);
}

pub(super) fn linkat(call: &mut Decoder<'_>) {
    let follow = call.arg(4) & libc::AT_SYMLINK_FOLLOW as u64 != 0;
    links(call, (call.fd(0), 1), (call.fd(2), 3), follow);
}

fn links(call: &mut Decoder<'_>, from: (i32, usize), to: (i32, usize), follow: bool) {
    call.moves_names = true;
    let Some(path) = call.path(call.arg(from.1)) else { return };
    let there = if path.is_empty() {
        let file = call.identity(from.0);
        call.effects.extend(file.map(|file| Effect::Metadata { file: file.id }));
        file
    } else {
        call.find(from.0, &path, PLAIN).and_then(|entry| call.touches(&entry, follow))
    };
    call.redirects = there.is_some_and(|there| !there.is_file());
    call.changes(to.0, call.arg(to.1));
}

pub(super) fn remove(call: &mut Decoder<'_>) {
    removes(call, libc::AT_FDCWD, 0);
}

pub(super) fn removeat(call: &mut Decoder<'_>) {
    removes(call, call.fd(0), 1);
}

/// Another link of the file stays, perhaps, with another number of links and another change time. Removing a file
/// changes no other path's meaning, and may take long; removing a directory or a link does.
fn removes(call: &mut Decoder<'_>, dirfd: i32, argument: usize) {
    let Some(entry) = call.changes(dirfd, call.arg(argument)) else { return };
    let there = call.touches(&entry, false);
    call.moves_names = there.is_some_and(|there| !there.is_file());
}

pub(super) fn make(call: &mut Decoder<'_>) {
    (call.moves_names, call.redirects) = (true, true);
    call.changes(libc::AT_FDCWD, call.arg(0));
}

pub(super) fn makeat(call: &mut Decoder<'_>) {
    (call.moves_names, call.redirects) = (true, true);
    call.changes(call.fd(0), call.arg(1));
}

pub(super) fn symlink(call: &mut Decoder<'_>) {
    (call.moves_names, call.redirects) = (true, true);
    call.changes(libc::AT_FDCWD, call.arg(1));
}

pub(super) fn symlinkat(call: &mut Decoder<'_>) {
    (call.moves_names, call.redirects) = (true, true);
    call.changes(call.fd(1), call.arg(2));
}

/// A socket bound to a path is a name in a directory. (unix(7): the path may lack its NUL; a name that starts with one,
/// and any other family, is in no directory.)
pub(super) fn bind(call: &mut Decoder<'_>) {
    const LONGEST: u64 = 110; // sockaddr_un
    let length = u64::from(call.arg(2) as u32).min(LONGEST) as usize;
    let Ok(address) = call.memory(call.arg(1), length) else { return };
    let Some((family, path)) = address.split_first_chunk() else { return };
    if u16::from_ne_bytes(*family) != libc::AF_UNIX as u16 {
        return;
    }
    let path = path.split(|&byte| byte == 0).next().unwrap_or_default();
    if !path.is_empty() {
        call.moves_names = true;
        call.changes_path(libc::AT_FDCWD, path);
    }
}

pub(super) fn metadata(call: &mut Decoder<'_>) {
    metadata_of(call, libc::AT_FDCWD, 0);
}

pub(super) fn metadata_at(call: &mut Decoder<'_>) {
    metadata_of(call, call.fd(0), 1);
}

/// Whether a link is followed depends on the call and its flags: both are marked. A null or empty path means the
/// descriptor itself (utimensat(2), AT_EMPTY_PATH).
fn metadata_of(call: &mut Decoder<'_>, dirfd: i32, argument: usize) {
    let address = call.arg(argument);
    let path = if address == 0 { Some(Vec::new()) } else { call.path(address) };
    match path {
        None => {}
        Some(path) if path.is_empty() => {
            if let Some(file) = call.identity(dirfd) {
                call.effects.push(Effect::Metadata { file: file.id });
            }
        }
        Some(path) => {
            if let Some(entry) = call.find(dirfd, &path, PLAIN) {
                call.touches(&entry, true);
                call.touches(&entry, false);
            }
        }
    }
}
