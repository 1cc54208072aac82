//! Removing the backups that no rule keeps, and what broken off ones left.
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use hotbackup_copier::remove_backup;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::mark::hold_alone;
use crate::{Error, Fate, Kind, LATEST, Policy, Reason, list, plan, users_below};

/// What was done.
#[derive(Debug, Default, Serialize)]
pub struct Tidied {
    /// Each backup of the shelf's own, oldest first, and what the rules say of it.
    pub fates: Vec<(PathBuf, Fate)>,
    /// Backups that were removed (or would be, if it was only asked for).
    pub removed: Vec<PathBuf>,
    /// What broken off backups had left.
    pub leftovers: Vec<PathBuf>,
    /// What should have gone and did not, and why. It is tried again the next time.
    pub stayed: Vec<(PathBuf, String)>,
}

/// Removes from a shelf what no rule keeps, oldest first. A backup that is in use stays until the next time. With `only_say`
/// nothing is removed.
///
/// # Errors
/// The shelf cannot be read.
pub fn tidy(shelf: &Path, policy: &Policy, zone: &TimeZone, only_say: bool) -> Result<Tidied, Error> {
    let mut tidied = Tidied::default();
    if !only_say {
        tidied.leftovers = remove_leftovers(shelf)?;
    }
    let own: Vec<_> = list(shelf)?
        .into_iter()
        .filter_map(|entry| match &entry.kind {
            Kind::Backup { begun: Some(begun), check, .. } => {
                let checked = check.as_ref().is_some_and(|mark| mark.good);
                Some(((*begun, entry.may_be_good()), entry.name, checked))
            }
            _ => None,
        })
        .collect();
    let times: Vec<_> = own.iter().map(|(known, ..)| *known).collect();
    let mut fates = plan(&times, policy, zone);
    // What is known to be good is not given up for what only nobody has found bad; and a link leads to something.
    let latest = std::fs::read_link(shelf.join(LATEST)).ok();
    let checked = (0..own.len()).filter(|&index| own[index].2).max_by_key(|&index| times[index].0);
    for (index, (_, name, _)) in own.iter().enumerate() {
        let reason = match () {
            () if checked == Some(index) => Reason::LastChecked,
            () if latest.as_deref() == Some(Path::new(name)) => Reason::Latest,
            () => continue,
        };
        match &mut fates[index] {
            Fate::Keep(why) => why.push(reason),
            fate => *fate = Fate::Keep(vec![reason]),
        }
    }
    for (fate, (_, name, _)) in fates.into_iter().zip(own) {
        let path = shelf.join(&name);
        if fate == Fate::Remove {
            match if only_say { Ok(()) } else { remove(shelf, &name) } {
                Ok(()) => tidied.removed.push(path.clone()),
                Err(error) => tidied.stayed.push((path.clone(), error.to_string())),
            }
        }
        tidied.fates.push((path, fate));
    }
    Ok(tidied)
}

fn remove(shelf: &Path, name: &OsString) -> Result<(), Error> {
    // Whoever begins to read it from here on finds it taken, and then gone.
    let path = shelf.join(name);
    let alone = hold_alone(&path)?;
    // A server may have been started on the backup itself.
    if let Some(user) = users_below(&path).into_iter().next() {
        return Err(Error::ServerThere { path, pid: user.pid, name: user.name });
    }
    remove_backup(shelf, name, || drop(alone))?;
    Ok(())
}
/// Removes what backups that were broken off have left in a directory, and nobody works in any more. Says what.
///
/// # Errors
/// The directory cannot be read.
pub fn remove_leftovers(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(hotbackup_copier::remove_leftovers(dir)?)
}
