//! Exit codes: one number a cause, here and in `docs/exit-codes.md` (a test compares the two). Numbers are never reused.
use serde::Serialize;

macro_rules! causes {
    ($($(#[doc = $meaning:literal])+ $name:ident = $code:literal),+ $(,)?) => {
        /// Why the command ended as it did. The JSON name is the same in snake_case.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(u8)]
        pub enum Cause { $($(#[doc = $meaning])+ $name = $code),+ }

        /// Every cause with its meaning, by number.
        pub const TABLE: &[(Cause, &str)] = &[$((Cause::$name, concat!($($meaning),+))),+];
    };
}

causes! {
    /// Done, and right.
    Success = 0,
    /// A fault of hotbackup itself, or of a call that should not fail. Please report it.
    Internal = 1,
    /// The command line cannot be understood.
    Usage = 2,
    /// There is no process with that number.
    NoSuchProcess = 3,
    /// Not permitted; the message names the capability that is missing.
    NotPermitted = 4,
    /// Another tracer (a debugger, strace) is attached to the process.
    AlreadyTraced = 5,
    /// The kernel lacks a feature; the message names it.
    KernelTooOld = 6,
    /// The process ended before the backup was complete.
    TargetExited = 7,
    /// Another hotbackup is at work on the process.
    Busy = 8,
    /// The process cannot be followed: another architecture, a sandbox of its own, or threads that differ.
    CannotFollow = 9,
    /// The process could not be attached to just now; trying again may help.
    AttachFailed = 10,
    /// The keeper could not be started, or does not answer.
    Keeper = 11,
    /// The keeper took the process over because this supervisor did not answer in time.
    Revoked = 12,
    /// A call of the process had waited too long, so it was let go: a disk stands still, or hotbackup hangs.
    WaitedTooLong = 13,
    /// The process has no room for what it takes to follow it: file descriptors or memory; the message names the limit.
    NoRoom = 14,
    /// Children of the process, there before hotbackup, can change the source: it is a program of several processes.
    SeveralProcesses = 15,
    /// The process could not be stopped to copy what it has mapped for writing.
    NotFrozen = 16,
    /// The process is paused: a cgroup of its own, or one above, is frozen.
    Frozen = 17,
    /// What answers the process could not be put where it outlives hotbackup: into the process's own cgroup; nor started by it.
    CannotOutlive = 18,
    /// A limit of hotbackup's own process leaves no room for a backup; the message names the limit.
    OwnLimit = 19,
    /// The destination holds something already.
    DestNotEmpty = 20,
    /// The destination and a source lie inside one another.
    DestInsideSource = 21,
    /// The destination is on a read-only file system.
    DestReadOnly = 22,
    /// The destination is full, has no inodes left, or is over quota; the message says which.
    DestFull = 23,
    /// The destination exists and is not a directory.
    DestNotDirectory = 24,
    /// The destination is a mount point.
    DestMountPoint = 25,
    /// The directory in which the destination would be made does not exist.
    DestParentMissing = 26,
    /// Any other trouble with the destination.
    DestIo = 27,
    /// The destination's file system cannot hold a name, a kind of file or a length that is in the source.
    DestCannotHold = 28,
    /// The backup does not fit with what is to be left free for the server; or it was given up when free space came down to that.
    DestTooSmall = 29,
    /// A source does not exist.
    SourceNotFound = 30,
    /// A source is not a directory.
    SourceNotDirectory = 31,
    /// Sources overlap or go to the same place.
    SourcesOverlap = 32,
    /// Something in a source cannot be read.
    SourceUnreadable = 33,
    /// A symbolic link leads to a directory that contains it.
    SymlinkLoop = 34,
    /// The process is not one whose data directory hotbackup can find: name it with --source.
    SourceUnknown = 35,
    /// This process may not open enough files.
    TooManyOpenFiles = 36,
    /// A directory contains itself, through a mount.
    SourceContainsItself = 37,
    /// It could not be known whether earlier calls of the process had finished.
    Quiesce = 40,
    /// Something happened that cannot be tracked.
    Blind = 41,
    /// A file can change without a system call, such as through a writable shared mapping.
    Untraceable = 42,
    /// Something other than the process changed a file.
    ForeignChange = 43,
    /// The destination is slower than the process writes, and memory for before-images ran out.
    BeforeImagesFull = 44,
    /// The target was let go before everything was saved.
    LetGo = 45,
    /// No point in time could be fixed without holding the process for too long.
    HoldTooLong = 46,
    /// The process changed more names than can be remembered while hotbackup waited for a disk.
    TooManyMarks = 47,
    /// What the process overwrites could not be read in time.
    BeforeImageSlow = 48,
    /// More is mapped for writing than may be copied while the process stands still.
    MappedTooLarge = 49,
    /// verify: the directory holds no finished backup.
    ManifestMissing = 50,
    /// verify: the manifest cannot be understood.
    ManifestBad = 51,
    /// verify: the backup is not what its manifest says.
    VerifyFailed = 52,
    /// check: the process cannot be backed up as it is.
    CheckFailed = 53,
    /// rescue: nothing waits there.
    NothingToRescue = 54,
    /// No process is the one that was named, or several are; the message lists them.
    NotOneProcess = 55,
    /// status, throttle, cancel: nobody answers, or what was asked cannot be done.
    NotSteered = 56,
    /// serve: the configuration is wrong, or something that it names cannot be used.
    ServiceFailed = 57,
    /// The filter that the process has is another release's, and does not show all calls: see --accept-unseen.
    UnseenCalls = 58,
    /// demo: it could not be run.
    DemoFailed = 60,
    /// demo: the backup is not a state that existed.
    DemoWrong = 61,
    /// demo: a call of the writer failed, or did less than it was asked.
    WriterHarmed = 62,
    /// The backup is in use: it is being restored, checked or removed.
    BackupInUse = 65,
    /// restore: a server uses the directory.
    ServerThere = 66,
    /// There is no such directory of backups.
    ShelfMissing = 67,
    /// The JSON or the result could not be written to standard output.
    Output = 70,
    /// Cancelled with Ctrl-C or SIGTERM.
    Cancelled = 130,
}

/// What the demo writer exits with when one of its calls fails.
pub const WRITER_HARMED: u8 = Cause::WriterHarmed as u8;

impl Cause {
    /// The exit code.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The name in JSON and in the table.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The cause of a failed session.
    pub fn of(error: &crate::session::Error) -> Self {
        use crate::session::Error;
        match error {
            Error::Tracer(error) => Self::of_tracer(error),
            Error::Copier(error) => Self::of_copier(error),
            Error::Discover(error) => Self::of_discover(error),
            Error::Limits(_) => Self::Usage,
        }
    }

    /// The cause of a tracer's error.
    pub fn of_tracer(error: &hotbackup_tracer::Error) -> Self {
        use hotbackup_tracer::Error;
        match error {
            Error::NoSuchProcess(_) => Self::NoSuchProcess,
            Error::TargetExited(_) => Self::TargetExited,
            Error::NotPermitted { .. } => Self::NotPermitted,
            Error::AlreadyTraced { .. } => Self::AlreadyTraced,
            Error::Busy(_) => Self::Busy,
            Error::FirstThreadEnded(_)
            | Error::ForeignListener(_)
            | Error::ThreadDiverges(_)
            | Error::OwnFilter { .. }
            | Error::UnreadFilter { .. }
            | Error::ForeignArchitecture(_) => Self::CannotFollow,
            Error::KernelTooOld { .. } => Self::KernelTooOld,
            Error::NoRoom { .. } => Self::NoRoom,
            Error::Frozen { .. } => Self::Frozen,
            Error::NoThread(..) | Error::Injected { .. } => Self::AttachFailed,
            Error::Keeper { .. } => Self::Keeper,
            Error::Ptracer { .. } => Self::AttachFailed,
            Error::KeptForAnother { .. } => Self::CannotFollow,
            Error::CannotOutlive { .. } => Self::CannotOutlive,
            Error::NothingToRescue(_) => Self::NothingToRescue,
            Error::GivenUp(_) => Self::Cancelled,
            Error::UnseenCalls { .. } => Self::UnseenCalls,
            Error::Revoked(_) => Self::Revoked,
            Error::WaitedTooLong { .. } => Self::WaitedTooLong,
            Error::SeveralProcesses { .. } => Self::SeveralProcesses,
            _ => Self::Internal,
        }
    }

    /// The cause of a copier's error.
    pub fn of_copier(error: &hotbackup_copier::Error) -> Self {
        use hotbackup_copier::Error;
        match error {
            Error::DestNotEmpty { .. } => Self::DestNotEmpty,
            Error::DestInsideSource { .. } => Self::DestInsideSource,
            Error::DestBusy { .. } => Self::Busy,
            Error::DestReadOnly { .. } => Self::DestReadOnly,
            Error::DestFull { .. } | Error::DestOverQuota { .. } | Error::DestOutOfInodes { .. } => Self::DestFull,
            Error::DestNotDirectory { .. } => Self::DestNotDirectory,
            Error::DestMountPoint { .. } => Self::DestMountPoint,
            Error::DestParentMissing { .. } => Self::DestParentMissing,
            Error::DestIo { .. } => Self::DestIo,
            Error::DestCannotHold { .. } => Self::DestCannotHold,
            Error::DestTooSmall { .. } | Error::ReserveReached { .. } => Self::DestTooSmall,
            Error::SourceContainsItself { .. } => Self::SourceContainsItself,
            Error::SourceNotFound { .. } => Self::SourceNotFound,
            Error::SourceNotDirectory { .. } => Self::SourceNotDirectory,
            Error::SourcesOverlap { .. } => Self::SourcesOverlap,
            Error::SourceUnreadable { .. } => Self::SourceUnreadable,
            Error::SymlinkLoop { .. } => Self::SymlinkLoop,
            Error::BadExclude { .. } => Self::Usage,
            Error::TooManyOpenFiles { .. } => Self::TooManyOpenFiles,
            Error::OwnLimit { .. } => Self::OwnLimit,
            Error::Quiesce(_) => Self::Quiesce,
            Error::Blind(_) => Self::Blind,
            Error::Untraceable { .. } => Self::Untraceable,
            Error::MappedTooLarge { .. } => Self::MappedTooLarge,
            Error::NotFrozen { .. } => Self::NotFrozen,
            Error::ForeignChange { .. } | Error::Unexplained { .. } => Self::ForeignChange,
            Error::BeforeImagesFull { .. } => Self::BeforeImagesFull,
            Error::BeforeImageSlow { .. } => Self::BeforeImageSlow,
            Error::HoldTooLong { .. } => Self::HoldTooLong,
            Error::TooManyMarks { .. } => Self::TooManyMarks,
            Error::LetGo => Self::LetGo,
            Error::Cancelled => Self::Cancelled,
            Error::ManifestMissing { .. } => Self::ManifestMissing,
            Error::ManifestBad { .. } => Self::ManifestBad,
            _ => Self::Internal,
        }
    }

    /// The cause of an error with backups that are there.
    pub fn of_archive(error: &hotbackup_archive::Error) -> Self {
        use hotbackup_archive::Error;
        match error {
            Error::Copier(error) => Self::of_copier(error),
            Error::Io { .. } => Self::DestIo,
            Error::NoShelf(_) => Self::ShelfMissing,
            Error::InUse(_) => Self::BackupInUse,
            Error::ServerThere { .. } => Self::ServerThere,
            Error::NotAsSaid { .. } => Self::VerifyFailed,
            Error::BadSchedule { .. } | Error::NoOwner { .. } => Self::Usage,
            _ => Self::Internal,
        }
    }

    /// The cause of a dbpath that was not found.
    pub fn of_discover(error: &crate::discover::Error) -> Self {
        use crate::discover::Error;
        match error {
            Error::NoSuchProcess { .. } => Self::NoSuchProcess,
            Error::NotPermitted { .. } => Self::NotPermitted,
            Error::Unknown { .. } => Self::SourceUnknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_causes_share_a_number() {
        let mut codes: Vec<u8> = TABLE.iter().map(|(cause, _)| cause.code()).collect();
        let all = codes.len();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), all);
    }

    #[test]
    fn the_documented_table_is_this_one() {
        let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/exit-codes.md")).unwrap();
        let documented: Vec<&str> =
            text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| code")).collect();
        let here: Vec<String> = TABLE
            .iter()
            .map(|(cause, meaning)| format!("| {} | `{}` | {} |", cause.code(), cause.name(), meaning.trim()))
            .collect();
        assert_eq!(documented, here, "docs/exit-codes.md should hold exactly:\n{}", here.join("\n"));
    }
}
