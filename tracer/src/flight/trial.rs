//! Decoding on trial: any call, as if this very process had made it. For tests and for the fuzz target.

use std::sync::Mutex;

use hotbackup_event::Effect;

use super::inflight::{Call, InFlight, State};
use super::positions::{Found, Positions};
use super::unseen::Unseen;
use crate::calls::decode::{Decoder, Descriptors};
use crate::calls::resolve::Resolver;
use crate::calls::{Decode, Row};
use crate::sys::notify::CallData;
use crate::target::process::Process;

/// What decoders work with, for this process.
pub struct Trial {
    process: Process,
    inflight: InFlight,
    unseen: Mutex<Unseen>,
    descriptors: Descriptors,
    resolver: Resolver,
}

/// What a call was decoded to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// What it may change.
    pub effects: Vec<Effect>,
    /// Why it cannot be followed.
    pub blind: Option<String>,
    /// See [`Decoder`].
    pub moves_names: bool,
    /// See [`Decoder`].
    pub redirects: bool,
    /// See [`Decoder`].
    pub awaited: bool,
}

impl Default for Trial {
    fn default() -> Self {
        Self::new()
    }
}

impl Trial {
    /// For the calling thread, which gets a root and a working directory of its own.
    #[allow(clippy::missing_panics_doc)]
    pub fn new() -> Self {
        let process = Process::open(std::process::id() as i32).expect("this process is there");
        let resolver = Resolver::new(&process).expect("a thread may have a working directory of its own");
        let (inflight, unseen, descriptors) = (InFlight::default(), Mutex::default(), Descriptors::default());
        Self { process, inflight, unseen, descriptors, resolver }
    }

    /// What no decoded call explains of where the positions are; see `unseen.rs`.
    pub fn unexplained(&self) -> Vec<Effect> {
        let mut unseen = self.unseen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        unseen.look(&self.process, &self.inflight, crate::Look::Unexplained)
    }

    /// Another thread has a call that moves the position of a file, and that is held.
    pub fn another_is_held_at(&self, file: hotbackup_event::FileId) {
        const ANOTHER: i32 = 1;
        let serial = self.inflight.begin(ANOTHER, CallData::default());
        self.inflight.set_positions(ANOTHER, serial, file);
    }

    /// Decodes a call with these arguments. `unseen`: in a process whose writes of 8 bytes are not shown.
    pub fn decode(&mut self, row: &Row, args: [u64; 6], unseen: bool) -> Decoded {
        let tid = nix::unistd::gettid().as_raw();
        let data = CallData { nr: row.nr as i32, arch: 0xc000_003e, ip: 0, args };
        let (Decode::Descriptor(decode) | Decode::Path(decode)) = row.decode;
        let serial = self.inflight.begin(tid, data);
        let call = Call { tid, serial, state: State::Admitting, data, positions: None };
        let resolver = matches!(row.decode, Decode::Path(_)).then_some(&mut self.resolver);
        let mut decoder = Decoder::new(&self.process, tid, data, &mut self.descriptors, resolver);
        decode(&mut decoder);
        let Decoder { mut effects, blind, moves_names, redirects, awaited, on_descriptors, .. } = decoder;
        let positions = Positions {
            process: &self.process,
            inflight: &self.inflight,
            unseen: unseen.then_some(&self.unseen),
            call,
            go_by: false,
            found: Found::default(),
        };
        let found = positions.look(on_descriptors);
        effects.extend(found.effects);
        Decoded { effects, blind: blind.or(found.blind), moves_names, redirects, awaited: awaited || found.awaited }
    }
}
