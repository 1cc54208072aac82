//! A backup tried with a server: it is compared with its manifest while it is copied, and a mongod is started on the copy.
use std::ffi::OsString;
use std::path::Path;

use hotbackup_copier::{Problem, VerifyReport};

use crate::cli::Failure;
use crate::exit::Cause;
use crate::session::{Control, Monitor};

/// Compares a backup with its manifest, and has a server validate a copy of it, which is removed again.
///
/// # Errors
/// It could not be copied, or no server started; what is wrong with the backup is in the report.
pub(crate) fn verify(backup: &Path, mongod: &Path, monitor: &dyn Monitor) -> Result<VerifyReport, Failure> {
    let failed = |error: hotbackup_archive::Error| Failure::new(Cause::of_archive(&error), error);
    let whole = std::path::absolute(backup).unwrap_or_else(|_| backup.to_owned());
    let mut name = OsString::from(".");
    name.push(whole.file_name().unwrap_or_default());
    name.push(".hotbackup-trial");
    let copy = Copy(whole.with_file_name(name));
    // Left by one that was killed.
    copy.remove();
    let restored = match hotbackup_archive::restore(backup, &copy.0, None, monitor, &Control::new(None)) {
        Err(hotbackup_archive::Error::NotAsSaid { .. }) => {
            // All of what differs, not only the first of it.
            let report = hotbackup_copier::verify(backup, monitor);
            return report.map_err(|error| Failure::new(Cause::of_copier(&error), error));
        }
        other => other.map_err(failed)?,
    };
    let found = hotbackup_service::trial::validate(mongod, &copy.0)
        .map_err(|error| Failure::new(Cause::ServiceFailed, error))?;
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
