//! Where threads may be cancelled (pthread_cancel(3)), no site is patched.
//!
//! A thread is cancelled by a signal whose handler unwinds its stack, and runs on the way what C++ and `-fexceptions` left to be cleaned
//! up; the C library's own stdio lets go of a stream's lock so. From a stub there is no way up: the unwinder finds no table for it, takes it for the
//! end of the stack, and the thread ends with a stream, or a mutex, locked for good. (Before glibc 2.41 each call that may be cancelled
//! is unwound from where it stands; since then there is one place for all, whose form is none that is patched.)
//!
//! So it is looked whether anybody has cancelled a thread so far, and whether anybody is there who could: whose code asks the C library
//! for it. What is loaded later, or asks for it by dlsym(3), is not found before it does it for the first time.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, PoisonError};

use hotbackup_event::failpoint::is_skipped;
use nix::fcntl::OFlag;

use crate::target::maps::{Mapping, parse_mapping};
use crate::target::process::Process;

/// What it is called, also by the C library itself.
const NAMES: [&[u8]; 2] = [b"pthread_cancel", b"__pthread_cancel"];
/// The signal that glibc cancels by; its handler is set when it is first done, since 2.34.
const SIGCANCEL: u32 = 32;
/// Where all threads' programs handle it from the beginning.
const BEFORE_2_34: &str = "libpthread-2.";
/// How much of a file is looked through: of a program without a C library of its own it is the table of what it imports.
const MOST: u64 = 128 << 20;
/// Longer than what is looked for.
const LONGEST_NAME: usize = 32;

/// What was found in files, by device and inode.
#[derive(Default)]
pub(super) struct Cancellation {
    files: Mutex<HashMap<(u64, u64), Option<&'static str>>>,
}

impl Cancellation {
    /// Why it must be reckoned with, if it must.
    pub fn may_come(&self, process: &Process) -> Option<&'static str> {
        // It is proven what comes of it then.
        if is_skipped("pthread_cancel") {
            return None;
        }
        let Ok(maps) = process.read_file("maps") else { return Some("its mappings cannot be read") };
        let code = || {
            let all = maps.lines().filter_map(parse_mapping);
            all.filter(|mapping| mapping.permissions.contains('x') && mapping.inode != 0)
        };
        let is_old = code().any(|mapping| name(&mapping).starts_with(BEFORE_2_34));
        if !is_old && catches(process, SIGCANCEL) {
            return Some("its threads are cancelled (pthread_cancel)");
        }
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        for mapping in code().filter(|mapping| !is_of_the_c_library(name(mapping))) {
            const NOT_TOLD: Option<&str> = Some("whether its threads may be cancelled cannot be told");
            let Some((file, id)) = open(process, &mapping) else { return NOT_TOLD };
            let found = files.entry(id).or_insert_with(|| match asks_for_it(&file) {
                Some(false) => None,
                Some(true) => Some("its threads may be cancelled: its code asks for pthread_cancel"),
                None => NOT_TOLD,
            });
            if found.is_some() {
                return *found;
            }
        }
        None
    }
}

fn name<'a>(mapping: &Mapping<'a>) -> &'a str {
    mapping.path.rsplit('/').next().unwrap_or_default()
}

fn is_of_the_c_library(name: &str) -> bool {
    const ALL: [&str; 7] = ["libc.so.", "libc-2.", "libpthread.so.", BEFORE_2_34, "ld-linux", "ld-2.", "ld-musl-"];
    ALL.iter().any(|library| name.starts_with(library))
}

/// Whether it handles a signal; where that cannot be read it does.
fn catches(process: &Process, signal: u32) -> bool {
    let caught = process.status_field(process.pid(), "SigCgt");
    let caught = caught.and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    caught.is_none_or(|mask| mask >> (signal - 1) & 1 == 1)
}

/// The file that is mapped, with its device and inode.
fn open(process: &Process, mapping: &Mapping<'_>) -> Option<(File, (u64, u64))> {
    let link = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
    let path = format!("root{}", mapping.path);
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
    let file = File::from(process.open_file(&link, flags).or_else(|_| process.open_file(&path, flags)).ok()?);
    let found = file.metadata().ok()?;
    // By its path it may be another one by now.
    (found.ino() == mapping.inode).then_some((file, (found.dev(), found.ino())))
}

/// A file, and how much of it may still be read.
struct Looked<'a> {
    file: &'a File,
    length: u64,
    left: Cell<u64>,
}

/// A section of an ELF file (elf(5)).
#[derive(Clone, Copy)]
struct Section {
    kind: u32,
    offset: u64,
    size: u64,
    link: usize,
}

/// A part that is loaded.
struct Segment {
    address: u64,
    content: Vec<u8>,
    is_code: bool,
}

struct Symbol {
    is_ours: bool,
    is_defined: bool,
    value: u64,
}

/// Whether a program or library asks for it; `None` where that cannot be told.
fn asks_for_it(file: &File) -> Option<bool> {
    let file = &Looked { file, length: file.metadata().ok()?.len(), left: Cell::new(MOST) };
    const SYMBOLS: u32 = 2;
    const DYNAMIC_SYMBOLS: u32 = 11;
    let header = read(file, 0, 64)?;
    // 64 bits, little-endian.
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let sections: Vec<Section> =
        table(file, &header, 0x28, 0x3a, 0x3c)?.iter().filter_map(|row| section(row)).collect();
    let of = |kind| sections.iter().filter(move |section| section.kind == kind).copied();
    let mut imports = 0;
    for dynamic in of(DYNAMIC_SYMBOLS) {
        let wanted = symbols(file, &sections, dynamic)?.into_iter().filter(|symbol| !symbol.is_defined);
        let wanted: Vec<Symbol> = wanted.collect();
        if wanted.iter().any(|symbol| symbol.is_ours) {
            return Some(true);
        }
        // The first is none.
        imports += wanted.len().saturating_sub(1);
    }
    if imports > 0 {
        return Some(false);
    }
    // The C library is in it: whether anybody calls it.
    let all = of(SYMBOLS).next()?;
    let ours = symbols(file, &sections, all)?.into_iter().filter(|symbol| symbol.is_ours && symbol.is_defined);
    let places: HashSet<u64> = ours.map(|symbol| symbol.value).collect();
    if places.is_empty() {
        return Some(false);
    }
    let segments = segments(file, &header)?;
    Some(segments.iter().any(|segment| places.iter().any(|place| refers(segment, *place))))
}

/// Whether a call, a jump or an address in it leads to this place.
fn refers(segment: &Segment, place: u64) -> bool {
    let content = &segment.content[..];
    // The first byte is compared first: there are many.
    let stands = |at: usize, wanted: u64, size: usize| {
        content[at] == wanted as u8 && content[at..].starts_with(&wanted.to_le_bytes()[..size])
    };
    (0..content.len()).any(|at| {
        let behind = segment.address.wrapping_add(at as u64 + 4);
        stands(at, place, 8) || segment.is_code && (stands(at, place, 4) || stands(at, place.wrapping_sub(behind), 4))
    })
}

fn symbols(file: &Looked<'_>, sections: &[Section], table: Section) -> Option<Vec<Symbol>> {
    const SIZE: usize = 24;
    let names = sections.get(table.link)?;
    let (rows, names) = (read(file, table.offset, table.size)?, read(file, names.offset, names.size)?);
    let symbol = |row: &[u8]| {
        let name = names.get(number(row, 0, 4) as usize..).unwrap_or_default();
        let name = &name[..name.len().min(LONGEST_NAME)];
        let name = name.split(|byte| *byte == 0 || *byte == b'@').next().unwrap_or_default();
        Symbol { is_ours: NAMES.contains(&name), is_defined: number(row, 6, 2) != 0, value: number(row, 8, 8) }
    };
    Some(rows.chunks_exact(SIZE).map(symbol).collect())
}

fn segments(file: &Looked<'_>, header: &[u8]) -> Option<Vec<Segment>> {
    const LOADED: u64 = 1;
    const EXECUTE: u64 = 1;
    let mut all = Vec::new();
    for row in table(file, header, 0x20, 0x36, 0x38)?.iter().filter(|row| row.len() >= 56) {
        if number(row, 0, 4) == LOADED {
            let content = read(file, number(row, 8, 8), number(row, 32, 8))?;
            all.push(Segment { address: number(row, 16, 8), content, is_code: number(row, 4, 4) & EXECUTE != 0 });
        }
    }
    Some(all)
}

fn section(row: &[u8]) -> Option<Section> {
    (row.len() >= 64).then(|| Section {
        kind: number(row, 4, 4) as u32,
        offset: number(row, 24, 8),
        size: number(row, 32, 8),
        link: number(row, 40, 4) as usize,
    })
}

/// The rows of a table, of which the header says where it is, how long a row is, and how many there are.
fn table(file: &Looked<'_>, header: &[u8], offset: usize, size: usize, count: usize) -> Option<Vec<Vec<u8>>> {
    let (size, count) = (number(header, size, 2), number(header, count, 2));
    if size == 0 || count == 0 {
        return Some(Vec::new());
    }
    let rows = read(file, number(header, offset, 8), size * count)?;
    Some(rows.chunks_exact(size as usize).map(<[u8]>::to_vec).collect())
}

fn read(file: &Looked<'_>, offset: u64, size: u64) -> Option<Vec<u8>> {
    if offset.checked_add(size)? > file.length {
        return None;
    }
    file.left.set(file.left.get().checked_sub(size)?);
    let mut content = vec![0; size as usize];
    file.file.read_exact_at(&mut content, offset).ok()?;
    Some(content)
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    let mut word = [0; 8];
    word[..size].copy_from_slice(&bytes[at..at + size]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::process::Command;

    const CANCELS: &str = "#include <pthread.h>\nint main(void) { return pthread_cancel(pthread_self()); }";
    const PASSES_IT_ON: &str =
        "#include <pthread.h>\nint (*cancel)(pthread_t) = pthread_cancel; int main(void) { return 0; }";
    const CREATES: &str = "#include <pthread.h>\nstatic void *run(void *p) { return p; }\n\
                           int main(void) { pthread_t id; return pthread_create(&id, 0, run, 0); }";

    fn made(dir: &Path, source: &str, how: &[&str]) -> Option<bool> {
        let (text, program) = (dir.join("program.c"), dir.join("program"));
        std::fs::write(&text, source).unwrap();
        let status = Command::new("gcc").args(how).arg("-pthread").arg("-o").args([&program, &text]).status().unwrap();
        assert!(status.success());
        asks_for_it(&File::open(&program).unwrap())
    }

    #[test]
    fn programs_that_cancel_threads_are_told_from_others() {
        let dir = tempfile::tempdir().unwrap();
        for how in [&[][..], &["-s"], &["-static"], &["-static-pie"], &["-no-pie"], &["-shared", "-fPIC"]] {
            assert_eq!(made(dir.path(), CANCELS, how), Some(true), "{how:?}");
            assert_eq!(made(dir.path(), PASSES_IT_ON, how), Some(true), "{how:?}");
            assert_eq!(made(dir.path(), CREATES, how), Some(false), "{how:?}");
        }
        // Without names nobody knows what is in it.
        assert_eq!(made(dir.path(), CREATES, &["-static", "-s"]), None);
        std::fs::write(dir.path().join("text"), "#!/bin/sh").unwrap();
        assert_eq!(asks_for_it(&File::open(dir.path().join("text")).unwrap()), None);
    }
}
