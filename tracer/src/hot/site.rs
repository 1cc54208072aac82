//! Patching a call site.
//!
//! Of `mov eax, nr; syscall` only the five bytes of the `mov` become a jump; the `syscall` stays. So a thread that stands between
//! the two, or whose interrupted call is begun again there, finds it and is notified as ever. The page is not written to but
//! replaced: an anonymous copy with the change, made executable, is moved over the old one by an injected line. Page tables
//! change at once for all threads, and a processor that is interrupted for it fetches anew; no thread is stopped for it but the one
//! that runs the line, for an instant. A thread that comes to the page in between waits in the fault until the move is done.
//!
//! Left alone: a site of another form, one across two pages, one out of reach, one whose page changes while this goes on, and one in
//! the page where our own lines run.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hotbackup_event::failpoint::hit;
use nix::fcntl::OFlag;

use crate::ptracer::client::Ptracer;
use crate::ptracer::payload::{Call, PENDING};
use crate::ptracer::site::find_padding;
use crate::shared::board::{Board, REGION_BYTES, STUB_BYTES};
use crate::sys::trampoline::{ENTRY, Kind, WORDS, Words, stub};
use crate::target::maps::parse_mapping;
use crate::target::process::Process;

const PAGE: u64 = 4096;
/// `mov eax, imm32; syscall`.
const SITE: u64 = 7;
const MOV: u64 = 5;
/// Where results go, in the page of the word that a forked child finds zero.
const RESULTS: u64 = 64;
/// How long a thread may take for a line.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest line of code here, amply.
const LINE: usize = 320;

/// Where things are in the target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places {
    pub region: u64,
    pub board: u64,
    pub own: u64,
}

/// The addresses behind the sites that are patched already.
pub(super) fn patched(process: &Process, places: &Places) -> Vec<u64> {
    let Ok(memory) = process.open_file("mem", OFlag::O_RDONLY).map(File::from) else { return Vec::new() };
    let behind = |index: u64| {
        let place = places.region + index * STUB_BYTES;
        let mut word = [0; 8];
        memory.read_exact_at(&mut word, place + WORDS as u64 + std::mem::offset_of!(Words, resume) as u64).ok()?;
        let resume = u64::from_ne_bytes(word);
        let mut site = [0; SITE as usize];
        memory.read_exact_at(&mut site, resume.checked_sub(SITE)?).ok()?;
        (site == jump(resume - SITE, place)?).then_some(resume)
    };
    (0..REGION_BYTES / STUB_BYTES).filter_map(behind).collect()
}

/// A site that jumps to the stub at `place`.
fn jump(site: u64, place: u64) -> Option<[u8; SITE as usize]> {
    let distance = i32::try_from((place + ENTRY).wrapping_sub(site + MOV).cast_signed()).ok()?;
    let [a, b, c, d] = distance.to_le_bytes();
    Some([0xe9, a, b, c, d, 0x0f, 0x05])
}

/// Patches the site of call `nr` that ends at `ip`.
///
/// # Errors
/// Why it stays as it is.
pub(super) fn patch(
    process: &Process,
    ptracer: &Mutex<Ptracer>,
    places: &Places,
    ip: u64,
    nr: i64,
) -> Result<(), &'static str> {
    let memory = process.open_file("mem", OFlag::O_RDWR).map(File::from).map_err(|_| "its memory cannot be reached")?;
    let site = ip.checked_sub(SITE).ok_or("it is of another form")?;
    let page = site & !(PAGE - 1);
    if site % PAGE > PAGE - SITE {
        return Err("it lies across two pages");
    }
    let mut found = [0; SITE as usize];
    memory.read_exact_at(&mut found, site).map_err(|_| "its memory cannot be read")?;
    let [a, b, c, d] = (nr as u32).to_le_bytes();
    if found != [0xb8, a, b, c, d, 0x0f, 0x05] {
        return Err("it is of another form");
    }
    let maps = process.read_file("maps").map_err(|_| "its mappings cannot be read")?;
    let mut mappings = maps.lines().filter_map(parse_mapping);
    if !mappings.any(|mapping| (mapping.start..mapping.end).contains(&site) && mapping.permissions == "r-xp") {
        return Err("it lies in memory that can be written to");
    }
    if find_padding(process, &memory, LINE).is_none_or(|padding| padding & !(PAGE - 1) == page) {
        return Err("our own lines run in its page");
    }
    let place = free_place(&memory, places).ok_or("there is no room for another stub")?;
    let jump = jump(site, place).ok_or("it is out of reach")?;
    let kind = match nr {
        libc::SYS_pwrite64 => Kind::AtOffset,
        libc::SYS_close => Kind::Close,
        _ => Kind::NoFile,
    };
    let bits = places.board + std::mem::offset_of!(Board, bits) as u64;
    let words = Words { board: places.board, own: places.own, bits, resume: ip, syscall: site + MOV, nr: nr as u64 };
    let code = stub(kind, &words);
    // The target may not write there: as a debugger does.
    memory.write_all_at(&code, place).map_err(|_| "the region cannot be written to")?;
    let mut written = vec![0; code.len()];
    memory.read_exact_at(&mut written, place).map_err(|_| "the region cannot be read")?;
    if written != code {
        return Err("the region does not keep what is written");
    }
    hit("site.stub-written");
    let mut ptracer = ptracer.lock().unwrap_or_else(PoisonError::into_inner);
    let replaced = replace(process, &mut ptracer, &memory, places, page, (site - page, jump));
    if replaced.is_err()
        && memory.read_exact_at(&mut found, site).is_ok()
        && found[..MOV as usize] != jump[..MOV as usize]
    {
        let _ = memory.write_all_at(&vec![0; code.len()], place);
    }
    replaced
}

/// A stub that nobody has.
fn free_place(memory: &File, places: &Places) -> Option<u64> {
    let all = (0..REGION_BYTES / STUB_BYTES).map(|index| places.region + index * STUB_BYTES);
    all.into_iter().find(|place| {
        let mut first = [1; 8];
        memory.read_exact_at(&mut first, *place).is_ok() && first == [0; 8]
    })
}

/// Puts a changed copy in the place of a page of code.
fn replace(
    process: &Process,
    ptracer: &mut Ptracer,
    memory: &File,
    places: &Places,
    page: u64,
    (at, jump): (u64, [u8; SITE as usize]),
) -> Result<(), &'static str> {
    let results = [places.own + RESULTS, places.own + RESULTS + 8];
    memory.write_all_at(&[PENDING; 2].map(u64::to_ne_bytes).concat(), results[0]).map_err(|_| "no room for results")?;
    let (read_write, execute) =
        ((libc::PROT_READ | libc::PROT_WRITE) as u64, (libc::PROT_READ | libc::PROT_EXEC) as u64);
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let map = Call::new(libc::SYS_mmap, [0, PAGE, read_write, anonymous, u64::MAX, 0]).into(results[0]);
    let copy = run(process, ptracer, memory, vec![map], results[0])?;
    let copy = u64::try_from(copy).map_err(|_| "it has no memory for a copy of its page")?;
    let read = || {
        let mut content = vec![0; PAGE as usize];
        memory.read_exact_at(&mut content, page).map(|()| content).map_err(|_| "its page cannot be read")
    };
    let before = read()?;
    let mut changed = before.clone();
    changed[at as usize..(at + SITE) as usize].copy_from_slice(&jump);
    hit("site.copied");
    memory.write_all_at(&changed, copy).map_err(|_| "its copy cannot be written to")?;
    if read()? != before {
        return Err("its page changes");
    }
    let moves = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
    let protect = Call::new(libc::SYS_mprotect, [copy, PAGE, execute]);
    let replace = Call::new(libc::SYS_mremap, [copy, PAGE, PAGE, moves, page]).unless_failed().into(results[1]);
    match run(process, ptracer, memory, vec![protect, replace], results[1])? {
        0.. => {
            hit("site.replaced");
            Ok(())
        }
        _ => Err("memory may not be made executable in it"),
    }
}

/// Has a thread run a line; returns its last result.
fn run(
    process: &Process,
    ptracer: &mut Ptracer,
    memory: &File,
    calls: Vec<Call>,
    result: u64,
) -> Result<i64, &'static str> {
    ptracer.run(process, calls, Some(result), false).map_err(|_| "no thread can run a line of ours")?;
    let limit = Instant::now() + LIMIT;
    loop {
        let mut word = [0; 8];
        memory.read_exact_at(&mut word, result).map_err(|_| "its memory cannot be read")?;
        match u64::from_ne_bytes(word) {
            PENDING if Instant::now() < limit && process.is_alive() => std::thread::sleep(Duration::from_micros(50)),
            PENDING => return Err("a line of ours did not come to its end"),
            word => return Ok(word.cast_signed()),
        }
    }
}
