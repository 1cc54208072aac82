//! What the ptracer is asked for, and what it answers.

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::payload::Call;
use crate::calls::Shape;
use crate::error::Error;
use crate::target::process::Registers;

/// A request, one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Have a thread of the target run these calls.
    Run {
        calls: Vec<Call>,
        /// Where the last result goes, by which the end of the line is known: it stands there as [`super::payload::PENDING`].
        /// Then the line makes descriptors, and is run once at most.
        result: Option<u64>,
        /// A filter may exist from here on: the keeper is told first, and must not have ended.
        arm: bool,
        /// Where the line is to stand: in memory of ours that can be executed. Else in padding of the program's.
        within: Option<(u64, u64)>,
    },
    /// Say whether you stand in the target's cgroups, as those will who are started in the same way.
    Place,
    /// Say whether the target carries our filter.
    Recognise,
    /// Say which calls the target's filters do not show that today's would.
    Unseen { shape: Shape },
    /// Close a copy of the target's descriptor with this number; it may be long until the answer.
    Close { number: i32 },
    /// Stop these threads, each for an instant, and say which were.
    Pause { tids: Vec<i32> },
    /// The same, and say where they stood.
    Look { tids: Vec<i32> },
    /// Stop all threads, until the next request (which is [`Request::Thaw`]) or until the time is up.
    Freeze { limit_us: u64 },
    /// Let them go on.
    Thaw,
}

/// An answer, one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// A thread is on its way through the code; for how long it was stopped, in nanoseconds.
    Ran(u64),
    /// No thread was changed.
    Failed(Failure),
    /// Whether it does.
    Placed(bool),
    /// Whether one of the target's filters is ours.
    Recognised(bool),
    /// These calls go unseen; nothing, when the filters cannot be read.
    Unseen(Option<Vec<String>>),
    /// That has come to an end, or there is no such descriptor.
    Closed,
    /// These threads were stopped for an instant, or are gone.
    Paused(Vec<i32>),
    /// These threads were stopped for an instant, there; nothing for those that are gone.
    Looked(Vec<(i32, Option<Registers>)>),
    /// All threads stand still; these wait for an answer.
    Frozen(Vec<i32>),
    /// They do not, and why.
    NotFrozen(String),
    /// They went on; whether they had stood still until they were asked to.
    Thawed(bool),
}

/// Why no thread could be used.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    NoThread(String),
    TargetExited,
    AlreadyTraced(i32),
    NotPermitted,
    ForeignArchitecture,
    /// The target's own filter forbids this call, or may.
    OwnFilter(i64),
    /// The keeper has ended: there must be no filter.
    NoKeeper,
    Ptrace(i32),
    Memory(i32),
}

impl Failure {
    /// In words for the operator.
    pub fn into_error(self, pid: i32) -> Error {
        match self {
            Self::NoThread(why) => Error::NoThread(pid, why),
            Self::TargetExited => Error::TargetExited(pid),
            Self::AlreadyTraced(tracer) => Error::AlreadyTraced { pid, tracer },
            Self::NotPermitted => Error::not_permitted(pid, "tracing"),
            Self::ForeignArchitecture => Error::ForeignArchitecture(pid),
            Self::OwnFilter(call) => Error::OwnFilter { pid, call },
            Self::NoKeeper => Error::Keeper { pid, problem: "ended during the attach".into() },
            Self::Ptrace(errno) => Error::os(pid, "tracing")(Errno::from_raw(errno)),
            Self::Memory(errno) => Error::os(pid, "writing to the memory of")(Errno::from_raw(errno)),
        }
    }
}
