//! What depends on the very names, lengths and times of the source is tried with these: which names are one to a file system is
//! for it to say, and no table of ours.
use super::capabilities::{Capabilities, folded, is_plain};
use super::ground::Ground;
use super::needs::Needs;
use crate::Error;
use crate::base::sys;
use crate::tree::Tree;
use hotbackup_event::change::Change;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::Path;

/// Files up to this length can be anywhere.
const SURE: u64 = (2 << 30) - 1;
/// What FAT and exFAT keep: 1980 to 2107.
const FAT_YEARS: std::ops::RangeInclusive<i64> = 315_532_800..=4_354_819_198;

/// Tries the names that may not be possible, or not beside one another.
pub(super) fn try_names(
    ground: &Ground<'_>,
    (tree, sources): (&Tree, Option<&[usize]>),
    can: &Capabilities,
) -> Result<(), Error> {
    for node in tree.dirs_of(sources) {
        let names = suspects(node.entries.keys().map(|name| &**name), can);
        if !names.is_empty() {
            try_directory(ground, &tree.place_in_backup(&node.dir.id), &names)?;
        }
    }
    Ok(())
}

/// Tries the destination's own name, which the staging directory is to take in the end.
pub(super) fn try_own_name(ground: &Ground<'_>, can: &Capabilities) -> Result<(), Error> {
    let dest = &ground.stage.dest;
    let (Some(parent), Some(name)) = (dest.parent(), dest.file_name()) else { return Ok(()) };
    let names = suspects(std::iter::once(name), can);
    if names.is_empty() || ground.stage.is_inside() { Ok(()) } else { try_directory(ground, parent, &names) }
}

/// Which names of a directory are to be tried.
fn suspects<'a>(names: impl Iterator<Item = &'a OsStr> + Clone, can: &Capabilities) -> Vec<&'a OsStr> {
    let folds = !can.case_apart || !can.forms_apart;
    if folds && names.clone().any(|name| !name.as_encoded_bytes().is_ascii()) {
        // What such a letter is folded to only the file system knows: K may be the sign of Kelvin.
        return names.collect();
    }
    let mut same: HashMap<OsString, u32> = HashMap::new();
    if !can.case_apart {
        names.clone().for_each(|name| *same.entry(folded(name)).or_default() += 1);
    }
    let is_suspect = |name: &OsStr| {
        name.len() > can.longest_name
            || (!can.any_names && !is_plain(name))
            || (!can.case_apart && same.get(&folded(name)).is_some_and(|count| *count > 1))
    };
    names.filter(|name| is_suspect(name)).collect()
}

/// Tries names of one directory beside one another.
fn try_directory(ground: &Ground<'_>, place: &Path, names: &[&OsStr]) -> Result<(), Error> {
    let scratch = OsStr::new("tried");
    let dir = sys::make_dir(&ground.dir, scratch).map_err(|error| ground.failed(Change::MakeDir, error))?;
    let cannot = |name: &OsStr, cause: String| Error::DestCannotHold { path: place.join(name), cause };
    let mut made: Vec<&OsStr> = Vec::new();
    for name in names {
        if sys::stat_at(&dir, name).is_ok() {
            let other = same_as(&dir, name, &made);
            let other = other.map_or("another name".into(), |other| Path::new(other).display().to_string());
            return Err(cannot(name, format!("its file system takes it for the same name as {other}")));
        }
        if ground.file(&dir, name)?.is_none() {
            return Err(cannot(name, "its file system allows no such name".into()));
        }
        made.push(name);
    }
    let there = sys::names(&dir).map_err(|error| ground.failed(Change::Create, error))?;
    let there: HashSet<OsString> = there.into_iter().collect();
    if let Some(name) = made.iter().find(|name| !there.contains(**name)) {
        return Err(cannot(name, "its file system makes another name of it".into()));
    }
    ground.stage.remove_below(&ground.dir, scratch, &dir)
}

/// Which of the names leads to what `name` leads to.
fn same_as<'a>(dir: &OwnedFd, name: &OsStr, made: &[&'a OsStr]) -> Option<&'a OsStr> {
    let id = sys::stat_at(dir, name).ok()?.id;
    made.iter().copied().find(|other| sys::stat_at(dir, other).is_ok_and(|found| found.id == id))
}

/// Tries the longest text of a symbolic link, and the longest file.
pub(super) fn try_lengths(ground: &Ground<'_>, needs: &Needs, can: &mut Capabilities) -> Result<(), Error> {
    if can.symlinks && needs.longest_text.value > 0 {
        let text = "t".repeat(needs.longest_text.value);
        let made = rustix::fs::symlinkat(&*text, &ground.dir, "long symlink");
        let is_held = ground.holds(Change::Symlink, made, |()| {
            sys::read_link(&ground.dir, OsStr::new("long symlink")).is_ok_and(|found| found == *text)
        })?;
        if !is_held {
            let (path, cause) = (needs.longest_text.path.clone(), "no link may be as long on its file system".into());
            return Err(Error::DestCannotHold { path, cause });
        }
    }
    let len = needs.largest.value;
    let allowed = rustix::process::getrlimit(rustix::process::Resource::Fsize).current.unwrap_or(u64::MAX);
    // Where there are no holes, it would take the time and space of so many zeros. Beyond our own limit is a signal.
    if can.holes && len > SURE && len <= allowed {
        let file = ground.plain("long file")?;
        let set = ground.stage.may(Change::SetLen, || rustix::fs::ftruncate(&file, len));
        if !ground.holds(Change::SetLen, set, |()| sys::stat_fd(&file).is_ok_and(|found| found.stat.size == len))? {
            can.largest_file = SURE;
        }
    }
    Ok(())
}

/// Tries the earliest and the latest time.
pub(super) fn try_times(ground: &Ground<'_>, needs: &Needs, can: &mut Capabilities) -> Result<(), Error> {
    let file = ground.plain("times")?;
    for most in needs.earliest.iter().chain(&needs.latest) {
        let lost = ground.time_lost(&file, most.value)?;
        can.time_range &= lost < u128::from(can.precision_ns);
        can.time_range &= !can.shows_other_times || FAT_YEARS.contains(&most.value.sec);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspected(names: &[&str], can: &Capabilities) -> Vec<String> {
        let names: Vec<&OsStr> = names.iter().map(OsStr::new).collect();
        suspects(names.iter().copied(), can).into_iter().map(|name| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn only_names_that_may_not_be_held_are_tried() {
        let names = ["collection-0.wt", "Collection-0.wt", "index-1.wt", "a:b", "con.txt", "end.", "lang-\u{e9}"];
        let all = Capabilities::default();
        assert_eq!(suspected(&names, &all), [""; 0]);
        let can = Capabilities { case_apart: false, ..Capabilities::default() };
        assert_eq!(suspected(&names[..4], &can), names[..2]);
        // Beside a letter whose case is not ours to know, all are.
        assert_eq!(suspected(&names, &can), names);
        let can = Capabilities { any_names: false, ..Capabilities::default() };
        assert_eq!(suspected(&names, &can), names[3..]);
        let can = Capabilities { longest_name: 10, ..Capabilities::default() };
        assert_eq!(suspected(&names[2..5], &can), [""; 0]);
        assert_eq!(suspected(&names[..3], &can), names[..2]);
    }
}
