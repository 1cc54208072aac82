//! A second proof, by content: some blocks that nothing is known to have changed since they were copied are read again.
//!
//! A file that the target writes to in ordinary ways has no change time that proves anything (`drain::foreign`): what
//! reaches it past the marks is not found there. So of just these files a sample of blocks is compared with what the
//! stage holds: blocks that were not lacking at the point in time, and that no call has been admitted for since.
//!
//! # Why what the target does is not taken for it
//!
//! What calls before the point in time changed is lacking then, or was copied after they had run. A call after it notes
//! its blocks under the file's lock before it runs. So whoever reads a block, and *afterwards* finds that no call has
//! noted it, has read what no such call changed. What turns out to have come unseen is noted as well before it is
//! judged. Blocks that are read from the source in the drain are left out; the stage may not hold them yet, either.
//!
//! No call waits for any of this: nothing is claimed, and no lock is held while a block is read.
use crate::Error;
use crate::context::Context;
use crate::marks::blockmap::BLOCK;
use crate::marks::node::{File, Opened};
use hotbackup_event::look::is_gone;
use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Blocks that are compared at most: 8 MiB. On a disk that must seek for each this takes about a second, in which no call
/// waits; a change of 1 block in 50 of what is hot is found in 12 backups of 13. They are not counted in the rate.
const SAMPLE: u64 = 128;

/// A block that is not what the stage holds.
pub(crate) struct Differing {
    file: Arc<File>,
    block: u64,
    /// The first byte that differs.
    offset: u64,
}

/// Compares a sample, drawn anew for each backup. Must follow all that is saved of these files.
pub(crate) fn compare<P: Send + 'static>(
    context: &Context<'_, P>,
    files: &[Arc<File>],
) -> Result<Vec<Differing>, Error> {
    let named = |file: &&Arc<File>| file.flags.named.load(Ordering::SeqCst) && !context.ledger.is_mapped(&file.id);
    let counted: Vec<(&Arc<File>, u64)> =
        files.iter().filter(named).map(|file| (file, file.state().map.kept())).collect();
    let all = counted.iter().fold(0_u64, |sum, (_, kept)| sum.saturating_add(*kept));
    let seed = RandomState::new().build_hasher().finish();
    let mut drawn = draw(seed, all).into_iter().peekable();
    let (mut compared, mut differing, mut before) = (0_u64, Vec::new(), 0_u64);
    for (file, kept) in counted {
        let mut source = None;
        while let Some(number) = drawn.next_if(|number| *number < before.saturating_add(kept)) {
            context.check()?;
            // Calls that came meanwhile may have left fewer.
            let Some(block) = file.state().map.nth_kept(number - before) else { continue };
            // Its name, or who may open it, may be another by now: then there is nothing to compare.
            if source.is_none() {
                source = file.open().ok();
            }
            let Some(source) = &source else { continue };
            let Some(differs) = first_difference(context, file, source, block)? else { continue };
            compared += 1;
            if let Some(offset) = differs {
                differing.push(Differing { file: Arc::clone(file), block, offset });
            }
        }
        before = before.saturating_add(kept);
    }
    tracing::info!(seed, compared, of = all, differing = differing.len(), "blocks read again");
    Ok(differing)
}

/// Fails for the first block that differs and that no call explains by now.
pub(crate) fn judge<P: Send + 'static>(context: &Context<'_, P>, differing: &[Differing]) -> Result<(), Error> {
    for Differing { file, block, offset } in differing {
        if file.state().map.is_kept(*block) && !context.ledger.is_mapped(&file.id) {
            return Err(Error::Unexplained { path: file.path(), offset: *offset, pid: context.pid });
        }
    }
    Ok(())
}

/// Numbers below `all`, in order and none twice: as many as are compared.
fn draw(seed: u64, all: u64) -> BTreeSet<u64> {
    if all <= SAMPLE {
        return (0..all).collect();
    }
    // SplitMix64.
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    let mut drawn = BTreeSet::new();
    while (drawn.len() as u64) < SAMPLE {
        drawn.insert(next() % all);
    }
    drawn
}

/// Where a block of the source is not what the stage holds. `None`: it could not be read any more.
fn first_difference<P: Send + 'static>(
    context: &Context<'_, P>,
    file: &File,
    source: &Opened,
    block: u64,
) -> Result<Option<Option<u64>>, Error> {
    let (io, stage) = (&*context.stage.io, context.stage);
    let (size, staged) = {
        let state = file.state();
        (state.map.size(), state.staged)
    };
    let start = block * BLOCK;
    let len = (start + BLOCK).min(size).saturating_sub(start) as usize;
    let (mut there, mut here) = (vec![0; len], vec![0; len]);
    let read = match io.read_at(source.fd.as_fd(), &mut there, start) {
        Ok(read) => read,
        // Removed on a file system that keeps nothing open.
        Err(error) if is_gone(&error) => return Ok(None),
        Err(error) => return Err(Error::unreadable(file.path(), error)),
    };
    if staged > start {
        let fd = stage.open(file.number)?;
        // What it is shorter by reads as zeros.
        io.read_at(fd.as_fd(), &mut here, start).map_err(|error| Error::at_dest("read", stage.path(), error))?;
    }
    let first = there[..read].iter().zip(&here).position(|(there, here)| there != here);
    Ok(Some(first.or((read < len).then_some(read)).map(|at| start + at as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_blocks_are_all_compared() {
        assert!(draw(1, 0).is_empty());
        assert!(draw(1, SAMPLE).into_iter().eq(0..SAMPLE));
    }

    #[test]
    fn of_many_some_are_drawn_and_others_with_another_seed() {
        for all in [SAMPLE + 1, 1 << 40] {
            let drawn = draw(1, all);
            assert_eq!(drawn.len() as u64, SAMPLE);
            assert!(drawn.iter().all(|number| *number < all));
            assert_eq!(drawn, draw(1, all));
        }
        assert_ne!(draw(1, 1 << 40), draw(2, 1 << 40));
    }

    #[test]
    fn each_block_is_drawn_in_one_of_many_backups() {
        let all = 2 * SAMPLE;
        let ever: BTreeSet<u64> = (0..100).flat_map(|seed| draw(seed, all)).collect();
        assert_eq!(ever.len() as u64, all);
    }
}
