//! A target made of the test's own threads: each operation is handed to the capture before it runs, as the tracer would.
#![allow(dead_code, missing_docs)]
#![forbid(unsafe_code)]

pub mod faulty;
pub mod model;
pub mod random;
pub mod volume;

use hotbackup_copier::io::Io;
use hotbackup_copier::{Backup, Capture, Control, Error, Monitor, Phase, Point, Quiesce, Report, Source, Spec, Tuning};
use hotbackup_event::{Effect, FileId};
use rustix::fs::{AtFlags, CWD, Statx, StatxFlags};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub const BLOCK: u64 = 64 << 10;

/// One call of the target, on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Call {
    /// The receiver has handed it over.
    handed: bool,
    let_go: bool,
}

/// The target: calls on their way.
#[derive(Default)]
pub struct Calls {
    state: Mutex<(u64, HashMap<u64, Call>)>,
    changed: Condvar,
}

/// Dropped, it lets a call go.
pub struct Permit {
    calls: Arc<Calls>,
    id: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.calls.change(self.id, |call| call.let_go = true);
    }
}

impl Calls {
    fn change(&self, id: u64, change: impl FnOnce(&mut Call)) {
        let mut state = self.state.lock().unwrap();
        if let Some(call) = state.1.get_mut(&id) {
            change(call);
        }
        self.changed.notify_all();
    }

    /// Waits until no call is under way that has not been answered.
    pub fn parked(&self) -> usize {
        self.state.lock().unwrap().1.values().filter(|call| call.handed && !call.let_go).count()
    }
}

impl Quiesce for Calls {
    fn grace(&self) -> Result<(), String> {
        let mut state = self.state.lock().unwrap();
        // Parked by now: not waited for. The rest has been received or let go.
        let waiting: Vec<u64> =
            state.1.iter().filter(|(_, call)| call.let_go || !call.handed).map(|(id, _)| *id).collect();
        let deadline = Instant::now() + Duration::from_secs(60);
        for id in waiting {
            loop {
                match state.1.get(&id) {
                    None => break,
                    // It was received before, and then parked.
                    Some(Call { handed: true, let_go: false }) => break,
                    Some(_) if Instant::now() > deadline => return Err("a call does not end".into()),
                    Some(_) => state = self.changed.wait_timeout(state, Duration::from_secs(1)).unwrap().0,
                }
            }
        }
        Ok(())
    }
}

/// Where operations go before they run.
#[derive(Clone)]
pub struct Target {
    pub calls: Arc<Calls>,
    pub capture: Arc<Capture<Permit>>,
}

impl Target {
    /// One call of the target. `effects` is what the receiver finds out before it hands the call over, `run` is the call
    /// itself.
    pub fn call<T>(&self, effects: impl FnOnce() -> Vec<Effect>, run: impl FnOnce() -> T) -> T {
        let id = {
            let mut state = self.calls.state.lock().unwrap();
            state.0 += 1;
            let id = state.0;
            state.1.insert(id, Call::default());
            id
        };
        let effects = effects();
        self.capture.admit(effects, Permit { calls: Arc::clone(&self.calls), id });
        self.calls.change(id, |call| call.handed = true);
        let mut state = self.calls.state.lock().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while !state.1[&id].let_go {
            assert!(Instant::now() < deadline, "a call is never let go");
            state = self.calls.changed.wait_timeout(state, Duration::from_secs(1)).unwrap().0;
        }
        drop(state);
        // Some calls dawdle between being let go and running: whoever relies on a call having run must wait for it.
        let lag = random::Random::new(id).below(2_000);
        if lag < 300 {
            let until = Instant::now() + Duration::from_micros(lag);
            while Instant::now() < until {
                std::thread::yield_now();
            }
        }
        let result = run();
        self.calls.state.lock().unwrap().1.remove(&id);
        self.calls.changed.notify_all();
        result
    }
}

pub fn id_of(path: impl AsRef<Path>) -> FileId {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    id(rustix::fs::statx(CWD, path.as_ref(), AtFlags::SYMLINK_NOFOLLOW, mask).unwrap())
}

fn id(s: Statx) -> FileId {
    let has_btime = StatxFlags::from_bits_retain(s.stx_mask).contains(StatxFlags::BTIME);
    let btime = s.stx_btime.tv_sec as u64 * 1_000_000_000 + u64::from(s.stx_btime.tv_nsec);
    FileId {
        dev: u64::from(s.stx_dev_major) << 32 | u64::from(s.stx_dev_minor),
        ino: s.stx_ino,
        btime_ns: if has_btime { btime } else { 0 },
    }
}

pub fn entry(path: impl AsRef<Path>) -> Effect {
    let path = path.as_ref();
    Effect::Entry { dir: id_of(path.parent().unwrap()), name: path.file_name().unwrap().to_owned() }
}

/// The operations of a target, each with the effects that the tracer would see.
impl Target {
    pub fn pwrite(&self, path: &Path, offset: u64, data: &[u8]) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let end = offset + data.len() as u64;
        self.call(
            || vec![Effect::Content { file: id_of(path), start: offset, end }],
            || file.write_all_at(data, offset).unwrap(),
        );
    }

    pub fn append(&self, path: &Path, data: &[u8]) {
        use std::io::Write;
        let mut file = std::fs::File::options().append(true).open(path).unwrap();
        self.call(
            || vec![Effect::Append { file: id_of(path), size: std::fs::metadata(path).unwrap().len() }],
            || file.write_all(data).unwrap(),
        );
    }

    pub fn truncate(&self, path: &Path, len: u64) {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        self.call(|| vec![Effect::Resize { file: id_of(path), len }], || file.set_len(len).unwrap());
    }

    pub fn punch(&self, path: &Path, start: u64, end: u64) {
        use rustix::fs::FallocateFlags;
        let file = std::fs::File::options().write(true).open(path).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.call(
            || vec![Effect::Content { file: id_of(path), start, end }],
            || rustix::fs::fallocate(&file, flags, start, end - start).unwrap(),
        );
    }

    pub fn create(&self, path: &Path) {
        let mut options = std::fs::File::options();
        options.write(true).create(true).truncate(true);
        self.call(
            || {
                let cut = path.exists().then(|| Effect::Resize { file: id_of(path), len: 0 });
                [entry(path)].into_iter().chain(cut).collect()
            },
            || drop(options.open(path).unwrap()),
        );
    }

    pub fn rename(&self, from: &Path, to: &Path) {
        self.call(|| vec![entry(from), entry(to)], || std::fs::rename(from, to).unwrap());
    }

    pub fn unlink(&self, path: &Path) {
        self.call(|| vec![entry(path)], || std::fs::remove_file(path).unwrap());
    }

    pub fn link(&self, from: &Path, to: &Path) {
        self.call(|| vec![Effect::Metadata { file: id_of(from) }, entry(to)], || std::fs::hard_link(from, to).unwrap());
    }

    pub fn symlink(&self, text: &Path, path: &Path) {
        self.call(|| vec![entry(path)], || std::os::unix::fs::symlink(text, path).unwrap());
    }

    pub fn mkdir(&self, path: &Path) {
        self.call(|| vec![entry(path)], || std::fs::create_dir(path).unwrap());
    }

    pub fn rmdir(&self, path: &Path) {
        self.call(|| vec![entry(path)], || std::fs::remove_dir(path).unwrap());
    }

    pub fn chmod(&self, path: &Path, mode: u32) {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(mode);
        self.call(
            || vec![Effect::Metadata { file: id_of(path) }],
            || std::fs::set_permissions(path, permissions).unwrap(),
        );
    }
}

/// A source, a place for the backup, and what is needed to take one.
pub struct Bench {
    pub dir: tempfile::TempDir,
    pub source: PathBuf,
    pub dest: PathBuf,
    pub tuning: Tuning,
    pub exclude: Vec<String>,
}

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (source, dest) = (dir.path().join("source"), dir.path().join("dest"));
        std::fs::create_dir(&source).unwrap();
        Self { dir, source, dest, tuning: Tuning::default(), exclude: Vec::new() }
    }

    pub fn spec(&self, point: Point) -> Spec {
        Spec {
            sources: vec![source(&self.source, None)],
            dest: self.dest.clone(),
            point,
            exclude: self.exclude.clone(),
            tuning: self.tuning.clone(),
            pid: std::process::id() as i32,
            root: None,
        }
    }

    pub fn prepare(&self, point: Point) -> (Backup<Permit>, Target) {
        target_of(Backup::prepare(self.spec(point)).unwrap())
    }

    /// The same, with a destination (and source) of its own kind.
    pub fn prepare_with(&self, point: Point, io: &Arc<impl Io + 'static>) -> (Backup<Permit>, Target) {
        target_of(Backup::prepare_with(self.spec(point), io.clone()).unwrap())
    }

    /// Takes a backup of a source that nobody changes.
    pub fn back_up(&self, point: Point) -> Result<Report, Error> {
        let (backup, target) = target_of(Backup::prepare(self.spec(point))?);
        backup.run(&*target.calls, &Quiet, &Control::default())
    }

    /// Nothing is left beside the source and the backup.
    pub fn assert_nothing_staged(&self) {
        let left: Vec<_> = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("partial")), "{left:?}");
    }
}

pub fn target_of(backup: Backup<Permit>) -> (Backup<Permit>, Target) {
    let target = Target { calls: Arc::default(), capture: backup.capture() };
    (backup, target)
}

pub fn source(path: &Path, name: Option<&str>) -> Source {
    let root = std::fs::File::open(path).unwrap().into();
    Source { root, path: path.to_owned(), name: name.map(Into::into) }
}

/// Does something when a phase begins for the first time. Operations of a target done here come at a known moment: in `Track`, before
/// the sources are walked; in `Hold`, after the last pass; in `Drain`, after the point in time; in `Publish`, after all.
pub struct AtPhase<F: Fn(Phase) + Sync> {
    act: F,
    seen: Mutex<HashSet<Phase>>,
}

impl<F: Fn(Phase) + Sync> AtPhase<F> {
    pub fn new(act: F) -> Self {
        Self { act, seen: Mutex::default() }
    }
}

impl<F: Fn(Phase) + Sync> Monitor for AtPhase<F> {
    fn phase(&self, phase: Phase) {
        // On a busy machine a hold may be given up, and come again.
        if self.seen.lock().unwrap().insert(phase) {
            (self.act)(phase);
        }
    }
}

/// Does something whenever a phase begins.
pub struct AtEveryPhase<F: Fn(Phase) + Sync>(pub F);

impl<F: Fn(Phase) + Sync> Monitor for AtEveryPhase<F> {
    fn phase(&self, phase: Phase) {
        (self.0)(phase);
    }
}

/// Tells nobody.
pub struct Quiet;
impl Monitor for Quiet {}

/// Bytes that say where they belong.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = random::Random::new(seed);
    let mut data: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    data.truncate(len);
    data
}

/// Waits until something is so; fails when it takes too long.
pub fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !ready() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::yield_now();
    }
}
