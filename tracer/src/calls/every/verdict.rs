//! The answers that there are.

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is shown where it can change something, and what it may change is marked.
    Shown,
    /// It is shown where it can change something, and fails the backup if it concerns a source.
    Fails,
    /// It is shown where the net under writes of 8 bytes needs it.
    Net,
    /// It changes no file; it is shown where calls are captured in the target, whose table of descriptors it changes.
    Table,
    /// It changes nothing unseen.
    Cannot,
}
