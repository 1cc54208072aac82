//! Calls that the filter of a target does not show: it is an earlier release's, and stays as long as the process.
//!
//! A backup would be wrong if the process made one of them. So it is refused, unless its operator, who may know that the process makes
//! none, accepts it; then the backup says so itself. What the filter was made of stands in the session's memory. Where that is
//! nothing that this release knows, the filter itself is read: a thread is stopped for it, for an instant.

use std::sync::atomic::Ordering;

use super::options::Options;
use crate::attach::preflight;
use crate::calls::{Shape, coverage};
use crate::error::Error;
use crate::ptracer::client::Ptracer;
use crate::shared::memory::Memory;
use crate::target::process::Process;

/// In the place of the calls, where they cannot be told.
pub const UNKNOWN: &str = "unknown";

/// The calls that go unseen; [`UNKNOWN`] where that cannot be told.
///
/// # Errors
/// [`Error::UnseenCalls`] where there are any and they are not accepted.
pub(super) fn find(
    process: &Process,
    memory: &Memory,
    ptracer: &mut Ptracer,
    options: &Options,
) -> Result<Vec<String>, Error> {
    let told = by_memory(memory);
    let read = || ptracer.unseen(process, shape(memory));
    let (calls, remedy) = match told.map_or_else(read, |calls| Ok(Some(calls)))? {
        Some(calls) => (calls, None),
        None => (vec![UNKNOWN.into()], Some(preflight::remedy_for_filters(process))),
    };
    if !calls.is_empty() && !options.accept_unseen {
        return Err(Error::UnseenCalls { pid: process.pid(), what: words(&calls, remedy) });
    }
    Ok(calls)
}

/// What a backup would meet, told from outside; `None`: nothing, or it is found out when the filter can be read, which takes stopping
/// a thread.
pub(super) fn outlook(process: &Process, memory: &Memory) -> Option<Error> {
    let what = match by_memory(memory) {
        Some(calls) if calls.is_empty() => return None,
        Some(calls) => words(&calls, None),
        None => {
            preflight::check_filters_can_be_read(process).err()?;
            words(&[UNKNOWN.into()], Some(preflight::remedy_for_filters(process)))
        }
    };
    Some(Error::UnseenCalls { pid: process.pid(), what })
}

/// Whether the memory does not tell.
pub(super) fn is_unknown(memory: &Memory) -> bool {
    by_memory(memory).is_none()
}

fn by_memory(memory: &Memory) -> Option<Vec<String>> {
    coverage::unseen_by(memory.filter.load(Ordering::SeqCst), shape(memory))
}

fn shape(memory: &Memory) -> Shape {
    let region = memory.region.load(Ordering::SeqCst);
    let eight_bytes_unseen = memory.eight_bytes_unseen.load(Ordering::SeqCst) != 0;
    Shape { eight_bytes_unseen, region: (region != 0).then_some(region) }
}

fn words(calls: &[String], remedy: Option<&'static str>) -> String {
    match remedy {
        None => format!("does not show these calls, which can change files: {}", calls.join(", ")),
        Some(remedy) => format!("which calls it does not show cannot be told, as it cannot be read: {remedy}"),
    }
}
