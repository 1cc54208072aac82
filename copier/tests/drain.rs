//! After the point in time, whatever the target does is not in the backup, and it need not wait for the destination.
#![forbid(unsafe_code)]
mod common;

use common::faulty::{Faulty, Kind};
use common::{AtPhase, BLOCK, Bench, Target, pattern};
use hotbackup_copier::{Control, Error, Phase, Point, Report};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All files of a tree with their content.
fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut all, mut next) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(dir) = next.pop() {
        for entry in std::fs::read_dir(root.join(&dir)).unwrap() {
            let (entry, path) = entry.map(|e| (e.file_type().unwrap(), dir.join(e.file_name()))).unwrap();
            if path == Path::new(".hotbackup") {
                continue;
            }
            if entry.is_dir() {
                next.push(path);
            } else if entry.is_file() {
                all.insert(path.clone(), std::fs::read(root.join(&path)).unwrap());
            }
        }
    }
    all
}

fn bench() -> Bench {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.source.join("dir/deep")).unwrap();
    for (seed, name) in ["a", "b", "dir/c", "dir/deep/d", "e"].iter().enumerate() {
        std::fs::write(bench.source.join(name), pattern(seed as u64, 5 * BLOCK as usize + 77)).unwrap();
    }
    std::fs::write(bench.source.join("empty"), b"").unwrap();
    bench
}

/// Takes a backup in which nothing is copied until `change` has been done after the point in time, so that everything it
/// touches is due. Whatever `change` does, the backup must be the tree as it was before.
fn unchanged_by(change: impl Fn(&Target, &Path) + Sync) -> Report {
    let bench = bench();
    let before = contents(&bench.source);
    let control = Control::new(Some(0));
    let (backup, target) = bench.prepare(Point::Start);
    let changing = AtPhase::new(|phase| {
        if phase == Phase::Drain {
            change(&target, &bench.source);
            control.set_throttle(None);
        }
    });
    let report = backup.run(&*target.calls, &changing, &control).unwrap();
    let after = contents(&bench.dest);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, data) in before {
        assert!(after[&path] == data, "{} differs", path.display());
    }
    report
}

#[test]
fn a_write() {
    let report = unchanged_by(|target, root| target.pwrite(&root.join("a"), BLOCK - 1, b"new"));
    assert_eq!(report.before_images.count, 2);
}

#[test]
fn a_write_to_the_same_block_again_needs_nothing() {
    let report = unchanged_by(|target, root| {
        for n in 0..100 {
            target.pwrite(&root.join("a"), n, b"new");
        }
    });
    assert_eq!(report.before_images.count, 1);
}

#[test]
fn an_append() {
    unchanged_by(|target, root| target.append(&root.join("a"), b"new"));
}

#[test]
fn a_write_beyond_the_end() {
    let report = unchanged_by(|target, root| target.pwrite(&root.join("a"), 20 * BLOCK, b"new"));
    assert_eq!(report.before_images.count, 0);
}

#[test]
fn a_cut() {
    let report = unchanged_by(|target, root| target.truncate(&root.join("a"), 10));
    assert_eq!(report.before_images.count, 6);
}

#[test]
fn a_cut_and_an_append() {
    unchanged_by(|target, root| {
        target.truncate(&root.join("a"), 3 * BLOCK + 5);
        target.append(&root.join("a"), &pattern(99, 3 * BLOCK as usize));
        target.truncate(&root.join("a"), 0);
        target.append(&root.join("a"), &pattern(98, BLOCK as usize));
    });
}

#[test]
fn opening_with_o_trunc() {
    unchanged_by(|target, root| target.create(&root.join("dir/c")));
}

#[test]
fn punching_a_hole() {
    unchanged_by(|target, root| target.punch(&root.join("a"), BLOCK + 1, 4 * BLOCK));
}

#[test]
fn an_unlink() {
    let report = unchanged_by(|target, root| {
        target.unlink(&root.join("a"));
        target.unlink(&root.join("empty"));
    });
    assert_eq!(report.before_images.count, 0);
}

#[test]
fn an_unlink_and_a_new_file_of_that_name() {
    unchanged_by(|target, root| {
        target.unlink(&root.join("a"));
        target.create(&root.join("a"));
        target.append(&root.join("a"), &pattern(55, 9 * BLOCK as usize));
    });
}

#[test]
fn a_rename_onto_another() {
    unchanged_by(|target, root| {
        target.rename(&root.join("a"), &root.join("b"));
        target.pwrite(&root.join("b"), 0, b"new");
        target.unlink(&root.join("b"));
    });
}

#[test]
fn a_rename_there_and_back_of_two() {
    unchanged_by(|target, root| {
        let (a, b, c) = (root.join("a"), root.join("b"), root.join("swap"));
        target.rename(&a, &c);
        target.rename(&b, &a);
        target.rename(&c, &b);
        target.pwrite(&a, 0, b"new");
        target.pwrite(&b, 0, b"new");
    });
}

#[test]
fn a_rename_of_a_directory_and_changes_below() {
    unchanged_by(|target, root| {
        target.rename(&root.join("dir"), &root.join("moved"));
        target.pwrite(&root.join("moved/deep/d"), 0, b"new");
        target.rename(&root.join("moved/deep"), &root.join("deep"));
        target.unlink(&root.join("deep/d"));
        target.rmdir(&root.join("deep"));
        target.unlink(&root.join("moved/c"));
        target.rmdir(&root.join("moved"));
    });
}

#[test]
fn a_rename_out_of_the_source() {
    unchanged_by(|target, root| {
        target.rename(&root.join("a"), &root.parent().unwrap().join("outside"));
        target.pwrite(&root.parent().unwrap().join("outside"), 0, b"new");
        target.rename(&root.join("dir"), &root.parent().unwrap().join("outside-dir"));
        target.truncate(&root.parent().unwrap().join("outside-dir/c"), 0);
    });
}

#[test]
fn new_files_and_links() {
    unchanged_by(|target, root| {
        target.create(&root.join("new"));
        target.mkdir(&root.join("new-dir"));
        target.link(&root.join("a"), &root.join("new-dir/a"));
        target.unlink(&root.join("a"));
        target.truncate(&root.join("new-dir/a"), 0);
        target.symlink(Path::new("b"), &root.join("new-link"));
    });
}

#[test]
fn removing_everything() {
    unchanged_by(|target, root| {
        for name in ["a", "b", "dir/c", "dir/deep/d", "e", "empty"] {
            target.unlink(&root.join(name));
        }
        target.rmdir(&root.join("dir/deep"));
        target.rmdir(&root.join("dir"));
    });
}

#[test]
fn a_change_of_mode_or_attributes() {
    use std::os::unix::fs::PermissionsExt;
    let bench = bench();
    let path = bench.source.join("a");
    rustix::fs::setxattr(&path, "user.colour", b"blue", rustix::fs::XattrFlags::empty()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let control = Control::new(Some(0));
    let (backup, target) = bench.prepare(Point::Start);
    let changing = AtPhase::new(|phase| {
        if phase == Phase::Drain {
            target.chmod(&path, 0o777);
            target.call(
                || vec![hotbackup_event::Effect::Metadata { file: common::id_of(&path) }],
                || rustix::fs::setxattr(&path, "user.colour", b"red", rustix::fs::XattrFlags::empty()).unwrap(),
            );
            control.set_throttle(None);
        }
    });
    backup.run(&*target.calls, &changing, &control).unwrap();
    let mut value = [0; 16];
    let n = rustix::fs::getxattr(bench.dest.join("a"), "user.colour", &mut value).unwrap();
    assert_eq!(&value[..n], b"blue");
    assert_eq!(std::fs::metadata(bench.dest.join("a")).unwrap().permissions().mode() & 0o7777, 0o640);
}

/// The kernel takes a file's capabilities away when it is written to.
#[test]
fn capabilities_that_a_write_takes_away() {
    const CAPABILITY: &str = "security.capability";
    // struct vfs_cap_data: VFS_CAP_REVISION_2, CAP_NET_RAW permitted.
    let capability = [0x0200_0000, 1 << 13, 0, 0, 0u32].map(u32::to_le_bytes).concat();
    for change in [0, 1, 2] {
        let bench = bench();
        let path = bench.source.join("a");
        rustix::fs::setxattr(&path, CAPABILITY, &capability, rustix::fs::XattrFlags::empty()).unwrap();
        let control = Control::new(Some(0));
        let (backup, target) = bench.prepare(Point::Start);
        let changing = AtPhase::new(|phase| {
            if phase == Phase::Drain {
                match change {
                    0 => target.pwrite(&path, 0, b"new"),
                    1 => target.append(&path, b"new"),
                    _ => target.truncate(&path, 100 * BLOCK),
                }
                control.set_throttle(None);
            }
        });
        let mut value = [0; 32];
        backup.run(&*target.calls, &changing, &control).unwrap();
        let gone = rustix::fs::getxattr(&path, CAPABILITY, &mut value).unwrap_err();
        assert_eq!(gone, rustix::io::Errno::NODATA, "the change has taken it away");
        let n = rustix::fs::getxattr(bench.dest.join("a"), CAPABILITY, &mut value).unwrap();
        assert_eq!(value[..n], capability, "change {change}");
    }
}

/// A call that makes a file change unseen is, after the point in time, a call that may change all of it.
#[test]
fn a_mapping_made_after_the_point_in_time() {
    unchanged_by(|target, root| {
        let path = root.join("a");
        target.call(
            || vec![hotbackup_event::Effect::Untraceable { file: common::id_of(&path), cause: "a mapping" }],
            || std::fs::write(&path, pattern(77, 5 * BLOCK as usize)).unwrap(),
        );
    });
}

#[test]
fn a_hole_that_is_written_to_stays_a_hole() {
    use std::os::unix::fs::MetadataExt;
    let bench = Bench::new();
    let path = bench.source.join("sparse");
    std::fs::File::create(&path).unwrap().set_len(100 * BLOCK).unwrap();
    let control = Control::new(Some(0));
    let (backup, target) = bench.prepare(Point::Start);
    let changing = AtPhase::new(|phase| {
        if phase == Phase::Drain {
            target.pwrite(&path, 50 * BLOCK, &pattern(1, 3 * BLOCK as usize));
            control.set_throttle(None);
        }
    });
    backup.run(&*target.calls, &changing, &control).unwrap();
    let copy = std::fs::metadata(bench.dest.join("sparse")).unwrap();
    assert_eq!((copy.len(), copy.blocks()), (100 * BLOCK, 0));
}

/// Nothing is read but what calls wait for, and the destination can be shut.
fn by_calls_alone() -> (Control, Arc<Faulty>) {
    (Control::new(Some(0)), Arc::default())
}

#[test]
fn a_call_waits_for_the_read_and_not_for_the_destination() {
    let bench = bench();
    let before = contents(&bench.source);
    let (control, io) = by_calls_alone();
    let (backup, target) = bench.prepare_with(Point::Start, &io);
    let changing = AtPhase::new(|phase| {
        if phase == Phase::Drain {
            // Nothing is written from here on, and yet all of this returns.
            io.writes.shut(true);
            target.truncate(&bench.source.join("a"), 0);
            target.pwrite(&bench.source.join("b"), 0, &pattern(5, 6 * BLOCK as usize));
            target.unlink(&bench.source.join("dir/c"));
            assert_eq!(io.count(Kind::Write), 0);
            io.writes.shut(false);
            control.set_throttle(None);
        }
    });
    let report = backup.run(&*target.calls, &changing, &control).unwrap();
    assert_eq!(before, contents(&bench.dest));
    assert_eq!(report.before_images.count, 12);
}

#[test]
fn when_before_images_do_not_fit_the_backup_fails_and_the_call_goes_on() {
    let mut bench = Bench::new();
    let path = bench.source.join("large");
    std::fs::write(&path, pattern(3, 4 << 20)).unwrap();
    bench.tuning.before_image_bytes = 1 << 20;
    bench.tuning.max_wait = Duration::from_millis(100);
    let (control, io) = by_calls_alone();
    let (backup, target) = bench.prepare_with(Point::Start, &io);
    let changing = AtPhase::new(|phase| {
        if phase == Phase::Drain {
            io.writes.shut(true);
            let start = Instant::now();
            target.truncate(&path, 0);
            assert!(start.elapsed() < Duration::from_secs(20));
            io.writes.shut(false);
        }
    });
    let result = backup.run(&*target.calls, &changing, &control);
    match result {
        Err(Error::BeforeImagesFull { path: named, waited_ms }) => {
            assert_eq!(named, path);
            assert!(waited_ms >= 100, "{waited_ms}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!bench.dest.exists());
    bench.assert_nothing_staged();
}

#[test]
fn before_images_larger_than_their_memory_pass_through_it() {
    let mut bench = Bench::new();
    let path = bench.source.join("large");
    let data = pattern(3, (20 << 20) + 5);
    std::fs::write(&path, &data).unwrap();
    bench.tuning.before_image_bytes = 1 << 20;
    bench.tuning.max_wait = Duration::from_secs(60);
    let control = Control::new(Some(0));
    let (backup, target) = bench.prepare(Point::Start);
    let changing = AtPhase::new(|phase| {
        if phase == Phase::Drain {
            target.truncate(&path, 0);
            control.set_throttle(None);
        }
    });
    let report = backup.run(&*target.calls, &changing, &control).unwrap();
    assert!(std::fs::read(bench.dest.join("large")).unwrap() == data);
    assert_eq!(report.before_images.bytes, data.len() as u64);
}

#[test]
fn a_call_that_changes_nothing_unsaved_does_not_wait() {
    let bench = bench();
    let (backup, target) = bench.prepare(Point::End);
    let changing = AtPhase::new(|phase| {
        if phase == Phase::Drain {
            target.pwrite(&bench.source.join("a"), 0, &pattern(5, 6 * BLOCK as usize));
            target.chmod(&bench.source.join("a"), 0o600);
            target.rename(&bench.source.join("dir/c"), &bench.source.join("c"));
            target.unlink(&bench.source.join("b"));
        }
    });
    let before = contents(&bench.source);
    let report = backup.run(&*target.calls, &changing, &Control::default()).unwrap();
    assert_eq!((report.before_images.count, report.max_wait_us), (0, 0));
    assert_eq!(before, contents(&bench.dest));
}

#[test]
fn a_call_waits_for_what_somebody_else_is_reading() {
    let bench = bench();
    let before = contents(&bench.source);
    let io = Arc::new(Faulty::default());
    let (backup, target) = bench.prepare_with(Point::Start, &io);
    let changing = AtPhase::new(|phase| io.reads.shut(phase == Phase::Drain));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            common::until("a file is being read", || io.reads.has_waiting());
            // All of the file that is read has been claimed, whichever it is.
            let calls = ["a", "b", "dir/c", "dir/deep/d", "e"].map(|name| {
                let (target, path) = (&target, bench.source.join(name));
                scope.spawn(move || target.pwrite(&path, 0, &pattern(7, 5 * BLOCK as usize)))
            });
            common::until("all calls wait", || target.calls.parked() == calls.len());
            io.reads.shut(false);
        });
        backup.run(&*target.calls, &changing, &Control::default()).unwrap();
    });
    assert_eq!(before, contents(&bench.dest));
}
