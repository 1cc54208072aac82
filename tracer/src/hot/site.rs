//! Patching a call site.
//!
//! Of `mov eax, nr; syscall` only the five bytes of the `mov` become a jump; the `syscall` stays. So a thread that stands between
//! the two, or whose interrupted call is begun again there, finds it and is notified as ever. The page is not written to but
//! replaced: an anonymous copy with the change, made executable, is moved over the old one by an injected line. Page tables
//! change at once for all threads, and a processor that is interrupted for it fetches anew; no thread is stopped for it but the one
//! that runs the line, for an instant. A thread that comes to the page in between waits in the fault until the move is done.
//!
//! Left alone: a site of another form than C libraries have, one across two pages, one out of reach, one in code that may be unmapped, and
//! one whose page is not what its file says (a debugger's or a probe's breakpoint would be copied, and outlive its owner's care).
//! The lines run in the region, never in a page that they replace.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hotbackup_event::failpoint::hit;
use nix::fcntl::OFlag;
use nix::sys::stat::fstat;

use super::mutants::with_chosen_fault;
use crate::ptracer::client::Ptracer;
use crate::ptracer::payload::{Call, PENDING};
use crate::shared::board::{Board, REGION_BYTES, STUB_BYTES, STUBS_BYTES};
use crate::shared::memory::MEMORY_NAME;
use crate::sys::trampoline::{ENTRY, Kind, WORDS, Words, stub};
use crate::target::maps::{Mapping, parse_mapping};
use crate::target::process::Process;

const PAGE: u64 = 4096;
/// `mov eax, imm32; syscall`.
const SITE: u64 = 7;
const MOV: u64 = 5;
/// Where results go, in the page of the word that a forked child finds zero.
const RESULTS: u64 = 64;
/// How long a thread may take for a line.
const LIMIT: Duration = Duration::from_secs(5);
/// Why nothing is patched where mprotect(2) says no.
pub(super) const DENIED: &str =
    "memory may not be made executable in it (SELinux, PaX, PR_SET_MDWE, MemoryDenyWriteExecute)";
/// `vm.overcommit_memory`: a page that is moved is charged for before it is there, and the one below is gone by then.
const NEVER: &str = "2";

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
    (0..STUBS_BYTES / STUB_BYTES).filter_map(behind).collect()
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
    if found != [0xb8, a, b, c, d, 0x0f, 0x05] || !is_usual(&memory, site) {
        return Err("it is of another form");
    }
    let maps = process.read_file("maps").map_err(|_| "its mappings cannot be read")?;
    let maps: Vec<Mapping<'_>> = maps.lines().filter_map(parse_mapping).collect();
    if !are_there(&maps, places) {
        return Err("it runs another program by now");
    }
    if is_altered(process, &memory, &maps, places, page) {
        return Err("its page is none of the program's or the C library's, or differs from the file");
    }
    if let Some(why) = never_overcommitted() {
        return Err(why);
    }
    // One more would be refused as well.
    if is_denied(process, places.own) {
        return Err(DENIED);
    }
    let kind = match nr {
        libc::SYS_pwrite64 => Kind::AtOffset,
        libc::SYS_close => Kind::Close,
        _ => Kind::NoFile,
    };
    let bits = places.board + std::mem::offset_of!(Board, bits) as u64;
    let words = Words { board: places.board, own: places.own, bits, resume: ip, syscall: site + MOV, nr: nr as u64 };
    let code = with_chosen_fault(kind, stub(kind, &words));
    let place = free_place(&memory, places, &code).ok_or("there is no room for another stub")?;
    let jump = jump(site, place).ok_or("it is out of reach")?;
    // The target may not write there: as a debugger does.
    memory.write_all_at(&code, place).map_err(|_| "the region cannot be written to")?;
    let mut written = vec![0; code.len()];
    memory.read_exact_at(&mut written, place).map_err(|_| "the region cannot be read")?;
    if written != code {
        return Err("the region does not keep what is written");
    }
    hit("site.stub-written");
    let mut ptracer = ptracer.lock().unwrap_or_else(PoisonError::into_inner);
    // Whatever comes of it, the stub stays: a thread may come to the line late, and then the site jumps there.
    replace(process, &mut ptracer, &memory, places, page, (site - page, jump))
}

pub(super) fn never_overcommitted() -> Option<&'static str> {
    let how = std::fs::read_to_string("/proc/sys/vm/overcommit_memory");
    how.is_ok_and(|how| how.trim() == NEVER).then_some(
        "memory is never overcommitted here, so that a page that is moved might be lost (vm.overcommit_memory)",
    )
}

/// Whether the instructions around a site are those that C libraries have: the result is compared with the lowest error, which sets all
/// flags; and the `mov` is an instruction of its own, not the tail of another that ends in the same bytes.
fn is_usual(memory: &File, site: u64) -> bool {
    const BEFORE: usize = 3;
    const COMPARE: [u8; 2] = [0x48, 0x3d]; // cmp rax, imm32
    const REX: std::ops::RangeInclusive<u8> = 0x40..=0x4f;
    const WITH_LONG_OPERAND: [u8; 3] = [0xc7, 0x81, 0x69];
    let (mut before, mut behind) = ([0; BEFORE], [0; 2]);
    let read = memory.read_exact_at(&mut before, site - BEFORE as u64).is_ok()
        && memory.read_exact_at(&mut behind, site + SITE).is_ok();
    read && behind == COMPARE
        && !REX.contains(&before[2])
        && !before[..2].iter().any(|byte| WITH_LONG_OPERAND.contains(byte))
}

/// Whether the region and the board are what they were: another program may run in the process by now.
fn are_there(maps: &[Mapping<'_>], places: &Places) -> bool {
    let region = |mapping: &Mapping<'_>| {
        (mapping.start, mapping.end, mapping.inode, mapping.permissions)
            == (places.region, places.region + REGION_BYTES, 0, "r-xp")
    };
    let board = |mapping: &Mapping<'_>| {
        mapping.start == places.board && mapping.path.starts_with("/memfd:") && mapping.path.contains(MEMORY_NAME)
    };
    maps.iter().any(region) && maps.iter().any(board)
}

/// Whether a page of code is not what its file says, our own jumps aside, as where a debugger or a probe has put something; or is
/// no page of the program or the C library, which stay mapped as long as it runs.
fn is_altered(process: &Process, memory: &File, maps: &[Mapping<'_>], places: &Places, page: u64) -> bool {
    let Some(at) = maps.iter().position(|mapping| (mapping.start..mapping.end).contains(&page)) else { return true };
    // Ours stand between the parts of what they were taken from.
    let Some(of) = maps[..=at].iter().rposition(|mapping| mapping.inode != 0) else { return true };
    let (file, between) = (&maps[of], &maps[of..=at]);
    let is_ours = |mapping: &Mapping<'_>| mapping.inode == 0 && mapping.permissions == "r-xp";
    let adjoin = between.windows(2).all(|two| two[0].end == two[1].start);
    let is_known = file.permissions == "r-xp" && between[1..].iter().all(is_ours) && adjoin;
    let program = process.open_file("exe", OFlag::O_PATH).ok().and_then(|exe| fstat(&exe).ok());
    let is_program = program.is_some_and(|program| program.st_ino == file.inode);
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let is_library = ["libc.so", "libc-2", "libpthread", "ld-linux", "ld-musl-"].iter().any(|at| name.starts_with(at));
    if !is_known || !(is_program || is_library) {
        return true;
    }
    let link = format!("map_files/{:x}-{:x}", file.start, file.end);
    let path = format!("root{}", file.path);
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let opened = process.open_file(&link, flags).or_else(|_| process.open_file(&path, flags));
    let Ok(opened) = opened.map(File::from) else { return true };
    let (mut now, mut was) = ([0; PAGE as usize], [0; PAGE as usize]);
    let offset = file.offset + (page - file.start);
    if memory.read_exact_at(&mut now, page).is_err() || opened.read_exact_at(&mut was, offset).is_err() {
        return true;
    }
    for ip in patched(process, places) {
        let Some(at) = (ip - SITE).checked_sub(page).filter(|at| at + SITE <= PAGE) else { continue };
        let at = at as usize;
        now[at..at + SITE as usize].copy_from_slice(&was[at..at + SITE as usize]);
    }
    now != was
}

/// A stub that nobody has, or that was written for this very site before.
fn free_place(memory: &File, places: &Places, code: &[u8; STUB_BYTES as usize]) -> Option<u64> {
    let all = || (0..STUBS_BYTES / STUB_BYTES).map(|index| places.region + index * STUB_BYTES);
    let holds = |place: &u64, wanted: &[u8; STUB_BYTES as usize]| {
        let mut found = [1; STUB_BYTES as usize];
        memory.read_exact_at(&mut found, *place).is_ok() && found == *wanted
    };
    all().find(|place| holds(place, code)).or_else(|| all().find(|place| holds(place, &[0; STUB_BYTES as usize])))
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
    let within = (places.region + STUBS_BYTES, places.region + REGION_BYTES);
    let copy = run(process, ptracer, memory, vec![map], results[0], within)?;
    let copy = u64::try_from(copy).ok().filter(|copy| *copy > 0 && copy % PAGE == 0);
    let copy = copy.ok_or("it has no memory for a copy of its page")?;
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
    match run(process, ptracer, memory, vec![protect, replace], results[1], within)? {
        0.. => {
            hit("site.replaced");
            Ok(())
        }
        _ => {
            // The copy has not moved: nobody else can have come to where it is.
            // A word of its own: this line may be late, and another site's wait for theirs.
            let unmapped = results[1] + 8;
            let unmap = Call::new(libc::SYS_munmap, [copy, PAGE]).into(unmapped);
            memory.write_all_at(&PENDING.to_ne_bytes(), unmapped).map_err(|_| DENIED)?;
            let _ = run(process, ptracer, memory, vec![unmap], unmapped, within);
            Err(DENIED)
        }
    }
}

/// Whether memory was refused to be made executable in the target when it was tried last: it will be again.
pub(super) fn is_denied(process: &Process, own: u64) -> bool {
    let (mut word, refused) = ([0; 8], [libc::EACCES, libc::EPERM]);
    let memory = process.open_file("mem", OFlag::O_RDONLY).map(File::from);
    let read = memory.is_ok_and(|memory| memory.read_exact_at(&mut word, own + RESULTS + 8).is_ok());
    own != 0 && read && refused.iter().any(|errno| i64::from_ne_bytes(word) == -i64::from(*errno))
}

/// Has a thread run a line; returns its last result.
fn run(
    process: &Process,
    ptracer: &mut Ptracer,
    memory: &File,
    calls: Vec<Call>,
    result: u64,
    within: (u64, u64),
) -> Result<i64, &'static str> {
    ptracer.run_within(process, calls, result, within).map_err(|_| "no thread can run a line of ours")?;
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
