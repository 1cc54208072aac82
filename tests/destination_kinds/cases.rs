//! What is hard to hold, one case each.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

/// Something hard to hold in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    /// Two names that differ by case.
    NamesByLetters,
    /// The same letter, once in one piece and once composed.
    NamesByForm,
    /// The same, beside a letter whose case is not ASCII's.
    NamesByForeignLetters,
    NotUtf8,
    Colon,
    Backslash,
    ControlCharacter,
    EndsInDot,
    EndsInSpace,
    DosDevice,
    /// 255 bytes.
    LongName,
    /// 255 bytes, in 85 characters.
    LongNameOfFewCharacters,
    Symlink,
    LongSymlink,
    HardLink,
    Fifo,
    Hole,
    Attribute,
    /// 8 KiB.
    LargeAttribute,
    AccessList,
    Owner,
    Mode,
    SetId,
    /// A file capability, of a file that is another's: chown(2) takes it away again (borgbackup/borg#921, grke/burp#522).
    Capability,
    /// Attributes that only root sets (restic/restic#5089).
    RootsAttributes,
    /// Directories with setgid and sticky bits (oferchen/rsync#5411, rear/rear#1175).
    SharedDirectories,
    Year1600,
    Year1969,
    Year2039,
    Year2263,
    Year2400,
    /// A hole of 17 TiB. It is in no table: it takes too long where it can be held.
    Hole17Tib,
}

pub const ALL: [Case; 31] = [
    Case::NamesByLetters,
    Case::NamesByForm,
    Case::NamesByForeignLetters,
    Case::NotUtf8,
    Case::Colon,
    Case::Backslash,
    Case::ControlCharacter,
    Case::EndsInDot,
    Case::EndsInSpace,
    Case::DosDevice,
    Case::LongName,
    Case::LongNameOfFewCharacters,
    Case::Symlink,
    Case::LongSymlink,
    Case::HardLink,
    Case::Fifo,
    Case::Hole,
    Case::Attribute,
    Case::LargeAttribute,
    Case::AccessList,
    Case::Owner,
    Case::Mode,
    Case::SetId,
    Case::Capability,
    Case::RootsAttributes,
    Case::SharedDirectories,
    Case::Year1600,
    Case::Year1969,
    Case::Year2039,
    Case::Year2263,
    Case::Year2400,
];

impl Case {
    /// What the documentation says of a destination that refuses it.
    pub fn words(self) -> &'static str {
        match self {
            Self::NamesByLetters | Self::NamesByForeignLetters => "names that differ by case",
            Self::NotUtf8 => "names that are not UTF-8",
            Self::Colon => "names with `:`",
            Self::Backslash => "names with `\\`",
            Self::ControlCharacter => "control characters in names",
            Self::Symlink | Self::LongSymlink => "symbolic links",
            Self::Fifo => "fifos",
            other => panic!("{other:?} is refused nowhere"),
        }
    }

    /// Puts it into a directory.
    pub fn put_into(self, dir: &Path) {
        let write = |name: &[u8]| fs::write(dir.join(OsStr::from_bytes(name)), name).expect("the source holds it");
        let file = |name: &str| {
            write(name.as_bytes());
            dir.join(name)
        };
        let at = |seconds: i64, nanoseconds: i64| {
            let (path, time) = (file(&format!("at {seconds}")), TimeSpec::new(seconds, nanoseconds));
            utimensat(nix::fcntl::AT_FDCWD, &path, &time, &time, UtimensatFlags::NoFollowSymlink).expect("set");
        };
        let set = |path: &Path, name: &str, value: &[u8]| {
            rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).expect("the source holds it");
        };
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        match self {
            Self::NamesByLetters => {
                ["Collection-A.wt", "collection-a.wt"].iter().for_each(|name| write(name.as_bytes()))
            }
            Self::NamesByForm => ["form-\u{e9}", "form-e\u{301}"].iter().for_each(|name| write(name.as_bytes())),
            Self::NamesByForeignLetters => ["\u{e4}rger", "\u{c4}rger"].iter().for_each(|name| write(name.as_bytes())),
            Self::NotUtf8 => write(b"latin-\xe4\xff"),
            Self::Colon => write(b"12:30"),
            Self::Backslash => write(b"back\\slash"),
            Self::ControlCharacter => write(b"line\nfeed"),
            Self::EndsInDot => write(b"end."),
            Self::EndsInSpace => write(b"end "),
            Self::DosDevice => write(b"con"),
            Self::LongName => write(&[b'n'; 255]),
            Self::LongNameOfFewCharacters => write("\u{20ac}".repeat(85).as_bytes()),
            Self::Symlink => symlink("somewhere", dir.join("symlink")).expect("made"),
            Self::LongSymlink => symlink("t".repeat(1000), dir.join("long symlink")).expect("made"),
            Self::HardLink => fs::hard_link(file("first"), dir.join("second")).expect("made"),
            Self::Fifo => nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made"),
            Self::Hole => {
                let sparse = File::create(dir.join("sparse")).expect("made");
                sparse.write_all_at(b"end", 4 << 20).expect("written");
            }
            Self::Attribute => set(&file("attribute"), "user.comment", b"kept"),
            Self::LargeAttribute => set(&file("large attribute"), "user.large", &[b'v'; 8 << 10]),
            Self::AccessList => {
                let path = file("list");
                let done = Command::new("setfacl").args(["-m", "u:12345:r"]).arg(&path).status();
                assert!(done.expect("acl is installed").success());
            }
            Self::Owner => chown(file("owner"), Some(12_345), Some(54_321)).expect("root sets owners"),
            Self::Mode => mode(&file("mode"), 0o461),
            Self::SetId => mode(&file("setuid"), 0o6755),
            Self::Capability => {
                let path = file("capability");
                chown(&path, Some(12_345), Some(54_321)).expect("root sets owners");
                // CAP_NET_RAW, permitted and effective, as `linux/capability.h` has it.
                let words = [0x0200_0001_u32, 1 << 13, 0, 0, 0];
                let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
                set(&path, "security.capability", &value);
            }
            Self::RootsAttributes => set(&file("roots"), "trusted.hotbackup", b"kept"),
            Self::SharedDirectories => {
                for (name, bits) in [("setgid", 0o2775), ("sticky", 0o1777)] {
                    fs::create_dir(dir.join(name)).expect("made");
                    chown(dir.join(name), None, Some(54_321)).expect("root sets groups");
                    mode(&dir.join(name), bits);
                }
            }
            Self::Year1600 => at(-11_676_096_000, 5),
            Self::Year1969 => at(-1, 999_999_999),
            Self::Year2039 => at(2_177_452_800, 1),
            Self::Year2263 => at(9_246_182_400, 1),
            Self::Year2400 => at(13_569_465_600, 123_456_789),
            Self::Hole17Tib => File::create(dir.join("large")).and_then(|file| file.set_len(17 << 40)).expect("made"),
        }
    }
}
