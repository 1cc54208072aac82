//! Whatever a program puts into registers and memory, no decoder panics: a panic would end the receiver.
use std::os::fd::AsRawFd;

use crate::calls::TABLE;
use crate::calls::ioctls::COMMANDS;
use crate::calls::trial::Trial;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number such as calls have: small, huge, negative, an address of the block or near its end.
    fn argument(&mut self, block: &[u64]) -> u64 {
        let (start, bytes) = (block.as_ptr() as u64, 8 * block.len() as u64);
        match self.next() % 8 {
            0 => self.next() % 8,
            1 => self.next() % 5000,
            2 => (self.next() % 200).wrapping_neg(),
            3 => self.next(),
            4 => u64::from(self.next() as u32),
            5 => start + bytes - self.next() % 64,
            _ => start + self.next() % bytes,
        }
    }
}

/// Paths, addresses and numbers by turns.
fn fill(block: &mut [u64], random: &mut Random) {
    const PATHS: [&[u8]; 8] =
        [b"/", b"..", b"/proc/self/fd/0", b"/dev/fd/1/x", b"///", b"a/b", b"/proc/self/cwd/", b"\xff"];
    for at in 0..block.len() {
        block[at] = match random.next() % 4 {
            0 => random.next(),
            1 => 0,
            2 => random.argument(block),
            _ => {
                let path = PATHS[random.next() as usize % PATHS.len()];
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
    let mut random = Random(1);
    let mut block = vec![0u64; 1024];
    for round in 0..2000 {
        fill(&mut block, &mut random);
        for row in TABLE {
            let mut args = [0; 6];
            args.iter_mut().for_each(|arg| *arg = random.argument(&block));
            if random.next().is_multiple_of(2) {
                args[0] = file.as_raw_fd() as u64;
            }
            if row.name == "ioctl" {
                args[1] = u64::from(COMMANDS[random.next() as usize % COMMANDS.len()].number);
            }
            trial.decode(row, args, round % 2 == 0);
        }
    }
}
