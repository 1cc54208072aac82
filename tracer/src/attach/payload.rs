//! The injected code: a straight line of system calls that restores the thread by itself.
//!
//! ```text
//!   mmap(NULL, 2 pages, RW, PRIVATE|ANON)   -> r12     the tracer writes the filter there at the exit stop
//!   prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)             where the target lacks CAP_SYS_ADMIN
//!   seccomp(SET_MODE_FILTER, flags, r12)               the tracer reads the listener's number at the exit stop
//!   munmap(r12, 2 pages)
//!   restore every register used; jump back
//! ```
//!
//! All values are immediates, nothing touches the thread's stack: not its red zone, not what lies below it (in a
//! Go program that is another goroutine's memory). When the tracer dies at any instant the thread runs on to the
//! end of the line: with the pages unwritten, seccomp answers `EINVAL` and all is as it was.
//!
//! No instruction touches the flags: `mov`, `syscall` (which restores them) and `jmp` alone.

use crate::sys::trace::Registers;

/// Bytes mapped for the filter: two pages hold the header and about 1,000 instructions.
pub const MAP_BYTES: u64 = 8192;

/// A value for an argument register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(u64),
    /// The address that mmap returned.
    Page,
}

/// A system call to inject.
#[derive(Debug, Clone)]
pub struct Call {
    /// For messages.
    pub name: &'static str,
    /// Its number.
    pub nr: i64,
    /// Its arguments.
    pub args: Vec<Value>,
}

// Encodings of the registers that carry arguments, in order: rdi, rsi, rdx, r10, r8, r9.
const ARGUMENTS: [u8; 6] = [7, 6, 2, 10, 8, 9];
const RAX: u8 = 0;
const RCX: u8 = 1;
const R11: u8 = 11;
const R12: u8 = 12;

/// Assembles the code for `calls`, ending in a jump to the place where `resume` continues.
pub fn assemble(calls: &[Call], resume: &Registers) -> Vec<u8> {
    let mut code = Vec::with_capacity(256);
    for call in calls {
        for (&register, &value) in ARGUMENTS.iter().zip(&call.args) {
            match value {
                Value::Number(number) => load(&mut code, register, number),
                Value::Page => move_from_r12(&mut code, register),
            }
        }
        load(&mut code, RAX, call.nr as u64);
        code.extend([0x0f, 0x05]); // syscall
        if call.nr == libc::SYS_mmap {
            code.extend([0x49, 0x89, 0xc4]); // mov r12, rax
        }
    }
    let saved = [resume.rdi, resume.rsi, resume.rdx, resume.r10, resume.r8, resume.r9];
    for (register, value) in ARGUMENTS.into_iter().zip(saved) {
        load(&mut code, register, value);
    }
    for (register, value) in [(RCX, resume.rcx), (R11, resume.r11), (R12, resume.r12), (RAX, resume.rax)] {
        load(&mut code, register, value);
    }
    code.extend([0xff, 0x25, 0, 0, 0, 0]); // jmp [rip+0]
    code.extend(resume.rip.to_le_bytes());
    code
}

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

/// `mov register, r12`.
fn move_from_r12(code: &mut Vec<u8>, register: u8) {
    code.extend([0x4c + u8::from(register >= 8), 0x89, 0xe0 + (register & 7)]);
}

/// What the thread's registers must be when it goes on: an interrupted call is issued again, just as the kernel
/// would have done on the way out (arch_do_signal_or_restart).
pub fn resume_point(registers: &Registers) -> Registers {
    const RESTART_SYS: i64 = -512;
    const RESTART_NO_INTR: i64 = -513;
    const RESTART_NO_HAND: i64 = -514;
    const RESTART_BLOCK: i64 = -516;
    let mut resume = *registers;
    if (registers.orig_rax as i64) < 0 {
        return resume;
    }
    match registers.rax as i64 {
        RESTART_SYS | RESTART_NO_INTR | RESTART_NO_HAND => {
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
        move_from_r12(&mut code, 2); // mov rdx, r12
        move_from_r12(&mut code, 8); // mov r8, r12
        assert_eq!(
            code,
            [
                &[0xbf, 0x22, 0x11, 0, 0][..],
                &[0x41, 0xba, 5, 0, 0, 0],
                &[0x49, 0xb8, 255, 255, 255, 255, 255, 255, 255, 255],
                &[0x48, 0xba, 0, 0, 0, 0, 1, 0, 0, 0],
                &[0x4c, 0x89, 0xe2],
                &[0x4d, 0x89, 0xe0],
            ]
            .concat()
        );
    }
}
