//! The caller's functions and arguments, as C has them.
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// `int (*)(float progress, const char *text, void *extra)`
pub type PollFun = Option<unsafe extern "C" fn(f32, *const c_char, *mut c_void) -> c_int>;
/// `void (*)(int error_number, const char *text, void *extra)`
pub type ErrorFun = Option<unsafe extern "C" fn(c_int, *const c_char, *mut c_void)>;
/// `int (*)(const char *source_file, void *extra)`
pub type ExcludeFun = Option<unsafe extern "C" fn(*const c_char, *mut c_void) -> c_int>;
/// `void (*)(void *extra)`
pub type StopFun = Option<unsafe extern "C" fn(*mut c_void)>;

/// Each with what it is called with.
pub struct Callbacks {
    pub poll: (PollFun, *mut c_void),
    pub error: (ErrorFun, *mut c_void),
    pub exclude: (ExcludeFun, *mut c_void),
    pub before_stop: (StopFun, *mut c_void),
    pub after_stop: (StopFun, *mut c_void),
}

impl Callbacks {
    pub fn poll(&self, done: f32, text: &CStr) -> c_int {
        let (function, extra) = self.poll;
        // SAFETY: the caller of the interface gave both, to be called like this on its thread.
        function.map_or(0, |function| unsafe { function(done, text.as_ptr(), extra) })
    }

    pub fn error(&self, errno: c_int, text: &str) {
        let text = to_c(text.as_bytes().to_vec());
        if let (Some(function), extra) = self.error {
            // SAFETY: as above.
            unsafe { function(errno, text.as_ptr(), extra) }
        }
    }

    pub fn excludes(&self, path: Vec<u8>) -> bool {
        let path = to_c(path);
        let (function, extra) = self.exclude;
        // SAFETY: as above.
        function.is_some_and(|function| unsafe { function(path.as_ptr(), extra) } != 0)
    }

    pub fn before_stop(&self) {
        if let (Some(function), extra) = self.before_stop {
            // SAFETY: as above.
            unsafe { function(extra) }
        }
    }

    pub fn after_stop(&self) {
        if let (Some(function), extra) = self.after_stop {
            // SAFETY: as above.
            unsafe { function(extra) }
        }
    }
}

/// Text for C, which ends where it holds a zero.
pub fn to_c(mut text: Vec<u8>) -> CString {
    text.retain(|byte| *byte != 0);
    CString::new(text).unwrap_or_default()
}

/// Sources and destinations, absolute; what is wrong with them, in words.
pub type Arguments = Result<Vec<(PathBuf, PathBuf)>, String>;

/// Reads the arrays.
///
/// # Safety
/// Each is null, or holds `count` pointers that are null or point to C strings.
pub unsafe fn paths(sources: *const *const c_char, dests: *const *const c_char, count: c_int) -> Arguments {
    let count = usize::try_from(count).unwrap_or(0);
    if sources.is_null() || dests.is_null() || count == 0 {
        return Err("a backup takes at least one source directory and its destination directory".into());
    }
    let mut pairs = Vec::new();
    for index in 0..count {
        // SAFETY: `index` is below their length.
        let (source, dest) = unsafe { (*sources.add(index), *dests.add(index)) };
        // SAFETY: null, or a C string.
        let (source, dest) = unsafe { (path(source), path(dest)) };
        match (source, dest) {
            (Some(source), Some(dest)) => pairs.push((source, dest)),
            (None, _) => return Err(format!("source directory {index} has no name")),
            (_, None) => return Err(format!("destination directory {index} has no name")),
        }
    }
    Ok(pairs)
}

/// # Safety
/// Null, or a C string.
unsafe fn path(text: *const c_char) -> Option<PathBuf> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not null, so a C string.
    let text = unsafe { CStr::from_ptr(text) }.to_bytes();
    // An absolute path stays what it is but for its slashes at the end.
    let path = std::path::absolute(Path::new(OsStr::from_bytes(text)));
    if text.is_empty() { None } else { path.ok() }
}

/// The bytes of a path.
pub fn bytes(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}
