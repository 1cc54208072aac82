//! Which calls a filter does not show that is in a target already, though the table has them.
//!
//! A filter stays as long as its process. So after an upgrade of hotbackup it is an earlier release's, made from a table that may have
//! had fewer rows; and the kernel allows no second listener beside it. What it lacks can change a file with nobody seeing it. It
//! is found by running filters over the calls of the table, not by comparing instructions: another compiler may say the same in
//! another way.
//!
//! The session's memory tells by a [`fingerprint`] what its filter was made of. The first release that has its session in the target did
//! not tell; its filters are known ([`first`]).

use std::collections::HashSet;

use seccompiler::sock_filter;

use super::TABLE;
use super::filter::{USER_NOTIF, compile, emulate};
use super::ioctls::COMMANDS;
use super::row::{CREAT, HOT, Row, Shape, TRUNC, Test, When, bits};

/// In the place of a fingerprint: nobody has told.
pub const NOT_TOLD: u64 = 0;
/// The same: the filter may be one of several.
pub const IN_DOUBT: u64 = 1;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;
/// Vectors of arguments that each test of a row is tried with, beside all zeros and all ones.
const RANDOM: usize = 16;
/// Steps of a filter that are followed at most; the kernel allows 4096 instructions.
const STEPS: usize = 1 << 16;

/// What a filter is made of, in a number (FNV-1a).
pub fn fingerprint(program: &[sock_filter]) -> u64 {
    let bytes = program.iter().flat_map(|step| {
        let [code, k] = [u64::from(step.code), u64::from(step.k)];
        (code | u64::from(step.jt) << 16 | u64::from(step.jf) << 24 | k << 32).to_le_bytes()
    });
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    hash.max(IN_DOUBT + 1)
}

/// The filters of the first release that has its session in the target.
pub fn first(eight_bytes_unseen: bool) -> Vec<sock_filter> {
    const SHOWN: &[u8] = include_bytes!("first/shown.bpf");
    const UNSEEN: &[u8] = include_bytes!("first/unseen.bpf");
    let bytes = if eight_bytes_unseen { UNSEEN } else { SHOWN };
    let step = |step: &[u8; 8]| {
        let [a, b, jt, jf, k @ ..] = *step;
        sock_filter { code: u16::from_le_bytes([a, b]), jt, jf, k: u32::from_le_bytes(k) }
    };
    bytes.as_chunks().0.iter().map(step).collect()
}

/// What a session that tells this of its filter does not show, if that can be told without reading the filter.
pub fn unseen_by(told: u64, shape: Shape) -> Option<Vec<String>> {
    let eight_bytes_unseen = shape.eight_bytes_unseen;
    let is_one_of = |filters: [Vec<sock_filter>; 2]| filters.iter().any(|filter| fingerprint(filter) == told);
    let today = |unseen| compile(Shape { eight_bytes_unseen: unseen, ..shape }).unwrap_or_default();
    if is_one_of([false, true].map(today)) {
        return Some(Vec::new());
    }
    let is_first = told == NOT_TOLD || is_one_of([false, true].map(first));
    is_first.then(|| unseen(&[first(eight_bytes_unseen)], shape))
}

/// The calls that today's filter shows, and these of a target, which are all in force, neither show nor forbid.
pub fn unseen(filters: &[Vec<sock_filter>], shape: Shape) -> Vec<String> {
    let today = compile(shape).unwrap_or_default();
    let goes_unseen = |nr: u32, arch: u32, args: [u64; 6]| {
        emulate(&today, nr, arch, args) == Some(USER_NOTIF)
            && !filters.iter().any(|filter| emulate(filter, nr, arch, args).is_some_and(stops))
    };
    let mut found = Vec::new();
    for row in TABLE {
        let nr = row.nr as u32;
        match tests(row, shape) {
            Tests::NotShown => {}
            Tests::Always => {
                if !filters.iter().any(|filter| always_stops(filter, nr)) {
                    found.push(row.name.to_owned());
                }
            }
            Tests::Any(tests) => {
                let missing = tests.iter().filter(|test| vectors(test).any(|args| goes_unseen(nr, X86_64, args)));
                found.extend(missing.map(|test| name(row, test)));
            }
        }
    }
    found.dedup();
    if vectors(&[]).any(|args| (0..500).step_by(7).any(|nr| goes_unseen(nr, I386, args))) {
        found.push("calls of i386".into());
    }
    if vectors(&[]).any(|args| (0..500).step_by(7).any(|nr| goes_unseen(nr | X32_BIT, X86_64, args))) {
        found.push("calls of x32".into());
    }
    found
}

/// Whether a filter's answer keeps a call from running with nobody told. Of several filters the lowest answer counts, as a signed
/// number (seccomp(2)).
fn stops(answer: u32) -> bool {
    const ACTION: u32 = 0xffff_0000;
    (answer & ACTION).cast_signed() <= USER_NOTIF.cast_signed()
}

/// When a row's call is shown, as tests of which one must hold, each of several arguments.
enum Tests {
    NotShown,
    Always,
    Any(Vec<Vec<Test>>),
}

fn tests(row: &Row, shape: Shape) -> Tests {
    let Shape { eight_bytes_unseen, region } = shape;
    let each = |tests: &[Test]| Tests::Any(tests.iter().map(|test| vec![*test]).collect());
    match row.when {
        // From the region they pass; whence a call comes is nothing that is tried here.
        When::Always | When::UnlessEightBytes if region.is_some() && HOT.contains(&row.nr) => {
            Tests::Any(vec![Vec::new()])
        }
        When::ForTheNet if !eight_bytes_unseen => Tests::NotShown,
        When::Ends if !eight_bytes_unseen && region.is_none() => Tests::NotShown,
        When::ForTheTable(_) if region.is_none() => Tests::NotShown,
        When::ForTheTable(tests) if !tests.is_empty() => Tests::Any(vec![tests.to_vec()]),
        // Some are let pass, which today's filter tells.
        When::UnlessEightBytes if eight_bytes_unseen => Tests::Any(vec![Vec::new()]),
        When::Ends if row.nr == libc::SYS_close => Tests::Any(vec![Vec::new()]),
        When::Always | When::UnlessEightBytes | When::ForTheNet | When::Ends | When::ForTheTable(_) => Tests::Always,
        When::Any(tests) => each(tests),
        When::All(tests) => Tests::Any(vec![tests.to_vec()]),
        When::Opens(argument) => {
            let writes = [libc::O_WRONLY, libc::O_RDWR];
            let writes = writes.map(|mode| bits(argument, libc::O_ACCMODE as u32, mode as u32));
            let makes = [bits(argument, CREAT, CREAT), bits(argument, TRUNC, TRUNC)];
            each(&if eight_bytes_unseen { [&makes[..], &writes].concat() } else { makes.to_vec() })
        }
    }
}

/// Arguments for which a test holds, and that are anything else.
fn vectors(tests: &[Test]) -> impl Iterator<Item = [u64; 6]> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let random = std::iter::repeat_with(move || [(); 6].map(|()| random())).take(RANDOM);
    let plain = [[0; 6], [u64::MAX; 6], [5, 1, 2, 3, 4, 5], [u64::from(u32::MAX); 6]];
    plain.into_iter().chain(random).map(move |mut args| {
        for test in tests {
            let arg = &mut args[usize::from(test.argument)];
            *arg = *arg & !u64::from(test.mask) | u64::from(test.value);
        }
        args
    })
}

/// What a call is called; a command of ioctl(2) by its own name.
fn name(row: &Row, tests: &[Test]) -> String {
    let command = tests.first().filter(|_| row.nr == libc::SYS_ioctl);
    let command = command.and_then(|test| COMMANDS.iter().find(|command| command.number == test.value));
    command.map_or_else(|| row.name.to_owned(), |command| format!("ioctl({})", command.name))
}

/// A filter on its way, with what it knows: a call's number and architecture, and nothing of its arguments.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    at: usize,
    acc: Option<u32>,
    x: Option<u32>,
    scratch: [Option<u32>; 16],
}

/// Whether a filter stops call `nr` whatever its arguments are. What cannot be told counts as no.
fn always_stops(program: &[sock_filter], nr: u32) -> bool {
    let mut seen = HashSet::new();
    let mut open = vec![State { at: 0, acc: None, x: None, scratch: [None; 16] }];
    while let Some(state) = open.pop() {
        if !seen.insert(state.clone()) {
            continue;
        }
        let Some(step) = program.get(state.at).filter(|_| seen.len() < STEPS) else { return false };
        let mut next = State { at: state.at + 1, ..state };
        let cell = step.k as usize % 16;
        match step.code {
            0x06 if !stops(step.k) => return false,
            0x16 if !state.acc.is_some_and(stops) => return false,
            0x06 | 0x16 => continue,
            0x20 => {
                next.acc = match step.k {
                    0 => Some(nr),
                    4 => Some(X86_64),
                    _ => None,
                }
            }
            0x00 => next.acc = Some(step.k),
            0x01 => next.x = Some(step.k),
            0x02 => next.scratch[cell] = state.acc,
            0x03 => next.scratch[cell] = state.x,
            0x60 => next.acc = state.scratch[cell],
            0x61 => next.x = state.scratch[cell],
            0x07 => next.x = state.acc,
            0x87 => next.acc = state.x,
            0x05 => next.at += step.k as usize,
            code if code & 0x07 == 0x05 => {
                let operand = if code & 0x08 == 0 { Some(step.k) } else { state.x };
                let holds = state.acc.zip(operand).map(|(acc, operand)| match code & 0xf0 {
                    0x10 => acc == operand,
                    0x20 => acc > operand,
                    0x30 => acc >= operand,
                    _ => acc & operand != 0,
                });
                for way in [true, false].into_iter().filter(|way| holds.is_none_or(|holds| holds == *way)) {
                    let skipped = if way { step.jt } else { step.jf };
                    open.push(State { at: next.at + usize::from(skipped), ..next.clone() });
                }
                continue;
            }
            // Arithmetic on what is not known.
            _ => (next.acc, next.x) = (None, if step.code & 0x07 == 0x01 { None } else { state.x }),
        }
        open.push(next);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_NET: Shape = Shape { eight_bytes_unseen: false, region: None };
    const NET: Shape = Shape { eight_bytes_unseen: true, region: None };
    const HOT_NO_NET: Shape = Shape { region: Some(0x7f12_3456_0000), ..NO_NET };
    const SHAPES: [Shape; 4] = [NO_NET, NET, HOT_NO_NET, Shape { region: Some(0x10_0000), ..NET }];

    /// Today's filter without some instructions' effect: each return that shows lets pass.
    fn blinded(program: &[sock_filter]) -> Vec<sock_filter> {
        let step = |step: &sock_filter| match (step.code, step.k) {
            (0x06, USER_NOTIF) => sock_filter { k: 0x7fff_0000, ..step.clone() },
            _ => step.clone(),
        };
        program.iter().map(step).collect()
    }

    #[test]
    fn todays_filter_lacks_nothing() {
        for shape in SHAPES {
            let program = compile(shape).unwrap();
            assert_eq!(unseen_by(fingerprint(&program), shape), Some(Vec::new()), "{shape:?}");
            assert_eq!(unseen(&[program], shape), [""; 0], "{shape:?}");
        }
    }

    #[test]
    fn a_filter_that_shows_nothing_lacks_every_row() {
        for shape in SHAPES {
            let found = unseen(&[blinded(&compile(shape).unwrap())], shape);
            let rows = TABLE.iter().filter(|row| !matches!(tests(row, shape), Tests::NotShown));
            for row in rows.filter(|row| row.nr != libc::SYS_ioctl) {
                assert!(found.iter().any(|name| name == row.name), "{}: {found:?}", row.name);
            }
            for command in COMMANDS {
                assert!(found.contains(&format!("ioctl({})", command.name)), "{}", command.name);
            }
            assert!(found.contains(&"calls of i386".into()) && found.contains(&"calls of x32".into()));
        }
    }

    #[test]
    fn one_return_that_lets_pass_is_found_wherever_it_stands() {
        let program = compile(NET).unwrap();
        let returns = (0..program.len()).filter(|&at| (program[at].code, program[at].k) == (0x06, USER_NOTIF));
        for at in returns.step_by(3) {
            let mut one = program.clone();
            one[at] = blinded(&program[at..=at]).remove(0);
            // Some stand where no call comes: the compiler's own answer to a number that is none.
            let reached = TABLE.iter().any(|row| !always_stops_as(&program, &one, row.nr as u32));
            assert!(!reached || !unseen(&[one], NET).is_empty(), "instruction {at}");
        }
    }

    /// Whether two filters cannot be told apart by call `nr`.
    fn always_stops_as(a: &[sock_filter], b: &[sock_filter], nr: u32) -> bool {
        always_stops(a, nr) == always_stops(b, nr)
    }

    #[test]
    fn what_another_filter_forbids_does_not_go_unseen() {
        let nothing_shown = blinded(&compile(NO_NET).unwrap());
        let forbids_all = vec![sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x0005_0001 }];
        assert_eq!(unseen(&[nothing_shown, forbids_all], NO_NET), [""; 0]);
    }

    /// A target that was attached to by the first release, which did not tell of what its filter is made.
    #[test]
    fn the_first_releases_filters_are_known_and_lack_nothing_that_it_had() {
        for eight in [false, true] {
            let first = first(eight);
            assert_eq!(first.len(), if eight { 748 } else { 670 });
            let call = |nr: i64, args| emulate(&first, nr as u32, X86_64, args);
            assert_eq!(call(libc::SYS_pwrite64, [0; 6]), Some(USER_NOTIF));
            assert_eq!(call(libc::SYS_read, [0; 6]), Some(0x7fff_0000));
            let found = unseen_by(NOT_TOLD, if eight { NET } else { NO_NET }).expect("it is known");
            assert!(found.iter().all(|name| !["write", "pwrite64", "rename", "close"].contains(&&**name)), "{found:?}");
            assert_eq!(unseen_by(fingerprint(&first), if eight { NET } else { NO_NET }), Some(found));
        }
    }

    #[test]
    fn of_a_filter_that_nobody_knows_nothing_is_said() {
        assert_eq!([unseen_by(IN_DOUBT, NO_NET), unseen_by(12345, NET)], [None, None]);
    }
}
