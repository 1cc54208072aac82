//! The rows that call sites concern, with the calls made by the C library's own functions, which are captured at their sites: what is
//! marked by code of ours in the guest is in the backup exactly if it came before the point in time, and what a number means to
//! that code is never what it meant before.
use std::time::{Duration, Instant};

use hotbackup_tracer::Tracer;
use nix::libc::{self, O_APPEND, O_RDWR, O_WRONLY};

use super::bench::{Bench, Fs, compare};
use super::content::{AT, SIZE, opened};
use crate::call;
use crate::common::driver::{Arg, bytes, filled, vectors};
use crate::common::moment::{MOMENTS, back_up_capturing};
use crate::common::snapshot::Snapshot;

/// A busy machine takes long to find sites and descriptors, and no longer than this.
const LIMIT: Duration = Duration::from_secs(60);
/// Not where the changes are made: another block.
const ELSEWHERE: i64 = 10;

/// A call at its site, which is done again and again until it is not shown any more, and the change that is then made.
struct Captured<W, C> {
    settle: W,
    change: C,
}

/// Proves that a change is in a backup exactly if it came before the point in time, where calls are captured at their sites.
fn proven<W, C>(set_up: impl Fn(&mut Bench) -> Captured<W, C>)
where
    W: FnMut(&mut Bench) + Send,
    C: FnOnce(&mut Bench) + Send,
{
    proven_and_shown(0, set_up);
}

/// The same of a change of which at least so many calls must be shown all the same.
fn proven_and_shown<W, C>(count: u64, set_up: impl Fn(&mut Bench) -> Captured<W, C>)
where
    W: FnMut(&mut Bench) + Send,
    C: FnOnce(&mut Bench) + Send,
{
    let mut guest = None;
    for moment in MOMENTS {
        let mut bench = Bench::new(Fs::Here, guest);
        let Captured { mut settle, change } = set_up(&mut bench);
        let (pid, dir, dest) = (bench.guest.pid(), bench.dir.clone(), bench.dest.clone());
        let mut seen = None;
        let result = back_up_capturing(pid, &dir, &dest, moment, true, |tracer| {
            if moment.is_before() {
                until_unshown(tracer, &mut bench, &mut settle);
            }
            let (before, shown) = (Snapshot::of(&dir), tracer.received());
            change(&mut bench);
            let shown = tracer.received() - shown;
            assert!(shown >= count, "{moment:?}: {shown} calls were shown, not {count}");
            seen = Some((before, Snapshot::of(&dir)));
        });
        bench.guest.assert_alive();
        let report = result.unwrap_or_else(|failure| panic!("{moment:?}: the backup failed: {}", failure.0));
        let (before, after) = seen.expect("the change was made");
        assert!(!before.differences(&after).is_empty(), "{moment:?}: nothing is proven");
        compare(moment, if moment.is_before() { &after } else { &before }, &dest, &format!("{report:?}"));
        guest = Some(bench.guest);
    }
}

fn until_unshown(tracer: &Tracer, bench: &mut Bench, settle: &mut impl FnMut(&mut Bench)) {
    let began = Instant::now();
    loop {
        let shown = tracer.received();
        settle(bench);
        // With the answer's own write.
        if tracer.received() == shown {
            return;
        }
        assert!(began.elapsed() < LIMIT, "its calls are not captured at their sites: {:?} are", tracer.sites());
    }
}

/// Does a call by the C library; the count that it returns must be the one that is expected.
fn must(at: &mut Bench, nr: i64, arguments: &[Arg], count: usize) {
    let returned = at.guest.by_libc(nr, arguments);
    assert_eq!(returned, count as i64, "what call {nr} returned to the guest");
}

fn pwrite(at: &mut Bench, fd: i32, count: usize, offset: i64) {
    must(at, libc::SYS_pwrite64, &[fd.into(), filled(b'p', count), count.into(), offset.into()], count);
}

/// What settles by writes of a few bytes through a descriptor, in the first block.
fn by_writing(fd: i32) -> impl FnMut(&mut Bench) {
    move |at| pwrite(at, fd, 5, ELSEWHERE)
}

/// A pwrite of `count` bytes at `offset` to a file of several blocks.
fn pwritten(count: usize, offset: i64) {
    proven(|at| {
        let fd = opened(at, O_RDWR);
        Captured { settle: by_writing(fd), change: move |at: &mut Bench| pwrite(at, fd, count, offset) }
    });
}

#[test]
fn at_its_site_pwrite64() {
    pwritten(7, AT);
}

/// There is a pipe of that number, too: standard output.
#[test]
fn at_its_site_pwrite64_of_one_byte() {
    proven(|at| {
        let fd = opened(at, O_RDWR);
        Captured {
            settle: move |at: &mut Bench| pwrite(at, fd, 1, ELSEWHERE),
            change: move |at: &mut Bench| pwrite(at, fd, 1, AT),
        }
    });
}

#[test]
fn at_its_site_pwrite64_over_a_blocks_border() {
    pwritten(10, 2 * 65_536 - 5);
}

#[test]
fn at_its_site_pwrite64_over_several_blocks() {
    pwritten(200_000, 65_000);
}

#[test]
fn at_its_site_pwrite64_beyond_the_end() {
    pwritten(70_000, 1 << 20);
}

#[test]
fn at_its_site_pwrite64_to_a_file_opened_with_o_append() {
    proven(|at| {
        let (fd, appends) = (opened(at, O_RDWR), opened(at, O_RDWR | O_APPEND));
        Captured { settle: by_writing(fd), change: move |at: &mut Bench| pwrite(at, appends, 70_000, 5) }
    });
}

/// A call that is never captured for a file, at a site that is, for what is no file.
fn beside_what_is_no_file(nr: i64, arguments: fn() -> Vec<Arg>, count: usize) {
    proven(|at| {
        let fd = opened(at, O_RDWR);
        call!(at.guest, libc::SYS_lseek, fd, AT, libc::SEEK_SET);
        let null = at.guest.open("/dev/null", O_WRONLY);
        let to = move |fd: i32| [vec![fd.into()], arguments()].concat();
        Captured {
            settle: move |at: &mut Bench| must(at, nr, &to(null), count),
            change: move |at: &mut Bench| must(at, nr, &to(fd), count),
        }
    });
}

#[test]
fn at_its_site_write() {
    beside_what_is_no_file(libc::SYS_write, || vec![bytes(b"written"), 7.into()], 7);
}

#[test]
fn at_its_site_writev() {
    beside_what_is_no_file(libc::SYS_writev, || vec![vectors(&[b"in ", b"two"]), 2.into()], 6);
}

#[test]
fn at_its_site_pwritev() {
    beside_what_is_no_file(libc::SYS_pwritev, || vec![vectors(&[b"in ", b"two"]), 2.into(), AT.into(), 0.into()], 6);
}

#[test]
fn at_its_site_pwritev2() {
    let arguments = || vec![vectors(&[b"in ", b"two"]), 2.into(), AT.into(), 0.into(), 0.into()];
    beside_what_is_no_file(libc::SYS_pwritev2, arguments, 6);
}

/// A number is known as one file's, and becomes that of another, which is written to next.
fn another_file(becomes: fn(&mut Bench, known: i32, other: i32)) {
    proven(|at| {
        let path = at.file("known", SIZE);
        let (known, other) = (at.guest.open(&path, O_RDWR), opened(at, O_RDWR));
        Captured {
            settle: by_writing(known),
            change: move |at: &mut Bench| {
                becomes(at, known, other);
                pwrite(at, known, 7, AT);
            },
        }
    });
}

#[test]
fn at_its_site_dup2() {
    another_file(|at, known, other| {
        at.guest.by_libc(libc::SYS_dup2, &[other.into(), known.into()]);
    });
}

#[test]
fn at_its_site_dup3() {
    another_file(|at, known, other| {
        at.guest.by_libc(libc::SYS_dup3, &[other.into(), known.into(), libc::O_CLOEXEC.into()]);
    });
}

/// The lowest free number is the next one's.
fn to_the_same_number(at: &mut Bench, known: i32, other: i32) {
    let next = call!(at.guest, libc::SYS_dup, other);
    assert_eq!(next, i64::from(known), "the number is another's");
}

#[test]
fn at_its_site_close() {
    another_file(|at, known, other| {
        at.guest.by_libc(libc::SYS_close, &[known.into()]);
        to_the_same_number(at, known, other);
    });
}

/// By a site that is patched itself: what closes a number that is known goes back to its own syscall.
#[test]
fn at_its_site_close_at_a_site_of_its_own() {
    proven(|at| {
        let path = at.file("known", SIZE);
        let (known, other) = (at.guest.open(&path, O_RDWR), opened(at, O_RDWR));
        Captured {
            settle: move |at: &mut Bench| {
                // One that nothing is known of.
                let unknown = call!(at.guest, libc::SYS_dup, other) as i32;
                at.guest.by_libc(libc::SYS_close, &[unknown.into()]);
                pwrite(at, known, 5, ELSEWHERE);
            },
            change: move |at: &mut Bench| {
                at.guest.by_libc(libc::SYS_close, &[known.into()]);
                to_the_same_number(at, known, other);
                pwrite(at, known, 7, AT);
            },
        }
    });
}

#[test]
fn at_its_site_close_range() {
    another_file(|at, known, other| {
        at.guest.by_libc(libc::SYS_close_range, &[known.into(), known.into(), 0.into()]);
        to_the_same_number(at, known, other);
    });
}

/// It appends from then on, wherever it is told to write. (What a file grows by is found by its size, too: so this is asked for
/// itself.)
#[test]
fn at_its_site_fcntl() {
    proven_and_shown(2, |at| {
        let fd = opened(at, O_RDWR);
        Captured {
            settle: by_writing(fd),
            change: move |at: &mut Bench| {
                at.guest.by_libc(libc::SYS_fcntl, &[fd.into(), libc::F_SETFL.into(), O_APPEND.into()]);
                pwrite(at, fd, 70_000, ELSEWHERE);
            },
        }
    });
}

/// A child that has the number for another file.
#[test]
fn at_its_site_pwrite64_of_a_child() {
    proven(|at| {
        let path = at.file("known", SIZE);
        let (known, other) = (at.guest.open(&path, O_RDWR), opened(at, O_RDWR));
        Captured {
            settle: by_writing(known),
            change: move |at: &mut Bench| {
                at.guest.in_child();
                pwrite(at, other, 7, AT);
                at.guest.by_libc(libc::SYS_dup2, &[other.into(), known.into()]);
                pwrite(at, known, 7, AT + 65_536);
                at.guest.end();
            },
        }
    });
}

/// Between backups the calls are made by code of ours: they do and return what they did without.
#[test]
fn between_backups_calls_at_their_sites_are_what_they_are_without() {
    let mut bench = Bench::new(Fs::Here, None);
    let fd = opened(&mut bench, O_RDWR);
    let (pid, dir, dest) = (bench.guest.pid(), bench.dir.clone(), bench.dest.clone());
    let result = back_up_capturing(pid, &dir, &dest, MOMENTS[0], true, |tracer| {
        until_unshown(tracer, &mut bench, &mut by_writing(fd));
    });
    result.unwrap_or_else(|failure| panic!("the backup failed: {}", failure.0));
    for round in 0..20 {
        pwrite(&mut bench, fd, 1000 + round, 1 << 20);
        assert_eq!(bench.guest.by_libc(libc::SYS_write, &[fd.into(), bytes(b"written"), 7.into()]), 7);
    }
    assert_eq!(call!(bench.guest, libc::SYS_lseek, fd, 0, libc::SEEK_CUR), 140);
    assert!(std::fs::read(dir.join("file")).expect("readable")[..7] == *b"written");
    bench.guest.assert_alive();
}
