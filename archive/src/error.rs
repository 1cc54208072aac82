//! What can go wrong with backups that lie there.
use std::path::PathBuf;

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The copier's.
    #[error(transparent)]
    Copier(#[from] hotbackup_copier::Error),
    /// A file system call.
    #[error("cannot {op} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The error.
        source: std::io::Error,
    },
    /// No such directory.
    #[error("there is no directory {path}: give the one that the backups are in", path = .0.display())]
    NoShelf(PathBuf),
    /// A backup that somebody has open.
    #[error("{path} is in use: it is being restored, checked or removed; try again when that is over", path = .0.display())]
    InUse(PathBuf),
    /// A directory that a server uses.
    #[error("process {pid} ({name}) uses {path}: stop it first, or take another directory", path = path.display())]
    ServerThere {
        /// Where.
        path: PathBuf,
        /// Who.
        pid: i32,
        /// Its name.
        name: String,
    },
    /// A backup that is not what its manifest says.
    #[error(
        "{path} is not what its manifest says ({problems} problems: {first}), so nothing was restored; `hotbackup verify` lists them",
        path = path.display()
    )]
    NotAsSaid {
        /// The backup.
        path: PathBuf,
        /// How many differences.
        problems: usize,
        /// The first few of them.
        first: String,
    },
    /// A time pattern.
    #[error("{text:?} is not a schedule ({cause}): write five fields as for cron, such as \"15 2 * * *\", or @daily")]
    BadSchedule {
        /// What was written.
        text: String,
        /// What is wrong.
        cause: String,
    },
    /// An owner that does not exist.
    #[error("there is no {what} {name:?} on this host: give its number, or create it first")]
    NoOwner {
        /// User or group.
        what: &'static str,
        /// What was written.
        name: String,
    },
}

impl Error {
    pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { op, path, source }
    }
}
