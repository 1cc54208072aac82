use super::*;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;

use super::super::inflight::State;
use crate::sys::notify::CallData;

fn this_process() -> Process {
    Process::open(std::process::id() as i32).unwrap()
}

/// A descriptor of ours that was looked at when it had written 100 bytes.
fn watched_at_100() -> (Process, Unseen, std::fs::File, FileId) {
    let (process, mut unseen) = (this_process(), Unseen::default());
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0; 100]).unwrap();
    unseen.look(&process, &InFlight::default(), Look::Mark);
    let id = process.descriptor_identity(process.pid(), file.as_raw_fd()).unwrap().id;
    (process, unseen, file, id)
}

fn content_of(effects: &[Effect], file: FileId) -> Vec<(u64, u64)> {
    let range = |effect: &Effect| match effect {
        Effect::Content { file: of, start, end } if *of == file => Some((*start, *end)),
        _ => None,
    };
    effects.iter().filter_map(range).collect()
}

#[test]
fn an_unseen_write_shows_in_the_position() {
    let (process, mut unseen, mut file, id) = watched_at_100();
    file.write_all(&[1; 8]).unwrap();
    let effects = unseen.look(&process, &InFlight::default(), Look::Mark);
    assert_eq!(content_of(&effects, id), [(100, 108)]);
    let again = unseen.look(&process, &InFlight::default(), Look::Mark);
    assert_eq!(content_of(&again, id), []);
}

#[test]
fn a_shown_write_is_explained_and_one_more_is_not() {
    let process = this_process();
    let mut unseen = Unseen::default();
    let mut file = tempfile::tempfile().unwrap();
    unseen.look(&process, &InFlight::default(), Look::Mark);
    let fd = file.as_raw_fd();
    let id = process.descriptor_identity(process.pid(), fd).unwrap().id;
    unseen.opens(Some((id, 0)));
    unseen.look(&process, &InFlight::default(), Look::Mark);
    unseen.writes(&process, fd, id, 0, Position::At(0), 50);
    file.write_all(&[1; 50]).unwrap();
    assert_eq!(content_of(&unseen.look(&process, &InFlight::default(), Look::Unexplained), id), []);
    unseen.writes(&process, fd, id, 50, Position::At(50), 50);
    file.write_all(&[1; 58]).unwrap();
    assert_eq!(content_of(&unseen.look(&process, &InFlight::default(), Look::Unexplained), id), [(50, 108)]);
}

#[test]
fn a_seek_does_not_hide_what_was_written_before_it() {
    let (process, mut unseen, mut file, id) = watched_at_100();
    let fd = file.as_raw_fd();
    file.write_all(&[1; 8]).unwrap();
    unseen.seeks(&process, fd, id, 108, 10);
    file.seek(SeekFrom::Start(10)).unwrap();
    file.write_all(&[1; 8]).unwrap();
    assert_eq!(content_of(&unseen.look(&process, &InFlight::default(), Look::Mark), id), [(100, 108), (10, 18)]);
}

#[test]
fn a_duplicate_is_followed_when_its_original_is_closed() {
    let (process, mut unseen, file, id) = watched_at_100();
    let mut duplicate = file.try_clone().unwrap();
    drop(file);
    unseen.look(&process, &InFlight::default(), Look::Mark);
    duplicate.write_all(&[1; 8]).unwrap();
    assert_eq!(content_of(&unseen.look(&process, &InFlight::default(), Look::Mark), id), [(100, 108)]);
}

#[test]
fn a_close_is_a_last_look() {
    let process = this_process();
    let mut unseen = Unseen::default();
    unseen.look(&process, &InFlight::default(), Look::Mark);
    for written in [0, 8] {
        let mut file = tempfile::tempfile().unwrap();
        let id = process.descriptor_identity(process.pid(), file.as_raw_fd()).unwrap().id;
        unseen.opens(Some((id, 0)));
        file.write_all(&vec![1; written]).unwrap();
        unseen.closes(&process, file.as_raw_fd());
        drop(file);
        let found = content_of(&unseen.look(&process, &InFlight::default(), Look::Unexplained), id);
        assert_eq!(found, if written == 0 { vec![] } else { vec![(0, 8)] });
    }
}

#[test]
fn a_close_of_a_known_descriptor_is_a_look_from_where_it_was() {
    let (process, mut unseen, mut file, id) = watched_at_100();
    file.write_all(&[1; 8]).unwrap();
    unseen.closes(&process, file.as_raw_fd());
    drop(file);
    assert_eq!(content_of(&unseen.look(&process, &InFlight::default(), Look::Mark), id), [(100, 108)]);
}

#[test]
fn a_number_that_has_come_to_another_file_is_not_the_descriptor_that_it_was() {
    let process = this_process();
    let mut unseen = Unseen::default();
    let files = [(); 2].map(|()| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[0; 100]).unwrap();
        file
    });
    unseen.look(&process, &InFlight::default(), Look::Mark);
    let [first, second] = files.map(std::os::fd::OwnedFd::from);
    let id = |fd: &std::os::fd::OwnedFd| process.descriptor_identity(process.pid(), fd.as_raw_fd()).unwrap().id;
    let (id_before, mut first) = (id(&first), first);
    nix::unistd::dup2(&second, &mut first).unwrap();
    assert_ne!(id(&first), id_before);
    let found = unseen.look(&process, &InFlight::default(), Look::Mark);
    assert_eq!(content_of(&found, id_before), [(100, u64::MAX)], "it was closed in a way that was not shown");
}

#[test]
fn a_descriptor_closed_unseen_marks_all_that_it_may_have_written() {
    let (process, mut unseen, file, id) = watched_at_100();
    drop(file);
    assert_eq!(content_of(&unseen.look(&process, &InFlight::default(), Look::Mark), id), [(100, u64::MAX)]);
}

/// A call of a thread that is not there, as the receiver has it.
fn received(inflight: &InFlight) -> Call {
    let (tid, data) = (1, CallData::default());
    let serial = inflight.begin(tid, data);
    inflight.set_state(tid, serial, State::Admitting);
    Call { tid, serial, state: State::Admitting, data, positions: None }
}

/// The call runs as soon as the look waits for it, and would otherwise be likely to run after the look.
fn looks_before(unseen: &mut Unseen, inflight: &InFlight, call: impl FnOnce() + Send) {
    let process = this_process();
    let pending = received(inflight);
    unseen.runs_later(pending);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (0..1000).for_each(|_| std::thread::yield_now());
            call();
            inflight.forget(&pending);
        });
        unseen.look(&process, inflight, Look::Mark);
    });
}

#[test]
fn a_close_that_is_still_to_run_at_a_look_explains_that_the_descriptor_is_gone() {
    let (process, inflight) = (this_process(), InFlight::default());
    let mut unseen = Unseen::default();
    unseen.look(&process, &inflight, Look::Mark);
    let file = tempfile::tempfile().unwrap();
    let id = process.descriptor_identity(process.pid(), file.as_raw_fd()).unwrap().id;
    unseen.opens(Some((id, 0)));
    assert!(unseen.closes(&process, file.as_raw_fd()).is_some());
    looks_before(&mut unseen, &inflight, || drop(file));
    assert_eq!(content_of(&unseen.look(&process, &inflight, Look::Unexplained), id), []);
}

#[test]
fn a_seek_that_is_still_to_run_at_a_look_explains_the_move() {
    let (process, mut unseen, mut file, id) = watched_at_100();
    let inflight = InFlight::default();
    unseen.seeks(&process, file.as_raw_fd(), id, 100, 10);
    looks_before(&mut unseen, &inflight, || assert_eq!(file.seek(SeekFrom::Start(10)).unwrap(), 10));
    assert_eq!(content_of(&unseen.look(&process, &inflight, Look::Unexplained), id), []);
    drop(file);
}

#[test]
fn a_write_that_is_held_at_a_look_explains_the_move_after_it() {
    let (process, inflight) = (this_process(), InFlight::default());
    for is_held in [true, false] {
        let mut unseen = Unseen::default();
        let mut file = tempfile::tempfile().unwrap();
        unseen.look(&process, &inflight, Look::Mark);
        let fd = file.as_raw_fd();
        let id = process.descriptor_identity(process.pid(), fd).unwrap().id;
        let call = received(&inflight);
        inflight.set_positions(call.tid, call.serial, id);
        unseen.writes(&process, fd, id, 0, Position::At(0), 50);
        if !is_held {
            inflight.forget(&call); // it failed, say
        }
        unseen.look(&process, &inflight, Look::Mark);
        file.write_all(&[1; 50]).unwrap();
        let found = content_of(&unseen.look(&process, &inflight, Look::Unexplained), id);
        assert_eq!(found, if is_held { vec![] } else { vec![(0, 50)] });
    }
}

#[test]
fn what_a_new_descriptor_wrote_unseen_is_found_at_the_next_look_and_before_it_seeks() {
    let (process, inflight) = (this_process(), InFlight::default());
    for seeks in [false, true] {
        let mut unseen = Unseen::default();
        let mut known = tempfile::NamedTempFile::new().unwrap();
        known.write_all(&[0; 10]).unwrap();
        unseen.look(&process, &inflight, Look::Mark);
        let id = process.descriptor_identity(process.pid(), known.as_raw_fd()).unwrap().id;
        unseen.opens(Some((id, 10)));
        let mut new = std::fs::File::options().write(true).open(known.path()).unwrap();
        new.write_all(&[1; 8]).unwrap();
        if seeks {
            // To where the other one is: that makes it no duplicate of that.
            unseen.seeks(&process, new.as_raw_fd(), id, 8, 10);
            new.seek(SeekFrom::Start(10)).unwrap();
        }
        let effects = unseen.look(&process, &inflight, Look::Mark);
        assert_eq!(content_of(&effects, id), [(0, 8)], "seeks: {seeks}");
    }
}

#[test]
fn the_position_of_an_appending_descriptor_is_the_end() {
    assert_eq!(parse_position("pos:\t4096\nflags:\t0100002\nmnt_id:\t29\n"), Position::At(4096));
    assert_eq!(parse_position("pos:\t0\nflags:\t0102001\n"), Position::End);
    assert_eq!(parse_position("flags: x"), Position::Unknown);
}
