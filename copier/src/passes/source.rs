//! Reading the source of one file: where it holds data, and keeping it open until it is saved.
use crate::Error;
use crate::base::{io::Io, sys};
use crate::marks::blockmap::BLOCK;
use crate::marks::node::{File, Opened};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Blocks read at once: 1 MiB.
pub(crate) const RUN: u64 = 16;

/// A range of a source file, and whether it holds data.
pub(crate) type Segment = (Range<u64>, bool);

/// Splits a range into data and holes.
pub(crate) fn segments(io: &dyn Io, source: &Opened, range: Range<u64>) -> std::io::Result<Vec<Segment>> {
    if source.holes == 0 {
        return Ok(vec![(range, true)]);
    }
    let (mut all, mut at) = (Vec::new(), range.start);
    while at < range.end {
        let data = io.data_after(source.fd.as_fd(), at)?.unwrap_or(range.end..range.end);
        let (start, end) = (data.start.clamp(at, range.end), data.end.clamp(at, range.end));
        if start > at {
            all.push((at..start, false));
        }
        if end > start {
            all.push((start..end, true));
        }
        at = end.max(start);
    }
    Ok(all)
}

/// Bytes of data in a range.
pub(crate) fn data_in(io: &dyn Io, source: &Opened, range: Range<u64>) -> std::io::Result<u64> {
    let all = segments(io, source, range)?;
    Ok(all.iter().filter(|(_, is_data)| *is_data).map(|(part, _)| part.end - part.start).sum())
}

/// Up to which block a file of `size` bytes holds nothing from `first` on, that is, not a whole block of data; `first`
/// where that holds some. However long a hole is, it is one step.
pub(crate) fn hole_end(io: &dyn Io, source: &Opened, first: u64, size: u64) -> std::io::Result<u64> {
    if source.holes == 0 {
        return Ok(first);
    }
    let data = io.data_after(source.fd.as_fd(), first * BLOCK)?.map_or(u64::MAX, |data| data.start);
    Ok(if data >= size { size.div_ceil(BLOCK) } else { data / BLOCK }.max(first))
}

/// Whether a range of claimed blocks that was a hole still reads as one. Another process that reads it through a mapping may
/// have it allocated meanwhile, which is no change.
pub(crate) fn is_still_hole(io: &dyn Io, source: &Opened, range: Range<u64>) -> std::io::Result<bool> {
    let (mut at, mut buffer) = (range.start, Vec::new());
    while at < range.end {
        let Some(data) = io.data_after(source.fd.as_fd(), at)? else { return Ok(true) };
        at = data.start.max(at);
        while at < data.end.min(range.end) {
            buffer.resize((data.end.min(range.end) - at).min(BLOCK) as usize, 0);
            let n = io.read_at(source.fd.as_fd(), &mut buffer, at)?;
            if n < buffer.len() || buffer.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += n as u64;
        }
    }
    Ok(true)
}

/// Whether an open file ends before the end that it says it has: not if it was cut meanwhile.
pub(crate) fn ends_early(source: &Opened, reached: u64) -> std::io::Result<bool> {
    Ok(sys::stat_fd(&source.fd)?.stat.size > reached)
}

/// What to say of one that does, though nobody cuts it.
pub(crate) fn ended_early(file: &File, reached: u64) -> Error {
    let words = format!(
        "it says that it is longer than the {reached} bytes that can be read of it; have its file system looked at, or exclude it"
    );
    Error::unreadable(file.path(), std::io::Error::other(words))
}

/// The source of a file that is not wholly saved, opened and kept open until it is. `None`: it is saved.
///
/// Opening by name may fail because the name has changed since the point in time. Then the call that changed it waited
/// until the file was open, and that is found on the second look.
pub(crate) fn to_save(file: &File, pid: i32) -> Result<Option<Arc<Opened>>, Error> {
    let kept = || {
        let state = file.state();
        if state.is_open() { state.open.clone().map(Some) } else { Some(None) }
    };
    if let Some(known) = kept() {
        return Ok(known);
    }
    match file.open() {
        Ok(opened) => {
            let mut state = file.state();
            Ok(if state.is_open() { Some(Arc::clone(state.open.get_or_insert(Arc::new(opened)))) } else { None })
        }
        Err(error) => match (kept(), error) {
            (Some(known), _) => Ok(known),
            (None, error) => Err(error.while_held(file, pid)),
        },
    }
}

/// Saves the extended attributes, unless somebody else does.
pub(crate) fn save_xattrs(file: &File, source: &Opened) -> Result<(), Error> {
    if file.claim_xattrs() {
        let all = sys::xattrs(&source.fd).map_err(|error| Error::unreadable(file.path(), error))?;
        file.done_xattrs(all);
    }
    Ok(())
}
