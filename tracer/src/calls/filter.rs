//! The filter: which calls stop and are shown to the listener.
//!
//! ```text
//!   x32 call (bit 30 of the number set) ........ notify     (prologue, ours)
//!   one of six calls, from the region of our code  allow   (ours; only where there is one)
//!   jump to the group of the call's number                  (ours)
//!   foreign architecture ........................ notify     (seccompiler's KILL, rewritten)
//!   a row of the table whose argument test holds  notify     (seccompiler's Trace, rewritten)
//!   anything else ............................... allow
//! ```
//!
//! seccompiler 0.5 cannot return `SECCOMP_RET_USER_NOTIF`, so the program is compiled with a `Trace` action of
//! a known number, and that return value is rewritten. It compares the numbers one by one; and when a filter is
//! installed, the kernel runs it once for every number there is, with the thread stopped, to learn which are always
//! allowed. So the table is compiled in groups of neighbouring numbers, which took that from 1 ms to a fraction. A call of another architecture is never killed: that
//! would be harm.

use std::collections::BTreeMap;

use hotbackup_event::failpoint::is_left_out;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::TABLE;
use super::row::{CREAT, HOT, Shape, TRUNC, Test, When, bits};
use crate::shared::board::REGION_BYTES;

/// `SECCOMP_RET_USER_NOTIF`, 5.0.
pub const USER_NOTIF: u32 = 0x7fc0_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const TRACE: u32 = 0x7ff0_0000;
const MARKER: u32 = 0x6b70;
const X32_BIT: u32 = 0x4000_0000;
/// A close(2) with this in the upper half of its argument, which the kernel does not look at, is not shown: it is one that we
/// inject, before anybody is there to answer. (A program that does the same hides closes from the net under its own writes.)
pub const UNSHOWN_CLOSE: u32 = 0x6b70_686f;
/// Rows in a group.
const GROUP: usize = 8;

/// Why the table did not compile; a bug, since the table is ours.
#[derive(Debug, thiserror::Error)]
#[error("the system call filter could not be compiled: {0}")]
pub struct CompileError(#[from] seccompiler::BackendError);

/// Compiles the table into a BPF program.
///
/// # Errors
/// When the table does not compile.
pub fn compile(shape: Shape) -> Result<BpfProgram, CompileError> {
    let mut rules = BTreeMap::new();
    for row in TABLE.iter().filter(|row| !is_left_out(row.name)) {
        if let Some(rule) = rules_of(row.when, shape)? {
            rules.insert(row.nr, rule);
        }
    }
    if let Some(rule) = rules.get_mut(&libc::SYS_close) {
        let ours = u64::from(UNSHOWN_CLOSE) << 32;
        let bound = |op, bound| SeccompRule::new(vec![SeccompCondition::new(0, Len::Qword, op, bound)?]);
        *rule = vec![bound(Op::Lt, ours)?, bound(Op::Gt, ours | u64::from(u32::MAX))?];
    }
    let mut groups = Vec::new();
    while let Some((&first, _)) = rules.iter().nth(GROUP) {
        let rest = rules.split_off(&first);
        groups.push(compile_group(std::mem::replace(&mut rules, rest))?);
    }
    groups.push(compile_group(rules)?);
    let (starts, programs): (Vec<i64>, Vec<BpfProgram>) = groups.into_iter().unzip();
    let dispatch = dispatch(&starts, &programs);
    let passes = shape.region.map(passes).unwrap_or_default();
    Ok(prologue().into_iter().chain(passes).chain(dispatch).chain(programs.into_iter().flatten()).collect())
}

/// Lets the calls of [`HOT`] pass that come from the region of code at `region`. The call's number is loaded, before and after.
/// Only for those calls is the instruction pointer looked at: the kernel remembers which of the others are always allowed
/// (`seccomp_is_const_allow`), and does so only where nothing but number and architecture is loaded on their way.
fn passes(region: u64) -> BpfProgram {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const LESS: u16 = (libc::BPF_ALU | libc::BPF_SUB | libc::BPF_K) as u16;
    const ALWAYS: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const ALLOW: u32 = 0x7fff_0000;
    const ARCHITECTURE: u32 = 4;
    const POINTER: u32 = 8;
    const X86_64: u32 = 0xc000_003e;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let asks = [
        step(LOAD, 0, 0, ARCHITECTURE),
        step(EQUAL, 0, 6, X86_64),
        step(LOAD, 0, 0, POINTER + 4),
        step(EQUAL, 0, 4, (region >> 32) as u32),
        step(LOAD, 0, 0, POINTER),
        step(LESS, 0, 0, region as u32),
        step(AT_LEAST, 1, 0, REGION_BYTES as u32),
        step(RETURN, 0, 0, ALLOW),
        step(LOAD, 0, 0, 0),
    ];
    let count = HOT.len() as u8;
    let mut all: BpfProgram = (0..count).map(|n| step(EQUAL, count - n, 0, HOT[usize::from(n)] as u32)).collect();
    all.push(step(ALWAYS, 0, 0, asks.len() as u32));
    all.extend(asks);
    all
}

/// Jumps to the program of the group that the call's number, which is loaded, belongs to.
fn dispatch(starts: &[i64], programs: &[BpfProgram]) -> BpfProgram {
    let count = starts.len();
    let mut jumps = Vec::with_capacity(2 * count);
    // From the last group down: the first one whose numbers begin at or below this one. The first group takes the rest.
    for group in (0..count).rev() {
        let after = 2 * group; // instructions of the dispatch behind this pair
        let skipped: usize = programs[..group].iter().map(Vec::len).sum();
        let start = if group == 0 { 0 } else { starts[group] as u32 };
        jumps.push(sock_filter { code: (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16, jt: 0, jf: 1, k: start });
        let distance = (after + skipped) as u32;
        jumps.push(sock_filter { code: (libc::BPF_JMP | libc::BPF_JA) as u16, jt: 0, jf: 0, k: distance });
    }
    jumps
}

/// One group's first number, and its program.
fn compile_group(rules: BTreeMap<i64, Vec<SeccompRule>>) -> Result<(i64, BpfProgram), CompileError> {
    let start = rules.keys().next().copied().unwrap_or(0);
    let notify = SeccompAction::Trace(MARKER);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, notify, TargetArch::x86_64)?;
    let mut program: BpfProgram = filter.try_into()?;
    for instruction in &mut program {
        let returns = instruction.code == (libc::BPF_RET | libc::BPF_K) as u16;
        if returns && (instruction.k == TRACE | MARKER || instruction.k == KILL_PROCESS) {
            instruction.k = USER_NOTIF;
        }
    }
    Ok((start, program))
}

/// A row's rules, of which any must hold; no rule at all means always. `None`: the row is not in the filter.
fn rules_of(when: When, shape: Shape) -> Result<Option<Vec<SeccompRule>>, seccompiler::BackendError> {
    let Shape { eight_bytes_unseen, region } = shape;
    let condition = |test: &Test| {
        SeccompCondition::new(test.argument, Len::Dword, Op::MaskedEq(u64::from(test.mask)), u64::from(test.value))
    };
    let all = |tests: &[Test]| SeccompRule::new(tests.iter().map(condition).collect::<Result<_, _>>()?);
    Ok(Some(match when {
        When::Always => Vec::new(),
        When::Any(tests) => tests.iter().map(|test| all(std::slice::from_ref(test))).collect::<Result<_, _>>()?,
        When::All(tests) => vec![all(tests)?],
        When::Opens(argument) => {
            let mut tests = vec![bits(argument, CREAT, CREAT), bits(argument, TRUNC, TRUNC)];
            if eight_bytes_unseen {
                let access =
                    [libc::O_WRONLY, libc::O_RDWR].map(|mode| bits(argument, libc::O_ACCMODE as u32, mode as u32));
                tests.extend(access);
            }
            tests.iter().map(|test| all(std::slice::from_ref(test))).collect::<Result<_, _>>()?
        }
        When::UnlessEightBytes if eight_bytes_unseen => {
            vec![SeccompRule::new(vec![SeccompCondition::new(2, Len::Qword, Op::Ne, 8)?])?]
        }
        When::ForTheNet if !eight_bytes_unseen => return Ok(None),
        When::Ends if !eight_bytes_unseen && region.is_none() => return Ok(None),
        When::ForTheTable(_) if region.is_none() => return Ok(None),
        When::ForTheTable(tests) if !tests.is_empty() => vec![all(tests)?],
        When::UnlessEightBytes | When::ForTheNet | When::Ends | When::ForTheTable(_) => Vec::new(),
    }))
}

/// Shows every x32 call: those have the same architecture, and numbers of their own from bit 30 on.
fn prologue() -> [sock_filter; 4] {
    let load_number = sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: 0 };
    let is_x32 = sock_filter { code: (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16, jt: 0, jf: 2, k: X32_BIT };
    // -1 is no x32 call: a tracer uses it to skip a call.
    let is_skipped =
        sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 1, jf: 0, k: u32::MAX };
    let notify = sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: USER_NOTIF };
    [load_number, is_x32, is_skipped, notify]
}

/// Whether a filter begins as ours do, in whatever release.
pub fn begins_as_ours(program: &[sock_filter]) -> bool {
    let ours = prologue();
    program.len() > ours.len() && program[..ours.len()] == ours
}

/// Runs a filter's program as the kernel would, and returns its answer; `None` when it holds an instruction that is not
/// modelled here (seccomp_check_filter in the kernel lists those that may stand in a filter).
pub fn emulate(program: &[sock_filter], nr: u32, arch: u32, args: [u64; 6]) -> Option<u32> {
    emulate_at(program, 0, nr, arch, args)
}

/// The same for a call that comes from `pointer`.
fn emulate_at(program: &[sock_filter], pointer: u64, nr: u32, arch: u32, args: [u64; 6]) -> Option<u32> {
    let mut data = [0u8; 64];
    data[8..16].copy_from_slice(&pointer.to_le_bytes());
    data[0..4].copy_from_slice(&nr.to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    for (index, arg) in args.iter().enumerate() {
        data[16 + 8 * index..24 + 8 * index].copy_from_slice(&arg.to_le_bytes());
    }
    let (mut at, mut acc, mut x, mut scratch) = (0usize, 0u32, 0u32, [0u32; 16]);
    loop {
        let step = program.get(at)?;
        let jump = |taken: bool| 1 + usize::from(if taken { step.jt } else { step.jf });
        at += match step.code {
            0x20 => {
                let offset = step.k as usize;
                acc = u32::from_le_bytes(data.get(offset..offset + 4)?.try_into().ok()?);
                1
            }
            0x05 => 1 + step.k as usize,
            0x15 => jump(acc == step.k),
            0x1d => jump(acc == x),
            0x25 => jump(acc > step.k),
            0x35 => jump(acc >= step.k),
            0x45 => jump(acc & step.k != 0),
            0x06 => return Some(step.k),
            0x16 => return Some(acc),
            code => {
                match code {
                    0x00 => acc = step.k,
                    0x01 => x = step.k,
                    0x02 => *scratch.get_mut(step.k as usize)? = acc,
                    0x03 => *scratch.get_mut(step.k as usize)? = x,
                    0x04 => acc = acc.wrapping_add(step.k),
                    0x07 => x = acc,
                    0x14 => acc = acc.wrapping_sub(step.k),
                    0x44 => acc |= step.k,
                    0x54 => acc &= step.k,
                    0x60 => acc = *scratch.get(step.k as usize)?,
                    0x61 => x = *scratch.get(step.k as usize)?,
                    0x64 => acc = acc.checked_shl(step.k).unwrap_or(0),
                    0x74 => acc = acc.checked_shr(step.k).unwrap_or(0),
                    0x87 => acc = x,
                    _ => return None,
                }
                1
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: &[sock_filter], nr: u32, arch: u32, args: [u64; 6]) -> u32 {
        emulate(program, nr, arch, args).expect("only instructions that are modelled")
    }

    const NET: Shape = Shape { eight_bytes_unseen: true, region: None };
    const REGION: u64 = 0x7f12_ffff_0000;
    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = 0x7fff_0000;

    #[test]
    fn an_eight_byte_write_is_unseen_only_with_the_exception_and_its_net() {
        let opens = [libc::AT_FDCWD as u64, 0, libc::O_RDWR as u64, 0, 0, 0];
        for unseen in [true, false] {
            let program = compile(Shape { eight_bytes_unseen: unseen, region: None }).unwrap();
            let call = |nr: i64, args: [u64; 6]| run(&program, nr as u32, X86_64, args);
            let shown_without = if unseen { ALLOW } else { USER_NOTIF };
            let shown_with = if unseen { USER_NOTIF } else { ALLOW };
            assert_eq!(call(libc::SYS_write, [7, 0, 8, 0, 0, 0]), shown_without);
            assert_eq!(call(libc::SYS_write, [7, 0, 9, 0, 0, 0]), USER_NOTIF);
            assert_eq!(call(libc::SYS_write, [7, 0, 8 | 1 << 32, 0, 0, 0]), USER_NOTIF);
            assert_eq!(call(libc::SYS_lseek, [7, 0, 0, 0, 0, 0]), shown_with);
            assert_eq!(call(libc::SYS_openat, opens), shown_with);
        }
    }

    #[test]
    fn a_close_that_we_inject_is_not_shown_and_any_other_is() {
        let program = compile(NET).unwrap();
        let close = |number: u64| run(&program, libc::SYS_close as u32, X86_64, [number, 0, 0, 0, 0, 0]);
        let ours = u64::from(UNSHOWN_CLOSE) << 32;
        for number in [0, 7, u64::from(u32::MAX)] {
            assert_eq!([close(ours | number), close(number)], [ALLOW, USER_NOTIF]);
        }
        assert_eq!([close(ours - 1), close(ours + (1 << 32)), close(u64::MAX)], [USER_NOTIF; 3]);
    }

    #[test]
    fn reads_cost_nothing() {
        let program = compile(Shape::default()).unwrap();
        let call = |nr: i64, args: [u64; 6]| run(&program, nr as u32, X86_64, args);
        assert_eq!(call(libc::SYS_read, [3, 0, 8, 0, 0, 0]), ALLOW);
        assert_eq!(call(libc::SYS_fsync, [3, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(call(libc::SYS_openat, [0, 0, libc::O_RDWR as u64, 0, 0, 0]), ALLOW);
        assert_eq!(call(libc::SYS_openat, [0, 0, libc::O_CREAT as u64, 0, 0, 0]), USER_NOTIF);
        assert_eq!(call(libc::SYS_openat, [0, 0, libc::O_TRUNC as u64, 0, 0, 0]), USER_NOTIF);
        assert_eq!(call(libc::SYS_mmap, [0, 0, 3, libc::MAP_PRIVATE as u64, 3, 0]), ALLOW);
        assert_eq!(call(libc::SYS_mmap, [0, 0, 3, libc::MAP_SHARED as u64, 3, 0]), USER_NOTIF);
        assert_eq!(call(libc::SYS_mmap, [0, 0, 3, (libc::MAP_SHARED | libc::MAP_ANONYMOUS) as u64, 0, 0]), ALLOW);
        assert_eq!(call(libc::SYS_mmap, [0, 0, 1, libc::MAP_SHARED as u64, 3, 0]), ALLOW);
    }

    #[test]
    fn every_row_is_shown_and_nothing_else() {
        let shown_with =
            |program: &[sock_filter], nr: i64, args: [u64; 6]| run(program, nr as u32, X86_64, args) == USER_NOTIF;
        let program = compile(Shape { region: Some(REGION), ..NET }).unwrap();
        for nr in 0..600 {
            let row = crate::calls::row(nr);
            let tried =
                [[0; 6], [0, !0, !0, 1, 0, 0], [0, 0x4004_9409, 0, 0, 0, 0], [0, 0, 9, 9, 0, 0], [5, 0, 0, 0, 0, 0]];
            let quotas = [[0x8000_0201, 0, 0, 0, 0, 0], [0, 0x8000_0201, 0, 0, 0, 0]];
            let table = [
                [u64::from(libc::CLONE_FILES as u32), libc::F_SETFL as u64, 0, 0, 0, 0],
                [libc::CLONE_VM as u64, 0, 0, 0, 0, 0],
            ];
            let sometimes = tried.into_iter().chain(quotas).chain(table).any(|args| shown_with(&program, nr, args));
            assert_eq!(sometimes, row.is_some(), "call {nr}, {:?}", row.map(|row| row.name));
        }
    }

    #[test]
    fn advice_that_changes_no_file_costs_nothing() {
        let program = compile(Shape::default()).unwrap();
        let call = |nr: i64, args: [u64; 6]| run(&program, nr as u32, X86_64, args);
        for advice in [libc::MADV_NORMAL, libc::MADV_DONTNEED, libc::MADV_FREE, libc::MADV_HUGEPAGE] {
            assert_eq!(call(libc::SYS_madvise, [0, 4096, advice as u64, 0, 0, 0]), ALLOW, "{advice}");
            assert_eq!(call(libc::SYS_process_madvise, [3, 0, 1, advice as u64, 0, 0]), ALLOW, "{advice}");
        }
        assert_eq!(call(libc::SYS_madvise, [0, 4096, libc::MADV_REMOVE as u64, 0, 0, 0]), USER_NOTIF);
        assert_eq!(call(libc::SYS_process_madvise, [3, 0, 1, libc::MADV_REMOVE as u64, 0, 0]), USER_NOTIF);
    }

    #[test]
    fn only_six_calls_pass_and_only_from_the_region() {
        let with = compile(Shape { region: Some(REGION), ..NET }).unwrap();
        let without = compile(NET).unwrap();
        let args = [7, 0, 9, 0, 0, 0];
        for nr in 0..470 {
            let at = |pointer| emulate_at(&with, pointer, nr, X86_64, args).unwrap();
            let is_hot = HOT.contains(&i64::from(nr));
            let elsewhere = at(0x1234);
            let shown = run(&without, nr, X86_64, args);
            assert!(
                elsewhere == shown
                    || crate::calls::row(i64::from(nr)).is_some_and(|row| matches!(row.when, When::ForTheTable(_))),
                "{nr}"
            );
            for pointer in [REGION, REGION + 0xffff, REGION + 0x8000] {
                assert_eq!(at(pointer), if is_hot { ALLOW } else { elsewhere }, "{nr} at {pointer:#x}");
            }
            let around = [REGION - 1, REGION + 0x1_0000, REGION ^ 1 << 32, REGION & 0xffff_ffff, 0];
            assert!(around.into_iter().all(|pointer| at(pointer) == elsewhere), "{nr}");
            assert_eq!(emulate_at(&with, REGION, nr, I386, args), Some(USER_NOTIF));
        }
    }

    #[test]
    fn foreign_calls_are_shown_and_never_killed() {
        let program = compile(Shape::default()).unwrap();
        assert_eq!(run(&program, 4, I386, [0; 6]), USER_NOTIF);
        assert_eq!(run(&program, X32_BIT | 1, X86_64, [0; 6]), USER_NOTIF);
        assert_eq!(run(&program, u32::MAX, X86_64, [0; 6]), ALLOW);
        assert!(program.iter().all(|step| step.code != 6 || step.k != KILL_PROCESS));
    }
}
