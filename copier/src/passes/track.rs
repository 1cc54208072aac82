//! Tracking: syncs and passes, until the hold.
//!
//! A *sync* takes the marks, waits for a grace, and takes over what the source then shows: names, sizes, modes. A *pass*
//! is a sync that also takes the due blocks, and copies them after it. Files that become known in a sync are copied by
//! the next pass, because only a grace after they became known makes sure that no call that did not find them is still
//! to run.
use crate::context::Context;
use crate::marks::blockmap::BLOCK;
use crate::marks::node::{File, Xattrs};
use crate::passes::converge::has_converged;
use crate::passes::copy::{Copier, Mode};
use crate::space::need::Need;
use crate::tree::{Look, Tree};
use crate::{Error, Point, trial};
use hotbackup_event::failpoint::hit;
use std::sync::Arc;

/// The tree while it is tracked.
pub(crate) struct Tracker<'a, P: Send + 'static> {
    pub context: &'a Context<'a, P>,
    pub tree: Tree,
}

impl<P: Send + 'static> Tracker<'_, P> {
    /// Makes everything known, and copies it in passes unless the point in time is at the start. Returns how many.
    pub fn track(&mut self, copier: &mut Copier, point: Point) -> Result<u32, Error> {
        let context = self.context;
        // Calls from before they were shown to us: nobody marked what they change, so none may run beside the walk.
        context.grace()?;
        // The walk itself: nothing is marked yet that it could miss, as names are marked for unknown directories too.
        self.tree.resolve(Default::default(), Look::default())?;
        self.tell_totals();
        let trial = trial::before_copying(context.stage, &self.tree, |words| context.monitor.warning(words))?;
        let _ = context.trial.set(trial);
        self.linger(|| context.control.waits_to_copy())?;
        let mut due_after = Vec::new();
        if point == Point::End {
            while !has_converged(&due_after, context.tuning) {
                due_after.push(self.sweep(copier, due_after.len() as u32 + 1)?);
            }
            context.monitor.copied();
            while context.control.keeps_capturing() {
                due_after.push(self.sweep(copier, due_after.len() as u32 + 1)?);
                context.control.pause();
            }
        }
        self.linger(|| !context.monitor.may_hold())?;
        // One more look, so that the hold has little to look at; and at the start, so that what became known in the walk
        // has been looked at after a grace.
        self.sync(false)?;
        if point == Point::Start {
            self.check_space()?;
        }
        Ok(due_after.len() as u32)
    }

    /// A sync and a pass. Returns the bytes that are due after it.
    fn sweep(&mut self, copier: &mut Copier, number: u32) -> Result<u64, Error> {
        self.context.note(|progress| progress.pass = number);
        let files = self.sync(true)?;
        if number == 1 {
            self.check_space()?;
        }
        self.pass(copier, &files)?;
        Ok(self.due_bytes())
    }

    /// Captures, and does nothing else, as long as asked for.
    fn linger(&mut self, until_then: impl Fn() -> bool) -> Result<(), Error> {
        while until_then() {
            self.context.check()?;
            self.look_after()?;
            self.context.tell(false);
            self.context.control.pause();
        }
        Ok(())
    }

    /// All is known, and has been looked at twice; nothing is written yet.
    fn check_space(&self) -> Result<(), Error> {
        let context = self.context;
        context.stage.check_space(|part| Need::of(&self.tree, &context.ledger, part))?;
        hit("track.known");
        Ok(())
    }

    /// Takes the marks, waits, and looks. With `blocks`, the due blocks are taken too, and the files are returned that
    /// have any.
    pub fn sync(&mut self, blocks: bool) -> Result<Vec<Arc<File>>, Error> {
        let context = self.context;
        context.check()?;
        let taken = context.ledger.take();
        let files = if blocks { self.take_blocks() } else { Vec::new() };
        context.grace()?;
        self.tree.resolve(taken, Look::default())?;
        context.traceable()?;
        for number in self.tree.dropped.drain(..) {
            context.stage.remove(number);
        }
        if blocks {
            // Not before a hold, which is to come soon after the look.
            self.tell_totals();
        }
        Ok(files)
    }

    fn take_blocks(&self) -> Vec<Arc<File>> {
        let mut files = self.context.ledger.files();
        files.retain(|file| {
            let mut state = file.state();
            let blocks = state.map.take();
            blocks > 0 || matches!(state.xattrs, Xattrs::Due)
        });
        files
    }

    fn pass(&mut self, copier: &mut Copier, files: &[Arc<File>]) -> Result<(), Error> {
        let context = self.context;
        for file in files {
            copier.copy(context, file, Mode::Pass, || self.look_after())?;
            self.look_after()?;
        }
        Ok(())
    }

    /// Between two files, or while copying waits: marked names must not pile up.
    fn look_after(&mut self) -> Result<(), Error> {
        if self.context.ledger.entry_count() > self.context.tuning.max_entry_marks {
            self.sync(false)?;
        }
        Ok(())
    }

    /// Bytes due, counted anew.
    fn due_bytes(&self) -> u64 {
        for effect in self.context.quiesce.marked() {
            self.context.ledger.mark(&effect);
        }
        let files = self.context.ledger.files();
        files.iter().fold(0, |sum, file| (file.state().map.due() * BLOCK).saturating_add(sum))
    }

    fn tell_totals(&self) {
        let (bytes, files) = self.tree.totals();
        let entries = self.tree.entries;
        self.context.note(|progress| {
            (progress.bytes_total, progress.files_total, progress.entries_total) = (bytes, files, entries);
        });
        self.context.tell(false);
    }
}
