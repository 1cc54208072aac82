//! What was done each night: a file with one JSON object a line, the newest last.
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Night};

/// As many lines are kept: some years of nights.
const LINES: usize = 4096;

/// The history of a shelf, in a directory of whoever keeps it.
#[derive(Debug, Clone)]
pub struct History(PathBuf);

impl History {
    /// The history in this file, which need not be there yet.
    pub fn at(file: impl Into<PathBuf>) -> Self {
        Self(file.into())
    }

    /// All of it, oldest first. Lines that cannot be read, as one that a power failure has cut short, are left out.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(&self) -> Result<Vec<Night>, Error> {
        let text = match fs::read(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io("read", self.0.clone()))?,
        };
        Ok(String::from_utf8_lossy(&text).lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Adds one night, durably. The oldest go when there are too many.
    ///
    /// # Errors
    /// It cannot be written; the history is as it was.
    pub fn add(&self, night: &Night) -> Result<(), Error> {
        let failed = || Error::io("write", self.0.clone());
        let line = serde_json::to_string(night).map_err(io::Error::other).map_err(failed())?;
        let before = String::from_utf8_lossy(&fs::read(&self.0).unwrap_or_default()).into_owned();
        if before.lines().count() < LINES && (before.is_empty() || before.ends_with('\n')) {
            let mut file = OpenOptions::new().append(true).create(true).open(&self.0).map_err(failed())?;
            return file.write_all(format!("{line}\n").as_bytes()).and_then(|()| file.sync_data()).map_err(failed());
        }
        let mut lines: Vec<&str> = before.lines().collect();
        lines.drain(..lines.len().saturating_sub(LINES / 2));
        lines.push(&line);
        replace(&self.0, format!("{}\n", lines.join("\n")).as_bytes()).map_err(failed())
    }
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
        fs::write(&file, line.repeat(LINES)).unwrap();
        let history = History::at(&file);
        history.add(&night(2)).unwrap();
        let all = history.read().unwrap();
        assert_eq!((all.len(), all.last()), (LINES / 2 + 1, Some(&night(2))));
    }
}
