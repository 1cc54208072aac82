//! The stubs, run in this process on a board of its own: what they mark, make, count and leave alone; and that each fault that they can
//! be made with is found.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use hotbackup_event::failpoint::{MUTANTS, VARIABLE};

use super::mutants::{with_chosen_fault, with_fault};
use crate::shared::board::{BLOCK, Board, DESCRIPTORS, Mode, entry};
use crate::sys::memory::Region;
use crate::sys::native_tests::{NOTIFIED, Native};
use crate::sys::trampoline::{ENTRY, Kind, Words, stub};

const KINDS: [Kind; 3] = [Kind::AtOffset, Kind::NoFile, Kind::Close];
const EPOCHS: [Mode; 2] = [Mode::Mark0, Mode::Mark1];
/// A map that is not the first, with bits that do not begin at the first word.
const MAP: usize = 1;
const FIRST_WORD: usize = 10;
const BLOCKS: u64 = 64;
/// Words of bits that are looked at.
const LOOKED_AT: usize = 1 << 12;
/// A number that is no descriptor.
const NOTHING: u64 = 9999;
const EBADF: i64 = -9;

struct Bench {
    native: Native,
    board: Region<Board>,
    own: Box<AtomicU32>,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            native: Native::new(),
            board: Region::create("a-board").expect("memory"),
            own: Box::new(AtomicU32::new(1)),
        };
        bench.board.maps[MAP].blocks.store(BLOCKS, SeqCst);
        bench.board.maps[MAP].bits.store(8 * FIRST_WORD as u64, SeqCst);
        bench
    }

    fn know(&self, fd: u64, what: u32) {
        self.board.descriptors[fd as usize].store(what, SeqCst);
    }

    /// A call while the mode is `mode`, by way of the entry, or by one who has read an older mode and comes to that one's place now.
    fn call(&self, kind: Kind, mode: u32, entry: u64, args: [u64; 4]) -> i64 {
        let nr = match kind {
            Kind::AtOffset => libc::SYS_pwrite64,
            Kind::NoFile => libc::SYS_write,
            Kind::Close => libc::SYS_close,
        };
        let address = |of: &AtomicU64| std::ptr::from_ref(of) as u64;
        let words = Words {
            board: std::ptr::from_ref::<Board>(&self.board) as u64,
            own: std::ptr::from_ref::<AtomicU32>(&self.own) as u64,
            bits: address(&self.board.bits[0]),
            resume: self.native.resume(),
            syscall: self.native.syscall(),
            nr: nr as u64,
        };
        self.board.word.set_raw(u64::from(mode));
        let result = self.native.call(&with_chosen_fault(kind, stub(kind, &words)), entry, words.board, args);
        assert!(
            [0, 1].into_iter().all(|epoch| self.board.is_zero(epoch)),
            "a counter stays: {kind:?} {mode:#x} {args:?}"
        );
        result
    }

    fn write_at(&self, mode: Mode, fd: u64, offset: u64, buffer: &[u8]) -> i64 {
        self.call(Kind::AtOffset, mode as u32, ENTRY, [fd, buffer.as_ptr() as u64, buffer.len() as u64, offset])
    }

    /// Writes with these bits of the first word, sealed; they must be what they were.
    fn write_sealed(&self, mode: Mode, seal: &AtomicU64, bits: u64, (fd, offset, length): (u64, u64, usize)) -> i64 {
        let word = &self.board.bits[FIRST_WORD];
        seal.store(1, SeqCst);
        word.store(bits, SeqCst);
        let result = self.write_at(mode, fd, offset, &vec![9; length]);
        assert_eq!((word.swap(0, SeqCst), seal.swap(0, SeqCst)), (bits, 1), "{offset} {length}");
        assert_eq!(self.marked(), BTreeSet::new());
        result
    }

    /// Which blocks are marked, from the map's first on; all else must not be.
    fn marked(&self) -> BTreeSet<u64> {
        let all = self.board.bits.iter().take(LOOKED_AT).enumerate().flat_map(|(index, word)| {
            let bits = word.load(SeqCst);
            let all = if bits == 0 { 0..0 } else { 0..64 };
            all.filter(move |bit| bits >> bit & 1 == 1).map(move |bit| (index as u64) * 64 + bit)
        });
        all.map(|bit| bit.checked_sub(64 * FIRST_WORD as u64).expect("a bit of another map")).collect()
    }

    fn unmark(&self) {
        self.board
            .bits
            .iter()
            .take(LOOKED_AT)
            .filter(|word| word.load(SeqCst) != 0)
            .for_each(|word| word.store(0, SeqCst));
    }
}

#[test]
fn stubs_mark_what_a_call_may_change_and_make_it_or_leave_it() {
    writes_at_offsets();
    writes_where_bits_are_sealed();
    calls_that_change_no_file();
    who_comes_late_and_who_is_a_child();
    whatever_stands_on_the_board();
}

/// Blocks that must be marked, or none: then the call is notified.
fn writes_at_offsets() {
    let block = |number: u64| number * BLOCK;
    let cases: [(u64, usize, Option<&[u64]>); 12] = [
        (0, 10, Some(&[0])),
        (block(1) - 1, 1, Some(&[0])),
        (block(1) - 1, 2, Some(&[0, 1])),
        (block(3) + 5, 1, Some(&[3])),
        (block(2) - 1, BLOCK as usize + 1, Some(&[1, 2])),
        (200_001, 7, Some(&[3])),
        (block(40), BLOCK as usize, Some(&[40])),
        (block(63) + 9, 10, Some(&[63])),
        (block(64) - 1, 2, None),
        (block(64), 1, None),
        (block(1) - 1, BLOCK as usize + 2, None),
        ((-5i64) as u64, 3, None),
    ];
    let bench = Bench::new();
    let file = tempfile::tempfile().expect("a file");
    let fd = file.as_raw_fd() as u64;
    bench.know(fd, entry::FIRST_MAP + MAP as u32);
    for mode in EPOCHS {
        for (round, (offset, length, blocks)) in cases.into_iter().enumerate() {
            // Marked anew, and where it is marked already.
            for byte in [round as u8 + 1, round as u8 + 101] {
                let content = vec![byte; length];
                let result = bench.write_at(mode, fd, offset, &content);
                let made = blocks.is_some();
                assert_eq!(result, if made { length as i64 } else { NOTIFIED }, "{mode:?} {offset} {length}");
                assert_eq!(bench.marked(), blocks.unwrap_or_default().iter().copied().collect(), "{offset} {length}");
                let mut found = vec![0; length];
                let read = if offset as i64 >= 0 { file.read_at(&mut found, offset).expect("readable") } else { 0 };
                assert_eq!(read == length && found == content, made, "{offset} {length}");
            }
            bench.unmark();
        }
        // One whose length is the number of what is no file.
        bench.know(100, entry::NO_FILE);
        assert_eq!(bench.write_at(mode, fd, block(5), &[1; 100]), 100);
        assert_eq!(bench.marked(), [5].into());
        bench.unmark();
    }
}

/// Where the target sets no bits: a call is made where all of its own are set.
fn writes_where_bits_are_sealed() {
    let bench = Bench::new();
    let file = tempfile::tempfile().expect("a file");
    let fd = file.as_raw_fd() as u64;
    bench.know(fd, entry::FIRST_MAP + MAP as u32);
    let seal = &bench.board.bits[FIRST_WORD - 1];
    for mode in EPOCHS {
        for set in [vec![], vec![4], vec![5], vec![4, 5]] {
            let bits = set.iter().fold(0, |bits, block| bits | 1 << block);
            let across = bench.write_sealed(mode, seal, bits, (fd, 5 * BLOCK - 1, 2));
            assert_eq!(across, if set.len() == 2 { 2 } else { NOTIFIED }, "{set:?}");
            for block in [4, 5] {
                let within = bench.write_sealed(mode, seal, bits, (fd, block * BLOCK + 7, 3));
                assert_eq!(within, if set.contains(&block) { 3 } else { NOTIFIED }, "{set:?} {block}");
            }
        }
    }
}

fn calls_that_change_no_file() {
    let bench = Bench::new();
    let null = File::options().write(true).open("/dev/null").expect("there");
    let fd = null.as_raw_fd() as u64;
    let content = *b"to nowhere";
    let args = [fd, content.as_ptr() as u64, 10, 5];
    let first_map = entry::FIRST_MAP;
    let entries = [entry::UNKNOWN, entry::NO_FILE, first_map, first_map + 7, entry::ALWAYS_SHOWN, entry::PENDING | 3];
    for kind in KINDS {
        for (mode, what) in EPOCHS.into_iter().flat_map(|mode| entries.map(|what| (mode, what))) {
            // What is closed is open nowhere: only whether the call is made is asked.
            let args = if kind == Kind::Close { [NOTHING, 0, 0, 0] } else { args };
            bench.know(args[0], what);
            let made = match kind {
                Kind::AtOffset | Kind::NoFile => what == entry::NO_FILE,
                Kind::Close => what == entry::UNKNOWN,
            };
            let result = bench.call(kind, mode as u32, ENTRY, args);
            let returned = if kind == Kind::Close { EBADF } else { 10 };
            assert_eq!(result, if made { returned } else { NOTIFIED }, "{kind:?} {mode:?} {what:#x}");
            assert_eq!(bench.marked(), BTreeSet::new());
        }
        for (mode, made) in [(Mode::Direct, true), (Mode::Notify, false)] {
            let args = if kind == Kind::Close { [NOTHING, 0, 0, 0] } else { args };
            bench.know(args[0], entry::PENDING);
            let returned = if kind == Kind::Close { EBADF } else { 10 };
            let result = bench.call(kind, mode as u32, ENTRY, args);
            assert_eq!(result, if made { returned } else { NOTIFIED }, "{kind:?} {mode:?}");
        }
    }
}

fn who_comes_late_and_who_is_a_child() {
    let bench = Bench::new();
    let known = [(Kind::AtOffset, entry::NO_FILE), (Kind::NoFile, entry::NO_FILE), (Kind::Close, entry::UNKNOWN)];
    for (kind, what) in known {
        bench.know(NOTHING, what);
        let args = [NOTHING, 0, 1, 0];
        for entry in EPOCHS {
            for mode in [Mode::Direct, Mode::Mark0, Mode::Mark1, Mode::Notify] {
                let result = bench.call(kind, mode as u32, entry as u64, args);
                assert_eq!(result, if mode == entry { EBADF } else { NOTIFIED }, "{kind:?} {entry:?} while {mode:?}");
            }
        }
        bench.own.store(0, SeqCst);
        for mode in EPOCHS {
            assert_eq!(bench.call(kind, mode as u32, ENTRY, args), NOTIFIED, "{kind:?} of a child");
        }
        bench.own.store(1, SeqCst);
    }
}

/// The target may write to it: nothing from there leads out of the stub or the board.
fn whatever_stands_on_the_board() {
    let bench = Bench::new();
    let null = File::options().write(true).open("/dev/null").expect("there");
    let fd = null.as_raw_fd() as u64;
    for kind in KINDS {
        bench.know(NOTHING, entry::NO_FILE);
        assert_eq!(bench.call(kind, 0x1_3300, ENTRY, [NOTHING, 0, 1, 0]), NOTIFIED, "{kind:?}");
        // Behind the table stand the maps.
        for beside in [u64::from(entry::UNKNOWN), u64::from(entry::NO_FILE)] {
            bench.board.maps[0].blocks.store(beside, SeqCst);
            for mode in EPOCHS {
                let result = bench.call(kind, mode as u32, ENTRY, [DESCRIPTORS as u64, 0, 1, 0]);
                assert_eq!(result, NOTIFIED, "{kind:?} {beside}");
            }
        }
    }
    for mode in EPOCHS {
        // Behind the maps stand the bits.
        bench.know(fd, entry::ALWAYS_SHOWN);
        bench.board.bits[0].store(u64::MAX, SeqCst);
        assert_eq!(bench.write_at(mode, fd, 0, b"x"), NOTIFIED);
        bench.unmark();
        bench.know(fd, entry::FIRST_MAP);
        bench.board.maps[0].blocks.store(u64::MAX, SeqCst);
        bench.board.maps[0].bits.store(0, SeqCst);
        assert_eq!(bench.write_at(mode, fd, 1 << 60, b"x"), NOTIFIED);
        assert_eq!(bench.write_at(mode, fd, 0x1ff_ffff << 16, b"x"), NOTIFIED);
        bench.board.maps[0].bits.store(0xffff_fff8_ffff_ffff, SeqCst);
        assert_eq!(bench.write_at(mode, fd, 0, b"x"), 1);
    }
}

/// Runs the test above in a process of its own, in which the stubs have this fault; says whether it passes, and what it said.
fn passes(fault: &str) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().expect("a program"));
    let name = "hot::stub_tests::stubs_mark_what_a_call_may_change_and_make_it_or_leave_it";
    command.args([name, "--exact"]).env(VARIABLE, fault).env_remove("RUST_BACKTRACE");
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts");
    let limit = Instant::now() + Duration::from_secs(30);
    while child.try_wait().expect("ours").is_none() {
        if Instant::now() > limit {
            // Found, too: it hangs.
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().expect("ours");
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn every_fault_of_a_stub_is_found() {
    let (passes_without, said) = passes("");
    assert!(passes_without && said.contains("1 passed"), "{said}");
    for mutant in MUTANTS {
        let (passes, said) = passes(&format!("site.{mutant}:mutate"));
        assert!(!passes, "nobody notices {mutant}: {said}");
        assert!(!said.contains("the stubs have changed"), "{said}");
    }
}

#[test]
fn every_fault_changes_a_stub() {
    let words = Words { board: 1, own: 2, bits: 3, resume: 4, syscall: 5, nr: 6 };
    for mutant in MUTANTS {
        let all = KINDS.map(|kind| (stub(kind, &words), with_fault(mutant, kind, stub(kind, &words))));
        let changed = all.iter().filter(|(right, wrong)| right != wrong).count();
        assert!(changed == 1 || changed == KINDS.len(), "{mutant}: {changed}");
    }
}
