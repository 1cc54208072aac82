//! What a birth leaves that came to nothing, or whose supervisor was killed, and how it is taken away.

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use super::socket::{link_of, socket_at};
use crate::attach::page::{ATTEMPTS, PAGE_BYTES};
use crate::attach::{Place, RUN_LIMIT, wait_for};
use crate::error::Error;
use crate::helper::program;
use crate::ptracer::client::Ptracer;
use crate::ptracer::payload::{Call, PENDING};
use crate::shared::memory::Memory;
use crate::target::process::Process;

impl Place<'_> {
    /// Closes what was made, where the page has to stay.
    fn close_all(&mut self, ptracer: &mut Ptracer, mut calls: Vec<Call>) {
        let pending = self.page.listener(ATTEMPTS - 1).at_end();
        let Some(last) = calls.pop() else { return };
        calls.push(last.into(pending));
        if let Err(not) = self.run_once(ptracer, "close", calls, pending) {
            tracing::warn!(error = %not.error, "what was made in the process is left there");
        }
    }

    /// Closes what others have left there.
    ///
    /// # Errors
    /// When no thread could be used.
    pub fn close_left(&mut self, ptracer: &mut Ptracer, left: &[RawFd]) -> Result<(), Error> {
        let pending = self.page.listener(ATTEMPTS - 1).at_end();
        let mut calls: Vec<Call> = left.iter().map(|&number| Call::new(libc::SYS_close, [number as u64])).collect();
        if let Some(last) = calls.pop() {
            calls.push(last.into(pending));
            self.run_once(ptracer, "close", calls, pending).map_err(|not| not.error)?;
            self.write(&PENDING.to_ne_bytes(), pending)?;
        }
        Ok(())
    }

    /// The last line of an attach that came to nothing: closes what was made, as far as it is still there, and unmaps the page.
    pub(super) fn clear(&mut self, ptracer: &mut Ptracer, made: &[RawFd]) {
        let is_ours = |number: &&RawFd| {
            let link = link_of(self.process, **number).unwrap_or_default();
            ["/memfd:hotbackup-", "anon_inode:[eventfd]", "socket:["].iter().any(|start| link.starts_with(start))
        };
        let mut calls: Vec<Call> =
            made.iter().filter(is_ours).map(|&number| Call::new(libc::SYS_close, [number as u64])).collect();
        if self.doubtful {
            self.close_all(ptracer, calls);
            return;
        }
        calls.push(Call::new(libc::SYS_munmap, [self.page.0, PAGE_BYTES]));
        // A word that is pending still, so that a thread is chosen as for any other line; its end is the page's.
        let pending = self.page.session(ATTEMPTS - 1)[1].at_end();
        if self.word(pending).is_ok_and(|word| word != PENDING) && self.write(&PENDING.to_ne_bytes(), pending).is_err()
        {
            return;
        }
        if let Err(error) = ptracer.run(self.process, calls, Some(pending), false) {
            tracing::warn!(%error, "what was made in the process is left there");
            return;
        }
        let _ = wait_for(self.process, "munmap", RUN_LIMIT, || self.word(pending).is_err().then_some(()));
    }
}

/// What births have left in the target whose supervisor was killed: the program, and the ends of the socket.
pub(crate) fn leftovers(process: &Process, session: &Memory) -> Vec<RawFd> {
    let (near, id) = (session.target_socket.load(Ordering::SeqCst), session.socket_id.load(Ordering::SeqCst));
    let (program, near_link) = (format!("/memfd:{} (deleted)", program::NAME), format!("socket:[{id}]"));
    // The other end was made with it, and moved next to it.
    let far_link = format!("socket:[{}]", id.wrapping_add(1));
    let is_far = |number: RawFd| (number - near).abs() <= 2 && socket_at(process, number).is_some();
    let is_left = |number: RawFd, link: &std::ffi::OsStr| {
        link == &*program || near > 0 && (number == near && link == &*near_link || link == &*far_link && is_far(number))
    };
    process
        .descriptors()
        .into_iter()
        .filter(|(number, link)| is_left(*number, link))
        .map(|(number, _)| number)
        .collect()
}
