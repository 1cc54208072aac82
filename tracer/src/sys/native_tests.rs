//! Runs a stub in this very process, for its tests.

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::trampoline::STUB;

/// What a call returns that went back to the site's own `syscall`.
pub const NOTIFIED: i64 = -123_456;

const LENGTH: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// The four arguments as a call has them, the board where an entry finds it, and to where the fifth says: `mov r10, rcx; mov r11, r9;
/// jmp r8`.
const BEGIN: (usize, [u8; 9]) = (2048, [0x49, 0x89, 0xca, 0x4d, 0x89, 0xcb, 0x41, 0xff, 0xe0]);
/// Behind the site: `ret`.
const RESUME: (usize, [u8; 1]) = (2064, [0xc3]);
/// The site's own: `mov rax, NOTIFIED; ret`.
const SYSCALL: usize = 2080;

/// Memory for one stub and its site.
pub struct Native(NonNull<c_void>);

impl Native {
    /// With a site and no stub yet.
    pub fn new() -> Self {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE | ProtFlags::PROT_EXEC;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe { mmap_anonymous(None, LENGTH, prot, MapFlags::MAP_PRIVATE) };
        let this = Self(page.expect("memory that may be executed"));
        this.write(BEGIN.0, &BEGIN.1);
        this.write(RESUME.0, &RESUME.1);
        this.write(SYSCALL, &[0x48, 0xc7, 0xc0]);
        this.write(SYSCALL + 3, &(NOTIFIED as i32).to_le_bytes());
        this.write(SYSCALL + 7, &[0xc3]);
        this
    }

    fn at(&self, offset: usize) -> u64 {
        self.0.as_ptr() as u64 + offset as u64
    }

    /// Behind its site.
    pub fn resume(&self) -> u64 {
        self.at(RESUME.0)
    }

    /// Its site's own `syscall`.
    pub fn syscall(&self) -> u64 {
        self.at(SYSCALL)
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= LENGTH.get());
        // SAFETY: within the mapping, which nobody else knows of.
        unsafe { self.0.cast::<u8>().as_ptr().add(offset).copy_from(bytes.as_ptr(), bytes.len()) };
    }

    /// Makes a call through a stub, from `entry` on, as one who has found the board there.
    pub fn call(&self, code: &[u8; STUB], entry: u64, board: u64, args: [u64; 4]) -> i64 {
        self.write(0, code);
        type Begin = extern "C" fn(u64, u64, u64, u64, u64, u64) -> i64;
        // SAFETY: there stands a function of this form, as above; what it jumps to is a stub, which leaves all registers and the stack
        // as a function must, and comes to one of the two ends. (One with a fault may not: that is what is tested, in a process of its
        // own.)
        let begin = unsafe { std::mem::transmute::<*const (), Begin>(self.at(BEGIN.0) as *const ()) };
        begin(args[0], args[1], args[2], args[3], self.at(entry as usize), board)
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: it was made by `new`, and nothing of it is used any more.
        let _ = unsafe { munmap(self.0, LENGTH.get()) };
    }
}
