use super::*;
use std::fs;
use std::path::Path;

/// A directory that is tracked, and an identity to look for in it.
fn dir(path: &Path) -> Arc<Dir> {
    let fd = sys::open_dir(rustix::fs::CWD, path.as_os_str()).unwrap();
    Arc::new(Dir::new(sys::stat_fd(&fd).unwrap().id, fd, DirState::default()))
}

fn id_of(path: &Path) -> FileId {
    sys::stat_at(rustix::fs::CWD, path.as_os_str()).unwrap().id
}

fn link(dir: &Arc<Dir>, name: &str) -> Link {
    Link { dir: Arc::clone(dir), name: Arc::from(OsStr::new(name)), via: None }
}

/// The file that lies at `path` now, known under these names.
fn known(path: &Path, links: Vec<Link>) -> File {
    let file = File::new(id_of(path), 0, Stat::default());
    file.state().links = links;
    file
}

#[test]
fn a_link_is_a_name_in_a_directory() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("sub")).unwrap();
    let (here, sub) = (dir(temp.path()), dir(&temp.path().join("sub")));
    let a = link(&here, "a");
    assert!(a.is(&here, OsStr::new("a")));
    assert!(!a.is(&here, OsStr::new("b")));
    assert!(!a.is(&sub, OsStr::new("a")));
    assert!(!a.is(&sub, OsStr::new("b")));
}

#[test]
fn a_file_is_found_by_any_name_that_still_leads_to_it() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("file"), b"content").unwrap();
    // Names that lead to something else, each in its own way, before the one that is right.
    fs::write(at("another"), b"other").unwrap();
    fs::create_dir(at("dir")).unwrap();
    std::os::unix::fs::symlink("file", at("symlink")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let here = dir(temp.path());
    let names = ["gone", "another", "dir", "symlink", "socket", "file"];
    let file = known(&at("file"), names.iter().map(|name| link(&here, name)).collect());
    let opened = file.open().unwrap();
    assert_eq!((opened.size, sys::stat_fd(&opened.fd).unwrap().id), (7, file.id));
    assert_eq!(file.look().unwrap().unwrap().id, file.id);
    for count in 0..names.len() {
        let file = known(&at("file"), names[..count].iter().map(|name| link(&here, name)).collect());
        assert!(matches!(file.open(), Err(OpenError::Moved)), "{count}");
        assert!(file.look().unwrap().is_none(), "{count}");
    }
}

#[test]
fn what_cannot_be_looked_at_is_not_taken_for_gone() {
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path().join("file");
    fs::write(&at, b"content").unwrap();
    let here = dir(temp.path());
    // ENAMETOOLONG.
    let file = known(&at, vec![link(&here, &"n".repeat(300)), link(&here, "file")]);
    assert!(matches!(file.open(), Err(OpenError::Io(_))));
    assert!(file.look().is_err());
}

#[test]
fn an_opened_file_is_the_one_it_was() {
    let temp = tempfile::tempdir().unwrap();
    let [at, another] = ["file", "another"].map(|name| temp.path().join(name));
    fs::write(&at, b"content").unwrap();
    fs::write(&another, b"content").unwrap();
    let here = dir(temp.path());
    let opened = known(&at, vec![link(&here, "file")]).open().unwrap();
    assert!(opened.is(id_of(&at)).unwrap());
    assert!(!opened.is(id_of(&another)).unwrap());
}

#[test]
fn a_hash_of_what_a_staged_file_was_before_does_not_stay() {
    let file = File::new(FileId { dev: 1, ino: 2, btime_ns: 3 }, 0, Stat::default());
    let mut state = file.state();
    state.hash = Some(Box::new(StagedHash { hash: Digest::Plain(blake3::hash(b"")), size: 0 }));
    let version = state.version;
    state.changes();
    assert!(state.hash.is_none());
    assert_ne!(state.version, version);
}

#[test]
fn a_file_is_open_as_long_as_blocks_or_attributes_are_to_be_read() {
    let file = File::new(FileId { dev: 1, ino: 2, btime_ns: 3 }, 0, Stat { size: 1, ..Stat::default() });
    let mut state = file.state();
    assert!(state.is_open());
    state.xattrs = Xattrs::known(Vec::new());
    assert!(state.is_open());
    state.map.claim(0..1);
    assert!(state.is_open());
    state.map.done(0..1);
    assert!(!state.is_open());
    state.xattrs = Xattrs::Claimed;
    assert!(state.is_open());
}

#[test]
fn only_what_has_capabilities_may_lose_them() {
    let known =
        |names: &[&std::ffi::CStr]| Xattrs::known(names.iter().map(|name| ((*name).to_owned(), vec![])).collect());
    assert!(Xattrs::Due.may_be_stripped() && Xattrs::Claimed.may_be_stripped());
    assert!(!known(&[]).may_be_stripped() && !known(&[c"user.a"]).may_be_stripped());
    assert!(known(&[c"user.a", c"security.capability"]).may_be_stripped());
}
