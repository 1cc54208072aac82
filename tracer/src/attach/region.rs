//! The region in the target from which the filter lets captured calls pass, and the board that its code works on (`hot/`).
//!
//! A jump of five bytes reaches 2 GiB either way. So the region lies near the C library, where nearly all such calls come from; in a
//! static program near its own code, and below it, since the heap grows above. It is mapped to be executed and never to be written
//! to by the target; we write there as a debugger does. Where that may not be (SELinux, PaX), there is no region, and
//! every call is notified as ever.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::Ordering;

use super::Place;
use crate::error::Error;
use crate::ptracer::client::Ptracer;
use crate::ptracer::payload::{Call, PENDING, Value};
use crate::shared::board::{Board, REGION_BYTES};
use crate::shared::memory::{BOARD_AT, Memory};
use crate::target::maps::{Mapping, parse_mapping};
use crate::target::process::Process;

/// How far a jump reaches, less what lies between a site and its library's ends.
const REACH: u64 = (1 << 31) - (64 << 20);
/// Left free around it.
const GUARD: u64 = 64 << 10;
/// Above what may grow, such as the heap.
const ABOVE: u64 = 16 << 20;
/// Within so much it lies by chance.
const CHANCE: u64 = 256 << 20;
/// Lower addresses cannot be mapped (`vm.mmap_min_addr`).
const LOWEST: u64 = 64 << 10;
const WORD: u32 = 4096;

impl Place<'_> {
    /// Has a thread of the target map both. Without room, or where it may not, there is none, and that is no error.
    ///
    /// # Errors
    /// As [`Place::map`].
    pub fn make_region(&mut self, ptracer: &mut Ptracer, memory: &Memory, number: i32) -> Result<(), Error> {
        if has_limited_memory(self.process) || is_not_random(self.process) {
            tracing::info!(
                "calls are not captured at their sites: memory is limited, locked or not laid out by chance"
            );
            return Ok(());
        }
        let Some(region) = near_the_sites(self.process) else { return Ok(()) };
        // Where the filter will stand.
        let [board, own, wiped, made] = [0, 8, 16, 24].map(|at| self.page.header() + at);
        self.write(&[PENDING; 4].map(u64::to_ne_bytes).concat(), board)?;
        let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let fixed = anonymous | libc::MAP_FIXED_NOREPLACE as u64;
        let read_write = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let execute = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let (nowhere, shared) = (u64::MAX, libc::MAP_SHARED as u64);
        let wipe = libc::MADV_WIPEONFORK as u64;
        // The region first: what the kernel places itself may come to lie there.
        let calls = vec![
            Call::new(libc::SYS_mmap, [region, REGION_BYTES, execute, fixed, nowhere, 0]).into(made),
            Call::new(libc::SYS_mmap, [0, size_of::<Board>() as u64, read_write, shared, number as u64, BOARD_AT])
                .into(board),
            Call::new(libc::SYS_mmap, [0, u64::from(WORD), read_write, anonymous, nowhere, 0]).into(own),
            // A core file would bring in all of it.
            Call::of(libc::SYS_madvise, Value::At(board), [size_of::<Board>() as u64, libc::MADV_DONTDUMP as u64]),
            Call::of(libc::SYS_madvise, Value::At(own), [u64::from(WORD), wipe]).into(wiped),
        ];
        self.run_once(ptracer, "mmap", calls, wiped).map_err(|not| not.error)?;
        let at = |word| self.word(word).map(u64::cast_signed);
        let [board, own, wiped, made] = [at(board)?, at(own)?, at(wiped)?, at(made)?];
        if board <= 0 || own <= 0 || wiped != 0 || made != region.cast_signed() {
            tracing::info!(board, own, wiped, made, "calls are not captured at their sites: no room for the code");
            return Ok(());
        }
        self.write(&1u64.to_ne_bytes(), own as u64)?;
        memory.board.store(board as u64, Ordering::SeqCst);
        memory.own.store(own as u64, Ordering::SeqCst);
        memory.region.store(region, Ordering::SeqCst);
        Ok(())
    }
}

/// Why there would be no region in a process, as far as that can be told from outside.
pub(crate) fn obstacle(process: &Process) -> Option<&'static str> {
    if has_limited_memory(process) {
        return Some("its address space is limited, or memory of it locked");
    }
    if is_not_random(process) {
        return Some("its addresses are not laid out by chance");
    }
    near_the_sites(process).is_none().then_some("there is no room near its code")
}

/// Aligned to its length, so that the upper half of an address tells as much everywhere in it: the filter compares halves.
fn aligned(place: u64) -> u64 {
    place & !(REGION_BYTES - 1)
}

/// Whether address space is limited, or what is mapped is locked: the board would take from what the program has.
fn has_limited_memory(process: &Process) -> bool {
    let limits = process.read_file("limits").unwrap_or_default();
    let space = limits.lines().find_map(|line| line.strip_prefix("Max address space")?.split_whitespace().next());
    let locked = process.status_field(process.pid(), "VmLck");
    space != Some("unlimited") || locked.is_none_or(|locked| !locked.starts_with("0 "))
}

/// Whether addresses are the same in each program that it executes: the filter stays, and what lies at the region's place then would
/// pass.
fn is_not_random(process: &Process) -> bool {
    const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;
    let never = std::fs::read_to_string("/proc/sys/kernel/randomize_va_space").is_ok_and(|how| how.trim() == "0");
    let personality = process.read_file("personality").ok().filter(|_| !never);
    let personality = personality.and_then(|text| u32::from_str_radix(text.trim(), 16).ok());
    personality.is_none_or(|flags| flags & ADDR_NO_RANDOMIZE != 0)
}

/// A free place for the region within reach of the C library, or of the program itself where there is none.
fn near_the_sites(process: &Process) -> Option<u64> {
    let maps = process.read_file("maps").ok()?;
    let all: Vec<Mapping<'_>> = maps.lines().filter_map(parse_mapping).collect();
    let is_code = |mapping: &&Mapping<'_>| mapping.permissions == "r-xp" && mapping.inode != 0;
    let is_library = |mapping: &Mapping<'_>| {
        let name = mapping.path.rsplit('/').next().unwrap_or_default();
        ["libc.so", "libc-2", "ld-musl-", "libc.musl-"].iter().any(|library| name.starts_with(library))
    };
    let code = || all.iter().filter(is_code);
    let near = code().find(|mapping| is_library(mapping)).or_else(|| code().next())?;
    let ends = std::iter::once(LOWEST).chain(all.iter().map(|mapping| mapping.end));
    let starts = all.iter().map(|mapping| (mapping.start, mapping.path));
    let holes = ends.zip(starts).filter(|(end, (start, _))| *start >= end + 2 * REGION_BYTES + 2 * GUARD);
    // At the upper end of a hole below the code, else some way above.
    let places = holes.filter_map(|(end, (start, path))| {
        if start <= near.start {
            // By chance, for the same reason.
            let room = (start - end - 2 * GUARD - 2 * REGION_BYTES).min(CHANCE) / REGION_BYTES;
            let chance = RandomState::new().build_hasher().finish() % (room + 1);
            Some(aligned(start - GUARD - REGION_BYTES * (chance + 1)))
        } else {
            // A program's heap grows there.
            if !is_library(near) {
                return None;
            }
            let place = aligned(end + ABOVE);
            let is_stack = path.starts_with("[stack");
            let last = if is_stack { start.saturating_sub(1 << 30) } else { start - GUARD };
            (place + REGION_BYTES <= last).then_some(place)
        }
    });
    let distance = |place: &u64| if *place < near.start { near.end - place } else { place + REGION_BYTES - near.start };
    places.filter(|place| distance(place) < REACH).min_by_key(|place| (*place > near.start, distance(place)))
}
