//! The replay of names against the real tree: random calls on a real directory, marked before they run and run in any order
//! that the tracer admits, with looks in between. In a hold, the model must be what a walk of the directory finds.
use super::{Entry, Look, Tree};
use crate::Capture;
use crate::base::sys::{self, Kind, Stat};
use crate::marks::blockmap::BLOCK;
use crate::marks::ledger::{Ledger, Taken};
use crate::marks::node::{File as Known, Node, OpenError};
use crate::{Point, Source, Spec, Tuning};
use calls::{Call, Op};
use hotbackup_event::FileId;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod calls;

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    /// A call is received, marked and let go.
    Receive(Op),
    /// One that was let go runs.
    Run(usize),
    /// A sync begins: marks are taken, and the due blocks if this is a pass.
    Take { blocks: bool },
    /// The grace of that sync, and its look. These calls run first, in this order as far as it reaches.
    Look(Vec<usize>),
    /// A hold that is given up at once.
    Hold,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => calls::op().prop_map(Step::Receive),
        4 => any::<usize>().prop_map(Step::Run),
        1 => any::<bool>().prop_map(|blocks| Step::Take { blocks }),
        1 => prop::collection::vec(any::<usize>(), 0..4).prop_map(Step::Look),
        1 => Just(Step::Hold),
    ]
}

/// A backup that only tracks.
struct Bench {
    top: PathBuf,
    ledger: Arc<Ledger>,
    capture: Capture<()>,
    tree: Tree,
    /// Let go, and not run.
    pending: Vec<Call>,
    received: usize,
    /// A sync that has begun: the marks, the files with blocks taken, and how many calls had been received.
    sync: Option<(Taken, Vec<Arc<Known>>, usize)>,
    copied: HashMap<u64, Vec<u8>>,
    /// Every directory that was ever known.
    dirs: HashSet<FileId>,
}

impl Bench {
    fn new(top: &Path) -> Self {
        let root = std::fs::File::open(top).unwrap().into();
        let sources = vec![Source { root, path: top.to_owned(), name: None }];
        let tuning = Tuning { hold_lease: Duration::from_secs(3600), ..Tuning::default() };
        let (dest, exclude) = ("/nowhere".into(), Vec::new());
        let ledger = Arc::new(Ledger::default());
        let capture = Capture::new(Arc::clone(&ledger), &tuning);
        let spec = Spec { sources, dest, point: Point::End, exclude, tuning, pid: 0, root: None };
        let staging = FileId { dev: 0, ino: 0, btime_ns: 0 };
        let tree = Tree::new(Arc::clone(&ledger), spec, staging).unwrap();
        let (pending, copied, dirs) = (Vec::new(), HashMap::new(), HashSet::new());
        Self { top: top.to_owned(), ledger, capture, tree, pending, received: 0, sync: None, copied, dirs }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Receive(op) => self.receive(op),
            Step::Run(_) if self.pending.is_empty() => {}
            Step::Run(which) => self.run(which % self.pending.len()),
            Step::Take { blocks } if self.sync.is_none() => self.take(blocks),
            Step::Take { .. } => {}
            Step::Look(order) => self.look(order),
            Step::Hold => self.hold_given_up(),
        }
    }

    /// As the thread for calls by path does: each waits for earlier ones that move names, and one that leads paths
    /// elsewhere for all of them.
    fn receive(&mut self, op: Op) {
        if op.is_by_path() {
            self.run_all(|call| call.moves_names);
        }
        let call = Call::received(op, &self.top, self.received);
        if call.redirects {
            self.run_all(|call| call.op.is_by_path());
        }
        self.received += 1;
        for effect in &call.effects {
            self.ledger.mark(effect);
        }
        self.pending.push(call);
    }

    fn run(&mut self, which: usize) {
        self.pending.remove(which).run(&self.top);
    }

    fn run_all(&mut self, wanted: impl Fn(&Call) -> bool) {
        while let Some(which) = self.pending.iter().position(&wanted) {
            self.run(which);
        }
    }

    fn take(&mut self, blocks: bool) {
        let taken = self.ledger.take();
        let mut files = if blocks { self.ledger.files() } else { Vec::new() };
        files.retain(|file| file.state().map.take() > 0);
        self.sync = Some((taken, files, self.received));
    }

    fn look(&mut self, order: Vec<usize>) {
        let Some((taken, files, received)) = self.sync.take() else { return };
        for which in order {
            if !self.pending.is_empty() {
                self.run(which % self.pending.len());
            }
        }
        self.run_all(|call| call.number < received);
        self.ledger.grace_done();
        self.tree.resolve(taken, Look::default()).unwrap();
        self.dirs.extend(self.tree.dirs.keys());
        for file in files {
            self.copy(&file);
        }
    }

    /// What a pass does with a file whose blocks were taken.
    fn copy(&mut self, file: &Arc<Known>) {
        match file.open() {
            Ok(opened) => {
                let mut state = file.state();
                let mut content = vec![0; opened.size as usize];
                let source = std::fs::File::from(opened.fd);
                let read = source.read_at(&mut content, 0).unwrap();
                assert_eq!(read, content.len());
                let copied = self.copied.entry(file.number).or_default();
                copied.resize(state.map.size() as usize, 0);
                let all = state.map.touched(0, u64::MAX);
                while let Some(run) = state.map.busy_run(all.clone(), 1) {
                    let start = (run.start * BLOCK) as usize;
                    let end = copied.len().min((run.end * BLOCK) as usize);
                    copied[start..end].fill(0);
                    let end_of_source = end.min(content.len()).max(start);
                    if start < content.len() {
                        copied[start..end_of_source].copy_from_slice(&content[start..end_of_source]);
                    }
                    self.ledger.add_lacking(-(state.map.done(run) as i64));
                }
            }
            Err(OpenError::Moved) => file.state().map.put_back(),
            Err(OpenError::Io(error)) => panic!("{error}"),
        }
    }

    /// A hold with no time to look at everything.
    fn hold_given_up(&mut self) {
        if self.sync.is_some() {
            return;
        }
        let hold = self.capture.park().unwrap();
        self.run_all(|_| true);
        self.ledger.grace_done();
        let taken = self.ledger.take();
        let look = Look { hold: Some(&hold), deadline: Some(Instant::now()) };
        self.tree.resolve(taken, look).unwrap();
        self.capture.unpark(&hold).unwrap();
    }

    /// The hold that stands: from here on nothing moves.
    fn hold(&mut self) {
        if self.sync.is_none() {
            self.take(false);
        }
        self.look(Vec::new());
        let hold = self.capture.park().unwrap();
        self.run_all(|_| true);
        self.ledger.grace_done();
        let taken = self.ledger.take();
        assert!(self.tree.resolve(taken, Look { hold: Some(&hold), deadline: None }).unwrap());
    }

    /// The model is what is there: walked by names, and every name looked at.
    fn compare(&self) {
        let mut names = HashMap::new();
        let mut dirs = HashSet::new();
        let mut count = 0;
        self.compare_dir(&self.top, &mut dirs, &mut names, &mut count);
        assert_eq!(self.tree.entries, count);
        let known: HashSet<FileId> = self.tree.dirs.keys().copied().collect();
        assert_eq!(known, dirs, "directories");
        for gone in self.dirs.difference(&dirs) {
            assert!(!matches!(self.ledger.get(gone), Some(Node::Dir(_))), "{gone:?} is not forgotten");
        }
        let files = self.ledger.files();
        assert_eq!(files.len(), files.iter().map(|file| file.id).filter(|id| names.contains_key(id)).count(), "files");
        for file in &files {
            assert_eq!(file.state().links.len(), names[&file.id], "links of {:?}", file.path());
        }
        let due: u64 = files.iter().map(|file| file.state().map.due()).sum();
        assert_eq!(self.ledger.lacking_bytes(), due * BLOCK);
    }

    fn compare_dir(
        &self,
        path: &Path,
        dirs: &mut HashSet<FileId>,
        names: &mut HashMap<FileId, usize>,
        count: &mut u64,
    ) {
        let dir = std::fs::File::open(path).unwrap();
        let found = sys::stat_fd(&dir).unwrap();
        let node = self.tree.dir(&found.id).unwrap_or_else(|| panic!("{path:?} is not known"));
        assert_eq!(lasting(node.dir.state().stat), lasting(found.stat), "{path:?}");
        dirs.insert(found.id);
        let mut there = sys::names(&dir).unwrap();
        there.sort();
        let here: Vec<_> = node.entries.keys().map(|name| name.to_os_string()).collect();
        assert_eq!(here, there, "{path:?}");
        *count += here.len() as u64;
        for (name, entry) in &node.entries {
            let (path, found) = (path.join(&**name), sys::stat_at(&dir, name).unwrap());
            match (entry, found.stat.kind()) {
                (Entry::Dir(id), Kind::Dir) if *id == found.id => self.compare_dir(&path, dirs, names, count),
                (Entry::File(file), Kind::File) if file.id == found.id => {
                    assert_eq!(lasting(file.state().stat), lasting(found.stat), "{path:?}");
                    *names.entry(found.id).or_default() += 1;
                    self.compare_content(&path, file);
                }
                (Entry::Other(other), Kind::Symlink | Kind::Fifo) if other.id == found.id => {
                    assert_eq!(lasting(other.stat), lasting(found.stat), "{path:?}");
                    let text = other.link.as_ref().map(|(text, _)| PathBuf::from(text));
                    assert_eq!(text, std::fs::read_link(&path).ok(), "{path:?}");
                }
                (entry, kind) => panic!("{path:?} is a {kind:?}, not {entry:?}"),
            }
        }
    }

    /// What is not due is what was copied.
    fn compare_content(&self, path: &Path, file: &Known) {
        let content = std::fs::read(path).unwrap();
        let state = file.state();
        assert_eq!(state.map.size(), content.len() as u64);
        let none = Vec::new();
        let copied = self.copied.get(&file.number).unwrap_or(&none);
        for (block, bytes) in content.chunks(BLOCK as usize).enumerate() {
            let start = block * BLOCK as usize;
            let due = state.map.is_open(block as u64..block as u64 + 1);
            let same = copied.get(start..start + bytes.len()) == Some(bytes);
            assert!(due || same, "block {block} of {path:?} is neither due nor copied");
        }
    }
}

/// Looking changes the access time.
fn lasting(stat: Stat) -> Stat {
    Stat { atime: Default::default(), ..stat }
}

/// More than usual, unless the environment says how many.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_called_in_whatever_order_the_model_is_the_tree(
        before in prop::collection::vec(calls::op(), 0..12),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("source");
        std::fs::create_dir(&top).unwrap();
        for op in before {
            Call::received(op, &top, 0).run(&top);
        }
        let mut bench = Bench::new(&top);
        // The walk. Calls may be under way from here on.
        bench.tree.resolve(Taken::default(), Look::default()).unwrap();
        for step in steps {
            bench.step(step);
        }
        bench.hold();
        bench.compare();
    }
}
