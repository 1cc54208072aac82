//! The injected code: a straight line of system calls that restores the thread by itself.
//!
//! ```text
//!   first                              second                                  third, once the keeper is there
//!   -----                              ------                                  -----
//!   mmap(PAGE, .., FIXED_NOREPLACE)    memfd_create, ftruncate, fcntl(seals)   prctl(NO_NEW_PRIVS)   where it must be
//!   restore what was used; jump back   fcntl(F_DUPFD) to a high number         seccomp(SET_MODE_FILTER, flags, PAGE)
//!                                      close of the low one, if that went well fcntl(F_DUPFD) to a high number
//!                                      the same with an eventfd                close of the low one, if that went well
//!                                      restore what was used; jump back        restore what was used; jump back
//! ```
//!
//! All values are immediates; nothing touches the thread's stack: not its red zone, not what lies below it (in a Go
//! program that is another goroutine's memory). The thread is stopped once for each line, for as long as it takes to
//! read and set its registers; nobody has to be there for the rest. The address of the page is chosen beforehand, so
//! that no result has to be fetched while the thread stands still.
//!
//! Results go to words of the page, and come from there as arguments. No instruction touches the flags: `mov`, `cqo`,
//! `jrcxz`, `jmp`, and `syscall`, which restores them. A line may have a new task make calls of its own: what keepers are born
//! by is drawn in `attach/birth/`.

use serde::{Deserialize, Serialize};

use crate::sys::trace::Registers;

/// What stands in the place of a result until there is one.
pub(crate) const PENDING: u64 = 0x5555_5555_5555_5555;

/// A system call to inject, with its arguments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Call {
    /// Its number.
    pub nr: i64,
    /// Its arguments.
    pub args: Vec<Value>,
    /// Where its result goes.
    pub result: Option<u64>,
    /// Where the lower half of its result goes, besides.
    pub lower: Option<u64>,
    /// Whether it is left out when the call before it has failed, whose result is then taken for its own.
    pub unless_failed: bool,
    /// It is a clone(2), and the new task makes these calls; the last of them is its end.
    pub child: Option<Vec<Call>>,
}

/// An argument.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Value {
    /// This number.
    Number(u64),
    /// The number that stands at this address by then.
    At(u64),
}

impl Value {
    /// The number, as far as it is known before the line runs.
    pub fn known_before(self) -> u64 {
        match self {
            Self::Number(number) => number,
            Self::At(_) => 0,
        }
    }
}

impl Call {
    /// A call with these arguments, whose result goes nowhere.
    pub fn new(nr: i64, args: impl IntoIterator<Item = u64>) -> Self {
        let args = args.into_iter().map(Value::Number).collect();
        Self { nr, args, result: None, lower: None, unless_failed: false, child: None }
    }

    /// The same, with `first` as another first argument.
    pub fn of(nr: i64, first: Value, others: impl IntoIterator<Item = u64>) -> Self {
        let others = others.into_iter().map(Value::Number);
        let args = std::iter::once(first).chain(others).collect();
        Self { args, ..Self::new(nr, []) }
    }

    /// The same, left out when the call before it has failed.
    pub fn unless_failed(self) -> Self {
        Self { unless_failed: true, ..self }
    }

    /// This call and those that new tasks make.
    pub fn all(&self) -> Vec<&Self> {
        let children = self.child.iter().flatten().flat_map(Self::all);
        std::iter::once(self).chain(children).collect()
    }

    /// Its result goes to `address`.
    pub fn into(mut self, address: u64) -> Self {
        self.result = Some(address);
        self
    }
}

// Encodings of the registers that carry arguments, in order: rdi, rsi, rdx, r10, r8, r9.
const ARGUMENTS: [u8; 6] = [7, 6, 2, 10, 8, 9];
const RAX: u8 = 0;
const RCX: u8 = 1;
const R11: u8 = 11;

/// Assembles the code for `calls`, ending in a jump to the place where `resume` continues.
pub fn assemble(calls: &[Call], resume: &Registers) -> Vec<u8> {
    let mut code = assemble_all(calls);
    let saved = [resume.rdi, resume.rsi, resume.rdx, resume.r10, resume.r8, resume.r9];
    for (register, value) in ARGUMENTS.into_iter().zip(saved) {
        load(&mut code, register, value);
    }
    for (register, value) in [(RCX, resume.rcx), (R11, resume.r11), (RAX, resume.rax)] {
        load(&mut code, register, value);
    }
    code.extend([0xff, 0x25, 0, 0, 0, 0]); // jmp [rip+0]
    code.extend(resume.rip.to_le_bytes());
    code
}

fn assemble_all(calls: &[Call]) -> Vec<u8> {
    let mut code = Vec::with_capacity(1024);
    for call in calls {
        let one = assemble_call(call);
        if call.unless_failed {
            code.extend([0x48, 0x99]); // cqo: rdx is all ones where the last result is negative, else zero
            code.extend([0x48, 0x89, 0xd1]); // mov rcx, rdx
            code.extend([0xe3, 5]); // jrcxz over the jump
            jump_over(&mut code, &one);
        }
        code.extend(one);
        if let Some(address) = call.result {
            code.extend([0x48, 0xa3]); // movabs [address], rax
            code.extend(address.to_le_bytes());
        }
        if let Some(address) = call.lower {
            code.push(0xa3); // movabs [address], eax
            code.extend(address.to_le_bytes());
        }
    }
    code
}

/// `jmp` over the code that follows.
fn jump_over(code: &mut Vec<u8>, over: &[u8]) {
    code.push(0xe9);
    code.extend((over.len() as u32).to_le_bytes());
}

fn assemble_call(call: &Call) -> Vec<u8> {
    let mut code = Vec::with_capacity(64);
    for (&register, &value) in ARGUMENTS.iter().zip(&call.args) {
        match value {
            Value::Number(number) => load(&mut code, register, number),
            Value::At(address) => {
                code.extend([0x48, 0xa1]); // movabs rax, [address]
                code.extend(address.to_le_bytes());
                code.extend([0x48 + u8::from(register >= 8), 0x89, 0xc0 + (register & 7)]); // mov register, rax
            }
        }
    }
    load(&mut code, RAX, call.nr as u64);
    code.extend([0x0f, 0x05]); // syscall
    if let Some(calls) = &call.child {
        let mut child = assemble_all(calls);
        child.extend([0x0f, 0x0b]); // ud2: it does not come here
        code.extend([0x48, 0x89, 0xc1]); // mov rcx, rax: zero in the new task
        code.extend([0xe3, 5]); // jrcxz to what it does
        jump_over(&mut code, &child);
        code.extend(child);
    }
    code
}

/// How long the code for these calls is at the most, wherever it continues.
pub fn longest(calls: &[Call]) -> usize {
    const RESTORE: usize = 9 * 10 + 14; // nine registers, and the jump with its address
    assemble(calls, &NOWHERE).len() + RESTORE
}

/// All zeros: the shortest code.
const NOWHERE: Registers = Registers {
    r15: 0,
    r14: 0,
    r13: 0,
    r12: 0,
    rbp: 0,
    rbx: 0,
    r11: 0,
    r10: 0,
    r9: 0,
    r8: 0,
    rax: 0,
    rcx: 0,
    rdx: 0,
    rsi: 0,
    rdi: 0,
    orig_rax: 0,
    rip: 0,
    cs: 0,
    eflags: 0,
    rsp: 0,
    ss: 0,
    fs_base: 0,
    gs_base: 0,
    ds: 0,
    es: 0,
    fs: 0,
    gs: 0,
};

/// `mov register, number`, in 5 or 6 bytes where the upper half is zero, else 10.
fn load(code: &mut Vec<u8>, register: u8, number: u64) {
    let extended = register >= 8;
    if let Ok(short) = u32::try_from(number) {
        if extended {
            code.push(0x41);
        }
        code.push(0xb8 + (register & 7));
        code.extend(short.to_le_bytes());
    } else {
        code.extend([0x48 + u8::from(extended), 0xb8 + (register & 7)]);
        code.extend(number.to_le_bytes());
    }
}

/// What the thread's registers must be when it goes on: an interrupted call is issued again, just as the kernel
/// would have done on the way out (arch_do_signal_or_restart).
pub fn resume_point(registers: &Registers) -> Registers {
    const RESTART_SYS: i64 = -512;
    const RESTART_NO_INTR: i64 = -513;
    const RESTART_NO_HAND: i64 = -514;
    const RESTART_BLOCK: i64 = -516;
    const INTERRUPTED: i64 = -(libc::EINTR as i64);
    let mut resume = *registers;
    if (registers.orig_rax as i64) < 0 {
        return resume;
    }
    match registers.rax as i64 {
        // EINTR: no signal is pending, so our stop alone was the reason.
        RESTART_SYS | RESTART_NO_INTR | RESTART_NO_HAND | INTERRUPTED => {
            resume.rax = registers.orig_rax;
            resume.rip -= 2;
        }
        RESTART_BLOCK => {
            resume.rax = libc::SYS_restart_syscall as u64;
            resume.rip -= 2;
        }
        _ => {}
    }
    resume
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_encoded_as_the_processor_reads_them() {
        let mut code = Vec::new();
        load(&mut code, 7, 0x1122); // mov edi, 0x1122
        load(&mut code, 10, 5); // mov r10d, 5
        load(&mut code, 8, u64::MAX); // mov r8, -1
        load(&mut code, 2, 1 << 32); // mov rdx, 0x100000000
        assert_eq!(
            code,
            [
                &[0xbf, 0x22, 0x11, 0, 0][..],
                &[0x41, 0xba, 5, 0, 0, 0],
                &[0x49, 0xb8, 255, 255, 255, 255, 255, 255, 255, 255],
                &[0x48, 0xba, 0, 0, 0, 0, 1, 0, 0, 0],
            ]
            .concat()
        );
    }
}
