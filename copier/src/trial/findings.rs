//! What would be lost: a pure function of what the destination can hold and what the source needs.
use super::capabilities::Capabilities;
use super::needs::{Count, Needs};
use crate::base::util::and_more;
use crate::{Error, NotKept};
use std::path::Path;

/// Metadata that is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Loss {
    Owner,
    Mode,
    SetIds,
    Acl,
    Attribute,
    /// Times to less than a precision.
    Fraction,
    /// Times before or after what can be kept.
    TimeRange,
    HardLink,
    Holes,
    /// Owner, mode and times of a destination that becomes the backup and is somebody else's.
    Top,
}

impl Loss {
    /// What is not kept, as it stands in JSON and in the manifest.
    pub fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Mode | Self::SetIds => "mode",
            Self::Acl => "acl",
            Self::Attribute => "attribute",
            Self::Fraction | Self::TimeRange => "mtime",
            Self::HardLink => "hard_link",
            Self::Holes => "holes",
            Self::Top => "mode",
        }
    }
}

/// One thing that the destination cannot hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    what: What,
    count: Count,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// Content, or a name.
    Lost(&'static str),
    Metadata(Loss, String),
}

impl Finding {
    fn lost(cause: &'static str, count: &Count) -> Self {
        Self { what: What::Lost(cause), count: count.clone() }
    }

    fn metadata(loss: Loss, words: impl Into<String>, count: &Count) -> Self {
        Self { what: What::Metadata(loss, words.into()), count: count.clone() }
    }

    /// The loss, if it is one of metadata only.
    pub fn warning(&self) -> Option<Loss> {
        match self.what {
            What::Metadata(loss, _) => Some(loss),
            What::Lost(_) => None,
        }
    }

    /// The words of the warning.
    pub fn words(&self) -> String {
        match &self.what {
            What::Metadata(_, words) => format!("{words}: {}", and_more(&self.count.first, self.count.many)),
            What::Lost(cause) => format!("{cause}: {}", and_more(&self.count.first, self.count.many)),
        }
    }

    /// For the result.
    pub fn not_kept(&self, loss: Loss) -> NotKept {
        let words = match &self.what {
            What::Metadata(_, words) => words.clone(),
            What::Lost(cause) => (*cause).to_owned(),
        };
        NotKept { what: loss.name().into(), words, count: self.count.many, first: self.count.first.clone() }
    }

    /// The error, if more than metadata is lost.
    pub fn error(self) -> Error {
        let cause = match self.what {
            What::Lost(cause) if self.count.many > 1 => {
                format!("{cause}, nor {} more of the kind", self.count.many - 1)
            }
            What::Lost(cause) => cause.to_owned(),
            What::Metadata(_, words) => words,
        };
        Error::DestCannotHold { path: self.count.first, cause }
    }
}

/// What would be lost, the worst first.
pub(super) fn of(can: &Capabilities, needs: &Needs) -> Vec<Finding> {
    let one = |path: &Path| Count { many: 1, first: path.to_owned() };
    let mut all = Vec::new();
    let mut lost = |is_lost: bool, cause, count: &Count| {
        if is_lost && count.many > 0 {
            all.push(Finding::lost(cause, count));
        }
    };
    lost(!can.symlinks, "there are no symbolic links on its file system", &needs.symlinks);
    lost(!can.fifos, "there are no fifos on its file system", &needs.fifos);
    let largest = one(&needs.largest.path);
    lost(needs.largest.value > can.largest_file, "it is longer than a file may be there", &largest);
    let mut told = |is_lost: bool, loss, words: String, count: &Count| {
        if is_lost && count.many > 0 {
            all.push(Finding::metadata(loss, words, count));
        }
    };
    let keeps_no = |what: &str| format!("the destination keeps no {what}");
    told(!can.owners, Loss::Owner, "the owner could not be set".into(), &needs.others);
    let modes = "modes cannot be set at the destination, where whoever may look into it may read the backup".into();
    told(!can.modes, Loss::Mode, modes, &needs.any);
    told(can.modes && !can.set_ids, Loss::SetIds, keeps_no("setuid, setgid and sticky bits"), &needs.set_ids);
    told(!can.acls, Loss::Acl, keeps_no("access lists"), &needs.acls);
    told(!can.attributes, Loss::Attribute, keeps_no("extended attributes"), &needs.attributes);
    let precision = format!("the destination keeps times to {} only", duration(can.precision_ns));
    told(can.precision_ns > 1, Loss::Fraction, precision, &needs.fractions);
    if !can.time_range
        && let (Some(earliest), Some(latest)) = (&needs.earliest, &needs.latest)
    {
        // Of the two, the one that is farther from today.
        let early = earliest.value.sec < 0 || earliest.path == latest.path;
        let path = if early { &earliest.path } else { &latest.path };
        told(true, Loss::TimeRange, keeps_no("times as early or as late as there are"), &one(path));
    }
    let copied = "the destination keeps no hard links: each name becomes a file of its own".into();
    told(!can.hard_links, Loss::HardLink, copied, &needs.hard_links);
    let others = "the destination belongs to another user: its own owner, mode and time stay as they are, and so does who may look \
                  into it";
    told(!can.top, Loss::Top, others.into(), &one(Path::new(".")));
    let filled = "the destination keeps no holes: they take the space of zeros".into();
    told(!can.holes, Loss::Holes, filled, &needs.sparse);
    all
}

fn duration(ns: u64) -> String {
    match ns {
        u64::MAX => "their own taste".into(),
        ns if ns >= 1_000_000_000 => format!("{} s", ns / 1_000_000_000),
        ns if ns >= 1_000_000 => format!("{} ms", ns / 1_000_000),
        ns if ns >= 1000 => format!("{} us", ns / 1000),
        ns => format!("{ns} ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::needs::Most;
    use super::*;
    use crate::base::sys::Time;

    /// A source that has some of everything.
    fn everything() -> Needs {
        let some = |name: &str| Count { many: 2, first: name.into() };
        let at = |sec| Some(Most { value: Time { sec, nsec: 5 }, path: "old".into() });
        Needs {
            entries: 9,
            symlinks: some("symlink"),
            longest_text: Most { value: 9, path: "symlink".into() },
            fifos: some("fifo"),
            hard_links: some("link"),
            sparse: some("sparse"),
            largest: Most { value: 5 << 30, path: "large".into() },
            others: some("another's"),
            set_ids: some("setuid"),
            any: some("any"),
            attributes: some("attribute"),
            acls: some("acl"),
            fractions: some("fraction"),
            earliest: at(-11_676_096_000),
            latest: at(9_246_182_400),
        }
    }

    /// Takes one capability away.
    fn without(take: impl FnOnce(&mut Capabilities)) -> Capabilities {
        let mut left = Capabilities::default();
        take(&mut left);
        left
    }

    #[test]
    fn where_everything_is_kept_nothing_is_found() {
        assert_eq!(of(&Capabilities::default(), &everything()), []);
    }

    #[test]
    fn what_the_source_does_not_need_is_not_found() {
        let nothing = Capabilities {
            symlinks: false,
            hard_links: false,
            fifos: false,
            holes: false,
            owners: false,
            modes: false,
            set_ids: false,
            attributes: false,
            acls: false,
            precision_ns: 2_000_000_000,
            time_range: false,
            largest_file: 10,
            ..Capabilities::default()
        };
        assert_eq!(of(&nothing, &Needs::default()), []);
    }

    #[test]
    fn content_and_names_are_errors() {
        let cases = [
            (without(|can| can.symlinks = false), "symlink"),
            (without(|can| can.fifos = false), "fifo"),
            (without(|can| can.largest_file = (4 << 30) - 1), "large"),
        ];
        for (can, path) in cases {
            let found = of(&can, &everything());
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].warning(), None);
            let error = found[0].clone().error();
            assert!(
                matches!(&error, Error::DestCannotHold { path: found, .. } if *found == Path::new(path)),
                "{error}"
            );
        }
    }

    #[test]
    fn metadata_is_a_warning_that_names_it() {
        let cases = [
            (without(|can| can.owners = false), Loss::Owner, "another's"),
            (without(|can| can.modes = false), Loss::Mode, "any"),
            (without(|can| can.set_ids = false), Loss::SetIds, "setuid"),
            (without(|can| can.acls = false), Loss::Acl, "acl"),
            (without(|can| can.attributes = false), Loss::Attribute, "attribute"),
            (without(|can| can.precision_ns = 100), Loss::Fraction, "fraction"),
            (without(|can| can.time_range = false), Loss::TimeRange, "old"),
            (without(|can| can.hard_links = false), Loss::HardLink, "link"),
            (without(|can| can.holes = false), Loss::Holes, "sparse"),
            (without(|can| can.top = false), Loss::Top, "."),
        ];
        for (can, loss, path) in cases {
            let found = of(&can, &everything());
            assert_eq!(found.iter().map(Finding::warning).collect::<Vec<_>>(), [Some(loss)]);
            assert!(found[0].words().contains(path), "{}", found[0].words());
        }
    }
}
