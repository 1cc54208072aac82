//! Every system call of Linux 6.18 on x86-64, and the answer to one question: can it change content, size, names or
//! metadata of what is below a source, or what a path, a descriptor or a mapping means, with nobody seeing it?
//!
//! `docs/calls.md` is written from this. Tests hold it against [`super::TABLE`], and against the kernel's headers: a call
//! that is new there fails them until somebody has answered here.

mod high;
mod low;
mod verdict;

use std::fmt::Write as _;

pub use verdict::Verdict;

/// One call and its answer.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    /// The call's number.
    pub nr: i64,
    /// Its name, as in the kernel's table.
    pub name: &'static str,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: &'static str,
}

/// All of them, by number.
pub fn all() -> impl Iterator<Item = Answer> {
    let answer = |&(nr, name, verdict, reason)| Answer { nr, name, verdict, reason };
    low::CALLS.iter().chain(high::CALLS).map(answer)
}

/// Whether a call is known to change nothing unseen.
pub fn changes_nothing(nr: i64) -> bool {
    all().any(|answer| answer.nr == nr && answer.verdict == Verdict::Cannot)
}

/// `docs/calls.md`.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    for Answer { nr, name, verdict, reason } in all() {
        let outcome = match verdict {
            Verdict::Shown => "shown and marked",
            Verdict::Fails => "shown, fails the backup",
            Verdict::Net => "shown for the net",
            Verdict::Table => "shown for the table",
            Verdict::Cannot => "changes nothing",
        };
        let _ = writeln!(page, "| {nr} | `{name}` | {outcome} | {reason} |");
    }
    page
}

const HEAD: &str = "# Every system call

Can it change content, size, names or metadata of what is below a source, or what a path, a descriptor or a mapping means?
All calls of Linux 6.18 on x86-64; of the calls of i386 and x32 each fails the backup. The page is written from
`tracer/src/calls/every/`, which tests hold against the filter's table and against the kernel's headers.

- **shown and marked**: stopped where its arguments say that it can change something; what it may change is looked at afterwards.
- **shown, fails the backup**: the same, and if it concerns a file or directory of a source, the backup fails and names it.
- **shown for the net**: only in a process whose writes of 8 bytes are not shown, or whose calls are captured at their sites (see `design.md`).
- **shown for the table**: it changes no file, but what a descriptor means; only in a process whose calls are captured at their
  sites (see `design.md`).
- **changes nothing**: not shown.

| number | call | outcome | why |
|---|---|---|---|
";
