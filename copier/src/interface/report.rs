//! What a finished backup says of itself.
use crate::{Phase, Point};
use serde::{Deserialize, Serialize, Serializer};
use std::path::{Path, PathBuf};

/// A complete backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where it is.
    #[serde(serialize_with = "crate::interface::report::lossy")]
    pub dest: PathBuf,
    /// When its point in time lay.
    pub point: Point,
    /// The point in time, in nanoseconds since the epoch (real time): the backup is the tree as every call that had
    /// finished by then left it.
    pub point_in_time_ns: u64,
    /// How long no call was answered, in microseconds, and on what that was spent.
    pub hold_us: u64,
    /// The hold, split.
    pub hold: HoldTimes,
    /// How many times due blocks were swept.
    pub passes: u32,
    /// Bytes written to the destination, blocks copied twice counted twice.
    pub bytes_copied: u64,
    /// Size of all files of the backup together, hard links counted once.
    pub bytes_total: u64,
    /// Regular files, hard links counted once.
    pub files: u64,
    /// Directories, the sources' own included.
    pub directories: u64,
    /// What was read before calls were let go.
    pub before_images: BeforeImages,
    /// Files with writable shared mappings.
    #[serde(default)]
    pub mapped: Mapped,
    /// What has no content of its own.
    #[serde(default)]
    pub special: Special,
    /// Names that patterns left out; what is below them is not counted.
    #[serde(default)]
    pub excluded: u64,
    /// The longest that a call was kept waiting for before-images, in microseconds; the hold itself is not part of it.
    pub max_wait_us: u64,
    /// Calls of the target that were not seen, though they can change files: the filter was an earlier release's, and its
    /// operator accepted that. `unknown`: they could not be told.
    #[serde(default)]
    pub unseen_calls: Vec<String>,
    /// What the destination does not keep of the source's metadata.
    #[serde(default)]
    pub not_kept: Vec<NotKept>,
    /// Each phase, in order.
    pub phases: Vec<PhaseTimes>,
}

/// Metadata of the source that the destination does not keep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotKept {
    /// What: `owner`, `mode`, `acl`, `attribute`, `mtime`, `hard_link` or `holes`.
    pub what: String,
    /// The same in words.
    pub words: String,
    /// Of how many entries.
    pub count: u64,
    /// The first of them.
    #[serde(serialize_with = "crate::interface::report::lossy")]
    pub first: PathBuf,
}

/// On what a hold was spent, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldTimes {
    /// Waiting for calls already let go.
    pub grace_us: u64,
    /// Looking up changed names and sizes.
    pub resolve_us: u64,
    /// Handing on what was parked.
    pub release_us: u64,
    /// Holds that were given up before this one because they took too long.
    pub abandoned: u32,
}

/// What was read before calls were let go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeforeImages {
    /// Blocks.
    pub count: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What was read of files with writable shared mappings while the target stood still.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapped {
    /// Files.
    pub files: u64,
    /// Bytes, holes left out.
    pub bytes: u64,
    /// How long its threads were stopped, in microseconds; part of the hold.
    pub frozen_us: u64,
}

/// Names of what has no content to copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Special {
    /// Device nodes: not in the backup.
    pub devices: u64,
    /// Sockets: not in the backup.
    pub sockets: u64,
    /// Fifos: in the backup, empty.
    pub fifos: u64,
    /// Symbolic links that lead out of the sources and are links in the backup, too, since they lead to nothing, or to something
    /// without content.
    pub outside_links: OutsideLinks,
}

/// Links out of the sources that stay links.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutsideLinks {
    /// How many.
    pub count: u64,
    /// The first of them, by their paths in the backup.
    #[serde(serialize_with = "crate::interface::report::lossy_all")]
    pub first: Vec<PathBuf>,
}

impl OutsideLinks {
    /// How many are named.
    const NAMED: usize = 5;

    pub(crate) fn add(&mut self, path: &Path) {
        self.count += 1;
        if self.first.len() < Self::NAMED {
            self.first.push(path.to_owned());
        }
    }
}

/// One phase that a backup went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTimes {
    /// Which.
    pub phase: Phase,
    /// When it began, in nanoseconds since the epoch.
    pub start_ns: u64,
    /// How long it took, in microseconds.
    pub duration_us: u64,
}

/// Writes a path for people; what is not UTF-8 is replaced.
pub(crate) fn lossy<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// The same of several.
pub(crate) fn lossy_all<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(paths.iter().map(|path| path.to_string_lossy()))
}
