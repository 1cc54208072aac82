//! The server's disk is not the backup's to fill.
//!
//! Before the first byte is written, what is to be copied is held against what is free (`need`): data, not lengths, and
//! inodes. While it is copied, each step that writes looks at what is free (`watch`), and so does each wait; when it comes down
//! to the reserve, the backup fails, the target is let go, and what was written is removed.
//!
//! # Which file systems
//!
//! The one that the destination is on, with a reserve if a source is on it as well. That is so not only where the device
//! is the same: subvolumes have a device each, and overlayfs, FUSE and NFS pass on the figures of the file system below. What
//! shows the same totals and the same free space at the same time is taken for one. And a destination on a loop device whose
//! file has holes and lies on a source's file system fills that one: it is watched, too.
//!
//! A source on a file system of its own is not watched: if its server fills it up, removing the backup would not help, and a
//! full disk is when one is wanted most. Neither can be seen how much is left in a pool of thin volumes.
//!
//! # What the figures are worth
//!
//! `statvfs` of a directory shows the limit of its project's quota where that is less (ext4, xfs). ext4, xfs and tmpfs count
//! what was written but has no place on disk yet; btrfs counts that later, by as much as is waiting to be written. Quotas of
//! users show nowhere, and bind a server but not root: they are the destination's, and end as a full one.
pub(crate) mod need;
pub(crate) mod watch;
