//! What a look makes of marks, step by step: of those that it has no time for, and of names that have changed since.
use super::{Entry, Look, Tree};
use crate::Capture;
use crate::base::sys;
use crate::marks::lease::Hold;
use crate::marks::ledger::Ledger;
use crate::{Error, Point, Source, Spec, Tuning};
use hotbackup_event::{Effect, FileId};
use rustix::fs::{CWD, Mode};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Bench {
    temp: tempfile::TempDir,
    ledger: Arc<Ledger>,
    capture: Capture<()>,
    tree: Tree,
}

/// There is no time at all.
fn late() -> Look<'static> {
    Look { hold: None, deadline: Some(Instant::now()) }
}

fn exact(hold: &Hold) -> Look<'_> {
    Look { hold: Some(hold), deadline: None }
}

impl Bench {
    /// Nothing of the source is known yet.
    fn unread(prepare: impl FnOnce(&dyn Fn(&str) -> PathBuf)) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let top = temp.path().join("source");
        fs::create_dir(&top).unwrap();
        prepare(&|name| top.join(name));
        let sources = vec![Source { root: fs::File::open(&top).unwrap().into(), path: top, name: None }];
        let tuning = Tuning { hold_lease: Duration::from_secs(3600), ..Tuning::default() };
        let ledger = Arc::new(Ledger::default());
        let capture = Capture::new(Arc::clone(&ledger), &tuning);
        let dest = "/nowhere".into();
        let spec = Spec { sources, dest, point: Point::End, exclude: Vec::new(), tuning, pid: 0, root: None };
        let staging = FileId { dev: 0, ino: 0, btime_ns: 0 };
        let tree = Tree::new(Arc::clone(&ledger), spec, staging).unwrap();
        Self { temp, ledger, capture, tree }
    }

    /// All of it is.
    fn new(prepare: impl FnOnce(&dyn Fn(&str) -> PathBuf)) -> Self {
        let mut bench = Self::unread(prepare);
        assert!(bench.look(Look::default()).unwrap());
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join("source").join(name)
    }

    fn id(&self, name: &str) -> FileId {
        sys::stat_at(CWD, self.at(name).as_os_str()).unwrap().id
    }

    fn mark_entry(&self, name: &str) {
        self.ledger.mark(&Effect::Entry { dir: self.tree.roots[0].id, name: name.into() });
    }

    /// A sync, with nothing between its marks and its look.
    fn look(&mut self, look: Look<'_>) -> Result<bool, Error> {
        let taken = self.ledger.take();
        self.ledger.grace_done();
        self.tree.resolve(taken, look)
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.tree.entry(&self.tree.roots[0].id, OsStr::new(name)).unwrap().1
    }

    fn mode_of_other(&self, name: &str) -> u32 {
        match self.entry(name) {
            Some(Entry::Other(other)) => other.stat.permissions(),
            other => panic!("{other:?}"),
        }
    }
}

fn fifo(path: PathBuf) {
    rustix::fs::mkfifoat(CWD, path, Mode::RUSR).unwrap();
}

#[test]
fn what_a_look_has_no_time_for_is_left_to_the_next() {
    let mut bench = Bench::new(|at| fs::write(at("file"), b"").unwrap());
    for name in ["a", "b", "c"] {
        fs::write(bench.at(name), b"").unwrap();
        bench.mark_entry(name);
    }
    fs::set_permissions(bench.at("file"), PermissionsExt::from_mode(0o600)).unwrap();
    bench.ledger.mark(&Effect::Metadata { file: bench.id("file") });
    let hold = bench.capture.park().unwrap();
    let deadline = Some(Instant::now());
    assert!(!bench.look(Look { hold: Some(&hold), deadline }).unwrap());
    assert_eq!(bench.tree.entries, 2);
    assert!(bench.look(exact(&hold)).unwrap());
    assert_eq!(bench.tree.entries, 4);
    let Some(Entry::File(file)) = bench.entry("file") else { panic!() };
    assert_eq!(file.state().stat.permissions(), 0o600);
}

#[test]
fn a_directory_that_was_half_read_is_read_again_and_what_has_gone_since_is_gone() {
    const FILES: u64 = 200;
    let mut bench = Bench::unread(|at| (0..FILES).for_each(|n| fs::write(at(&n.to_string()), b"").unwrap()));
    assert!(!bench.look(late()).unwrap());
    assert_eq!(bench.tree.entries, 63, "it looks at the time now and then");
    let known = (0..FILES).map(|n| n.to_string()).find(|name| bench.entry(name).is_some()).unwrap();
    fs::remove_file(bench.at(&known)).unwrap();
    assert!(bench.look(Look::default()).unwrap());
    assert_eq!(bench.tree.entries, FILES - 1);
    assert!(bench.entry(&known).is_none());
}

#[test]
fn what_has_no_name_is_forgotten_after_one_more_sync_or_when_nothing_moves() {
    for moves in [true, false] {
        let mut bench = Bench::new(|at| {
            fs::write(at("file"), b"").unwrap();
            fs::create_dir(at("dir")).unwrap();
        });
        let [file, dir] = ["file", "dir"].map(|name| bench.id(name));
        fs::remove_file(bench.at("file")).unwrap();
        fs::remove_dir(bench.at("dir")).unwrap();
        ["file", "dir"].iter().for_each(|name| bench.mark_entry(name));
        let known = |bench: &Bench| [file, dir].iter().filter(|id| bench.ledger.get(id).is_some()).count();
        if moves {
            assert!(bench.look(Look::default()).unwrap());
            assert_eq!((known(&bench), bench.tree.dropped.len()), (2, 0), "it may be half of a rename");
            assert!(bench.look(Look::default()).unwrap());
        } else {
            let hold = bench.capture.park().unwrap();
            assert!(bench.look(exact(&hold)).unwrap());
        }
        assert_eq!((known(&bench), bench.tree.dropped.len()), (0, 1), "{moves}");
        assert!(bench.tree.dir(&dir).is_none());
    }
}

#[test]
fn what_comes_back_under_another_name_is_not_forgotten() {
    let mut bench = Bench::new(|at| fs::write(at("file"), b"").unwrap());
    let id = bench.id("file");
    fs::rename(bench.at("file"), bench.at("renamed")).unwrap();
    bench.mark_entry("file");
    assert!(bench.look(Look::default()).unwrap());
    bench.mark_entry("renamed");
    assert!(bench.look(Look::default()).unwrap());
    assert!(bench.look(Look::default()).unwrap());
    let Some(Entry::File(file)) = bench.entry("renamed") else { panic!() };
    assert_eq!((file.id, file.state().links.len(), bench.tree.dropped.len()), (id, 1, 0));
    assert!(bench.ledger.file(&id).is_some());
}

#[test]
fn a_file_that_lies_nowhere_when_nothing_moves_was_moved_by_somebody_else() {
    let mut bench = Bench::new(|at| fs::write(at("file"), b"").unwrap());
    let mark = Effect::Metadata { file: bench.id("file") };
    fs::rename(bench.at("file"), bench.temp.path().join("outside")).unwrap();
    bench.ledger.mark(&mark);
    // Else the call that did it has been marked since.
    assert!(bench.look(Look::default()).unwrap());
    let hold = bench.capture.park().unwrap();
    assert!(matches!(bench.look(exact(&hold)), Err(Error::ForeignChange { .. })));
}

#[test]
fn the_status_of_what_is_neither_file_nor_directory_is_taken_over() {
    let mut bench = Bench::new(|at| {
        fifo(at("fifo"));
        fifo(at("another"));
    });
    fs::set_permissions(bench.at("fifo"), PermissionsExt::from_mode(0o640)).unwrap();
    fs::set_permissions(bench.at("another"), PermissionsExt::from_mode(0o604)).unwrap();
    bench.ledger.mark(&Effect::Metadata { file: bench.id("fifo") });
    assert!(bench.look(Look::default()).unwrap());
    assert_eq!((bench.mode_of_other("fifo"), bench.mode_of_other("another")), (0o640, 0o400));
}

#[test]
fn another_fifo_under_the_name_of_one_that_changed_is_left_to_the_mark_of_the_call_that_put_it_there() {
    let mut bench = Bench::new(|at| fifo(at("fifo")));
    bench.ledger.mark(&Effect::Metadata { file: bench.id("fifo") });
    let taken = bench.ledger.take();
    fifo(bench.at("new"));
    fs::set_permissions(bench.at("new"), PermissionsExt::from_mode(0o640)).unwrap();
    fs::rename(bench.at("new"), bench.at("fifo")).unwrap();
    assert!(bench.tree.resolve(taken, Look::default()).unwrap());
    assert_eq!(bench.mode_of_other("fifo"), 0o400, "what was there is not what is there");
    bench.mark_entry("fifo");
    assert!(bench.look(Look::default()).unwrap());
    assert_eq!(bench.mode_of_other("fifo"), 0o640);
}

#[test]
fn another_fifo_under_a_name_that_no_call_changed_is_somebody_elses_when_nothing_moves() {
    let mut bench = Bench::new(|at| fifo(at("fifo")));
    bench.ledger.mark(&Effect::Metadata { file: bench.id("fifo") });
    fifo(bench.at("new"));
    fs::rename(bench.at("new"), bench.at("fifo")).unwrap();
    let hold = bench.capture.park().unwrap();
    assert!(matches!(bench.look(exact(&hold)), Err(Error::ForeignChange { .. })));
}

#[test]
fn an_entry_is_what_it_has_become() {
    let mut bench = Bench::new(|at| {
        symlink("old", at("changes")).unwrap();
        symlink("old", at("stays")).unwrap();
    });
    symlink("new", bench.at("next")).unwrap();
    fs::rename(bench.at("next"), bench.at("changes")).unwrap();
    ["changes", "stays"].iter().for_each(|name| bench.mark_entry(name));
    assert!(bench.look(Look::default()).unwrap());
    for (name, text) in [("changes", "new"), ("stays", "old")] {
        let Some(Entry::Other(other)) = bench.entry(name) else { panic!() };
        assert_eq!(other.link.as_ref().unwrap().0, text);
    }
    assert_eq!(bench.tree.entries, 2);
}

#[test]
fn a_file_behind_a_link_and_the_same_file_by_a_name_of_its_own_are_told_apart() {
    let mut bench = Bench::new(|at| {
        let outside = at("../outside");
        fs::write(&outside, b"").unwrap();
        symlink("../outside", at("file")).unwrap();
    });
    let is_followed = |bench: &Bench| {
        let Some(Entry::File(file)) = bench.entry("file") else { panic!() };
        let state = file.state();
        assert_eq!(state.links.len(), 1);
        state.links[0].via.is_some()
    };
    assert!(is_followed(&bench));
    fs::remove_file(bench.at("file")).unwrap();
    fs::hard_link(bench.temp.path().join("outside"), bench.at("file")).unwrap();
    bench.mark_entry("file");
    assert!(bench.look(Look::default()).unwrap());
    assert!(!is_followed(&bench));
}

#[test]
fn a_directory_is_known_by_all_its_names() {
    let mut bench = Bench::new(|at| {
        fs::create_dir(at("../outside")).unwrap();
        fs::write(at("../outside/file"), b"").unwrap();
        symlink("../outside", at("a")).unwrap();
        symlink("../outside", at("b")).unwrap();
    });
    let Some(Entry::Dir(id)) = bench.entry("a") else { panic!() };
    let id = *id;
    assert!(!bench.tree.dir(&id).unwrap().has_one_name());
    fs::remove_file(bench.at("a")).unwrap();
    bench.mark_entry("a");
    (0..3).for_each(|_| assert!(bench.look(Look::default()).unwrap()));
    assert!(bench.tree.dir(&id).unwrap().has_one_name());
    assert!(bench.tree.entry(&id, OsStr::new("file")).unwrap().1.is_some());
    fs::remove_file(bench.at("b")).unwrap();
    bench.mark_entry("b");
    (0..3).for_each(|_| assert!(bench.look(Look::default()).unwrap()));
    assert!(bench.tree.dir(&id).is_none());
    assert!(bench.ledger.files().is_empty());
    assert_eq!(bench.tree.entries, 0);
}

#[test]
fn too_many_open_files_have_a_cause_of_their_own() {
    let error = |number| Error::unreadable("/x".into(), std::io::Error::from_raw_os_error(number));
    let (emfile, enfile, eio) = (24, 23, 5);
    assert!(matches!(error(emfile), Error::TooManyOpenFiles { .. }));
    assert!(matches!(error(enfile), Error::TooManyOpenFiles { .. }));
    assert!(matches!(error(eio), Error::SourceUnreadable { .. }));
}

/// Looks from a thread that has no more rights than modes give it, whoever runs the test.
fn look_without_rights(bench: &mut Bench, closed: &str) -> Result<bool, Error> {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let path = bench.at(closed);
    fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    let found = std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH);
            set_capabilities(None, sets).unwrap();
            assert_eq!(fs::metadata(path.join("x")).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
            bench.look(Look::default())
        });
        looking.join().unwrap()
    });
    fs::set_permissions(bench.at(closed), PermissionsExt::from_mode(0o700)).unwrap();
    found
}

#[test]
fn a_status_that_we_may_not_look_at_is_not_taken_for_gone() {
    let mut bench = Bench::new(|at| {
        fs::create_dir(at("closed")).unwrap();
        fifo(at("closed/fifo"));
    });
    bench.ledger.mark(&Effect::Metadata { file: bench.id("closed/fifo") });
    let refused = look_without_rights(&mut bench, "closed");
    assert!(matches!(refused, Err(Error::SourceUnreadable { .. })), "{refused:?}");
}

#[test]
fn a_link_that_we_may_not_follow_is_not_taken_for_one_that_leads_nowhere() {
    let mut bench = Bench::new(|at| fs::create_dir_all(at("../closed/volume")).unwrap());
    symlink("../closed/volume", bench.at("link")).unwrap();
    bench.mark_entry("link");
    let refused = look_without_rights(&mut bench, "../closed");
    assert!(matches!(refused, Err(Error::SourceUnreadable { .. })), "{refused:?}");
}

#[test]
fn a_name_that_nothing_can_have_is_no_entry() {
    let mut bench = Bench::new(|_| ());
    bench.mark_entry(&"n".repeat(256));
    assert!(bench.look(Look::default()).unwrap());
    assert_eq!(bench.tree.entries, 0);
}

#[test]
fn what_loses_one_of_its_names_keeps_the_others() {
    let mut bench = Bench::new(|at| {
        fifo(at("fifo"));
        fs::create_dir(at("dir")).unwrap();
        for name in ["twin", "dir/fifo"] {
            fs::hard_link(at("fifo"), at(name)).unwrap();
        }
    });
    let id = bench.id("fifo");
    assert!(bench.tree.has_several_names(&id));
    let dir = bench.id("dir");
    fs::remove_file(bench.at("dir/fifo")).unwrap();
    bench.ledger.mark(&Effect::Entry { dir, name: "fifo".into() });
    assert!(bench.look(Look::default()).unwrap());
    assert!(bench.tree.has_several_names(&id));
    fs::remove_file(bench.at("fifo")).unwrap();
    bench.mark_entry("fifo");
    assert!(bench.look(Look::default()).unwrap());
    assert!(!bench.tree.has_several_names(&id));
    fs::set_permissions(bench.at("twin"), PermissionsExt::from_mode(0o640)).unwrap();
    bench.ledger.mark(&Effect::Metadata { file: id });
    assert!(bench.look(Look::default()).unwrap());
    assert_eq!(bench.mode_of_other("twin"), 0o640);
}

#[test]
fn a_number_used_again_may_be_another_file_where_there_are_no_birth_times() {
    let mut bench = Bench::new(|_| ());
    for (btime_ns, is_due) in [(0, true), (1, false)] {
        let stat = sys::Stat { size: 1, ..sys::Stat::default() };
        let file = Arc::new(crate::marks::node::File::new(FileId { dev: 1, ino: 2, btime_ns }, 0, stat));
        file.state().map.take();
        file.state().map.done(0..1);
        let before = bench.ledger.lacking_bytes();
        bench.tree.seen_again(&file);
        assert_eq!(file.state().map.due(), u64::from(is_due));
        assert_eq!(bench.ledger.lacking_bytes() > before, is_due);
        assert_eq!(bench.tree.moved.pop(), Some(crate::marks::node::Node::File(file)));
    }
}

#[test]
fn what_is_staged_must_not_come_to_lie_in_the_source() {
    let mut bench = Bench::new(|at| fs::create_dir(at("../staging")).unwrap());
    bench.tree.staging = sys::stat_at(CWD, bench.at("../staging").as_os_str()).unwrap().id;
    symlink("../staging", bench.at("link")).unwrap();
    bench.mark_entry("link");
    assert!(matches!(bench.look(Look::default()), Err(Error::DestInsideSource { .. })));
}

#[test]
fn a_status_that_there_is_no_time_for_is_left_to_the_next_look() {
    let mut bench = Bench::new(|at| fs::write(at("file"), b"").unwrap());
    fs::set_permissions(bench.at("file"), PermissionsExt::from_mode(0o600)).unwrap();
    bench.ledger.mark(&Effect::Metadata { file: bench.id("file") });
    for (look, is_done) in [(late(), false), (Look::default(), true)] {
        assert_eq!(bench.look(look).unwrap(), is_done);
        let Some(Entry::File(file)) = bench.entry("file") else { panic!() };
        assert_eq!(file.state().stat.permissions() == 0o600, is_done);
    }
}

/// A mount that is let go after the grace of a sync, and before its look, runs when it likes.
#[test]
fn a_mount_between_the_grace_of_a_sync_and_its_look_has_the_hold_look_at_every_link() {
    let mut bench = Bench::unread(|at| symlink("../out/via/file", at("link")).unwrap());
    for name in ["a", "b"] {
        fs::create_dir_all(bench.temp.path().join("out").join(name)).unwrap();
        fs::write(bench.temp.path().join("out").join(name).join("file"), name).unwrap();
    }
    let via = bench.temp.path().join("out/via");
    symlink("a", &via).unwrap();
    let taken = bench.ledger.take();
    bench.ledger.grace_done();
    let file = bench.tree.roots[0].id;
    bench.ledger.mark(&Effect::Untraceable { file: FileId { ino: file.ino + 1, ..file }, cause: "mounted over" });
    assert!(bench.tree.resolve(taken, Look::default()).unwrap());
    let leads_to = |bench: &Bench| match bench.entry("link") {
        Some(Entry::File(file)) => file.id,
        other => panic!("{other:?}"),
    };
    let before = leads_to(&bench);
    // The call runs: what is below is another now, and no name says so.
    fs::remove_file(&via).unwrap();
    symlink("b", &via).unwrap();
    let hold = Hold::new(u64::MAX);
    assert!(bench.look(exact(&hold)).unwrap());
    assert_ne!(leads_to(&bench), before);
}

/// A directory in which names are folded is read as a whole, which takes its time if it is large.
#[test]
fn a_directory_that_folds_names_is_left_to_the_next_look_when_the_time_is_over() {
    const FILES: usize = 300;
    let mut bench = Bench::new(|at| (0..FILES).for_each(|n| fs::write(at(&format!("file-{n}")), b"").unwrap()));
    let id = bench.tree.roots[0].id;
    bench.tree.dirs.get_mut(&id).unwrap().folds = super::folds::Folds::Yes;
    fs::rename(bench.at("file-7"), bench.at("new")).unwrap();
    let said = ["FILE-7", "NEW"];
    said.iter().for_each(|name| bench.mark_entry(name));
    let hold = bench.capture.park().unwrap();
    assert!(!bench.look(Look { hold: Some(&hold), deadline: Some(Instant::now()) }).unwrap());
    assert!(bench.ledger.is_any_marked(&id), "nobody looks at it again");
    assert!(bench.look(exact(&hold)).unwrap());
    assert!(bench.entry("file-7").is_none() && bench.entry("new").is_some());
    assert_eq!(bench.tree.entries, FILES as u64);
}

/// In a hold there is no time for all that is in a large one.
#[test]
fn of_a_directory_that_folds_names_only_what_a_call_may_have_meant_is_looked_at() {
    let files = ["same", "Other", "third"];
    let mut bench = Bench::new(|at| files.iter().for_each(|name| fs::write(at(name), b"").unwrap()));
    let id = bench.tree.roots[0].id;
    bench.tree.dirs.get_mut(&id).unwrap().folds = super::folds::Folds::Yes;
    let known = files.map(|name| bench.id(name));
    // Another file by each name, of which calls have named one, in another case.
    for name in files {
        fs::rename(bench.at(name), bench.temp.path().join(name)).unwrap();
        fs::write(bench.at(name), b"").unwrap();
    }
    bench.mark_entry("OTHER");
    assert!(bench.look(Look::default()).unwrap());
    let now = files.map(|name| bench.entry(name).unwrap().id());
    assert_eq!((now[0], now[1], now[2]), (known[0], bench.id("Other"), known[2]));
}
