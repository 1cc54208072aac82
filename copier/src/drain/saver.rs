//! Before-images: reading what a call would change, so that it can go on.
//!
//! Two kinds of threads. *Savers* take calls that must wait, read what they would change into memory, and let them go.
//! One *writer* writes that to the stage. Memory in between is bounded; a saver takes room before it claims blocks, so
//! that nobody who waits for claimed blocks ever waits for the destination too. When there is no room for too long, the
//! backup fails and the call goes on.
use crate::base::util::{lock, micros, wait};
use crate::context::{Context, Images};
use crate::gate::needs::{Job, Need};
use crate::marks::blockmap::BLOCK;
use crate::marks::claims::GLANCE;
use crate::marks::ledger::Ledger;
use crate::marks::node::{File, FileState, Opened, Xattrs};
use crate::passes::source::{RUN, ended_early, ends_early, hole_end, is_still_hole, save_xattrs, segments, to_save};
use crate::stage::Stage;
use crate::{Capture, Error};
use crossbeam::channel::{Receiver, Sender};
use hotbackup_event::failpoint::hit;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A range that was saved.
pub(crate) struct Image {
    file: Arc<File>,
    range: Range<u64>,
    /// `None`: a hole.
    data: Option<Vec<u8>>,
    /// How much of the room for images it takes.
    room: usize,
}

impl Image {
    /// A hole.
    pub fn hole(file: &Arc<File>, range: Range<u64>) -> Self {
        Self { file: Arc::clone(file), range, data: None, room: 0 }
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.data.as_ref().map_or(0, Vec::len)
    }

    /// Takes no room of its own: its memory is bounded in another way.
    pub fn without_room(self) -> Self {
        Self { room: 0, ..self }
    }
}

/// Memory for images.
pub(crate) struct Room {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Room {
    pub fn new(bytes: usize) -> Self {
        // Whatever the setting, one run must fit.
        Self { free: Mutex::new(bytes.max((RUN * BLOCK) as usize)), freed: Condvar::new() }
    }

    /// Takes room. `false`: there was none before the deadline, or the backup has failed.
    fn take(&self, bytes: usize, deadline: Instant, ledger: &Ledger) -> bool {
        let mut free = lock(&self.free);
        while *free < bytes {
            if ledger.has_failed() || Instant::now() >= deadline {
                return false;
            }
            free = wait(&self.freed, free, GLANCE);
        }
        *free -= bytes;
        true
    }

    fn give(&self, bytes: usize) {
        *lock(&self.free) += bytes;
        self.freed.notify_all();
    }
}

/// What savers work with.
pub(crate) struct Saver<'a, P: Send + 'static> {
    pub capture: &'a Capture<P>,
    pub ledger: &'a Ledger,
    pub stage: &'a Stage,
    pub room: &'a Room,
    pub counts: &'a Images,
    pub max_wait: Duration,
    pub pid: i32,
}

impl<P: Send + 'static> Clone for Saver<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: Send + 'static> Copy for Saver<'_, P> {}

impl<'a, P: Send + 'static> Saver<'a, P> {
    pub fn new(context: &'a Context<'_, P>, capture: &'a Capture<P>, room: &'a Room) -> Self {
        let tuning = context.tuning;
        let (ledger, stage, counts) = (&*context.ledger, context.stage, &context.images);
        Self { capture, ledger, stage, room, counts, max_wait: tuning.max_wait, pid: context.pid }
    }

    /// A saver: lets calls go once what they would change is saved, until the gate is open.
    pub fn save_all(self, jobs: Receiver<Job<P>>, images: Sender<Image>) {
        let _guard = FailOnPanic(self.capture);
        for job in jobs {
            let done = job.needs.iter().try_for_each(|need| self.save(need, job.since, &images));
            // Done or failed: first the call goes on.
            let waited = job.since.elapsed();
            drop(job.permit);
            self.counts.longest_us.fetch_max(micros(waited), Ordering::Relaxed);
            if let Err(error) = done {
                self.capture.fail(error);
            }
        }
    }

    fn save(&self, need: &Need, since: Instant, images: &Sender<Image>) -> Result<(), Error> {
        if self.ledger.has_failed() {
            return Ok(());
        }
        match need {
            Need::Open(file) => to_save(file, self.pid).map(drop),
            Need::Xattrs(file) => {
                if let Some(source) = to_save(file, self.pid)? {
                    save_xattrs(file, &source)?;
                }
                self.wait_for(file, since, |state| matches!(state.xattrs, Xattrs::Known(_)))
            }
            Need::Blocks(file, blocks) => self.save_blocks(file, blocks, since, images),
        }
    }

    fn save_blocks(
        &self,
        file: &Arc<File>,
        blocks: &Range<u64>,
        since: Instant,
        images: &Sender<Image>,
    ) -> Result<(), Error> {
        loop {
            let due = {
                let state = file.state();
                state.map.due_run(blocks.clone(), RUN)
            };
            let Some(due) = due else { break };
            if since.elapsed() >= self.max_wait {
                return Err(self.too_slow(file, since));
            }
            let Some(source) = to_save(file, self.pid)? else { break };
            if self.save_hole(file, &source, due.start..blocks.end, images)? {
                continue;
            }
            let room = ((due.end - due.start) * BLOCK) as usize;
            if !self.room.take(room, since + self.max_wait, self.ledger) {
                let full = Error::BeforeImagesFull { path: file.path(), waited_ms: micros(since.elapsed()) / 1000 };
                return if self.ledger.has_failed() { Ok(()) } else { Err(full) };
            }
            let mut kept = 0;
            if let Some(run) = file.claim(blocks.clone(), due.end - due.start) {
                hit("drain.claimed");
                let read = self.read(file, &source, run.clone())?;
                hit("drain.read");
                file.done(self.ledger, run.clone());
                hit("drain.saved");
                self.counts.count.fetch_add(run.end - run.start, Ordering::Relaxed);
                for image in read {
                    let bytes = image.bytes();
                    self.counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                    kept += bytes;
                    // The writer lives as long as there is a sender.
                    let _ = images.send(image);
                }
            }
            self.room.give(room - kept);
        }
        self.wait_for(file, since, |state| !state.map.is_busy(blocks.clone()))
    }

    /// If these begin with a hole, saves it in one step. However long it is, it needs no room.
    fn save_hole(
        &self,
        file: &Arc<File>,
        source: &Opened,
        blocks: Range<u64>,
        images: &Sender<Image>,
    ) -> Result<bool, Error> {
        let unreadable = |error| Error::unreadable(file.path(), error);
        let (io, size) = (&*self.stage.io, file.state().map.size());
        let end = hole_end(io, source, blocks.start, size).map_err(unreadable)?.min(blocks.end);
        let Some(run) = (end > blocks.start).then(|| file.claim(blocks.start..end, u64::MAX)).flatten() else {
            return Ok(false);
        };
        let range = run.start * BLOCK..(run.end * BLOCK).min(size);
        let same = is_still_hole(io, source, range.clone()).and_then(|still| Ok(still && source.is(file.id)?));
        if !same.map_err(unreadable)? {
            return Err(Error::ForeignChange { path: file.path(), pid: self.pid });
        }
        file.done(self.ledger, run);
        // The writer lives as long as there is a sender.
        let _ = images.send(Image::hole(file, range));
        Ok(true)
    }

    /// Waits for what others have claimed.
    fn wait_for(&self, file: &Arc<File>, since: Instant, ready: impl Fn(&FileState) -> bool) -> Result<(), Error> {
        let over = || since.elapsed() >= self.max_wait;
        file.wait_until(self.ledger, |state| ready(state) || over());
        if ready(&file.state()) || self.ledger.has_failed() { Ok(()) } else { Err(self.too_slow(file, since)) }
    }

    fn too_slow(&self, file: &File, since: Instant) -> Error {
        Error::BeforeImageSlow { path: file.path(), waited_ms: micros(since.elapsed()) / 1000 }
    }

    /// Reads blocks that nobody can change.
    pub fn read(&self, file: &Arc<File>, source: &Opened, run: Range<u64>) -> Result<Vec<Image>, Error> {
        let unreadable = |error| Error::unreadable(file.path(), error);
        let size = file.state().map.size();
        let range = run.start * BLOCK..(run.end * BLOCK).min(size);
        let mut images = Vec::new();
        for (range, is_data) in segments(&*self.stage.io, source, range).map_err(unreadable)? {
            let mut data = None;
            if is_data {
                let mut buffer = vec![0; (range.end - range.start) as usize];
                let n = self.stage.io.read_at(source.fd.as_fd(), &mut buffer, range.start).map_err(unreadable)?;
                if n < buffer.len() {
                    let reached = range.start + n as u64;
                    return Err(match ends_early(source, reached).map_err(unreadable)? {
                        true => ended_early(file, reached),
                        false => Error::ForeignChange { path: file.path(), pid: self.pid },
                    });
                }
                data = Some(buffer);
            }
            let room = data.as_ref().map_or(0, Vec::len);
            images.push(Image { file: Arc::clone(file), range, data, room });
        }
        if !source.is(file.id).map_err(unreadable)? {
            return Err(Error::ForeignChange { path: file.path(), pid: self.pid });
        }
        Ok(images)
    }

    /// The writer: writes images until no saver is left.
    pub fn write_all(self, images: Receiver<Image>) {
        let _guard = FailOnPanic(self.capture);
        let mut open = None;
        for image in images {
            if !self.ledger.has_failed()
                && let Err(error) = self.write(&image, &mut open)
            {
                self.capture.fail(error);
            }
            self.room.give(image.room);
        }
    }

    fn write(&self, image: &Image, open: &mut Option<(u64, std::os::fd::OwnedFd)>) -> Result<(), Error> {
        let number = image.file.number;
        let staged = {
            let mut state = image.file.state();
            state.changes();
            let before = state.staged;
            if image.data.is_some() {
                state.staged = before.max(image.range.end);
            }
            before
        };
        if image.data.is_none() && image.range.start >= staged {
            return Ok(());
        }
        if open.as_ref().is_none_or(|(at, _)| *at != number) {
            *open = Some((number, self.stage.open(number)?));
        }
        let Some((_, fd)) = open else { return Ok(()) };
        match &image.data {
            Some(data) => self.stage.write(number, fd, data, image.range.start),
            None => self.stage.punch(number, fd, image.range.clone()),
        }
    }
}

/// Lets the target go if a thread panics while it holds one of these.
pub(crate) struct FailOnPanic<'a, P: Send + 'static>(pub &'a Capture<P>);

impl<P: Send + 'static> Drop for FailOnPanic<'_, P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::Internal("a thread panicked".into()));
        }
    }
}
