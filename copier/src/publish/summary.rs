//! What a backup is, without reading all that is in it.
use super::manifest::{self, Header};
use crate::base::sys::is_missing;
use crate::interface::spec::OWN_DIR;
use crate::{Error, Point};
use serde::Serialize;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// A header is small: a few hundred bytes, and one path a source. More than this is none.
const LONGEST: u64 = 16 << 20;

/// The head of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Where the point in time was asked for.
    pub point: Point,
    /// The point in time, in nanoseconds since the epoch.
    pub point_in_time_ns: u64,
    /// The process that was backed up.
    pub pid: i32,
    /// Bytes of content.
    pub bytes: u64,
    /// Files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// How long the backup took, in microseconds.
    pub duration_us: u64,
    /// The hold, in microseconds.
    pub hold_us: u64,
    /// What was backed up, as the process names it.
    #[serde(serialize_with = "crate::interface::report::lossy_all")]
    pub sources: Vec<PathBuf>,
}

/// Reads the head of the manifest of the backup at `dest`: its first line, however many entries follow.
///
/// # Errors
/// It is not a backup, or its manifest cannot be read or understood.
pub fn summary(dest: &Path) -> Result<Summary, Error> {
    let path = dest.join(OWN_DIR).join(manifest::FILE);
    let failed = |source| Error::DestIo { op: "read", path: path.clone(), source };
    let file = match File::open(&path) {
        Err(error) if is_missing(&error) => return Err(Error::ManifestMissing { path: dest.to_owned() }),
        other => other.map_err(failed)?,
    };
    let mut line = String::new();
    BufReader::new(file.take(LONGEST)).read_line(&mut line).map_err(failed)?;
    let Some(head) = line.trim_end().strip_suffix(',') else {
        // Not as we write it: an older one, or somebody's who has laid it out anew.
        return Ok(manifest::Manifest::read(dest)?.header.into());
    };
    manifest::check_version(&path, format!("{head}}}").as_bytes())?;
    let header: Header = serde_json::from_str(&format!("{head}}}"))
        .map_err(|error| Error::ManifestBad { path: path.clone(), cause: error.to_string() })?;
    Ok(header.into())
}

impl From<Header> for Summary {
    fn from(header: Header) -> Self {
        Self {
            point: header.point,
            point_in_time_ns: header.point_in_time_ns,
            pid: header.pid,
            bytes: header.bytes,
            files: header.files,
            directories: header.directories,
            duration_us: header.phases.iter().map(|phase| phase.duration_us).sum(),
            hold_us: header.hold_us,
            sources: header.sources.into_iter().map(|source| source.path.0.into()).collect(),
        }
    }
}
