//! The order of calls by path.
//!
//! They are decoded one after the other, by one thread: a path means what it will mean to the kernel only while no
//! earlier call that moves names is still on its way. So each waits for those first; that is a matter of microseconds, and such
//! calls are rare.
//!
//! Nor may a later one overtake it and lead its path to another directory that is known already: an open that makes `a/x`
//! would make it in what was `b`, if `a` and `b` are exchanged before it runs, and nothing would ever look for it there.
//! So a call that moves directories or symbolic links, or makes directories or links, waits until all earlier ones have
//! finished before it is let go. (A new directory is read in full once it is known, but that may be at once, by an older
//! mark on its name.) A grace waits for every call, also one whose path leads nowhere yet: a file that it may have found
//! is copied after such a grace.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::grace;
use super::inflight::{Call, InFlight, State};
use crate::ptracer::client::Ptracer;
use crate::target::process::Process;

/// How long a call that moves names may take until a later one goes on without knowing what it did.
const LIMIT: Duration = Duration::from_secs(1);

/// The calls by path that may be on their way.
#[derive(Default)]
pub(crate) struct Order {
    /// Those that move names.
    moving: Vec<Call>,
    others: Vec<Call>,
}

impl Order {
    /// Waits until no call that moves names is on its way. A call that is held, or was received later, counts as well.
    pub fn settle(&mut self, process: &Process, inflight: &InFlight, ptracer: &Mutex<Ptracer>) -> bool {
        settle(&mut self.moving, inflight, &mut by_grace(process, inflight, ptracer))
    }

    /// Waits until no call by path is on its way.
    pub fn settle_all(&mut self, process: &Process, inflight: &InFlight, ptracer: &Mutex<Ptracer>) -> bool {
        self.settle_all_by(inflight, &mut by_grace(process, inflight, ptracer))
    }

    fn settle_all_by(&mut self, inflight: &InFlight, wait: &mut dyn FnMut(Vec<Call>)) -> bool {
        settle(&mut self.moving, inflight, wait) && settle(&mut self.others, inflight, wait)
    }

    /// From now on `call` is on its way.
    pub fn add(&mut self, call: Call, moves_names: bool, inflight: &InFlight) {
        if moves_names {
            self.moving.push(call);
        } else {
            // No more than one a thread.
            self.others.retain(|other| inflight.now(other).is_some());
            self.others.push(call);
        }
    }
}

/// Waits for calls that were let go. Threads that have gone on to compute are asked by ptrace, as in every grace.
fn by_grace<'a>(
    process: &'a Process,
    inflight: &'a InFlight,
    ptracer: &'a Mutex<Ptracer>,
) -> impl FnMut(Vec<Call>) + 'a {
    |mut let_go| {
        grace::wait_for(process, inflight, ptracer, &mut let_go, LIMIT);
    }
}

fn settle(calls: &mut Vec<Call>, inflight: &InFlight, wait: &mut dyn FnMut(Vec<Call>)) -> bool {
    let began = Instant::now();
    loop {
        let is_let_go = |call: &&Call| inflight.now(call) == Some(State::LetGo);
        wait(calls.iter().filter(is_let_go).copied().collect());
        calls.retain(|call| {
            matches!(inflight.now(call), Some(State::LetGo | State::Parked | State::Admitting | State::Received))
        });
        if calls.is_empty() {
            return true;
        }
        if began.elapsed() > LIMIT {
            return false;
        }
        std::thread::sleep(Duration::from_micros(30));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::notify::CallData;

    /// Calls by path, each of a thread of its own.
    #[derive(Default)]
    struct Bench {
        inflight: InFlight,
        order: Order,
        /// What was waited for, by thread.
        waited: Vec<i32>,
    }

    impl Bench {
        fn receive(&mut self, tid: i32, moves_names: bool) -> Call {
            let serial = self.inflight.begin(tid, CallData::default());
            let call = Call { tid, serial, state: State::Received, data: CallData::default(), positions: None };
            self.order.add(call, moves_names, &self.inflight);
            call
        }

        fn set(&self, call: &Call, state: State) {
            self.inflight.set_state(call.tid, call.serial, state);
        }

        /// Each call that was let go is over by being waited for. The threads that were waited for are noted.
        fn settle(&mut self, all: bool) -> bool {
            let (inflight, waited) = (&self.inflight, &mut self.waited);
            let mut wait = |calls: Vec<Call>| {
                for call in calls {
                    inflight.forget(&call);
                    waited.push(call.tid);
                }
            };
            if all {
                self.order.settle_all_by(inflight, &mut wait)
            } else {
                settle(&mut self.order.moving, inflight, &mut wait)
            }
        }
    }

    #[test]
    fn a_path_waits_for_calls_that_move_names_and_a_call_that_leads_paths_elsewhere_for_all() {
        for (all, expected) in [(false, vec![1]), (true, vec![1, 2])] {
            let mut bench = Bench::default();
            for (tid, moves_names) in [(1, true), (2, false)] {
                let call = bench.receive(tid, moves_names);
                bench.set(&call, State::LetGo);
            }
            assert!(bench.settle(all));
            assert_eq!(bench.waited, expected);
            assert!(bench.settle(all));
            assert_eq!(bench.waited, expected, "once");
        }
    }

    #[test]
    fn what_has_not_been_let_go_counts_and_is_given_a_second() {
        for state in [State::Received, State::Admitting, State::Parked] {
            let mut bench = Bench::default();
            let held = bench.receive(1, true);
            let other = bench.receive(2, false);
            bench.set(&held, state);
            bench.set(&other, State::LetGo);
            assert!(!bench.settle(true), "{state:?}");
            assert!(bench.waited.is_empty(), "the others come after those that move names");
            bench.set(&held, State::LetGo);
            assert!(bench.settle(true));
            assert_eq!(bench.waited, [1, 2]);
        }
    }

    #[test]
    fn a_call_that_ends_while_it_is_waited_for_is_enough() {
        let mut bench = Bench::default();
        let call = bench.receive(1, true);
        let (inflight, order) = (&bench.inflight, &mut bench.order);
        let mut looks = 0;
        // It is held at first: whoever holds it lets it go, and then it ends.
        let mut wait = |calls: Vec<Call>| {
            looks += 1;
            match looks {
                1 => assert!(calls.is_empty()),
                2 => inflight.set_state(call.tid, call.serial, State::LetGo),
                _ => calls.iter().for_each(|call| inflight.forget(call)),
            }
        };
        assert!(settle(&mut order.moving, inflight, &mut wait));
        assert_eq!(looks, 3);
    }

    #[test]
    fn calls_of_threads_that_have_gone_on_are_forgotten() {
        let mut bench = Bench::default();
        for _ in 0..100 {
            bench.receive(1, false);
        }
        assert_eq!(bench.order.others.len(), 1);
        bench.receive(2, false);
        assert_eq!(bench.order.others.len(), 2);
    }
}
