//! Calls after which a file may change unseen.
use super::*;

#[test]
fn a_shared_mapping_of_a_file_is_named() {
    let mut bench = Bench::new();
    let file = bench.open("file", File::options().read(true).write(true));
    let mapped = [Effect::Mapped { file: bench.id("file") }];
    assert_eq!(bench.effects(libc::SYS_mmap, &[0, 4096, 3, 1, number(&file), 0]), mapped);
    assert_eq!(bench.effects(libc::SYS_mmap, &[0, 4096, 3, 1, 9999, 0]), []);
}

#[test]
fn mprotect_of_memory_that_is_no_file_concerns_none() {
    let mut bench = Bench::new();
    let memory = vec![0u8; 1 << 20];
    assert_eq!(bench.effects(libc::SYS_mprotect, &[memory.as_ptr() as u64, memory.len() as u64, 3]), []);
}

#[test]
fn what_names_no_file_ends_the_backup() {
    let mut bench = Bench::new();
    for (nr, flags) in [(libc::SYS_io_uring_setup, 0), (libc::SYS_open_by_handle_at, libc::O_RDWR | libc::O_TRUNC)] {
        let decoded = bench.decode_any(nr, &[0, 0, flags as u64, 0, 0, 0]);
        assert!(decoded.blind.is_some() && decoded.effects.is_empty(), "{nr}: {decoded:?}");
    }
}

/// A `struct iocb`: the opcode at byte 16, the descriptor at byte 20.
fn control_block(opcode: u16, fd: u64) -> [u64; 8] {
    let mut words = [0; 8];
    words[2] = u64::from(opcode) | fd << 32;
    words
}

#[test]
fn io_submit_names_the_files_that_it_writes_to() {
    const READ: u16 = 0;
    let mut bench = Bench::new();
    let file = bench.open("file", File::options().read(true).write(true));
    let written =
        Effect::Untraceable { file: bench.id("file"), cause: "io_submit, which returns before its write is done" };
    for (opcodes, count, expected) in [
        (vec![READ, 1], 2, 1),
        (vec![8, READ, 1], 3, 2),
        (vec![READ], 1, 0),
        (vec![1, 1], 1, 1), // only one of them is submitted
    ] {
        let blocks: Vec<_> = opcodes.iter().map(|&opcode| control_block(opcode, number(&file))).collect();
        let pointers: Vec<u64> = blocks.iter().map(address).collect();
        let found = bench.effects(libc::SYS_io_submit, &[0, count, pointers.as_ptr() as u64]);
        assert_eq!(found, vec![written.clone(); expected], "{opcodes:?}");
    }
    assert_eq!(bench.effects(libc::SYS_io_submit, &[0, 1, 1]), [], "EFAULT");
}

#[test]
fn io_submit_of_more_blocks_than_are_looked_at_ends_the_backup() {
    let mut bench = Bench::new();
    let block = control_block(0, 0);
    let pointers = vec![address(&block); 1025];
    for (count, ends) in [(1024, false), (1025, true), (u64::MAX, false)] {
        let decoded = bench.decode_any(libc::SYS_io_submit, &[0, count, pointers.as_ptr() as u64]);
        assert_eq!(decoded.blind.is_some(), ends, "{count}");
    }
}

#[test]
fn mprotect_names_the_files_that_are_mapped_shared_in_its_range() {
    use crate::shared::memory::Layout;
    use crate::sys::memory::Region;
    const LENGTH: u64 = size_of::<Layout>() as u64;
    let mut bench = Bench::new();
    let map = |name: &str| {
        let file = bench.open(name, File::options().read(true).write(true).create(true));
        file.set_len(LENGTH).unwrap();
        Region::<Layout>::open(file.into()).unwrap()
    };
    let (first, second) = (map("file"), map("other"));
    let (first_at, second_at) = (address(&*first), address(&*second));
    let (of_first, of_second) = (Effect::Mapped { file: bench.id("file") }, Effect::Mapped { file: bench.id("other") });
    let mut named = |start: u64, length: u64| {
        let mut found = bench.effects(libc::SYS_mprotect, &[start, length, 3]);
        found.retain(|effect| [&of_first, &of_second].contains(&effect)); // other tests map, too
        found
    };
    for (start, expected) in [(first_at, &of_first), (second_at, &of_second)] {
        for range in [(start, LENGTH), (start, 1), (start + LENGTH - 1, 1), (start + 4096, 1)] {
            assert_eq!(named(range.0, range.1), std::slice::from_ref(expected), "{range:x?}");
        }
        assert_eq!(named(start, 0), []);
    }
    assert_eq!(named(0, u64::MAX).len(), 2);
}

#[test]
fn a_file_that_is_opened_by_its_handle_is_left_alone() {
    let mut bench = Bench::new();
    for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY] {
        assert_eq!(bench.effects(libc::SYS_open_by_handle_at, &[0, 0, flags as u64]), []);
    }
}

#[test]
fn what_the_kernel_is_given_to_write_to_is_named() {
    let mut bench = Bench::new();
    for (name, named) in [("file", true), ("link", true), ("nowhere", false)] {
        let path = bench.text(name);
        for (nr, args) in [
            (libc::SYS_swapon, [at(&path), 0, 0, 0]),
            (libc::SYS_acct, [at(&path), 0, 0, 0]),
            (libc::SYS_quotactl, [0x8000_0200, 0, 0, at(&path)]),
            (443, [0, 0x8000_0200, 0, at(&path)]),
        ] {
            let file = bench.id("file");
            let found = bench.effects(nr, &args);
            let is_it = |effect: &Effect| matches!(effect, Effect::Untraceable { file: found, .. } if *found == file);
            assert_eq!((found.len(), found.iter().all(is_it)), (usize::from(named), true), "{nr} {name}");
        }
    }
}

#[test]
fn advice_on_a_shared_mapping_names_its_file() {
    use crate::shared::memory::Layout;
    use crate::sys::memory::Region;
    const LENGTH: u64 = size_of::<Layout>() as u64;
    const REMOVE: u64 = 9;
    const HWPOISON: u64 = 100;
    let mut bench = Bench::new();
    let file = bench.open("file", File::options().read(true).write(true));
    file.set_len(LENGTH).unwrap();
    let mapping = Region::<Layout>::open(file.into()).unwrap();
    let (start, whole) = (address(&*mapping), bench.whole());
    let mut about_it = |nr: i64, args: &[u64]| {
        let mut found = bench.effects(nr, args);
        found.retain(|effect| effect.subject() == whole.subject()); // other tests map, too
        found
    };
    assert_eq!(about_it(libc::SYS_madvise, &[start, 4096, REMOVE]), std::slice::from_ref(&whole));
    assert_eq!(about_it(libc::SYS_madvise, &[start + LENGTH + 4096, 4096, REMOVE]), []);
    assert_eq!(about_it(libc::SYS_process_madvise, &[0, 0, 0, REMOVE]), std::slice::from_ref(&whole));
    let poisoned = about_it(libc::SYS_madvise, &[start, 4096, HWPOISON]);
    assert!(matches!(poisoned[..], [Effect::Untraceable { .. }]), "{poisoned:?}");
    // Stores into this very process, from wherever: the mapping is writable.
    let pid = u64::from(std::process::id());
    for (nr, args) in [(libc::SYS_process_vm_writev, [pid, 0]), (libc::SYS_ptrace, [5, pid])] {
        assert_eq!(about_it(nr, &args), [Effect::Mapped { file: whole.subject() }], "{nr}");
    }
}
