//! What only some callers want: a backup in directories that are there, and to be asked what is left out.
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a backup takes its place, and what is left out of it. The default is a backup that grows beside its destination and
/// takes that name in one step.
#[derive(Clone, Default)]
pub struct Placing {
    /// Existing, empty directories, one for each source, in their order: each *becomes* the backup of its source. Nothing is made
    /// beside it, so it may be a mount point, and after a failure it is empty again. Then the sources have no names, and
    /// [`Spec::dest`](crate::Spec::dest) is not looked at. Empty: the usual way.
    pub into: Vec<PathBuf>,
    /// With [`Placing::into`]: no manifest. The backup is what its source was, and nothing more, and cannot be verified.
    pub bare: bool,
    /// Who says what is left out, beside the patterns.
    pub chooser: Option<Arc<dyn Choose>>,
}

/// Says what is left out of a backup.
pub trait Choose: Send + Sync {
    /// Whether a path is left out, with all that may be below it. Asked once for each path of a source, as the source is named and
    /// never while calls of the target are held: the answer may take its time, and may come from the target itself.
    fn leaves_out(&self, path: &Path) -> bool;
}

impl std::fmt::Debug for Placing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Placing").field("into", &self.into).field("bare", &self.bare).finish_non_exhaustive()
    }
}
