//! One hold, as those see it who look at the source in it: it lasts for a lease at most, and is cut after that.
//!
//! How a cut meets the fixing of the point in time is told in `gate::capture`.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// One hold. Clones are the same hold.
#[derive(Debug, Clone)]
pub(crate) struct Hold(Arc<HoldState>);

#[derive(Debug)]
struct HoldState {
    cut: AtomicBool,
    ends: u64,
}

impl Hold {
    /// A hold that is on, and whose lease ends then, by the clock of whoever cuts it.
    pub fn new(ends: u64) -> Self {
        Self(Arc::new(HoldState { cut: AtomicBool::new(false), ends }))
    }

    /// When its lease ends.
    pub fn ends(&self) -> u64 {
        self.0.ends
    }

    /// Ends it because its lease is over. Must come before the first of its calls goes on.
    pub fn cut(&self) {
        self.0.cut.store(true, Ordering::SeqCst);
    }

    /// Whether it was ended because its lease was over. Once `true`, its calls may be running.
    pub fn is_cut(&self) -> bool {
        self.0.cut.load(Ordering::SeqCst)
    }
}
