//! What is wrong with a call is told by its errno, before anything is touched; and the next call works.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::bench::{Host, names};
use crate::common::backup::scratch;
use crate::library::{Linked, host, run};

#[test]
fn null_and_empty_arguments_are_invalid() {
    let mut host = Host::start();
    let expected = format!("{}", Errno::EINVAL as i32);
    assert_eq!(host.ask("nulls"), [expected.as_str(); 8].join(" "));
    let dest = host.dest("dest");
    host.must_back_up(&dest);
}

#[test]
fn each_wrong_directory_has_its_errno_and_the_next_call_works() {
    let mut host = Host::start();
    let data = host.data();
    fs::write(data.join("file"), "content").unwrap();
    fs::create_dir(data.join("sub")).unwrap();
    let (missing, file) = (host.path("missing"), host.path("file"));
    fs::write(&file, "no directory").unwrap();
    let (full, good) = (host.dest("full"), host.dest("good"));
    fs::write(full.join("something"), "").unwrap();
    symlink(data.join("sub"), host.path("leads-inside")).unwrap();
    let leads_inside = host.path("leads-inside");
    let inside = data.join("sub");
    let cases: [(&Path, &Path, Errno); 9] = [
        (&missing, &good, Errno::ENOENT),
        (&file, &good, Errno::ENOTDIR),
        (&data, &missing, Errno::ENOENT),
        (&data, &file, Errno::ENOTDIR),
        (&data, &full, Errno::ENOTEMPTY),
        (&data, &data, Errno::EINVAL),
        (&data, &inside, Errno::EINVAL),
        (&data, &leads_inside, Errno::EINVAL),
        (&inside, &data, Errno::ENOTEMPTY),
    ];
    for (source, dest, errno) in cases {
        host.start_backup("wrong", &[(source, dest)]);
        let end = host.end("wrong");
        // The one that a source lies in has something in it, so it is that, or this.
        let end_errno =
            if end.result == Errno::EINVAL as i32 && errno == Errno::ENOTEMPTY { Errno::EINVAL } else { errno };
        end.assert_failed(end_errno, "");
        assert_eq!(names(&good), [""; 0], "{source:?} to {dest:?}");
    }
    assert_eq!(names(&data), ["file", "sub"], "a source was changed");
    assert_eq!(names(&full), ["something"]);
    host.must_back_up(&good);
    assert_eq!(names(&good), ["file", "sub"]);
}

#[test]
fn one_wrong_pair_of_several_leaves_all_untouched() {
    let mut host = Host::start();
    let (data, other) = (host.data(), host.dest("other"));
    let (first, second) = (host.dest("first"), host.dest("second"));
    fs::write(second.join("something"), "").unwrap();
    host.start_backup("wrong", &[(&data, &first), (&other, &second)]);
    host.end("wrong").assert_failed(Errno::ENOTEMPTY, "second");
    assert_eq!((names(&first), names(&second)), (vec![], vec!["something".to_owned()]));
    host.start_backup("same", &[(&data, &first), (&other, &first)]);
    host.end("same").assert_failed(Errno::EINVAL, "same");
    let below = first.join("below");
    fs::create_dir(&below).unwrap();
    host.start_backup("nested", &[(&data, &first), (&other, &below)]);
    let end = host.end("nested");
    assert!([Errno::EINVAL as i32, Errno::ENOTEMPTY as i32].contains(&end.result), "{end:?}");
    let third = host.dest("third");
    host.start_backup("across", &[(&data, &third), (&other, &data)]);
    host.end("across").assert_failed(Errno::EINVAL, "");
}

#[test]
fn an_ordinary_user_may_do_it_and_is_told_what_it_may_not() {
    let scratch = scratch();
    let data = scratch.path().join("data");
    fs::create_dir(&data).unwrap();
    run(Command::new("chown").arg("65534:65534").arg(&data));
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(host("host.c", Linked::Shared, &[]));
    let mut host = Host::spawn(scratch, command);
    assert_eq!(host.ask(&format!("write {}/file content", data.display())), "");
    let good = host.dest("good");
    let forbidden = host.path("forbidden");
    fs::create_dir(&forbidden).unwrap();
    let hidden = host.path("hidden");
    fs::create_dir(&hidden).unwrap();
    run(Command::new("chmod").arg("700").arg(&hidden));
    host.start_backup("dest", &[(&data, &forbidden)]);
    host.end("dest").assert_failed(Errno::EACCES, "forbidden");
    host.start_backup("source", &[(&hidden, &good)]);
    host.end("source").assert_failed(Errno::EACCES, "hidden");
    for name in ["good", "again"] {
        let dest = if name == "good" { good.clone() } else { host.dest(name) };
        host.must_back_up(&dest);
        assert_eq!(fs::read(dest.join("file")).unwrap(), b"content");
    }
}

#[test]
fn a_directory_that_its_owner_may_not_write_to_is_backed_up_by_him() {
    let scratch = scratch();
    let data = scratch.path().join("data");
    fs::create_dir_all(data.join("sealed/below")).unwrap();
    fs::write(data.join("sealed/file"), "content").unwrap();
    run(Command::new("chown").args(["-R", "65534:65534"]).arg(&data));
    run(Command::new("chmod").args(["-R", "a-w"]).arg(data.join("sealed")));
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(host("host.c", Linked::Shared, &[]));
    let mut host = Host::spawn(scratch, command);
    let dest = host.dest("dest");
    host.must_back_up(&dest);
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dest.join("sealed")), mode(&data.join("sealed")));
    assert_eq!(fs::read(dest.join("sealed/file")).unwrap(), b"content");
}

#[test]
fn a_destination_that_fills_up_meanwhile_is_empty_again() {
    let mut host = Host::start();
    let (data, volume) = (host.data(), host.dest("volume"));
    fs::write(data.join("file"), "content").unwrap();
    let nothing: Option<&str> = None;
    mount(nothing, &volume, Some("tmpfs"), MsFlags::empty(), Some("size=4m")).expect("a tmpfs can be mounted");
    let dest = volume.join("dest");
    fs::create_dir(&dest).unwrap();
    host.tell("keep 1");
    host.start_backup("full", &[(&data, &dest)]);
    // Its room was looked at before that.
    host.wait_until_state("1 1");
    let mut filler = fs::File::create(volume.join("filler")).unwrap();
    while filler.write_all(&[7; 4096]).is_ok() {}
    host.ask(&format!("write {}/new text", data.display()));
    let end = host.end("full");
    let left = names(&dest);
    umount2(&volume, MntFlags::MNT_DETACH).expect("it can be unmounted");
    end.assert_failed(Errno::ENOSPC, "full");
    assert_eq!(left, [""; 0]);
}

#[test]
fn a_destination_that_is_too_small_is_empty_again_and_with_room_the_next_call_works() {
    let mut host = Host::start();
    fs::write(host.data().join("large"), vec![7; 8 << 20]).unwrap();
    let volume = host.dest("volume");
    let nothing: Option<&str> = None;
    mount(nothing, &volume, Some("tmpfs"), MsFlags::empty(), Some("size=4m")).expect("a tmpfs can be mounted");
    let end = host.back_up(&volume);
    let left = names(&volume);
    mount(nothing, &volume, nothing, MsFlags::MS_REMOUNT, Some("size=64m")).expect("it can be made larger");
    let next = host.back_up(&volume);
    let copied = fs::metadata(volume.join("large")).map(|data| data.len()).ok();
    umount2(&volume, MntFlags::MNT_DETACH).expect("it can be unmounted");
    end.assert_failed(Errno::ENOSPC, "does not fit");
    assert_eq!(left, [""; 0]);
    // A mount point is a destination like any other.
    next.assert_complete();
    assert_eq!(copied, Some(8 << 20));
}

#[test]
fn a_second_backup_at_the_same_time_is_busy_by_the_same_process_and_by_another() {
    let mut host = Host::start();
    fs::write(host.data().join("file"), "content").unwrap();
    let (data, dest, other) = (host.data(), host.dest("dest"), host.dest("other"));
    host.tell("keep 1");
    host.start_backup("first", &[(&data, &dest)]);
    host.wait_until_state("1 1");
    host.start_backup("second", &[(&data, &other)]);
    host.end("second").assert_failed(Errno::EBUSY, "running");
    // Another program, into the same place.
    let mut stranger = Host::start();
    let source = stranger.data();
    stranger.start_backup("third", &[(&source, &dest)]);
    stranger.end("third").assert_failed(Errno::EBUSY, "running");
    // And by the command line.
    let taken = crate::common::backup::take(host.pid(), &host.path("taken"), &["--source", data.to_str().unwrap()]);
    taken.failure("busy");
    host.tell("keep 0");
    host.end("first").assert_complete();
    assert_eq!(names(&dest), ["file"]);
    assert_eq!(names(&other), [""; 0]);
    host.must_back_up(&other);
}
