//! What decides about the order of calls by path: which may lead paths elsewhere, and which may yet find something.
use super::*;

impl Bench {
    /// A call with two paths, or a path and a number.
    fn decode_paths(&mut self, nr: i64, first: &str, second: Result<&str, i32>) -> Decoded {
        let (first, path) = (self.text(first), self.text(second.unwrap_or_default()));
        let second = second.map_or_else(|number| number as u64, |_| path.as_ptr() as u64);
        self.decode_any(nr, &[at(&first), second])
    }

    fn redirects(&mut self, nr: i64, first: &str, second: &str) -> bool {
        let decoded = self.decode_paths(nr, first, Ok(second));
        assert!(decoded.moves_names, "{decoded:?}");
        decoded.redirects
    }
}

#[test]
fn what_moves_a_directory_or_a_link_waits_for_all_calls_by_path_and_what_moves_a_file_does_not() {
    let mut bench = Bench::new();
    for (from, to, expected) in [
        ("file", "new", false),
        ("new", "file", false),
        ("dir", "new", true),
        ("link", "new", true),
        ("file", "link", true),
        ("file", "dir", true),
    ] {
        assert_eq!(bench.redirects(libc::SYS_rename, from, to), expected, "{from} to {to}");
    }
    assert!(!bench.redirects(libc::SYS_link, "file", "new"));
    assert!(bench.redirects(libc::SYS_link, "link", "new"));
    assert!(bench.redirects(libc::SYS_symlink, "whatever", "new"));
}

#[test]
fn making_a_directory_waits_for_all_calls_by_path_and_removing_does_not() {
    let mut bench = Bench::new();
    for nr in [libc::SYS_rmdir, libc::SYS_unlink, libc::SYS_creat] {
        assert!(!bench.decode_paths(nr, "dir", Err(0o600)).redirects, "{nr}");
    }
    let made = bench.decode_paths(libc::SYS_mkdir, "new", Err(0o700));
    assert!(made.moves_names && made.redirects);
    assert!(!bench.decode_paths(libc::SYS_unlink, "file", Err(0)).moves_names);
    assert!(bench.decode_paths(libc::SYS_unlink, "link", Err(0)).moves_names);
    assert!(!bench.decode_paths(libc::SYS_creat, "new", Err(0o600)).moves_names);
}

#[test]
fn a_path_that_leads_nowhere_may_lead_somewhere_when_the_call_runs() {
    let mut bench = Bench::new();
    for (nr, path, awaited) in [
        (libc::SYS_creat, "nowhere/new", true),
        (libc::SYS_truncate, "nowhere", true),
        (libc::SYS_chmod, "nowhere", true),
        (libc::SYS_chmod, "dir/new", true),
        (libc::SYS_chmod, "file", false),
        (libc::SYS_truncate, "file", false),
    ] {
        let decoded = bench.decode_paths(nr, path, Err(0));
        assert_eq!(decoded.awaited, awaited, "{nr} {path}: {decoded:?}");
    }
}

#[test]
fn what_makes_a_file_shorter_says_so_for_appends() {
    let mut bench = Bench::new();
    let (file, id) = (bench.open("file", File::options().read(true)), bench.id("file"));
    let mut lengths = |nr: i64, second: i32| -> Vec<u64> {
        let length = |effect: &Effect| match effect {
            Effect::Resize { file, len } if *file == id => Some(*len),
            _ => None,
        };
        bench.effects(nr, &[number(&file), second as u64, 4096, 4096]).iter().filter_map(length).collect()
    };
    assert_eq!(lengths(libc::SYS_fallocate, libc::FALLOC_FL_COLLAPSE_RANGE), [4096]);
    assert_eq!(lengths(libc::SYS_fallocate, libc::FALLOC_FL_INSERT_RANGE), [4096]);
    assert_eq!(lengths(libc::SYS_fallocate, libc::FALLOC_FL_ZERO_RANGE), [0; 0]);
    assert_eq!(lengths(libc::SYS_ioctl, 0x6611), [0]); // EXT4_IOC_SWAP_BOOT
}
