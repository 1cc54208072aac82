//! What container runtimes allow by default: capabilities, and a seccomp profile to the same effect as Docker's for all
//! that hotbackup may need.

use serde_json::{Value, json};

/// What a container has when nothing else was asked for.
pub const USUAL: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Calls that are refused, except with a capability.
const REFUSED: [(&str, &[&str]); 6] = [
    ("CAP_SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("CAP_SYS_CHROOT", &["chroot"]),
    (
        "CAP_SYS_ADMIN",
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "quotactl",
            "setdomainname",
            "sethostname",
            "setns",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
    ("CAP_SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy"]),
    ("", &["add_key", "keyctl", "request_key", "userfaultfd", "io_uring_setup", "pivot_root", "swapon", "swapoff"]),
];

/// CLONE_NEW*: all namespaces.
const NEW_NAMESPACES: u64 = 0x7e02_0000;
const ENOSYS: u32 = 38;

/// The profile for a container with these capabilities, and with these rules first.
pub fn seccomp(capabilities: &[&str], more: &[Value]) -> Value {
    let has = |capability: &str| capabilities.contains(&capability);
    let refused = REFUSED.iter().filter(|(capability, _)| !has(capability)).flat_map(|(_, calls)| calls.iter());
    let names: Vec<_> = refused.collect();
    let mut rules = more.to_vec();
    rules.push(json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}));
    if !has("CAP_SYS_ADMIN") {
        // libc falls back to clone(2), whose flags a filter can see.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
        for bit in (0..64).map(|bit| 1_u64 << bit).filter(|bit| NEW_NAMESPACES & bit != 0) {
            let argument = json!({"index": 0, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"});
            rules.push(json!({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [argument]}));
        }
    }
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules})
}
