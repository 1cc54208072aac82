//! The manifest: what a backup holds, written last.
//!
//! JSON, one entry a line. Entries are in the order of a walk that visits names in byte order. Text is a string, or
//! `{"bytes": HEX}` where it is not UTF-8.
use crate::base::digest::{Digest, Way};
use crate::base::sys::{Kind, Stat, Time, is_missing};
use crate::{Error, NotKept, PhaseTimes, Point, Report};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

/// The manifest's name, below the backup's own directory.
pub(crate) const FILE: &str = "manifest.json";
/// Changes when what is written here can no longer be understood by who reads it.
pub(crate) const FORMAT_VERSION: u32 = 2;
/// The oldest that is still read. In version 1 times were one number, `mtime_ns`, and there was no `blake3_pieces`.
const OLDEST_VERSION: u32 = 1;

/// How many of the names that patterns left out are listed.
pub(crate) const MOST_EXCLUDED: usize = 10_000;

/// Everything but the entries.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    pub format_version: u32,
    pub tool_version: String,
    pub point: Point,
    /// RFC 3339, UTC.
    pub point_in_time: String,
    pub point_in_time_ns: u64,
    pub pid: i32,
    pub hold_us: u64,
    pub sources: Vec<SourceRecord>,
    pub phases: Vec<PhaseTimes>,
    pub bytes: u64,
    pub files: u64,
    pub directories: u64,
    /// See [`Report::unseen_calls`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen_calls: Vec<String>,
    /// What the destination does not keep of the source's metadata.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_kept: Vec<NotKept>,
    /// The patterns of what was to be left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<ExcludeRecord>,
    /// What was left out, as paths in the backup were it there; the first [`MOST_EXCLUDED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<Text>,
}

/// One pattern.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExcludeRecord {
    pub pattern: String,
    /// How many names it left out; what is below them is not counted.
    pub names: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SourceRecord {
    pub path: Text,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Text>,
}

/// One entry of the backup.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Relative to the backup; `.` is the backup itself.
    pub path: Text,
    #[serde(rename = "type")]
    pub kind: RecordKind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Permissions, octal.
    pub mode: String,
    pub uid: u32,
    pub gid: u32,
    /// When it was last modified: seconds since the epoch, and nanoseconds after that.
    #[serde(default)]
    mtime: (i64, u32),
    /// The same in nanoseconds since the epoch, in version 1.
    #[serde(default, skip_serializing)]
    mtime_ns: Option<i64>,
    /// Hash of a file's content, hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
    /// Instead of that, where a file has large holes: see `base::digest`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3_pieces: Option<String>,
    /// Where a symbolic link leads in the backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Text>,
    /// The first entry that is the same file, or the same symbolic link, fifo and so on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardlink_of: Option<Text>,
    /// The entry is not in the backup: a socket or a device.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// What is not in the backup as it was in the source, and is told here as it was there: `owner`, `mode`, `mtime`, `hard_link`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_kept: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RecordKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    Device,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    #[serde(flatten)]
    pub header: Header,
    pub entries: Vec<Record>,
}

impl From<Kind> for RecordKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::File => Self::File,
            Kind::Dir => Self::Directory,
            Kind::Symlink => Self::Symlink,
            Kind::Fifo => Self::Fifo,
            Kind::Socket => Self::Socket,
            Kind::Device => Self::Device,
        }
    }
}

impl Record {
    /// What all entries have.
    pub fn new(path: &Path, stat: &Stat) -> Self {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        Self {
            path: Text(path.into()),
            kind: stat.kind().into(),
            size: None,
            mode: octal(stat.permissions()),
            uid: stat.uid,
            gid: stat.gid,
            mtime: (stat.mtime.sec, stat.mtime.nsec),
            mtime_ns: None,
            blake3: None,
            blake3_pieces: None,
            target: None,
            hardlink_of: None,
            skipped: matches!(stat.kind(), Kind::Socket | Kind::Device),
            not_kept: Vec::new(),
        }
    }

    /// When it was last modified.
    pub fn modified(&self) -> Time {
        const SECOND: i64 = 1_000_000_000;
        match self.mtime_ns {
            Some(ns) => Time { sec: ns.div_euclid(SECOND), nsec: ns.rem_euclid(SECOND) as u32 },
            None => Time { sec: self.mtime.0, nsec: self.mtime.1 },
        }
    }

    /// Whether something is as it was in the source, by the name that `not_kept` has for it.
    pub fn keeps(&self, what: &str) -> bool {
        !self.not_kept.iter().any(|not| not == what)
    }

    pub fn set_digest(&mut self, digest: Digest) {
        match digest {
            Digest::Plain(hash) => self.blake3 = Some(hash.to_hex().to_string()),
            Digest::Pieces(hash) => self.blake3_pieces = Some(hash.to_hex().to_string()),
        }
    }

    /// How the content was hashed.
    pub fn way(&self) -> Way {
        if self.blake3_pieces.is_some() { Way::Pieces } else { Way::Plain }
    }

    /// Whether content has this hash.
    pub fn is_of(&self, digest: Digest) -> bool {
        match digest {
            Digest::Plain(hash) => self.blake3.as_deref() == Some(hash.to_hex().as_str()),
            Digest::Pieces(hash) => self.blake3_pieces.as_deref() == Some(hash.to_hex().as_str()),
        }
    }
}

/// Permissions as they are written.
pub(crate) fn octal(permissions: u32) -> String {
    format!("{permissions:04o}")
}

impl Header {
    pub fn new(report: &Report, pid: i32, sources: Vec<SourceRecord>) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            tool_version: env!("CARGO_PKG_VERSION").into(),
            point: report.point,
            point_in_time: rfc3339(report.point_in_time_ns),
            point_in_time_ns: report.point_in_time_ns,
            pid,
            hold_us: report.hold_us,
            sources,
            phases: report.phases.clone(),
            bytes: report.bytes_total,
            files: report.files,
            directories: report.directories,
            unseen_calls: report.unseen_calls.clone(),
            exclude: Vec::new(),
            excluded: Vec::new(),
            not_kept: report.not_kept.clone(),
        }
    }

    /// Begins a manifest; entries follow.
    pub fn write_to(&self, out: &mut impl Write) -> std::io::Result<()> {
        let header = serde_json::to_string(self)?;
        // The object goes on with its entries, so that they need not all be in memory at once.
        write!(out, "{},\n\"entries\":[", header.trim_end_matches('}'))
    }
}

/// Writes the entries of a manifest, one after the other.
pub(crate) struct Entries<W: Write> {
    out: W,
    first: bool,
}

impl<W: Write> Entries<W> {
    pub fn new(out: W) -> Self {
        Self { out, first: true }
    }

    pub fn write(&mut self, record: &Record) -> std::io::Result<()> {
        self.out.write_all(if std::mem::take(&mut self.first) { b"\n" } else { b",\n" })?;
        Ok(serde_json::to_writer(&mut self.out, record)?)
    }

    pub fn finish(mut self) -> std::io::Result<W> {
        self.out.write_all(b"\n]}\n")?;
        self.out.flush()?;
        Ok(self.out)
    }
}

impl Manifest {
    /// Reads the manifest of the backup at `dest`.
    pub fn read(dest: &Path) -> Result<Self, Error> {
        let path = dest.join(crate::interface::spec::OWN_DIR).join(FILE);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if is_missing(&error) => {
                return Err(Error::ManifestMissing { path: dest.to_owned() });
            }
            Err(source) => return Err(Error::DestIo { op: "read", path, source }),
        };
        check_version(&path, &text)?;
        serde_json::from_slice(&text).map_err(|error| bad(&path, error.to_string()))
    }
}

fn bad(path: &Path, cause: String) -> Error {
    Error::ManifestBad { path: path.to_owned(), cause }
}

/// Whether what the manifest at `path` says can be understood.
pub(crate) fn check_version(path: &Path, text: &[u8]) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let version: Version = serde_json::from_slice(text).map_err(|error| bad(path, error.to_string()))?;
    if (OLDEST_VERSION..=FORMAT_VERSION).contains(&version.format_version) {
        return Ok(());
    }
    let found = version.format_version;
    Err(bad(path, format!("its format version is {found}, this program knows {FORMAT_VERSION}; use a newer one")))
}

/// A path or other text that need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Text(pub OsString);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum TextForm<'a> {
    Plain(std::borrow::Cow<'a, str>),
    Bytes { bytes: String },
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.to_str() {
            Some(text) => TextForm::Plain(text.into()),
            None => TextForm::Bytes { bytes: self.0.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect() },
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        match TextForm::deserialize(deserializer)? {
            TextForm::Plain(text) => Ok(Self(text.into_owned().into())),
            TextForm::Bytes { bytes } => {
                let pairs = bytes.as_bytes().chunks(2);
                let bytes = pairs.map(|pair| match pair {
                    [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
                    _ => None,
                });
                let bytes: Option<Vec<u8>> = bytes.collect();
                bytes.map(|b| Self(OsString::from_vec(b))).ok_or_else(|| serde::de::Error::custom("malformed bytes"))
            }
        }
    }
}

impl From<&OsStr> for Text {
    fn from(text: &OsStr) -> Self {
        Self(text.to_owned())
    }
}

/// A time in nanoseconds since the epoch as text, UTC.
fn rfc3339(ns: u64) -> String {
    let at = jiff::Timestamp::from_nanosecond(ns.into());
    // What 64 bits hold ends in 2554, and this in 9999.
    at.map_or_else(|_| ns.to_string(), |at| format!("{at:.9}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_400_000_000_001), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(rfc3339(1_795_420_799_123_456_789), "2026-11-23T07:59:59.123456789Z");
    }

    #[test]
    fn text_that_is_not_utf_8_survives() {
        for bytes in [&b"plain"[..], b"\xff\xfe/x", "käse".as_bytes(), b""] {
            let text = Text(OsString::from_vec(bytes.to_vec()));
            let json = serde_json::to_string(&text).unwrap();
            assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), text, "{json}");
        }
        assert!(serde_json::from_str::<Text>(r#"{"bytes":"abc"}"#).is_err());
    }
}
