//! What is remembered of each backup, so that a service which is started again knows those that run and those that have been.
//!
//! In a target's directory there is for each backup: `ID.json` (the record), `ID.out` and `ID.err` (what the backup says), and
//! while it runs `ID.sock`.
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::control::Ended;
use crate::util::now_ms;

/// How many are remembered of each target. The last good one always is.
pub(super) const REMEMBERED: usize = 1000;
/// The cause where a backup ended without a word.
pub(super) const DIED: &str = "died";
/// More of what a backup says is not read.
const TAIL: u64 = 64 << 10;

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Milliseconds since 1970 when it was started, and a number.
    pub id: String,
    /// Where it will be.
    pub dest: String,
    /// When it was started.
    pub started_ms: u64,
    /// The process that is backed up.
    pub process: i32,
    /// Who does it: process, and when that began, in ticks since the machine did.
    #[serde(default)]
    pub supervisor: Option<(i32, u64)>,
    /// When it ended.
    #[serde(default)]
    pub ended_ms: Option<u64>,
}

impl Record {
    pub fn file(&self, directory: &Path, end: &str) -> PathBuf {
        directory.join(format!("{}.{end}", self.id))
    }

    /// Writes it: whole, or not at all.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        let half = self.file(directory, "half");
        let mut file = File::create(&half)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_data()?;
        fs::rename(half, self.file(directory, "json"))
    }

    /// All that are remembered, oldest first.
    pub fn load(directory: &Path) -> io::Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == "json") {
                match fs::read(&path).map(|text| serde_json::from_slice::<Self>(&text)) {
                    Ok(Ok(record)) if record.file(directory, "json") == path => all.push(record),
                    other => tracing::warn!("{} is no record of a backup: {other:?}", path.display()),
                }
            }
        }
        all.sort_by(|a, b| (a.started_ms, &a.id).cmp(&(b.started_ms, &b.id)));
        Ok(all)
    }

    /// Forgets it.
    pub fn forget(&self, directory: &Path) {
        for end in ["json", "out", "err", "sock"] {
            let _ = fs::remove_file(self.file(directory, end));
        }
    }

    /// Whether who does it still lives.
    pub fn lives(&self) -> bool {
        self.supervisor.is_some_and(|(pid, start)| started(pid) == Some(start))
    }

    /// How it ended, by what it said last.
    pub fn ended(&self, directory: &Path) -> Ended {
        let said = tail(&self.file(directory, "out")).unwrap_or_default();
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        let last: Value = serde_json::from_str(last).unwrap_or_default();
        let ended_ms = self.ended_ms.unwrap_or_else(now_ms);
        let number = |name: &str| last[name].as_u64().unwrap_or_default();
        let mut ended = Ended {
            id: self.id.clone(),
            dest: self.dest.clone(),
            ok: last["event"] == "result",
            started_ms: self.started_ms,
            ended_ms,
            ..Ended::default()
        };
        if ended.ok {
            ended.point_in_time_ns = last["point_in_time_ns"].as_u64();
            ended.longest_wait_us = number("longest_wait_us");
            (ended.bytes, ended.files, ended.hold_us) = (number("bytes_total"), number("files"), number("hold_us"));
        } else if last["event"] == "error" {
            ended.kind = last["kind"].as_str().map(str::to_owned);
            ended.exit_code = last["exit_code"].as_u64().and_then(|code| u8::try_from(code).ok());
            ended.message = last["message"].as_str().map(str::to_owned);
        } else {
            let words = tail(&self.file(directory, "err")).unwrap_or_default();
            let words = words.trim().lines().last().unwrap_or_default().to_owned();
            ended.kind = Some(DIED.into());
            ended.message = Some(format!("the backup ended without a word; was it killed? {words}").trim().to_owned());
        }
        ended
    }
}

/// The end of a file.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// When a process began, in ticks since the machine did; `None` when it has ended.
pub(super) fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything: state, and 18 fields on the start.
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record { id: id.into(), dest: "/b/x".into(), started_ms: 1, process: 2, supervisor: None, ended_ms: Some(9) }
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_others_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        for id in ["b", "a"] {
            record(id).save(dir.path()).unwrap();
        }
        fs::write(dir.path().join("c.json"), "{").unwrap();
        fs::copy(dir.path().join("a.json"), dir.path().join("d.json")).unwrap();
        assert_eq!(Record::load(dir.path()).unwrap(), [record("a"), record("b")]);
        record("a").forget(dir.path());
        assert!(!dir.path().join("a.json").exists());
    }

    #[test]
    fn the_last_line_says_how_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let said = |text: &str| {
            fs::write(dir.path().join("a.out"), text).unwrap();
            record("a").ended(dir.path())
        };
        let good = said("{\"event\":\"result\",\"point_in_time_ns\":5,\"bytes_total\":6,\"files\":7,\"hold_us\":8}\n");
        assert_eq!((good.ok, good.point_in_time_ns, good.bytes, good.files, good.hold_us), (true, Some(5), 6, 7, 8));
        let bad = said("{\"event\":\"error\",\"kind\":\"dest_full\",\"exit_code\":23,\"message\":\"m\"}\n");
        assert_eq!((bad.ok, bad.kind.as_deref(), bad.exit_code), (false, Some("dest_full"), Some(23)));
        for text in ["", "{\"event\":\"resu"] {
            assert_eq!((said(text).ok, said(text).kind.as_deref()), (false, Some("died")), "{text}");
        }
    }

    #[test]
    fn a_process_that_lives_is_told_from_one_with_its_number() {
        let me = std::process::id().cast_signed();
        let start = started(me).unwrap();
        assert!(Record { supervisor: Some((me, start)), ..record("a") }.lives());
        assert!(!Record { supervisor: Some((me, start + 1)), ..record("a") }.lives());
        assert!(!record("a").lives());
    }
}
