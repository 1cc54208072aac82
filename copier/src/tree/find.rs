//! What is found under a name, and where a symbolic link leads.
use super::links::Leads;
use super::{Other, Shown, Tree};
use crate::Error;
use crate::base::sys::{self, Found, Kind};
use hotbackup_event::FileId;
use hotbackup_event::look::LookError;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// How often an entry that changes while it is looked at is looked at again before it is left to the next sync.
const TRIES: u32 = 4;

/// What is found under a name.
pub(super) enum New {
    File {
        found: Found,
        via: Option<Arc<OwnedFd>>,
    },
    /// With an fd if it is not known yet. `followed`: the name is a symbolic link out of the sources.
    Dir {
        id: FileId,
        followed: bool,
        open: Option<(Found, OwnedFd)>,
    },
    Other(Other),
    /// Left out by the pattern with this number. `link`: for what a symbolic link leads to, which may be something else soon.
    Excluded {
        rule: usize,
        link: bool,
    },
}

/// What is neither file nor directory.
fn other(dir: &OwnedFd, name: &OsStr, found: Found, link: Option<(OsString, Shown)>) -> std::io::Result<New> {
    let xattrs = sys::xattrs_at(dir, name)?;
    Ok(New::Other(Other { id: found.id, stat: found.stat, link, xattrs }))
}

impl Tree {
    /// What a name leads to. The outer `None`: it keeps changing. `marked`: it need not be there any more.
    pub(super) fn find(
        &mut self,
        dir: &OwnedFd,
        id: FileId,
        name: &OsStr,
        marked: bool,
    ) -> Result<Option<Option<New>>, Error> {
        let out = |rule| New::Excluded { rule, link: false };
        let unreadable = |source| Error::unreadable(sys::fd_path(dir).join(name), source);
        let path = if self.exclude.is_empty() { PathBuf::new() } else { self.path_below(&id, name) };
        let exclude = Arc::clone(&self.exclude);
        let matching = exclude.matching(&path);
        if let Some(matching) = &matching
            && matching.by_name().is_some_and(|rule| rule.is_some())
        {
            // What is left out for its name is not looked at: it may be a mount that answers nobody.
            if marked && sys::stat_at(dir, name).is_err_and(|error| LookError::from(&error) == LookError::Gone) {
                return Ok(Some(None));
            }
            return Ok(Some(matching.excludes(true).map(out)));
        }
        for _ in 0..TRIES {
            let found = match sys::stat_at(dir, name) {
                Ok(found) => found,
                Err(error) => match LookError::from(&error) {
                    // The call that tried to use a name that nothing can have fails as well.
                    LookError::Gone | LookError::Never => return Ok(Some(None)),
                    LookError::Again => continue,
                    // Were it a directory it would be left out, and what cannot be looked at is a mount, mostly.
                    LookError::Ours(_) | LookError::Disk => {
                        match matching.as_ref().and_then(|all| all.excludes(true)) {
                            Some(rule) => return Ok(Some(Some(out(rule)))),
                            None => return Err(unreadable(error)),
                        }
                    }
                },
            };
            let kind = found.stat.kind();
            let excluded = |is_dir: bool| matching.as_ref().and_then(|matching| matching.excludes(is_dir));
            if kind != Kind::Symlink
                && let Some(rule) = excluded(kind == Kind::Dir)
            {
                return Ok(Some(Some(out(rule))));
            }
            let new = match kind {
                Kind::File => Ok(New::File { found, via: None }),
                Kind::Dir => self.find_dir(found, false, || sys::open_dir(dir, name)),
                Kind::Symlink => match sys::read_link(dir, name) {
                    Err(error) if error.raw_os_error().map(LookError::of_readlink) == Some(LookError::Gone) => continue,
                    Err(error) => Err(error),
                    Ok(target) => {
                        let leads = self.leads_noted(id, dir, name, &target);
                        if matches!(leads, Ok(Leads::File(..) | Leads::Dir(..))) {
                            self.followed.insert((id, Arc::from(name)), found.id);
                        }
                        match leads {
                            Ok(Leads::Stays(shown)) => other(dir, name, found, Some((target, shown))),
                            Ok(Leads::File(fd, found)) => Ok(New::File { found, via: Some(Arc::new(fd)) }),
                            Ok(Leads::Dir(fd, found)) => self.find_dir(found, true, || sys::reopen(&fd)),
                            Err(error) => Err(error),
                        }
                    }
                },
                Kind::Fifo | Kind::Socket | Kind::Device => other(dir, name, found, None),
            };
            match new {
                Ok(New::Dir { id, .. }) if id == self.staging => {
                    let source_path = self.roots.first().map(|root| root.path.clone()).unwrap_or_default();
                    return Err(Error::DestInsideSource { dest: self.dest.clone(), source_path });
                }
                Ok(new) if kind == Kind::Symlink => {
                    let link = match &new {
                        New::Other(other) => other.link.as_ref().is_some_and(|(_, shown)| shown.is_volatile()),
                        _ => true,
                    };
                    let rule = excluded(matches!(new, New::Dir { .. }));
                    return Ok(Some(Some(rule.map_or(new, |rule| New::Excluded { rule, link }))));
                }
                Ok(new) => return Ok(Some(Some(new))),
                // It is another kind of thing by now, or something on the way to what a link leads to has changed.
                Err(error) if matches!(LookError::from(&error), LookError::Gone | LookError::Again) => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(None)
    }

    /// Opens a directory unless it is known. What was opened counts, not what the name was when it was looked up.
    fn find_dir(
        &self,
        found: Found,
        followed: bool,
        open: impl FnOnce() -> std::io::Result<OwnedFd>,
    ) -> std::io::Result<New> {
        if self.is_known_dir(&found.id) {
            return Ok(New::Dir { id: found.id, followed, open: None });
        }
        let fd = open()?;
        let found = sys::stat_fd(&fd)?;
        let open = if self.is_known_dir(&found.id) { None } else { Some((found, fd)) };
        Ok(New::Dir { id: found.id, followed, open })
    }
}
