//! Whether the directory of `every_kind_of_call` is a state that existed: not only its rings, but names and log with them.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::guest::check_rings;

/// The guest's steps and log, as in its source.
const STEPS: u64 = 20;
const LOG_RECORDS: u64 = 512;

/// What stands under a name.
#[derive(Clone, PartialEq, Eq)]
enum Entry {
    Dir(u32),
    File(u32, Vec<u8>),
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir(mode) => write!(f, "dir {mode:o}"),
            Self::File(mode, content) => {
                let ends = [content.first(), content.last()];
                write!(f, "file {mode:o} of {} bytes {ends:?}", content.len())
            }
        }
    }
}

type Names = BTreeMap<String, Entry>;

/// How far a worker had come.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// The newest record in its ring.
    pub newest: u64,
    /// Whether all that belongs to it is there, up to its line in the log.
    pub whole: bool,
}

/// Says after which call each of the `workers` directories was as it is; fails if there is none.
pub fn check(dir: &Path, workers: usize) -> Result<Vec<Held>, String> {
    let newest = check_rings(dir, workers)?;
    let mapped = fs::read(dir.join("mapped")).ok(); // where it was not left out
    let mut held = Vec::new();
    for (worker, newest) in newest.into_iter().enumerate() {
        let named = check_worker(&dir.join(worker.to_string()), newest);
        let named = named.map_err(|wrong| format!("worker {worker}: {wrong}"))?;
        if let Some(mapped) = &mapped {
            check_mapped(&mapped[worker * 16..][..16], newest, named)
                .map_err(|wrong| format!("worker {worker}: {wrong}"))?;
        }
        held.push(Held { newest, whole: named == Named::Logged });
    }
    Ok(held)
}

/// Stores to memory: one before each record, one between its change of names (which is there as `named` says) and its line in
/// the log.
fn check_mapped(words: &[u8], newest: u64, named: Named) -> Result<(), String> {
    let word = |at: usize| u64::from_le_bytes(words[at..at + 8].try_into().expect("eight bytes"));
    let (begun, stored) = (word(0), word(8));
    let right = match named {
        Named::No => begun == newest && stored + 1 == newest,
        Named::Yes => begun == newest && (stored == newest || stored + 1 == newest),
        Named::Logged => (begun == newest || begun == newest + 1) && stored == newest,
    };
    if right { Ok(()) } else { Err(format!("record {newest} is there, {named:?}, and mapped: {begun} and {stored}")) }
}

/// How far what follows on a record has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    No,
    Yes,
    Logged,
}

/// After record n come its change of names, then its line in the log.
fn check_worker(dir: &Path, newest: u64) -> Result<Named, String> {
    let mut names = Names::new();
    read(&dir.join("names"), "", &mut names)?;
    let log = fs::read(dir.join("log")).map_err(|error| format!("log: {error}"))?;
    let before = newest.saturating_sub(1);
    // Two of them may look alike: what is mapped is to fit the one that has come furthest.
    let mut states =
        vec![(after(before), log_after(before), Named::No), (after(newest), log_after(before), Named::Yes)];
    if newest.is_multiple_of(LOG_RECORDS) {
        states.push((after(newest), Vec::new(), Named::Logged));
    }
    states.push((after(newest), log_after(newest), Named::Logged));
    let found = (names, log);
    if let Some((.., named)) = states.iter().rev().find(|(names, log, _)| (names, log) == (&found.0, &found.1)) {
        return Ok(*named);
    }
    let (names, log) = found;
    let last = log.rchunks(8).next().map(|word| word.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte)));
    Err(format!(
        "record {newest} is there, with log {last:?} ({} bytes) and {names:?}; right would be {:?} or then {:?}",
        log.len(),
        states[0].0,
        states[1].0
    ))
}

fn log_after(n: u64) -> Vec<u8> {
    let first = (n / LOG_RECORDS * LOG_RECORDS).max(1);
    (first..=n).flat_map(u64::to_le_bytes).collect()
}

/// The names after the change that belongs to record `n`.
fn after(n: u64) -> Names {
    let mut names = Names::new();
    if n == 0 {
        return names;
    }
    let (round, step) = ((n - 1) / STEPS, (n - 1) % STEPS);
    let mode = |round: u64| if round % 2 == 1 { 0o600 } else { 0o640 };
    if let Some(last) = round.checked_sub(1) {
        names.insert("current".into(), Entry::File(mode(last), words(last, 8)));
    }
    let dir = format!("dir-{round}");
    let inside = |name: &str| format!("{dir}/{name}");
    let mut content = Vec::new();
    if step >= 2 {
        content = words(round, 3000);
    }
    if step >= 3 {
        content.extend(words(round, 5000));
    }
    if step >= 4 {
        content.resize(32768, 0);
    }
    if step >= 5 {
        content.truncate(20000);
    }
    if step >= 9 {
        content[4096..5096].fill(0);
    }
    let file = Entry::File(0o644, content);
    match step {
        0..=12 => drop(names.insert(dir.clone(), Entry::Dir(0o755))),
        13 | 14 => drop(names.insert(format!("last-{round}"), Entry::Dir(0o755))),
        _ => {}
    }
    let at: &[String] = &match step {
        1..=5 => vec![inside("a")],
        6 => vec![inside("b")],
        7 => vec![inside("b"), inside("c")],
        8..=10 => vec![inside("c")],
        11..=13 => vec![format!("moved-{round}")],
        _ => vec![],
    };
    for name in at {
        names.insert(name.clone(), file.clone());
    }
    if matches!(step, 10 | 11) {
        names.insert(inside("e"), Entry::Dir(0o700));
    }
    match step {
        16 => drop(names.insert("next".into(), Entry::File(0o644, Vec::new()))),
        17 => drop(names.insert("next".into(), Entry::File(0o644, words(round, 8)))),
        18 => drop(names.insert("current".into(), Entry::File(0o644, words(round, 8)))),
        19 => drop(names.insert("current".into(), Entry::File(mode(round), words(round, 8)))),
        _ => {}
    }
    names
}

fn words(round: u64, length: usize) -> Vec<u8> {
    round.to_le_bytes().iter().copied().cycle().take(length).collect()
}

fn read(dir: &Path, prefix: &str, into: &mut Names) -> Result<(), String> {
    for entry in fs::read_dir(dir).map_err(|error| format!("{dir:?}: {error}"))? {
        let entry = entry.map_err(|error| format!("{dir:?}: {error}"))?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let wrong = |error| format!("{name}: {error}");
        let data = entry.metadata().map_err(wrong)?;
        let mode = data.permissions().mode() & 0o7777;
        if data.is_dir() {
            read(&entry.path(), &format!("{name}/"), into)?;
            into.insert(name, Entry::Dir(mode));
        } else {
            let content = fs::read(entry.path()).map_err(wrong)?;
            into.insert(name, Entry::File(mode, content));
        }
    }
    Ok(())
}
