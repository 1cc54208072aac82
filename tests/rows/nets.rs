//! Writes of exactly 8 bytes in a process with eventfds, which the filter does not show: each is found by the file's
//! position, and these calls would hide it if they were not seen.
use hotbackup_copier::Error;
use nix::libc::{self, O_APPEND, O_CREAT, O_RDWR, O_WRONLY};

use super::bench::{Bench, found_out, refused};
use crate::call;
use crate::common::driver::{Item, bytes, words};

const SIZE: usize = 300_000;
const AT: i64 = 200_001;

/// An 8-byte write after the point to what was not saved by then.
fn unseen(error: &Error) -> bool {
    matches!(error, Error::Blind(cause) if cause.contains("8 bytes at a time"))
}

/// In a process that has an eventfd: a file opened so, at a position inside, to which 8 bytes are written, and then
/// `hide`.
fn found(flags: i32, hide: impl Fn(&mut Bench, i32) + Copy + Send) {
    found_out(unseen, |at| {
        call!(at.guest, libc::SYS_eventfd2, 0, 0);
        let file = at.file("file", SIZE);
        let fd = at.guest.open(&file, flags);
        call!(at.guest, libc::SYS_lseek, fd, AT, libc::SEEK_SET);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_write, fd, bytes(b"8 bytes!"), 8);
            hide(at, fd);
        }
    });
}

#[test]
fn an_8_byte_write() {
    found(O_RDWR, |_, _| {});
}

#[test]
fn an_8_byte_write_to_a_file_opened_with_o_append() {
    found(O_WRONLY | O_APPEND, |_, _| {});
}

#[test]
fn an_8_byte_write_between_longer_ones() {
    found(O_RDWR, |at, fd| {
        call!(at.guest, libc::SYS_write, fd, bytes(b"longer"), 6);
        call!(at.guest, libc::SYS_write, fd, bytes(b"8 bytes!"), 8);
    });
}

#[test]
fn lseek() {
    found(O_RDWR, |at, fd| {
        call!(at.guest, libc::SYS_lseek, fd, AT, libc::SEEK_SET);
    });
}

#[test]
fn lseek_by_as_much_as_was_written() {
    found(O_RDWR, |at, fd| {
        call!(at.guest, libc::SYS_lseek, fd, -8, libc::SEEK_CUR);
    });
}

#[test]
fn lseek_through_a_duplicate() {
    found(O_RDWR, |at, fd| {
        let copy = call!(at.guest, libc::SYS_dup, fd);
        call!(at.guest, libc::SYS_lseek, copy, AT, libc::SEEK_SET);
    });
}

/// The same with a descriptor that is opened and ended between two looks at the positions, so that none shows it.
fn ended(end: impl Fn(&mut Bench, i32) + Copy + Send) {
    found(O_RDWR, end);
    found_out(unseen, |at| {
        call!(at.guest, libc::SYS_eventfd2, 0, 0);
        at.file("file", SIZE);
        move |at: &mut Bench| {
            let fd = at.guest.open("file", O_RDWR);
            call!(at.guest, libc::SYS_write, fd, bytes(b"8 bytes!"), 8);
            end(at, fd);
        }
    });
}

#[test]
fn close() {
    ended(|at, fd| {
        call!(at.guest, libc::SYS_close, fd);
    });
}

#[test]
fn dup2() {
    ended(|at, fd| {
        call!(at.guest, libc::SYS_dup2, 0, fd);
    });
}

#[test]
fn dup3() {
    ended(|at, fd| {
        call!(at.guest, libc::SYS_dup3, 0, fd, libc::O_CLOEXEC);
    });
}

#[test]
fn close_range() {
    ended(|at, fd| {
        call!(at.guest, libc::SYS_close_range, fd, fd, 0);
    });
}

#[test]
fn a_file_opened_written_and_closed_at_once() {
    found(O_RDWR, |at, fd| {
        call!(at.guest, libc::SYS_close, fd);
        for (name, flags) in [("file", O_WRONLY), ("file", O_WRONLY | O_APPEND), ("new", O_WRONLY | O_CREAT)] {
            let fd = at.guest.open(name, flags);
            call!(at.guest, libc::SYS_write, fd, bytes(b"8 bytes!"), 8);
            call!(at.guest, libc::SYS_close, fd);
        }
    });
}

/// A descriptor that nobody has looked at yet, opened in the backup, and written to 8 bytes at a time; then `go_on`.
fn through_a_new_one(go_on: impl Fn(&mut Bench, i32) + Copy + Send) {
    found_out(unseen, |at| {
        call!(at.guest, libc::SYS_eventfd2, 0, 0);
        let file = at.file("file", SIZE);
        // It stands where the new one will: that does not make it the same open file.
        let other = at.guest.open(&file, O_RDWR);
        call!(at.guest, libc::SYS_lseek, other, 8, libc::SEEK_SET);
        move |at: &mut Bench| {
            let fd = at.guest.open("file", O_RDWR);
            call!(at.guest, libc::SYS_write, fd, bytes(b"8 bytes!"), 8);
            go_on(at, fd);
        }
    });
}

#[test]
fn an_8_byte_write_through_a_new_descriptor_that_comes_to_where_another_stands() {
    through_a_new_one(|_, _| {});
}

#[test]
fn an_8_byte_write_through_a_new_descriptor_before_a_longer_one() {
    through_a_new_one(|at, fd| {
        call!(at.guest, libc::SYS_write, fd, bytes(b"longer"), 6);
    });
}

#[test]
fn an_8_byte_write_through_a_new_descriptor_that_is_asked_where_it_stands() {
    through_a_new_one(|at, fd| {
        assert_eq!(call!(at.guest, libc::SYS_lseek, fd, 0, libc::SEEK_CUR), 8);
    });
}

#[test]
fn an_8_byte_write_through_a_new_descriptor_of_which_a_duplicate_goes_on() {
    through_a_new_one(|at, fd| {
        let copy = call!(at.guest, libc::SYS_dup, fd);
        call!(at.guest, libc::SYS_close, fd);
        call!(at.guest, libc::SYS_write, copy, bytes(b"8 again!"), 8);
    });
}

#[test]
fn an_8_byte_write_through_a_duplicate_alone() {
    found(O_RDWR, |at, fd| {
        let copy = call!(at.guest, libc::SYS_dup, fd);
        call!(at.guest, libc::SYS_write, copy, bytes(b"8 again!"), 8);
        call!(at.guest, libc::SYS_close, fd);
        call!(at.guest, libc::SYS_write, copy, bytes(b"8 again!"), 8);
    });
}

/// Nobody knows beforehand which file a handle opens.
#[test]
fn open_by_handle_at_of_a_file_that_is_written_to_and_closed_at_once() {
    found_out(unseen, |at| {
        call!(at.guest, libc::SYS_eventfd2, 0, 0);
        at.file("file", SIZE);
        let dir = at.guest.open(".", libc::O_RDONLY);
        // struct file_handle with room for 48 bytes, filled in place.
        let room = vec![Item::Bytes(48u32.to_ne_bytes().to_vec()), Item::Repeat(0, 52)];
        let arguments = [dir.into(), "file".into(), room.into(), words(&[0]), 0.into()];
        let handle = at.guest.look(1, libc::SYS_name_to_handle_at, &arguments);
        move |at: &mut Bench| {
            let fd = call!(at.guest, libc::SYS_open_by_handle_at, dir, bytes(&handle), O_WRONLY);
            call!(at.guest, libc::SYS_write, fd, bytes(b"8 bytes!"), 8);
            call!(at.guest, libc::SYS_close, fd);
        }
    });
}

#[test]
fn an_8_byte_write_by_a_child_through_what_it_inherited() {
    found(O_RDWR, |at, fd| {
        at.guest.in_child();
        call!(at.guest, libc::SYS_write, fd, bytes(b"8 bytes!"), 8);
        at.guest.end();
    });
}

#[test]
fn a_child_that_opens_a_file_for_writing_fails_the_backup() {
    let cause = |error: &Error| matches!(error, Error::Untraceable { path, .. } if path.ends_with("data/file"));
    refused(cause, |at| {
        call!(at.guest, libc::SYS_eventfd2, 0, 0);
        at.file("file", SIZE);
        move |at: &mut Bench| {
            at.guest.in_child();
            let fd = at.guest.open("file", O_RDWR);
            call!(at.guest, libc::SYS_write, fd, bytes(b"8 bytes!"), 8);
            at.guest.end();
        }
    });
}
