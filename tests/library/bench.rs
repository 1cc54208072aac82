//! A host that does as it is told, and what it says.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::backup::scratch;
use crate::library::{Linked, host};

/// Longer than anything takes on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A running host, with a scratch directory that holds its source, `data`.
pub struct Host {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Lines that were read while another one was waited for.
    early: Vec<String>,
    stderr: Option<JoinHandle<String>>,
    pub scratch: TempDir,
}

/// How a backup ended, and what was called in it.
#[derive(Debug)]
pub struct End {
    pub result: i32,
    pub text: String,
    fields: Vec<(String, String)>,
}

impl Host {
    /// The usual one: without a guest, against the shared library.
    pub fn start() -> Self {
        Self::spawn(scratch(), Command::new(host("host.c", Linked::Shared, &[])))
    }

    pub fn spawn(scratch: TempDir, mut command: Command) -> Self {
        fs::create_dir_all(scratch.path().join("data")).expect("a data directory");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut err = child.stderr.take().expect("piped");
        let stderr = Some(std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = err.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        }));
        let input = child.stdin.take();
        let mut host = Self { child, input, lines, early: Vec::new(), stderr, scratch };
        host.wait_for("ready");
        host
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Its source.
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// A new, empty destination.
    pub fn dest(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("a destination");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("its mode can be set");
        path
    }

    /// Tells it something.
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it was not told to end");
        if let Err(error) = writeln!(input, "{line}") {
            self.fail(&format!("it cannot be told {line:?}: {error}"));
        }
    }

    /// Reads on until a line begins with `word`; returns the rest of it.
    pub fn wait_for(&mut self, word: &str) -> String {
        let rest = |line: &str| line.strip_prefix(word).map(|rest| rest.trim_start().to_owned());
        if let Some((at, found)) = self.early.iter().enumerate().find_map(|(at, line)| Some((at, rest(line)?))) {
            self.early.remove(at);
            return found;
        }
        let until = Instant::now() + LIMIT;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => match rest(&line) {
                    Some(found) => return found,
                    None => self.early.push(line),
                },
                Err(_) => self.fail(&format!("it never says {word:?}")),
            }
        }
    }

    /// What it has said so far and nobody waited for.
    pub fn said(&mut self, word: &str) -> Vec<String> {
        self.early.extend(self.lines.try_iter());
        self.early.iter().filter(|line| line.starts_with(word)).cloned().collect()
    }

    /// Tells it something that it answers by a line with the same first word.
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.wait_for(line.split(' ').next().unwrap_or_default())
    }

    /// Asks for its state until it is this one.
    pub fn wait_until_state(&mut self, state: &str) {
        let until = Instant::now() + LIMIT;
        loop {
            let now = self.ask("state");
            if now == state {
                return;
            }
            assert!(Instant::now() < until, "the state is {now}, and never {state}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts a backup of pairs of directories.
    pub fn start_backup(&mut self, id: &str, pairs: &[(&Path, &Path)]) {
        let mut line = format!("backup {id}");
        for (source, dest) in pairs {
            line += &format!(" {} {}", source.display(), dest.display());
        }
        self.tell(&line);
    }

    /// Waits for the end of a backup.
    pub fn end(&mut self, id: &str) -> End {
        let line = self.wait_for(&format!("end {id} "));
        let (fields, text) = line.split_once("text=").expect("how it ended");
        let mut words = fields.split_whitespace();
        let result = words.next().and_then(|word| word.parse().ok()).expect("a number");
        let field = |word: &str| word.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        End { result, text: text.to_owned(), fields: words.filter_map(field).collect() }
    }

    /// Takes a backup of the source.
    pub fn back_up(&mut self, dest: &Path) -> End {
        let data = self.data();
        self.start_backup("one", &[(&data, dest)]);
        self.end("one")
    }

    /// Takes one, which must be right in all that is called.
    pub fn must_back_up(&mut self, dest: &Path) -> End {
        let end = self.back_up(dest);
        end.assert_complete();
        end
    }

    fn fail(&mut self, why: &str) -> ! {
        let _ = self.child.kill();
        let status = self.child.wait();
        let said = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        panic!("{why} ({status:?}); it said {:?}\n{said}", self.early)
    }

    /// Ends it by its own means, and returns what it said on standard error.
    pub fn quit(mut self) -> String {
        self.tell("quit");
        drop(self.input.take());
        let until = Instant::now() + LIMIT;
        while self.child.try_wait().expect("our child").is_none() {
            assert!(Instant::now() < until, "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = self.child.wait().expect("our child");
        let said = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        assert!(status.success(), "{status}: {said}");
        said
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl End {
    /// How often something was called, or what came of it.
    pub fn number(&self, name: &str) -> f64 {
        let value = self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// It is complete, and each function was called as it should be.
    pub fn assert_complete(&self) {
        let all = ["backwards", "wrong_thread", "befores", "afters", "order", "errors"].map(|name| self.number(name));
        assert_eq!((self.result, all), (0, [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]), "{self:?}");
        assert!(self.number("polls") > 0.0 && self.number("last") == 1.0, "{self:?}");
    }

    /// It failed with this errno, which the error function was told as well, in words.
    pub fn assert_failed(&self, errno: nix::errno::Errno, words: &str) {
        let errno = errno as i32;
        let told = (self.number("errors"), self.number("error"));
        assert_eq!((self.result, told), (errno, (1.0, f64::from(errno))), "{self:?}");
        assert!(self.text.contains(words), "{self:?}");
        assert_eq!(self.number("backwards") + self.number("wrong_thread"), 0.0, "{self:?}");
        assert_eq!(self.number("befores"), self.number("afters"), "{self:?}");
    }
}

/// The names in a directory.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{dir:?}: {error}"))
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
