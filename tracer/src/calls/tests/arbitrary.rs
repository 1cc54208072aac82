//! Whatever a program puts into registers and memory, no decoder panics: a panic would end the receiver.
use std::os::fd::AsRawFd;

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use crate::calls::TABLE;
use crate::calls::ioctls::COMMANDS;
use crate::flight::trial::Trial;

/// A number such as calls have: small, huge, negative, an address of the block or near its end.
fn argument(random: &mut TestRng, block: &[u64]) -> u64 {
    let (start, bytes) = (block.as_ptr() as u64, 8 * block.len() as u64);
    let number = random.next_u64();
    match random.next_u64() % 8 {
        0 => number % 8,
        1 => number % 5000,
        2 => (number % 200).wrapping_neg(),
        3 => number,
        4 => u64::from(number as u32),
        5 => start + bytes - number % 64,
        _ => start + number % bytes,
    }
}

/// Paths, addresses and numbers by turns.
fn fill(block: &mut [u64], random: &mut TestRng) {
    const PATHS: [&[u8]; 8] =
        [b"/", b"..", b"/proc/self/fd/0", b"/dev/fd/1/x", b"///", b"a/b", b"/proc/self/cwd/", b"\xff"];
    for at in 0..block.len() {
        block[at] = match random.next_u64() % 4 {
            0 => random.next_u64(),
            1 => 0,
            2 => argument(random, block),
            _ => {
                let path = PATHS[random.next_u64() as usize % PATHS.len()];
                let mut word = [0; 8];
                let length = path.len().min(8);
                word[..length].copy_from_slice(&path[..length]);
                u64::from_ne_bytes(word)
            }
        };
    }
}

#[test]
fn no_arguments_make_a_decoder_panic() {
    let mut trial = Trial::new();
    let file = tempfile::tempfile().unwrap();
    file.set_len(100_000).unwrap();
    let mut random = TestRng::deterministic_rng(RngAlgorithm::XorShift);
    let mut block = vec![0u64; 1024];
    for round in 0..2000 {
        fill(&mut block, &mut random);
        for row in TABLE {
            let mut args = [0; 6];
            args.iter_mut().for_each(|arg| *arg = argument(&mut random, &block));
            if random.next_u64().is_multiple_of(2) {
                args[0] = file.as_raw_fd() as u64;
            }
            if row.name == "ioctl" {
                args[1] = u64::from(COMMANDS[random.next_u64() as usize % COMMANDS.len()].number);
            }
            trial.decode(row, args, round % 2 == 0);
        }
    }
}
