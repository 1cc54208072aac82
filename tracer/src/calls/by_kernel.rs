//! Calls after which the kernel itself writes to a file.

use hotbackup_event::Effect;
use nix::fcntl::ResolveFlag;

use super::decode::Decoder;
use super::row::{Test, bits};

/// `Q_QUOTAON`, for whatever kind of quota.
pub(super) const fn quota_on(argument: u8) -> [Test; 1] {
    [bits(argument, 0xffff_ff00, 0x8000_0200)]
}

pub(super) fn swapon(call: &mut Decoder<'_>) {
    writes(call, 0, "swapon, by which the kernel writes to it");
}

pub(super) fn acct(call: &mut Decoder<'_>) {
    writes(call, 0, "acct, by which the kernel writes to it");
}

/// The file is named by quotactl(2) and quotactl_fd(2) in the same argument.
pub(super) fn quotactl(call: &mut Decoder<'_>) {
    writes(call, 3, "quotactl, by which the kernel writes to it");
}

fn writes(call: &mut Decoder<'_>, argument: usize, cause: &'static str) {
    let Some(path) = call.path(call.arg(argument)) else { return };
    let Some(entry) = call.find(libc::AT_FDCWD, &path, ResolveFlag::empty()) else { return };
    let there = call.identify(&entry, true);
    call.effects.extend(there.map(|there| Effect::Untraceable { file: there.id, cause }));
}
