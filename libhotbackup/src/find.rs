//! Where the helper is.
use std::ffi::{CStr, CString, OsStr, c_char};
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

// The libc crate has it not.
unsafe extern "C" {
    fn secure_getenv(name: *const c_char) -> *const c_char;
}

/// Names the helper, where the environment may be trusted.
const VARIABLE: &CStr = c"HOTBACKUP_HELPER";
/// Where it lies, from the directory of the library or of the program that it is linked into.
const BESIDE: [&str; 4] = ["hotbackup", "../bin/hotbackup", "../libexec/hotbackup", "hotbackup/hotbackup"];
/// Where the build of the library has it installed.
const INSTALLED: Option<&str> = option_env!("HOTBACKUP_INSTALLED");

/// A program to be started.
#[derive(Debug, Clone)]
pub enum Helper {
    /// By its path.
    At(PathBuf),
    /// It is a part of the library.
    #[cfg(feature = "embedded")]
    Embedded(&'static [u8]),
}

impl fmt::Display for Helper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(path) => write!(f, "{}", path.display()),
            #[cfg(feature = "embedded")]
            Self::Embedded(_) => write!(f, "the helper in libHotBackup"),
        }
    }
}

/// Finds it; else says where it was looked for.
pub fn helper() -> Result<Helper, String> {
    if let Some(named) = variable(VARIABLE) {
        let path = PathBuf::from(OsStr::from_bytes(named.as_bytes()));
        // Whoever names one means that one.
        return if is_program(&path) {
            Ok(Helper::At(path))
        } else {
            Err(format!("HOTBACKUP_HELPER names {}, which is no program", path.display()))
        };
    }
    #[cfg(feature = "embedded")]
    return Ok(Helper::Embedded(include_bytes!(env!("HOTBACKUP_EMBED"))));
    #[cfg(not(feature = "embedded"))]
    {
        let places = [own_file(), fs::read_link("/proc/self/exe").ok()];
        let places = places.iter().flatten().filter_map(|file| file.parent());
        let mut all: Vec<PathBuf> = places.flat_map(|place| BESIDE.map(|name| place.join(name))).collect();
        all.extend(INSTALLED.map(PathBuf::from));
        all.dedup();
        let found = all.iter().find(|path| is_program(path)).cloned();
        found.map(Helper::At).ok_or_else(|| {
            let all: Vec<String> = all.iter().map(|path| path.display().to_string()).collect();
            format!(
                "the program hotbackup, which libHotBackup needs, is not at any of {}; install it there, or name it by \
                 HOTBACKUP_HELPER",
                all.join(", ")
            )
        })
    }
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// A variable of the environment, unless whoever set it may have had less rights than this process.
pub fn variable(name: &CStr) -> Option<CString> {
    if !has_one_identity() {
        return None;
    }
    // SAFETY: the name is a C string.
    let value = unsafe { secure_getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: not null, so a C string, which is copied at once.
    Some(unsafe { CStr::from_ptr(value) }.to_owned()).filter(|value| !value.is_empty())
}

/// Whether this process has one user and one group, and none to go back to.
fn has_one_identity() -> bool {
    let (mut users, mut groups) = ([0; 3], [0; 3]);
    // SAFETY: each has room for the three.
    let known = unsafe {
        let [real, effective, saved] = &mut users;
        libc::getresuid(real, effective, saved) == 0 && {
            let [real, effective, saved] = &mut groups;
            libc::getresgid(real, effective, saved) == 0
        }
    };
    let one = |ids: [u32; 3]| ids[0] == ids[1] && ids[1] == ids[2];
    known && one(users) && one(groups)
}

/// The file that this code was loaded from.
#[cfg_attr(feature = "embedded", allow(dead_code))]
fn own_file() -> Option<PathBuf> {
    let here = own_file as *const () as usize;
    let maps = fs::read("/proc/self/maps").ok()?;
    maps.split(|byte| *byte == b'\n').find_map(|line| {
        let range = std::str::from_utf8(line.split(|byte| *byte == b' ').next()?).ok()?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let path = line.iter().position(|byte| *byte == b'/')?;
        (start..end).contains(&here).then(|| PathBuf::from(OsStr::from_bytes(&line[path..])))
    })
}
