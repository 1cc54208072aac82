//! The thread that patches call sites and fills the descriptor table, while the receiver goes on.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::outsiders;
use crate::hot::Source;
use crate::ptracer::client::Ptracer;
use crate::receive::answering::Answering;
use crate::sys::process::share_memory;
use crate::target::process::Process;

/// How often it looks at what nobody tells of.
const LOOK: Duration = Duration::from_millis(10);

/// How long it may take to end: longer than a line in the target. Then it is at a file that cannot be read, and does nothing any more.
const FAREWELL: Duration = Duration::from_secs(15);

/// The thread, until this is dropped.
pub(super) struct AtSites {
    shared: Arc<Answering>,
    thread: Option<JoinHandle<()>>,
}

impl AtSites {
    /// Starts it, where calls are captured at their sites.
    pub fn start(shared: &Arc<Answering>, ptracer: &Arc<Mutex<Ptracer>>) -> std::io::Result<Option<Self>> {
        let Some(hot) = &shared.hot else { return Ok(None) };
        let tasks = hot.tasks();
        let (ours, shared, ptracer) = (shared.clone(), shared.clone(), ptracer.clone());
        let work = move || {
            let Some(hot) = &shared.hot else { return };
            while !hot.is_ended() && !shared.stop.load(Ordering::SeqCst) {
                if let Ok(first) = tasks.recv_timeout(LOOK) {
                    let all: Vec<_> = std::iter::once(first).chain(tasks.try_iter()).collect();
                    hot.work(&shared.process, &ptracer, &all);
                }
                hot.look_at_spawned(&shared.process);
            }
        };
        let thread = std::thread::Builder::new().name("sites".into()).spawn(work)?;
        Ok(Some(Self { shared: ours, thread: Some(thread) }))
    }
}

impl Drop for AtSites {
    fn drop(&mut self) {
        let (shared, thread) = (&self.shared, self.thread.take());
        shared.hot.iter().for_each(Source::end);
        let limit = Instant::now() + FAREWELL;
        while thread.as_ref().is_some_and(|thread| !thread.is_finished()) && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = thread.filter(JoinHandle::is_finished).map(JoinHandle::join);
    }
}

/// The threads of other processes that carry the target's code, and whether one of those shares its memory.
pub(super) fn others(process: &Process) -> (Vec<i32>, bool) {
    let children = outsiders::followed_children(process);
    let shares =
        |pid: &i32| share_memory(process.pid(), *pid) != Ok(false) && !process.list(&format!("{pid}/task")).is_empty();
    let apart = children.iter().any(shares);
    (children.iter().flat_map(|pid| process.list(&format!("{pid}/task"))).collect(), apart)
}
