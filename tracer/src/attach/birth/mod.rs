//! Keepers that are born from the target, where ours cannot be put into its cgroups (a sidecar). They have then its cgroups,
//! namespaces, user and seccomp filters by themselves, and end with none of us.
//!
//! ```text
//!   supervisor                      a thread of the target                      who is born
//!   ----------                      ----------------------                      -----------
//!   first line:                     memfd_create(the program), socketpair
//!                                   sendmsg(socket: the eventfd)
//!   writes the program, seals it,
//!   sends its /proc by the socket
//!   second line:                    rt_sigprocmask(block all)
//!                                   clone(VM, VFORK) ------------------------>  a go-between:
//!                                                                               clone(VM, VFORK) ----> prctl(its name)
//!                                                                                                      dup2: memory, socket, program
//!                                                                                                      close_range(all else: on exec)
//!                                                                                                      setsid
//!                                                                                                      execveat(program)
//!                                                                               exit                   the keepers' parent
//!                                   wait4(the go-between)                                              takes eventfd and /proc from
//!                                   rt_sigprocmask(as before)                                          the socket, starts the keeper,
//!                                   close: the program, the far socket                                 which makes its twin
//!   waits for word by the socket  <------------------------------------------------------------------  "k": ready
//!   third line:                     seccomp(..) = listener
//!                                   sendmsg(socket: the listener) ---------------------------------->  has it
//! ```
//!
//! - The new tasks run in the target's memory, as posix_spawn(3) does it, for some hundred microseconds, on a stack of their own; all
//!   signals are blocked in them, so that no handler of the program runs there.
//! - No descriptor is closed before the new task has left the target's memory (only marked): a close may wait for a file system. That one
//!   would is tried first (`closable.rs`). Who waits in it all the same has a name, and is ended by that (`unborn.rs`).
//! - The go-between has no exit signal and executes nothing, and the thread itself waits for it: the program hears of no child.
//!   What is born is an orphan at once. Only where the target is process 1 of its namespace, or a subreaper, is it the target's child.
//! - The thread that installs the filter hands the listener on itself, so nothing depends on us from then on. That a descriptor can be
//!   handed on is tried before, with the eventfd; that the keeper can make the calls it will need, too.
//! - **What is mapped is unmapped** when it came to nothing, by the last call of a line that runs elsewhere. Nobody else uses the
//!   page then: who ran in it is in no call any more, as each line was seen to its end, with which the go-between had been waited
//!   for, and it had waited for the other to leave this memory (VFORK). Where a line was not seen to its end, the page stays.

mod clear;
pub(crate) mod closable;
mod layout;
mod lines;
mod ready;
mod socket;
mod unborn;

use std::fs::File;
use std::io::Error as IoError;
use std::os::fd::{AsFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::Instant;

use hotbackup_event::failpoint;
use nix::fcntl::OFlag;

use super::Place;
use super::messages::{listener_place, message};
use super::page::{ATTEMPTS, CLOSED_BEFORE};
use crate::error::Error;
use crate::helper::process::{KEEPER, PARENT, end_all};
use crate::helper::program::{self, Program};
use crate::ptracer::client::Ptracer;
use crate::shared::memory::Memory;
use crate::sys::{passing, procfs};

pub(crate) use clear::leftovers;
use layout::NotBorn;
pub(crate) use layout::{Given, Socket};
use socket::link_of;
pub(crate) use socket::socket_at;
pub(crate) use unborn::end_unborn;

impl Place<'_> {
    /// Has the target start keepers that have what is `given`; returns when they are ready.
    ///
    /// # Errors
    /// [`Error::CannotOutlive`], with what is missing: then nothing of what was made in the target, also before this, is left
    /// there.
    pub fn bear(
        &mut self,
        ptracer: &mut Ptracer,
        program: Program,
        given: &Given,
        session: &Memory,
    ) -> Result<Socket, Error> {
        let pid = self.process.pid();
        let mut made = vec![given.memory, given.wake];
        let why = match self.try_to_bear(ptracer, program, given, session, &mut made) {
            Ok(socket) => {
                self.socket = Some(socket.number);
                return Ok(socket);
            }
            Err(NotBorn::InDoubt(error)) => return Err(error),
            Err(NotBorn::Other(error @ (Error::TargetExited(_) | Error::Frozen { .. } | Error::GivenUp(_)))) => {
                return Err(error);
            }
            Err(NotBorn::Other(error)) => error.to_string(),
            Err(NotBorn::Cannot(why)) => why,
        };
        end_all(KEEPER, self.process);
        end_all(PARENT, self.process);
        end_unborn(self.process);
        self.clear(ptracer, &made);
        Err(Error::CannotOutlive { pid, why })
    }

    /// Hands the listener on through a socket that was made before, by an attach that came to nothing.
    pub fn hand_on_through(&mut self, socket: RawFd) -> Result<(), Error> {
        self.write_messages()?;
        self.socket = Some(socket);
        Ok(())
    }

    fn write_messages(&self) -> Result<(), Error> {
        for attempt in 0..ATTEMPTS {
            let place = listener_place(self.page, attempt);
            self.write(&message(place, passing::LISTENER, CLOSED_BEFORE), place)?;
        }
        Ok(())
    }

    fn try_to_bear(
        &mut self,
        ptracer: &mut Ptracer,
        program: Program,
        given: &Given,
        session: &Memory,
        made: &mut Vec<RawFd>,
    ) -> Result<Socket, NotBorn> {
        self.write_all(given)?;
        let ends = self.make_gifts(ptracer, made)?;
        let socket = self.take_socket(ends.near)?;
        // Whoever comes after us, if we are killed, finds it by this.
        session.socket_id.store(socket.id, Ordering::SeqCst);
        session.target_socket.store(socket.number, Ordering::SeqCst);
        failpoint::hit("birth.gifts-made");
        let file = self.write_program(program, ends.program)?;
        let proc = procfs::root().map_err(|errno| NotBorn::Cannot(format!("/proc cannot be handed on: {errno}")))?;
        passing::send(socket.near.as_fd(), &[passing::PROC], Some(proc))
            .map_err(|errno| NotBorn::Cannot(format!("a descriptor cannot be handed on to it: {errno}")))?;
        // Nobody may have it open for writing when it is executed.
        drop(file);
        failpoint::hit("birth.program-written");
        let began = Instant::now();
        self.start(ptracer, given, &ends, made)?;
        let born = began.elapsed();
        failpoint::hit("birth.born");
        self.wait_until_ready(&socket)?;
        tracing::debug!(?born, ready = ?began.elapsed(), "the process has started its keepers itself");
        failpoint::hit("birth.ready");
        Ok(socket)
    }

    fn write_program(&self, program: Program, number: RawFd) -> Result<File, NotBorn> {
        let cannot = |why: String| NotBorn::Cannot(format!("the keeper cannot be written to its memory: {why}"));
        let file = self.process.open_file(&format!("fd/{number}"), OFlag::O_RDWR);
        let file = File::from(file.map_err(|errno| cannot(errno.to_string()))?);
        if link_of(self.process, number).as_deref() != Some(&*format!("/memfd:{} (deleted)", program::NAME)) {
            return Err(cannot("it is gone".into()));
        }
        program.write_to(&file).map_err(|error: IoError| cannot(error.to_string()))?;
        Ok(file)
    }

    fn take_socket(&self, number: RawFd) -> Result<Socket, NotBorn> {
        socket_at(self.process, number).ok_or_else(|| NotBorn::Cannot("it has closed the socket for it".into()))
    }
}
