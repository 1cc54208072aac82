//! Fail points: named steps at which a test has this process kill or stop itself.
//!
//! A step that matters for safety calls [`hit`] with its name. In a build with debug assertions, the environment variable
//! [`VARIABLE`] chooses what happens there: `hold.parked:kill`, or `hold.parked:stop:3` for the third time the step is
//! reached; several are separated by commas. In a release build, and without the variable, nothing ever happens.
//!
//! `hold.parked:kill@/a/file` makes the file when it strikes, with a line `NAME PID` in it, and does not strike where the
//! file is there already. So a step is met once however many processes come to it (a keeper and then its twin), and
//! the test knows that it was met, and by whom.
//!
//! `row.write:skip` is of another kind: the decoder of that row of the table of calls, or of that command of ioctl(2), does
//! nothing. The tests prove with it that each row's own test fails without the row. `row.close:skip` and the like
//! also keep the table of descriptors for call sites from being emptied, and `row.pthread_cancel:skip` has cancellation not looked for.
//!
//! `filter.write:leave-out` is again of another kind: the filter is made without that row, as an earlier release's may be.
//!
//! `site.NAME:mutate` makes the code that patched call sites are sent through with one fault in it (`tracer/src/hot/mutants.rs`), to prove
//! that the tests notice it.
//!
//! The names are the steps of attach, hand-over, hold, drain and publish, and of the keeper's life; [`NAMES`] lists
//! those that a usual backup comes to, so that a test can meet every one; the lists behind it have the others.

/// The environment variable that chooses.
pub const VARIABLE: &str = "HOTBACKUP_FAILPOINT";

/// Every fail point there is, in the order in which a backup comes to them.
pub const NAMES: &[&str] = &[
    // Attach, in the supervisor.
    "attach.locked",
    "attach.session-made",
    "attach.memory-made",
    "attach.keeper-ready",
    "attach.page-mapped",
    "attach.page-written",
    "attach.installed",
    "attach.listener-taken",
    "attach.supervised",
    "attach.receiving",
    // The ptracer, with a thread of the target in its hands.
    "inject.armed",
    "inject.thread-held",
    "inject.code-written",
    "inject.redirected",
    "inject.let-go",
    "grace.thread-held",
    "freeze.stopping",
    "freeze.frozen",
    "freeze.thawed",
    // Taking a target over from its keeper.
    "takeover.claimed",
    "takeover.watched",
    // Receiving.
    "receive.received",
    "receive.before-answer",
    "receive.answered",
    "receive.path",
    // Everything is known, and nothing is copied.
    "track.known",
    // The hold.
    "hold.parked",
    "hold.quiet",
    "mapped.frozen",
    "hold.resolved",
    "hold.fixed",
    "hold.over",
    // The drain.
    "drain.claimed",
    "drain.read",
    "drain.saved",
    "drain.complete",
    "drain.released",
    // Publishing.
    "publish.placed",
    "publish.described",
    "publish.synced",
    "publish.renamed",
    // Handing the target back.
    "handover.deaf",
    "handover.kept",
    // The keeper.
    "keeper.executed",
    "keeper.started",
    "keeper.twinned",
    "keeper.ready",
    "keeper.watching",
    "keeper.took-over",
    "keeper.found-listener",
    "keeper.slot-answered",
    "keeper.received",
    "keeper.answered",
    "keeper.twin-made",
    // Its twin.
    "twin.acting",
];

/// Those that no usual backup comes to: steps of the verbs on backups that are there, and of replacing keepers of the layouts before.
pub const OTHERS: &[&str] = &["discard.renamed", "ancestors.stopped"];

/// Those of capturing calls at their sites, which is done where it is asked for.
pub const NAMES_OF_SITES: &[&str] =
    &["site.stub-written", "site.copied", "site.replaced", "site.marking", "site.draining"];

/// Faults that the stubs of patched call sites can be made with.
pub const MUTANTS: &[&str] = &[
    "seal-not-checked",
    "wrong-seal",
    "first-mark-left-out",
    "second-mark-left-out",
    "second-block-left-out",
    "wrong-shift",
    "wrong-register-for-the-descriptor",
    "wrong-place-of-the-entries",
    "two-blocks-bound-left-out",
    "map-bound-left-out",
    "most-blocks-bound-left-out",
    "descriptors-bound-left-out",
    "maps-bound-left-out",
    "bits-base-left-out",
    "bits-mask-left-out",
    "no-file-not-checked",
    "wrong-entry-for-no-file",
    "unknown-not-checked",
    "count-in-left-out",
    "count-out-left-out",
    "count-out-of-the-other-epoch",
    "wrong-counter",
    "epoch-not-read-again",
    "child-not-told-apart",
    "mode-not-masked",
    "number-left-out",
    "comes-back-to-the-syscall",
];

/// Those of keepers that are born from the target, where ours cannot be put into its cgroups.
pub const NAMES_OF_BIRTH: &[&str] =
    &["birth.gifts-made", "birth.program-written", "birth.born", "birth.ready", "birth.gifts-taken"];

/// The step `name` is reached.
#[inline]
pub fn hit(name: &'static str) {
    #[cfg(debug_assertions)]
    armed::hit(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// Whether the decoder of `row` is to do nothing.
#[inline]
pub fn is_skipped(row: &str) -> bool {
    #[cfg(debug_assertions)]
    return armed::get().skipped.iter().any(|skipped| skipped == row);
    #[cfg(not(debug_assertions))]
    {
        let _ = row;
        false
    }
}

/// Whether the filter is to be made without `row`.
#[inline]
pub fn is_left_out(row: &str) -> bool {
    #[cfg(debug_assertions)]
    return armed::get().left_out.iter().any(|left_out| left_out == row);
    #[cfg(not(debug_assertions))]
    {
        let _ = row;
        false
    }
}

/// The fault that stubs are to be made with.
#[inline]
pub fn mutant() -> Option<&'static str> {
    #[cfg(debug_assertions)]
    return armed::get().mutant;
    #[cfg(not(debug_assertions))]
    None
}

/// From here on nothing happens in this process any more: one that was forked is not the one that was meant.
pub fn disarm() {
    #[cfg(debug_assertions)]
    armed::DISARMED.store(true, std::sync::atomic::Ordering::SeqCst);
}

#[cfg(debug_assertions)]
mod armed {
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use nix::sys::signal::{Signal, raise};
    use nix::unistd::getpid;

    /// What is to happen at one step.
    #[derive(Debug)]
    pub(super) struct Armed {
        pub name: String,
        pub signal: Signal,
        /// How many times the step is still to be passed, this time included.
        left: AtomicU32,
        /// Made by the one process that this strikes.
        pub once: Option<PathBuf>,
    }

    impl Armed {
        /// Whether no process was struck before this one.
        fn is_first(&self) -> bool {
            let Some(path) = &self.once else { return true };
            let made = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
            made.is_ok_and(|mut file| writeln!(file, "{} {}", self.name, getpid()).is_ok())
        }
    }

    pub(super) static DISARMED: AtomicBool = AtomicBool::new(false);
    static CHOSEN: OnceLock<Chosen> = OnceLock::new();

    /// What the variable says.
    #[derive(Debug, Default)]
    pub(super) struct Chosen {
        pub armed: Vec<Armed>,
        /// Rows whose decoders do nothing.
        pub skipped: Vec<String>,
        /// Rows that the filter is made without.
        pub left_out: Vec<String>,
        /// The fault of stubs.
        pub mutant: Option<&'static str>,
    }

    pub(super) fn get() -> &'static Chosen {
        CHOSEN.get_or_init(|| parse(&std::env::var(super::VARIABLE).unwrap_or_default()))
    }

    pub(super) fn hit(name: &str) {
        for point in get().armed.iter().filter(|point| point.name == name) {
            if !DISARMED.load(Ordering::SeqCst)
                && point.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) == Ok(1)
                && point.is_first()
            {
                // To this very thread: it must not come any further.
                let _ = raise(point.signal);
            }
        }
    }

    /// Reads the variable. What cannot be read panics: a test that misspells it must not pass.
    pub(super) fn parse(text: &str) -> Chosen {
        let read = |part: &str| {
            let (part, once) = match part.split_once('@') {
                Some((part, path)) => (part, Some(PathBuf::from(path))),
                None => (part, None),
            };
            let mut fields = part.split(':');
            let name = fields.next()?.to_owned();
            let signal = match fields.next()? {
                "kill" => Signal::SIGKILL,
                "stop" => Signal::SIGSTOP,
                _ => return None,
            };
            let left = AtomicU32::new(fields.next().map_or(Some(1), |count| count.parse().ok())?);
            let mut all =
                super::NAMES.iter().chain(super::OTHERS).chain(super::NAMES_OF_BIRTH).chain(super::NAMES_OF_SITES);
            let known = all.any(|known| *known == name) && fields.next().is_none();
            known.then_some(Armed { name, signal, left, once })
        };
        let mut chosen = Chosen::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let row = |before: &str, after: &str| Some(part.strip_prefix(before)?.strip_suffix(after)?.to_owned());
            if let Some(name) = row("site.", ":mutate") {
                let known = super::MUTANTS.iter().find(|known| **known == name);
                chosen.mutant = Some(*known.unwrap_or_else(|| panic!("no such mutant: {part:?}")));
                continue;
            }
            match (row("row.", ":skip"), row("filter.", ":leave-out")) {
                (Some(row), _) => chosen.skipped.push(row),
                (None, Some(row)) => chosen.left_out.push(row),
                (None, None) => chosen.armed.push(read(part).unwrap_or_else(|| panic!("no such fail point: {part:?}"))),
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_stands_twice() {
        let mut names = NAMES.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES.len());
    }

    #[cfg(debug_assertions)]
    #[test]
    fn a_step_may_name_a_file_that_is_made_when_it_strikes() {
        let chosen = armed::parse(
            "hold.parked:stop:3@/a/b,row.fchmod:skip,filter.link:leave-out,twin.acting:kill,\
                                    site.wrong-shift:mutate",
        );
        assert_eq!(chosen.mutant, Some("wrong-shift"));
        assert_eq!((&chosen.skipped[..], &chosen.left_out[..]), (&["fchmod".into()][..], &["link".into()][..]));
        let told: Vec<_> = chosen.armed.iter().map(|point| (&*point.name, point.once.as_deref())).collect();
        assert_eq!(told, [("hold.parked", Some(std::path::Path::new("/a/b"))), ("twin.acting", None)]);
    }

    #[test]
    fn without_the_variable_nothing_happens() {
        for name in NAMES {
            hit(name);
        }
    }
}
