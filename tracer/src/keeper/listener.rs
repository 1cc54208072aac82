//! The keeper's copy of the listener: from the target, from whoever handed it on, or from the supervisor.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use hotbackup_event::failpoint;

use super::born;
use super::run::Keeper;
use crate::shared::roles::{self, Part};
use crate::target::listener::{listener_at, listener_of, target_listener};

impl Keeper {
    pub(super) fn find_listener(&mut self) -> bool {
        if self.listener.is_some() {
            return true;
        }
        self.listener = self.handed_on().or_else(|| target_listener(&self.target).map(|(fd, _)| fd));
        if self.listener.is_some() {
            failpoint::hit("keeper.found-listener");
            self.listener_is_there();
        }
        self.listener.is_some()
    }

    /// The listener, or something that never has anything to say.
    pub(super) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_ref().map_or(self.wake.as_fd(), |listener| listener.as_fd())
    }

    /// Takes a copy of the listener from the target, which keeps one open for good, or else from the supervisor.
    pub(super) fn fetch_listener(&mut self) {
        let number = self.memory.target_listener.load(Ordering::SeqCst);
        let direct = || (number >= 0).then(|| listener_at(&self.target, number)).flatten();
        let found = self.handed_on().or_else(direct).or_else(|| target_listener(&self.target).map(|(fd, _)| fd));
        self.listener = found.or_else(|| {
            let number = self.memory.supervisor_listener.load(Ordering::SeqCst);
            let supervisor = self.supervisor.as_ref().filter(|_| number >= 0)?.pidfd.as_ref()?;
            // The number is a hint, and another's listener is not to be answered.
            let pid = self.memory.supervisor_here()?;
            let is_it = roles::is_held_by(self.memory.fd().as_fd(), Part::Supervisor, pid);
            is_it.then(|| listener_of(supervisor.as_fd(), number)).flatten()
        });
        self.listener_is_there();
    }

    pub(super) fn handed_on(&self) -> Option<OwnedFd> {
        self.socket.as_ref().and_then(|socket| born::listener(socket.as_fd()))
    }

    /// The twin that was made before has no copy, and could not get one if the target had none: the next one has.
    pub(super) fn listener_is_there(&mut self) {
        let number = self.listener.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        self.memory.keeper_listener.store(number, Ordering::SeqCst);
        if self.listener.is_none() || self.twin.pidfd().is_none() {
            return;
        }
        // First the new one: in between nobody would take our place. Should we die before the old one is ended, both would, but for
        // the lock: one of them finds that it is not needed.
        let (mut old, this) = (std::mem::take(&mut self.twin), std::process::id());
        self.renew_twin();
        // The new one comes back from there as well.
        if std::process::id() == this {
            old.end();
        }
    }
}
