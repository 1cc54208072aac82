//! The code that a patched call site is sent through: position-independent, copied into the target as it stands here.
//!
//! A site is `mov eax, nr; syscall`. Its `mov` becomes a jump to a stub of its own, and the stub comes back behind the `syscall`. rax, rcx
//! and r11 are dead at a `syscall`, and so are the flags; nothing else is touched, no stack and no red zone. Where anything is in
//! doubt, the stub goes back to the site's own `syscall`, which the filter shows.
//!
//! ```text
//!   0x000  direct      the call
//!   0x040  the entry   to one of the four, by the mode word
//!   0x080  the words   filled in for each site, see [`Words`]
//!   0x100  mark 0      count in; is the mode still this? look the descriptor up; mark; the call; count out
//!   0x200  mark 1      the same in the other epoch
//!   0x300  notify      back to the site's own syscall; and the two ways out of each mark
//! ```
//!
//! Counting in before the mode is read again is what makes grace exact: the locked instruction is a full barrier. So whoever changes
//! the mode, and *then* sees the counters of the other modes at zero, knows that no call of theirs is under way and none can begin
//! (`hot/grace.rs`). The way back belongs to its epoch by its address: a call that is interrupted and begun again, or
//! that takes an hour, still counts out where it counted in. The counter is chosen from rsp, which is the same
//! before and after.
//!
//! Whatever stands in the shared memory, a stub jumps only to one of its own four places, and touches only that memory:
//! the mode is masked, and numbers from there are bounded before use.

use zerocopy::{Immutable, IntoBytes};

/// How long a stub is.
pub const STUB: usize = 1024;
/// Where a site jumps to.
pub const ENTRY: u64 = 0x40;
/// Where the words stand.
pub const WORDS: usize = 0x80;

/// What a stub knows of its site and its target.
#[repr(C)]
#[derive(Debug, Clone, Copy, IntoBytes, Immutable)]
pub struct Words {
    /// Where the board is.
    pub board: u64,
    /// A word that is zero in a forked child.
    pub own: u64,
    /// Where the board's bits are.
    pub bits: u64,
    /// Behind the site.
    pub resume: u64,
    /// The site's own `syscall`.
    pub syscall: u64,
    /// The call's number.
    pub nr: u64,
}

/// What a stub does while tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Marks the blocks that a write at an offset may change: pwrite64(2).
    AtOffset,
    /// Makes the call if the descriptor is no file of ours, else notifies: write(2) and its kin.
    NoFile,
    /// Makes the call if nothing is known of the descriptor, else notifies: close(2).
    Close,
}

/// A stub for one site.
pub fn stub(kind: Kind, words: &Words) -> [u8; STUB] {
    // SAFETY: the three are constants of this program, made below, and nothing writes to them.
    let mut code = *unsafe {
        match kind {
            Kind::AtOffset => &HOTBACKUP_STUB_AT_OFFSET,
            Kind::NoFile => &HOTBACKUP_STUB_NO_FILE,
            Kind::Close => &HOTBACKUP_STUB_CLOSE,
        }
    };
    code[WORDS..WORDS + size_of::<Words>()].copy_from_slice(words.as_bytes());
    code
}

unsafe extern "C" {
    static HOTBACKUP_STUB_AT_OFFSET: [u8; STUB];
    static HOTBACKUP_STUB_NO_FILE: [u8; STUB];
    static HOTBACKUP_STUB_CLOSE: [u8; STUB];
}

// Labels: `k` is the stub, `e` the epoch.
core::arch::global_asm!(
    r#"
    .set BOARD_COUNTERS,    4096
    .set BOARD_DESCRIPTORS, 12288
    .set BOARD_MAPS,        77824
    .set DESCRIPTORS, 16384
    .set MAPS,        4096
    .set MOST_BLOCKS, 0x1fffffe
    .set BITS_MASK,   0x3ffff8

    // rcx: where this thread's counter is, from the first of its epoch.
    .macro HB_COUNTER
        imul    ecx, esp, -1640531535
        shr     ecx, 26
        shl     ecx, 6
    .endm

    // Not in a child that was forked inside, by a handler: it was its parent who was counted in.
    .macro HB_COUNT_OUT k, e
        mov     rcx, [rip + \k\()_own]
        cmp     dword ptr [rcx], 0
        je      2f
        HB_COUNTER
        mov     r11, [rip + \k\()_board]
        lock dec dword ptr [r11 + rcx + BOARD_COUNTERS + \e * 4096]
    2:
    .endm

    // Unless the descriptor has a map: the call, or notify.
    .macro HB_MARK_AT_OFFSET k, e
        mov     eax, edi
        cmp     eax, DESCRIPTORS
        jae     \k\()_leave\e
        mov     eax, [r11 + rax * 4 + BOARD_DESCRIPTORS]
        sub     eax, 2
        jae     3f
        inc     eax                     // it was 1: no file of ours
        jz      \k\()_call\e
        jmp     \k\()_leave\e
    3:  cmp     eax, MAPS
        jae     \k\()_leave\e
        shl     eax, 4
        lea     r11, [r11 + rax + BOARD_MAPS]
        mov     rcx, r10                // the first block, and the last
        lea     rax, [r10 + rdx - 1]
        shr     rcx, 16
        shr     rax, 16
        cmp     rax, [r11]              // within the map: no negative offset either
        jae     \k\()_leave\e
        sub     rax, rcx
        cmp     rax, 1                  // one block or two, and no overflow
        ja      \k\()_leave\e
        cmp     rcx, MOST_BLOCKS
        ja      \k\()_leave\e
        mov     r11d, [r11 + 8]
        and     r11d, BITS_MASK
        add     r11, [rip + \k\()_bits]
        bt      [r11], rcx
        jc      2f
        test    byte ptr [r11 - 8], 1   // the word before the bits: they are not for it to set
        jnz     \k\()_leave\e
        lock bts [r11], rcx
    2:  add     rcx, rax
        bt      [r11], rcx
        jc      \k\()_call\e
        test    byte ptr [r11 - 8], 1
        jnz     \k\()_leave\e
        lock bts [r11], rcx
    .endm

    // Unless this stands for the descriptor: notify.
    .macro HB_ONLY_IF k, e, entry
        mov     eax, edi
        cmp     eax, DESCRIPTORS
        jae     \k\()_leave\e
        cmp     dword ptr [r11 + rax * 4 + BOARD_DESCRIPTORS], \entry
        jne     \k\()_leave\e
    .endm

    .macro HB_MARK_NO_FILE k, e
        HB_ONLY_IF \k, \e, 1
    .endm

    .macro HB_MARK_CLOSE k, e
        HB_ONLY_IF \k, \e, 0
    .endm

    .macro HB_EPOCH k, e, how
        mov     rcx, [rip + \k\()_own]
        cmp     dword ptr [rcx], 0      // a forked child, whose descriptors are not in the table
        je      \k\()_notify
        HB_COUNTER
        lock inc dword ptr [r11 + rcx + BOARD_COUNTERS + \e * 4096]
        mov     eax, [r11]
        and     eax, 0x300
        cmp     eax, 0x100 + \e * 0x100
        jne     \k\()_leave\e
        \how    \k, \e
    \k\()_call\e:
        mov     eax, [rip + \k\()_nr]
        syscall
        jmp     \k\()_out\e
    .endm

    .macro HB_LEAVE k, e
    \k\()_out\e:
        HB_COUNT_OUT \k, \e
        jmp     [rip + \k\()_resume]
    \k\()_leave\e:
        HB_COUNT_OUT \k, \e
        jmp     \k\()_notify
    .endm

    .macro HB_STUB k, how
        .balign 64
        .globl  \k
    \k:
        mov     eax, [rip + \k\()_nr]
        syscall
        xor     ecx, ecx
        jmp     [rip + \k\()_resume]
        .org    \k + 0x40, 0xcc
        mov     r11, [rip + \k\()_board]
        mov     ecx, [r11]
        and     ecx, 0x300
        lea     rax, [rip + \k]
        add     rcx, rax
        jmp     rcx
        .org    \k + 0x80, 0xcc
    \k\()_board:    .quad 0
    \k\()_own:      .quad 0
    \k\()_bits:     .quad 0
    \k\()_resume:   .quad 0
    \k\()_syscall:  .quad 0
    \k\()_nr:       .quad 0
        .org    \k + 0x100, 0xcc
        HB_EPOCH \k, 0, \how
        .org    \k + 0x200, 0xcc
        HB_EPOCH \k, 1, \how
        .org    \k + 0x300, 0xcc
    \k\()_notify:
        mov     eax, [rip + \k\()_nr]
        xor     ecx, ecx
        jmp     [rip + \k\()_syscall]
        HB_LEAVE \k, 0
        HB_LEAVE \k, 1
        .org    \k + 0x400, 0xcc
    .endm

    .pushsection .rodata.hotbackup, "a"
    HB_STUB HOTBACKUP_STUB_AT_OFFSET, HB_MARK_AT_OFFSET
    HB_STUB HOTBACKUP_STUB_NO_FILE, HB_MARK_NO_FILE
    HB_STUB HOTBACKUP_STUB_CLOSE, HB_MARK_CLOSE
    .popsection
"#
);
