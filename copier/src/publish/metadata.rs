//! Owner and times as the system takes them.
use crate::base::sys::Stat;
use rustix::fs::{Gid, Timespec, Timestamps, Uid};

pub(super) fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid))
}

pub(super) fn times(stat: &Stat) -> Timestamps {
    let time = |ns: i64| Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) };
    Timestamps { last_access: time(stat.atime), last_modification: time(stat.mtime) }
}
