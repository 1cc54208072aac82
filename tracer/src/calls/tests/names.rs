//! Calls by path: names, and what they lead to.
use super::*;

const CWD: u64 = libc::AT_FDCWD as u64;

impl Bench {
    /// open(2) and openat(2) with these flags.
    fn opened(&mut self, name: &str, flags: i32) -> Vec<Effect> {
        let path = self.text(name);
        let found = self.effects(libc::SYS_open, &[at(&path), flags as u64]);
        assert_eq!(self.effects(libc::SYS_openat, &[CWD, at(&path), flags as u64]), found);
        let how = [flags as u64, 0, 0];
        assert_eq!(self.effects(libc::SYS_openat2, &[CWD, at(&path), address(&how), 24]), found);
        found
    }
}

#[test]
fn an_open_makes_a_name_or_cuts_a_file_or_changes_nothing() {
    use libc::{O_CREAT, O_EXCL, O_NOFOLLOW, O_PATH, O_RDWR, O_TMPFILE, O_TRUNC, O_WRONLY};
    let mut bench = Bench::new();
    assert_eq!(bench.opened("file", O_RDWR), []);
    assert_eq!(bench.opened("new", O_CREAT | O_WRONLY), [bench.entry("new")]);
    assert_eq!(bench.opened("file", O_CREAT | O_WRONLY), [bench.entry("file")]);
    assert_eq!(bench.opened("file", O_TRUNC | O_WRONLY), [bench.resize(0)]);
    assert_eq!(bench.opened("link", O_TRUNC | O_WRONLY), [bench.resize(0)]);
    assert_eq!(bench.opened("file", O_CREAT | O_TRUNC), [bench.entry("file"), bench.resize(0)]);
    assert_eq!(bench.opened("dir", O_TRUNC), [], "EISDIR");
    assert_eq!(bench.opened("link", O_TRUNC | O_NOFOLLOW), [], "ELOOP");
    assert_eq!(bench.opened("dangling", O_CREAT), [bench.entry("dangling"), bench.entry("nowhere")]);
    assert_eq!(bench.opened("dangling", O_CREAT | O_EXCL), [bench.entry("dangling")], "EEXIST");
    assert_eq!(bench.opened("dangling", O_CREAT | O_NOFOLLOW), [bench.entry("dangling")], "ELOOP");
    assert_eq!(bench.opened("link", O_CREAT | O_TRUNC | O_EXCL), [bench.entry("link")], "EEXIST");
    assert_eq!(bench.opened("file", O_PATH | O_TRUNC | O_CREAT), [], "O_PATH has other flags ignored");
    assert_eq!(bench.opened("dir", O_TMPFILE | O_RDWR), []);
    assert_eq!(bench.opened("nowhere/new", O_CREAT), [], "ENOENT");
    let path = bench.text("file");
    assert_eq!(bench.effects(libc::SYS_creat, &[at(&path)]), [bench.entry("file"), bench.resize(0)]);
}

#[test]
fn a_path_starts_at_its_descriptor() {
    let mut bench = Bench::new();
    let dir = bench.open("dir", File::options().read(true));
    let (new, up, absolute) = (c"new".to_owned(), c"../file".to_owned(), c"/new".to_owned());
    let create = (libc::O_CREAT | libc::O_TRUNC) as u64;
    assert_eq!(bench.effects(libc::SYS_openat, &[number(&dir), at(&new), create]), [bench.entry_in("dir", "new")]);
    let above = [bench.entry("file"), bench.resize(0)];
    assert_eq!(bench.effects(libc::SYS_openat, &[number(&dir), at(&up), create]), above);
    let in_root = [create, 0, 0x10]; // RESOLVE_IN_ROOT
    let found = bench.effects(libc::SYS_openat2, &[number(&dir), at(&absolute), address(&in_root), 24]);
    assert_eq!(found, [bench.entry_in("dir", "new")]);
    for (nr, args) in [
        (libc::SYS_mkdirat, [number(&dir), at(&new), 0]),
        (libc::SYS_mknodat, [number(&dir), at(&new), 0]),
        (libc::SYS_unlinkat, [number(&dir), at(&new), 0]),
        (libc::SYS_symlinkat, [at(&up), number(&dir), at(&new)]),
    ] {
        assert_eq!(bench.effects(nr, &args), [bench.entry_in("dir", "new")], "{nr}");
    }
}

#[test]
fn truncate_follows_links_and_changes_files() {
    let mut bench = Bench::new();
    for (name, expected) in [("file", true), ("link", true), ("dir", false), ("dangling", false)] {
        let path = bench.text(name);
        let expected: Vec<Effect> = expected.then(|| bench.resize(77)).into_iter().collect();
        assert_eq!(bench.effects(libc::SYS_truncate, &[at(&path), 77]), expected, "{name}");
    }
}

#[test]
fn a_rename_changes_both_names_and_what_is_there() {
    let mut bench = Bench::new();
    let (file, link, new) = (bench.text("file"), bench.text("link"), bench.text("new"));
    let moved = [bench.entry("file"), bench.metadata("file"), bench.entry("new")];
    let replacing = [bench.entry("file"), bench.metadata("file"), bench.entry("link"), bench.metadata("link")];
    assert_eq!(bench.effects(libc::SYS_rename, &[at(&file), at(&new)]), moved);
    for nr in [libc::SYS_renameat, libc::SYS_renameat2] {
        assert_eq!(bench.effects(nr, &[CWD, at(&file), CWD, at(&new)]), moved);
        assert_eq!(bench.effects(nr, &[CWD, at(&file), CWD, at(&link)]), replacing);
    }
    let dir = bench.open("dir", File::options().read(true));
    let (relative, up) = (c"new".to_owned(), c"../file".to_owned());
    let across = [bench.entry("file"), bench.metadata("file"), bench.entry_in("dir", "new")];
    assert_eq!(bench.effects(libc::SYS_renameat, &[number(&dir), at(&up), number(&dir), at(&relative)]), across);
}

#[test]
fn a_link_changes_the_new_name_and_what_it_names() {
    let mut bench = Bench::new();
    let (file, link, new, empty) = (bench.text("file"), bench.text("link"), bench.text("new"), c"".to_owned());
    let to_file = [bench.metadata("file"), bench.entry("new")];
    let to_link = [bench.metadata("link"), bench.entry("new")];
    assert_eq!(bench.effects(libc::SYS_link, &[at(&file), at(&new)]), to_file);
    assert_eq!(bench.effects(libc::SYS_link, &[at(&link), at(&new)]), to_link);
    assert_eq!(bench.effects(libc::SYS_linkat, &[CWD, at(&link), CWD, at(&new), 0]), to_link);
    let follow = libc::AT_SYMLINK_FOLLOW as u64;
    assert_eq!(bench.effects(libc::SYS_linkat, &[CWD, at(&link), CWD, at(&new), follow]), to_file);
    let open = bench.open("file", File::options().read(true));
    let by_descriptor = [number(&open), at(&empty), CWD, at(&new), libc::AT_EMPTY_PATH as u64];
    assert_eq!(bench.effects(libc::SYS_linkat, &by_descriptor), to_file);
}

#[test]
fn making_changes_a_name_and_removing_also_what_it_was() {
    let mut bench = Bench::new();
    let (new, text) = (bench.text("new"), c"whatever".to_owned());
    for (nr, args) in [
        (libc::SYS_mkdir, [at(&new), 0, 0]),
        (libc::SYS_mkdirat, [CWD, at(&new), 0]),
        (libc::SYS_mknod, [at(&new), 0, 0]),
        (libc::SYS_mknodat, [CWD, at(&new), 0]),
        (libc::SYS_symlink, [at(&text), at(&new), 0]),
        (libc::SYS_symlinkat, [at(&text), CWD, at(&new)]),
    ] {
        assert_eq!(bench.effects(nr, &args), [bench.entry("new")], "{nr}");
    }
    for name in ["file", "dir", "link"] {
        let path = bench.text(name);
        let removed = [bench.entry(name), bench.metadata(name)];
        for nr in [libc::SYS_unlink, libc::SYS_rmdir] {
            assert_eq!(bench.effects(nr, &[at(&path)]), removed, "{name}");
        }
        assert_eq!(bench.effects(libc::SYS_unlinkat, &[CWD, at(&path), 0]), removed, "{name}");
    }
}

#[test]
fn a_socket_that_is_bound_is_a_name() {
    let mut bench = Bench::new();
    let mut bound = |family: i32, path: &[u8], length: usize| {
        let mut name = [0u8; 110];
        name[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        name[2..][..path.len()].copy_from_slice(path);
        let decoded = bench.decode(libc::SYS_bind, &[0, address(&name), length as u64]);
        assert_eq!(decoded.moves_names, !decoded.effects.is_empty());
        decoded.effects
    };
    let at_root = |name: &str| {
        let dir = stat::identity(AT_FDCWD, c"/", true).unwrap().id;
        [Effect::Entry { dir, name: OsStr::new(name).to_owned() }]
    };
    assert_eq!(bound(libc::AF_UNIX, b"/socket", 10), at_root("socket"));
    assert_eq!(bound(libc::AF_UNIX, b"/socket", 9), at_root("socket"), "without its NUL");
    assert_eq!(bound(libc::AF_UNIX, b"/socket", 8), at_root("socke"));
    assert_eq!(bound(libc::AF_UNIX, b"/socket", 5000), at_root("socket"), "no longer than it can be");
    assert_eq!(bound(libc::AF_UNIX, b"\0socket", 10), [], "abstract");
    assert_eq!(bound(libc::AF_UNIX, b"", 2), [], "unnamed");
    assert_eq!(bound(libc::AF_INET, b"/socket", 10), []);
    assert_eq!(bound(libc::AF_UNIX, b"/socket", 1), [], "EINVAL");
}

#[test]
fn metadata_by_path_is_that_of_a_link_and_of_what_it_leads_to() {
    let mut bench = Bench::new();
    let (file, link) = (bench.text("file"), bench.text("link"));
    let (of_file, of_both) = ([bench.metadata("file"); 1], [bench.metadata("file"), bench.metadata("link")]);
    let of_file_twice = [of_file[0].clone(), of_file[0].clone()];
    for nr in [libc::SYS_chmod, libc::SYS_chown, libc::SYS_lchown, libc::SYS_setxattr, libc::SYS_utime] {
        assert_eq!(bench.effects(nr, &[at(&file)]), of_file_twice, "{nr}");
        assert_eq!(bench.effects(nr, &[at(&link)]), of_both, "{nr}");
    }
    let open = bench.open("file", File::options().read(true));
    let empty = c"".to_owned();
    for nr in [libc::SYS_fchmodat, libc::SYS_fchownat, libc::SYS_utimensat] {
        assert_eq!(bench.effects(nr, &[CWD, at(&link)]), of_both, "{nr}");
        assert_eq!(bench.effects(nr, &[number(&open), 0]), of_file, "{nr}: no path");
        assert_eq!(bench.effects(nr, &[number(&open), at(&empty)]), of_file, "{nr}: an empty one");
        assert_eq!(bench.effects(nr, &[CWD, 1]), [], "{nr}: EFAULT");
    }
}

#[test]
fn a_path_may_be_as_long_as_the_kernel_takes_it_and_no_longer() {
    let mut bench = Bench::new();
    for (length, expected) in [(4095, true), (2 * 4096, false)] {
        let path = CString::new([vec![b'/'; length - 3], b"new".to_vec()].concat()).unwrap();
        let made = bench.effects(libc::SYS_mkdir, &[at(&path)]);
        assert_eq!(made.len(), usize::from(expected), "{length}");
    }
}

#[test]
fn a_path_in_a_scope_starts_again_at_its_root_with_every_link() {
    let mut bench = Bench::new();
    for (target, link) in [("/new", "absolute"), ("../../newer", "above"), ("second", "first"), ("/file", "second")] {
        std::os::unix::fs::symlink(target, bench.path("dir").join(link)).unwrap();
    }
    File::create(bench.path("dir/file")).unwrap();
    let dir = bench.open("dir", File::options().read(true));
    let cut = |bench: &Bench| Effect::Resize { file: bench.id("dir/file"), len: 0 };
    for (name, made, expected_cut) in [
        (c"absolute", vec!["absolute", "new"], false),
        (c"above", vec!["above", "newer"], false),
        (c"/../first", vec!["first", "second", "file"], true),
    ] {
        let how = [(libc::O_CREAT | libc::O_TRUNC) as u64, 0, 0x10]; // RESOLVE_IN_ROOT
        let name = name.to_owned();
        let found = bench.effects(libc::SYS_openat2, &[number(&dir), at(&name), address(&how), 24]);
        let mut expected: Vec<Effect> = made.into_iter().map(|made| bench.entry_in("dir", made)).collect();
        expected.extend(expected_cut.then(|| cut(&bench)));
        assert_eq!(found, expected, "{name:?}");
    }
}

#[test]
fn a_scoped_path_that_grows_too_long_by_its_links_ends_the_backup() {
    let mut bench = Bench::new();
    // Each link leads to the next through a long way that goes nowhere.
    let way = "./".repeat(1000);
    for link in 0..4 {
        std::os::unix::fs::symlink(format!("{way}{}", link + 1), bench.path("dir").join(link.to_string())).unwrap();
    }
    let dir = bench.open("dir", File::options().read(true));
    let (name, how) = (c"0".to_owned(), [libc::O_CREAT as u64, 0, 0x10]);
    let decoded = bench.decode_any(libc::SYS_openat2, &[number(&dir), at(&name), address(&how), 24]);
    assert!(decoded.blind.is_some(), "{decoded:?}");
}
