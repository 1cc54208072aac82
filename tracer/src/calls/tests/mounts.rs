//! Calls that change where paths lead.
use super::*;

/// Whatever is called, it is ordered among the calls by path, both ways, and waited for.
fn ordered(bench: &mut Bench, nr: i64, args: &[u64]) -> Vec<Effect> {
    let decoded = bench.decode(nr, args);
    assert!(decoded.moves_names && decoded.redirects && decoded.awaited, "{nr}: {decoded:?}");
    decoded.effects
}

#[test]
fn a_new_root_or_working_directory_is_ordered_among_the_calls_by_path() {
    let mut bench = Bench::new();
    let path = bench.text("dir");
    let dir = bench.open("dir", File::options().read(true));
    for (nr, argument) in
        [(libc::SYS_chdir, at(&path)), (libc::SYS_chroot, at(&path)), (libc::SYS_fchdir, number(&dir))]
    {
        assert_eq!(ordered(&mut bench, nr, &[argument]), []);
    }
}

#[test]
fn what_is_mounted_on_cannot_be_followed_any_more() {
    let mut bench = Bench::new();
    let (dir, file, empty) = (bench.text("dir"), bench.text("file"), c"".to_owned());
    let open = bench.open("dir", File::options().read(true));
    let gone = |name: &str, bench: &Bench| Effect::Untraceable {
        file: bench.id(name),
        cause: "a mount there that came, went or moved",
    };
    let (on_dir, on_file) = (gone("dir", &bench), gone("file", &bench));
    let (bind, moves) = (libc::MS_BIND, libc::MS_MOVE);
    let (cwd, from) = (libc::AT_FDCWD as u64, number(&open));
    for (nr, args, expected) in [
        (libc::SYS_mount, vec![at(&file), at(&dir), 0, bind, 0], vec![&on_dir]),
        (libc::SYS_mount, vec![at(&file), at(&dir), 0, moves, 0], vec![&on_dir, &on_file]),
        (libc::SYS_mount, vec![0, at(&dir), 0, libc::MS_REMOUNT | bind, 0], vec![]),
        (libc::SYS_mount, vec![0, at(&dir), 0, libc::MS_PRIVATE | libc::MS_REC, 0], vec![]),
        (libc::SYS_umount2, vec![at(&dir), 0], vec![&on_dir]),
        (libc::SYS_pivot_root, vec![at(&dir), at(&file)], vec![&on_dir, &on_file]),
        (libc::SYS_move_mount, vec![cwd, at(&dir), cwd, at(&file), 0], vec![&on_dir, &on_file]),
        (libc::SYS_move_mount, vec![from, at(&empty), cwd, at(&file), 4], vec![&on_dir, &on_file]),
        (libc::SYS_umount2, vec![1, 0], vec![]),
    ] {
        let expected: Vec<Effect> = expected.into_iter().cloned().collect();
        assert_eq!(ordered(&mut bench, nr, &args), expected, "{nr}");
    }
}
