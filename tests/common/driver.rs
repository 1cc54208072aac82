//! A guest that does as it is told: the test names each system call, with its arguments as they are in registers and
//! memory.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;

use super::guest::{Linked, compile};

/// A call that is not answered within this time hangs.
const LIMIT: Duration = Duration::from_secs(30);

/// The running guest, killed when dropped.
pub struct Driver {
    child: Child,
    orders: ChildStdin,
    answers: Receiver<String>,
}

/// An argument of a call.
#[derive(Debug, Clone)]
pub enum Arg {
    /// A number.
    Number(i64),
    /// The address of what these hold.
    Block(Vec<Item>),
}

/// A part of a block of memory.
#[derive(Debug, Clone)]
pub enum Item {
    /// Bytes.
    Bytes(Vec<u8>),
    /// A byte, so many times.
    Repeat(u8, usize),
    /// A number of 8 bytes.
    Number(i64),
    /// The address of another block.
    Pointer(Vec<Item>),
}

macro_rules! numbers {
    ($($kind:ty),*) => { $(impl From<$kind> for Arg {
        fn from(number: $kind) -> Self {
            Self::Number(number as i64)
        }
    })* };
}

numbers!(i32, u32, i64, u64, usize);

impl From<&Path> for Arg {
    fn from(path: &Path) -> Self {
        Self::Block(vec![Item::Bytes([path.as_os_str().as_bytes(), b"\0"].concat())])
    }
}

impl From<&std::path::PathBuf> for Arg {
    fn from(path: &std::path::PathBuf) -> Self {
        Self::from(path.as_path())
    }
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Self::from(Path::new(text))
    }
}

impl From<Vec<Item>> for Arg {
    fn from(items: Vec<Item>) -> Self {
        Self::Block(items)
    }
}

/// These bytes, without a NUL behind them.
pub fn bytes(content: &[u8]) -> Arg {
    Arg::Block(vec![Item::Bytes(content.to_vec())])
}

/// A byte, so many times.
pub fn filled(byte: u8, count: usize) -> Arg {
    Arg::Block(vec![Item::Repeat(byte, count)])
}

/// Numbers of 8 bytes.
pub fn words(numbers: &[i64]) -> Arg {
    Arg::Block(numbers.iter().copied().map(Item::Number).collect())
}

/// Numbers of 4 bytes.
pub fn halves(numbers: &[i32]) -> Arg {
    Arg::Block(vec![Item::Bytes(numbers.iter().flat_map(|number| number.to_ne_bytes()).collect())])
}

/// An array of iovecs.
pub fn vectors(parts: &[&[u8]]) -> Arg {
    let vector = |part: &&[u8]| [Item::Pointer(vec![Item::Bytes(part.to_vec())]), Item::Number(part.len() as i64)];
    Arg::Block(parts.iter().flat_map(vector).collect())
}

/// Makes the guest do a call that must succeed, and gives what it returned.
#[macro_export]
macro_rules! call {
    ($guest:expr, $nr:expr $(, $argument:expr)* $(,)?) => {
        $guest.must($nr, &[$($crate::common::driver::Arg::from($argument)),*])
    };
}

impl Driver {
    /// Starts the guest in `dir`.
    pub fn start(dir: &Path, linked: Linked) -> Self {
        let mut child = Command::new(compile("does_as_told", linked))
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("the guest starts");
        let orders = child.stdin.take().expect("stdin is piped");
        let out = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let driver = Self { child, orders, answers };
        assert_eq!(driver.answer(), "ready");
        driver
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Does a call, and gives what it returned.
    pub fn call(&mut self, nr: i64, arguments: &[Arg]) -> Result<i64, Errno> {
        self.order("call", nr, arguments).0
    }

    /// Does a call that must succeed.
    pub fn must(&mut self, nr: i64, arguments: &[Arg]) -> i64 {
        self.call(nr, arguments).unwrap_or_else(|errno| panic!("call {nr}: {errno}; {arguments:?}"))
    }

    /// Does a call by the C library's function of that name, which must succeed.
    pub fn by_libc(&mut self, nr: i64, arguments: &[Arg]) -> i64 {
        self.order("libc", nr, arguments).0.unwrap_or_else(|errno| panic!("call {nr}: {errno}; {arguments:?}"))
    }

    /// Does a call that must succeed and fills block `index` of its arguments; gives that, or its first bytes.
    pub fn look(&mut self, index: u8, nr: i64, arguments: &[Arg]) -> Vec<u8> {
        let (result, block) = self.order(&format!("look {index}"), nr, arguments);
        result.unwrap_or_else(|errno| panic!("call {nr}: {errno}; {arguments:?}"));
        block
    }

    /// Does a call that makes two descriptors, in its only block.
    pub fn pair(&mut self, nr: i64, arguments: &[Arg]) -> [i32; 2] {
        let pair = self.look(0, nr, arguments);
        [0, 1].map(|half| i32::from_ne_bytes(pair[4 * half..4 * half + 4].try_into().expect("four bytes")))
    }

    /// What follows is done by another thread, until [`Driver::end`].
    pub fn in_thread(&mut self) {
        self.say("thread");
        assert_eq!(self.answer(), "= 0 0 ");
    }

    /// What follows is done by a child process, until [`Driver::end`].
    pub fn in_child(&mut self) {
        self.say("fork");
        assert_eq!(self.answer(), "= 0 0 ");
    }

    /// Back to the thread that made the thread or child.
    pub fn end(&mut self) {
        self.say("end");
        assert_eq!(self.answer(), "= 0 0 ");
    }

    /// Another process, which carries the guest's filter, dies in a directory and leaves a core file: a "child", a child by its
    /// second "thread", an "orphan", or a "sibling".
    pub fn dump(&mut self, who: &str, dir: &Path) {
        self.say(&format!("dump {who} {}", dir.to_str().expect("test directories have plain names")));
        assert_eq!(self.answer(), "= 0 0 ");
    }

    /// Opens a file.
    pub fn open(&mut self, path: impl Into<Arg>, flags: i32) -> i32 {
        self.must(libc::SYS_openat, &[libc::AT_FDCWD.into(), path.into(), flags.into(), 0o644.into()]) as i32
    }

    /// Fails when the guest has ended: it ends only when a call of its own went wrong.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("our child") {
            panic!("the guest ended with {status}: see its message above");
        }
        assert_eq!(call!(self, libc::SYS_getpid), i64::from(self.pid()));
    }

    fn order(&mut self, what: &str, nr: i64, arguments: &[Arg]) -> (Result<i64, Errno>, Vec<u8>) {
        let mut line = format!("{what} {nr}");
        for argument in arguments {
            match argument {
                Arg::Number(number) => write!(line, " #{number}").expect("a string"),
                Arg::Block(items) => block(&mut line, items),
            }
        }
        self.say(&line);
        let answer = self.answer();
        let mut words = answer.split(' ').skip(1);
        let mut number = || words.next().and_then(|word| word.parse().ok()).expect("a number");
        let (result, errno): (i64, i64) = (number(), number());
        let hex = words.next().unwrap_or_default().as_bytes();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex");
        let block = hex.chunks_exact(2).map(byte).collect();
        (if errno == 0 { Ok(result) } else { Err(Errno::from_raw(errno as i32)) }, block)
    }

    fn say(&mut self, line: &str) {
        self.orders.write_all(format!("{line}\n").as_bytes()).expect("the guest listens: see its message above");
    }

    fn answer(&self) -> String {
        self.answers.recv_timeout(LIMIT).expect("the guest answers: a call hangs, or it has ended")
    }
}

fn block(line: &mut String, items: &[Item]) {
    line.push_str(" [");
    for item in items {
        match item {
            Item::Bytes(content) if content.is_empty() => {}
            Item::Bytes(content) => {
                line.push_str(" x");
                content.iter().for_each(|byte| write!(line, "{byte:02x}").expect("a string"));
            }
            Item::Repeat(byte, count) => write!(line, " r{count}:{byte:02x}").expect("a string"),
            Item::Number(number) => write!(line, " #{number}").expect("a string"),
            Item::Pointer(items) => block(line, items),
        }
    }
    line.push_str(" ]");
}

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
