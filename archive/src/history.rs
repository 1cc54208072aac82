//! What was done each night: a file with one JSON object a line, the newest last.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Night};

/// When the file has grown to this, its older part goes: more than [`History::NIGHTS`] of the usual lines.
const LONGEST: u64 = 4 << 20;

/// The history of a shelf, in a directory of whoever keeps it.
#[derive(Debug, Clone)]
pub struct History(PathBuf);

impl History {
    /// As many nights are told, the newest: ten years of them, and more.
    pub const NIGHTS: usize = 4096;

    /// The history in this file, which need not be there yet.
    pub fn at(file: impl Into<PathBuf>) -> Self {
        Self(file.into())
    }

    /// The newest [`Self::NIGHTS`], oldest first. Lines that cannot be read, as one that a power failure has cut short, are left out.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(&self) -> Result<Vec<Night>, Error> {
        let text = match fs::read(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("read", self.0.clone()))?,
        };
        let text = String::from_utf8_lossy(&text);
        let mut nights: Vec<Night> =
            text.lines().rev().filter_map(|line| serde_json::from_str(line).ok()).take(Self::NIGHTS).collect();
        nights.reverse();
        Ok(nights)
    }

    /// Adds one night, durably. The oldest go when there are too many.
    ///
    /// # Errors
    /// It cannot be written; the history is as it was.
    pub fn add(&self, night: &Night) -> Result<(), Error> {
        let failed = || Error::io("write", self.0.clone());
        let line = serde_json::to_string(night).map_err(io::Error::other).map_err(failed())?;
        let mut options = OpenOptions::new();
        let mut file = options.append(true).read(true).create(true).open(&self.0).map_err(failed())?;
        let whole = ends_a_line(&mut file).map_err(failed())?;
        if whole && file.metadata().map_err(failed())?.len() < LONGEST {
            return file.write_all(format!("{line}\n").as_bytes()).and_then(|()| file.sync_data()).map_err(failed());
        }
        let before = fs::read(&self.0).map_err(failed())?;
        // Behind the end of a line, so that none is cut.
        let from = before.len().saturating_sub(LONGEST as usize / 2);
        let from = if from == 0 {
            0
        } else {
            before[from..].iter().position(|b| *b == b'\n').map_or(from, |at| from + at + 1)
        };
        let mut after = before[from..].to_vec();
        if !whole {
            after.push(b'\n');
        }
        after.extend_from_slice(format!("{line}\n").as_bytes());
        replace(&self.0, &after).map_err(failed())
    }
}

/// Whether a file ends where a line does. One that a power failure has cut short does not.
fn ends_a_line(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn night(second: i64) -> Night {
        let time = Timestamp::from_second(second).unwrap();
        Night {
            begun: time,
            ended: time,
            dest: "/shelf/x".into(),
            good: true,
            taken: None,
            cause: None,
            message: None,
            warnings: Vec::new(),
            removed: Vec::new(),
            attempt: 1,
            retry: None,
        }
    }

    #[test]
    fn what_is_added_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let history = History::at(dir.path().join("h"));
        assert_eq!(history.read().unwrap(), []);
        history.add(&night(1)).unwrap();
        history.add(&night(2)).unwrap();
        assert_eq!(history.read().unwrap(), [night(1), night(2)]);
    }

    #[test]
    fn a_line_that_was_cut_short_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("h");
        let history = History::at(&file);
        history.add(&night(1)).unwrap();
        let mut text = fs::read_to_string(&file).unwrap();
        text += "{\"begun\":\"20";
        fs::write(&file, text).unwrap();
        history.add(&night(2)).unwrap();
        history.add(&night(3)).unwrap();
        assert_eq!(history.read().unwrap(), [night(1), night(2), night(3)]);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("h");
        let line = serde_json::to_string(&night(1)).unwrap() + "\n";
        fs::write(&file, line.repeat(LONGEST as usize / line.len() + 1)).unwrap();
        let history = History::at(&file);
        history.add(&night(2)).unwrap();
        let length = fs::metadata(&file).unwrap().len();
        assert!((LONGEST / 4..LONGEST * 3 / 4).contains(&length), "{length}");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.lines().all(|line| serde_json::from_str::<Night>(line).is_ok()), "no line is cut");
        let all = history.read().unwrap();
        assert_eq!((all.len(), all.last()), (History::NIGHTS, Some(&night(2))));
    }

    #[test]
    fn a_line_is_added_without_looking_at_those_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("h");
        let line = serde_json::to_string(&night(1)).unwrap() + "\n";
        fs::write(&file, line.repeat(3650)).unwrap();
        let before = fs::metadata(&file).unwrap();
        History::at(&file).add(&night(2)).unwrap();
        let after = fs::metadata(&file).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((before.ino(), before.len() + line.len() as u64), (after.ino(), after.len()), "it was appended to");
        assert_eq!(History::at(&file).read().unwrap().len(), 3651);
    }
}
