//! Moving the content of one file from the source to the stage.
//!
//! # In a pass
//!
//! The blocks were taken before the last grace, so every call that made them due has run. A call that changes one while
//! it is read was marked first: the block is due again and will be read again, and what was read of it, torn or not, is
//! replaced. A file that turns out shorter than expected was cut by a call that made all that is missing due. A file
//! that is not found under its names was renamed or removed by a call whose mark is still to be taken: its blocks are
//! due again, and the next sync finds out where it went.
//!
//! Behind the end that the source file had when it was read, the staged file may hold what was there before. When the
//! file is seen to have grown again, all of that is due, the rest of what was its last block included; and when it is
//! published, the staged file gets the length that the source had at the point in time.
//!
//! # In the drain
//!
//! Blocks are claimed and read as `gate::needs` says; then nothing may be missing, and a name that does not lead to the file
//! means that the file was opened before the name changed, or that somebody else changed it.
use crate::Error;
use crate::base::digest::Way;
use crate::base::sys;
use crate::context::Context;
use crate::marks::blockmap::BLOCK;
use crate::marks::node::{File, OpenError, Opened, Xattrs};
use crate::passes::hash::Lane;
use crate::passes::source::{self, RUN, Segment, segments};
use crate::stage::Stage;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Bytes written in one go before the system is asked to begin writing them to disk. Else most of it would do so only
/// when it is asked to sync all at once.
const WRITE_BACK: u64 = 8 << 20;

/// Which blocks of a file are to be copied, and what may be found on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Pass,
    Drain,
}

/// Copies files, one after the other.
pub(crate) struct Copier {
    lane: Lane,
    buffer: Vec<u8>,
}

/// The staged side of a file that is being copied.
struct Target<'a> {
    stage: &'a Stage,
    number: u64,
    fd: Option<OwnedFd>,
    /// As far as it was written to.
    staged: u64,
    /// What was written in one go, and is not on its way to the disk.
    unsent: Range<u64>,
}

impl Copier {
    pub fn new(lane: Lane) -> Self {
        Self { lane, buffer: Vec::new() }
    }

    /// Copies what was taken of a file (or, in the drain, all that is due). `idle` is called when there is time.
    pub fn copy<P: Send + 'static>(
        &mut self,
        context: &Context<'_, P>,
        file: &Arc<File>,
        mode: Mode,
        mut idle: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let opened = match mode {
            Mode::Pass => open_for_pass(file)?,
            Mode::Drain => open_to_save(context, file)?,
        };
        let Some(source) = opened else { return Ok(()) };
        let (staged, first) = {
            let state = file.state();
            (state.staged, !state.copied)
        };
        let mut target = Target { stage: context.stage, number: file.number, fd: None, staged, unsent: 0..0 };
        // How far a file copied for the first time has been hashed on its way, without a gap from its start.
        let mut hashed = first.then_some(0);
        let mut next = 0;
        while let Some((run, map_size)) = next_run(file, mode, next) {
            let size = if mode == Mode::Pass { source.size } else { map_size };
            if run.start * BLOCK >= size {
                // It was cut since it was looked at, and this is where it was longer.
                file.done(&context.ledger, run.start..u64::MAX);
                break;
            }
            let unreadable = |error| Error::unreadable(file.path(), error);
            let io = &*context.stage.io;
            let hole = source::hole_end(io, &source, run.start, size).map_err(unreadable)?;
            let is_hole = hole > run.start;
            let range = run.start * BLOCK..(run.end * BLOCK).min(size);
            let bytes = if is_hole { 0 } else { source::data_in(io, &source, range).map_err(unreadable)? };
            context.turn(bytes, &mut idle)?;
            // A hole is one step, however long it is.
            let (within, most) = if is_hole { (run.start..hole, u64::MAX) } else { (run, RUN) };
            let run = match mode {
                Mode::Pass => file.state().map.busy_run(within, most),
                // Others may have claimed some of it meanwhile.
                Mode::Drain => file.claim(within, most),
            };
            let Some(run) = run else { continue };
            next = run.end;
            let range = run.start * BLOCK..(run.end * BLOCK).min(size);
            let (segments, reached) = if is_hole {
                if mode == Mode::Drain && !source::is_still_hole(io, &source, range.clone()).map_err(unreadable)? {
                    return Err(Error::ForeignChange { path: file.path(), pid: context.pid });
                }
                (vec![(range.clone(), false)], range.end)
            } else {
                self.read(context, &source, file, range.clone())?
            };
            let early = reached < range.end && source::ends_early(&source, reached).map_err(unreadable)?;
            if mode == Mode::Drain {
                let same = source.is(file.id).map_err(unreadable)?;
                if early && same {
                    return Err(source::ended_early(file, reached));
                }
                if reached < range.end || !same {
                    return Err(Error::ForeignChange { path: file.path(), pid: context.pid });
                }
                // In memory is saved: whoever waits to change it may go on.
                file.done(&context.ledger, run.clone());
            }
            self.write(&segments, range.start..reached, &mut target)?;
            let mut state = file.state();
            state.changes();
            state.staged = state.staged.max(target.staged);
            drop(state);
            if mode == Mode::Pass {
                file.done(&context.ledger, run.clone());
                if early {
                    // It may be cut and grow just now. If it is not, the drain will say so.
                    let added = file.state().map.mark(run);
                    context.ledger.add_lacking(added as i64);
                }
            }
            hashed = hashed.filter(|at| *at == range.start && reached == range.end);
            if hashed.is_some() {
                hashed = Some(reached);
                self.lane.hash(&mut self.buffer, range.start, segments, (size, Way::of(source.holes)));
            }
            context.tell(false);
        }
        let mut state = file.state();
        if let Some(size) = hashed.filter(|at| *at == state.map.size() && *at > 0) {
            self.lane.finish(file, &mut state, size);
        }
        if !std::mem::replace(&mut state.copied, true) {
            context.note(|progress| progress.files_copied += 1);
        }
        Ok(())
    }

    /// Reads a range into the buffer. Returns its data and holes, and up to where the source went.
    fn read<P: Send + 'static>(
        &mut self,
        context: &Context<'_, P>,
        source: &Opened,
        file: &File,
        range: Range<u64>,
    ) -> Result<(Vec<Segment>, u64), Error> {
        let unreadable = |error| Error::unreadable(file.path(), error);
        let io = &*context.stage.io;
        self.buffer.resize((RUN * BLOCK) as usize, 0);
        let segments = segments(io, source, range.clone()).map_err(unreadable)?;
        let mut reached = range.end;
        for (part, _) in segments.iter().filter(|(_, is_data)| *is_data) {
            let buffer = &mut self.buffer[(part.start - range.start) as usize..(part.end - range.start) as usize];
            let n = io.read_at(source.fd.as_fd(), buffer, part.start).map_err(unreadable)?;
            if n < buffer.len() {
                reached = part.start + n as u64;
                break;
            }
        }
        Ok((segments, reached))
    }

    /// Writes what was read of a range from the buffer.
    fn write(&self, segments: &[Segment], range: Range<u64>, target: &mut Target<'_>) -> Result<(), Error> {
        for (part, is_data) in segments {
            let part = part.start..part.end.min(range.end);
            if part.is_empty() {
                break;
            }
            if *is_data {
                let data = &self.buffer[(part.start - range.start) as usize..(part.end - range.start) as usize];
                target.write(data, part.start)?;
            } else {
                target.punch(part)?;
            }
        }
        Ok(())
    }
}

/// Opens a file for a pass, and reads its extended attributes if they are due. `None`: not to be copied now.
fn open_for_pass(file: &Arc<File>) -> Result<Option<Arc<Opened>>, Error> {
    let unreadable = |error| Error::unreadable(file.path(), error);
    let source = match file.open() {
        Ok(source) => source,
        Err(OpenError::Moved) => {
            file.state().map.put_back();
            return Ok(None);
        }
        Err(OpenError::Io(error)) => return Err(unreadable(error)),
    };
    if matches!(file.state().xattrs, Xattrs::Due) {
        // A call that changes them meanwhile has marked the file: they are due again after the next sync.
        let all = sys::xattrs(&source.fd).map_err(unreadable)?;
        file.state().xattrs = Xattrs::known(all);
    }
    Ok(Some(Arc::new(source)))
}

/// Opens a file in the drain, and saves its extended attributes. `None`: all of it is saved.
fn open_to_save<P: Send + 'static>(context: &Context<'_, P>, file: &File) -> Result<Option<Arc<Opened>>, Error> {
    let source = source::to_save(file, context.pid)?;
    if let Some(source) = &source {
        source::save_xattrs(file, source)?;
    }
    Ok(source)
}

/// The next blocks to copy at or after `from`, and the size of the file as last taken over.
fn next_run(file: &File, mode: Mode, from: u64) -> Option<(Range<u64>, u64)> {
    let state = file.state();
    let end = state.map.touched(0, u64::MAX).end;
    // One sweep finds everything: in a pass nothing else is taken, in the drain nothing becomes due.
    let run = match mode {
        Mode::Pass => state.map.busy_run(from.min(end)..end, RUN),
        Mode::Drain => state.map.due_run(from.min(end)..end, RUN),
    };
    run.map(|run| (run, state.map.size()))
}

impl Target<'_> {
    fn fd(&mut self) -> Result<&OwnedFd, Error> {
        if self.fd.is_none() {
            self.fd = Some(self.stage.open(self.number)?);
        }
        self.fd.as_ref().ok_or_else(|| Error::Internal("a staged file is not open".into()))
    }

    fn write(&mut self, data: &[u8], offset: u64) -> Result<(), Error> {
        let (stage, number) = (self.stage, self.number);
        stage.write(number, self.fd()?, data, offset)?;
        let end = offset + data.len() as u64;
        self.staged = self.staged.max(end);
        self.unsent = if self.unsent.end == offset { self.unsent.start..end } else { offset..end };
        if self.unsent.end - self.unsent.start >= WRITE_BACK {
            let range = std::mem::replace(&mut self.unsent, end..end);
            self.stage.io.write_back(self.fd()?.as_fd(), range);
        }
        Ok(())
    }

    /// The source has a hole here. Where nothing was ever written there is one already.
    fn punch(&mut self, range: Range<u64>) -> Result<(), Error> {
        let (stage, number) = (self.stage, self.number);
        if range.start < self.staged {
            let end = range.end.min(self.staged);
            stage.punch(number, self.fd()?, range.start..end)?;
        }
        Ok(())
    }
}
