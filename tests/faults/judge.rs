//! What must hold after each fault.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::page::{Wait, now};
use super::plan::{Also, Kind, Plan};
use super::processes::{self, keepers, wait_until};
use super::strike::{Strike, Struck};
use super::supervisor::{Ended, Supervisor, command};
use super::target::{Target, goes_on};
use crate::common::process::status;

/// The longest that any call may wait, whatever fails: the lease of one second, with the looks before and after it. During
/// a hold it is 50 ms and looks; for that there is no bound of its own here.
pub const BOUND: Duration = Duration::from_millis(1500);
/// A target that stands still for so long hangs.
const STANDSTILL: Duration = Duration::from_secs(20);
/// A pair of keepers is complete again after this long.
const PAIR: Duration = Duration::from_secs(5);
/// The previous supervisor's end may not have been noticed yet.
const BUSY: Duration = Duration::from_secs(5);
/// A call that waited for so long while the supervisor was stopped shows that the supervisor was the one to answer, and
/// that another took over.
const REVOKED: Duration = Duration::from_millis(500);
/// The same during a hold, whose lease is 50 ms.
const REVOKED_HOLD: Duration = Duration::from_millis(45);

/// How a fault went.
#[derive(Default)]
pub struct Verdict {
    /// Whether it came about.
    pub met: bool,
    /// How the backup ended, in a few words.
    pub ended: String,
    /// The longest wait of a call.
    pub wait: Wait,
    /// The longest stall of the machine.
    pub stall: Duration,
    /// Calls of the target during the fault.
    pub calls: u64,
    /// What was wrong.
    pub wrong: Vec<String>,
}

/// Has `plan` happen to the target, and says how that went.
pub fn fault(target: &mut dyn Target, plan: &Plan) -> Verdict {
    let mut verdict = Verdict::default();
    if let Err(wrong) = prepare(target, plan) {
        verdict.wrong.push(format!("before the fault: {wrong}"));
        return verdict;
    }
    let calls = target.calls();
    let dest = target.scratch().join(format!("backup-{}", plan.number));
    if plan.kind == Kind::Undisturbed {
        target.begin();
        match undisturbed(target, plan, &dest) {
            Ok(ended) => {
                after(target, plan, Struck { met: true, ended: Some(ended), ..Struck::default() }, &dest, &mut verdict)
            }
            Err(wrong) => verdict.wrong.push(wrong),
        }
        clean(&dest);
        return verdict;
    }
    match Strike::run(target, plan, dest.clone()) {
        Ok(struck) => after(target, plan, struck, &dest, &mut verdict),
        Err(wrong) => verdict.wrong.push(wrong),
    }
    if verdict.wrong.is_empty() {
        verdict.calls = target.calls() - calls;
    } else if let Some(said) = target.died().filter(|said| !verdict.wrong.contains(said)) {
        verdict.wrong.push(said);
    }
    clean(&dest);
    verdict
}

/// The target has a keeper, and that its twin, unless it is to be fresh.
fn prepare(target: &mut dyn Target, plan: &Plan) -> Result<(), String> {
    if plan.fresh {
        return Ok(());
    }
    if !processes::is_filtered(target.pid()) {
        let dest = target.scratch().join("first");
        undisturbed(target, &Plan::plain(), &dest)?;
        fs::remove_dir_all(&dest).expect("our own backup");
    }
    paired(target.pid())
}

fn after(target: &mut dyn Target, plan: &Plan, mut struck: Struck, dest: &Path, verdict: &mut Verdict) {
    verdict.met = struck.met;
    let mut wrong = std::mem::take(&mut struck.wrong);
    if let Some(ended) = &struck.ended {
        verdict.ended = ended.words();
        wrong.extend(exit(plan, ended, struck.met, target.stall()).err());
        wrong.extend(left(target, ended, dest).err());
    }
    let mut excused = Vec::new();
    if let Some(since) = struck.nobody_since {
        wrong.extend(bring_back(target, plan).err());
        excused.push((since, now()));
    }
    match goes_on(target, 5, STANDSTILL) {
        Err(still) => wrong.push(still),
        Ok(()) => {
            verdict.wait = target.longest(&excused, None);
            verdict.stall = target.stall();
            if verdict.wait.net > BOUND {
                let Wait { raw, net, what, .. } = &verdict.wait;
                wrong.push(format!(
                    "a call waited {net:?}, more than {BOUND:?} ({raw:?} in all, the machine stood still for {:?}): {what}",
                    verdict.stall
                ));
            }
            wrong.extend(revoked(target, plan, &struck).err());
        }
    }
    let pid = target.pid();
    if !wait_until(Duration::from_secs(2), || processes::stopped_threads(pid).is_empty()) {
        let stopped = processes::stopped_threads(pid);
        wrong.push(format!("threads {stopped:?} are left stopped\n{}", processes::doing(pid)));
    }
    if processes::is_filtered(pid) {
        wrong.extend(paired(pid).err());
        let filters = status(pid, "Seccomp_filters");
        if filters.as_deref() != Some("1") {
            wrong.push(format!("the target has {filters:?} filters"));
        }
    }
    if !wrong.is_empty()
        && let Some(ended) = struck.ended
    {
        wrong.push(format!("the backup ended with {}: {}", ended.words(), ended.stderr.trim()));
    }
    verdict.wrong = wrong;
}

/// A machine or a disk that stands still for this long is too slow for the usual bounds of a backup.
const A_STANDSTILL: Duration = Duration::from_millis(250);

/// Whether this is a way in which the backup may end after such a fault.
fn exit(plan: &Plan, ended: &Ended, met: bool, stall: Duration) -> Result<(), String> {
    use std::os::unix::process::ExitStatusExt;
    const ATTACH_FAILED: i32 = 10;
    const KEEPER: i32 = 11;
    const REVOKED: i32 = 12;
    const NOT_FROZEN: i32 = 16;
    const QUIESCE: i32 = 40;
    const BLIND: i32 = 41;
    const WAITED_TOO_LONG: i32 = 13;
    const BEFORE_IMAGES_FULL: i32 = 44;
    const HOLD_TOO_LONG: i32 = 46;
    const CANNOT_OUTLIVE: i32 = 18;
    const BEFORE_IMAGE_SLOW: i32 = 48;
    let killed = ended.status.signal() == Some(9);
    let allowed: &[i32] = match plan.kind {
        // Without a fault, too, when the machine stood still for longer than the lease of a hold.
        _ if !met => &[REVOKED],
        Kind::KillSupervisor | Kind::KillActingAndSupervisor | Kind::KillAll if killed => return Ok(()),
        Kind::KillAt(_) if killed => return Ok(()),
        Kind::StopAt(_) if killed && matches!(plan.also, Also::KillSupervisor | Also::SupervisorAt(_)) => return Ok(()),
        Kind::Terminate if ended.status.signal() == Some(15) => return Ok(()),
        Kind::Terminate => &[130, REVOKED],
        Kind::KillActing | Kind::KillTwin => &[KEEPER, REVOKED],
        Kind::StopSupervisor => &[REVOKED, ATTACH_FAILED, KEEPER],
        // Too slow for its own bounds, and not for so long that another took over.
        Kind::StopSupervisorBriefly | Kind::Starve => &[
            REVOKED,
            ATTACH_FAILED,
            KEEPER,
            NOT_FROZEN,
            WAITED_TOO_LONG,
            HOLD_TOO_LONG,
            BEFORE_IMAGES_FULL,
            BEFORE_IMAGE_SLOW,
        ],
        Kind::KillKeepers | Kind::StopActing | Kind::StopTwin => &[REVOKED, KEEPER],
        Kind::StopHelper | Kind::KillAt(_) | Kind::StopAt(_) => &[REVOKED, ATTACH_FAILED, KEEPER, NOT_FROZEN, QUIESCE],
        _ => &[REVOKED],
    };
    match ended.status.code() {
        Some(code) if code == 0 || allowed.contains(&code) => Ok(()),
        // With the keepers gone before it came to them: others would end with its sidecar.
        Some(CANNOT_OUTLIVE) if plan.apart && matches!(plan.kind, Kind::KillKeepers | Kind::KillAll) => Ok(()),
        // A rescue that finds no record of what the filter shows spreads the net under writes of 8 bytes as a precaution.
        Some(BLIND) if ended.stderr.contains("8 bytes at a time") => Ok(()),
        // With the machine or its disk at a standstill, the bounds of a backup may be reached with no fault of ours.
        Some(WAITED_TOO_LONG | HOLD_TOO_LONG | NOT_FROZEN | BEFORE_IMAGE_SLOW) if stall > A_STANDSTILL => Ok(()),
        _ => Err("that is no way to end after this".into()),
    }
}

/// A finished backup is right; any other leaves nothing that could be taken for one, and nothing at all if it had the time
/// to clean up.
fn left(target: &dyn Target, ended: &Ended, dest: &Path) -> Result<(), String> {
    // Killed after it had published: then it is a backup like any other.
    if ended.status.success() || ended.status.code().is_none() && dest.join(".hotbackup/manifest.json").exists() {
        return right(target, dest);
    }
    if dest.exists() {
        return Err(format!("{dest:?} is there, though the backup failed"));
    }
    let staged = staging(dest);
    if ended.status.code().is_some() && !staged.is_empty() {
        return Err(format!("{staged:?} was left by a backup that ended by itself"));
    }
    Ok(())
}

fn right(target: &dyn Target, dest: &Path) -> Result<(), String> {
    let path = dest.to_str().expect("a plain name");
    let (code, said) = command(&["verify", path])?;
    if code != 0 {
        return Err(format!("verify says {code}: {}", said.trim()));
    }
    target.judge(dest).map_err(|wrong| format!("THE BACKUP IS WRONG: {wrong}"))
}

/// What a backup to `dest` may have left beside it.
fn staging(dest: &Path) -> Vec<PathBuf> {
    let start = format!(".{}.", dest.file_name().expect("a name").to_string_lossy());
    let entries = fs::read_dir(dest.parent().expect("a parent")).expect("readable").flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&start)).map(|entry| entry.path()).collect()
}

fn clean(dest: &Path) {
    for path in staging(dest).into_iter().chain([dest.to_owned()]).filter(|path| path.exists()) {
        fs::remove_dir_all(path).expect("what a backup left can be removed");
    }
}

/// A supervisor that was stopped for so long that another took over says so, and publishes nothing.
fn revoked(target: &dyn Target, plan: &Plan, struck: &Struck) -> Result<(), String> {
    let (Some(stopped), Some(ended)) = (struck.stopped, &struck.ended) else { return Ok(()) };
    // With the drain over everything is saved, and who answers no longer matters to the backup.
    let publishing = |phase: &&serde_json::Value| phase["phase"] == "publish";
    let phases = ended.last["phases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let publish = phases.iter().find(publishing).and_then(|phase| phase["start_ns"].as_u64());
    // It may be stopped just before it could say so, and says so as soon as it goes on.
    const AT_ONCE: u64 = 5_000_000;
    let resumed = struck.stopped_at + (stopped.1 - stopped.0) + AT_ONCE;
    let is_over = matches!(plan.kind.step(), Some("drain.released" | "handover.deaf" | "handover.kept"));
    if is_over || publish.is_some_and(|publish| publish < resumed) {
        return Ok(());
    }
    let waited = target.longest(&[], Some(stopped));
    let in_hold = plan.kind.step().is_some_and(|step| step.starts_with("hold") && step != "hold.over");
    let limit = if in_hold { REVOKED_HOLD } else { REVOKED };
    // Starved threads may get through now and then; and a stop that is over before the lease is none of the keeper's business.
    let sure = matches!(plan.kind, Kind::StopSupervisor | Kind::StopAt(_));
    if sure && waited.net > limit && ended.status.code() != Some(12) {
        return Err(format!(
            "a call waited {:?} while the supervisor was stopped, so another answered, but it was not revoked: {}",
            waited.net, waited.what
        ));
    }
    Ok(())
}

fn paired(pid: i32) -> Result<(), String> {
    if wait_until(PAIR, || keepers(pid).pair.is_some()) {
        return Ok(());
    }
    let all: Vec<_> = keepers(pid).all.into_iter().map(|keeper| (keeper, processes::state(keeper))).collect();
    Err(format!("no pair of keepers after {PAIR:?}, but {all:?}"))
}

/// All keepers may have been killed, and the supervisor with them.
fn bring_back(target: &mut dyn Target, plan: &Plan) -> Result<(), String> {
    let pid = target.pid();
    let began = Instant::now();
    loop {
        if let Some(said) = target.died() {
            return Err(said);
        }
        if processes::is_filtered(pid) {
            if plan.by_backup {
                let dest = target.scratch().join("back");
                undisturbed(target, &Plan::plain(), &dest)?;
                fs::remove_dir_all(&dest).expect("our own backup");
                return Ok(());
            }
            return match command(&["rescue", "--pid", &pid.to_string()])? {
                (0, _) => Ok(()),
                (code, said) => Err(format!("rescue says {code}: {}", said.trim())),
            };
        }
        // The filter may be on its way still: a thread that was redirected comes to it by itself.
        if goes_on(target, 20, Duration::from_millis(200)).is_ok() && !processes::is_filtered(pid) {
            return Ok(());
        }
        if began.elapsed() > STANDSTILL {
            return Err(format!("nothing brings the target back\n{}", processes::doing(pid)));
        }
    }
}

/// A backup that nothing happens to must succeed and be right, and stop no thread of a target that has a filter. On a machine
/// that stands still for longer than the lease of a hold it may be revoked; then the next one must succeed.
pub fn undisturbed(target: &mut dyn Target, plan: &Plan, dest: &Path) -> Result<Ended, String> {
    let filtered = processes::is_filtered(target.pid());
    let (began, mut revoked) = (Instant::now(), 0);
    let ended = loop {
        let ended = Supervisor::start(target, plan, dest, None).finish()?;
        match ended.last["kind"].as_str() {
            Some("busy") if began.elapsed() < BUSY => std::thread::sleep(Duration::from_millis(20)),
            Some("revoked") if revoked < 3 => revoked += 1,
            _ => break ended,
        }
    };
    if !ended.status.success() {
        return Err(format!("an undisturbed backup ended with {}: {}", ended.words(), ended.stderr.trim()));
    }
    // The first of several was the one to attach.
    if filtered && !ended.last["stop_us"].is_null() {
        return Err(format!("a thread was stopped for {} us though there was a filter", ended.last["stop_us"]));
    }
    right(target, dest)?;
    Ok(Ended { revoked, ..ended })
}
