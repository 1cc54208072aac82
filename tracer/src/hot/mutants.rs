//! Stubs with one fault each (fail point `site.NAME:mutate`), to prove that the tests notice it: an instruction that is left out, a wrong
//! register, a wrong shift, a wrong bound. The bytes are those of the instructions in `sys/trampoline.rs`; where one is not found, the
//! stubs have changed and the mutant is to be written anew.

use hotbackup_event::failpoint;

use crate::sys::trampoline::{Kind, STUB, WORDS, Words};

const NOP: u8 = 0x90;

/// What is looked for, and what is written in its place and behind it.
type Change = (&'static [u8], &'static [u8]);

/// What is changed, wherever it is found in a stub: in both epochs.
fn changes(mutant: &str) -> (&'static [Kind], &'static [Change]) {
    use Kind::{AtOffset, Close, NoFile};
    const ALL: &[Kind] = &[AtOffset, NoFile, Close];
    const MARKING: &[Kind] = &[AtOffset];
    const N: u8 = NOP;
    match mutant {
        // lock bts [r11], rcx; add rcx, rax
        "first-mark-left-out" => {
            (MARKING, &[(&[0xf0, 0x49, 0x0f, 0xab, 0x0b, 0x48, 0x01, 0xc1], &[N, N, N, N, N, 0x48, 0x01, 0xc1])])
        }
        // lock bts [r11], rcx; mov eax, [nr]
        "second-mark-left-out" => {
            (MARKING, &[(&[0xf0, 0x49, 0x0f, 0xab, 0x0b, 0x8b, 0x05], &[N, N, N, N, N, 0x8b, 0x05])])
        }
        // test byte ptr [r11 - 8], 1; jnz
        "seal-not-checked" => (
            MARKING,
            &[(&[0x41, 0xf6, 0x43, 0xf8, 0x01, 0x0f, 0x85], &[0x41, 0xf6, 0x43, 0xf8, 0x01, N, N, N, N, N, N])],
        ),
        "wrong-seal" => (MARKING, &[(&[0x41, 0xf6, 0x43, 0xf8, 0x01], &[0x41, 0xf6, 0x43, 0xf0, 0x01])]),
        // add rcx, rax; bt
        "second-block-left-out" => (MARKING, &[(&[0x48, 0x01, 0xc1, 0x49, 0x0f, 0xa3], &[N, N, N, 0x49, 0x0f, 0xa3])]),
        // shr rcx, 16; shr rax, 16
        "wrong-shift" => (
            MARKING,
            &[(&[0x48, 0xc1, 0xe9, 0x10, 0x48, 0xc1, 0xe8, 0x10], &[0x48, 0xc1, 0xe9, 0x11, 0x48, 0xc1, 0xe8, 0x11])],
        ),
        // mov eax, edi; cmp eax, DESCRIPTORS: edx
        "wrong-register-for-the-descriptor" => (MARKING, &[(&[0x89, 0xf8, 0x3d], &[0x89, 0xd0, 0x3d])]),
        // mov eax, [r11 + rax * 4 + BOARD_DESCRIPTORS]: rax * 8
        "wrong-place-of-the-entries" => (MARKING, &[(&[0x41, 0x8b, 0x84, 0x83], &[0x41, 0x8b, 0x84, 0xc3])]),
        // cmp rax, 1; ja
        "two-blocks-bound-left-out" => {
            (MARKING, &[(&[0x48, 0x83, 0xf8, 0x01, 0x0f, 0x87], &[0x48, 0x83, 0xf8, 0x01, N, N, N, N, N, N])])
        }
        // cmp rax, [r11]; jae
        "map-bound-left-out" => (MARKING, &[(&[0x49, 0x3b, 0x03, 0x0f, 0x83], &[0x49, 0x3b, 0x03, N, N, N, N, N, N])]),
        // cmp rcx, MOST_BLOCKS; ja
        "most-blocks-bound-left-out" => (
            MARKING,
            &[(
                &[0x48, 0x81, 0xf9, 0xfe, 0xff, 0xff, 0x01, 0x0f, 0x87],
                &[0x48, 0x81, 0xf9, 0xfe, 0xff, 0xff, 0x01, N, N, N, N, N, N],
            )],
        ),
        // cmp eax, DESCRIPTORS; jae
        "descriptors-bound-left-out" => {
            (ALL, &[(&[0x3d, 0x00, 0x40, 0x00, 0x00, 0x0f, 0x83], &[0x3d, 0x00, 0x40, 0x00, 0x00, N, N, N, N, N, N])])
        }
        // cmp eax, MAPS; jae
        "maps-bound-left-out" => (
            MARKING,
            &[(&[0x3d, 0x00, 0x10, 0x00, 0x00, 0x0f, 0x83], &[0x3d, 0x00, 0x10, 0x00, 0x00, N, N, N, N, N, N])],
        ),
        // add r11, [bits]
        "bits-base-left-out" => (MARKING, &[(&[0x4c, 0x03, 0x1d], &[N, N, N, N, N, N, N])]),
        // and r11d, BITS_MASK
        "bits-mask-left-out" => (MARKING, &[(&[0x41, 0x81, 0xe3, 0xf8, 0xff, 0x3f, 0x00], &[N, N, N, N, N, N, N])]),
        // cmp dword ptr [r11 + rax * 4 + BOARD_DESCRIPTORS], 1; jne
        "no-file-not-checked" => (
            &[NoFile],
            &[(
                &[0x41, 0x83, 0xbc, 0x83, 0x00, 0x30, 0x00, 0x00, 0x01, 0x0f, 0x85],
                &[0x41, 0x83, 0xbc, 0x83, 0x00, 0x30, 0x00, 0x00, 0x01, N, N, N, N, N, N],
            )],
        ),
        "wrong-entry-for-no-file" => (
            &[NoFile],
            &[(
                &[0x41, 0x83, 0xbc, 0x83, 0x00, 0x30, 0x00, 0x00, 0x01],
                &[0x41, 0x83, 0xbc, 0x83, 0x00, 0x30, 0x00, 0x00, 0x02],
            )],
        ),
        // The same with 0.
        "unknown-not-checked" => (
            &[Close],
            &[(
                &[0x41, 0x83, 0xbc, 0x83, 0x00, 0x30, 0x00, 0x00, 0x00, 0x0f, 0x85],
                &[0x41, 0x83, 0xbc, 0x83, 0x00, 0x30, 0x00, 0x00, 0x00, N, N, N, N, N, N],
            )],
        ),
        // lock inc dword ptr [r11 + rcx + BOARD_COUNTERS + e * 4096]
        "count-in-left-out" => (ALL, &[(&[0xf0, 0x41, 0xff, 0x84, 0x0b], &[N, N, N, N, N, N, N, N, N])]),
        // lock dec
        "count-out-left-out" => (ALL, &[(&[0xf0, 0x41, 0xff, 0x8c, 0x0b], &[N, N, N, N, N, N, N, N, N])]),
        "count-out-of-the-other-epoch" => {
            (ALL, &[(&[0xf0, 0x41, 0xff, 0x8c, 0x0b, 0x00, 0x10], &[0xf0, 0x41, 0xff, 0x8c, 0x0b, 0x00, 0x20])])
        }
        // lock inc with rdx for rcx: another counter than it is counted out of, or none of the board's
        "wrong-counter" => (ALL, &[(&[0xf0, 0x41, 0xff, 0x84, 0x0b], &[0xf0, 0x41, 0xff, 0x84, 0x13])]),
        // cmp eax, 0x100 + e * 0x100; jne
        "epoch-not-read-again" => (
            ALL,
            &[
                (&[0x3d, 0x00, 0x01, 0x00, 0x00, 0x0f, 0x85], &[0x3d, 0x00, 0x01, 0x00, 0x00, N, N, N, N, N, N]),
                (&[0x3d, 0x00, 0x02, 0x00, 0x00, 0x0f, 0x85], &[0x3d, 0x00, 0x02, 0x00, 0x00, N, N, N, N, N, N]),
            ],
        ),
        // cmp dword ptr [rcx], 0; je notify
        "child-not-told-apart" => (ALL, &[(&[0x83, 0x39, 0x00, 0x0f, 0x84], &[0x83, 0x39, 0x00, N, N, N, N, N, N])]),
        // and ecx, 0x300
        "mode-not-masked" => (ALL, &[(&[0x81, 0xe1, 0x00, 0x03, 0x00, 0x00], &[N, N, N, N, N, N])]),
        // mov eax, [nr], in direct
        "number-left-out" => {
            (ALL, &[(&[0x8b, 0x05, 0xa2, 0x00, 0x00, 0x00, 0x0f, 0x05], &[N, N, N, N, N, N, 0x0f, 0x05])])
        }
        // jmp [resume], in direct: the word behind it
        "comes-back-to-the-syscall" => {
            (ALL, &[(&[0x31, 0xc9, 0xff, 0x25, 0x88, 0x00], &[0x31, 0xc9, 0xff, 0x25, 0x90, 0x00])])
        }
        _ => panic!("no such mutant: {mutant}"),
    }
}

/// The stub, with the fault that was chosen, if any.
pub(super) fn with_chosen_fault(kind: Kind, code: [u8; STUB]) -> [u8; STUB] {
    failpoint::mutant().map_or(code, |mutant| with_fault(mutant, kind, code))
}

pub(super) fn with_fault(mutant: &str, kind: Kind, mut code: [u8; STUB]) -> [u8; STUB] {
    let words = WORDS..WORDS + size_of::<Words>();
    let (kinds, changes) = changes(mutant);
    for (from, to) in changes.iter().filter(|_| kinds.contains(&kind)) {
        let found: Vec<usize> = (0..STUB - to.len())
            .filter(|at| code[*at..].starts_with(from) && (at + to.len() <= words.start || *at >= words.end))
            .collect();
        assert!(!found.is_empty(), "{mutant} is not found in {kind:?}: the stubs have changed");
        found.into_iter().for_each(|at| code[at..at + to.len()].copy_from_slice(to));
    }
    code
}
