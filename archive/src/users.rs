//! Who uses a directory: processes that have something below it open, or work in it.
use std::fs;
use std::path::Path;

/// A process that uses a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub name: String,
}

/// The processes that use something below `dir`, as far as /proc shows them; by path, so those of other mount namespaces that see it
/// elsewhere are not found.
pub fn users_below(dir: &Path) -> Vec<User> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    let own = std::process::id().cast_signed();
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let uses = |pid: &i32| {
        let proc = format!("/proc/{pid}");
        let leads = |link: &Path| fs::read_link(link).is_ok_and(|to| to.starts_with(&dir));
        let open = |folder: &str| fs::read_dir(format!("{proc}/{folder}")).into_iter().flatten().flatten();
        leads(Path::new(&format!("{proc}/cwd")))
            || open("fd").any(|entry| leads(&entry.path()))
            || open("map_files").any(|entry| leads(&entry.path()))
    };
    let name = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned();
    pids.filter(|pid| *pid != own).filter(uses).map(|pid| User { pid, name: name(pid) }).collect()
}
