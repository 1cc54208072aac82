//! A backup tried with a server: it is compared with its manifest while it is copied, and a mongod is started on the copy.
use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

use hotbackup_copier::{Problem, VerifyReport};
use nix::fcntl::{Flock, FlockArg};

use crate::cli::Failure;
use crate::exit::Cause;
use crate::session::{Control, Monitor};

/// Compares a backup with its manifest, and has a server validate a copy of it, which is removed again.
///
/// # Errors
/// It could not be copied, or no server started; what is wrong with the backup is in the report.
pub(crate) fn verify(
    backup: &Path,
    mongod: &Path,
    monitor: &dyn Monitor,
    control: &Control,
) -> Result<VerifyReport, Failure> {
    let failed = |error: hotbackup_archive::Error| Failure::new(Cause::of_archive(&error), error);
    let whole = std::path::absolute(backup).unwrap_or_else(|_| backup.to_owned());
    let mut name = OsString::from(".");
    name.push(hotbackup_copier::shortened(whole.file_name().unwrap_or_default(), 150));
    // In the form that staging directories have: what a killed one leaves goes with other leftovers.
    name.push(format!(".hotbackup-partial-trial-{}", std::process::id()));
    let copy = Copy(whole.with_file_name(name));
    let restored = match hotbackup_archive::restore(backup, &copy.0, None, monitor, control) {
        Err(hotbackup_archive::Error::NotAsSaid { .. }) => {
            // All of what differs, not only the first of it.
            let report = hotbackup_copier::verify(backup, monitor);
            return report.map_err(|error| Failure::new(Cause::of_copier(&error), error));
        }
        other => other.map_err(failed)?,
    };
    let _ours = copy.mark()?;
    let wanted = || !control.is_cancelled();
    let found = hotbackup_service::trial::validate(mongod, &copy.0, &wanted).map_err(|error| match wanted() {
        true => Failure::new(Cause::ServiceFailed, error),
        false => Failure::new(Cause::Cancelled, "cancelled: the server and the copy are gone"),
    })?;
    let problem = |what| Problem { path: ".".into(), what };
    Ok(VerifyReport {
        entries: restored.entries,
        bytes: restored.bytes,
        point_in_time_ns: restored.point_in_time_ns,
        unseen_calls: restored.unseen_calls,
        problems: found.into_iter().map(problem).collect(),
    })
}

/// The copy, removed in the end.
struct Copy(std::path::PathBuf);

impl Copy {
    /// Has it known for what it is, and held: `prune` removes it if it is marked and nobody holds it.
    fn mark(&self) -> Result<Flock<File>, Failure> {
        let failed =
            |error: std::io::Error| Failure::new(Cause::DestIo, format!("cannot use {}: {error}", self.0.display()));
        let dir = File::open(&self.0).map_err(failed)?;
        let ours = Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| failed(errno.into()))?;
        std::fs::create_dir(self.0.join(hotbackup_copier::OWN_DIR)).map_err(failed)?;
        Ok(ours)
    }

    fn remove(&self) {
        // A copy of millions of files takes a while.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        self.remove();
    }
}
