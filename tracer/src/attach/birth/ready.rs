//! Waiting for those who are born.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::layout::{NotBorn, Socket};
use super::unborn;
use crate::attach::Place;
use crate::error::Error;
use crate::sys::passing;

/// How long the new keepers may take until they say that they are ready, on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked at whether they are still wanted.
const LOOK: Duration = Duration::from_millis(50);

const ENDED: &str =
    "the keeper that it started ended at once (a seccomp filter of its own, or a security module, may have killed it)";

impl Place<'_> {
    pub(super) fn wait_until_ready(&self, socket: &Socket) -> Result<(), NotBorn> {
        let limit = Instant::now() + READY_LIMIT;
        loop {
            match passing::receive(socket.near.as_fd(), false) {
                Ok(message) => match message.bytes.split_first() {
                    Some((&passing::READY, _)) => return Ok(()),
                    Some((&passing::PROBLEM, words)) => {
                        let words = String::from_utf8_lossy(words).into_owned();
                        return Err(NotBorn::Cannot(format!("the keeper that it started said: {words}")));
                    }
                    _ => return Err(NotBorn::Cannot(ENDED.into())),
                },
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return Err(NotBorn::Cannot(ENDED.into())),
            }
            if !self.process.is_alive() {
                return Err(Error::TargetExited(self.process.pid()).into());
            }
            if self.process.is_given_up() {
                return Err(Error::GivenUp(self.process.pid()).into());
            }
            if Instant::now() > limit {
                crate::target::cgroups::check_thawed(self.process)?;
                let why = if unborn::find(self.process).is_empty() {
                    "the keeper that it started was not ready in time"
                } else {
                    "who was to become its keeper does not get to an end of closing what it has open: see to it that its file \
                     systems answer"
                };
                return Err(NotBorn::Cannot(why.into()));
            }
            let mut fds = [PollFd::new(socket.near.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO));
        }
    }
}
