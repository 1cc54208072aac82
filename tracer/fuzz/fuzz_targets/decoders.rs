//! Whatever a program puts into registers and memory, no decoder panics. The input is one call: its row, six arguments, and
//! the memory that they may point into.
#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::AsRawFd;

use hotbackup_tracer::calls::TABLE;
use hotbackup_tracer::calls::ioctls::COMMANDS;
use hotbackup_tracer::trial::Trial;
use libfuzzer_sys::fuzz_target;

/// Each argument: what kind of number it is, and the number.
const ARGUMENT: usize = 9;
const HEAD: usize = 2 + 6 * ARGUMENT;

thread_local! {
    static TRIAL: RefCell<Trial> = RefCell::new(Trial::new());
    static FILE: File = File::open("/proc/self/exe").expect("this program");
}

fn argument(bytes: &[u8], memory: &[u8]) -> u64 {
    let number = u64::from_le_bytes(bytes[1..ARGUMENT].try_into().expect("eight bytes"));
    let (start, length) = (memory.as_ptr() as u64, memory.len() as u64);
    match bytes[0] % 6 {
        0 => number,
        1 => number % 16,
        2 => FILE.with(File::as_raw_fd) as u64,
        3 => (number % 200).wrapping_neg(),
        4 => start + length.saturating_sub(number % 64),
        _ => start + number % length.max(1),
    }
}

fuzz_target!(|input: &[u8]| {
    if input.len() < HEAD {
        return;
    }
    let (head, memory) = input.split_at(HEAD);
    let row = &TABLE[usize::from(head[0]) % TABLE.len()];
    let mut args = [0; 6];
    for (index, arg) in args.iter_mut().enumerate() {
        *arg = argument(&head[2 + index * ARGUMENT..][..ARGUMENT], memory);
    }
    if row.name == "ioctl" {
        args[1] = u64::from(COMMANDS[usize::from(head[1] >> 1) % COMMANDS.len()].number);
    }
    TRIAL.with_borrow_mut(|trial| trial.decode(row, args, head[1] & 1 == 1));
});
