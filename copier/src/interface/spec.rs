//! What to copy, where to, and the sizes and limits of the work, in one place with their reasons.
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

/// Directory of a backup for its manifest and staged data; left out when a source is a restored backup itself.
pub const OWN_DIR: &str = ".hotbackup";

/// When the point in time lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Point {
    /// Near the end: most of the data is copied first, in passes, and the hold comes when little is left.
    #[default]
    End,
    /// At the start: the hold comes first, and everything is copied after it.
    Start,
}

/// One source tree.
#[derive(Debug)]
pub struct Source {
    /// The directory, opened for reading, as the target sees it (that is, below the target's root).
    pub root: OwnedFd,
    /// What the target calls it. Used in messages and in the manifest only.
    pub path: PathBuf,
    /// `None`: the tree itself becomes the destination. `Some`: it becomes `DEST/<name>`.
    pub name: Option<OsString>,
}

/// A backup to take.
#[derive(Debug)]
pub struct Spec {
    /// The trees to copy. One of them may have no name, and then it is the only one.
    pub sources: Vec<Source>,
    /// Where the backup appears once it is complete: an empty directory, or a name that does not exist yet in a
    /// directory that does.
    pub dest: PathBuf,
    /// When the point in time lies.
    pub point: Point,
    /// Patterns of what to leave out, in the language of gitignore(5), matched against the path relative to its source. A
    /// directory that matches is left out with everything in it.
    pub exclude: Vec<String>,
    /// Sizes and limits.
    pub tuning: Tuning,
    /// The target. Used in messages, in the manifest and in the name of the staging directory only.
    pub pid: i32,
    /// The target's root directory; absolute symbolic links are resolved under it. `None`: our own.
    pub root: Option<OwnedFd>,
}

/// How much is left free for the others on a file system that a source is on as well: for the server, above all.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Reserve {
    /// 5 %, but at least 1 GiB and at most 8 GiB, and never more than 10 %; of inodes 5 %. Between the moment at which free
    /// space comes down to it and the one at which what was copied is removed, the server goes on writing, at the speed of its
    /// disk for some seconds at worst: that is a GiB or a few of them, and no more on a larger disk. Of a small disk a GiB may be
    /// half, and its server is small too.
    #[default]
    Usual,
    /// So many bytes, and the same share of inodes.
    Bytes(u64),
    /// So many hundredths, from 0 to 100.
    Percent(f64),
    /// Nobody looks: neither beforehand whether all fits, nor while it is copied.
    Off,
}

/// Sizes and limits. The defaults are what is meant to be used; tests set others.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuning {
    /// Hold as soon as no more than this many bytes are due. They are copied after the hold, so this bounds how
    /// long before-images are needed, not the hold itself.
    pub hold_below: u64,
    /// Hold after this many passes at the latest.
    pub max_passes: u32,
    /// How long a hold may take before it is given up and tried again after another look at what changed. Doubled
    /// with each try; the last try has the whole lease. This is the backup's own limit, which it looks at between two
    /// names, so that it seldom comes to a cut.
    pub hold_budget: Duration,
    /// The longest that a hold ever lasts: then [`Capture::tick`](crate::Capture::tick) cuts it, whatever the thread
    /// that runs the backup is doing.
    pub hold_lease: Duration,
    /// How many holds are tried. When none was short enough, the backup fails.
    pub hold_tries: u32,
    /// Memory for before-images that are not written yet, in bytes. Half of what all of hotbackup is to need: the rest is
    /// for marks and for what every backup needs. The disk takes in a burst of this size in a fraction of a second.
    pub before_image_bytes: usize,
    /// How many bytes of files with writable shared mappings are read while the target stands still, at the point in time. 0:
    /// there must be no such file. They are kept in memory until they are written.
    pub mapped_bytes: usize,
    /// The longest a call may wait for its before-images. After that the backup fails and the call goes on. Looked at
    /// between two reads.
    pub max_wait: Duration,
    /// Threads that save before-images.
    pub before_image_threads: usize,
    /// Changed names that are remembered before they are looked up. Bounds memory while copying is slow or paused.
    pub max_entry_marks: usize,
    /// With more than this many the backup fails: nobody has looked them up because what it is doing does not end, a
    /// write to a disk that stands still, say. Some 100 bytes each.
    pub most_entry_marks: usize,
    /// Up to this many files each is synced on its own; above it the whole destination file system is.
    pub sync_each_below: usize,
    /// What is left free for others.
    pub reserve: Reserve,
}

impl Tuning {
    /// Whether files with writable shared mappings are taken.
    pub(crate) fn takes_mapped(&self) -> bool {
        self.mapped_bytes > 0
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            hold_below: 8 << 20,
            max_passes: 8,
            hold_budget: Duration::from_millis(4),
            hold_lease: Duration::from_millis(50),
            hold_tries: 6,
            before_image_bytes: 32 << 20,
            mapped_bytes: 0,
            max_wait: Duration::from_millis(500),
            before_image_threads: 2,
            max_entry_marks: 16 << 10,
            most_entry_marks: 128 << 10,
            sync_each_below: 512,
            reserve: Reserve::Usual,
        }
    }
}
