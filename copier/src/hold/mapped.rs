//! Files with writable shared mappings: stores to memory are no calls, so no mark shows them, and none can be held.
//!
//! Where they are taken at all ([`Tuning::mapped_bytes`](crate::Tuning)), the target stands still for a moment in the hold:
//! no thread of it runs, no call is under way. Names and sizes are looked at then, that moment is the point in time, and
//! whatever is mapped is read whole, into memory. When the target goes on, the hold is still on: what it stores from there on
//! is not in what was read, and its calls come after the point in time.
//!
//! The blocks read are saved from there on. A call that maps more, or makes more of it writable, is a call like others: it
//! waits, in the drain, until the file is saved. A file that was mapped and is no longer, at the point in time, changes by calls
//! only: all of it is due, since nobody knows what was stored.
//!
//! While it is tracked, such a file is copied in passes like any other, so that what is read at the point in time needs little
//! writing; that it changes meanwhile does not matter, as all of it is read again.
use crate::Error;
use crate::context::Context;
use crate::drain::saver::{Image, Saver};
use crate::interface::report::Mapped;
use crate::marks::blockmap::BLOCK;
use crate::marks::ledger::Ledger;
use crate::marks::node::{File, Node};
use crate::passes::source::{RUN, hole_end};
use crossbeam::channel::Sender;
use hotbackup_event::FileId;
use std::sync::Arc;

/// What was read while the target stood still.
#[derive(Default)]
pub(crate) struct Copies {
    files: Vec<Arc<File>>,
    images: Vec<Image>,
    bytes: usize,
}

/// Before the look in a hold: the times of what is mapped have changed since, unseen.
pub(crate) fn touch(ledger: &Ledger, mapped: &[FileId]) {
    for file in ledger.known_files(mapped) {
        ledger.touch(&Node::File(file));
    }
}

impl Copies {
    /// While the target stands still, and names and sizes have been looked at: `now` is mapped, `ever` has been, as far as
    /// was known when other processes were looked at. `None`: then another look is needed.
    pub fn take<P: Send + 'static>(
        context: &Context<'_, P>,
        saver: Saver<'_, P>,
        ever: &[FileId],
        now: &[FileId],
    ) -> Result<Option<Self>, Error> {
        let ledger = &context.ledger;
        now.iter().for_each(|file| ledger.mark_mapped(file));
        if ledger.known_mapped().iter().any(|file| !ever.contains(&file.id)) {
            return Ok(None);
        }
        let mut copies = Self::default();
        ledger.known_files(ever).iter().for_each(|file| ledger.mark_whole(file));
        for file in ledger.known_files(now) {
            copies.read(context, saver, &file)?;
            copies.files.push(file);
        }
        // From here on nobody reads these from the source, unless the hold turns out to have ended.
        for file in &copies.files {
            let all = {
                let mut state = file.state();
                let all = state.map.touched(0, u64::MAX);
                state.map.mark(all.clone());
                state.map.claim(all.clone());
                all
            };
            file.done(ledger, all);
        }
        Ok(Some(copies))
    }

    fn read<P: Send + 'static>(
        &mut self,
        context: &Context<'_, P>,
        saver: Saver<'_, P>,
        file: &Arc<File>,
    ) -> Result<(), Error> {
        let source = file.open().map_err(|error| error.while_held(file, context.pid))?;
        let limit = context.tuning.mapped_bytes;
        let (size, end) = {
            let state = file.state();
            (state.map.size(), state.map.touched(0, u64::MAX).end)
        };
        let mut start = 0;
        while start < end {
            let hole = hole_end(&*context.stage.io, &source, start, size);
            let hole = hole.map_err(|error| Error::unreadable(file.path(), error))?.min(end);
            let (images, next) = if hole > start {
                (vec![Image::hole(file, start * BLOCK..(hole * BLOCK).min(size))], hole)
            } else {
                let next = end.min(start + RUN);
                (saver.read(file, &source, start..next)?, next)
            };
            start = next;
            self.bytes += images.iter().map(Image::bytes).sum::<usize>();
            if self.bytes > limit {
                return Err(Error::MappedTooLarge { path: file.path(), limit });
            }
            self.images.extend(images.into_iter().map(Image::without_room));
        }
        Ok(())
    }

    /// What was read does not count: all of it is due again.
    pub fn forget(self, ledger: &Ledger) {
        self.files.iter().for_each(|file| ledger.mark_whole(file));
    }

    /// What was read belongs to the point in time: it is written beside what is copied from there on.
    pub fn keep(self, images: &Sender<Image>, frozen_us: u64) -> Mapped {
        let mapped = Mapped { files: self.files.len() as u64, bytes: self.bytes as u64, frozen_us };
        for image in self.images {
            // The writer lives as long as there is a sender.
            let _ = images.send(image);
        }
        mapped
    }
}
