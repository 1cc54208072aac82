//! How a target comes into our hands: from its keeper, from one that nobody leads, or by installing the filter.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use hotbackup_event::failpoint;
use nix::errno::Errno;

use super::options::Options;
use super::{ancestors, lock, rescue, unseen_calls};
use crate::attach::birth::{self, Socket};
use crate::attach::{NotInstalled, Place, preflight};
use crate::calls::coverage::{self, IN_DOUBT};
use crate::calls::{Shape, filter};
use crate::error::Error;
use crate::helper::process::{self as helper, KEEPER, PARENT};
use crate::keeper::find::{self, Adopted, TakenOver};
use crate::keeper::spawn;
use crate::ptracer::client::Ptracer;
use crate::shared::control::{Control, Role};
use crate::shared::memory::{ARMED, Memory, NotOurs, UNARMED};
use crate::shared::roles::Held;
use crate::sys::{notify, passing, pidfd};
use crate::target::listener::{listener_at, target_listener};
use crate::target::process::Process;
use crate::target::room::{self, EVENTFD};

/// How often a keeper may end under our hands.
const TRIES: u32 = 3;

/// What attaching brought, before anything is received.
pub(crate) struct Attached {
    pub memory: Memory,
    pub listener: OwnedFd,
    pub generation: u32,
    pub wake: Option<OwnedFd>,
    /// That we are the supervisor.
    pub part: Held,
    pub ptracer: Ptracer,
    /// Calls that the filter does not show.
    pub unseen_calls: Vec<String>,
    /// How long the injected thread was kept from its work; `None` when the keeper was there already.
    pub stopped: Option<Duration>,
}

/// Takes a target over, or installs the filter, with a keeper behind us either way.
pub(crate) fn attach(process: &Process, options: &Options) -> Result<Attached, Error> {
    let pid = process.pid();
    let _one_at_a_time = lock::attaching(process)?;
    // Keepers may end, or be killed, at any moment of this.
    let mut tries = 1..=TRIES;
    loop {
        let last = tries.next() == Some(TRIES);
        if process.is_given_up() {
            return Err(Error::GivenUp(pid));
        }
        match attach_once(process, options) {
            Ok(Some(attached)) => return Ok(attached),
            Ok(None) if !last => {}
            Ok(None) => return Err(Error::Keeper { pid, problem: "ends again and again".into() }),
            Err(Error::Keeper { problem, .. }) if !last => tracing::warn!(problem, "once more"),
            Err(error) => return Err(error),
        }
    }
}

/// Through the target's keeper, or with a new one. `None`: a keeper was there, but is gone.
fn attach_once(process: &Process, options: &Options) -> Result<Option<Attached>, Error> {
    let mut keeper = find::find(process)?;
    if keeper.is_none() && target_listener(process).is_some() {
        // A pair that ends with us is worse than none that is waited for: a rescue may start one, which says so.
        if !Ptracer::start(process, options.keeper_program, None)?.is_with(process)? {
            return Err(Error::CannotOutlive { pid: process.pid(), why: rescue::NOT_BORN_AGAIN.into() });
        }
        // Its keepers were killed: what waits is answered first.
        if !ancestors::replace(process, options)? {
            rescue::revive(process, options)?;
        }
        keeper = find::find(process)?;
    }
    if let Some(keeper) = &keeper {
        ancestors::settle(process, &keeper.memory)?;
    }
    let ptracer = |memory: &Memory| Ptracer::start(process, options.keeper_program, Some(memory));
    Ok(Some(match keeper {
        Some(keeper) if keeper.is_orphaned() => {
            let Some(Adopted { memory, wake, part }) = keeper.adopt(process)? else { return Ok(None) };
            let mut ptracer = ptracer(&memory)?;
            let mut place = Place::map(process, &mut ptracer)?;
            let socket = socket_of(process, &memory);
            if let Some(socket) = &socket {
                place.hand_on_through(socket.number)?;
            }
            install(process, Ready { memory, wake, part, ptracer, place, socket }, options)?
        }
        Some(keeper) => {
            // Before calls begin to wait for us.
            let mut ptracer = ptracer(&keeper.memory)?;
            let unseen_calls = unseen_calls::find(process, &keeper.memory, &mut ptracer, options)?;
            let TakenOver { memory, listener, generation, wake, part } = keeper.take_over(process)?;
            Attached { memory, listener, generation, wake, part, ptracer, unseen_calls, stopped: None }
        }
        None => install(process, prepare(process, options)?, options)?,
    }))
}

/// A target whose session's memory is there, and somebody who answers when there is a filter.
struct Ready<'a> {
    memory: Memory,
    wake: Option<OwnedFd>,
    part: Held,
    ptracer: Ptracer,
    place: Place<'a>,
    /// By which keepers that were born from the target get the listener.
    socket: Option<Socket>,
}

/// The socket that leads to keepers which were born from the target, if it is still there.
fn socket_of(process: &Process, memory: &Memory) -> Option<Socket> {
    let number = memory.target_socket.load(Ordering::SeqCst);
    let socket = (number > 0).then(|| birth::socket_at(process, number)).flatten()?;
    (socket.id == memory.socket_id.load(Ordering::SeqCst)).then_some(socket)
}

/// Has the target make the session's memory, and starts a keeper that has it.
fn prepare<'a>(process: &'a Process, options: &Options) -> Result<Ready<'a>, Error> {
    let pid = process.pid();
    room::check(process)?;
    let mut ptracer = Ptracer::start(process, options.keeper_program, None)?;
    // Where the one helper stands, the others will. Else they must be born from the target.
    let may_join = ptracer.is_with(process)?;
    if !may_join {
        birth::end_unborn(process);
        birth::closable::check(process, &mut ptracer)?;
    }
    let mut place = Place::map(process, &mut ptracer)?;
    // Somebody may have come as far as this before.
    let (memory, part) = match find::session_memory(process)? {
        Some(memory) => {
            let part = find::take_part(&memory, pid)?;
            memory.begin_anew();
            (memory, part)
        }
        None => {
            let session = place.make_session(&mut ptracer)?;
            failpoint::hit("attach.session-made");
            let memory = find::made_at(process, session.memory)?;
            let problem = |why: NotOurs| Error::Keeper { pid, problem: format!("has no memory to share: {why}") };
            let memory = Memory::begin(memory, process.name(), options.at_sites).map_err(problem)?;
            let part = find::take_part(&memory, pid)?;
            if let Ok(wake) = pidfd::get_fd(process.pidfd(), session.wake) {
                memory.target_wake.store(session.wake, Ordering::SeqCst);
                memory.wake_id.store(find::eventfd_id(&wake).unwrap_or(0), Ordering::SeqCst);
            }
            if options.at_sites {
                place.make_region(&mut ptracer, &memory, session.memory)?;
            }
            (memory, part)
        }
    };
    failpoint::hit("attach.memory-made");
    place.close_left(&mut ptracer, &birth::leftovers(process, &memory))?;
    memory.target_socket.store(0, Ordering::SeqCst);
    let mut socket = None;
    if !may_join {
        // A thread of an attach before may be on its way to a filter still: who is born then would carry it, and if the birth failed,
        // what is cleared away would be that filter's record.
        if memory.armed.load(Ordering::SeqCst) == ARMED {
            let why = "an attach before this one was killed amid its work, and may still come to an end".into();
            return Err(Error::CannotOutlive { pid, why });
        }
        memory.set_supervisor();
        let gone = || Error::CannotOutlive { pid, why: "it has closed what was made in it".into() };
        let number = find::number_in(process, &memory).ok_or_else(gone)?;
        let wake = memory.target_wake.load(Ordering::SeqCst);
        if find::wake_fd(process, &memory).is_none() {
            return Err(gone());
        }
        let given = birth::Given { memory: number, wake };
        socket = Some(place.bear(&mut ptracer, options.keeper_program, &given, &memory)?);
    }
    ptracer.end();
    if may_join {
        spawn::spawn(process, options.keeper_program, &memory)?;
    }
    failpoint::hit("attach.keeper-ready");
    let wake = find::wake_fd(process, &memory);
    let ptracer = Ptracer::start(process, options.keeper_program, Some(&memory))?;
    Ok(Ready { memory, wake, part, ptracer, place, socket })
}

/// Installs the filter, with a keeper in place.
fn install(process: &Process, ready: Ready<'_>, options: &Options) -> Result<Attached, Error> {
    let Ready { memory, wake, part, mut ptracer, mut place, socket } = ready;
    let pid = process.pid();
    let ours = memory.target_wake.load(Ordering::SeqCst);
    let has_eventfds = || room::of_the_program(process).iter().any(|(fd, link)| link == EVENTFD && *fd != ours);
    let eight_bytes_unseen = !options.show_all_writes && has_eventfds();
    // A thread that is on its way already may install another one, of an earlier attempt: the net does no harm.
    memory.eight_bytes_unseen.fetch_or(u32::from(eight_bytes_unseen), Ordering::SeqCst);
    let region = memory.region.load(Ordering::SeqCst);
    let program = filter::compile(Shape { eight_bytes_unseen, region: (region != 0).then_some(region) })
        .map_err(|error| Error::Keeper { pid, problem: format!("has no filter to keep: {error}") })?;
    let no_new_privs = preflight::needs_no_new_privs(process);
    // A supervisor before us may have left a thread on its way to a filter: then nothing is ever proven.
    let in_doubt_before = memory.armed.load(Ordering::SeqCst) == ARMED;
    let made_of = coverage::fingerprint(&program);
    let made_of = if in_doubt_before && memory.filter.load(Ordering::SeqCst) != made_of { IN_DOUBT } else { made_of };
    // Only when it is there is it known whose it is: another release may come between.
    memory.filter.store(IN_DOUBT, Ordering::SeqCst);
    // Proven: there is no filter, and nothing for a keeper to wait for.
    let unarm = || {
        if in_doubt_before {
            return;
        }
        let _ = memory.armed.compare_exchange(ARMED, UNARMED, Ordering::SeqCst, Ordering::SeqCst);
    };
    let installed = place.install(&mut ptracer, &program, no_new_privs).map_err(|not| {
        let NotInstalled { error, mut in_doubt } = not;
        if matches!(error, Error::Frozen { .. } | Error::GivenUp(_)) && memory.armed.load(Ordering::SeqCst) == UNARMED {
            // The ptracer, killed by now, had not come to it.
            in_doubt = false;
        }
        if !in_doubt {
            unarm();
            // They would stay until it is thawed.
            if matches!(error, Error::Frozen { .. } | Error::GivenUp(_)) && !in_doubt_before {
                helper::end_all(KEEPER, process);
                helper::end_all(PARENT, process);
            }
        }
        error
    })?;
    failpoint::hit("attach.installed");
    let number = match listener_number(pid, installed.result) {
        Ok(number) => number,
        // Of two attempts, one may have been told that the other was quicker.
        Err(error) => match target_listener(process).filter(|_| installed.in_doubt || in_doubt_before) {
            Some((_, number)) => number,
            None => {
                if !installed.in_doubt {
                    unarm();
                }
                return Err(error);
            }
        },
    };
    // Looked at first: the target may have closed it already, and put something else there.
    let listener = listener_at(process, number).map(|listener| (listener, number));
    let listener = listener.or_else(|| target_listener(process));
    let (listener, number) = listener.ok_or_else(|| Error::os(pid, "taking the listener from")(Errno::EBADF))?;
    memory.target_listener.store(number, Ordering::SeqCst);
    memory.filter.store(made_of, Ordering::SeqCst);
    // Once more, in case the thread could not.
    let again = |socket: Socket| passing::send(socket.near.as_fd(), &[passing::LISTENER], Some(listener.as_fd()));
    let _ = socket.map(again);
    failpoint::hit("attach.listener-taken");
    if let Err(errno) = notify::set_sync_wake_up(listener.as_fd()) {
        tracing::debug!(%errno, "no SYNC_WAKE_UP before Linux 6.6: answers take longer");
    }
    let unseen_calls = match made_of {
        IN_DOUBT => unseen_calls::find(process, &memory, &mut ptracer, options)?,
        _ => Vec::new(),
    };
    let control = Control { role: Role::Attaching, generation: Control::load(&memory.control).generation };
    if !control.change(&memory.control, control.with(Role::Supervised)) {
        return Err(Error::Revoked(pid));
    }
    failpoint::hit("attach.supervised");
    if let Some(wake) = &wake {
        find::rouse(wake);
    }
    let (generation, stopped) = (control.generation, Some(place.stopped));
    Ok(Attached { memory, listener, generation, wake, part, ptracer, unseen_calls, stopped })
}

/// What seccomp's result means.
fn listener_number(pid: i32, result: i64) -> Result<i32, Error> {
    match i32::try_from(result) {
        Ok(number @ 0..) => Ok(number),
        Ok(failed) => Err(match Errno::from_raw(-failed) {
            Errno::EBUSY => Error::ForeignListener(pid),
            Errno::ESRCH => Error::ThreadDiverges(pid),
            errno => Error::Injected { pid, call: "seccomp", errno },
        }),
        Err(_) => Err(Error::Injected { pid, call: "seccomp", errno: Errno::EINVAL }),
    }
}
