//! Where symbolic links lead is found out as the target would find it, whatever lies on the way, and until the hold.
#![forbid(unsafe_code)]
mod common;

use common::{AtPhase, Bench, Permit, Quiet, target_of};
use hotbackup_copier::{Backup, Control, Error, Phase, Point, Report, Spec};
use rustix::fs::{Mode, OFlags};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// What a link of this text, at this place of the source, is in the backup.
fn shown(bench: &Bench, text: impl AsRef<Path>, name: &str) -> PathBuf {
    symlink(text, bench.source.join(name)).unwrap();
    bench.back_up(Point::End).unwrap();
    let shown = fs::read_link(bench.dest.join(name)).unwrap();
    fs::remove_dir_all(&bench.dest).unwrap();
    fs::remove_file(bench.source.join(name)).unwrap();
    shown
}

#[test]
fn a_link_inside_that_leads_to_another_place_by_the_hold_is_shown_as_it_is_then() {
    let bench = Bench::new();
    for name in ["old", "new"] {
        fs::create_dir(bench.source.join(name)).unwrap();
        fs::write(bench.source.join(name).join("log"), name).unwrap();
    }
    let at = |name: &str| bench.dir.path().join(name);
    symlink(bench.source.join("old"), at("current")).unwrap();
    symlink(at("current/log"), bench.source.join("log")).unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let swap = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            // No call names anything in the source.
            target.symlink(&bench.source.join("new"), &at("next"));
            target.rename(&at("next"), &at("current"));
        }
    });
    backup.run(&*target.calls, &swap, &Control::default()).unwrap();
    assert_eq!(fs::read_link(bench.dest.join("log")).unwrap(), Path::new("new/log"));
}

#[test]
fn links_that_lead_nowhere_keep_their_text_unless_it_names_the_source() {
    let bench = Bench::new();
    fs::create_dir(bench.source.join("a")).unwrap();
    let long = "n".repeat(300);
    let source = bench.source.to_str().unwrap();
    for text in ["../nowhere".to_owned(), format!("../{long}"), format!("/{long}"), format!("..{source}/nowhere")] {
        for name in ["link", "a/link"] {
            assert_eq!(shown(&bench, &text, name), Path::new(&text));
        }
    }
    let named = format!("{source}/a/../nowhere");
    assert_eq!(shown(&bench, named, "a/link"), Path::new("../nowhere"));
}

#[test]
fn a_link_that_stays_inside_keeps_its_text_to_the_letter() {
    let bench = Bench::new();
    fs::create_dir_all(bench.source.join("a/b")).unwrap();
    fs::write(bench.source.join("a/file"), b"x").unwrap();
    assert_eq!(shown(&bench, ".././/file", "a/b/link").as_os_str(), ".././/file");
    // In a directory that is followed as well: what is inside begins there.
    let volume = bench.dir.path().join("volume");
    fs::create_dir_all(volume.join("sub")).unwrap();
    fs::write(volume.join("file"), b"x").unwrap();
    symlink(".././/file", volume.join("sub/link")).unwrap();
    symlink(&volume, bench.source.join("volume")).unwrap();
    bench.back_up(Point::End).unwrap();
    assert_eq!(fs::read_link(bench.dest.join("volume/sub/link")).unwrap().as_os_str(), ".././/file");
}

#[test]
fn a_link_to_what_must_not_be_opened_is_only_looked_at() {
    let bench = Bench::new();
    let fifo = bench.dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
    assert_eq!(shown(&bench, &fifo, "link"), fifo);
    // Through a magic link, which leads somewhere else for everyone.
    let magic = Path::new("/proc/self/root").join(bench.dir.path().strip_prefix("/").unwrap());
    assert_eq!(shown(&bench, &magic, "link"), magic);
}

#[test]
fn an_absolute_link_begins_at_the_targets_root() {
    let bench = Bench::new();
    fs::write(bench.source.join("file"), b"x").unwrap();
    fs::write(bench.dir.path().join("outside"), b"outside").unwrap();
    symlink("/source/file", bench.source.join("inside")).unwrap();
    symlink("/outside", bench.source.join("out")).unwrap();
    symlink("/../../outside", bench.source.join("climbs")).unwrap();
    symlink("../../../outside", bench.source.join("climbs-from-here")).unwrap();
    symlink(bench.dir.path().join("outside"), bench.source.join("nowhere")).unwrap();
    let root = Some(fs::File::open(bench.dir.path()).unwrap().into());
    let backup = Backup::<Permit>::prepare(Spec { root, ..bench.spec(Point::End) }).unwrap();
    let (backup, target) = target_of(backup);
    backup.run(&*target.calls, &Quiet, &Control::default()).unwrap();
    let at = |name: &str| bench.dest.join(name);
    assert_eq!(fs::read_link(at("inside")).unwrap(), Path::new("file"));
    for name in ["out", "climbs", "climbs-from-here"] {
        assert!(at(name).symlink_metadata().unwrap().is_file(), "{name}");
        assert_eq!(fs::read(at(name)).unwrap(), b"outside");
    }
    assert_eq!(fs::read_link(at("nowhere")).unwrap(), bench.dir.path().join("outside"));
}

/// A directory so deep that its path is longer than a path can be; made if it is not there.
fn deep(top: &Path) -> OwnedFd {
    let name = "d".repeat(250);
    (0..20).fold(fs::File::open(top).unwrap().into(), |at: OwnedFd, _| {
        let _ = rustix::fs::mkdirat(&at, &name, Mode::RWXU);
        rustix::fs::openat(&at, &name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    })
}

#[test]
fn a_link_in_a_deep_directory_is_followed_from_there() {
    let bench = Bench::new();
    fs::write(bench.dir.path().join("config"), b"config").unwrap();
    fs::write(bench.source.join("file"), b"file").unwrap();
    let at = deep(&bench.source);
    rustix::fs::mkdirat(&at, "sub", Mode::RWXU).unwrap();
    rustix::fs::mkdirat(&at, "sibling", Mode::RWXU).unwrap();
    let inside = format!("{}file", "../".repeat(21));
    let links = [
        // Out of the source, to a file beside it.
        (format!("{}config", "../".repeat(22)), None),
        ("../nowhere".to_owned(), Some("../nowhere")),
        ("../sibling".to_owned(), Some("../sibling")),
        (bench.source.join("file").to_str().unwrap().to_owned(), Some(&*inside)),
    ];
    for (number, (text, _)) in links.iter().enumerate() {
        rustix::fs::symlinkat(text, &at, format!("sub/{number}")).unwrap();
    }
    let report = bench.back_up(Point::End).unwrap();
    assert_eq!((report.files, report.directories), (2, 23));
    let copy = deep(&bench.dest);
    for (number, (text, shown)) in links.iter().enumerate() {
        let found = rustix::fs::readlinkat(&copy, format!("sub/{number}"), Vec::new()).ok();
        assert_eq!(found.as_deref().map(|found| found.to_str().unwrap()), *shown, "{text}");
    }
    let followed = rustix::fs::openat(&copy, "sub/0", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    assert_eq!(std::io::read_to_string(fs::File::from(followed)).unwrap(), "config");
    // A root of its own cannot be asked for: that is said.
    fs::remove_dir_all(&bench.dest).unwrap();
    let root = Some(fs::File::open(bench.dir.path()).unwrap().into());
    let (backup, target) = target_of(Backup::<Permit>::prepare(Spec { root, ..bench.spec(Point::End) }).unwrap());
    let refused = backup.run(&*target.calls, &Quiet, &Control::default());
    assert!(matches!(refused, Err(Error::SourceUnreadable { .. })), "{refused:?}");
    bench.assert_nothing_staged();
}

/// With `..` in its midst it cannot be told where it leads, as the kernel has no path for that.
#[test]
fn a_link_to_what_is_too_deep_to_be_told_inside_from_outside_is_refused() {
    let bench = Bench::new();
    deep(&bench.source);
    let name = "d".repeat(250);
    let near: PathBuf = std::iter::repeat_n(&name, 5).collect();
    let far: PathBuf = std::iter::repeat_n(&name, 15).collect();
    symlink(Path::new("..").join(&name).join("..").join(&far), bench.source.join(&near).join("link")).unwrap();
    let refused = bench.back_up(Point::End);
    assert!(matches!(refused, Err(Error::SourceUnreadable { .. })), "{refused:?}");
    // Down from the directory above it can.
    fs::remove_file(bench.source.join(&near).join("link")).unwrap();
    symlink(Path::new("..").join(&far), bench.source.join(&near).join("link")).unwrap();
    bench.back_up(Point::End).unwrap();
}

#[test]
fn a_source_too_deep_to_tell_what_is_outside_of_it_is_refused_if_a_link_may_lead_there() {
    let bench = Bench::new();
    let (root, above) = (deep(bench.dir.path()), bench.dir.path());
    rustix::fs::mkdirat(&root, "../volume", Mode::RWXU).unwrap();
    rustix::fs::symlinkat("volume", &root, "link").unwrap();
    let back_up = || {
        let mut spec = bench.spec(Point::End);
        spec.sources[0].root = deep(above);
        let (backup, target) = target_of(Backup::prepare(spec).unwrap());
        backup.run(&*target.calls, &Quiet, &Control::default())
    };
    back_up().unwrap();
    fs::remove_dir_all(&bench.dest).unwrap();
    rustix::fs::symlinkat("../volume", &root, "out").unwrap();
    let refused = back_up();
    assert!(matches!(refused, Err(Error::SourceUnreadable { .. })), "{refused:?}");
}

/// `name/` leaves out what leads to a directory, at the point in time.
#[test]
fn a_link_that_is_left_out_for_what_it_leads_to_is_looked_at_again() {
    for at in [Phase::Track, Phase::Hold] {
        for leads_to_directory_first in [true, false] {
            let mut bench = Bench::new();
            bench.exclude = vec!["log/".into()];
            let outside = |name: &str| bench.dir.path().join(name);
            fs::create_dir(outside("directory")).unwrap();
            fs::write(outside("directory/inside"), b"inside").unwrap();
            fs::write(outside("file"), b"content").unwrap();
            let (first, then) = if leads_to_directory_first { ("directory", "file") } else { ("file", "directory") };
            symlink(first, outside("current")).unwrap();
            symlink(outside("current"), bench.source.join("log")).unwrap();
            let (backup, target) = bench.prepare(Point::End);
            let swap = AtPhase::new(|phase| {
                if phase == at {
                    // No call names the link.
                    target.symlink(Path::new(then), &outside("next"));
                    target.rename(&outside("next"), &outside("current"));
                }
            });
            let report = backup.run(&*target.calls, &swap, &Control::default()).unwrap();
            let copy = fs::read(bench.dest.join("log")).ok();
            let expected = leads_to_directory_first.then(|| b"content".to_vec());
            assert_eq!((copy, report.excluded), (expected, u64::from(!leads_to_directory_first)), "{at:?}");
        }
    }
}

/// A backup of a source with a link out of it, to a directory where `make` has been at work, and works when the hold begins.
fn with_volume(at: Phase, make: impl Fn(&common::Target, &Path) + Sync) -> (Result<Report, Error>, tempfile::TempDir) {
    let (bench, elsewhere) = (Bench::new(), tempfile::tempdir().unwrap());
    fs::create_dir_all(elsewhere.path().join("volume/sub")).unwrap();
    symlink(elsewhere.path().join("volume/sub"), bench.source.join("out")).unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let making = AtPhase::new(|phase| {
        if phase == at {
            make(&target, elsewhere.path());
        }
    });
    (backup.run(&*target.calls, &making, &Control::default()), elsewhere)
}

#[test]
fn a_link_to_a_directory_around_it_is_refused_by_name_whenever_it_is_made() {
    for at in [Phase::Track, Phase::Hold] {
        let (result, elsewhere) = with_volume(at, |target, top| target.symlink(top, &top.join("volume/sub/around")));
        match result {
            Err(Error::SymlinkLoop { path }) => assert_eq!(path, elsewhere.path().join("volume/sub/around")),
            other => panic!("{at:?}: {other:?}"),
        }
    }
}

#[test]
fn links_to_directories_beside_one_another_are_no_loop() {
    let (result, _elsewhere) = with_volume(Phase::Track, |target, top| {
        fs::create_dir_all(top.join("beside")).unwrap();
        target.symlink(&top.join("beside"), &top.join("volume/sub/beside"));
    });
    result.unwrap();
}
