//! Does a backup still hold what its manifest says?
use crate::base::digest::{Hasher, Way};
use crate::base::io::{Direct, Io};
use crate::base::sys;
use crate::interface::spec::OWN_DIR;
use crate::publish::manifest::{Manifest, Record, RecordKind, octal};
use crate::{Error, Monitor, Phase, Progress};
use hotbackup_event::look::is_gone;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Entries that the manifest names.
    pub entries: u64,
    /// Bytes of content that were read and compared.
    pub bytes: u64,
    /// The backup's point in time, in nanoseconds since the epoch.
    pub point_in_time_ns: u64,
    /// As in [`crate::Report::unseen_calls`]: no difference, but to be known.
    #[serde(default)]
    pub unseen_calls: Vec<String>,
    /// Everything that differs. Empty: the backup is what its manifest says.
    pub problems: Vec<Problem>,
}

/// One difference between a backup and its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Where, relative to the backup.
    #[serde(serialize_with = "crate::interface::report::lossy")]
    pub path: PathBuf,
    /// What, in words.
    pub what: String,
}

/// Compares the backup at `dest` with its manifest, content included. Differences are listed in the report, all of them;
/// an error means that it could not be compared.
pub fn verify(dest: &Path, monitor: &dyn Monitor) -> Result<VerifyReport, Error> {
    let manifest = Manifest::read(dest)?;
    let mut progress = Progress {
        phase: Phase::Done,
        bytes_total: manifest.header.bytes,
        files_total: manifest.header.files,
        entries_total: manifest.entries.len() as u64,
        ..Progress::default()
    };
    let mut report = VerifyReport {
        entries: manifest.entries.len() as u64,
        point_in_time_ns: manifest.header.point_in_time_ns,
        unseen_calls: manifest.header.unseen_calls.clone(),
        ..VerifyReport::default()
    };
    let mut told = Instant::now();
    let mut expected: HashMap<&OsStr, &Record> = HashMap::new();
    for record in &manifest.entries {
        if expected.insert(&record.path.0, record).is_some() {
            report.problem(&record.path.0, "is in the manifest twice");
        }
        report.check(dest, record);
        if told.elapsed() > Duration::from_millis(100) {
            told = Instant::now();
            (progress.bytes_copied, progress.files_copied) = (report.bytes, progress.files_copied);
            monitor.progress(&progress);
        }
        progress.files_copied += u64::from(record.kind == RecordKind::File && record.hardlink_of.is_none());
    }
    let names: HashSet<&OsStr> = expected.iter().filter(|(_, record)| !record.skipped).map(|(name, _)| *name).collect();
    report.find_extra(dest, &names);
    Ok(report)
}

impl VerifyReport {
    fn problem(&mut self, path: impl AsRef<Path>, what: impl Into<String>) {
        self.problems.push(Problem { path: path.as_ref().to_owned(), what: what.into() });
    }

    /// Compares one entry.
    fn check(&mut self, dest: &Path, record: &Record) {
        let relative = Path::new(&record.path.0);
        if record.skipped {
            return;
        }
        let climbs =
            relative.components().any(|c| !matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir));
        if climbs {
            return self.problem(relative, "is named by the manifest, but lies outside of the backup");
        }
        let near = Near::new(dest, relative);
        let path = &near.path;
        let found = match look_at(path) {
            Ok(found) => found,
            Err(error) if sys::is_missing(&error) => return self.problem(relative, "is missing"),
            Err(error) => return self.problem(relative, format!("cannot be looked at: {error}")),
        };
        let kind = RecordKind::from(found.stat.kind());
        if kind != record.kind {
            return self.problem(relative, format!("is a {kind:?} instead of a {:?}", record.kind).to_lowercase());
        }
        let stat = &found.stat;
        if let Some(size) = record.size
            && stat.size != size
        {
            self.problem(relative, format!("has {} bytes instead of {size}", stat.size));
        }
        // A symbolic link's mode means nothing.
        let mode = octal(stat.permissions());
        if kind != RecordKind::Symlink && mode != record.mode && record.keeps("mode") {
            self.problem(relative, format!("has mode {mode} instead of {}", record.mode));
        }
        if (stat.uid, stat.gid) != (record.uid, record.gid) && record.keeps("owner") {
            let what = format!("belongs to {}:{} instead of {}:{}", stat.uid, stat.gid, record.uid, record.gid);
            self.problem(relative, what);
        }
        if stat.mtime != record.modified() && record.keeps("mtime") {
            let (found, wanted) = (stat.mtime, record.modified());
            let what = format!(
                "was modified at {} s and {} ns instead of {} s and {} ns",
                found.sec, found.nsec, wanted.sec, wanted.nsec
            );
            self.problem(relative, what);
        }
        if let Some(target) = &record.target {
            match std::fs::read_link(path) {
                Ok(found) if found.as_os_str() == target.0 => {}
                Ok(_) => self.problem(relative, format!("does not lead to {}", Path::new(&target.0).display())),
                Err(error) => self.problem(relative, format!("cannot be looked at: {error}")),
            }
        }
        if let Some(first) = record.hardlink_of.as_ref().filter(|_| record.keeps("hard_link")) {
            let first = Path::new(&first.0);
            match look_at(&Near::new(dest, first).path) {
                Ok(other) if other.id == found.id => {}
                Err(error) if !is_gone(&error) => {
                    self.problem(relative, format!("cannot be compared with {}: {error}", first.display()));
                }
                _ => self.problem(relative, format!("is not the same file as {}", first.display())),
            }
        } else if kind == RecordKind::File {
            self.check_content(relative, path, record);
        }
    }

    fn check_content(&mut self, relative: &Path, path: &Path, record: &Record) {
        let mut hasher = Hasher::new(record.way());
        let mut buffer = vec![0; 1 << 20];
        let read = sys::open_file(rustix::fs::CWD, path.as_os_str()).map(File::from).and_then(|mut file| {
            // Holes are looked for where their hash need not be made of as many zeros.
            let holes = record.way() == Way::Pieces;
            let (mut at, mut data) = (0, if holes { 0..0 } else { 0..u64::MAX });
            loop {
                if at >= data.end {
                    let size = file.metadata()?.len();
                    data = Direct.data_after(file.as_fd(), at)?.unwrap_or(size..size.max(at));
                    let zeros = data.start.saturating_sub(at);
                    hasher.zeros(zeros);
                    self.bytes = self.bytes.saturating_add(zeros);
                    at += zeros;
                    if at >= size {
                        return Ok(());
                    }
                    file.seek(SeekFrom::Start(at))?;
                }
                let n = (data.end - at).min(buffer.len() as u64) as usize;
                match file.read(&mut buffer[..n]) {
                    Ok(0) => return Ok(()),
                    Ok(n) => {
                        hasher.update(&buffer[..n]);
                        self.bytes = self.bytes.saturating_add(n as u64);
                        at += n as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        });
        match read {
            Err(error) => self.problem(relative, format!("cannot be read: {error}")),
            Ok(()) if !record.is_of(hasher.finalize()) => {
                self.problem(relative, "has other content than when the backup was taken");
            }
            Ok(()) => {}
        }
    }

    /// Lists what the manifest does not name.
    fn find_extra(&mut self, dest: &Path, expected: &HashSet<&OsStr>) {
        let mut left = vec![PathBuf::new()];
        while let Some(below) = left.pop() {
            let near = Near::new(dest, &below);
            let entries = match std::fs::read_dir(&near.path) {
                Ok(entries) => entries,
                Err(error) => {
                    self.problem(below, format!("cannot be read: {error}"));
                    continue;
                }
            };
            for entry in entries {
                let entry = match entry {
                    Ok(entry) => entry,
                    Err(error) => {
                        self.problem(&below, format!("cannot be read: {error}"));
                        break;
                    }
                };
                let path = below.join(entry.file_name());
                if below.as_os_str().is_empty() && entry.file_name() == OWN_DIR {
                    continue;
                }
                if !expected.contains(path.as_os_str()) {
                    self.problem(&path, "is not in the manifest");
                    continue;
                }
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => left.push(path),
                    Ok(_) => {}
                    Err(error) => self.problem(&path, format!("cannot be looked at: {error}")),
                }
            }
        }
    }
}

/// A path that is short enough for the kernel, whatever depth it leads to.
struct Near {
    path: PathBuf,
    /// What the path starts at, when it is not the backup itself.
    _dir: Option<OwnedFd>,
}

impl Near {
    fn new(dest: &Path, relative: &Path) -> Self {
        /// PATH_MAX is 4096.
        const LONG: usize = 3072;
        let (mut start, mut dir, mut rest) = (dest.to_owned(), None, relative.as_os_str().as_bytes());
        while start.as_os_str().len() + rest.len() > LONG {
            let most = rest.len().min(LONG.saturating_sub(start.as_os_str().len()));
            let Some(end) = rest[..most].iter().rposition(|byte| *byte == b'/').filter(|end| *end > 0) else { break };
            let part = start.join(OsStr::from_bytes(&rest[..end]));
            // What cannot be opened is found missing, or too long.
            let Ok(open) = sys::open_dir(rustix::fs::CWD, part.as_os_str()) else { break };
            rest = &rest[end + 1..];
            (start, dir) = (format!("/proc/self/fd/{}", open.as_raw_fd()).into(), Some(open));
        }
        // A slash at the end would follow a symbolic link.
        let path = if rest.is_empty() { start } else { start.join(OsStr::from_bytes(rest)) };
        Self { path, _dir: dir }
    }
}

fn look_at(path: &Path) -> io::Result<sys::Found> {
    sys::stat_at(rustix::fs::CWD, path.as_os_str())
}
