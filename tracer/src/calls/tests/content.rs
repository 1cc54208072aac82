//! Calls that change content, by descriptor.
use std::io::{Seek, SeekFrom, Write};

use super::*;

/// The file, open for writing, with its position at 100.
fn at_100(bench: &Bench) -> File {
    let mut file = bench.open("file", File::options().read(true).write(true));
    file.seek(SeekFrom::Start(100)).unwrap();
    file
}

/// The lengths of an iovec array.
fn vector(lengths: &[u64]) -> Vec<[u64; 2]> {
    lengths.iter().map(|&length| [0, length]).collect()
}

#[test]
fn a_write_changes_what_is_at_the_position() {
    let mut bench = Bench::new();
    let file = at_100(&bench);
    assert_eq!(bench.effects(libc::SYS_write, &[number(&file), 0, 50]), [bench.content(100, 150)]);
    assert_eq!(bench.effects(libc::SYS_write, &[number(&file), 0, 0]), []);
    let most = [bench.content(100, u64::MAX)];
    assert_eq!(bench.effects(libc::SYS_write, &[number(&file), 0, u64::MAX]), most);
}

#[test]
fn a_write_to_an_appending_descriptor_appends() {
    let mut bench = Bench::new();
    let file = bench.open("file", File::options().append(true));
    assert_eq!(bench.effects(libc::SYS_write, &[number(&file), 0, 50]), [bench.append()]);
}

/// It may be reopened by then, under the same number.
#[test]
fn a_write_to_what_is_not_open_for_writing_may_change_the_whole_file() {
    let mut bench = Bench::new();
    let file = bench.open("file", File::options().read(true));
    assert_eq!(bench.effects(libc::SYS_write, &[number(&file), 0, 50]), [bench.whole()]);
}

#[test]
fn a_write_to_what_is_no_file_changes_none() {
    let mut bench = Bench::new();
    let device = File::create("/dev/null").unwrap();
    for nr in [libc::SYS_write, libc::SYS_pwrite64, libc::SYS_sendfile, libc::SYS_ftruncate, libc::SYS_fallocate] {
        assert_eq!(bench.effects(nr, &[number(&device), 0, 50, 50]), []);
        assert_eq!(bench.effects(nr, &[9999, 0, 50, 50]), [], "nothing is open there");
    }
}

#[test]
fn a_vector_is_as_long_as_its_parts_together() {
    let mut bench = Bench::new();
    let file = at_100(&bench);
    let parts = vector(&[30, 0, 20]);
    let mut written = |parts: &[[u64; 2]]| {
        bench.effects(libc::SYS_writev, &[number(&file), parts.as_ptr() as u64, parts.len() as u64])
    };
    let (some, most, too_many) = (written(&parts), written(&vector(&[1; 1024])), written(&vector(&[1; 1025])));
    assert_eq!(some, [bench.content(100, 150)]);
    assert_eq!(most, [bench.content(100, 1124)]);
    assert_eq!(too_many, [], "EINVAL");
    let unreadable = bench.effects(libc::SYS_writev, &[number(&file), 1, 1]);
    assert_eq!(unreadable, [bench.content(100, u64::MAX)], "it may be readable when the call runs");
}

/// On a descriptor with O_APPEND they append all the same.
#[test]
fn a_write_at_an_offset_changes_what_is_there_or_appends() {
    let mut bench = Bench::new();
    let file = at_100(&bench);
    let parts = vector(&[30, 20]);
    let expected = [bench.content(7, 57), bench.append()];
    assert_eq!(bench.effects(libc::SYS_pwrite64, &[number(&file), 0, 50, 7]), expected);
    for nr in [libc::SYS_pwritev, libc::SYS_pwritev2] {
        assert_eq!(bench.effects(nr, &[number(&file), parts.as_ptr() as u64, 2, 7]), expected);
    }
    assert_eq!(bench.effects(libc::SYS_pwrite64, &[number(&file), 0, 0, 7]), [bench.append()]);
}

#[test]
fn pwritev2_without_an_offset_writes_at_the_position_or_as_its_flags_say() {
    const HIGH_PRIORITY: u64 = 1; // RWF_HIPRI
    let mut bench = Bench::new();
    let file = at_100(&bench);
    let parts = vector(&[30, 20]);
    let mut written =
        |flags: u64| bench.effects(libc::SYS_pwritev2, &[number(&file), parts.as_ptr() as u64, 2, u64::MAX, 0, flags]);
    let (plain, append, no_append) = (written(HIGH_PRIORITY), written(0x10), written(0x20));
    assert_eq!(plain, [bench.content(100, 150)]);
    for with_flag in [append, no_append] {
        assert_eq!(with_flag, [bench.whole(), bench.append(), bench.content(100, 150)]);
    }
}

#[test]
fn ftruncate_changes_the_length() {
    let mut bench = Bench::new();
    let file = at_100(&bench);
    assert_eq!(bench.effects(libc::SYS_ftruncate, &[number(&file), 77]), [bench.resize(77)]);
}

#[test]
fn fallocate_changes_a_range_or_all_behind_it() {
    let mut bench = Bench::new();
    let file = at_100(&bench);
    let mut allocated = |mode: i32| bench.effects(libc::SYS_fallocate, &[number(&file), mode as u64, 4096, 8192]);
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    let ranges =
        [0, KEEP, libc::FALLOC_FL_PUNCH_HOLE | KEEP, libc::FALLOC_FL_ZERO_RANGE, libc::FALLOC_FL_UNSHARE_RANGE];
    let ranges = ranges.map(&mut allocated);
    let moved = [libc::FALLOC_FL_COLLAPSE_RANGE, libc::FALLOC_FL_INSERT_RANGE].map(allocated);
    for range in ranges {
        assert_eq!(range, [bench.content(4096, 12288)]);
    }
    for moved in moved {
        assert_eq!(moved, [bench.resize(4096)]);
    }
}

#[test]
fn a_copy_goes_to_the_offset_in_memory_or_to_the_position() {
    let mut bench = Bench::new();
    let file = at_100(&bench);
    let offset = 5u64;
    for nr in [libc::SYS_copy_file_range, libc::SYS_splice] {
        assert_eq!(bench.effects(nr, &[0, 0, number(&file), 0, 50]), [bench.content(100, 150)]);
        let there = [bench.content(5, 55), bench.append()];
        assert_eq!(bench.effects(nr, &[0, 0, number(&file), address(&offset), 50]), there);
        assert_eq!(bench.effects(nr, &[0, 0, number(&file), 1, 50]), [], "EFAULT");
    }
    assert_eq!(bench.effects(libc::SYS_sendfile, &[number(&file), 0, 0, 50]), [bench.content(100, 150)]);
}

#[test]
fn metadata_by_descriptor_is_that_of_whatever_is_open() {
    let mut bench = Bench::new();
    for nr in [libc::SYS_fchmod, libc::SYS_fchown, libc::SYS_fsetxattr, libc::SYS_fremovexattr] {
        for name in ["file", "dir"] {
            let open = bench.open(name, File::options().read(true));
            assert_eq!(bench.effects(nr, &[number(&open)]), [bench.metadata(name)]);
        }
        assert_eq!(bench.effects(nr, &[9999]), []);
    }
}

/// What grace waits for, where 8-byte writes are not shown.
#[test]
fn what_moves_a_position_or_closes_a_file_is_waited_for_and_changes_nothing() {
    let mut bench = Bench::new();
    let (file, reading) = (at_100(&bench), bench.open("file", File::options().read(true)));
    let device = File::create("/dev/null").unwrap();
    let mut net = |nr: i64, args: [u64; 3]| {
        let [a, b, c] = args;
        let decoded = bench.trial.decode(row(nr).unwrap(), [a, b, c, 0, 0, 0], true);
        assert_eq!((decoded.effects, decoded.blind), (vec![], None), "{nr}");
        decoded.awaited
    };
    let writes = File::options().write(true).open(bench.dir.path().join("file")).unwrap();
    assert!(net(libc::SYS_lseek, [number(&file), 7, libc::SEEK_SET as u64]));
    assert!(!net(libc::SYS_lseek, [number(&reading), 7, libc::SEEK_SET as u64]));
    assert!(!net(libc::SYS_lseek, [number(&device), 7, libc::SEEK_SET as u64]));
    // It is known by the seek.
    assert!(net(libc::SYS_close, [number(&file), 0, 0]));
    assert!(!net(libc::SYS_close, [number(&reading), 0, 0]));
    assert!(!net(libc::SYS_close, [number(&device), 0, 0]));
    let range = [number(&writes), number(&writes), 0];
    assert!(net(libc::SYS_close_range, range), "a close leaves duplicates to be looked for");
}

/// Other threads may write until it is replaced.
#[test]
fn a_replaced_descriptor_may_be_written_through_until_it_is() {
    let mut bench = Bench::new();
    let log = File::options().append(true).open(bench.dir.path().join("file")).unwrap();
    let files =
        [at_100(&bench), log, bench.open("file", File::options().read(true)), File::create("/dev/null").unwrap()];
    for nr in [libc::SYS_dup2, libc::SYS_dup3] {
        bench.trial.unexplained(); // a look, by which they are known
        let expected = [vec![bench.content(100, 100 + (64 << 10))], vec![bench.append()], vec![], vec![]];
        for (file, expected) in files.iter().zip(expected) {
            let decoded = bench.trial.decode(row(nr).unwrap(), [0, number(file), 0, 0, 0, 0], true);
            assert_eq!((decoded.awaited, decoded.effects), (!expected.is_empty(), expected), "{nr}");
        }
    }
}

#[test]
fn an_open_for_writing_says_from_where_its_descriptor_may_write() {
    let mut bench = Bench::new();
    let name = bench.text("file");
    bench.trial.unexplained();
    let flags = (libc::O_WRONLY | libc::O_APPEND) as u64;
    bench.trial.decode(row(libc::SYS_open).unwrap(), [name.as_ptr() as u64, flags, 0, 0, 0, 0], true);
    let expected = bench.append();
    let mut log = bench.open("file", File::options().append(true));
    log.write_all(&[1; 8]).unwrap();
    let id = bench.id("file");
    let found: Vec<_> = bench.trial.unexplained().into_iter().filter(|effect| effect.subject() == id).collect();
    assert_eq!(found, [expected]);
}

#[test]
fn a_seek_explains_where_the_position_is() {
    let mut bench = Bench::new();
    let mut file = at_100(&bench);
    let of_file = |bench: &Bench| {
        let id = bench.id("file");
        bench.trial.unexplained().into_iter().filter(|effect| effect.subject() == id).collect::<Vec<_>>()
    };
    of_file(&bench);
    for (to, whence, offset) in [
        (SeekFrom::Start(7), libc::SEEK_SET, 7),
        (SeekFrom::Current(70), libc::SEEK_CUR, 70),
        (SeekFrom::Current(-20), libc::SEEK_CUR, -20),
        (SeekFrom::End(-1), libc::SEEK_END, -1i64),
    ] {
        let args = [number(&file), offset as u64, whence as u64, 0, 0, 0];
        bench.trial.decode(row(libc::SYS_lseek).unwrap(), args, true);
        file.seek(to).unwrap();
        assert_eq!(of_file(&bench), [], "{to:?}");
    }
    file.seek(SeekFrom::Start(9)).unwrap();
    assert_eq!(of_file(&bench), [bench.content(9, SIZE - 1)], "nobody has shown this one");
}

#[test]
fn where_another_call_is_about_to_move_the_position_the_whole_file_may_change() {
    let mut bench = Bench::new();
    std::fs::write(bench.path("other"), b"other").unwrap();
    let file = at_100(&bench);
    bench.trial.another_is_held_at(bench.id("other"));
    assert_eq!(bench.effects(libc::SYS_write, &[number(&file), 0, 50]), [bench.content(100, 150)]);
    bench.trial.another_is_held_at(bench.id("file"));
    assert_eq!(bench.effects(libc::SYS_write, &[number(&file), 0, 50]), [bench.whole()]);
}
