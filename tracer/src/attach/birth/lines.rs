//! The lines by which keepers are born: what stands on the page for them, and the calls.

use std::os::fd::RawFd;

use hotbackup_event::failpoint;
use nix::errno::Errno;

use super::layout::{
    ARGUMENTS, Ends, Given, NAME, NotBorn, PAIR, PROGRAM, STRINGS, STRINGS_END, TRIAL, WORDS, Word, at, failed,
};
use crate::attach::Place;
use crate::attach::messages::{message, send};
use crate::attach::page::{CLOSED_BEFORE, Made, PAGE_BYTES};
use crate::error::Error;
use crate::helper::process::{BORN, PARENT};
use crate::helper::program;
use crate::ptracer::client::Ptracer;
use crate::ptracer::payload::{Call, PENDING, Value};
use crate::sys::passing;
use crate::target::process::to_c;

impl Place<'_> {
    /// All that the lines work on.
    pub(super) fn write_all(&self, given: &Given) -> Result<(), Error> {
        let (page, process) = (self.page, self.process);
        let put = |offset: u64, bytes: &[u8]| self.write(bytes, page.0 + offset);
        put(TRIAL, &message(page.0 + TRIAL, passing::WAKE, given.wake as u64))?;
        let four = [PENDING, PENDING, CLOSED_BEFORE, PENDING];
        put(PROGRAM, &four.map(u64::to_ne_bytes).concat())?;
        put(PAIR, &[0xff; 16])?;
        let mut words = [PENDING; Word::Done as usize + 1];
        words[Word::All as usize] = u64::MAX;
        words[Word::Before as usize] = 0;
        put(WORDS, &words.map(u64::to_ne_bytes).concat())?;
        self.write_messages()?;
        put(NAME, program::NAME.as_bytes())?;
        // As it counts processes itself.
        let (number, start) = (process.name().inner.to_string(), process.start().to_string());
        let mut strings = vec![to_c(PARENT.name()).unwrap_or_default()];
        strings.extend([number.as_str(), &start, BORN].map(|word| std::ffi::CString::new(word).unwrap_or_default()));
        let armed = std::env::var(failpoint::VARIABLE).unwrap_or_default();
        let armed = std::ffi::CString::new(format!("{}={armed}", failpoint::VARIABLE)).unwrap_or_default();
        let (mut bytes, mut pointers) = (Vec::new(), Vec::new());
        for string in &strings {
            pointers.push(page.0 + STRINGS + bytes.len() as u64);
            bytes.extend(string.as_bytes_with_nul());
        }
        pointers.push(0);
        let room = (STRINGS_END - STRINGS) as usize;
        let is_armed = std::env::var_os(failpoint::VARIABLE).is_some();
        if is_armed && bytes.len() + armed.as_bytes_with_nul().len() <= room {
            pointers.push(page.0 + STRINGS + bytes.len() as u64);
            bytes.extend(armed.as_bytes_with_nul());
        }
        pointers.push(0);
        put(STRINGS, &bytes)?;
        put(ARGUMENTS, &pointers.iter().flat_map(|pointer| pointer.to_ne_bytes()).collect::<Vec<u8>>())
    }

    /// The first line: an empty memfd for the program and a socket pair, at high numbers; and a descriptor is handed on.
    pub(super) fn make_gifts(&mut self, ptracer: &mut Ptracer, made: &mut Vec<RawFd>) -> Result<Ends, NotBorn> {
        let (page, high) = (self.page, self.high);
        let program = Made::at(page.0 + PROGRAM);
        let usual = u64::from(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        // Since 6.3 it must be said that it is to be executed; before that the kernel knows no such word.
        let exec = if may_say_exec() { u64::from(libc::MFD_EXEC) } else { 0 };
        let [near, far] = [Value::At(page.0 + PAIR), Value::At(page.0 + PAIR + 4)];
        let kind = (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as u64;
        let high_copy = |of, to| Call::of(libc::SYS_fcntl, of, [libc::F_DUPFD_CLOEXEC as u64, high]).into(at(page, to));
        let mut calls = vec![program.made_by(Call::new(libc::SYS_memfd_create, [page.0 + NAME, usual | exec]))];
        calls.extend(program.moved(high));
        let pair = [libc::AF_UNIX as u64, kind, 0, page.0 + PAIR];
        calls.push(Call::new(libc::SYS_socketpair, pair).into(at(page, Word::Paired)));
        calls.push(send(near, page.0 + TRIAL).unless_failed().into(at(page, Word::Sent)));
        calls.extend([high_copy(near, Word::Near), high_copy(far, Word::Far)]);
        // Where there is no pair, these are the numbers of nothing.
        calls.push(Call::of(libc::SYS_close, near, []));
        calls.push(Call::of(libc::SYS_close, far, []).into(at(page, Word::Gifts)));
        let end = at(page, Word::Gifts);
        self.run_once(ptracer, "socketpair", calls, end)?;
        let result = |word| self.word(at(page, word)).map(u64::cast_signed);
        let (program, near, far) = (self.number(program)?, result(Word::Near)?, result(Word::Far)?);
        made.extend([program, near, far].into_iter().filter(|&number| number >= 0).map(|number| number as RawFd));
        let of = |call: &str, result: i64| if result < 0 { Err(failed(call, result)) } else { Ok(result as RawFd) };
        of("socketpair", result(Word::Paired)?)?;
        of("sendmsg", result(Word::Sent)?)?;
        Ok(Ends { program: of("memfd_create", program)?, near: of("fcntl", near)?, far: of("fcntl", far)? })
    }

    /// The second line.
    pub(super) fn start(
        &mut self,
        ptracer: &mut Ptracer,
        given: &Given,
        ends: &Ends,
        made: &mut Vec<RawFd>,
    ) -> Result<(), NotBorn> {
        const SET: u64 = libc::SIG_SETMASK as u64;
        const BYTES: u64 = 8;
        const ON_EXEC: u64 = libc::CLOSE_RANGE_CLOEXEC as u64;
        let page = self.page;
        let [all, before] = [at(page, Word::All), at(page, Word::Before)];
        let stack = page.0 + PAGE_BYTES - 64;
        let flags = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
        let clone = |child: Vec<Call>, more: i32| Call {
            child: Some(child),
            ..Call::new(libc::SYS_clone, [flags | more as u64, stack, 0, 0, 0])
        };
        let (arguments, environment) = (page.0 + ARGUMENTS, page.0 + ARGUMENTS + 8 * 5);
        let put = |fd: RawFd, number: u64| Call::new(libc::SYS_dup2, [fd as u64, number]);
        let exit = || Call::new(libc::SYS_exit, [0]);
        let execute = [2, page.0 + NAME + 23, arguments, environment, libc::AT_EMPTY_PATH as u64];
        // By which it is found until it has executed the program.
        let name = Call::new(libc::SYS_prctl, [libc::PR_SET_NAME as u64, page.0 + STRINGS]);
        let born = vec![
            name,
            put(given.memory, 0),
            put(ends.far, 1).unless_failed(),
            put(ends.program, 2).unless_failed(),
            Call::new(libc::SYS_close_range, [3, u64::from(u32::MAX), ON_EXEC]).unless_failed(),
            Call::new(libc::SYS_setsid, []).unless_failed(),
            Call::new(libc::SYS_execveat, execute).unless_failed().into(at(page, Word::Executed)),
            exit(),
        ];
        // Who goes between shares the descriptors, and does nothing with them: its exit then flushes none, which can wait for a dead disk.
        let between = vec![clone(born, 0).into(at(page, Word::Born)), exit()];
        let wait = [0, libc::__WALL as u64, 0];
        let close = |fd: RawFd| Call::new(libc::SYS_close, [fd as u64]);
        let calls = vec![
            Call::new(libc::SYS_rt_sigprocmask, [SET, all, before, BYTES]).into(at(page, Word::Masked)),
            clone(between, libc::CLONE_FILES).unless_failed().into(at(page, Word::Cloned)),
            Call::of(libc::SYS_wait4, Value::At(at(page, Word::Cloned)), wait).unless_failed(),
            Call::new(libc::SYS_rt_sigprocmask, [SET, before, 0, BYTES]),
            close(ends.program),
            close(ends.far).into(at(page, Word::Done)),
        ];
        self.run_once(ptracer, "clone", calls, at(page, Word::Done))?;
        // The line has closed them: at their numbers may stand the program's own by now.
        made.retain(|number| ![ends.program, ends.far].contains(number));
        let result = |word| self.word(at(page, word)).map(u64::cast_signed);
        for (call, word) in [("rt_sigprocmask", Word::Masked), ("clone", Word::Cloned), ("clone", Word::Born)] {
            let result = result(word)?;
            if result == PENDING.cast_signed() {
                // Who was born of it may be at work on the page still.
                let why = "who was to start it was killed".into();
                return Err(NotBorn::InDoubt(Error::CannotOutlive { pid: self.process.pid(), why }));
            }
            if result < 0 {
                return Err(failed(call, result));
            }
        }
        match result(Word::Executed)? {
            failure if failure < 0 => Err(failed("execveat", failure)),
            _ => Ok(()),
        }
    }
}

/// Whether this kernel knows `MFD_EXEC`.
fn may_say_exec() -> bool {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let exec = MFdFlags::MFD_CLOEXEC | MFdFlags::from_bits_retain(libc::MFD_EXEC);
    memfd_create("hotbackup-trial", exec).err() != Some(Errno::EINVAL)
}
