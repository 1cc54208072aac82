//! A supervisor apart from its target's keepers: in another namespace of processes, that of the target, where the keepers cannot be
//! seen, and in a cgroup of its own, from which nothing can be put into the target's. So is one in a sidecar container. It ends
//! as a sidecar may, with all that is in its cgroup.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::cgroup::Group;
use super::processes;
use crate::common::guest::{Linked, compile};

/// The cgroups of all sidecars so far, each with its target: keepers that one has started in the place of others live on in it, as long
/// as the target.
static GROUPS: Mutex<Vec<(i32, Arc<Group>)>> = Mutex::new(Vec::new());

/// Where a supervisor runs.
pub struct Sidecar {
    group: Arc<Group>,
    word: PathBuf,
}

impl Sidecar {
    /// A new one beside a target.
    pub fn new(target: i32, scratch: &Path) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::SeqCst);
        let group = Arc::new(Group::named(&format!("hotbackup-apart-{}-{number}", std::process::id())));
        group.make();
        GROUPS.lock().unwrap_or_else(PoisonError::into_inner).push((target, group.clone()));
        Self { group, word: scratch.join(format!("sidecar-{number}")) }
    }

    /// A command that runs a program there.
    pub fn command(&self, target: i32, program: &str) -> Command {
        let mut command = Command::new(compile("apart", Linked::Dynamically));
        command.arg(target.to_string()).arg(&self.word).args(self.group.doors()).arg("--").arg(program);
        command
    }

    /// The program's number here, once it is there.
    pub fn pid(&self) -> Option<i32> {
        let text = std::fs::read_to_string(&self.word).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    }

    /// Kills all that is in it, in one instant.
    pub fn kill(&self) {
        self.group.kill();
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.word);
    }
}

/// Removes the cgroups of targets that are gone, with all that is left in them.
pub fn clean() {
    let gone = |(target, _): &mut (i32, _)| processes::state(*target).is_none();
    let gone: Vec<_> = GROUPS.lock().unwrap_or_else(PoisonError::into_inner).extract_if(.., gone).collect();
    drop(gone);
}
