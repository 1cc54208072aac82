//! One backup, from start to end.
use crate::base::io::{Direct, Io};
use crate::context::Context;
use crate::drain::saver::{FailOnPanic, Room, Saver};
use crate::hold::Held;
use crate::marks::ledger::Ledger;
use crate::passes::track::Tracker;
use crate::passes::{copy::Copier, hash};
use crate::publish::{Publisher, place};
use crate::stage::Stage;
use crate::tree::Tree;
use crate::{
    BeforeImages, Capture, Control, Error, Monitor, Phase, Placing, Point, Quiesce, Report, Spec, Special, Tuning,
};
use crate::{base::sys, drain};
use crossbeam::channel::{Receiver, unbounded};
use hotbackup_event::failpoint::hit;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A backup that is prepared. Dropped without being run, or when it fails, it lets the target go and leaves nothing.
pub struct Backup<P: Send + 'static> {
    // In this order: the target is let go before anything is removed.
    gate: LetGo<P>,
    tree: Tree,
    stage: Stage,
    point: Point,
    tuning: Tuning,
    pid: i32,
    unseen_calls: Vec<String>,
}

struct LetGo<P: Send + 'static>(Arc<Capture<P>>);

impl<P: Send + 'static> std::fmt::Debug for Backup<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backup").field("stage", &self.stage).field("point", &self.point).finish_non_exhaustive()
    }
}

impl<P: Send + 'static> Drop for LetGo<P> {
    fn drop(&mut self) {
        self.0.let_go();
    }
}

impl<P: Send + 'static> Backup<P> {
    /// Checks sources and destination, and creates the staging directory beside the destination; nothing else.
    pub fn prepare(spec: Spec) -> Result<Self, Error> {
        Self::prepare_with(spec, Arc::new(Direct))
    }

    /// Like [`Backup::prepare`], with other operations to move data. For tests.
    pub fn prepare_with(spec: Spec, io: Arc<dyn Io>) -> Result<Self, Error> {
        Self::prepare_placed(spec, &Placing::default(), io)
    }

    /// Like [`Backup::prepare_with`], placed in another way.
    pub fn prepare_placed(spec: Spec, placing: &Placing, io: Arc<dyn Io>) -> Result<Self, Error> {
        sys::raise_open_files();
        let (point, tuning, pid) = (spec.point, spec.tuning.clone(), spec.pid);
        let stage = Stage::prepare(&spec, placing, io)?;
        let ledger = Arc::new(Ledger::default());
        let tree = Tree::new(Arc::clone(&ledger), spec, stage.id()?)?.placed(placing);
        Ok(Self {
            gate: LetGo(Arc::new(Capture::new(ledger, &tuning))),
            tree,
            stage,
            point,
            tuning,
            pid,
            unseen_calls: Vec::new(),
        })
    }

    /// Where to deliver the target's calls, from before [`Backup::run`] on.
    pub fn capture(&self) -> Arc<Capture<P>> {
        Arc::clone(&self.gate.0)
    }

    /// These calls of the target are not delivered, though they can change files, and its operator knows: the backup is to say so.
    pub fn note_unseen_calls(&mut self, calls: &[String]) {
        self.unseen_calls = calls.to_vec();
    }

    /// Takes the backup. When this is called, every call that may change the sources is being delivered to
    /// [`Backup::capture`], and every one that is not has finished. Returns when the backup is complete and durable, or
    /// with an error once the target was let go and the staging directory was removed.
    pub fn run(self, quiesce: &dyn Quiesce, monitor: &dyn Monitor, control: &Control) -> Result<Report, Error> {
        let Self { gate, tree, mut stage, point, tuning, pid, unseen_calls } = self;
        let capture = &gate.0;
        // At once, even while this thread waits for a destination that stands still.
        let gone = Arc::downgrade(capture);
        control.on_cancel(move || {
            if let Some(capture) = gone.upgrade() {
                capture.fail(Error::Cancelled);
            }
        });
        let mut report = {
            let context = Context::new(capture, &stage, quiesce, monitor, control, (&tuning, pid));
            let (held, passes) = copy(&context, tree, point)?;
            let report = Report {
                dest: stage.dest.clone(),
                point,
                point_in_time_ns: held.time_ns,
                hold_us: held.hold_us,
                hold: held.times,
                passes,
                bytes_copied: stage.written.load(Ordering::Relaxed),
                bytes_total: 0,
                files: 0,
                directories: 0,
                before_images: BeforeImages {
                    count: context.images.count.load(Ordering::Relaxed),
                    bytes: context.images.bytes.load(Ordering::Relaxed),
                },
                mapped: held.mapped,
                special: Special::default(),
                excluded: 0,
                max_wait_us: context.images.longest_us.load(Ordering::Relaxed),
                unseen_calls,
                not_kept: Vec::new(),
                phases: Vec::new(),
            };
            context.phase(Phase::Publish);
            Publisher::new(&context, &held.tree).publish(report)?
        };
        monitor.completing();
        if control.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match stage.is_inside() {
            true => place::publish(&mut stage)?,
            false => stage.publish()?,
        }
        // The last moment of the last phase is when the backup has its name.
        if let Some(last) = report.phases.last_mut() {
            last.duration_us = (sys::now_ns().saturating_sub(last.start_ns)) / 1000;
        }
        monitor.phase(Phase::Done);
        Ok(report)
    }
}

/// Copies everything to one point in time. When this returns, the target has been let go.
fn copy<P: Send + 'static>(context: &Context<'_, P>, tree: Tree, point: Point) -> Result<(Held, u32), Error> {
    let capture: &Capture<P> = &context.capture;
    let room = Room::new(context.tuning.before_image_bytes);
    let saver = Saver::new(context, capture, &room);
    std::thread::scope(|scope| {
        // A panic or an error below must let the target go before the scope waits for its threads.
        let _guard = FailOnPanic(capture);
        let (jobs, waiting) = unbounded();
        let (images, saved) = unbounded();
        let mut threads = Vec::new();
        for _ in 0..context.tuning.before_image_threads.max(1) {
            let (waiting, images): (Receiver<_>, _) = (waiting.clone(), images.clone());
            threads.push(scope.spawn(move || saver.save_all(waiting, images)));
        }
        threads.push(scope.spawn(move || saver.write_all(saved)));
        let (lane, hasher) = hash::lane();
        threads.push(scope.spawn(move || {
            let _guard = FailOnPanic(capture);
            hasher.run();
        }));
        drop(waiting);
        let result = (move || {
            let mut copier = Copier::new(lane);
            let mut tracker = Tracker { context, tree };
            context.phase(Phase::Track);
            let passes = tracker.track(&mut copier, point)?;
            let held = tracker.hold(jobs, saver, images)?;
            context.phase(Phase::Drain);
            drain::save_rest(context, &mut copier, &held.tree)?;
            hit("drain.complete");
            capture.release()?;
            context.monitor.released();
            hit("drain.released");
            Ok((held, passes))
        })();
        if let Err(error) = result {
            // The first failure counts, wherever it was; if it was elsewhere, this one only follows from it.
            capture.fail(error);
            return Err(context.ledger.failure().unwrap_or(Error::LetGo));
        }
        for thread in threads {
            // A panic has made the backup fail by itself.
            let _ = thread.join();
        }
        match context.ledger.failure() {
            Some(error) => Err(error),
            None => result,
        }
    })
}
