//! The page on which `every_kind_of_call` records how long its calls took, and when the machine itself stood still.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// The guest's source: a call is named by its line there.
const SOURCE: &str = include_str!("../guests/every_kind_of_call.c");
/// As in the guest: words a part, entries in its log, the sleeper's part.
const BLOCK: usize = 128;
const LOG: usize = 32;
const STALL: usize = 10;
const EPOCH: u64 = 1;

/// Now, on the clock of the page.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned()
}

/// A stretch of time.
pub type Span = (u64, u64);

fn overlap(a: Span, b: Span) -> u64 {
    a.1.min(b.1).saturating_sub(a.0.max(b.0))
}

/// The longest call since the last [`Page::begin`].
#[derive(Debug, Clone, Default)]
pub struct Wait {
    /// How long, as it was.
    pub raw: Duration,
    /// Without what is excused and without the worst stall of the machine meanwhile.
    pub net: Duration,
    /// Which call.
    pub what: String,
}

/// The page.
pub struct Page {
    file: File,
    workers: usize,
    began: u64,
    epoch: u64,
}

impl Page {
    /// That of a guest that is ready.
    pub fn open(path: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(path).expect("the guest made its page");
        let mut page = Self { file, workers: 0, began: now(), epoch: 0 };
        page.workers = usize::try_from(page.words()[2]).expect("few workers");
        page
    }

    fn words(&self) -> Vec<u64> {
        let mut bytes = vec![0; BLOCK * 8 * 16];
        self.file.read_exact_at(&mut bytes, 0).expect("the page can be read");
        bytes.chunks(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes"))).collect()
    }

    /// From now on anew: what was longest before is forgotten.
    pub fn begin(&mut self) {
        self.epoch += 1;
        self.began = now();
        self.file.write_all_at(&self.epoch.to_ne_bytes(), 8 * EPOCH).expect("the page can be written");
    }

    /// Calls finished, of each worker; and last, how often the sleeper woke.
    pub fn counts(&self) -> Vec<u64> {
        let words = self.words();
        (0..self.workers).chain([STALL]).map(|part| words[BLOCK * (1 + part)]).collect()
    }

    /// The longest waits: of all calls, and of those that `span` touches. To be asked when every worker has finished a
    /// call since, and the sleeper has woken.
    pub fn longest(&self, excused: &[Span], span: Option<Span>) -> Wait {
        let words = self.words();
        let stalls = self.stalls(&words);
        let mut longest = Wait::default();
        for worker in 0..self.workers {
            let mut calls = self.entries(&words, worker);
            let part = &words[BLOCK * (1 + worker)..];
            calls.push((part[3].saturating_sub(part[2]), part[3], part[4]));
            // Still under way: as long as it has lasted.
            if part[6] != 0 {
                calls.push((part[6], now().max(part[6]), part[7]));
            }
            for (begin, end, line) in calls {
                let call = (begin.max(self.began), end);
                if call.0 >= call.1 || span.is_some_and(|span| overlap(span, call) == 0) {
                    continue;
                }
                let net = net(call, excused, &stalls);
                if net >= longest.net {
                    let words = SOURCE.lines().nth((line as usize).saturating_sub(1)).unwrap_or_default().trim();
                    let raw = Duration::from_nanos(call.1 - call.0);
                    longest = Wait { raw, net, what: format!("worker {worker}: {words}") };
                }
            }
        }
        longest
    }

    /// The longest stall of the machine or its disk.
    pub fn stall(&self) -> Duration {
        let stalls = self.stalls(&self.words());
        let longest = stalls.iter().map(|&(begin, end)| end - begin.max(self.began).min(end)).max();
        Duration::from_nanos(longest.unwrap_or(0))
    }

    fn stalls(&self, words: &[u64]) -> Vec<Span> {
        let of_machine = self.entries(words, STALL).into_iter().map(|(begin, end, _)| (begin, end));
        of_machine.chain(super::disk::stalls(self.began)).collect()
    }

    fn entries(&self, words: &[u64], part: usize) -> Vec<(u64, u64, u64)> {
        let part = &words[BLOCK * (1 + part)..BLOCK * (2 + part)];
        if part[1] != self.epoch {
            return Vec::new();
        }
        let count = LOG.min(usize::try_from(part[5]).unwrap_or(LOG));
        part[8..].chunks(3).take(count).map(|entry| (entry[0], entry[1], entry[2])).collect()
    }
}

/// What a call waited for without excuse: not the spans that are excused, nor the worst stall of the machine in the rest.
fn net(call: Span, excused: &[Span], stalls: &[Span]) -> Duration {
    let excused_part: u64 = excused.iter().map(|&span| overlap(call, span)).sum();
    let stall = |&(begin, end): &Span| {
        let whole = overlap(call, (begin, end));
        let twice: u64 = excused
            .iter()
            .map(|&span| overlap(call, (begin.max(span.0), end.min(span.1).max(begin.max(span.0)))))
            .sum();
        whole.saturating_sub(twice)
    };
    let worst = stalls.iter().map(stall).max().unwrap_or(0);
    Duration::from_nanos((call.1 - call.0).saturating_sub(excused_part + worst))
}
